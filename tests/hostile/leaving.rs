//! Queues and devices that go while frames of theirs are anywhere: every loan comes home first, nobody else loses anything,
//! and whoever comes next finds nothing that was not meant for it.

use virtnet_engine::command::{Command, Reply};
use virtnet_engine::counters::{DropReason, QueueCounters};
use virtnet_engine::frame::steer::Steering;
use virtnet_engine::pair::{AnyPort, Pair, Side};
use virtnet_engine::port::loopback::Loopback;
use virtnet_engine::port::switch::PortMap;
use virtnet_rings::guest::mischief::{Kind, Mischief};
use virtnet_rings::guest::net::NicOptions;
use virtnet_rings::{Layout, Virtqueue};
use virtnet_tests::frames::Mac;
use virtnet_tests::house::place_of;
use virtnet_tests::{Device, Guest, House};

const LAYOUTS: [Layout; 2] = [Layout::Split, Layout::Packed];

/// Nobody's address.
const NOBODY: Mac = [2, 0, 0, 0, 0xba, 0xd0];

fn guest(station: u16, layout: Layout) -> Guest {
    Guest::new(station, NicOptions { layout, ..NicOptions::default() })
}

fn deaf(station: u16, layout: Layout) -> Guest {
    Guest::new(station, NicOptions { layout, receive_buffers: 0, ..NicOptions::default() })
}

#[test]
fn a_transmitq_leaves_when_its_frames_in_other_guests_hands_and_inboxes_are_done_with() {
    for layout in LAYOUTS {
        for workers in [1, 2] {
            let mut house = House::new(workers);
            let [mut sender, mute] = [guest(1, layout), deaf(2, layout)];
            let device = house.move_in(0, &sender);
            let _mute = house.move_in((workers - 1) as u16, &mute);
            // More than a burst: some are in the hand, some in the inbox, some between the workers.
            assert_eq!(sender.send(mute.mac, 100, |_| 60), 100);
            for _ in 0..4 {
                house.turn(0);
            }
            assert_eq!(sender.unreaped(), 100);
            let queue = house.detach(&device, 1).unwrap();
            assert_eq!(sender.unreaped(), 0);
            assert_eq!(queue.base() & 0x7fff, 100, "it goes on after what it has returned");
            // And it does go on.
            house.attach(&device, 1, sender.queue_at(1, queue.base()), sender.features);
            sender.send(mute.mac, 5, |_| 60);
            house.turns(60);
            assert_eq!(sender.unreaped(), 0);
        }
    }
}

#[test]
fn a_receiveq_that_leaves_gives_its_buffers_to_its_successor_and_its_frames_to_their_senders() {
    for layout in LAYOUTS {
        let mut house = House::new(1);
        let [mut sender, mut receiver] = [guest(1, layout), guest(2, layout)];
        let _sender = house.move_in(0, &sender);
        let device = house.move_in(0, &receiver);
        let mut base = receiver.fresh_base();
        for round in 1..=10 {
            sender.send(receiver.mac, 20, |_| 60);
            house.turns(3);
            assert_eq!(receiver.listen(), 20);
            let queue = house.detach(&device, 0).unwrap();
            sender.send(receiver.mac, 20, |_| 60);
            house.turns(3);
            assert_eq!((receiver.listen(), sender.unreaped()), (0, 0));
            assert_eq!(device.counts(0).drops[DropReason::QueueDisabled as usize], 20 * round);
            base = queue.base();
            house.attach(&device, 0, receiver.queue_at(0, base), receiver.features);
        }
        assert_ne!(base, receiver.fresh_base());
    }
}

#[test]
fn a_receiveq_that_breaks_while_frames_wait_for_it_gives_them_back() {
    for layout in LAYOUTS {
        let mut house = House::new(1);
        let [mut sender, mut villain] = [guest(1, layout), deaf(2, layout)];
        let sender_device = house.move_in(0, &sender);
        let villain_device = house.move_in(0, &villain);
        sender.send(villain.mac, 10, |_| 60);
        house.turns(2);
        assert_eq!(sender.unreaped(), 10, "they wait");
        let mischief = if layout == Layout::Split { Mischief::HeadPastTable } else { Mischief::IdPastQueue };
        let ram = villain.nic.ram().clone();
        mischief.apply(&mut villain.nic.receiveq, &ram, Kind::Receiveq).unwrap();
        house.turns(4);
        assert_eq!(sender.unreaped(), 0);
        assert_eq!(house.broken().len(), 1);
        house.remove(sender_device);
        house.remove(villain_device);
    }
}

#[test]
fn a_loop_full_of_frames_lets_its_queues_go_in_either_order() {
    for layout in LAYOUTS {
        for mergeable in [false, true] {
            for order in [[0, 1], [1, 0]] {
                let mut house = House::new(1);
                // Buffers for a few frames only, and of a long one for the first part of it.
                let options =
                    NicOptions { layout, mergeable, receive_buffers: 3, frame_bytes_max: 300, ..Default::default() };
                let mut guest = Guest::new(1, options);
                let device = house.add_with([(0, AnyPort::Loopback(Loopback::default()))]);
                house.plug(&device, &guest);
                let own = guest.mac;
                for _ in 0..40 {
                    guest.send(own, 10, |_| 300);
                    house.turns(1);
                }
                house.turns(200);
                assert!(guest.unreaped() > 200);
                for index in order {
                    assert!(house.detach(&device, index).is_some());
                }
                assert_eq!(guest.unreaped(), 0);
            }
        }
    }
}

#[test]
fn devices_go_under_traffic_in_every_order_and_the_rest_loses_nothing() {
    const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    for workers in [1, 2, 3] {
        for order in ORDERS {
            let mut house = House::new(workers);
            let layout = |at: usize| LAYOUTS[at % 2];
            let mut leaving: Vec<_> = (0..3).map(|at| guest(1 + at as u16, layout(at))).collect();
            let mut staying: Vec<_> = (0..2).map(|at| guest(11 + at as u16, layout(at))).collect();
            let place = |at: usize| (at % workers) as u16;
            let mut devices: Vec<Option<Device>> =
                leaving.iter().enumerate().map(|(at, guest)| Some(house.move_in(place(at), guest))).collect();
            let stay: Vec<_> = staying.iter().enumerate().map(|(at, guest)| house.move_in(place(at), guest)).collect();
            let macs: Vec<_> = leaving.iter().chain(&staying).map(|guest| guest.mac).collect();
            for guest in leaving.iter_mut().chain(&mut staying) {
                guest.send(NOBODY, 1, |_| 60);
                house.turns(3);
            }
            let mut sent = 0;
            let mut traffic = |house: &mut House, leaving: &mut [Guest], staying: &mut [Guest]| {
                for guest in leaving.iter_mut() {
                    let own = guest.mac;
                    macs.iter().filter(|&&to| to != own).for_each(|&to| {
                        guest.send(to, 9, |_| 90);
                    });
                }
                for (at, guest) in staying.iter_mut().enumerate() {
                    assert_eq!(guest.send(macs[3 + (at + 1) % 2], 5, |number| 60 + number as usize % 900), 5);
                    macs[..3].iter().for_each(|&to| {
                        guest.send(to, 3, |_| 90);
                    });
                }
                sent += 5;
                house.turns(3);
                for guest in leaving.iter_mut().chain(staying) {
                    guest.listen();
                }
            };
            for _ in 0..5 {
                traffic(&mut house, &mut leaving, &mut staying);
            }
            for which in order {
                for _ in 0..3 {
                    traffic(&mut house, &mut leaving, &mut staying);
                }
                house.remove(devices[which].take().expect("each goes once"));
            }
            for _ in 0..3 {
                traffic(&mut house, &mut leaving, &mut staying);
            }
            house.turns(5);
            for (at, device) in stay.into_iter().enumerate() {
                staying[at].listen();
                let heard = staying[at].heard_from(macs[3 + (at + 1) % 2]);
                assert_eq!((heard.count, heard.missed), (sent, 0), "{workers} workers, order {order:?}");
                house.remove(device);
            }
        }
    }
}

#[test]
fn a_frame_that_is_still_on_its_way_between_workers_does_not_reach_the_next_owner_of_its_slot() {
    let mut house = House::new(2);
    let [mut sender, old, mut new] = [guest(1, Layout::Split), guest(2, Layout::Split), guest(3, Layout::Split)];
    let _sender = house.move_in(0, &sender);
    let device = house.move_in(1, &old);
    for index in [0, 1] {
        house.detach(&device, index);
    }
    let before = device.counts(0);
    // The frame is put on the way; then the port is forgotten, the pair goes and another comes, all before the worker looks.
    sender.send(old.mac, 1, |_| 60);
    let port = device.port.unwrap();
    house.turn(0);
    let number = house.order(0, Command::ForgetPort(port));
    house.turn(0);
    assert!(matches!(house.answer(number), Some(Reply::Done)));
    let (place, _) = place_of(&device, 0);
    let [(receive, _), (transmit, reader)] = [QueueCounters::new(), QueueCounters::new()];
    house.order(1, Command::ForgetPort(port));
    house.order(1, Command::RemovePair(place.slot));
    let added = house.order(1, Command::AddPair(Box::new(Pair::new(AnyPort::Switch(port), receive, transmit))));
    let map = PortMap { id: port, places: Box::new([place]), steering: Steering::over(1) };
    house.order(1, Command::SetPort(map));
    house.turn(1);
    assert!(matches!(house.answer(added), Some(Reply::Slot(slot)) if slot == place.slot));
    house.plug(&device, &new);
    house.turns(5);
    assert_eq!(new.listen(), 0, "a frame for the last owner of the slot");
    assert_eq!(sender.unreaped(), 0);
    assert_eq!(device.counts(0).since(&before).packets, 0);
    assert_eq!(reader.read().unwrap().packets, 0);
    assert_eq!(place_of(&device, 1).1, Side::Transmitq);
}
