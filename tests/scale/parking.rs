//! Queues that move nothing leave the hot scan, and come back for whatever reason there is.

use virtnet_engine::pair::AnyPort;
use virtnet_engine::port::loopback::Loopback;
use virtnet_engine::port::source::{Source, SourceConfig};
use virtnet_engine::roster::{PARK_AFTER_NS, ROUND_NS};
use virtnet_rings::guest::net::NicOptions;
use virtnet_rings::{Layout, Virtqueue};
use virtnet_tests::frames::{self, BROADCAST};
use virtnet_tests::house::TURN_NS;
use virtnet_tests::{Guest, House};

use crate::{LAYOUTS, guest};

const CROWD: u16 = 300;

/// Long enough for all to be parked, a few a turn.
fn rest(house: &mut House) {
    for _ in 0..2 {
        house.now_ns += PARK_AFTER_NS;
        house.turns(usize::from(CROWD));
    }
}

fn looped(house: &mut House) -> virtnet_tests::Device {
    house.add_with([(0, AnyPort::Loopback(Loopback::default()))])
}

#[test]
fn a_worker_scans_only_who_is_active_and_all_others_are_found_by_their_kick() {
    let mut house = House::new(1);
    let mut crowd: Vec<_> = (0..CROWD).map(|at| guest(at, LAYOUTS[usize::from(at) % 2])).collect();
    for guest in &crowd {
        let device = looped(&mut house);
        house.plug(&device, guest);
    }
    rest(&mut house);
    assert_eq!((house.workers[0].hot(), house.workers[0].parked()), (0, usize::from(CROWD)));
    let (active, idle) = crowd.split_first_mut().unwrap();
    let own = active.mac;
    for guest in idle.iter_mut() {
        // The active one keeps the worker busy all the while, which looks at doors only now and then.
        let mac = guest.mac;
        guest.send(mac, 3, |_| 60);
        guest.kick();
        for _ in 0..60 {
            active.send(own, 8, |_| 200);
            active.kick();
            house.turns(1);
            active.listen();
        }
        assert_eq!(guest.listen(), 3);
        assert!(house.workers[0].hot() <= 1 + PARK_AFTER_NS as usize / 60_000 + 1, "{}", house.workers[0].hot());
    }
    assert_eq!(active.heard_from(own).missed, 0);
    assert!(active.heard_from(own).count >= 60 * 8 * u64::from(CROWD - 1) - 64);
}

#[test]
fn a_frame_for_a_parked_guest_finds_it_from_its_own_worker_and_from_another() {
    for layout in LAYOUTS {
        for workers in [1, 2] {
            let mut house = House::new(workers);
            let [mut sender, mut receiver] = [guest(1, layout), guest(2, layout)];
            let _sender = house.move_in(0, &sender);
            let _receiver = house.move_in((workers - 1) as u16, &receiver);
            for round in 1..=5 {
                rest(&mut house);
                assert!(house.workers.iter().all(|worker| worker.hot() == 0));
                sender.send(receiver.mac, 1, |_| 60);
                sender.kick();
                house.turns(10);
                assert_eq!(receiver.listen(), 1);
                assert_eq!((receiver.heard_from(sender.mac).count, sender.unreaped()), (round, 0));
            }
        }
    }
}

#[test]
fn a_command_finds_a_parked_guest() {
    for layout in LAYOUTS {
        let mut house = House::new(1);
        let mut guest = guest(1, layout);
        let device = looped(&mut house);
        house.plug(&device, &guest);
        let own = guest.mac;
        for _ in 0..5 {
            rest(&mut house);
            assert_eq!(house.workers[0].hot(), 0);
            guest.send(own, 2, |_| 60);
            // No kick: the queues go, and come again.
            let transmit_base = house.detach(&device, 1).unwrap().base();
            let bases = [house.detach(&device, 0).unwrap().base(), transmit_base];
            rest(&mut house);
            house.plug_at(&device, &guest, bases);
            house.turns(5);
            assert_eq!(guest.listen(), 2);
        }
    }
}

#[test]
fn drivers_that_cannot_call_are_looked_at_in_turn_while_another_keeps_the_worker_busy() {
    for layout in LAYOUTS {
        let mut house = House::new(1);
        let options = || NicOptions { layout, size: 64, ..Default::default() };
        let mut mute: Vec<_> = (0..20).map(|at| Guest::with_memory(at, options(), 1 << 20)).collect();
        let mut active = guest(99, layout);
        let device = looped(&mut house);
        house.plug(&device, &active);
        for guest in &mute {
            let device = looped(&mut house);
            house.plug(&device, guest);
        }
        rest(&mut house);
        let own = active.mac;
        active.send(own, 1, |_| 60);
        active.kick();
        house.turns(5);
        assert_eq!(house.workers[0].hot(), 1);
        for guest in &mut mute {
            let own = guest.mac;
            guest.send(own, 1, |_| 60);
        }
        for _ in 0..(mute.len() as u64 + 1) * ROUND_NS / TURN_NS {
            active.send(own, 8, |_| 60);
            active.kick();
            house.turns(1);
            active.listen();
        }
        for guest in &mut mute {
            assert_eq!(guest.listen(), 1);
        }
    }
}

#[test]
fn frames_on_a_loop_wait_for_buffers_while_their_pair_is_parked() {
    for layout in LAYOUTS {
        let mut house = House::new(1);
        let options = NicOptions { layout, receive_buffers: 4, ..Default::default() };
        let mut guest = Guest::new(1, options).with_kicks();
        let device = looped(&mut house);
        house.plug(&device, &guest);
        let own = guest.mac;
        let mut heard = 0;
        while heard < 200 {
            guest.send(own, 10, |_| 60);
            guest.kick();
            house.turns(3);
            rest(&mut house);
            assert_eq!(house.workers[0].hot(), 0);
            let some = guest.listen();
            assert!(some > 0, "{heard} heard");
            heard += some;
            guest.kick();
            house.turns(5);
        }
    }
}

#[test]
fn a_source_is_active_while_it_has_frames_and_its_guest_has_buffers() {
    let mut house = House::new(1);
    let guest = |station| guest(station, Layout::Split);
    let [mut rich, mut poor] = [guest(1), guest(2)];
    let template = frames::frame(BROADCAST, frames::mac(9), 0, 300);
    let config = SourceConfig { templates: vec![template], count: Some(500), ..SourceConfig::default() };
    let source = || (0, AnyPort::Source(Source::new(&config).unwrap()));
    let devices = [house.add_with([source()]), house.add_with([source()])];
    rest(&mut house);
    assert_eq!(house.workers[0].hot(), 0, "there is nobody to send to");
    house.plug(&devices[0], &rich);
    house.plug(&devices[1], &poor);
    rest(&mut house);
    assert_eq!(house.workers[0].hot(), 0, "neither has buffers left");
    let mut heard = 0;
    while heard < 500 {
        let mut bytes = Vec::new();
        while rich.nic.receive(&mut bytes).unwrap() {
            heard += 1;
        }
        rich.kick();
        house.turns(8);
    }
    rest(&mut house);
    assert_eq!(house.workers[0].hot(), 0);
    assert_eq!(devices[0].counts(0).packets, 500);
    let mut bytes = Vec::new();
    assert!(poor.nic.receive(&mut bytes).unwrap());
}

#[test]
fn who_kicks_all_the_time_keeps_nobody_else_from_being_heard() {
    let mut house = House::new(1);
    let villains: Vec<_> = (0..40).map(|at| guest(at, Layout::Split)).collect();
    let mut honest = guest(99, Layout::Packed);
    for guest in &villains {
        let device = looped(&mut house);
        house.plug(&device, guest);
    }
    let device = looped(&mut house);
    house.plug(&device, &honest);
    let own = honest.mac;
    for _ in 0..20 {
        for _ in 0..1200 {
            villains.iter().for_each(Guest::kick_anyway);
            house.turns(1);
        }
        honest.send(own, 1, |_| 60);
        honest.kick();
        for _ in 0..60 {
            villains.iter().for_each(Guest::kick_anyway);
            house.turns(1);
        }
        assert_eq!(honest.listen(), 1);
    }
    assert!(device.counts(1).kicks > 0 && device.counts(1).kicks <= 20);
}
