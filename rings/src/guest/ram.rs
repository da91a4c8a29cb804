//! The guest's memory, from the driver's side.
//!
//! A shared file mapping that the driver and the device both hold. `load_*` and `store_*` are atomic and aligned, for rings;
//! `read*` and `write*` copy from and to any address, for buffers, and order nothing: publishing the ring does that.
//! No reference to the mapping is ever made. Multi-byte values are little-endian in memory.

// UNSAFETY: a mapping that another process writes while we read has no safe face.
#![expect(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};

const HUGE_PAGE_BYTES: usize = 2 << 20;

/// There is less guest memory left than was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{asked_bytes} bytes asked for, {left_bytes} left of the guest's {len_bytes}")]
pub struct OutOfMemory {
    /// Bytes asked for.
    pub asked_bytes: u64,
    /// Bytes not yet given out.
    pub left_bytes: u64,
    /// Bytes in all.
    pub len_bytes: u64,
}

/// One region of guest memory: a memory file, mapped, with a bump allocator.
#[derive(Debug)]
pub struct Ram {
    file: OwnedFd,
    base: NonNull<u8>,
    len_bytes: usize,
    gpa: u64,
    huge: bool,
    allocated_bytes: AtomicU64,
}

// SAFETY: the mapping lives as long as `Ram`, and all access to it is atomic or by copy between memory that the two sides
// hand each other through the rings.
unsafe impl Send for Ram {}
// SAFETY: as above.
unsafe impl Sync for Ram {}

impl Ram {
    /// Makes `len_bytes` of zeroed guest memory at guest physical address `gpa`, a multiple of 4096. Pages are made when touched.
    pub fn new(len_bytes: usize, gpa: u64) -> io::Result<Self> {
        Self::map(len_bytes, gpa, MemfdFlags::empty())
    }

    /// As `new`, from 2 MiB huge pages if the system has enough to spare (`is_huge` tells), else from ordinary ones.
    /// `len_bytes` is rounded up to whole huge pages.
    pub fn with_huge_pages(len_bytes: usize, gpa: u64) -> io::Result<Self> {
        let len_bytes = len_bytes.next_multiple_of(HUGE_PAGE_BYTES);
        if let Ok(mut ram) = Self::map(len_bytes, gpa, MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB) {
            ram.huge = true;
            return Ok(ram);
        }
        let ram = Self::map(len_bytes, gpa, MemfdFlags::empty())?;
        // SAFETY: the range is our own mapping; the advice changes no contents. It is refused where the system has it off.
        let _ = unsafe { madvise(ram.base.as_ptr().cast(), ram.len_bytes, Advice::LinuxHugepage) };
        Ok(ram)
    }

    fn map(len_bytes: usize, gpa: u64, kind: MemfdFlags) -> io::Result<Self> {
        let refuse = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        if len_bytes == 0 || !gpa.is_multiple_of(4096) || gpa.checked_add(len_bytes as u64).is_none() {
            return refuse(
                "guest memory: a size above 0 and a page-aligned address that it does not overflow are needed",
            );
        }
        let file = memfd_create("virtnet-guest", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | kind)?;
        ftruncate(&file, len_bytes as u64)?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping, wherever the kernel has room for it, aliases nothing of ours.
        let base = unsafe { mmap(ptr::null_mut(), len_bytes, access, MapFlags::SHARED, &file, 0)? };
        let Some(base) = NonNull::new(base.cast()) else { return refuse("guest memory: mapped at address 0") };
        Ok(Self { file, base, len_bytes, gpa, huge: false, allocated_bytes: AtomicU64::new(0) })
    }

    /// Makes every page now, so that none is made while something is being timed.
    pub fn populate(&self) -> io::Result<()> {
        // SAFETY: the range is our own mapping; populating changes no contents.
        match unsafe { madvise(self.base.as_ptr().cast(), self.len_bytes, Advice::LinuxPopulateWrite) } {
            // Linux before 5.14, or an emulation of it: each page is written, with what is there.
            Err(Errno::INVAL) => {
                for offset in (0..self.len_bytes).step_by(4096) {
                    // SAFETY: inside our own mapping, and only ever accessed atomically or by copy.
                    let byte = unsafe { AtomicU8::from_ptr(self.base.as_ptr().add(offset)) };
                    byte.fetch_or(0, Ordering::Relaxed);
                }
                Ok(())
            }
            populated => Ok(populated?),
        }
    }

    /// The memory file: byte 0 is guest physical address `gpa`.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Guest physical address of the first byte.
    pub fn gpa(&self) -> u64 {
        self.gpa
    }

    /// Size in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes as u64
    }

    /// Address of the first byte in this process: what a vhost-user front end gives as userspace address.
    pub fn user_address(&self) -> u64 {
        self.base.as_ptr().addr() as u64
    }

    /// Whether it is made of 2 MiB pages reserved for that.
    pub fn is_huge(&self) -> bool {
        self.huge
    }

    /// Gives out `len_bytes` of memory that nobody has yet, zero if nobody wrote there; `align` is a power of two.
    /// Nothing is ever given back.
    pub fn alloc(&self, len_bytes: u64, align: u64) -> Result<u64, OutOfMemory> {
        assert!(align.is_power_of_two(), "an alignment of {align}");
        let total = self.len_bytes as u64;
        let place = |allocated: u64| {
            let start = (self.gpa + allocated).checked_next_multiple_of(align)? - self.gpa;
            let end = start.checked_add(len_bytes)?;
            (end <= total).then_some((start, end))
        };
        self.allocated_bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |allocated| place(allocated).map(|(_, end)| end))
            .map(|before| self.gpa + place(before).map_or(0, |(start, _)| start))
            .map_err(|before| OutOfMemory { asked_bytes: len_bytes, left_bytes: total - before, len_bytes: total })
    }

    /// Copies guest memory at `gpa` into `into`.
    ///
    /// # Panics
    /// If a byte of it lies outside; so do all of the calls below.
    #[inline]
    pub fn read(&self, gpa: u64, into: &mut [u8]) {
        let from = self.at(gpa, into.len());
        // SAFETY: `at` checked the range; `into` is ours, so it does not overlap the mapping.
        unsafe { ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) };
    }

    /// Copies `from` to guest memory at `gpa`.
    #[inline]
    pub fn write(&self, gpa: u64, from: &[u8]) {
        let into = self.at(gpa, from.len());
        // SAFETY: as in `read`.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), into, from.len()) };
    }

    /// Fills `len_bytes` of guest memory at `gpa` with `byte`.
    pub fn fill(&self, gpa: u64, len_bytes: usize, byte: u8) {
        let into = self.at(gpa, len_bytes);
        // SAFETY: `at` checked the range.
        unsafe { ptr::write_bytes(into, byte, len_bytes) };
    }

    /// Asks the processor to have the cache line at `gpa` ready for reading. Any address will do.
    #[inline]
    pub fn prefetch(&self, gpa: u64) {
        let at = self.base.as_ptr().wrapping_add(gpa.wrapping_sub(self.gpa) as usize);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch reads nothing; one of an address that is not ours has no effect.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
        }
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        unsafe {
            std::arch::asm!("prfm pldl1keep, [{}]", in(reg) at, options(nostack, preserves_flags, readonly));
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let _ = at;
    }

    #[inline]
    fn at(&self, gpa: u64, len_bytes: usize) -> *mut u8 {
        let offset = gpa.wrapping_sub(self.gpa);
        let inside = len_bytes <= self.len_bytes && offset <= (self.len_bytes - len_bytes) as u64;
        assert!(inside, "{len_bytes} bytes at {gpa:#x} are not in the guest's memory");
        // SAFETY: the offset is inside the mapping, as just checked.
        unsafe { self.base.as_ptr().add(offset as usize) }
    }
}

macro_rules! typed {
    ($($word:ident $atomic:ident $load:ident $store:ident $read:ident $write:ident;)*) => {
        impl Ram {$(
            /// Loads the value at `gpa`, a multiple of its size.
            #[inline]
            pub fn $load(&self, gpa: u64, order: Ordering) -> $word {
                let at = self.at(gpa, size_of::<$word>()).cast::<$word>();
                assert!(at.is_aligned(), "{gpa:#x} is not aligned");
                // SAFETY: inside the mapping, aligned, and only ever accessed atomically or by copy.
                $word::from_le(unsafe { $atomic::from_ptr(at) }.load(order))
            }

            /// Stores `value` at `gpa`, a multiple of its size.
            #[inline]
            pub fn $store(&self, gpa: u64, value: $word, order: Ordering) {
                let at = self.at(gpa, size_of::<$word>()).cast::<$word>();
                assert!(at.is_aligned(), "{gpa:#x} is not aligned");
                // SAFETY: as in the load.
                unsafe { $atomic::from_ptr(at) }.store(value.to_le(), order);
            }

            /// Copies the value at `gpa` out.
            #[inline]
            pub fn $read(&self, gpa: u64) -> $word {
                let mut bytes = [0; size_of::<$word>()];
                self.read(gpa, &mut bytes);
                $word::from_le_bytes(bytes)
            }

            /// Copies `value` to `gpa`.
            #[inline]
            pub fn $write(&self, gpa: u64, value: $word) {
                self.write(gpa, &value.to_le_bytes());
            }
        )*}

        $(impl Word for $word {
            #[inline]
            unsafe fn load(at: *mut Self, order: Ordering) -> Self {
                // SAFETY: the caller's promise.
                $word::from_le(unsafe { $atomic::from_ptr(at) }.load(order))
            }

            #[inline]
            unsafe fn store(at: *mut Self, value: Self, order: Ordering) {
                // SAFETY: the caller's promise.
                unsafe { $atomic::from_ptr(at) }.store(value.to_le(), order);
            }
        })*
    };
}

typed! {
    u8  AtomicU8  load_u8  store_u8  read_u8  write_u8;
    u16 AtomicU16 load_u16 store_u16 read_u16 write_u16;
    u32 AtomicU32 load_u32 store_u32 read_u32 write_u32;
    u64 AtomicU64 load_u64 store_u64 read_u64 write_u64;
}

impl Drop for Ram {
    fn drop(&mut self) {
        // SAFETY: our own mapping; every `Words` holds an `Arc` of us, so none is left.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.len_bytes) };
    }
}

/// What rings are made of. Sealed by being nameable only here.
pub(super) trait Word: Copy {
    /// # Safety
    /// `at` is aligned, and valid for atomic access for the length of the call.
    unsafe fn load(at: *mut Self, order: Ordering) -> Self;

    /// # Safety
    /// As for `load`.
    unsafe fn store(at: *mut Self, value: Self, order: Ordering);
}

/// An array in guest memory, checked once when made, so that an access costs one comparison.
#[derive(Debug)]
pub(super) struct Words<T> {
    base: NonNull<T>,
    count: usize,
    _ram: Arc<Ram>, // keeps the mapping
}

// SAFETY: all access is atomic, and the mapping is kept.
unsafe impl<T> Send for Words<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Words<T> {}

impl<T: Word> Words<T> {
    /// The `count` words from `gpa` on, which must be inside and aligned.
    pub fn new(ram: &Arc<Ram>, gpa: u64, count: usize) -> Self {
        let at = ram.at(gpa, count * size_of::<T>()).cast::<T>();
        assert!(at.is_aligned(), "{gpa:#x} is not aligned");
        assert!(count > 0);
        let base = NonNull::new(at).expect("a mapping is not at address 0");
        Self { base, count, _ram: Arc::clone(ram) }
    }

    #[inline]
    pub fn load(&self, index: usize, order: Ordering) -> T {
        assert!(index < self.count);
        // SAFETY: the index was just checked; `new` checked range and alignment; the mapping is kept.
        unsafe { T::load(self.base.as_ptr().add(index), order) }
    }

    /// Two words, from `index` on.
    #[inline]
    pub fn load_two(&self, index: usize, order: Ordering) -> [T; 2] {
        assert!(index < self.count - 1);
        // SAFETY: as in `load`, for this index and the next.
        unsafe { [T::load(self.base.as_ptr().add(index), order), T::load(self.base.as_ptr().add(index + 1), order)] }
    }

    #[inline]
    pub fn store(&self, index: usize, value: T, order: Ordering) {
        assert!(index < self.count);
        // SAFETY: as in `load`.
        unsafe { T::store(self.base.as_ptr().add(index), value, order) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_out_aligned_and_once() {
        let ram = Ram::new(64 << 10, 0x1000).unwrap();
        let a = ram.alloc(3, 1).unwrap();
        let b = ram.alloc(16, 4096).unwrap();
        assert_eq!((a, b), (0x1000, 0x2000));
        let error = ram.alloc(64 << 10, 1).unwrap_err();
        assert_eq!((error.asked_bytes, error.left_bytes), (64 << 10, (64 << 10) - 4096 - 16));
        assert!(ram.alloc(u64::MAX, 1).is_err());
        assert!(ram.alloc(error.left_bytes, 1).is_ok());
        assert_eq!(ram.alloc(1, 1).unwrap_err().left_bytes, 0);
    }

    #[test]
    fn what_is_written_by_copy_is_loaded_little_endian_and_seen_through_the_file() {
        let ram = Ram::new(4096, 1 << 32).unwrap();
        ram.write((1 << 32) + 8, &[1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(ram.load_u64((1 << 32) + 8, Ordering::Acquire), 0x0807_0605_0403_0201);
        assert_eq!(ram.read_u32((1 << 32) + 9), 0x0504_0302);
        ram.store_u16((1 << 32) + 10, 0xbbaa, Ordering::Release);
        let mut bytes = [0; 4];
        rustix::io::pread(ram.fd(), &mut bytes, 9).unwrap();
        assert_eq!(bytes, [2, 0xaa, 0xbb, 5]);
    }

    #[test]
    fn nothing_outside_is_touched() {
        let ram = Ram::new(4096, 0x10000).unwrap();
        for (gpa, len_bytes) in [(0xffff, 1), (0x11000, 1), (0x10fff, 2), (u64::MAX, 2), (0x10000, 4097), (0, 0)] {
            let reached = std::panic::catch_unwind(|| ram.read(gpa, &mut vec![0; len_bytes]));
            assert!(reached.is_err(), "{len_bytes} bytes at {gpa:#x}");
        }
        ram.read(0x11000, &mut []);
    }

    #[test]
    fn a_size_or_address_that_cannot_be_is_refused() {
        for (len_bytes, gpa) in [(0, 0), (4096, 1), (8192, u64::MAX - 4095)] {
            assert_eq!(Ram::new(len_bytes, gpa).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn huge_pages_or_not_the_memory_is_there() {
        let ram = Ram::with_huge_pages(1, 0).unwrap();
        assert_eq!(ram.len_bytes(), HUGE_PAGE_BYTES as u64);
        ram.populate().unwrap();
        ram.store_u8(HUGE_PAGE_BYTES as u64 - 1, 7, Ordering::Relaxed);
        assert_eq!(ram.read_u8(HUGE_PAGE_BYTES as u64 - 1), 7);
    }
}
