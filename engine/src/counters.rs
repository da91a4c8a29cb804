//! What a queue has done, counted always.
//!
//! A burst is added up in a [`BurstCounts`] of the worker's own, and goes into the queue's shared words once, as
//! plain stores on cache lines that no other core writes. Anybody may read them at any time through a
//! [`CountersReader`], without the worker taking notice: a sequence number, odd while the words are in motion, tells
//! the reader whether what it has read belongs together. Nothing is ever set back: a reader that wants to start at
//! zero keeps a base and takes [`QueueCounts::since`] it.

use crate::latency::{Latencies, LatencyCounters, LatencyReader};
use crate::moderation::Moderation;
use crate::sync::{AtomicU64, Ordering, fence, yield_now};
use bytemuck::{Pod, Zeroable, must_cast, must_cast_mut, must_cast_ref};
use std::{ops::AddAssign, sync::Arc, time::Duration};

/// How many sizes of frames are told apart.
pub const SIZE_BINS: usize = 11;

/// The bins of [`QueueCounts::size_bins`], in octets of a frame without its check sequence.
pub const SIZE_BIN_NAMES: [&str; SIZE_BINS] = [
    "64_or_less",
    "65_to_127",
    "128_to_255",
    "256_to_511",
    "512_to_1023",
    "1024_to_1522",
    "1523_to_2047",
    "2048_to_4095",
    "4096_to_8191",
    "8192_to_9022",
    "9023_or_more",
];

/// Lengths from here on share the last bin.
const LAST_BIN_FROM: usize = 9023;

/// The bin of every shorter length: a lookup is a third of the arithmetic, and frames come in few lengths.
static BINS: [u8; LAST_BIN_FROM + 1] = {
    let mut bins = [0; LAST_BIN_FROM + 1];
    let mut len_bytes = 0;
    while len_bytes <= LAST_BIN_FROM {
        // A bin a power of two, except for the three limits that Ethernet has put elsewhere.
        let power = if len_bytes < 32 { 5 } else { len_bytes.ilog2() };
        let late = (len_bytes >= 1523) as u32 + (len_bytes >= LAST_BIN_FROM) as u32;
        bins[len_bytes] = (power - 5 + late - (len_bytes == 64) as u32) as u8;
        len_bytes += 1;
    }
    bins
};

/// The bin of a frame of this length.
#[inline(always)]
pub fn size_bin(len_bytes: u32) -> usize {
    BINS.get(len_bytes as usize).map_or(SIZE_BINS - 1, |&bin| usize::from(bin))
}

/// Why a frame went no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum DropReason {
    /// No whole net header, or one that contradicts itself.
    MalformedHeader,
    /// Less than an Ethernet header.
    TooShort,
    /// More than the device takes, or than a receive buffer holds where buffers are not merged.
    TooLong,
    /// A buffer that is not in guest memory, wholly or in part.
    OutsideMemory,
    /// A writable buffer where a readable one belongs, or the reverse.
    WrongDirection,
    /// In more parts than a chain may have.
    TooManyParts,
    /// An offload that was not negotiated, or that does not fit the frame.
    OffloadRefused,
    /// The guest had offered no receive buffers.
    NoBuffers,
    /// The port, or the way to another worker, had no room.
    PortFull,
    /// The queue was not enabled, or its driver not ready.
    QueueDisabled,
    /// The device's receive filter refused it.
    Filtered,
    /// There was nowhere to go but where it came from.
    NoDestination,
    /// The port said that it could not be sent or read.
    PortError,
}

impl DropReason {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();
    /// All of them, each at its own index.
    pub const ALL: [Self; 13] = [
        Self::MalformedHeader,
        Self::TooShort,
        Self::TooLong,
        Self::OutsideMemory,
        Self::WrongDirection,
        Self::TooManyParts,
        Self::OffloadRefused,
        Self::NoBuffers,
        Self::PortFull,
        Self::QueueDisabled,
        Self::Filtered,
        Self::NoDestination,
        Self::PortError,
    ];

    /// The name that reports use.
    pub fn name(self) -> &'static str {
        match self {
            Self::MalformedHeader => "malformed_header",
            Self::TooShort => "too_short",
            Self::TooLong => "too_long",
            Self::OutsideMemory => "outside_memory",
            Self::WrongDirection => "wrong_direction",
            Self::TooManyParts => "too_many_parts",
            Self::OffloadRefused => "offload_refused",
            Self::NoBuffers => "no_buffers",
            Self::PortFull => "port_full",
            Self::QueueDisabled => "queue_disabled",
            Self::Filtered => "filtered",
            Self::NoDestination => "no_destination",
            Self::PortError => "port_error",
        }
    }
}

/// Counts of a receiveq or a transmitq.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct QueueCounts {
    /// Frames that went through.
    pub packets: u64,
    /// Their bytes, net headers left out.
    pub bytes: u64,
    /// The same frames by size; [`SIZE_BIN_NAMES`] says which is which.
    pub size_bins: [u64; SIZE_BINS],
    /// Descriptors taken from the driver.
    pub descriptors: u64,
    /// Chains given back to the driver, used or empty.
    pub completed: u64,
    /// Used-buffer notifications sent.
    pub notifications_sent: u64,
    /// Those the driver did not want.
    pub notifications_suppressed: u64,
    /// Bursts of used buffers whose notification was put off.
    pub notifications_coalesced: u64,
    /// Available-buffer notifications seen.
    pub kicks: u64,
    /// Violations: the queue was retired.
    pub violations: u64,
    /// Frames that went no further; [`DropReason::ALL`] says which is which.
    pub drops: [u64; DropReason::COUNT],
}

const WORDS: usize = size_of::<QueueCounts>() / 8;
/// The words that a burst adds to; the rest is of what seldom happens.
const COMMON_WORDS: usize = 2 + SIZE_BINS + 4;

impl QueueCounts {
    /// How many were dropped, for whatever reason.
    pub fn dropped(&self) -> u64 {
        self.drops.iter().sum()
    }

    /// What was added since `base` was read.
    pub fn since(&self, base: &Self) -> Self {
        let mut words = *self.words();
        words.iter_mut().zip(base.words()).for_each(|(word, base)| *word = word.wrapping_sub(*base));
        must_cast(words)
    }

    #[inline(always)]
    fn words(&self) -> &[u64; WORDS] {
        must_cast_ref(self)
    }

    #[inline(always)]
    fn words_mut(&mut self) -> &mut [u64; WORDS] {
        must_cast_mut(self)
    }
}

impl AddAssign<&QueueCounts> for QueueCounts {
    fn add_assign(&mut self, more: &QueueCounts) {
        self.words_mut().iter_mut().zip(more.words()).for_each(|(word, more)| *word = word.wrapping_add(*more));
    }
}

/// Counts of the burst that a worker has in hand.
#[derive(Debug, Default)]
pub struct BurstCounts {
    counts: QueueCounts,
    /// Whether it has added to the words that seldom change; whoever does not is not made to look through them.
    seldom: bool,
}

impl BurstCounts {
    /// Counts of what comes with no frame.
    pub fn without_frames() -> Self {
        Self { seldom: true, ..Self::default() }
    }

    /// Counts a frame that went through.
    #[inline(always)]
    pub fn frame(&mut self, len_bytes: u32) {
        self.size(len_bytes);
        self.frames(1, u64::from(len_bytes));
    }

    /// Counts a frame's size only: the rest is added up outside of the loop, for [`Self::frames`].
    #[inline(always)]
    pub fn size(&mut self, len_bytes: u32) {
        self.counts.size_bins[size_bin(len_bytes)] += 1;
    }

    /// Counts frames that went through, except for their sizes.
    #[inline(always)]
    pub fn frames(&mut self, packets: u64, bytes: u64) {
        self.counts.packets += packets;
        self.counts.bytes += bytes;
    }

    /// Counts frames that did not.
    #[inline]
    pub fn drop(&mut self, reason: DropReason, frames: u64) {
        if frames > 0 {
            self.seldom = true;
            self.counts.drops[reason as usize] += frames;
        }
    }

    /// Counts descriptors taken from the driver.
    #[inline(always)]
    pub fn taken(&mut self, descriptors: u32) {
        self.counts.descriptors += u64::from(descriptors);
    }

    /// Whether descriptors were taken.
    pub fn has_taken(&self) -> bool {
        self.counts.descriptors > 0
    }

    /// Whether frames went through.
    pub fn has_moved(&self) -> bool {
        self.counts.packets > 0
    }

    /// Counts chains given back to the driver.
    #[inline(always)]
    pub fn completed(&mut self, chains: usize) {
        self.counts.completed += chains as u64;
    }

    /// How many chains were given back in this burst.
    #[inline(always)]
    pub fn used(&self) -> u32 {
        self.counts.completed as u32
    }

    /// Counts a notification: sent, or not wanted.
    #[inline(always)]
    pub fn notification(&mut self, sent: bool) {
        self.counts.notifications_sent += u64::from(sent);
        self.counts.notifications_suppressed += u64::from(!sent);
    }

    /// Counts a burst of used buffers whose notification is put off. When that `is_over`, the notification counts though nothing
    /// may move with it.
    pub fn put_off(&mut self, used: u32, is_over: bool) {
        self.seldom |= used > 0 || is_over;
        self.counts.notifications_coalesced += u64::from(used > 0 && !is_over);
    }

    /// Counts a violation.
    pub fn violation(&mut self) {
        self.seldom = true;
        self.counts.violations += 1;
    }
}

/// Words that one thread writes and any may read as a whole. Aligned so that no neighbour shares a line, or the pair
/// of lines that the hardware fetches together.
#[repr(align(128))]
#[derive(Debug)]
struct Sequenced<const N: usize> {
    sequence: AtomicU64,
    /// Apart from the others: an estimate, added to now and then.
    busy_ns: AtomicU64,
    /// Likewise: not a count.
    moderation: AtomicU64,
    words: [AtomicU64; N],
}

impl<const N: usize> Sequenced<N> {
    fn new() -> Self {
        Self {
            sequence: AtomicU64::new(0),
            busy_ns: AtomicU64::new(0),
            moderation: AtomicU64::new(0),
            words: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// Adds to the front words. Only one thread may do so.
    #[inline]
    fn add(&self, more: &[u64]) {
        let sequence = self.sequence.load(Ordering::Relaxed);
        self.sequence.store(sequence.wrapping_add(1), Ordering::Relaxed);
        // A reader that sees one of the stores below must see the odd number above.
        fence(Ordering::Release);
        for (word, more) in self.words.iter().zip(more) {
            word.store(word.load(Ordering::Relaxed).wrapping_add(*more), Ordering::Relaxed);
        }
        // A reader that sees the even number must see all the stores before it.
        self.sequence.store(sequence.wrapping_add(2), Ordering::Release);
    }

    /// All words as they were between two additions, or `None` if one was under way.
    fn try_read(&self) -> Option<[u64; N]> {
        let before = self.sequence.load(Ordering::Acquire);
        let words = std::array::from_fn(|n| self.words[n].load(Ordering::Relaxed));
        // Keeps the loads above from sinking below the second look at the number.
        fence(Ordering::Acquire);
        let after = self.sequence.load(Ordering::Relaxed);
        (before == after && before.is_multiple_of(2)).then_some(words)
    }
}

/// The writing half of a queue's counters; the worker's that owns the queue.
#[derive(Debug)]
pub struct QueueCounters {
    shared: Arc<Sequenced<WORDS>>,
    latencies: LatencyCounters,
}

impl QueueCounters {
    /// New counters at zero, and a reader of them.
    pub fn new() -> (Self, CountersReader) {
        let shared = Arc::new(Sequenced::new());
        let (latencies, reader) = LatencyCounters::new();
        (Self { shared: shared.clone(), latencies }, CountersReader { shared, latencies: reader })
    }

    /// Takes a burst's counts over; returns how many frames and chains moved in it.
    #[inline]
    pub fn take(&mut self, BurstCounts { counts, seldom }: &mut BurstCounts) -> usize {
        let moved = (counts.descriptors + counts.completed + counts.packets) as usize;
        if moved > 0 || *seldom {
            let words = if std::mem::take(seldom) { WORDS } else { COMMON_WORDS };
            let words = &mut counts.words_mut()[..words];
            self.shared.add(words);
            words.fill(0);
        }
        moved
    }

    /// Adds a kick.
    pub fn add_kick(&mut self) {
        self.shared.add(QueueCounts { kicks: 1, ..QueueCounts::default() }.words());
    }

    /// Adds to what the queue has cost its worker.
    pub fn add_busy(&mut self, busy_ns: u64) {
        let sum = self.shared.busy_ns.load(Ordering::Relaxed).wrapping_add(busy_ns);
        self.shared.busy_ns.store(sum, Ordering::Relaxed);
    }

    /// What it has counted, as its writer knows it.
    pub fn counts(&self) -> QueueCounts {
        self.shared.try_read().map(must_cast).unwrap_or_default()
    }

    /// Lets be known how notifications are held back.
    pub fn set_moderation(&mut self, moderation: Moderation) {
        self.shared.moderation.store(moderation.to_bits(), Ordering::Relaxed);
    }

    /// Adds a sample of how long something was in hand.
    pub fn add_latency(&mut self, latency: Duration) {
        self.latencies.add(latency);
    }
}

/// The reading half; as many as you like.
#[derive(Clone, Debug)]
pub struct CountersReader {
    shared: Arc<Sequenced<WORDS>>,
    latencies: LatencyReader,
}

impl CountersReader {
    const ATTEMPTS_MAX: usize = 1000;

    /// What the queue has cost its worker, in nanoseconds. Of a pair's two queues one has it all.
    pub fn busy_ns(&self) -> u64 {
        self.shared.busy_ns.load(Ordering::Relaxed)
    }

    /// What was sampled of how long things were in hand.
    pub fn latencies(&self) -> Latencies {
        self.latencies.read()
    }

    /// How its notifications are held back at present.
    pub fn moderation(&self) -> Moderation {
        Moderation::from_bits(self.shared.moderation.load(Ordering::Relaxed))
    }

    /// The counts as they were between two bursts.
    ///
    /// `None` if the writer was in the middle of an addition at every attempt, which takes a worker that lost its
    /// core right there and does not get it back; the last counts read are then the best there is.
    pub fn read(&self) -> Option<QueueCounts> {
        (0..Self::ATTEMPTS_MAX).find_map(|attempt| {
            if attempt > 0 {
                yield_now();
            }
            self.shared.try_read().map(must_cast)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(loom)]
    #[test]
    fn what_a_reader_gets_belongs_together() {
        loom::model(|| {
            let shared = loom::sync::Arc::new(Sequenced::<2>::new());
            let writer = {
                let shared = shared.clone();
                loom::thread::spawn(move || shared.add(&[1, 10]))
            };
            let reader = {
                let shared = shared.clone();
                loom::thread::spawn(move || {
                    let seen = shared.try_read();
                    assert!(matches!(seen, None | Some([0, 0] | [1, 10])), "{seen:?}");
                })
            };
            reader.join().unwrap();
            writer.join().unwrap();
            assert_eq!(shared.try_read(), Some([1, 10]));
        });
    }

    #[cfg(not(loom))]
    mod sequential {
        use super::*;
        use proptest::prelude::*;
        use std::sync::atomic::AtomicBool;

        #[test]
        fn each_size_has_its_bin() {
            let limits = [64, 127, 255, 511, 1023, 1522, 2047, 4095, 8191, 9022, u32::MAX];
            for len_bytes in (0..=70_000).chain([u32::MAX]) {
                let slow = limits.iter().position(|&limit| len_bytes <= limit).unwrap();
                assert_eq!(size_bin(len_bytes), slow, "{len_bytes} bytes");
            }
        }

        #[test]
        fn reasons_stand_at_their_own_index_under_names_of_their_own() {
            let mut names = std::collections::HashSet::new();
            for (index, reason) in DropReason::ALL.into_iter().enumerate() {
                assert_eq!(reason as usize, index);
                assert!(names.insert(reason.name()));
            }
        }

        proptest! {
            #[test]
            fn bursts_add_up(bursts in prop::collection::vec((prop::collection::vec(0..70_000u32, 0..32),
                             prop::collection::vec(0..DropReason::COUNT, 0..4), any::<[u8; 5]>()), 0..20)) {
                let (mut counters, reader) = QueueCounters::new();
                let mut sum = QueueCounts::default();
                let mut base = QueueCounts::default();
                for (n, (frames, drops, rest)) in bursts.iter().enumerate() {
                    let mut burst = BurstCounts::default();
                    frames.iter().for_each(|&len_bytes| burst.frame(len_bytes));
                    drops.iter().for_each(|&reason| burst.drop(DropReason::ALL[reason], 1));
                    let [descriptors, completed, sent, suppressed, violations] = *rest;
                    burst.taken(descriptors.into());
                    burst.completed(usize::from(completed) + 1); // nobody is told where nothing was completed
                    (0..sent).for_each(|_| burst.notification(true));
                    (0..suppressed).for_each(|_| burst.notification(false));
                    (0..violations).for_each(|_| burst.violation());
                    let more = burst.counts;
                    let moved = frames.len() + usize::from(descriptors) + usize::from(completed) + 1;
                    prop_assert_eq!(counters.take(&mut burst), moved);
                    prop_assert_eq!((burst.counts, burst.seldom), Default::default());
                    sum += &more;
                    prop_assert_eq!(reader.read(), Some(sum));
                    prop_assert_eq!(sum.since(&base), more);
                    prop_assert_eq!(sum.size_bins.iter().sum::<u64>(), sum.packets);
                    prop_assert_eq!(sum.dropped(), bursts[..=n].iter().map(|b| b.1.len() as u64).sum::<u64>());
                    base = reader.read().unwrap();
                }
                let frames = || bursts.iter().flat_map(|b| &b.0);
                prop_assert_eq!(sum.packets, frames().count() as u64);
                prop_assert_eq!(sum.bytes, frames().map(|&len| u64::from(len)).sum::<u64>());
                let sent: u64 = bursts.iter().map(|b| u64::from(b.2[2])).sum();
                prop_assert_eq!(sum.notifications_sent, sent);
            }
        }

        #[test]
        fn readers_on_other_threads_never_see_half_a_burst() {
            let (mut counters, reader) = QueueCounters::new();
            let stop = Arc::new(AtomicBool::new(false));
            let readers = [(); 2].map(|()| {
                let (reader, stop) = (reader.clone(), stop.clone());
                std::thread::spawn(move || {
                    let mut last = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let Some(counts) = reader.read() else { continue };
                        assert_eq!(counts.bytes, counts.packets * 100);
                        assert_eq!(counts.violations, counts.packets);
                        assert_eq!(counts.drops[12], counts.packets);
                        assert!(counts.packets >= last);
                        last = counts.packets;
                    }
                })
            });
            for _ in 0..200_000 {
                let mut burst = BurstCounts::default();
                burst.frame(100);
                burst.violation();
                burst.drop(DropReason::PortError, 1);
                counters.take(&mut burst);
            }
            stop.store(true, Ordering::Relaxed);
            readers.into_iter().for_each(|reader| reader.join().unwrap());
            assert_eq!(reader.read().unwrap().packets, 200_000);
        }
    }
}
