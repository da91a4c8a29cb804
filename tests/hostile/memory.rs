//! Memory files that are cut short while frames move: the process lives, the guest is marked broken, nobody else notices.

use std::time::{Duration, Instant};

use rustix::fs::ftruncate;
use virtnet_engine::{DeviceConfig, Engine, EngineConfig, IdlePolicy, PortConfig};
use virtnet_rings::Layout;
use virtnet_rings::guest::Driver;
use virtnet_rings::guest::net::NicOptions;
use virtnet_rings::memory::{GuestMemory, Permissions, Region};
use virtnet_tests::{Guest, House};

const LAYOUTS: [Layout; 2] = [Layout::Split, Layout::Packed];

fn guest(station: u16, layout: Layout) -> Guest {
    Guest::new(station, NicOptions { layout, ..NicOptions::default() })
}

/// Cuts a guest's memory file. The guest itself must not be asked for anything any more: its own mapping is not guarded.
fn cut(guest: &Guest, len_bytes: u64) {
    ftruncate(guest.nic.ram().fd(), len_bytes).unwrap();
}

/// Two honest guests that talk, whatever the others do.
fn talk(house: &mut House, [one, other]: [&mut Guest; 2], rounds: u64) {
    for _ in 0..rounds {
        let before = other.heard_from(one.mac).count;
        one.send(other.mac, 8, |number| 60 + number as usize % 1400);
        other.send(one.mac, 8, |number| 60 + number as usize % 1400);
        house.turns(3);
        one.listen();
        other.listen();
        assert_eq!(other.heard_from(one.mac).count, before + 8);
        assert_eq!((other.heard_from(one.mac).missed, one.heard_from(other.mac).missed), (0, 0));
    }
}

#[test]
fn a_guest_whose_memory_is_cut_while_its_frames_are_in_an_inbox_breaks_itself_and_nobody_else() {
    for layout in LAYOUTS {
        for len_bytes in [0, 4096, 1 << 20] {
            for workers in [1, 2] {
                let mut house = House::new(workers);
                let last = (workers - 1) as u16;
                let [mut one, mut other, mut villain] = [1, 2, 3].map(|station| guest(station, layout));
                let _devices = [house.move_in(0, &one), house.move_in(last, &other)];
                let device = house.move_in(0, &villain);
                talk(&mut house, [&mut one, &mut other], 3);
                for to in [one.mac, other.mac] {
                    villain.send(to, 100, |_| 1000);
                }
                // Taken from the ring, not yet copied.
                house.turn(0);
                cut(&villain, len_bytes);
                // What arrives of it is zeroes at worst, which is a frame from nobody.
                one.distrusted.insert(villain.mac);
                other.distrusted.insert(villain.mac);
                house.turns(20);
                one.listen();
                other.listen();
                talk(&mut house, [&mut one, &mut other], 10);
                assert!(len_bytes > 4096 || villain.memory.is_broken());
                assert!(!one.memory.is_broken() && !other.memory.is_broken());
                house.remove(device);
                talk(&mut house, [&mut one, &mut other], 3);
            }
        }
    }
}

/// A guest behind an IOMMU, where every page has a translation of its own; and those.
fn behind_iommu(mut guest: Guest) -> (Guest, Vec<Region>) {
    let [ram] = guest.memory.regions() else { panic!("one region") };
    let page = |at| Region::part(ram.mapping(), at, ram.gpa() + at, 4096).unwrap();
    let pages: Vec<Region> = (0..ram.len_bytes()).step_by(4096).map(page).collect();
    let translations: Vec<_> = pages.iter().map(|page| (page, Permissions::BOTH)).collect();
    guest.memory = GuestMemory::behind_iommu(vec![ram.clone()], &translations).unwrap();
    (guest, pages)
}

#[test]
fn a_guest_behind_an_iommu_maps_and_unmaps_while_it_is_sent_to() {
    for layout in LAYOUTS {
        let mut house = House::new(1);
        let mut one = guest(1, layout);
        let options = NicOptions { layout, mergeable: true, receive_bytes_max: Some(500), ..NicOptions::default() };
        let (mut other, pages) = behind_iommu(Guest::new(2, options));
        let _devices = [house.move_in(0, &one), house.move_in(0, &other)];
        for round in 0..40 {
            // Frames in several buffers: more are on hand than are filled.
            one.send(other.mac, 3, |number| 60 + (number * 97 % 1400) as usize);
            other.send(one.mac, 3, |number| 60 + (number * 97 % 1400) as usize);
            house.turns(3);
            other.listen();
            one.listen();
            for page in pages.iter().skip(round % 7).step_by(7) {
                other.memory.forget(page);
            }
            assert!(other.memory.pass());
            for page in pages.iter().skip(round % 7).step_by(7) {
                assert!(other.memory.translate_to(page, Permissions::BOTH));
            }
        }
        assert_eq!((other.heard_from(one.mac).count, one.heard_from(other.mac).count), (120, 120));
    }
}

#[test]
fn nothing_is_written_where_no_translation_is_any_more() {
    for layout in LAYOUTS {
        let mut house = House::new(1);
        let mut one = guest(1, layout);
        let options = NicOptions { layout, mergeable: true, receive_bytes_max: Some(500), ..NicOptions::default() };
        let (mut other, pages) = behind_iommu(Guest::new(2, options));
        let _devices = [house.move_in(0, &one), house.move_in(0, &other)];
        one.send(other.mac, 3, |_| 1400);
        house.turns(3);
        assert_eq!(other.listen(), 3);
        // The rings stay, as control would not let them.
        let ends = |driver: &Driver| {
            let areas = driver.setup(0).addresses.areas(layout, driver.size());
            areas.map(|(gpa, len_bytes)| gpa / 4096..=(gpa + len_bytes) / 4096)
        };
        let rings = [&other.nic.receiveq, &other.nic.transmitq].map(ends).concat();
        let buffers = pages.iter().filter(|page| !rings.iter().any(|area| area.contains(&(page.gpa() / 4096))));
        buffers.for_each(|page| other.memory.forget(page));
        assert!(other.memory.pass());
        let image = || {
            let mut bytes = vec![0; other.nic.ram().len_bytes() as usize];
            other.nic.ram().read(other.nic.ram().gpa(), &mut bytes);
            for area in &rings {
                let start = (area.start() * 4096 - other.nic.ram().gpa()) as usize;
                bytes[start..][..area.clone().count() * 4096].fill(0);
            }
            bytes
        };
        let before = image();
        one.send(other.mac, 8, |_| 1400);
        house.turns(3);
        assert!(image() == before, "written where nothing is mapped");
    }
}

#[test]
fn a_guest_whose_memory_is_cut_under_its_receive_buffers_is_sent_to_in_vain() {
    for layout in LAYOUTS {
        let mut house = House::new(1);
        let [mut one, mut other, villain] = [1, 2, 3].map(|station| guest(station, layout));
        let _devices = [house.move_in(0, &one), house.move_in(0, &other)];
        let device = house.move_in(0, &villain);
        talk(&mut house, [&mut one, &mut other], 3);
        cut(&villain, 0);
        for _ in 0..20 {
            one.send(villain.mac, 10, |_| 500);
            house.turns(3);
            talk(&mut house, [&mut one, &mut other], 1);
        }
        house.turns(60);
        assert_eq!(one.unreaped(), 0, "its frames came back");
        assert!(villain.memory.is_broken());
        house.remove(device);
        talk(&mut house, [&mut one, &mut other], 3);
    }
}

#[test]
fn memory_is_cut_under_running_workers_again_and_again() {
    let mut engine =
        Engine::start(EngineConfig { lcores: vec![None; 2], idle: IdlePolicy::Adaptive, burst: 32 }).unwrap();
    let config = || DeviceConfig { pairs: 1, port: PortConfig::Switch, workers: vec![] };
    let plug = |engine: &mut Engine, guest: &Guest| {
        let device = engine.add_device(config()).unwrap();
        for index in [0, 1] {
            let queue = guest.queue_at(index, guest.fresh_base());
            engine.attach(device, index, queue, guest.features, true).unwrap();
        }
        device
    };
    let [mut one, mut other] = LAYOUTS.map(|layout| guest(1 + layout as u16, layout));
    let neighbours = [plug(&mut engine, &one), plug(&mut engine, &other)];
    for round in 0..40_u64 {
        let mut villain = guest(100 + round as u16, LAYOUTS[round as usize % 2]);
        one.distrusted.insert(villain.mac);
        other.distrusted.insert(villain.mac);
        let device = plug(&mut engine, &villain);
        for to in [one.mac, other.mac] {
            villain.send(to, 100, |_| 1000);
        }
        let target = one.sent_to(other.mac) + 100;
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut sent = 0;
        while other.heard_from(one.mac).count < target {
            assert!(Instant::now() < deadline, "{:?} of {target}", other.heard_from(one.mac));
            let under_way = one.sent_to(other.mac) - other.heard_from(one.mac).next;
            if sent < 100 && under_way < 16 {
                sent += one.send(other.mac, 4.min(100 - sent), |_| 700);
            }
            if sent == 20 {
                cut(&villain, 0);
            }
            one.listen();
            other.listen();
            std::thread::yield_now();
        }
        assert_eq!(other.heard_from(one.mac).missed, 0);
        engine.remove_device(device).unwrap();
    }
    for device in neighbours {
        let counters = engine.counters(device).unwrap();
        assert!(counters.iter().all(|queue| queue.counts.violations == 0));
    }
    // What a villain's ring looks like when it is cut may be a violation or nothing at all, but nobody else's.
    assert!(engine.watch().len() <= 2 * 40);
}
