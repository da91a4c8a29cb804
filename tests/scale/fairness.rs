//! Somebody floods, somebody else sends a frame now and then, on one worker: whoever trickles loses nothing, and waits for no more
//! than the frames that are ahead of it at their receiver, a burst a turn.

use virtnet_rings::guest::net::NicOptions;
use virtnet_rings::{Layout, Virtqueue};
use virtnet_tests::frames::{BROADCAST, Mac};
use virtnet_tests::{Guest, House};

use crate::LAYOUTS;

/// Frames that wait for one receiver at most, in bursts of 32; and a turn each to be sent, to change workers, to be taken.
const TURNS_MAX: usize = 256 / 32 + 4;

fn guest(station: u16, layout: Layout) -> Guest {
    Guest::new(station, NicOptions { layout, size: 256, ..NicOptions::default() }).with_kicks()
}

struct Scene {
    house: House,
    flooders: Vec<Guest>,
    trickle: Guest,
    receivers: [Guest; 2],
}

impl Scene {
    /// So many that flood, on worker 0; a trickle and the two who receive on these.
    fn new(layout: Layout, flooders: u16, [trickle_at, receivers_at]: [u16; 2]) -> Self {
        let mut house = House::new(1 + usize::from(trickle_at.max(receivers_at)));
        let flooders: Vec<_> = (0..flooders).map(|at| guest(10 + at, layout)).collect();
        let (trickle, receivers) = (guest(1, layout), [guest(2, layout), guest(3, layout)]);
        flooders.iter().for_each(|guest| drop(house.move_in(0, guest)));
        house.move_in(trickle_at, &trickle);
        receivers.iter().for_each(|guest| drop(house.move_in(receivers_at, guest)));
        let mut scene = Scene { house, flooders, trickle, receivers };
        for at in 0..2 {
            scene.receivers[at].send([2, 0, 0, 0, 0xba, 0xd0], 1, |_| 60);
            scene.receivers[at].kick();
            scene.house.turns(4);
            scene.listen();
        }
        scene
    }

    fn listen(&mut self) {
        for guest in self.receivers.iter_mut().chain(&mut self.flooders).chain([&mut self.trickle]) {
            guest.listen();
            guest.kick();
        }
    }

    /// Everybody floods one address, and the trickle sends a frame to another now and then. Returns the most turns that
    /// one took.
    fn run(&mut self, flooded: Mac, receiver: usize) -> usize {
        let (from, to) = (self.trickle.mac, self.receivers[receiver].mac);
        let mut longest = 0;
        for frame in 1..=100 {
            for turn in 1.. {
                for guest in &mut self.flooders {
                    // As many as there is room for.
                    guest.send(flooded, 256, |_| 200);
                    guest.kick();
                }
                if turn == 1 {
                    assert_eq!(self.trickle.send(to, 1, |_| 60), 1);
                    self.trickle.kick();
                }
                self.house.turns(1);
                self.listen();
                if self.receivers[receiver].heard_from(from).count == frame {
                    longest = longest.max(turn);
                    break;
                }
                assert!(turn < 10 * TURNS_MAX, "frame {frame} is lost");
            }
        }
        assert_eq!(self.receivers[receiver].heard_from(from).missed, 0);
        longest
    }
}

const PLACES: [[u16; 2]; 4] = [[0, 0], [0, 1], [1, 1], [1, 0]];

#[test]
fn a_trickle_beside_a_flood_to_somebody_else_is_served_at_once() {
    for layout in LAYOUTS {
        for places in PLACES {
            let mut scene = Scene::new(layout, 3, places);
            let flooded = scene.receivers[1].mac;
            let turns = scene.run(flooded, 0);
            assert!(turns <= 4, "{turns} turns, {places:?}");
        }
    }
}

#[test]
fn a_trickle_to_a_flooded_receiver_loses_nothing_and_waits_for_its_inbox_only() {
    for layout in LAYOUTS {
        for places in PLACES {
            for flooders in [1, 5] {
                let mut scene = Scene::new(layout, flooders, places);
                let flooded = scene.receivers[0].mac;
                let turns = scene.run(flooded, 0);
                assert!(turns <= TURNS_MAX, "{turns} turns, {flooders} flood, {places:?}");
                let from = scene.flooders[0].mac;
                assert!(scene.receivers[0].heard_from(from).count > 100, "those who flood are served, too");
            }
        }
    }
}

#[test]
fn a_trickle_beside_a_broadcast_storm_loses_nothing() {
    for layout in LAYOUTS {
        for places in PLACES {
            let mut scene = Scene::new(layout, 2, places);
            let turns = scene.run(BROADCAST, 0);
            assert!(turns <= TURNS_MAX, "{turns} turns, {places:?}");
        }
    }
}

#[test]
fn a_turn_takes_no_more_than_a_burst_of_anybody() {
    for layout in LAYOUTS {
        let mut house = House::new(1);
        let mut guests: Vec<_> = (0..8).map(|at| guest(at, layout)).collect();
        let devices: Vec<_> = guests.iter().map(|guest| house.move_in(0, guest)).collect();
        for guest in &mut guests {
            assert_eq!(guest.send(BROADCAST, 200, |_| 60), 200);
        }
        for turn in 1..=5 {
            house.turns(1);
            for device in &devices {
                assert_eq!(device.counts(1).packets, 32 * turn);
            }
        }
        let queue = house.detach(&devices[0], 1).unwrap();
        assert_eq!(queue.outstanding(), 0);
    }
}
