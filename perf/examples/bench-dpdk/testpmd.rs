//! A back end and the testpmd that drives it, stopped and resumed as one.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::Bench;
use crate::cell::{Cell, Direction, Frames, Ring};
use crate::process::{self, Process};

const START: Duration = Duration::from_secs(30);
const ANSWER: Duration = Duration::from_secs(10);
/// From the resumption to the first look at the counters.
const WARM: Duration = Duration::from_millis(40);

/// Who serves the ring.
enum BackEnd {
    Dpdk(Process),
    Controller(Process),
}

/// A back end with its front end.
pub struct Pair {
    back_end: BackEnd,
    front_end: Process,
    _folder: tempfile::TempDir,
}

impl Pair {
    /// DPDK's net_vhost in a testpmd of its own.
    pub fn dpdk(bench: &Bench, ring: Ring) -> Pair {
        let folder = folder();
        let socket = folder.path().join("vhost.sock");
        let mut device = OsString::from("net_vhost0,queues=1,iface=");
        device.push(&socket);
        let back_end = testpmd(bench, "DPDK's back end", bench.lcores[0], device, 1024);
        let front_end = front_end(bench, ring, &socket);
        Pair { back_end: BackEnd::Dpdk(back_end), front_end, _folder: folder }
    }

    /// Our daemon, with the one device that the cell needs.
    pub fn controller(bench: &Bench, cell: Cell) -> Pair {
        let folder = folder();
        let port = match (cell.direction, cell.frames) {
            (Direction::FromGuest, _) => json!("sink"),
            (Direction::Loopback, _) => json!("loopback"),
            (Direction::ToGuest, Frames::Small) => json!({ "source": { "frame_bytes": [64] } }),
            (Direction::ToGuest, Frames::Large) => json!({ "source": { "frame_bytes": [1518] } }),
            (Direction::ToGuest, Frames::Mixed) => json!({ "source": { "frame_bytes": [64, 570, 1518] } }),
        };
        let config = json!({
            "lcores": bench.lcores[0].to_string(), "idle": "poll",
            "devices": [{ "name": "vm1", "socket": "vm1.sock", "mode": "server", "queue_pairs": 1, "port": port,
                          "mac": "02:00:00:00:00:01" }],
        });
        let path = folder.path().join("config.json");
        std::fs::write(&path, config.to_string()).expect("the folder is ours");
        let mut command = process::command(&[], &bench.controller);
        command.arg("--config").arg(&path).arg("--run-dir").arg(folder.path());
        let mut back_end = Process::start("virtio-net-controller", command);
        let socket = folder.path().join("vm1.sock");
        let end = std::time::Instant::now() + START;
        while !socket.exists() {
            assert!(
                back_end.is_running() && std::time::Instant::now() < end,
                "no socket from the daemon: {}",
                back_end.output()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        let front_end = front_end(bench, cell.ring, &socket);
        Pair { back_end: BackEnd::Controller(back_end), front_end, _folder: folder }
    }

    /// Sets both sides going as the cell asks.
    pub fn prepare(&mut self, cell: Cell) {
        let sizes = match cell.frames {
            Frames::Small => ["set txsplit off", "set txpkts 64"],
            Frames::Large => ["set txsplit off", "set txpkts 1518"],
            // One, two or three pieces of these, drawn anew for each frame.
            Frames::Mixed => ["set txsplit rand", "set txpkts 64,506,948"],
        };
        let (front, back, start) = match cell.direction {
            Direction::FromGuest => ("txonly", "rxonly", "start"),
            Direction::ToGuest => ("rxonly", "txonly", "start"),
            Direction::Loopback => ("io", "io", "start tx_first 32"),
        };
        if let BackEnd::Dpdk(process) = &mut self.back_end {
            for line in ["stop", sizes[0], sizes[1], &format!("set fwd {back}"), "start"] {
                tell(process, line);
            }
        }
        for line in ["stop", sizes[0], sizes[1], &format!("set fwd {front}"), start] {
            tell(&mut self.front_end, line);
        }
    }

    /// Frames in a window, in millions a second, as the front end counts them.
    pub fn rate_mpps(&mut self, cell: Cell, window: Duration) -> f64 {
        let key = if cell.direction == Direction::FromGuest { "Tx-pps:" } else { "Rx-pps:" };
        std::thread::sleep(WARM);
        look(&mut self.front_end, key);
        std::thread::sleep(window);
        look(&mut self.front_end, key) as f64 / 1e6
    }

    /// Stops both sides where they are.
    pub fn pause(&self) {
        self.back_end().signal(Signal::STOP);
        self.front_end.signal(Signal::STOP);
    }

    /// Lets both sides go on.
    pub fn resume(&self) {
        self.back_end().signal(Signal::CONT);
        self.front_end.signal(Signal::CONT);
    }

    /// For how long the polling threads of both sides have been ready to run, and did not.
    pub fn waited(&self) -> Duration {
        const DPDK: &str = "dpdk-worker";
        let back_end = match &self.back_end {
            BackEnd::Dpdk(process) => process.waited(DPDK),
            BackEnd::Controller(process) => process.waited("lcore-"),
        };
        back_end + self.front_end.waited(DPDK)
    }

    fn back_end(&self) -> &Process {
        match &self.back_end {
            BackEnd::Dpdk(process) | BackEnd::Controller(process) => process,
        }
    }
}

fn folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("virtnet-").tempdir().expect("a folder")
}

fn front_end(bench: &Bench, ring: Ring, socket: &Path) -> Process {
    let mut device = OsString::from("net_virtio_user0,queues=1,queue_size=256,path=");
    device.push(socket);
    let [packed, mergeable, in_order] = [ring.packed, ring.mergeable, ring.in_order].map(u8::from);
    device.push(format!(",packed_vq={packed},mrg_rxbuf={mergeable},in_order={in_order}"));
    testpmd(bench, "front end", bench.lcores[1], device, 256)
}

/// A testpmd with one port, whose main thread and worker share an lcore: the main thread only waits for commands.
fn testpmd(bench: &Bench, name: &str, lcore: usize, device: OsString, ring_size: usize) -> Process {
    let mut command = process::command(&[], &bench.testpmd);
    command.arg(if bench.huge { "--in-memory" } else { "--no-huge" });
    command.args(["-m", "256", "--no-pci", "--no-telemetry", "--single-file-segments", "--no-shconf"]);
    command.args(["--lcores", &format!("0@{lcore},1@{lcore}"), "--vdev"]).arg(device);
    command.args(["--", "--interactive", "--no-mlockall", "--nb-cores=1", "--total-num-mbufs=32768"]);
    command.args([format!("--rxd={ring_size}"), format!("--txd={ring_size}")]);
    let mut process = Process::start(name, command);
    process.wait_for("testpmd> ", 0, START);
    process
}

/// Gives a command and waits until it is done.
fn tell(process: &mut Process, line: &str) {
    let mark = process.mark();
    process.say(line);
    process.wait_until("prompt", mark, ANSWER, |text| {
        (text.matches("testpmd> ").count() >= 1 && text.contains(line)).then_some(())
    });
}

/// The rate since the last look.
fn look(process: &mut Process, key: &str) -> u64 {
    let mark = process.mark();
    process.say("show port stats 0");
    process.wait_until("statistics", mark, ANSWER, |text| {
        let (_, after) = text.split_once(key)?;
        // The number is whole once another word follows it.
        let mut words = after.split_whitespace();
        let number = words.next()?.parse().ok()?;
        words.next().map(|_| number)
    })
}
