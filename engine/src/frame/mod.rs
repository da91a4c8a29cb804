//! A frame: what rides in a chain, without the net header. Opening chains into frames, and filling chains with them.

pub mod steer;

use virtnet_rings::spec::net::{
    NET_HEADER_SIZE_BYTES, NetHeader, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_HDR_F_DATA_VALID,
};
use virtnet_rings::{Chain, Fault, PartList, Parts};

use crate::counters::DropReason;

/// The shortest frame: an Ethernet header.
pub const FRAME_LEN_MIN: u32 = 14;
/// The longest frame: 64 KiB of IP after an Ethernet header with two VLAN tags.
pub const FRAME_LEN_MAX: u32 = 65_536 + 14 + 8;

/// Who lent a frame's bytes and waits to have them back: a place on a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lender {
    /// Which worker.
    pub worker: u16,
    /// Which of its slots.
    pub slot: u16,
}

/// One frame on its way: where its bytes are, not the bytes.
#[derive(Debug, Default)]
pub struct Frame {
    /// The bytes, from the destination address on.
    pub parts: Parts,
    /// How many there are.
    pub len_bytes: u32,
    /// What the sender asked for.
    pub header: NetHeader,
    /// By which the lender knows it.
    pub ticket: u32,
    /// Who lent it.
    pub lender: Lender,
    /// Why its chain cannot be used, where that is known before it is opened.
    pub(crate) refused: Option<DropReason>,
}

/// A frame that its reader has finished with, on its way back to the lender.
#[derive(Debug)]
pub struct Loan {
    /// As in the frame.
    pub ticket: u32,
    /// The room of a long chain, as it was lent.
    pub list: Option<PartList>,
}

impl Frame {
    /// Finished with: what goes back to the lender.
    #[inline]
    pub fn into_loan(mut self) -> Loan {
        Loan { ticket: self.ticket, list: self.parts.take_list() }
    }

    /// Takes the net header off a chain that a transmitq gave ("Packet Transmission"). `parts` is left as the frame's.
    ///
    /// # Errors
    /// Why there is no frame in it.
    #[inline]
    pub fn open(&mut self) -> Result<(), DropReason> {
        const HEADER: u32 = NET_HEADER_SIZE_BYTES as u32;
        let mut raw = [0; NET_HEADER_SIZE_BYTES];
        let len_bytes = match self.parts.only().map(|span| (span, span.read_array())) {
            Some((span, Some(bytes))) => {
                raw = bytes;
                span.len_bytes()
            }
            _ => {
                if self.parts.read(&mut raw) < raw.len() {
                    return Err(DropReason::TooShort);
                }
                self.parts.len_bytes()
            }
        };
        // Copied, not re-read.
        self.header = NetHeader::from_bytes(raw);
        self.parts.advance(HEADER);
        self.len_bytes = len_bytes - HEADER;
        if self.len_bytes < FRAME_LEN_MIN {
            return Err(DropReason::TooShort);
        }
        if self.len_bytes > FRAME_LEN_MAX {
            return Err(DropReason::TooLong);
        }
        if self.header.is_plain() { Ok(()) } else { Err(DropReason::OffloadRefused) }
    }
}

/// Which way the chains of a queue must be: all readable, or all writable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A transmitq's.
    Read,
    /// A receiveq's.
    Write,
}

/// Why a chain cannot be used, whatever its bytes are.
#[inline]
pub fn refusal(chain: &Chain, access: Access) -> Option<DropReason> {
    let readable = if access == Access::Read { chain.parts.count() } else { 0 };
    match chain.fault {
        Fault::None if usize::from(chain.readable) == readable => None,
        Fault::None | Fault::ReadableAfterWritable => Some(DropReason::WrongDirection),
        Fault::OutsideMemory => Some(DropReason::OutsideMemory),
        Fault::TooManyParts => Some(DropReason::TooManyParts),
    }
}

/// The header that goes before a frame in a receive buffer: what the guest negotiated and no more.
#[inline]
pub fn header_to_guest(header: NetHeader, features: u64, num_buffers: u16) -> NetHeader {
    if header.is_plain() {
        let checked = features & 1 << VIRTIO_NET_F_GUEST_CSUM != 0;
        let flags = if checked { header.flags & VIRTIO_NET_HDR_F_DATA_VALID } else { 0 };
        return NetHeader { flags, num_buffers, ..NetHeader::default() };
    }
    NetHeader { num_buffers, ..header }
}

/// Writes header and frame into the writable parts of `chains`, which together have room for both ("Processing of
/// Incoming Packets"). Calls `filled` with the bytes written to each chain, in order.
#[inline]
pub fn fill<'c>(
    frame: &Frame,
    header: NetHeader,
    chains: impl Iterator<Item = &'c Chain>,
    mut filled: impl FnMut(&'c Chain, u32),
) {
    let bytes = header.to_bytes();
    let mut header = &bytes[..];
    let mut sources = frame.parts.as_slice().iter().copied();
    let mut source = sources.next().unwrap_or_default();
    for chain in chains {
        let mut written = 0;
        for &part in chain.parts.as_slice() {
            let mut room = part;
            let count = room.write(header);
            header = &header[count..];
            room = room.skip(count as u32);
            written += count as u32;
            while !room.is_empty() && !source.is_empty() {
                let count = room.copy_from(source);
                room = room.skip(count);
                source = source.skip(count);
                written += count;
                if source.is_empty() {
                    source = sources.next().unwrap_or_default();
                }
            }
        }
        filled(chain, written);
        if header.is_empty() && source.is_empty() {
            return;
        }
    }
}
