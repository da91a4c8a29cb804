//! The packed layout, driver's side. ("Packed Virtqueues")

use std::mem::take;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::fence;

use super::flight::{Batch, Chain, Free};
use super::ram::Words;
use super::{
    Addresses, Buffer, Completed, Descriptor, Fault, INDIRECT_MAX, Layout, Options, Ram, Refused, SIZE_MAX, SetupError,
    place,
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
    batch: Option<Batch>,
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

    #[inline]
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
    pub(super) fn offer_burst(&mut self, burst: impl IntoIterator<Item = (Buffer, u32)>) -> usize {
        let room = self.free();
        for (buffer, token) in burst.into_iter().take(room) {
            let id = self.free_ids.take();
            let writable_bytes = if buffer.writable { buffer.len_bytes } else { 0 };
            self.chains[usize::from(id)] = Chain { token, writable_bytes, count: 1 };
            self.ids[usize::from(self.offered.offset)] = id;
            self.put(buffer.gpa, buffer.len_bytes, id, write_flag(&buffer));
        }
        room - self.free()
    }

    #[inline]
    pub(super) fn publish(&mut self) {
        let Some((first, word)) = self.held.take() else { return };
        // Release: whoever sees the first descriptor sees all that follow, and buffers. ("Updating flags")
        self.ring.store(2 * usize::from(first) + 1, word, Release);
        let fresh = self.avail.until(self.offered, self.size);
        self.avail = self.offered;
        self.unnotified = self.unnotified.saturating_add(fresh);
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

    #[inline]
    pub(super) fn collect(&mut self, out: &mut [Completed]) -> Result<usize, Fault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let mut count = 0;
        while count < out.len() {
            match self.collect_one() {
                Ok(Some(completed)) => out[count] = completed,
                Ok(None) => break,
                Err(fault) if count == 0 => return self.stop(fault),
                Err(fault) => {
                    self.fault = Some(fault);
                    break;
                }
            }
            count += 1;
        }
        Ok(count)
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
        self.batch.is_some() || self.in_flight() > 0 && self.used_here().is_some()
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

    /// Writes the next descriptor; the first since `publish` keeps its second half back.
    #[inline]
    fn put(&mut self, gpa: u64, len_bytes: u32, id: u16, flags: u16) {
        let offset = self.offered.offset;
        let available = if self.offered.wrap { AVAIL } else { USED };
        let word = word(len_bytes, id, flags ^ available);
        self.ring.store(2 * usize::from(offset), gpa, Relaxed);
        if self.held.is_some() {
            self.ring.store(2 * usize::from(offset) + 1, word, Relaxed);
        } else {
            self.held = Some((offset, word));
        }
        self.offered.advance(1, self.size);
        self.free_descriptors -= 1;
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
            self.put(descriptor.gpa, descriptor.len_bytes, descriptor.link.unwrap_or(own), descriptor.flags);
            count += 1;
        }
        self.chains[usize::from(id)] = Chain { token, writable_bytes, count };
    }

    /// The second half of the next used descriptor, if it is there.
    #[inline]
    fn used_here(&self) -> Option<u64> {
        // Acquire: seeing the flags, we see the rest of it and what is in the buffers.
        let word = self.ring.load(2 * usize::from(self.used.offset) + 1, Acquire);
        let flags = (word >> 48) as u16;
        let (avail, used) = (flags & AVAIL != 0, flags & USED != 0);
        (avail == used && used == self.used.wrap).then_some(word)
    }

    #[inline]
    fn collect_one(&mut self) -> Result<Option<Completed>, Fault> {
        let batch = match self.batch.take() {
            Some(batch) => batch,
            None => {
                let Some(word) = self.used_here() else { return Ok(None) };
                let id = (word >> 32) as u16;
                let written = (word >> 48) as u16 & WRITE != 0;
                let known = self.chains.get(usize::from(id)).is_some_and(|chain| chain.count > 0);
                if !known {
                    return Err(Fault::UnknownId { id: u32::from(id) });
                }
                Batch { id, len_bytes: if written { word as u32 } else { 0 } }
            }
        };
        // ("In-order use of descriptors") One descriptor, at the place of the first chain's, may stand for all up to its own.
        let id = if self.options.in_order { self.ids[usize::from(self.used.offset)] } else { batch.id };
        let chain = take(&mut self.chains[usize::from(id)]);
        let len_bytes = if id == batch.id {
            batch.len_bytes
        } else {
            if chain.count == 0 {
                return Err(Fault::OutOfOrder { id: batch.id });
            }
            self.batch = Some(batch);
            chain.writable_bytes
        };
        if len_bytes > chain.writable_bytes && chain.writable_bytes > 0 {
            return Err(Fault::LengthBeyondChain { id, len_bytes, writable_bytes: chain.writable_bytes });
        }
        self.used.advance(chain.count, self.size);
        self.free_descriptors += chain.count;
        self.free_ids.put(id);
        Ok(Some(Completed { token: chain.token, len_bytes, id }))
    }

    #[cold]
    fn stop(&mut self, fault: Fault) -> Result<usize, Fault> {
        self.fault = Some(fault);
        Err(fault)
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
