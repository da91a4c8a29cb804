//! The three areas of a queue: typed loads and stores of ring words.
//!
//! An area is checked whole when it is made, and its queue keeps what it lies in; so no word needs a check later: positions are masked or compared with
//! the queue's size here, where the access is made.

// UNSAFETY: the driver's areas are memory that another machine writes while we read.
#![expect(unsafe_code)]

use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use super::{Mapping, Span};

/// One descriptor, copied out; either layout.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Descriptor {
    pub addr: u64,
    pub len: u32,
    /// Split: flags, then next. Packed: buffer id, then flags.
    pub halves: [u16; 2],
}

impl Descriptor {
    #[inline(always)]
    fn of(addr: u64, rest: u64) -> Self {
        let rest = u64::from_le(rest);
        Descriptor { addr: u64::from_le(addr), len: rest as u32, halves: [(rest >> 32) as u16, (rest >> 48) as u16] }
    }
}

/// `size` descriptors at an address aligned to 16.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DescriptorArea {
    start: *const [AtomicU64; 2],
    size: u16,
}

/// 16-bit words, then for split rings entries between the second and the last: see [`crate::split`].
#[derive(Debug)]
pub(crate) struct WordArea {
    start: *const AtomicU16,
    words: u32,
}

/// Heads of available chains, in a split ring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AvailableRing {
    start: *const AtomicU16,
    mask: u16,
}

/// 8-byte used elements of a split ring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UsedElements {
    /// Aligned to 4 only, so an element is stored as two halves.
    start: *const [std::sync::atomic::AtomicU32; 2],
    mask: u16,
}

// SAFETY: areas are addresses of memory shared between machines; all access is atomic.
unsafe impl Send for DescriptorArea {}
// SAFETY: as above.
unsafe impl Send for WordArea {}
// SAFETY: as above.
unsafe impl Send for AvailableRing {}
// SAFETY: as above.
unsafe impl Send for UsedElements {}

impl DescriptorArea {
    /// As many as `span` holds.
    pub(crate) fn new(span: Span) -> Self {
        assert!(span.is_aligned(16));
        DescriptorArea { start: span.address() as *const _, size: (span.len_bytes() / 16) as u16 }
    }

    #[inline(always)]
    fn at(&self, position: u16) -> &[AtomicU64; 2] {
        // SAFETY: callers have compared `position` with the size; the area was checked whole.
        unsafe { &*self.start.add(position as usize) }
    }

    /// A descriptor of a split table; `None` past its end.
    #[inline(always)]
    pub(crate) fn load(&self, index: u16) -> Option<Descriptor> {
        (index < self.size).then(|| {
            let [addr, rest] = self.at(index);
            Descriptor::of(addr.load(Ordering::Relaxed), rest.load(Ordering::Relaxed))
        })
    }

    /// A descriptor of a packed ring; its flags are read first, so that what they make available is seen.
    #[inline(always)]
    pub(crate) fn load_acquire(&self, position: u16) -> Descriptor {
        assert!(position < self.size);
        let [addr, rest] = self.at(position);
        let rest = rest.load(Ordering::Acquire);
        Descriptor::of(addr.load(Ordering::Relaxed), rest)
    }

    #[inline(always)]
    fn run(&self, position: u16, count: u16) -> &[[AtomicU64; 2]] {
        assert!(position <= self.size && count <= self.size - position);
        // SAFETY: all of them are inside the area, which was checked whole.
        unsafe { std::slice::from_raw_parts(self.start.add(position as usize), count as usize) }
    }

    /// The same for `count` descriptors in a row, no further than the end of the ring, each loaded when it is asked for.
    #[inline(always)]
    pub(crate) fn load_run(&self, position: u16, count: u16) -> impl Iterator<Item = Descriptor> {
        self.run(position, count).iter().map(|[addr, rest]| {
            let rest = rest.load(Ordering::Acquire);
            Descriptor::of(addr.load(Ordering::Relaxed), rest)
        })
    }

    /// Writes the second words of packed used descriptors in a row, no further than the end of the ring: length, id and flags,
    /// of which the driver sees all or nothing, and all that was stored before them.
    #[inline(always)]
    pub(crate) fn store_run(&self, position: u16, words: impl ExactSizeIterator<Item = u64>) {
        let places = self.run(position, words.len() as u16);
        places.iter().zip(words).for_each(|([_, rest], word)| rest.store(word.to_le(), Ordering::Release));
    }
}

impl WordArea {
    /// As many as `span` holds.
    pub(crate) fn new(span: Span) -> Self {
        assert!(span.is_aligned(2));
        WordArea { start: span.address() as *const _, words: span.len_bytes() / 2 }
    }

    /// The words of a whole mapping, which whoever holds the area keeps; `None` if they are not aligned.
    pub(crate) fn over(mapping: &Mapping) -> Option<Self> {
        let words = u32::try_from(mapping.len_bytes() / 2).ok()?;
        mapping.address().is_multiple_of(2).then(|| WordArea { start: mapping.address() as *const _, words })
    }

    #[inline(always)]
    fn at(&self, word: u32) -> &AtomicU16 {
        assert!(word < self.words);
        // SAFETY: inside the area, which was checked whole and is aligned.
        unsafe { &*self.start.add(word as usize) }
    }

    #[inline(always)]
    pub(crate) fn load(&self, word: u32, order: Ordering) -> u16 {
        u16::from_le(self.at(word).load(order))
    }

    #[inline(always)]
    pub(crate) fn store(&self, word: u32, value: u16, order: Ordering) {
        self.at(word).store(value.to_le(), order);
    }
}

impl AvailableRing {
    /// `size` heads after the first two words of `span`; `size` is a power of two.
    pub(crate) fn new(span: Span, size: u16) -> Self {
        let span = span.skip(4);
        assert!(span.is_aligned(2) && span.len_bytes() >= u32::from(size) * 2 && size.is_power_of_two());
        AvailableRing { start: span.address() as *const _, mask: size - 1 }
    }

    /// The head at an index; the available index was read before.
    #[inline(always)]
    pub(crate) fn load(&self, index: u16) -> u16 {
        // SAFETY: masked by the size that the area was checked for.
        let entry = unsafe { &*self.start.add((index & self.mask) as usize) };
        u16::from_le(entry.load(Ordering::Relaxed))
    }
}

impl UsedElements {
    /// `size` elements after the first two words of `span`; `size` is a power of two.
    pub(crate) fn new(span: Span, size: u16) -> Self {
        let span = span.skip(4);
        assert!(span.is_aligned(4) && span.len_bytes() >= u32::from(size) * 8 && size.is_power_of_two());
        UsedElements { start: span.address() as *const _, mask: size - 1 }
    }

    /// Stores one element; published by the index later.
    #[inline(always)]
    pub(crate) fn store(&self, index: u16, id: u16, len: u32) {
        // SAFETY: masked by the size that the area was checked for.
        let element = unsafe { &*self.start.add((index & self.mask) as usize) };
        element[0].store(u32::from(id).to_le(), Ordering::Relaxed);
        element[1].store(len.to_le(), Ordering::Relaxed);
    }
}
