//! What a frame's net header asks for: completing a checksum, cutting into segments.
//!
//! A request is checked against what was negotiated and against the frame, and what goes on is a header of our own
//! making, never the driver's. A receiver that takes such frames gets it as it is; for one that does not, the work is
//! done here in software, on a copy of the frame. The copy is checked again: its original lies in memory that a guest
//! may have changed since.

use thiserror::Error;
use virtnet_rings::spec::net::*;

use super::Frame;
use super::flow::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_VLAN, IPPROTO_DSTOPTS, IPPROTO_HOPOPTS, IPPROTO_TCP, IPPROTO_UDP,
    VLAN_TAGS_MAX, be16, upper_layer,
};
use crate::counters::DropReason;
use crate::frame::FRAME_LEN_MAX;

/// What a device may offer its driver for frames from the guest.
pub const FROM_GUEST: u64 = 1 << VIRTIO_NET_F_CSUM
    | 1 << VIRTIO_NET_F_HOST_TSO4
    | 1 << VIRTIO_NET_F_HOST_TSO6
    | 1 << VIRTIO_NET_F_HOST_ECN
    | 1 << VIRTIO_NET_F_HOST_USO;
/// What a device may offer its driver for frames to the guest; what a driver does not accept is done in software.
pub const TO_GUEST: u64 = 1 << VIRTIO_NET_F_GUEST_CSUM
    | 1 << VIRTIO_NET_F_GUEST_TSO4
    | 1 << VIRTIO_NET_F_GUEST_TSO6
    | 1 << VIRTIO_NET_F_GUEST_ECN
    | 1 << VIRTIO_NET_F_GUEST_USO4
    | 1 << VIRTIO_NET_F_GUEST_USO6;

/// How much of a frame's head [`check`] wants to see: Ethernet with two VLAN tags, IP with all its options, TCP with
/// all of its own, and some IPv6 extension headers.
pub const HEAD_BYTES_MAX: usize = 256;

/// What a frame of 64 KiB comes to at the smallest segment size that TCP stacks use; more is an attempt to make us
/// work.
const SEGMENTS_MAX: usize = 65_536 / 48;

/// Extension headers that each segment can repeat. A routing header changes the address that the checksum covers, an
/// authentication header covers what segments change.
const PASSABLE: [u8; 2] = [IPPROTO_HOPOPTS, IPPROTO_DSTOPTS];

const ETHERNET_BYTES: usize = 14;
const TCP_CHECKSUM_AT: usize = 16;
const UDP_CHECKSUM_AT: usize = 6;
const TCP_FLAGS_AT: usize = 13;
const TCP_FLAG_FIN: u8 = 0x01;
const TCP_FLAG_PSH: u8 = 0x08;
const TCP_FLAG_CWR: u8 = 0x80;

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// It takes a feature that was not negotiated.
    #[error("asks for an offload that was not negotiated")]
    NotNegotiated,
    /// `gso_type` names nothing we know.
    #[error("gso_type {found:#x} is unknown")]
    GsoType {
        /// As found.
        found: u8,
    },
    /// "Packet Transmission": segmentation comes with a partial checksum.
    #[error("asks for segments without a partial checksum")]
    SegmentsWithoutChecksum,
    /// The checksum, or what it is to cover, is not in the frame.
    #[error("checksum at {start}+{offset} in a frame of {len_bytes} bytes")]
    ChecksumOutside {
        /// `csum_start`.
        start: u16,
        /// `csum_offset`.
        offset: u16,
        /// The frame's length.
        len_bytes: u32,
    },
    /// `gso_size` is zero, or so small or so large that the segments make no sense.
    #[error("gso_size {found} for {payload_bytes} bytes of payload")]
    GsoSize {
        /// As found.
        found: u16,
        /// What is to be cut.
        payload_bytes: u32,
    },
    /// `hdr_len` is more than there is.
    #[error("hdr_len {found} in a frame of {len_bytes} bytes")]
    HdrLen {
        /// As found.
        found: u16,
        /// The frame's length.
        len_bytes: u32,
    },
    /// The frame is not what `gso_type` and `csum_start` say.
    #[error("the frame's headers are not those that gso_type {gso_type} promises")]
    Headers {
        /// As found.
        gso_type: u8,
    },
}

impl Refusal {
    /// As it is counted.
    pub fn reason(self) -> DropReason {
        match self {
            Self::NotNegotiated => DropReason::OffloadRefused,
            _ => DropReason::MalformedHeader,
        }
    }
}

/// What has to be done for a receiver before it gets a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// It takes the frame as it is.
    Nothing,
    /// [`complete_checksum`].
    Checksum,
    /// [`Segments`].
    Segments,
}

impl Work {
    /// For a frame whose checked header asks for something, and a receiver that negotiated `features`.
    #[inline]
    pub fn for_receiver(gso_type: u8, features: u64) -> Self {
        let has = |bit: u32| features & 1 << bit != 0;
        let takes_segments = match gso_type & !VIRTIO_NET_HDR_GSO_ECN {
            VIRTIO_NET_HDR_GSO_NONE => true,
            VIRTIO_NET_HDR_GSO_TCPV4 => has(VIRTIO_NET_F_GUEST_TSO4),
            VIRTIO_NET_HDR_GSO_TCPV6 => has(VIRTIO_NET_F_GUEST_TSO6),
            // The header does not say which IP it is; a driver that takes one of the two only is not worth finding out.
            VIRTIO_NET_HDR_GSO_UDP_L4 => has(VIRTIO_NET_F_GUEST_USO4) && has(VIRTIO_NET_F_GUEST_USO6),
            _ => false,
        };
        let takes_ecn = gso_type & VIRTIO_NET_HDR_GSO_ECN == 0 || has(VIRTIO_NET_F_GUEST_ECN);
        match (takes_segments && takes_ecn, has(VIRTIO_NET_F_GUEST_CSUM)) {
            (false, _) => Self::Segments,
            (true, false) if gso_type != VIRTIO_NET_HDR_GSO_NONE => Self::Segments,
            (true, false) => Self::Checksum,
            (true, true) => Self::Nothing,
        }
    }
}

/// Checks what the driver's header asks for a frame of `len_bytes` that starts with `head`, of which there should be
/// [`HEAD_BYTES_MAX`] bytes if the frame has as many. Returns the header that goes on with it: only what was asked for,
/// with `hdr_len` made exact.
///
/// # Errors
/// [`Refusal`].
pub fn check(header: &NetHeader, features: u64, head: &[u8], len_bytes: u32) -> Result<NetHeader, Refusal> {
    let has = |bit: u32| features & 1 << bit != 0;
    let wants_checksum = header.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM != 0;
    if header.gso_type == VIRTIO_NET_HDR_GSO_NONE && !wants_checksum {
        return Ok(NetHeader::default());
    }
    let gso_type = header.gso_type & !VIRTIO_NET_HDR_GSO_ECN;
    let negotiated = match gso_type {
        VIRTIO_NET_HDR_GSO_NONE if header.gso_type == VIRTIO_NET_HDR_GSO_NONE => true,
        VIRTIO_NET_HDR_GSO_TCPV4 => has(VIRTIO_NET_F_HOST_TSO4),
        VIRTIO_NET_HDR_GSO_TCPV6 => has(VIRTIO_NET_F_HOST_TSO6),
        VIRTIO_NET_HDR_GSO_UDP_L4 => has(VIRTIO_NET_F_HOST_USO),
        // Fragmentation is never offered.
        VIRTIO_NET_HDR_GSO_UDP => false,
        _ => return Err(Refusal::GsoType { found: header.gso_type }),
    };
    let ecn = header.gso_type & VIRTIO_NET_HDR_GSO_ECN != 0;
    if !negotiated || ecn && !has(VIRTIO_NET_F_HOST_ECN) {
        return Err(Refusal::NotNegotiated);
    }
    if !wants_checksum {
        return Err(Refusal::SegmentsWithoutChecksum);
    }
    if !has(VIRTIO_NET_F_CSUM) {
        return Err(Refusal::NotNegotiated);
    }
    let NetHeader { csum_start, csum_offset, .. } = *header;
    check_checksum(csum_start, csum_offset, len_bytes)?;
    let partial = NetHeader { flags: VIRTIO_NET_HDR_F_NEEDS_CSUM, csum_start, csum_offset, ..NetHeader::default() };
    if gso_type == VIRTIO_NET_HDR_GSO_NONE {
        return Ok(partial);
    }
    // A hint for us, but other implementations refuse the same.
    if u32::from(header.hdr_len) > len_bytes {
        return Err(Refusal::HdrLen { found: header.hdr_len, len_bytes });
    }
    let layers = Layers::of(head, header, len_bytes)?;
    let payload_bytes = len_bytes - layers.payload_at as u32;
    check_gso_size(header.gso_size, payload_bytes, layers.payload_at - layers.ip_at)?;
    Ok(NetHeader { gso_type: header.gso_type, gso_size: header.gso_size, hdr_len: layers.payload_at as u16, ..partial })
}

fn check_checksum(start: u16, offset: u16, len_bytes: u32) -> Result<(), Refusal> {
    let end = u32::from(start) + u32::from(offset) + 2;
    if usize::from(start) < ETHERNET_BYTES || end > len_bytes {
        return Err(Refusal::ChecksumOutside { start, offset, len_bytes });
    }
    Ok(())
}

fn check_gso_size(gso_size: u16, payload_bytes: u32, headers_bytes: usize) -> Result<(), Refusal> {
    let refusal = Refusal::GsoSize { found: gso_size, payload_bytes };
    let largest = usize::from(gso_size).min(payload_bytes as usize);
    // IP's length fields have 16 bits.
    if gso_size == 0 || headers_bytes + largest > usize::from(u16::MAX) {
        return Err(refusal);
    }
    if (payload_bytes as usize).div_ceil(usize::from(gso_size)) > SEGMENTS_MAX {
        return Err(refusal);
    }
    Ok(())
}

/// Where the headers of a frame to be cut begin.
#[derive(Clone, Copy, Debug)]
struct Layers {
    ip_at: usize,
    is_ipv4: bool,
    above_at: usize,
    is_tcp: bool,
    payload_at: usize,
}

impl Layers {
    /// Reads them, and refuses what is not as `header` says.
    fn of(head: &[u8], header: &NetHeader, len_bytes: u32) -> Result<Self, Refusal> {
        let refusal = Refusal::Headers { gso_type: header.gso_type };
        let layers = Self::read(head).ok_or(refusal)?;
        let as_promised = match header.gso_type & !VIRTIO_NET_HDR_GSO_ECN {
            VIRTIO_NET_HDR_GSO_TCPV4 => layers.is_tcp && layers.is_ipv4,
            VIRTIO_NET_HDR_GSO_TCPV6 => layers.is_tcp && !layers.is_ipv4,
            _ => !layers.is_tcp,
        };
        let same_checksum = layers.above_at == usize::from(header.csum_start)
            && layers.checksum_at() == layers.above_at + usize::from(header.csum_offset);
        if !as_promised || !same_checksum || layers.payload_at > len_bytes as usize {
            return Err(refusal);
        }
        Ok(layers)
    }

    fn read(head: &[u8]) -> Option<Self> {
        let mut type_at = ETHERNET_BYTES - 2;
        for _ in 0..VLAN_TAGS_MAX {
            if ETHERTYPE_VLAN.contains(&be16(head, type_at)?) {
                type_at += 4;
            }
        }
        let ip_at = type_at + 2;
        let packet = head.get(ip_at..)?;
        let is_ipv4 = match (be16(head, type_at)?, packet.first()? >> 4) {
            (ETHERTYPE_IPV4, 4) => true,
            (ETHERTYPE_IPV6, 6) => false,
            _ => return None,
        };
        let (protocol, above_at) = if is_ipv4 { Self::above_ipv4(packet) } else { Self::above_ipv6(packet) }?;
        let above = packet.get(above_at..)?;
        let is_tcp = match protocol {
            IPPROTO_TCP => true,
            IPPROTO_UDP => false,
            _ => return None,
        };
        let above_bytes = if is_tcp { usize::from(above.get(12)? >> 4) * 4 } else { 8 };
        if is_tcp && above_bytes < 20 || above.len() < above_bytes {
            return None;
        }
        let above_at = ip_at + above_at;
        Some(Self { ip_at, is_ipv4, above_at, is_tcp, payload_at: above_at + above_bytes })
    }

    /// Fragments cannot be cut: only the first has the header above.
    fn above_ipv4(packet: &[u8]) -> Option<(u8, usize)> {
        let header: &[u8; 20] = packet.first_chunk()?;
        let header_bytes = usize::from(header[0] & 0xf) * 4;
        let fragment = be16(header, 6)? & 0x3fff != 0;
        (header_bytes >= 20 && !fragment).then_some((header[9], header_bytes))
    }

    fn above_ipv6(packet: &[u8]) -> Option<(u8, usize)> {
        let header: &[u8; 40] = packet.first_chunk()?;
        let (protocol, at) = upper_layer(header[6], &packet[40..], &PASSABLE)?;
        Some((protocol, 40 + at))
    }

    fn checksum_at(&self) -> usize {
        self.above_at + if self.is_tcp { TCP_CHECKSUM_AT } else { UDP_CHECKSUM_AT }
    }
}

/// Completes a partial checksum: the field holds the pseudo header's sum, and is replaced by the checksum from
/// `csum_start` to the frame's end.
///
/// # Errors
/// [`Refusal::ChecksumOutside`].
pub fn complete_checksum(frame: &mut [u8], header: &NetHeader) -> Result<(), Refusal> {
    let NetHeader { csum_start, csum_offset, .. } = *header;
    check_checksum(csum_start, csum_offset, frame.len() as u32)?;
    let covered = &mut frame[usize::from(csum_start)..];
    let checksum = !fold(sum(covered));
    put_checksum(&mut covered[usize::from(csum_offset)..], checksum);
    Ok(())
}

/// A frame being cut: its payload in pieces of `gso_size`, each behind headers of its own with checksums complete.
#[derive(Debug)]
pub struct Segments<'f> {
    frame: &'f [u8],
    layers: Layers,
    gso_size: usize,
    cut_bytes: usize,
    count: u16,
}

impl<'f> Segments<'f> {
    /// Starts cutting a copy of a frame.
    ///
    /// # Errors
    /// [`Refusal`], where the frame is not (or no longer) what its header says.
    pub fn of(frame: &'f [u8], header: &NetHeader) -> Result<Self, Refusal> {
        let len_bytes = frame.len() as u32;
        check_checksum(header.csum_start, header.csum_offset, len_bytes)?;
        let layers = Layers::of(frame, header, len_bytes)?;
        check_gso_size(header.gso_size, len_bytes - layers.payload_at as u32, layers.payload_at - layers.ip_at)?;
        Ok(Self { frame, layers, gso_size: usize::from(header.gso_size), cut_bytes: 0, count: 0 })
    }

    /// Passes over `count` pieces that were written before.
    pub fn skip(&mut self, count: usize) {
        let payload_bytes = self.frame.len() - self.layers.payload_at;
        self.cut_bytes = payload_bytes.min(count * self.gso_size);
        self.count = count as u16;
    }

    /// Length of the longest piece, headers included: what [`Segments::next_into`] needs.
    pub fn len_bytes_max(&self) -> usize {
        self.layers.payload_at + self.gso_size.min(self.frame.len() - self.layers.payload_at)
    }

    /// Writes the next piece to the front of `to` and returns its length; `None` after the last.
    ///
    /// # Panics
    /// If `to` is shorter than [`Segments::len_bytes_max`].
    pub fn next_into(&mut self, to: &mut [u8]) -> Option<usize> {
        let Layers { ip_at, is_ipv4, above_at, is_tcp, payload_at } = self.layers;
        let rest = &self.frame[payload_at + self.cut_bytes..];
        if rest.is_empty() && self.count > 0 {
            return None;
        }
        let payload = &rest[..rest.len().min(self.gso_size)];
        let is_last = payload.len() == rest.len();
        let piece = &mut to[..payload_at + payload.len()];
        piece[..payload_at].copy_from_slice(&self.frame[..payload_at]);
        piece[payload_at..].copy_from_slice(payload);

        let len_bytes = piece.len();
        if is_ipv4 {
            put16(piece, ip_at + 2, (len_bytes - ip_at) as u16);
            let id = be16(piece, ip_at + 4).map_or(0, |id| id.wrapping_add(self.count));
            put16(piece, ip_at + 4, id);
            put16(piece, ip_at + 10, 0);
            let header_bytes = usize::from(piece[ip_at] & 0xf) * 4;
            let checksum = !fold(sum(&piece[ip_at..ip_at + header_bytes]));
            piece[ip_at + 10..ip_at + 12].copy_from_slice(&checksum.to_ne_bytes());
        } else {
            put16(piece, ip_at + 4, (len_bytes - ip_at - 40) as u16);
        }
        let above = &mut piece[above_at..];
        if is_tcp {
            let sequence = u32::from_be_bytes([above[4], above[5], above[6], above[7]]);
            let sequence = sequence.wrapping_add(self.cut_bytes as u32);
            above[4..8].copy_from_slice(&sequence.to_be_bytes());
            if !is_last {
                above[TCP_FLAGS_AT] &= !(TCP_FLAG_FIN | TCP_FLAG_PSH);
            }
            if self.count > 0 {
                above[TCP_FLAGS_AT] &= !TCP_FLAG_CWR;
            }
        } else {
            put16(above, 4, (len_bytes - above_at) as u16);
        }
        self.put_checksum_above(piece);
        self.cut_bytes += payload.len();
        self.count += 1;
        Some(len_bytes)
    }

    /// The whole checksum over pseudo header, header and payload; the driver's part of it is not needed.
    fn put_checksum_above(&self, piece: &mut [u8]) {
        let Layers { ip_at, is_ipv4, above_at, is_tcp, .. } = self.layers;
        let checksum_at = self.layers.checksum_at();
        put16(piece, checksum_at, 0);
        let addresses = if is_ipv4 { ip_at + 12..ip_at + 20 } else { ip_at + 8..ip_at + 40 };
        let protocol = u32::from(if is_tcp { IPPROTO_TCP } else { IPPROTO_UDP });
        let above_bytes = (piece.len() - above_at) as u32;
        let pseudo = sum(&piece[addresses]) + sum(&protocol.to_be_bytes()) + sum(&above_bytes.to_be_bytes());
        let checksum = !fold(pseudo + sum(&piece[above_at..]));
        put_checksum(&mut piece[checksum_at..], checksum);
    }
}

const HEADER_ROOM: usize = NET_HEADER_HASH_SIZE_BYTES;

/// Where a worker does what receivers of frames cannot.
#[derive(Debug)]
pub struct Workshop {
    frame: Box<[u8]>,
    /// With room for the longest net header in front.
    piece: Box<[u8]>,
}

impl Default for Workshop {
    fn default() -> Self {
        let frame = vec![0; FRAME_LEN_MAX as usize].into();
        Self { frame, piece: vec![0; HEADER_ROOM + FRAME_LEN_MAX as usize].into() }
    }
}

impl Workshop {
    /// Makes a copy of a frame and starts on it, passing over `done` pieces that were finished before.
    ///
    /// # Errors
    /// [`Refusal`], where the frame is no longer what its header says.
    pub fn start(&mut self, frame: &Frame, work: Work, done: usize) -> Result<Finished<'_>, Refusal> {
        let header = NetHeader::from_bytes(frame.header);
        if work == Work::Segments {
            let len_bytes = frame.parts.read(&mut self.frame[..frame.len_bytes as usize]);
            let mut segments = Segments::of(&self.frame[..len_bytes], &header)?;
            segments.skip(done);
            return Ok(Finished::Cut(segments, &mut self.piece));
        }
        let end = HEADER_ROOM + frame.len_bytes as usize;
        let len_bytes = frame.parts.read(&mut self.piece[HEADER_ROOM..end]);
        let piece = &mut self.piece[..HEADER_ROOM + len_bytes];
        complete_checksum(&mut piece[HEADER_ROOM..], &header)?;
        Ok(Finished::Whole(Some(piece)))
    }
}

/// Frames as they come out of a [`Workshop`].
#[derive(Debug)]
pub enum Finished<'w> {
    /// The one frame, until it is taken.
    Whole(Option<&'w mut [u8]>),
    /// Pieces.
    Cut(Segments<'w>, &'w mut [u8]),
}

impl Finished<'_> {
    /// The next one, behind a net header of so many bytes, at most 20, that asks for nothing and counts `num_buffers` as 0.
    pub fn next_piece(&mut self, header_bytes: usize) -> Option<&mut [u8]> {
        let piece = match self {
            Self::Whole(piece) => piece.take()?,
            Self::Cut(segments, room) => {
                let len_bytes = segments.next_into(&mut room[HEADER_ROOM..])?;
                &mut room[..HEADER_ROOM + len_bytes]
            }
        };
        let piece = &mut piece[HEADER_ROOM - header_bytes..];
        piece[..header_bytes].fill(0);
        Some(piece)
    }
}

/// Stores a checksum; one of zero as its other form, because zero means none to UDP.
fn put_checksum(field: &mut [u8], checksum: u16) {
    let checksum = if checksum == 0 { 0xffff } else { checksum };
    field[..2].copy_from_slice(&checksum.to_ne_bytes());
}

fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// The one's-complement sum of 16-bit words, unfolded. Words are added as this machine has them: the sum comes out with
/// its bytes in the same order as they went in ("Computing the Internet Checksum", byte order independence).
fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.chunks_exact(4);
    let mut tail = [0; 4];
    tail[..words.remainder().len()].copy_from_slice(words.remainder());
    let whole = words.fold(0, |sum, word| sum + u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]])));
    whole + u64::from(u32::from_ne_bytes(tail))
}

fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + (sum & 0xffff)) as u16
}

#[cfg(all(test, not(loom)))]
mod tests;
