//! From a plan and a test bed to a report: check, warm up, measure, settle, account for every frame.

use std::time::SystemTime;

use anyhow::{Context, Result};

use crate::args::Direction;
use crate::bed::{Bed, Counted};
use crate::environment::Environment;
use crate::load::{Load, Measured, Pace, Watch};
use crate::plan::Plan;
use crate::probe;
use crate::progress::Progress;
use crate::report::{Evenness, Findings, Kind, LatencyOf, Percentiles, Placement, Report};

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

/// Measures on a bed that is ready, and takes it down. `before` is the placement probe of before; `device_lcore` where to look
/// for the device after.
///
/// # Errors
/// The device broke a ring, does not answer, or sent nothing.
pub fn judge(
    mut bed: Box<dyn Bed>,
    plan: &Plan,
    label: Label,
    checked_elsewhere: u64,
    watch: &Watch,
    progress: &Progress,
) -> Result<Report> {
    let started_at_s =
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    let checked_here = bed.load().check(plan.smoke, watch).context("the check before measuring")?;
    bed.load().measure(plan.pace(), plan.warm_up, watch)?;
    let measured =
        progress.during(&plan.title(), plan.length, watch, || bed.load().measure(plan.pace(), plan.length, watch))?;
    bed.load().settle()?;
    let counted = bed.counted()?;
    let findings = findings(bed.load(), counted, plan.direction, checked_elsewhere + checked_here);
    bed.dismantle()?;
    let drops =
        counted.map_or(if label.allow_loss { findings.lost } else { 0 }, |counted| counted.drops) + measured.given_up;
    let mut findings = findings;
    if label.allow_loss && counted.is_none() {
        findings.lost = 0;
    }
    Ok(report(plan, label, measured, findings, drops, started_at_s))
}

/// Accounts for every frame of a load that has settled.
fn findings(load: &Load, counted: Option<Counted>, direction: Direction, checked_before: u64) -> Findings {
    let counts = load.integrity();
    let missing = match (direction, counted) {
        // The port swallowed them: what the device says went through is all there is to hold against what was sent.
        (Direction::FromGuest, Some(counted)) => {
            let frames = load.sent().abs_diff(counted.from_guest + counted.drops);
            let bytes_differ = counted.drops == 0 && load.sent_bytes() != counted.from_guest_bytes;
            frames + u64::from(frames == 0 && bytes_differ) + load.missing()
        }
        (_, counted) => load.missing().saturating_sub(counted.map_or(0, |counted| counted.drops)),
    };
    Findings {
        checked_before,
        checksummed: counts.checksummed,
        lost: missing,
        corrupted: counts.corrupted,
        reordered: counts.reordered,
        duplicated: counts.duplicated,
        foreign: counts.foreign,
    }
}

fn report(plan: &Plan, label: Label, measured: Measured, integrity: Findings, drops: u64, started_at_s: f64) -> Report {
    let interval_s = measured.interval.as_secs_f64();
    // Where the port sends by itself, what arrived is what we know of.
    let sent = if plan.direction == Direction::ToGuest { measured.moved } else { measured.sent };
    Report {
        kind: label.kind,
        command: label.command,
        backend: label.backend,
        ring: plan.ring,
        direction: plan.direction,
        frame_bytes: plan.sizes(),
        pcap: None,
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
        drops,
        integrity_errors: integrity.errors(),
        integrity,
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
        placement: Placement { before_ns: None, after_ns: None, class: "unknown" },
        partial: measured.interrupted,
        round: None,
        search: None,
        environment: Environment::look(),
        histogram: measured.histogram,
        started_at_s,
    }
}

/// Runs `work` with a placement probe before and after, and enters them in its report.
///
/// # Errors
/// Those of `work`.
pub fn with_placement(driver: usize, device: Option<usize>, work: impl FnOnce() -> Result<Report>) -> Result<Report> {
    let before_ns = device.and_then(|device| probe::round_trip_ns(driver, device));
    let mut report = work()?;
    let after_ns = device.and_then(|device| probe::round_trip_ns(driver, device));
    let class = if device == Some(driver) { "shared" } else { probe::class_around(before_ns, after_ns) };
    report.placement = Placement { before_ns, after_ns, class };
    Ok(report)
}

impl Plan {
    /// How fast the guests send.
    pub fn pace(&self) -> Pace {
        match (self.direction, self.rate_pps) {
            (Direction::ToGuest, _) => Pace::Listen,
            (_, Some(pps)) => Pace::Rate { pps, patience: self.patience },
            (_, None) => Pace::Full,
        }
    }
}
