//! When frames are due, whatever happened to those before: the open loop.

/// Fraction bits of a period.
const FRACTION_BITS: u32 = 20;

/// Frames of every flow at equal distances, the flows evenly shifted against each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Nanoseconds between two frames of one flow, in 2^-20.
    period: u64,
    flows: u64,
}

impl Schedule {
    /// `pps` frames a second, all flows together: 1 to 10^9.
    pub fn new(pps: f64, flows: u16) -> Self {
        let flows = u64::from(flows.max(1));
        let period_ns = 1e9 * flows as f64 / pps;
        Schedule { period: ((period_ns * f64::from(1 << FRACTION_BITS)).round() as u64).max(1), flows }
    }

    /// Nanoseconds after the start at which frame `number` of `flow` is due.
    #[inline]
    pub fn due_ns(&self, flow: u16, number: u64) -> u64 {
        let shift = u128::from(self.period) * u128::from(flow) / u128::from(self.flows);
        ((u128::from(self.period) * u128::from(number) + shift) >> FRACTION_BITS) as u64
    }

    /// How many frames of a flow are due `elapsed_ns` after the start.
    #[inline]
    pub fn count_due(&self, flow: u16, elapsed_ns: u64) -> u64 {
        let shift = (u128::from(self.period) * u128::from(flow) / u128::from(self.flows)) as u64;
        let elapsed = u128::from(elapsed_ns) << FRACTION_BITS;
        // The one at nought is due at once.
        elapsed.checked_sub(u128::from(shift)).map_or(0, |since| (since / u128::from(self.period)) as u64 + 1)
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
}
