//! INTx: a level, shown to a client that knows edges. It masks itself when it is raised, and is looked at again when it is
//! unmasked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use virtnet_engine::caller::Line;
use virtnet_rings::{Bell, Notifier};

#[derive(Debug, Default)]
struct Pin {
    /// Why it is raised, a bit a reason: the interrupt status register.
    reasons: AtomicU8,
    is_masked: AtomicBool,
}

/// A function's interrupt pin. Many may raise it, from any thread, and none of them waits.
#[derive(Debug, Default)]
pub struct Intx {
    pin: Arc<Pin>,
    line: Option<Arc<Line>>,
    is_enabled: bool,
    /// How often one of the two was changed.
    epoch: u32,
}

/// Raises the pin for one reason.
#[derive(Debug)]
struct Cause {
    pin: Arc<Pin>,
    reason: u8,
    line: Option<Arc<Line>>,
}

impl Pin {
    fn raise(&self, line: Option<&Arc<Line>>) {
        // Whoever unmasks it looks at the reasons afterwards, so that one of the two sees the other.
        if let Some(line) = line
            && self.reasons.load(Ordering::SeqCst) != 0
            && !self.is_masked.swap(true, Ordering::SeqCst)
        {
            line.ring();
        }
    }
}

impl Bell for Cause {
    fn ring(&self) {
        self.pin.reasons.fetch_or(self.reason, Ordering::SeqCst);
        self.pin.raise(self.line.as_ref());
    }
}

impl Intx {
    /// Another number whenever a [`Self::cause`] is out of date.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// What raises it for `reason`, a bit; until it is connected or enabled anew.
    pub fn cause(&self, reason: u8) -> Notifier {
        let line = self.line.clone().filter(|_| self.is_enabled);
        Notifier::through(Arc::new(Cause { pin: self.pin.clone(), reason, line }))
    }

    /// Remembers a reason, and raises nothing.
    pub fn note(&self, reason: u8) {
        self.pin.reasons.fetch_or(reason, Ordering::SeqCst);
    }

    /// Why it is raised; after this, for no reason.
    pub fn take_reasons(&self) -> u8 {
        self.pin.reasons.swap(0, Ordering::SeqCst)
    }

    /// Why it is raised.
    pub fn reasons(&self) -> u8 {
        self.pin.reasons.load(Ordering::SeqCst)
    }

    /// Whether there is a reason to raise it.
    pub fn is_wanted(&self) -> bool {
        self.reasons() != 0
    }

    /// It is told to `line` from now on, if there is one.
    pub fn connect(&mut self, line: Option<Arc<Line>>) {
        (self.line, self.epoch) = (line, self.epoch.wrapping_add(1));
        self.mask(false);
    }

    /// It is to be raised, or is not: another kind of interrupts is used, or the host does not want it.
    pub fn enable(&mut self, enabled: bool) {
        if self.is_enabled != enabled {
            (self.is_enabled, self.epoch) = (enabled, self.epoch.wrapping_add(1));
        }
        self.look();
    }

    /// Tells its client of an interrupt that the client asks for.
    pub fn trigger(&self) {
        if let Some(line) = &self.line {
            line.ring();
        }
    }

    /// Masks it, or looks at it again.
    pub fn mask(&self, masked: bool) {
        self.pin.is_masked.store(masked, Ordering::SeqCst);
        self.look();
    }

    /// There is no reason any more.
    pub fn reset(&self) {
        self.take_reasons();
        self.pin.is_masked.store(false, Ordering::SeqCst);
    }

    /// Raises it, if there is a reason that nobody was told of.
    pub fn look(&self) {
        self.pin.raise(self.line.as_ref().filter(|_| self.is_enabled));
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{EventfdFlags, eventfd};
    use virtnet_engine::caller::Caller;

    use super::*;
    use crate::transport::diary::rung;

    fn is_quiet(fd: &impl std::os::fd::AsFd) -> bool {
        use rustix::event::{PollFd, PollFlags, poll};
        let brief = rustix::event::Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&brief)) == Ok(0)
    }

    #[test]
    fn it_masks_itself_and_is_raised_again_while_there_is_a_reason() {
        let mut caller = Caller::default();
        let fd = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let line = caller.line(fd.try_clone().unwrap()).unwrap();
        let mut intx = Intx::default();
        intx.connect(Some(line));
        intx.cause(1).notify();
        assert!(is_quiet(&fd) && intx.is_wanted(), "not before it is enabled");
        intx.enable(true);
        assert_eq!(rung(&fd), 1);
        intx.cause(2).notify();
        assert!(is_quiet(&fd), "it has masked itself");
        intx.mask(false);
        assert_eq!(rung(&fd), 1);
        assert_eq!((intx.take_reasons(), intx.is_wanted()), (3, false));
        intx.mask(false);
        assert!(is_quiet(&fd), "no reason is left");
        intx.cause(1).notify();
        assert_eq!(rung(&fd), 1);
        intx.reset();
        intx.mask(false);
        assert!(is_quiet(&fd));
    }
}
