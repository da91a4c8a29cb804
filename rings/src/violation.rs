//! Everything a driver can do to a ring that the specification forbids.
//!
//! A violation retires the queue it happened on and nothing else. What is wrong with one frame only is a [`Fault`]:
//! that chain goes back empty and the queue goes on.

use thiserror::Error;

/// The driver broke the ring; the numbers are what it wrote and what it might have written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Violation {
    /// "The Virtqueue Available Ring": `idx` says that more than the whole ring is available.
    #[error("available index is {ahead} ahead of the device, the queue has {size} entries")]
    AvailableIndexTooFar {
        /// How far `idx` is ahead of what was taken.
        ahead: u16,
        /// Queue size.
        size: u16,
    },
    /// "The Virtqueue Available Ring": a head that is no descriptor of the table.
    #[error("head {head} is past the descriptor table of {size}")]
    HeadPastTable {
        /// The head as read.
        head: u16,
        /// Queue size.
        size: u16,
    },
    /// "The Virtqueue Descriptor Table": `next` is no descriptor of the table.
    #[error("next {next} is past the descriptor table of {size}")]
    NextPastTable {
        /// `next` as read.
        next: u16,
        /// Entries of the table it was read in.
        size: u16,
    },
    /// "The Virtqueue Descriptor Table": a chain must not be longer than the queue; a loop is such a chain.
    #[error("a chain has more than {limit} descriptors")]
    ChainTooLong {
        /// Queue size.
        limit: u16,
    },
    /// "Indirect Descriptors": not negotiated, yet used.
    #[error("an indirect descriptor, and VIRTIO_F_INDIRECT_DESC was not negotiated")]
    IndirectNotNegotiated,
    /// "Indirect Descriptors": a table inside a table.
    #[error("an indirect descriptor inside an indirect table")]
    IndirectNested,
    /// "Indirect Descriptors": INDIRECT and NEXT exclude each other.
    #[error("an indirect descriptor that has a next one")]
    IndirectWithNext,
    /// "Indirect Descriptors": the table is whole descriptors, at least one, no more than the queue has.
    #[error("an indirect table of {len_bytes} bytes; allowed are 16 to {limit_bytes} in steps of 16")]
    IndirectTableLength {
        /// Length as read.
        len_bytes: u32,
        /// Largest allowed.
        limit_bytes: u32,
    },
    /// "Packed Virtqueues": the last available descriptor says that the chain goes on.
    #[error("a chain of {descriptors} descriptors has no end among the available ones")]
    ChainUnfinished {
        /// How many were available.
        descriptors: u16,
    },
    /// "Packed Virtqueues": a buffer ID that the device cannot have been given.
    #[error("buffer id {id} is past the queue of {size}")]
    IdPastQueue {
        /// The id as read.
        id: u16,
        /// Queue size.
        size: u16,
    },
    /// More buffers are available than the queue has descriptors: some were offered again while in flight.
    #[error("{descriptors} descriptors in flight on a queue of {size}")]
    TooManyInFlight {
        /// What would be in flight.
        descriptors: u32,
        /// Queue size.
        size: u16,
    },
}

/// One chain is unusable; the ring is sound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Fault {
    /// Nothing is wrong.
    #[default]
    None,
    /// A buffer or an indirect table lies outside guest memory, wholly or in part.
    OutsideMemory,
    /// A readable buffer follows a writable one ("Message Framing").
    ReadableAfterWritable,
    /// More parts than [`crate::PARTS_MAX`].
    TooManyParts,
}
