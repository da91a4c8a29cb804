//! The driver against the reference device, one body for both layouts.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::reference::Device;
use super::*;

const SIZES: [(Layout, &[u16]); 2] = [(Layout::Split, &[1, 2, 4, 8]), (Layout::Packed, &[1, 2, 3, 4, 5, 6, 7, 8, 9])];

/// Numbers that look drawn and are the same every time.
struct Draw(u64);

impl Draw {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % end
    }

    fn coin(&mut self) -> bool {
        self.below(2) == 1
    }
}

fn queue(layout: Layout, size: u16, options: Options) -> (Arc<Ram>, Driver, Device) {
    let ram = Arc::new(Ram::new(1 << 20, 0x4000_0000).unwrap());
    let driver = Driver::new(&ram, layout, size, options).unwrap();
    let device = Device::of(&driver, &ram);
    (ram, driver, device)
}

/// The driver with a device, and what each must see of the other.
struct Pair {
    driver: Driver,
    device: Device,
    draw: Draw,
    /// Chains offered and not collected, by token, in the order offered.
    out: Vec<(u32, Vec<Buffer>)>,
    /// What the driver is to be told of each.
    written: HashMap<u32, u32>,
    /// How many of `out` the device has taken, all of them published, and how many of them it has given back.
    published: usize,
    taken_tokens: HashMap<u16, u32>,
    given: usize,
    next_token: u32,
    /// Where the driver is, counted one descriptor (packed) or chain (split) at a time; and since it last decided on a kick.
    position: (u16, bool),
    undecided: Vec<(u16, bool)>,
    laid: Vec<u16>,
    collected: u64,
}

impl Pair {
    fn new(layout: Layout, size: u16, options: Options, seed: u64) -> Self {
        let (_, driver, device) = queue(layout, size, options);
        Self {
            driver,
            device,
            draw: Draw(seed),
            out: vec![],
            written: HashMap::new(),
            published: 0,
            taken_tokens: HashMap::new(),
            given: 0,
            next_token: 0,
            position: (0, true),
            undecided: vec![],
            laid: vec![],
            collected: 0,
        }
    }

    fn chain(&mut self, count: usize) -> Vec<Buffer> {
        let readable = self.draw.below(count + 1);
        let gpa = u64::from(self.next_token) << 20;
        (0..count)
            .map(|i| Buffer {
                gpa: gpa + i as u64,
                len_bytes: 1 + self.draw.below(5000) as u32,
                writable: i >= readable,
            })
            .collect()
    }

    fn offer(&mut self) {
        let size = usize::from(self.driver.size());
        let free = self.driver.free();
        let count = 1 + self.draw.below(size);
        let chain = self.chain(count);
        let token = self.next_token;
        let (result, needed) = match self.draw.below(if self.driver.options().indirect { 4 } else { 2 }) {
            0 => {
                let one = [(chain[0], token), (chain[0], u32::MAX)];
                let asked = if free == 0 { 2 } else { 1 };
                let offered = self.driver.offer_burst(one.into_iter().take(asked));
                assert_eq!(offered, free.min(1));
                if offered == 1 {
                    self.note(token, vec![chain[0]], 1);
                }
                return;
            }
            1 => (self.driver.offer(&chain, token), chain.len()),
            2 => (self.driver.offer_indirect(&chain, token), 1),
            _ => {
                let direct = self.draw.below(chain.len());
                let result = self.driver.offer_mixed(&chain[..direct], &chain[direct..], token);
                if self.driver.layout() == Layout::Packed && direct > 0 {
                    assert!(matches!(result, Err(Refused::NotNegotiated(_))));
                    return;
                }
                (result, direct + 1)
            }
        };
        match result {
            Ok(()) => {
                assert!(needed <= free);
                assert_eq!(self.driver.free(), free - needed);
                self.note(token, chain, needed as u16);
            }
            Err(refused) => {
                assert_eq!(refused, Refused::Full { needed, free });
                assert!(needed > free);
            }
        }
    }

    fn note(&mut self, token: u32, chain: Vec<Buffer>, descriptors: u16) {
        self.out.push((token, chain));
        self.laid.push(if self.driver.layout() == Layout::Split { 1 } else { descriptors });
        self.next_token += 1;
    }

    fn publish(&mut self) {
        self.driver.publish();
        for _ in 0..self.laid.drain(..).sum::<u16>() {
            self.undecided.push(self.position);
            let (index, wrap) = self.position;
            self.position = match self.driver.layout() {
                Layout::Split => (index.wrapping_add(1), true),
                Layout::Packed if index + 1 == self.driver.size() => (0, !wrap),
                Layout::Packed => (index + 1, wrap),
            };
        }
        self.published = self.out.len();
        let (index, wrap) = self.position;
        let expected = if self.driver.layout() == Layout::Split { index } else { index | u16::from(wrap) << 15 };
        assert_eq!(self.driver.available_index(), expected);
        assert_eq!(self.driver.notification_data(0x1234), u32::from(expected) << 16 | 0x1234);
    }

    fn decide(&mut self) {
        let expected = self.undecided.drain(..).any(|(index, wrap)| self.device.asked_for(index, wrap));
        assert_eq!(self.driver.needs_kick(), expected);
    }

    fn take(&mut self) {
        let held = self.device.held.len();
        let due = self.published - self.given - held;
        assert_eq!(self.device.take(), due > 0, "what is published is available, and nothing else");
        if due > 0 {
            let taken = self.device.held.back().unwrap();
            let in_order = &self.out[self.given + held];
            // Out of order, `out` is not sorted by what was given: find it by what it says.
            let (token, chain) = match self.driver.options().in_order {
                true => in_order,
                false => self.out.iter().find(|(_, chain)| *chain == taken.elements).expect("offered"),
            };
            assert_eq!(*chain, taken.elements);
            assert!(self.taken_tokens.insert(taken.id, *token).is_none(), "ids are unique in flight");
        }
    }

    fn give_back(&mut self) {
        let count = self.draw.below(self.device.held.len() + 1);
        let in_order = self.driver.options().in_order;
        let mut chains = vec![];
        for _ in 0..count {
            let i = if in_order { 0 } else { self.draw.below(self.device.held.len()) };
            let taken = self.device.held.remove(i).unwrap();
            let room: u32 = taken.elements.iter().filter(|b| b.writable).map(|b| b.len_bytes).sum();
            chains.push((taken, self.draw.below(room as usize + 1) as u32));
        }
        let as_batch = in_order && self.draw.coin();
        for (i, (taken, len_bytes)) in chains.iter().enumerate() {
            let room: u32 = taken.elements.iter().filter(|b| b.writable).map(|b| b.len_bytes).sum();
            let token = self.taken_tokens.remove(&taken.id).unwrap();
            let told = if as_batch && i + 1 < count { room } else { *len_bytes };
            self.written.insert(token, told);
        }
        self.given += count;
        self.device.give_back(&chains, as_batch);
    }

    fn collect(&mut self) {
        let mut out = vec![Completed::default(); self.draw.below(4)];
        let count = self.driver.collect(&mut out).unwrap();
        assert_eq!(count, out.len().min(self.written.len()));
        for completed in &out[..count] {
            assert_eq!(
                self.written.remove(&completed.token),
                Some(completed.len_bytes),
                "given back, with that length"
            );
            let i = self.out.iter().position(|(token, _)| *token == completed.token).unwrap();
            assert!(i == 0 || !self.driver.options().in_order);
            self.out.remove(i);
        }
        self.published -= count;
        self.given -= count;
        self.collected += count as u64;
        assert_eq!(self.driver.in_flight(), self.out.len());
    }

    fn ask(&mut self) {
        let (index, wrap) = self.device.next_available();
        let ahead = self.draw.below(usize::from(self.driver.size()) + 1) as u16;
        let event = match self.driver.layout() {
            Layout::Split => (index.wrapping_add(ahead), true),
            Layout::Packed if index + ahead >= self.driver.size() => (index + ahead - self.driver.size(), !wrap),
            Layout::Packed => (index + ahead, wrap),
        };
        let event = self.draw.coin().then_some(event);
        self.device.ask(event);
    }

    fn run(&mut self, rounds: usize) {
        for _ in 0..rounds {
            match self.draw.below(8) {
                0 | 1 => self.offer(),
                2 => self.publish(),
                3 => self.decide(),
                4 => self.take(),
                5 => self.give_back(),
                6 => self.collect(),
                _ => self.ask(),
            }
        }
        // And all of it comes back.
        self.publish();
        while self.published > self.given + self.device.held.len() {
            self.take();
        }
        while self.given < self.published {
            self.give_back();
        }
        while !self.out.is_empty() {
            self.collect();
        }
        assert_eq!(self.driver.free(), usize::from(self.driver.size()));
    }
}

fn every_option() -> impl Iterator<Item = Options> {
    (0..16).map(|bits| Options {
        event_idx: bits & 1 != 0,
        in_order: bits & 2 != 0,
        indirect: bits & 4 != 0,
        tight: bits & 8 != 0,
    })
}

#[test]
fn every_chain_comes_back_once_as_the_device_left_it() {
    for (layout, sizes) in SIZES {
        for &size in sizes {
            for options in every_option() {
                let mut pair = Pair::new(layout, size, options, 0x9e37_79b9 + u64::from(size));
                pair.run(3000);
                assert!(pair.collected > 40, "{} collected, {layout:?} {size} {options:?}", pair.collected);
            }
        }
    }
}

#[test]
fn indices_wrap_past_65536() {
    for (layout, sizes) in [(Layout::Split, [1, 8]), (Layout::Packed, [1, 7])] {
        for size in sizes {
            for options in every_option().filter(|options| !options.tight && !options.indirect) {
                let mut pair = Pair::new(layout, size, options, 77);
                while pair.collected < 70_000 {
                    pair.run(20_000);
                }
            }
        }
    }
}

#[test]
fn large_queues_fill_and_empty() {
    for (layout, size) in
        [(Layout::Split, 32768), (Layout::Packed, 32768), (Layout::Packed, 32767), (Layout::Packed, 300)]
    {
        let ram = Arc::new(Ram::new(4 << 20, 0).unwrap());
        let mut driver = Driver::new(&ram, layout, size, Options { event_idx: true, ..Options::default() }).unwrap();
        let mut device = Device::of(&driver, &ram);
        let mut out = vec![Completed::default(); usize::from(size)];
        for _ in 0..3 {
            let endless = (0..).map(|token| (Buffer::writable(0, 8), token));
            assert_eq!(driver.offer_burst(endless), usize::from(size));
            assert!(matches!(driver.offer(&[Buffer::readable(0, 1)], 0), Err(Refused::Full { needed: 1, free: 0 })));
            driver.publish();
            for _ in 0..size {
                assert!(device.take());
            }
            assert!(!device.take());
            let all: Vec<_> = device.held.drain(..).map(|taken| (taken, 8)).collect();
            device.give_back(&all, false);
            assert_eq!(driver.collect(&mut out), Ok(usize::from(size)));
            assert!(out.iter().zip(0..).all(|(completed, token)| completed.token == token && completed.len_bytes == 8));
            assert_eq!(driver.collect(&mut out), Ok(0));
        }
    }
}

#[test]
fn an_interrupt_comes_when_asked_for_and_the_driver_checks_again_after_asking() {
    for (layout, sizes) in SIZES {
        for &size in sizes {
            for options in every_option().filter(|options| !options.tight) {
                let (_, mut driver, mut device) = queue(layout, size, options);
                let mut out = [Completed::default(); 16];
                let pass = |driver: &mut Driver, device: &mut Device| {
                    driver.offer(&[Buffer::writable(0, 4)], 7).unwrap();
                    driver.publish();
                    assert!(device.take());
                    let taken = device.held.pop_front().unwrap();
                    device.give_back(&[(taken, 4)], false)
                };
                for _ in 0..3 * size {
                    driver.suppress_interrupts();
                    assert!(!pass(&mut driver, &mut device), "suppressed");
                    assert!(driver.enable_interrupts(), "one is there already");
                    assert_eq!(driver.collect(&mut out), Ok(1));
                    assert!(!driver.enable_interrupts());
                    assert!(pass(&mut driver, &mut device), "the next one notifies");
                    assert_eq!(driver.collect(&mut out), Ok(1));
                    let used = driver.used_index();
                    assert_eq!(driver.available_index(), used, "all is back");
                }
            }
        }
    }
}

#[test]
fn what_is_suppressed_stays_suppressed() {
    let (_, mut driver, mut device) = queue(Layout::Split, 4, Options { event_idx: true, ..Options::default() });
    driver.suppress_interrupts();
    let mut out = [Completed::default(); 4];
    for _ in 0..200_000 {
        driver.offer(&[Buffer::readable(0, 4)], 0).unwrap();
        driver.publish();
        assert!(device.take());
        let taken = device.held.pop_front().unwrap();
        assert!(!device.give_back(&[(taken, 0)], false));
        assert_eq!(driver.collect(&mut out), Ok(1));
    }
}

#[test]
fn a_chain_longer_than_can_be_is_refused() {
    for layout in [Layout::Split, Layout::Packed] {
        let (_, mut driver, _) = queue(layout, 4, Options { indirect: true, ..Options::default() });
        let chain = [Buffer::readable(0, 1); 5];
        assert_eq!(driver.offer(&chain, 0), Err(Refused::Length { count: 5, max: 4 }));
        assert_eq!(driver.offer(&[], 0), Err(Refused::Length { count: 0, max: 4 }));
        assert_eq!(driver.offer_indirect(&chain, 0), Err(Refused::Length { count: 5, max: 4 }));
        assert_eq!(driver.offer_indirect(&[], 0), Err(Refused::Length { count: 0, max: 4 }));
        assert_eq!((driver.free(), driver.in_flight()), (4, 0));
        let (_, mut driver, _) = queue(layout, 4, Options::default());
        assert!(matches!(driver.offer_indirect(&chain[..1], 0), Err(Refused::NotNegotiated(_))));
    }
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    let ram = Arc::new(Ram::new(4096, 0).unwrap());
    for (layout, size) in [(Layout::Split, 0), (Layout::Split, 3), (Layout::Packed, 0), (Layout::Packed, 32769)] {
        let refused = Driver::new(&ram, layout, size, Options::default()).unwrap_err();
        assert_eq!(refused, SetupError::Size { layout, size });
    }
    let refused = Driver::new(&ram, Layout::Split, 1024, Options::default()).unwrap_err();
    assert!(matches!(refused, SetupError::Memory(_)));
}

#[test]
fn a_device_that_breaks_the_ring_is_found_out() {
    let one = |layout, in_order| {
        let (ram, mut driver, mut device) = queue(layout, 4, Options { in_order, ..Options::default() });
        for token in 0..2 {
            driver.offer(&[Buffer::writable(0, 10)], token).unwrap();
        }
        driver.publish();
        assert!(device.take() && device.take());
        (ram, driver, device)
    };
    let mut out = [Completed::default(); 4];
    for layout in [Layout::Split, Layout::Packed] {
        for id in [2, 3, 4, 0x8000, 0xffff] {
            let (_ram, mut driver, mut device) = one(layout, false);
            device.write_used(id, 1, 1);
            let fault = Fault::UnknownId { id: u32::from(id) };
            assert_eq!(driver.collect(&mut out), Err(fault));
            assert_eq!(driver.collect(&mut out), Err(fault), "and stays so");
        }
        let (_ram, mut driver, mut device) = one(layout, false);
        device.write_used(1, 1, 1);
        device.write_used(1, 1, 1);
        assert_eq!(driver.collect(&mut out), Ok(1), "what came before the fault is collected");
        assert_eq!(driver.collect(&mut out), Err(Fault::UnknownId { id: 1 }));

        let (_ram, mut driver, mut device) = one(layout, false);
        device.write_used(0, 11, 1);
        let fault = Fault::LengthBeyondChain { id: 0, len_bytes: 11, writable_bytes: 10 };
        assert_eq!(driver.collect(&mut out), Err(fault));
    }
    let (_ram, mut driver, mut device) = one(Layout::Split, true);
    device.write_used(1, 1, 1);
    assert_eq!(driver.collect(&mut out), Err(Fault::OutOfOrder { id: 1 }), "two chains, one step");

    let (ram, mut driver, _) = one(Layout::Split, false);
    ram.store_u16(driver.addresses().device + 2, 3, Relaxed);
    let fault = Fault::UsedTooFar { used_idx: 3, last_used: 0, in_flight: 2 };
    assert_eq!(driver.collect(&mut out), Err(fault));
}
