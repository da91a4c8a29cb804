//! Mapping and unmapping files of a front end.

// UNSAFETY: mmap and munmap have no safe name.
#![expect(unsafe_code)]

use std::os::fd::AsFd;

use rustix::fs::{FileType, fstat};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use thiserror::Error;

use super::fault;

/// Why a file could not be mapped.
#[derive(Debug, Error)]
pub enum MapError {
    /// The file does not hold what the table says.
    #[error("the file has {file_len_bytes:#x} bytes, the region needs {offset_bytes:#x} + {len_bytes:#x}")]
    FileTooShort {
        /// The file's length.
        file_len_bytes: u64,
        /// Where the region starts in it.
        offset_bytes: u64,
        /// The region's length.
        len_bytes: u64,
    },
    /// What it is to be used for does not start at a multiple of that.
    #[error("offset {offset_bytes:#x}: must be a multiple of {align_bytes}")]
    Unaligned {
        /// Where the mapping starts in the file.
        offset_bytes: u64,
        /// What that must be a multiple of.
        align_bytes: u64,
    },
    /// Every guard against files that are cut short is taken.
    #[error("{max} regions are mapped, and no more can be guarded against their files being cut short")]
    Guards {
        /// How many there are.
        max: usize,
    },
    /// The system refused.
    #[error("mapping {len_bytes:#x} bytes failed: {source}")]
    System {
        /// How many bytes.
        len_bytes: u64,
        /// What it said.
        source: rustix::io::Errno,
    },
}

/// One shared, writable mapping of a file, guarded against the file being cut short.
#[derive(Debug)]
pub struct Mapping {
    /// Start of what was asked for, which need not be a page boundary.
    address: usize,
    len_bytes: usize,
    page_address: usize,
    page_len_bytes: usize,
    guard: Option<fault::Guard>,
}

impl Mapping {
    /// Maps `len_bytes` of a file from `offset_bytes`, which need not be a multiple of the page size.
    ///
    /// # Errors
    /// [`MapError`]: the file is too short, or the system refuses.
    pub fn of_file(fd: &impl AsFd, offset_bytes: u64, len_bytes: u64) -> Result<Self, MapError> {
        let system = |source| MapError::System { len_bytes, source };
        let stat = fstat(fd).map_err(system)?;
        let file_len_bytes = stat.st_size as u64;
        let end = offset_bytes.checked_add(len_bytes);
        // A device file (/dev/mem, a hugetlb device) has no length to check.
        let sized = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if end.is_none() || (sized && end > Some(file_len_bytes)) {
            return Err(MapError::FileTooShort { file_len_bytes, offset_bytes, len_bytes });
        }
        // The block size is the page size of hugetlb files, and at least that of others.
        let page = (stat.st_blksize as u64).max(rustix::param::page_size() as u64);
        let lead = offset_bytes % page;
        let page_len_bytes = (lead + len_bytes)
            .checked_next_multiple_of(page)
            .and_then(|len| usize::try_from(len).ok())
            .ok_or(MapError::System { len_bytes, source: rustix::io::Errno::OVERFLOW })?;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing of ours.
        let address = unsafe {
            mmap(
                std::ptr::null_mut(),
                page_len_bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::NORESERVE,
                fd,
                offset_bytes - lead,
            )
        }
        .map_err(system)? as usize;
        let guard = fault::Guard::over(address, page_len_bytes, None);
        let (start, len_bytes) = (address + lead as usize, len_bytes as usize);
        let guarded = guard.is_some();
        let mapping = Mapping { address: start, len_bytes, page_address: address, page_len_bytes, guard };
        if guarded { Ok(mapping) } else { Err(MapError::Guards { max: fault::GUARDS_MAX }) }
    }

    /// Where it starts in this process.
    pub fn address(&self) -> usize {
        self.address
    }

    /// Length in bytes of what was asked for.
    pub fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    /// Guards another view of the same file: where that is cut short, this one is broken.
    pub(super) fn guard_other(&self, start: usize, len_bytes: usize) -> Option<fault::Guard> {
        fault::Guard::over(start, len_bytes, self.guard.as_ref())
    }

    /// Whether the file was cut short while mapped.
    pub fn is_broken(&self) -> bool {
        self.guard.as_ref().is_some_and(fault::Guard::is_broken)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        self.guard = None;
        // SAFETY: the mapping is ours, and spans into it are gone by the rule of `memory`.
        let result = unsafe { munmap(self.page_address as *mut _, self.page_len_bytes) };
        debug_assert!(result.is_ok());
    }
}
