//! Pages that lie side by side for the driver, and anywhere in its files: mapped once more, side by side.

// UNSAFETY: mmap, mremap and munmap have no safe name.
#![expect(unsafe_code)]

use rustix::mm::{MapFlags, MremapFlags, ProtFlags, mmap_anonymous, mremap_fixed, munmap};
use rustix::param::page_size;

use super::{Mapping, Span, fault};

/// A second mapping of several stretches of others.
#[derive(Debug)]
pub(crate) struct Joined {
    start: usize,
    len_bytes: usize,
    /// Where in the first page the first byte is.
    lead: usize,
    guards: Vec<fault::Guard>,
}

impl Joined {
    /// Joins stretches, each of which starts in a page where the one before ended. `None` where pages cannot do that, or the
    /// system does not do it: memory of huge pages is one case.
    pub(super) fn new(pieces: &[(Span, &Mapping)]) -> Option<Self> {
        let page = page_size();
        let lead = pieces.first()?.0.address() % page;
        let bytes: usize = pieces.iter().map(|(piece, _)| piece.len_bytes() as usize).sum();
        let len_bytes = (lead + bytes).next_multiple_of(page);
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing of ours.
        let start = unsafe {
            mmap_anonymous(std::ptr::null_mut(), len_bytes, ProtFlags::empty(), MapFlags::PRIVATE | MapFlags::NORESERVE)
        };
        let mut joined = Self { start: start.ok()? as usize, len_bytes, lead, guards: Vec::new() };
        let mut at = lead;
        for (piece, mapping) in pieces {
            if piece.address() % page != at % page || (at != lead && !at.is_multiple_of(page)) {
                return None;
            }
            let to = joined.start + at / page * page;
            let piece_bytes = (at % page + piece.len_bytes() as usize).next_multiple_of(page);
            // SAFETY: of an old size of 0, the old mapping stays; the new one replaces a part of what was reserved above.
            let moved = unsafe {
                mremap_fixed(
                    (piece.address() / page * page) as *mut _,
                    0,
                    piece_bytes,
                    MremapFlags::MAYMOVE,
                    to as *mut _,
                )
            };
            moved.ok()?;
            joined.guards.push(mapping.guard_other(to, piece_bytes)?);
            at += piece.len_bytes() as usize;
        }
        Some(joined)
    }

    /// All of it.
    pub(super) fn span(&self, len_bytes: u32) -> Span {
        Span::in_window(self.start, self.lead as u64, len_bytes)
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        self.guards.clear();
        // SAFETY: the mapping is ours, and the queue whose area it is is gone.
        let result = unsafe { munmap(self.start as *mut _, self.len_bytes) };
        debug_assert!(result.is_ok());
    }
}
