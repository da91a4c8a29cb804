//! A worker that is turned by hand, and simulated guests. Runs under callgrind, which counts what happens within
//! [`device_turn`] from [`begin`] to [`end`]: these three are found by their names.

use std::hint::black_box;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use virtnet_engine::IdlePolicy;
use virtnet_engine::command::{Command, Reply};
use virtnet_engine::counters::QueueCounters;
use virtnet_engine::frame::steer::Steering;
use virtnet_engine::pair::{AnyPort, Attachment, Pair, Side};
use virtnet_engine::port::loopback::Loopback;
use virtnet_engine::port::sink::Sink;
use virtnet_engine::port::source::{Source, SourceConfig};
use virtnet_engine::port::switch::fdb::{Fdb, PortId};
use virtnet_engine::port::switch::{Lane, Place, PortMap};
use virtnet_engine::worker::{Desk, Worker};
use virtnet_rings::guest::net::{Nic, NicOptions};
use virtnet_rings::guest::{Driver, Options, Ram};
use virtnet_rings::memory::{GuestMemory, RegionSpec};
use virtnet_rings::spec::net::VIRTIO_NET_F_MRG_RXBUF;
use virtnet_rings::spec::virtq::{VIRTIO_F_IN_ORDER, VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1};
use virtnet_rings::{Layout, Notifier, QueueAddresses, QueueSetup};

use crate::path::{Direction, Path, Ring};

/// Turns that are counted: a multiple of those of which the worker looks at one more closely.
pub const TURNS: usize = 4 * virtnet_engine::meter::SAMPLED as usize;
/// Turns before: every buffer has been used, and every address learned.
const WARM_UP_TURNS: usize = 64;
/// Time that passes from turn to turn.
const TURN_NS: u64 = 1000;

const RAM_BYTES: usize = 4 << 20;
const RAM_GPA: u64 = 0x10_0000;
const FDB_BUCKET_BITS: u32 = 6;
/// Turns in which a command is answered.
const ANSWER_TURNS: usize = 8;

/// Everything between `begin` and `end` that happens in here is counted.
#[inline(never)]
fn device_turn(worker: &mut Worker, now_ns: u64) -> usize {
    black_box(worker.turn(now_ns))
}

/// Counting starts.
#[inline(never)]
fn begin() {
    black_box("begin");
}

/// What was counted is written down.
#[inline(never)]
fn end() {
    black_box("end");
}

/// Counts the turns of one path, in bursts of so many frames.
///
/// # Errors
/// Frames do not move as they should.
pub fn count(path: Path, burst: usize) -> Result<()> {
    let mut bed = Bed::new(path, burst)?;
    bed.announce()?;
    for _ in 0..WARM_UP_TURNS {
        bed.round()?;
    }
    begin();
    for _ in 0..TURNS {
        let moved = bed.round()?;
        ensure!(moved == burst, "{path}: {moved} frames in a turn, {burst} are expected");
    }
    end();
    Ok(())
}

struct Bed {
    path: Path,
    burst: usize,
    worker: Worker,
    desk: Arc<Desk>,
    nics: Vec<Nic>,
    now_ns: u64,
    commands: u64,
}

impl Bed {
    fn new(path: Path, burst: usize) -> Result<Self> {
        let desk = Desk::new()?;
        let lane = Lane::new(0, Arc::new(Fdb::new(FDB_BUCKET_BITS)), vec![None]);
        let worker = Worker::new(0, vec![Arc::clone(&desk)], lane, burst, IdlePolicy::Poll);
        let mut bed = Bed { path, burst, worker, desk, nics: Vec::new(), now_ns: 0, commands: 0 };
        let guests = if path.direction == Direction::GuestToGuest { 2 } else { 1 };
        for guest in 0..guests {
            bed.add_guest(guest)?;
        }
        Ok(bed)
    }

    fn add_guest(&mut self, guest: u16) -> Result<()> {
        let Path { direction, ring, mergeable, in_order, frame_bytes } = self.path;
        let port = match direction {
            Direction::FromGuest => AnyPort::Sink(Sink::default()),
            Direction::ToGuest => {
                let templates = vec![frame(frame_bytes, 1, 0)];
                AnyPort::Source(Source::new(&SourceConfig { templates, ..SourceConfig::default() })?)
            }
            Direction::Loopback => AnyPort::Loopback(Loopback::default()),
            Direction::GuestToGuest => AnyPort::Switch(PortId(guest)),
        };
        let layout = if ring == Ring::Split { Layout::Split } else { Layout::Packed };
        let ram = Arc::new(Ram::new(RAM_BYTES, RAM_GPA)?);
        let queue = Options { in_order, ..Options::default() };
        let nic = Nic::new(&ram, NicOptions { layout, queue, mergeable, ..NicOptions::default() })?;
        let memory = GuestMemory::new(vec![RegionSpec {
            gpa: ram.gpa(),
            len_bytes: ram.len_bytes(),
            frontend_address: ram.user_address(),
            fd: ram.fd().try_clone_to_owned()?,
            offset_bytes: 0,
        }])?;
        let features = 1 << VIRTIO_F_VERSION_1
            | u64::from(layout == Layout::Packed) << VIRTIO_F_RING_PACKED
            | u64::from(mergeable) << VIRTIO_NET_F_MRG_RXBUF
            | u64::from(in_order) << VIRTIO_F_IN_ORDER;
        let pair = Pair::new(port, QueueCounters::new().0, QueueCounters::new().0);
        let Reply::Slot(slot) = self.ask(Command::AddPair(Box::new(pair)))? else { bail!("no slot for a queue pair") };
        for (side, driver) in [(Side::Receiveq, &nic.receiveq), (Side::Transmitq, &nic.transmitq)] {
            let queue = queue_setup(driver, features).activate(Arc::clone(&memory))?;
            let Reply::Done = self.ask(Command::Attach(slot, Attachment::new(side, queue, features, true)))? else {
                bail!("the worker refuses a queue");
            };
        }
        if direction == Direction::GuestToGuest {
            let places = vec![Place { worker: 0, slot }].into();
            self.ask(Command::SetPort(PortMap { id: PortId(guest), places, steering: Steering::over(1) }))?;
        }
        self.nics.push(nic);
        Ok(())
    }

    fn ask(&mut self, command: Command) -> Result<Reply> {
        self.commands += 1;
        self.desk.commands.push((self.commands, command)).ok().context("the worker's desk is full")?;
        for _ in 0..ANSWER_TURNS {
            self.turn();
            if let Some((_, reply)) = self.desk.replies.pop() {
                return Ok(reply);
            }
        }
        bail!("the worker does not answer")
    }

    fn turn(&mut self) {
        self.now_ns += TURN_NS;
        device_turn(&mut self.worker, self.now_ns);
    }

    /// The receiver says where it is.
    fn announce(&mut self) -> Result<()> {
        let [sender, receiver] = &mut self.nics[..] else { return Ok(()) };
        receiver.send(&frame(self.path.frame_bytes, 0, 1))?;
        self.now_ns += TURN_NS;
        device_turn(&mut self.worker, self.now_ns);
        self.now_ns += TURN_NS;
        device_turn(&mut self.worker, self.now_ns);
        ensure!(sender.receive_burst(|_, _| {})? == 1, "the switch has not flooded what nobody knows");
        receiver.reap()?;
        Ok(())
    }

    /// One burst and one turn; how many frames came through.
    fn round(&mut self) -> Result<usize> {
        let Path { frame_bytes, .. } = self.path;
        let [sends, receives] = self.path.direction.ends();
        if sends {
            let head = head(1, 0);
            let sent = self.nics[0].send_burst(self.burst, |ram, slot| {
                ram.write(slot.gpa, &head);
                frame_bytes
            })?;
            ensure!(sent == self.burst, "{sent} of {} frames found room in the transmitq", self.burst);
        }
        self.turn();
        if let Some(broken) = self.desk.broken.pop() {
            bail!("the engine retired a {:?}: {}", broken.side, broken.violation);
        }
        let reaped = self.nics[0].reap()?;
        let Some(receiver) = self.nics.last_mut().filter(|_| receives) else { return Ok(reaped) };
        let mut wrong = 0;
        let received = receiver.receive_burst(|_, received| wrong += usize::from(received.len_bytes != frame_bytes))?;
        ensure!(wrong == 0, "{wrong} of {received} frames have another length than {frame_bytes} bytes");
        Ok(received)
    }
}

/// From one guest to another.
fn head(to: u8, from: u8) -> [u8; 14] {
    [2, 0, 0, 0, 0, to, 2, 0, 0, 0, 0, from, 8, 0]
}

fn frame(frame_bytes: u32, to: u8, from: u8) -> Vec<u8> {
    let mut frame = head(to, from).to_vec();
    frame.resize(frame_bytes as usize, 0);
    frame
}

fn queue_setup(driver: &Driver, features: u64) -> QueueSetup {
    let addresses = driver.addresses();
    QueueSetup {
        layout: driver.layout(),
        size: driver.size(),
        addresses: QueueAddresses {
            descriptor_area: addresses.descriptor,
            driver_area: addresses.driver,
            device_area: addresses.device,
        },
        // From the start: on the packed layout both wrap counters are 1. ("Driver and Device Ring Wrap Counters")
        base: if driver.layout() == Layout::Packed { 0x8000_8000 } else { 0 },
        features,
        call: Notifier::default(),
        kick: Notifier::default(),
        log: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_move_on_every_path() {
        for path in Path::all() {
            for burst in crate::BURSTS {
                count(path, burst).unwrap_or_else(|error| panic!("{path} in bursts of {burst}: {error}"));
            }
        }
    }
}
