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

#[cfg(all(test, loom))]
mod tests {
    use loom::sync::Arc;

    use super::*;
    use crate::sync::AtomicU64;

    /// A sleeper's bell, and how many messages were left for it. Relaxed is less than any queue of messages gives.
    fn bell() -> Arc<(Wake, AtomicU64)> {
        Arc::new((Wake::new().unwrap(), AtomicU64::new(0)))
    }

    fn leave(bell: &(Wake, AtomicU64), number: u64) {
        bell.1.store(number, Ordering::Relaxed);
        bell.0.call();
    }

    fn left(bell: &(Wake, AtomicU64)) -> u64 {
        bell.1.load(Ordering::Relaxed)
    }

    fn has_rung(bell: &(Wake, AtomicU64)) -> bool {
        rustix::io::read(&bell.0.bell, &mut [0u8; 8]).is_ok()
    }

    #[test]
    fn nobody_sleeps_through_a_message() {
        loom::model(|| {
            let bell = bell();
            let caller = loom::thread::spawn({
                let bell = bell.clone();
                move || leave(&bell, 1)
            });
            bell.0.lie_down();
            let seen = left(&bell);
            caller.join().unwrap();
            assert!(seen == 1 || has_rung(&bell), "asleep, with a message there");
        });
    }

    #[test]
    fn who_gets_up_and_lies_down_again_has_seen_or_will_hear_all_that_was_left_meanwhile() {
        loom::model(|| {
            let bell = bell();
            let caller = loom::thread::spawn({
                let bell = bell.clone();
                move || (1..=2).for_each(|number| leave(&bell, number))
            });
            bell.0.lie_down();
            bell.0.get_up();
            bell.0.lie_down();
            let seen = left(&bell);
            caller.join().unwrap();
            assert!(seen == 2 || has_rung(&bell), "asleep, {seen} of 2 messages seen");
        });
    }

    #[test]
    fn two_callers_wake_one_sleeper() {
        loom::model(|| {
            let bells = (bell(), AtomicU64::new(0));
            let bells = Arc::new(bells);
            let callers = [1, 2].map(|which| {
                let bells = bells.clone();
                loom::thread::spawn(move || {
                    let message = if which == 1 { &bells.0.1 } else { &bells.1 };
                    message.store(1, Ordering::Relaxed);
                    bells.0.0.call();
                })
            });
            bells.0.0.lie_down();
            let seen = left(&bells.0) + bells.1.load(Ordering::Relaxed);
            callers.into_iter().for_each(|caller| caller.join().unwrap());
            assert!(seen == 2 || has_rung(&bells.0));
        });
    }
}
