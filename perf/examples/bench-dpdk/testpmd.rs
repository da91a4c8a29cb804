//! A back end and the testpmd that drives it, stopped and resumed as one.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;

use crate::Bench;
use crate::cell::{Cell, Direction, Frames, Ring, name};
use crate::floor::{self, Deed};
use crate::process::{self, Process};

const START: Duration = Duration::from_secs(30);
const ANSWER: Duration = Duration::from_secs(10);
/// From the resumption to the first look at the counters.
const WARM: Duration = Duration::from_millis(40);
/// Puts frames on their way round, as many as queues hold.
const REFILL: &str = "start tx_first 32";

/// Who serves the rings.
enum BackEnd {
    Dpdk(Process),
    Controller(Process),
    Floor(Process),
}

/// A back end with its front end.
pub struct Pair {
    back_end: BackEnd,
    front_end: Process,
    _folder: TempDir,
}

impl Pair {
    /// DPDK's net_vhost in a testpmd of its own, for all cells with that ring, as many guests and as many workers.
    pub fn dpdk(bench: &Bench, cell: Cell) -> Pair {
        let folder = folder();
        let sockets = sockets(&folder, cell);
        let device = |(number, socket): (usize, &PathBuf)| {
            let mut device = OsString::from(format!("net_vhost{number},queues=1,iface="));
            device.push(socket);
            device
        };
        let devices: Vec<OsString> = sockets.iter().enumerate().map(device).collect();
        let back_end = testpmd(bench, "DPDK's back end", &bench.lcores(cell.workers).0, &devices, 1024);
        let front_end = front_end(bench, cell, &sockets);
        Pair { back_end: BackEnd::Dpdk(back_end), front_end, _folder: folder }
    }

    /// Our daemon, with the devices that the cell needs.
    pub fn controller(bench: &Bench, cell: Cell) -> Pair {
        let folder = folder();
        let sockets = sockets(&folder, cell);
        let port = match cell.direction {
            Direction::FromGuest => json!("sink"),
            Direction::Loopback => json!("loopback"),
            Direction::ToGuest => json!({ "source": { "frame_bytes": cell.frames.bytes() } }),
            Direction::GuestToGuest => json!("switch"),
        };
        let device = |(guest, socket): (usize, &PathBuf)| {
            json!({ "name": format!("vm{guest}"), "socket": socket, "mode": "server", "queue_pairs": 1, "port": port,
                    "mac": mac(guest) })
        };
        let lcores: Vec<String> = bench.lcores(cell.workers).0.iter().map(usize::to_string).collect();
        let config = json!({
            "lcores": lcores.join(","), "idle": "poll",
            "devices": sockets.iter().enumerate().map(device).collect::<Vec<_>>(),
        });
        let path = folder.path().join("config.json");
        std::fs::write(&path, config.to_string()).expect("the folder is ours");
        let mut command = process::command(&[], &bench.controller);
        command.arg("--config").arg(&path).arg("--run-dir").arg(folder.path());
        let mut back_end = Process::start("virtio-net-controller", command);
        let end = Instant::now() + START;
        while !sockets.iter().all(|socket| socket.exists()) {
            assert!(back_end.is_running() && Instant::now() < end, "no socket from the daemon: {}", back_end.output());
            std::thread::sleep(Duration::from_millis(10));
        }
        let front_end = front_end(bench, cell, &sockets);
        Pair { back_end: BackEnd::Controller(back_end), front_end, _folder: folder }
    }

    /// The back end that does nothing: this program once more.
    pub fn floor(bench: &Bench, cell: Cell, deed: Deed) -> Pair {
        let folder = folder();
        let sockets = sockets(&folder, cell);
        let program = std::env::current_exe().expect("this program is somewhere");
        let mut command = process::command(&[], program);
        let lcore = bench.lcores(1).0[0].to_string();
        command.args(["floor", "--lcore", &lcore, "--direction", &name(&cell.direction)]);
        command.args(["--frames", &name(&cell.frames), "--deed", &name(&deed)]).args(&sockets);
        let mut back_end = Process::start("the floor", command);
        back_end.wait_for(floor::READY, 0, START);
        let front_end = front_end(bench, cell, &sockets);
        Pair { back_end: BackEnd::Floor(back_end), front_end, _folder: folder }
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
            Direction::Loopback | Direction::GuestToGuest => ("io", "io", REFILL),
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
        let guests = cell.direction.guests();
        if cell.direction == Direction::GuestToGuest {
            // What was on its way when everything stopped may have waited too long for a switch.
            tell(&mut self.front_end, "stop");
            tell(&mut self.front_end, REFILL);
        }
        std::thread::sleep(WARM);
        look(&mut self.front_end, key, guests);
        std::thread::sleep(window);
        look(&mut self.front_end, key, guests) as f64 / 1e6
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
            BackEnd::Floor(process) => process.waited(""),
        };
        back_end + self.front_end.waited(DPDK)
    }

    fn back_end(&self) -> &Process {
        match &self.back_end {
            BackEnd::Dpdk(process) | BackEnd::Controller(process) | BackEnd::Floor(process) => process,
        }
    }
}

fn folder() -> TempDir {
    tempfile::Builder::new().prefix("virtnet-").tempdir().expect("a folder")
}

fn sockets(folder: &TempDir, cell: Cell) -> Vec<PathBuf> {
    (0..cell.direction.guests()).map(|guest| folder.path().join(format!("vm{guest}.sock"))).collect()
}

fn mac(guest: usize) -> String {
    format!("02:00:00:00:00:{:02}", guest + 1)
}

/// A testpmd with a virtio-user for each socket. Two send to each other's addresses.
fn front_end(bench: &Bench, cell: Cell, sockets: &[PathBuf]) -> Process {
    let Ring { packed, mergeable, in_order } = cell.ring;
    let [packed, mergeable, in_order] = [packed, mergeable, in_order].map(u8::from);
    let device = |(guest, socket): (usize, &PathBuf)| {
        let mut device =
            OsString::from(format!("net_virtio_user{guest},queues=1,queue_size=256,mac={},path=", mac(guest)));
        device.push(socket);
        device.push(format!(",packed_vq={packed},mrg_rxbuf={mergeable},in_order={in_order}"));
        device
    };
    let devices: Vec<OsString> = sockets.iter().enumerate().map(device).collect();
    testpmd(bench, "front end", &bench.lcores(cell.workers).1, &devices, 256)
}

/// A testpmd with a port for each device, whose main thread and first worker share an lcore: the main thread only waits for
/// commands.
fn testpmd(bench: &Bench, name: &str, lcores: &[usize], devices: &[OsString], ring_size: usize) -> Process {
    let mut command = process::command(&[], &bench.testpmd);
    command.arg(if bench.huge { "--in-memory" } else { "--no-huge" });
    command.args(["-m", "256", "--no-pci", "--no-telemetry", "--single-file-segments", "--no-shconf"]);
    let workers = (1..).zip(lcores).map(|(number, lcore)| format!(",{number}@{lcore}"));
    command.args(["--lcores", &format!("0@{}{}", lcores[0], workers.collect::<String>())]);
    command.args(devices.iter().flat_map(|device| [OsStr::new("--vdev"), device]));
    command.args(["--", "--interactive", "--no-mlockall", "--total-num-mbufs=32768"]);
    command.arg(format!("--nb-cores={}", lcores.len()));
    command.args([format!("--rxd={ring_size}"), format!("--txd={ring_size}")]);
    if devices.len() > 1 {
        command.args((0..devices.len()).map(|port| format!("--eth-peer={port},{}", mac(1 - port))));
    }
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

/// The rate of all ports since the last look.
fn look(process: &mut Process, key: &str, ports: usize) -> u64 {
    let mark = process.mark();
    process.say("show port stats all");
    process.wait_until("statistics", mark, ANSWER, |text| sum(text, key, ports))
}

/// Adds up the numbers behind `key`, once there are as many as ports.
fn sum(text: &str, key: &str, ports: usize) -> Option<u64> {
    let numbers = text.split(key).skip(1).map(|after| {
        // A number is whole once another word follows it.
        let mut words = after.split_whitespace();
        words.next().zip(words.next())?.0.parse::<u64>().ok()
    });
    let numbers: Option<Vec<u64>> = numbers.collect();
    numbers.filter(|numbers| numbers.len() == ports).map(|numbers| numbers.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rates_of_all_ports_are_added_once_they_are_there() {
        let port = |number, pps| {
            format!(
                "\n  ######################## NIC statistics for port {number}  ########################\n\
                 RX-packets: 64  RX-missed: 0  RX-bytes: 4096\n\
                 Throughput (since last show)\n  Rx-pps:  {pps}   Rx-bps:  77\n  Tx-pps:  5   Tx-bps:  6\n"
            )
        };
        let both = format!("{}{}testpmd> ", port(0, 1000), port(1, 234));
        assert_eq!(sum(&both, "Rx-pps:", 2), Some(1234));
        assert_eq!(sum(&both, "Tx-pps:", 2), Some(10));
        assert_eq!(sum(&port(0, 1000), "Rx-pps:", 1), Some(1000));
        assert_eq!(sum(&port(0, 1000), "Rx-pps:", 2), None);
        // Cut off in the middle of a number.
        assert_eq!(sum("Rx-pps:  12", "Rx-pps:", 1), None);
        assert_eq!(sum("", "Rx-pps:", 1), None);
    }
}
