//! Used buffer notifications that are held back, so that one tells of many buffers ("Notifications Coalescing").
//!
//! What is held back is the decision: when it is made, it is about everything used since the last one, and the driver's
//! event index or flags are read then and not before.

use crate::bench::Bench;
use crate::counters::QueueCounts;
use crate::dim::Dim;

/// From which moment a period counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PeriodMode {
    /// From the first used buffer that was not told.
    #[default]
    Event = 1,
    /// Anew from each burst of used buffers.
    Cqe = 2,
}

/// How long notifications are held back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moderation {
    /// From which moment the period counts.
    pub mode: PeriodMode,
    /// Microseconds. With 0 nothing is held back.
    pub period_us: u16,
    /// Used buffers that end a period early, at most half of the queue: 0 is that many.
    pub max_count: u16,
}

impl Moderation {
    pub(crate) fn to_bits(self) -> u64 {
        u64::from(self.period_us) | u64::from(self.max_count) << 16 | u64::from(self.mode == PeriodMode::Cqe) << 32
    }

    pub(crate) fn from_bits(bits: u64) -> Self {
        let mode = if bits >> 32 & 1 == 0 { PeriodMode::Event } else { PeriodMode::Cqe };
        Self { mode, period_us: bits as u16, max_count: (bits >> 16) as u16 }
    }
}

/// Who says how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// Control.
    Fixed(Moderation),
    /// The worker, by what it measures ([`crate::dim`]).
    Dynamic,
}

/// Holds one queue's notifications back. It outlives the queue that is attached.
#[derive(Debug)]
pub struct Moderator {
    /// Used buffers that are told at once; 1 where nothing is held back.
    enough: u32,
    /// Used since a notification was last decided on.
    untold: u32,
    /// When it is to be decided, if something is untold.
    due_ns: u64,
    moderation: Moderation,
    queue_size: u16,
    dim: Option<Dim>,
}

impl Default for Moderator {
    fn default() -> Self {
        Moderator {
            enough: 1,
            untold: 0,
            due_ns: 0,
            moderation: Moderation::default(),
            queue_size: u16::MAX,
            dim: None,
        }
    }
}

impl Moderator {
    /// Takes note of what was used in a burst; whether a notification is to be decided on now.
    #[inline(always)]
    pub fn decides(&mut self, bench: &mut Bench) -> bool {
        let used = bench.counts.used();
        self.untold += used;
        if self.untold >= self.enough || self.untold > 0 && self.is_over(used, bench) {
            self.untold = 0;
            return true;
        }
        false
    }

    /// Whether the period is over.
    #[cold]
    fn is_over(&mut self, used: u32, bench: &mut Bench) -> bool {
        let begins = self.untold == used || used > 0 && self.moderation.mode == PeriodMode::Cqe;
        if begins {
            self.due_ns = bench.now_ns + u64::from(self.moderation.period_us) * 1000;
        }
        let is_over = bench.now_ns >= self.due_ns;
        if !is_over {
            bench.due_ns = bench.due_ns.min(self.due_ns);
        }
        bench.counts.put_off(used, is_over);
        is_over
    }

    /// Whether something is held back.
    pub fn holds(&self) -> bool {
        self.untold > 0
    }

    /// Lets go; whether something was held back.
    pub fn let_go(&mut self) -> bool {
        std::mem::take(&mut self.untold) > 0
    }

    /// Changes who says how long.
    pub fn set(&mut self, setting: Setting) {
        self.dim = matches!(setting, Setting::Dynamic).then(Dim::default);
        self.apply(match setting {
            Setting::Fixed(moderation) => moderation,
            Setting::Dynamic => Moderation::default(),
        });
    }

    /// A queue of so many descriptors is attached. With half of it untold a driver hears of it, whatever was asked for: the
    /// rest is for what comes until it has woken up.
    pub fn fit(&mut self, queue_size: u16) {
        self.queue_size = queue_size;
        self.apply(self.moderation);
    }

    fn apply(&mut self, moderation: Moderation) {
        let half = (self.queue_size / 2).max(1);
        let asked = if moderation.max_count == 0 { half } else { moderation.max_count };
        self.enough = if moderation.period_us == 0 { 1 } else { asked.min(half).into() };
        self.moderation = moderation;
    }

    /// How long, at present.
    pub fn moderation(&self) -> Moderation {
        self.moderation
    }

    /// Whether the worker says how long.
    pub fn is_dynamic(&self) -> bool {
        self.dim.is_some()
    }

    /// A window is over, in which the queue's counts have become these. Whether it holds back for another time now.
    pub fn measure(&mut self, counts: impl FnOnce() -> QueueCounts, now_ns: u64) -> bool {
        let Some(dim) = &mut self.dim else { return false };
        let moderation = dim.measure(counts(), now_ns);
        let changes = moderation != self.moderation;
        self.apply(moderation);
        changes
    }

    /// The queue has gone quiet: the next frames are told at once.
    pub fn begin_anew(&mut self) -> bool {
        let changes = self.dim.is_some() && self.moderation != Moderation::default();
        if self.dim.is_some() {
            self.set(Setting::Dynamic);
        }
        changes
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Whether it decides when so many were used at that time, in microseconds.
    fn decides(moderator: &mut Moderator, bench: &mut Bench, now_us: u64, used: usize) -> bool {
        bench.counts = Default::default();
        bench.counts.completed(used);
        (bench.now_ns, bench.due_ns) = (now_us * 1000, u64::MAX);
        moderator.decides(bench)
    }

    fn moderator(mode: PeriodMode, period_us: u16, max_count: u16) -> Moderator {
        let mut moderator = Moderator::default();
        moderator.fit(256);
        moderator.set(Setting::Fixed(Moderation { mode, period_us, max_count }));
        moderator
    }

    #[test]
    fn nothing_is_held_back_without_a_period() {
        let mut bench = Bench::new(32);
        for mut moderator in [Moderator::default(), moderator(PeriodMode::Cqe, 0, 7)] {
            assert!(!decides(&mut moderator, &mut bench, 0, 0));
            assert!(decides(&mut moderator, &mut bench, 1, 1));
            assert!(!decides(&mut moderator, &mut bench, 1, 0) && !moderator.holds());
        }
    }

    #[test]
    fn what_is_due_is_known_before_it_is() {
        let mut bench = Bench::new(32);
        for (mode, due_us) in [(PeriodMode::Event, 110), (PeriodMode::Cqe, 150)] {
            let mut moderator = moderator(mode, 100, 0);
            assert!(!decides(&mut moderator, &mut bench, 10, 1));
            assert!(!decides(&mut moderator, &mut bench, 50, 1));
            assert!(!decides(&mut moderator, &mut bench, due_us - 1, 0));
            assert_eq!(bench.due_ns, due_us * 1000);
            assert!(decides(&mut moderator, &mut bench, due_us, 0));
            assert_eq!((bench.due_ns, moderator.holds()), (u64::MAX, false));
            assert!(!decides(&mut moderator, &mut bench, 1000, 0), "once");
        }
    }

    #[test]
    fn a_count_is_no_more_than_half_of_the_queue() {
        let mut bench = Bench::new(32);
        for (max_count, enough) in [(0, 128), (5, 5), (128, 128), (129, 128), (u16::MAX, 128)] {
            let mut moderator = moderator(PeriodMode::Event, 1, max_count);
            assert!(!decides(&mut moderator, &mut bench, 0, enough - 1));
            assert!(decides(&mut moderator, &mut bench, 0, 1), "{max_count}");
        }
        let mut moderator = moderator(PeriodMode::Event, 1, 8);
        moderator.fit(1);
        assert!(decides(&mut moderator, &mut bench, 0, 1), "a queue of one");
    }

    #[test]
    fn what_is_published_is_read_as_it_was() {
        for moderation in [
            Moderation::default(),
            Moderation { mode: PeriodMode::Cqe, period_us: u16::MAX, max_count: 1 },
            Moderation { mode: PeriodMode::Event, period_us: 1, max_count: u16::MAX },
        ] {
            assert_eq!(Moderation::from_bits(moderation.to_bits()), moderation);
        }
    }
}
