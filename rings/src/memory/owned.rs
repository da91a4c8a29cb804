//! Memory of our own in the shape of guest memory: frames that a port lends.

// UNSAFETY: spans over an allocation of ours.
#![expect(unsafe_code)]

use super::Span;

/// A zeroed block that lends [`Span`]s of itself. Like a mapping, it must outlive them; a port keeps its block as long
/// as any frame it lent is out.
#[derive(Debug)]
pub struct OwnedMemory {
    block: *mut u8,
    layout: std::alloc::Layout,
}

// SAFETY: an allocation can be moved between threads; its bytes are only touched by copies through spans.
unsafe impl Send for OwnedMemory {}
// SAFETY: `&OwnedMemory` gives out spans and reads nothing itself.
unsafe impl Sync for OwnedMemory {}

impl OwnedMemory {
    /// A block of `len_bytes`, at least 1, aligned to a cache line.
    pub fn new(len_bytes: usize) -> Self {
        let layout = std::alloc::Layout::from_size_align(len_bytes.max(1), 64).expect("a block below 2^63 bytes");
        // SAFETY: the layout is not empty.
        let block = unsafe { std::alloc::alloc_zeroed(layout) };
        if block.is_null() {
            std::alloc::handle_alloc_error(layout);
        }
        OwnedMemory { block, layout }
    }

    /// Length in bytes.
    pub fn len_bytes(&self) -> usize {
        self.layout.size()
    }

    /// A part of the block.
    ///
    /// # Panics
    /// Where the part does not lie inside the block: both numbers are ours.
    #[inline]
    pub fn span(&self, offset: usize, len_bytes: usize) -> Span {
        assert!(offset <= self.layout.size() && len_bytes <= self.layout.size() - offset);
        Span::in_window(self.block as usize, offset as u64, len_bytes as u32)
    }
}

impl Drop for OwnedMemory {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, once.
        unsafe { std::alloc::dealloc(self.block, self.layout) }
    }
}
