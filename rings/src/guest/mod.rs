//! The driver's side of a virtqueue: a simulated guest for unit tests, engine tests, fuzzing and benchmarks.
//!
//! It lays its rings from the numbers that the specification's tables print, not from `crate::spec`: if one of our constants is
//! wrong, the two sides no longer understand each other and a test fails. Honest by default; `mischief::Mischief` breaks one promise at a
//! time. What the device writes is checked too: a `Fault` says what it got wrong.
//!
//! `Ram` is the guest's memory, `Driver` one virtqueue in it, `net::Nic` a receiveq and a transmitq with buffers for frames.
//! `split` and `packed` have the same functions in the same order, to be read in two columns.

mod flight;
pub mod mischief;
pub mod net;
mod packed;
mod plug;
mod ram;
#[cfg(test)]
mod reference;
mod split;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use crate::Layout;
pub use ram::{OutOfMemory, Ram};

/// Longest indirect table that an honest driver makes, in descriptors; also never longer than the queue's size.
pub const INDIRECT_MAX: u16 = 64;

/// Largest queue, in descriptors, of either layout.
pub const SIZE_MAX: u16 = 32768;

/// What was negotiated for a queue, and how it is placed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// VIRTIO_F_EVENT_IDX: notifications are asked for by position.
    pub event_idx: bool,
    /// VIRTIO_F_IN_ORDER: chains are used in the order in which they were offered, and may be used in batches.
    pub in_order: bool,
    /// VIRTIO_F_INDIRECT_DESC: `offer_indirect` is allowed; tables for it are set aside, `INDIRECT_MAX` descriptors per chain.
    pub indirect: bool,
    /// The three areas lie at addresses with no more alignment than asked of them, instead of each on pages of its own.
    pub tight: bool,
}

/// One element of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Guest physical address.
    pub gpa: u64,
    /// Length in bytes.
    pub len_bytes: u32,
    /// Written by the device (otherwise read by it).
    pub writable: bool,
}

impl Buffer {
    /// A buffer that the device reads.
    pub fn readable(gpa: u64, len_bytes: u32) -> Self {
        Self { gpa, len_bytes, writable: false }
    }

    /// A buffer that the device writes.
    pub fn writable(gpa: u64, len_bytes: u32) -> Self {
        Self { gpa, len_bytes, writable: true }
    }
}

/// A descriptor to be laid as it is, sense or no sense; see `Driver::offer_raw`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Guest physical address, or any other number.
    pub gpa: u64,
    /// Length in bytes.
    pub len_bytes: u32,
    /// The descriptor's flags. On the packed layout the bits that make it available are added by exclusive or.
    pub flags: u16,
    /// The split layout's `next`, the packed layout's buffer ID; `None` for what an honest driver would put there.
    pub link: Option<u16>,
}

/// A chain that the device has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Completed {
    /// What the chain was offered with.
    pub token: u32,
    /// Bytes the device says it wrote; all that it could write for a chain skipped in an in-order batch.
    pub len_bytes: u32,
    /// The chain's head on the split layout, its buffer ID on the packed one.
    pub id: u16,
}

/// Guest physical addresses of a queue's three areas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Descriptor area: descriptor table, or descriptor ring.
    pub descriptor: u64,
    /// Driver area: available ring, or driver event suppression.
    pub driver: u64,
    /// Device area: used ring, or device event suppression.
    pub device: u64,
}

/// Why a queue cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// The size is not one of the layout's.
    #[error("a {layout:?} queue of {size}: 1 to {SIZE_MAX} are allowed, on the split layout powers of two")]
    Size {
        /// The layout.
        layout: Layout,
        /// The size asked for.
        size: u16,
    },
    /// The guest's memory is used up.
    #[error("no room for the queue: {0}")]
    Memory(#[from] OutOfMemory),
}

/// Why a chain was not offered. Nothing has changed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Too few descriptors are free at present.
    #[error("{needed} descriptors needed, {free} free")]
    Full {
        /// Descriptors the chain takes.
        needed: usize,
        /// Descriptors free.
        free: usize,
    },
    /// A chain has 1 to `max` elements.
    #[error("a chain of {count}, 1 to {max} are possible")]
    Length {
        /// Elements given.
        count: usize,
        /// Elements possible: the queue's size, or the length of an indirect table.
        max: usize,
    },
    /// The queue was made without, or the layout has no such thing.
    #[error("{0} is not for this queue")]
    NotNegotiated(&'static str),
}

/// What a device got wrong. The queue collects nothing more after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The used index is further on than chains were made available.
    #[error("used index {used_idx}, last seen {last_used}, with {in_flight} chains in flight")]
    UsedTooFar {
        /// The used ring's index.
        used_idx: u16,
        /// The index up to which chains were collected.
        last_used: u16,
        /// Chains available to the device.
        in_flight: u16,
    },
    /// An id that no chain in flight has: out of range, never offered, or used twice.
    #[error("used id {id}, which no chain in flight has")]
    UnknownId {
        /// The id.
        id: u32,
    },
    /// In-order use was negotiated, and the batch that ends with this id is longer than what was used.
    #[error("used id {id} out of order")]
    OutOfOrder {
        /// The id.
        id: u16,
    },
    /// More bytes written than the chain had room for.
    #[error("{len_bytes} bytes written to chain {id} of {writable_bytes}")]
    LengthBeyondChain {
        /// The chain's id.
        id: u16,
        /// Bytes written, as the device says.
        len_bytes: u32,
        /// Bytes that could be written.
        writable_bytes: u32,
    },
}

/// One virtqueue, driver's side.
#[derive(Debug)]
pub enum Driver {
    /// On the split layout.
    Split(split::Driver),
    /// On the packed layout.
    Packed(packed::Driver),
}

/// What is worth having apart for each layout: where these are called with closures, the closures become part of them.
trait Virtqueue {
    /// As `Driver::offer_each`.
    fn offer_each(&mut self, max: usize, make: impl FnMut(u16) -> Option<(Buffer, u32)>) -> usize;
    /// As `Driver::publish`.
    fn publish(&mut self);
    /// As `Driver::collect_each`.
    fn collect_each(&mut self, max: usize, each: impl FnMut(Completed)) -> Result<usize, Fault>;
}

macro_rules! either {
    ($self:ident, $driver:ident => $call:expr) => {
        match $self {
            Self::Split($driver) => $call,
            Self::Packed($driver) => $call,
        }
    };
}

impl Driver {
    /// Makes a queue of `size` descriptors in `ram`: 1 to 32768, on the split layout a power of two.
    pub fn new(ram: &Arc<Ram>, layout: Layout, size: u16, options: Options) -> Result<Self, SetupError> {
        match layout {
            Layout::Split => split::Driver::new(ram, size, options).map(Self::Split),
            Layout::Packed => packed::Driver::new(ram, size, options).map(Self::Packed),
        }
    }

    /// The layout.
    pub fn layout(&self) -> Layout {
        match self {
            Self::Split(_) => Layout::Split,
            Self::Packed(_) => Layout::Packed,
        }
    }

    /// Size in descriptors.
    pub fn size(&self) -> u16 {
        either!(self, driver => driver.size())
    }

    /// What the queue was made with.
    pub fn options(&self) -> Options {
        either!(self, driver => driver.options())
    }

    /// Where its areas are.
    pub fn addresses(&self) -> Addresses {
        either!(self, driver => driver.addresses())
    }

    /// Descriptors free.
    #[inline]
    pub fn free(&self) -> usize {
        either!(self, driver => driver.free())
    }

    /// Chains offered and not collected.
    pub fn in_flight(&self) -> usize {
        either!(self, driver => driver.in_flight())
    }

    /// Lays a chain, one descriptor an element, to be made available by the next `publish`. `token` comes back with it.
    /// Order and lengths of the elements are the caller's affair: an honest one gives readable ones first and no empty ones.
    pub fn offer(&mut self, chain: &[Buffer], token: u32) -> Result<(), Refused> {
        either!(self, driver => driver.offer(chain, token))
    }

    /// As `offer`, with all elements in an indirect table, which takes one descriptor.
    pub fn offer_indirect(&mut self, chain: &[Buffer], token: u32) -> Result<(), Refused> {
        either!(self, driver => driver.offer_indirect(&[], chain, token))
    }

    /// As `offer`, with the elements of `direct` in descriptors and those of `table` in an indirect table after them,
    /// which only the split layout has.
    pub fn offer_mixed(&mut self, direct: &[Buffer], table: &[Buffer], token: u32) -> Result<(), Refused> {
        either!(self, driver => driver.offer_indirect(direct, table, token))
    }

    /// As `offer`, descriptors laid as given: for breaking promises.
    pub fn offer_raw(&mut self, chain: &[Descriptor], token: u32) -> Result<(), Refused> {
        either!(self, driver => driver.offer_raw(chain, token))
    }

    /// Offers chains of one descriptor each, with their tokens, until they or the free descriptors run out.
    /// Returns how many; none is drawn from `burst` that is not offered.
    #[inline]
    pub fn offer_burst(&mut self, burst: impl IntoIterator<Item = (Buffer, u32)>) -> usize {
        let mut burst = burst.into_iter();
        self.offer_each(usize::MAX, |_| burst.next())
    }

    /// Offers up to `max` chains of one descriptor each: `make` is told the id of the next one, which no chain in flight
    /// has, and gives its buffer and token, or `None` to end the burst. Returns how many.
    #[inline]
    pub fn offer_each(&mut self, max: usize, make: impl FnMut(u16) -> Option<(Buffer, u32)>) -> usize {
        either!(self, driver => driver.offer_each(max, make))
    }

    /// Makes available all that was offered.
    #[inline]
    pub fn publish(&mut self) {
        either!(self, driver => driver.publish());
    }

    /// Whether the device wants to be notified of what was published since this was last asked.
    /// ("Available Buffer Notification Suppression", "Driver and Device Event Suppression")
    #[inline]
    pub fn needs_kick(&mut self) -> bool {
        either!(self, driver => driver.needs_kick())
    }

    /// What a notification carries with VIRTIO_F_NOTIFICATION_DATA. ("Driver Notifications")
    pub fn notification_data(&self, queue_index: u16) -> u32 {
        u32::from(self.available_index()) << 16 | u32::from(queue_index)
    }

    /// Collects chains that the device has used, as many as `out` has room for, and frees their descriptors.
    ///
    /// # Errors
    /// What the device got wrong; whatever came before it has been collected by earlier calls.
    #[inline]
    pub fn collect(&mut self, out: &mut [Completed]) -> Result<usize, Fault> {
        let mut count = 0;
        self.collect_each(out.len(), |completed| {
            out[count] = completed;
            count += 1;
        })
    }

    /// As `collect`, up to `max`, each given to `each`.
    ///
    /// # Errors
    /// As `collect`.
    #[inline]
    pub fn collect_each(&mut self, max: usize, each: impl FnMut(Completed)) -> Result<usize, Fault> {
        either!(self, driver => driver.collect_each(max, each))
    }

    /// Tells the device that no used buffer notifications are needed.
    pub fn suppress_interrupts(&mut self) {
        either!(self, driver => driver.suppress_interrupts());
    }

    /// Tells the device to notify of the next chain used. True if one is there already, for which no notification may come.
    pub fn enable_interrupts(&mut self) -> bool {
        either!(self, driver => driver.enable_interrupts())
    }

    /// What the next chain's head or id will be.
    fn next_id(&self) -> u16 {
        either!(self, driver => driver.next_id())
    }

    /// Where the next descriptor, or available ring entry, goes: the available index, or on the packed layout the offset in the
    /// ring with the driver's wrap counter in bit 15. Counts what is published.
    pub fn available_index(&self) -> u16 {
        either!(self, driver => driver.available_index())
    }

    /// Where the next used chain is looked for, in the same form.
    pub fn used_index(&self) -> u16 {
        either!(self, driver => driver.used_index())
    }
}

/// Finds room for an area: on pages of its own, or `tight`, aligned to `align` and to nothing more.
fn place(ram: &Ram, len_bytes: u64, align: u64, tight: bool) -> Result<u64, OutOfMemory> {
    if tight {
        return Ok(ram.alloc(len_bytes + align, 2 * align)? + align);
    }
    ram.alloc(len_bytes, 4096)
}
