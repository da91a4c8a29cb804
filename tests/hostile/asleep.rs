//! Workers that sleep must not forget who cannot wake them.

use std::time::{Duration, Instant};

use virtnet_engine::{DeviceConfig, DeviceId, Engine, EngineConfig, IdlePolicy, PortConfig};
use virtnet_rings::Layout;
use virtnet_rings::guest::net::NicOptions;
use virtnet_tests::Guest;
use virtnet_tests::frames::Mac;

const LAYOUTS: [Layout; 2] = [Layout::Split, Layout::Packed];
const PATIENCE: Duration = Duration::from_secs(10);
/// Long enough for a worker to lie down.
const QUIET: Duration = Duration::from_millis(30);

fn start() -> Engine {
    Engine::start(EngineConfig { lcores: vec![None; 2], idle: IdlePolicy::Event, burst: 32 }).unwrap()
}

/// A device and its guest, whose driver polls and never kicks.
fn plug(engine: &mut Engine, port: PortConfig, guest: &Guest) -> DeviceId {
    let device = engine.add_device(DeviceConfig { pairs: 1, port, workers: vec![] }).unwrap();
    for index in [0, 1] {
        let queue = guest.queue_at(index, guest.fresh_base());
        engine.attach(device, index, queue, guest.features, true).unwrap();
    }
    device
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_driver_that_never_kicks_is_served_by_workers_that_sleep() {
    for layout in LAYOUTS {
        let mut engine = start();
        let guest = |station| Guest::new(station, NicOptions { layout, ..NicOptions::default() });
        let [mut one, mut other, mut looped] = [1, 2, 3].map(guest);
        plug(&mut engine, PortConfig::Switch, &one);
        plug(&mut engine, PortConfig::Switch, &other);
        plug(&mut engine, PortConfig::Loopback, &looped);
        for round in 1..=5 {
            std::thread::sleep(QUIET);
            one.send(other.mac, 1, |_| 60);
            until("a frame is not seen", || other.listen() > 0);
            std::thread::sleep(QUIET);
            let own = looped.mac;
            looped.send(own, 1, |_| 60);
            until("a frame on the loop is not seen", || looped.listen() > 0);
            assert_eq!((other.heard_from(one.mac).count, looped.heard_from(own).count), (round, round));
        }
    }
}

#[test]
fn frames_that_wait_for_buffers_are_not_slept_over() {
    for layout in LAYOUTS {
        let mut engine = start();
        let mut sender = Guest::new(1, NicOptions { layout, ..NicOptions::default() });
        let mute = Guest::new(2, NicOptions { layout, receive_buffers: 0, ..NicOptions::default() });
        plug(&mut engine, PortConfig::Switch, &sender);
        let device = plug(&mut engine, PortConfig::Switch, &mute);
        let to: Mac = mute.mac;
        for _ in 0..20 {
            sender.send(to, 5, |_| 60);
            until("frames are slept over", || sender.unreaped() == 0);
            std::thread::sleep(Duration::from_millis(2));
        }
        assert_eq!(engine.counters(device).unwrap()[0].counts.dropped(), 100);
    }
}
