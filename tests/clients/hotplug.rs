//! Functions that come to, and leave, a running guest: `virtnet hotplug` and `unplug` with the monitor of its QEMU.

use std::time::Duration;

use serde_json::{Value, json};

use crate::controller::Controller;
use crate::guest::{Guest, eventually};
use crate::lab::Lab;
use crate::network::Network;
use crate::process::Process;
use crate::qemu::{HOST, TCP_BYTES, bare_machine, monitored};

const FIRMWARE: [&str; 4] = [
    "VIRTIO_NET_EMULATION_ENABLE=1",
    "VIRTIO_NET_EMULATION_NUM_MSIX=4",
    "PCI_SWITCH_EMULATION_ENABLE=1",
    "PCI_SWITCH_EMULATION_NUM_PORT=4",
];
const ROOT_PORTS: [&str; 2] = ["rp0", "rp1"];

/// A machine with empty root ports, and a controller that knows it.
struct House<'a> {
    controller: Controller<'a>,
    guest: Guest,
}

impl<'a> House<'a> {
    fn new(lab: &Lab, network: &'a Network, transport: &str) -> Self {
        let guests = [json!({ "name": "vm", "qmp": "qmp", "root_ports": ROOT_PORTS })];
        let config = json!({ "lcores": "0", "idle": "adaptive", "switch": { "uplinks": [{ "tap": "vn0" }] }, "guests": guests,
                             "sockets": { "hotplug_pf": { "transport": transport } } });
        let controller = Controller::start_on(&config, Some(network), &FIRMWARE);
        network.address("vn0", &format!("{HOST}/24"));
        let kernels = lab.kernels();
        let newest = &kernels[kernels.len() - 1];
        let mut command = bare_machine(lab, newest, 1, "");
        for (n, id) in ROOT_PORTS.iter().enumerate() {
            command.args(["-device", &format!("pcie-root-port,id={id},chassis={n},slot={n}")]);
        }
        monitored(&mut command, &controller.path("qmp"));
        let mut guest = Guest::new("guest", Process::start("guest", command));
        assert_eq!(guest.wait_boot(), newest.release);
        Self { controller, guest }
    }

    /// Plugs a function, whose netdev comes up with this address. Returns its id and its netdev.
    #[track_caller]
    fn plug(&mut self, n: u8, root_port: &str) -> (u64, String) {
        let plugged = self.hotplug(n);
        assert_eq!((&plugged["guest"], &plugged["root_port"]), (&json!("vm"), &json!(root_port)), "{plugged}");
        let mac = format!("02:00:00:00:00:{n:02x}");
        let find = format!("grep -l {mac} /sys/class/net/*/address | cut -d/ -f5");
        let mut netdev = String::new();
        eventually("netdev", Duration::from_secs(20), || {
            netdev = self.guest.run(&find);
            !netdev.is_empty()
        });
        self.guest.address(&netdev, &format!("10.77.0.1{n}/24"));
        (plugged["id"].as_u64().expect("an id"), netdev)
    }

    fn hotplug(&self, n: u8) -> Value {
        self.controller.virtnet(&format!("hotplug -i mlx5_0 -m 02:00:00:00:00:{n:02x} -t 1500 -qp 1 -s 256"))
    }

    #[track_caller]
    fn has_left(&mut self, netdev: &str) {
        eventually("guest without it", Duration::from_secs(10), || {
            !self.guest.run("ls /sys/class/net").split_whitespace().any(|one| one == netdev)
        });
    }
}

/// A front end's device comes under traffic of another one's, leaves under its own, and its root port is free again.
#[test]
fn front_ends_come_to_a_running_guest_and_leave_it() {
    let Some(lab) = Lab::with(&["qemu"]) else { return };
    let Some(network) = Network::new(&lab) else { return };
    let _echo = network.echo();
    let mut house = House::new(&lab, &network, "vhost-user");
    let (first, stays) = house.plug(1, "rp0");
    house.guest.ping(HOST, 3);
    let pings = house.guest.begin(&format!("ping -I {stays} -i 0.1 -c 40 -W 3 {HOST}"));
    let plugged = house.hotplug(2);
    assert_eq!(plugged["root_port"], "rp1", "{plugged}");
    let answer = house.guest.wait(pings, Duration::from_secs(30));
    assert!(answer.text.contains(" 0% packet loss"), "beside a device that comes: {}", answer.text);

    // Both root ports have a function.
    let refused = house.controller.refused("hotplug -i mlx5_0 -m 02:00:00:00:00:03 -t 1500 -qp 1 -s 256");
    assert!(refused.contains("-1031") && refused.contains("root port"), "{refused}");
    let known = house.controller.virtnet(&format!("query -p {first} -b"))["devices"][0].clone();
    assert_eq!((&known["guest"], &known["root_port"]), (&json!("vm"), &json!("rp0")));

    // The guest releases a device that it uses.
    let pings = house.guest.begin(&format!("ping -I {stays} -i 0.1 -w 3 {HOST} >/dev/null; true"));
    house.controller.virtnet(&format!("unplug -p {first}"));
    house.guest.wait(pings, Duration::from_secs(30));
    house.has_left(&stays);
    let (_, again) = house.plug(4, "rp0");
    house.guest.run(&format!("ping -I {again} -i 0.1 -c 5 -W 3 {HOST}"));
    house.guest.tcp_echo(HOST, TCP_BYTES);
    house.guest.power_off();
    // The machine is gone, and its devices with it.
    house.controller.virtnet(&format!("unplug -p {first}"));
    house.controller.end();
}

/// A whole function comes to a running guest, which takes it away and finds it again.
#[test]
fn a_whole_function_comes_to_a_running_guest() {
    let Some(lab) = Lab::with(&["qemu"]) else { return };
    let Some(network) = Network::new(&lab) else { return };
    let _echo = network.echo();
    let mut house = House::new(&lab, &network, "vfio-user");
    let (pf, netdev) = house.plug(1, "rp0");
    house.guest.ping(HOST, 3);
    house.guest.tcp_echo(HOST, TCP_BYTES);
    let pings = house.guest.begin(&format!("ping -I {netdev} -i 0.1 -c 40 -W 3 {HOST}"));
    house.hotplug(2);
    let answer = house.guest.wait(pings, Duration::from_secs(60));
    assert!(answer.text.contains(" 0% packet loss"), "beside a function that comes: {}", answer.text);

    house.guest.run(&format!("D=$(readlink -f /sys/class/net/{netdev}/device/..); echo 1 >$D/remove"));
    house.has_left(&netdev);
    house.guest.run("echo 1 >/sys/bus/pci/rescan");
    let mut found = String::new();
    eventually("netdev", Duration::from_secs(20), || {
        found = house.guest.run("grep -l 02:00:00:00:00:01 /sys/class/net/*/address | cut -d/ -f5");
        !found.is_empty()
    });
    house.guest.address(&found, "10.77.0.11/24");
    house.guest.run(&format!("ping -I {found} -i 0.1 -c 5 -W 3 {HOST}"));

    // QEMU 11.1 ends by an assertion of its own when a guest releases a function with MSI-X. That is told from a guest that keeps it.
    house.controller.virtnet(&format!("unplug -p {pf}"));
    drop(house.guest);
    house.controller.end();
}
