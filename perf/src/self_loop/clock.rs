//! The time-stamp counter, and what reading it costs.

use dpdk_sys::Eal;

/// Readings behind the calibration.
const READINGS: usize = 10_001;

/// A stopwatch that knows its own cost.
#[derive(Debug)]
pub struct Clock<'a> {
    eal: &'a Eal,
    ns_per_cycle: f64,
    overhead_cycles: u64,
}

impl<'a> Clock<'a> {
    /// Finds out what a reading costs: the median of many with nothing between them.
    pub fn new(eal: &'a Eal) -> Self {
        let mut gaps: Vec<u64> = (0..READINGS)
            .map(|_| {
                let begun = eal.cycles();
                eal.cycles() - begun
            })
            .collect();
        gaps.sort_unstable();
        let ns_per_cycle = 1e9 / eal.cycles_per_second() as f64;
        Clock { eal, ns_per_cycle, overhead_cycles: gaps[READINGS / 2] }
    }

    /// Now, in cycles.
    #[inline]
    pub fn now(&self) -> u64 {
        self.eal.cycles()
    }

    /// What lies between two readings, without the cost of reading.
    #[inline]
    pub fn between(&self, begun: u64, ended: u64) -> u64 {
        ended.saturating_sub(begun).saturating_sub(self.overhead_cycles)
    }

    /// Cycles in nanoseconds.
    pub fn ns(&self, cycles: f64) -> f64 {
        cycles * self.ns_per_cycle
    }

    /// Nanoseconds in cycles.
    pub fn cycles(&self, ns: f64) -> u64 {
        (ns / self.ns_per_cycle) as u64
    }

    /// What a reading costs, in nanoseconds: it is subtracted from every figure.
    pub fn overhead_ns(&self) -> f64 {
        self.ns(self.overhead_cycles as f64)
    }
}
