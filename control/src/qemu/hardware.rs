//! What stands for a function in QEMU.

use serde_json::{Value, json};

use crate::config::{Mode, Transport};
use crate::function::{Function, Id};
use virtnet_rings::spec::virtq::VIRTIO_F_RING_PACKED;

/// The longest queue of QEMU's virtio-net-pci.
const QUEUE_SIZE_MAX: u16 = 1024;
/// How often QEMU looks for a back end that has left, in ms.
const RECONNECT_MS: u32 = 500;

/// One object of QEMU's.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) id: String,
    /// The command that makes it, and the one that removes it by its id.
    pub(super) add: &'static str,
    pub(super) remove: &'static str,
    pub(super) arguments: Value,
    /// The option that makes it at the start, and its value.
    option: &'static str,
    value: String,
}

impl Part {
    fn new(id: String, [add, remove, option]: [&'static str; 3], arguments: Value, value: String) -> Self {
        Self { id, add, remove, arguments, option, value }
    }

    /// Whether its guest has a say in its removal.
    pub(super) fn is_device(&self) -> bool {
        self.add == "device_add"
    }
}

/// All of them, in the order they are made in.
#[derive(Debug)]
pub(super) struct Hardware {
    pub(super) parts: Vec<Part>,
}

impl Hardware {
    /// Of a function, below a root port or where QEMU puts it.
    pub(super) fn of(function: &Function, root_port: Option<&str>) -> Self {
        let id = match function.identity.id {
            Id::Pf(pf) => format!("virtnet-pf{pf}"),
            Id::Vf { pf, vf } => format!("virtnet-pf{pf}vf{vf}"),
        };
        // QEMU may be in another folder.
        let path = std::path::absolute(&function.socket.path).unwrap_or_else(|_| function.socket.path.clone());
        let path = path.display().to_string();
        let mut parts = Vec::new();
        let mut device = match function.socket.transport {
            Transport::VfioUser => {
                json!({ "driver": "vfio-user-pci", "socket": { "type": "unix", "path": path } })
            }
            Transport::VhostUser => {
                let [chardev, netdev] = ["chardev", "netdev"].map(|kind| format!("{id}-{kind}"));
                parts = vec![chardev_part(&chardev, function, &path), netdev_part(&netdev, &chardev, function)];
                virtio_net(function, &netdev)
            }
        };
        device["id"] = json!(id);
        if let Some(root_port) = root_port {
            device["bus"] = json!(root_port);
        }
        let value = device.to_string();
        parts.push(Part::new(id, ["device_add", "device_del", "-device"], device, value));
        Self { parts }
    }
}

fn chardev_part(id: &str, function: &Function, path: &str) -> Part {
    let address = json!({ "type": "unix", "data": { "path": path } });
    // Who of the two listens is the other one here.
    let (data, side) = match function.socket.mode {
        Mode::Server => {
            let data = json!({ "addr": address, "server": false, "reconnect-ms": RECONNECT_MS });
            (data, format!("reconnect-ms={RECONNECT_MS}"))
        }
        Mode::Client => (json!({ "addr": address, "server": true, "wait": false }), "server=on,wait=off".to_owned()),
    };
    let arguments = json!({ "id": id, "backend": { "type": "socket", "data": data } });
    // In this option's value a comma is doubled.
    let value = format!("socket,id={id},path={},{side}", path.replace(',', ",,"));
    Part::new(id.to_owned(), ["chardev-add", "chardev-remove", "-chardev"], arguments, value)
}

fn netdev_part(id: &str, chardev: &str, function: &Function) -> Part {
    let arguments = json!({ "type": "vhost-user", "id": id, "chardev": chardev, "queues": function.spec.queue_pairs });
    let value = arguments.to_string();
    Part::new(id.to_owned(), ["netdev_add", "netdev_del", "-netdev"], arguments, value)
}

fn virtio_net(function: &Function, netdev: &str) -> Value {
    let spec = &function.spec;
    let size = spec.queue_size_max.min(QUEUE_SIZE_MAX);
    let mut device = json!({
        "driver": "virtio-net-pci",
        "netdev": netdev,
        "mac": spec.mac.to_string(),
        "packed": spec.features() & 1 << VIRTIO_F_RING_PACKED != 0,
        "rx_queue_size": size,
        "tx_queue_size": size,
    });
    if spec.queue_pairs > 1 {
        device["mq"] = json!(true);
        device["vectors"] = json!(2 * u32::from(spec.queue_pairs) + 2);
    }
    if let Some(mtu) = spec.mtu {
        device["host_mtu"] = json!(mtu);
    }
    if spec.transitional {
        device["disable-legacy"] = json!("off");
    }
    device
}

/// The arguments that a QEMU is started with that is to have a device of a function from the start.
pub fn arguments(function: &Function) -> Vec<String> {
    let parts = Hardware::of(function, None).parts;
    parts.into_iter().flat_map(|part| [part.option.to_owned(), part.value]).collect()
}
