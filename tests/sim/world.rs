//! Guests, workers and commands of one run.

use std::collections::{BTreeMap, BTreeSet};

use virtnet_engine::command::{Command, Reply};
use virtnet_engine::counters::{DropReason, QueueCounts};
use virtnet_engine::pair::{AnyPort, Attachment};
use virtnet_engine::port::loopback::Loopback;
use virtnet_rings::guest::Options;
use virtnet_rings::guest::mischief::{Kind, Mischief};
use virtnet_rings::guest::net::NicOptions;
use virtnet_rings::{Layout, Virtqueue};
use virtnet_tests::frames::{self, BROADCAST, Mac};
use virtnet_tests::house::{Relocation, place_of};
use virtnet_tests::{Device, Guest, House};

use virtnet_tests::draw::Draw;

const STATIONS: usize = 6;
/// Frames that may be under way to one guest where none may be lost: less than the buffers that each offers.
const UNDER_WAY: u64 = 24;

/// Where a queue is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// With us, to go on from here.
    Idle(u32),
    /// With a worker.
    Attached,
    /// Asked back by this command.
    Leaving(u64),
}

/// A guest and the device that it is plugged into.
#[derive(Debug)]
struct Household {
    guest: Guest,
    device: Device,
    queues: [State; 2],
    looped: bool,
    /// It has broken a promise, and nothing it does or hears means anything any more.
    villain: bool,
}

/// One run.
pub struct World {
    draw: Draw,
    house: House,
    households: Vec<Option<Household>>,
    /// A pair that is on its way to another worker, by household. Control does one thing at a time.
    relocation: Option<(usize, Relocation)>,
    /// Nothing is done that loses frames.
    calm: bool,
    stations: u16,
    villains: BTreeSet<Mac>,
    /// What happened, in one number.
    trace: u64,
}

impl World {
    /// The world of a seed.
    pub fn new(seed: u64) -> Self {
        let mut draw = Draw::new(seed);
        let house = House::new(1 + draw.below(3));
        let calm = draw.one_in(3);
        let mut world = World {
            draw,
            house,
            households: Vec::new(),
            relocation: None,
            calm,
            stations: 0,
            villains: BTreeSet::new(),
            trace: 0,
        };
        for _ in 0..2 + world.draw.below(STATIONS - 1) {
            let household = world.found();
            world.households.push(Some(household));
        }
        if calm {
            world.introduce();
        }
        world
    }

    /// Everybody says who they are, one after another, so that nothing is flooded after.
    fn introduce(&mut self) {
        for index in 0..self.households.len() {
            let household = self.households[index].as_mut().expect("nobody has left");
            household.guest.send([2, 0, 0, 0, 0xba, 0xd0], 1, |_| 60);
            household.kick();
            self.house.turns(60);
            self.households.iter_mut().flatten().for_each(Household::listen);
        }
    }

    fn options(&mut self) -> NicOptions {
        let draw = &mut self.draw;
        let layout = draw.of(&[Layout::Split, Layout::Packed]);
        let sizes: &[u16] = if layout == Layout::Split { &[8, 16, 64, 256] } else { &[7, 16, 100, 256] };
        let mergeable = draw.one_in(2);
        let queue = Options {
            event_idx: draw.one_in(2),
            in_order: draw.one_in(2),
            indirect: draw.one_in(2),
            tight: draw.one_in(2),
        };
        NicOptions {
            layout,
            size: if self.calm { 64 } else { draw.of(sizes) },
            queue,
            mergeable,
            legacy: layout == Layout::Split && draw.one_in(4),
            hash_report: draw.one_in(4),
            frame_bytes_max: if mergeable { draw.of(&[400, 1522]) } else { 1522 },
            receive_bytes_max: None,
            receive_buffers: if self.calm { 256 } else { draw.of(&[0, 1, 5, 256, 256, 256]) },
            receive_cuts: if self.calm { vec![] } else { draw.of(&[vec![], vec![], vec![12], vec![1, 30]]) },
            transmit_cuts: draw.of(&[vec![], vec![], vec![12], vec![5, 7, 30, 1]]),
        }
    }

    /// A new device and its guest.
    fn found(&mut self) -> Household {
        self.stations += 1;
        let mut guest = Guest::with_memory(self.stations, self.options(), 4 << 20);
        guest.distrusted = self.villains.clone();
        if self.draw.one_in(2) {
            guest = guest.with_kicks();
        }
        let worker = self.draw.below(self.house.workers.len()) as u16;
        let looped = self.draw.one_in(5);
        let device = if looped {
            self.house.add_with([(worker, AnyPort::Loopback(Loopback::default()))])
        } else {
            self.house.add(&[worker])
        };
        self.house.plug(&device, &guest);
        Household { guest, device, queues: [State::Attached; 2], looped, villain: false }
    }

    /// One thing happens.
    pub fn step(&mut self) {
        match self.draw.below(100) {
            0..50 => {
                let worker = self.draw.below(self.house.workers.len());
                self.trace = self.trace.wrapping_mul(31).wrapping_add(self.house.turn(worker) as u64);
            }
            50..80 => self.talk(),
            80..95 => {
                let index = self.draw.below(self.households.len());
                self.households[index].iter_mut().for_each(Household::listen);
            }
            95 => {
                // Now and then long enough for queues to be parked.
                let most = if self.draw.one_in(3) { 3_000_000 } else { 200_000 };
                self.house.now_ns += self.draw.below(most) as u64;
            }
            96 => self.households.iter_mut().flatten().for_each(Household::kick),
            _ => self.command(),
        }
        self.look_after();
    }

    fn talk(&mut self) {
        let from = self.draw.below(self.households.len());
        let to = self.draw.below(self.households.len());
        let count = 1 + self.draw.below(if self.calm { 6 } else { 20 }) as u64;
        let seed = self.draw.below(1000) as u64;
        let (receiver, looped, under_way) = match &self.households[to] {
            Some(receiver) => (receiver.guest.mac, receiver.looped, self.under_way(receiver.guest.mac)),
            None => (BROADCAST, false, 0),
        };
        let Some(sender) = self.households[from].as_mut().filter(|sender| !sender.villain) else { return };
        if self.calm && ((sender.looped || looped) != (from == to) || under_way + count > UNDER_WAY) {
            return;
        }
        let to = if !self.calm && self.draw.one_in(10) { BROADCAST } else { receiver };
        // In a calm world every frame fits into one buffer of whoever gets it.
        let longest = if self.calm { 400 } else { sender.guest.nic.options().frame_bytes_max as usize };
        let span = longest - frames::LEN_MIN;
        let len_bytes = |number: u64| frames::LEN_MIN + ((number * 97 + seed) as usize) % span;
        let sent = sender.guest.send(to, count, len_bytes);
        if !self.draw.one_in(3) {
            sender.kick();
        }
        self.trace = self.trace.wrapping_mul(31).wrapping_add(sent);
    }

    /// Frames that somebody has sent to a station, and that it has not heard.
    fn under_way(&self, to: Mac) -> u64 {
        let receiver = self.households.iter().flatten().find(|household| household.guest.mac == to);
        let senders = self.households.iter().flatten();
        senders
            .map(|sender| {
                let heard = receiver.map_or(0, |receiver| receiver.guest.heard_from(sender.guest.mac).next);
                sender.guest.sent_to(to) - heard
            })
            .sum()
    }

    fn command(&mut self) {
        if self.relocation.is_some() {
            return;
        }
        let index = self.draw.below(self.households.len());
        let queue_index = self.draw.below(2) as u16;
        let choice = self.draw.below(10);
        let Some(household) = &mut self.households[index] else {
            if self.draw.one_in(3) {
                let household = self.found();
                self.households[index] = Some(household);
            }
            return;
        };
        let (place, side) = place_of(&household.device, queue_index);
        let state = &mut household.queues[usize::from(queue_index)];
        match choice {
            // A transmitq may leave and come back without anybody losing anything.
            0..3 if *state == State::Attached && (!self.calm || queue_index == 1 && !household.looped) => {
                *state = State::Leaving(self.house.order(place.worker, Command::Detach(place.slot, side)));
            }
            3..6 if !self.calm => {
                let enabled = !self.draw.one_in(3);
                self.house.order(place.worker, Command::SetEnabled(place.slot, side, enabled));
            }
            6 if !self.calm => {
                let household = self.households[index].take().expect("it is there");
                self.leave(household);
            }
            8 if household.queues.iter().all(|state| !matches!(state, State::Leaving(_))) => {
                let worker = self.draw.below(self.house.workers.len()) as u16;
                if worker != place.worker {
                    self.relocation = Some((index, self.house.begin_relocation(&household.device, 0, worker)));
                }
            }
            7 if !self.calm && self.draw.one_in(4) => {
                household.villain = true;
                let kind = if queue_index == 0 { Kind::Receiveq } else { Kind::Transmitq };
                let mischief = self.draw.of(Mischief::ALL);
                let nic = &mut household.guest.nic;
                let ram = nic.ram().clone();
                let driver = if queue_index == 0 { &mut nic.receiveq } else { &mut nic.transmitq };
                // It may have no room for it, or not be able to.
                let _ = mischief.apply(driver, &ram, kind);
                self.villains.insert(household.guest.mac);
                self.households.iter_mut().flatten().for_each(|other| other.guest.distrusted = self.villains.clone());
            }
            _ => {}
        }
    }

    /// Takes queues that have left, and brings them back in the end.
    fn look_after(&mut self) {
        if let Some((index, relocation)) = &mut self.relocation {
            let household = self.households[*index].as_mut().expect("nobody leaves meanwhile");
            if self.house.go_on(relocation, &mut household.device) {
                self.relocation = None;
            }
            return;
        }
        for household in self.households.iter_mut().flatten() {
            for queue_index in [0, 1] {
                let state = &mut household.queues[usize::from(queue_index)];
                match *state {
                    State::Leaving(number) => match self.house.answer(number) {
                        Some(Reply::Detached(Some(attachment))) => {
                            let queue = Attachment::into_queue(attachment);
                            assert_eq!(queue.outstanding(), 0);
                            *state = State::Idle(queue.base());
                        }
                        Some(reply) => panic!("{reply:?}"),
                        None => {}
                    },
                    State::Idle(base) if self.draw.one_in(20) => {
                        let Household { guest, device, .. } = household;
                        if !household.villain {
                            self.house.attach(device, queue_index, guest.queue_at(queue_index, base), guest.features);
                            *state = State::Attached;
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    /// A device goes, at whatever moment it is.
    fn leave(&mut self, mut household: Household) {
        self.house.remove(household.device_that_leaves());
        household.check();
    }

    /// Everything comes to an end in good order, and adds up. Returns what happened as one number.
    pub fn finish(mut self) -> u64 {
        while self.relocation.is_some() {
            self.look_after();
            self.house.turn_all();
        }
        // What was interrupted goes on, and everybody listens until nothing comes any more.
        for household in self.households.iter_mut().flatten() {
            for queue_index in [0, 1] {
                let (place, side) = place_of(&household.device, queue_index);
                self.house.order(place.worker, Command::SetEnabled(place.slot, side, true));
                self.house.turns(1);
            }
        }
        let mut quiet = 0;
        while quiet < 80 {
            self.look_after();
            self.households.iter_mut().flatten().for_each(Household::kick);
            let moved = self.house.turn_all();
            let heard: u64 = self.households.iter_mut().flatten().map(Household::listened).sum();
            let settled = self.households.iter().flatten().all(Household::is_settled);
            quiet = if moved as u64 + heard == 0 && settled { quiet + 1 } else { 0 };
            self.trace = self.trace.wrapping_mul(31).wrapping_add(heard);
        }
        for household in self.households.iter_mut().flatten().filter(|household| !household.villain) {
            // A loop keeps what it has no buffers for.
            if !household.looped {
                assert_eq!(household.guest.unreaped(), 0, "chains were not returned");
            }
        }
        if self.calm {
            self.check_calm();
        }
        for household in std::mem::take(&mut self.households).into_iter().flatten() {
            self.leave(household);
        }
        self.trace
    }

    /// Nothing was taken away, so everything has arrived.
    fn check_calm(&self) {
        let all: BTreeMap<Mac, &Guest> =
            self.households.iter().flatten().map(|household| (household.guest.mac, &household.guest)).collect();
        for (&from, sender) in &all {
            for (&to, receiver) in &all {
                let heard = receiver.heard_from(from);
                assert_eq!((heard.count, heard.missed), (sender.sent_to(to), 0), "from {from:x?} to {to:x?}");
            }
        }
    }
}

impl Household {
    /// A villain's kicks are as good as anybody's.
    fn kick(&mut self) {
        if self.villain { self.guest.kick_anyway() } else { self.guest.kick() }
    }

    fn listen(&mut self) {
        self.listened();
    }

    fn listened(&mut self) -> u64 {
        if self.villain { 0 } else { self.guest.listen() }
    }

    fn is_settled(&self) -> bool {
        self.villain || self.queues == [State::Attached; 2]
    }

    /// The device, with a bare one in its place.
    fn device_that_leaves(&mut self) -> Device {
        self.device.hand_over()
    }

    /// Counters against what the guest saw, once nothing moves any more.
    fn check(&mut self) {
        let [receive, transmit] = [0, 1].map(|queue_index| self.device.counts(queue_index));
        if self.villain {
            return;
        }
        self.guest.listen();
        self.guest.unreaped();
        let QueueCounts { packets, bytes, completed, violations, size_bins, .. } = transmit;
        let disabled = transmit.drops[DropReason::QueueDisabled as usize];
        if !self.looped {
            assert_eq!(completed, packets + disabled, "{transmit:?}");
        }
        assert_eq!((violations, size_bins.iter().sum::<u64>()), (0, packets));
        assert!(bytes >= packets * frames::LEN_MIN as u64);
        let heard: u64 = self.guest.heard.values().map(|record| record.count).sum();
        assert_eq!(receive.packets, heard + self.guest.strange.len() as u64, "{receive:?}");
        assert_eq!(receive.violations, 0);
    }
}
