//! Linux guests in QEMU (emulated, so that any machine can run them): with `-netdev vhost-user` here, with whole functions in
//! [`crate::vfio_user`].

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::controller::Controller;
use crate::guest::{Guest, eventually};
use crate::lab::{Kernel, Lab};
use crate::network::Network;
use crate::process::{self, Process};

pub const HOST: &str = "10.77.0.1";
pub const TCP_BYTES: u64 = 512 << 10;
pub const VIRTIO_NET_F_MQ: usize = 22;
pub const VIRTIO_F_VERSION_1: usize = 32;
pub const VIRTIO_F_RING_PACKED: usize = 34;
const VIRTIO_F_ACCESS_PLATFORM: usize = 33;

/// Words that kernels here are started with.
pub const KERNEL_WORDS: &str = "console=ttyS0 quiet panic=-1 mitigations=off nokaslr tsc=reliable";
/// Words for a kernel that is to map and unmap memory for each buffer, where there is an IOMMU.
pub const IOMMU: &str = "intel_iommu=on iommu.strict=1";

/// A virtual machine without devices, with so many CPUs.
pub fn bare_machine(lab: &Lab, kernel: &Kernel, cpus: usize, append: &str) -> Command {
    let mut command = empty_machine(lab, cpus);
    command.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(&kernel.initramfs);
    command.args(["-append", &format!("{KERNEL_WORDS} {append}")]);
    command
}

/// The same, without a kernel.
pub fn empty_machine(lab: &Lab, cpus: usize) -> Command {
    let mut command = process::command(&[], lab.command("qemu"));
    command.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-m", "192M", "-machine", "q35,memory-backend=mem"]);
    command.args(["-object", "memory-backend-memfd,id=mem,size=192M,share=on"]);
    command.args(["-smp", &cpus.to_string()]);
    command.args(["-nographic", "-nodefaults", "-serial", "stdio"]);
    command
}

/// Lets QEMU take commands at `path`.
pub fn monitored(command: &mut Command, path: &Path) {
    command.args(["-qmp", &format!("unix:{},server=on,wait=off", path.display())]);
}

/// One virtual machine's settings.
struct Machine<'a> {
    name: &'a str,
    kernel: &'a Kernel,
    socket: &'a Path,
    mac: &'a str,
    /// QEMU makes the socket.
    listens: bool,
    packed: bool,
    /// It has the legacy interface only, and headers of ten bytes.
    legacy: bool,
    queue_pairs: usize,
    /// It is behind an IOMMU, and the kernel maps and unmaps memory for each buffer.
    iommu: bool,
    /// Where QEMU takes commands.
    monitor: Option<&'a Path>,
    /// Waits for a migration instead of booting.
    incoming: bool,
}

impl Machine<'_> {
    fn start(&self, lab: &Lab) -> Guest {
        let mut command = bare_machine(lab, self.kernel, self.queue_pairs, if self.iommu { IOMMU } else { "" });
        command.arg("-no-reboot");
        if self.iommu {
            command.args(["-device", "intel-iommu,intremap=on,device-iotlb=on"]);
        }
        let side = if self.listens { "server=on,wait=off" } else { "reconnect-ms=200" };
        command.args(["-chardev", &format!("socket,id=c0,path={},{side}", self.socket.display())]);
        command.args(["-netdev", &format!("vhost-user,id=n0,chardev=c0,queues={}", self.queue_pairs)]);
        let packed = if self.packed { "on" } else { "off" };
        let mut device = format!("virtio-net-pci,netdev=n0,romfile=,mac={},packed={packed}", self.mac);
        if self.legacy {
            device += ",disable-legacy=off,disable-modern=on,mrg_rxbuf=off";
        }
        if self.iommu {
            device += ",iommu_platform=on,ats=on,disable-legacy=on";
        }
        if self.queue_pairs > 1 {
            device += &format!(",mq=on,vectors={}", 2 * self.queue_pairs + 2);
        }
        command.args(["-device", &device]);
        if let Some(monitor) = self.monitor {
            monitored(&mut command, monitor);
        }
        if self.incoming {
            command.args(["-incoming", "defer"]);
        }
        Guest::new(self.name, Process::start(self.name, command))
    }
}

fn device(n: usize, queue_pairs: usize, qemu_listens: bool) -> Value {
    let mode = if qemu_listens { "client" } else { "server" };
    json!({ "name": format!("vm{n}"), "socket": format!("vm{n}.sock"), "mode": mode, "queue_pairs": queue_pairs,
            "port": "switch", "mac": format!("02:00:00:00:00:{n:02x}") })
}

fn config(devices: &[Value]) -> Value {
    json!({ "lcores": "0", "idle": "adaptive", "switch": { "uplinks": [{ "tap": "vn0" }] }, "devices": devices })
}

/// What the first of two guests is like, beside the second.
enum First {
    Split,
    Packed,
    Legacy,
}

/// Two guests and a TAP on the switch: every pair pings and carries TCP.
fn guests_meet(like: First, listens: [bool; 2], queue_pairs: usize, daemon_dies: bool) {
    let (packed, legacy) = ([matches!(like, First::Packed), false], [matches!(like, First::Legacy), false]);
    let Some(lab) = Lab::with(&["qemu"]) else { return };
    let Some(network) = Network::new(&lab) else { return };
    let kernels = lab.kernels();
    let (oldest, newest) = (&kernels[0], &kernels[kernels.len() - 1]);
    let devices = [device(1, queue_pairs, listens[0]), device(2, queue_pairs, listens[1])];
    let mut controller = Controller::start(&config(&devices), Some(&network));
    network.address("vn0", &format!("{HOST}/24"));
    let _echo = network.echo();

    let sockets = [controller.path("vm1.sock"), controller.path("vm2.sock")];
    let machine = |n: usize, kernel| Machine {
        name: ["first guest", "second guest"][n],
        kernel,
        socket: &sockets[n],
        mac: ["02:00:00:00:00:01", "02:00:00:00:00:02"][n],
        listens: listens[n],
        packed: packed[n],
        legacy: legacy[n],
        queue_pairs,
        iommu: false,
        monitor: None,
        incoming: false,
    };
    let mut first = machine(0, newest).start(&lab);
    let mut second = machine(1, oldest).start(&lab);
    for (n, (guest, kernel)) in [(&mut first, newest), (&mut second, oldest)].into_iter().enumerate() {
        assert_eq!(guest.wait_boot(), kernel.release);
        assert_eq!(guest.has_feature("eth0", VIRTIO_F_RING_PACKED), packed[n], "packed ring");
        assert_eq!(guest.has_feature("eth0", VIRTIO_F_VERSION_1), !legacy[n], "the legacy interface");
        assert_eq!(guest.has_feature("eth0", VIRTIO_NET_F_MQ), queue_pairs > 1, "multi-queue");
        assert_eq!(guest.queue_pairs("eth0"), queue_pairs);
        guest.address("eth0", &format!("10.77.0.1{}/24", n + 1));
    }

    first.ping(HOST, 5);
    second.ping(HOST, 5);
    second.ping("10.77.0.11", 5);
    first.tcp_echo(HOST, TCP_BYTES);
    second.tcp_echo(HOST, TCP_BYTES);
    second.echo();
    first.tcp_echo("10.77.0.12", TCP_BYTES);

    if daemon_dies {
        outlive_the_daemon(&mut controller, &network, &mut first, &mut second);
    }
    first.power_off();
    second.power_off();
    controller.end();
}

/// The daemon is killed under traffic between the guests and to the TAP, and started again.
fn outlive_the_daemon(controller: &mut Controller, network: &Network, first: &mut Guest, second: &mut Guest) {
    let to_guest = first.begin("ping -i 0.1 -w 8 10.77.0.12 | tail -n 3");
    let to_tap = second.begin(&format!("ping -i 0.1 -w 8 {HOST} | tail -n 3"));
    std::thread::sleep(Duration::from_secs(2));
    controller.kill();
    std::thread::sleep(Duration::from_millis(300));
    controller.start_again();
    network.address("vn0", &format!("{HOST}/24"));
    let answers = [first.wait(to_guest, Duration::from_secs(30)), second.wait(to_tap, Duration::from_secs(30))];
    for answer in answers {
        let lost: u32 = answer
            .text
            .split("% packet loss")
            .next()
            .and_then(|t| t.split(' ').next_back()?.parse().ok())
            .expect("ping's sum");
        assert!(lost < 60, "pings while the daemon was away and after: {}", answer.text);
    }
    first.ping("10.77.0.12", 5);
    second.ping(HOST, 5);
    first.tcp_echo(HOST, TCP_BYTES);
    first.tcp_echo("10.77.0.12", TCP_BYTES);
}

#[test]
fn guests_meet_in_the_switch_and_outlive_the_daemon() {
    // The daemon listens for the first, QEMU for the second.
    guests_meet(First::Split, [false, true], 1, true);
}

#[test]
fn packed_and_split_guests_of_two_queue_pairs_meet_in_the_switch() {
    // Not for packed rings: QEMU forgets where they stood when a back end dies without a word.
    guests_meet(First::Packed, [true, false], 2, false);
}

#[test]
fn guests_of_the_legacy_interface_and_of_the_other_meet_in_the_switch() {
    guests_meet(First::Legacy, [false, false], 1, false);
}

/// Two guests, each behind an IOMMU of its own, one with packed rings and two pairs: what they are sent waits for translations, and nothing
/// is lost. One of them unbinds its driver and binds it again, which has its rings elsewhere then.
#[test]
fn guests_behind_iommus_lose_nothing() {
    let Some(lab) = Lab::with(&["qemu"]) else { return };
    let Some(network) = Network::new(&lab) else { return };
    let kernels = lab.kernels();
    let (oldest, newest) = (&kernels[0], &kernels[kernels.len() - 1]);
    let devices = [1, 2].map(|n| {
        let mut device = device(n, n, false);
        device["features"] = json!({ "iommu": true });
        device
    });
    let controller = Controller::start(&config(&devices), Some(&network));
    network.address("vn0", &format!("{HOST}/24"));
    let _echo = network.echo();
    let sockets = [controller.path("vm1.sock"), controller.path("vm2.sock")];
    let machine = |n: usize, kernel| Machine {
        name: ["split guest", "packed guest"][n],
        kernel,
        socket: &sockets[n],
        mac: ["02:00:00:00:00:01", "02:00:00:00:00:02"][n],
        listens: false,
        packed: n == 1,
        legacy: false,
        queue_pairs: n + 1,
        iommu: true,
        monitor: None,
        incoming: false,
    };
    let mut first = machine(0, oldest).start(&lab);
    let mut second = machine(1, newest).start(&lab);
    for (n, (guest, kernel)) in [(&mut first, oldest), (&mut second, newest)].into_iter().enumerate() {
        assert_eq!(guest.wait_boot(), kernel.release);
        assert!(guest.has_feature("eth0", VIRTIO_F_ACCESS_PLATFORM), "addresses of an IOMMU");
        assert_eq!(guest.has_feature("eth0", VIRTIO_F_RING_PACKED), n == 1, "packed ring");
        guest.address("eth0", &format!("10.77.0.1{}/24", n + 1));
        // From the first one on.
        let pings = guest.run(&format!("ping -i 0.1 -c 10 -W 5 {HOST}"));
        assert!(pings.contains("10 packets transmitted, 10 packets received"), "{pings}");
    }
    second.ping("10.77.0.11", 10);
    first.tcp_echo(HOST, TCP_BYTES);
    second.tcp_echo(HOST, TCP_BYTES);
    second.echo();
    first.tcp_echo("10.77.0.12", TCP_BYTES);

    first.run("d=$(basename $(readlink -f /sys/class/net/eth0/device/..)); cd /sys/bus/pci/drivers/virtio-pci; echo $d >unbind; echo $d >bind");
    first.address("eth0", "10.77.0.11/24");
    first.ping("10.77.0.12", 5);
    for pf in [0, 1] {
        let shown = controller.virtnet(&format!("query -p {pf} --dbg_stats"))["devices"][0].clone();
        let queues = shown["enabled-queues-info"].as_array().expect("queues run");
        for queue in queues {
            assert_eq!(queue["dbg_stats"]["dropped_outside_memory"].as_u64().unwrap_or(0), 0, "{queue}");
        }
    }
    first.power_off();
    second.power_off();
    controller.end();
}

/// A guest moves to another QEMU, and its address to another device, while it pings.
#[test]
fn guest_migrates_while_it_pings() {
    let Some(lab) = Lab::with(&["qemu"]) else { return };
    let Some(network) = Network::new(&lab) else { return };
    let kernels = lab.kernels();
    let newest = &kernels[kernels.len() - 1];
    let controller = Controller::start(&config(&[device(1, 1, false), device(2, 1, true)]), Some(&network));
    network.address("vn0", &format!("{HOST}/24"));
    let _echo = network.echo();
    let sockets = [controller.path("vm1.sock"), controller.path("vm2.sock")];
    let monitors = [controller.path("source.qmp"), controller.path("destination.qmp")];
    let machine = |n: usize| Machine {
        name: ["source", "destination"][n],
        kernel: newest,
        socket: &sockets[n],
        mac: "02:00:00:00:00:01",
        listens: n == 1,
        packed: true,
        legacy: false,
        queue_pairs: 1,
        iommu: false,
        monitor: Some(&monitors[n]),
        incoming: n == 1,
    };
    let mut guest = machine(0).start(&lab);
    guest.wait_boot();
    guest.address("eth0", "10.77.0.11/24");
    guest.ping(HOST, 3);
    let mut arrival = machine(1).start(&lab);
    let mut source = Monitor::connect(&monitors[0]);
    let mut destination = Monitor::connect(&monitors[1]);

    // Writes to memory and frames in both directions, all the way through.
    guest.run(
        "ping -i 0.1 -c 1000 10.77.0.1 >/tmp/pings 2>&1 & (while :; do head -c 200000 /dev/urandom >/tmp/busy; done) &",
    );
    std::thread::sleep(Duration::from_secs(1));
    let uri = format!("unix:{}", controller.path("migration.sock").display());
    destination.execute("migrate-incoming", json!({ "uri": uri }));
    source.execute("migrate", json!({ "uri": uri }));
    eventually("end of the migration", Duration::from_secs(60), || {
        let status = source.execute("query-migrate", json!({}));
        assert_ne!(status["status"], "failed", "{status}");
        status["status"] == "completed"
    });
    eventually("run state at the destination", Duration::from_secs(20), || {
        destination.execute("query-status", json!({}))["status"] == "running"
    });
    source.execute("quit", json!({}));
    drop(guest);

    // The guest goes on where it was: the same shell, the same ping.
    std::thread::sleep(Duration::from_secs(2));
    arrival.run("kill %2; killall -INT ping; sleep 0.5");
    let text = arrival.run("grep transmitted /tmp/pings");
    let numbers: Vec<u32> = text.split(' ').filter_map(|word| word.parse().ok()).collect();
    let [sent, received] = numbers[..] else { panic!("no sum of pings: {text}") };
    assert!(sent > 9 && received + 15 > sent, "pings lost on the way: {text}");
    arrival.ping(HOST, 5);
    arrival.tcp_echo(HOST, TCP_BYTES);
    arrival.power_off();
    controller.end();
}

/// QEMU's generic front end, which knows nothing of networks: the driver has the back end's features, configuration and control queue.
#[test]
fn a_guest_speaks_to_the_back_end_through_a_front_end_that_knows_no_networks() {
    let Some(lab) = Lab::with(&["qemu"]) else { return };
    let Some(network) = Network::new(&lab) else { return };
    let kernels = lab.kernels();
    let newest = &kernels[kernels.len() - 1];
    let controller = Controller::start(&config(&[device(1, 2, false)]), Some(&network));
    network.address("vn0", &format!("{HOST}/24"));
    let _echo = network.echo();
    let mut command = bare_machine(&lab, newest, 2, "");
    command.arg("-no-reboot");
    command.args(["-chardev", &format!("socket,id=c0,path={}", controller.path("vm1.sock").display())]);
    command.args(["-device", "vhost-user-test-device-pci,chardev=c0,virtio-id=1,num_vqs=5,vq_size=256,config_size=24"]);
    let mut guest = Guest::new("guest", Process::start("guest", command));
    guest.wait_boot();
    assert_eq!(guest.run("cat /sys/class/net/eth0/address"), "02:00:00:00:00:01");
    guest.address("eth0", "10.77.0.11/24");
    guest.ping(HOST, 5);
    guest.tcp_echo(HOST, TCP_BYTES);
    let queried = || controller.virtnet("query -p 0 --dbg_stats")["devices"][0].clone();
    assert_eq!((&queried()["ctrl_mac"], &queried()["ctrl_mq"]), (&json!("02:00:00:00:00:01"), &json!("2")));
    guest.run("ethtool -L eth0 combined 1");
    assert_eq!(queried()["ctrl_mq"], "1");
    guest.run("ethtool -C eth0 rx-usecs 100 rx-frames 16");
    assert_eq!(queried()["enabled-queues-info"][0]["rq_cq_period"], "100");
    guest.ping(HOST, 5);
    // Nobody has heard of that station: its frames go to all.
    network.run("arp -s 10.77.0.99 02:00:00:00:99:99");
    let mut are_refused = |promisc: &str| {
        guest.run(&format!("ip link set eth0 promisc {promisc}"));
        let filtered = || {
            let queues = queried()["enabled-queues-info"].as_array().expect("queues run").clone();
            queues.iter().filter_map(|queue| queue["dbg_stats"]["dropped_filtered"].as_u64()).sum::<u64>()
        };
        let before = filtered();
        let ping = ["ping", "-c", "3", "-W", "1", "10.77.0.99"];
        network.command(lab.busybox()).args(ping).output().expect("busybox starts");
        filtered() >= before + 3
    };
    assert_eq!(["off", "on", "off"].map(&mut are_refused), [true, false, true]);
    guest.power_off();
    controller.end();
}

/// QEMU's command socket.
pub struct Monitor {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

impl Monitor {
    #[track_caller]
    pub fn connect(path: &Path) -> Monitor {
        let mut stream = None;
        eventually("command socket of QEMU", Duration::from_secs(20), || {
            stream = UnixStream::connect(path).ok();
            stream.is_some()
        });
        let writer = stream.expect("connected");
        writer.set_read_timeout(Some(Duration::from_secs(20))).expect("a time-out");
        let reader = BufReader::new(writer.try_clone().expect("a second handle"));
        let mut monitor = Monitor { reader, writer };
        monitor.answer("greeting", "QMP");
        monitor.execute("qmp_capabilities", json!({}));
        monitor
    }

    #[track_caller]
    pub fn execute(&mut self, command: &str, arguments: Value) -> Value {
        // All at once: QEMU obeys at the last bracket, and after "quit" takes not even the end of the line.
        let line = format!("{}\n", json!({ "execute": command, "arguments": arguments }));
        self.writer.write_all(line.as_bytes()).expect("QEMU takes commands");
        self.answer(command, "return")
    }

    /// The next message that has `key`; events in between are passed over.
    #[track_caller]
    fn answer(&mut self, what: &str, key: &str) -> Value {
        loop {
            let mut line = String::new();
            let count = self.reader.read_line(&mut line).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(count > 0, "{what}: QEMU closed its command socket");
            let message: Value = serde_json::from_str(&line).expect("QEMU speaks JSON");
            assert!(message.get("error").is_none(), "{what}: {message}");
            if let Some(value) = message.get(key) {
                return value.clone();
            }
        }
    }
}
