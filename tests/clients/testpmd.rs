//! DPDK's virtio-user driver, through its testpmd: every path it has over a ring.
//!
//! A capture is played into the driver, crosses the device's loopback port, and is captured again on
//! its way out of the driver: both directions, byte for byte.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::controller::Controller;
use crate::lab::Lab;
use crate::process::{self, Process};
use crate::traffic;

const ETHERNET_SIZES_BYTES: &[usize] = &[60, 61, 64, 65, 127, 128, 129, 590, 1000, 1514, 1518];
const JUMBO_SIZES_BYTES: &[usize] = &[60, 1518, 1519, 2047, 2048, 2049, 4096, 4097, 8999, 9000];
/// Buffers of one frame each, in bytes without headroom: a jumbo frame takes several.
const BUFFER_BYTES: usize = 2048;
/// Sent from each queue: more than a ring holds.
const FRAMES: usize = 600;
const START: Duration = Duration::from_secs(30);
const CROSSING: Duration = Duration::from_secs(20);

/// One of the driver's ways over a ring.
#[derive(Clone, Copy, PartialEq, Debug)]
struct RingPath {
    packed: bool,
    mergeable: bool,
    in_order: bool,
    vectorized: bool,
}

impl RingPath {
    const fn of(packed: bool, mergeable: bool, in_order: bool) -> RingPath {
        RingPath { packed, mergeable, in_order, vectorized: false }
    }

    /// All of them. The vectorized ones have conditions: without mergeable buffers on both layouts,
    /// in order on packed, out of order on split.
    fn all() -> Vec<RingPath> {
        let plain = (0..8).map(|bits| RingPath::of(bits & 4 != 0, bits & 2 != 0, bits & 1 != 0));
        let vectorized =
            [false, true].map(|packed| RingPath { vectorized: true, ..RingPath::of(packed, false, packed) });
        plain.chain(vectorized).collect()
    }

    /// What the driver calls its functions for this path: to the guest, from the guest.
    fn functions(self) -> (&'static str, &'static str) {
        match (self.packed, self.vectorized, self.in_order, self.mergeable) {
            (true, true, ..) => ("packed ring vectorized Rx", "packed ring vectorized Tx"),
            // On packed rings the order of buffers is decided inside, without a name of its own.
            (true, false, _, true) => ("packed ring mergeable buffer Rx", "packed ring standard Tx"),
            (true, false, _, false) => ("packed ring standard Rx", "packed ring standard Tx"),
            (false, true, ..) => ("vectorized Rx", "standard Tx"),
            (false, false, true, _) => ("inorder Rx", "inorder Tx"),
            (false, false, false, true) => ("mergeable buffer Rx", "standard Tx"),
            (false, false, false, false) => ("standard Rx", "standard Tx"),
        }
    }
}

impl fmt::Display for RingPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.packed { "packed" } else { "split" })?;
        for (is, name) in [(self.mergeable, "mergeable"), (self.in_order, "in-order"), (self.vectorized, "vectorized")]
        {
            if is {
                write!(f, " {name}")?;
            }
        }
        Ok(())
    }
}

/// Which side makes the socket.
#[derive(Clone, Copy, PartialEq)]
enum Listener {
    Device,
    FrontEnd,
}

/// One testpmd, whose port 2n is the n-th device and port 2n+1 the capture beside it.
struct Testpmd {
    process: Process,
}

struct Settings<'a> {
    folder: &'a Path,
    listener: Listener,
    paths: &'a [RingPath],
    queue_pairs: usize,
    /// Whether frames take several buffers each.
    jumbo: bool,
}

impl Settings<'_> {
    fn devices(&self, port: &str) -> Value {
        let mode = if self.listener == Listener::Device { "server" } else { "client" };
        let device = |n: usize| {
            json!({
                "name": format!("vm{n}"), "socket": format!("vm{n}.sock"), "mode": mode, "port": port,
                "queue_pairs": self.queue_pairs, "mac": format!("02:00:00:00:01:{n:02x}"),
            })
        };
        (0..self.paths.len()).map(device).collect()
    }

    fn capture(&self, what: &str, port: usize, queue: usize) -> PathBuf {
        self.folder.join(format!("{what}-{port}-{queue}.pcap"))
    }

    fn socket(&self, port: usize) -> PathBuf {
        self.folder.join(format!("vm{port}.sock"))
    }
}

impl Testpmd {
    /// Starts testpmd with a device and a capture for each path, idle.
    fn start(lab: &Lab, settings: &Settings) -> Testpmd {
        let mut command = process::command(&[], lab.command("testpmd"));
        // Memory from one file, which a front end shares without huge pages. Its threads keep to one CPU.
        command.args(["--no-huge", "--single-file-segments", "-m", "384", "--no-pci", "--no-telemetry", "--no-shconf"]);
        command.args(["--lcores", "0@1,1@1", "--force-max-simd-bitwidth=512", "--log-level=pmd.net.virtio.init:debug"]);
        for (port, path) in settings.paths.iter().enumerate() {
            let pairs = settings.queue_pairs;
            let mut device = OsString::from(format!("net_virtio_user{port},path="));
            device.push(settings.socket(port));
            device.push(format!(
                ",queues={pairs},queue_size=256,cq={},server={},packed_vq={},mrg_rxbuf={},in_order={},vectorized={}",
                u8::from(pairs > 1),
                u8::from(settings.listener == Listener::FrontEnd),
                u8::from(path.packed),
                u8::from(path.mergeable),
                u8::from(path.in_order),
                u8::from(path.vectorized),
            ));
            let mut capture = OsString::from(format!("net_pcap{port}"));
            for queue in 0..pairs {
                capture.push(",rx_pcap=");
                capture.push(settings.capture("sent", port, queue));
                capture.push(",tx_pcap=");
                capture.push(settings.capture("arrived", port, queue));
            }
            command.arg("--vdev").arg(device).arg("--vdev").arg(capture);
        }
        command.args(["--", "--interactive", "--no-mlockall", "--no-flush-rx", "--nb-cores=1"]);
        command.args(["--total-num-mbufs=65536", "--rxd=256"]);
        // Both ways are forwarded by one thread, which must not fill the ring one way while the other is full: frames of
        // many buffers go one by one, and few at once.
        command.args(if settings.jumbo { ["--txd=32", "--burst=1"] } else { ["--txd=256", "--burst=32"] });
        command.args([format!("--rxq={}", settings.queue_pairs), format!("--txq={}", settings.queue_pairs)]);
        command.arg(format!("--mbuf-size={}", BUFFER_BYTES + 128));
        let mut process = Process::start("testpmd", command);
        process.wait_for("testpmd> ", 0, START);
        // What finds no room waits for it: nothing is dropped on the driver's side.
        process.say("set burst tx delay 20 retry 50000");
        Testpmd { process }
    }

    /// Starts `engine` on `ports`.
    fn forward(&mut self, engine: &str, ports: impl IntoIterator<Item = usize>) {
        let list: Vec<String> = ports.into_iter().map(|port| port.to_string()).collect();
        for line in ["stop", &format!("set portlist {}", list.join(",")), &format!("set fwd {engine}"), "start"] {
            self.process.say(line);
        }
    }

    /// Sends without end from every device, and drops what comes back.
    fn flood(&mut self, devices: usize) {
        self.forward("flowgen", (0..devices).map(|n| 2 * n));
    }

    /// Waits until every device has got a thousand frames more.
    #[track_caller]
    fn assert_flows(&mut self, devices: usize) {
        let before = self.counts(2 * devices);
        self.wait_counts("flow of frames", 2 * devices, CROSSING, |counts| {
            counts.iter().zip(&before).step_by(2).all(|(now, before)| now.0 >= before.0 + 1000)
        });
    }

    /// Plays the captures through the devices, ends, and compares what came back.
    #[track_caller]
    fn cross(mut self, settings: &Settings, sent: &[Vec<Vec<Vec<u8>>>]) {
        let ports = 2 * settings.paths.len();
        // What an earlier flood left on its way must not be taken for an answer.
        self.forward("rxonly", (0..ports).step_by(2));
        let mut last = Vec::new();
        self.wait_counts("quiet", ports, CROSSING, |counts| std::mem::replace(&mut last, counts.to_vec()) == counts);
        self.forward("io retry", 0..ports);
        let total = (FRAMES * settings.queue_pairs) as u64;
        self.wait_counts("end of the crossing", ports, CROSSING, |counts| {
            counts.iter().skip(1).step_by(2).all(|&(_, captured)| captured >= total)
        });
        self.process.say("quit");
        let status = self.process.wait_end(Duration::from_secs(20));
        assert!(status.success(), "testpmd's end: {status}");
        assert_captures(settings, sent);
    }

    /// Checks that the driver took the path that was asked of it, which says that the device offered it.
    #[track_caller]
    fn assert_paths(&mut self, paths: &[RingPath]) {
        let output = self.process.output();
        for (port, path) in paths.iter().enumerate() {
            let (to_guest, from_guest) = path.functions();
            for function in [to_guest, from_guest] {
                let line = format!("virtio: using {function} path on port {}\n", 2 * port);
                let avx512 = !(path.packed && path.vectorized) || has_avx512();
                let said: Vec<&str> = output.lines().filter(|line| line.contains("virtio: using")).collect();
                assert!(!avx512 || output.contains(&line), "{path}: the driver did not say {line:?} but {said:#?}");
            }
        }
    }

    /// Frames received and sent by each port so far.
    fn counts(&mut self, ports: usize) -> Vec<(u64, u64)> {
        let mark = self.process.mark();
        self.process.say("show port stats all");
        self.process.wait_until("statistics", mark, Duration::from_secs(10), |text| {
            let blocks: Vec<&str> = text.split("NIC statistics for port").skip(1).collect();
            let whole = blocks.len() == ports && blocks.last()?.contains("Tx-bps");
            let number = |block: &str, key: &str| {
                let after = &block[block.find(key)? + key.len()..];
                after.split_whitespace().next()?.parse().ok()
            };
            if !whole {
                None
            } else {
                blocks.iter().map(|b| Some((number(b, "RX-packets:")?, number(b, "TX-packets:")?))).collect()
            }
        })
    }

    /// Waits until `done` of all ports' counts.
    #[track_caller]
    fn wait_counts(
        &mut self,
        what: &str,
        ports: usize,
        timeout: Duration,
        mut done: impl FnMut(&[(u64, u64)]) -> bool,
    ) {
        let end = Instant::now() + timeout;
        loop {
            let counts = self.counts(ports);
            if done(&counts) {
                return;
            }
            assert!(Instant::now() < end, "no {what} within {timeout:?}; each port (received, sent): {counts:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Writes what each queue of each device is to send.
fn write_captures(settings: &Settings, sizes_bytes: &[usize]) -> Vec<Vec<Vec<Vec<u8>>>> {
    let queue_frames = |port: usize, queue: usize| {
        let frames = traffic::frames((port * 16 + queue) as u64, FRAMES, sizes_bytes);
        traffic::write(&settings.capture("sent", port, queue), &frames);
        frames
    };
    (0..settings.paths.len())
        .map(|port| (0..settings.queue_pairs).map(|queue| queue_frames(port, queue)).collect())
        .collect()
}

/// Whether the driver can take its vectorised path on packed rings.
fn has_avx512() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::is_x86_feature_detected!("avx512f");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Checks what came back against what was sent: in order with one queue pair; with more, steering may
/// carry a flow to another queue than it was sent from, so each frame once.
#[track_caller]
fn assert_captures(settings: &Settings, sent: &[Vec<Vec<Vec<u8>>>]) {
    for (port, (path, sent)) in settings.paths.iter().zip(sent).enumerate() {
        let arrived: Vec<Vec<Vec<u8>>> =
            (0..settings.queue_pairs).map(|queue| traffic::read(&settings.capture("arrived", port, queue))).collect();
        let what = format!("{path}, {} pairs", settings.queue_pairs);
        if settings.queue_pairs == 1 {
            traffic::assert_same_in_order(&what, &sent[0], &arrived[0]);
        } else {
            assert!(arrived.iter().all(|frames| !frames.is_empty()), "{what}: a receiveq got nothing");
            traffic::assert_same(&what, &sent.concat(), &arrived.concat());
        }
    }
}

fn config(devices: Value) -> Value {
    json!({ "lcores": "0", "idle": "adaptive", "devices": devices })
}

fn cross(listener: Listener, paths: &[RingPath], queue_pairs: usize, sizes_bytes: &[usize]) {
    let Some(lab) = Lab::with(&["testpmd"]) else { return };
    let folder = tempfile::Builder::new().prefix("virtnet-").tempdir().expect("a folder");
    let mut settings =
        Settings { folder: folder.path(), listener, paths, queue_pairs, jumbo: sizes_bytes == JUMBO_SIZES_BYTES };
    let controller = Controller::start(&config(settings.devices("loopback")), None);
    let run_folder = controller.path("");
    settings.folder = &run_folder;
    let sent = write_captures(&settings, sizes_bytes);
    let mut testpmd = Testpmd::start(&lab, &settings);
    testpmd.assert_paths(paths);
    testpmd.cross(&settings, &sent);
    controller.end();
}

#[test]
fn every_path_one_pair() {
    cross(Listener::Device, &RingPath::all(), 1, ETHERNET_SIZES_BYTES);
}

#[test]
fn every_path_two_pairs() {
    cross(Listener::Device, &RingPath::all(), 2, ETHERNET_SIZES_BYTES);
}

#[test]
fn every_path_one_pair_front_end_listens() {
    cross(Listener::FrontEnd, &RingPath::all(), 1, ETHERNET_SIZES_BYTES);
}

#[test]
fn every_path_two_pairs_front_end_listens() {
    cross(Listener::FrontEnd, &RingPath::all(), 2, ETHERNET_SIZES_BYTES);
}

#[test]
fn frames_of_9000_bytes_in_many_buffers() {
    let mergeable: Vec<RingPath> = RingPath::all().into_iter().filter(|path| path.mergeable).collect();
    cross(Listener::Device, &mergeable, 1, JUMBO_SIZES_BYTES);
}

/// The paths that a resumed ring is tried on: each layout, in order and not.
const RESUMED: &[RingPath] = &[
    RingPath::of(false, true, false),
    RingPath::of(false, true, true),
    RingPath::of(true, true, false),
    RingPath::of(true, true, true),
];

#[test]
fn driver_outlives_the_daemon_killed_under_traffic() {
    let Some(lab) = Lab::with(&["testpmd"]) else { return };
    let folder = tempfile::Builder::new().prefix("virtnet-").tempdir().expect("a folder");
    let mut settings =
        Settings { folder: folder.path(), listener: Listener::FrontEnd, paths: RESUMED, queue_pairs: 1, jumbo: false };
    let mut controller = Controller::start(&config(settings.devices("loopback")), None);
    let run_folder = controller.path("");
    settings.folder = &run_folder;
    let sent = write_captures(&settings, ETHERNET_SIZES_BYTES);
    let mut testpmd = Testpmd::start(&lab, &settings);
    testpmd.flood(RESUMED.len());
    for _ in 0..2 {
        testpmd.assert_flows(RESUMED.len());
        controller.kill();
        std::thread::sleep(Duration::from_millis(300));
        controller.start_again();
        testpmd.assert_flows(RESUMED.len());
    }
    testpmd.cross(&settings, &sent);
    controller.end();
}

fn daemon_outlives_the_driver(listener: Listener) {
    let Some(lab) = Lab::with(&["testpmd"]) else { return };
    let folder = tempfile::Builder::new().prefix("virtnet-").tempdir().expect("a folder");
    let mut settings = Settings { folder: folder.path(), listener, paths: RESUMED, queue_pairs: 1, jumbo: false };
    let controller = Controller::start(&config(settings.devices("loopback")), None);
    let run_folder = controller.path("");
    settings.folder = &run_folder;
    let sent = write_captures(&settings, ETHERNET_SIZES_BYTES);
    for _ in 0..2 {
        let mut victim = Testpmd::start(&lab, &settings);
        victim.flood(RESUMED.len());
        victim.assert_flows(RESUMED.len());
        victim.process.kill();
        if listener == Listener::FrontEnd {
            for port in 0..RESUMED.len() {
                std::fs::remove_file(settings.socket(port)).expect("a killed front end leaves its socket");
            }
        }
    }
    let testpmd = Testpmd::start(&lab, &settings);
    testpmd.cross(&settings, &sent);
    controller.end();
}

#[test]
fn daemon_outlives_the_driver_killed_under_traffic() {
    daemon_outlives_the_driver(Listener::Device);
}

#[test]
fn daemon_outlives_the_listening_driver_killed_under_traffic() {
    daemon_outlives_the_driver(Listener::FrontEnd);
}
