//! How busy a worker is, and with what. A turn that moved something is busy from its start to the start of the next, which
//! takes no clock of its own; how that is shared out among pairs is sampled, one turn in [`SAMPLED`].

use std::time::Instant;

use crate::sync::{AtomicU64, Ordering};

/// One turn in so many is looked at more closely.
pub const SAMPLED: u32 = 64;

/// What a worker tells of itself; written by it, read by anybody.
#[derive(Debug, Default)]
pub struct Gauge {
    busy_ns: AtomicU64,
}

impl Gauge {
    /// How long it has been busy in all, in nanoseconds.
    pub fn busy_ns(&self) -> u64 {
        self.busy_ns.load(Ordering::Relaxed)
    }
}

/// A worker's own account.
#[derive(Debug, Default)]
pub struct Meter {
    busy_ns: u64,
    /// When the last turn began, if it moved something.
    busy_since_ns: Option<u64>,
    turn_ns: u64,
    turns: u32,
    /// In a sampled turn: when the last slot was done.
    lap: Option<Instant>,
}

impl Meter {
    /// A turn begins.
    #[inline]
    pub fn begin(&mut self, now_ns: u64, gauge: &Gauge) {
        if let Some(since_ns) = self.busy_since_ns.take() {
            self.busy_ns += now_ns.saturating_sub(since_ns);
        }
        self.turn_ns = now_ns;
        self.turns = self.turns.wrapping_add(1);
        if self.turns.is_multiple_of(SAMPLED) {
            self.publish(gauge);
            self.lap = Some(Instant::now());
        }
    }

    /// When the last slot was done, in a sampled turn.
    #[inline]
    pub fn lap(&self) -> Option<Instant> {
        self.lap
    }

    /// A slot has had its turn; what that stands for, in nanoseconds, if it was sampled.
    #[inline]
    pub fn sample(&mut self, moved: usize) -> Option<u64> {
        let lap = self.lap.as_mut()?;
        let now = Instant::now();
        let took = now.duration_since(std::mem::replace(lap, now));
        (moved > 0).then_some(took.as_nanos() as u64 * u64::from(SAMPLED))
    }

    /// The turn is over.
    #[inline]
    pub fn end(&mut self, moved: usize) {
        self.lap = None;
        self.busy_since_ns = (moved > 0).then_some(self.turn_ns);
    }

    /// Tells how busy it has been.
    pub fn publish(&self, gauge: &Gauge) {
        gauge.busy_ns.store(self.busy_ns, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_turn_that_moved_something_counts_until_the_next() {
        let (mut meter, gauge) = (Meter::default(), Gauge::default());
        for (now_ns, moved) in [(0, 0), (10, 3), (25, 0), (1000, 1), (1007, 2), (1010, 0), (5000, 0)] {
            meter.begin(now_ns, &gauge);
            meter.end(moved);
        }
        meter.publish(&gauge);
        assert_eq!(gauge.busy_ns(), 15 + 7 + 3);
    }

    #[test]
    fn some_turns_are_sampled_and_only_who_moved_something_is_charged() {
        let (mut meter, gauge) = (Meter::default(), Gauge::default());
        let mut charged = 0;
        for turn in 1..=4 * SAMPLED {
            meter.begin(u64::from(turn), &gauge);
            assert_eq!(meter.sample(0), None);
            charged += u32::from(meter.sample(1).is_some());
            meter.end(1);
        }
        assert_eq!(charged, 4);
    }
}
