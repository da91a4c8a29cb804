//! A frame: what rides in a chain, without the net header. Opening chains into frames, and filling chains with them.

pub mod flow;
pub mod hash;
pub mod offload;
pub mod queue;
#[cfg(all(test, not(loom)))]
mod sample;
pub mod steer;

use virtnet_rings::memory::Span;
use virtnet_rings::spec::net::{
    NET_HEADER_SIZE_BYTES, NetHeader, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_HDR_F_DATA_VALID,
    VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_NONE, net_header_size_bytes,
};
use virtnet_rings::{Access, Chain, Fault, PartList, Parts};

use self::offload::{Refusal, Work};
use crate::counters::DropReason;

/// The shortest frame: an Ethernet header.
pub const FRAME_LEN_MIN: u32 = 14;
/// Where a net header has the number of merged buffers, little-endian, if it has it.
pub const NUM_BUFFERS: usize = NET_HEADER_SIZE_BYTES - 2;
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
    /// What the sender asked for, as it was in front of the frame: copied, not re-read.
    pub header: [u8; NET_HEADER_SIZE_BYTES],
    /// By which the lender knows it.
    pub ticket: u32,
    /// Who lent it.
    pub lender: Lender,
}

/// A frame in one part that asks for nothing, before it is laid down anywhere: it stays in registers.
#[derive(Clone, Copy, Debug)]
pub struct PlainFrame {
    /// As in a frame.
    pub bytes: Span,
    /// As in a frame.
    pub ticket: u32,
    /// As in a frame.
    pub lender: Lender,
}

impl PlainFrame {
    /// Makes `place` this frame; what was there has no list any more.
    #[inline(always)]
    pub fn lay_down(self, place: &mut Frame) {
        place.parts.set_one(self.bytes);
        place.len_bytes = self.bytes.len_bytes();
        place.header = [0; _];
        place.ticket = self.ticket;
        place.lender = self.lender;
    }
}

impl From<PlainFrame> for Frame {
    #[inline(always)]
    fn from(PlainFrame { bytes, ticket, lender }: PlainFrame) -> Self {
        Frame { parts: Parts::one(bytes), len_bytes: bytes.len_bytes(), header: [0; _], ticket, lender }
    }
}

/// Frames that their reader has finished with, on their way back to the lender.
#[derive(Debug)]
pub struct Loan {
    /// As in the first frame.
    pub ticket: u32,
    /// How many frames, by tickets one after another.
    pub count: u32,
    /// The room of a long chain, as it was lent; then it is of one frame.
    pub list: Option<PartList>,
}

/// Loans on their way back. Frames come and go in order, so those of a burst are mostly one loan.
#[derive(Debug)]
pub struct Loans {
    /// The one that goes on; none if its count is 0.
    last: Loan,
    before: Vec<Loan>,
}

impl Loans {
    /// With no room.
    pub const NONE: Loans = Loans { last: Loan::NONE, before: Vec::new() };

    /// With room for so many.
    pub fn with_capacity(loans: usize) -> Self {
        Loans { before: Vec::with_capacity(loans), ..Loans::NONE }
    }

    /// Adds one, to the last of them where it goes on with that.
    #[inline(always)]
    pub fn push(&mut self, loan: Loan) {
        if self.last.goes_on_with(&loan) {
            self.last.count += loan.count;
        } else {
            self.push_apart(loan);
        }
    }

    #[inline(never)]
    fn push_apart(&mut self, loan: Loan) {
        let after = loan.ticket.wrapping_add(loan.count);
        // One with a list stands alone, and the next that goes on is a new one.
        let (alone, last) = match loan.list {
            Some(_) => (Some(loan), Loan { ticket: after, ..Loan::NONE }),
            None => (None, loan),
        };
        let before = std::mem::replace(&mut self.last, last);
        self.before.extend([Some(before), alone].into_iter().flatten().filter(|loan| loan.count > 0));
    }

    /// Takes all of them, in the order they came.
    #[inline]
    pub fn drain(&mut self) -> impl Iterator<Item = Loan> + '_ {
        let last = std::mem::replace(&mut self.last, Loan::NONE);
        self.before.drain(..).chain((last.count > 0).then_some(last))
    }
}

impl Loan {
    /// Of no frame.
    pub const NONE: Loan = Loan { ticket: 0, count: 0, list: None };

    /// Whether another can be added to this one.
    #[inline(always)]
    pub fn goes_on_with(&self, next: &Loan) -> bool {
        self.ticket.wrapping_add(self.count) == next.ticket && self.list.is_none() && next.list.is_none()
    }
}

impl Frame {
    /// Finished with: what goes back to the lender, once.
    #[inline(always)]
    pub fn loan(&mut self) -> Loan {
        Loan { ticket: self.ticket, count: 1, list: self.parts.take_list() }
    }

    /// Whether the frame asks for nothing at all: neither a checksum nor segments. Most do not.
    #[inline(always)]
    pub fn is_plain(&self) -> bool {
        asks_for_nothing([self.header[0], self.header[1]])
    }

    /// The bytes of what nearly every chain of a transmitq is: header and frame in one part, and the header, if it is read, asks
    /// for nothing. `None` for any other, and for one that is too short or too long.
    #[inline(always)]
    pub fn plain(chain: &Chain, reads_header: bool) -> Option<Span> {
        const SHORTEST: u32 = NET_HEADER_SIZE_BYTES as u32 + FRAME_LEN_MIN;
        let part = chain.parts.plain(Access::Read)?;
        if part.len_bytes().wrapping_sub(SHORTEST) > FRAME_LEN_MAX - FRAME_LEN_MIN {
            return None;
        }
        if reads_header && !asks_for_nothing(part.read_array()?) {
            return None;
        }
        Some(part.skip(NET_HEADER_SIZE_BYTES as u32))
    }

    /// Asks the cache for the first bytes of it, which are all of a short one.
    #[inline]
    pub fn prefetch(&self) {
        if let Some(part) = self.parts.only() {
            part.prefetch(0);
            part.prefetch(63);
        }
    }

    /// The bytes of a frame that is in one part and asks for nothing, and the header that goes before it.
    #[inline(always)]
    pub fn plain_bytes(&self, features: u64) -> Option<([u8; NET_HEADER_SIZE_BYTES], Span)> {
        let bytes = self.parts.plain(Access::Read).filter(|_| self.is_plain())?;
        // Made in one register: as bytes it would be stored as bytes.
        let header = u128::from(self.data_valid(features)) | 1 << (8 * NUM_BUFFERS);
        Some((*header.to_le_bytes().first_chunk().expect("twelve of sixteen bytes"), bytes))
    }

    /// The flag that says that the frame's checksum is known to be good, where the guest wants to hear that.
    #[inline(always)]
    fn data_valid(&self, features: u64) -> u8 {
        let checked = features & 1 << VIRTIO_NET_F_GUEST_CSUM != 0;
        self.header[0] & if checked { VIRTIO_NET_HDR_F_DATA_VALID } else { 0 }
    }

    /// Takes the net header off what a transmitq gave ("Packet Transmission"). `parts` is left as the frame's.
    ///
    /// # Errors
    /// Why there is no frame in it, or none that a driver which negotiated `features` may send.
    #[inline]
    pub fn open(&mut self, features: u64) -> Result<(), DropReason> {
        let header_bytes = net_header_size_bytes(features);
        if let Some(reason) = refusal(&self.parts, Access::Read) {
            return Err(reason);
        }
        match self.parts.only().and_then(Span::read_array) {
            Some(header) => {
                self.header = header;
                self.parts.advance(header_bytes as u32);
                self.len_bytes = self.parts.only().map_or(0, Span::len_bytes);
            }
            None => self.open_parts(header_bytes)?,
        }
        if self.len_bytes < FRAME_LEN_MIN {
            return Err(DropReason::TooShort);
        }
        if self.len_bytes > FRAME_LEN_MAX {
            return Err(DropReason::TooLong);
        }
        if !reads_header(features) || self.is_plain() {
            // What else is in it is not for a driver to say.
            self.header = [0; _];
            return Ok(());
        }
        self.check_offload(features)
    }

    /// Puts a header of our own making in the place of one that asks for something.
    fn check_offload(&mut self, features: u64) -> Result<(), DropReason> {
        let mut head = [0; offload::HEAD_BYTES_MAX];
        let count = self.parts.read(&mut head);
        let header = NetHeader::from_bytes(self.header);
        let checked = offload::check(&header, features, &head[..count], self.len_bytes);
        self.header = checked.map_err(Refusal::reason)?.to_bytes();
        Ok(())
    }

    /// What has to be done before a guest that negotiated `features` gets this frame.
    #[inline]
    pub fn work_for(&self, features: u64) -> Work {
        if self.is_plain() { Work::Nothing } else { Work::for_receiver(self.header[1], features) }
    }

    /// The same where the header is not wholly in the one part.
    #[cold]
    fn open_parts(&mut self, header_bytes: usize) -> Result<(), DropReason> {
        if self.parts.len_bytes() < header_bytes as u32 {
            return Err(DropReason::TooShort);
        }
        let read_bytes = header_bytes.min(NET_HEADER_SIZE_BYTES);
        self.parts.read(&mut self.header[..read_bytes]);
        self.parts.advance(header_bytes as u32);
        self.len_bytes = self.parts.len_bytes();
        Ok(())
    }

    /// The header that goes before this frame in a receive buffer: what the guest negotiated and no more.
    #[inline]
    pub fn header_to_guest(&self, features: u64, num_buffers: u16) -> [u8; NET_HEADER_SIZE_BYTES] {
        let mut header = [0; NET_HEADER_SIZE_BYTES];
        if !self.is_plain() {
            header = self.header;
        }
        header[0] |= self.data_valid(features);
        header[NUM_BUFFERS..].copy_from_slice(&num_buffers.to_le_bytes());
        header
    }
}

/// Whether the header of what a driver sends is looked at: one that has negotiated neither checksums nor segments may ask for
/// nothing in it ("Packet Transmission"), and to read it would be to fetch one more line from the driver's core.
pub fn reads_header(features: u64) -> bool {
    features & offload::FROM_GUEST != 0
}

/// Whether plain frames have a path of their own: behind the shorter header of a legacy driver, which is mostly in another buffer
/// than its frame, they have none, nor behind one with a hash.
#[inline(always)]
pub fn has_plain_path(features: u64) -> bool {
    net_header_size_bytes(features) == NET_HEADER_SIZE_BYTES
}

/// Whether the first two bytes of a net header, flags and GSO type, ask for neither a checksum nor segments.
#[inline(always)]
fn asks_for_nothing(header: [u8; 2]) -> bool {
    u16::from_le_bytes(header) & u16::from_le_bytes([VIRTIO_NET_HDR_F_NEEDS_CSUM, !VIRTIO_NET_HDR_GSO_NONE]) == 0
}

/// Why a chain cannot be used, whatever its bytes are.
#[inline]
pub fn refusal(parts: &Parts, access: Access) -> Option<DropReason> {
    let readable = if access == Access::Read { parts.count() } else { 0 };
    match parts.fault() {
        Fault::None if parts.readable() == readable => None,
        Fault::None | Fault::ReadableAfterWritable => Some(DropReason::WrongDirection),
        Fault::OutsideMemory => Some(DropReason::OutsideMemory),
        Fault::TooManyParts => Some(DropReason::TooManyParts),
    }
}

/// Writes header and frame into the writable parts of `chains`, which together have room for both ("Processing of
/// Incoming Packets"). Calls `filled` with the bytes written to each chain, in order.
#[inline]
pub fn fill<'c>(
    frame: &Frame,
    mut header: &[u8],
    chains: impl Iterator<Item = &'c Chain>,
    mut filled: impl FnMut(&'c Chain, u32),
) {
    let mut sources = frame.parts.iter();
    let mut source = sources.next().unwrap_or_default();
    for chain in chains {
        let mut written = 0;
        for part in chain.parts.iter() {
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

/// The same for a frame in our own memory, with its header in front.
pub fn fill_from<'c>(
    mut bytes: &[u8],
    chains: impl Iterator<Item = &'c Chain>,
    mut filled: impl FnMut(&'c Chain, u32),
) {
    for chain in chains {
        let mut written = 0;
        for part in chain.parts.iter() {
            let count = part.write(bytes);
            bytes = &bytes[count..];
            written += count as u32;
        }
        filled(chain, written);
    }
}

// One cache line: frames are kept by the burst, and passed between workers.
const _: () = assert!(size_of::<Frame>() == 64);
