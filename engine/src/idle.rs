//! What a worker does when a turn moved nothing.

use std::time::Duration;

/// How a worker waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IdlePolicy {
    /// It never sleeps.
    Poll,
    /// It spins for a while, then sleeps a little longer each time, up to 100 microseconds; traffic ends that at once.
    #[default]
    Adaptive,
    /// It spins for a while, then asks for notifications and sleeps until one comes.
    Event,
}

/// Turns that moved nothing before a worker thinks of sleeping.
const SPIN_TURNS: u32 = 2000;
const NAP_STEP: Duration = Duration::from_micros(2);
const NAP_MAX: Duration = Duration::from_micros(100);

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// Go on.
    No,
    /// Sleep for so long.
    Nap(Duration),
    /// Sleep until called, or for so long where something cannot call.
    UntilCalled(Duration),
}

/// How long it has been quiet.
#[derive(Debug)]
pub struct Idle {
    policy: IdlePolicy,
    quiet_turns: u32,
    nap: Duration,
}

impl Idle {
    /// Starts awake.
    pub fn new(policy: IdlePolicy) -> Self {
        Idle { policy, quiet_turns: 0, nap: Duration::ZERO }
    }

    /// Takes note of what a turn moved, and says what to do.
    #[inline]
    pub fn after(&mut self, moved: usize) -> Rest {
        if moved > 0 {
            self.quiet_turns = 0;
            self.nap = Duration::ZERO;
            return Rest::No;
        }
        std::hint::spin_loop();
        if self.policy == IdlePolicy::Poll {
            return Rest::No;
        }
        if self.quiet_turns < SPIN_TURNS {
            self.quiet_turns += 1;
            return Rest::No;
        }
        self.nap = (self.nap + NAP_STEP).min(NAP_MAX);
        if self.policy == IdlePolicy::Event { Rest::UntilCalled(self.nap) } else { Rest::Nap(self.nap) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_polling_worker_never_sleeps() {
        let mut idle = Idle::new(IdlePolicy::Poll);
        assert!((0..10 * SPIN_TURNS).all(|_| idle.after(0) == Rest::No));
    }

    #[test]
    fn naps_grow_to_their_limit_and_end_with_the_first_frame() {
        let mut idle = Idle::new(IdlePolicy::Adaptive);
        for _ in 0..SPIN_TURNS {
            assert_eq!(idle.after(0), Rest::No);
        }
        assert_eq!(idle.after(0), Rest::Nap(NAP_STEP));
        assert_eq!((0..1000).map(|_| idle.after(0)).last(), Some(Rest::Nap(NAP_MAX)));
        assert_eq!(idle.after(1), Rest::No);
        assert_eq!(idle.after(0), Rest::No);
    }
}
