//! "Packed Virtqueues", the device's side. Read beside [`crate::split`]: the same functions in the same order.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use crate::chain::{ASKED_AHEAD, Chain, PartStore, Reach};
use crate::inflight;
use crate::memory::area::{Descriptor, DescriptorArea, WordArea};
use crate::memory::{DirtyLog, GuestMemory, Span};
use crate::notify::{Notifier, passed_packed_event};
use crate::setup::{Layout, QueueSetup, SetupError};
use crate::spec::virtq::*;
use crate::violation::Violation;
use crate::virtqueue::{Taken, Used, Virtqueue};

/// Words of an event suppression area: offset with wrap counter, flags.
const EVENT: u32 = 0;
const FLAGS: u32 = 1;

/// A place in the ring and the lap it is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Position {
    slot: u16,
    wrap: bool,
}

impl Position {
    #[inline(always)]
    fn advance(&mut self, slots: u16, size: u16) {
        // At most 2 * 32768 - 1: no overflow.
        let slot = self.slot + slots;
        let past_end = slot >= size;
        self.slot = if past_end { slot - size } else { slot };
        self.wrap ^= past_end;
    }

    fn retreat(&mut self, slots: u16, size: u16) {
        let past_start = slots > self.slot;
        self.slot = if past_start { self.slot + (size - slots) } else { self.slot - slots };
        self.wrap ^= past_start;
    }

    fn to_bits(self) -> u16 {
        self.slot | u16::from(self.wrap) << 15
    }

    fn from_bits(bits: u16) -> Self {
        Position { slot: bits & 0x7fff, wrap: bits & 0x8000 != 0 }
    }
}

/// The two flags of a descriptor that the driver has made available on this lap.
#[inline(always)]
fn available_flags(wrap: bool) -> u16 {
    if wrap { VIRTQ_DESC_F_AVAIL } else { VIRTQ_DESC_F_USED }
}

/// A packed queue.
#[derive(Debug)]
pub struct Queue {
    descriptors: DescriptorArea,
    driver_event: WordArea,
    device_event: WordArea,
    /// The next descriptor to take.
    next_available: Position,
    /// The next used descriptor to write; everything before it is published.
    next_used: Position,
    /// Chains out that have more than one descriptor.
    longer: u32,
    /// Slots used since a notification was last decided on.
    undecided: u32,
    event_idx: bool,
    in_order: bool,
    pub(crate) reach: Reach,
    call: Notifier,
    kick: Notifier,
    log: Option<Arc<DirtyLog>>,
    inflight: Option<inflight::Region>,
    /// Where the dirty log has the area that is written.
    logged: Vec<(u64, u64)>,
}

impl Queue {
    pub(crate) fn new(setup: QueueSetup, mut reach: Reach) -> Result<Self, SetupError> {
        let size = setup.size;
        let [descriptors, driver_event, device_event] = setup.areas(&mut reach)?;
        let logged = setup.logged(&reach.memory);
        let descriptors = DescriptorArea::new(descriptors);
        let (driver_event, device_event) = (WordArea::new(driver_event), WordArea::new(device_event));
        // What was taken and not used is taken again: the used half, where the front end gives one.
        let [available, used] = [setup.base as u16, (setup.base >> 16) as u16];
        let start = Position::from_bits(if used == 0 { available } else { used });
        if start.slot >= size {
            return Err(SetupError::Base { base: setup.base, size });
        }
        let mut queue = Queue {
            descriptors,
            driver_event,
            device_event,
            next_available: start,
            next_used: start,
            longer: 0,
            undecided: 0,
            event_idx: setup.has(VIRTIO_F_EVENT_IDX),
            in_order: setup.has(VIRTIO_F_IN_ORDER),
            reach,
            call: setup.call,
            kick: setup.kick,
            log: setup.log,
            inflight: None,
            logged,
        };
        queue.disarm();
        Ok(queue)
    }

    /// Goes on where `region` says, if somebody has used it before, and keeps it up to date from now on.
    pub(crate) fn resume_from(&mut self, region: inflight::Region) {
        let size = self.reach.size;
        let published = |slot, wrap| slot < size && self.available(Position { slot, wrap }).is_none();
        if let Some((slot, wrap)) = region.packed_resume(published).filter(|(slot, _)| *slot < size) {
            self.next_used = Position { slot, wrap };
            self.next_available = self.next_used;
        }
        let Position { slot, wrap } = self.next_used;
        region.packed_will_be(slot, wrap);
        region.packed_is(slot, wrap);
        self.inflight = Some(region);
    }

    /// The descriptor at a position, if the driver has made it available on this lap.
    #[inline(always)]
    fn available(&self, at: Position) -> Option<Descriptor> {
        let descriptor = self.descriptors.load_acquire(at.slot);
        let flags = descriptor.halves[1] & (VIRTQ_DESC_F_AVAIL | VIRTQ_DESC_F_USED);
        (flags == available_flags(at.wrap)).then_some(descriptor)
    }

    /// Takes chains of one descriptor in one region, which goes the usual way, for as long as there are no others. How many.
    #[inline(always)]
    fn take_plain(&mut self, chains: &mut [Chain]) -> usize {
        const OF_INTEREST: u16 =
            VIRTQ_DESC_F_AVAIL | VIRTQ_DESC_F_USED | VIRTQ_DESC_F_NEXT | VIRTQ_DESC_F_INDIRECT | VIRTQ_DESC_F_WRITE;
        let Queue { descriptors, reach, next_available, .. } = self;
        let descriptors = *descriptors; // in registers, whatever is stored to chains
        let Reach { size, .. } = *reach;
        let usual = reach.usual();
        let room = chains.len().min((u32::from(size) - reach.outstanding) as usize) as u16;
        let mut taken = 0;
        // Once up to the end of the ring, once from its start.
        while taken < room {
            let wanted = available_flags(next_available.wrap) | usual.flags;
            let count = (room - taken).min(size - next_available.slot);
            let mut done = 0;
            let places = &mut chains[usize::from(taken)..];
            for (descriptor, chain) in descriptors.load_run(next_available.slot, count).zip(places) {
                let [id, flags] = descriptor.halves;
                if flags & OF_INTEREST != wanted || id >= size || !chain.set_plain(&usual, descriptor, id) {
                    break;
                }
                done += 1;
            }
            next_available.advance(done, size);
            taken += done;
            if done < count {
                break;
            }
        }
        reach.outstanding += u32::from(taken);
        usize::from(taken)
    }

    /// Takes a chain of another kind, if there is one and it need not wait, for a list or for a translation.
    #[inline(never)]
    fn take_other(&mut self, chain: &mut Chain, store: &mut PartStore) -> Result<bool, Violation> {
        let Some(first) = self.available(self.next_available).filter(|_| store.available() > 0) else {
            return Ok(false);
        };
        *chain = Chain { descriptors: 1, ..Chain::default() };
        self.reach.misses = false;
        let size = self.reach.size;
        let walked = self.walk(chain, store, first).and_then(|()| {
            let in_flight = self.reach.outstanding + u32::from(chain.descriptors);
            match chain.id {
                id if id >= size => Err(Violation::IdPastQueue { id, size }),
                _ if in_flight > u32::from(size) => Err(Violation::TooManyInFlight { descriptors: in_flight, size }),
                _ => Ok(()),
            }
        });
        if walked.is_err() || self.reach.misses {
            self.ask_ahead(chain.descriptors);
            store.give_back(chain.parts.take_list());
            return walked.map(|()| false);
        }
        self.next_available.advance(chain.descriptors, size);
        self.reach.outstanding += u32::from(chain.descriptors);
        self.longer += u32::from(chain.descriptors > 1);
        Ok(true)
    }

    /// Where a chain of so many descriptors waits for a translation, so may those behind it.
    #[cold]
    fn ask_ahead(&self, descriptors: u16) {
        let mut at = self.next_available;
        at.advance(descriptors, self.reach.size);
        for _ in 1..ASKED_AHEAD {
            let Some(Descriptor { addr, halves: [_, flags], .. }) = self.available(at) else { return };
            self.reach.ask_for(addr, flags);
            at.advance(1, self.reach.size);
        }
    }

    /// Walks a chain of several descriptors; its id is in the last one.
    fn walk(&mut self, chain: &mut Chain, store: &mut PartStore, mut descriptor: Descriptor) -> Result<(), Violation> {
        let size = self.reach.size;
        let mut at = self.next_available;
        loop {
            let [id, flags] = descriptor.halves;
            chain.id = id;
            if flags & VIRTQ_DESC_F_INDIRECT != 0 {
                let before = chain.descriptors - 1;
                return self.reach.table(store, chain, descriptor, Layout::Packed, before);
            }
            self.reach.add(store, chain, descriptor.addr, descriptor.len, flags);
            if flags & VIRTQ_DESC_F_NEXT == 0 {
                return Ok(());
            }
            if chain.descriptors == size {
                return Err(Violation::ChainTooLong { limit: size });
            }
            at.advance(1, size);
            descriptor = self.available(at).ok_or(Violation::ChainUnfinished { descriptors: chain.descriptors })?;
            chain.descriptors += 1;
        }
    }

    #[inline(always)]
    fn store_used(&self, at: Position, used: Used) {
        self.descriptors.store_run(at.slot, std::iter::once(used_word(at.wrap, used)));
    }
}

/// Length, id and flags of a used descriptor.
#[inline(always)]
fn used_word(wrap: bool, used: Used) -> u64 {
    let lap = if wrap { VIRTQ_DESC_F_AVAIL | VIRTQ_DESC_F_USED } else { 0 };
    let written = VIRTQ_DESC_F_WRITE * u16::from(used.len_bytes > 0);
    let flags = lap | written;
    u64::from(used.len_bytes) | u64::from(used.id) << 32 | u64::from(flags) << 48
}

impl Virtqueue for Queue {
    #[inline(always)]
    fn take_available(&mut self, chains: &mut [Chain], store: &mut PartStore) -> Taken {
        let mut count = 0;
        loop {
            count += self.take_plain(&mut chains[count..]);
            if count == chains.len() {
                return Taken { count, violation: None };
            }
            match self.take_other(&mut chains[count], store) {
                Ok(true) => count += 1,
                Ok(false) => return Taken { count, violation: None },
                Err(violation) => return Taken { count, violation: Some(violation) },
            }
        }
    }

    #[inline(always)]
    fn return_used(&mut self, used: &[Used]) {
        let [first, rest @ ..] = used else { return };
        let size = self.reach.size;
        let head = self.next_used;
        let mut slots = used.len() as u32;
        if self.longer > 0 {
            slots = used.iter().map(|used| u32::from(used.descriptors)).sum();
            self.longer -= used.iter().filter(|used| used.descriptors > 1).count() as u32;
        }
        debug_assert!(self.reach.outstanding >= slots);
        self.next_used.advance(slots as u16, size);
        let after = self.next_used;
        if let Some(inflight) = &self.inflight {
            inflight.packed_will_be(after.slot, after.wrap);
        }
        if self.in_order && self.reach.only_reads {
            // "In-order use of descriptors": one used descriptor with the last id stands for all: none
            // has a length to tell.
            self.store_used(head, *rest.last().unwrap_or(first));
        } else {
            let mut at = head;
            at.advance(first.descriptors, size);
            let mut rest = rest;
            if slots as usize == used.len() {
                // One descriptor each: they lie side by side, up to the end of the ring.
                let (near, far) = rest.split_at(rest.len().min(usize::from(size - at.slot)));
                self.descriptors.store_run(at.slot, near.iter().map(|used| used_word(at.wrap, *used)));
                at.advance(near.len() as u16, size);
                rest = far;
            }
            for used in rest {
                self.store_used(at, *used);
                at.advance(used.descriptors, size);
            }
            // The first last: the driver polls it, and sees the whole burst at once.
            self.store_used(head, *first);
        }
        if let Some(inflight) = &self.inflight {
            inflight.packed_is(after.slot, after.wrap);
        }
        self.reach.outstanding -= slots;
        self.undecided = (self.undecided + slots).min(u32::from(size));
        if let Some(log) = &self.log {
            self.logged.iter().for_each(|(gpa, len_bytes)| log.mark(*gpa, *len_bytes));
        }
    }

    #[inline]
    fn wants_notification(&mut self) -> bool {
        let moved = std::mem::take(&mut self.undecided) as u16;
        if moved == 0 {
            return false;
        }
        // The flags must be seen by the driver before we read whether it wants to hear of them; it does the reverse.
        fence(Ordering::SeqCst);
        match self.driver_event.load(FLAGS, Ordering::Acquire) & 3 {
            RING_EVENT_FLAGS_DISABLE => false,
            RING_EVENT_FLAGS_DESC if self.event_idx => {
                let event = self.driver_event.load(EVENT, Ordering::Relaxed);
                let Position { slot, wrap } = self.next_used;
                passed_packed_event(event, slot, wrap, moved, self.reach.size)
            }
            _ => true,
        }
    }

    fn arm(&mut self) -> bool {
        let flags = if self.event_idx {
            self.device_event.store(EVENT, self.next_available.to_bits(), Ordering::Relaxed);
            RING_EVENT_FLAGS_DESC
        } else {
            RING_EVENT_FLAGS_ENABLE
        };
        self.device_event.store(FLAGS, flags, Ordering::Release);
        fence(Ordering::SeqCst);
        self.available(self.next_available).is_some()
    }

    fn disarm(&mut self) {
        self.device_event.store(FLAGS, RING_EVENT_FLAGS_DISABLE, Ordering::Relaxed);
    }

    fn base(&self) -> u32 {
        u32::from(self.next_used.to_bits()) * 0x1_0001
    }

    fn outstanding(&self) -> u32 {
        self.reach.outstanding
    }

    fn size(&self) -> u16 {
        self.reach.size
    }

    fn misses(&self) -> bool {
        self.reach.misses
    }

    fn put_back(&mut self, chain: &Chain) {
        self.next_available.retreat(chain.descriptors, self.reach.size);
        self.reach.outstanding -= u32::from(chain.descriptors);
        self.longer -= u32::from(chain.descriptors > 1);
    }

    fn memory(&self) -> &GuestMemory {
        &self.reach.memory
    }

    fn log_written(&self, part: Span) {
        if let Some((log, gpa)) = self.log.as_ref().zip(self.reach.memory.gpa_of(part)) {
            log.mark(gpa, u64::from(part.len_bytes()));
        }
    }

    #[inline]
    fn is_logging(&self) -> bool {
        self.log.is_some()
    }

    fn call(&mut self) -> &mut Notifier {
        &mut self.call
    }

    fn kick(&self) -> &Notifier {
        &self.kick
    }
}
