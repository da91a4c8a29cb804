//! Copying into and out of guest buffers.

// UNSAFETY: the bytes belong to another machine; copies through raw pointers are the only way to touch them.
#![expect(unsafe_code)]

use std::ptr;
use std::sync::atomic::{Ordering, compiler_fence};

/// A stretch of mapped memory, checked to its end. Whoever holds one also holds its mapping (rules of [`super`]).
///
/// Packed to 12 bytes: spans are kept by the burst.
#[derive(Clone, Copy, Debug)]
#[repr(C, packed(4))]
pub struct Span {
    start: *mut u8,
    len_bytes: u32,
}

// SAFETY: a span is an address into memory that several machines share anyway; it may be used from any thread.
unsafe impl Send for Span {}
// SAFETY: as above.
unsafe impl Sync for Span {}

impl Default for Span {
    #[inline]
    fn default() -> Self {
        Span::EMPTY
    }
}

/// From so many bytes on, stores are made to whole cache lines: one that lies across two of them costs twice.
const LONG_COPY_MIN: usize = 512;
/// Longer copies are the library's, which picks the widest way.
const LONG_COPY_MAX: usize = 2048;

impl Span {
    /// No bytes.
    pub const EMPTY: Span = Span { start: ptr::NonNull::dangling().as_ptr(), len_bytes: 0 };

    #[inline]
    pub(super) fn in_window(host: usize, offset: u64, len_bytes: u32) -> Self {
        Span { start: (host + offset as usize) as *mut u8, len_bytes }
    }

    /// Length in bytes.
    #[inline]
    pub fn len_bytes(self) -> u32 {
        self.len_bytes
    }

    /// Whether there is nothing in it.
    #[inline]
    pub fn is_empty(self) -> bool {
        self.len_bytes == 0
    }

    #[inline]
    pub(super) fn address(self) -> usize {
        self.start as usize
    }

    #[inline]
    pub(super) fn end(self) -> usize {
        self.address() + self.len_bytes as usize
    }

    pub(crate) fn is_aligned(self, align_bytes: u64) -> bool {
        (self.address() as u64).is_multiple_of(align_bytes)
    }

    /// Together with one that begins where this one ends.
    pub(super) fn with(self, next: Span) -> Span {
        debug_assert!(self.end() == next.address());
        Span { start: self.start, len_bytes: self.len_bytes + next.len_bytes }
    }

    /// What is left after the first `count` bytes; nothing if there are fewer.
    #[inline]
    pub fn skip(self, count: u32) -> Span {
        let count = count.min(self.len_bytes);
        Span { start: self.start.wrapping_add(count as usize), len_bytes: self.len_bytes - count }
    }

    /// The first `count` bytes, or all if there are fewer.
    #[inline]
    pub fn first(self, count: u32) -> Span {
        Span { start: self.start, len_bytes: self.len_bytes.min(count) }
    }

    /// Asks the cache for the line that a byte lies in, wherever that is.
    #[inline(always)]
    pub fn prefetch(self, byte: u32) {
        let _byte = self.start.wrapping_add(byte as usize);
        // SAFETY: a prefetch has no effect that the program could see, at any address.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(_byte.cast());
        }
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        unsafe {
            std::arch::asm!("prfm pldl1keep, [{}]", in(reg) _byte, options(nostack, preserves_flags, readonly));
        }
    }

    /// The same to write there: the line is taken from other cores at once, and not first read and then taken.
    #[inline(always)]
    pub fn prefetch_to_write(self, byte: u32) {
        let _byte = self.start.wrapping_add(byte as usize);
        // SAFETY: as in `prefetch`; a CPU that does not know the instruction does nothing.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            std::arch::asm!("prefetchw [{}]", in(reg) _byte, options(nostack, preserves_flags, readonly));
        }
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        unsafe {
            std::arch::asm!("prfm pstl1keep, [{}]", in(reg) _byte, options(nostack, preserves_flags, readonly));
        }
    }

    /// Copies the first bytes out; returns how many there were.
    #[inline]
    pub fn read(self, to: &mut [u8]) -> usize {
        let count = to.len().min(self.len_bytes as usize);
        // SAFETY: `count` is within both; `to` is ours alone, so they do not overlap.
        unsafe { ptr::copy_nonoverlapping(self.start, to.as_mut_ptr(), count) };
        // As in `read_array`.
        compiler_fence(Ordering::Acquire);
        count
    }

    /// Copies in from the front; returns how many bytes there was room for.
    #[inline]
    pub fn write(self, from: &[u8]) -> usize {
        let count = from.len().min(self.len_bytes as usize);
        // SAFETY: `count` is within both; `from` is ours alone, so they do not overlap.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), self.start, count) };
        count
    }

    /// The first `N` bytes, if there are as many.
    #[inline]
    pub fn read_array<const N: usize>(self) -> Option<[u8; N]> {
        if (self.len_bytes as usize) < N {
            return None;
        }
        // SAFETY: `N` bytes lie inside; an array of bytes has no alignment.
        let bytes = unsafe { ptr::read(self.start.cast::<[u8; N]>()) };
        // What is looked at from here on is the copy: the compiler must not go back for it. (A volatile read of an array would
        // be made byte by byte.)
        compiler_fence(Ordering::Acquire);
        Some(bytes)
    }

    /// Puts `N` bytes at the front, if there is room.
    #[inline]
    pub fn write_array<const N: usize>(self, bytes: [u8; N]) -> bool {
        if (self.len_bytes as usize) < N {
            return false;
        }
        // SAFETY: as in `read_array`.
        unsafe { ptr::write(self.start.cast::<[u8; N]>(), bytes) };
        true
    }

    /// The same unless these bytes are there: a line that both sides only read stays with both.
    #[inline(always)]
    pub fn update_array<const N: usize>(self, bytes: [u8; N]) -> bool {
        // SAFETY: as in `read_array`. It does not matter when they are read, or how often: nothing is done with them.
        let same = self.len_bytes as usize >= N && unsafe { ptr::read(self.start.cast::<[u8; N]>()) } == bytes;
        same || self.write_array(bytes)
    }

    /// Copies the front of `from` to the front of this one; returns how many bytes, the shorter of the two.
    ///
    /// The two may overlap, as two buffers of a hostile guest may: what arrives then is unspecified, nothing else.
    #[inline]
    pub fn copy_from(self, from: Span) -> u32 {
        let count = self.len_bytes.min(from.len_bytes);
        // SAFETY: `count` bytes lie inside both spans.
        unsafe { copy(from.start, self.start, count as usize) };
        count
    }
}

/// # Safety
/// `len` bytes are mapped at both addresses. They may overlap.
#[inline(always)]
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    type Line = [u8; 64];
    type Half = [u8; 32];
    const LINE: usize = size_of::<Line>();
    const HALF: usize = size_of::<Half>();
    // SAFETY: every access below is at an offset of at most `len - size` of the access.
    unsafe {
        let line = |at| ptr::write(to.add(at).cast::<Line>(), ptr::read(from.add(at).cast::<Line>()));
        if (LINE..=LONG_COPY_MAX).contains(&len) {
            if len > LINE {
                line(0);
                let mut at = if len < LONG_COPY_MIN { LINE } else { LINE - to as usize % LINE };
                while at + LINE < len {
                    line(at);
                    at += LINE;
                }
            }
            line(len - LINE);
        } else if (HALF..LINE).contains(&len) {
            let last = ptr::read(from.add(len - HALF).cast::<Half>());
            ptr::write(to.cast::<Half>(), ptr::read(from.cast::<Half>()));
            ptr::write(to.add(len - HALF).cast::<Half>(), last);
        } else {
            ptr::copy(from, to, len);
        }
    }
}
