//! What an idle device costs.

use std::fs;
use std::time::{Duration, Instant};

use virtnet_engine::PortConfig;
use virtnet_rings::Layout;
use virtnet_rings::guest::net::NicOptions;
use virtnet_tests::Guest;
use virtnet_tests::frames::BROADCAST;

use crate::{child, is_child, plug, start};

const DEVICES: u16 = 200;
const COST_MAX_BYTES: u64 = 256 << 10;

/// Resident memory of this process that is nobody's file, so not the guests'.
fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("a process knows itself");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("resident memory");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib << 10
}

fn measure() {
    let mut engine = start();
    let guest = |station| {
        let layout = if station % 2 == 0 { Layout::Split } else { Layout::Packed };
        Guest::with_memory(station, NicOptions { layout, ..NicOptions::default() }, 2 << 20)
    };
    let mut guests: Vec<_> = (0..DEVICES).map(guest).collect();
    let before = resident_bytes();
    let devices: Vec<_> = guests.iter().map(|guest| plug(&mut engine, PortConfig::Switch, guest)).collect();
    // Each has said something to all once, as an idle guest does.
    for from in 0..guests.len() {
        guests[from].send(BROADCAST, 1, |_| 60);
        let deadline = Instant::now() + Duration::from_secs(10);
        while guests[from].unreaped() > 0 {
            assert!(Instant::now() < deadline, "guest {from} waits for its frame");
            std::thread::yield_now();
        }
        for guest in &mut guests {
            guest.listen();
        }
    }
    let cost = (resident_bytes() - before) / u64::from(DEVICES);
    println!("{} KiB a device", cost >> 10);
    assert!(cost < COST_MAX_BYTES, "{cost} bytes");
    assert_eq!(devices.len(), usize::from(DEVICES));
}

#[test]
fn an_idle_device_of_one_pair_costs_under_256_kib_besides_its_guests_memory() {
    if is_child() {
        return measure();
    }
    let output = child("memory::an_idle_device_of_one_pair_costs_under_256_kib_besides_its_guests_memory", &[]);
    println!("{}", String::from_utf8_lossy(&output.stdout));
}
