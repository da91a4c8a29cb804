//! A worker's bench: room for the one burst it is working on, shared by all its queues.

use std::time::Instant;

use virtnet_rings::{Chain, Used};

use crate::arch::Level;
use crate::counters::BurstCounts;
use crate::frame::Lender;
use crate::frame::offload::Workshop;

/// The largest burst that can be asked for.
pub const BURST_MAX: usize = 256;

/// How many chains one burst may complete.
const USED_MAX: usize = 2 * BURST_MAX;

/// Room for one burst of one queue. Empty between queues, and never grown.
#[derive(Debug)]
pub struct Bench {
    /// How many frames a burst has at most.
    pub burst: usize,
    /// What the CPU can do.
    pub level: Level,
    /// Nanoseconds on the worker's clock.
    pub now_ns: u64,
    /// When the next notification that is held back is due, of those met in this turn.
    pub due_ns: u64,
    /// In a sampled turn: when this slot's part of it began.
    pub sampled_at: Option<Instant>,
    /// Whose frames these are.
    pub lender: Lender,
    /// Chains of a transmitq. They hold no lists between bursts.
    pub chains: Box<[Chain]>,
    /// Chains on their way back.
    pub used: Vec<Used>,
    /// For frames that their receiver does not take as they are.
    pub workshop: Workshop,
    /// What this burst adds to the queue's counters.
    pub counts: BurstCounts,
}

impl Bench {
    /// A bench for bursts of up to `burst` frames, 1 to [`BURST_MAX`].
    pub fn new(burst: usize) -> Self {
        Bench {
            burst: burst.clamp(1, BURST_MAX),
            level: Level::highest(),
            now_ns: 0,
            due_ns: u64::MAX,
            sampled_at: None,
            lender: Lender::default(),
            chains: (0..BURST_MAX).map(|_| Chain::default()).collect(),
            used: Vec::with_capacity(USED_MAX),
            workshop: Workshop::default(),
            counts: BurstCounts::default(),
        }
    }

    /// How many more chains this burst can complete.
    #[inline]
    pub fn used_room(&self) -> usize {
        self.used.capacity() - self.used.len()
    }
}
