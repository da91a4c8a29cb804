//! One chain: a buffer as the driver offered it, with our copies of its parts.

use std::sync::Arc;

use crate::memory::area::Descriptor;
use crate::memory::joined::Joined;
use crate::memory::turns::Member;
use crate::memory::{Absent, Access, GuestMemory, Span, Window};
use crate::setup::Layout;
use crate::spec::net::NET_HEADER_SIZE_BYTES;
use crate::spec::virtq::*;
use crate::violation::{Fault, Violation};
use crate::virtqueue::Used;

/// The most parts a chain may have to be used; longer ones are a [`Fault::TooManyParts`].
pub const PARTS_MAX: usize = 64;

/// How many chains are asked for at once that wait for translations.
pub(crate) const ASKED_AHEAD: u16 = 16;

/// The frames that come by the million; of those, the cache is asked for the last byte, too.
const SHORT_FRAME_BYTES: u32 = 64;

/// Lines of each part of a longer chain that the cache is asked for; what follows, it sees coming.
const LINES_AHEAD: usize = 8;

/// Room for the parts of a long chain, lent by a [`PartStore`].
pub type PartList = Box<[Span; PARTS_MAX]>;

/// What there is to know of parts besides where they are, as one word that is stored and compared at once: how many in bits
/// 0 to 7, how many of them are readable in bits 8 to 15, the fault above.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Shape(u32);

impl Shape {
    /// One part that is readable and nothing wrong with it; the same of a writable one.
    const READ: Shape = Shape(0x0101);
    const WRITE: Shape = Shape(0x0001);

    #[inline(always)]
    fn plain(access: Access) -> Self {
        if access == Access::Read { Shape::READ } else { Shape::WRITE }
    }

    #[inline(always)]
    fn count(self) -> u8 {
        self.0 as u8
    }

    #[inline(always)]
    fn readable(self) -> u8 {
        (self.0 >> 8) as u8
    }

    fn fault(self) -> Fault {
        [Fault::None, Fault::OutsideMemory, Fault::ReadableAfterWritable, Fault::TooManyParts][(self.0 >> 16) as usize]
    }

    fn with(self, count: u8, readable: u8) -> Self {
        Shape(u32::from(count) | u32::from(readable) << 8 | self.0 & !0xffff)
    }

    /// The first fault is the one that is told.
    fn with_fault(self, fault: Fault) -> Self {
        if self.fault() == Fault::None { Shape(self.0 | (fault as u32) << 16) } else { self }
    }
}

/// Stretches of memory, in order. Two are kept in place, which is all that most chains have.
#[derive(Debug, Default)]
pub struct Parts {
    /// All parts, when there are at most two. What is past the count means nothing.
    near: [Span; 2],
    /// All parts, when there are more; the list is kept to be given back when there are fewer again.
    far: Option<PartList>,
    shape: Shape,
}

impl Parts {
    /// One part that can be read.
    #[inline(always)]
    pub fn one(span: Span) -> Self {
        Parts { near: [span, Span::EMPTY], far: None, shape: Shape::plain(Access::Read) }
    }

    /// Makes this one part that can be read, where there was something without a list.
    #[inline(always)]
    pub fn set_one(&mut self, span: Span) {
        debug_assert!(self.far.is_none(), "the list was given back");
        self.near[0] = span;
        self.shape = Shape::READ;
    }

    /// How many.
    #[inline]
    pub fn count(&self) -> usize {
        usize::from(self.shape.count())
    }

    /// How many of them the device may read; they come first, and the rest it may write.
    #[inline]
    pub fn readable(&self) -> usize {
        usize::from(self.shape.readable())
    }

    /// Why they cannot be used, if they cannot.
    #[inline]
    pub fn fault(&self) -> Fault {
        self.shape.fault()
    }

    /// The only part, where nothing is wrong and it goes this way: the case worth a path of its own.
    #[inline(always)]
    pub fn plain(&self, access: Access) -> Option<Span> {
        (self.shape == Shape::plain(access)).then_some(self.near[0])
    }

    /// The part at `index`, if there is one.
    #[inline]
    pub fn get(&self, index: usize) -> Option<Span> {
        if index >= self.count() {
            return None;
        }
        match &self.far {
            Some(far) if self.shape.count() > 2 => far.get(index).copied(),
            _ => self.near.get(index).copied(),
        }
    }

    /// All of them.
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = Span> + '_ {
        (0..self.count()).filter_map(|index| self.get(index))
    }

    /// The only part, where there is one only.
    #[inline(always)]
    pub fn only(&self) -> Option<Span> {
        (self.shape.count() == 1).then_some(self.near[0])
    }

    /// Bytes in all.
    pub fn len_bytes(&self) -> u32 {
        self.iter().fold(0u32, |sum, span| sum.saturating_add(span.len_bytes()))
    }

    /// Copies the front out, across parts; returns how many bytes there were.
    pub fn read(&self, to: &mut [u8]) -> usize {
        let mut done = 0;
        for span in self.iter() {
            done += span.read(&mut to[done..]);
        }
        done
    }

    /// Takes `count` bytes off the front; fewer if there are fewer.
    #[inline]
    pub fn advance(&mut self, count: u32) {
        match self.only() {
            Some(span) => self.near[0] = span.skip(count),
            None => self.advance_parts(count),
        }
    }

    #[cold]
    fn advance_parts(&mut self, mut count: u32) {
        let parts = self.count();
        let spans = match &mut self.far {
            Some(far) if parts > 2 => &mut far[..parts],
            _ => &mut self.near[..parts],
        };
        let mut gone = 0u8;
        for span in spans.iter_mut() {
            let here = count.min(span.len_bytes());
            *span = span.skip(here);
            count -= here;
            if !span.is_empty() {
                break;
            }
            gone += 1;
        }
        spans.rotate_left(usize::from(gone));
        self.shape = self.shape.with(self.shape.count() - gone, self.shape.readable().saturating_sub(gone));
        if let (Some(far), 3.., ..=2) = (&self.far, parts, self.count()) {
            self.near.copy_from_slice(&far[..2]);
        }
    }

    /// Adds a part; `false` where there is no room, or no list to make room with.
    #[inline]
    fn push(&mut self, span: Span, writable: bool, store: &mut PartStore) -> bool {
        let count = self.count();
        if count < 2 {
            self.near[count] = span;
        } else {
            if count == 2 {
                let Some(mut far) = store.lend() else { return false };
                far[..2].copy_from_slice(&self.near);
                self.far = Some(far);
            }
            let far = self.far.as_mut().expect("set above");
            let Some(slot) = far.get_mut(count) else { return false };
            *slot = span;
        }
        self.shape = self.shape.with(self.shape.count() + 1, self.shape.readable() + u8::from(!writable));
        true
    }

    /// The same parts again, for a second reader; `None` where the store has no list left.
    pub fn duplicate(&self, store: &mut PartStore) -> Option<Parts> {
        let far = match &self.far {
            None => None,
            Some(far) => {
                let mut copy = store.lend()?;
                copy.copy_from_slice(&far[..]);
                Some(copy)
            }
        };
        Some(Parts { far, ..*self })
    }

    /// Takes the borrowed list out, to give it back to the store it came from.
    #[inline]
    pub fn take_list(&mut self) -> Option<PartList> {
        let list = self.far.take();
        if list.is_some() {
            self.shape = self.shape.with(0, 0);
        }
        list
    }
}

/// Lists for the parts of long chains: as many as were made at the start, lent and given back.
#[derive(Debug, Default)]
pub struct PartStore {
    spare: Vec<PartList>,
}

impl PartStore {
    /// A store of `lists`.
    pub fn new(lists: usize) -> Self {
        PartStore { spare: (0..lists).map(|_| Box::new([Span::EMPTY; PARTS_MAX])).collect() }
    }

    /// How many can be lent now.
    #[inline]
    pub fn available(&self) -> usize {
        self.spare.len()
    }

    #[inline]
    fn lend(&mut self) -> Option<PartList> {
        self.spare.pop()
    }

    /// Takes one back. The room was there when it was lent, so nothing is allocated.
    #[inline]
    pub fn give_back(&mut self, list: Option<PartList>) {
        if let Some(list) = list {
            self.spare.push(list);
        }
    }
}

/// A chain in our hands. It goes back to its queue by `id` and `descriptors`.
#[derive(Debug, Default)]
pub struct Chain {
    /// Readable parts, then writable ones.
    pub parts: Parts,
    /// Split: the head. Packed: the buffer id.
    pub id: u16,
    /// Packed: how many ring slots it takes. Split: 1.
    pub descriptors: u16,
}

impl Chain {
    /// What goes back to the driver, with so many bytes written.
    #[inline(always)]
    pub fn used(&self, len_bytes: u32) -> Used {
        Used { id: self.id, descriptors: self.descriptors, len_bytes }
    }

    /// Makes this what nearly every chain is: one descriptor, all in the region of `window`; `false` if it is not.
    #[inline(always)]
    pub(crate) fn set_plain(&mut self, usual: &Usual, descriptor: Descriptor, id: u16) -> bool {
        let Usual { window, access, unread_bytes, .. } = *usual;
        debug_assert!(self.parts.far.is_none(), "the list of the last chain in this place was given back");
        let Some(span) = window.span(descriptor.addr, descriptor.len) else { return false };
        const FRAME: u32 = NET_HEADER_SIZE_BYTES as u32;
        const LAST: u32 = FRAME + SHORT_FRAME_BYTES - 1;
        match access {
            Access::Read => {
                span.prefetch(unread_bytes);
                span.prefetch(LAST);
            }
            Access::Write => {
                span.prefetch_to_write(FRAME);
                span.prefetch_to_write(LAST);
                span.prefetch(0); // mostly as it should be
            }
        }
        self.parts.near[0] = span;
        self.parts.shape = Shape::plain(access);
        (self.id, self.descriptors) = (id, 1);
        true
    }
}

/// What nearly every chain is like: one descriptor, in this region, in this direction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usual {
    pub window: Window,
    pub access: Access,
    /// By which its descriptor says so.
    pub flags: u16,
    /// As in [`Reach`].
    pub unread_bytes: u32,
}

/// What a queue can reach: guest memory, and the rules of a walk.
#[derive(Debug)]
pub(crate) struct Reach {
    pub memory: Arc<GuestMemory>,
    pub window: Window,
    /// Queue size: no chain is longer.
    pub size: u16,
    pub indirect: bool,
    /// [`crate::Queue::only_reads`].
    pub only_reads: bool,
    /// How many bytes at the front of a chain nobody looks at.
    pub unread_bytes: u32,
    /// Ring slots that were taken and not returned.
    pub outstanding: u32,
    /// A part of the chain that was walked last may be translated soon.
    pub misses: bool,
    /// Where translations come and go: this queue's turns.
    pub member: Option<Member>,
    /// Areas of the ring that lie in several pieces.
    pub joined: Vec<Joined>,
}

impl Drop for Reach {
    fn drop(&mut self) {
        if self.outstanding > 0 {
            // Somebody may hold spans of a chain: better a mapping too many than one too few (rules of `memory`).
            std::mem::forget(self.memory.clone());
        }
    }
}

impl Reach {
    /// A queue's reach at its beginning.
    pub(crate) fn new(memory: Arc<GuestMemory>, size: u16, indirect: bool) -> Self {
        Reach {
            window: Window::default(),
            size,
            indirect,
            only_reads: false,
            unread_bytes: 0,
            outstanding: 0,
            misses: false,
            member: memory.join(),
            joined: Vec::new(),
            memory,
        }
    }

    /// An area of the ring; `None` where it is not in memory, or not aligned.
    pub(crate) fn area(&mut self, gpa: u64, len_bytes: u64, align_bytes: u64, access: Access) -> Option<Span> {
        let (span, joined) = self.memory.area(gpa, len_bytes.try_into().ok()?, access)?;
        self.joined.extend(joined);
        // The mapping keeps the low bits of an address unless its region is oddly placed; both must be aligned.
        (gpa.is_multiple_of(align_bytes) && span.is_aligned(align_bytes)).then_some(span)
    }

    /// Begins a turn, where translations come and go; whether some may have gone since the last one.
    #[inline(always)]
    pub(crate) fn begin_turn(&mut self) -> bool {
        let Some(member) = &mut self.member else { return false };
        self.misses = false;
        let has_changed = self.memory.begin(member);
        if has_changed {
            self.window = Window::default();
        }
        has_changed
    }

    /// Ends it.
    #[inline(always)]
    pub(crate) fn end_turn(&self) {
        if let Some(member) = &self.member {
            member.end();
        }
    }

    /// What nearly all descriptors are like.
    #[inline(always)]
    pub(crate) fn usual(&self) -> Usual {
        let Reach { window, unread_bytes, .. } = *self;
        let (access, flags) = if self.only_reads { (Access::Read, 0) } else { (Access::Write, VIRTQ_DESC_F_WRITE) };
        Usual { window, access, flags, unread_bytes }
    }

    /// Adds what one descriptor points at. Whatever is wrong with it is a fault of the chain.
    #[inline]
    pub(crate) fn add(&mut self, store: &mut PartStore, chain: &mut Chain, addr: u64, len: u32, flags: u16) {
        let writable = flags & VIRTQ_DESC_F_WRITE != 0;
        let access = if writable { Access::Write } else { Access::Read };
        let mut gpa = addr;
        let mut left = len;
        loop {
            let span = match self.memory.translate(gpa, left, access, &mut self.window) {
                Ok(span) => span,
                Err(absent) => return self.set_absent(chain, absent),
            };
            if !span.is_empty() {
                if !writable && chain.parts.count() > chain.parts.readable() {
                    return set_fault(chain, Fault::ReadableAfterWritable);
                }
                let unread_bytes = if chain.parts.count() == 0 { self.unread_bytes } else { 0 };
                for byte in (unread_bytes..span.len_bytes()).step_by(64).take(LINES_AHEAD) {
                    if writable {
                        span.prefetch_to_write(byte);
                    } else {
                        span.prefetch(byte);
                    }
                }
                if !chain.parts.push(span, writable, store) {
                    return set_fault(chain, Fault::TooManyParts);
                }
            }
            left -= span.len_bytes();
            if left == 0 {
                return;
            }
            // The buffer goes on in the next region, which may be mapped anywhere.
            match gpa.checked_add(u64::from(span.len_bytes())) {
                Some(next) => gpa = next,
                None => return set_fault(chain, Fault::OutsideMemory),
            }
        }
    }

    /// Walks an indirect table ("Indirect Descriptors"). Split tables are linked by `next`; packed ones are used from
    /// first to last. `before` descriptors of the chain came before it.
    #[cold]
    pub(crate) fn table(
        &mut self,
        store: &mut PartStore,
        chain: &mut Chain,
        descriptor: Descriptor,
        layout: Layout,
        before: u16,
    ) -> Result<(), Violation> {
        let Descriptor { addr, len, halves } = descriptor;
        let linked = layout == Layout::Split;
        let flags = if linked { halves[0] } else { halves[1] };
        if !self.indirect {
            return Err(Violation::IndirectNotNegotiated);
        }
        if flags & VIRTQ_DESC_F_NEXT != 0 {
            return Err(Violation::IndirectWithNext);
        }
        let limit_bytes = u32::from(self.size) * DESCRIPTOR_SIZE_BYTES;
        if len == 0 || !len.is_multiple_of(DESCRIPTOR_SIZE_BYTES) || len > limit_bytes {
            return Err(Violation::IndirectTableLength { len_bytes: len, limit_bytes });
        }
        let size = (len / DESCRIPTOR_SIZE_BYTES) as u16;
        let mut window = Window::default();
        let table = self.memory.translate(addr, len, Access::Read, &mut window);
        let limit = self.size - before;
        let mut index = 0;
        for walked in 0..size {
            if walked == limit {
                return Err(Violation::ChainTooLong { limit: self.size });
            }
            // One copy of the entry, not re-read.
            let at = u32::from(index) * DESCRIPTOR_SIZE_BYTES;
            let raw = match table.map(|table| table.skip(at).read_array()) {
                Ok(Some(raw)) => Ok(raw),
                // The table goes on in another region.
                Ok(None) => self.memory.read_array(addr, at, &mut window),
                Err(absent) => Err(absent),
            };
            let raw: [u8; 16] = match raw {
                Ok(raw) => raw,
                Err(absent) => {
                    self.set_absent(chain, absent);
                    return Ok(());
                }
            };
            let word = |at: usize| u16::from_le_bytes([raw[at], raw[at + 1]]);
            let addr = u64::from_le_bytes(raw[..8].try_into().expect("eight bytes"));
            let len = u32::from_le_bytes(raw[8..12].try_into().expect("four bytes"));
            let mut flags = if linked { word(12) } else { word(14) };
            // In a packed ring's table every flag but WRITE is reserved, and ignored.
            if linked && flags & VIRTQ_DESC_F_INDIRECT != 0 {
                return Err(Violation::IndirectNested);
            }
            if !linked && self.only_reads {
                flags &= !VIRTQ_DESC_F_WRITE;
            }
            self.add(store, chain, addr, len, flags);
            if linked {
                if flags & VIRTQ_DESC_F_NEXT == 0 {
                    return Ok(());
                }
                index = word(14);
                if index >= size {
                    return Err(Violation::NextPastTable { next: index, size });
                }
            } else {
                index += 1;
            }
        }
        if linked { Err(Violation::ChainTooLong { limit: size }) } else { Ok(()) }
    }

    /// Has the beginning of what a descriptor points at asked for, if it waits for a translation.
    #[cold]
    pub(crate) fn ask_for(&self, addr: u64, flags: u16) {
        let writes = flags & (VIRTQ_DESC_F_WRITE | VIRTQ_DESC_F_INDIRECT) == VIRTQ_DESC_F_WRITE;
        self.memory.awaits(addr, 1, if writes { Access::Write } else { Access::Read });
    }

    #[cold]
    fn set_absent(&mut self, chain: &mut Chain, absent: Absent) {
        match absent {
            Absent::Outside => set_fault(chain, Fault::OutsideMemory),
            Absent::NotYet => self.misses = true,
        }
    }
}

#[cold]
fn set_fault(chain: &mut Chain, fault: Fault) {
    chain.parts.shape = chain.parts.shape.with_fault(fault);
}

// A chain is three quarters of a cache line, and with what the engine adds to its parts a frame is a whole one.
const _: () = assert!(size_of::<Parts>() == 40 && size_of::<Chain>() == 48);
