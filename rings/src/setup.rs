//! Setting up a queue: every check of a queue's shape is here, and after it ring words cannot be out of reach.

use std::sync::Arc;

use thiserror::Error;

use crate::chain::Reach;
use crate::memory::{Access, DirtyLog, GuestMemory, Span};
use crate::notify::Notifier;
use crate::spec::virtq::*;
use crate::virtqueue::Queue;
use crate::{packed, split};

/// The two layouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// "Split Virtqueues".
    Split,
    /// "Packed Virtqueues".
    Packed,
}

impl Layout {
    /// [`QueueSetup::base`] of a queue that has just been made.
    pub const fn base(self) -> u32 {
        match self {
            Layout::Split => 0,
            // Positions 0, wrap counters 1. ("Driver and Device Ring Wrap Counters")
            Layout::Packed => 0x8000_8000,
        }
    }

    /// What descriptor, driver and device area are aligned to, in bytes, and used for.
    const fn needs(self) -> [(u64, Access); 3] {
        match self {
            Layout::Split => [(16, Access::Read), (2, Access::Read), (4, Access::Write)],
            Layout::Packed => [(16, Access::Write), (4, Access::Read), (4, Access::Write)],
        }
    }
}

/// Where a queue's three areas are, as guest physical addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueAddresses {
    /// Descriptor table, or descriptor ring.
    pub descriptor_area: u64,
    /// Available ring, or driver event suppression.
    pub driver_area: u64,
    /// Used ring, or device event suppression.
    pub device_area: u64,
}

impl QueueAddresses {
    /// Length in bytes of the descriptor, driver and device area ("Virtqueues").
    pub fn area_sizes_bytes(layout: Layout, size: u16) -> [u64; 3] {
        let size = u64::from(size);
        match layout {
            Layout::Split => [16 * size, 6 + 2 * size, 6 + 8 * size],
            Layout::Packed => [16 * size, 4, 4],
        }
    }

    /// Where the areas are, and how long.
    pub fn areas(self, layout: Layout, size: u16) -> [(u64, u64); 3] {
        let [descriptor, driver, device] = Self::area_sizes_bytes(layout, size);
        [(self.descriptor_area, descriptor), (self.driver_area, driver), (self.device_area, device)]
    }

    /// Whether some of the areas have no translation in `memory`, where it can be asked for; it is.
    pub fn are_awaited(self, layout: Layout, size: u16, memory: &GuestMemory) -> bool {
        let areas = self.areas(layout, size).into_iter().zip(layout.needs());
        let awaited = areas.filter(|((gpa, len_bytes), (_, access))| memory.awaits(*gpa, *len_bytes, *access));
        awaited.count() > 0
    }
}

/// Everything that makes a queue.
#[derive(Debug)]
pub struct QueueSetup {
    /// Split or packed.
    pub layout: Layout,
    /// Descriptors: split a power of two, packed any number; up to 32768.
    pub size: u16,
    /// Where the areas are.
    pub addresses: QueueAddresses,
    /// Where to go on, as vhost-user's ring base: split, the next available index; packed, available position in bits
    /// 0 to 14 and its wrap counter in bit 15, the same for the used position in bits 16 to 31 (0: not given).
    pub base: u32,
    /// Negotiated feature bits.
    pub features: u64,
    /// Used buffer notifications.
    pub call: Notifier,
    /// Available buffer notifications.
    pub kick: Notifier,
    /// Where writes to guest memory are logged, if they are.
    pub log: Option<Arc<DirtyLog>>,
}

/// Why a queue was refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SetupError {
    /// Zero, too large, or for a split queue not a power of two.
    #[error("queue size {size}: allowed are 1 to {QUEUE_SIZE_MAX}{}", if *.layout == Layout::Split { ", powers of two" } else { "" })]
    Size {
        /// As found.
        size: u16,
        /// Which rule applies.
        layout: Layout,
    },
    /// Not aligned as the specification asks, or not wholly in guest memory.
    #[error(
        "{area} area at {gpa:#x}: {len_bytes} bytes, aligned to {align_bytes}, must lie in memory, in whole pages of its files"
    )]
    Area {
        /// "descriptor", "driver" or "device".
        area: &'static str,
        /// As found.
        gpa: u64,
        /// What the size asks for.
        len_bytes: u64,
        /// What the specification asks for.
        align_bytes: u64,
    },
    /// A packed ring's position past its end.
    #[error("ring base {base:#x}: the position must be below the queue size {size}")]
    Base {
        /// As found.
        base: u32,
        /// Queue size.
        size: u16,
    },
}

impl QueueSetup {
    /// Checks everything and makes the queue, which starts without asking for notifications.
    ///
    /// # Errors
    /// [`SetupError`].
    pub fn activate(self, memory: Arc<GuestMemory>) -> Result<Queue, SetupError> {
        let QueueSetup { layout, size, .. } = self;
        if size == 0 || size > QUEUE_SIZE_MAX || (layout == Layout::Split && !size.is_power_of_two()) {
            return Err(SetupError::Size { size, layout });
        }
        let reach = Reach::new(memory, size, self.has(VIRTIO_F_INDIRECT_DESC));
        Ok(match layout {
            Layout::Split => Queue::Split(split::Queue::new(self, reach)?),
            Layout::Packed => Queue::Packed(packed::Queue::new(self, reach)?),
        })
    }

    pub(crate) fn has(&self, feature: u32) -> bool {
        self.features & 1 << feature != 0
    }

    /// What is marked in the dirty log when something is used.
    pub(crate) fn logged(&self, memory: &GuestMemory) -> Vec<(u64, u64)> {
        let [descriptor, _, device] = self.addresses.areas(self.layout, self.size);
        let (gpa, len_bytes) = if self.layout == Layout::Split { device } else { descriptor };
        if self.log.is_some() { memory.places(gpa, len_bytes) } else { Vec::new() }
    }

    /// The three areas.
    pub(crate) fn areas(&self, reach: &mut Reach) -> Result<[Span; 3], SetupError> {
        const NAMES: [&str; 3] = ["descriptor", "driver", "device"];
        let areas = self.addresses.areas(self.layout, self.size);
        let mut spans = [Span::EMPTY; 3];
        for (((span, area), (gpa, len_bytes)), (align_bytes, access)) in
            spans.iter_mut().zip(NAMES).zip(areas).zip(self.layout.needs())
        {
            let found = reach.area(gpa, len_bytes, align_bytes, access);
            *span = found.ok_or(SetupError::Area { area, gpa, len_bytes, align_bytes })?;
        }
        Ok(spans)
    }
}
