//! What `health` says.

use serde_json::Value;

use super::{Object, status};
use crate::function::{Function, Id};

/// Errors of the data plane that we count.
#[derive(Clone, Copy, Debug, Default)]
pub struct DataPlane {
    /// Queues that were retired because their driver broke a rule.
    pub host_read_errors: u64,
    /// Frames that a port could not send or read.
    pub dma_q_errors: u64,
}

/// The reply for one function.
pub fn health(function: &Function, device_status: u8, errors: DataPlane, fatal: bool) -> Value {
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
    object.put("health_status", if fatal { "Fatal" } else { "Good" });
    object.put("health_recover_counter", function.recovered);
    let mut details = Object::default();
    let mut control = Object::default();
    for key in [
        "sf_rqt_update_err",
        "sf_drop_create_err",
        "sf_tir_create_err",
        "steer_rx_domain_err",
        "steer_rx_table_err",
        "sf_flows_apply_err",
        "aarfs_flow_init_err",
        "vlan_flow_init_err",
        "drop_cnt_config_err",
    ] {
        control.put(key, 0);
    }
    let mut data = Object::default();
    for key in ["sq_stall", "dma_q_stall", "spurious_db_invoke", "aux_not_invoked"] {
        data.put(key, 0);
    }
    data.put("dma_q_errors", errors.dma_q_errors);
    data.put("host_read_errors", errors.host_read_errors);
    details.put("control_plane_errors", control);
    details.put("data_plane_errors", data);
    object.put("dev_health_details", details);
    object.into()
}
