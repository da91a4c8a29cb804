//! Lines to drivers that nobody here trusts. Whoever has the other end of an eventfd can fill it and make it block, so whoever
//! writes to it may wait for ever. A device's lines are therefore written by a thread of the device's own: a worker, or
//! control, says which line is to be rung and goes on. A front end that blocks its line has silenced its own device.
//!
//! (The kernel has no write to an eventfd that never waits: `RWF_NOWAIT` is refused, and a second open file description, which
//! would have flags of its own, cannot be had.)

use std::io::IoSliceMut;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::{Builder, Thread};

use rustix::io::{ReadWriteFlags, preadv2};
use virtnet_rings::Bell;

/// What the thread needs of its stack, with much to spare.
const STACK_BYTES: usize = 64 << 10;

/// An eventfd, or the like, that a caller writes to. It is closed when this is dropped.
#[derive(Debug)]
pub struct Line {
    end: Arc<End>,
    caller: Thread,
}

#[derive(Debug)]
struct End {
    eventfd: OwnedFd,
    wanted: AtomicBool,
    /// Nobody wants it any more, but the caller may hang on it.
    is_left: AtomicBool,
}

impl Bell for Line {
    /// Has it rung, soon. Rings that are asked for before that are one.
    #[inline]
    fn ring(&self) {
        // What was published before is visible to whoever is called.
        if !self.end.wanted.swap(true, Ordering::AcqRel) {
            self.caller.unpark();
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.end.is_left.store(true, Ordering::Release);
        self.end.empty();
    }
}

impl End {
    /// Takes out what was put in, without waiting.
    fn empty(&self) {
        let nowhere = u64::MAX; // It has no positions.
        let _ = preadv2(&self.eventfd, &mut [IoSliceMut::new(&mut [0; 8])], nowhere, ReadWriteFlags::NOWAIT);
    }
}

#[derive(Debug, Default)]
struct Shared {
    ends: Mutex<Vec<Weak<End>>>,
    has_changed: AtomicBool,
    has_ended: AtomicBool,
    /// Twice the rings that were made; odd while one is being made.
    steps: AtomicU64,
}

impl Shared {
    /// Rings what is wanted, until it ends.
    fn serve(&self) {
        let mut ends = Vec::new();
        while !self.has_ended.load(Ordering::Acquire) {
            if self.has_changed.swap(false, Ordering::AcqRel) {
                ends.clone_from(&self.ends.lock().unwrap_or_else(PoisonError::into_inner));
            }
            for end in ends.iter().filter_map(Weak::upgrade) {
                if end.wanted.swap(false, Ordering::AcqRel) {
                    self.steps.fetch_add(1, Ordering::AcqRel);
                    // A counter that is full already says the same thing, so failure is none.
                    let _ = rustix::io::write(&end.eventfd, &1u64.to_ne_bytes());
                    self.steps.fetch_add(1, Ordering::AcqRel);
                }
            }
            std::thread::park();
        }
    }
}

/// The thread that rings the lines of one device. It sleeps when there is nothing to ring, and ends with this.
#[derive(Debug, Default)]
pub struct Caller {
    shared: Arc<Shared>,
    /// None before there is a line.
    thread: Option<Thread>,
    /// How far it was when this was last looked at, if it had something to do.
    looked: Option<u64>,
    /// Whether it hung then.
    hung: bool,
}

impl Caller {
    /// A line of this device's.
    ///
    /// # Errors
    /// Where there is no thread to be had.
    pub fn line(&mut self, eventfd: OwnedFd) -> std::io::Result<Arc<Line>> {
        let caller = match &self.thread {
            Some(thread) => thread.clone(),
            None => {
                let shared = self.shared.clone();
                let thread = Builder::new().name("caller".into()).stack_size(STACK_BYTES);
                self.thread.insert(thread.spawn(move || shared.serve())?.thread().clone()).clone()
            }
        };
        let end = Arc::new(End { eventfd, wanted: AtomicBool::new(false), is_left: AtomicBool::new(false) });
        self.release();
        let mut ends = self.shared.ends.lock().unwrap_or_else(PoisonError::into_inner);
        ends.retain(|end| end.strong_count() > 0);
        ends.push(Arc::downgrade(&end));
        self.shared.has_changed.store(true, Ordering::Release);
        drop(ends);
        caller.unpark();
        Ok(Arc::new(Line { end, caller }))
    }

    /// Whether its thread has had something to ring since this was last asked, and has rung nothing: it hangs on a line, or does not
    /// run. `true` once, until it goes on.
    pub fn has_hung(&mut self) -> bool {
        let steps = self.shared.steps.load(Ordering::Acquire);
        let ends = self.shared.ends.lock().unwrap_or_else(PoisonError::into_inner);
        let is_wanted = ends.iter().filter_map(Weak::upgrade).any(|end| end.wanted.load(Ordering::Acquire));
        let owes = steps % 2 == 1 || is_wanted;
        let hangs = owes && self.looked == Some(steps);
        self.looked = owes.then_some(steps);
        !std::mem::replace(&mut self.hung, hangs) && hangs
    }

    /// Frees the thread from a line that only it still has.
    fn release(&self) {
        let ends = self.shared.ends.lock().unwrap_or_else(PoisonError::into_inner);
        let left = ends.iter().filter_map(Weak::upgrade).filter(|end| end.is_left.load(Ordering::Acquire));
        left.for_each(|end| end.empty());
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.shared.has_ended.store(true, Ordering::Release);
        self.release();
        if let Some(thread) = &self.thread {
            thread.unpark();
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::time::{Duration, Instant};

    use rustix::event::{EventfdFlags, eventfd};
    use virtnet_rings::Notifier;

    use super::*;

    fn until(what: &str, mut done: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !done() {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::yield_now();
        }
    }

    /// The other end, which does not block, of a line that does.
    fn count(end: &OwnedFd) -> u64 {
        let mut count = [0; 8];
        let read = preadv2(end, &mut [IoSliceMut::new(&mut count)], u64::MAX, ReadWriteFlags::NOWAIT);
        read.map_or(0, |_| u64::from_ne_bytes(count))
    }

    fn full() -> OwnedFd {
        let full = eventfd(0, EventfdFlags::empty()).unwrap();
        rustix::io::write(&full, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        full
    }

    #[test]
    fn a_line_is_rung_each_time_it_has_been_heard() {
        let mut caller = Caller::default();
        let end = eventfd(0, EventfdFlags::empty()).unwrap();
        let line = Notifier::through(caller.line(end.try_clone().unwrap()).unwrap());
        assert!(line.is_connected());
        for _ in 0..200 {
            line.notify();
            until("it does not ring", || count(&end) > 0);
        }
        // Many at once are at least one.
        (0..1000).for_each(|_| line.notify());
        until("it does not ring", || count(&end) > 0);
    }

    #[test]
    fn who_blocks_a_line_keeps_nobody_waiting_but_its_own_device() {
        let (mut villain, mut honest) = (Caller::default(), Caller::default());
        let blocked = full();
        let stuck = villain.line(blocked.try_clone().unwrap()).unwrap();
        let end = eventfd(0, EventfdFlags::empty()).unwrap();
        let line = honest.line(end.try_clone().unwrap()).unwrap();
        for _ in 0..100 {
            stuck.ring();
            line.ring();
            until("it does not ring", || count(&end) > 0);
        }
        until("it hangs and that is not seen", || villain.has_hung());
        assert!(!villain.has_hung(), "once");
        // The front end that did so is gone; the next one of the device is served.
        drop(stuck);
        let line = villain.line(end.try_clone().unwrap()).unwrap();
        until("the device stays silent", || {
            line.ring();
            count(&end) > 0
        });
    }

    #[test]
    fn a_line_that_is_dropped_is_closed_and_a_caller_that_is_dropped_ends_though_it_is_blocked() {
        let mut caller = Caller::default();
        let (read, write) = rustix::pipe::pipe().unwrap();
        let line = caller.line(write).unwrap();
        line.ring();
        drop(line);
        let mut bytes = [0; 64];
        until("the pipe stays open", || rustix::io::read(&read, &mut bytes[..]).unwrap() == 0);
        let blocked = full();
        let line = caller.line(blocked.try_clone().unwrap()).unwrap();
        line.ring();
        until("it is taken", || !line.end.wanted.load(Ordering::Relaxed));
        let ended = Arc::downgrade(&caller.shared);
        drop(line);
        drop(caller);
        until("the thread stays", || ended.upgrade().is_none());
    }
}
