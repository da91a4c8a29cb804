//! A guest and a real network interface, and two interfaces on the switch: what Linux sends arrives, and the reverse.
//!
//! Each test runs itself again in a network namespace of its own, which takes no privilege where user namespaces are
//! allowed. Where they are not, or where there is no /dev/net/tun, it says so and passes.

#[path = "../../tests/src/aloud.rs"]
mod aloud;
mod guest;
#[path = "../../tests/src/namespace.rs"]
mod namespace;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

use virtnet_engine::frame::offload::TO_GUEST;
use virtnet_engine::port::tap::{Interface, TapConfig, index_of};
use virtnet_engine::uplink::wire::WireConfig;
use virtnet_engine::{DeviceConfig, Engine, EngineConfig, IdlePolicy, PortConfig, UplinkConfig};
use virtnet_rings::Layout;
use virtnet_rings::guest::net::NicOptions;

use guest::Guest;
use namespace::{again, inside, ip, role};

const PATIENCE: Duration = Duration::from_secs(20);
const GUEST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

fn start(idle: IdlePolicy) -> Engine {
    Engine::start(EngineConfig { lcores: vec![None], idle, burst: 32 }).unwrap()
}

fn tap(name: &str, features: u64) -> TapConfig {
    let interface = Arc::new(Interface::open(name).unwrap());
    TapConfig { interface, features, takes: TO_GUEST, mtu: None, up: true }
}

/// The payload of the next UDP datagram from port 4000, passing over what else Linux has to say.
fn receive_datagram(guest: &mut Guest) -> Vec<u8> {
    let deadline = Instant::now() + PATIENCE;
    let mut frame = Vec::new();
    loop {
        assert!(Instant::now() < deadline, "no datagram has come");
        if !guest.nic.receive(&mut frame).unwrap() {
            std::thread::yield_now();
        } else if frame[12..14] == [8, 0] && frame[23] == 17 && frame[34..36] == 4000u16.to_be_bytes() {
            assert_eq!(frame[..6], GUEST_MAC);
            return frame.split_off(42);
        }
    }
}

/// A UDP datagram from 10.7.0.2:4001 to 10.7.0.1:4000 in a frame, without a UDP checksum.
fn datagram(payload: &[u8]) -> Vec<u8> {
    let mut ip = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 7, 0, 2, 10, 7, 0, 1];
    ip[2..4].copy_from_slice(&(28 + payload.len() as u16).to_be_bytes());
    let sum = ip.chunks(2).fold(0u32, |sum, pair| sum + u32::from(pair[0]) * 256 + u32::from(pair[1]));
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let udp = [4001, 4000, 8 + payload.len() as u16, 0].map(u16::to_be_bytes).concat();
    [&[2, 0, 0, 0, 0, 1], &GUEST_MAC[..], &[8, 0], &ip, &udp, payload].concat()
}

fn payload(number: usize, len_bytes: usize) -> Vec<u8> {
    (0..len_bytes).map(|at| (at * 11 + number) as u8).collect()
}

#[test]
fn a_guest_and_the_host_exchange_datagrams_over_an_interface() {
    if !inside(&["/dev/net/tun"]) {
        return;
    }
    for (idle, layout) in [(IdlePolicy::Adaptive, Layout::Split), (IdlePolicy::Poll, Layout::Packed)] {
        let mut engine = start(idle);
        let config = tap("en3f0pf0sf1000", TO_GUEST);
        let device =
            engine.add_device(DeviceConfig { pairs: 1, port: PortConfig::Tap(config), workers: vec![] }).unwrap();
        ip("link set en3f0pf0sf1000 address 02:00:00:00:00:01");
        ip("addr add 10.7.0.1/24 dev en3f0pf0sf1000");
        ip("neigh add 10.7.0.2 lladdr 02:00:00:00:00:02 dev en3f0pf0sf1000");
        let mut guest = Guest::new(NicOptions { layout, ..NicOptions::default() }, TO_GUEST);
        guest.plug(&mut engine, device);
        let socket = UdpSocket::bind("10.7.0.1:4000").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut got = vec![0; 2000];
        for number in 0..300 {
            let sent = payload(number, 1 + number * 4);
            let deadline = Instant::now() + PATIENCE;
            while !guest.nic.send(&datagram(&sent)).unwrap() {
                assert!(Instant::now() < deadline);
            }
            let (count, from) = socket.recv_from(&mut got).unwrap();
            assert_eq!((from.to_string().as_str(), &got[..count]), ("10.7.0.2:4001", &sent[..]));
            socket.send_to(&sent, "10.7.0.2:4001").unwrap();
            assert_eq!(receive_datagram(&mut guest), sent);
        }
        let counters = engine.counters(device).unwrap();
        assert_eq!(counters[1].counts.packets, 300);
        assert!(counters[0].counts.packets >= 300);
        assert_eq!(counters[1].counts.dropped(), 0);

        // What Linux refuses is counted, and nothing else happens.
        ip("link set en3f0pf0sf1000 down");
        while !guest.nic.send(&datagram(b"into the void")).unwrap() {}
        let deadline = Instant::now() + PATIENCE;
        while engine.counters(device).unwrap()[1].counts.dropped() == 0 {
            assert!(Instant::now() < deadline);
        }
        let dropped = engine.counters(device).unwrap()[1].counts.dropped();
        // Somebody deletes the interface: the guest loses its wire, and nothing else.
        ip("link del en3f0pf0sf1000");
        while !guest.nic.send(&datagram(b"into nothing")).unwrap() {}
        while engine.counters(device).unwrap()[1].counts.dropped() == dropped {
            assert!(Instant::now() < deadline);
        }
        assert_eq!(engine.remove_device(device).unwrap().len(), 2);
    }
}

fn gone(interface: &str) -> bool {
    index_of(interface).is_none()
}

#[test]
fn what_cannot_be_had_is_refused_with_its_reason() {
    if !inside(&["/dev/net/tun"]) {
        return;
    }
    let refused = |name| Interface::open(name).unwrap_err().to_string();
    let existing = refused("lo");
    assert!(existing.starts_with("interface lo: attaching a queue: Invalid argument"), "{existing}");
    assert!(existing.contains("another kind of interface"), "{existing}");
    ip("tuntap add single mode tap");
    assert!(refused("single").contains("interface single: attaching a queue"));
    ip("tuntap add theirs mode tap multi_queue");
    let theirs = Interface::make("theirs").unwrap_err().to_string();
    assert!(theirs.starts_with("interface theirs: attaching a queue: ") && theirs.contains("not ours"), "{theirs}");
    drop(Interface::open("theirs").unwrap());
    assert!(!gone("theirs"), "it was there before");
    let mut engine = start(IdlePolicy::Adaptive);
    let config = PortConfig::Tap(TapConfig { mtu: Some(20), ..tap("tap7", 0) });
    let mtu = engine.add_device(DeviceConfig { pairs: 1, port: config, workers: vec![] }).unwrap_err().to_string();
    assert!(mtu.starts_with("tap: interface tap7: setting the MTU: Invalid argument"), "{mtu}");
    assert!(gone("tap7"));
}

#[test]
fn an_interface_has_a_queue_for_each_pair_and_the_mtu_it_was_given() {
    if !inside(&["/dev/net/tun"]) {
        return;
    }
    let mut engine = start(IdlePolicy::Adaptive);
    let config = TapConfig { mtu: Some(9000), up: false, ..tap("many", TO_GUEST) };
    let device = engine.add_device(DeviceConfig { pairs: 4, port: PortConfig::Tap(config), workers: vec![] }).unwrap();
    let show = shown("many");
    for expected in ["mtu 9000", "multi_queue", "numqueues 4", "vnet_hdr on", "state DOWN"] {
        assert!(show.contains(expected), "{expected}: {show}");
    }
    engine.remove_device(device).unwrap();
    assert!(gone("many"));
}

/// What `ip` tells of an interface.
fn shown(interface: &str) -> String {
    let show = Command::new("ip").args(["-d", "link", "show", interface]).output().unwrap().stdout;
    String::from_utf8(show).unwrap()
}

#[test]
fn an_interface_outlives_devices_and_follows_their_number_of_pairs() {
    if !inside(&["/dev/net/tun"]) {
        return;
    }
    let interface = Arc::new(Interface::make("held").unwrap());
    let index = index_of("held");
    assert!(index.is_some() && shown("held").contains("numqueues 0 numdisabled 1"), "{}", shown("held"));
    assert!(Interface::make("held").is_err(), "there is one");
    ip("link add br0 type bridge");
    ip("link set held master br0");
    let mut engine = start(IdlePolicy::Event);
    for (pairs, mtu) in [(1, None), (4, Some(9000)), (2, Some(1500))] {
        for _ in 0..2 {
            let port = PortConfig::Tap(TapConfig {
                interface: interface.clone(),
                features: TO_GUEST,
                takes: TO_GUEST,
                mtu,
                up: true,
            });
            let device = engine.add_device(DeviceConfig { pairs, port, workers: vec![] }).unwrap();
            for expected in [format!("numqueues {pairs} numdisabled 0"), "master br0".into(), "LOWER_UP".into()] {
                assert!(shown("held").contains(&expected), "{expected}: {}", shown("held"));
            }
            engine.remove_device(device).unwrap();
        }
        interface.rest().unwrap();
        assert!(shown("held").contains("numqueues 0 numdisabled 1") && shown("held").contains("LOWER_UP"));
        assert_eq!(index_of("held"), index);
    }
    interface.set_persistent(true).unwrap();
    drop(interface);
    assert_eq!(index_of("held"), index, "it stays");
    assert!(shown("held").contains("persist on"));
    let again = Interface::open("held").unwrap();
    again.set_persistent(false).unwrap();
    assert!(again.is_there());
    ip("link set held down");
    ip("link set held name other");
    assert!(!again.is_there(), "it is called otherwise");
    ip("link del other");
    assert!(!again.is_there(), "it is gone");
    drop(again);
    assert!(gone("held") && gone("other"));
}

/// A process in a network namespace of its own with one interface of ours.
struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The far end of [`tcp_goes_through_the_switch_between_two_interfaces_in_long_frames`]: sends back what it is sent.
fn serve() {
    let deadline = Instant::now() + PATIENCE;
    while gone("far") {
        assert!(Instant::now() < deadline, "the interface has not come");
        std::thread::sleep(Duration::from_millis(10));
    }
    ip("link set far up");
    ip("addr add 10.7.0.2/24 dev far");
    let (mut stream, _) = TcpListener::bind("10.7.0.2:4000").unwrap().accept().unwrap();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = stream.read(&mut buffer).unwrap();
        if count == 0 {
            return;
        }
        stream.write_all(&buffer[..count]).unwrap();
    }
}

#[test]
fn tcp_goes_through_the_switch_between_two_taps_in_long_frames() {
    let has_run = tcp_goes_through(|name| (WireConfig::Tap(tap(name, TO_GUEST)), 2));
    assert!(!has_run || gone("near"));
}

#[test]
fn tcp_goes_through_the_switch_between_two_netdevs_in_long_frames() {
    tcp_goes_through(|name| {
        ip(&format!("link add {name} type veth peer name to-{name}"));
        ip(&format!("link set to-{name} up"));
        ip(&format!("link set {name} up"));
        (WireConfig::Netdev(format!("to-{name}")), 1)
    });
}

/// Whether this was the run in the namespace.
fn tcp_goes_through(wire: impl Fn(&str) -> (WireConfig, u16)) -> bool {
    if role().is_some_and(|role| role == "far") {
        serve();
        return false;
    }
    if !inside(&["/dev/net/tun"]) {
        return false;
    }
    let mut engine = start(IdlePolicy::Event);
    let mut uplink = |name| {
        let (wire, queues) = wire(name);
        engine.add_uplink(UplinkConfig { members: vec![wire], queues, workers: vec![] }).unwrap()
    };
    let [near, far] = ["near", "far"].map(&mut uplink);
    let peer = Peer(again("far").spawn().unwrap());
    let pid = peer.0.id();
    let here = std::fs::read_link("/proc/self/ns/net").unwrap();
    let deadline = Instant::now() + PATIENCE;
    while std::fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|there| there == here) {
        assert!(Instant::now() < deadline, "the far end has not left");
        std::thread::sleep(Duration::from_millis(1));
    }
    ip(&format!("link set far netns {pid}"));
    ip("addr add 10.7.0.1/24 dev near");

    let deadline = Instant::now() + PATIENCE;
    let mut stream = loop {
        match TcpStream::connect_timeout(&"10.7.0.2:4000".parse().unwrap(), Duration::from_secs(2)) {
            Ok(stream) => break stream,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let sent = payload(3, 32 << 20);
    let mut writer = stream.try_clone().unwrap();
    let sender = std::thread::spawn({
        let sent = sent.clone();
        move || {
            writer.write_all(&sent).unwrap();
            writer.shutdown(std::net::Shutdown::Write).unwrap();
        }
    });
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    sender.join().unwrap();
    assert!(got == sent, "{} of {} bytes came back, or they have changed", got.len(), sent.len());

    let counts = [near, far].map(|id| engine.counters(id).unwrap());
    let long: u64 = counts.iter().flatten().map(|queue| queue.counts.size_bins[10]).sum();
    assert!(long > 100, "frames were cut on their way: {counts:?}");
    for id in [near, far] {
        assert!(engine.remove_device(id).unwrap().is_empty());
    }
    true
}
