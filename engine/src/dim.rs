//! Dynamic interrupt moderation: what a queue carries is measured window by window, and the worker climbs to the profile under
//! which it carries most, and with as few notifications as that takes.

use crate::counters::QueueCounts;
use crate::moderation::{Moderation, PeriodMode};

/// The least time between two looks, in nanoseconds.
pub const WINDOW_NS: u64 = 4_000_000;

/// Windows without a change after which the next profile is tried again: about a second.
const PATIENCE: u32 = 256;

/// What a notification has to tell of, more than, on average; a profile that gathers less only costs time.
const GATHERED: u64 = 2;

/// From the one that holds nothing back to the one that does for longest.
const PROFILES: [Moderation; 5] =
    [profile(0, 0), profile(16, 32), profile(32, 64), profile(64, 128), profile(128, 256)];

const fn profile(period_us: u16, max_count: u16) -> Moderation {
    Moderation { mode: PeriodMode::Event, period_us, max_count }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Course {
    /// To where more is held back.
    #[default]
    Up,
    Down,
    Stays,
}

/// How a window compares with the one before: what differs by less than a tenth is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Better,
    Same,
    Worse,
}

/// What a queue did in a second.
#[derive(Clone, Copy, Debug)]
struct Rates {
    bytes: u64,
    packets: u64,
    notifications: u64,
}

impl Rates {
    fn of(counts: &QueueCounts, elapsed_ns: u64) -> Self {
        let a_second = |count: u64| (u128::from(count) * 1_000_000_000 / u128::from(elapsed_ns.max(1))) as u64;
        Rates {
            bytes: a_second(counts.bytes),
            packets: a_second(counts.packets),
            notifications: a_second(counts.notifications_sent),
        }
    }

    fn against(&self, before: &Self) -> Verdict {
        let compare = |more: u64, less: u64| {
            let tenth = more.max(less) / 10;
            if more > less + tenth {
                Verdict::Better
            } else if less > more + tenth {
                Verdict::Worse
            } else {
                Verdict::Same
            }
        };
        let verdicts = [
            compare(self.bytes, before.bytes),
            compare(self.packets, before.packets),
            compare(before.notifications, self.notifications),
        ];
        verdicts.into_iter().find(|verdict| *verdict != Verdict::Same).unwrap_or(Verdict::Same)
    }
}

/// The climber of one queue.
#[derive(Debug, Default)]
pub struct Dim {
    level: usize,
    course: Course,
    /// When a window began, and what had been counted then.
    base: Option<(u64, QueueCounts)>,
    /// The window before, if there is anything to compare with.
    before: Option<Rates>,
    /// Windows without a change.
    quiet: u32,
}

impl Dim {
    /// The profile to go on with, after a window in which the counts have become these.
    pub fn measure(&mut self, counts: QueueCounts, now_ns: u64) -> Moderation {
        if let Some((since_ns, base)) = self.base.replace((now_ns, counts)) {
            self.climb(Rates::of(&counts.since(&base), now_ns.saturating_sub(since_ns)));
        }
        PROFILES[self.level]
    }

    fn climb(&mut self, rates: Rates) {
        if rates.packets == 0 {
            *self = Dim { base: self.base, ..Dim::default() };
            return;
        }
        if self.level > 0 && rates.packets <= GATHERED * rates.notifications {
            self.step(Course::Down);
            self.rest();
            return;
        }
        let verdict = self.before.replace(rates).map(|before| rates.against(&before));
        match (self.course, verdict) {
            (Course::Stays, None) => {}
            (Course::Stays, Some(Verdict::Same)) => {
                self.quiet += 1;
                if self.quiet == PATIENCE {
                    self.step(Course::Up);
                }
            }
            (Course::Stays, Some(Verdict::Better)) => self.step(Course::Up),
            (Course::Stays, Some(Verdict::Worse)) => self.step(Course::Down),
            (course, None | Some(Verdict::Better)) => self.step(course),
            (course, Some(_)) => {
                self.step(if course == Course::Up { Course::Down } else { Course::Up });
                self.rest();
            }
        }
    }

    /// One step on, if there is a profile there.
    fn step(&mut self, course: Course) {
        let level = if course == Course::Up { self.level + 1 } else { self.level.wrapping_sub(1) };
        let is_there = level < PROFILES.len();
        self.course = if is_there { course } else { Course::Stays };
        self.level = if is_there { level } else { self.level };
        self.quiet = 0;
    }

    /// Stays, until the load changes. The window before was another profile's.
    fn rest(&mut self) {
        self.course = Course::Stays;
        self.before = None;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// A queue whose load is what its profile makes of it: packets, bytes and notifications a second.
    struct Bed {
        dim: Dim,
        counts: QueueCounts,
        now_ns: u64,
    }

    impl Bed {
        fn new() -> Self {
            Bed { dim: Dim::default(), counts: QueueCounts::default(), now_ns: 0 }
        }

        /// Levels after so many windows of a load.
        fn run(&mut self, windows: usize, load: impl Fn(Moderation) -> [u64; 3]) -> Vec<usize> {
            let window = |_| {
                let a_window = |rate: u64| rate * WINDOW_NS / 1_000_000_000;
                let [packets, bytes, notifications] = load(PROFILES[self.dim.level]).map(a_window);
                self.counts.packets += packets;
                self.counts.bytes += bytes;
                self.counts.notifications_sent += notifications;
                self.now_ns += WINDOW_NS;
                self.dim.measure(self.counts, self.now_ns);
                self.dim.level
            };
            (0..windows).map(window).collect()
        }
    }

    /// Packets come whatever the driver does, so many a second.
    fn open(packets: u64) -> impl Fn(Moderation) -> [u64; 3] {
        move |profile| {
            let gathered = packets * u64::from(profile.period_us) / 1_000_000;
            [packets, packets * 1000, packets / gathered.clamp(1, u64::from(profile.max_count).max(1))]
        }
    }

    /// So many packets are under way, each of which is answered once its driver has been told.
    fn closed(packets: u64) -> impl Fn(Moderation) -> [u64; 3] {
        move |profile| {
            let rounds = 1_000_000 / (20 + u64::from(profile.period_us));
            [rounds * packets, rounds * packets * 1000, rounds]
        }
    }

    #[test]
    fn a_load_that_comes_anyway_is_told_ever_less_often() {
        let mut bed = Bed::new();
        let levels = bed.run(10, open(1_000_000));
        assert!(levels.is_sorted(), "{levels:?}");
        assert_eq!(levels.last(), Some(&(PROFILES.len() - 1)));
        assert_eq!(bed.run(1000, open(1_000_000)), [PROFILES.len() - 1; 1000], "it stays there");
    }

    #[test]
    fn who_waits_for_answers_is_not_kept_waiting() {
        for packets in [1, 2, 8] {
            let levels = Bed::new().run(300, closed(packets));
            assert!(levels.iter().filter(|&&level| level > 0).count() <= 3, "{packets} under way: {levels:?}");
            assert_eq!(levels[3..250], [0; 247], "{packets} under way");
        }
    }

    #[test]
    fn a_load_that_shrinks_brings_it_down_and_a_pause_down_at_once() {
        let mut bed = Bed::new();
        bed.run(10, open(1_000_000));
        let levels = bed.run(10, open(5_000));
        assert!(levels.is_sorted_by(|one, other| one >= other) && levels.last() == Some(&0), "{levels:?}");
        bed.run(10, open(1_000_000));
        assert_eq!(bed.run(1, open(0)), [0]);
    }

    #[test]
    fn a_driver_that_polls_is_left_as_it_is() {
        let levels = Bed::new().run(300, |_| [1_000_000, 1_000_000_000, 0]);
        assert!(levels.iter().filter(|&&level| level > 0).count() <= 3, "{levels:?}");
    }

    #[test]
    fn no_load_takes_it_past_its_profiles() {
        let mut bed = Bed::new();
        let mut seed = 1u64;
        for _ in 0..10_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let [packets, notifications] = [seed >> 40, seed >> 20 & 0xf_ffff];
            bed.run(1, |_| [packets, packets << 10, notifications]);
        }
    }
}
