//! Workers that are turned by hand, with the commands that control would give them. Nothing happens but what a test does,
//! and time passes only when it says so.

use std::collections::HashMap;
use std::sync::Arc;

use virtnet_engine::IdlePolicy;
use virtnet_engine::command::{Broken, Command, Reply};
use virtnet_engine::counters::{CountersReader, QueueCounters, QueueCounts};
use virtnet_engine::frame::steer::Steering;
use virtnet_engine::moderation::{Moderation, Setting};
use virtnet_engine::pair::{AnyPort, Attachment, Pair, Side};
use virtnet_engine::port::switch::fdb::{Fdb, PortId};
use virtnet_engine::port::switch::{Lane, Link, Place, PortMap};
use virtnet_engine::worker::{Desk, Worker};
use virtnet_rings::Queue;

use crate::Guest;

/// What passes from one turn to the next, in nanoseconds.
pub const TURN_NS: u64 = 1000;

/// Turns of every worker after which an answer is overdue: ten times what a frame may wait for buffers.
const TURNS_MAX: usize = 500;

/// A device as the test knows it.
#[derive(Debug)]
pub struct Device {
    /// By pair.
    pub places: Vec<Place>,
    /// Its port of the switch.
    pub port: Option<PortId>,
    /// By queue index.
    readers: Vec<CountersReader>,
}

impl Device {
    /// What a queue has done.
    pub fn counts(&self, queue_index: usize) -> QueueCounts {
        self.readers[queue_index].read().expect("nobody writes between turns")
    }

    /// How a queue's notifications are held back at present.
    pub fn moderation(&self, queue_index: usize) -> Moderation {
        self.readers[queue_index].moderation()
    }

    /// The places, to be taken away, while the counters stay to be read.
    pub fn hand_over(&mut self) -> Device {
        Device { places: std::mem::take(&mut self.places), port: self.port.take(), readers: Vec::new() }
    }
}

/// Where a queue of that index is served.
pub fn place_of(device: &Device, queue_index: u16) -> (Place, Side) {
    let side = if queue_index.is_multiple_of(2) { Side::Receiveq } else { Side::Transmitq };
    (device.places[usize::from(queue_index / 2)], side)
}

/// A pair on its way to another worker.
#[derive(Debug)]
pub struct Relocation {
    pair: usize,
    worker: u16,
    stage: Stage,
}

/// What is waited for.
#[derive(Debug)]
enum Stage {
    Hold(Vec<u64>),
    Depart(u64),
    Arrive(u64),
    Lead(Vec<u64>),
}

/// Workers, and the switch that they share.
#[derive(Debug)]
pub struct House {
    /// The workers.
    pub workers: Vec<Worker>,
    /// The time that the next turn is told.
    pub now_ns: u64,
    /// The forwarding database.
    pub fdb: Arc<Fdb>,
    desks: Vec<Arc<Desk>>,
    ports_used: Vec<bool>,
    next_number: u64,
    replies: HashMap<u64, Reply>,
}

impl House {
    /// So many workers, for bursts of 32.
    pub fn new(workers: usize) -> Self {
        let fdb = Arc::new(Fdb::new(8));
        let desks: Vec<_> = (0..workers).map(|_| Desk::new().expect("an eventfd")).collect();
        let mut links: Vec<Vec<Option<Link>>> = Vec::new();
        links.resize_with(workers, || std::iter::repeat_with(|| None).take(workers).collect());
        for (one, other) in (0..workers).flat_map(|one| (one + 1..workers).map(move |other| (one, other))) {
            let (near, far) = Link::pair();
            links[one][other] = Some(near);
            links[other][one] = Some(far);
        }
        let workers = links.into_iter().enumerate().map(|(me, links)| {
            let lane = Lane::new(me as u16, fdb.clone(), links);
            Worker::new(me as u16, desks.clone(), lane, 32, IdlePolicy::Poll)
        });
        let workers = workers.collect();
        let (ports_used, replies) = Default::default();
        House { workers, now_ns: 0, fdb, desks, ports_used, next_number: 0, replies }
    }

    /// Turns one worker; returns how much moved.
    pub fn turn(&mut self, worker: usize) -> usize {
        self.now_ns += TURN_NS;
        self.workers[worker].turn(self.now_ns)
    }

    /// Turns each worker once.
    pub fn turn_all(&mut self) -> usize {
        (0..self.workers.len()).map(|worker| self.turn(worker)).sum()
    }

    /// Turns each worker so many times.
    pub fn turns(&mut self, count: usize) {
        for _ in 0..count {
            self.turn_all();
        }
    }

    /// Gives a command, without turning.
    pub fn order(&mut self, worker: u16, command: Command) -> u64 {
        self.next_number += 1;
        let given = self.desks[usize::from(worker)].commands.push((self.next_number, command));
        assert!(given.is_ok(), "room for a command");
        self.next_number
    }

    /// The answer to a command, if it is there.
    pub fn answer(&mut self, number: u64) -> Option<Reply> {
        for desk in &self.desks {
            while let Some((number, reply)) = desk.replies.pop() {
                let twice = self.replies.insert(number, reply);
                assert!(twice.is_none(), "command {number} was answered twice");
            }
        }
        self.replies.remove(&number)
    }

    /// Gives a command and turns all workers until it is answered.
    pub fn ask(&mut self, worker: u16, command: Command) -> Reply {
        let what = format!("{command:?}");
        let number = self.order(worker, command);
        for _ in 0..TURNS_MAX {
            self.turn_all();
            if let Some(reply) = self.answer(number) {
                return reply;
            }
        }
        panic!("no answer after {TURNS_MAX} turns to {}", &what[..what.len().min(60)]);
    }

    /// A device with a port of the switch, one pair on each of these workers.
    pub fn add(&mut self, workers: &[u16]) -> Device {
        let index = self.ports_used.iter().position(|used| !used).unwrap_or_else(|| {
            self.ports_used.push(false);
            self.ports_used.len() - 1
        });
        self.ports_used[index] = true;
        let port = PortId(index as u16);
        let mut device = self.add_with(workers.iter().map(|&worker| (worker, AnyPort::Switch(port))));
        device.port = Some(port);
        let steering = Steering::over(workers.len() as u16);
        let map = PortMap { id: port, places: device.places.clone().into(), steering };
        for worker in 0..self.workers.len() {
            assert!(matches!(self.ask(worker as u16, Command::SetPort(map.clone())), Reply::Done));
        }
        device
    }

    /// A device with ports of its own, one pair for each.
    pub fn add_with(&mut self, pairs: impl IntoIterator<Item = (u16, AnyPort)>) -> Device {
        let mut device = Device { places: Vec::new(), port: None, readers: Vec::new() };
        for (worker, port) in pairs {
            let [(receive, receive_reader), (transmit, transmit_reader)] = [QueueCounters::new(), QueueCounters::new()];
            let pair = Box::new(Pair::new(port, receive, transmit));
            let Reply::Slot(slot) = self.ask(worker, Command::AddPair(pair)) else { panic!("no slot") };
            device.places.push(Place { worker, slot });
            device.readers.extend([receive_reader, transmit_reader]);
        }
        device
    }

    /// Starts a queue.
    pub fn attach(&mut self, device: &Device, queue_index: u16, queue: Queue, features: u64) {
        let (place, side) = place_of(device, queue_index);
        let attachment = Attachment::new(side, queue, features, true);
        assert!(matches!(self.ask(place.worker, Command::Attach(place.slot, attachment)), Reply::Done));
    }

    /// Starts both queues of a guest on the first pair, at these bases.
    pub fn plug_at(&mut self, device: &Device, guest: &Guest, bases: [u32; 2]) {
        for index in [0, 1] {
            self.attach(device, index, guest.queue_at(index, bases[usize::from(index)]), guest.features);
        }
    }

    /// Starts both queues of a guest that has never used them.
    pub fn plug(&mut self, device: &Device, guest: &Guest) {
        self.plug_at(device, guest, [guest.fresh_base(); 2]);
    }

    /// A device of the switch on one worker, and its guest.
    pub fn move_in(&mut self, worker: u16, guest: &Guest) -> Device {
        let device = self.add(&[worker]);
        self.plug(&device, guest);
        device
    }

    /// Stops a queue, of which nothing is out then.
    pub fn detach(&mut self, device: &Device, queue_index: u16) -> Option<Queue> {
        use virtnet_rings::Virtqueue;
        let (place, side) = place_of(device, queue_index);
        let Reply::Detached(attachment) = self.ask(place.worker, Command::Detach(place.slot, side)) else {
            panic!("not an answer to a detach");
        };
        let queue = attachment.map(Attachment::into_queue);
        assert!(queue.as_ref().is_none_or(|queue| queue.outstanding() == 0), "chains of a detached queue are out");
        queue
    }

    /// Enables or disables a queue.
    pub fn set_enabled(&mut self, device: &Device, queue_index: u16, enabled: bool) {
        let (place, side) = place_of(device, queue_index);
        let reply = self.ask(place.worker, Command::SetEnabled(place.slot, side, enabled));
        assert!(matches!(reply, Reply::Done));
    }

    /// Changes how a queue's notifications are held back.
    pub fn moderate(&mut self, device: &Device, queue_index: u16, setting: Setting) {
        let (place, side) = place_of(device, queue_index);
        let reply = self.ask(place.worker, Command::Moderate(place.slot, side, setting));
        assert!(matches!(reply, Reply::Done));
    }

    /// Moves a pair to another worker, in control's order, while all workers turn.
    pub fn relocate(&mut self, device: &mut Device, pair: usize, worker: u16) {
        let mut relocation = self.begin_relocation(device, pair, worker);
        for _ in 0..TURNS_MAX {
            if self.go_on(&mut relocation, device) {
                return;
            }
            self.turn_all();
        }
        panic!("after {TURNS_MAX} turns: {relocation:?}");
    }

    /// The same, step by step: [`Self::go_on`] takes the next one, if the last is done.
    pub fn begin_relocation(&mut self, device: &Device, pair: usize, worker: u16) -> Relocation {
        let from = device.places[pair];
        let stage = match device.port {
            Some(_) => Stage::Hold(self.order_all(|| Command::Hold(from))),
            None => Stage::Depart(self.order(from.worker, Command::Depart(from.slot))),
        };
        Relocation { pair, worker, stage }
    }

    /// Takes the next step of a relocation; whether it was the last.
    pub fn go_on(&mut self, relocation: &mut Relocation, device: &mut Device) -> bool {
        let Relocation { pair, worker, stage } = relocation;
        let from = device.places[*pair];
        match stage {
            Stage::Hold(numbers) => {
                self.await_all(numbers);
                if numbers.is_empty() {
                    *stage = Stage::Depart(self.order(from.worker, Command::Depart(from.slot)));
                }
            }
            Stage::Depart(number) => match self.answer(*number) {
                Some(Reply::Pair(Some(pair))) => *stage = Stage::Arrive(self.order(*worker, Command::AddPair(pair))),
                Some(reply) => panic!("{reply:?}"),
                None => {}
            },
            Stage::Arrive(number) => match self.answer(*number) {
                Some(Reply::Slot(slot)) => {
                    let to = Place { worker: *worker, slot };
                    device.places[*pair] = to;
                    let Some(port) = device.port else { return true };
                    let steering = Steering::over(device.places.len() as u16);
                    let map = PortMap { id: port, places: device.places.clone().into(), steering };
                    *stage = Stage::Lead(self.order_all(|| Command::Lead(map.clone(), to)));
                }
                Some(reply) => panic!("{reply:?}"),
                None => {}
            },
            Stage::Lead(numbers) => {
                self.await_all(numbers);
                return numbers.is_empty();
            }
        }
        false
    }

    fn order_all(&mut self, command: impl Fn() -> Command) -> Vec<u64> {
        (0..self.workers.len()).map(|worker| self.order(worker as u16, command())).collect()
    }

    fn await_all(&mut self, numbers: &mut Vec<u64>) {
        numbers.retain(|&number| match self.answer(number) {
            Some(Reply::Done) => false,
            Some(reply) => panic!("{reply:?}"),
            None => true,
        });
    }

    /// Stops what is attached and takes the device away, in control's order.
    pub fn remove(&mut self, device: Device) {
        for index in 0..2 * device.places.len() as u16 {
            self.detach(&device, index);
        }
        if let Some(port) = device.port {
            for worker in 0..self.workers.len() {
                assert!(matches!(self.ask(worker as u16, Command::ForgetPort(port)), Reply::Done));
            }
            self.fdb.forget_port(port);
            self.ports_used[usize::from(port.0)] = false;
        }
        for place in device.places {
            let reply = self.ask(place.worker, Command::RemovePair(place.slot));
            assert!(matches!(reply, Reply::Pair(Some(_))), "the pair did not come back");
        }
    }

    /// What workers have told of their own accord.
    pub fn broken(&mut self) -> Vec<Broken> {
        self.desks.iter().flat_map(|desk| std::iter::from_fn(|| desk.broken.pop())).collect()
    }
}
