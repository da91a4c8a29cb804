//! Sleeping without missing anything: a sleeper says that it sleeps, looks once more, and then sleeps; a waker leaves its
//! message, looks whether somebody sleeps, and only then pays for a system call. The two fences make it impossible that both
//! look too early.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::sync::{AtomicBool, Ordering, fence};

/// One sleeper's bell.
#[derive(Debug)]
pub struct Wake {
    sleeping: AtomicBool,
    bell: OwnedFd,
}

impl Wake {
    /// A bell for one sleeper.
    ///
    /// # Errors
    /// Where there is no eventfd to be had.
    pub fn new() -> std::io::Result<Self> {
        use rustix::event::{EventfdFlags, eventfd};
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Wake { sleeping: AtomicBool::new(false), bell })
    }

    /// The sleeper: says that it will sleep. What was left for it before is seen after this; what comes later rings.
    pub fn lie_down(&self) {
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The sleeper: is awake, whatever woke it.
    pub fn get_up(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
        let _ = rustix::io::read(&self.bell, &mut [0u8; 8]);
    }

    /// Anybody, after leaving something: rings if somebody sleeps.
    #[inline]
    pub fn call(&self) {
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) {
            let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
        }
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}
