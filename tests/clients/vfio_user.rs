//! Linux guests in QEMU that see whole PCI functions, through `-device vfio-user-pci`.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::controller::Controller;
use crate::guest::{Guest, eventually};
use crate::lab::{Kernel, Lab};
use crate::network::Network;
use crate::process::Process;
use crate::qemu::{
    HOST, IOMMU, Monitor, TCP_BYTES, VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1, VIRTIO_NET_F_MQ, bare_machine, monitored,
};
use crate::uml::receives_what_it_has_asked_for;

const VIRTIO_F_NOTIFICATION_DATA: usize = 38;
const VIRTIO_F_ADMIN_VQ: usize = 41;
const VIRTIO_NET_F_HASH_REPORT: usize = 57;
const VIRTIO_NET_F_RSS: usize = 60;

/// The function's folder in the guest's sysfs.
const FUNCTION: &str = "$(readlink -f /sys/class/net/eth0/device/..)";
/// Its driver's.
const DRIVER: &str = "/sys/bus/pci/drivers/virtio-pci";

/// One virtual machine with one function.
struct Machine<'a> {
    name: &'a str,
    kernel: &'a Kernel,
    socket: &'a Path,
    cpus: usize,
    /// That of a second one.
    second: Option<&'a Path>,
    /// Words for its kernel.
    append: &'a str,
    /// The function is behind an IOMMU, and the kernel maps and unmaps memory for each buffer.
    iommu: bool,
    /// Nobody else can map its memory.
    private: bool,
    /// Where QEMU takes commands; then a reset does not end it.
    monitor: Option<&'a Path>,
}

impl Machine<'_> {
    fn start(&self, lab: &Lab) -> Guest {
        let append = if self.iommu { format!("{} {IOMMU}", self.append) } else { self.append.to_owned() };
        let mut command = bare_machine(lab, self.kernel, self.cpus, &append);
        if self.iommu {
            command.args(["-device", "intel-iommu,caching-mode=on"]);
        }
        if self.private {
            command.args(["-object", "memory-backend-ram,id=own,size=192M", "-machine", "memory-backend=own"]);
        }
        for path in [Some(self.socket), self.second].into_iter().flatten() {
            let socket = json!({ "type": "unix", "path": path });
            command.args(["-device", &json!({ "driver": "vfio-user-pci", "socket": socket }).to_string()]);
        }
        match self.monitor {
            Some(monitor) => monitored(&mut command, monitor),
            None => drop(command.arg("-no-reboot")),
        }
        Guest::new(self.name, Process::start(self.name, command))
    }
}

/// Their frames may have 9000 bytes.
fn device(n: usize, queue_pairs: usize, packed: bool) -> Value {
    json!({ "name": format!("vm{n}"), "socket": format!("vm{n}.sock"), "transport": "vfio-user", "mode": "server",
            "queue_pairs": queue_pairs, "port": "switch", "mac": format!("02:00:00:00:00:{n:02x}"), "mtu": 9000,
            "features": { "packed": packed, "hash_report": queue_pairs == 1 } })
}

/// What the guest's kernel says of the function: one file of its folder.
#[track_caller]
fn seen(guest: &mut Guest, file: &str) -> String {
    guest.run(&format!("cat {FUNCTION}/{file}"))
}

/// Interrupts of the first function's that the guest has had, by the kind of its controller.
#[track_caller]
fn interrupts(guest: &mut Guest, kind: &str) -> Vec<u64> {
    let text = guest.run("grep virtio0 /proc/interrupts");
    let counts = |line: &str| line.split_whitespace().skip(1).map_while(|word| word.parse::<u64>().ok()).sum();
    text.lines().filter(|line| line.contains(kind)).map(counts).collect()
}

/// How many frames have come to each of two receiveqs of a static PF.
#[track_caller]
fn received(controller: &Controller, pf: u16) -> [u64; 2] {
    let queried = controller.virtnet(&format!("query -p {pf} --dbg_stats"))["devices"][0].clone();
    let queues = queried["enabled-queues-info"].as_array().expect("queues run");
    ["0", "2"].map(|index| {
        let queue = queues.iter().find(|queue| queue["index"] == index).expect("a receiveq");
        queue["dbg_stats"]["packets"].as_u64().expect("a number")
    })
}

/// The device status that the controller shows of static PF 0.
#[track_caller]
fn status(controller: &Controller) -> Value {
    controller.virtnet("query -p 0 -b")["devices"][0]["status"]["value"].clone()
}

/// The MSI-X vectors that the controller shows of a static PF: its configuration's, then its queues'.
#[track_caller]
fn vectors(controller: &Controller, pf: u16) -> Vec<String> {
    let queried = controller.virtnet(&format!("query -p {pf}"))["devices"][0].clone();
    let queues = queried["enabled-queues-info"].as_array().expect("queues run");
    let queues = queues.iter().map(|queue| &queue["msix_vector"]);
    [&queried["msix_config_vector"]].into_iter().chain(queues).map(|v| v.as_str().expect("hex").to_owned()).collect()
}

/// What the controller shows of that which outlives it, of a static and a hotplug PF.
#[track_caller]
fn settings(controller: &Controller) -> [Value; 2] {
    [0, 2].map(|pf| {
        let queried = controller.virtnet(&format!("query -p {pf} -b"))["devices"][0].clone();
        json!(["mac", "mtu", "speed", "num_msix", "transitional", "device_feature"].map(|key| &queried[key]))
    })
}

#[track_caller]
fn is_up(guest: &mut Guest, address: &str) {
    guest.address("eth0", address);
    guest.ping(HOST, 3);
}

/// What lspci has to say of a function, beside what differs between functions.
const SHOWN: [&str; 14] = [
    "Region 2: Memory at ",
    "Region 4: Memory at ",
    "[size=8K]",
    "MSI-X: Enable+ Count=4 Masked-",
    "Vector table: BAR=2 offset=00000000",
    "PBA: BAR=2 offset=00001000",
    "Power Management version 3",
    "Express (v2)",
    "FLReset+",
    "VirtIO: CommonCfg BAR=4 offset=00000000 size=00000040",
    "VirtIO: ISR BAR=4 offset=00001000 size=00000001",
    "VirtIO: DeviceCfg BAR=4 offset=00002000 size=00000018",
    "VirtIO: Notify BAR=4 offset=00003000 size=000000",
    "Kernel driver in use: virtio-pci",
];

/// A guest's two functions: a static PF that can have VFs, and a transitional one, as lspci shows them.
#[track_caller]
fn are_as_documented(guest: &mut Guest) {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let pf = [
        "0280: 1af4:1041 (rev 01)",
        "Subsystem: 1af4:1041",
        "[size=32K]",
        "size=00000010 multiplier=00000004",
        // QEMU leaves ARI and SR-IOV out.
        "[100 v0] Null",
        "Access Control Services",
        "ACSCap: SrcValid- TransBlk- ReqRedir- CmpltRedir- UpstreamFwd- EgressCtrl- DirectTrans-",
    ];
    let transitional = [
        "0280: 1af4:1000",
        "Subsystem: 1af4:0001",
        "Region 0: I/O ports at ",
        "[size=16K]",
        "size=0000000c multiplier=00000004",
    ];
    for (netdev, own) in [("eth0", &pf[..]), ("eth1", &transitional)] {
        let shown = words(
            &guest.run(&format!("lspci -vvnxxxx -s $(basename $(readlink -f /sys/class/net/{netdev}/device/..))")),
        );
        let missing: Vec<_> = own.iter().chain(&SHOWN).filter(|line| !shown.contains(**line)).collect();
        assert!(missing.is_empty(), "{netdev}: no {missing:?} in {shown}");
        // A virtio capability of 20 bytes, for access through configuration space, which lspci has no name for.
        assert!(shown.contains(" 09 00 14 05 "), "{netdev}: {shown}");
    }
}

/// Two guests, one of them behind an IOMMU, and a TAP on the switch: they see what the functions are, every pair pings and carries TCP; then functions are
/// reset by their guest, the machine is, and others take them over.
#[test]
fn guests_drive_whole_functions_and_reset_them() {
    let Some(lab) = Lab::with(&["qemu"]) else { return };
    let Some(network) = Network::new(&lab) else { return };
    let kernels = lab.kernels();
    let (oldest, newest) = (&kernels[0], &kernels[kernels.len() - 1]);
    let devices = [device(1, 1, false), device(2, 2, true)];
    let config = json!({ "lcores": "0", "idle": "adaptive", "switch": { "uplinks": [{ "tap": "vn0" }] },
                         "sockets": { "hotplug_pf": { "transport": "vfio-user" } }, "devices": devices });
    let firmware = [
        "VIRTIO_NET_EMULATION_ENABLE=1",
        "VIRTIO_NET_EMULATION_NUM_MSIX=4",
        "VIRTIO_NET_EMULATION_NUM_VF=2",
        "PCI_SWITCH_EMULATION_ENABLE=1",
        "PCI_SWITCH_EMULATION_NUM_PORT=4",
        "VIRTIO_EMULATION_HOTPLUG_TRANS=1",
    ];
    let mut controller = Controller::start_on(&config, Some(&network), &firmware);
    network.address("vn0", &format!("{HOST}/24"));
    let _echo = network.echo();
    controller.virtnet("hotplug -i mlx5_0 -m 02:00:00:00:00:03 -t 1500 -n 3 -s 1024 -l");
    let sockets = ["vm1.sock", "vm2.sock", "pf2.sock"].map(|name| controller.path(name));
    let monitors = ["first.qmp", "second.qmp"].map(|name| controller.path(name));
    let split = Machine {
        name: "split guest",
        kernel: oldest,
        socket: &sockets[0],
        second: Some(&sockets[2]),
        cpus: 1,
        append: "",
        iommu: false,
        private: false,
        monitor: Some(&monitors[0]),
    };
    let packed = Machine {
        name: "packed guest",
        kernel: newest,
        socket: &sockets[1],
        second: None,
        cpus: 2,
        append: "",
        iommu: true,
        private: false,
        monitor: Some(&monitors[1]),
    };
    let (mut first, mut second) = (split.start(&lab), packed.start(&lab));
    for (n, (guest, machine)) in [(&mut first, &split), (&mut second, &packed)].into_iter().enumerate() {
        assert_eq!(guest.wait_boot(), machine.kernel.release);
        assert_eq!(guest.has_feature("eth0", VIRTIO_F_RING_PACKED), n == 1, "packed ring");
        assert_eq!(guest.has_feature("eth0", VIRTIO_NET_F_MQ), n == 1, "multi-queue");
        assert_eq!(guest.has_feature("eth0", VIRTIO_F_NOTIFICATION_DATA), n == 1, "doorbells that say more");
        assert_eq!(guest.has_feature("eth0", VIRTIO_F_ADMIN_VQ), n == 1, "which needs Linux 6.8");
        assert_eq!(guest.queue_pairs("eth0"), n + 1);
        for (file, value) in [
            ("vendor", "0x1af4"),
            ("device", "0x1041"),
            ("subsystem_vendor", "0x1af4"),
            ("class", "0x028000"),
            ("revision", "0x01"),
            ("reset_method", "flr"),
        ] {
            assert!(seen(guest, file).starts_with(value), "{file}");
        }
        guest.address("eth0", &format!("10.77.0.1{}/24", n + 1));
    }
    are_as_documented(&mut first);
    first.ping(HOST, 5);
    second.ping(HOST, 5);
    second.ping("10.77.0.11", 5);
    first.tcp_echo(HOST, TCP_BYTES);
    second.tcp_echo(HOST, TCP_BYTES);
    second.echo();
    first.tcp_echo("10.77.0.12", TCP_BYTES);
    // A vector for the configuration, and one for each queue; the pair's are used.
    let counts = interrupts(&mut first, "PCI-MSI");
    assert_eq!((counts.len(), counts[0]), (3, 0), "{counts:?}");
    assert!(counts[1] > 0 && counts[2] > 0, "{counts:?}");

    // Linux polls its control queue, and not its administration virtqueue: by this one it has asked for commands and capabilities.
    assert_eq!(vectors(&controller, 1), ["0x0", "0x1", "0x2", "0x3", "0x4", "0xffff", "0x5"]);
    let queried = controller.virtnet("query -p 1 --dbg_stats")["devices"][0].clone();
    let asked = &queried["enabled-queues-info"][5]["dbg_stats"];
    assert_eq!((&asked["commands"], &asked["done"]), (&json!(5), &json!(5)), "{asked}");

    assert!(first.has_feature("eth0", VIRTIO_NET_F_HASH_REPORT));
    first.run("ethtool -N eth0 rx-flow-hash tcp4 sd");
    first.tcp_echo(HOST, TCP_BYTES);
    carry_jumbo_frames(&controller, &mut first, &mut second);
    answers_ethtool(&controller, &mut second);
    has_its_flows_where_it_says(&controller, &mut second);
    receives_what_it_has_asked_for(&controller, &mut first, &mut second);

    follows_its_link(&controller, &network, &mut first);
    is_driven_by_either_interface(&controller, &mut first);
    is_modified_without_its_driver(&controller, &mut first);
    // It has had two other addresses meanwhile.
    second.run("arp -d 10.77.0.11");
    second.ping("10.77.0.11", 5);

    // A guest resets the function under its driver, which does not know, and would wait for the control queue for ever: up, it
    // would ask for groups of IPv6 at any time.
    assert_eq!(status(&controller), "0xf");
    first.run("ip link set eth0 down");
    let resets = || controller.virtnet("query -p 0 -b --dbg_stats")["devices"][0]["resets"].clone();
    let before = resets()["function_level"].as_u64().expect("a number");
    first.run(&format!("echo flr >{FUNCTION}/reset_method; echo 1 >{FUNCTION}/reset"));
    assert_eq!(status(&controller), "0x0");
    assert_eq!(resets()["function_level"], before + 1);
    assert!(resets()["driver"].as_u64() > Some(0) && resets()["front_end"].as_u64() > Some(0), "{}", resets());

    // A machine is reset, under traffic; then the other one.
    let pings = second.begin("ping -i 0.1 -w 5 10.77.0.11 >/dev/null; true");
    first.forget_boot();
    Monitor::connect(&monitors[0]).execute("system_reset", json!({}));
    assert_eq!(first.wait_boot(), oldest.release);
    second.wait(pings, Duration::from_secs(30));
    is_up(&mut first, "10.77.0.11/24");
    second.ping("10.77.0.11", 5);
    is_reset_behind_its_iommu(&mut second);
    let pings = [(&mut first, "10.77.0.12"), (&mut second, "10.77.0.11")]
        .map(|(guest, to)| guest.begin(&format!("ping -i 0.1 -w 5 {to} >/dev/null; true")));
    second.forget_boot();
    Monitor::connect(&monitors[1]).execute("system_reset", json!({}));
    assert_eq!(second.wait_boot(), newest.release);
    let [pings, _] = pings;
    first.wait(pings, Duration::from_secs(30));
    is_up(&mut second, "10.77.0.12/24");
    second.ping("10.77.0.11", 5);

    // QEMU is killed, under traffic; another comes to the same function, without MSI-X, and reads and writes its memory for it.
    let pings = first.begin("ping -i 0.1 -w 2 10.77.0.12 >/dev/null; true");
    std::thread::sleep(Duration::from_millis(500));
    drop(second);
    first.wait(pings, Duration::from_secs(30));
    let pinned =
        Machine { name: "guest with INTx", append: "pci=nomsi", iommu: false, monitor: None, private: true, ..packed };
    let mut third = pinned.start(&lab);
    third.wait_boot();
    is_up(&mut third, "10.77.0.13/24");
    third.ping("10.77.0.11", 5);
    third.tcp_echo(HOST, TCP_BYTES);
    let counts = interrupts(&mut third, "IO-APIC");
    assert!(counts.iter().sum::<u64>() > 0, "{counts:?}");
    let vectors = vectors(&controller, 1);
    assert!(vectors.len() == 7 && vectors.iter().all(|vector| vector.to_lowercase() == "0xffff"), "{vectors:?}");
    assert!(controller.maps().contains("shadow virtqueue"), "its queues are shadowed");
    third.power_off();

    // The controller is killed under traffic: its functions are lost to the guest, which goes on without. They are back with the next
    // controller, and another QEMU comes.
    let before = settings(&controller);
    let pings = first.begin(&format!("ping -i 0.1 -w 3 {HOST} >/dev/null; true"));
    std::thread::sleep(Duration::from_secs(1));
    controller.kill();
    controller.start_again();
    network.address("vn0", &format!("{HOST}/24"));
    assert_eq!((settings(&controller), status(&controller)), (before, json!("0x0")));
    first.wait(pings, Duration::from_secs(30));
    first.run(&format!("! ping -c 1 -W 1 {HOST}"));
    drop(first);
    let mut fourth = Machine { name: "guest of the next controller", second: None, monitor: None, ..split }.start(&lab);
    fourth.wait_boot();
    is_up(&mut fourth, "10.77.0.14/24");
    fourth.tcp_echo(HOST, TCP_BYTES);
    fourth.power_off();
    controller.end();
}

/// A transitional function, the guest's second, is driven as a legacy device, then as a modern one.
fn is_driven_by_either_interface(controller: &Controller, guest: &mut Guest) {
    for (is_legacy, status) in [(1, "0x7"), (0, "0xf")] {
        guest.run(&format!("rmmod virtio_pci && insmod /modules/virtio_pci.ko force_legacy={is_legacy}"));
        eventually("netdevs", Duration::from_secs(10), || guest.run("ls /sys/class/net").contains("eth1"));
        assert_eq!(guest.has_feature("eth1", VIRTIO_F_VERSION_1), is_legacy == 0);
        assert!(guest.run("cat $(readlink -f /sys/class/net/eth1/device/..)/device").starts_with("0x1000"));
        guest.address("eth1", "10.77.0.14/24");
        guest.ping(HOST, 5);
        guest.tcp_echo(HOST, TCP_BYTES);
        let queried = controller.virtnet("query -p 2")["devices"][0].clone();
        assert_eq!((&queried["status"]["value"], &queried["transitional"]), (&json!(status), &json!(1)));
        assert_eq!(vectors(controller, 2)[..3], ["0x0", "0x1", "0x2"]);
    }
    guest.run("ip link set eth1 down");
    guest.address("eth0", "10.77.0.11/24");
}

/// What the controller shows of a static PF's queue.
#[track_caller]
fn queue(controller: &Controller, pf: u16, index: usize) -> Value {
    controller.virtnet(&format!("query -p {pf} --dbg_stats"))["devices"][0]["enabled-queues-info"][index].clone()
}

/// Frames of 9000 bytes pass whole, both ways.
#[track_caller]
fn carry_jumbo_frames(controller: &Controller, first: &mut Guest, second: &mut Guest) {
    let jumbo = || queue(controller, 0, 0)["dbg_stats"]["8192_to_9022_octet_packets"].as_u64().expect("a number");
    let before = jumbo();
    first.run("ping -c 3 -W 3 -s 8972 10.77.0.12");
    second.run("ping -c 3 -W 3 -s 8972 10.77.0.11");
    assert!(jumbo() >= before + 6, "they were not cut");
}

/// What ethtool sets is so, and it prints what is.
#[track_caller]
fn answers_ethtool(controller: &Controller, guest: &mut Guest) {
    let moderation = |index: usize| {
        let queue = queue(controller, 1, index);
        ["rq_cq_max_count", "rq_cq_period"].map(|key| queue[key].as_str().expect("a string").to_owned())
    };
    assert!(guest.run("ethtool -i eth0").contains("driver: virtio_net"));
    for count in ["1", "2"] {
        guest.run(&format!("ethtool -L eth0 combined {count}"));
        assert!(guest.run("ethtool -l eth0 | tail -n 1").ends_with(count));
        assert_eq!(controller.virtnet("query -p 1 -b")["devices"][0]["ctrl_mq"], count);
    }
    guest.run("ethtool -C eth0 rx-usecs 100 rx-frames 16");
    assert!(guest.run("ethtool -c eth0").contains("rx-usecs:\t100"));
    assert_eq!([0, 2].map(moderation), [["16", "100"]; 2]);
    guest.run("ethtool --per-queue eth0 queue_mask 0x2 --coalesce rx-usecs 50 rx-frames 4");
    assert_eq!([0, 2].map(moderation), [["16", "100"], ["4", "50"]]);
    guest.ping(HOST, 3);
    guest.run("ethtool -C eth0 rx-usecs 0 rx-frames 0");
    assert_eq!([0, 2].map(moderation), [["0", "0"]; 2]);

    let statistics = guest.run("ethtool -S eth0");
    let of = |name: &str| -> u64 {
        let line = statistics.lines().find(|line| line.trim().starts_with(&format!("{name}:")));
        let value = line.and_then(|line| line.split(':').nth(1)).and_then(|value| value.trim().parse().ok());
        value.unwrap_or_else(|| panic!("no {name}: {statistics}"))
    };
    assert!(of("rx_hw_packets") > 0 && of("tx_hw_packets") > 0);
    let commands = queue(controller, 1, 4)["dbg_stats"]["commands"].as_u64().expect("a number");
    assert!((1..=commands).contains(&of("cq_hw_command_num")), "{commands} commands: {statistics}");

    guest.run("ethtool -K eth0 rx-gro-hw off");
    assert!(guest.run("ethtool -k eth0 | grep rx-gro-hw").contains("off"));
    guest.tcp_echo(HOST, TCP_BYTES);
    guest.run("ethtool -K eth0 rx-gro-hw on");
    guest.tcp_echo(HOST, TCP_BYTES);
    let refused = queue(controller, 1, 4)["dbg_stats"].clone();
    assert_eq!(refused["commands"], refused["done"], "nothing was refused: {refused}");
}

/// The guest of static PF 1 says which of its two receiveqs its flows come to.
fn has_its_flows_where_it_says(controller: &Controller, guest: &mut Guest) {
    const FLOWS: u64 = 16;
    // Of each flow.
    const LEAST: u64 = 3;
    assert!(guest.has_feature("eth0", VIRTIO_NET_F_RSS));
    assert!(guest.run("ethtool -x eth0").contains("2 RX ring(s)"));
    let mut frames = |table: &str| {
        guest.run(&format!("ethtool -X eth0 {table}"));
        let before = received(controller, 1);
        guest.run(&format!("for i in $(seq {FLOWS}); do echo $i | timeout 10 nc {HOST} 7; done"));
        let after = received(controller, 1);
        [after[0] - before[0], after[1] - before[1]]
    };
    let [first, second] = frames("equal 1");
    assert!(first >= LEAST * FLOWS && second == 0, "{first} {second}");
    let [first, second] = frames("weight 0 1");
    assert!(first < FLOWS && second >= LEAST * FLOWS, "what is no flow comes to the first: {first} {second}");
    let [first, second] = frames("default");
    assert!(first >= LEAST && second >= LEAST, "{first} {second}");
}

/// A link that goes down and comes back, at another speed, is seen by the guest at once, by a configuration interrupt each time; then it
/// is asked to announce itself, and the network hears it.
fn follows_its_link(controller: &Controller, network: &Network, guest: &mut Guest) {
    let knows_it = || network.run("cat /proc/net/arp").contains("10.77.0.11 ");
    // Whoever speaks of itself unasked is believed.
    network.run("sysctl -w net.ipv4.conf.vn0.arp_accept=1");
    let speed = "cat /sys/class/net/eth0/speed";
    assert_eq!(guest.run(speed), "100000");
    for (told, change, carrier) in [(1, "-l 0", "0"), (2, "-l 1 -e 25000", "1")] {
        if knows_it() {
            network.run("arp -d 10.77.0.11");
        }
        controller.virtnet(&format!("modify -p 0 device {change}"));
        eventually("carrier", Duration::from_secs(10), || {
            guest.run("cat /sys/class/net/eth0/carrier").trim() == carrier
        });
        assert!(interrupts(guest, "PCI-MSI")[0] >= told, "configuration interrupts");
    }
    assert_eq!(
        (guest.run(speed).as_str(), &controller.virtnet("query -p 0 -b")["devices"][0]["speed"]),
        ("25000", &json!("25000"))
    );
    // The third asks it to announce itself, by its control queue it says that it has.
    eventually("announcement", Duration::from_secs(10), || interrupts(guest, "PCI-MSI")[0] == 3);
    eventually("announcement on the wire", Duration::from_secs(10), knows_it);
}

/// Each buffer is mapped and unmapped by itself. The function is reset, and its driver comes back, with other maps.
fn is_reset_behind_its_iommu(guest: &mut Guest) {
    assert_eq!(seen(guest, "iommu_group/type").trim(), "DMA", "strict");
    let address = unbind(guest);
    guest.run(&format!(
        "echo flr >/sys/bus/pci/devices/{address}/reset_method; echo 1 >/sys/bus/pci/devices/{address}/reset"
    ));
    bind(guest, &address);
    is_up(guest, "10.77.0.12/24");
    guest.tcp_echo(HOST, TCP_BYTES);
}

/// Without its driver the function is reset, and gets another address and another MTU; QEMU stays, and the driver finds them.
fn is_modified_without_its_driver(controller: &Controller, guest: &mut Guest) {
    let address = unbind(guest);
    guest.run(&format!("echo flr >{FUNCTION}/reset_method; echo 1 >{FUNCTION}/reset"));
    controller.virtnet("modify -p 0 device -m 02:00:00:00:00:21 -t 1400");
    bind(guest, &address);
    let found = guest.run("cat /sys/class/net/eth0/address /sys/class/net/eth0/mtu");
    assert_eq!(found.split_whitespace().collect::<Vec<_>>(), ["02:00:00:00:00:21", "1400"]);
    is_up(guest, "10.77.0.11/24");
}

/// Takes the driver from the function. Returns where that is on its bus.
#[track_caller]
fn unbind(guest: &mut Guest) -> String {
    let address = guest.run(&format!("A=$(basename {FUNCTION}); echo $A >{DRIVER}/unbind && echo $A"));
    address.trim().to_owned()
}

#[track_caller]
fn bind(guest: &mut Guest, address: &str) {
    guest.run(&format!("echo {address} >{DRIVER}/bind"));
    eventually("netdev", Duration::from_secs(10), || guest.run("ls /sys/class/net").contains("eth0"));
}
