//! The control queue of a device with several queue pairs, for drivers whose front end passes it on.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use virtnet_control::vhost_user::frontend::{Frontend, PROTOCOL_FEATURES, RingSetup, SharedRegion};
use virtnet_control::vhost_user::message::{MemoryRegion, VIRTIO_F_RING_PACKED, VringBase};
use virtnet_rings::Layout;
use virtnet_rings::guest::net::{Nic, NicOptions};
use virtnet_rings::guest::{Buffer, Completed, Driver, Options, Ram};

use super::house::{House, SOON};

/// VERSION_1, MQ, CTRL_VLAN, CTRL_VQ.
const FEATURES: u64 = 1 << 32 | 1 << 22 | 1 << 19 | 1 << 17;
const DEVICE: &str = r#""name": "vm1", "socket": "vm1.sock", "port": "loopback", "queue_pairs": 2"#;
const OK: u8 = 0;
const ERR: u8 = 1;

struct Bench {
    ram: Arc<Ram>,
    cards: [Nic; 2],
    controlq: Driver,
    kick: std::os::fd::OwnedFd,
    frontend: Frontend,
}

impl Bench {
    fn new(house: &House, layout: Layout) -> Self {
        let ram = Arc::new(Ram::new(8 << 20, 0x10_0000).unwrap());
        let cards = [(); 2].map(|()| Nic::new(&ram, NicOptions { layout, size: 64, ..NicOptions::default() }).unwrap());
        let controlq = Driver::new(&ram, layout, 64, Options::default()).unwrap();
        let kick = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        let frontend = Frontend::connect(&house.socket("vm1.sock"), SOON, SOON).unwrap();
        let mut bench = Self { ram, cards, controlq, kick, frontend };
        bench.start(layout);
        bench
    }

    fn start(&mut self, layout: Layout) {
        let Self { ram, cards, controlq, kick, frontend } = self;
        let packed = layout == Layout::Packed;
        let features = FEATURES | if packed { VIRTIO_F_RING_PACKED } else { 0 };
        assert_eq!(frontend.negotiate(features, PROTOCOL_FEATURES).unwrap().offered & features, features);
        let region = MemoryRegion {
            guest_addr: ram.gpa(),
            size_bytes: ram.len_bytes(),
            user_addr: ram.user_address(),
            mmap_offset: 0,
        };
        frontend.set_mem_table(&[SharedRegion { region, file: ram.fd() }]).unwrap();
        let [first, second] = cards;
        let rings = [&first.receiveq, &first.transmitq, &second.receiveq, &second.transmitq, controlq];
        for (index, driver) in rings.into_iter().enumerate() {
            let at = driver.addresses();
            let user = |gpa: u64| gpa - ram.gpa() + ram.user_address();
            let setup = RingSetup {
                size: driver.size().into(),
                base: VringBase::start(packed),
                descriptor_addr: user(at.descriptor),
                driver_addr: user(at.driver),
                device_addr: user(at.device),
                log_addr: None,
                kick: (index == 4).then_some(kick.as_fd()),
                call: None,
                err: None,
            };
            frontend.start_ring(index as u8, &setup).unwrap();
        }
    }

    /// Sends commands at once, and gives back what the device says to each.
    fn command(&mut self, commands: &[&[u8]]) -> Vec<u8> {
        let acks: Vec<_> = commands
            .iter()
            .enumerate()
            .map(|(token, bytes)| {
                let at = self.ram.alloc(64, 64).unwrap();
                self.ram.write(at, bytes);
                self.ram.write(at + 63, &[0xee]);
                let cut = bytes.len().min(2) as u32;
                let mut chain = vec![Buffer::readable(at, cut)];
                if bytes.len() > 2 {
                    chain.push(Buffer::readable(at + 2, bytes.len() as u32 - 2));
                }
                chain.push(Buffer::writable(at + 63, 1));
                self.controlq.offer(&chain, token as u32).unwrap();
                at + 63
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

    /// Whether a frame sent by a pair comes back.
    fn comes_back(&mut self, pair: usize) -> bool {
        self.frame_comes_back(pair, &[pair as u8; 60])
    }

    /// Of what the first pair sends in VLANs 5, 6 and none, what comes back.
    fn of_vlans(&mut self) -> [bool; 3] {
        let frame = |tag: [u8; 4]| [&[2; 12][..], &tag, &[0; 44]].concat();
        [[0x81, 0, 0, 5], [0x81, 0, 0xe0, 6], [8, 0, 0, 5]].map(|tag| self.frame_comes_back(0, &frame(tag)))
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
