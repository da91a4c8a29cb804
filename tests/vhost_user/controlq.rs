//! The control queue, for drivers whose front end passes it on.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use serde_json::{Value, json};
use virtnet_control::rpc::Client;
use virtnet_control::vhost_user::frontend::{Frontend, PROTOCOL_FEATURES, RingSetup, SharedRegion};
use virtnet_control::vhost_user::message::{MemoryRegion, VIRTIO_F_RING_PACKED, VringBase};
use virtnet_engine::frame::flow::Flow;
use virtnet_engine::frame::hash::Hasher;
use virtnet_rings::Layout;
use virtnet_rings::guest::net::{Header, Nic, NicOptions};
use virtnet_rings::guest::{Buffer, Completed, Driver, Options, Ram};

use super::house::{House, SOON};

/// VERSION_1, MQ, CTRL_VLAN, CTRL_VQ.
const FEATURES: u64 = 1 << 32 | MQ | 1 << 19 | 1 << 17;
const MQ: u64 = 1 << 22;
const HASH_REPORT: u64 = 1 << 57;
const RSS: u64 = 1 << 60;
/// Those, CTRL_MAC_ADDR, CTRL_RX_EXTRA and CTRL_RX.
const ALL_FEATURES: u64 = FEATURES | 1 << 23 | 1 << 20 | 1 << 18;
const DEVICE: &str = r#""name": "vm1", "socket": "vm1.sock", "port": "loopback", "queue_pairs": 2"#;
const STATION: [u8; 6] = [2, 0, 0, 0, 0, 2];
const GROUP: [u8; 6] = [1, 0, 0x5e, 0, 0, 1];
const OK: u8 = 0;
const ERR: u8 = 1;

struct Bench {
    ram: Arc<Ram>,
    features: u64,
    cards: Vec<Nic>,
    controlq: Driver,
    kick: OwnedFd,
    /// Of all rings that are set up, the control queue's last.
    bases: Vec<VringBase>,
    socket: &'static str,
    frontend: Frontend,
}

/// A datagram from and to this UDP port.
fn datagram(to: [u8; 6], from: [u8; 6], port: u8) -> Vec<u8> {
    let ip = [0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, from[5], 10, 0, 0, to[5]];
    [&to[..], &from, &[8, 0], &ip, &[0, port, 0, port, 0, 8, 0, 0], &[0; 18]].concat()
}

impl Bench {
    fn new(house: &House, layout: Layout) -> Self {
        Self::with(house, layout, FEATURES)
    }

    fn with(house: &House, layout: Layout, features: u64) -> Self {
        Self::at(house, "vm1.sock", layout, features)
    }

    fn at(house: &House, socket: &'static str, layout: Layout, features: u64) -> Self {
        let ram = Arc::new(Ram::new(8 << 20, 0x10_0000).unwrap());
        let pairs = if features & MQ == 0 { 1 } else { 2 };
        let hash_report = features & HASH_REPORT != 0;
        let options = NicOptions { layout, size: 64, hash_report, ..NicOptions::default() };
        let card = |_| Nic::new(&ram, options.clone()).unwrap();
        let cards: Vec<Nic> = (0..pairs).map(card).collect();
        let controlq = Driver::new(&ram, layout, 64, Options::default()).unwrap();
        let kick = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        let packed = layout == Layout::Packed;
        let features = features | if packed { VIRTIO_F_RING_PACKED } else { 0 };
        let bases = vec![VringBase::start(packed); 2 * pairs + 1];
        let frontend = Frontend::connect(&house.socket(socket), SOON, SOON).unwrap();
        let mut bench = Self { ram, features, cards, controlq, kick, bases, socket, frontend };
        bench.start();
        bench
    }

    fn start(&mut self) {
        let Self { features, frontend, .. } = self;
        assert_eq!(frontend.negotiate(*features, PROTOCOL_FEATURES).unwrap().offered & *features, *features);
        self.share();
        let Self { ram, cards, controlq, kick, bases, frontend, .. } = self;
        let rings = cards.iter().flat_map(|card| [&card.receiveq, &card.transmitq]).chain([&*controlq]);
        for (index, (driver, base)) in rings.zip(bases.iter()).enumerate() {
            let at = driver.addresses();
            let user = |gpa: u64| gpa - ram.gpa() + ram.user_address();
            let setup = RingSetup {
                size: driver.size().into(),
                base: *base,
                descriptor_addr: user(at.descriptor),
                driver_addr: user(at.driver),
                device_addr: user(at.device),
                log_addr: None,
                kick: (index + 1 == bases.len()).then_some(kick.as_fd()),
                call: None,
                err: None,
            };
            frontend.start_ring(index as u8, &setup).unwrap();
        }
    }

    fn share(&mut self) {
        let Self { ram, frontend, .. } = self;
        let region = MemoryRegion {
            guest_addr: ram.gpa(),
            size_bytes: ram.len_bytes(),
            user_addr: ram.user_address(),
            mmap_offset: 0,
        };
        frontend.set_mem_table(&[SharedRegion { region, file: ram.fd() }]).unwrap();
    }

    /// Its front end leaves, and another one goes on with the driver.
    fn come_again(&mut self, house: &House) {
        self.bases = (0..self.bases.len() as u8).map(|index| self.frontend.stop_ring(index).unwrap()).collect();
        self.frontend = Frontend::connect(&house.socket(self.socket), SOON, SOON).unwrap();
        self.start();
    }

    /// Sends commands at once, and gives back what the device says to each.
    fn command(&mut self, commands: &[&[u8]]) -> Vec<u8> {
        let acks: Vec<_> = commands
            .iter()
            .enumerate()
            .map(|(token, bytes)| {
                let ack = bytes.len().next_multiple_of(64) as u64;
                let at = self.ram.alloc(ack + 1, 64).unwrap();
                self.ram.write(at, bytes);
                self.ram.write(at + ack, &[0xee]);
                let cut = bytes.len().min(2) as u32;
                let mut chain = vec![Buffer::readable(at, cut)];
                if bytes.len() > 2 {
                    chain.push(Buffer::readable(at + 2, bytes.len() as u32 - 2));
                }
                chain.push(Buffer::writable(at + ack, 1));
                self.controlq.offer(&chain, token as u32).unwrap();
                at + ack
            })
            .collect();
        self.controlq.publish();
        assert!(self.controlq.needs_kick(), "the device wants to hear of it");
        rustix::io::write(&self.kick, &1u64.to_ne_bytes()).unwrap();
        let (mut done, deadline) = (0, Instant::now() + SOON);
        while done < commands.len() {
            assert!(Instant::now() < deadline, "{done} of {} commands were answered", commands.len());
            done += self.controlq.collect(&mut [Completed::default(); 16]).unwrap();
        }
        let read = |at: u64| {
            let mut byte = [0; 1];
            self.ram.read(at, &mut byte);
            byte[0]
        };
        acks.into_iter().map(read).collect()
    }

    /// Sends one command that asks for something, and gives back what the device says and has written to a buffer of this many bytes.
    fn ask(&mut self, command: &[u8], room: usize) -> (u8, Vec<u8>) {
        let at = self.ram.alloc((command.len() + 1 + room) as u64, 64).unwrap();
        let ack = at + command.len() as u64;
        self.ram.write(at, &[command, &vec![0xee; 1 + room][..]].concat());
        let result = Buffer::writable(ack + 1, room as u32);
        let chain = [Buffer::readable(at, command.len() as u32), Buffer::writable(ack, 1), result];
        self.controlq.offer(&chain, 0).unwrap();
        self.controlq.publish();
        rustix::io::write(&self.kick, &1u64.to_ne_bytes()).unwrap();
        let (mut done, deadline) = ([Completed::default(); 1], Instant::now() + SOON);
        while self.controlq.collect(&mut done).unwrap() == 0 {
            assert!(Instant::now() < deadline, "a command was not answered");
        }
        let mut bytes = vec![0; 1 + room];
        self.ram.read(ack, &mut bytes);
        assert!(bytes[done[0].len_bytes as usize..].iter().all(|byte| *byte == 0xee), "more was written than was told");
        (bytes[0], bytes[1..done[0].len_bytes as usize].to_vec())
    }

    /// How notifications of a queue are held back: packets and microseconds.
    fn coalescing(&mut self, queue: u16) -> Option<[u32; 2]> {
        let [low, high] = queue.to_le_bytes();
        let (ack, result) = self.ask(&[6, 3, low, high, 0, 0], 8);
        let number = |at: usize| u32::from_le_bytes(result[at..at + 4].try_into().unwrap());
        (ack == OK).then(|| [number(0), number(4)])
    }

    /// Whether its configuration asks the guest to announce itself.
    fn is_to_announce(&mut self) -> bool {
        self.frontend.get_config(6, 2).unwrap()[0] & 2 != 0
    }

    /// Whether a frame sent by a pair comes back.
    fn comes_back(&mut self, pair: usize) -> bool {
        self.frame_comes_back(pair, &[pair as u8; 60])
    }

    /// Of what the first pair sends in VLANs 5, 6 and none, what comes back.
    fn of_vlans(&mut self) -> [bool; 3] {
        let frame = |tag: [u8; 4]| [&[2; 12][..], &tag, &[0; 44]].concat();
        [[0x81, 0, 0, 5], [0x81, 0, 0xe0, 6], [8, 0, 0, 5]].map(|tag| self.frame_comes_back(0, &frame(tag)))
    }

    /// Of what it sends to its device, another station, a group, another group and everybody, what comes back.
    fn of_addresses(&mut self) -> [bool; 5] {
        [[2, 0, 0, 0, 0, 1], STATION, GROUP, [1, 0, 0x5e, 0, 0, 9], [0xff; 6]]
            .map(|to: [u8; 6]| self.frame_comes_back(0, &[&to[..], &[2, 0, 0, 0, 0, 7], &[0; 48]].concat()))
    }

    /// Whether a frame comes back with its checksum still to be completed.
    fn is_left_unfinished(&mut self) -> bool {
        let header = Header { flags: 1, csum_start: 34, csum_offset: 6, ..Header::default() };
        let card = &mut self.cards[0];
        assert!(card.send_with(header, &[2; 60], &[]).unwrap());
        let deadline = Instant::now() + SOON;
        while !card.receive(&mut Vec::new()).unwrap() {
            assert!(Instant::now() < deadline, "no frame has come");
        }
        card.header().flags == 1
    }

    /// Which of its pairs a datagram of another guest's comes to.
    #[track_caller]
    fn hears(&mut self, peer: &mut Bench, port: u8) -> usize {
        let frame = datagram([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], port);
        assert!(peer.cards[0].send(&frame).unwrap());
        let (deadline, mut got) = (Instant::now() + SOON, Vec::new());
        let mut comes_to = |pair: &usize| self.cards[*pair].receive(&mut got).unwrap() && got == frame;
        loop {
            assert!(Instant::now() < deadline, "no frame comes");
            if let Some(pair) = (0..2).find(&mut comes_to) {
                return pair;
            }
        }
    }

    fn frame_comes_back(&mut self, pair: usize, frame: &[u8]) -> bool {
        let card = &mut self.cards[pair];
        assert!(card.send(frame).unwrap());
        let deadline = Instant::now() + Duration::from_millis(300);
        let mut got = Vec::new();
        while Instant::now() < deadline {
            if card.receive(&mut got).unwrap() {
                return got == frame;
            }
        }
        false
    }
}

#[test]
fn a_pair_is_used_when_the_driver_says_so() {
    let house = House::with(&[DEVICE]);
    for layout in [Layout::Split, Layout::Packed] {
        let mut bench = Bench::new(&house, layout);
        assert_eq!([0, 1].map(|pair| bench.comes_back(pair)), [true, false], "one pair until more are asked for");
        assert_eq!(bench.command(&[&[4, 0, 2, 0]]), [OK]);
        assert_eq!([0, 1].map(|pair| bench.comes_back(pair)), [true, true]);
        assert_eq!(bench.command(&[&[4, 0, 1, 0]]), [OK]);
        assert_eq!([0, 1].map(|pair| bench.comes_back(pair)), [true, false]);
    }
    house.end();
}

#[test]
fn frames_of_vlans_come_when_the_driver_has_joined_them() {
    let house = House::with(&[DEVICE]);
    for layout in [Layout::Split, Layout::Packed] {
        // Each driver begins with none, whatever the last one had.
        let mut bench = Bench::new(&house, layout);
        assert_eq!(bench.of_vlans(), [false, false, true]);
        assert_eq!(bench.command(&[&[2, 0, 5, 0], &[2, 1, 9, 0]]), [OK; 2]);
        assert_eq!(bench.of_vlans(), [true, false, true]);
        assert_eq!(bench.command(&[&[2, 0, 6, 0], &[2, 1, 5, 0]]), [OK; 2]);
        assert_eq!(bench.of_vlans(), [false, true, true]);
    }
    house.end();
}

#[test]
fn orders_last_until_a_driver_begins_anew() {
    let house = House::with(&[DEVICE]);
    for layout in [Layout::Split, Layout::Packed] {
        let mut bench = Bench::new(&house, layout);
        assert_eq!(bench.command(&[&[4, 0, 2, 0], &[2, 0, 5, 0]]), [OK; 2]);
        // All rings stop, and go on.
        bench.share();
        assert_eq!(([0, 1].map(|pair| bench.comes_back(pair)), bench.of_vlans()), ([true; 2], [true, false, true]));
        bench.come_again(&house);
        assert_eq!(([0, 1].map(|pair| bench.comes_back(pair)), bench.of_vlans()), ([true; 2], [true; 3]), "not known");
        drop(bench);
        let mut bench = Bench::new(&house, layout);
        assert_eq!(
            ([0, 1].map(|pair| bench.comes_back(pair)), bench.of_vlans()),
            ([true, false], [false, false, true])
        );
    }
    house.end();
}

#[test]
fn a_driver_of_one_pair_has_a_control_queue_behind_it() {
    for pairs in [1, 2] {
        let device = format!(r#""name": "vm1", "socket": "vm1.sock", "port": "loopback", "queue_pairs": {pairs}"#);
        let house = House::with(&[&device]);
        for layout in [Layout::Split, Layout::Packed] {
            let mut bench = Bench::with(&house, layout, FEATURES & !MQ);
            assert_eq!(bench.of_vlans(), [false, false, true]);
            assert_eq!(bench.command(&[&[2, 0, 5, 0], &[4, 0, 1, 0]]), [OK, ERR], "no number of pairs without MQ");
            assert_eq!(bench.of_vlans(), [true, false, true]);
        }
        house.end();
    }
}

#[test]
fn frames_come_that_the_driver_has_asked_for() {
    let house = House::with(&[
        r#""name": "vm1", "socket": "vm1.sock", "port": "loopback", "queue_pairs": 2, "mac": "02:00:00:00:00:01""#,
    ]);
    for layout in [Layout::Split, Layout::Packed] {
        let mut bench = Bench::with(&house, layout, ALL_FEATURES);
        assert_eq!(bench.of_addresses(), [true; 5]);
        assert_eq!(bench.command(&[&[0, 0, 0]]), [OK], "not promiscuous");
        assert_eq!(bench.of_addresses(), [true, false, false, false, true]);
        let table = |stations: u32, groups: u32, addresses: &[[u8; 6]]| {
            let (one, other) = addresses.split_at(stations as usize);
            [&[1, 0][..], &stations.to_le_bytes(), &one.concat(), &groups.to_le_bytes(), &other.concat()].concat()
        };
        assert_eq!(bench.command(&[&table(1, 1, &[STATION, GROUP])]), [OK]);
        assert_eq!(bench.of_addresses(), [true, true, true, false, true]);
        assert_eq!(
            bench.command(&[&[0, 1, 1], &[0, 4, 1], &[0, 5, 1]]),
            [OK; 3],
            "all groups, no stations, no broadcasts"
        );
        assert_eq!(bench.of_addresses(), [false, false, true, true, false]);
        assert_eq!(bench.command(&[&[0, 1, 0], &[0, 4, 0], &[0, 5, 0], &table(0, 0, &[])]), [OK; 4]);
        assert_eq!(bench.of_addresses(), [true, false, false, false, true]);
        assert_eq!(bench.command(&[&table(1000, 0, &[STATION; 1000])]), [OK], "more than are kept: all of them");
        assert_eq!(bench.of_addresses(), [true; 5]);
        assert_eq!(bench.command(&[&table(0, 0, &[]), &[1, 1, 2, 0, 0, 0, 0, 2]]), [OK; 2], "it is that station now");
        assert_eq!(bench.of_addresses(), [false, true, false, false, true]);
        assert_eq!(bench.frontend.get_config(0, 6).unwrap(), STATION);
        let bad: [&[u8]; 8] = [
            &[0, 6, 1],
            &[0, 0],
            &[1, 1, 3, 0, 0, 0, 0, 1], // a group's
            &[1, 1, 2, 0, 0, 0, 0],
            &table(1, 0, &[STATION])[..11],
            &[1, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0],
            &[1, 0, 0, 0, 0, 0],
            &[1, 2, 0],
        ];
        assert_eq!(bench.command(&bad), [ERR; 8]);
        assert_eq!(bench.of_addresses(), [false, true, false, false, true], "as before");
    }
    house.end();
}

/// VIRTIO_NET_CTRL_MQ_RSS_CONFIG.
fn rss(types: u32, mask: u16, table: &[u16], unclassified: u16, transmitqs: u16, key: &[u8]) -> Vec<u8> {
    let words = [&[mask, unclassified][..], table, &[transmitqs]].concat();
    let words: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    [&[4, 1][..], &types.to_le_bytes(), &words, &[key.len() as u8], key].concat()
}

#[test]
fn frames_come_to_the_receiveq_that_a_table_names() {
    let house = House::with(&[
        r#""name": "vm1", "socket": "vm1.sock", "queue_pairs": 2, "mac": "02:00:00:00:00:01""#,
        r#""name": "vm2", "socket": "vm2.sock", "mac": "02:00:00:00:00:02", "features": {"rss": false}"#,
    ]);
    let mut peer = Bench::at(&house, "vm2.sock", Layout::Split, FEATURES & !MQ);
    for layout in [Layout::Split, Layout::Packed] {
        let mut bench = Bench::with(&house, layout, FEATURES | RSS);
        assert_eq!(bench.frontend.get_config(16, 8).unwrap(), [1, 40, 128, 0, 0x3f, 0, 0, 0]);
        assert_eq!(peer.frontend.get_config(16, 8).unwrap(), [1, 0, 0, 0, 0, 0, 0, 0]);
        // The peer is heard of, and so is the guest.
        let mut at = |bench: &mut Bench, ports: std::ops::Range<u8>| {
            let mut found = ports.map(|port| bench.hears(&mut peer, port)).collect::<Vec<_>>();
            found.dedup();
            found
        };
        assert!(bench.cards[0].send(&datagram([0xff; 6], [2, 0, 0, 0, 0, 1], 1)).unwrap());
        assert_eq!(at(&mut bench, 0..8), [0], "one pair until it says anything");
        let [first, second] = [0, 1].map(|pair| rss(0x3f, 0, &[pair], 0, 1, &[7; 40]));
        assert_eq!(bench.command(&[&second]), [OK]);
        assert_eq!(at(&mut bench, 0..8), [1]);
        assert_eq!(bench.command(&[&first]), [OK]);
        assert_eq!(at(&mut bench, 0..8), [0]);
        let nothing_hashed = rss(0, 1, &[0, 0], 1, 2, &[]);
        assert_eq!(bench.command(&[&nothing_hashed]), [OK]);
        assert_eq!(at(&mut bench, 0..8), [1], "unclassified");
        let bad = [
            rss(0x40, 0, &[0], 0, 1, &[7; 40]),
            rss(0x3f, 2, &[0; 3], 0, 1, &[7; 40]),
            rss(0x3f, 255, &[0; 256], 0, 1, &[7; 40]),
            rss(0x3f, 0xffff, &[0], 0, 1, &[7; 40]),
            rss(0x3f, 0, &[2], 0, 1, &[7; 40]),
            rss(0x3f, 0, &[0x8000], 0, 1, &[7; 40]),
            rss(0x3f, 0, &[0], 2, 1, &[7; 40]),
            rss(0x3f, 0, &[0], 0, 0, &[7; 40]),
            rss(0x3f, 0, &[0], 0, 3, &[7; 40]),
            rss(0x3f, 0, &[0], 0, 1, &[7; 41]),
            first[..first.len() - 1].to_vec(),
            vec![4, 1],
            vec![4, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], // hashes are not reported
        ];
        for command in &bad {
            assert_eq!(bench.command(&[command]), [ERR], "{command:?}");
        }
        assert_eq!(at(&mut bench, 0..8), [1], "as before");
        assert_eq!(bench.command(&[&[&first[..], &[0]].concat()]), [OK], "what follows the key is Linux's padding");
        let key: Vec<u8> = (0..40).collect();
        let two = bench.command(&[&rss(0x3f, 1, &[0, 1], 0, 2, &key)]);
        assert_eq!((two, at(&mut bench, 0..32).len() > 1), (vec![OK], true));
        assert_eq!(bench.command(&[&second, &[4, 0, 1, 0]]), [OK; 2]);
        assert_eq!(at(&mut bench, 0..8), [0], "the last command counts");
    }
    house.end();
}

#[test]
fn a_driver_reads_the_hash_of_a_frame_once_it_says_what_is_hashed() {
    let house =
        House::with(&[r#""name": "vm1", "socket": "vm1.sock", "port": "loopback", "features": {"hash_report": true}"#]);
    for layout in [Layout::Split, Layout::Packed] {
        let mut bench = Bench::with(&house, layout, FEATURES & !MQ | HASH_REPORT);
        assert_eq!(bench.frontend.get_config(16, 8).unwrap(), [1, 40, 0, 0, 0x3f, 0, 0, 0]);
        let frame = datagram([2; 6], [2; 6], 9);
        assert_eq!((bench.frame_comes_back(0, &frame), bench.cards[0].hash()), (true, (0, 0)));
        let hash =
            |types: u32, key: &[u8]| [&[4, 2][..], &types.to_le_bytes(), &[0; 8], &[key.len() as u8], key].concat();
        assert_eq!(bench.command(&[&hash(0x40, &[7; 40]), &hash(1, &[7; 41]), &rss(1, 0, &[0], 0, 1, &[])]), [ERR; 3]);
        let key: Vec<u8> = (0..40).collect();
        for (types, kind) in [(0x3f, 3), (1, 1), (0x38, 0)] {
            assert_eq!(bench.command(&[&hash(types, &key)]), [OK]);
            let hasher = Hasher::new(&std::array::from_fn(|at| at as u8), types);
            let value = hasher.hash(&Flow::parse(&frame).unwrap()).map_or(0, |hash| hash.value);
            assert_eq!((bench.frame_comes_back(0, &frame), bench.cards[0].hash()), (true, (value, kind)));
        }
        // Another front end knows nothing of it.
        assert_eq!(bench.command(&[&hash(0x3f, &key)]), [OK]);
        bench.come_again(&house);
        assert_eq!((bench.frame_comes_back(0, &frame), bench.cards[0].hash()), (true, (0, 0)));
    }
    house.end();
}

#[test]
fn frames_come_with_the_offloads_that_the_driver_takes_now() {
    // CSUM, GUEST_CSUM, CTRL_GUEST_OFFLOADS.
    const OFFLOADS: u64 = FEATURES | 1 << 0 | 1 << 1 | 1 << 2;
    let house = House::with(&[DEVICE]);
    let set = |offloads: u64| [&[5, 0][..], &offloads.to_le_bytes()].concat();
    for layout in [Layout::Split, Layout::Packed] {
        let mut bench = Bench::with(&house, layout, OFFLOADS);
        for _ in 0..2 {
            assert_eq!((bench.is_left_unfinished(), bench.command(&[&set(0)])), (true, vec![OK]));
            assert!(!bench.is_left_unfinished(), "nothing is left to the driver");
            bench.share();
            assert!(!bench.is_left_unfinished(), "nor when its queues have stopped and go on");
            assert_eq!(bench.command(&[&set(1 << 7), &set(1), &set(u64::MAX), &set(2)[..9]]), [ERR; 4]);
            assert!(!bench.is_left_unfinished());
            assert_eq!(bench.command(&[&set(2)]), [OK]);
        }
        assert_eq!(bench.command(&[&set(0)]), [OK]);
        drop(bench);
        assert!(Bench::with(&house, layout, OFFLOADS).is_left_unfinished(), "another driver");
    }
    house.end();
}

fn coalesce(command: u8, queue: &[u8], packets: u32, microseconds: u32) -> Vec<u8> {
    [&[6, command][..], queue, &packets.to_le_bytes(), &microseconds.to_le_bytes()].concat()
}

#[test]
fn notifications_are_held_back_as_whoever_spoke_last_has_said() {
    /// VQ_NOTF_COAL and NOTF_COAL.
    const COALESCING: u64 = FEATURES | 1 << 52 | 1 << 53;
    const QUEUES: [u16; 4] = [0, 1, 2, 3];
    let house = House::with(&[DEVICE]);
    let operator = |method: &str, params: Value| {
        let mut params = params;
        params["pf"] = 0.into();
        Client::connect(&house.socket("virtnet.sock"), SOON).unwrap().call(method, params).unwrap()
    };
    for layout in [Layout::Split, Layout::Packed] {
        let mut bench = Bench::with(&house, layout, COALESCING);
        assert_eq!(QUEUES.map(|queue| bench.coalescing(queue)), [Some([0, 0]); 4]);
        let (rx, tx) = (coalesce(1, &[], 8, 300), coalesce(0, &[], 4, 200));
        assert_eq!(bench.command(&[&rx, &tx, &coalesce(2, &[2, 0, 0, 0], 1, 100)]), [OK; 3]);
        let said = [[8, 300], [4, 200], [1, 100], [4, 200]].map(Some);
        assert_eq!(QUEUES.map(|queue| bench.coalescing(queue)), said);
        bench.share();
        assert_eq!(QUEUES.map(|queue| bench.coalescing(queue)), said, "queues that stop go on as they were");
        let bad = [
            coalesce(2, &[4, 0, 0, 0], 1, 1), // the control queue
            coalesce(2, &[0xff, 0xff, 0, 0], 1, 1),
            coalesce(2, &[0, 0, 0, 0], 0x1_0000, 1),
            coalesce(1, &[], 1, u32::MAX),
            tx[..9].to_vec(),
            coalesce(4, &[], 1, 1),
        ];
        assert_eq!(bench.command(&bad.each_ref().map(|bad| &bad[..])), [ERR; 6]);
        assert_eq!((bench.coalescing(4), bench.coalescing(5), bench.coalescing(u16::MAX)), (None, None, None));
        assert_eq!(bench.ask(&[6, 3, 0, 0, 0, 0], 7), (ERR, vec![]), "no room for what is asked");
        assert_eq!(QUEUES.map(|queue| bench.coalescing(queue)), said);

        let shown = |key: &str| -> Vec<String> {
            let queried = operator("query", json!({}));
            let queues = queried["devices"][0]["enabled-queues-info"].as_array().unwrap();
            queues.iter().map(|queue| queue[key].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(shown("rq_cq_period"), ["300", "200", "100", "200", "0"]);
        assert_eq!(shown("rq_cq_max_count"), ["8", "4", "1", "4", "0"]);
        operator("modify", json!({ "subcmd": "queue", "period_mode": "event", "period": 70, "max_count": 2 }));
        assert_eq!(QUEUES.map(|queue| bench.coalescing(queue)), [Some([2, 70]); 4]);
        operator("modify", json!({ "subcmd": "device", "dim_config": "enable" }));
        assert_eq!([0, 1].map(|queue| bench.coalescing(queue)), [[0, 0], [2, 70]].map(Some), "its load is none");
        assert_eq!(bench.command(&[&rx]), [OK]);
        assert_eq!([0, 1].map(|queue| bench.coalescing(queue)), [[8, 300], [2, 70]].map(Some));
        // Another driver, which has said nothing.
        drop(bench);
        let mut bench = Bench::with(&house, layout, COALESCING);
        assert_eq!([0, 1].map(|queue| bench.coalescing(queue)), [[0, 0], [2, 70]].map(Some));
        operator("modify", json!({ "subcmd": "device", "dim_config": "disable" }));
        operator("modify", json!({ "subcmd": "queue", "period_mode": "event", "period": 0, "max_count": 0 }));
    }
    house.end();
}

#[test]
fn statistics_are_those_of_the_queues() {
    const STATISTICS: u64 = FEATURES | 1 << 50;
    let house = House::with(&[DEVICE]);
    for layout in [Layout::Split, Layout::Packed] {
        let mut bench = Bench::with(&house, layout, STATISTICS);
        assert_eq!(bench.ask(&[8, 0], 8), (OK, (1u64 << 32 | 1 << 16 | 1).to_le_bytes().to_vec()));
        let get = |asked: &[(u16, u64)]| -> Vec<u8> {
            let one = |(queue, types): &(u16, u64)| [u64::from(*queue), *types].map(u64::to_le_bytes).concat();
            [vec![8, 1], asked.iter().flat_map(one).collect()].concat()
        };
        let all = get(&[(0, 1), (1, 1 << 16), (4, 1 << 32)]);
        let words = |bench: &mut Bench| -> Vec<u64> {
            let (ack, result) = bench.ask(&all, 200);
            assert_eq!((ack, result.len()), (OK, 56 + 56 + 24));
            result.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)).collect()
        };
        let before = words(&mut bench);
        assert_eq!([before[0], before[7], before[14]], [56 << 48, 16 | 1 << 16 | 56 << 48, 32 | 4 << 16 | 24 << 48]);
        (0..3).for_each(|_| assert!(bench.comes_back(0)));
        assert_eq!(bench.command(&[&[8, 2], &[9, 0]]), [ERR; 2]);
        let after = words(&mut bench);
        let more: Vec<_> = after.iter().zip(&before).map(|(after, before)| after - before).collect();
        assert_eq!((&more[2..4], &more[9..11]), (&[3, 180][..], &[3, 180][..]), "frames and bytes, each way");
        assert_eq!(more[15..], [3, 1], "commands, and those that were done");
        for bad in [&[(0, 2)][..], &[(5, 1)], &[(0, 1), (4, 1)], &[]] {
            assert_eq!(bench.ask(&get(bad), 200), (ERR, vec![]), "{bad:?}");
        }
        assert_eq!(bench.ask(&all, 100), (ERR, vec![]), "no room");
        assert_eq!(bench.ask(&get(&[(0, 1); 256]), 20_000), (ERR, vec![]), "more than is looked at");
        assert_eq!(bench.ask(&get(&[(0, 1); 255]), 20_000).1.len(), 255 * 56);
        assert_eq!(bench.ask(&all[..17], 200), (ERR, vec![]));

        let mut client = Client::connect(&house.socket("virtnet.sock"), SOON).unwrap();
        let queried = client.call("query", json!({ "pf": 0, "dbg_stats": true })).unwrap();
        let device = &queried["devices"][0];
        let counted = &device["enabled-queues-info"][4]["dbg_stats"];
        assert!(counted["refused_stats"].as_u64().unwrap() >= 8, "{counted}");
        assert_eq!(counted["refused_mq"], 0);
        assert!(counted["refused_other"].as_u64().unwrap() >= 1);
        assert!(device["resets"]["driver"].is_u64(), "{device}");
    }
    house.end();
}

#[test]
fn a_guest_that_goes_on_here_is_asked_to_announce_itself() {
    const ANNOUNCES: u64 = FEATURES | 1 << 16 | 1 << 21;
    let house = House::with(&[DEVICE]);
    for layout in [Layout::Split, Layout::Packed] {
        let mut bench = Bench::with(&house, layout, ANNOUNCES);
        assert_eq!(bench.command(&[&[4, 0, 2, 0]]), [OK]);
        bench.share();
        let changes = bench.frontend.config_changes();
        bench.come_again(&house);
        let deadline = Instant::now() + SOON;
        while !bench.is_to_announce() {
            assert!(Instant::now() < deadline, "it is to announce itself");
        }
        assert!(bench.frontend.config_changes() > changes, "and the front end was told to look");
        assert_eq!((bench.command(&[&[3, 1]]), bench.is_to_announce()), (vec![ERR], true));
        assert_eq!((bench.command(&[&[3, 0]]), bench.is_to_announce()), (vec![OK], false));
        drop(bench);
        let mut bench = Bench::with(&house, layout, FEATURES);
        assert_eq!(bench.command(&[&[3, 0], &[4, 0, 2, 0]]), [ERR, OK], "of a driver that cannot");
    }
    house.end();
}

#[test]
fn commands_it_does_not_know_are_answered_with_an_error() {
    let house = House::with(&[DEVICE]);
    for layout in [Layout::Split, Layout::Packed] {
        let mut bench = Bench::new(&house, layout);
        let commands: [&[u8]; 11] = [
            &[4, 0, 0, 0], // no pair
            &[4, 0, 3, 0], // more than there are
            &[4, 0, 0xff, 0xff],
            &[4, 0, 2],    // half a number
            &[4, 1, 1, 0], // another command of the class
            &[0, 0, 1],    // receive modes, which are not offered
            &[1, 1, 2, 0, 0, 0, 0, 1],
            &[4],
            &[2, 0, 0, 0x10], // no VLAN has this number
            &[2, 0, 1],
            &[2, 2, 1, 0],
        ];
        assert_eq!(bench.command(&commands), [ERR; 11]);
        // More at once than it takes in a turn.
        for _ in 0..5 {
            assert_eq!(bench.command(&[&[4, 0, 2, 0][..]; 5]), [OK; 5]);
        }
        assert_eq!([0, 1].map(|pair| bench.comes_back(pair)), [true, true]);
    }
    house.end();
}

#[test]
fn a_control_queue_that_breaks_a_rule_is_retired_and_the_pairs_go_on() {
    let house = House::with(&[DEVICE]);
    let mut bench = Bench::new(&house, Layout::Split);
    // A head index past the table, where the available ring says what is next.
    let ring = bench.controlq.addresses().driver;
    bench.ram.write(ring + 4, &1000u16.to_le_bytes());
    bench.ram.write(ring + 2, &1u16.to_le_bytes());
    rustix::io::write(&bench.kick, &1u64.to_ne_bytes()).unwrap();
    let deadline = Instant::now() + SOON;
    while bench.frontend.get_status().unwrap() & 64 == 0 {
        assert!(Instant::now() < deadline, "DEVICE_NEEDS_RESET");
    }
    assert!(bench.frontend.config_changes() > 0, "and the front end was told to look");
    assert!(bench.comes_back(0));
    house.end();
}
