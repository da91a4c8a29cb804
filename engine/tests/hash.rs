//! What drivers have hashed: it says where frames arrive, and is said with them.

mod guest;

use std::time::{Duration, Instant};

use guest::Guest;
use virtnet_engine::frame::flow::{Flow, FlowKind};
use virtnet_engine::frame::hash::{DEFAULT_KEY, Hasher, TYPES};
use virtnet_engine::frame::steer::Scaling;
use virtnet_engine::{DeviceConfig, DeviceId, Engine, EngineConfig, IdlePolicy, PortConfig};
use virtnet_rings::Layout;
use virtnet_rings::guest::net::{Header, NicOptions};
use virtnet_rings::spec::net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_HOST_TSO4,
    VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4,
};

const PATIENCE: Duration = Duration::from_secs(20);
const HERE: [u8; 6] = [2, 0, 0, 0, 0, 1];
const THERE: [u8; 6] = [2, 0, 0, 0, 0, 2];
const PORTS: std::ops::Range<u16> = 1000..1024;

fn start() -> Engine {
    let idle = IdlePolicy::Adaptive;
    Engine::start(EngineConfig { lcores: vec![None; 2], idle, burst: 32 }).unwrap()
}

fn add(engine: &mut Engine, pairs: u16, port: PortConfig) -> DeviceId {
    engine.add_device(DeviceConfig { pairs, port, workers: vec![] }).unwrap()
}

/// Of TCP, with so many bytes of payload.
fn segment(to: [u8; 6], from: [u8; 6], port: u16, payload_bytes: usize) -> Vec<u8> {
    let len = (40 + payload_bytes) as u16;
    let [high, low] = len.to_be_bytes();
    let ip = [0x45, 0, high, low, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, from[5], 10, 0, 0, to[5]];
    let [port_high, port_low] = port.to_be_bytes();
    let tcp = [port_high, port_low, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0];
    [&to[..], &from, &[8, 0], &ip, &tcp, &vec![7; payload_bytes]].concat()
}

fn said(hasher: &Hasher, frame: &[u8]) -> (u32, u16) {
    let hash = hasher.hash(&Flow::parse(frame).unwrap());
    hash.map_or((0, 0), |hash| (hash.value, hash.kind as u16))
}

/// Which of some guests a frame reaches.
#[track_caller]
fn reached(guests: &mut [&mut Guest], frame: &mut Vec<u8>) -> usize {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(at) = guests.iter_mut().position(|guest| guest.nic.receive(frame).unwrap()) {
            return at;
        }
        assert!(Instant::now() < end, "no frame comes");
        std::thread::yield_now();
    }
}

#[test]
fn frames_find_the_pair_that_a_drivers_table_names() {
    let mut engine = start();
    let (near, far) = (add(&mut engine, 3, PortConfig::Switch), add(&mut engine, 1, PortConfig::Switch));
    let [mut first, mut second, mut third, mut peer] = [(); 4].map(|()| Guest::new(NicOptions::default(), 0));
    for (pair, guest) in [&first, &second, &third].into_iter().enumerate() {
        guest.plug_as(pair as u16, &mut engine, near, guest.fresh_bases());
    }
    peer.plug(&mut engine, far);
    assert!(first.nic.send(&segment(THERE, HERE, 1, 0)).unwrap());
    reached(&mut [&mut peer], &mut vec![]);
    let mut arrivals = |engine: &mut Engine, scaling: Option<Scaling>| {
        engine.set_scaling(near, scaling).unwrap();
        let mut send = |port: u16| {
            let frame = segment(HERE, THERE, port, 6);
            assert!(peer.nic.send(&frame).unwrap());
            let mut got = Vec::new();
            let at = reached(&mut [&mut first, &mut second, &mut third], &mut got);
            assert_eq!(got, frame);
            at as u16
        };
        PORTS.map(|port| (port, send(port))).collect::<Vec<_>>()
    };
    let hasher = Hasher::new(&[0x5a; 40], TYPES);
    let by = |hasher: &Hasher, table: &[u16], unclassified| Scaling {
        hasher: hasher.clone(),
        indirection: table.into(),
        unclassified,
    };
    let entry = |port, table: &[u16]| {
        let (hash, _) = said(&hasher, &segment(HERE, THERE, port, 0));
        table[hash as usize % table.len()]
    };
    let spread = arrivals(&mut engine, None);
    for table in [[1, 2, 2, 1], [2, 0, 1, 0]] {
        let found = arrivals(&mut engine, Some(by(&hasher, &table, 0)));
        assert!(found.iter().all(|&(port, pair)| pair == entry(port, &table)), "{table:?}: {found:?}");
    }
    assert!(arrivals(&mut engine, Some(by(&hasher, &[1], 0))).iter().all(|(_, pair)| *pair == 1));
    let other = Hasher::new(&DEFAULT_KEY, FlowKind::Udpv4.bit());
    assert!(arrivals(&mut engine, Some(by(&other, &[0, 1], 2))).iter().all(|(_, pair)| *pair == 2), "no hash");
    // An operator's port goes before, and so do flows that follow their senders.
    engine.set_steering(near, Some(80), false).unwrap();
    assert!(arrivals(&mut engine, Some(by(&hasher, &[1, 2], 2))).iter().all(|(_, pair)| *pair == 0));
    engine.set_steering(near, None, false).unwrap();
    assert_eq!(arrivals(&mut engine, None), spread);
}

#[test]
fn a_pair_of_the_table_that_does_not_receive_gets_nothing_and_nobody_else_does() {
    let mut engine = start();
    let (near, far) = (add(&mut engine, 2, PortConfig::Switch), add(&mut engine, 1, PortConfig::Switch));
    let [mut first, second, mut peer] = [(); 3].map(|()| Guest::new(NicOptions::default(), 0));
    first.plug_as(0, &mut engine, near, first.fresh_bases());
    second.plug_as(1, &mut engine, near, second.fresh_bases());
    peer.plug(&mut engine, far);
    assert!(first.nic.send(&segment(THERE, HERE, 1, 0)).unwrap());
    reached(&mut [&mut peer], &mut vec![]);
    let to = |pair: u16| Scaling { hasher: Hasher::default(), indirection: [pair].into(), unclassified: pair };
    engine.set_scaling(near, Some(to(1))).unwrap();
    engine.set_enabled(near, 2, false).unwrap();
    assert!(peer.nic.send(&segment(HERE, THERE, 1, 0)).unwrap());
    let end = Instant::now() + PATIENCE;
    while engine.counters(near).unwrap()[2].counts.drops.iter().sum::<u64>() == 0 {
        assert!(Instant::now() < end, "it is not counted");
    }
    engine.set_scaling(near, Some(to(0))).unwrap();
    let mut got = Vec::new();
    assert!(peer.nic.send(&segment(HERE, THERE, 2, 0)).unwrap());
    reached(&mut [&mut first], &mut got);
    assert_eq!(got, segment(HERE, THERE, 2, 0), "the first that comes there");
}

#[test]
fn a_driver_that_has_it_reported_reads_the_hash_of_each_frame() {
    for (layout, mergeable) in [(Layout::Split, false), (Layout::Packed, true)] {
        for cut in [vec![], vec![12], vec![20, 14], vec![7, 20]] {
            let mut engine = start();
            let device = add(&mut engine, 1, PortConfig::Loopback);
            let options = NicOptions { layout, mergeable, hash_report: true, ..NicOptions::default() };
            let mut guest = Guest::new(NicOptions { transmit_cuts: cut, ..options }, 0);
            guest.plug(&mut engine, device);
            let heard = |guest: &mut Guest, frame: &[u8]| {
                assert!(guest.nic.send(frame).unwrap());
                let mut got = Vec::new();
                reached(&mut [guest], &mut got);
                assert_eq!(got, frame);
                guest.nic.hash()
            };
            let frame = segment(THERE, HERE, 1, 600);
            assert_eq!(heard(&mut guest, &frame), (0, 0), "nothing is hashed at first");
            let hasher = Hasher::new(&[0x5a; 40], TYPES);
            engine.set_hasher(device, Some(hasher.clone())).unwrap();
            assert_eq!(heard(&mut guest, &frame), said(&hasher, &frame));
            assert_eq!(guest.nic.hash().1, FlowKind::Tcpv4 as u16);
            assert_eq!(heard(&mut guest, &[0x88; 60]), (0, 0), "no flow");
            let addresses = Hasher::new(&DEFAULT_KEY, FlowKind::Ipv4.bit());
            engine.set_hasher(device, Some(addresses.clone())).unwrap();
            assert_eq!(heard(&mut guest, &frame), said(&addresses, &frame));
            engine.set_hasher(device, None).unwrap();
            assert_eq!(heard(&mut guest, &frame), (0, 0));
        }
    }
}

#[test]
fn pieces_of_a_frame_have_its_hash_and_a_long_header() {
    let mut engine = start();
    let (near, far) = (add(&mut engine, 1, PortConfig::Switch), add(&mut engine, 1, PortConfig::Switch));
    let sends = 1 << VIRTIO_NET_F_CSUM | 1 << VIRTIO_NET_F_HOST_TSO4;
    let takes = 1 << VIRTIO_NET_F_GUEST_CSUM | 1 << VIRTIO_NET_F_GUEST_TSO4;
    let long = NicOptions { frame_bytes_max: 9000, hash_report: true, ..NicOptions::default() };
    let hasher = Hasher::default();
    for (features, pieces) in [(0, 3), (takes, 1)] {
        let mut sender = Guest::new(long.clone(), sends);
        let mut receiver = Guest::new(long.clone(), features);
        sender.plug(&mut engine, near);
        receiver.plug(&mut engine, far);
        engine.set_hasher(far, Some(hasher.clone())).unwrap();
        let header = Header {
            flags: VIRTIO_NET_HDR_F_NEEDS_CSUM,
            gso_type: VIRTIO_NET_HDR_GSO_TCPV4,
            hdr_len: 54,
            gso_size: 1000,
            csum_start: 34,
            csum_offset: 16,
            num_buffers: 0,
        };
        let frame = segment(THERE, HERE, 5, 3000);
        assert!(sender.nic.send_with(header, &frame, &[]).unwrap());
        for _ in 0..pieces {
            let mut got = Vec::new();
            reached(&mut [&mut receiver], &mut got);
            assert_eq!((got.len() - 54) * pieces, 3000);
            assert_eq!(receiver.nic.hash(), said(&hasher, &frame));
        }
        for device in [near, far] {
            for queue in [0, 1] {
                engine.detach(device, queue).unwrap();
            }
        }
    }
}
