//! How often a function was reset.

use std::ops::AddAssign;

use crate::transport::Resetter;

/// By whom, and how often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resets([u64; Resetter::ALL.len()]);

impl Resets {
    /// Counts one.
    pub fn count(&mut self, by: Resetter) {
        self.0[by as usize] += 1;
    }

    /// How often each has.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Resetter::ALL.iter().map(|by| by.name()).zip(self.0)
    }
}

impl AddAssign for Resets {
    fn add_assign(&mut self, more: Self) {
        self.0.iter_mut().zip(more.0).for_each(|(count, more)| *count += more);
    }
}
