//! How long a queue has chains and frames in hand, sampled: in one turn of [`crate::meter::SAMPLED`] the first of a burst is
//! followed until it is returned. Every other burst pays for two tests.

use std::sync::Arc;
use std::time::Duration;

use crate::sync::{AtomicU64, Ordering};

/// How many lengths of time are told apart: 32 ns each up to 256 ns, then four to a doubling. The last is open.
pub const BUCKETS: usize = 96;

const UNIT_NS: u64 = 32;
const PARTS: u64 = 4;

fn bucket(ns: u64) -> usize {
    let units = ns / UNIT_NS;
    if units < PARTS {
        return units as usize;
    }
    let doublings = units.ilog2() - PARTS.ilog2();
    let bucket = PARTS * u64::from(doublings) + (units >> doublings);
    (bucket as usize).min(BUCKETS - 1)
}

/// Where a bucket ends and the next one begins.
fn end_ns(bucket: usize) -> u64 {
    let bucket = bucket as u64 + 1;
    if bucket < PARTS {
        return bucket * UNIT_NS;
    }
    ((PARTS + bucket % PARTS) * UNIT_NS) << (bucket / PARTS - 1)
}

/// What was sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latencies([u64; BUCKETS]);

impl Default for Latencies {
    fn default() -> Self {
        Self([0; BUCKETS])
    }
}

impl Latencies {
    /// How many samples there are.
    pub fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// What this part of the samples, from 0 to 1, did not exceed, in nanoseconds: up to 32 ns or a quarter more than it was, and
    /// never more than about a second. None without samples.
    pub fn quantile_ns(&self, part: f64) -> Option<u64> {
        let rank = (self.count() as f64 * part).ceil().max(1.0) as u64;
        let mut below = 0;
        let reached = |count: &u64| {
            below += count;
            below >= rank
        };
        self.0.iter().position(reached).map(end_ns)
    }

    /// What was added since `base` was read.
    pub fn since(&self, base: &Self) -> Self {
        Self(std::array::from_fn(|bucket| self.0[bucket].wrapping_sub(base.0[bucket])))
    }
}

/// The writing half; the worker's that owns the queue. A sample is one word, so readers need nothing to hold them together.
#[derive(Debug)]
pub struct LatencyCounters(Arc<[AtomicU64; BUCKETS]>);

impl LatencyCounters {
    /// New ones without samples, and a reader of them.
    pub fn new() -> (Self, LatencyReader) {
        let shared = Arc::new(std::array::from_fn(|_| AtomicU64::new(0)));
        (Self(shared.clone()), LatencyReader(shared))
    }

    /// Adds a sample.
    pub fn add(&mut self, latency: Duration) {
        let word = &self.0[bucket(latency.as_nanos() as u64)];
        word.store(word.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }
}

/// The reading half.
#[derive(Clone, Debug)]
pub struct LatencyReader(Arc<[AtomicU64; BUCKETS]>);

impl LatencyReader {
    /// All samples so far.
    pub fn read(&self) -> Latencies {
        Latencies(std::array::from_fn(|bucket| self.0[bucket].load(Ordering::Relaxed)))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_narrow_and_without_gaps() {
        let mut begin_ns = 0;
        for index in 0..BUCKETS {
            let end_ns = end_ns(index);
            assert_eq!((bucket(begin_ns), bucket(end_ns - 1)), (index, index));
            assert!(end_ns - begin_ns <= UNIT_NS.max(begin_ns / PARTS), "{begin_ns} to {end_ns}");
            begin_ns = end_ns;
        }
        assert_eq!((begin_ns, bucket(begin_ns), bucket(u64::MAX)), (1 << 30, BUCKETS - 1, BUCKETS - 1));
    }

    #[test]
    fn quantiles_are_of_what_came_since() {
        let (mut counters, reader) = LatencyCounters::new();
        assert_eq!(reader.read().quantile_ns(0.5), None);
        counters.add(Duration::from_secs(3600));
        let base = reader.read();
        assert_eq!((base.count(), base.quantile_ns(1.0)), (1, Some(1 << 30)));
        for microseconds in 1..=1000 {
            counters.add(Duration::from_micros(microseconds));
        }
        let latencies = reader.read().since(&base);
        assert_eq!(latencies.count(), 1000);
        for (part, exact_ns) in [(0.0, 1_000), (0.5, 500_000), (0.9, 900_000), (0.999, 999_000), (1.0, 1_000_000)] {
            let found = latencies.quantile_ns(part).unwrap();
            assert!((exact_ns..=exact_ns * 5 / 4 + UNIT_NS).contains(&found), "{part}: {found}");
        }
    }
}
