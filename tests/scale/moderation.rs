//! Used buffer notifications that are held back: until how many, for how long, and never for good.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use virtnet_engine::moderation::{Moderation, PeriodMode, Setting};
use virtnet_engine::pair::AnyPort;
use virtnet_engine::port::loopback::Loopback;
use virtnet_engine::port::source::{Source, SourceConfig};
use virtnet_engine::roster::PARK_AFTER_NS;
use virtnet_rings::guest::Driver;
use virtnet_rings::guest::net::NicOptions;
use virtnet_rings::{Bell, Layout, Notifier, Queue, QueueSetup, Virtqueue};
use virtnet_tests::house::TURN_NS;
use virtnet_tests::{Device, Guest, House};

use crate::LAYOUTS;

/// Turns in a microsecond of a house with one worker.
const TURNS_PER_US: usize = 1000 / TURN_NS as usize;

/// A line that counts how often it is rung.
#[derive(Debug, Default)]
struct Line(AtomicU64);

impl Bell for Line {
    fn ring(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Line {
    fn take(&self) -> u64 {
        self.0.swap(0, Ordering::Relaxed)
    }
}

/// A guest that waits for notifications.
struct Waiter {
    guest: Guest,
    lines: [Arc<Line>; 2],
}

impl Waiter {
    fn new(layout: Layout, event_idx: bool, size: u16) -> Self {
        let queue = virtnet_rings::guest::Options { event_idx, ..Default::default() };
        let options = NicOptions { layout, size, queue, receive_buffers: size, ..NicOptions::default() };
        let mut guest = Guest::with_memory(1, options, 2 << 20).with_kicks();
        guest.nic.receiveq.enable_interrupts();
        guest.nic.transmitq.enable_interrupts();
        Waiter { guest, lines: Default::default() }
    }

    fn queue(&self, index: u16, base: u32) -> Queue {
        let driver = if index == 0 { &self.guest.nic.receiveq } else { &self.guest.nic.transmitq };
        let call = Notifier::through(self.lines[usize::from(index)].clone());
        let setup = QueueSetup { base, call, ..driver.setup(self.guest.features) };
        setup.activate(self.guest.memory.clone()).unwrap()
    }

    fn plug(&self, house: &mut House, device: &Device) {
        for index in [0, 1] {
            house.attach(device, index, self.queue(index, self.guest.fresh_base()), self.guest.features);
        }
    }

    /// Sends frames that come back.
    fn send(&mut self, count: u64) -> u64 {
        let own = self.guest.mac;
        self.guest.send(own, count, |_| 60)
    }

    fn rung(&self) -> [u64; 2] {
        [0, 1].map(|index| self.lines[index].take())
    }

    /// What a driver does that is awake: it takes in all there is, and asks for the next notification.
    fn serve(&mut self, index: usize) {
        loop {
            let driver: &mut Driver = if index == 0 {
                self.guest.listen();
                &mut self.guest.nic.receiveq
            } else {
                self.guest.unreaped();
                &mut self.guest.nic.transmitq
            };
            if !driver.enable_interrupts() {
                return;
            }
        }
    }

    fn serve_both(&mut self) {
        [0, 1].into_iter().for_each(|index| self.serve(index));
    }

    /// A driver that sleeps until it is notified.
    fn serve_if_rung(&mut self) {
        for (index, rung) in self.rung().into_iter().enumerate() {
            if rung > 0 {
                self.serve(index);
            }
        }
    }
}

fn fixed(mode: PeriodMode, period_us: u16, max_count: u16) -> Setting {
    Setting::Fixed(Moderation { mode, period_us, max_count })
}

/// A guest of each kind, on a loop of its own.
fn each(size: u16, mut test: impl FnMut(&mut House, &mut Waiter, &mut Device)) {
    for (layout, event_idx) in LAYOUTS.into_iter().flat_map(|layout| [(layout, false), (layout, true)]) {
        let mut house = House::new(1);
        let mut waiter = Waiter::new(layout, event_idx, size);
        let mut device = house.add_with([(0, AnyPort::Loopback(Loopback::default()))]);
        waiter.plug(&mut house, &device);
        test(&mut house, &mut waiter, &mut device);
    }
}

/// Sends a burst and has it used on both queues.
fn burst(house: &mut House, waiter: &mut Waiter, count: u64) {
    assert_eq!(waiter.send(count), count);
    house.turns(2);
}

#[test]
fn by_default_each_burst_is_told() {
    each(64, |house, waiter, device| {
        for _ in 0..5 {
            burst(house, waiter, 3);
            assert_eq!(waiter.rung(), [1, 1]);
            waiter.serve_both();
        }
        assert_eq!([0, 1].map(|index| device.counts(index).notifications_coalesced), [0, 0]);
    });
}

#[test]
fn a_notification_waits_for_enough_buffers() {
    for mode in [PeriodMode::Event, PeriodMode::Cqe] {
        each(64, |house, waiter, device| {
            house.moderate(device, 0, fixed(mode, 1000, 8));
            house.moderate(device, 1, fixed(mode, 1000, 4));
            for rung in [[0, 0], [0, 1], [1, 0], [0, 1], [0, 0], [1, 1]] {
                burst(house, waiter, 3);
                assert_eq!(waiter.rung(), rung);
                if rung[0] > 0 {
                    waiter.serve(0);
                }
                if rung[1] > 0 {
                    waiter.serve(1);
                }
            }
            let counts = [0, 1].map(|index| device.counts(index));
            assert_eq!(counts.map(|counts| counts.notifications_sent), [2, 3]);
            assert_eq!(counts.map(|counts| counts.notifications_coalesced), [4, 3]);
        });
    }
}

#[test]
fn a_period_counts_from_the_first_buffer_or_from_the_last() {
    for (mode, rung_at) in [(PeriodMode::Event, 100), (PeriodMode::Cqe, 190)] {
        each(64, |house, waiter, device| {
            house.moderate(device, 0, fixed(mode, 100, 0));
            for _ in 0..4 {
                let began_ns = house.now_ns;
                let mut told_ns = None;
                while told_ns.is_none() {
                    if house.now_ns <= began_ns + 90_000 && (house.now_ns - began_ns).is_multiple_of(10_000) {
                        waiter.send(1);
                    }
                    house.turn(0);
                    told_ns = (waiter.rung()[0] > 0).then_some(house.now_ns);
                }
                // A frame is used in the turn after it was sent, and told in the one in which the period is over.
                let after_us = (told_ns.unwrap() - began_ns) / 1000;
                assert!((rung_at..rung_at + 3).contains(&after_us), "{mode:?}: {after_us}");
                waiter.serve_both();
                house.turns(300 * TURNS_PER_US);
                assert_eq!(waiter.rung()[0], 0, "one told of all");
            }
            assert_eq!(device.counts(0).notifications_sent, 4);
        });
    }
}

#[test]
fn with_half_of_its_queue_untold_a_driver_hears_of_it() {
    each(64, |house, waiter, device| {
        house.moderate(device, 0, fixed(PeriodMode::Event, u16::MAX, u16::MAX));
        burst(house, waiter, 31);
        assert_eq!(waiter.rung()[0], 0);
        burst(house, waiter, 1);
        assert_eq!(waiter.rung()[0], 1);
    });
}

#[test]
fn who_polls_is_not_notified_however_long() {
    each(64, |house, waiter, device| {
        house.moderate(device, 0, fixed(PeriodMode::Event, 50, 0));
        waiter.guest.nic.receiveq.suppress_interrupts();
        for _ in 0..5 {
            burst(house, waiter, 3);
            house.turns(100 * TURNS_PER_US);
            waiter.guest.listen();
            waiter.serve(1);
        }
        assert_eq!(waiter.rung()[0], 0);
        let counts = device.counts(0);
        assert_eq!((counts.notifications_suppressed, counts.notifications_sent), (5, 0));
        // What comes while it polls, and is left when it stops, it sees itself; the next is told.
        burst(house, waiter, 1);
        assert!(waiter.guest.nic.receiveq.enable_interrupts());
        waiter.serve(0);
        house.turns(100 * TURNS_PER_US);
        waiter.rung();
        burst(house, waiter, 1);
        house.turns(100 * TURNS_PER_US);
        assert_eq!(waiter.rung()[0], 1);
    });
}

#[test]
fn nothing_is_held_back_of_a_queue_that_goes_is_disabled_or_set_anew() {
    type Deed = fn(&mut House, &Device, u16);
    let deeds: [Deed; 3] = [
        |house, device, index| drop(house.detach(device, index)),
        |house, device, index| house.set_enabled(device, index, false),
        |house, device, index| house.moderate(device, index, Setting::Fixed(Moderation::default())),
    ];
    for deed in deeds {
        each(64, |house, waiter, device| {
            for index in [0, 1] {
                house.moderate(device, index, fixed(PeriodMode::Event, u16::MAX, 0));
            }
            burst(house, waiter, 3);
            assert_eq!(waiter.rung(), [0, 0]);
            for index in [0, 1] {
                deed(house, device, index);
                assert_eq!(waiter.rung()[usize::from(index)], 1, "queue {index}");
            }
        });
    }
}

#[test]
fn a_setting_outlives_the_queue() {
    each(64, |house, waiter, device| {
        house.moderate(device, 0, fixed(PeriodMode::Cqe, 300, 5));
        let base = house.detach(device, 0).unwrap().base();
        house.attach(device, 0, waiter.queue(0, base), waiter.guest.features);
        assert_eq!(device.moderation(0), Moderation { mode: PeriodMode::Cqe, period_us: 300, max_count: 5 });
        burst(house, waiter, 4);
        assert_eq!(waiter.rung()[0], 0);
        burst(house, waiter, 1);
        assert_eq!(waiter.rung()[0], 1);
    });
}

#[test]
fn a_pair_is_not_parked_before_it_has_told() {
    each(64, |house, waiter, device| {
        const PERIOD_US: u16 = 5000;
        house.moderate(device, 0, fixed(PeriodMode::Event, PERIOD_US, 0));
        burst(house, waiter, 1);
        let used_ns = house.now_ns;
        while house.now_ns < used_ns + u64::from(PERIOD_US) * 1000 - PARK_AFTER_NS {
            house.now_ns += PARK_AFTER_NS / 2;
            house.turns(3);
            assert_eq!((house.workers[0].hot(), waiter.rung()[0]), (1, 0));
        }
        house.now_ns = used_ns + u64::from(PERIOD_US) * 1000;
        house.turns(1);
        assert_eq!(waiter.rung()[0], 1);
        house.now_ns += PARK_AFTER_NS;
        house.turns(3);
        assert_eq!(house.workers[0].hot(), 0);
        // And the other way round: what wakes a parked pair is held back like all else.
        waiter.serve_both();
        waiter.send(1);
        waiter.guest.kick();
        house.turns(60);
        assert_eq!((house.workers[0].hot(), waiter.rung()[0]), (1, 0));
        house.now_ns += u64::from(PERIOD_US) * 1000;
        house.turns(1);
        assert_eq!(waiter.rung()[0], 1);
    });
}

#[test]
fn a_pair_that_moves_tells_before_and_holds_back_after() {
    for layout in LAYOUTS {
        let mut house = House::new(2);
        let mut waiter = Waiter::new(layout, true, 64);
        let mut device = house.add_with([(0, AnyPort::Loopback(Loopback::default()))]);
        waiter.plug(&mut house, &device);
        house.moderate(&device, 0, fixed(PeriodMode::Event, 500, 0));
        for to in [1, 0, 1] {
            waiter.send(3);
            house.turns(2);
            assert_eq!(waiter.rung()[0], 0);
            house.relocate(&mut device, 0, to);
            assert_eq!(waiter.rung()[0], 1);
            waiter.serve_both();
            house.turns(600);
            waiter.send(3);
            house.turns(2);
            assert_eq!(waiter.rung()[0], 0);
            house.turns(500);
            assert_eq!(waiter.rung()[0], 1);
            waiter.serve_both();
        }
    }
}

/// A million frames a second, so many in all.
fn source(count: u64) -> AnyPort {
    let config = SourceConfig {
        templates: vec![virtnet_tests::frames::frame([2; 6], [4; 6], 0, 60)],
        rate_fps: Some(1e6),
        count: Some(count),
        ..Default::default()
    };
    AnyPort::Source(Source::new(&config).unwrap())
}

/// A driver that sleeps until it is notified takes all that a source sends, and asks for the next notification.
fn take_all(house: &mut House, waiter: &mut Waiter, count: u64, mut each_turn: impl FnMut()) {
    let (mut bytes, mut received) = (Vec::new(), 0);
    while received < count {
        house.turns(1);
        each_turn();
        if waiter.rung()[0] > 0 {
            while waiter.guest.nic.receive(&mut bytes).unwrap() {
                received += 1;
            }
            assert!(!waiter.guest.nic.receiveq.enable_interrupts());
        }
    }
}

#[test]
fn of_frames_that_come_one_a_microsecond_a_notification_tells_as_many_as_it_may() {
    for (period_us, max_count, gathered) in [(0, 0, 1), (16, 0, 17), (32, 16, 16), (128, 0, 128), (128, 64, 64)] {
        let mut house = House::new(1);
        let mut waiter = Waiter::new(Layout::Split, true, 256);
        let device = house.add_with([(0, source(100_000))]);
        house.moderate(&device, 0, fixed(PeriodMode::Event, period_us, max_count));
        waiter.plug(&mut house, &device);
        take_all(&mut house, &mut waiter, 100_000, || ());
        let sent = device.counts(0).notifications_sent;
        assert!(sent.abs_diff(100_000 / gathered) <= 2, "{period_us} {max_count}: {sent}");
    }
}

#[test]
fn under_load_moderation_grows_and_when_it_is_over_it_ends() {
    for layout in LAYOUTS {
        let mut house = House::new(1);
        let mut waiter = Waiter::new(layout, true, 256);
        let device = house.add_with([(0, source(100_000))]);
        house.moderate(&device, 0, Setting::Dynamic);
        waiter.plug(&mut house, &device);
        let mut periods = Vec::new();
        take_all(&mut house, &mut waiter, 100_000, || periods.push(device.moderation(0).period_us));
        periods.dedup();
        assert_eq!(periods, [0, 16, 32, 64, 128]);
        let counts = device.counts(0);
        assert_eq!((counts.packets, counts.dropped()), (100_000, 0));
        assert!(counts.notifications_sent < counts.packets / 4, "{counts:?}");
        house.now_ns += PARK_AFTER_NS;
        house.turns(3);
        assert_eq!((house.workers[0].hot(), device.moderation(0)), (0, Moderation::default()));
    }
}

#[derive(Clone, Debug)]
enum Deed {
    Send(u64),
    Turn(usize),
    Pass(u64),
    Serve,
    Poll(usize),
    Moderate(u16, Setting),
    Enable(u16, bool),
    Reattach(u16),
    Relocate,
}

fn setting() -> impl Strategy<Value = Setting> {
    let mode = prop_oneof![Just(PeriodMode::Event), Just(PeriodMode::Cqe)];
    let fixed = (mode, 0..400u16, 0..80u16).prop_map(|(mode, period, count)| fixed(mode, period, count));
    prop_oneof![3 => fixed, 1 => Just(Setting::Dynamic)]
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        6 => (1..20u64).prop_map(Deed::Send),
        6 => (1..40usize).prop_map(Deed::Turn),
        2 => (1..2_000_000u64).prop_map(Deed::Pass),
        4 => Just(Deed::Serve),
        1 => (0..2usize).prop_map(Deed::Poll),
        2 => (0..2u16, setting()).prop_map(|(index, setting)| Deed::Moderate(index, setting)),
        1 => (0..2u16, any::<bool>()).prop_map(|(index, enabled)| Deed::Enable(index, enabled)),
        1 => (0..2u16).prop_map(Deed::Reattach),
        1 => Just(Deed::Relocate),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// A driver that looks at its queues only when it is notified has seen everything once the periods are over.
    #[test]
    fn no_notification_is_held_back_for_good(
        packed in any::<bool>(),
        event_idx in any::<bool>(),
        deeds in prop::collection::vec(deed(), 1..60),
    ) {
        let layout = if packed { Layout::Packed } else { Layout::Split };
        let mut house = House::new(2);
        let mut waiter = Waiter::new(layout, event_idx, 64);
        let mut device = house.add_with([(0, AnyPort::Loopback(Loopback::default()))]);
        waiter.plug(&mut house, &device);
        for deed in deeds {
            match deed {
                Deed::Send(count) => {
                    waiter.send(count);
                    waiter.guest.kick();
                }
                Deed::Turn(turns) => house.turns(turns),
                Deed::Pass(ns) => house.now_ns += ns,
                Deed::Serve => waiter.serve_if_rung(),
                Deed::Poll(index) => waiter.serve(index),
                Deed::Moderate(index, setting) => house.moderate(&device, index, setting),
                Deed::Enable(index, enabled) => house.set_enabled(&device, index, enabled),
                Deed::Reattach(index) => {
                    let base = house.detach(&device, index).unwrap().base();
                    house.attach(&device, index, waiter.queue(index, base), waiter.guest.features);
                    // A front end looks, or has its driver look, at what came without a line.
                    waiter.serve(index.into());
                }
                Deed::Relocate => {
                    let to = 1 - device.places[0].worker;
                    house.relocate(&mut device, 0, to);
                }
            }
        }
        for index in [0, 1] {
            house.set_enabled(&device, index, true);
        }
        for _ in 0..200 {
            house.now_ns += 20_000;
            house.turns(2);
            waiter.serve_if_rung();
            waiter.guest.kick();
        }
        let unseen = [&mut waiter.guest.nic.receiveq, &mut waiter.guest.nic.transmitq].map(Driver::enable_interrupts);
        prop_assert_eq!(unseen, [false, false], "used buffers that the driver was not told of");
        prop_assert_eq!(waiter.guest.nic.unreaped(), 0);
    }
}
