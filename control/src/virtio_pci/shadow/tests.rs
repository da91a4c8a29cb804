//! An honest driver in memory that is only reached by transfers, and a device that answers what it reads backwards.

use std::sync::Arc;
use std::time::Instant;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd};
use virtnet_rings::guest::{Buffer, Completed, Driver, Options, Ram};
use virtnet_rings::spec::virtq::{VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_VERSION_1};
use virtnet_rings::{PartStore, QueueAddresses, Violation, Virtqueue};

use super::dma::{Dma, TRANSFER_BYTES_MAX, Wanted};
use super::*;
use crate::transport::connection::wait_any;

const GPA: u64 = 0x10_0000;
const SIZE: u16 = 128;

struct Bench {
    ram: Arc<Ram>,
    driver: Driver,
    kick: Notifier,
    call: Notifier,
    dma: Dma,
    shadow: Shadow,
    queue: Queue,
    store: PartStore,
    /// Reads and writes made so far, and the address where they fail.
    transfers: usize,
    hole: Option<u64>,
}

fn pair() -> [Notifier; 2] {
    let eventfd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
    [Notifier::new(Some(eventfd.try_clone().unwrap())), Notifier::new(Some(eventfd))]
}

impl Bench {
    fn new(layout: Layout, event_idx: bool) -> Self {
        let ram = Arc::new(Ram::new(16 << 20, GPA).unwrap());
        let options = Options { event_idx, indirect: true, ..Options::default() };
        let driver = Driver::new(&ram, layout, SIZE, options).unwrap();
        let ([kick, rung], [call, told]) = (pair(), pair());
        let dma = Dma::default();
        let (shadow, queue) = Shadow::new(shape(&driver, &dma, event_idx), layout.base(), rung, call).unwrap();
        let store = PartStore::new(usize::from(local::CHAINS));
        Self { ram, driver, kick, call: told, dma, shadow, queue, store, transfers: 0, hole: None }
    }

    /// All goes on until nothing does; the device uses up to `most` chains.
    fn settle(&mut self, most: usize) -> Result<(), Broken> {
        loop {
            let before = self.transfers;
            self.shadow.go_on()?;
            while let Some(transfer) = self.dma.take() {
                self.transfers += 1;
                transfer.answer(self.make(&transfer.wanted, transfer.address));
            }
            if self.transfers == before {
                break;
            }
        }
        if self.serve(most) { self.settle(0) } else { Ok(()) }
    }

    fn make(&self, wanted: &Wanted, address: u64) -> Result<Vec<u8>, Unreachable> {
        let (len_bytes, bytes) = match wanted {
            Wanted::Read(count) => (*count, &[][..]),
            Wanted::Write(bytes) => (bytes.len(), &bytes[..]),
        };
        assert!((1..=TRANSFER_BYTES_MAX).contains(&len_bytes));
        let inside = GPA <= address && address + len_bytes as u64 <= GPA + self.ram.len_bytes();
        if !inside || self.hole.is_some_and(|hole| (address..address + len_bytes as u64).contains(&hole)) {
            return Err(Unreachable);
        }
        let mut read = vec![0; if bytes.is_empty() { len_bytes } else { 0 }];
        self.ram.read(address, &mut read);
        self.ram.write(address, bytes);
        Ok(read)
    }

    /// What the device does. Whether it did anything.
    fn serve(&mut self, most: usize) -> bool {
        self.queue.begin_turn();
        let (chains, violation) = self.queue.take_list(most, &mut self.store);
        assert_eq!(violation, None);
        let is_some = !chains.is_empty();
        for mut chain in chains {
            let mut bytes = vec![0; chain.parts.len_bytes() as usize];
            let readable =
                chain.parts.iter().take(chain.parts.readable()).fold(0, |at, part| at + part.read(&mut bytes[at..]));
            bytes.truncate(readable);
            bytes.reverse();
            let mut rest = &bytes[..];
            for part in chain.parts.iter().skip(chain.parts.readable()) {
                rest = &rest[part.write(rest)..];
            }
            self.queue.return_used(&[chain.used((bytes.len() - rest.len()) as u32)]);
            self.store.give_back(chain.parts.take_list());
        }
        self.queue.end_turn();
        if self.queue.wants_notification() {
            self.queue.call().notify();
        }
        is_some
    }

    fn ring(&mut self) {
        self.driver.publish();
        if self.driver.needs_kick() {
            self.kick.notify();
        }
    }

    fn collect(&mut self) -> Vec<Completed> {
        let mut all = [Completed::default(); SIZE as usize];
        let count = self.driver.collect(&mut all).unwrap();
        self.driver.enable_interrupts();
        all[..count].to_vec()
    }
}

fn shape(driver: &Driver, dma: &Dma, event_idx: bool) -> Shape {
    let at = driver.addresses();
    let event_idx = u64::from(event_idx) << VIRTIO_F_EVENT_IDX;
    Shape {
        layout: driver.layout(),
        size: SIZE,
        addresses: QueueAddresses { descriptor_area: at.descriptor, driver_area: at.driver, device_area: at.device },
        features: 1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_F_INDIRECT_DESC | event_idx,
        dma: dma.clone(),
    }
}

fn each(check: impl Fn(Layout, bool)) {
    for layout in [Layout::Split, Layout::Packed] {
        for event_idx in [false, true] {
            check(layout, event_idx);
        }
    }
}

#[test]
fn what_is_offered_comes_back_answered() {
    each(|layout, event_idx| {
        let mut bench = Bench::new(layout, event_idx);
        let mut offered = 0u32;
        let mut returned = 0;
        // Positions wrap several times, and the device takes as many as it likes.
        for round in 0..400usize {
            for _ in 0..=round % 40 {
                let at = bench.ram.gpa() + (8 << 20) + u64::from(offered % 512) * 8192;
                let bytes: Vec<u8> = (0..1 + offered as usize * 7 % 3000).map(|n| (n as u32 + offered) as u8).collect();
                let (front, len_bytes) = (bytes.len() as u32 / 3 + 1, bytes.len() as u32);
                bench.ram.write(at, &bytes);
                let chain = [
                    Buffer::readable(at, front.min(len_bytes)),
                    Buffer::readable(at + u64::from(front), len_bytes.saturating_sub(front)),
                    Buffer::writable(at + 4096, 100),
                    Buffer::writable(at + 4196, 3996),
                ];
                let chain = if len_bytes > front { &chain[..] } else { &[chain[0], chain[2]] };
                let is_offered = match offered % 3 {
                    0 => bench.driver.offer(&chain[..1], offered),
                    1 => bench.driver.offer(chain, offered),
                    _ => bench.driver.offer_indirect(chain, offered),
                };
                if is_offered.is_err() {
                    break;
                }
                offered += 1;
            }
            bench.ring();
            bench.settle(1 + round % 50).unwrap();
            let told = bench.call.drain();
            let collected = bench.collect();
            assert_eq!(told, !collected.is_empty(), "{layout:?} {event_idx} {round}");
            for Completed { token, len_bytes, .. } in collected {
                assert_eq!(token, returned, "in order");
                returned += 1;
                let whole = 1 + token as usize * 7 % 3000;
                let written = match token % 3 {
                    0 => 0,
                    _ if whole == 1 => 1,
                    _ => whole,
                };
                assert_eq!(len_bytes as usize, written, "{layout:?} {event_idx} {token}");
                let mut answer = vec![0; written];
                bench.ram.read(GPA + (8 << 20) + u64::from(token % 512) * 8192 + 4096, &mut answer);
                assert!(answer.iter().rev().enumerate().all(|(n, byte)| *byte == (n as u32 + token) as u8));
            }
        }
        assert!(returned > 1000, "{layout:?} {event_idx}: {returned} of {offered}");
        let state = |bench: &Bench| bench.transfers;
        while returned < offered {
            bench.settle(64).unwrap();
            returned += bench.collect().len() as u32;
        }
        let before = state(&bench);
        bench.shadow.go_on().unwrap();
        assert_eq!((state(&bench), bench.dma.take().is_none()), (before, true), "nobody is asked while nothing is new");
    });
}

#[test]
fn a_frame_is_as_long_as_it_may_be() {
    each(|layout, event_idx| {
        let mut bench = Bench::new(layout, event_idx);
        let at = GPA + (8 << 20);
        let bytes: Vec<u8> = (0..65_562usize).map(|n| (n / 7) as u8).collect();
        bench.ram.write(at, &bytes);
        bench.driver.offer(&[Buffer::readable(at, 65_562), Buffer::writable(at + (1 << 20), 64)], 1).unwrap();
        // More than a chain holds: what does not fit is not there.
        bench.driver.offer(&[Buffer::readable(at, 1 << 20), Buffer::writable(at + (2 << 20), 64)], 2).unwrap();
        bench.driver.offer(&[Buffer::readable(at, 8), Buffer::writable(at + (3 << 20), u32::MAX)], 3).unwrap();
        bench.ring();
        bench.settle(3).unwrap();
        let lengths: Vec<_> = bench.collect().iter().map(|done| (done.token, done.len_bytes)).collect();
        assert_eq!(lengths, [(1, 64), (2, 0), (3, 8)]);
        let mut answer = [0; 64];
        bench.ram.read(at + (1 << 20), &mut answer);
        assert!(answer.iter().eq(bytes.iter().rev().take(64)));
    });
}

#[test]
fn every_chain_may_be_as_long_as_there_is_room() {
    each(|layout, event_idx| {
        let mut bench = Bench::new(layout, event_idx);
        for token in 0..2 * u32::from(local::CHAINS) {
            bench.driver.offer(&[Buffer::readable(GPA + (8 << 20), 1 << 20)], token).unwrap();
            bench.ring();
            bench.settle(1).unwrap();
            assert_eq!(bench.collect().len(), 1, "{layout:?} {token}");
        }
    });
}

#[test]
fn what_cannot_be_read_or_written_is_one_chain_s() {
    each(|layout, event_idx| {
        let mut bench = Bench::new(layout, event_idx);
        let at = GPA + (8 << 20);
        bench.hole = Some(at + 4096);
        for (token, [from, to]) in
            [[at, at + 9000], [at + 4096, at + 9000], [at, at + 4090], [1 << 50, at]].iter().enumerate()
        {
            bench.driver.offer(&[Buffer::readable(*from, 8), Buffer::writable(*to, 8)], token as u32).unwrap();
        }
        bench.driver.offer(&[Buffer::writable(at, 8), Buffer::readable(at, 8)], 4).unwrap();
        bench.driver.offer(&[Buffer::readable(at, 8), Buffer::writable(at, 8)], 5).unwrap();
        bench.ring();
        bench.settle(8).unwrap();
        let lengths: Vec<_> = bench.collect().iter().map(|done| done.len_bytes).collect();
        assert_eq!(lengths, [8, 0, 0, 0, 0, 8], "{layout:?}");
    });
}

#[test]
fn a_broken_ring_is_told() {
    let broken = |layout, mischief: &dyn Fn(&mut Bench)| {
        let mut bench = Bench::new(layout, false);
        bench.driver.offer(&[Buffer::readable(GPA, 8)], 1).unwrap();
        mischief(&mut bench);
        bench.ring();
        bench.settle(4).unwrap_err()
    };
    let raw = |len_bytes, flags, link| {
        move |bench: &mut Bench| {
            let descriptor = virtnet_rings::guest::Descriptor { gpa: GPA, len_bytes, flags, link };
            bench.driver.offer_raw(&[descriptor], 2).unwrap();
        }
    };
    use Layout::{Packed, Split};
    for (layout, violation, mischief) in [
        (Split, Violation::NextPastTable { next: SIZE, size: SIZE }, raw(8, 1, Some(SIZE))),
        (Split, Violation::IndirectWithNext, raw(16, 5, Some(0))),
        (Split, Violation::IndirectTableLength { len_bytes: 17, limit_bytes: 2048 }, raw(17, 4, None)),
        (Packed, Violation::IndirectTableLength { len_bytes: 0, limit_bytes: 2048 }, raw(0, 4, None)),
        (Packed, Violation::IdPastQueue { id: SIZE, size: SIZE }, raw(8, 0, Some(SIZE))),
        (Packed, Violation::ChainUnfinished { descriptors: 1 }, raw(8, 1, None)),
        (Packed, Violation::IndirectWithNext, raw(16, 5, None)),
    ] {
        assert_eq!(broken(layout, &mischief), Broken::Violation(violation), "{layout:?}");
    }
    let loops = |bench: &mut Bench| {
        let next = bench.driver.free() as u16;
        let link = Some(SIZE - next);
        let descriptor = virtnet_rings::guest::Descriptor { gpa: GPA, len_bytes: 8, flags: 1, link };
        bench.driver.offer_raw(&[descriptor], 2).unwrap();
    };
    assert_eq!(broken(Split, &loops), Broken::Violation(Violation::ChainTooLong { limit: SIZE }));
    let mut bench = Bench::new(Split, false);
    bench.ram.write(bench.driver.addresses().driver + 2, &(SIZE + 1).to_le_bytes());
    let too_far = Violation::AvailableIndexTooFar { ahead: SIZE + 1, size: SIZE };
    assert_eq!(bench.settle(0), Err(Broken::Violation(too_far)));
    each(|layout, event_idx| {
        let mut bench = Bench::new(layout, event_idx);
        bench.settle(0).unwrap();
        bench.hole = Some(bench.driver.addresses().descriptor);
        bench.driver.offer(&[Buffer::readable(GPA, 8)], 1).unwrap();
        bench.ring();
        assert_eq!(bench.settle(4), Err(Broken::Unreachable), "{layout:?}");
    });
}

#[test]
fn another_goes_on_where_one_has_stopped() {
    each(|layout, event_idx| {
        let mut bench = Bench::new(layout, event_idx);
        let at = GPA + (8 << 20);
        for token in 0..40 {
            bench.driver.offer(&[Buffer::readable(at, 8), Buffer::writable(at + 64, 8)], token).unwrap();
        }
        bench.ring();
        bench.settle(25).unwrap();
        assert_eq!(bench.collect().len(), 25);
        let ([kick, rung], [call, told]) = (pair(), pair());
        let base = bench.shadow.base();
        let (shadow, queue) = Shadow::new(shape(&bench.driver, &bench.dma, event_idx), base, rung, call).unwrap();
        (bench.shadow, bench.queue, bench.kick, bench.call) = (shadow, queue, kick, told);
        bench.settle(64).unwrap();
        let tokens: Vec<_> = bench.collect().iter().map(|done| done.token).collect();
        assert!(tokens.into_iter().eq(25..40), "{layout:?}");
    });
}

#[test]
fn a_packed_ring_may_be_written_while_it_is_read() {
    let mut bench = Bench::new(Layout::Packed, false);
    let at = GPA + (8 << 20);
    for token in 0..u32::from(SIZE) - 1 {
        bench.driver.offer(&[Buffer::readable(at, 8)], token).unwrap();
        bench.ring();
        bench.settle(1).unwrap();
        assert_eq!(bench.collect().len(), 1);
    }
    // A chain of the last descriptor and the first, which is written when that was read, and before the last is.
    let (table, mut first) = (bench.driver.addresses().descriptor, [0; 16]);
    bench.ram.read(table, &mut first);
    bench.driver.offer(&[Buffer::readable(at, 8), Buffer::writable(at + 64, 8)], 1000).unwrap();
    bench.ring();
    let mut looks = 0;
    loop {
        bench.shadow.go_on().unwrap();
        let Some(transfer) = bench.dma.take() else { break };
        let mut answer = bench.make(&transfer.wanted, transfer.address).unwrap();
        if transfer.address == table && answer.len() > first.len() {
            looks += 1;
            if looks == 1 {
                answer[..first.len()].copy_from_slice(&first);
            }
        }
        transfer.answer(Ok(answer));
    }
    assert!(looks >= 2, "it is looked at for flags first");
    bench.settle(1).unwrap();
    assert!(bench.collect().iter().map(|done| (done.token, done.len_bytes)).eq([(1000, 8)]));
}

#[test]
fn one_that_stops_at_any_moment_is_gone_on_from() {
    each(|layout, event_idx| {
        for moment in 1.. {
            let mut bench = Bench::new(layout, event_idx);
            let at = GPA + (8 << 20);
            for token in 0..6 {
                bench.driver.offer(&[Buffer::readable(at, 8), Buffer::writable(at + 64, 8)], token).unwrap();
            }
            bench.ring();
            let mut is_serving = true;
            while is_serving && bench.transfers < moment {
                bench.shadow.go_on().unwrap();
                let Some(transfer) = bench.dma.take() else {
                    is_serving = bench.serve(2);
                    continue;
                };
                bench.transfers += 1;
                let answer = bench.make(&transfer.wanted, transfer.address);
                // The last one is made, and nobody waits for its answer any more.
                if bench.transfers < moment {
                    transfer.answer(answer);
                }
            }
            let ([kick, rung], [call, told]) = (pair(), pair());
            let base = bench.shadow.base();
            let (shadow, queue) = Shadow::new(shape(&bench.driver, &bench.dma, event_idx), base, rung, call).unwrap();
            (bench.shadow, bench.queue, bench.kick, bench.call) = (shadow, queue, kick, told);
            bench.settle(64).unwrap();
            let tokens: Vec<_> = bench.collect().iter().map(|done| done.token).collect();
            assert!(tokens.iter().copied().eq(0..6), "{layout:?} {event_idx} {moment}: {tokens:?}");
            if !is_serving {
                break;
            }
        }
    });
}

#[test]
fn a_packed_ring_does_not_begin_behind_its_end() {
    let bench = Bench::new(Layout::Packed, false);
    for (slot, is_one) in [(SIZE - 1, true), (SIZE, false), (0x7fff, false)] {
        let made = Shadow::new(
            shape(&bench.driver, &bench.dma, false),
            u32::from(slot) * 0x1_0001,
            Notifier::default(),
            Notifier::default(),
        );
        assert_eq!(made.is_ok(), is_one, "{slot}");
    }
}

#[test]
fn one_that_starts_asks_for_being_gone_on_with() {
    each(|layout, event_idx| {
        let mut bench = Bench::new(layout, event_idx);
        let rings = |bench: &Bench| {
            let mut bells: Vec<_> = bench.shadow.bells().map(|bell| PollFd::new(bell, PollFlags::IN)).collect();
            wait_any(&mut bells, Instant::now()).unwrap()
        };
        assert!(rings(&bench), "nobody has rung, and there may be something from before");
        bench.settle(0).unwrap();
        assert!(!rings(&bench));
    });
}
