//! The device's side of a queue against the simulated driver, with drawn operations, on every small queue there is.
//!
//! Checked: every chain taken is what was offered, in order, byte for byte; every chain comes back once, with what the
//! device wrote; nobody who sleeps after having asked for a notification is left asleep; a queue that is stopped anywhere
//! goes on where it was.

use std::collections::VecDeque;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use virtnet_rings::guest::{Buffer, Completed, Driver, Options, Ram, Refused};
use virtnet_rings::memory::{GuestMemory, RegionSpec};
use virtnet_rings::{Chain, Fault, Layout, PartStore, Queue, QueueSetup, Virtqueue};

const GPA: u64 = 0x8000_0000;
/// The first region of guest memory is for rings and tables, which must lie in one.
const FIRST_REGION_BYTES: u64 = 1 << 20;
/// A chain's buffers lie around a multiple of this. On small queues all of these are borders between two regions.
const CHAIN_BYTES: u64 = 4096;

#[derive(Clone, Debug)]
enum Op {
    /// Offer a chain of these elements; the number says how many of them are readable.
    Offer { how: How, lens: Vec<u16>, readable: usize },
    /// Offer as many chains of one element.
    Burst(u8, bool),
    /// Publish, and decide whether to notify.
    Publish,
    /// Take up to so many chains.
    Take(u8),
    /// Return up to so many, and decide whether to notify. Each is written to up to a share of 255.
    Return(u8, u8),
    /// The device finds nothing to do, asks for a notification and sleeps.
    DeviceSleeps,
    /// The driver finds nothing to do, asks for a notification and sleeps.
    DriverSleeps,
    /// The driver asks for none.
    Suppress,
    /// Collect up to so many.
    Collect(u8),
    /// The device's side is stopped and made anew, at its base.
    Resume,
}

#[derive(Clone, Copy, Debug)]
enum How {
    Direct,
    Indirect,
    Mixed,
}

fn op() -> impl Strategy<Value = Op> {
    let how = prop_oneof![Just(How::Direct), Just(How::Indirect), Just(How::Mixed)];
    let offer = (how, vec(1_u16..300, 1..9), 0_usize..9);
    prop_oneof![
        4 => offer.prop_map(|(how, lens, readable)| Op::Offer { how, lens, readable }),
        2 => (1_u8..12, any::<bool>()).prop_map(|(count, writable)| Op::Burst(count, writable)),
        4 => Just(Op::Publish),
        4 => (1_u8..12).prop_map(Op::Take),
        4 => (1_u8..12, any::<u8>()).prop_map(|(count, share)| Op::Return(count, share)),
        2 => Just(Op::DeviceSleeps),
        2 => Just(Op::DriverSleeps),
        1 => Just(Op::Suppress),
        4 => (1_u8..12).prop_map(Op::Collect),
        1 => Just(Op::Resume),
    ]
}

/// A chain on its way, as both sides should see it.
struct Offered {
    token: u32,
    chain: Vec<Buffer>,
    /// Once returned: what the device says it wrote.
    written: Option<u32>,
}

impl Offered {
    fn bytes(&self, writable: bool) -> u32 {
        self.chain.iter().filter(|buffer| buffer.writable == writable).map(|buffer| buffer.len_bytes).sum()
    }

    /// The byte at a place in its readable or writable part.
    fn byte(&self, writable: bool, at: u32) -> u8 {
        (self.token.wrapping_mul(37).wrapping_add(at * 5) as u8) ^ if writable { 0xff } else { 0 }
    }
}

struct Model {
    ram: Arc<Ram>,
    memory: Arc<GuestMemory>,
    driver: Driver,
    device: Option<Queue>,
    store: PartStore,
    features: u64,
    layout: Layout,
    /// A transmitq: the device may tell of a batch by its last chain.
    only_reads: bool,
    /// All that is not collected, in the order offered: first what is returned, then what the device has, then what it
    /// may take, then what is not published.
    offered: VecDeque<Offered>,
    returned: usize,
    held: VecDeque<Chain>,
    published: usize,
    next_token: u32,
    device_sleeps: bool,
    driver_sleeps: bool,
    suppressed: bool,
}

impl Model {
    fn new(layout: Layout, size: u16, options: Options, only_reads: bool) -> Self {
        let slots = u64::from(size).max(4);
        let ram = Arc::new(Ram::new((FIRST_REGION_BYTES + (slots + 1) * CHAIN_BYTES) as usize, GPA).unwrap());
        let driver = Driver::new(&ram, layout, size, options).unwrap();
        let mut features = 1 << 32;
        for (on, bit) in
            [(options.indirect, 28), (options.event_idx, 29), (layout == Layout::Packed, 34), (options.in_order, 35)]
        {
            features |= u64::from(on) << bit;
        }
        let memory = memory(&ram, if size < 10 { CHAIN_BYTES } else { 16 * CHAIN_BYTES });
        let mut model = Self {
            ram,
            memory,
            driver,
            device: None,
            store: PartStore::new(64),
            features,
            layout,
            only_reads,
            offered: VecDeque::new(),
            returned: 0,
            held: VecDeque::new(),
            published: 0,
            next_token: 0,
            device_sleeps: false,
            driver_sleeps: false,
            suppressed: false,
        };
        let base = model.driver.setup(features).base;
        model.device = Some(model.queue(base));
        model
    }

    fn device(&mut self) -> &mut Queue {
        self.device.as_mut().expect("made again at once")
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Offer { how, ref lens, readable } => {
                let readable = if self.only_reads { lens.len() } else { readable };
                self.offer(how, lens, readable);
            }
            Op::Burst(count, writable) => {
                let writable = writable && !self.only_reads;
                let room = self.driver.free().min(usize::from(count));
                for _ in 0..room {
                    let chain = self.buffers(&[64], usize::from(!writable));
                    self.note(chain);
                }
                let burst: Vec<_> = self.offered.iter().skip(self.offered.len() - room).collect();
                let mut burst: Vec<_> = burst.iter().map(|offered| (offered.chain[0], offered.token)).collect();
                // More than there is room for must not be drawn.
                burst.resize(usize::from(count), (Buffer::readable(0, 0), u32::MAX));
                assert_eq!(self.driver.offer_burst(burst), room);
            }
            Op::Publish => self.publish(),
            Op::Take(room) => self.take(usize::from(room)),
            Op::Return(count, share) => self.give_back(usize::from(count), share),
            Op::DeviceSleeps => {
                let more = self.device().arm();
                // What is published, and no more, is there to be taken.
                assert_eq!(more, self.published > self.returned + self.held.len());
                self.device_sleeps = !more;
                if more {
                    self.device().disarm();
                }
            }
            Op::DriverSleeps => {
                let more = self.driver.enable_interrupts();
                assert_eq!(more, self.returned > 0);
                self.driver_sleeps = !more;
                self.suppressed = false;
            }
            Op::Suppress => {
                self.driver.suppress_interrupts();
                self.driver_sleeps = false;
                self.suppressed = true;
            }
            Op::Collect(room) => self.collect(usize::from(room)),
            Op::Resume => self.resume(),
        }
    }

    fn offer(&mut self, how: How, lens: &[u16], readable: usize) {
        let size = usize::from(self.driver.size());
        let lens = &lens[..lens.len().min(size)];
        let chain = self.buffers(lens, readable);
        let free = self.driver.free();
        let token = self.next_token;
        let indirect = self.driver.options().indirect;
        let (result, needed) = match how {
            How::Indirect if indirect => (self.driver.offer_indirect(&chain, token), 1),
            How::Mixed if indirect && self.layout == Layout::Split => {
                let direct = chain.len() / 2;
                (self.driver.offer_mixed(&chain[..direct], &chain[direct..], token), direct + 1)
            }
            _ => (self.driver.offer(&chain, token), chain.len()),
        };
        assert_eq!(result, if needed <= free { Ok(()) } else { Err(Refused::Full { needed, free }) });
        if result.is_ok() {
            self.note(chain);
        }
    }

    /// Buffers for the next chain, around a border between two regions.
    fn buffers(&self, lens: &[u16], readable: usize) -> Vec<Buffer> {
        let total: u64 = lens.iter().map(|&len| u64::from(len)).sum();
        let slots = u64::from(self.driver.size()).max(4);
        let middle = GPA + FIRST_REGION_BYTES + (1 + u64::from(self.next_token) % slots) * CHAIN_BYTES;
        let mut gpa = middle - total / 2;
        let mut buffers = vec![];
        for (i, &len) in lens.iter().enumerate() {
            buffers.push(Buffer { gpa, len_bytes: u32::from(len), writable: i >= readable });
            gpa += u64::from(len);
        }
        buffers
    }

    fn note(&mut self, chain: Vec<Buffer>) {
        let offered = Offered { token: self.next_token, chain, written: None };
        let mut at = 0;
        for buffer in &offered.chain {
            let bytes: Vec<u8> = match buffer.writable {
                true => vec![0; buffer.len_bytes as usize],
                false => (at..at + buffer.len_bytes).map(|at| offered.byte(false, at)).collect(),
            };
            self.ram.write(buffer.gpa, &bytes);
            at += buffer.len_bytes;
        }
        self.offered.push_back(offered);
        self.next_token += 1;
    }

    fn publish(&mut self) {
        let fresh = self.offered.len() - self.published;
        self.driver.publish();
        self.published = self.offered.len();
        let kick = self.driver.needs_kick();
        assert!(!kick || fresh > 0, "a notification about nothing");
        if self.device_sleeps && fresh > 0 {
            assert!(kick, "the device sleeps, and is not told");
        }
        if kick {
            assert!(self.device_sleeps, "a device that is awake has asked for no notification");
            self.device_sleeps = false;
            self.device().disarm();
        }
    }

    fn take(&mut self, room: usize) {
        if self.device_sleeps {
            return;
        }
        let due = (self.published - self.returned - self.held.len()).min(room);
        let device = self.device.as_mut().expect("made again at once");
        let (taken, violation) = device.take_list(room, &mut self.store);
        assert_eq!(violation, None, "an honest driver");
        assert_eq!(taken.len(), due);
        for chain in taken {
            let offered = &self.offered[self.returned + self.held.len()];
            assert_eq!(chain.parts.fault(), Fault::None);
            let (readable, writable) = (offered.bytes(false), offered.bytes(true));
            assert_eq!(chain.parts.len_bytes(), readable + writable);
            let readable_spans = chain.parts.iter().take(chain.parts.readable());
            assert_eq!(readable_spans.map(|span| span.len_bytes()).sum::<u32>(), readable);
            let mut bytes = vec![0; readable as usize];
            assert_eq!(chain.parts.read(&mut bytes), bytes.len());
            assert!((0..).zip(&bytes).all(|(at, &byte)| byte == offered.byte(false, at)), "what was offered");
            self.held.push_back(chain);
        }
    }

    fn give_back(&mut self, count: usize, share: u8) {
        let mut used = vec![];
        for i in 0..count.min(self.held.len()) {
            let mut chain = self.held.pop_front().expect("counted");
            let offered = &mut self.offered[self.returned + i];
            let len_bytes = offered.bytes(true) * u32::from(share) / 255;
            let mut at = 0;
            for span in chain.parts.iter().skip(chain.parts.readable()) {
                let here = span.first(len_bytes - at);
                let bytes: Vec<u8> = (at..at + here.len_bytes()).map(|at| offered.byte(true, at)).collect();
                assert_eq!(here.write(&bytes), bytes.len());
                at += here.len_bytes();
            }
            offered.written = Some(len_bytes);
            used.push(chain.used(len_bytes));
            self.store.give_back(chain.parts.take_list());
        }
        self.returned += used.len();
        let device = self.device();
        device.return_used(&used);
        let notify = device.wants_notification();
        assert!(!notify || !used.is_empty(), "a notification about nothing");
        assert!(!(notify && self.suppressed), "nobody wants to be told");
        if self.driver_sleeps && !used.is_empty() {
            assert!(notify, "the driver sleeps, and is not told");
            self.driver_sleeps = false;
        }
    }

    fn collect(&mut self, room: usize) {
        if self.driver_sleeps {
            return;
        }
        let mut out = vec![Completed::default(); room];
        let count = self.driver.collect(&mut out).expect("an honest device");
        assert_eq!(count, self.returned.min(room));
        for completed in &out[..count] {
            let offered = self.offered.pop_front().expect("counted");
            assert_eq!(completed.token, offered.token);
            let written = offered.written.expect("returned");
            // In a batch, the length is not told of all, and all are taken for written.
            let batched = self.driver.options().in_order && written == 0;
            assert!(completed.len_bytes == written || batched && completed.len_bytes == offered.bytes(true));
            let mut at = 0;
            for buffer in offered.chain.iter().filter(|buffer| buffer.writable) {
                let mut bytes = vec![0; buffer.len_bytes as usize];
                self.ram.read(buffer.gpa, &mut bytes);
                for byte in bytes {
                    assert_eq!(byte, if at < written { offered.byte(true, at) } else { 0 }, "what the device wrote");
                    at += 1;
                }
            }
        }
        self.returned -= count;
        self.published -= count;
        assert_eq!(self.driver.in_flight(), self.offered.len());
    }

    fn resume(&mut self) {
        let mut old = self.device.take().expect("made again at once");
        for mut chain in self.held.drain(..) {
            old.put_back(&chain);
            self.store.give_back(chain.parts.take_list());
        }
        assert_eq!(old.outstanding(), 0);
        let base = old.base();
        drop(old);
        self.device = Some(self.queue(base));
        self.device_sleeps = false;
        assert_eq!(self.store.available(), 64, "every list came back");
    }

    /// The device's side, from `base` on.
    fn queue(&self, base: u32) -> Queue {
        let setup = QueueSetup { base, ..self.driver.setup(self.features) };
        let mut queue = setup.activate(Arc::clone(&self.memory)).unwrap();
        if self.only_reads {
            queue.only_reads(0);
        }
        queue
    }

    /// All that is left is published, taken, returned and collected.
    fn end(&mut self) {
        self.publish();
        self.device_sleeps = false;
        while self.published > self.returned + self.held.len() {
            self.take(7);
        }
        while !self.held.is_empty() {
            self.give_back(5, 255);
        }
        self.driver_sleeps = false;
        while !self.offered.is_empty() {
            self.collect(6);
        }
        assert_eq!(self.driver.free(), usize::from(self.driver.size()));
        assert_eq!(self.driver.available_index(), self.driver.used_index());
    }
}

/// All of it: the first region, and others of at most so many bytes.
fn memory(ram: &Ram, region_bytes: u64) -> Arc<GuestMemory> {
    let first = [(0, FIRST_REGION_BYTES)];
    let rest = (FIRST_REGION_BYTES..ram.len_bytes()).step_by(region_bytes as usize);
    let rest = rest.map(|at| (at, region_bytes.min(ram.len_bytes() - at)));
    let regions = first.into_iter().chain(rest).map(|(offset_bytes, len_bytes)| RegionSpec {
        gpa: ram.gpa() + offset_bytes,
        len_bytes,
        frontend_address: ram.user_address() + offset_bytes,
        fd: ram.fd().try_clone_to_owned().unwrap(),
        offset_bytes,
    });
    GuestMemory::new(regions.collect()).unwrap()
}

fn every_queue(
    layout: Layout,
    sizes: impl Iterator<Item = u16> + Clone,
) -> impl Iterator<Item = (Layout, u16, Options)> {
    (0..16).flat_map(move |bits| {
        let options = Options {
            event_idx: bits & 1 != 0,
            in_order: bits & 2 != 0,
            indirect: bits & 4 != 0,
            tight: bits & 8 != 0,
        };
        sizes.clone().map(move |size| (layout, size, options))
    })
}

fn check(queues: impl Iterator<Item = (Layout, u16, Options)>, cases: u32) {
    for (layout, size, options) in queues {
        let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
        let run = TestRunner::new(config).run(&(any::<bool>(), vec(op(), 1..120)), |(only_reads, ops)| {
            let mut model = Model::new(layout, size, options, only_reads);
            ops.iter().for_each(|op| model.step(op));
            model.end();
            Ok(())
        });
        if let Err(error) = run {
            panic!("{layout:?} queue of {size}, {options:?}: {error}");
        }
    }
}

#[test]
fn a_split_queue_keeps_its_promises() {
    check(every_queue(Layout::Split, [1, 2, 4, 8].into_iter()), 40);
}

#[test]
fn a_packed_queue_keeps_its_promises() {
    check(every_queue(Layout::Packed, 1..=9), 24);
}

#[test]
fn larger_queues_do_too() {
    check(every_queue(Layout::Split, [64, 1024].into_iter()), 4);
    check(every_queue(Layout::Packed, [63, 1000].into_iter()), 4);
}

#[test]
fn indices_wrap_and_nobody_notices() {
    for (layout, size) in [(Layout::Split, 4), (Layout::Packed, 3), (Layout::Packed, 4)] {
        for bits in 0..8 {
            let [event_idx, in_order, only_reads] = [1, 2, 4].map(|bit| bits & bit != 0);
            let options = Options { event_idx, in_order, ..Options::default() };
            let mut model = Model::new(layout, size, options, only_reads);
            for round in 0_u32..30_000 {
                model.step(&Op::Burst(3, round % 2 == 0));
                model.step(&Op::DeviceSleeps);
                model.step(&Op::DriverSleeps);
                model.step(&Op::Publish);
                model.step(&Op::Take(2));
                model.step(&Op::Return(2, round as u8));
                model.step(if round % 5 == 0 { &Op::Suppress } else { &Op::DriverSleeps });
                model.step(&Op::Take(2));
                model.step(&Op::Return(2, 255));
                model.step(&Op::Collect(3));
                if round % 1000 == 0 {
                    model.step(&Op::Resume);
                }
            }
            model.end();
            assert!(model.next_token > 66_000, "{} chains", model.next_token);
        }
    }
}
