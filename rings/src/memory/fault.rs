//! What happens when a front end cuts a memory file short under us: SIGBUS, which would end the process and with it
//! every other guest. The handler puts zero pages where the file was and marks the region broken.
//!
//! Mappings register themselves in a fixed table, which is all that the handler reads.

// UNSAFETY: a signal handler, and the mapping it makes.
#![expect(unsafe_code)]

use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// How many mappings can be guarded at once; further ones are refused, since one without a guard is a way to end the process.
/// As many as the system lets a process have.
pub(super) const GUARDS_MAX: usize = 65536;

struct Entry {
    /// Start of the mapping; 0 is free, 1 is being filled.
    start: AtomicUsize,
    len_bytes: AtomicUsize,
    /// The line that is marked when this one is found broken: of the mapping that this is another view of, or this one.
    marks: AtomicUsize,
    broken: AtomicBool,
}

static ENTRIES: [Entry; GUARDS_MAX] = [const {
    Entry {
        start: AtomicUsize::new(0),
        len_bytes: AtomicUsize::new(0),
        marks: AtomicUsize::new(0),
        broken: AtomicBool::new(false),
    }
}; GUARDS_MAX];

/// Past the highest entry ever used, so that the handler need not look further.
static ENTRIES_USED: AtomicUsize = AtomicUsize::new(0);

/// One mapping's line in the table.
#[derive(Debug)]
pub(super) struct Guard(usize);

impl Guard {
    /// Over a mapping; where that is another view of one that has a guard, that one's is found broken.
    pub(super) fn over(start: usize, len_bytes: usize, of: Option<&Guard>) -> Option<Guard> {
        install();
        let free = |entry: &Entry| {
            entry.start.load(Ordering::Relaxed) == 0
                && entry.start.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        let index = ENTRIES.iter().position(free)?;
        let entry = &ENTRIES[index];
        entry.len_bytes.store(len_bytes, Ordering::Relaxed);
        entry.marks.store(of.map_or(index, |of| of.0), Ordering::Relaxed);
        entry.broken.store(false, Ordering::Relaxed);
        entry.start.store(start, Ordering::Release);
        ENTRIES_USED.fetch_max(index + 1, Ordering::AcqRel);
        Some(Guard(index))
    }

    pub(super) fn is_broken(&self) -> bool {
        ENTRIES[self.0].broken.load(Ordering::Relaxed)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        ENTRIES[self.0].start.store(0, Ordering::Release);
    }
}

fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: an all-zero sigaction is valid, the handler is async-signal-safe (atomics, mmap, sigaction).
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
            libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut());
        }
    });
}

extern "C" fn handler(_signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo for SIGBUS.
    let address = unsafe { (*info).si_addr() } as usize;
    for entry in &ENTRIES[..ENTRIES_USED.load(Ordering::Acquire)] {
        let start = entry.start.load(Ordering::Acquire);
        let len_bytes = entry.len_bytes.load(Ordering::Relaxed);
        if start > 1 && address >= start && address - start < len_bytes {
            ENTRIES[entry.marks.load(Ordering::Relaxed)].broken.store(true, Ordering::Relaxed);
            // The whole mapping, because one part may be of huge pages, where a small page cannot be put.
            // SAFETY: replaces a mapping that the table says is ours; its address range stays mapped throughout.
            let mapped = unsafe {
                libc::mmap(
                    start as *mut _,
                    len_bytes,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                    -1,
                    0,
                )
            };
            if mapped as usize == start {
                return;
            }
        }
    }
    // Not guest memory: the fault comes again, and ends the process as it would have without us.
    // SAFETY: resetting a signal to its default is always allowed.
    unsafe {
        libc::signal(libc::SIGBUS, libc::SIG_DFL);
    }
}
