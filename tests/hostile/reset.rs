//! A device that is reset again and again under traffic: it comes back with rings of another layout and size, other features and other
//! memory, while frames of the old ones are in other guests' hands. Nothing of the old is touched or kept.

use std::mem::replace;
use std::sync::Arc;

use virtnet_rings::Layout;
use virtnet_rings::guest::Options;
use virtnet_rings::guest::net::NicOptions;
use virtnet_rings::spec::net::{VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_HOST_TSO4};
use virtnet_tests::draw::Draw;
use virtnet_tests::{Guest, House};

const SEEDS: u64 = 40;
const RESETS: usize = 12;

fn guest(station: u16, draw: &mut Draw) -> Guest {
    let layout = draw.of(&[Layout::Split, Layout::Packed]);
    let mergeable = draw.one_in(2);
    let [event_idx, in_order, indirect, tight] = [(); 4].map(|()| draw.one_in(2));
    let options = NicOptions {
        layout,
        size: draw.of(if layout == Layout::Split { &[32, 64, 256] } else { &[33, 100, 256] }),
        queue: Options { event_idx, in_order, indirect, tight },
        mergeable,
        receive_bytes_max: mergeable.then_some(200),
        receive_cuts: draw.of(&[vec![], vec![12]]),
        transmit_cuts: draw.of(&[vec![], vec![12], vec![5, 30]]),
        ..NicOptions::default()
    };
    let mut guest = Guest::with_memory(station, options, 2 << 20);
    let offloads = [VIRTIO_NET_F_CSUM, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_GUEST_CSUM];
    guest.features |= offloads.into_iter().filter(|_| draw.one_in(2)).map(|bit| 1 << bit).sum::<u64>();
    guest
}

fn run(seed: u64) {
    let mut draw = Draw::new(seed);
    let workers = 1 + draw.below(2);
    let mut house = House::new(workers);
    let (mut one, mut other) = (guest(1, &mut draw), guest(2, &mut draw));
    let (device, _other) = (house.move_in(0, &one), house.move_in(workers as u16 - 1, &other));
    let len_bytes = |number: u64| 60 + number as usize * 37 % 700;
    for _ in 0..RESETS {
        for _ in 0..draw.below(8) {
            one.send(other.mac, draw.below(40) as u64, len_bytes);
            other.send(one.mac, draw.below(40) as u64, len_bytes);
            house.turns(draw.below(3));
            [&mut one, &mut other].into_iter().filter(|_| draw.one_in(2)).for_each(|guest| {
                guest.listen();
            });
        }
        let first = draw.below(2) as u16;
        if draw.one_in(3) {
            house.set_enabled(&device, first, false);
        }
        for index in [first, 1 - first] {
            house.detach(&device, index);
        }
        one.listen();
        one.unreaped(); // what was returned, was returned in order
        let Guest { nic, memory, features, .. } = guest(1, &mut draw);
        (one.nic, one.features) = (nic, features);
        let old = replace(&mut one.memory, memory);
        assert_eq!(Arc::strong_count(&old), 1, "somebody still has the old memory");
        house.plug(&device, &one);
    }
    // The last rings work as if there had been no others. What was lost before is known with the first frame that arrives.
    for _ in 0..20 {
        house.turns(5);
        one.listen();
        other.listen();
    }
    let mut missed = [0; 2];
    for round in 0..100 {
        assert_eq!((one.send(other.mac, 3, len_bytes), other.send(one.mac, 3, len_bytes)), (3, 3));
        house.turns(4);
        one.listen();
        other.listen();
        let heard = [one.heard_from(other.mac), other.heard_from(one.mac)];
        assert_eq!(heard.map(|record| record.next), [other.sent_to(one.mac), one.sent_to(other.mac)]);
        if round == 0 {
            missed = heard.map(|record| record.missed);
        }
        assert_eq!(heard.map(|record| record.missed), missed);
    }
    assert_eq!((one.unreaped(), other.unreaped()), (0, 0));
}

#[test]
fn a_device_that_is_reset_under_traffic_goes_on_with_other_rings_memory_and_features() {
    for seed in 0..SEEDS {
        println!("seed {seed}");
        run(seed);
    }
}
