//! Chains of a guest's, as they are read.

use virtnet_rings::spec::virtq::{
    VIRTIO_F_INDIRECT_DESC, VIRTQ_DESC_F_INDIRECT, VIRTQ_DESC_F_NEXT, VIRTQ_DESC_F_WRITE,
};
use virtnet_rings::{Layout, QueueAddresses, Violation};

use super::dma::{Dma, Unreachable};

/// Bytes of a descriptor.
pub const DESCRIPTOR_BYTES: usize = 16;

/// Why a ring is served no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// Its driver breaks a rule.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// Some of its areas cannot be read or written.
    #[error("its areas cannot be read and written any more")]
    Unreachable,
}

impl From<Unreachable> for Broken {
    fn from(Unreachable: Unreachable) -> Self {
        Self::Unreachable
    }
}

/// A ring as its driver has described it.
#[derive(Debug)]
pub struct Shape {
    /// Split or packed.
    pub layout: Layout,
    /// Descriptors.
    pub size: u16,
    /// Where its areas are.
    pub addresses: QueueAddresses,
    /// Feature bits.
    pub features: u64,
    /// Who reads and writes it.
    pub dma: Dma,
}

impl Shape {
    /// Whether this was negotiated.
    pub fn has(&self, feature: u32) -> bool {
        self.features & 1 << feature != 0
    }

    /// The descriptor area as it is now.
    pub async fn descriptors(&self) -> Result<Vec<u8>, Unreachable> {
        self.dma.read(self.addresses.descriptor_area, usize::from(self.size) * DESCRIPTOR_BYTES).come().await
    }
}

/// A descriptor of either layout.
#[derive(Clone, Copy, Debug)]
pub struct Descriptor {
    address: u64,
    len_bytes: u32,
    /// Flags and next; id and flags.
    pub halves: [u16; 2],
}

impl Descriptor {
    /// Its flags.
    pub fn flags(&self, layout: Layout) -> u16 {
        self.halves[if layout == Layout::Split { 0 } else { 1 }]
    }

    /// That of a table.
    pub fn of(table: &[u8], index: u16) -> Option<Self> {
        let bytes: &[u8; DESCRIPTOR_BYTES] = table.get(usize::from(index) * DESCRIPTOR_BYTES..)?.first_chunk()?;
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let address = u64::from_le_bytes(*bytes.first_chunk()?);
        let len_bytes = u32::from_le_bytes(*bytes[8..].first_chunk()?);
        Some(Self { address, len_bytes, halves: [half(12), half(14)] })
    }
}

/// Bytes of a guest's: where they begin, and how many.
pub type Part = (u64, u32);

/// What a guest has made available.
#[derive(Debug, Default)]
pub struct Chain {
    /// Its head, or its buffer id.
    pub id: u16,
    /// Descriptors of the ring that it takes.
    pub descriptors: u16,
    /// What the device may read.
    pub readable: Vec<Part>,
    /// What it may write.
    pub writable: Vec<Part>,
    /// It is not to be used: parts of it are in the wrong order, or cannot be read.
    pub is_bad: bool,
}

impl Chain {
    /// A part follows.
    pub fn add(&mut self, descriptor: Descriptor, flags: u16) {
        let part = (descriptor.address, descriptor.len_bytes);
        if flags & VIRTQ_DESC_F_WRITE != 0 {
            self.writable.push(part);
        } else {
            self.is_bad |= !self.writable.is_empty();
            self.readable.push(part);
        }
    }

    /// The parts that an indirect table of a ring of `size` descriptors has; `before` parts are there. In a packed ring it is a row,
    /// in a split ring a list. ("Indirect Descriptors", "Indirect Flag: Scatter-Gather Support")
    pub async fn add_table(&mut self, table: Descriptor, ring: &Shape, before: u16) -> Result<(), Violation> {
        let Shape { size, layout, .. } = *ring;
        let limit_bytes = u32::from(size) * DESCRIPTOR_BYTES as u32;
        let len_bytes = table.len_bytes;
        if !ring.has(VIRTIO_F_INDIRECT_DESC) {
            return Err(Violation::IndirectNotNegotiated);
        }
        if table.flags(layout) & VIRTQ_DESC_F_NEXT != 0 {
            return Err(Violation::IndirectWithNext);
        }
        if len_bytes == 0 || !len_bytes.is_multiple_of(DESCRIPTOR_BYTES as u32) || len_bytes > limit_bytes {
            return Err(Violation::IndirectTableLength { len_bytes, limit_bytes });
        }
        let Ok(table) = ring.dma.read(table.address, len_bytes as usize).come().await else {
            self.is_bad = true;
            return Ok(());
        };
        let entries = (len_bytes / DESCRIPTOR_BYTES as u32) as u16;
        let mut index = 0;
        for _ in 0..entries.min(size - before) {
            let descriptor =
                Descriptor::of(&table, index).ok_or(Violation::NextPastTable { next: index, size: entries })?;
            let flags = descriptor.flags(layout);
            // In a packed ring's table every flag but WRITE is reserved, and ignored.
            if layout == Layout::Split && flags & VIRTQ_DESC_F_INDIRECT != 0 {
                return Err(Violation::IndirectNested);
            }
            self.add(descriptor, flags);
            let ends = match layout {
                Layout::Split => flags & VIRTQ_DESC_F_NEXT == 0,
                Layout::Packed => index + 1 == entries,
            };
            if ends {
                return Ok(());
            }
            index = if layout == Layout::Split { descriptor.halves[1] } else { index + 1 };
        }
        Err(Violation::ChainTooLong { limit: size })
    }
}
