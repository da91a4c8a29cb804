//! The packed layout, driver's side. ("Packed Virtqueues")

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
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

const EVENTS_ENABLE: u16 = 0;
const EVENTS_DISABLE: u16 = 1;
const EVENTS_DESC: u16 = 2;

/// What stands as id where no id belongs: no queue is large enough to have it.
const NO_ID: u16 = 0xffff;

/// A virtqueue on the packed layout.
#[derive(Debug)]
pub struct Driver {
    /// addr; len, id << 32, flags << 48; and so on.
    ring: Words<u64>,
    /// What we want of the device: desc, flags << 16.
    driver_events: Words<u32>,
    /// What the device wants of us: the same.
    device_events: Words<u32>,
    addresses: Addresses,
    options: Options,
    size: u16,
    ram: Arc<Ram>,
    /// Indirect tables, one per buffer id, each of `indirect_max` descriptors.
    tables_gpa: u64,
    indirect_max: u16,

    free_ids: Free,
    free_descriptors: u16,
    /// By buffer id.
    chains: Box<[Chain]>,
    /// By offset in the ring: the id of the chain that starts there.
    ids: Box<[u16]>,
    /// Where the next descriptor goes, made available or not.
    offered: Position,
    avail: Position,
    used: Position,
    /// The first descriptor offered since `publish`: its offset, and its second half that makes all of them available.
    held: Option<(u16, u64)>,
    /// The descriptor that ends an in-order batch, while the chains before its own are collected.
    batch: Option<Used>,
    fault: Option<Fault>,
    /// Descriptors published since `needs_kick` was last asked.
    unnotified: u32,
}

/// An offset in the ring and the wrap counter that goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Position {
    offset: u16,
    wrap: bool,
}

impl Position {
    const START: Self = Self { offset: 0, wrap: true };

    #[inline(always)]
    fn step(&mut self, size: u16) {
        self.offset += 1;
        if self.offset == size {
            *self = Self { offset: 0, wrap: !self.wrap };
        }
    }

    fn advance(&mut self, count: u16, size: u16) {
        // At most size - 1 + size: fits.
        let offset = self.offset + count;
        if offset >= size {
            self.offset = offset - size;
            self.wrap = !self.wrap;
        } else {
            self.offset = offset;
        }
    }

    /// As the event suppression structures and notifications have it.
    fn encode(self) -> u16 {
        self.offset | u16::from(self.wrap) << 15
    }

    /// Descriptors from here to `end`, which is less than two laps on.
    fn until(self, end: Self, size: u16) -> u32 {
        // With the two laps laid one after the other, positions are numbers modulo twice the size.
        let size = u32::from(size);
        let number = |position: Self| u32::from(position.offset) + if position.wrap { 0 } else { size };
        let distance = number(end) + 2 * size - number(self);
        if distance >= 2 * size { distance - 2 * size } else { distance }
    }
}

impl Driver {
    pub(super) fn new(ram: &Arc<Ram>, size: u16, options: Options) -> Result<Self, SetupError> {
        if size == 0 || size > SIZE_MAX {
            return Err(SetupError::Size { layout: Layout::Packed, size });
        }
        let count = usize::from(size);
        let indirect_max = if options.indirect { size.min(INDIRECT_MAX) } else { 0 };
        let addresses = Addresses {
            descriptor: place(ram, 16 * u64::from(size), 16, options.tight)?,
            driver: place(ram, 4, 4, options.tight)?,
            device: place(ram, 4, 4, options.tight)?,
        };
        Ok(Self {
            ring: Words::new(ram, addresses.descriptor, 2 * count),
            driver_events: Words::new(ram, addresses.driver, 1),
            device_events: Words::new(ram, addresses.device, 1),
            addresses,
            options,
            size,
            ram: Arc::clone(ram),
            tables_gpa: ram.alloc(u64::from(size) * u64::from(indirect_max) * DESCRIPTOR_BYTES, 16)?,
            indirect_max,
            free_ids: Free::new(size),
            free_descriptors: size,
            chains: vec![Chain::default(); count].into(),
            ids: vec![0; count].into(),
            offered: Position::START,
            avail: Position::START,
            used: Position::START,
            held: None,
            batch: None,
            fault: None,
            unnotified: 0,
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
        usize::from(self.free_descriptors)
    }

    pub(super) fn in_flight(&self) -> usize {
        usize::from(self.size) - self.free_ids.count()
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
        if !direct.is_empty() {
            return Err(Refused::NotNegotiated("a chain of direct descriptors that ends in an indirect one"));
        }
        // A chain is never longer than the queue, wherever its descriptors are.
        if table.is_empty() || table.len() > usize::from(self.indirect_max) {
            return Err(Refused::Length { count: table.len(), max: usize::from(self.indirect_max) });
        }
        self.room_for(1)?;
        // The table goes by the chain's id, which is known before it is laid.
        let id = self.free_ids.first();
        let gpa = self.tables_gpa + u64::from(id) * u64::from(self.indirect_max) * DESCRIPTOR_BYTES;
        for (i, buffer) in (0_u64..).zip(table) {
            // Elements follow one another; no flag but WRITE has a meaning.
            self.ram.write_u64(gpa + i * DESCRIPTOR_BYTES, buffer.gpa);
            self.ram.write_u64(gpa + i * DESCRIPTOR_BYTES + 8, word(buffer.len_bytes, NO_ID, write_flag(buffer)));
        }
        let len_bytes = table.len() as u32 * DESCRIPTOR_BYTES as u32;
        let descriptor = Descriptor { gpa, len_bytes, flags: INDIRECT, link: None };
        self.lay([descriptor].into_iter(), writable_bytes(table), token);
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
        // Descriptors are out before the device's wish is read; the device does the two the other way round.
        // ("Sending Available Buffer Notifications")
        fence(SeqCst);
        let events = self.device_events.load(0, Relaxed);
        match (events >> 16) as u16 & 3 {
            EVENTS_ENABLE => true,
            EVENTS_DISABLE => false,
            EVENTS_DESC if self.options.event_idx => {
                let event = Position { offset: events as u16 & 0x7fff, wrap: events & 1 << 15 != 0 };
                // An offset past the ring never comes; a notification too many does no harm.
                // It was passed if it is one of the `fresh` descriptors before `avail`. An offset past the ring never comes;
                // a notification too many does no harm.
                let ago = if event.offset < self.size { event.until(self.avail, self.size) } else { 1 };
                (1..=fresh).contains(&ago) || fresh >= 2 * u32::from(self.size)
            }
            _ => true, // not for this queue, or reserved
        }
    }

    pub(super) fn suppress_interrupts(&mut self) {
        self.driver_events.store(0, u32::from(EVENTS_DISABLE) << 16, Relaxed);
    }

    pub(super) fn enable_interrupts(&mut self) -> bool {
        // One store, so that the device never sees a new flag with an old position.
        let events = if self.options.event_idx {
            u32::from(EVENTS_DESC) << 16 | u32::from(self.used.encode())
        } else {
            u32::from(EVENTS_ENABLE) << 16
        };
        self.driver_events.store(0, events, Relaxed);
        // The wish is out before the ring is read again; the device does the two the other way round.
        fence(SeqCst);
        self.batch.is_some() || self.used_at(self.used).is_some()
    }

    /// What the next chain's head or id will be.
    pub(super) fn next_id(&self) -> u16 {
        self.free_ids.first()
    }

    pub(super) fn available_index(&self) -> u16 {
        self.avail.encode()
    }

    pub(super) fn used_index(&self) -> u16 {
        self.used.encode()
    }

    /// Writes a descriptor; the first since `publish` keeps its second half back.
    #[inline(always)]
    fn set_descriptor(&mut self, at: Position, gpa: u64, len_bytes: u32, id: u16, flags: u16) {
        let available = if at.wrap { AVAIL } else { USED };
        let word = word(len_bytes, id, flags ^ available);
        self.ring.store(2 * usize::from(at.offset), gpa, Relaxed);
        if self.held.is_some() {
            self.ring.store(2 * usize::from(at.offset) + 1, word, Relaxed);
        } else {
            self.held = Some((at.offset, word));
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

    /// Writes a chain's descriptors. There must be room.
    fn lay(&mut self, chain: impl Iterator<Item = Descriptor>, writable_bytes: u32, token: u32) {
        let mut chain = chain.peekable();
        let id = self.free_ids.take();
        self.ids[usize::from(self.offered.offset)] = id;
        let mut count = 0;
        while let Some(descriptor) = chain.next() {
            // The id is in the last descriptor. ("Next Flag: Descriptor Chaining")
            let own = if chain.peek().is_some() { NO_ID } else { id };
            let link = descriptor.link.unwrap_or(own);
            self.set_descriptor(self.offered, descriptor.gpa, descriptor.len_bytes, link, descriptor.flags);
            self.offered.step(self.size);
            count += 1;
        }
        self.free_descriptors -= count;
        self.chains[usize::from(id)] = Chain { token, writable_bytes, count };
    }

    /// Collects until a descriptor is not used, or `max`, or there is a fault.
    #[inline(always)]
    fn collect_run<const IN_ORDER: bool>(&mut self, max: usize, mut each: impl FnMut(Completed)) -> usize {
        let mut free_ids = take(&mut self.free_ids);
        let mut at = self.used;
        let mut freed = 0;
        let mut count = 0;
        while count < max {
            let used = match IN_ORDER {
                false => self.used_at(at),
                true => match self.used_in_order(at) {
                    Ok(used) => used,
                    Err(fault) => {
                        self.stop(fault);
                        break;
                    }
                },
            };
            let Some(Used { id, len_bytes }) = used else { break };
            let Some(chain) = self.chains.get_mut(id as usize) else {
                self.stop(Fault::UnknownId { id });
                break;
            };
            let Chain { token, writable_bytes, count: descriptors } = *chain;
            chain.count = 0;
            let id = id as u16;
            if descriptors == 1 && len_bytes <= writable_bytes {
                // A guess that the next descriptor is the next one, so that it is loaded before we know.
                at.step(self.size);
            } else if let Some(fault) = check(id, len_bytes, writable_bytes, descriptors) {
                self.stop(fault);
                break;
            } else {
                at.advance(descriptors, self.size);
                freed += descriptors - 1;
            }
            free_ids.put(id);
            each(Completed { token, len_bytes, id });
            count += 1;
        }
        // Having seen flags, we see what is in the buffers; the rest of a descriptor came with its flags, in one word.
        fence(Acquire);
        self.used = at;
        self.free_descriptors += freed + count as u16;
        self.free_ids = free_ids;
        count
    }

    /// What the descriptor at a position says, if it is a used one.
    #[inline(always)]
    fn used_at(&self, at: Position) -> Option<Used> {
        let word = self.ring.load(2 * usize::from(at.offset) + 1, Relaxed);
        let flags = (word >> 48) as u16;
        // Both bits equal the wrap counter. What was used a lap ago has them the other way round, as has zeroed memory.
        if flags & (AVAIL | USED) != if at.wrap { AVAIL | USED } else { 0 } {
            return None;
        }
        // Without the WRITE flag there is no length.
        Some(Used { id: u32::from((word >> 32) as u16), len_bytes: if flags & WRITE != 0 { word as u32 } else { 0 } })
    }

    /// One descriptor, at the place of the first chain's, may stand for all up to its own. ("In-order use of descriptors")
    #[inline(always)]
    fn used_in_order(&mut self, at: Position) -> Result<Option<Used>, Fault> {
        let last = match self.batch.take() {
            Some(last) => last,
            None => match self.used_at(at) {
                Some(last) => last,
                None => return Ok(None),
            },
        };
        let id = u32::from(self.ids[usize::from(at.offset)]);
        if id == last.id {
            return Ok(Some(last));
        }
        if self.chains.get(last.id as usize).is_none_or(|chain| chain.count == 0) {
            return Err(Fault::UnknownId { id: last.id });
        }
        let chain = self.chains[id as usize];
        if chain.count == 0 {
            return Err(Fault::OutOfOrder { id: last.id as u16 });
        }
        self.batch = Some(last);
        Ok(Some(Used { id, len_bytes: chain.writable_bytes }))
    }

    #[cold]
    #[inline(never)]
    fn stop(&mut self, fault: Fault) {
        self.fault = Some(fault);
    }
}

impl Virtqueue for Driver {
    #[inline]
    fn offer_each(&mut self, max: usize, mut make: impl FnMut(u16) -> Option<(Buffer, u32)>) -> usize {
        let mut free_ids = take(&mut self.free_ids);
        let room = self.free().min(max);
        let mut at = self.offered;
        let mut count = 0;
        while count < room {
            let id = free_ids.first();
            let Some((buffer, token)) = make(id) else { break };
            free_ids.take();
            let writable_bytes = if buffer.writable { buffer.len_bytes } else { 0 };
            self.chains[usize::from(id)] = Chain { token, writable_bytes, count: 1 };
            self.ids[usize::from(at.offset)] = id;
            self.set_descriptor(at, buffer.gpa, buffer.len_bytes, id, write_flag(&buffer));
            at.step(self.size);
            count += 1;
        }
        self.free_ids = free_ids;
        self.free_descriptors -= count as u16;
        self.offered = at;
        count
    }

    #[inline]
    fn publish(&mut self) {
        let Some((first, word)) = self.held.take() else { return };
        // Release: whoever sees the first descriptor sees all that follow, and buffers. ("Updating flags")
        self.ring.store(2 * usize::from(first) + 1, word, Release);
        let fresh = self.avail.until(self.offered, self.size);
        self.avail = self.offered;
        self.unnotified = self.unnotified.saturating_add(fresh);
    }

    #[inline]
    fn collect_each(&mut self, max: usize, each: impl FnMut(Completed)) -> Result<usize, Fault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let count = match self.options.in_order {
            false => self.collect_run::<false>(max, each),
            true => self.collect_run::<true>(max, each),
        };
        match self.fault {
            Some(fault) if count == 0 => Err(fault),
            _ => Ok(count),
        }
    }
}

/// A descriptor's second half: len, id, flags.
#[inline]
fn word(len_bytes: u32, id: u16, flags: u16) -> u64 {
    u64::from(len_bytes) | u64::from(id) << 32 | u64::from(flags) << 48
}

#[inline]
fn write_flag(buffer: &Buffer) -> u16 {
    if buffer.writable { WRITE } else { 0 }
}

fn writable_bytes(chain: &[Buffer]) -> u32 {
    chain.iter().filter(|buffer| buffer.writable).fold(0, |sum, buffer| sum.saturating_add(buffer.len_bytes))
}
