//! From a plan and a test bed to a report: check, warm up, measure, settle, account for every frame.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::Pid;

use crate::args::Direction;
use crate::bed::{Bed, Counted};
use crate::environment::Environment;
use crate::load::{Load, Measured, Pace, Watch};
use crate::plan::Plan;
use crate::probe;
use crate::process::Activity;
use crate::progress::Progress;
use crate::report::{Evenness, Findings, Kind, LatencyOf, OneCoreCost, Percentiles, Placement, Report, WorkerLoad};
use crate::steal::Steal;

/// How long the device's counters may lag behind what it has done.
const COUNTERS_LAG: Duration = Duration::from_secs(2);

/// What a report says besides figures.
#[derive(Clone, Debug)]
pub struct Label {
    /// What kind of run.
    pub kind: Kind,
    /// The subcommand.
    pub command: &'static str,
    /// `in-process`, or the socket.
    pub backend: String,
    /// Loss is no failure.
    pub allow_loss: bool,
}

/// Frames accounted for, of one bed or of several in a row.
#[derive(Clone, Copy, Debug, Default)]
pub struct Account {
    /// What the checks found.
    pub findings: Findings,
    /// Frames dropped by the device and counted there, or given up by us.
    pub drops: u64,
}

impl Account {
    /// Accounts for every frame of a bed whose load has settled, and takes it down. With `allow_loss`, frames that were lost
    /// where no counter can be asked are drops.
    ///
    /// # Errors
    /// The device does not answer or does not let go.
    pub fn close(&mut self, mut bed: Box<dyn Bed>, direction: Direction, allow_loss: bool) -> Result<()> {
        self.audit(&mut *bed, direction, allow_loss)?;
        bed.dismantle()
    }

    /// The same without taking it down.
    ///
    /// # Errors
    /// The device does not answer.
    pub fn audit(&mut self, bed: &mut (dyn Bed + '_), direction: Direction, allow_loss: bool) -> Result<()> {
        let mut counted = bed.counted()?;
        let mut missing = missing(bed.load(), counted, direction);
        // A device may count what it has done a moment after it shows; at the latest when it gets its lcore again.
        let patience = Instant::now() + COUNTERS_LAG;
        while missing > 0 && counted.is_some() && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(5));
            counted = bed.counted()?;
            missing = self::missing(bed.load(), counted, direction);
        }
        let counts = bed.load().integrity();
        let is_drop = allow_loss && counted.is_none();
        self.drops += counted.map_or(if is_drop { missing } else { 0 }, |counted| counted.drops);
        let findings = &mut self.findings;
        findings.lost += if is_drop { 0 } else { missing };
        findings.checksummed += counts.checksummed;
        // In this process nobody but us sends: what is not ours was, before it was damaged.
        findings.corrupted += counts.corrupted + if counted.is_some() { counts.foreign } else { 0 };
        findings.reordered += counts.reordered;
        findings.duplicated += counts.duplicated;
        findings.foreign += counts.foreign;
        Ok(())
    }
}

/// Frames of a load that did not arrive and that no counter of the device admits to.
fn missing(load: &Load, counted: Option<Counted>, direction: Direction) -> u64 {
    match (direction, counted) {
        // The port swallowed them: what the device says went through is all there is to hold against what was sent.
        (Direction::FromGuest, Some(counted)) => {
            let frames = load.sent().abs_diff(counted.from_guest + counted.drops);
            let bytes_differ = counted.drops == 0 && load.sent_bytes() != counted.from_guest_bytes;
            frames.max(u64::from(bytes_differ)) + load.missing()
        }
        (_, Some(counted)) => load.missing().saturating_sub(counted.drops),
        (_, None) => load.missing(),
    }
}

/// Where the device runs, for the placement probe.
#[derive(Debug)]
pub enum Whereabouts {
    /// On these lcores, in threads of this process.
    Here(Vec<usize>),
    /// In whichever thread of this process has been busiest since.
    There(Activity),
}

impl Whereabouts {
    /// The lcores, as far as known by now.
    pub fn lcores(&self) -> Vec<usize> {
        match self {
            Whereabouts::Here(lcores) => lcores.clone(),
            Whereabouts::There(activity) => activity.busiest().map(|busiest| busiest.lcore).into_iter().collect(),
        }
    }
}

/// Runs `work` with a placement probe before and after, watching meanwhile how long either side waited for its lcore. Of several
/// lcores of the device the one farthest from the driver counts.
///
/// # Errors
/// Those of `work`.
pub fn with_placement(
    driver: usize,
    device: &[usize],
    process: Option<Pid>,
    work: impl FnOnce() -> Result<Measured>,
) -> Result<(Measured, Placement)> {
    let before_ns = farthest_ns(driver, device);
    let activity = Activity::of(process);
    let steal = Steal::from([&[driver], device].concat());
    let measured = work()?;
    let stolen = steal.part();
    let device_waited = activity.busiest().map_or(0.0, |busiest| busiest.waited);
    let after_ns = farthest_ns(driver, device);
    let class = if device.contains(&driver) { "shared" } else { probe::class_around(before_ns, after_ns) };
    let placement = Placement { before_ns, after_ns, class, waited: measured.waited.max(device_waited), stolen };
    Ok((measured, placement))
}

/// Nanoseconds for a cache line to go to the farthest of several lcores and back.
fn farthest_ns(driver: usize, device: &[usize]) -> Option<f64> {
    device.iter().filter_map(|&lcore| probe::round_trip_ns(driver, lcore)).max_by(f64::total_cmp)
}

/// Measures on a bed that is ready, and takes it down. `account` has what was found before.
///
/// # Errors
/// The device broke a ring, does not answer, or sent nothing.
pub fn judge(
    mut bed: Box<dyn Bed>,
    plan: &Plan,
    label: Label,
    mut account: Account,
    whereabouts: Whereabouts,
    watch: &Watch,
    progress: &Progress,
) -> Result<Report> {
    account.findings.checked_before += bed.load().check(plan.smoke, watch).context("the check before measuring")?;
    bed.load().measure(plan.pace(), plan.warm_up, watch)?;
    let (driver, device, process) = (plan.division.drivers[0], whereabouts.lcores(), bed.process());
    let mut workers = Vec::new();
    let (measured, placement) = with_placement(driver, &device, process, || {
        bed.workers();
        let measure = || bed.load().measure(plan.pace(), plan.length, watch);
        let measured = progress.during(&plan.title(), plan.length, watch, measure)?;
        workers = bed.workers();
        Ok(measured)
    })?;
    bed.load().settle()?;
    account.drops += measured.given_up;
    account.close(bed, plan.direction, label.allow_loss)?;
    let mut report = report(plan, label, measured, placement, &account);
    report.workers = workers.iter().map(WorkerLoad::from).collect();
    Ok(report)
}

/// The report of what was measured and accounted for.
pub fn report(plan: &Plan, label: Label, measured: Measured, placement: Placement, account: &Account) -> Report {
    let interval_s = measured.interval.as_secs_f64();
    let mut environment = Environment::look(&plan.division.workers, &plan.division.drivers);
    environment.warnings.extend(placement.doubts());
    // Where the port sends by itself, what arrived is what we know of.
    let sent = if plan.direction == Direction::ToGuest { measured.moved } else { measured.sent };
    Report {
        kind: label.kind,
        command: label.command,
        backend: label.backend,
        ring: plan.ring,
        direction: plan.direction,
        frame_bytes: plan.sizes(),
        pcap: plan.pcap().map(|path| path.display().to_string()),
        queues: plan.queues,
        queue_size: plan.queue_size,
        burst: plan.burst,
        features: plan.features.clone(),
        lcores: plan.division.workers.clone(),
        driver_lcores: plan.division.drivers.clone(),
        rate_pps: plan.rate_pps,
        seconds: measured.seconds,
        frames_sent: sent,
        frames_received: measured.moved,
        drops: account.drops,
        integrity_errors: account.findings.errors(),
        integrity: account.findings,
        mpps: measured.moved as f64 / measured.seconds / 1e6,
        gbit_per_s: measured.moved_bytes as f64 * 8.0 / measured.seconds / 1e9,
        evenness: Evenness {
            interval_ms: interval_s * 1e3,
            mpps: measured.intervals.iter().map(|&frames| frames as f64 / interval_s / 1e6).collect(),
        },
        latency_ns: Percentiles::of(&measured.histogram),
        latency_of: (!measured.histogram.is_empty()).then_some(match (plan.rate_pps, plan.direction) {
            (Some(_), Direction::FromGuest) => LatencyOf::DueToUsed,
            (Some(_), _) => LatencyOf::DueToArrival,
            (None, Direction::FromGuest) => LatencyOf::OfferToUsed,
            (None, _) => LatencyOf::OfferToArrival,
        }),
        placement,
        one_core: measured.split.filter(|_| measured.moved > 0).map(|split| OneCoreCost {
            driver_ns_per_frame: split.driver_ns / measured.moved as f64,
            device_ns_per_frame: split.device_ns / measured.moved as f64,
        }),
        partial: measured.interrupted,
        workers: Vec::new(),
        round: None,
        search: None,
        sweep: None,
        capacity: None,
        unloaded: None,
        environment,
        histogram: measured.histogram,
        started_at_s: measured.started_at_s,
    }
}

impl Plan {
    /// How fast the guests send.
    pub fn pace(&self) -> Pace {
        let patience = self.patience;
        match (self.direction, &self.timetable, self.rate_pps) {
            (Direction::ToGuest, ..) => Pace::Listen,
            (_, Some(timetable), _) => Pace::Captured { timetable: Arc::clone(timetable), patience },
            (_, None, Some(pps)) => Pace::Rate { pps, patience },
            (_, None, None) => Pace::Full,
        }
    }
}
