//! A thread's share of the lanes, and its loop.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, bail};

use super::gremlin::Gremlin;
use super::lane::{Lane, Stopwatch};
use super::schedule::Schedule;
use super::{
    Beside, LINGER, LINGER_BLIND, Measured, PERSISTENCE, Pace, SETTLE_MAX, STANDSTILL, Shared, Split,
    WRITTEN_OFF_AFTER, Watch, histogram,
};
use crate::args::{Direction, Injection};
use crate::frame::Checker;
use crate::process;

/// Length of an interval of the rate over time.
const INTERVAL: Duration = Duration::from_millis(10);
/// Intervals kept; beyond that they are made longer.
const INTERVALS_MAX: u128 = 2000;
/// Turns between two looks at the clock at full pace.
const TURNS_PER_LOOK: u32 = 32;
/// At full pace, the time between two frames whose latency is measured.
const SAMPLE_EVERY: Duration = Duration::from_micros(50);

/// Turns longer than this were interrupted: no burst takes so long.
const TURN_MAX: Duration = Duration::from_micros(50);

/// Tells the two sides of one thread apart.
#[derive(Debug)]
struct SplitClock {
    last: Instant,
    driver: Turns,
    device: Turns,
}

/// One side's turns, of which those that were interrupted count as the mean of the others.
#[derive(Debug, Default)]
struct Turns {
    count: u64,
    undisturbed: u64,
    undisturbed_ns: u64,
}

impl Turns {
    #[inline]
    fn add(&mut self, length: Duration) {
        self.count += 1;
        if length <= TURN_MAX {
            self.undisturbed += 1;
            self.undisturbed_ns += length.as_nanos() as u64;
        }
    }

    fn ns(&self) -> f64 {
        self.undisturbed_ns as f64 / self.undisturbed.max(1) as f64 * self.count as f64
    }
}

impl SplitClock {
    fn new() -> Self {
        SplitClock { last: Instant::now(), driver: Turns::default(), device: Turns::default() }
    }

    #[inline]
    fn turned(&mut self, begun: Instant, ended: Instant) {
        self.driver.add(begun.duration_since(self.last));
        self.device.add(ended.duration_since(begun));
        self.last = ended;
    }

    fn split(&self) -> Split {
        Split { driver_ns: self.driver.ns(), device_ns: self.device.ns() }
    }
}

/// A flow that may have lost its last frames.
#[derive(Clone, Copy, Debug)]
struct Wait {
    /// What had arrived when it was last looked at.
    arrived: u64,
    /// Since when nothing has, though the window is full.
    since: Instant,
    /// Frames before this one are waited for no more.
    written_off: u64,
}

/// Lanes that one thread drives.
#[derive(Debug)]
pub struct Station {
    lanes: Vec<Lane>,
    checker: Checker,
    shared: Arc<Shared>,
    gremlin: Option<Gremlin>,
    /// By flow: first sequence number of the schedule that is followed.
    first: Box<[u64]>,
    /// By flow: what is waited for at full pace.
    waits: Box<[Wait]>,
    /// The device, if it shares this thread, and what both cost.
    beside: Option<Box<dyn Beside>>,
    clock: SplitClock,
    /// Whose frame was timed last.
    sampled_lane: usize,
    /// A frame whose way is timed at full pace: flow, sequence number, when it was offered.
    sample: Option<(u16, u64, Instant)>,
}

impl Station {
    pub(super) fn new(
        lanes: Vec<Lane>,
        checker: Checker,
        shared: Arc<Shared>,
        inject: Option<Injection>,
        beside: Option<Box<dyn Beside>>,
    ) -> Self {
        let flows = shared.arrived.len();
        Station {
            lanes,
            checker,
            shared,
            gremlin: inject.map(Gremlin::new),
            first: vec![0; flows].into(),
            waits: vec![Wait { arrived: 0, since: Instant::now(), written_off: 0 }; flows].into(),
            sampled_lane: 0,
            beside,
            clock: SplitClock::new(),
            sample: None,
        }
    }

    /// What has arrived here.
    pub fn checker(&self) -> &Checker {
        &self.checker
    }

    /// Frames sent.
    pub fn sent(&self) -> u64 {
        self.lanes.iter().map(Lane::sent).sum()
    }

    /// Bytes of these.
    pub fn sent_bytes(&self) -> u64 {
        self.lanes.iter().map(Lane::sent_bytes).sum()
    }

    /// Frames that the device has not used, by its own account.
    pub fn unreaped(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.sent() - lane.used()).sum()
    }

    /// Frames moved: arrived, or from-guest used.
    fn moved(&self) -> u64 {
        match self.shared.direction {
            Direction::FromGuest => self.lanes.iter().map(Lane::used).sum(),
            _ => self.checker.counts().received,
        }
    }

    /// Bytes of the frames moved; of those sent, if the device says nothing of bytes.
    fn moved_bytes(&self) -> u64 {
        match self.shared.direction {
            Direction::FromGuest => self.lanes.iter().map(Lane::sent_bytes).sum(),
            _ => self.checker.counts().received_bytes,
        }
    }

    /// Receives on all lanes. Returns how many buffers came back.
    #[inline]
    fn receive(&mut self, mut stopwatch: Option<&mut Stopwatch<'_>>) -> Result<usize> {
        let mut buffers = 0;
        for lane in self.lanes.iter_mut().filter(|lane| lane.expects()) {
            buffers += lane.receive(&mut self.checker, stopwatch.as_deref_mut(), &mut self.gremlin)?;
        }
        if buffers > 0 {
            for (flow, arrived) in (0..).zip(&self.shared.arrived) {
                let due = self.checker.due(flow);
                // Flows that arrive elsewhere stay at nought here.
                if due > 0 {
                    arrived.0.store(due, Relaxed);
                }
            }
        }
        Ok(buffers)
    }

    /// Takes in what arrives where nothing is expected.
    fn ignore(&mut self) -> Result<()> {
        for lane in self.lanes.iter_mut().filter(|lane| !lane.expects()) {
            lane.ignore()?;
        }
        Ok(())
    }

    /// The device's turn, if it shares this thread.
    #[inline]
    fn turn_device(&mut self) {
        if let Some(beside) = &mut self.beside {
            let begun = Instant::now();
            beside.turn();
            self.clock.turned(begun, Instant::now());
        }
    }

    /// Sends on all lanes, with no more in flight than the window. Returns how many.
    #[inline]
    fn send_within(&mut self, window: u64) -> Result<usize> {
        let mut sent = 0;
        for lane in &mut self.lanes {
            let Some(flow) = lane.flow() else { continue };
            let room = if self.shared.direction == Direction::FromGuest {
                u64::MAX
            } else {
                let arrived = self.shared.arrived[usize::from(flow)].0.load(Relaxed);
                let settled = arrived.max(self.waits[usize::from(flow)].written_off);
                window.saturating_sub(lane.sent().saturating_sub(settled))
            };
            let count = room.min(self.shared.burst as u64) as usize;
            if count > 0 {
                sent += lane.send(count)?;
            }
        }
        Ok(sent)
    }

    /// Sends frames of every flow, checks all that arrives, and waits for all of it.
    pub(super) fn check(&mut self, frames: u64, watch: &Watch) -> Result<()> {
        self.checker.check_all(true);
        let target: Vec<u64> = self.lanes.iter().map(|lane| lane.sent() + frames).collect();
        let received_before = self.checker.counts().received;
        let mut last_progress = Instant::now();
        while !watch.stopped() {
            self.turn_device();
            let mut moved = self.receive(None)?;
            self.ignore()?;
            let mut complete = true;
            for (lane, target) in self.lanes.iter_mut().zip(&target) {
                let Some(flow) = lane.flow() else { continue };
                let arrived = self.shared.arrived[usize::from(flow)].0.load(Relaxed);
                let room =
                    self.shared.window.saturating_sub(lane.sent().saturating_sub(arrived)).min(target - lane.sent());
                moved += lane.send(room.min(self.shared.burst as u64) as usize)?;
                complete &= arrived >= *target;
            }
            if self.shared.direction == Direction::ToGuest {
                complete = self.checker.counts().received - received_before >= frames;
            }
            if complete {
                break;
            }
            if moved > 0 {
                last_progress = Instant::now();
            } else if last_progress.elapsed() > STANDSTILL {
                let sent = self.sent();
                let received = self.checker.counts().received;
                if sent > 0 && received == 0 {
                    bail!("{sent} frames were sent, and none arrived: does the device send them {}?", self.whither());
                }
                break; // what is missing is counted
            } else {
                self.idle();
            }
        }
        self.checker.check_all(false);
        Ok(())
    }

    fn whither(&self) -> &'static str {
        match self.shared.direction {
            Direction::Loopback => "back",
            Direction::GuestToGuest => "on to the other guest",
            _ => "to the guest",
        }
    }

    /// Nothing to do: on an lcore of our own we go on looking.
    fn idle(&self) {
        if self.shared.shared_lcore {
            thread::yield_now();
        } else {
            std::hint::spin_loop();
        }
    }

    /// Works at a pace for a while.
    pub(super) fn measure(
        &mut self,
        pace: Pace,
        schedule: Schedule,
        length: Duration,
        watch: &Watch,
    ) -> Result<Measured> {
        for lane in &self.lanes {
            if let Some(flow) = lane.flow() {
                self.first[usize::from(flow)] = lane.sent();
            }
        }
        self.sample = None;
        let started_at_s =
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        let interval = INTERVAL.max(length / INTERVALS_MAX as u32);
        let mut record = Record {
            start: Instant::now(),
            interval,
            intervals: Vec::with_capacity((length.as_nanos() / interval.as_nanos()) as usize + 2),
            moved_before: self.moved(),
            moved_at_tick: self.moved(),
            histogram: histogram(),
            length,
            length_max: if self.shared.persistent { length.max(PERSISTENCE) } else { length },
            has_latency: pace != Pace::Listen,
        };
        self.clock = SplitClock::new();
        let waited_before_ns = process::waited_ns();
        let (sent_before, bytes_before) = (self.sent(), self.moved_bytes());
        let given_up = match pace {
            Pace::Full | Pace::Listen => self.at_full_pace(pace, watch, &mut record)?,
            Pace::Rate { patience, .. } => self.at_a_rate(schedule, patience, watch, &mut record)?,
        };
        let elapsed = record.start.elapsed();
        let waited_ns = process::waited_ns().saturating_sub(waited_before_ns);
        Ok(Measured {
            started_at_s,
            waited: (waited_ns as f64 / elapsed.as_nanos() as f64).min(1.0),
            seconds: elapsed.as_secs_f64(),
            sent: self.sent() - sent_before,
            moved: self.moved() - record.moved_before,
            moved_bytes: self.moved_bytes() - bytes_before,
            given_up,
            intervals: record.intervals,
            interval,
            histogram: record.histogram,
            split: self.beside.is_some().then(|| self.clock.split()),
            interrupted: watch.stopped(),
        })
    }

    fn at_full_pace(&mut self, pace: Pace, watch: &Watch, record: &mut Record) -> Result<u64> {
        let window = if pace == Pace::Full { self.shared.window } else { 0 };
        let sends = pace == Pace::Full;
        let mut next_sample = record.start;
        let mut sample_is_due = false;
        let mut turns = 0_u32;
        loop {
            self.turn_device();
            let mut moved = self.receive(None)?;
            if sample_is_due {
                moved += self.send_sampled(window)?;
                sample_is_due = self.sample.is_none();
            } else if sends {
                moved += self.send_within(window)?;
            }
            if self.sample.is_some() {
                self.finish_sample(&mut record.histogram)?;
            }
            turns = turns.wrapping_add(1);
            if turns.is_multiple_of(TURNS_PER_LOOK) {
                self.ignore()?;
                let now = Instant::now();
                if sends {
                    self.write_off(window, now);
                    if self.sample.is_none() && now >= next_sample {
                        next_sample = now + SAMPLE_EVERY;
                        sample_is_due = true;
                    }
                }
                if record.tick(now, || self.moved(), watch) {
                    return Ok(0);
                }
            }
            if moved == 0 {
                self.idle();
            }
        }
    }

    /// Frames of a flow that were lost after the last one that arrived would be waited for without end.
    fn write_off(&mut self, window: u64, now: Instant) {
        if self.shared.direction == Direction::FromGuest {
            return;
        }
        for lane in &self.lanes {
            let Some(flow) = lane.flow() else { continue };
            let wait = &mut self.waits[usize::from(flow)];
            let arrived = self.shared.arrived[usize::from(flow)].0.load(Relaxed).max(wait.written_off);
            if arrived != wait.arrived || lane.sent().saturating_sub(arrived) < window {
                (wait.arrived, wait.since) = (arrived, now);
            } else if now.duration_since(wait.since) > WRITTEN_OFF_AFTER {
                wait.written_off = lane.sent();
            }
        }
    }

    /// Sends as ever, and remembers one lane's first frame and when it was offered.
    fn send_sampled(&mut self, window: u64) -> Result<usize> {
        let count = self.lanes.len();
        self.sampled_lane = (1..=count)
            .map(|step| (self.sampled_lane + step) % count)
            .find(|&lane| self.lanes[lane].flow().is_some())
            .unwrap_or(0);
        let lane = &self.lanes[self.sampled_lane];
        let (flow, sequence) = (lane.flow(), lane.sent());
        let offered_at = Instant::now();
        let sent = self.send_within(window)?;
        if let Some(flow) = flow
            && self.lanes[self.sampled_lane].sent() > sequence
        {
            self.sample = Some((flow, sequence, offered_at));
        }
        Ok(sent)
    }

    fn finish_sample(&mut self, histogram: &mut hdrhistogram::Histogram<u64>) -> Result<()> {
        let Some((flow, sequence, offered_at)) = self.sample else { return Ok(()) };
        let over = if self.shared.direction == Direction::FromGuest {
            let lane = self.lanes.iter_mut().find(|lane| lane.flow() == Some(flow));
            lane.is_none_or(|lane| {
                // A fault shows again with the next burst.
                let _ = lane.reap();
                lane.used() > sequence
            })
        } else {
            self.shared.arrived[usize::from(flow)].0.load(Relaxed) > sequence
        };
        if over {
            histogram.saturating_record(offered_at.elapsed().as_nanos() as u64);
            self.sample = None;
        }
        Ok(())
    }

    fn at_a_rate(&mut self, schedule: Schedule, patience: Duration, watch: &Watch, record: &mut Record) -> Result<u64> {
        let start = record.start;
        let receives = self.shared.direction != Direction::FromGuest;
        let patience_ns = u64::try_from(patience.as_nanos()).unwrap_or(u64::MAX);
        let first: Box<[u64]> = self.first.clone();
        // By lane: frames of the schedule that were passed over, as no room was found in time.
        let mut passed_over = vec![0_u64; self.lanes.len()];
        let mut used: Vec<u64> = self.lanes.iter().map(Lane::used).collect();
        loop {
            self.turn_device();
            let mut moved = 0;
            if receives {
                let mut stopwatch = Stopwatch { start, schedule, first: &first, histogram: &mut record.histogram };
                moved += self.receive(Some(&mut stopwatch))?;
            }
            self.ignore()?;
            let now = Instant::now();
            let elapsed_ns = now.duration_since(start).as_nanos() as u64;
            for (index, lane) in self.lanes.iter_mut().enumerate() {
                let Some(flow) = lane.flow() else { continue };
                let due = schedule.count_due(flow, elapsed_ns);
                let gone = lane.sent() - first[usize::from(flow)] + passed_over[index];
                let waiting = due.saturating_sub(gone);
                if waiting > 0 {
                    moved += lane.send(waiting.min(self.shared.burst as u64) as usize)?;
                }
                if !receives {
                    lane.reap()?;
                    let now_ns = start.elapsed().as_nanos() as u64;
                    let mut stopwatch = Stopwatch { start, schedule, first: &first, histogram: &mut record.histogram };
                    for sequence in used[index]..lane.used() {
                        stopwatch.record(flow, sequence, now_ns);
                    }
                    used[index] = lane.used();
                }
                // Those that have waited too long give way to those that have not.
                let gone = lane.sent() - first[usize::from(flow)] + passed_over[index];
                if let Some(long_ago_ns) = elapsed_ns.checked_sub(patience_ns) {
                    passed_over[index] += schedule.count_due(flow, long_ago_ns).saturating_sub(gone);
                }
            }
            if record.tick(now, || self.moved(), watch) {
                let given_up = passed_over.iter().sum();
                if given_up > 0 {
                    // Numbers and due times have come apart: no latency is better than a wrong one.
                    record.histogram.reset();
                }
                return Ok(given_up);
            }
            if moved == 0 {
                self.idle();
            }
        }
    }

    /// Waits until all that was sent has arrived or been used, or nothing moves any more. A port that generates is not waited
    /// for: it may never end.
    pub(super) fn settle(&mut self) -> Result<()> {
        let direction = self.shared.direction;
        if direction == Direction::ToGuest {
            return Ok(());
        }
        let started = Instant::now();
        let mut last_progress = started;
        loop {
            self.turn_device();
            let mut moved = self.receive(None)?;
            self.ignore()?;
            for lane in &mut self.lanes {
                moved += lane.reap()?;
            }
            let outstanding = self.lanes.iter().any(|lane| match (lane.flow(), direction) {
                (None, _) => false,
                (Some(_), Direction::FromGuest) => lane.used() < lane.sent(),
                (Some(flow), _) => self.shared.arrived[usize::from(flow)].0.load(Relaxed) < lane.sent(),
            });
            // Who only receives cannot know what is on its way to it.
            let receives_only = self.lanes.iter().all(|lane| lane.flow().is_none());
            let now = Instant::now();
            if moved > 0 {
                last_progress = now;
            }
            let still = now.duration_since(last_progress) > if outstanding { LINGER } else { LINGER_BLIND };
            if still || !outstanding && !receives_only || now.duration_since(started) > SETTLE_MAX {
                return Ok(());
            }
            if moved == 0 {
                self.idle();
            }
        }
    }
}

/// The figures of a measurement as it goes.
struct Record {
    start: Instant,
    interval: Duration,
    intervals: Vec<u64>,
    moved_before: u64,
    moved_at_tick: u64,
    histogram: hdrhistogram::Histogram<u64>,
    /// When to end, and when to end with nothing to show.
    length: Duration,
    length_max: Duration,
    /// Whether there will be latencies.
    has_latency: bool,
}

impl Record {
    /// The clock was looked at: closes intervals that are over. True if the measurement is.
    #[inline]
    fn tick(&mut self, now: Instant, moved: impl Fn() -> u64, watch: &Watch) -> bool {
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
