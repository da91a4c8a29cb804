//! Guest and engine on one thread, in turns: no cache line travels, no placement matters, and what either side costs can be told.
//! The worker is the engine's own, turned by hand.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use rustix::process::Pid;
use virtnet_engine::IdlePolicy;
use virtnet_engine::command::{Command, Reply};
use virtnet_engine::counters::{CountersReader, QueueCounters, QueueCounts};
use virtnet_engine::frame::steer::Steering;
use virtnet_engine::pair::{AnyPort, Attachment, Pair, Side};
use virtnet_engine::port::loopback::Loopback;
use virtnet_engine::port::pcap::{Pcap, Replay};
use virtnet_engine::port::sink::Sink;
use virtnet_engine::port::source::Source;
use virtnet_engine::port::switch::fdb::{Fdb, PortId};
use virtnet_engine::port::switch::{Lane, Place, PortMap};
use virtnet_engine::worker::{Desk, Worker};

use super::in_process::{Generator, generator, guest_memory, queue_setup};
use super::{Bed, Counted};
use crate::args::Direction;
use crate::load::{Beside, Guest, Load, LoadOptions};
use crate::plan::Plan;

/// Bits of the forwarding database's buckets: there are two addresses.
const FDB_BUCKET_BITS: u32 = 6;
/// Turns in which a command is answered: a queue that leaves waits for what is out of it.
const TURNS_MAX: usize = 100_000;

/// A worker that is turned by whoever holds it.
#[derive(Clone, Debug)]
struct ByHand {
    worker: Arc<Mutex<Worker>>,
    start: Instant,
}

impl Beside for ByHand {
    fn turn(&mut self) {
        let now_ns = self.start.elapsed().as_nanos() as u64;
        self.worker.lock().unwrap_or_else(PoisonError::into_inner).turn(now_ns);
    }
}

/// Guests, a worker, ports.
#[derive(Debug)]
pub struct OneCore {
    worker: ByHand,
    desk: Arc<Desk>,
    numbers: u64,
    slots: Vec<u16>,
    /// Receiveq and transmitq of each slot.
    counters: Vec<[CountersReader; 2]>,
    load: Option<Load>,
}

impl OneCore {
    /// Makes a worker and gives it the queues of one guest, or of two where frames go from one to the other.
    ///
    /// # Errors
    /// No memory, or the engine refuses.
    pub fn new(plan: &Plan, direction: Direction) -> Result<Self> {
        let desk = Desk::new().context("the worker's bell")?;
        let lane = Lane::new(0, Arc::new(Fdb::new(FDB_BUCKET_BITS)), vec![None]);
        let worker = Worker::new(0, vec![Arc::clone(&desk)], lane, usize::from(plan.burst), IdlePolicy::Poll);
        let worker = ByHand { worker: Arc::new(Mutex::new(worker)), start: Instant::now() };
        let mut bed = OneCore { worker, desk, numbers: 0, slots: Vec::new(), counters: Vec::new(), load: None };
        let count = if direction == Direction::GuestToGuest { 2 } else { 1 };
        let mut guests = Vec::new();
        for number in 0..count {
            let guest = Guest::new(&plan.guest_options(), number, (number + 1) % 2)?;
            bed.attach(plan, direction, &guest, PortId(number))?;
            guests.push(guest);
        }
        bed.load = Some(Load::new(
            guests,
            LoadOptions {
                direction,
                burst: plan.burst,
                lcores: vec![plan.division.drivers[0]],
                shared_lcore: false,
                persistent: plan.smoke,
                inject: plan.inject,
                beside: Some(Box::new(bed.worker.clone())),
            },
        )?);
        Ok(bed)
    }

    fn attach(&mut self, plan: &Plan, direction: Direction, guest: &Guest, id: PortId) -> Result<()> {
        let memory = guest_memory(guest)?;
        let mut places = Vec::new();
        for (lane, port) in guest.lanes.iter().zip(ports(plan, direction, id)?) {
            let (receive, receive_reader) = QueueCounters::new();
            let (transmit, transmit_reader) = QueueCounters::new();
            let Reply::Slot(slot) = self.ask(Command::AddPair(Box::new(Pair::new(port, receive, transmit))))? else {
                bail!("the worker has no slot for a queue pair");
            };
            self.slots.push(slot);
            self.counters.push([receive_reader, transmit_reader]);
            places.push(Place { worker: 0, slot });
            for (side, driver) in [(Side::Receiveq, &lane.nic().receiveq), (Side::Transmitq, &lane.nic().transmitq)] {
                let queue = queue_setup(driver, plan.feature_bits()).activate(Arc::clone(&memory))?;
                let attachment = Attachment::new(side, queue, plan.feature_bits(), true);
                let Reply::Done = self.ask(Command::Attach(slot, attachment))? else {
                    bail!("the worker refuses a queue");
                };
            }
        }
        if direction == Direction::GuestToGuest {
            let steering = Steering::over(places.len() as u16);
            self.ask(Command::SetPort(PortMap { id, places: places.into(), steering }))?;
        }
        Ok(())
    }

    fn ask(&mut self, command: Command) -> Result<Reply> {
        self.numbers += 1;
        if self.desk.commands.push((self.numbers, command)).is_err() {
            bail!("the worker's desk is full");
        }
        for _ in 0..TURNS_MAX {
            self.worker.turn();
            while let Some((number, reply)) = self.desk.replies.pop() {
                if number == self.numbers {
                    return Ok(reply);
                }
            }
        }
        bail!("the worker has not answered in {TURNS_MAX} turns")
    }
}

impl Bed for OneCore {
    fn load(&mut self) -> &mut Load {
        self.load.as_mut().expect("made with the bed")
    }

    fn counted(&mut self) -> Result<Option<Counted>> {
        if let Some(broken) = self.desk.broken.pop() {
            bail!("the engine retired a {:?}: {}", broken.side, broken.violation);
        }
        let mut sum = Counted::default();
        let read = |reader: &CountersReader| reader.read().context("the counters are not to be read");
        for [receive, transmit] in &self.counters {
            let (receive, transmit): (QueueCounts, QueueCounts) = (read(receive)?, read(transmit)?);
            sum.from_guest += transmit.packets;
            sum.from_guest_bytes += transmit.bytes;
            sum.drops += receive.dropped() + transmit.dropped();
        }
        Ok(Some(sum))
    }

    /// What else runs in this process does not matter here.
    fn process(&self) -> Option<Pid> {
        None
    }

    fn dismantle(mut self: Box<Self>) -> Result<()> {
        for slot in std::mem::take(&mut self.slots) {
            for side in [Side::Receiveq, Side::Transmitq] {
                self.ask(Command::Detach(slot, side)).context("stopping a queue")?;
            }
        }
        Ok(())
    }
}

/// One for each pair.
fn ports(plan: &Plan, direction: Direction, id: PortId) -> Result<Vec<AnyPort>> {
    let pairs = 0..plan.queues;
    Ok(match direction {
        Direction::FromGuest => pairs.map(|_| AnyPort::Sink(Sink::default())).collect(),
        Direction::Loopback => pairs.map(|_| AnyPort::Loopback(Loopback::default())).collect(),
        Direction::GuestToGuest => pairs.map(|_| AnyPort::Switch(id)).collect(),
        Direction::ToGuest => match generator(plan) {
            Generator::Source(config) => {
                pairs.map(|_| Source::new(&config).map(AnyPort::Source)).collect::<Result<_, _>>()?
            }
            Generator::Replay(config) => {
                let replays = Replay::over(&config, plan.queues)?;
                replays.into_iter().map(|replay| AnyPort::Pcap(Pcap::new(Some(replay), None))).collect()
            }
        },
    })
}
