//! What `query` and `stats` say of queues.

use serde_json::Value;
use virtnet_engine::counters::{DropReason, QueueCounts, SIZE_BIN_NAMES, SIZE_BINS};
use virtnet_engine::moderation::Moderation;

use super::Object;
use super::debug::{Debug, Details, command_counters};
use super::function::put_id;
use crate::device::command_queue::Counts;
use crate::function::Id;

/// A queue that runs.
#[derive(Clone, Debug, Default)]
pub struct Ring {
    /// 2 × pair is a receiveq, 2 × pair + 1 a transmitq; the control queue comes last.
    pub index: u16,
    /// Descriptors.
    pub size: u16,
    /// Its MSI-X vector, 0xffff for none, or where a front end keeps it for itself.
    pub vector: u16,
    /// Whether its driver has enabled it.
    pub enabled: bool,
    /// Where its descriptor, driver and device areas are, as the front end says.
    pub areas: [u64; 3],
    /// How its notifications are held back at present; none of a control queue.
    pub moderation: Option<Moderation>,
    /// What it has done; not known of a control queue.
    pub counts: Option<QueueCounts>,
    /// Of a control queue or an administration virtqueue: what came of commands.
    pub commands: Option<Counts>,
    /// Of a receiveq: its frames by size, as the packet counters have them.
    pub size_bins: Option<[u64; SIZE_BINS]>,
}

/// A list of queues, or one of them.
pub(super) fn rings(rings: &[Ring], details: &Details, debug: &[Debug]) -> Value {
    let chosen = rings.iter().filter(|ring| details.queue_id.is_none_or(|id| id == ring.index));
    let one = |ring: &Ring| {
        let mut object = Object::default();
        object.text("index", ring.index);
        object.text("size", ring.size);
        object.put("msix_vector", format!("{:#x}", ring.vector));
        object.text("enable", u8::from(ring.enabled));
        object.text("notify_offset", ring.index);
        for (key, address) in ["descriptor_address", "driver_address", "device_address"].into_iter().zip(ring.areas) {
            object.hex(key, address);
        }
        put_counts(&mut object, ring);
        put_moderation(&mut object, ring.moderation);
        if let Some(commands) = ring.commands.filter(|_| details.dbg_stats) {
            object.put("dbg_stats", command_counters(&commands));
        }
        if let Some(debug) = debug.iter().find(|debug| ring.counts.is_some() && debug.queue_index == ring.index) {
            if details.dbg_stats {
                object.put("dbg_stats", debug.counters());
            }
            if details.latency_stats {
                object.put("latency_stats", debug.latencies());
            }
        }
        Value::from(object)
    };
    chosen.map(one).collect()
}

/// The reply of `stats`.
pub fn stats(id: Id, packet_counters: &str, rings: &[Ring], queue_id: Option<u16>) -> Value {
    let chosen = rings.iter().filter(|ring| queue_id.is_none_or(|id| id == ring.index));
    let one = |ring: &Ring| {
        let mut object = Object::default();
        object.put("VQ Index", ring.index);
        for (name, count) in SIZE_BIN_NAMES.iter().zip(ring.size_bins.into_iter().flatten()) {
            object.put(&format!("rx_{name}_octet_packets"), count);
        }
        put_counts(&mut object, ring);
        object.text("err_handler_schd_num", 0);
        put_moderation(&mut object, ring.moderation);
        Value::from(object)
    };
    let queues: Value = chosen.map(one).collect();
    let mut device = Object::default();
    put_id(&mut device, id);
    device.put("packet_counters", packet_counters);
    device.put("queues-stats", queues);
    let mut object = Object::default();
    object.put("device", device);
    object.into()
}

fn put_counts(object: &mut Object, ring: &Ring) {
    let counts = ring.counts.unwrap_or_default();
    let drops = |reasons: &[DropReason]| reasons.iter().map(|&reason| counts.drops[reason as usize]).sum::<u64>();
    object.text("received_desc", counts.descriptors);
    object.text("completed_desc", counts.completed);
    object.text("bad_desc_errors", counts.violations + drops(&[DropReason::WrongDirection]));
    object.text("error_cqes", drops(&[DropReason::PortError]));
    object.text("exceed_max_chain", drops(&[DropReason::TooManyParts]));
    let invalid = [DropReason::MalformedHeader, DropReason::TooShort, DropReason::TooLong, DropReason::OutsideMemory];
    object.text("invalid_buffer", drops(&invalid));
    object.text("batch_number", 0);
    object.text("dma_q_used_number", 0);
    object.text("handler_schd_number", counts.kicks);
    object.text("aux_handler_schd_number", counts.notifications_sent);
    object.text("max_post_desc_number", 0);
    object.text("total_bytes", counts.bytes);
}

fn put_moderation(object: &mut Object, moderation: Option<Moderation>) {
    let Moderation { period_us, max_count, .. } = moderation.unwrap_or_default();
    object.text("rq_cq_max_count", max_count);
    object.text("rq_cq_period", period_us);
    object.text("rq_cq_period_mode", moderation.map_or(0, |moderation| moderation.mode as u8));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_receiveqs_have_sizes_of_frames() {
        // Of one pair: the control queue has an even index, too.
        let rings = [Some([3; SIZE_BINS]), None, None];
        let rings = (0..).zip(rings).map(|(index, size_bins)| Ring { index, size_bins, ..Ring::default() });
        let stats = stats(Id::Pf(0), "Enabled", &rings.collect::<Vec<_>>(), None);
        let queues = stats["device"]["queues-stats"].as_array().unwrap();
        let sized = |queue: &Value| queue.get("rx_64_or_less_octet_packets").cloned();
        assert_eq!(queues.iter().map(sized).collect::<Vec<_>>(), [Some(3.into()), None, None]);
    }
}
