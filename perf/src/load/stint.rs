//! A measurement under way at one station: what it has seen, and when its next frames go.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::schedule::Schedule;
use super::{Watch, histogram};

/// Length of an interval of the rate over time.
const INTERVAL: Duration = Duration::from_millis(10);
/// Intervals kept; beyond that they are made longer.
const INTERVALS_MAX: u128 = 2000;

/// A measurement under way.
pub struct Stint {
    /// When it began, in seconds since the Unix epoch.
    pub started_at_s: f64,
    /// What had been before: the thread's waiting for its lcore, frames sent, bytes moved.
    pub waited_before_ns: u64,
    pub sent_before: u64,
    pub bytes_before: u64,
    pub record: Record,
    pub course: Course,
    /// Whether its last turn was made.
    pub is_over: bool,
}

/// What became of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Frames moved.
    Moved,
    /// Nothing did.
    Still,
    /// The measurement is over.
    Over,
}

impl Turn {
    #[inline]
    pub fn moved(frames: usize) -> Self {
        if frames > 0 { Turn::Moved } else { Turn::Still }
    }
}

/// When frames are sent.
pub enum Course {
    /// As fast as others arrive, or never.
    Closed(ClosedLoop),
    /// By the clock.
    Open(OpenLoop),
}

impl Course {
    /// Frames that were due and found no room in time.
    pub fn given_up(&self) -> u64 {
        match self {
            Course::Open(course) => course.passed_over.iter().sum(),
            Course::Closed(_) => 0,
        }
    }
}

/// Full pace.
pub struct ClosedLoop {
    /// Frames of a flow that may be on their way; none where nothing is sent.
    pub window: Option<u64>,
    /// When the next frame is to be timed, and whether it is time.
    pub next_sample: Instant,
    pub sample_is_due: bool,
    /// Made so far.
    pub turns: u32,
}

impl ClosedLoop {
    pub fn new(window: Option<u64>, start: Instant) -> Self {
        ClosedLoop { window, next_sample: start, sample_is_due: false, turns: 0 }
    }
}

/// A schedule that is kept.
pub struct OpenLoop {
    pub schedule: Schedule,
    /// How long a frame may wait for room.
    pub patience_ns: u64,
    /// By flow: first sequence number of the schedule.
    pub first: Box<[u64]>,
    /// By lane: frames of the schedule that were passed over, as no room was found in time.
    pub passed_over: Box<[u64]>,
    /// By lane: frames that the device has used.
    pub used: Box<[u64]>,
}

impl OpenLoop {
    pub fn new(schedule: Schedule, patience: Duration, first: Box<[u64]>, used: Box<[u64]>) -> Self {
        let patience_ns = u64::try_from(patience.as_nanos()).unwrap_or(u64::MAX);
        OpenLoop { schedule, patience_ns, first, passed_over: vec![0; used.len()].into(), used }
    }
}

/// The figures of a measurement as it goes.
pub struct Record {
    pub start: Instant,
    pub interval: Duration,
    pub intervals: Vec<u64>,
    pub moved_before: u64,
    moved_at_tick: u64,
    pub histogram: Histogram<u64>,
    /// When to end, and when to end with nothing to show.
    length: Duration,
    length_max: Duration,
    /// Whether there will be latencies.
    has_latency: bool,
}

impl Record {
    pub fn new(length: Duration, length_max: Duration, has_latency: bool, moved: u64) -> Self {
        let interval = INTERVAL.max(length / INTERVALS_MAX as u32);
        Record {
            start: Instant::now(),
            interval,
            intervals: Vec::with_capacity((length.as_nanos() / interval.as_nanos()) as usize + 2),
            moved_before: moved,
            moved_at_tick: moved,
            histogram: histogram(),
            length,
            length_max,
            has_latency,
        }
    }

    /// The clock was looked at: closes intervals that are over. True if the measurement is.
    #[inline]
    pub fn tick(&mut self, now: Instant, moved: impl Fn() -> u64, watch: &Watch) -> bool {
        let elapsed = now.duration_since(self.start);
        if elapsed < self.interval * (self.intervals.len() as u32 + 1) {
            return elapsed >= self.length && self.is_over(elapsed, moved());
        }
        let moved = moved();
        watch.moved.fetch_add(moved - self.moved_at_tick, Relaxed);
        self.intervals.push(moved - self.moved_at_tick);
        self.moved_at_tick = moved;
        // An interval that we slept through had no frames.
        while elapsed >= self.interval * (self.intervals.len() as u32 + 1) && elapsed < self.length {
            self.intervals.push(0);
        }
        elapsed >= self.length && self.is_over(elapsed, moved) || watch.stopped()
    }

    fn is_over(&self, elapsed: Duration, moved: u64) -> bool {
        let something = moved > self.moved_before && !(self.has_latency && self.histogram.is_empty());
        something || elapsed >= self.length_max
    }
}
