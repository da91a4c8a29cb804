//! When frames are due, whatever happened to those before: the open loop.

use std::sync::Arc;

/// Fraction bits of a period.
const FRACTION_BITS: u32 = 20;

/// When frames are due.
#[derive(Clone, Debug, PartialEq)]
pub enum Schedule {
    /// Frames of every flow at equal distances, the flows evenly shifted against each other.
    Even {
        /// Nanoseconds between two frames of one flow, in 2^-20.
        period: u64,
        /// How many.
        flows: u64,
    },
    /// The frames of a capture, all of one flow, as they were captured.
    Captured {
        /// When each is due.
        timetable: Arc<Timetable>,
        /// The frame that is due at once.
        first: u64,
    },
}

impl Schedule {
    /// `pps` frames a second, all flows together: 1 to 10^9.
    pub fn new(pps: f64, flows: u16) -> Self {
        let flows = u64::from(flows.max(1));
        let period_ns = 1e9 * flows as f64 / pps;
        Schedule::Even { period: ((period_ns * f64::from(1 << FRACTION_BITS)).round() as u64).max(1), flows }
    }

    /// The same, its first frame being that of this sequence number.
    pub fn beginning_with(self, first: u64) -> Self {
        match self {
            Schedule::Captured { timetable, .. } => Schedule::Captured { timetable, first },
            even => even,
        }
    }

    /// Nanoseconds after the start at which frame `number` of `flow` is due.
    #[inline]
    pub fn due_ns(&self, flow: u16, number: u64) -> u64 {
        match self {
            Schedule::Even { period, flows } => {
                let shift = u128::from(*period) * u128::from(flow) / u128::from(*flows);
                ((u128::from(*period) * u128::from(number) + shift) >> FRACTION_BITS) as u64
            }
            Schedule::Captured { timetable, first } => timetable.at_ns(first + number) - timetable.at_ns(*first),
        }
    }

    /// How many frames of a flow are due `elapsed_ns` after the start.
    #[inline]
    pub fn count_due(&self, flow: u16, elapsed_ns: u64) -> u64 {
        match self {
            Schedule::Even { period, flows } => {
                let shift = (u128::from(*period) * u128::from(flow) / u128::from(*flows)) as u64;
                let elapsed = u128::from(elapsed_ns) << FRACTION_BITS;
                // The one at nought is due at once.
                elapsed.checked_sub(u128::from(shift)).map_or(0, |since| (since / u128::from(*period)) as u64 + 1)
            }
            Schedule::Captured { timetable, first } => timetable.count(timetable.at_ns(*first) + elapsed_ns) - first,
        }
    }
}

/// When the frames of a capture go, again and again.
#[derive(Clone, Debug, PartialEq)]
pub struct Timetable {
    /// Ascending.
    at_ns: Box<[u64]>,
    /// From one round to the next: to the last frame, and a mean gap more.
    round_ns: u64,
}

impl Timetable {
    /// Of ascending times; none where all are the same.
    pub fn new(at_ns: impl Iterator<Item = u64>) -> Option<Self> {
        let at_ns: Box<[u64]> = at_ns.collect();
        let last_ns = *at_ns.last().filter(|last| **last > 0)?;
        let round_ns = last_ns + (last_ns / (at_ns.len() as u64 - 1).max(1)).max(1);
        Some(Timetable { at_ns, round_ns })
    }

    /// How long a round lasts, in nanoseconds.
    pub fn round_ns(&self) -> u64 {
        self.round_ns
    }

    /// Nanoseconds after the first frame at which frame `number` goes.
    #[inline]
    fn at_ns(&self, number: u64) -> u64 {
        let count = self.at_ns.len() as u64;
        number / count * self.round_ns + self.at_ns[(number % count) as usize]
    }

    /// How many frames go until then, that moment included.
    #[inline]
    fn count(&self, until_ns: u64) -> u64 {
        let rest_ns = until_ns % self.round_ns;
        let of_round = self.at_ns.partition_point(|&at_ns| at_ns <= rest_ns);
        until_ns / self.round_ns * self.at_ns.len() as u64 + of_round as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_due_at_its_time_and_not_a_nanosecond_earlier() {
        for (pps, flows) in [(1.0, 1), (3.0, 1), (1e6, 1), (7.3e6, 3), (1e9, 2)] {
            let schedule = Schedule::new(pps, flows);
            for flow in 0..flows {
                for number in [0, 1, 2, 999, 1_000_000] {
                    let due = schedule.due_ns(flow, number);
                    assert!(schedule.count_due(flow, due + 1) > number, "{pps} {flow} {number}");
                    if due > 1 {
                        assert!(schedule.count_due(flow, due - 1) <= number, "{pps} {flow} {number}");
                    }
                }
            }
        }
    }

    #[test]
    fn an_hour_later_the_rate_still_holds() {
        let schedule = Schedule::new(1.23e6, 2);
        let hour_ns = 3_600_000_000_000;
        let count = schedule.count_due(0, hour_ns) + schedule.count_due(1, hour_ns);
        let ideal = 1.23e6 * 3600.0;
        assert!((count as f64 / ideal - 1.0).abs() < 1e-6, "{count}");
    }

    #[test]
    fn flows_take_turns() {
        let schedule = Schedule::new(1e6, 4);
        assert_eq!([0, 1, 2, 3].map(|flow| schedule.due_ns(flow, 5)), [20_000, 21_000, 22_000, 23_000]);
    }

    #[test]
    fn a_capture_goes_as_it_came_from_any_frame_on() {
        let timetable = Arc::new(Timetable::new([0, 0, 5, 5, 40, 100].into_iter()).unwrap());
        assert_eq!(timetable.round_ns(), 120);
        for first in 0..14 {
            let schedule = Schedule::Captured { timetable: Arc::clone(&timetable), first: 0 }.beginning_with(first);
            for number in 0..20 {
                let due = schedule.due_ns(0, number);
                let slowly = (0..200).take_while(|&other| schedule.due_ns(0, other) <= due).count() as u64;
                assert_eq!(schedule.count_due(0, due), slowly, "{first} {number}");
                assert!(due == 0 || schedule.count_due(0, due - 1) <= number, "{first} {number}");
            }
        }
        let gaps: Vec<u64> = (0..8).map(|number| timetable.at_ns(number)).collect();
        assert_eq!(gaps, [0, 0, 5, 5, 40, 100, 120, 120]);
    }

    #[test]
    fn what_was_captured_at_once_has_no_timetable() {
        assert_eq!(Timetable::new([].into_iter()), None);
        assert_eq!(Timetable::new([0, 0].into_iter()), None);
        assert!(Timetable::new([7].into_iter()).is_some_and(|timetable| timetable.round_ns() == 14));
    }
}
