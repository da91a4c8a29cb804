//! What guests can do to each other through the switch: not take buffers, flood, invent addresses, send to themselves, loop.

use virtnet_engine::counters::DropReason;
use virtnet_engine::pair::AnyPort;
use virtnet_engine::port::loopback::Loopback;
use virtnet_rings::Layout;
use virtnet_rings::guest::net::NicOptions;
use virtnet_tests::frames::{self, BROADCAST, Mac};
use virtnet_tests::{Device, Guest, House};

const LAYOUTS: [Layout; 2] = [Layout::Split, Layout::Packed];
/// Longer than a frame may wait for buffers.
const LONG_TURNS: usize = 60;
/// Nobody's address.
const NOBODY: Mac = [2, 0, 0, 0, 0xba, 0xd0];

fn guest(station: u16, layout: Layout) -> Guest {
    Guest::new(station, NicOptions { layout, ..NicOptions::default() })
}

/// One that offers no receive buffers.
fn deaf(station: u16, layout: Layout) -> Guest {
    Guest::new(station, NicOptions { layout, receive_buffers: 0, ..NicOptions::default() })
}

/// Puts each guest on a worker and lets all addresses be learned.
fn settle(house: &mut House, guests: &mut [&mut Guest], worker: impl Fn(usize) -> u16) -> Vec<Device> {
    let devices: Vec<_> = guests.iter().enumerate().map(|(at, guest)| house.move_in(worker(at), guest)).collect();
    for guest in guests.iter_mut() {
        guest.send(NOBODY, 1, |_| 60);
        house.turns(LONG_TURNS);
    }
    for guest in guests.iter_mut() {
        guest.listen();
        assert_eq!(guest.unreaped(), 0);
    }
    devices
}

fn drops(device: &Device, queue_index: usize, reason: DropReason) -> u64 {
    device.counts(queue_index).drops[reason as usize]
}

#[test]
fn a_guest_that_offers_no_buffers_does_not_hold_up_who_sends_to_it() {
    for layout in LAYOUTS {
        for workers in [1, 2] {
            let mut house = House::new(workers);
            let [mut sender, mut mute, mut other] = [guest(1, layout), deaf(2, layout), guest(3, layout)];
            let devices = settle(&mut house, &mut [&mut sender, &mut mute, &mut other], |at| (at % workers) as u16);
            // Frames for both, in turn: what is for the mute one waits, and everything behind it, but not for long.
            let mut turns = 0;
            for _ in 0..50 {
                sender.send(mute.mac, 10, |_| 60);
                sender.send(other.mac, 10, |_| 60);
                while sender.unreaped() > 0 {
                    house.turns(1);
                    other.listen();
                    turns += 1;
                    assert!(turns < 50 * 20 + LONG_TURNS, "the sender is held up");
                }
            }
            assert_eq!(other.heard_from(sender.mac).count, 500);
            assert_eq!(drops(&devices[1], 0, DropReason::NoBuffers), 500 + 2, "counted where there were no buffers");
            assert_eq!(devices[0].counts(1).dropped() + devices[2].counts(0).dropped(), 0);
        }
    }
}

#[test]
fn a_queue_that_is_disabled_gives_back_the_frames_that_waited_for_its_buffers() {
    for layout in LAYOUTS {
        let mut house = House::new(1);
        let [mut sender, mute] = [guest(1, layout), deaf(2, layout)];
        let devices = [house.move_in(0, &sender), house.move_in(0, &mute)];
        sender.send(mute.mac, 5, |_| 60);
        house.turns(2);
        assert_eq!(sender.unreaped(), 5, "they wait");
        house.set_enabled(&devices[1], 0, false);
        house.turns(3);
        assert_eq!(sender.unreaped(), 0);
        assert_eq!(drops(&devices[1], 0, DropReason::QueueDisabled), 5);
    }
}

#[test]
fn a_transmitq_that_is_disabled_is_emptied_and_takes_back_what_is_out() {
    for layout in LAYOUTS {
        let mut house = House::new(1);
        let [mut sender, mut mute] = [guest(1, layout), deaf(2, layout)];
        let devices = settle(&mut house, &mut [&mut sender, &mut mute], |_| 0);
        sender.send(mute.mac, 5, |_| 60);
        house.turns(2);
        house.set_enabled(&devices[0], 1, false);
        sender.send(mute.mac, 250, |_| 60);
        house.turns(LONG_TURNS);
        assert_eq!(sender.unreaped(), 0);
        assert_eq!(drops(&devices[0], 1, DropReason::QueueDisabled), 250);
        assert_eq!(drops(&devices[1], 0, DropReason::NoBuffers), 5 + 1);
    }
}

#[test]
fn a_trickle_beside_floods_loses_nothing_and_is_not_late() {
    for workers in [1, 2] {
        let mut house = House::new(workers);
        let mut guests: Vec<_> = (1..=6).map(|station| guest(station, LAYOUTS[station as usize % 2])).collect();
        let mut all: Vec<_> = guests.iter_mut().collect();
        let devices = settle(&mut house, &mut all, |at| (at % workers) as u16);
        let [one, other, flooders @ ..] = &mut guests[..] else { unreachable!() };
        let macs: Vec<Mac> = flooders.iter().map(|guest| guest.mac).collect();
        for round in 0..500 {
            // Each flooder fills its ring, to the next of them.
            for (at, flooder) in flooders.iter_mut().enumerate() {
                flooder.send(macs[(at + 1) % macs.len()], 256, |_| 1500);
                flooder.listen();
            }
            one.send(other.mac, 1, |_| 60);
            house.turns(2 * workers);
            other.listen();
            assert_eq!(other.heard_from(one.mac).count, round + 1, "the trickle is late");
        }
        assert_eq!((other.heard_from(one.mac).missed, devices[0].counts(1).dropped()), (0, 0));
        let moved: Vec<u64> = devices[2..].iter().map(|device| device.counts(1).packets).collect();
        let least = moved.iter().min().unwrap();
        assert!(*least * 10 > 9 * moved.iter().max().unwrap(), "the flooders were not served alike: {moved:?}");
    }
}

#[test]
fn invented_addresses_do_not_push_out_those_of_others() {
    let mut house = House::new(1);
    let [mut one, mut other, mut liar] = [1, 2, 3].map(|station| guest(station, Layout::Split));
    let devices = settle(&mut house, &mut [&mut one, &mut other, &mut liar], |_| 0);
    // The table of a House has 1024 places.
    for number in 0..20_000_u32 {
        let [_, a, b, c] = number.to_be_bytes();
        let invented = [2, 9, 9, a, b, c];
        while !liar.nic.send(&frames::frame(NOBODY, invented, 0, 60)).unwrap() {
            house.turns(1);
        }
        if number % 64 == 0 {
            house.turns(4);
            one.listen();
            other.listen();
        }
    }
    house.turns(20);
    one.listen();
    other.listen();
    let heard = liar.nic.receive(&mut vec![]).unwrap();
    assert!(!heard);
    one.send(other.mac, 20, |_| 60);
    other.send(one.mac, 20, |_| 60);
    house.turns(5);
    one.listen();
    other.listen();
    assert_eq!((one.heard_from(other.mac).count, other.heard_from(one.mac).count), (20, 20));
    assert!(!liar.nic.receive(&mut vec![]).unwrap(), "a frame for somebody else was flooded");
    assert_eq!(devices[0].counts(1).dropped(), 0);
}

#[test]
fn a_stolen_address_is_its_owners_again_with_the_owners_next_frame() {
    for workers in [1, 2] {
        let mut house = House::new(workers);
        let [mut owner, mut friend, mut thief] = [1, 2, 3].map(|station| guest(station, Layout::Split));
        let worker = |at: usize| (at % 3 / 2 * (workers - 1)) as u16;
        settle(&mut house, &mut [&mut owner, &mut friend, &mut thief], worker);
        for round in 1..=20 {
            owner.send(friend.mac, 1, |_| 60);
            house.turns(2);
            thief.nic.send(&frames::frame(friend.mac, owner.mac, 1000 + round, 60)).unwrap();
            house.turns(2);
            friend.nic.receive(&mut vec![]).unwrap();
            owner.send(friend.mac, 1, |_| 60);
            house.turns(2);
            friend.send(owner.mac, 1, |_| 60);
            house.turns(3);
            owner.listen();
            assert_eq!(owner.heard_from(friend.mac).count, round, "on {workers} workers, the thief has it");
            while friend.nic.receive(&mut vec![]).unwrap() {}
        }
        assert!(!thief.nic.receive(&mut vec![]).unwrap());
    }
}

#[test]
fn a_station_that_moves_is_followed_by_frames_whose_way_was_known() {
    const STATION: Mac = [2, 7, 7, 7, 7, 7];
    for workers in [1, 2] {
        let mut house = House::new(workers);
        let [mut sender, mut here, mut elsewhere] = [1, 2, 3].map(|station| guest(station, Layout::Packed));
        settle(&mut house, &mut [&mut sender, &mut here, &mut elsewhere], |at| (at % workers) as u16);
        for move_number in 1..=20 {
            (here, elsewhere) = (elsewhere, here);
            here.nic.send(&frames::frame(NOBODY, STATION, 0, 60)).unwrap();
            house.turns(3);
            here.nic.reap().unwrap();
            for guest in [&mut sender, &mut elsewhere] {
                while guest.nic.receive(&mut vec![]).unwrap() {}
            }
            for _ in 0..3 {
                sender.nic.send(&frames::frame(STATION, sender.mac, 0, 60)).unwrap();
                house.turns(3);
                sender.nic.reap().unwrap();
                let heard = [&mut here, &mut elsewhere].map(|guest| guest.nic.receive(&mut vec![]).unwrap());
                assert_eq!(heard, [true, false], "{workers} workers, move {move_number}");
            }
        }
    }
}

#[test]
fn a_frame_to_its_own_port_goes_nowhere_and_is_counted() {
    for layout in LAYOUTS {
        let mut house = House::new(1);
        let [mut one, mut other] = [guest(1, layout), guest(2, layout)];
        let devices = settle(&mut house, &mut [&mut one, &mut other], |_| 0);
        let before = devices[0].counts(1);
        let own = one.mac;
        one.send(own, 50, |_| 60);
        house.turns(5);
        assert_eq!((one.listen(), other.listen(), one.unreaped()), (0, 0, 0));
        let counts = devices[0].counts(1).since(&before);
        assert_eq!((counts.packets, counts.drops[DropReason::NoDestination as usize], counts.dropped()), (50, 50, 50));
    }
}

#[test]
fn a_frame_for_everybody_with_nobody_else_there_goes_nowhere_and_is_counted() {
    let mut house = House::new(1);
    let mut alone = guest(1, Layout::Split);
    let device = house.move_in(0, &alone);
    alone.send(BROADCAST, 7, |_| 60);
    house.turns(2);
    assert_eq!((alone.unreaped(), drops(&device, 1, DropReason::NoDestination)), (0, 7));
}

#[test]
fn a_broadcast_in_many_parts_reaches_everybody_or_is_counted() {
    for layout in LAYOUTS {
        let cut = NicOptions { layout, transmit_cuts: vec![12, 5, 7, 9], ..NicOptions::default() };
        let mut house = House::new(1);
        let mut sender = Guest::new(1, cut);
        let mut hearers: Vec<_> = (2..6).map(|station| guest(station, layout)).collect();
        let device = house.move_in(0, &sender);
        let _devices: Vec<_> = hearers.iter().map(|guest| house.move_in(0, guest)).collect();
        // One at a time all copies find room for their parts; in a burst of as many as there is room for, those that do
        // not are counted, and nobody gets less than whole frames.
        sender.send(BROADCAST, 1, |_| 300);
        house.turns(3);
        assert_eq!(drops(&device, 1, DropReason::PortFull), 0);
        sender.send(BROADCAST, 40, |_| 300);
        house.turns(10);
        let heard: u64 = hearers.iter_mut().map(|guest| guest.listen()).sum();
        assert_eq!(sender.unreaped(), 0);
        assert_eq!(heard + drops(&device, 1, DropReason::PortFull), 4 * 41);
        assert!(heard >= 4 + 40);
    }
}

#[test]
fn two_guests_that_send_each_others_broadcasts_back_keep_only_themselves_busy() {
    for workers in [1, 2] {
        let mut house = House::new(workers);
        let mut loopers = [1, 2].map(|station| guest(station, Layout::Packed));
        let [mut one, mut other] = [3, 4].map(|station| guest(station, Layout::Split));
        let [first, second] = &mut loopers;
        settle(&mut house, &mut [first, second, &mut one, &mut other], |at| (at % workers) as u16);
        // Every broadcast that one of them hears it sends again, from itself, and both begin with some.
        loopers.iter_mut().for_each(|looper| {
            looper.send(BROADCAST, 32, |_| 60);
        });
        let (mut looped, mut bytes) = (0, vec![]);
        for _ in 0..300 {
            house.turns(1);
            for looper in &mut loopers {
                let mut heard = 0;
                while looper.nic.receive(&mut bytes).unwrap() {
                    heard += u64::from(bytes[..6] == BROADCAST);
                }
                looped += looper.send(BROADCAST, heard, |_| 60);
            }
            one.send(other.mac, 1, |_| 60);
            other.listen();
            one.listen();
        }
        house.turns(20);
        other.listen();
        assert!(looped > 5000, "no storm: {looped}");
        // The storm is heard by everybody, as broadcasts are, but there is room beside it.
        assert_eq!((other.heard_from(one.mac).count, other.heard_from(one.mac).missed), (300, 0));
        assert_eq!((one.unreaped(), other.unreaped()), (0, 0));
    }
}

#[test]
fn a_frame_for_more_buffers_than_can_be_on_hand_is_dropped_and_those_behind_it_arrive() {
    for layout in LAYOUTS {
        for looped in [false, true] {
            let mut house = House::new(1);
            // Of buffers in three parts 32 can be on hand, which are too few; 80 are on offer.
            let options = NicOptions {
                layout,
                mergeable: true,
                frame_bytes_max: 65_000,
                receive_bytes_max: Some(1300),
                receive_cuts: vec![12, 100],
                ..NicOptions::default()
            };
            let mut receiver = Guest::with_memory(1, options.clone(), 24 << 20);
            let mut sender = Guest::with_memory(2, options, 24 << 20);
            let device = match looped {
                true => house.add_with([(0, AnyPort::Loopback(Loopback::default()))]),
                false => house.add(&[0]),
            };
            house.plug(&device, &receiver);
            if !looped {
                house.move_in(0, &sender);
            }
            let from = if looped { &mut receiver } else { &mut sender };
            let (from_mac, to) = (from.mac, if looped { from.mac } else { frames::mac(1) });
            assert_eq!(from.send(to, 6, |number| if number == 0 { 65_000 } else { 60 }), 6);
            house.turns(3);
            receiver.listen();
            let heard = receiver.heard_from(from_mac);
            assert_eq!((heard.count, heard.next), (5, 6), "{layout:?}, looped: {looped}");
            assert_eq!((device.counts(0).dropped(), drops(&device, 0, DropReason::TooLong)), (1, 1));
        }
    }
}
