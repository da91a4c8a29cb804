//! Guests behind an IOMMU whose translations come late, or never: their frames wait, and nobody else does.

use std::sync::Arc;

use virtnet_engine::counters::DropReason;
use virtnet_rings::guest::Driver;
use virtnet_rings::guest::net::NicOptions;
use virtnet_rings::memory::{GuestMemory, Misses, Permissions, Region};
use virtnet_rings::{Layout, Notifier};
use virtnet_tests::{Guest, House};

const LAYOUTS: [Layout; 2] = [Layout::Split, Layout::Packed];
const PAGE: u64 = 4096;
/// Longer than any sender's frames are kept, in turns.
const LONG: usize = 200;

/// A guest of which only what its rings lie in has a translation, and who would tell of the others.
struct Behind {
    guest: Guest,
    ram: Region,
    misses: Arc<Misses>,
}

impl Behind {
    fn new(station: u16, options: NicOptions) -> Self {
        let mut guest = Guest::new(station, options);
        let [ram] = guest.memory.regions() else { panic!("one region") };
        let (ram, misses) = (ram.clone(), Arc::new(Misses::new(Notifier::default())));
        let pages = |driver: &Driver| {
            let areas = driver.setup(0).addresses.areas(driver.setup(0).layout, driver.size());
            areas.map(|(gpa, len_bytes)| gpa / PAGE..=(gpa + len_bytes - 1) / PAGE).into_iter().flatten()
        };
        let mut rings: Vec<u64> = [&guest.nic.receiveq, &guest.nic.transmitq].into_iter().flat_map(pages).collect();
        rings.sort_unstable();
        rings.dedup();
        let rings: Vec<_> = rings.into_iter().map(|page| page_of(&ram, page * PAGE)).collect();
        let known: Vec<_> = rings.iter().map(|page| (page, Permissions::BOTH)).collect();
        guest.memory = GuestMemory::on_demand(vec![ram.clone()], &known, misses.clone()).unwrap();
        Behind { guest, ram, misses }
    }

    /// Tells of all that was asked for; how many pages these were.
    fn answer(&self) -> usize {
        let asked = self.misses.take();
        for (gpa, _) in &asked {
            let page = page_of(&self.ram, *gpa);
            // One that is to be read and to be written was asked for twice.
            if self.guest.memory.span(*gpa, 1).is_none() {
                assert!(self.guest.memory.translate_to(&page, Permissions::BOTH));
            }
            self.misses.end(&(*gpa..=gpa + (PAGE - 1)));
        }
        asked.len()
    }

    /// Has all that waits answered, as it is asked for.
    fn answer_all(&self, house: &mut House) {
        // Those that are parked are looked at one after another.
        house.turns(30);
        while self.answer() > 0 {
            house.turns(30);
        }
    }
}

fn page_of(ram: &Region, gpa: u64) -> Region {
    Region::part(ram.mapping(), gpa - ram.gpa(), gpa, PAGE).unwrap()
}

fn options() -> [NicOptions; 4] {
    let of = |layout, mergeable| NicOptions {
        layout,
        mergeable,
        receive_bytes_max: mergeable.then_some(500),
        ..NicOptions::default()
    };
    [of(Layout::Split, false), of(Layout::Split, true), of(Layout::Packed, false), of(Layout::Packed, true)]
}

#[test]
fn frames_wait_for_translations_and_their_senders_do_not() {
    for (options, workers) in options().into_iter().flat_map(|options| [(options.clone(), 1), (options, 2)]) {
        let mut house = House::new(workers);
        let mut one = Guest::new(1, NicOptions::default());
        let mut late = Behind::new(2, options);
        let _devices = [house.move_in(0, &one), house.move_in(workers as u16 - 1, &late.guest)];
        let lengths = |number: u64| 60 + (number * 97 % 1400) as usize;
        for round in 1..=3 {
            assert_eq!(one.send(late.guest.mac, 100, lengths), 100);
            house.turns(LONG);
            // The first buffers may lie in a ring's last page.
            assert!(late.guest.listen() < 20, "round {round}");
            assert_eq!(one.unreaped(), 0);
            late.answer_all(&mut house);
            late.guest.listen();
            let record = late.guest.heard_from(one.mac);
            assert_eq!((record.count, record.missed), (100 * round, 0));
            assert_eq!(late.guest.send(one.mac, 100, lengths), 100);
            house.turns(LONG);
            late.answer_all(&mut house);
            one.listen();
            assert_eq!((one.heard_from(late.guest.mac).count, one.heard_from(late.guest.mac).missed), (100 * round, 0));
            assert_eq!(late.guest.unreaped(), 0);
            forget_buffers(&late);
        }
    }
}

/// Takes the translations of all buffers away.
fn forget_buffers(late: &Behind) {
    let rings = |driver: &Driver| {
        let areas = driver.setup(0).addresses.areas(driver.setup(0).layout, driver.size());
        areas.map(|(gpa, len_bytes)| gpa / PAGE..=(gpa + len_bytes - 1) / PAGE)
    };
    let rings = [&late.guest.nic.receiveq, &late.guest.nic.transmitq].map(rings).concat();
    let pages = (0..late.ram.len_bytes()).step_by(PAGE as usize).map(|at| late.ram.gpa() + at);
    for gpa in pages.filter(|gpa| !rings.iter().any(|area| area.contains(&(gpa / PAGE)))) {
        late.guest.memory.forget(&page_of(&late.ram, gpa));
    }
    assert!(late.guest.memory.pass());
}

#[test]
fn a_guest_whose_translations_never_come_is_felt_by_nobody() {
    for layout in LAYOUTS {
        let mut house = House::new(1);
        let [mut one, mut other] = [1, 2].map(|station| Guest::new(station, NicOptions::default()));
        let mut late = Behind::new(3, NicOptions { layout, ..NicOptions::default() });
        let neighbours = [house.move_in(0, &one), house.move_in(0, &other)];
        let device = house.move_in(0, &late.guest);
        assert!(late.guest.send(one.mac, 50, |_| 1000) > 0);
        for round in 1..=50 {
            one.send(late.guest.mac, 30, |_| 1400);
            one.send(other.mac, 8, |_| 700);
            other.send(one.mac, 8, |_| 700);
            house.turns(100);
            one.listen();
            other.listen();
            assert_eq!((other.heard_from(one.mac).count, one.heard_from(other.mac).count), (8 * round, 8 * round));
            assert_eq!((one.unreaped(), other.unreaped()), (0, 0));
        }
        let counts = device_counts(&device);
        assert!((1000..1500).contains(&counts), "what has no room is dropped, and counted: {counts}");
        assert!(house.broken().is_empty());
        // It is looked at now and then.
        house.turns(3000);
        assert_eq!(house.workers[0].hot(), 0);
        // Some frames are there yet, from the first on.
        late.answer_all(&mut house);
        late.guest.listen();
        let record = late.guest.heard_from(one.mac);
        assert!(record.count > 50 && record.missed == 0, "{record:?}");
        house.remove(device);
        neighbours.into_iter().for_each(|neighbour| house.remove(neighbour));
    }
}

fn device_counts(device: &virtnet_tests::Device) -> u64 {
    device.counts(0).drops[DropReason::NoBuffers as usize]
}

#[test]
fn a_pair_moves_with_the_frames_that_wait() {
    for layout in LAYOUTS {
        let mut house = House::new(2);
        let mut one = Guest::new(1, NicOptions::default());
        let mut late = Behind::new(2, NicOptions { layout, ..NicOptions::default() });
        let _one = house.move_in(0, &one);
        let mut device = house.move_in(0, &late.guest);
        for round in 1..=6 {
            one.send(late.guest.mac, 40, |number| 60 + (number * 97 % 1400) as usize);
            late.guest.send(one.mac, 40, |_| 500);
            house.turns(if round % 2 == 0 { LONG } else { 3 });
            house.relocate(&mut device, 0, (round % 2) as u16);
            house.turns(LONG);
            late.answer_all(&mut house);
            late.guest.listen();
            one.listen();
            for record in [late.guest.heard_from(one.mac), one.heard_from(late.guest.mac)] {
                assert_eq!((record.count, record.missed), (40 * round, 0));
            }
            forget_buffers(&late);
        }
    }
}

#[test]
fn a_queue_goes_while_it_waits() {
    for layout in LAYOUTS {
        let mut house = House::new(1);
        let mut one = Guest::new(1, NicOptions::default());
        let mut late = Behind::new(2, NicOptions { layout, ..NicOptions::default() });
        let _one = house.move_in(0, &one);
        for turns in [1, LONG] {
            let device = house.move_in(0, &late.guest);
            one.send(late.guest.mac, 40, |_| 500);
            late.guest.send(one.mac, 40, |_| 500);
            house.turns(turns);
            house.remove(device);
            assert_eq!(one.unreaped(), 0);
            late = Behind::new(2, NicOptions { layout, ..NicOptions::default() });
        }
    }
}
