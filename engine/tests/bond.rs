//! Bonds of interfaces on the switch: which member a frame leaves by, what becomes of what comes in, and links that are lost.
//!
//! The members are ends of veth pairs, the test has the other ends. As in `tap.rs`, each test is in a namespace of its own.

#[path = "../../tests/src/aloud.rs"]
mod aloud;
mod guest;
#[path = "../../tests/src/namespace.rs"]
mod namespace;

use std::process::Command;
use std::time::{Duration, Instant};

use virtnet_engine::counters::{BurstCounts, DropReason};
use virtnet_engine::port::netdev::Netdev;
use virtnet_engine::uplink::wire::{LinkState, WireConfig};
use virtnet_engine::{DeviceConfig, DeviceId, Engine, EngineConfig, IdlePolicy, PortConfig, UplinkConfig};
use virtnet_rings::guest::net::NicOptions;

use guest::Guest;
use namespace::{inside, ip};

const PATIENCE: Duration = Duration::from_secs(20);
const STATION: [u8; 6] = [2, 0, 0, 0, 0, 0x99];
const ALL: [u8; 6] = [0xff; 6];
const FLOWS: u16 = 64;

/// The far end of a member's cable.
struct Cable {
    end: Netdev,
    now_ns: u64,
}

impl Cable {
    /// Makes a pair, of which the switch is to have `name`.
    fn lay(name: &str) -> Self {
        for end in [name, &format!("to-{name}")] {
            // What Linux has to say of its own accord would be in the way.
            let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
            if end == name {
                ip(&format!("link add {name} type veth peer name to-{name}"));
            }
            ip(&format!("link set {end} up"));
        }
        wait_until_ready(name);
        wait_until_ready(&format!("to-{name}"));
        Cable { end: Netdev::open(&format!("to-{name}")).unwrap().0, now_ns: 0 }
    }

    fn send(&mut self, frame: &[u8]) {
        self.end.transmit_bytes(frame).unwrap();
    }

    fn receive(&mut self) -> Option<Vec<u8>> {
        self.now_ns += 1_000_000;
        let frame = self.end.take_frame(self.now_ns, &mut BurstCounts::default())?;
        let mut bytes = vec![0; frame.len_bytes as usize];
        frame.parts.read(&mut bytes);
        self.end.take_back(frame.ticket as u16);
        Some(bytes)
    }
}

/// Until the kernel has noticed that the other end is up, it drops what is sent.
fn wait_until_ready(interface: &str) {
    let deadline = Instant::now() + PATIENCE;
    let is_ready = || {
        let shown = Command::new("ip").args(["-o", "link", "show", interface]).output().unwrap().stdout;
        let shown = String::from_utf8(shown).unwrap();
        shown.contains("state UP") && shown.contains("qdisc noqueue")
    };
    while !is_ready() {
        assert!(Instant::now() < deadline, "{interface} is not ready");
    }
}

fn mac(guest: usize) -> [u8; 6] {
    [2, 0, 0, 0, 0, guest as u8 + 1]
}

/// A UDP datagram of a flow, with a number in it.
fn datagram(source: [u8; 6], destination: [u8; 6], flow: u16, number: u8) -> Vec<u8> {
    let ip = [0x45, 0, 0, 29, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 7, 0, 2, 10, 7, 0, 1];
    let udp = [flow, 4000, 9, 0].map(u16::to_be_bytes).concat();
    [&destination[..], &source, &[8, 0], &ip, &udp, &[number; 18]].concat()
}

fn flow(frame: &[u8]) -> u16 {
    u16::from_be_bytes([frame[34], frame[35]])
}

/// Two guests and a bond of two cables on a switch.
struct Site {
    engine: Engine,
    bond: DeviceId,
    guests: [Guest; 2],
    cables: [Cable; 2],
}

impl Site {
    fn new() -> Self {
        let config = EngineConfig { lcores: vec![None], idle: IdlePolicy::Adaptive, burst: 32 };
        let mut engine = Engine::start(config).unwrap();
        let cables = ["m0", "m1"].map(Cable::lay);
        let members = ["m0", "m1"].map(|name| WireConfig::Netdev(name.into())).into();
        let bond = engine.add_uplink(UplinkConfig { members, queues: 1, workers: vec![] }).unwrap();
        let guests = [0, 1].map(|_| {
            let config = DeviceConfig { pairs: 1, port: PortConfig::Switch, workers: vec![] };
            let device = engine.add_device(config).unwrap();
            let guest = Guest::new(NicOptions::default(), 0);
            guest.plug(&mut engine, device);
            guest
        });
        Site { engine, bond, guests, cables }
    }

    fn send(&mut self, guest: usize, frame: &[u8]) {
        let deadline = Instant::now() + PATIENCE;
        while !self.guests[guest].nic.send(frame).unwrap() {
            assert!(Instant::now() < deadline);
        }
    }

    /// Sends one frame of each flow; returns which member each has left by. Frames of other numbers must not come.
    fn members_of(&mut self, destination: [u8; 6], number: u8) -> Vec<usize> {
        (0..FLOWS).for_each(|flow| self.send(0, &datagram(mac(0), destination, flow, number)));
        let mut members = vec![None; FLOWS.into()];
        let deadline = Instant::now() + PATIENCE;
        while members.contains(&None) {
            assert!(Instant::now() < deadline, "{members:?}");
            for (member, cable) in self.cables.iter_mut().enumerate() {
                while let Some(frame) = cable.receive() {
                    assert_eq!(frame, datagram(mac(0), destination, flow(&frame), number), "an older one, or twice");
                    let before = members[usize::from(flow(&frame))].replace(member);
                    assert_eq!(before, None, "flow {} has left twice", flow(&frame));
                }
            }
        }
        members.into_iter().flatten().collect()
    }

    /// The next frame that a guest gets.
    fn next(&mut self, guest: usize) -> Vec<u8> {
        let deadline = Instant::now() + PATIENCE;
        let mut frame = Vec::new();
        while !self.guests[guest].nic.receive(&mut frame).unwrap() {
            assert!(Instant::now() < deadline, "guest {guest} gets nothing");
        }
        frame
    }

    /// Looks at links until one of them is so.
    fn wait_for(&mut self, member: usize, link: LinkState) {
        let deadline = Instant::now() + PATIENCE;
        while self.engine.members(self.bond).unwrap()[member].link != link {
            assert!(Instant::now() < deadline, "{link:?}");
            self.engine.look_at_links().unwrap();
        }
    }

    /// Drops of a reason, by member: of what came in, or of what was to go out.
    fn drops(&mut self, comes_in: bool, reason: DropReason) -> [u64; 2] {
        let members = self.engine.members(self.bond).unwrap();
        [0, 1].map(|member: usize| members[member].queues[usize::from(comes_in)].counts.drops[reason as usize])
    }
}

#[test]
fn flows_share_the_members_and_follow_the_links() {
    if !inside(&[]) {
        return;
    }
    let mut site = Site::new();
    // Nobody knows the station: each frame is flooded, and leaves once.
    let spread = site.members_of(STATION, 0);
    for member in [0, 1] {
        let share = spread.iter().filter(|one| **one == member).count();
        assert!(share > usize::from(FLOWS) / 4, "{share} of {FLOWS} by member {member}");
    }
    (0..FLOWS).for_each(|flow| assert_eq!(site.next(1), datagram(mac(0), STATION, flow, 0)));
    // It is heard by the one member, then by the other, and is the bond's.
    for (cable, number) in [(0, 1), (1, 2)] {
        let hello = datagram(STATION, mac(0), 9, number);
        site.cables[cable].send(&hello);
        assert_eq!(site.next(0), hello);
        assert_eq!(site.members_of(STATION, number), spread, "a flow has its member");
        let (bond, heard) = (site.bond, site.engine.addresses());
        assert!(heard.iter().any(|one| one.mac == STATION && one.device == bond), "{heard:?}");
    }
    // Each link in turn, twice: at the far end of the cable, and set down here.
    for (number, (member, interface)) in [(0, "to-m0"), (1, "m1"), (1, "to-m1"), (0, "m0")].into_iter().enumerate() {
        let number = 10 + number as u8;
        ip(&format!("link set {interface} down"));
        site.wait_for(member, LinkState::Down);
        if interface.starts_with("to-") {
            assert!(site.members_of(STATION, number).iter().all(|one| *one == 1 - member), "over the other one");
        } else {
            // The far end has no carrier then, and its socket an error to tell.
            site.send(0, &datagram(mac(0), STATION, 1, number));
            let deadline = Instant::now() + PATIENCE;
            while site.cables[1 - member].receive().is_none() {
                assert!(Instant::now() < deadline);
            }
        }
        ip(&format!("link set {interface} up"));
        site.wait_for(member, LinkState::Up);
        wait_until_ready(["m0", "m1"][member]);
        assert_eq!(site.members_of(STATION, number + 100), spread, "back where it was");
    }
}

#[test]
fn what_finds_no_link_is_counted_and_an_interface_that_returns_is_used_again() {
    if !inside(&[]) {
        return;
    }
    let mut site = Site::new();
    let spread = site.members_of(STATION, 0);
    ip("link del m0");
    site.wait_for(0, LinkState::Gone);
    site.cables[0] = Cable::lay("m0");
    site.wait_for(0, LinkState::Up);
    assert_eq!(site.members_of(STATION, 1), spread);
    ip("link del m0");
    ip("link set m1 down");
    site.wait_for(0, LinkState::Gone);
    site.wait_for(1, LinkState::Down);
    (0..FLOWS).for_each(|flow| site.send(0, &datagram(mac(0), STATION, flow, 2)));
    let deadline = Instant::now() + PATIENCE;
    while site.drops(false, DropReason::PortError).iter().sum::<u64>() < FLOWS.into() {
        assert!(Instant::now() < deadline, "{:?}", site.drops(false, DropReason::PortError));
    }
    site.cables[0] = Cable::lay("m0");
    ip("link set m1 up");
    site.wait_for(0, LinkState::Up);
    site.wait_for(1, LinkState::Up);
    wait_until_ready("m1");
    assert_eq!(site.members_of(STATION, 3), spread);
    assert_eq!(site.drops(false, DropReason::PortError).iter().sum::<u64>(), FLOWS.into(), "and no more than that");
}

#[test]
fn what_comes_back_by_another_member_is_nobodys() {
    if !inside(&[]) {
        return;
    }
    let mut site = Site::new();
    let left_by = site.members_of(ALL, 0)[7];
    let echo = datagram(mac(0), ALL, 7, 0);
    (0..FLOWS).for_each(|flow| assert_eq!(site.next(1), datagram(mac(0), ALL, flow, 0)));
    // A network that takes the members for two cables brings it back.
    site.cables[1 - left_by].send(&echo);
    let deadline = Instant::now() + PATIENCE;
    let mut expected = [0, 0];
    expected[1 - left_by] = 1;
    while site.drops(true, DropReason::Filtered) != expected {
        assert!(Instant::now() < deadline);
    }
    // What others send to all arrives once, and does not leave again.
    let call = datagram(STATION, ALL, 8, 1);
    site.cables[0].send(&call);
    assert_eq!([site.next(0), site.next(1)], [call.clone(), call]);
    site.members_of(ALL, 2);
    assert_eq!(site.next(1), datagram(mac(0), ALL, 0, 2), "the echo did not come before");
    // The guest's address is still at its own port; the station moves there with a frame to somebody who is known.
    let here = site.engine.addresses();
    assert!(here.iter().any(|one| one.mac == mac(0) && one.device != site.bond), "{here:?}");
    let moved = datagram(STATION, mac(0), 1, 3);
    site.send(1, &moved);
    assert_eq!(site.next(0), moved);
    let here = site.engine.addresses();
    assert!(here.iter().any(|one| one.mac == STATION && one.device != site.bond), "{here:?}");
    // And back.
    site.cables[1].send(&datagram(STATION, mac(0), 1, 4));
    assert_eq!(site.next(0), datagram(STATION, mac(0), 1, 4));
    site.members_of(STATION, 5);
}

#[test]
fn a_station_whose_guest_has_left_may_come_back_over_the_bond() {
    if !inside(&[]) {
        return;
    }
    let mut site = Site::new();
    let device = site.engine.add_device(DeviceConfig { pairs: 1, port: PortConfig::Switch, workers: vec![] }).unwrap();
    let mut leaving = Guest::new(NicOptions::default(), 0);
    leaving.plug(&mut site.engine, device);
    leaving.nic.send(&datagram(STATION, ALL, 0, 0)).unwrap();
    assert_eq!(site.next(0), datagram(STATION, ALL, 0, 0));
    for index in [1, 0] {
        site.engine.detach(device, index).unwrap();
    }
    // It announces itself where it is now.
    site.cables[0].send(&datagram(STATION, ALL, 0, 1));
    assert_eq!(site.next(0), datagram(STATION, ALL, 0, 1));
    let here = site.engine.addresses();
    assert!(here.iter().any(|one| one.mac == STATION && one.device == site.bond), "{here:?}");
}

#[test]
fn tags_go_through_an_interface_both_ways() {
    if !inside(&[]) {
        return;
    }
    let mut site = Site::new();
    for tag in [[0x81, 0, 0x20, 5], [0x88, 0xa8, 0, 7]] {
        let tagged = |frame: Vec<u8>| [&frame[..12], &tag, &frame[12..]].concat();
        let call = tagged(datagram(STATION, ALL, 1, 1));
        site.cables[0].send(&call);
        assert_eq!(site.next(0), call);
        let answer = tagged(datagram(mac(0), STATION, 1, 2));
        site.send(0, &answer);
        let deadline = Instant::now() + PATIENCE;
        let got = loop {
            assert!(Instant::now() < deadline);
            if let Some(frame) = site.cables.iter_mut().find_map(Cable::receive) {
                break frame;
            }
        };
        assert_eq!(got, answer);
    }
}

#[test]
fn interfaces_that_cannot_be_had_are_refused_with_their_reasons() {
    if !inside(&[]) {
        return;
    }
    let mut site = Site::new();
    let mut refusal = |names: &[&str], queues| {
        let members = names.iter().map(|name| WireConfig::Netdev((*name).into())).collect();
        site.engine.add_uplink(UplinkConfig { members, queues, workers: vec![] }).unwrap_err().to_string()
    };
    assert_eq!(
        refusal(&["none0"], 1),
        "netdev: interface none0: binding a packet socket: No such device (os error 19)"
    );
    assert!(refusal(&["a/b"], 1).starts_with("netdev: interface a/b: its name: invalid"));
    assert_eq!(refusal(&["m0"], 2), "2 queues; an interface of this kind has one");
    assert!(refusal(&[], 1).starts_with("0 queue pairs"));
    // Nothing of these is left.
    site.members_of(STATION, 0);
}
