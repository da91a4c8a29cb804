//! "Split Virtqueues", the device's side. Read beside [`crate::packed`]: the same functions in the same order.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use crate::chain::{ASKED_AHEAD, Chain, PartStore, Reach};
use crate::inflight;
use crate::memory::area::{AvailableRing, Descriptor, DescriptorArea, UsedElements, WordArea};
use crate::memory::{DirtyLog, GuestMemory, Span};
use crate::notify::{Notifier, passed_event};
use crate::setup::{Layout, QueueSetup, SetupError};
use crate::spec::virtq::*;
use crate::violation::Violation;
use crate::virtqueue::{Taken, Used, Virtqueue};

/// Words of the available ring: flags, idx, ring, used_event.
const FLAGS: u32 = 0;
const IDX: u32 = 1;
const RING: u32 = 2;

/// A split queue.
#[derive(Debug)]
pub struct Queue {
    descriptors: DescriptorArea,
    available: WordArea,
    available_ring: AvailableRing,
    used: WordArea,
    used_elements: UsedElements,
    /// The next available entry to take.
    next_available: u16,
    /// The driver's index as last read.
    available_idx: u16,
    /// The next used entry to write; everything before it is published.
    next_used: u16,
    /// The used index when a notification was last decided on.
    decided_at: u16,
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
        let [descriptors, available, used] = setup.areas(&mut reach)?;
        let logged = setup.logged(&reach.memory);
        let (descriptors, available_ring) = (DescriptorArea::new(descriptors), AvailableRing::new(available, size));
        let (available, used_elements, used) =
            (WordArea::new(available), UsedElements::new(used, size), WordArea::new(used));
        // Whatever the base says: what the ring shows as used is used, and what follows is not.
        let next_used = used.load(IDX, Ordering::Acquire);
        let mut queue = Queue {
            descriptors,
            available,
            available_ring,
            used,
            used_elements,
            next_available: next_used,
            available_idx: next_used,
            next_used,
            decided_at: next_used,
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

    /// Keeps `region` up to date from now on. The ring itself tells where to go on.
    pub(crate) fn resume_from(&mut self, region: inflight::Region) {
        region.split_used(self.next_used);
        self.inflight = Some(region);
    }

    /// Chains that are available, from the cached index as long as it has some.
    #[inline(always)]
    fn available(&mut self, room: usize) -> Result<u16, Violation> {
        let mut ahead = self.available_idx.wrapping_sub(self.next_available);
        if usize::from(ahead) < room {
            // Acquire: entries and descriptors below the index are seen after it.
            self.available_idx = self.available.load(IDX, Ordering::Acquire);
            ahead = self.available_idx.wrapping_sub(self.next_available);
            if u32::from(ahead) + self.reach.outstanding > u32::from(self.reach.size) {
                return Err(Violation::AvailableIndexTooFar { ahead, size: self.reach.size });
            }
        }
        Ok(ahead)
    }

    /// Takes chains of one descriptor in one region, which goes the usual way, for as long as there are no others. How many.
    #[inline(always)]
    fn take_plain(&mut self, chains: &mut [Chain]) -> usize {
        let Queue { descriptors, available_ring, reach, next_available, .. } = self;
        let (descriptors, available_ring) = (*descriptors, *available_ring); // in registers, whatever is stored to chains
        const OF_INTEREST: u16 = VIRTQ_DESC_F_NEXT | VIRTQ_DESC_F_INDIRECT | VIRTQ_DESC_F_WRITE;
        let usual = reach.usual();
        let mut count = 0;
        for chain in chains {
            let head = available_ring.load(next_available.wrapping_add(count));
            let Some(descriptor) = descriptors.load(head) else { break };
            let [flags, _] = descriptor.halves;
            if flags & OF_INTEREST != usual.flags || !chain.set_plain(&usual, descriptor, head) {
                break;
            }
            count += 1;
        }
        *next_available = next_available.wrapping_add(count);
        reach.outstanding += u32::from(count);
        usize::from(count)
    }

    /// Takes a chain of another kind; `false` if it must wait, for a list or for a translation.
    #[inline(never)]
    fn take_other(&mut self, chain: &mut Chain, store: &mut PartStore) -> Result<bool, Violation> {
        let head = self.available_ring.load(self.next_available);
        let size = self.reach.size;
        let first = self.descriptors.load(head).ok_or(Violation::HeadPastTable { head, size })?;
        if store.available() == 0 {
            return Ok(false);
        }
        *chain = Chain { id: head, descriptors: 1, ..Chain::default() };
        self.reach.misses = false;
        let walked = self.walk(chain, store, first);
        if walked.is_err() || self.reach.misses {
            self.ask_ahead();
            store.give_back(chain.parts.take_list());
            return walked.map(|()| false);
        }
        self.next_available = self.next_available.wrapping_add(1);
        self.reach.outstanding += 1;
        Ok(true)
    }

    /// Where a chain waits for a translation, so may those behind it.
    #[cold]
    fn ask_ahead(&self) {
        let available = self.available_idx.wrapping_sub(self.next_available);
        for ahead in 1..available.min(ASKED_AHEAD) {
            let head = self.available_ring.load(self.next_available.wrapping_add(ahead));
            if let Some(Descriptor { addr, halves: [flags, _], .. }) = self.descriptors.load(head) {
                self.reach.ask_for(addr, flags);
            }
        }
    }

    fn walk(&mut self, chain: &mut Chain, store: &mut PartStore, mut descriptor: Descriptor) -> Result<(), Violation> {
        let size = self.reach.size;
        for walked in 0..size {
            let [flags, next] = descriptor.halves;
            if flags & VIRTQ_DESC_F_INDIRECT != 0 {
                return self.reach.table(store, chain, descriptor, Layout::Split, walked);
            }
            self.reach.add(store, chain, descriptor.addr, descriptor.len, flags);
            if flags & VIRTQ_DESC_F_NEXT == 0 {
                return Ok(());
            }
            descriptor = self.descriptors.load(next).ok_or(Violation::NextPastTable { next, size })?;
        }
        Err(Violation::ChainTooLong { limit: size })
    }
}

impl Virtqueue for Queue {
    #[inline(always)]
    fn take_available(&mut self, chains: &mut [Chain], store: &mut PartStore) -> Taken {
        let available = match self.available(chains.len()) {
            Ok(available) => usize::from(available),
            Err(violation) => return Taken { count: 0, violation: Some(violation) },
        };
        let room = available.min(chains.len());
        let chains = &mut chains[..room];
        let mut count = 0;
        loop {
            count += self.take_plain(&mut chains[count..]);
            if count == room {
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
        let Some(last) = used.last() else { return };
        if self.in_order && self.reach.only_reads {
            // "In-order use of descriptors": one element with the last id stands for all: none has a length to tell.
            self.used_elements.store(self.next_used, last.id, 0);
        } else {
            let elements = self.used_elements;
            for (&Used { id, len_bytes, .. }, index) in used.iter().zip(u32::from(self.next_used)..) {
                elements.store(index as u16, id, len_bytes);
            }
        }
        self.next_used = self.next_used.wrapping_add(used.len() as u16);
        // Release: elements, and what was copied into the buffers, are seen before the index.
        self.used.store(IDX, self.next_used, Ordering::Release);
        if let Some(inflight) = &self.inflight {
            inflight.split_used(self.next_used);
        }
        debug_assert!(self.reach.outstanding >= used.len() as u32);
        self.reach.outstanding -= used.len() as u32;
        if let Some(log) = &self.log {
            self.logged.iter().for_each(|(gpa, len_bytes)| log.mark(*gpa, *len_bytes));
        }
    }

    #[inline]
    fn wants_notification(&mut self) -> bool {
        let old = std::mem::replace(&mut self.decided_at, self.next_used);
        if old == self.next_used {
            return false;
        }
        // The index must be seen by the driver before we read whether it wants to hear of it; it does the reverse.
        fence(Ordering::SeqCst);
        if self.event_idx {
            let used_event = self.available.load(RING + u32::from(self.reach.size), Ordering::Relaxed);
            passed_event(used_event, self.next_used, old)
        } else {
            self.available.load(FLAGS, Ordering::Relaxed) & VIRTQ_AVAIL_F_NO_INTERRUPT == 0
        }
    }

    fn arm(&mut self) -> bool {
        if self.event_idx {
            let avail_event = RING + 4 * u32::from(self.reach.size);
            self.used.store(avail_event, self.next_available, Ordering::Relaxed);
        }
        self.used.store(FLAGS, 0, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.available.load(IDX, Ordering::Relaxed) != self.next_available
    }

    fn disarm(&mut self) {
        // With event indices the flag means nothing, and an event that stays behind is reached once in 65536 chains.
        self.used.store(FLAGS, VIRTQ_USED_F_NO_NOTIFY, Ordering::Relaxed);
        if self.event_idx {
            let avail_event = RING + 4 * u32::from(self.reach.size);
            self.used.store(avail_event, self.next_available.wrapping_sub(1), Ordering::Relaxed);
        }
    }

    fn base(&self) -> u32 {
        u32::from(self.next_used)
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

    fn put_back(&mut self, _chain: &Chain) {
        self.next_available = self.next_available.wrapping_sub(1);
        self.reach.outstanding -= 1;
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
