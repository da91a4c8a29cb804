//! What `query` says of queues to those who look for a fault: `--dbg_stats`, `--latency_stats`.

use virtnet_engine::counters::{DropReason, QueueCounts, SIZE_BIN_NAMES};
use virtnet_engine::latency::Latencies;

use super::Object;
use crate::device::command_queue::Counts;

/// What is asked of queues.
#[derive(Clone, Copy, Debug, Default)]
pub struct Details {
    /// Nothing.
    pub brief: bool,
    /// Of one only.
    pub queue_id: Option<u16>,
    /// Counters for debugging as well.
    pub dbg_stats: bool,
    /// Latencies as well.
    pub latency_stats: bool,
}

/// A queue's counters for debugging.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Debug {
    /// As in [`super::Ring`].
    pub queue_index: u16,
    /// Whether its frames may be longer than Ethernet's.
    pub is_jumbo: bool,
    /// What it has done since that was last cleared.
    pub counts: QueueCounts,
    /// How long it had chains or frames in hand, since then.
    pub latencies: Latencies,
}

/// A control queue's counters for debugging.
pub(super) fn command_counters(commands: &Counts) -> Object {
    let mut debug = Object::default();
    debug.put("commands", commands.given);
    debug.put("done", commands.done);
    for (class, count) in commands.refused() {
        debug.put(&format!("refused_{class}"), count);
    }
    debug
}

impl Debug {
    pub(super) fn counters(&self) -> Object {
        let Self { is_jumbo, counts, .. } = self;
        let mut debug = Object::default();
        debug.put("jumbo_mtu", u8::from(*is_jumbo));
        for (key, count) in [
            ("packets", counts.packets),
            ("bytes", counts.bytes),
            ("descriptors", counts.descriptors),
            ("completed", counts.completed),
            ("kicks", counts.kicks),
            ("notifications_sent", counts.notifications_sent),
            ("notifications_suppressed", counts.notifications_suppressed),
            ("notifications_coalesced", counts.notifications_coalesced),
            ("violations", counts.violations),
        ] {
            debug.put(key, count);
        }
        for (reason, count) in DropReason::ALL.iter().zip(counts.drops) {
            debug.put(&format!("dropped_{}", reason.name()), count);
        }
        for (name, count) in SIZE_BIN_NAMES.iter().zip(counts.size_bins) {
            debug.put(&format!("{name}_octet_packets"), count);
        }
        debug
    }

    /// In nanoseconds.
    pub(super) fn latencies(&self) -> Object {
        let mut latencies = Object::default();
        latencies.put("count", self.latencies.count());
        for (key, part) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)] {
            latencies.put(key, self.latencies.quantile_ns(part));
        }
        latencies
    }
}
