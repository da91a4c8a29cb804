//! The dirty log: which pages of guest memory the device has written, for live migration.

// UNSAFETY: atomic bits in memory that the front end reads and clears meanwhile.
#![expect(unsafe_code)]

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU8, Ordering};

use super::{MapError, Mapping};

/// One bit of the log stands for this many bytes (vhost-user, "Migration").
pub const DIRTY_PAGE_SIZE_BYTES: u64 = 4096;

/// A bitmap shared with the front end, one bit a page, lowest page in the lowest bit.
#[derive(Debug)]
pub struct DirtyLog {
    mapping: Mapping,
    len_bytes: u64,
}

impl DirtyLog {
    /// Maps a log that the front end made.
    ///
    /// # Errors
    /// Where the file is shorter than `len_bytes` or cannot be mapped.
    pub fn map(fd: &OwnedFd, offset_bytes: u64, len_bytes: u64) -> Result<Self, MapError> {
        let mapping = Mapping::of_file(fd, offset_bytes, len_bytes)?;
        Ok(DirtyLog { mapping, len_bytes })
    }

    /// Marks the page that holds this byte. Whether it was not marked before.
    pub fn mark_new(&self, gpa: u64) -> bool {
        let page = gpa / DIRTY_PAGE_SIZE_BYTES;
        let bit = 1 << (page % 8);
        page / 8 < self.len_bytes && self.byte(page).fetch_or(bit, Ordering::Release) & bit == 0
    }

    /// Whether the page that holds this byte was marked since this was last asked.
    pub fn take(&self, gpa: u64) -> bool {
        let page = gpa / DIRTY_PAGE_SIZE_BYTES;
        let bit = 1 << (page % 8);
        page / 8 < self.len_bytes && self.byte(page).fetch_and(!bit, Ordering::Acquire) & bit != 0
    }

    /// Marks every page that holds one of `len_bytes` at `gpa`. Pages past the log's end are not logged: the front end
    /// said they cannot be there.
    pub fn mark(&self, gpa: u64, len_bytes: u64) {
        if len_bytes == 0 {
            return;
        }
        let last = gpa.saturating_add(len_bytes - 1) / DIRTY_PAGE_SIZE_BYTES;
        for page in gpa / DIRTY_PAGE_SIZE_BYTES..=last.min(self.len_bytes.saturating_mul(8)) {
            if page / 8 >= self.len_bytes {
                return;
            }
            let byte = self.byte(page);
            let bit = 1 << (page % 8);
            // Read first: a page is written many times, and only the first needs the bus.
            if byte.load(Ordering::Relaxed) & bit == 0 {
                byte.fetch_or(bit, Ordering::Release);
            }
        }
    }

    /// The bits of a page and its neighbours, which are in the log.
    fn byte(&self, page: u64) -> &AtomicU8 {
        assert!(page / 8 < self.len_bytes);
        let byte = self.mapping.address() + (page / 8) as usize;
        // SAFETY: inside the mapping, which lives as long as `self`; a byte has no alignment.
        unsafe { AtomicU8::from_ptr(byte as *mut u8) }
    }
}
