//! Real drivers on real workers: frames go out and come back whole, on both layouts.

mod guest;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use guest::Guest;
use virtnet_engine::port::pcap::{Capture, Format, Pace, PcapConfig, RecordConfig, ReplayConfig};
use virtnet_engine::port::source::SourceConfig;
use virtnet_engine::{DeviceConfig, DeviceId, Engine, EngineConfig, IdlePolicy, PortConfig};
use virtnet_rings::guest::Options;
use virtnet_rings::guest::net::NicOptions;
use virtnet_rings::{Layout, Virtqueue};

const LAYOUTS: [Layout; 2] = [Layout::Split, Layout::Packed];
const PATIENCE: Duration = Duration::from_secs(10);

fn start(workers: usize) -> Engine {
    let lcores = vec![None; workers];
    Engine::start(EngineConfig { lcores, idle: IdlePolicy::Adaptive, burst: 32 }).unwrap()
}

fn add(engine: &mut Engine, port: PortConfig) -> DeviceId {
    engine.add_device(DeviceConfig { pairs: 1, port, workers: vec![] }).unwrap()
}

fn frame(number: u32, len_bytes: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..len_bytes).map(|at| (at as u32 * 7 + number) as u8).collect();
    frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    frame
}

/// Sends frames by one card and expects each, whole and in order, at the other (or the same one).
fn exchange(sender: &mut Guest, mut receiver: Option<&mut Guest>, count: u32, len_bytes: impl Fn(u32) -> usize) {
    let (mut sent, mut received) = (0, 0);
    let mut got = Vec::new();
    let mut deadline = Instant::now() + PATIENCE;
    while received < count {
        assert!(Instant::now() < deadline, "{sent} sent, {received} received of {count}");
        // No more on the way than any port keeps.
        while sent < count && sent - received < 32 && sender.nic.send(&frame(sent, len_bytes(sent))).unwrap() {
            sent += 1;
        }
        let nic = receiver.as_mut().map_or(&mut sender.nic, |receiver| &mut receiver.nic);
        while nic.receive(&mut got).unwrap() {
            assert!(got == frame(received, len_bytes(received)), "frame {received} has changed on its way");
            received += 1;
            deadline = Instant::now() + PATIENCE;
        }
    }
}

fn options(layout: Layout) -> impl Iterator<Item = NicOptions> {
    let all = [false, true];
    all.into_iter().flat_map(move |mergeable| {
        all.into_iter().flat_map(move |in_order| {
            all.into_iter().map(move |event_idx| NicOptions {
                layout,
                mergeable,
                queue: Options { in_order, event_idx, ..Options::default() },
                ..NicOptions::default()
            })
        })
    })
}

#[test]
fn every_frame_comes_back_over_the_loop_in_order_and_whole() {
    for layout in LAYOUTS {
        for options in options(layout) {
            let mut engine = start(1);
            let device = add(&mut engine, PortConfig::Loopback);
            let mut guest = Guest::new(options, 0);
            guest.plug(&mut engine, device);
            exchange(&mut guest, None, 3000, |number| 14 + number as usize % 1500);
            let counters = engine.counters(device).unwrap();
            assert_eq!(counters.iter().map(|queue| queue.counts.packets).collect::<Vec<_>>(), [3000, 3000]);
            assert!(counters.iter().all(|queue| queue.counts.dropped() == 0));
        }
    }
}

#[test]
fn legacy_drivers_exchange_frames_with_others_behind_headers_of_their_own() {
    let modern = NicOptions { frame_bytes_max: 1514, ..NicOptions::default() };
    let legacy = NicOptions { legacy: true, ..modern.clone() };
    let own_descriptor = NicOptions { receive_cuts: vec![10], transmit_cuts: vec![10], ..legacy.clone() };
    let mergeable = NicOptions { mergeable: true, receive_bytes_max: Some(500), ..legacy.clone() };
    for options in [legacy, own_descriptor, mergeable] {
        let guests = [options, modern.clone()].map(|options| Guest::new(options, 0));
        let mut engine = start(1);
        for guest in &guests {
            let device = add(&mut engine, PortConfig::Switch);
            guest.plug(&mut engine, device);
        }
        let [mut old, mut new] = guests;
        exchange(&mut old, Some(&mut new), 1000, |number| 14 + number as usize % 1500);
        exchange(&mut new, Some(&mut old), 1000, |number| 14 + number as usize % 1500);
    }
}

#[test]
fn a_worker_turned_by_hand_serves_as_one_with_a_thread_of_its_own() {
    let config = EngineConfig { lcores: vec![None], idle: IdlePolicy::Poll, burst: 32 };
    let (mut engine, mut workers) = Engine::by_hand(&config).unwrap();
    let mut worker = workers.remove(0);
    let stop = AtomicBool::new(false);
    let mut guest = Guest::new(NicOptions::default(), 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let start = Instant::now();
            while !stop.load(Ordering::Relaxed) {
                worker.turn(start.elapsed().as_nanos() as u64);
            }
        });
        let device = add(&mut engine, PortConfig::Loopback);
        guest.plug(&mut engine, device);
        exchange(&mut guest, None, 500, |number| 60 + number as usize);
        assert_eq!(engine.remove_device(device).unwrap().len(), 2);
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn long_frames_fill_several_mergeable_buffers_and_long_chains_are_walked() {
    for layout in LAYOUTS {
        for indirect in [false, true] {
            let mut engine = start(1);
            let device = add(&mut engine, PortConfig::Loopback);
            let mut guest = Guest::new(
                NicOptions {
                    layout,
                    mergeable: true,
                    frame_bytes_max: 9000,
                    receive_cuts: vec![1, 100],
                    transmit_cuts: vec![5, 7, 30, 1],
                    queue: Options { indirect, ..Options::default() },
                    ..NicOptions::default()
                },
                0,
            );
            guest.plug(&mut engine, device);
            exchange(&mut guest, None, 500, |number| 60 + number as usize * 17 % 8900);
        }
    }
}

#[test]
fn guests_meet_in_the_switch_on_one_worker_and_on_two() {
    for layout in LAYOUTS {
        for workers in [1, 2] {
            let mut engine = start(workers);
            let devices = [add(&mut engine, PortConfig::Switch), add(&mut engine, PortConfig::Switch)];
            let mut guests =
                [layout, LAYOUTS[0]].map(|layout| Guest::new(NicOptions { layout, ..Default::default() }, 0));
            for (guest, device) in guests.iter().zip(devices) {
                guest.plug(&mut engine, device);
            }
            let [one, other] = &mut guests;
            exchange(one, Some(other), 2000, |number| 60 + number as usize % 1000);
            exchange(other, Some(one), 2000, |number| 60 + number as usize % 1000);
            for device in devices {
                engine.remove_device(device).unwrap();
            }
        }
    }
}

#[test]
fn a_queue_goes_on_where_it_was_stopped() {
    for layout in LAYOUTS {
        let mut engine = start(1);
        let device = add(&mut engine, PortConfig::Loopback);
        let mut guest = Guest::new(NicOptions { layout, ..Default::default() }, 0);
        let mut bases = guest.fresh_bases();
        for _ in 0..20 {
            guest.plug_at(&mut engine, device, bases);
            exchange(&mut guest, None, 333, |number| 60 + number as usize % 1000);
            bases = [0, 1].map(|index| {
                let queue = engine.detach(device, index).unwrap();
                assert_eq!(queue.outstanding(), 0);
                queue.base()
            });
        }
    }
}

#[test]
fn a_source_sends_its_templates_in_turn_and_numbers_them() {
    let mut engine = start(1);
    let templates = vec![frame(0, 60), frame(0, 500)];
    let config = SourceConfig { templates, stamp_offset: Some(20), count: Some(1001), rate_fps: Some(100_000.0) };
    let device = add(&mut engine, PortConfig::Source(config));
    let mut guest = Guest::new(NicOptions { layout: Layout::Packed, ..Default::default() }, 0);
    guest.plug(&mut engine, device);
    let deadline = Instant::now() + PATIENCE;
    let (mut next, mut got) = (0u64, Vec::new());
    while next < 1001 {
        assert!(Instant::now() < deadline, "{next} received");
        while guest.nic.receive(&mut got).unwrap() {
            assert_eq!(got.len(), if next % 2 == 0 { 60 } else { 500 });
            assert_eq!(got[20..28], next.to_le_bytes());
            next += 1;
        }
    }
}

#[test]
fn a_guest_receives_a_capture_and_its_frames_are_recorded() {
    for layout in LAYOUTS {
        for format in [Format::Pcap, Format::PcapNg] {
            let folder = tempfile::tempdir().unwrap();
            let [first, second] = ["first", "second"].map(|name| folder.path().join(name));
            let record = |path: &Path| Some(RecordConfig { path: path.into(), format });
            let mut guest = Guest::new(NicOptions { layout, ..Default::default() }, 0);
            let mut engine = start(1);

            // What the guest sends is in the file as soon as the device is gone.
            let device = add(&mut engine, PortConfig::Pcap(PcapConfig { replay: None, record: record(&first) }));
            guest.plug(&mut engine, device);
            for number in 0..300 {
                let deadline = Instant::now() + PATIENCE;
                while !guest.nic.send(&frame(number, 60 + number as usize)).unwrap() {
                    assert!(Instant::now() < deadline, "frame {number} was not sent");
                }
            }
            let deadline = Instant::now() + PATIENCE;
            while engine.counters(device).unwrap()[1].counts.packets < 300 {
                assert!(Instant::now() < deadline, "not all frames were taken");
            }
            assert_eq!(engine.counters(device).unwrap()[1].counts.dropped(), 0);
            let bases: Vec<u32> = engine.remove_device(device).unwrap().iter().map(|queue| queue.base()).collect();

            // The same frames come in from that file.
            let capture = Arc::new(Capture::load(&first).unwrap());
            assert_eq!(capture.summary().frames, 300);
            let replay = Some(ReplayConfig { capture, pace: Pace::Rate(20_000.0), repeat: false });
            let device = add(&mut engine, PortConfig::Pcap(PcapConfig { replay, record: record(&second) }));
            guest.plug_at(&mut engine, device, [bases[0], bases[1]]);
            let (mut got, mut received) = (Vec::new(), 0);
            let deadline = Instant::now() + PATIENCE;
            while received < 300 {
                assert!(Instant::now() < deadline, "{received} of 300 frames were replayed");
                while guest.nic.receive(&mut got).unwrap() {
                    assert!(got == frame(received, 60 + received as usize), "frame {received} has changed");
                    received += 1;
                }
            }
            engine.remove_device(device).unwrap();
            assert!(Capture::load(&second).unwrap_err().to_string().contains("none of its 0 frames"));
        }
    }
}

#[test]
fn what_is_not_attached_is_not_asked_for() {
    let mut engine = Engine::start(EngineConfig { lcores: vec![None; 2], idle: IdlePolicy::Event, burst: 32 }).unwrap();
    let device = DeviceConfig { pairs: 127, port: PortConfig::Switch, workers: Vec::new() };
    let id = engine.add_device(device).unwrap();
    assert_eq!(engine.rounds(), 2, "its pairs all at once, and its port");
    for index in 0..254 {
        engine.set_enabled(id, index, false).unwrap();
        engine.detach(id, index).unwrap_err();
    }
    assert_eq!(engine.rounds(), 2);
    assert!(engine.remove_device(id).unwrap().is_empty());
    assert_eq!(engine.rounds(), 4);
}

#[test]
fn a_worker_that_is_gone_is_waited_for_once() {
    let config = EngineConfig { lcores: vec![None], idle: IdlePolicy::Event, burst: 32 };
    let (mut engine, workers) = Engine::by_hand(&config).unwrap();
    drop(workers);
    let began = std::time::Instant::now();
    for _ in 0..100 {
        let device = DeviceConfig { pairs: 1, port: PortConfig::Loopback, workers: Vec::new() };
        assert!(matches!(engine.add_device(device), Err(virtnet_engine::EngineError::Silent { worker: 0 })));
    }
    // It would be minutes.
    assert!(began.elapsed() < std::time::Duration::from_secs(60), "each waits for itself");
}
