//! The load: simulated guests, and the threads that drive them.
//!
//! A [`Guest`] is memory with one [`Lane`] a queue pair; a [`Station`] is a thread's share of the lanes. [`Load`] has all
//! stations work at a [`Pace`] for a while and adds up what they measured; [`measure_together`] does so with several loads at
//! once. Between two calls nothing is polled.

mod alone;
mod gremlin;
mod guest;
mod lane;
mod schedule;
mod station;
mod stint;

use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;

pub use guest::{Guest, GuestOptions};
pub use lane::{Lane, Script, Traffic};

use crate::args::{Direction, Injection};
use crate::frame::{Checker, Integrity};
use lane::Role;
use schedule::Schedule;
pub use schedule::Timetable;
use station::Station;
use stint::Turn;

/// Longest latency told apart: a minute.
const LATENCY_NS_MAX: u64 = 60_000_000_000;
/// Frames of each flow that are checked before anything is measured.
const CHECK_FRAMES: u64 = 2048;
/// Frames on their way to one receiveq at full pace, however many buffers it has: whatever is in between has queues of its
/// own, which are no longer for it.
const IN_FLIGHT_MAX: u64 = 256;
/// At full pace, frames that have not arrived for so long while nothing else of their flow did are waited for no more.
const WRITTEN_OFF_AFTER: Duration = Duration::from_millis(500);
/// Nothing moved for so long: it will not.
const STANDSTILL: Duration = Duration::from_secs(2);
/// A persistent measurement goes on for no longer than this.
const PERSISTENCE: Duration = Duration::from_secs(5);
/// After a measurement, what is known to be on its way gets so long without progress to arrive: on a busy machine the device
/// may be without its lcore for a while.
const LINGER: Duration = Duration::from_secs(3);
/// Who cannot know what is on its way waits for so long.
const LINGER_BLIND: Duration = Duration::from_millis(300);
/// After so long it is given up even if something still moves.
const SETTLE_MAX: Duration = Duration::from_secs(10);

/// An empty histogram of nanoseconds, three digits of which are kept.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("bounds and digits are allowed")
}

/// How fast the guests send.
#[derive(Clone, Debug, PartialEq)]
pub enum Pace {
    /// As fast as frames arrive: no more in flight than there are buffers for, so that no frame need be lost.
    Full,
    /// So many frames a second, all flows together, whatever becomes of them. A frame that found no room for longer than
    /// `patience` is given up.
    Rate {
        /// Frames a second.
        pps: f64,
        /// How long a frame waits.
        patience: Duration,
    },
    /// The frames of a capture as they were captured, in the same way.
    Captured {
        /// When they are due.
        timetable: Arc<Timetable>,
        /// How long a frame waits.
        patience: Duration,
    },
    /// The guests send nothing.
    Listen,
}

/// What was measured.
#[derive(Clone, Debug)]
pub struct Measured {
    /// When it began, in seconds since the Unix epoch.
    pub started_at_s: f64,
    /// For how long.
    pub seconds: f64,
    /// Frames sent by the guests.
    pub sent: u64,
    /// Frames that arrived; from-guest: that the device used.
    pub moved: u64,
    /// Bytes of these.
    pub moved_bytes: u64,
    /// Frames that were due, at a rate; 0 without one.
    pub due: u64,
    /// Frames that were due and given up, as there was no room in the ring.
    pub given_up: u64,
    /// Frames that arrived in each interval.
    pub intervals: Vec<u64>,
    /// Length of an interval.
    pub interval: Duration,
    /// Latencies in nanoseconds.
    pub histogram: Histogram<u64>,
    /// The part of the time in which the guest's thread waited for its lcore.
    pub waited: f64,
    /// What either side cost, if they share a thread.
    pub split: Option<Split>,
    /// Somebody wanted it to end.
    pub interrupted: bool,
}

/// What everyone may look at while it runs, and the wish to end.
#[derive(Debug, Default)]
pub struct Watch {
    /// Set to end early.
    pub stop: Arc<AtomicBool>,
    /// Frames moved, now and then.
    pub moved: AtomicU64,
}

impl Watch {
    /// Whether somebody wants it to end.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// What frames are about, for all stations.
#[derive(Debug)]
struct Shared {
    direction: Direction,
    burst: usize,
    /// Frames of a flow that may be on their way at full pace.
    window: u64,
    /// By flow: one more than the highest sequence number that arrived; written by the one station where it arrives.
    arrived: Box<[Counter]>,
    /// Guests and device take turns on the same lcore.
    shared_lcore: bool,
    /// A measurement goes on until there is something to show.
    persistent: bool,
}

/// A counter on lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Counter(AtomicU64);

/// Everything that a load is made of.
#[derive(Debug)]
pub struct LoadOptions {
    /// Which way frames go.
    pub direction: Direction,
    /// Frames sent at a time.
    pub burst: u16,
    /// Lcores of the stations.
    pub lcores: Vec<usize>,
    /// Whether a worker of the engine has one of them, too.
    pub shared_lcore: bool,
    /// Whether a measurement goes on until there is something to show, as a tiny one on a busy machine must.
    pub persistent: bool,
    /// A fault to put in.
    pub inject: Option<Injection>,
    /// A device that shares the one station's thread.
    pub beside: Option<Box<dyn Beside>>,
}

/// A device that is turned by hand, after each turn of the guest.
pub trait Beside: Send + std::fmt::Debug {
    /// One burst each way.
    fn turn(&mut self);
}

/// What either side cost where they share a thread, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Split {
    /// The guest's turns.
    pub driver_ns: f64,
    /// The device's.
    pub device_ns: f64,
}

/// Guests with queues attached to a device, ready to send and receive.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    stations: Vec<(usize, Station)>,
    flows: u16,
}

impl Load {
    /// Takes over the guests, whose queues are attached: the first one sends, the last one receives.
    ///
    /// # Errors
    /// The device broke a ring.
    pub fn new(guests: Vec<Guest>, options: LoadOptions) -> Result<Self> {
        let LoadOptions { direction, burst, lcores, shared_lcore, persistent, inject, mut beside } = options;
        let flows = guests.first().map_or(0, |guest| guest.lanes.len() as u16);
        let script = guests.first().and_then(Guest::script);
        // Steering may bring several flows to one receiveq: then each gets its part of the buffers.
        let together = if direction == Direction::GuestToGuest { u64::from(flows) } else { 1 };
        let room = guests.last().map_or(0, Guest::receive_frames_max).min(IN_FLIGHT_MAX);
        let mut guests = guests;
        if let (Direction::GuestToGuest, Some(receiver)) = (direction, guests.last_mut()) {
            receiver.announce()?;
        }
        let shared = Arc::new(Shared {
            direction,
            burst: usize::from(burst),
            window: (room / together).max(1),
            arrived: (0..flows).map(|_| Counter::default()).collect(),
            shared_lcore,
            persistent,
        });
        let count = lcores.len().min(usize::from(flows)).max(1);
        let mut shares: Vec<Vec<Lane>> = (0..count).map(|_| Vec::new()).collect();
        for (number, guest) in guests.into_iter().enumerate() {
            for (index, mut lane) in guest.lanes.into_iter().enumerate() {
                lane.take_role(Role::of(direction, number, index as u16));
                shares[index % count].push(lane);
            }
        }
        let checker = || script.clone().map_or_else(|| Checker::new(flows), Checker::of_script);
        let station =
            |(lcore, lanes)| (lcore, Station::new(lanes, checker(), Arc::clone(&shared), inject, beside.take()));
        let stations = lcores.iter().copied().zip(shares).map(station).collect();
        Ok(Load { shared, stations, flows })
    }

    /// Sends frames and checks every byte of them, or waits for some to come. Returns how many were checked.
    ///
    /// # Errors
    /// Frames did not come, or the device broke the ring.
    pub fn check(&mut self, smoke: bool, watch: &Watch) -> Result<u64> {
        let frames = if smoke { CHECK_FRAMES / 8 } else { CHECK_FRAMES };
        let direction = self.shared.direction;
        if direction == Direction::FromGuest {
            return Ok(0);
        }
        let before = self.integrity().checksummed;
        self.on_all(|station| station.check(frames, watch))?;
        self.settle()?;
        let checked = self.integrity().checksummed - before;
        ensure!(
            // To a guest others may send what they like.
            checked > 0 || watch.stopped() || direction == Direction::ToGuest && self.integrity().foreign > 0,
            "no frame of ours arrived, {} others did: does the device send {} traffic?",
            self.integrity().foreign,
            direction.name()
        );
        Ok(checked)
    }

    /// Drives at a pace for a while and measures.
    ///
    /// # Errors
    /// The device broke the ring.
    pub fn measure(&mut self, pace: Pace, length: Duration, watch: &Watch) -> Result<Measured> {
        measure_together(&mut [(self, pace)], length, watch)?.pop().context("a load has one measurement")
    }

    /// Waits for what is on its way.
    ///
    /// # Errors
    /// The device broke the ring.
    pub fn settle(&mut self) -> Result<()> {
        self.on_all(Station::settle).map(drop)
    }

    fn on_all<T: Send>(&mut self, work: impl Fn(&mut Station) -> Result<T> + Sync) -> Result<Vec<T>> {
        let work = &work;
        thread::scope(|scope| {
            let threads: Vec<_> = self
                .stations
                .iter_mut()
                .map(|(lcore, station)| {
                    scope.spawn(move || {
                        crate::lcore::pin(*lcore);
                        work(station)
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        })
    }

    /// What the checks counted so far.
    pub fn integrity(&self) -> Integrity {
        let mut sum = Integrity::default();
        for (_, station) in &self.stations {
            sum += station.checker().counts();
        }
        sum
    }

    /// Frames sent so far.
    pub fn sent(&self) -> u64 {
        self.stations.iter().map(|(_, station)| station.sent()).sum()
    }

    /// Their bytes.
    pub fn sent_bytes(&self) -> u64 {
        self.stations.iter().map(|(_, station)| station.sent_bytes()).sum()
    }

    /// Of the frames sent so far, those that have not arrived; to-guest: the gaps in what arrived.
    pub fn missing(&self) -> u64 {
        let arrived: u64 = (0..self.flows)
            .flat_map(|flow| {
                self.stations
                    .iter()
                    .map(move |(_, station)| station.checker().due(flow) - station.checker().missing(flow))
            })
            .sum();
        match self.shared.direction {
            Direction::ToGuest => (0..self.flows)
                .flat_map(|flow| self.stations.iter().map(move |(_, station)| station.checker().missing(flow)))
                .sum(),
            Direction::FromGuest => self.stations.iter().map(|(_, station)| station.unreaped()).sum(),
            _ => self.sent().saturating_sub(arrived),
        }
    }
}

/// Drives several loads at once, each at its pace; on each lcore one thread has the stations of all of them. Returns what was
/// measured, in the order of the loads.
///
/// # Errors
/// A device broke a ring.
pub fn measure_together(loads: &mut [(&mut Load, Pace)], length: Duration, watch: &Watch) -> Result<Vec<Measured>> {
    let count = loads.len();
    let mut by_lcore: BTreeMap<usize, Vec<Seat<'_>>> = BTreeMap::new();
    for (at, (load, pace)) in loads.iter_mut().enumerate() {
        let schedule = match pace {
            Pace::Rate { pps, .. } => Schedule::new(*pps, load.flows),
            Pace::Captured { timetable, .. } => Schedule::Captured { timetable: Arc::clone(timetable), first: 0 },
            Pace::Full | Pace::Listen => Schedule::new(1.0, load.flows),
        };
        for (lcore, station) in &mut load.stations {
            by_lcore.entry(*lcore).or_default().push(Seat {
                load: at,
                pace: pace.clone(),
                schedule: schedule.clone(),
                station,
            });
        }
    }
    let parts: Vec<(usize, Measured)> = thread::scope(|scope| {
        let threads: Vec<_> = by_lcore
            .into_iter()
            .map(|(lcore, seats)| {
                scope.spawn(move || {
                    crate::lcore::pin(lcore);
                    take_turns(seats, length, watch)
                })
            })
            .collect();
        let join = |thread: ScopedJoinHandle<'_, _>| thread.join().unwrap_or_else(|panic| resume_unwind(panic));
        threads.into_iter().map(join).collect::<Result<Vec<_>>>()
    })?
    .into_iter()
    .flatten()
    .collect();
    let mut sums: Vec<Option<Measured>> = (0..count).map(|_| None).collect();
    for (at, part) in parts {
        match &mut sums[at] {
            None => sums[at] = Some(part),
            Some(sum) => sum.add(&part)?,
        }
    }
    sums.into_iter().map(|sum| sum.context("no station to measure with")).collect()
}

/// A station among those of a thread.
struct Seat<'a> {
    /// Which load it is part of.
    load: usize,
    pace: Pace,
    schedule: Schedule,
    station: &'a mut Station,
}

/// One thread's stations, turn by turn.
fn take_turns(seats: Vec<Seat<'_>>, length: Duration, watch: &Watch) -> Result<Vec<(usize, Measured)>> {
    let begin = |Seat { load, pace, schedule, station }| {
        let stint = Station::begin(station, pace, schedule, length);
        (load, station, stint)
    };
    let mut busy: Vec<_> = seats.into_iter().map(begin).collect();
    let mut measured = Vec::with_capacity(busy.len());
    while !busy.is_empty() {
        let (mut moved, mut over) = (false, false);
        for (_, station, stint) in &mut busy {
            match station.turn(stint, watch)? {
                Turn::Moved => moved = true,
                Turn::Still => {}
                Turn::Over => {
                    stint.is_over = true;
                    over = true;
                }
            }
        }
        if over {
            for (at, station, stint) in busy.extract_if(.., |(_, _, stint)| stint.is_over) {
                measured.push((at, station.end(stint, watch)));
            }
        } else if !moved && let Some((_, station, _)) = busy.first() {
            station.idle();
        }
    }
    Ok(measured)
}

impl Measured {
    /// Adds what was measured elsewhere at the same time.
    ///
    /// # Errors
    /// Latencies beyond what can be told apart.
    pub fn add(&mut self, other: &Measured) -> Result<()> {
        self.seconds = self.seconds.max(other.seconds);
        self.sent += other.sent;
        self.moved += other.moved;
        self.moved_bytes += other.moved_bytes;
        self.due += other.due;
        self.given_up += other.given_up;
        for (sum, part) in self.intervals.iter_mut().zip(&other.intervals) {
            *sum += part;
        }
        self.intervals.truncate(other.intervals.len());
        self.histogram.add(&other.histogram)?;
        self.waited = self.waited.max(other.waited);
        self.interrupted |= other.interrupted;
        Ok(())
    }
}
