//! A thread's share of the lanes, and its loop.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, bail};

use super::gremlin::Gremlin;
use super::lane::{Lane, Stopwatch};
use super::schedule::Schedule;
use super::stint::{ClosedLoop, Course, OpenLoop, Record, Stint, Turn};
use super::{
    Beside, LINGER, LINGER_BLIND, Measured, PERSISTENCE, Pace, SETTLE_MAX, STANDSTILL, Shared, Split,
    WRITTEN_OFF_AFTER, Watch,
};
use crate::args::{Direction, Injection};
use crate::frame::Checker;
use crate::process;

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

/// One side's turns, of which those that were interrupted count as the mean of the others, if there are others.
#[derive(Debug, Default)]
struct Turns {
    count: u64,
    all_ns: u64,
    undisturbed: u64,
    undisturbed_ns: u64,
}

impl Turns {
    #[inline]
    fn add(&mut self, length: Duration) {
        self.count += 1;
        self.all_ns += length.as_nanos() as u64;
        if length <= TURN_MAX {
            self.undisturbed += 1;
            self.undisturbed_ns += length.as_nanos() as u64;
        }
    }

    fn ns(&self) -> f64 {
        match self.undisturbed {
            0 => self.all_ns as f64,
            undisturbed => self.undisturbed_ns as f64 / undisturbed as f64 * self.count as f64,
        }
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
    pub(super) lanes: Vec<Lane>,
    pub(super) checker: Checker,
    pub(super) shared: Arc<Shared>,
    pub(super) gremlin: Option<Gremlin>,
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
    pub(super) fn idle(&self) {
        if self.shared.shared_lcore {
            thread::yield_now();
        } else {
            std::hint::spin_loop();
        }
    }

    /// Begins a measurement: [`Self::turn`] makes its turns.
    pub(super) fn begin(&mut self, pace: Pace, schedule: Schedule, length: Duration) -> Stint {
        for lane in &self.lanes {
            if let Some(flow) = lane.flow() {
                self.first[usize::from(flow)] = lane.sent();
            }
        }
        self.sample = None;
        let started_at_s =
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        let length_max = if self.shared.persistent { length.max(PERSISTENCE) } else { length };
        self.clock = SplitClock::new();
        let (waited_before_ns, sent_before, bytes_before) = (process::waited_ns(), self.sent(), self.moved_bytes());
        let record = Record::new(length, length_max, pace != Pace::Listen, self.moved());
        let course = match pace {
            Pace::Full => Course::Closed(ClosedLoop::new(Some(self.shared.window), record.start)),
            Pace::Listen => Course::Closed(ClosedLoop::new(None, record.start)),
            Pace::Rate { patience, .. } | Pace::Captured { patience, .. } => {
                let used = self.lanes.iter().map(Lane::used).collect();
                // A capture has one flow, which goes on where it was.
                let schedule = schedule.beginning_with(self.first[0]);
                Course::Open(OpenLoop::new(schedule, patience, self.first.clone(), used))
            }
        };
        Stint { started_at_s, waited_before_ns, sent_before, bytes_before, record, course, is_over: false }
    }

    /// One turn of a measurement: a burst each way on every lane.
    ///
    /// # Errors
    /// The device broke the ring.
    #[inline]
    pub(super) fn turn(&mut self, stint: &mut Stint, watch: &Watch) -> Result<Turn> {
        self.turn_device();
        let record = &mut stint.record;
        match &mut stint.course {
            Course::Closed(course) => self.turn_closed(course, record, watch),
            Course::Open(course) => self.turn_open(course, record, watch),
        }
    }

    /// Ends a measurement.
    pub(super) fn end(&self, stint: Stint, watch: &Watch) -> Measured {
        let Stint { started_at_s, waited_before_ns, sent_before, bytes_before, record, course, .. } = stint;
        let elapsed = record.start.elapsed();
        let waited_ns = process::waited_ns().saturating_sub(waited_before_ns);
        Measured {
            started_at_s,
            waited: (waited_ns as f64 / elapsed.as_nanos() as f64).min(1.0),
            seconds: elapsed.as_secs_f64(),
            sent: self.sent() - sent_before,
            moved: self.moved() - record.moved_before,
            moved_bytes: self.moved_bytes() - bytes_before,
            due: self.due(&course, elapsed.as_nanos() as u64),
            given_up: course.given_up(),
            intervals: record.intervals,
            interval: record.interval,
            histogram: record.histogram,
            split: self.beside.is_some().then(|| self.clock.split()),
            interrupted: watch.stopped(),
        }
    }

    /// Frames that were to be sent by now.
    fn due(&self, course: &Course, elapsed_ns: u64) -> u64 {
        match course {
            Course::Open(OpenLoop { schedule, .. }) => {
                self.lanes.iter().filter_map(Lane::flow).map(|flow| schedule.count_due(flow, elapsed_ns)).sum()
            }
            Course::Closed(_) => 0,
        }
    }

    /// No more on its way than the window.
    #[inline]
    fn turn_closed(&mut self, course: &mut ClosedLoop, record: &mut Record, watch: &Watch) -> Result<Turn> {
        let mut moved = self.receive(None)?;
        if let Some(window) = course.window {
            if course.sample_is_due {
                moved += self.send_sampled(window)?;
                course.sample_is_due = self.sample.is_none();
            } else {
                moved += self.send_within(window)?;
            }
        }
        if self.sample.is_some() {
            self.finish_sample(&mut record.histogram)?;
        }
        course.turns = course.turns.wrapping_add(1);
        if course.turns.is_multiple_of(TURNS_PER_LOOK) {
            self.ignore()?;
            let now = Instant::now();
            if let Some(window) = course.window {
                self.write_off(window, now);
                if self.sample.is_none() && now >= course.next_sample {
                    course.next_sample = now + SAMPLE_EVERY;
                    course.sample_is_due = true;
                }
            }
            if record.tick(now, || self.moved(), watch) {
                return Ok(Turn::Over);
            }
        }
        Ok(Turn::moved(moved))
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

    /// What is due is sent, whatever became of what was due before.
    #[inline(never)]
    fn turn_open(&mut self, course: &mut OpenLoop, record: &mut Record, watch: &Watch) -> Result<Turn> {
        let OpenLoop { schedule, patience_ns, first, passed_over, used } = course;
        let (start, receives) = (record.start, self.shared.direction != Direction::FromGuest);
        let mut moved = 0;
        if receives {
            let mut stopwatch = Stopwatch { start, schedule, first, histogram: &mut record.histogram };
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
                let mut stopwatch = Stopwatch { start, schedule, first, histogram: &mut record.histogram };
                for sequence in used[index]..lane.used() {
                    stopwatch.record(flow, sequence, now_ns);
                }
                used[index] = lane.used();
            }
            // Those that have waited too long give way to those that have not.
            let gone = lane.sent() - first[usize::from(flow)] + passed_over[index];
            if let Some(long_ago_ns) = elapsed_ns.checked_sub(*patience_ns) {
                passed_over[index] += schedule.count_due(flow, long_ago_ns).saturating_sub(gone);
            }
        }
        if record.tick(now, || self.moved(), watch) {
            if passed_over.iter().any(|&frames| frames > 0) {
                // Numbers and due times have come apart: no latency is better than a wrong one.
                record.histogram.reset();
            }
            return Ok(Turn::Over);
        }
        Ok(Turn::moved(moved))
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
