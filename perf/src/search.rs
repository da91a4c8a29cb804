//! `search`: the highest rate without loss, in this process or at a back end.

use std::time::Duration;

use anyhow::{Result, bail, ensure};

use crate::args::{Direction, SearchArgs};
use crate::attach;
use crate::bed::{Attached, Bed, Door, InProcess, default_direction, division};
use crate::halving::{self, Search};
use crate::judge::{self, Account, Label, Whereabouts, with_placement};
use crate::lcore::{self, Division};
use crate::load::{Measured, Pace, Watch};
use crate::plan::Plan;
use crate::process::Activity;
use crate::progress::Progress;
use crate::report::{Kind, Placement, Report, Results};
use crate::run;

/// Above what went through without a rate, so that the ceiling is not the rate of a bad moment.
const CEILING_MARGIN: f64 = 1.1;
/// Trials that a search is expected to take, for the progress bar.
pub const TRIALS_EXPECTED: u32 = 9;

/// Searches for every line of the table.
///
/// # Errors
/// What cannot be, or does not work.
pub fn run(args: &SearchArgs, watch: &Watch) -> Result<Results> {
    let drivers = args.load.driver_lcores.as_ref();
    ensure!((0.0..=1000.0).contains(&args.patience_ms), "--patience-ms {}: 0 to 1000", args.patience_ms);
    ensure!(args.resolution > 0.0, "--resolution 0: the search would not end");
    let (door, division) = match &args.socket {
        Some(socket) => (Some(Door::new(socket.clone(), args.server, attach::PATIENCE)?), division(drivers)?),
        None => (None, Division::new(args.engine.lcores.as_ref(), drivers, &lcore::usable())?),
    };
    let default = [default_direction(1)];
    let directions = match (args.direction.as_slice(), &door) {
        ([], None) => &Direction::ALL[..],
        ([], Some(_)) => &default[..],
        (chosen, _) => chosen,
    };
    for (direction, why) in [
        (Direction::ToGuest, "nobody can tell the back end at what rate to send"),
        (Direction::GuestToGuest, "it needs two devices; in this process there are"),
    ] {
        ensure!(
            door.is_none() || !directions.contains(&direction),
            "--direction {} with --socket: {why}",
            direction.name()
        );
    }
    let mut plans = Plan::all(&args.load, directions, &division, args.seconds, None)?;
    plans.iter_mut().for_each(|plan| plan.patience = Duration::from_secs_f64(args.patience_ms / 1e3));
    let progress = Progress::new(plans.iter().map(|plan| plan.length * TRIALS_EXPECTED).sum::<Duration>());
    let mut results = Results::default();
    for plan in &plans {
        if watch.stopped() {
            break;
        }
        let limits = Limits {
            rate_max: args.rate_max,
            resolution: args.resolution,
            tolerance: args.loss_tolerance,
            attempts: args.attempts,
        };
        results.reports.push(search(limits, "search", plan, door.as_ref(), watch, &progress)?);
    }
    Ok(results)
}

/// How a rate is searched for.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The highest to try, in frames a second; `None`: what goes through without a rate.
    pub rate_max: Option<f64>,
    /// As in [`Search`].
    pub resolution: f64,
    /// The same.
    pub tolerance: f64,
    /// The same.
    pub attempts: u32,
}

/// Searches in trials as long as the plan says.
///
/// # Errors
/// What does not work.
pub fn search(
    limits: Limits,
    command: &'static str,
    plan: &Plan,
    door: Option<&Door>,
    watch: &Watch,
    progress: &Progress,
) -> Result<Report> {
    let account = if door.is_none() { run::check_on_loop(plan, watch)? } else { Account::default() };
    let bed: Box<dyn Bed> = match door {
        None => Box::new(InProcess::new(plan, plan.direction)?),
        Some(door) => Box::new(Attached::new(plan, std::slice::from_ref(door), watch)?),
    };
    let whereabouts = match plan.division.workers.as_slice() {
        [] => Whereabouts::There(Activity::of(bed.process())),
        workers => Whereabouts::Here(workers.to_vec()),
    };
    let label = Label {
        kind: Kind::Search,
        command,
        backend: door.map_or("in-process".to_owned(), |door| door.path().display().to_string()),
        // Above the limit frames are lost; a back end elsewhere counts them where we cannot see it.
        allow_loss: true,
    };
    let mut hunt = Hunt { plan: plan.clone(), bed, best: None, last: None, account };
    hunt.account.findings.checked_before += hunt.bed.load().check(plan.smoke, watch)?;
    let free_running_pps = hunt.free_running(watch)?;
    let search = Search {
        ceiling_pps: limits.rate_max.unwrap_or(free_running_pps * CEILING_MARGIN).max(1.0),
        resolution: limits.resolution,
        tolerance: limits.tolerance,
        attempts: limits.attempts,
    };
    let (driver, device) = (plan.division.drivers[0], whereabouts.lcores());
    let found = halving::zero_loss(search, |pps| {
        if watch.stopped() {
            return Ok(None);
        }
        progress.during(&plan.title(), plan.length, watch, || hunt.trial(pps, driver, &device, watch)).map(Some)
    })?;
    let Hunt { bed, best, last, mut account, .. } = hunt;
    account.close(bed, plan.direction, label.allow_loss)?;
    let Some((measured, placement)) = best.or(last) else { bail!("interrupted before the first trial") };
    let mut plan = plan.clone();
    plan.rate_pps = Some(found.zero_loss_pps);
    let mut report = judge::report(&plan, label, measured, placement, &account);
    report.search = Some(found);
    report.partial |= watch.stopped();
    Ok(report)
}

/// A search under way.
struct Hunt {
    plan: Plan,
    bed: Box<dyn Bed>,
    /// The last trial that passed.
    best: Option<(Measured, Placement)>,
    last: Option<(Measured, Placement)>,
    account: Account,
}

impl Hunt {
    /// Frames a second that go through without a rate.
    fn free_running(&mut self, watch: &Watch) -> Result<f64> {
        let measured = self.bed.load().measure(self.plan.pace(), self.plan.length, watch)?;
        self.bed.load().settle()?;
        Ok(measured.moved as f64 / measured.seconds)
    }

    /// Frames due and frames lost.
    fn trial(&mut self, pps: f64, driver: usize, device: &[usize], watch: &Watch) -> Result<(u64, u64)> {
        if self.plan.direction == Direction::ToGuest {
            return self.trial_of_source(pps, driver, device, watch);
        }
        let pace = Pace::Rate { pps, patience: self.plan.patience };
        let length = self.plan.length;
        let missing_before = self.bed.load().missing();
        let process = self.bed.process();
        let bed = &mut self.bed;
        let (measured, placement) =
            with_placement(driver, device, process, || bed.load().measure(pace, length, watch))?;
        self.bed.load().settle()?;
        let missing = self.bed.load().missing().saturating_sub(missing_before);
        self.account.drops += measured.given_up;
        let (due, lost) = (measured.sent + measured.given_up, measured.given_up + missing);
        self.keep(measured, placement, lost);
        Ok((due, lost))
    }

    /// A source at this rate: a new one each time. It loses nothing, it falls behind.
    fn trial_of_source(&mut self, pps: f64, driver: usize, device: &[usize], watch: &Watch) -> Result<(u64, u64)> {
        let mut plan = self.plan.clone();
        plan.rate_pps = Some(pps);
        let bed = std::mem::replace(&mut self.bed, Box::new(InProcess::new(&plan, plan.direction)?));
        self.account.close(bed, plan.direction, false)?;
        // The first frames are on their way since the queues were attached.
        self.bed.load().measure(Pace::Listen, plan.warm_up, watch)?;
        let process = self.bed.process();
        let bed = &mut self.bed;
        let measure = || bed.load().measure(Pace::Listen, plan.length, watch);
        let (measured, placement) = with_placement(driver, device, process, measure)?;
        let due = (pps * measured.seconds) as u64;
        let allowed = (pps * plan.patience.as_secs_f64()) as u64 + u64::from(plan.burst);
        let lost = due.saturating_sub(measured.moved).saturating_sub(allowed);
        self.keep(measured, placement, lost);
        Ok((due, lost))
    }

    fn keep(&mut self, measured: Measured, placement: Placement, lost: u64) {
        let trial = Some((measured, placement));
        if lost == 0 {
            self.best = trial;
        } else {
            self.last = trial;
        }
    }
}
