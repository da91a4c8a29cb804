//! A guest's packed queue. Read beside [`super::split`]: the same functions in the same order. ("Packed Virtqueues")

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use virtnet_rings::spec::virtq::{
    RING_EVENT_FLAGS_DESC, RING_EVENT_FLAGS_DISABLE, VIRTIO_F_EVENT_IDX, VIRTQ_DESC_F_AVAIL, VIRTQ_DESC_F_INDIRECT,
    VIRTQ_DESC_F_NEXT, VIRTQ_DESC_F_USED, VIRTQ_DESC_F_WRITE,
};
use virtnet_rings::{Layout, Violation, passed_packed_event};

use super::Done;
use super::chain::{Broken, Chain, DESCRIPTOR_BYTES, Descriptor, Shape};
use super::dma::{Unreachable, all};
use super::split::half;

/// Where the length is in a descriptor, and where the flags are.
const LENGTH: u64 = 8;
const FLAGS: u64 = 14;

/// A position, and the wrap counter there.
#[derive(Clone, Copy, Debug)]
struct Position {
    slot: u16,
    wrap: bool,
}

impl Position {
    /// From the 16 bits that a base has for it.
    fn new(base: u32) -> Self {
        Self { slot: base as u16 & 0x7fff, wrap: base & 0x8000 != 0 }
    }

    /// The base of a ring that has nothing in flight there.
    fn base(self) -> u32 {
        (u32::from(self.slot) | u32::from(self.wrap) << 15) * 0x1_0001
    }

    fn after(self, descriptors: u16, size: u16) -> Self {
        let slot = u32::from(self.slot) + u32::from(descriptors);
        match slot.checked_sub(size.into()) {
            Some(slot) => Self { slot: slot as u16, wrap: !self.wrap },
            None => Self { slot: slot as u16, ..self },
        }
    }
}

/// Where it stands.
#[derive(Debug)]
pub struct Ring {
    /// Where one that goes on later begins.
    base: Arc<AtomicU32>,
    next_available: Position,
    next_used: Position,
    /// Descriptors between the two.
    in_flight: u16,
}

impl Ring {
    /// One that goes on from there, and keeps that up to date.
    pub fn new(base: Arc<AtomicU32>) -> Self {
        let position = Position::new(base.load(Ordering::Relaxed));
        Self { base, next_available: position, next_used: position, in_flight: 0 }
    }

    /// Has its driver tell of every chain.
    pub async fn begin(&self, shape: &Shape) -> Result<(), Unreachable> {
        shape.dma.write(shape.addresses.device_area, &[0; 4]).come().await.map(drop)
    }

    /// Chains that are available, up to `most`.
    pub async fn take(&mut self, shape: &Shape, most: usize) -> Result<Vec<Chain>, Broken> {
        let Shape { size, dma, .. } = shape;
        let flags = shape.addresses.descriptor_area + u64::from(self.next_available.slot) * 16 + FLAGS;
        if most == 0 || self.in_flight == *size || !self.is_available(half(&dma.read(flags, 2).come().await?, 0)) {
            return Ok(Vec::new());
        }
        // Of descriptors that are available the rest is read after their flags.
        let flags = shape.descriptors().await?;
        let ring = shape.descriptors().await?;
        let mut chains = Vec::new();
        while chains.len() < most
            && self.in_flight < *size
            && [&flags, &ring].iter().all(|table| available(table, self.next_available).is_some())
        {
            let chain = self.walk(shape, &ring).await?;
            self.in_flight += chain.descriptors;
            self.next_available = self.next_available.after(chain.descriptors, *size);
            chains.push(chain);
        }
        Ok(chains)
    }

    /// Chains that were taken go back, in the order they were taken in. Whether the driver wants to hear of it.
    pub async fn give_back(&mut self, shape: &Shape, chains: &[Done]) -> Result<bool, Unreachable> {
        let Shape { size, addresses, dma, .. } = shape;
        let place = |position: Position| addresses.descriptor_area + u64::from(position.slot) * DESCRIPTOR_BYTES as u64;
        let (mut at, mut moved) = (self.next_used, 0);
        let mut answers = Vec::with_capacity(chains.len());
        for chain in chains {
            let next = at.after(chain.descriptors, *size);
            // At once, and aligned: a ring that stops meanwhile has given back all of a chain, or nothing.
            let bytes = [&chain.len_bytes.to_le_bytes()[..], &chain.id.to_le_bytes(), &used(at, chain)].concat();
            answers.push(dma.write_then(place(at) + LENGTH, &bytes, &self.base, next.base()));
            (at, moved) = (next, moved + chain.descriptors);
        }
        all(answers).await?;
        self.next_used = at;
        self.in_flight -= moved;
        let event = dma.read(addresses.driver_area, 4).come().await?;
        Ok(match half(&event, 1) & 3 {
            RING_EVENT_FLAGS_DISABLE => false,
            RING_EVENT_FLAGS_DESC if shape.has(VIRTIO_F_EVENT_IDX) => {
                passed_packed_event(half(&event, 0), at.slot, at.wrap, moved, *size)
            }
            _ => true,
        })
    }

    /// The chain whose first descriptor is available. By then all of it was written, if not by the time that its end was looked at for
    /// flags: that may be where the ring begins.
    async fn walk(&self, shape: &Shape, ring: &[u8]) -> Result<Chain, Violation> {
        let size = shape.size;
        let mut chain = Chain::default();
        let mut at = self.next_available;
        loop {
            let descriptors = chain.descriptors;
            let descriptor = available(ring, at).filter(|_| self.in_flight + descriptors < size);
            let descriptor = descriptor.ok_or(Violation::ChainUnfinished { descriptors })?;
            let flags = descriptor.flags(Layout::Packed);
            chain.id = descriptor.halves[0];
            chain.descriptors += 1;
            if flags & VIRTQ_DESC_F_INDIRECT != 0 {
                chain.add_table(descriptor, shape, descriptors).await?;
            } else {
                chain.add(descriptor, flags);
            }
            if flags & (VIRTQ_DESC_F_NEXT | VIRTQ_DESC_F_INDIRECT) != VIRTQ_DESC_F_NEXT {
                break;
            }
            at = at.after(1, size);
        }
        let id = chain.id;
        if id >= size { Err(Violation::IdPastQueue { id, size }) } else { Ok(chain) }
    }

    fn is_available(&self, flags: u16) -> bool {
        is_available(flags, self.next_available.wrap)
    }
}

/// The descriptor there, if it is available.
fn available(table: &[u8], at: Position) -> Option<Descriptor> {
    Descriptor::of(table, at.slot).filter(|descriptor| is_available(descriptor.flags(Layout::Packed), at.wrap))
}

/// ("Driver and Device Ring Wrap Counters")
fn is_available(flags: u16, wrap: bool) -> bool {
    (flags & VIRTQ_DESC_F_AVAIL != 0) == wrap && (flags & VIRTQ_DESC_F_USED != 0) != wrap
}

/// The flags of a descriptor that is used. Its length counts only if it was written.
fn used(at: Position, chain: &Done) -> [u8; 2] {
    let wrap = if at.wrap { VIRTQ_DESC_F_AVAIL | VIRTQ_DESC_F_USED } else { 0 };
    let written = if chain.len_bytes > 0 { VIRTQ_DESC_F_WRITE } else { 0 };
    (wrap | written).to_le_bytes()
}
