//! A guest's split queue. Read beside [`super::packed`]: the same functions in the same order. ("Split Virtqueues")

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use virtnet_rings::spec::virtq::{
    VIRTIO_F_EVENT_IDX, VIRTQ_AVAIL_F_NO_INTERRUPT, VIRTQ_DESC_F_INDIRECT, VIRTQ_DESC_F_NEXT,
};
use virtnet_rings::{Violation, passed_event};

use super::Done;
use super::chain::{Broken, Chain, Descriptor, Shape};
use super::dma::{Unreachable, all};

/// Bytes of the flags and the index that the rings begin with, and where the index is.
const HEADER_BYTES: u64 = 4;
const INDEX: u64 = 2;

/// Where it stands.
#[derive(Debug)]
pub struct Ring {
    /// Where one that goes on later begins.
    base: Arc<AtomicU32>,
    next_available: u16,
    next_used: u16,
}

impl Ring {
    /// One that goes on from there, and keeps that up to date.
    pub fn new(base: Arc<AtomicU32>) -> Self {
        let next = base.load(Ordering::Relaxed) as u16;
        Self { base, next_available: next, next_used: next }
    }

    /// Looks where it stands, whatever was said: what it shows as used is used. Has its driver tell of every chain.
    pub async fn begin(&mut self, shape: &Shape) -> Result<(), Unreachable> {
        let used = half(&shape.dma.read(shape.addresses.device_area + INDEX, 2).come().await?, 0);
        (self.next_available, self.next_used) = (used, used);
        self.base.store(used.into(), Ordering::Relaxed);
        shape.dma.write(shape.addresses.device_area, &[0; 2]).come().await?;
        self.arm(shape).await
    }

    /// Chains that are available, up to `most`.
    pub async fn take(&mut self, shape: &Shape, most: usize) -> Result<Vec<Chain>, Broken> {
        let Shape { size, addresses, dma, .. } = shape;
        let index = half(&dma.read(addresses.driver_area + INDEX, 2).come().await?, 0);
        let ahead = index.wrapping_sub(self.next_available);
        let in_flight = self.next_available.wrapping_sub(self.next_used);
        if u32::from(ahead) + u32::from(in_flight) > u32::from(*size) {
            return Err(Violation::AvailableIndexTooFar { ahead, size: *size }.into());
        }
        let count = usize::from(ahead).min(most);
        if count == 0 {
            return Ok(Vec::new());
        }
        // What is below the index is read after it.
        let entries = dma.read(addresses.driver_area + HEADER_BYTES, 2 * usize::from(*size));
        let (entries, table) = (entries.come().await?, shape.descriptors().await?);
        let mut chains = Vec::with_capacity(count);
        for step in 0..count as u16 {
            let head = half(&entries, self.next_available.wrapping_add(step) % size);
            chains.push(walk(shape, &table, head).await?);
        }
        self.next_available = self.next_available.wrapping_add(count as u16);
        self.arm(shape).await?;
        Ok(chains)
    }

    /// Chains that were taken go back, in the order they were taken in. Whether the driver wants to hear of it.
    pub async fn give_back(&mut self, shape: &Shape, chains: &[Done]) -> Result<bool, Unreachable> {
        let Shape { size, addresses, dma, .. } = shape;
        let mut index = self.next_used;
        let mut answers = Vec::with_capacity(chains.len());
        for chain in chains {
            let place = addresses.device_area + HEADER_BYTES + 8 * u64::from(index % size);
            answers
                .push(dma.write(place, &[u32::from(chain.id).to_le_bytes(), chain.len_bytes.to_le_bytes()].concat()));
            index = index.wrapping_add(1);
        }
        all(answers).await?;
        // The elements, and what was written into the buffers, are there before the index.
        let told = addresses.device_area + INDEX;
        dma.write_then(told, &index.to_le_bytes(), &self.base, index.into()).come().await?;
        let old = std::mem::replace(&mut self.next_used, index);
        // And that is there before we read whether the driver wants to hear of it.
        if shape.has(VIRTIO_F_EVENT_IDX) {
            let used_event = addresses.driver_area + HEADER_BYTES + 2 * u64::from(*size);
            return Ok(passed_event(half(&dma.read(used_event, 2).come().await?, 0), index, old));
        }
        Ok(half(&dma.read(addresses.driver_area, 2).come().await?, 0) & VIRTQ_AVAIL_F_NO_INTERRUPT == 0)
    }

    /// Has its driver tell of the next chain, if it is told which.
    async fn arm(&self, shape: &Shape) -> Result<(), Unreachable> {
        if !shape.has(VIRTIO_F_EVENT_IDX) {
            return Ok(());
        }
        let avail_event = shape.addresses.device_area + HEADER_BYTES + 8 * u64::from(shape.size);
        shape.dma.write(avail_event, &self.next_available.to_le_bytes()).come().await.map(drop)
    }
}

async fn walk(shape: &Shape, table: &[u8], head: u16) -> Result<Chain, Violation> {
    let size = shape.size;
    let mut chain = Chain { id: head, descriptors: 1, ..Chain::default() };
    let mut descriptor = Descriptor::of(table, head).ok_or(Violation::HeadPastTable { head, size })?;
    for walked in 0..size {
        let [flags, next] = descriptor.halves;
        if flags & VIRTQ_DESC_F_INDIRECT != 0 {
            chain.add_table(descriptor, shape, walked).await?;
            return Ok(chain);
        }
        chain.add(descriptor, flags);
        if flags & VIRTQ_DESC_F_NEXT == 0 {
            return Ok(chain);
        }
        descriptor = Descriptor::of(table, next).ok_or(Violation::NextPastTable { next, size })?;
    }
    Err(Violation::ChainTooLong { limit: size })
}

/// One of the halves that these bytes are.
pub(super) fn half(bytes: &[u8], index: u16) -> u16 {
    let at = 2 * usize::from(index);
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}
