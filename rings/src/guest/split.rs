//! The split layout, driver's side. ("Split Virtqueues")

use std::mem::take;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::fence;

use super::flight::{Chain, Free, Used, check};
use super::ram::Words;
use super::{
    Addresses, Buffer, Completed, Descriptor, Fault, INDIRECT_MAX, Layout, Options, Ram, Refused, SIZE_MAX, SetupError,
    Virtqueue, place,
};

const DESCRIPTOR_BYTES: u64 = 16;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// A virtqueue on the split layout.
#[derive(Debug)]
pub struct Driver {
    /// addr; len, flags << 32, next << 48; and so on.
    table: Words<u64>,
    /// flags, idx, ring, used_event.
    available: Words<u16>,
    /// flags, idx, ring, avail_event.
    used: Words<u16>,
    /// flags and idx, then the ring: id, len; and so on.
    used_ring: Words<u32>,
    addresses: Addresses,
    options: Options,
    size: u16,
    ram: Arc<Ram>,
    /// Indirect tables, one per head, each of `indirect_max` descriptors.
    tables_gpa: u64,
    indirect_max: u16,

    free: Free,
    /// By head.
    chains: Box<[Chain]>,
    /// By descriptor: what follows it in its chain.
    next: Box<[u16]>,
    /// By available ring entry: our copy of what we put there.
    heads: Box<[u16]>,
    /// Where the next head goes, made available or not.
    offered_idx: u16,
    avail_idx: u16,
    last_used: u16,
    /// The entry that ends an in-order batch, while the chains before its own are collected.
    batch: Option<Used>,
    fault: Option<Fault>,
    /// Chains published since `needs_kick` was last asked.
    unnotified: u32,
    /// With event index: `used_event` is what it was set to when nothing was wanted.
    suppressed_at: Option<u16>,
}

impl Driver {
    pub(super) fn new(ram: &Arc<Ram>, size: u16, options: Options) -> Result<Self, SetupError> {
        if !size.is_power_of_two() || size > SIZE_MAX {
            return Err(SetupError::Size { layout: Layout::Split, size });
        }
        let count = usize::from(size);
        let indirect_max = if options.indirect { size.min(INDIRECT_MAX) } else { 0 };
        let addresses = Addresses {
            descriptor: place(ram, 16 * u64::from(size), 16, options.tight)?,
            driver: place(ram, 6 + 2 * u64::from(size), 2, options.tight)?,
            device: place(ram, 6 + 8 * u64::from(size), 4, options.tight)?,
        };
        Ok(Self {
            table: Words::new(ram, addresses.descriptor, 2 * count),
            available: Words::new(ram, addresses.driver, 3 + count),
            used: Words::new(ram, addresses.device, 3 + 4 * count),
            used_ring: Words::new(ram, addresses.device, 1 + 2 * count),
            addresses,
            options,
            size,
            ram: Arc::clone(ram),
            tables_gpa: ram.alloc(u64::from(size) * u64::from(indirect_max) * DESCRIPTOR_BYTES, 16)?,
            indirect_max,
            free: Free::new(size),
            chains: vec![Chain::default(); count].into(),
            next: vec![0; count].into(),
            heads: vec![0; count].into(),
            offered_idx: 0,
            avail_idx: 0,
            last_used: 0,
            batch: None,
            fault: None,
            unnotified: 0,
            suppressed_at: None,
        })
    }

    pub(super) fn size(&self) -> u16 {
        self.size
    }

    pub(super) fn options(&self) -> Options {
        self.options
    }

    pub(super) fn addresses(&self) -> Addresses {
        self.addresses
    }

    #[inline]
    pub(super) fn free(&self) -> usize {
        self.free.count()
    }

    pub(super) fn in_flight(&self) -> usize {
        usize::from(self.offered_idx.wrapping_sub(self.last_used))
    }

    pub(super) fn offer(&mut self, chain: &[Buffer], token: u32) -> Result<(), Refused> {
        self.room_for(chain.len())?;
        let last = chain.len() - 1;
        let descriptors = chain.iter().enumerate().map(|(i, buffer)| {
            let flags = write_flag(buffer) | if i < last { NEXT } else { 0 };
            Descriptor { gpa: buffer.gpa, len_bytes: buffer.len_bytes, flags, link: None }
        });
        self.lay(descriptors, writable_bytes(chain), token);
        Ok(())
    }

    pub(super) fn offer_indirect(&mut self, direct: &[Buffer], table: &[Buffer], token: u32) -> Result<(), Refused> {
        if self.indirect_max == 0 {
            return Err(Refused::NotNegotiated("an indirect table"));
        }
        if table.is_empty() || table.len() > usize::from(self.indirect_max) {
            return Err(Refused::Length { count: table.len(), max: usize::from(self.indirect_max) });
        }
        // A chain is never longer than the queue, wherever its descriptors are.
        if direct.len() + table.len() > usize::from(self.size) {
            return Err(Refused::Length { count: direct.len() + table.len(), max: usize::from(self.size) });
        }
        self.room_for(direct.len() + 1)?;
        // The table goes by the chain's head, which is known before it is laid.
        let head = self.free.first();
        let gpa = self.tables_gpa + u64::from(head) * u64::from(self.indirect_max) * DESCRIPTOR_BYTES;
        for (i, buffer) in (0_u16..).zip(table) {
            let more = usize::from(i) + 1 < table.len();
            let (flags, next) = if more { (write_flag(buffer) | NEXT, i + 1) } else { (write_flag(buffer), 0) };
            self.ram.write_u64(gpa + u64::from(i) * DESCRIPTOR_BYTES, buffer.gpa);
            self.ram.write_u64(gpa + u64::from(i) * DESCRIPTOR_BYTES + 8, word(buffer.len_bytes, flags, next));
        }
        let len_bytes = table.len() as u32 * DESCRIPTOR_BYTES as u32;
        let descriptors = direct
            .iter()
            .map(|b| Descriptor { gpa: b.gpa, len_bytes: b.len_bytes, flags: write_flag(b) | NEXT, link: None })
            .chain([Descriptor { gpa, len_bytes, flags: INDIRECT, link: None }]);
        self.lay(descriptors, writable_bytes(direct).saturating_add(writable_bytes(table)), token);
        Ok(())
    }

    pub(super) fn offer_raw(&mut self, chain: &[Descriptor], token: u32) -> Result<(), Refused> {
        self.room_for(chain.len())?;
        self.lay(chain.iter().copied(), u32::MAX, token);
        Ok(())
    }

    #[inline]
    pub(super) fn needs_kick(&mut self) -> bool {
        let fresh = take(&mut self.unnotified);
        if fresh == 0 {
            return false;
        }
        // The index is out before the device's wish is read; the device does the two the other way round. ("Notifying The Device")
        fence(SeqCst);
        if !self.options.event_idx {
            return self.used.load(0, Relaxed) & 1 == 0;
        }
        let avail_event = self.used.load(2 + 4 * usize::from(self.size), Relaxed);
        u32::from(self.avail_idx.wrapping_sub(1).wrapping_sub(avail_event)) < fresh
    }

    pub(super) fn suppress_interrupts(&mut self) {
        if self.options.event_idx {
            // As far off as can be: after 65535 more.
            self.suppressed_at = Some(self.last_used);
            self.set_used_event(self.last_used.wrapping_sub(1));
        } else {
            self.available.store(0, 1, Relaxed);
        }
    }

    pub(super) fn enable_interrupts(&mut self) -> bool {
        self.suppressed_at = None;
        if self.options.event_idx {
            self.set_used_event(self.last_used);
        } else {
            self.available.store(0, 0, Relaxed);
        }
        // The wish is out before the index is read again; the device does the two the other way round.
        fence(SeqCst);
        self.used.load(1, Acquire) != self.last_used
    }

    /// What the next chain's head or id will be.
    pub(super) fn next_id(&self) -> u16 {
        self.free.first()
    }

    pub(super) fn available_index(&self) -> u16 {
        self.avail_idx
    }

    pub(super) fn used_index(&self) -> u16 {
        self.last_used
    }

    /// Puts a head into the available ring.
    pub(super) fn enter(&mut self, head: u16) {
        self.set_entry(self.offered_idx, head);
        self.offered_idx = self.offered_idx.wrapping_add(1);
    }

    #[inline(always)]
    fn set_entry(&mut self, idx: u16, head: u16) {
        let position = usize::from(idx & (self.size - 1));
        self.heads[position] = head;
        // A line that stays as it was stays in the device's cache.
        if self.available.load(2 + position, Relaxed) != head {
            self.available.store(2 + position, head, Relaxed);
        }
    }

    fn room_for(&self, needed: usize) -> Result<(), Refused> {
        match (needed, self.free()) {
            (0, _) => Err(Refused::Length { count: 0, max: usize::from(self.size) }),
            (n, _) if n > usize::from(self.size) => Err(Refused::Length { count: n, max: usize::from(self.size) }),
            (n, free) if n > free => Err(Refused::Full { needed, free }),
            _ => Ok(()),
        }
    }

    /// Writes a chain's descriptors and enters it. There must be room.
    fn lay(&mut self, chain: impl Iterator<Item = Descriptor>, writable_bytes: u32, token: u32) {
        let mut chain = chain.peekable();
        let head = self.free.first();
        let mut count = 0;
        while let Some(descriptor) = chain.next() {
            let here = self.free.take();
            let next = if chain.peek().is_some() { self.free.first() } else { 0 };
            let link = descriptor.link.unwrap_or(next);
            self.table.store(2 * usize::from(here), descriptor.gpa, Relaxed);
            self.table.store(2 * usize::from(here) + 1, word(descriptor.len_bytes, descriptor.flags, link), Relaxed);
            self.next[usize::from(here)] = next;
            count += 1;
        }
        self.chains[usize::from(head)] = Chain { token, writable_bytes, count };
        self.enter(head);
    }

    /// Collects until `used_idx` is reached, or `max`, or there is a fault.
    #[inline(always)]
    fn collect_run<const IN_ORDER: bool>(
        &mut self,
        max: usize,
        used_idx: u16,
        mut each: impl FnMut(Completed),
    ) -> usize {
        let room = usize::from(used_idx.wrapping_sub(self.last_used)).min(max);
        let mut free = take(&mut self.free);
        let mut last_used = self.last_used;
        let mut count = 0;
        while count < room {
            let Used { id, len_bytes } = match IN_ORDER {
                false => self.read_used(last_used),
                true => match self.used_in_order(last_used, used_idx) {
                    Ok(used) => used,
                    Err(fault) => {
                        self.stop(fault);
                        break;
                    }
                },
            };
            let Some(chain) = self.chains.get_mut(id as usize) else {
                self.stop(Fault::UnknownId { id });
                break;
            };
            let Chain { token, writable_bytes, count: descriptors } = *chain;
            chain.count = 0;
            let id = id as u16;
            if descriptors == 1 && len_bytes <= writable_bytes {
                free.put(id);
            } else if let Some(fault) = check(id, len_bytes, writable_bytes, descriptors) {
                self.stop(fault);
                break;
            } else {
                free = self.free_chain(free, id, descriptors);
            }
            each(Completed { token, len_bytes, id });
            last_used = last_used.wrapping_add(1);
            count += 1;
        }
        self.free = free;
        self.last_used = last_used;
        count
    }

    #[inline(always)]
    fn read_used(&self, last_used: u16) -> Used {
        let position = usize::from(last_used & (self.size - 1));
        let [id, len_bytes] = self.used_ring.load_two(1 + 2 * position, Relaxed);
        Used { id, len_bytes }
    }

    /// One entry, at the place of the first chain, may stand for all up to its own. ("In-order use of descriptors")
    #[inline(always)]
    fn used_in_order(&mut self, last_used: u16, used_idx: u16) -> Result<Used, Fault> {
        let last = match self.batch.take() {
            Some(last) => last,
            None => self.read_used(last_used),
        };
        let id = u32::from(self.heads[usize::from(last_used & (self.size - 1))]);
        if id == last.id {
            return Ok(last);
        }
        if self.chains.get(last.id as usize).is_none_or(|chain| chain.count == 0) {
            return Err(Fault::UnknownId { id: last.id });
        }
        if last_used.wrapping_add(1) == used_idx {
            return Err(Fault::OutOfOrder { id: last.id as u16 });
        }
        self.batch = Some(last);
        Ok(Used { id, len_bytes: self.chains[id as usize].writable_bytes })
    }

    #[inline(never)]
    fn free_chain(&self, mut free: Free, head: u16, count: u16) -> Free {
        let mut descriptor = head;
        for _ in 0..count {
            free.put(descriptor);
            descriptor = self.next[usize::from(descriptor)];
        }
        free
    }

    #[cold]
    #[inline(never)]
    fn stop(&mut self, fault: Fault) {
        self.fault = Some(fault);
    }

    fn set_used_event(&self, idx: u16) {
        self.available.store(2 + usize::from(self.size), idx, Relaxed);
    }
}

impl Virtqueue for Driver {
    #[inline]
    fn offer_each(&mut self, max: usize, mut make: impl FnMut(u16) -> Option<(Buffer, u32)>) -> usize {
        let mut free = take(&mut self.free);
        let room = free.count().min(max);
        let mut idx = self.offered_idx;
        let mut count = 0;
        while count < room {
            let head = free.first();
            let Some((buffer, token)) = make(head) else { break };
            free.take();
            let writable_bytes = if buffer.writable { buffer.len_bytes } else { 0 };
            self.table.store(2 * usize::from(head), buffer.gpa, Relaxed);
            self.table.store(2 * usize::from(head) + 1, word(buffer.len_bytes, write_flag(&buffer), 0), Relaxed);
            self.chains[usize::from(head)] = Chain { token, writable_bytes, count: 1 };
            self.set_entry(idx, head);
            idx = idx.wrapping_add(1);
            count += 1;
        }
        self.free = free;
        self.offered_idx = idx;
        count
    }

    #[inline]
    fn publish(&mut self) {
        let fresh = self.offered_idx.wrapping_sub(self.avail_idx);
        if fresh == 0 {
            return;
        }
        self.avail_idx = self.offered_idx;
        // Release: whoever sees the index sees descriptors, ring entries and buffers. ("Updating idx")
        self.available.store(1, self.avail_idx, Release);
        self.unnotified = self.unnotified.saturating_add(u32::from(fresh));
    }

    #[inline]
    fn collect_each(&mut self, max: usize, each: impl FnMut(Completed)) -> Result<usize, Fault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        // Acquire: seeing the index, we see the entries and what is in the buffers.
        let used_idx = self.used.load(1, Acquire);
        let in_flight = self.avail_idx.wrapping_sub(self.last_used);
        if used_idx.wrapping_sub(self.last_used) > in_flight {
            let fault = Fault::UsedTooFar { used_idx, last_used: self.last_used, in_flight };
            self.stop(fault);
            return Err(fault);
        }
        let count = match self.options.in_order {
            false => self.collect_run::<false>(max, used_idx, each),
            true => self.collect_run::<true>(max, used_idx, each),
        };
        // Half the index's range on, the event that nobody wanted would come into sight again.
        if self.suppressed_at.is_some_and(|at| self.last_used.wrapping_sub(at) >= 1 << 15) {
            self.suppress_interrupts();
        }
        match self.fault {
            Some(fault) if count == 0 => Err(fault),
            _ => Ok(count),
        }
    }
}

/// A descriptor's second half: len, flags, next.
#[inline]
fn word(len_bytes: u32, flags: u16, next: u16) -> u64 {
    u64::from(len_bytes) | u64::from(flags) << 32 | u64::from(next) << 48
}

#[inline]
fn write_flag(buffer: &Buffer) -> u16 {
    if buffer.writable { WRITE } else { 0 }
}

fn writable_bytes(chain: &[Buffer]) -> u32 {
    chain.iter().filter(|buffer| buffer.writable).fold(0, |sum, buffer| sum.saturating_add(buffer.len_bytes))
}
