//! Nothing is allocated or freed by anybody while frames move. `VIRTNET_FRAMES` says how many frames each case moves.

use std::alloc::System;
use std::time::{Duration, Instant};

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use virtnet_engine::port::source::SourceConfig;
use virtnet_engine::{DeviceId, Engine, PortConfig};
use virtnet_rings::Layout;
use virtnet_rings::guest::Options;
use virtnet_rings::guest::net::NicOptions;
use virtnet_tests::frames::{BROADCAST, Mac, frame};
use virtnet_tests::{Guest, House};

use crate::{child, is_child, plug, start};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const WARM_UP: u64 = 2_000;
const FRAMES: u64 = 6_000;
const PATIENCE: Duration = Duration::from_secs(60);

/// What is on the wire's side, and how many guests it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Port {
    Loopback,
    Sink,
    Source,
    Switch,
    /// Every frame goes to two guests.
    Flood,
}

const PORTS: [Port; 5] = [Port::Loopback, Port::Sink, Port::Source, Port::Switch, Port::Flood];

/// Guests whose frames go to the next one, or to all.
struct Traffic {
    guests: Vec<Guest>,
    port: Port,
    /// Devices that frames are sent by, and received by.
    sent: u64,
    received: u64,
}

impl Traffic {
    fn new(engine: &mut Engine, port: Port, options: &NicOptions) -> (Self, Vec<DeviceId>) {
        let count = match port {
            Port::Switch => 2,
            Port::Flood => 3,
            _ => 1,
        };
        let guests: Vec<_> = (0..count).map(|station| Guest::new(station, options.clone())).collect();
        let template = frame(BROADCAST, guests[0].mac, 0, 300);
        let config = |guest: &Guest| match port {
            Port::Loopback => PortConfig::Loopback,
            Port::Sink => PortConfig::Sink,
            Port::Source => {
                let templates = vec![template.clone(), frame(guest.mac, BROADCAST, 1, 60)];
                PortConfig::Source(SourceConfig { templates, ..SourceConfig::default() })
            }
            Port::Switch | Port::Flood => PortConfig::Switch,
        };
        let devices = guests.iter().map(|guest| plug(engine, config(guest), guest)).collect();
        (Traffic { guests, port, sent: 0, received: 0 }, devices)
    }

    /// Moves so many frames more.
    fn run(&mut self, frames: u64) {
        let target = self.done() + frames;
        let deadline = Instant::now() + PATIENCE;
        let mac_of = |index: usize, guests: &[Guest]| -> Mac { guests[(index + 1) % guests.len()].mac };
        while self.done() < target {
            assert!(Instant::now() < deadline, "{} frames of {target}", self.done());
            let mut moved = 0;
            for index in 0..self.guests.len() {
                let to = if self.port == Port::Flood { BROADCAST } else { mac_of(index, &self.guests) };
                let from = self.guests[index].mac;
                let guest = &mut self.guests[index];
                if self.port != Port::Source {
                    let number = self.sent;
                    let sent = guest.nic.send_burst(32, |ram, slot| {
                        ram.write(slot.gpa, &to);
                        ram.write(slot.gpa + 6, &from);
                        ram.write(slot.gpa + 12, &[0x88, 0xb5]);
                        ram.write(slot.gpa + 14, &number.to_le_bytes());
                        60 + number as u32 * 13 % 400
                    });
                    self.sent += sent.expect("the device keeps to the rules") as u64;
                }
                let received = guest.nic.receive_burst(|_, part| moved += u64::from(part.part == 0));
                received.expect("the device keeps to the rules");
            }
            self.received += moved;
            if moved == 0 {
                std::thread::yield_now();
            }
        }
    }

    fn done(&self) -> u64 {
        if self.port == Port::Sink { self.sent } else { self.received }
    }
}

fn measure() {
    let frames = std::env::var("VIRTNET_FRAMES").map_or(FRAMES, |frames| frames.parse().expect("a number of frames"));
    let region = Region::new(ALLOCATOR);
    drop(std::hint::black_box(vec![0_u8; 100]));
    assert_eq!(region.change().allocations, 1, "it is counted");
    for port in PORTS {
        for (layout, mergeable, in_order) in [
            (Layout::Split, false, false),
            (Layout::Split, true, false),
            (Layout::Split, false, true),
            (Layout::Packed, false, false),
            (Layout::Packed, true, false),
            (Layout::Packed, true, true),
        ] {
            for cut in [false, true] {
                let cuts = if cut { vec![12, 5, 20] } else { vec![] };
                // Mergeable buffers that most frames need several of.
                let options = NicOptions {
                    layout,
                    mergeable,
                    frame_bytes_max: if mergeable && port != Port::Source { 460 } else { 1522 },
                    queue: Options { in_order, event_idx: in_order, ..Options::default() },
                    receive_cuts: cuts.clone(),
                    transmit_cuts: cuts,
                    ..NicOptions::default()
                };
                let mut engine = start();
                let (mut traffic, _devices) = Traffic::new(&mut engine, port, &options);
                traffic.run(WARM_UP);
                let region = Region::new(ALLOCATOR);
                traffic.run(frames);
                let change = region.change();
                let counts = [change.allocations, change.deallocations, change.reallocations];
                assert_eq!(counts, [0; 3], "{port:?} {layout:?} mergeable {mergeable} cut {cut}");
                println!("{port:?} {layout:?} mergeable {mergeable} cut {cut}: nothing");
            }
        }
    }
}

/// Bursts of long frames in many short buffers each, then short ones: together more buffers than a burst completes.
fn measure_many_buffers() {
    let size = 1024;
    for layout in [Layout::Split, Layout::Packed] {
        let short = NicOptions {
            layout,
            size,
            mergeable: true,
            frame_bytes_max: 1300,
            receive_buffers: size,
            ..NicOptions::default()
        };
        let long =
            NicOptions { layout, size: 64, frame_bytes_max: 65_550, receive_buffers: 0, ..NicOptions::default() };
        let (mut sender, mut receiver) = (Guest::with_memory(1, long, 16 << 20), Guest::new(2, short));
        let mut house = House::new(1);
        let _devices = [house.move_in(0, &sender), house.move_in(0, &receiver)];
        receiver.send(BROADCAST, 1, |_| 60);
        house.turns(2);
        for round in 0..20 {
            // 10 frames of 50 buffers and 22 of one.
            let first = sender.sent_to(receiver.mac);
            assert_eq!(sender.send(receiver.mac, 32, |number| if number - first < 10 { 65_550 } else { 60 }), 32);
            let region = Region::new(ALLOCATOR);
            house.turns(5);
            let change = region.change();
            assert_eq!(
                [change.allocations, change.deallocations, change.reallocations],
                [0; 3],
                "{layout:?}, round {round}"
            );
            assert_eq!(receiver.listen(), 32);
        }
        println!("{layout:?}: nothing");
    }
}

#[test]
fn nothing_is_allocated_for_frames_of_many_buffers() {
    if is_child() {
        return measure_many_buffers();
    }
    let output = child("allocations::nothing_is_allocated_for_frames_of_many_buffers", &[]);
    assert_eq!(String::from_utf8_lossy(&output.stdout).matches(": nothing").count(), 2);
}

#[test]
fn nothing_is_allocated_or_freed_while_frames_move() {
    if is_child() {
        return measure();
    }
    let output = child("allocations::nothing_is_allocated_or_freed_while_frames_move", &[]);
    let figures = String::from_utf8_lossy(&output.stdout).matches(": nothing").count();
    assert_eq!(figures, PORTS.len() * 6 * 2);
}
