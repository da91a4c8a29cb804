//! What `health` says.

use serde_json::Value;

use super::{Object, status};
use crate::function::{Fault, Faults, Function, Id};

/// How a function is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Health {
    /// Whether it cannot go on.
    pub is_fatal: bool,
    /// How often it was brought back from that.
    pub recovered: u64,
    /// What has gone wrong on its control side.
    pub faults: Faults,
    /// Queues that were retired because their driver broke a rule.
    pub host_read_errors: u64,
    /// Frames that a port could not send or read.
    pub dma_q_errors: u64,
}

/// The reply for one function.
pub fn health(function: &Function, device_status: u8, health: Health) -> Value {
    let mut object = Object::default();
    match function.identity.id {
        Id::Pf(pf) => object.put("pf_id", pf),
        Id::Vf { pf, vf } => {
            object.put("pf_id", pf);
            object.put("vf_id", vf);
        }
    }
    object.put("type", function.identity.class.name());
    object.put("vuid", function.identity.vuid.as_str());
    object.put("dev_status", status(device_status));
    object.put("health_status", if health.is_fatal { "Fatal" } else { "Good" });
    object.put("health_recover_counter", health.recovered);
    let mut details = Object::default();
    let mut control = Object::default();
    for fault in Fault::ALL {
        control.put(fault.key(), health.faults.of(fault));
    }
    let mut data = Object::default();
    data.put("sq_stall", health.faults.stalls);
    for key in ["dma_q_stall", "spurious_db_invoke"] {
        data.put(key, 0);
    }
    data.put("aux_not_invoked", health.faults.hangs);
    data.put("dma_q_errors", health.dma_q_errors);
    data.put("host_read_errors", health.host_read_errors);
    details.put("control_plane_errors", control);
    details.put("data_plane_errors", data);
    object.put("dev_health_details", details);
    object.into()
}
