//! Broken promises, one at a time: what a hostile or faulty driver may do to a queue and a frame.
//!
//! Each is applied to a queue that was honest so far, and published. What comes of it is the device's affair; the ring may
//! be in no state to go on with. A chain laid here comes back, if it does, with the token `TOKEN`.

use std::sync::atomic::Ordering::Release;

use super::net::{HEADER_BYTES, Header};
use super::{Descriptor, Driver, Layout, OutOfMemory, Ram, Refused};

/// The token of every chain laid by `Mischief::apply`.
pub const TOKEN: u32 = u32::MAX;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const PACKED_AVAIL: u16 = 1 << 7;
const PACKED_USED: u16 = 1 << 15;

/// Frame bytes of a chain in which something else is wrong.
const FRAME_BYTES: u32 = 60;

/// No frame is longer, segmented or not: 65535 bytes of IP packet and its headers, with some to spare.
const FRAME_BYTES_MAX: u32 = 66_000;

/// An address that no guest has memory at: past what processors can address.
const NOWHERE: u64 = 0xfff0_0000_0000_0000;

/// What the queue is for, hence which way its buffers go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The device writes.
    Receiveq,
    /// The device reads.
    Transmitq,
}

/// Why a promise could not be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unable {
    /// There is no such promise on this layout or kind of queue, or with what was negotiated.
    #[error("not on this queue")]
    NotHere,
    /// The queue has no room.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The guest's memory is used up, or too small to show it.
    #[error(transparent)]
    Memory(#[from] OutOfMemory),
}

macro_rules! mischiefs {
    ($($(#[$sentence:meta])* $name:ident,)*) => {
        /// A way to break a promise.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Mischief {
            $($(#[$sentence])* $name,)*
        }

        impl Mischief {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];
        }
    };
}

mischiefs! {
    /// Split: the available index is further ahead than the ring is long.
    AvailableIndexTooFar,
    /// Split: the available index goes back by one.
    AvailableIndexBackwards,
    /// Split: an available ring entry names a descriptor past the table.
    HeadPastTable,
    /// Split: a descriptor's `next` is past the table.
    NextPastTable,
    /// Split: a descriptor's `next` is itself.
    ChainLoop,
    /// A chain has more descriptors than the queue; on the split layout with the help of an indirect table.
    ChainLongerThanQueue,
    /// A frame is shredded into as many descriptors as the queue has, one byte each and the rest in the last; legal, unkind.
    ChainAsLongAsQueue,
    /// A descriptor of length zero lies among others.
    ZeroLengthDescriptor,
    /// A chain's only descriptor has length zero.
    ZeroLengthChain,
    /// An indirect table, though that was not negotiated.
    IndirectNotNegotiated,
    /// An indirect table has a descriptor of an indirect table in it.
    IndirectInIndirect,
    /// A descriptor has both INDIRECT and NEXT.
    IndirectWithNext,
    /// An indirect table's length is not a multiple of a descriptor's.
    IndirectTableRagged,
    /// An indirect table's length is zero.
    IndirectTableEmpty,
    /// An indirect table has room for more descriptors than the queue.
    IndirectTableTooLong,
    /// An indirect table is nowhere in memory.
    IndirectTableOutsideMemory,
    /// An indirect table starts in memory and ends past it.
    IndirectTableCrossesEnd,
    /// Split: in an indirect table, a `next` is past the table.
    IndirectNextPastTable,
    /// Split: in an indirect table, a descriptor's `next` is itself.
    IndirectLoop,
    /// An element of an indirect table is nowhere in memory.
    IndirectElementOutsideMemory,
    /// A buffer is nowhere in memory.
    OutsideMemory,
    /// A buffer's end is past the last address there is.
    AddressOverflows,
    /// A buffer starts in memory and ends past it.
    CrossesEnd,
    /// A buffer's length is the largest number.
    LengthHuge,
    /// A writable descriptor comes before a readable one.
    WritableBeforeReadable,
    /// A readable buffer on a receiveq, a writable one on a transmitq.
    WrongDirection,
    /// A chain is shorter than the header before a frame.
    ShorterThanHeader,
    /// A chain has room for the header and nothing else.
    HeaderOnly,
    /// The header is spread over three descriptors, which is legal.
    HeaderInThree,
    /// A frame is shorter than an Ethernet header.
    FrameShort,
    /// Transmitq: a frame is longer than any frame may be.
    FrameLong,
    /// A chain that is in flight is offered again; on the packed layout its id is.
    OfferedTwice,
    /// Packed: every descriptor is made available once more while the device has chains, which it must have taken to notice.
    RingLapped,
    /// Packed: a descriptor's wrap bits are those of the lap before, so that it is not available.
    WrapBitsInverted,
    /// Packed: a descriptor's wrap bits say that it has been used.
    WrapBitsUsed,
    /// Packed: a chain's second descriptor has the wrap bits of the lap before.
    WrapBitsBreakOff,
    /// Packed: a buffer id is no smaller than the queue's size.
    IdPastQueue,
    /// Packed: NEXT on the last descriptor that is available.
    NextWithNothingFollowing,
    /// Transmitq: segmentation into segments of no bytes.
    GsoSizeZero,
    /// Transmitq: a kind of segmentation that there is not.
    GsoTypeUnknown,
    /// Transmitq: segmentation without the checksum that it needs.
    GsoWithoutChecksum,
    /// Transmitq: headers said to be longer than the frame.
    HdrLenHuge,
    /// Transmitq: a checksum that starts past the frame.
    ChecksumStartPastFrame,
    /// Transmitq: a checksum that would be stored past the frame.
    ChecksumOffsetPastFrame,
    /// Transmitq: flags that there are not.
    HeaderFlagsUnknown,
}

use Mischief::*;

impl Mischief {
    /// Whether the promise exists on this layout and kind of queue. What was negotiated may still rule it out.
    pub fn applies_to(self, layout: Layout, kind: Kind) -> bool {
        match self {
            AvailableIndexTooFar
            | AvailableIndexBackwards
            | HeadPastTable
            | NextPastTable
            | ChainLoop
            | IndirectNextPastTable
            | IndirectLoop => layout == Layout::Split,
            RingLapped
            | WrapBitsInverted
            | WrapBitsUsed
            | WrapBitsBreakOff
            | IdPastQueue
            | NextWithNothingFollowing => layout == Layout::Packed,
            FrameLong
            | GsoSizeZero
            | GsoTypeUnknown
            | GsoWithoutChecksum
            | HdrLenHuge
            | ChecksumStartPastFrame
            | ChecksumOffsetPastFrame
            | HeaderFlagsUnknown => kind == Kind::Transmitq,
            _ => true,
        }
    }

    /// Breaks the promise on `driver`, which is in `ram`, together with whatever was offered and not published yet.
    /// Takes up to 4 KiB of `ram`; `IndirectTableTooLong` takes 16 bytes per descriptor of the queue.
    ///
    /// # Errors
    /// The queue is as it was then.
    pub fn apply(self, driver: &mut Driver, ram: &Ram, kind: Kind) -> Result<(), Unable> {
        if !self.applies_to(driver.layout(), kind) {
            return Err(Unable::NotHere);
        }
        // Indirect tables are mischief of their own where they were not negotiated.
        let indirect = driver.options().indirect;
        let needs_indirect = matches!(
            self,
            IndirectInIndirect
                | IndirectWithNext
                | IndirectTableRagged
                | IndirectTableEmpty
                | IndirectTableTooLong
                | IndirectTableOutsideMemory
                | IndirectTableCrossesEnd
                | IndirectNextPastTable
                | IndirectLoop
                | IndirectElementOutsideMemory
        ) || self == ChainLongerThanQueue && driver.layout() == Layout::Split;
        if needs_indirect && !indirect || self == IndirectNotNegotiated && indirect {
            return Err(Unable::NotHere);
        }
        let buffer_gpa = ram.alloc(2048, 64)?;
        let table_gpa = ram.alloc(1024, 64)?;
        let mut scene = Scene { driver, ram, kind, buffer_gpa, table_gpa };
        scene.fill_in(Header::default());
        scene.play(self)?;
        scene.driver.publish();
        Ok(())
    }
}

/// A queue, and a good frame to do something bad to.
struct Scene<'a> {
    driver: &'a mut Driver,
    ram: &'a Ram,
    kind: Kind,
    buffer_gpa: u64,
    table_gpa: u64,
}

impl Scene<'_> {
    fn play(&mut self, mischief: Mischief) -> Result<(), Unable> {
        let size = self.driver.size();
        let good = self.good(HEADER_BYTES + FRAME_BYTES);
        let end = self.ram.gpa() + self.ram.len_bytes();
        match mischief {
            AvailableIndexTooFar => self.expose(self.driver.used_index().wrapping_add(size).wrapping_add(1)),
            AvailableIndexBackwards => self.expose(self.driver.available_index().wrapping_sub(1)),
            HeadPastTable => self.enter(size),
            NextPastTable => self.raw(&[Descriptor { flags: good.flags | NEXT, link: Some(size), ..good }])?,
            ChainLoop => {
                let link = Some(self.driver.next_id());
                self.raw(&[Descriptor { flags: good.flags | NEXT, link, ..good }])?;
            }
            ChainLongerThanQueue => self.longer_than_queue()?,
            ChainAsLongAsQueue => self.shredded()?,
            ZeroLengthDescriptor => {
                let first = Descriptor { len_bytes: HEADER_BYTES, ..good };
                let second = Descriptor { len_bytes: 0, ..good };
                let third = Descriptor { gpa: good.gpa + u64::from(HEADER_BYTES), len_bytes: FRAME_BYTES, ..good };
                self.chain(&[first, second, third])?;
            }
            ZeroLengthChain => self.raw(&[Descriptor { len_bytes: 0, ..good }])?,
            IndirectNotNegotiated => self.table(&[good], 16)?,
            IndirectInIndirect => {
                let inner = Descriptor { gpa: self.table_gpa + 512, len_bytes: 16, flags: INDIRECT, link: Some(0) };
                self.lay_table(self.table_gpa + 512, &[good]);
                self.table(&[inner], 16)?;
            }
            IndirectWithNext => {
                self.lay_table(self.table_gpa, &[good]);
                let table = self.table_descriptor(16);
                self.raw(&[Descriptor { flags: INDIRECT | NEXT, ..table }, good])?;
            }
            IndirectTableRagged => self.table(&[good, good], 24)?,
            IndirectTableEmpty => self.table(&[good], 0)?,
            IndirectTableTooLong => {
                let len_bytes = 16 * (u32::from(size) + 1);
                self.table_gpa = self.ram.alloc(u64::from(len_bytes), 16)?;
                self.table(&[good], len_bytes)?;
            }
            IndirectTableOutsideMemory => {
                let table = self.table_descriptor(16);
                self.raw(&[Descriptor { gpa: NOWHERE, ..table }])?;
            }
            IndirectTableCrossesEnd => {
                let table = self.table_descriptor(if size > 1 { 32 } else { 16 });
                self.raw(&[Descriptor { gpa: end - u64::from(table.len_bytes) / 2, ..table }])?;
            }
            IndirectNextPastTable => {
                self.table(&[Descriptor { flags: good.flags | NEXT, link: Some(1), ..good }], 16)?
            }
            IndirectLoop => self.table(&[Descriptor { flags: good.flags | NEXT, link: Some(0), ..good }], 16)?,
            IndirectElementOutsideMemory => self.table(&[Descriptor { gpa: NOWHERE, ..good }], 16)?,
            OutsideMemory => self.raw(&[Descriptor { gpa: NOWHERE, ..good }])?,
            AddressOverflows => self.raw(&[Descriptor { gpa: u64::MAX - 7, ..good }])?,
            CrossesEnd => self.raw(&[Descriptor { gpa: end - 8, ..good }])?,
            LengthHuge => self.raw(&[Descriptor { len_bytes: u32::MAX, ..good }])?,
            WritableBeforeReadable => {
                let last = Descriptor { flags: 0, len_bytes: 8, ..good };
                self.chain(&[Descriptor { flags: WRITE, ..good }, last])?;
            }
            WrongDirection => self.raw(&[Descriptor { flags: good.flags ^ WRITE, ..good }])?,
            ShorterThanHeader => self.raw(&[self.good(HEADER_BYTES - 1)])?,
            HeaderOnly => self.raw(&[self.good(HEADER_BYTES)])?,
            HeaderInThree => {
                let part = |at: u32, len_bytes| Descriptor { gpa: good.gpa + u64::from(at), len_bytes, ..good };
                self.chain(&[part(0, 1), part(1, 9), part(10, 2 + FRAME_BYTES)])?;
            }
            FrameShort => self.raw(&[self.good(HEADER_BYTES + 13)])?,
            FrameLong => {
                let len_bytes = self.ram.len_bytes().min(1 << 20) as u32;
                if len_bytes <= FRAME_BYTES_MAX {
                    return Err(Unable::NotHere);
                }
                let header = self.good(HEADER_BYTES);
                self.chain(&[header, Descriptor { gpa: self.ram.gpa(), len_bytes, ..good }])?;
            }
            OfferedTwice => {
                if self.driver.free() < 2 {
                    return Err(Refused::Full { needed: 2, free: self.driver.free() }.into());
                }
                let id = self.driver.next_id();
                self.raw(&[good])?;
                match self.driver.layout() {
                    Layout::Split => self.enter(id),
                    Layout::Packed => self.raw(&[Descriptor { link: Some(id), ..good }])?,
                }
            }
            RingLapped => self.lap()?,
            WrapBitsInverted => self.raw(&[Descriptor { flags: good.flags | PACKED_AVAIL | PACKED_USED, ..good }])?,
            WrapBitsUsed => self.raw(&[Descriptor { flags: good.flags | PACKED_USED, ..good }])?,
            WrapBitsBreakOff => {
                let second = Descriptor { flags: good.flags | PACKED_AVAIL | PACKED_USED, ..good };
                self.raw(&[Descriptor { flags: good.flags | NEXT, ..good }, second])?;
            }
            IdPastQueue => self.raw(&[Descriptor { link: Some(size), ..good }])?,
            NextWithNothingFollowing => self.raw(&[Descriptor { flags: good.flags | NEXT, ..good }])?,
            GsoSizeZero => self.header(Header { flags: 1, gso_type: 1, hdr_len: 54, ..CHECKSUM })?,
            GsoTypeUnknown => self.header(Header { gso_type: 0x0f, gso_size: 20, hdr_len: 54, ..CHECKSUM })?,
            GsoWithoutChecksum => {
                self.header(Header { gso_type: 1, gso_size: 20, hdr_len: 54, ..Header::default() })?
            }
            HdrLenHuge => self.header(Header { gso_type: 1, gso_size: 20, hdr_len: u16::MAX, ..CHECKSUM })?,
            ChecksumStartPastFrame => self.header(Header { csum_start: FRAME_BYTES as u16, ..CHECKSUM })?,
            ChecksumOffsetPastFrame => self.header(Header { csum_offset: u16::MAX, ..CHECKSUM })?,
            HeaderFlagsUnknown => self.header(Header { flags: 0x80, ..Header::default() })?,
        }
        Ok(())
    }

    /// A descriptor of the first `len_bytes` of the good frame, header included, the way that the queue's buffers go.
    fn good(&self, len_bytes: u32) -> Descriptor {
        let flags = if self.kind == Kind::Receiveq { WRITE } else { 0 };
        Descriptor { gpa: self.buffer_gpa, len_bytes, flags, link: None }
    }

    /// Writes the good frame: of a protocol for experiments, between stations that are not there.
    fn fill_in(&self, header: Header) {
        self.ram.write(self.buffer_gpa, &header.to_bytes());
        let frame = [2, 0, 0, 0, 0xba, 0xd1, 2, 0, 0, 0, 0xba, 0xd2, 0x88, 0xb5];
        self.ram.write(self.buffer_gpa + u64::from(HEADER_BYTES), &frame);
    }

    fn raw(&mut self, chain: &[Descriptor]) -> Result<(), Unable> {
        Ok(self.driver.offer_raw(chain, TOKEN)?)
    }

    /// As `raw`, linked as an honest driver would.
    fn chain(&mut self, chain: &[Descriptor]) -> Result<(), Unable> {
        let mut chain = chain.to_vec();
        let last = chain.len() - 1;
        chain[..last].iter_mut().for_each(|descriptor| descriptor.flags |= NEXT);
        self.raw(&chain)
    }

    /// A good frame with this header.
    fn header(&mut self, header: Header) -> Result<(), Unable> {
        self.fill_in(header);
        self.raw(&[self.good(HEADER_BYTES + FRAME_BYTES)])
    }

    fn table_descriptor(&self, len_bytes: u32) -> Descriptor {
        Descriptor { gpa: self.table_gpa, len_bytes, flags: INDIRECT, link: None }
    }

    /// A chain of one indirect table of these descriptors, said to be of this length.
    fn table(&mut self, table: &[Descriptor], len_bytes: u32) -> Result<(), Unable> {
        self.lay_table(self.table_gpa, table);
        self.raw(&[self.table_descriptor(len_bytes)])
    }

    fn lay_table(&self, gpa: u64, table: &[Descriptor]) {
        for (at, descriptor) in (gpa..).step_by(16).zip(table) {
            let link = descriptor.link.unwrap_or(0);
            let (third, fourth) = match self.driver.layout() {
                Layout::Split => (descriptor.flags, link),
                Layout::Packed => (link, descriptor.flags),
            };
            self.ram.write_u64(at, descriptor.gpa);
            self.ram.write_u32(at + 8, descriptor.len_bytes);
            self.ram.write_u16(at + 12, third);
            self.ram.write_u16(at + 14, fourth);
        }
    }

    fn longer_than_queue(&mut self) -> Result<(), Unable> {
        let good = self.good(1);
        let size = usize::from(self.driver.size());
        if self.driver.layout() == Layout::Packed {
            return self.raw(&vec![Descriptor { flags: good.flags | NEXT, ..good }; size]);
        }
        // One in the queue and as many as it has in a table.
        self.table_gpa = self.ram.alloc(16 * size as u64, 16)?;
        let linked =
            |i| Descriptor { flags: good.flags | if i < size { NEXT } else { 0 }, link: Some(i as u16), ..good };
        let table: Vec<_> = (1..=size).map(linked).collect();
        self.lay_table(self.table_gpa, &table);
        let table = self.table_descriptor(16 * size as u32);
        self.raw(&[Descriptor { flags: good.flags | NEXT, ..good }, table])
    }

    fn lap(&mut self) -> Result<(), Unable> {
        if self.driver.in_flight() == 0 {
            return Err(Unable::NotHere);
        }
        self.driver.publish();
        let (good, size) = (self.good(HEADER_BYTES + FRAME_BYTES), self.driver.size());
        let start = self.driver.available_index();
        let (mut offset, mut wrap) = (start & 0x7fff, start >> 15 == 1);
        for id in 0..size {
            let gpa = self.driver.addresses().descriptor + 16 * u64::from(offset);
            self.ram.write_u64(gpa, good.gpa);
            self.ram.write_u32(gpa + 8, good.len_bytes);
            self.ram.write_u16(gpa + 12, id);
            self.ram.store_u16(gpa + 14, good.flags | if wrap { PACKED_AVAIL } else { PACKED_USED }, Release);
            offset += 1;
            if offset == size {
                (offset, wrap) = (0, !wrap);
            }
        }
        Ok(())
    }

    fn shredded(&mut self) -> Result<(), Unable> {
        let good = self.good(HEADER_BYTES + FRAME_BYTES);
        let count = self.driver.size().min((HEADER_BYTES + FRAME_BYTES) as u16);
        let part = |i: u16| Descriptor { gpa: good.gpa + u64::from(i), len_bytes: 1, ..good };
        let mut chain: Vec<_> = (0..self.driver.size()).map(|i| part(i.min(count - 1))).collect();
        if let Some(last) = chain.last_mut() {
            last.len_bytes = good.len_bytes - u32::from(count - 1);
        }
        self.chain(&chain)
    }

    /// Split: puts a head into the available ring, whatever it is.
    fn enter(&mut self, head: u16) {
        if let Driver::Split(driver) = self.driver {
            driver.enter(head);
        }
    }

    /// Split: says that this is the available index.
    fn expose(&mut self, idx: u16) {
        self.driver.publish();
        self.ram.store_u16(self.driver.addresses().driver + 2, idx, Release);
    }
}

/// A checksum asked for, of what follows an IPv4 header.
const CHECKSUM: Header =
    Header { flags: 1, gso_type: 0, hdr_len: 0, gso_size: 0, csum_start: 34, csum_offset: 16, num_buffers: 0 };

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;

    use super::super::reference::Device;
    use super::super::{Buffer, Completed, Options};
    use super::*;

    fn every_queue() -> impl Iterator<Item = (Layout, Kind, u16, bool)> {
        let layouts = [Layout::Split, Layout::Packed];
        let queues = layouts.into_iter().flat_map(|layout| [(layout, Kind::Receiveq), (layout, Kind::Transmitq)]);
        let sized = queues.flat_map(|(layout, kind)| [1, 2, 8, 256].map(|size| (layout, kind, size)));
        sized.flat_map(|(layout, kind, size)| [false, true].map(|indirect| (layout, kind, size, indirect)))
    }

    #[test]
    fn each_is_done_where_it_can_be_and_what_was_honest_before_it_stays_so() {
        let mut done = HashSet::new();
        for (layout, kind, size, indirect) in every_queue() {
            for &mischief in Mischief::ALL {
                let ram = Arc::new(Ram::new(1 << 20, 1 << 20).unwrap());
                let options = Options { indirect, ..Options::default() };
                let mut driver = Driver::new(&ram, layout, size, options).unwrap();
                let mut device = Device::of(&driver, &ram);
                driver.offer(&[Buffer::readable(1 << 20, 99)], 5).unwrap();
                if size == 1 {
                    // There is room for one only.
                    driver.publish();
                    assert!(device.take());
                    let taken = device.held.pop_front().unwrap();
                    device.give_back(&[(taken, 0)], false);
                    assert_eq!(driver.collect(&mut [Completed::default()]), Ok(1));
                }
                let before = (driver.free(), driver.in_flight());
                match mischief.apply(&mut driver, &ram, kind) {
                    Ok(()) => {
                        assert!(mischief.applies_to(layout, kind));
                        done.insert((mischief, layout == Layout::Split, kind));
                    }
                    Err(unable) => {
                        assert_eq!((driver.free(), driver.in_flight()), before, "{mischief:?}: {unable}");
                        assert!(!matches!(unable, Unable::Memory(_)));
                        driver.publish();
                    }
                }
                if size > 1 && ![AvailableIndexBackwards, RingLapped].contains(&mischief) {
                    assert!(device.take(), "{mischief:?} on {layout:?} {size}");
                    assert_eq!(device.held[0].elements, [Buffer::readable(1 << 20, 99)]);
                }
            }
        }
        for &mischief in Mischief::ALL {
            for (layout, kind, ..) in every_queue() {
                let applies = mischief.applies_to(layout, kind);
                assert_eq!(
                    done.contains(&(mischief, layout == Layout::Split, kind)),
                    applies,
                    "{mischief:?} {layout:?} {kind:?}"
                );
            }
        }
    }

    #[test]
    fn legal_but_unkind_chains_are_legal() {
        for (layout, kind, size, indirect) in every_queue().filter(|&(_, _, size, _)| size > 2) {
            for mischief in [ChainAsLongAsQueue, HeaderInThree] {
                let ram = Arc::new(Ram::new(1 << 20, 1 << 20).unwrap());
                let options = Options { indirect, ..Options::default() };
                let mut driver = Driver::new(&ram, layout, size, options).unwrap();
                let mut device = Device::of(&driver, &ram);
                mischief.apply(&mut driver, &ram, kind).unwrap();
                assert!(device.take());
                let taken = device.held.pop_front().unwrap();
                let count = if mischief == HeaderInThree { 3 } else { usize::from(size) };
                assert_eq!(taken.elements.len(), count);
                assert!(taken.elements.iter().all(|b| b.writable == (kind == Kind::Receiveq) && b.len_bytes > 0));
                device.give_back(&[(taken, 0)], false);
                let mut out = [Completed::default()];
                assert_eq!(driver.collect(&mut out), Ok(1));
                assert_eq!((out[0].token, driver.free()), (TOKEN, usize::from(size)));
            }
        }
    }
}
