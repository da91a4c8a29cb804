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

#[cfg(test)]
mod tests {
    use virtnet_engine::counters::QueueCounts;

    use super::*;
    use crate::config::{Mac, Port};
    use crate::device::Spec;
    use crate::device::settings::Settings;
    use crate::function::{Identity, Seat, Socket};

    #[test]
    fn receiveqs_are_one_way_and_transmitqs_the_other() {
        let seat = Seat::Vf { pf: 1, vf: 2, per_pf: 4 };
        let identity = Identity::new("VN0", Id::Vf { pf: 1, vf: 2 }, seat, None, "mlx5_0", 0);
        let spec = Spec {
            name: "web".into(),
            queue_pairs: 2,
            queue_size_max: 256,
            mac: Mac([2; 6]),
            mtu: None,
            offered: 0,
            transitional: false,
            is_steered: true,
            settings: Settings::default(),
        };
        let (mode, transport) = Default::default();
        let socket = Socket { path: "web.sock".into(), transport, mode, permissions: 0o600 };
        let counts = [1, 10, 100, 1000].into_iter().enumerate().map(|(index, packets)| {
            let mut counts = QueueCounts { packets, bytes: packets * 60, ..QueueCounts::default() };
            counts.drops = [packets; _];
            QueueCountsOf { queue_index: index as u16, counts }
        });
        let moved = Moved::of(&Function::new(identity, spec, Port::Loopback, socket), &counts.collect::<Vec<_>>());
        let way = |packets| {
            let reasons = QueueCounts::default().drops.len() as u64;
            Way { packets, bytes: packets * 60, drops: packets * reasons }
        };
        assert_eq!((moved.rx, moved.tx), (way(101), way(1010)));
        assert_eq!((moved.pf, moved.vf, &*moved.class, &*moved.name), (1, Some(2), "VF", "web"));
        assert_eq!(serde_json::from_value::<Moved>(serde_json::json!(moved)).unwrap(), moved);
    }
}
