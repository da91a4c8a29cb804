//! Counters as operators switch them, over the engine's, which always count.

use virtnet_engine::QueueCountsOf;
use virtnet_engine::counters::QueueCounts;

/// Counters that begin at zero when they are enabled, and stand still when they are disabled.
#[derive(Clone, Debug)]
pub enum Counting {
    /// Since they stood here.
    Enabled(Vec<QueueCountsOf>),
    /// What they came to.
    Disabled(Vec<QueueCountsOf>),
}

impl Default for Counting {
    fn default() -> Self {
        Self::Disabled(Vec::new())
    }
}

impl Counting {
    /// Whether they count.
    pub fn is_enabled(&self) -> bool {
        matches!(self, Self::Enabled(_))
    }

    /// As replies say it.
    pub fn name(&self) -> &'static str {
        if self.is_enabled() { "Enabled" } else { "Disabled" }
    }

    /// Starts or stops them; whoever counts already goes on.
    pub fn set(&mut self, enabled: bool, now: &[QueueCountsOf]) {
        if enabled && !self.is_enabled() {
            *self = Self::Enabled(now.to_vec());
        } else if !enabled && self.is_enabled() {
            *self =
                Self::Disabled(now.iter().map(|queue| QueueCountsOf { counts: self.of(queue), ..*queue }).collect());
        }
    }

    /// What they say of a queue that the engine has counted so much of.
    pub fn of(&self, now: &QueueCountsOf) -> QueueCounts {
        let at = |queues: &[QueueCountsOf]| {
            let found = queues.iter().find(|queue| queue.queue_index == now.queue_index);
            found.map_or_else(QueueCounts::default, |queue| queue.counts)
        };
        match self {
            Self::Enabled(base) => now.counts.since(&at(base)),
            Self::Disabled(last) => at(last),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(packets: u64) -> QueueCountsOf {
        QueueCountsOf { queue_index: 2, counts: QueueCounts { packets, ..QueueCounts::default() } }
    }

    #[test]
    fn they_begin_at_zero_and_stay_when_disabled() {
        let mut counting = Counting::default();
        assert_eq!(counting.of(&queue(7)).packets, 0);
        counting.set(true, &[queue(7)]);
        assert_eq!((counting.name(), counting.of(&queue(17)).packets), ("Enabled", 10));
        counting.set(true, &[queue(17)]);
        assert_eq!(counting.of(&queue(17)).packets, 10, "enabled twice is enabled once");
        counting.set(false, &[queue(27)]);
        assert_eq!((counting.name(), counting.of(&queue(99)).packets), ("Disabled", 20));
        counting.set(true, &[queue(100)]);
        assert_eq!(counting.of(&queue(101)).packets, 1);
    }

    #[test]
    fn a_queue_that_came_later_has_its_own_count() {
        let mut counting = Counting::default();
        counting.set(true, &[]);
        assert_eq!(counting.of(&queue(3)).packets, 3);
    }
}
