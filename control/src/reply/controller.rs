//! What `list` says of the controller.

use serde_json::Value;

use super::bits::bits;
use super::{Object, features};

const QUEUE_TYPES: [(u32, &str); 2] = [(0, "SPLIT"), (1, "PACKED")];
const EVENT_MODES: [(u32, &str); 3] = [(0, "NO_MSIX_MODE"), (1, "QP_MODE"), (2, "MSIX_MODE")];

/// The queues of the largest device: 127 pairs, a control queue and room for an administration queue.
const QUEUES_MAX: u32 = 256;

/// The controller, its limits, and what its devices can offer.
pub fn controller(manager: &str, hotplug_max: u16, devices_max: u16, offered: u64, has_packed: bool) -> Value {
    let mut object = Object::default();
    object.put("emulation_manager", manager);
    object.text("max_hotplug_devices", hotplug_max);
    object.text("max_virt_net_devices", devices_max);
    object.text("max_virt_queues", QUEUES_MAX);
    // Parts of a chain: what the product's tunnel takes 6 of goes over memory that we map.
    object.text("max_tunnel_descriptors", virtnet_rings::PARTS_MAX);
    object.put("supported_features", features(offered));
    object.put("supported_virt_queue_types", bits(if has_packed { 3 } else { 1 }, &QUEUE_TYPES));
    object.put("supported_event_modes", bits(5, &EVENT_MODES));
    object.into()
}
