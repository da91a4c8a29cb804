//! Frames with partial checksums and frames to be cut, from one guest to another that takes them or does not.

mod guest;

use std::time::{Duration, Instant};

use guest::Guest;
use virtnet_engine::counters::DropReason;
use virtnet_engine::{DeviceConfig, DeviceId, Engine, EngineConfig, IdlePolicy, PortConfig};
use virtnet_rings::Layout;
use virtnet_rings::guest::net::{Header, NicOptions};
use virtnet_rings::spec::net::*;

const PATIENCE: Duration = Duration::from_secs(10);
const LAYOUTS: [Layout; 2] = [Layout::Split, Layout::Packed];
const SENDS_ALL: u64 = 1 << VIRTIO_NET_F_CSUM | 1 << VIRTIO_NET_F_HOST_TSO4 | 1 << VIRTIO_NET_F_HOST_USO;
const TAKES_ALL: u64 = 1 << VIRTIO_NET_F_GUEST_CSUM | 1 << VIRTIO_NET_F_GUEST_TSO4;
const NO_CUTS: &[u32] = &[];

fn checksum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) * 256 + u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The pseudo header of a segment between our two addresses.
fn pseudo(segment_bytes: usize) -> [u8; 12] {
    let [l0, l1] = (segment_bytes as u16).to_be_bytes();
    [10, 0, 0, 1, 10, 0, 0, 2, 0, 6, l0, l1]
}

/// A TCP segment as a driver with offloads leaves it: its checksum is the pseudo header's sum.
fn segment(payload: &[u8]) -> Vec<u8> {
    let mut ip = [0x45, 0, 0, 0, 0x11, 0x22, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    ip[2..4].copy_from_slice(&((40 + payload.len()) as u16).to_be_bytes());
    let sum = checksum(&[&ip]);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut tcp = [0x10, 0, 0x20, 0, 0xff, 0xff, 0xff, 0xf0, 0, 0, 0, 1, 0x50, 0x19, 1, 0, 0, 0, 0, 0];
    tcp[16..18].copy_from_slice(&(!checksum(&[&pseudo(20 + payload.len())])).to_be_bytes());
    [&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0], &ip[..], &tcp, payload].concat()
}

fn payload(len_bytes: usize) -> Vec<u8> {
    (0..len_bytes).map(|at| (at * 13 + at / 256) as u8).collect()
}

fn partial() -> Header {
    Header { flags: 1, csum_start: 34, csum_offset: 16, ..Header::default() }
}

fn cut(gso_size: u16) -> Header {
    Header { gso_type: 1, gso_size, hdr_len: 54, ..partial() }
}

/// A finished frame's payload and sequence number; its lengths and checksums must be right.
fn open(frame: &[u8]) -> (u32, u8, &[u8]) {
    let [ip, tcp] = [&frame[14..34], &frame[34..]];
    assert_eq!(usize::from(u16::from_be_bytes([ip[2], ip[3]])), frame.len() - 14);
    assert_eq!(checksum(&[ip]), 0, "the header's checksum");
    assert_eq!(checksum(&[&pseudo(tcp.len()), tcp]), 0, "the segment's checksum");
    (u32::from_be_bytes(tcp[4..8].try_into().unwrap()), tcp[13], &tcp[20..])
}

/// Two guests on the switch, the first of which is known to it.
fn meet(sender: &mut Guest, receiver: &mut Guest) -> (Engine, [DeviceId; 2]) {
    let config = EngineConfig { lcores: vec![None], idle: IdlePolicy::Adaptive, burst: 32 };
    let mut engine = Engine::start(config).unwrap();
    let device = || DeviceConfig { pairs: 1, port: PortConfig::Switch, workers: vec![] };
    let devices = [engine.add_device(device()).unwrap(), engine.add_device(device()).unwrap()];
    sender.plug(&mut engine, devices[0]);
    receiver.plug(&mut engine, devices[1]);
    (engine, devices)
}

fn send(guest: &mut Guest, header: Header, frame: &[u8]) {
    let deadline = Instant::now() + PATIENCE;
    while !guest.nic.send_with(header, frame, NO_CUTS).unwrap() {
        assert!(Instant::now() < deadline, "a frame was not sent");
        std::thread::yield_now();
    }
}

fn receive(guest: &mut Guest) -> Vec<u8> {
    let deadline = Instant::now() + PATIENCE;
    let mut frame = Vec::new();
    while !guest.nic.receive(&mut frame).unwrap() {
        assert!(Instant::now() < deadline, "no frame has come");
        std::thread::yield_now();
    }
    frame
}

/// Every layout, with merged buffers and without.
fn shapes() -> impl Iterator<Item = NicOptions> {
    LAYOUTS.into_iter().flat_map(|layout| {
        [false, true].map(|mergeable| NicOptions { layout, mergeable, frame_bytes_max: 1514, ..NicOptions::default() })
    })
}

fn sender() -> Guest {
    Guest::new(NicOptions { frame_bytes_max: 65_550, ..NicOptions::default() }, SENDS_ALL)
}

#[test]
fn a_guest_that_takes_them_gets_frames_as_they_were_sent() {
    for layout in LAYOUTS {
        let mut sender = sender();
        let options = NicOptions { layout, mergeable: true, frame_bytes_max: 65_550, ..NicOptions::default() };
        let mut receiver = Guest::new(options, TAKES_ALL);
        let (_engine, _) = meet(&mut sender, &mut receiver);
        let long = segment(&payload(60_000));
        for (header, frame) in [(cut(1448), &long), (partial(), &segment(b"short"))] {
            send(&mut sender, header, frame);
            assert!(receive(&mut receiver) == *frame);
            let got = receiver.nic.header();
            assert_eq!(Header { num_buffers: 0, ..got }, header);
        }
    }
}

#[test]
fn a_guest_that_takes_no_partial_checksum_gets_a_whole_one() {
    for options in shapes() {
        let (mut sender, mut receiver) = (sender(), Guest::new(options, 0));
        let (_engine, _) = meet(&mut sender, &mut receiver);
        for len_bytes in [0, 1, 2, 700, 1460] {
            send(&mut sender, partial(), &segment(&payload(len_bytes)));
            let frame = receive(&mut receiver);
            assert_eq!(open(&frame), (0xffff_fff0, 0x19, &payload(len_bytes)[..]));
            assert_eq!(receiver.nic.header(), Header { num_buffers: 1, ..Header::default() });
        }
    }
}

/// Expects the pieces of one long frame.
fn receive_pieces(guest: &mut Guest, whole: &[u8], gso_size: u16) {
    let mut sequence = 0xffff_fff0u32;
    let pieces = whole.chunks(gso_size.into());
    let last = pieces.len() - 1;
    for (number, piece) in pieces.enumerate() {
        let frame = receive(guest);
        assert_eq!(open(&frame), (sequence, if number == last { 0x19 } else { 0x10 }, piece));
        assert_eq!(guest.nic.header().gso_type, 0);
        sequence = sequence.wrapping_add(piece.len() as u32);
    }
}

#[test]
fn a_guest_that_takes_no_long_frames_gets_them_in_pieces() {
    for options in shapes() {
        let (mut sender, mut receiver) = (sender(), Guest::new(options, 0));
        let (mut engine, devices) = meet(&mut sender, &mut receiver);
        for (len_bytes, gso_size) in [(60_000, 1448), (1448, 1448), (1449, 1448), (5000, 100)] {
            let whole = payload(len_bytes);
            send(&mut sender, cut(gso_size), &segment(&whole));
            receive_pieces(&mut receiver, &whole, gso_size);
        }
        let counts = engine.counters(devices[1]).unwrap()[0].counts;
        assert_eq!((counts.packets, counts.dropped()), (42 + 1 + 2 + 50, 0));
    }
}

#[test]
fn a_ring_of_eight_buffers_takes_a_long_frame_over_many_turns() {
    for layout in LAYOUTS {
        let options = NicOptions { layout, size: 8, frame_bytes_max: 65_550, ..NicOptions::default() };
        let mut guest = Guest::new(options, SENDS_ALL);
        let mut engine =
            Engine::start(EngineConfig { lcores: vec![None], idle: IdlePolicy::Adaptive, burst: 32 }).unwrap();
        let config = DeviceConfig { pairs: 1, port: PortConfig::Loopback, workers: vec![] };
        let device = engine.add_device(config).unwrap();
        guest.plug(&mut engine, device);
        for (len_bytes, gso_size) in [(60_000, 1448), (65_000, 50), (3000, 1448)] {
            let whole = payload(len_bytes);
            send(&mut guest, cut(gso_size), &segment(&whole));
            receive_pieces(&mut guest, &whole, gso_size);
        }
        let counts = engine.counters(device).unwrap()[0].counts;
        assert_eq!((counts.packets, counts.dropped()), (42 + 1300 + 3, 0));
    }
}

#[test]
fn a_guest_can_take_other_offloads_at_any_time() {
    for layout in LAYOUTS {
        let mut sender = sender();
        let options = NicOptions { layout, mergeable: true, frame_bytes_max: 65_550, ..NicOptions::default() };
        let mut receiver = Guest::new(options, TAKES_ALL);
        let (mut engine, devices) = meet(&mut sender, &mut receiver);
        let whole = payload(5000);
        let frame = segment(&whole);
        for _ in 0..2 {
            send(&mut sender, cut(1448), &frame);
            assert!(receive(&mut receiver) == frame);
            engine.set_offloads(devices[1], 0).unwrap();
            send(&mut sender, cut(1448), &frame);
            receive_pieces(&mut receiver, &whole, 1448);
            engine.set_offloads(devices[1], 1 << VIRTIO_NET_F_GUEST_CSUM).unwrap();
            send(&mut sender, cut(1448), &frame);
            receive_pieces(&mut receiver, &whole, 1448);
            send(&mut sender, partial(), &frame);
            assert!(receive(&mut receiver) == frame);
            engine.set_offloads(devices[1], u64::MAX).unwrap();
        }
    }
}

#[test]
fn a_frame_that_is_being_cut_arrives_in_pieces_to_its_end() {
    for layout in LAYOUTS {
        let options = NicOptions { layout, size: 8, frame_bytes_max: 65_550, ..NicOptions::default() };
        let mut guest = Guest::new(options, SENDS_ALL);
        let mut engine =
            Engine::start(EngineConfig { lcores: vec![None], idle: IdlePolicy::Adaptive, burst: 32 }).unwrap();
        let device = engine.add_device(DeviceConfig { pairs: 1, port: PortConfig::Loopback, workers: vec![] }).unwrap();
        guest.plug(&mut engine, device);
        let whole = payload(60_000);
        let frame = segment(&whole);
        send(&mut guest, cut(1448), &frame);
        let deadline = Instant::now() + PATIENCE;
        while engine.counters(device).unwrap()[0].counts.packets < 8 {
            assert!(Instant::now() < deadline, "eight pieces for eight buffers");
            std::thread::yield_now();
        }
        engine.set_offloads(device, TAKES_ALL).unwrap();
        receive_pieces(&mut guest, &whole, 1448);
        send(&mut guest, cut(1448), &frame);
        assert!(receive(&mut guest) == frame, "and the next one as it is");
    }
}

#[test]
fn what_was_not_negotiated_or_makes_no_sense_goes_no_further() {
    for layout in LAYOUTS {
        let mut sender = Guest::new(NicOptions { layout, ..NicOptions::default() }, 1 << VIRTIO_NET_F_CSUM);
        let mut receiver = Guest::new(NicOptions::default(), TAKES_ALL);
        let (mut engine, devices) = meet(&mut sender, &mut receiver);
        let frame = segment(&payload(1000));
        let malformed = [
            Header { csum_start: 2000, ..partial() },
            Header { csum_offset: 0xffff, ..partial() },
            Header { gso_type: 9, ..partial() },
        ];
        send(&mut sender, cut(100), &frame);
        malformed.into_iter().for_each(|header| send(&mut sender, header, &frame));
        send(&mut sender, Header::default(), &frame);
        assert!(receive(&mut receiver) == frame);
        let counts = engine.counters(devices[0]).unwrap()[1].counts;
        assert_eq!(counts.drops[DropReason::OffloadRefused as usize], 1);
        assert_eq!(counts.drops[DropReason::MalformedHeader as usize], 3);
        assert_eq!((counts.packets, counts.dropped()), (1, 4));
    }
}

#[test]
fn that_a_checksum_is_right_is_not_for_a_guest_to_say() {
    let (mut sender, mut receiver) = (sender(), Guest::new(NicOptions::default(), TAKES_ALL));
    let (_engine, _) = meet(&mut sender, &mut receiver);
    send(&mut sender, Header { flags: 2, ..Header::default() }, &segment(b"wrong"));
    receive(&mut receiver);
    assert_eq!(receiver.nic.header().flags, 0);
}
