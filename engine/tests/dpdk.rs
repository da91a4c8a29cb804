//! Ports of DPDK's on the switch: virtual devices, as no other is to be had everywhere.
//!
//! `net_ring` gives back what it is given. `net_tap` is an interface of the kernel's, in a network namespace of the test's own.
#![cfg(feature = "dpdk")]

#[path = "../../tests/src/aloud.rs"]
mod aloud;
mod guest;
#[path = "../../tests/src/namespace.rs"]
mod namespace;

use std::time::{Duration, Instant};

use virtnet_engine::counters::{BurstCounts, DropReason};
use virtnet_engine::frame::offload::FROM_GUEST;
use virtnet_engine::port::netdev::Netdev;
use virtnet_engine::uplink::wire::{LinkState, WireConfig};
use virtnet_engine::{DeviceConfig, DeviceId, Engine, EngineConfig, EngineError, IdlePolicy, PortConfig, UplinkConfig};
use virtnet_rings::guest::net::{Header, NicOptions};
use virtnet_rings::spec::net::VIRTIO_NET_HDR_F_NEEDS_CSUM;

use guest::Guest;
use namespace::{inside, ip};

const PATIENCE: Duration = Duration::from_secs(20);
const GUEST: [u8; 6] = [2, 0, 0, 0, 0, 1];
const STATION: [u8; 6] = [2, 0, 0, 0, 0, 9];

/// A guest and a port on a switch.
struct Site {
    engine: Engine,
    guest: Guest,
    port: DeviceId,
}

fn add(engine: &mut Engine, devargs: &str) -> Result<DeviceId, EngineError> {
    engine.add_uplink(UplinkConfig { members: vec![WireConfig::Dpdk(devargs.into())], queues: 1, workers: vec![] })
}

impl Site {
    fn new(devargs: &str, idle: IdlePolicy) -> Self {
        let mut engine = Engine::start(EngineConfig { lcores: vec![None], idle, burst: 32 }).unwrap();
        let device = engine.add_device(DeviceConfig { pairs: 1, port: PortConfig::Switch, workers: vec![] }).unwrap();
        let guest = Guest::new(NicOptions { frame_bytes_max: 4096, ..NicOptions::default() }, FROM_GUEST);
        guest.plug(&mut engine, device);
        let port = add(&mut engine, devargs).unwrap();
        Site { engine, guest, port }
    }

    fn send_with(&mut self, header: Header, frame: &[u8]) {
        let deadline = Instant::now() + PATIENCE;
        while !self.guest.nic.send_with(header, frame, &[]).unwrap() {
            assert!(Instant::now() < deadline, "the device takes nothing");
        }
    }

    fn send(&mut self, frame: &[u8]) {
        self.send_with(Header::default(), frame);
    }

    /// The next frame that the guest gets, passing over what Linux has to say of its own accord.
    fn next(&mut self) -> Vec<u8> {
        let deadline = Instant::now() + PATIENCE;
        let mut frame = Vec::new();
        loop {
            assert!(Instant::now() < deadline, "the guest gets nothing");
            if !self.guest.nic.receive(&mut frame).unwrap() {
                std::thread::yield_now();
            } else if is_ours(&frame) {
                return frame;
            }
        }
    }

    fn link(&mut self) -> LinkState {
        self.engine.look_at_links().unwrap();
        self.engine.members(self.port).unwrap()[0].link
    }

    fn wait_for(&mut self, link: LinkState) {
        let deadline = Instant::now() + PATIENCE;
        while self.link() != link {
            assert!(Instant::now() < deadline, "{link:?}");
        }
    }

    /// Waits until so many frames to the port were dropped for this reason.
    fn wait_for_drops(&mut self, reason: DropReason, count: u64) {
        let deadline = Instant::now() + PATIENCE;
        while self.engine.members(self.port).unwrap()[0].queues[0].counts.drops[reason as usize] != count {
            assert!(Instant::now() < deadline, "{:?}", self.engine.members(self.port));
        }
    }
}

/// A UDP datagram with a number and as much else in it as it is to be long.
fn datagram(source: [u8; 6], destination: [u8; 6], number: u16, len_bytes: usize) -> Vec<u8> {
    let mut frame = [&destination[..], &source, &[8, 0], &[0x45, 0], &(len_bytes as u16 - 14).to_be_bytes()].concat();
    frame.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 10, 7, 0, 2, 10, 7, 0, 1]);
    frame.extend([4000, 4001, len_bytes as u16 - 34, 0, number].map(u16::to_be_bytes).concat());
    frame.extend((frame.len()..len_bytes).map(|at| (at * 11) as u8 ^ number as u8));
    frame
}

fn is_ours(frame: &[u8]) -> bool {
    frame.get(34..36) == Some(&4000u16.to_be_bytes())
}

/// The next frame of ours that leaves by the far end.
fn far_next(far: &mut Netdev) -> Vec<u8> {
    let deadline = Instant::now() + PATIENCE;
    for turn in 1.. {
        assert!(Instant::now() < deadline, "nothing leaves");
        let Some(frame) = far.take_frame(turn * 1_000_000, &mut BurstCounts::default()) else { continue };
        let mut bytes = vec![0; frame.len_bytes as usize];
        frame.parts.read(&mut bytes);
        far.take_back(frame.ticket as u16);
        if is_ours(&bytes) {
            return bytes;
        }
    }
    unreachable!()
}

#[test]
fn what_a_ring_is_given_comes_back_whole_and_in_order() {
    let mut site = Site::new("net_ring0", IdlePolicy::Event);
    assert_eq!(site.link(), LinkState::Up);
    // To nobody who is known: it leaves by the port, and is for the guest when it comes back.
    let mut number = 0;
    let mut exchange = |site: &mut Site, count| {
        for _ in 0..count {
            let burst = [60, 61, 1514, 128, 2048, 900].map(|len_bytes| {
                number += 1;
                datagram(GUEST, STATION, number, len_bytes)
            });
            burst.iter().for_each(|frame| site.send(frame));
            burst.iter().for_each(|frame| assert_eq!(site.next(), *frame));
        }
    };
    // More than there are buffers, or places on a queue.
    exchange(&mut site, 1500);
    assert!(add(&mut site.engine, "net_ring0").unwrap_err().to_string().contains("File exists"));
    exchange(&mut site, 1);
    for _ in 0..30 {
        site.engine.remove_device(site.port).unwrap();
        site.port = add(&mut site.engine, "net_ring0").unwrap();
        exchange(&mut site, 3);
    }
    // And in another engine.
    drop(site);
    exchange(&mut Site::new("net_ring0", IdlePolicy::Poll), 3);
}

#[test]
fn devices_that_cannot_be_had_are_refused_with_their_reasons() {
    let mut engine = Engine::start(EngineConfig { lcores: vec![None], idle: IdlePolicy::Adaptive, burst: 32 }).unwrap();
    for (devargs, error) in [
        ("net_nothing0", "dpdk: making net_nothing0: "),
        ("0000:ff:1f.7", "dpdk: making 0000:ff:1f.7: "),
        ("auxiliary:mlx5_core.sf.4094", "dpdk: making auxiliary:mlx5_core.sf.4094: "),
        ("net_ring1,nodeaction=", "dpdk: making net_ring1,nodeaction=: "),
        ("net_ring1\0", "dpdk: a text for DPDK with a zero in it"),
    ] {
        let found = add(&mut engine, devargs).unwrap_err().to_string();
        assert!(found.starts_with(error), "{found}");
    }
    let two = UplinkConfig { members: vec![WireConfig::Dpdk("net_ring1".into())], queues: 2, workers: vec![] };
    assert_eq!(engine.add_uplink(two).unwrap_err().to_string(), "2 queues; an interface of this kind has one");
    add(&mut engine, "net_ring1").unwrap();
}

#[test]
fn a_guest_and_an_interface_exchange_frames_over_a_port() {
    if !inside(&["/dev/net/tun"]) {
        return;
    }
    let mut site = Site::new("net_tap0,iface=dtap0", IdlePolicy::Event);
    for round in 0..3 {
        let mut far = Netdev::open("dtap0").unwrap().0;
        site.wait_for(LinkState::Up);
        for number in 0..100 {
            let len_bytes = 60 + 13 * usize::from(number);
            let hello = datagram(STATION, GUEST, number, len_bytes);
            far.transmit_bytes(&hello).unwrap();
            assert_eq!(site.next(), hello);
            let answer = datagram(GUEST, STATION, number, len_bytes);
            site.send(&answer);
            assert_eq!(far_next(&mut far), answer);
        }
        let known = site.engine.addresses();
        assert!(known.iter().any(|one| one.mac == STATION && one.device == site.port), "{known:?}");
        // A checksum that is left to others is finished before.
        let mut unfinished = datagram(GUEST, STATION, 7, 100);
        unfinished[40..42].copy_from_slice(&[0x12, 0x34]);
        let header = Header { flags: VIRTIO_NET_HDR_F_NEEDS_CSUM, csum_start: 34, csum_offset: 6, ..Header::default() };
        site.send_with(header, &unfinished);
        let finished = far_next(&mut far);
        assert_ne!(finished[40..42], unfinished[40..42]);
        let sum = finished[34..].chunks(2).fold(0u32, |sum, pair| sum + u32::from(pair[0]) * 256 + u32::from(pair[1]));
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff - 0x1234, "less what the driver had put there");
        // What fits no buffer goes nowhere, and what comes after it does.
        site.send(&datagram(GUEST, STATION, 8, 2049));
        site.wait_for_drops(DropReason::TooLong, 1);
        ip("link set dtap0 down");
        site.wait_for(LinkState::Down);
        site.send(&datagram(GUEST, STATION, 9, 100));
        site.wait_for_drops(DropReason::PortError, 1);
        ip("link set dtap0 up");
        site.wait_for(LinkState::Up);
        site.send(&datagram(GUEST, STATION, 10, 100));
        assert_eq!(far_next(&mut far), datagram(GUEST, STATION, 10, 100));
        site.engine.remove_device(site.port).unwrap();
        assert!(Netdev::open("dtap0").is_err(), "it goes with the port");
        if round < 2 {
            site.port = add(&mut site.engine, "net_tap0,iface=dtap0").unwrap();
        }
    }
}
