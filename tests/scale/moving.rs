//! Pairs that move from worker to worker under traffic, and workers that come and go: no frame is lost, none overtakes another.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use virtnet_engine::counters::DropReason;
use virtnet_engine::pair::AnyPort;
use virtnet_engine::port::loopback::Loopback;
use virtnet_engine::roster::PARK_AFTER_NS;
use virtnet_engine::{DeviceConfig, DeviceId, Engine, EngineConfig, EngineError, IdlePolicy, PortConfig};
use virtnet_rings::guest::net::NicOptions;
use virtnet_tests::frames::Mac;
use virtnet_tests::{Device, Guest, House};

use crate::{LAYOUTS, guest};

const NOBODY: Mac = [2, 0, 0, 0, 0xba, 0xd0];
const PATIENCE: Duration = Duration::from_secs(20);

fn listen(guests: &mut [Guest]) {
    for guest in guests {
        guest.listen();
    }
}

/// Guests who know each other.
fn neighbours(house: &mut House, workers: &[u16]) -> (Vec<Guest>, Vec<Device>) {
    let layout = |at: usize| LAYOUTS[at % 2];
    let mut guests: Vec<_> = (0..workers.len()).map(|at| guest(1 + at as u16, layout(at))).collect();
    let devices = guests.iter().zip(workers).map(|(guest, &worker)| house.move_in(worker, guest)).collect();
    for at in 0..guests.len() {
        guests[at].send(NOBODY, 1, |_| 60);
        guests[at].kick();
        house.turns(3);
        listen(&mut guests);
    }
    (guests, devices)
}

fn chatter(house: &mut House, guests: &mut [Guest]) {
    let macs: Vec<_> = guests.iter().map(|guest| guest.mac).collect();
    for (at, guest) in guests.iter_mut().enumerate() {
        for (to, &mac) in macs.iter().enumerate().filter(|&(to, _)| to != at) {
            // No more under way than there are buffers for.
            assert_eq!(guest.send(mac, 2, |number| 60 + (number as usize * 7 + to) % 300), 2);
        }
        guest.kick();
    }
    house.turns(1);
    for guest in guests {
        guest.listen();
        guest.kick();
    }
}

fn check(guests: &[Guest]) {
    for sender in guests {
        for receiver in guests.iter().filter(|receiver| receiver.mac != sender.mac) {
            let heard = receiver.heard_from(sender.mac);
            assert_eq!((heard.count, heard.missed), (sender.sent_to(receiver.mac), 0));
        }
    }
}

#[test]
fn pairs_that_move_under_traffic_lose_nothing_in_any_direction() {
    for workers in [2, 3] {
        let places: Vec<u16> = (0..4).map(|at| at % workers).collect();
        let mut house = House::new(usize::from(workers));
        let (mut guests, mut devices) = neighbours(&mut house, &places);
        for round in 0..60 {
            let at = round % devices.len();
            let to = (devices[at].places[0].worker + 1 + (round / 7) as u16 % (workers - 1)) % workers;
            let mut relocation = house.begin_relocation(&devices[at], 0, to);
            let mut turns = 0;
            while !house.go_on(&mut relocation, &mut devices[at]) {
                chatter(&mut house, &mut guests);
                turns += 1;
                assert!(turns < 40, "{relocation:?}");
            }
            assert_eq!(devices[at].places[0].worker, to);
            chatter(&mut house, &mut guests);
        }
        for _ in 0..20 {
            house.turns(3);
            listen(&mut guests);
        }
        check(&guests);
        for device in &devices {
            assert_eq!([device.counts(0).dropped(), device.counts(1).dropped()], [0, 0]);
        }
        devices.into_iter().for_each(|device| house.remove(device));
    }
}

#[test]
fn senders_wait_while_more_is_held_than_there_is_room_for() {
    for layout in LAYOUTS {
        let mut house = House::new(2);
        let options = NicOptions { layout, size: 1024, ..NicOptions::default() };
        let mut senders: Vec<_> = (1..=3).map(|at| Guest::new(at, options.clone())).collect();
        let mut receiver = Guest::new(9, options.clone());
        let _senders: Vec<_> = senders.iter().map(|guest| house.move_in(0, guest)).collect();
        let mut device = house.move_in(1, &receiver);
        receiver.send(NOBODY, 1, |_| 60);
        house.turns(3);
        listen(&mut senders);
        let mut relocation = house.begin_relocation(&device, 0, 0);
        // Control is slow: the first worker is told, and nothing goes on for a long time.
        for _ in 0..200 {
            for guest in &mut senders {
                guest.send(receiver.mac, 16, |_| 60);
            }
            house.turns(1);
        }
        let sent: u64 = senders.iter().map(|guest| guest.sent_to(receiver.mac)).sum();
        assert!(sent > 2000, "they have filled their rings: {sent}");
        assert_eq!(receiver.listen(), 0);
        while !house.go_on(&mut relocation, &mut device) {
            house.turns(1);
            receiver.listen();
        }
        for _ in 0..200 {
            house.turns(1);
            receiver.listen();
        }
        let heard: u64 = senders.iter().map(|guest| receiver.heard_from(guest.mac).count).sum();
        assert_eq!(heard, sent);
        assert!(senders.iter().all(|guest| receiver.heard_from(guest.mac).missed == 0));
    }
}

#[test]
fn a_loop_moves_with_the_frames_that_are_on_it() {
    for layout in LAYOUTS {
        let mut house = House::new(2);
        let options = NicOptions { layout, receive_buffers: 3, ..NicOptions::default() };
        let mut guest = Guest::new(1, options).with_kicks();
        let mut device = house.add_with([(0, AnyPort::Loopback(Loopback::default()))]);
        house.plug(&device, &guest);
        let own = guest.mac;
        for round in 0..40_u16 {
            guest.send(own, 5, |_| 200);
            guest.kick();
            house.turns(1);
            house.relocate(&mut device, 0, (round + 1) % 2);
            guest.listen();
            guest.kick();
        }
        for _ in 0..200 {
            house.turns(1);
            guest.listen();
            guest.kick();
        }
        assert_eq!((guest.heard_from(own).count, guest.heard_from(own).missed), (guest.sent_to(own), 0));
        assert_eq!(device.counts(1).drops[DropReason::QueueDisabled as usize], 0);
        assert_eq!(guest.unreaped(), 0);
    }
}

/// Long enough to be parked, also for who is called once more by a kick that was taken elsewhere.
fn rest(house: &mut House) {
    for _ in 0..3 {
        house.now_ns += PARK_AFTER_NS;
        house.turns(5);
    }
}

#[test]
fn who_moves_while_parked_is_heard_at_its_new_place() {
    for layout in LAYOUTS {
        let mut house = House::new(2);
        let [mut mover, mut other] = [guest(1, layout), guest(2, layout)];
        let mut device = house.move_in(0, &mover);
        let _other = house.move_in(0, &other);
        for round in 1..=6_u16 {
            rest(&mut house);
            assert!(house.workers.iter().all(|worker| worker.hot() == 0));
            house.relocate(&mut device, 0, round % 2);
            rest(&mut house);
            assert!(house.workers.iter().all(|worker| worker.hot() == 0));
            mover.send(other.mac, 1, |_| 60);
            mover.kick();
            house.turns(10);
            assert_eq!(other.listen(), 1);
            other.send(mover.mac, 1, |_| 60);
            other.kick();
            house.turns(10);
            assert_eq!(mover.listen(), 1);
        }
    }
}

fn plug(engine: &mut Engine, guest: &Guest) -> DeviceId {
    let config = DeviceConfig { pairs: 1, port: PortConfig::Switch, workers: vec![0] };
    let device = engine.add_device(config).unwrap();
    for index in [0, 1] {
        engine.attach(device, index, guest.queue_at(index, guest.fresh_base()), guest.features, true).unwrap();
    }
    device
}

/// One sends a few frames, unless enough are under way, and the other listens.
fn exchange(from: &mut Guest, to: &mut Guest) -> u64 {
    if from.sent_to(to.mac) - to.heard_from(from.mac).count < 24 {
        from.send(to.mac, 4, |number| 60 + number as usize % 400);
        from.kick();
    }
    let heard = to.listen();
    to.kick();
    heard
}

/// Both send to each other with a few frames under way, while `act` is called again and again.
fn talk(one: &mut Guest, other: &mut Guest, rounds: u64, mut act: impl FnMut(u64)) {
    let mut deadline = Instant::now() + PATIENCE;
    let (mut heard, mut acted) = (0, 0);
    while heard < rounds {
        assert!(Instant::now() < deadline, "{heard} of {rounds} frames");
        let more = exchange(one, other) + exchange(other, one);
        if more > 0 {
            // However slow the machine is: only one that stands still has failed.
            deadline = Instant::now() + PATIENCE;
        }
        heard += more;
        if heard / 500 > acted {
            acted = heard / 500;
            act(acted);
        }
        std::thread::yield_now();
    }
    while one.heard_from(other.mac).count + other.heard_from(one.mac).count
        < one.sent_to(other.mac) + other.sent_to(one.mac)
    {
        assert!(Instant::now() < deadline, "frames are lost");
        one.listen();
        other.listen();
        std::thread::yield_now();
    }
    assert_eq!((one.heard_from(other.mac).missed, other.heard_from(one.mac).missed), (0, 0));
}

/// A pair of guests who know each other.
fn acquainted(engine: &mut Engine, layout: virtnet_rings::Layout) -> ([Guest; 2], [DeviceId; 2]) {
    let mut guests = [guest(1, layout), guest(2, layout)];
    let devices = guests.each_ref().map(|guest| plug(engine, guest));
    let deadline = Instant::now() + PATIENCE;
    for at in [0, 1] {
        guests[at].send(NOBODY, 1, |_| 60);
        guests[at].kick();
        while guests[1 - at].listen() == 0 {
            assert!(Instant::now() < deadline, "a greeting");
        }
    }
    (guests, devices)
}

#[test]
fn devices_change_workers_while_threads_move_their_frames() {
    for (layout, idle) in LAYOUTS.into_iter().zip([IdlePolicy::Adaptive, IdlePolicy::Event]) {
        let mut engine = Engine::start(EngineConfig { lcores: vec![None; 2], idle, burst: 32 }).unwrap();
        let ([mut one, mut other], devices) = acquainted(&mut engine, layout);
        talk(&mut one, &mut other, 20_000, |round| {
            let device = devices[round as usize % 2];
            engine.relocate(device, 0, (round / 2 % 2) as usize).unwrap();
        });
        for device in devices {
            assert!(engine.counters(device).unwrap().iter().all(|queue| queue.counts.dropped() == 0));
        }
    }
}

#[test]
fn workers_come_and_go_while_frames_move() {
    for layout in LAYOUTS {
        let config = EngineConfig { lcores: vec![None], idle: IdlePolicy::Adaptive, burst: 32 };
        let mut engine = Engine::start(config).unwrap();
        let ([mut one, mut other], devices) = acquainted(&mut engine, layout);
        let mut seen = BTreeSet::new();
        talk(&mut one, &mut other, 20_000, |round| {
            let count = [3, 1, 2, 4, 2][round as usize % 5];
            engine.set_lcores(&vec![None; count]).unwrap();
            assert_eq!(engine.workers(), count);
            let report = engine.lcores();
            assert_eq!(report.lcores.iter().map(|load| load.pairs).sum::<usize>(), 2);
            // One of the two goes to the newest.
            let last = report.lcores.last().unwrap().worker;
            engine.relocate(devices[round as usize % 2], 0, last.into()).unwrap();
            seen.insert(last);
        });
        assert!(seen.len() >= 3, "{seen:?}");
        assert!(matches!(engine.set_lcores(&[]), Err(EngineError::Workers { found: 0 })));
        assert!(matches!(engine.set_lcores(&[Some(4095)]), Err(EngineError::Lcore { lcore: 4095 })));
        assert!(matches!(engine.relocate(devices[0], 1, 0), Err(EngineError::PairIndex { pair: 1, pairs: 1 })));
        assert!(matches!(engine.relocate(devices[0], 0, 77), Err(EngineError::NoWorker { worker: 77 })));
    }
}

#[test]
fn what_is_measured_is_planned_and_what_is_planned_is_done() {
    let config = EngineConfig { lcores: vec![None; 2], idle: IdlePolicy::Poll, burst: 32 };
    let mut engine = Engine::start(config).unwrap();
    let layout = LAYOUTS[0];
    let ([mut one, mut other], devices) = acquainted(&mut engine, layout);
    engine.lcores();
    talk(&mut one, &mut other, 20_000, |_| {});
    let mut report = engine.lcores();
    assert!(report.lcores[0].busy > 0.0 && report.lcores[0].frame_ns.is_some(), "{report:?}");
    assert_eq!((report.lcores[1].busy, report.lcores[1].frame_ns), (0.0, None));
    assert!(report.pairs.iter().all(|pair| pair.worker == 0 && pair.busy > 0.0), "{report:?}");
    // As it would be under full load, so that a slow machine plans the same.
    report.pairs.iter_mut().for_each(|pair| pair.busy = 0.4);
    let moves = engine.rebalance(&report);
    assert_eq!(moves.len(), 1);
    engine.apply(&moves).unwrap();
    let placed = engine.lcores().pairs;
    assert_eq!(placed.iter().map(|pair| pair.worker).collect::<BTreeSet<_>>().len(), 2);
    talk(&mut one, &mut other, 1000, |_| {});
    engine.apply(&moves).unwrap();
    assert_eq!(engine.lcores().pairs.iter().map(|pair| pair.worker).collect::<BTreeSet<_>>().len(), 2, "done once");
    for device in devices {
        assert_eq!(engine.remove_device(device).unwrap().len(), 2);
    }
}
