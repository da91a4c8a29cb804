//! What came over a device's socket.

use std::collections::BTreeMap;

/// Counted over one session, or all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages taken, good or bad.
    pub messages: u64,
    /// Times that a device went on after it had needed a reset.
    pub recoveries: u64,
    refused: BTreeMap<&'static str, u64>,
}

impl Counters {
    /// Counts one refusal, by its outcome.
    pub fn count(&mut self, outcome: &'static str) {
        *self.refused.entry(outcome).or_default() += 1;
    }

    /// Adds what was counted elsewhere.
    pub fn add(&mut self, other: &Self) {
        self.messages += other.messages;
        self.recoveries += other.recoveries;
        for (outcome, count) in &other.refused {
            *self.refused.entry(outcome).or_default() += count;
        }
    }

    /// Messages refused, for whatever reason.
    pub fn refused(&self) -> u64 {
        self.refused.values().sum()
    }

    /// Messages refused by outcome, those that did occur.
    pub fn by_outcome(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.refused.iter().map(|(outcome, count)| (*outcome, *count))
    }
}
