//! What a driver may break, on every layout and size: the queue names it, or takes it for what it is, and never more.

use std::collections::HashSet;
use std::mem::{Discriminant, discriminant};
use std::sync::Arc;

use virtnet_rings::guest::mischief::{Kind, Mischief, Unable};
use virtnet_rings::guest::{self, Buffer, Driver, Options, Ram};
use virtnet_rings::memory::GuestMemory;
use virtnet_rings::{Chain, Fault, Layout, PARTS_MAX, PartStore, Queue, QueueSetup, Violation, Virtqueue};

const GPA: u64 = 0x1_0000_0000;

/// What must come of it.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// The queue is retired.
    Violation(Discriminant<Violation>),
    /// The chain cannot be used.
    Fault(Fault),
    /// These many chains, to be judged by whoever knows frames.
    Chains(usize),
}

fn fate(mischief: Mischief, layout: Layout, size: u16) -> Fate {
    use Mischief::*;
    let one = 1;
    let violation = match mischief {
        AvailableIndexTooFar | AvailableIndexBackwards => Violation::AvailableIndexTooFar { ahead: one, size },
        HeadPastTable => Violation::HeadPastTable { head: one, size },
        NextPastTable | IndirectNextPastTable => Violation::NextPastTable { next: one, size },
        ChainLoop | IndirectLoop | ChainLongerThanQueue => Violation::ChainTooLong { limit: size },
        IndirectNotNegotiated => Violation::IndirectNotNegotiated,
        IndirectInIndirect if layout == Layout::Split => Violation::IndirectNested,
        IndirectWithNext => Violation::IndirectWithNext,
        IndirectTableRagged | IndirectTableEmpty | IndirectTableTooLong => {
            Violation::IndirectTableLength { len_bytes: 0, limit_bytes: 0 }
        }
        RingLapped => Violation::TooManyInFlight { descriptors: 0, size },
        IdPastQueue => Violation::IdPastQueue { id: size, size },
        NextWithNothingFollowing if size == 1 => Violation::ChainTooLong { limit: size },
        WrapBitsBreakOff | NextWithNothingFollowing => Violation::ChainUnfinished { descriptors: one },
        IndirectTableOutsideMemory | IndirectTableCrossesEnd | IndirectElementOutsideMemory => {
            return Fate::Fault(Fault::OutsideMemory);
        }
        OutsideMemory | AddressOverflows | CrossesEnd | LengthHuge => return Fate::Fault(Fault::OutsideMemory),
        WritableBeforeReadable => return Fate::Fault(Fault::ReadableAfterWritable),
        ChainAsLongAsQueue if usize::from(size) > PARTS_MAX => return Fate::Fault(Fault::TooManyParts),
        // Not available, as far as anyone can see.
        WrapBitsInverted | WrapBitsUsed => return Fate::Chains(0),
        OfferedTwice => return Fate::Chains(2),
        _ => return Fate::Chains(1),
    };
    Fate::Violation(discriminant(&violation))
}

struct Victim {
    ram: Arc<Ram>,
    driver: Driver,
    device: Queue,
    store: PartStore,
}

impl Victim {
    fn new(layout: Layout, size: u16, indirect: bool) -> Self {
        let ram = Arc::new(Ram::new(8 << 20, GPA).unwrap());
        let driver = Driver::new(&ram, layout, size, Options { indirect, ..Options::default() }).unwrap();
        let packed = layout == Layout::Packed;
        let setup = driver.setup(1 << 32 | u64::from(indirect) << 28 | u64::from(packed) << 34);
        let device = setup.activate(ram.guest_memory().unwrap()).unwrap();
        Self { ram, driver, device, store: PartStore::new(8) }
    }

    fn take(&mut self) -> (Vec<Chain>, Option<Violation>) {
        self.device.take_list(usize::from(u16::MAX), &mut self.store)
    }

    fn give_back(&mut self, chains: Vec<Chain>) {
        for mut chain in chains {
            self.store.give_back(chain.parts.take_list());
            self.device.return_used(&[chain.used(0)]);
        }
        assert_eq!(self.store.available(), 8, "every list came back");
    }
}

fn every_queue() -> impl Iterator<Item = (Layout, Kind, u16, bool)> {
    let layouts = [Layout::Split, Layout::Packed];
    let kinds = layouts.into_iter().flat_map(|layout| [(layout, Kind::Receiveq), (layout, Kind::Transmitq)]);
    let sized = kinds.flat_map(|(layout, kind)| {
        let sizes: &[u16] = if layout == Layout::Split { &[1, 2, 8, 256, 4096] } else { &[1, 2, 3, 9, 256, 1000] };
        sizes.iter().map(move |&size| (layout, kind, size))
    });
    sized.flat_map(|(layout, kind, size)| [false, true].map(|indirect| (layout, kind, size, indirect)))
}

#[test]
fn every_broken_promise_has_its_name() {
    let mut seen = HashSet::new();
    for (layout, kind, size, indirect) in every_queue() {
        for &mischief in Mischief::ALL {
            let what = format!("{mischief:?} on a {layout:?} {kind:?} of {size}, indirect {indirect}");
            let mut victim = Victim::new(layout, size, indirect);
            // An honest chain first, which the device holds, where there is room for both.
            let honest = usize::from(size > 2 && mischief != Mischief::ChainAsLongAsQueue);
            let honest = if mischief == Mischief::ChainLongerThanQueue { 0 } else { honest };
            if honest > 0 {
                let buffer = Buffer { gpa: GPA, len_bytes: 64, writable: kind == Kind::Receiveq };
                victim.driver.offer(&[buffer], 0).unwrap();
                victim.driver.publish();
            }
            let (first, taken) = victim.take();
            assert_eq!((first.len(), taken), (honest, None));
            match mischief.apply(&mut victim.driver, &victim.ram, kind) {
                Ok(()) => {}
                Err(Unable::Memory(error)) => panic!("{what}: {error}"),
                Err(_) => continue,
            }
            let (chains, taken) = victim.take();
            match (fate(mischief, layout, size), taken) {
                (Fate::Violation(expected), Some(violation)) => {
                    assert_eq!(discriminant(&violation), expected, "{what}: {violation}");
                    let before = if mischief == Mischief::RingLapped { usize::from(size) - honest } else { 0 };
                    assert_eq!(chains.len(), before, "{what}");
                    seen.insert((discriminant(&violation), layout == Layout::Split));
                }
                (Fate::Fault(fault), None) => {
                    assert_eq!(chains.len(), 1, "{what}");
                    assert_eq!(chains[0].parts.fault(), fault, "{what}");
                    assert!(victim.take().0.is_empty(), "{what}");
                }
                (Fate::Chains(count), None) => {
                    assert_eq!(chains.len(), count, "{what}");
                    assert!(chains.iter().all(|chain| chain.parts.fault() == Fault::None), "{what}");
                    assert!(victim.take().0.is_empty(), "{what}");
                }
                (fate, taken) => panic!("{what}: expected {fate:?}, found {taken:?}"),
            }
            victim.give_back(first.into_iter().chain(chains).collect());
        }
    }
    let both = [
        Violation::ChainTooLong { limit: 0 },
        Violation::IndirectNotNegotiated,
        Violation::IndirectWithNext,
        Violation::IndirectTableLength { len_bytes: 0, limit_bytes: 0 },
    ];
    let split = [
        Violation::AvailableIndexTooFar { ahead: 0, size: 0 },
        Violation::HeadPastTable { head: 0, size: 0 },
        Violation::IndirectNested,
        Violation::NextPastTable { next: 0, size: 0 },
    ];
    let packed = [
        Violation::ChainUnfinished { descriptors: 0 },
        Violation::IdPastQueue { id: 0, size: 0 },
        Violation::TooManyInFlight { descriptors: 0, size: 0 },
    ];
    let all = both.iter().flat_map(|v| [(v, true), (v, false)]);
    let all = all.chain(split.iter().map(|v| (v, true))).chain(packed.iter().map(|v| (v, false)));
    for (violation, on_split) in all {
        assert!(seen.contains(&(discriminant(violation), on_split)), "nothing caused {violation:?}, split: {on_split}");
    }
}

#[test]
fn a_chain_that_cannot_be_used_does_not_stop_the_next() {
    for (layout, kind, size, indirect) in every_queue().filter(|&(_, _, size, _)| size > 3) {
        for &mischief in Mischief::ALL {
            let Fate::Fault(fault) = fate(mischief, layout, size) else { continue };
            let mut victim = Victim::new(layout, size, indirect);
            for round in 0..5 {
                if mischief.apply(&mut victim.driver, &victim.ram, kind).is_err() {
                    break;
                }
                let (chains, taken) = victim.take();
                assert_eq!((chains.len(), taken), (1, None));
                assert_eq!(chains[0].parts.fault(), fault);
                victim.give_back(chains);
                let mut out = [guest::Completed::default(); 2];
                assert_eq!(victim.driver.collect(&mut out), Ok(1));
                let buffer = Buffer { gpa: GPA, len_bytes: 64, writable: kind == Kind::Receiveq };
                victim.driver.offer(&[buffer], round).unwrap();
                victim.driver.publish();
                let (chains, taken) = victim.take();
                assert_eq!((chains.len(), taken), (1, None));
                assert_eq!((chains[0].parts.fault(), chains[0].parts.len_bytes()), (Fault::None, 64));
                victim.give_back(chains);
                assert_eq!(victim.driver.collect(&mut out), Ok(1));
                assert_eq!(out[0].token, round);
            }
        }
    }
}

#[test]
fn a_queue_that_is_only_read_takes_a_packed_table_as_readable() {
    // What DPDK's driver sends: WRITE on the header's entry, now and then on another one too.
    let table = |writable: [bool; 3]| writable.map(|writable| Buffer { gpa: GPA, len_bytes: 64, writable });
    for (layout, only_reads) in [(Layout::Packed, true), (Layout::Packed, false), (Layout::Split, true)] {
        let mut victim = Victim::new(layout, 8, true);
        if only_reads {
            victim.device.only_reads(0);
        }
        for writable in [[true, false, false], [true, true, false], [true, false, true]] {
            victim.driver.offer_indirect(&table(writable), 0).unwrap();
            victim.driver.publish();
            let (chains, taken) = victim.take();
            assert_eq!((chains.len(), taken), (1, None));
            let parts = &chains[0].parts;
            let whole = (parts.fault(), parts.readable(), parts.len_bytes()) == (Fault::None, 3, 192);
            assert_eq!(whole, layout == Layout::Packed && only_reads, "{layout:?} {writable:?}");
            victim.give_back(chains);
            assert_eq!(victim.driver.collect(&mut [guest::Completed::default(); 2]), Ok(1));
        }
    }
}

/// Takes and returns whatever is offered, and starts again behind each violation, until there was enough of both. Everything that
/// is taken must lie in `memory`, which ends at `end`.
fn take_what_comes(setup: impl Fn() -> QueueSetup, memory: &Arc<GuestMemory>, end: u64) {
    let mut store = PartStore::new(8);
    let mut queue = setup().activate(memory.clone()).unwrap();
    let size = queue.size();
    let (mut taken, mut violations) = (0, 0);
    while taken < 20_000 || violations < 100 {
        let (chains, violation) = queue.take_list(16, &mut store);
        assert!(queue.outstanding() <= size.into());
        for mut chain in chains {
            taken += 1;
            assert!(chain.id < size && chain.descriptors <= size);
            assert!(chain.parts.readable() <= chain.parts.count());
            for part in chain.parts.iter() {
                let gpa = memory.gpa_of(part).expect("in guest memory");
                assert!(gpa + u64::from(part.len_bytes()) <= end, "to its end");
            }
            store.give_back(chain.parts.take_list());
            queue.return_used(&[chain.used(0)]);
        }
        assert_eq!((queue.outstanding(), store.available()), (0, 8));
        if violation.is_some() {
            violations += 1;
            queue = QueueSetup { base: queue.base(), ..setup() }.activate(memory.clone()).unwrap();
        }
    }
}

#[test]
fn what_is_rewritten_while_it_is_read_is_used_as_it_was_checked() {
    const RAM_BYTES: u64 = 1 << 20;
    const END: u64 = GPA + RAM_BYTES;
    const BORDERS: [u64; 6] = [0, 1, GPA - 1, END - 1, END, u64::MAX];
    const LENS: [u64; 6] = [0, 1, 16, 64, 4096, u32::MAX as u64];
    for (layout, size) in [(Layout::Split, 4), (Layout::Split, 64), (Layout::Packed, 3), (Layout::Packed, 61)] {
        let ram = Arc::new(Ram::new(RAM_BYTES as usize, GPA).unwrap());
        let driver = Driver::new(&ram, layout, size, Options { indirect: true, ..Options::default() }).unwrap();
        let guest::Addresses { descriptor, driver: available, device: used } = driver.addresses();
        let packed = layout == Layout::Packed;
        let setup = || driver.setup(1 << 32 | 1 << 28 | u64::from(packed) << 34);
        let memory = ram.guest_memory().unwrap();
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut below = |end: u64| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (state >> 33) % end
        };
        std::thread::scope(|scope| {
            let device = scope.spawn(|| take_what_comes(setup, &memory, END));
            while !device.is_finished() {
                let at = descriptor + 16 * below(size.into());
                let gpa = if below(4) > 0 { GPA + below(RAM_BYTES) } else { BORDERS[below(6) as usize] };
                ram.write_u64(at, gpa);
                // Split: flags, then next. Packed: id, then flags, which are of one lap or the other.
                let flags = if below(2) > 0 { 0 } else { below(8) };
                let past_end = u64::from(below(50) == 0);
                let index = below(u64::from(size) + past_end);
                let lap = [0x80, 0x8000][below(2) as usize];
                let halves = if packed { index | (flags | lap) << 16 } else { flags | index << 16 };
                ram.write_u64(at + 8, LENS[below(6) as usize] | halves << 32);
                if !packed {
                    ram.write_u16(available + 4 + 2 * below(size.into()), index as u16);
                    let ahead = below(size.into()) as u16;
                    ram.write_u16(available + 2, ram.read_u16(used + 2).wrapping_add(ahead));
                }
            }
        });
    }
}
