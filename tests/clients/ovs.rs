//! Open vSwitch's bridge in user space, with functions' representors as its ports: the product's guide, word for word.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::controller::Controller;
use crate::guest::{Guest, eventually};
use crate::lab::Lab;
use crate::network::Network;
use crate::process::Process;
use crate::uml;

const HOST: &str = "10.77.0.1";
const TCP_BYTES: u64 = 1 << 20;
const FIRMWARE: [&str; 7] = [
    "VIRTIO_NET_EMULATION_ENABLE=1",
    "VIRTIO_NET_EMULATION_NUM_PF=1",
    "VIRTIO_NET_EMULATION_NUM_MSIX=4",
    "VIRTIO_NET_EMULATION_NUM_VF=1",
    "VIRTIO_NET_EMULATION_NUM_VF_MSIX=4",
    "PCI_SWITCH_EMULATION_ENABLE=1",
    "PCI_SWITCH_EMULATION_NUM_PORT=2",
];

/// A bridge, `br0`, and the two daemons behind it.
struct Bridge<'a> {
    lab: &'a Lab,
    network: &'a Network,
    folder: tempfile::TempDir,
    _daemons: [Process; 2],
}

impl<'a> Bridge<'a> {
    /// Makes it, with `settings` of Open vSwitch as a whole.
    #[track_caller]
    fn new(lab: &'a Lab, network: &'a Network, settings: &[&str]) -> Bridge<'a> {
        let folder = tempfile::Builder::new().prefix("ovs-").tempdir().expect("a folder");
        let command = |program: &str, words: &[&str]| command(lab, network, folder.path(), program, words);
        done(command("ovsdb-tool", &["create"]).arg(folder.path().join("conf.db")));
        let socket = folder.path().join("db.sock");
        let mut database = command("ovsdb-server", &[&format!("--remote=punix:{}", socket.display())]);
        database.arg(folder.path().join("conf.db"));
        let database = Process::start("ovsdb-server", database);
        eventually("database of Open vSwitch", Duration::from_secs(10), || socket.exists());
        done(&mut command("ovs-vsctl", &[&["--no-wait", "init"], settings].concat()));
        let switch = Process::start("ovs-vswitchd", command("ovs-vswitchd", &[]));
        done(&mut command("ovs-vsctl", &["add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev"]));
        network.address("br0", &format!("{HOST}/24"));
        Bridge { lab, network, folder, _daemons: [database, switch] }
    }

    /// Makes a representor one of its ports, as the guide does.
    #[track_caller]
    fn add(&self, representor: &str) {
        self.vsctl(&["add-port", "br0", representor]);
        self.network.run(&format!("ip link set dev {representor} up"));
    }

    #[track_caller]
    fn remove(&self, representor: &str) {
        self.vsctl(&["del-port", "br0", representor]);
    }

    #[track_caller]
    fn vsctl(&self, words: &[&str]) {
        done(&mut command(self.lab, self.network, self.folder.path(), "ovs-vsctl", words));
    }
}

fn command(lab: &Lab, network: &Network, folder: &Path, program: &str, words: &[&str]) -> Command {
    let mut command = network.command(&lab.command("ovs"));
    command.arg(program).args(words);
    for folder_of in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"] {
        command.env(folder_of, folder);
    }
    command
}

/// Runs a command that must succeed, and soon.
#[track_caller]
fn done(command: &mut Command) {
    let output = command.output().expect("Open vSwitch is in the lab");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Plugs a PF, and returns the name of its representor.
#[track_caller]
fn plug(controller: &Controller, mac: &str) -> String {
    let plugged = controller.virtnet(&format!("hotplug -i mlx5_0 -m {mac} -t 1500 -qp 1 -s 1024"));
    assert_eq!((&plugged["errno"], &plugged["mac"]), (&json!(0), &json!(mac)), "{plugged}");
    let sight = controller.virtnet(&format!("query -p {} -b", plugged["id"]));
    assert_eq!(sight["devices"][0]["sf_rep_net_device"], plugged["sf_rep_net_device"], "{sight}");
    assert_ne!(sight["devices"][0]["sf_rep_net_ifindex"], 0, "{sight}");
    plugged["sf_rep_net_device"].as_str().expect("a name").to_owned()
}

fn config(port: &str) -> serde_json::Value {
    json!({ "lcores": "0", "idle": "adaptive", "sf_port": { "static_pf": port, "hotplug_pf": port, "vf": port } })
}

/// Boots a guest for each socket, with the addresses 10.77.0.11 and on.
fn boot(lab: &Lab, controller: &Controller, sockets: &[&str]) -> Vec<Guest> {
    let mut guests: Vec<_> = sockets.iter().map(|name| uml::boot(lab, name, &controller.path(name))).collect();
    for (n, guest) in guests.iter_mut().enumerate() {
        guest.wait_boot();
        guest.address("eth0", &format!("10.77.0.1{}/24", n + 1));
    }
    guests
}

/// Everyone pings, and has TCP with, the host and the first.
#[track_caller]
fn meet(network: &Network, guests: &mut [Guest]) {
    let _echo = network.echo();
    let (first, others) = guests.split_first_mut().expect("a guest");
    first.echo();
    first.ping(HOST, 5);
    first.tcp_echo(HOST, TCP_BYTES);
    for (n, guest) in others.iter_mut().enumerate() {
        guest.ping(HOST, 5);
        guest.ping("10.77.0.11", 5);
        first.ping(&format!("10.77.0.1{}", n + 2), 5);
        network.run(&format!("ping -i 0.1 -c 5 -W 3 10.77.0.1{}", n + 2));
        guest.tcp_echo(HOST, TCP_BYTES);
        guest.tcp_echo("10.77.0.11", TCP_BYTES);
    }
}

#[test]
fn functions_of_each_kind_meet_in_a_bridge() {
    let Some(lab) = Lab::with(&["uml", "ovs"]) else { return };
    let Some(network) = Network::new(&lab) else { return };
    let bridge = Bridge::new(&lab, &network, &[]);
    let mut controller = Controller::start_on(&config("tap"), Some(&network), &FIRMWARE);
    let plugged = ["0C:C4:7A:FF:22:93", "0C:C4:7A:FF:22:94"].map(|mac| plug(&controller, mac));
    assert_eq!(plugged, ["en3f0pf0sf2000", "en3f0pf0sf2001"]);
    controller.virtnet("sriov -p 0 -n 1");
    for representor in plugged.iter().map(String::as_str).chain(["en3f0pf0sf1000", "en3f0pf0sf3000"]) {
        bridge.add(representor);
    }
    let mut guests = boot(&lab, &controller, &["pf1.sock", "pf2.sock", "pf0.sock", "pf0vf0.sock"]);
    assert_eq!(guests[0].run("cat /sys/class/net/eth0/address"), "0c:c4:7a:ff:22:93");
    meet(&network, &mut guests);
    drop(guests);

    // Functions are back after the controller's death, as netdevs of the same names that the bridge has to be told of.
    controller.kill();
    controller.start_again();
    for representor in [&plugged[0], "en3f0pf0sf3000"] {
        bridge.remove(representor);
        bridge.add(representor);
    }
    let mut guests = boot(&lab, &controller, &["pf1.sock", "pf0vf0.sock"]);
    guests[0].ping(HOST, 3);
    guests[0].ping("10.77.0.12", 3);
    drop(guests);
    controller.end();
}

/// Open vSwitch takes frames unfinished when it is told to, and so passes them on whole.
#[test]
fn unfinished_frames_pass_a_bridge_that_takes_them() {
    let Some(lab) = Lab::with(&["uml", "ovs"]) else { return };
    let Some(network) = Network::new(&lab) else { return };
    let settings = ["--", "set", "Open_vSwitch", ".", "other_config:userspace-tso-enable=true"];
    let bridge = Bridge::new(&lab, &network, &settings);
    let controller = Controller::start_on(&config("tap_offload"), Some(&network), &FIRMWARE);
    for mac in ["0C:C4:7A:FF:22:93", "0C:C4:7A:FF:22:94"] {
        bridge.add(&plug(&controller, mac));
    }
    let mut guests = boot(&lab, &controller, &["pf1.sock", "pf2.sock"]);
    meet(&network, &mut guests);
    drop(guests);
    controller.end();
}
