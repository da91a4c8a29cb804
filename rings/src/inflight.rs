//! A ring's region of the in-flight buffer, by which a device that starts again finds its place. (vhost-user, "Inflight
//! I/O tracking")
//!
//! Queues here return chains in the order they took them, so that what was in flight is simply taken again from where
//! the used ones end. A split ring shows that place itself; of a packed one the region tells it, written around each
//! burst so that either the driver has seen the burst and the region knows, or neither. The regions of chains in flight
//! stay empty, as they should where there is nothing to resubmit.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use crate::Layout;
use crate::memory::area::WordArea;
use crate::memory::{MapError, Mapping};

/// Regions start at multiples of this, as other implementations have it.
const REGION_ALIGN_BYTES: u64 = 64;
/// The only version there is; 0 is a region that nobody has used.
const VERSION_CURRENT: u16 = 1;

/// Words of a region, either layout.
const VERSION: u32 = 4;
const DESC_NUM: u32 = 5;
/// Words of a split ring's.
const SPLIT_USED_IDX: u32 = 7;
/// Words of a packed ring's; both wrap counters, a byte each, share one.
const USED_IDX: u32 = 8;
const OLD_USED_IDX: u32 = 9;
const WRAP_COUNTERS: u32 = 10;
/// Where the packed ring's entries start and how long each is, in words; `next` is the second word of an entry.
const ENTRIES: u32 = 16;
const ENTRY: u32 = 16;
const NEXT: u32 = 1;

/// Bytes of the region of a ring of `size`.
pub const fn region_len_bytes(layout: Layout, size: u16) -> u64 {
    let len_bytes = match layout {
        Layout::Split => 16 + 16 * size as u64,
        Layout::Packed => 32 + 32 * size as u64,
    };
    len_bytes.next_multiple_of(REGION_ALIGN_BYTES)
}

/// One ring's region, mapped.
#[derive(Debug)]
pub struct Region {
    words: WordArea,
    /// What the words are in.
    _mapping: Mapping,
    fresh: bool,
}

impl Region {
    /// Maps the region of a ring of `size` and makes it ready, if nobody has used it yet.
    ///
    /// # Errors
    /// Where the file is too short, or the system refuses.
    pub fn map(file: &impl AsFd, offset_bytes: u64, layout: Layout, size: u16) -> Result<Self, MapError> {
        let mapping = Mapping::of_file(file, offset_bytes, region_len_bytes(layout, size))?;
        let words = WordArea::over(&mapping).ok_or(MapError::Unaligned { offset_bytes, align_bytes: 2 })?;
        let fresh = words.load(VERSION, Ordering::Acquire) != VERSION_CURRENT;
        let region = Region { words, _mapping: mapping, fresh };
        if fresh {
            region.begin(layout, size);
        }
        Ok(region)
    }

    fn begin(&self, layout: Layout, size: u16) {
        let store = |word, value| self.words.store(word, value, Ordering::Relaxed);
        store(DESC_NUM, size);
        if layout == Layout::Packed {
            for entry in 0..size {
                store(ENTRIES + ENTRY * u32::from(entry) + NEXT, entry.wrapping_add(1));
            }
            store(WRAP_COUNTERS, 0x0101);
        }
        self.words.store(VERSION, VERSION_CURRENT, Ordering::Release);
    }

    /// Notes a split ring's used index, after it was published.
    #[inline]
    pub(crate) fn split_used(&self, used_idx: u16) {
        self.words.store(SPLIT_USED_IDX, used_idx, Ordering::Release);
    }

    /// Notes where a packed ring will be once the burst is published.
    #[inline]
    pub(crate) fn packed_will_be(&self, used_idx: u16, wrap: bool) {
        let old = self.words.load(WRAP_COUNTERS, Ordering::Relaxed) & 0xff00;
        self.words.store(USED_IDX, used_idx, Ordering::Relaxed);
        self.words.store(WRAP_COUNTERS, old | u16::from(wrap), Ordering::Release);
    }

    /// Notes that the burst is published.
    #[inline]
    pub(crate) fn packed_is(&self, used_idx: u16, wrap: bool) {
        self.words.store(OLD_USED_IDX, used_idx, Ordering::Release);
        self.words.store(WRAP_COUNTERS, u16::from(wrap) * 0x0101, Ordering::Release);
    }

    /// Where a packed ring was before its last burst and after it, as far as the one before us knew; `None` in a region
    /// that is new. `published` tells, for the place before, whether the driver can see the burst.
    pub(crate) fn packed_resume(&self, published: impl Fn(u16, bool) -> bool) -> Option<(u16, bool)> {
        if self.fresh {
            return None;
        }
        let load = |word| self.words.load(word, Ordering::Acquire);
        let wraps = load(WRAP_COUNTERS);
        let new = (load(USED_IDX), wraps & 0x00ff != 0);
        let old = (load(OLD_USED_IDX), wraps & 0xff00 != 0);
        Some(if new != old && published(old.0, old.1) { new } else { old })
    }
}
