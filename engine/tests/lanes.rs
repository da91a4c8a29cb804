//! The lanes of a switch by themselves, with drawn bursts: frames go where the table says, once and in order, and afterwards
//! nobody has anything on an account.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use proptest::prelude::*;
use virtnet_engine::frame::steer::Steering;
use virtnet_engine::frame::{Frame, Lender, PlainFrame};
use virtnet_engine::port::switch::fdb::{Fdb, Mac, PortId, TICK_SECONDS};
use virtnet_engine::port::switch::{Lane, Link, Losses, Place, PortMap};
use virtnet_engine::port::{Arrival, Copier, Port};
use virtnet_engine::window::Window;
use virtnet_rings::Used;
use virtnet_rings::memory::OwnedMemory;

/// Frames that a station can have out; more than an inbox and less than a link holds.
const WINDOW: usize = 512;
const FRAME_BYTES: usize = 64;
/// Port of each station, and its lane where there are two. The last two are pairs of one port.
const STATIONS: [(u16, usize); 6] = [(0, 0), (1, 0), (2, 1), (3, 1), (4, 0), (4, 1)];
const PORTS: u16 = 5;
const NOBODY: Mac = [2, 0, 0, 0, 0, 0xff];
const BROADCAST: Mac = [0xff; 6];

fn mac(port: u16) -> Mac {
    [2, 0, 0, 0, 1, port as u8]
}

/// One frame of a burst.
#[derive(Clone, Debug)]
struct Draft {
    to: Mac,
    /// Its own address, or that of another port.
    from_port: Option<u16>,
    vlan: Option<u16>,
    plain: bool,
    /// What another worker hears while the burst is sent: this port's address at another.
    stolen: Option<(u16, u16)>,
}

#[derive(Clone, Debug)]
enum Op {
    Send(usize, Vec<(Draft, usize)>),
    /// The bits say which frames are copied; the others are kept.
    Receive(usize, usize, u64),
    Release(usize, usize),
    Gather(usize),
    Flush(usize),
    Tick,
    Expire,
    Park(usize),
    Hold(usize),
    Lead,
    Forget(u16),
    Known(u16),
}

fn draft() -> impl Strategy<Value = (Draft, usize)> {
    let to = prop_oneof![
        20 => (0..PORTS).prop_map(mac),
        1 => Just(NOBODY),
        1 => Just(BROADCAST),
    ];
    let from_port = prop::option::weighted(0.05, 0..PORTS);
    let vlan = prop::option::weighted(0.1, 0_u16..3);
    let stolen = prop::option::weighted(0.05, (0..PORTS, 0..PORTS));
    let drafts = (to, from_port, vlan, prop::bool::weighted(0.9), stolen);
    let drafts = drafts.prop_map(|(to, from_port, vlan, plain, stolen)| Draft { to, from_port, vlan, plain, stolen });
    (drafts, prop_oneof![4 => 1_usize..6, 1 => 1_usize..200])
}

fn op() -> impl Strategy<Value = Op> {
    let station = 0..STATIONS.len();
    prop_oneof![
        12 => (station.clone(), prop::collection::vec(draft(), 1..6)).prop_map(|(at, runs)| Op::Send(at, runs)),
        12 => (station.clone(), 1_usize..300, any::<u64>(), any::<bool>())
            .prop_map(|(at, count, bits, all)| Op::Receive(at, count, if all { u64::MAX } else { bits })),
        6 => (station.clone(), 1_usize..300).prop_map(|(at, count)| Op::Release(at, count)),
        6 => (0_usize..2).prop_map(Op::Gather),
        6 => (0_usize..2).prop_map(Op::Flush),
        1 => Just(Op::Tick),
        1 => Just(Op::Expire),
        2 => station.clone().prop_map(Op::Park),
        1 => station.prop_map(Op::Hold),
        2 => Just(Op::Lead),
        1 => (0..PORTS).prop_map(Op::Forget),
        2 => (0..PORTS).prop_map(Op::Known),
    ]
}

/// Copies some frames, and notes their numbers.
struct Reader<'r> {
    bits: u64,
    numbers: &'r mut Vec<u64>,
}

fn number_of(frame: &Frame) -> u64 {
    let mut bytes = [0; FRAME_BYTES];
    assert_eq!(frame.parts.read(&mut bytes), FRAME_BYTES);
    u64::from_le_bytes(*bytes.last_chunk().unwrap())
}

impl Copier for Reader<'_> {
    fn copy(&mut self, frame: &Frame) -> bool {
        self.bits = self.bits.rotate_right(1);
        let copies = self.bits & 1 != 0;
        if copies {
            self.numbers.push(number_of(frame));
        }
        copies
    }
}

struct Station {
    place: Place,
    port: PortId,
    window: Window,
    memory: OwnedMemory,
    kept: VecDeque<Frame>,
    parked: bool,
}

struct World {
    fdb: Arc<Fdb>,
    lanes: Vec<Lane>,
    stations: Vec<Station>,
    known: [bool; PORTS as usize],
    held: Option<Place>,
    now_ns: u64,
    next_number: u64,
    /// By number: the ports that have yet to hear it.
    due: HashMap<u64, Vec<PortId>>,
    /// By sender and hearing station: the last number.
    last: HashMap<(u64, usize), u64>,
    /// Copies of frames that had somewhere to go or nowhere, that were heard, that were counted as lost.
    copies: u64,
    heard: u64,
    lost: u64,
}

impl World {
    fn new(lanes: usize) -> Self {
        let fdb = Arc::new(Fdb::new(8));
        let mut links: Vec<Vec<Option<Link>>> = vec![vec![None]];
        if lanes == 2 {
            let (near, far) = Link::pair();
            links = vec![vec![None, Some(near)], vec![Some(far), None]];
        }
        let lanes = links.into_iter().enumerate().map(|(me, links)| Lane::new(me as u16, fdb.clone(), links));
        let mut lanes: Vec<Lane> = lanes.collect();
        let mut slots = [0; 2];
        let stations = STATIONS.map(|(port, lane)| {
            let lane = lane % lanes.len();
            let place = Place { worker: lane as u16, slot: slots[lane] };
            slots[lane] += 1;
            lanes[lane].open_mailbox(place.slot);
            let memory = OwnedMemory::new(WINDOW * FRAME_BYTES);
            let kept = VecDeque::new();
            Station { place, port: PortId(port), window: Window::new(WINDOW), memory, kept, parked: false }
        });
        let mut world = World {
            fdb,
            lanes,
            stations: stations.into(),
            known: [false; PORTS as usize],
            held: None,
            now_ns: 0,
            next_number: 0,
            due: HashMap::new(),
            last: HashMap::new(),
            copies: 0,
            heard: 0,
            lost: 0,
        };
        (0..PORTS).for_each(|port| world.make_known(port));
        world
    }

    fn map(&self, port: u16) -> PortMap {
        let places: Vec<Place> =
            self.stations.iter().filter(|station| station.port.0 == port).map(|station| station.place).collect();
        let steering = Steering::over(places.len() as u16);
        PortMap { id: PortId(port), places: places.into(), steering }
    }

    fn make_known(&mut self, port: u16) {
        let map = self.map(port);
        self.lanes.iter_mut().for_each(|lane| lane.set_port(map.clone()));
        self.known[usize::from(port)] = true;
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::Send(at, runs) => self.send(at, &runs),
            Op::Receive(at, count, bits) => self.receive(at, count, bits),
            Op::Release(at, count) => self.release(at, count),
            Op::Gather(lane) => drop(self.lanes.get_mut(lane).map(|lane| lane.gather(self.now_ns))),
            Op::Flush(lane) => {
                self.lanes.get_mut(lane).into_iter().for_each(|lane| lane.take_sent_to().for_each(drop));
            }
            Op::Tick => self.now_ns += TICK_SECONDS * 1_000_000_000,
            Op::Expire => drop(self.fdb.forget_port(PortId(0))),
            Op::Park(at) => {
                let Station { place, parked, .. } = &mut self.stations[at];
                *parked = *parked || self.lanes[usize::from(place.worker)].park(place.slot);
            }
            Op::Hold(at) if self.held.is_none() && self.lanes.iter().all(Lane::holds_nothing) => {
                let place = self.stations[at].place;
                self.held = Some(place);
                self.lanes.iter_mut().for_each(|lane| assert!(lane.hold(place)));
            }
            Op::Hold(_) => {}
            Op::Lead => self.lead(),
            Op::Forget(port) => {
                self.lanes.iter_mut().for_each(|lane| lane.forget_port(PortId(port)));
                self.known[usize::from(port)] = false;
            }
            Op::Known(port) => self.make_known(port),
        }
        self.rouse();
    }

    fn lead(&mut self) {
        let Some(place) = self.held.take() else { return };
        let port = self.stations.iter().find(|station| station.place == place).unwrap().port;
        let map = self.map(port.0);
        self.known[usize::from(port.0)] = true;
        self.lanes.iter_mut().for_each(|lane| lane.lead(map.clone(), place));
    }

    /// Whoever is parked has been told of what waits for it.
    fn rouse(&mut self) {
        for (number, lane) in self.lanes.iter_mut().enumerate() {
            while let Some(slot) = lane.take_roused() {
                let place = Place { worker: number as u16, slot };
                let station = self.stations.iter_mut().find(|station| station.place == place).unwrap();
                assert!(std::mem::take(&mut station.parked), "roused, and not parked");
                assert!(!lane.is_empty(slot), "roused for nothing");
            }
        }
        for Station { place, parked, .. } in &self.stations {
            assert!(!parked || self.lanes[usize::from(place.worker)].is_empty(place.slot), "a frame and no call");
        }
    }

    /// One burst.
    fn send(&mut self, at: usize, runs: &[(Draft, usize)]) {
        // As every turn begins.
        self.step(Op::Gather(self.stations[at].place.worker.into()));
        let Station { place, port, window, memory, .. } = &mut self.stations[at];
        let (place, port) = (*place, *port);
        let lane = &mut self.lanes[usize::from(place.worker)];
        let knows = |port: &PortId| self.known[usize::from(port.0)];
        let others = || (0..PORTS).map(PortId).filter(|&other| other != port).filter(knows).collect::<Vec<_>>();
        let mut left = 256.min(window.room()).min(lane.room());
        let lender = Lender { worker: place.worker, slot: place.slot };
        let mut end = lane.end(place.slot, port);
        let mut stolen = false;
        for (draft, count) in runs {
            for _ in 0..left.min(*count) {
                left -= 1;
                let ticket = window.open(std::iter::once(Used { id: 0, descriptors: 1, len_bytes: 0 }));
                let bytes = memory.span(ticket as usize % WINDOW * FRAME_BYTES, FRAME_BYTES);
                // The sender's number in front: numbers of one sender are told apart from those of another.
                let number = (at as u64) << 32 | self.next_number;
                self.next_number += 1;
                let from = mac(draft.from_port.unwrap_or(port.0));
                bytes.write(&contents(draft.to, from, draft.vlan, number));
                let vlan = draft.vlan.unwrap_or(0);
                let to = if draft.to == from { Some(port) } else { self.fdb.lookup(draft.to, vlan) };
                let due = match to.filter(|_| draft.to != BROADCAST) {
                    None => others(),
                    Some(to) if to == port || !knows(&to) => vec![],
                    Some(to) => vec![to],
                };
                self.copies += due.len().max(1) as u64;
                // A way holds for a burst, whoever moves meanwhile: then the old one and the new one are good.
                self.due.insert(number, if stolen { others() } else { due });
                let frame = PlainFrame { bytes, ticket, lender };
                if draft.plain {
                    end.send_plain(frame, window);
                } else {
                    end.send(frame.into(), window);
                }
            }
            if let Some((whose, thief)) = draft.stolen {
                self.fdb.learn(mac(whose), 0, PortId(thief), self.now_ns / (TICK_SECONDS * 1_000_000_000));
                stolen = true;
            }
        }
        end.reap(window);
        drop(end);
        let Losses { port_full, no_destination } = lane.take_losses(place.slot);
        self.lost += port_full + no_destination;
        window.close(&mut Vec::with_capacity(WINDOW));
    }

    fn receive(&mut self, at: usize, count: usize, bits: u64) {
        let Station { place, port, kept, .. } = &mut self.stations[at];
        let lane = &mut self.lanes[usize::from(place.worker)];
        let mut numbers = Vec::new();
        let mut end = lane.end(place.slot, *port);
        let mut reader = Reader { bits, numbers: &mut numbers };
        for _ in 0..count.min(end.arrived(0)) {
            match end.receive(0, &mut reader) {
                Arrival::None => panic!("fewer than arrived"),
                Arrival::Copied => {}
                Arrival::Lent(frame) => {
                    reader.numbers.push(number_of(&frame));
                    kept.push_back(frame);
                }
            }
        }
        drop(end);
        self.heard += numbers.len() as u64;
        for number in numbers {
            let due = self.due.get_mut(&number).expect("it was sent to somebody");
            let before = due.len();
            due.retain(|due| due != port);
            assert_eq!(due.len() + 1, before, "{number:x} is not for {port:?}, or came twice");
            if let Some(last) = self.last.insert((number >> 32, at), number) {
                assert!(last < number, "{number:x} after {last:x}");
            }
        }
    }

    fn release(&mut self, at: usize, count: usize) {
        let Station { place, port, kept, .. } = &mut self.stations[at];
        let mut end = self.lanes[usize::from(place.worker)].end(place.slot, *port);
        kept.drain(..count.min(kept.len())).for_each(|mut frame| end.release(&mut frame));
    }

    /// Everything comes home, and then there is nothing on any account.
    fn finish(mut self) {
        self.lead();
        for _ in 0..100 {
            for lane in 0..self.lanes.len() {
                self.step(Op::Gather(lane));
                self.step(Op::Flush(lane));
            }
            for at in 0..STATIONS.len() {
                self.step(Op::Receive(at, 300, u64::MAX));
                self.step(Op::Release(at, usize::MAX));
                self.step(Op::Send(at, vec![]));
            }
        }
        for station in &self.stations {
            assert!(station.window.is_empty(), "{:?} has {} frames out", station.place, station.window.len());
        }
        // What another worker's inbox has no room for is counted there, and only there.
        let lanes = &mut self.lanes;
        let overflows = self
            .stations
            .iter()
            .map(|Station { place, .. }| lanes[usize::from(place.worker)].take_overflows(place.slot));
        let overflows: u64 = overflows.sum();
        let overflows = if self.lanes.len() > 1 { overflows } else { 0 };
        let settled = self.heard + self.lost;
        assert!((settled..=settled + overflows).contains(&self.copies), "{} of {}", settled, self.copies);
        // A sender gets half of what is free, which is a whole inbox: unless it, or another, has something there still.
        (0..PORTS).for_each(|port| self.make_known(port));
        for port in 0..PORTS {
            self.fdb.learn(mac(port), 0, PortId(port), self.now_ns / (TICK_SECONDS * 1_000_000_000));
        }
        for (from, to) in (0..4).flat_map(|from| (0..4).map(move |to| (from, to))).filter(|(from, to)| from != to) {
            let places = [from, to].map(|at| self.stations[at].place);
            self.due.clear();
            let draft = Draft { to: mac(to as u16), from_port: None, vlan: None, plain: true, stolen: None };
            self.send(from, &[(draft, 256)]);
            self.step(Op::Flush(places[0].worker.into()));
            self.step(Op::Gather(places[1].worker.into()));
            let mut end = self.lanes[usize::from(places[1].worker)].end(places[1].slot, PortId(to as u16));
            assert_eq!(end.arrived(0), 128, "{from} to {to}");
            drop(end);
            self.step(Op::Receive(to, 300, u64::MAX));
            self.step(Op::Flush(places[1].worker.into()));
            self.step(Op::Gather(places[0].worker.into()));
            self.send(from, &[]);
            assert!(self.stations[from].window.is_empty());
        }
        for me in 0..self.lanes.len() {
            assert!(self.lanes[me].disconnect(1 - me as u16, self.now_ns), "the link has something on its account");
        }
    }
}

fn contents(to: Mac, from: Mac, vlan: Option<u16>, number: u64) -> [u8; FRAME_BYTES] {
    let mut bytes = Vec::new();
    bytes.extend(to);
    bytes.extend(from);
    if let Some(vlan) = vlan {
        bytes.extend([0x81, 0]);
        bytes.extend(vlan.to_be_bytes());
    }
    // IPv4 between two addresses: what a port with two pairs is steered by.
    bytes.extend([8, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, number as u8 & 3, 10, 0, 0, 1]);
    bytes.resize(FRAME_BYTES - 8, 0);
    bytes.extend(number.to_le_bytes());
    bytes.try_into().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn frames_go_where_the_table_says_and_every_account_is_settled(
        ops in prop::collection::vec(op(), 1..120),
        lanes in 1_usize..3,
    ) {
        let mut world = World::new(lanes);
        for op in ops {
            world.step(op);
        }
        world.finish();
    }
}

#[test]
fn an_address_that_another_worker_heard_elsewhere_is_its_owners_again_with_the_owners_next_burst() {
    let [owner, friend, other, thief] = [0, 1, 2, 3];
    let mut world = World::new(1);
    for port in [friend, other] {
        world.fdb.learn(mac(port), 0, PortId(port), 0);
    }
    let draft = |to, stolen| Draft { to: mac(to), from_port: None, vlan: None, plain: true, stolen };
    // While the owner sends, the thief is heard.
    world.step(Op::Send(owner.into(), vec![(draft(friend, Some((owner, thief))), 3), (draft(other, None), 3)]));
    assert_eq!(world.fdb.lookup(mac(owner), 0), Some(PortId(thief)));
    world.step(Op::Gather(0));
    world.step(Op::Send(owner.into(), vec![(draft(other, None), 3)]));
    assert_eq!(world.fdb.lookup(mac(owner), 0), Some(PortId(owner)));
}
