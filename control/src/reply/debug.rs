//! What `query` says of queues to those who look for a fault: `--dbg_stats`.

use virtnet_engine::counters::{DropReason, QueueCounts, SIZE_BIN_NAMES};

use super::Object;

/// A queue's counters for debugging.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Debug {
    /// As in [`super::Ring`].
    pub queue_index: u16,
    /// Whether its frames may be longer than Ethernet's.
    pub is_jumbo: bool,
    /// What it has done since that was last cleared.
    pub counts: QueueCounts,
}

impl Debug {
    pub(super) fn put(&self, object: &mut Object) {
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
        object.put("dbg_stats", debug);
    }
}
