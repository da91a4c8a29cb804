//! User-mode Linux: Linux's own virtio_net in a plain process, at native speed. It acknowledges no
//! protocol feature in SET_FEATURES, so its rings start on the kick alone.

use std::path::Path;

use serde_json::{Value, json};

use crate::controller::Controller;
use crate::guest::Guest;
use crate::lab::{self, Lab};
use crate::network::Network;
use crate::process::{self, Process};

const HOST: &str = "10.77.0.1";
const VIRTIO_NET_F_CTRL_VLAN: usize = 19;
const VIRTIO_F_RING_PACKED: usize = 34;
const TCP_BYTES: u64 = 4 << 20;

/// A guest on its way up, whose device is at `socket`.
pub fn boot(lab: &Lab, name: &str, socket: &Path) -> Guest {
    let mut command = process::command(&[], lab.command("uml"));
    command.args(["mem=128M", "con=null", "con0=fd:0,fd:1", "quiet"]);
    command.arg(format!("initrd={}", lab::folder().canonicalize().expect("a lab").join("uml/initramfs").display()));
    command.arg(format!("virtio_uml.device={}:1", socket.display()));
    Guest::new(name, Process::start(name, command))
}

#[test]
fn two_guests_and_a_tap_meet_in_the_switch() {
    let Some(lab) = Lab::with(&["uml"]) else { return };
    let Some(network) = Network::new(&lab) else { return };
    let device = |n: u32| {
        json!({ "name": format!("vm{n}"), "socket": format!("vm{n}.sock"), "mode": "server", "queue_pairs": 1,
                "port": "switch", "mac": format!("02:00:00:00:00:{n:02x}"), "features": { "packed": n == 1 } })
    };
    let config = json!({ "lcores": "0", "idle": "adaptive", "switch": { "uplinks": [{ "tap": "vn0" }] },
                         "devices": [device(1), device(2)] });
    let controller = Controller::start(&config, Some(&network));
    network.address("vn0", &format!("{HOST}/24"));
    let _echo = network.echo();

    let mut first = boot(&lab, "first guest", &controller.path("vm1.sock"));
    let mut second = boot(&lab, "second guest", &controller.path("vm2.sock"));
    for (guest, n) in [(&mut first, 1), (&mut second, 2)] {
        guest.wait_boot();
        let mac = guest.run("cat /sys/class/net/eth0/address");
        assert_eq!(mac, format!("02:00:00:00:00:{n:02x}"), "the address comes from the device's configuration space");
        assert_eq!(guest.has_feature("eth0", VIRTIO_F_RING_PACKED), n == 1, "the layout that was offered");
        guest.address("eth0", &format!("10.77.0.1{n}/24"));
    }

    first.ping(HOST, 10);
    second.ping(HOST, 10);
    first.ping("10.77.0.12", 10);
    first.tcp_echo(HOST, TCP_BYTES);
    second.echo();
    first.tcp_echo("10.77.0.12", TCP_BYTES);
    network.run("ping -i 0.1 -c 5 -W 3 10.77.0.11");
    network.run("ping -i 0.1 -c 5 -W 3 10.77.0.12");

    // The socket closes without a word at power-off: the device must be ready for the next guest.
    first.power_off();
    second.ping(HOST, 5);
    let mut third = boot(&lab, "third guest", &controller.path("vm1.sock"));
    third.wait_boot();
    third.address("eth0", "10.77.0.13/24");
    third.ping("10.77.0.12", 5);
    third.tcp_echo(HOST, TCP_BYTES);
    drop((second, third));
    controller.end();
}

/// It passes its driver's control queue on, too.
#[test]
fn a_guest_receives_what_it_has_asked_for() {
    let Some(lab) = Lab::with(&["uml"]) else { return };
    let device = |n: u32| json!({ "name": format!("vm{n}"), "socket": format!("vm{n}.sock"), "port": "switch" });
    let config = json!({ "lcores": "0", "idle": "adaptive", "devices": [device(1), device(2)] });
    let controller = Controller::start(&config, None);
    let mut guests = [1, 2].map(|n| boot(&lab, &format!("guest {n}"), &controller.path(&format!("vm{n}.sock"))));
    for (guest, n) in guests.iter_mut().zip(1..) {
        guest.wait_boot();
        assert!(guest.has_feature("eth0", VIRTIO_NET_F_CTRL_VLAN));
        guest.address("eth0", &format!("10.77.0.1{n}/24"));
    }
    let [mut first, mut second] = guests;
    receives_what_it_has_asked_for(&controller, &mut first, &mut second);
    drop((first, second));
    controller.end();
}

/// The first guest, of PF 0, gets frames of the VLANs, to the addresses and to the groups that its driver has asked for. Both have an
/// address, 10.77.0.11 and 10.77.0.12.
#[track_caller]
pub fn receives_what_it_has_asked_for(controller: &Controller, first: &mut Guest, second: &mut Guest) {
    let join = |guest: &mut Guest, n: u32, vlan: u32| {
        guest.run(&format!("ip link add link eth0 name eth0.{vlan} type vlan id {vlan}"));
        guest.address(&format!("eth0.{vlan}"), &format!("10.77.{vlan}.1{n}/24"));
    };
    join(second, 2, 5);
    join(second, 2, 6);
    first.ping("10.77.0.12", 5);
    join(first, 1, 5);
    first.ping("10.77.5.12", 5);

    let refused = || {
        let queried = controller.virtnet("query -p 0 -q 0 --dbg_stats");
        let refused = queried.pointer("/devices/0/enabled-queues-info/0/dbg_stats/dropped_filtered");
        refused.and_then(Value::as_u64).expect("a number")
    };
    let mut is_refused = |vlan: u32| {
        let before = refused();
        second.run(&format!("! ping -c 2 -W 1 10.77.{vlan}.11"));
        refused() >= before + 2
    };
    assert!(is_refused(6));
    join(first, 1, 6);
    first.ping("10.77.6.12", 5);
    first.run("ip link del eth0.5");
    assert!(is_refused(5));
    first.ping("10.77.6.12", 5);

    // Nobody has heard of that station: its frames go to all, as those to a group do.
    second.run("arp -s 10.77.0.99 02:00:00:00:99:99 && arp -s 10.77.0.98 33:33:ff:00:00:99");
    let mut are_refused = |address: &str| {
        let before = refused();
        second.run(&format!("! ping -i 0.1 -c 5 -W 1 {address}"));
        refused() >= before + 3
    };
    assert!(are_refused("10.77.0.99"));
    first.run("ip link set eth0 promisc on");
    assert!(!are_refused("10.77.0.99"));
    first.run("ip link set eth0 promisc off");
    assert!(are_refused("10.77.0.99") && are_refused("10.77.0.98"));
    // Who has that address is in that group.
    first.run("ip addr add fe80::99/64 dev eth0");
    assert!(!are_refused("10.77.0.98") && are_refused("10.77.0.99"));
    first.run("ip addr del fe80::99/64 dev eth0");
    assert!(are_refused("10.77.0.98"));
    first.run("ifconfig eth0 allmulti");
    assert!(!are_refused("10.77.0.98") && are_refused("10.77.0.99"));
    first.run("ifconfig eth0 -allmulti");
    assert!(are_refused("10.77.0.98"));
    // A station is found by the group of its address.
    first.run("ip addr add fe80::98/64 dev eth0");
    second.run("ping6 -c 1 -w 10 fe80::98%eth0");
    first.run("ip link set eth0 address 02:00:00:00:77:01");
    second.run("arp -d 10.77.6.11");
    second.ping("10.77.6.11", 5);
    assert_eq!(controller.virtnet("query -p 0 -b")["devices"][0]["ctrl_mac"], "02:00:00:00:77:01");
}
