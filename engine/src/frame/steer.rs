//! Steering: which queue pair an arriving frame belongs to, so that one flow stays in order on one queue.
//!
//! A hash of the frame's flow picks an entry of the indirection table, the entry names the pair ("Receive-side scaling (RSS)"). What
//! has no hash goes to one pair.
//!
//! Two rules go before the table, where they are asked for: a destination port whose frames the first pair gets, and flows
//! that follow their senders, each to the pair that has last sent something of it the other way.

use std::sync::Arc;

use super::flow::Flow;
use super::hash::{Hash, Hasher};
use crate::sync::{AtomicU64, Ordering};

/// Entries of the indirection table.
pub const INDIRECTION_ENTRIES: usize = 128;

/// How many flows' senders are known at a time; a power of two.
const FLOWS: usize = 4096;

/// The pairs that flows were last sent by. All workers read and write it, each entry by itself: of two flows in one place the last
/// counts.
pub struct FlowTable(Box<[AtomicU64]>);

impl FlowTable {
    /// No flow is known.
    pub fn new() -> Self {
        Self((0..FLOWS).map(|_| AtomicU64::new(0)).collect())
    }

    /// Remembers who sends what arrives with this hash.
    #[inline]
    fn learn(&self, hash: u32, pair: u16) {
        let (place, known) = (self.place(hash), Self::entry(hash, pair));
        // A line that says so already stays with all who read it.
        if place.load(Ordering::Relaxed) != known {
            place.store(known, Ordering::Relaxed);
        }
    }

    #[inline]
    fn pair(&self, hash: u32) -> Option<u16> {
        let known = self.place(hash).load(Ordering::Relaxed);
        let pair = (known as u16).wrapping_sub(1);
        (known == Self::entry(hash, pair)).then_some(pair)
    }

    fn place(&self, hash: u32) -> &AtomicU64 {
        &self.0[hash as usize % FLOWS]
    }

    /// Hash and pair; never 0.
    fn entry(hash: u32, pair: u16) -> u64 {
        u64::from(hash) << 32 | (u64::from(pair) + 1)
    }
}

impl Default for FlowTable {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for FlowTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FlowTable").finish_non_exhaustive()
    }
}

/// What goes before the table.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// TCP and UDP over IPv4 to this port go to the first pair.
    pub ipv4_port: Option<u16>,
    /// Flows follow their senders.
    pub senders: Option<Arc<FlowTable>>,
}

/// How a driver has frames spread over its device's pairs. ("Setting RSS parameters")
#[derive(Clone, Debug, PartialEq)]
pub struct Scaling {
    /// What is hashed.
    pub hasher: Hasher,
    /// Pairs: a power of two, 1 to [`INDIRECTION_ENTRIES`], of which the hash's last bits pick one.
    pub indirection: Box<[u16]>,
    /// The pair for frames that have no hash.
    pub unclassified: u16,
}

/// A device's way of spreading frames over its pairs.
#[derive(Clone)]
pub struct Steering {
    hasher: Hasher,
    indirection: Box<[u16; INDIRECTION_ENTRIES]>,
    unclassified: u16,
    /// Mostly there are none, which is one look a frame.
    rules: Option<Box<Rules>>,
    /// Both MAC addresses count, too.
    by_station: bool,
}

impl Steering {
    /// Spreads over pairs `0..pairs` evenly, under the default key; what belongs to no flow goes to the first. No pairs count as one.
    pub fn over(pairs: u16) -> Self {
        let pairs = pairs.max(1);
        let entry = |n| (n % usize::from(pairs)) as u16;
        Self {
            hasher: Hasher::default(),
            indirection: Box::new(std::array::from_fn(entry)),
            unclassified: 0,
            rules: None,
            by_station: false,
        }
    }

    /// The same for members of a bond: frames that belong to no flow are spread as well, by their MAC addresses, which count for
    /// the others, too.
    pub fn over_members(members: u16) -> Self {
        Self { by_station: true, ..Self::over(members) }
    }

    /// Spreads as a driver has it. Whoever parsed the command has checked the table.
    pub fn by(Scaling { hasher, indirection, unclassified }: &Scaling) -> Self {
        let entry = |n| indirection.get(n % indirection.len().max(1)).copied().unwrap_or(*unclassified);
        Self {
            hasher: hasher.clone(),
            indirection: Box::new(std::array::from_fn(entry)),
            unclassified: *unclassified,
            rules: None,
            by_station: false,
        }
    }

    /// The same with rules before the table.
    pub fn with(self, rules: Rules) -> Self {
        let has_some = rules.ipv4_port.is_some() || rules.senders.is_some();
        Self { rules: has_some.then(|| rules.into()), ..self }
    }

    /// The pair for a frame, by its first bytes from the destination MAC on.
    #[inline]
    pub fn pair(&self, head: &[u8]) -> u16 {
        if self.by_station {
            return self.member(head);
        }
        let Some(flow) = Flow::parse(head) else { return self.unclassified };
        let hash = self.hasher.hash(&flow);
        let ruled = self.rules.as_ref().and_then(|rules| rules.pair(&flow, hash));
        ruled.unwrap_or_else(|| hash.map_or(self.unclassified, |hash| self.entry(hash.value)))
    }

    #[inline]
    fn entry(&self, hash: u32) -> u16 {
        self.indirection[hash as usize % INDIRECTION_ENTRIES]
    }

    /// Whether flows follow their senders.
    #[inline]
    pub fn follows(&self) -> bool {
        self.rules.as_ref().is_some_and(|rules| rules.senders.is_some())
    }

    /// A pair has sent a frame that begins so: what comes back is its.
    #[inline]
    pub fn sent_by(&self, pair: u16, head: &[u8]) {
        if let Some(senders) = self.rules.as_ref().and_then(|rules| rules.senders.as_ref())
            && let Some(hash) = Flow::parse(head).and_then(|flow| self.hasher.hash(&flow.reversed()))
        {
            senders.learn(hash.value, pair);
        }
    }

    fn member(&self, head: &[u8]) -> u16 {
        let hash = Flow::parse(head).and_then(|flow| self.hasher.hash(&flow));
        self.entry(hash.map_or(0, |hash| hash.value) ^ station_hash(head))
    }
}

impl Rules {
    #[inline(never)]
    fn pair(&self, flow: &Flow, hash: Option<Hash>) -> Option<u16> {
        if self.ipv4_port.is_some() && self.ipv4_port == flow.ipv4_port() {
            return Some(0);
        }
        self.senders.as_ref()?.pair(hash?.value)
    }
}

/// A hash of both MAC addresses.
fn station_hash(head: &[u8]) -> u32 {
    // The golden ratio's fraction: every bit of the product's upper half depends on all below it.
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let stations = head.first_chunk::<12>().map_or(0, |bytes| {
        let [low, high] = [0, 6].map(|at| bytes[at..at + 6].iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte)));
        low.wrapping_mul(ODD).rotate_left(32) ^ high
    });
    (stations.wrapping_mul(ODD) >> 32) as u32
}

#[cfg(all(test, not(loom)))]
mod tests;
