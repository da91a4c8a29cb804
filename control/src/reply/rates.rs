//! What `rates` says: how much each function has moved. Who asks twice knows how fast.

use serde::{Deserialize, Serialize};
use virtnet_engine::QueueCountsOf;

use crate::function::{Function, Id};

/// The reply.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// When this was read, on the machine's monotonic clock.
    pub seconds: f64,
    /// PFs by id, then VFs.
    pub functions: Vec<Moved>,
}

/// What a function has moved since it is there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Moved {
    /// Its id, or its PF's.
    pub pf: u16,
    /// Which of that PF's VFs it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vf: Option<u16>,
    /// Its kind, as other replies name it.
    #[serde(rename = "type")]
    pub class: String,
    /// Its unique name.
    pub vuid: String,
    /// What it is called in the configuration and the log.
    pub name: String,
    /// To its driver.
    pub rx: Way,
    /// From its driver.
    pub tx: Way,
}

/// One way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Way {
    /// Frames that went through.
    pub packets: u64,
    /// Their bytes, net headers left out.
    pub bytes: u64,
    /// Frames that went no further.
    pub drops: u64,
}

impl Moved {
    /// What a function's queues have counted.
    pub fn of(function: &Function, counts: &[QueueCountsOf]) -> Self {
        let way = |side| {
            let mut way = Way::default();
            for queue in counts.iter().filter(|queue| queue.queue_index % 2 == side) {
                way.packets += queue.counts.packets;
                way.bytes += queue.counts.bytes;
                way.drops += queue.counts.dropped();
            }
            way
        };
        let identity = &function.identity;
        Self {
            pf: identity.id.pf(),
            vf: if let Id::Vf { vf, .. } = identity.id { Some(vf) } else { None },
            class: identity.class.name().into(),
            vuid: identity.vuid.clone(),
            name: function.spec.name.clone(),
            rx: way(0),
            tx: way(1),
        }
    }
}
