//! `latency`: an open loop at a rate, or at shares of what goes; or one frame at a time.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::args::{Direction, LatencyArgs};
use crate::bed::{Attached, Bed, Door, InProcess, division};
use crate::judge::{Label, Whereabouts};
use crate::lcore::{self, Division};
use crate::load::Watch;
use crate::plan::Plan;
use crate::process::Activity;
use crate::progress::Progress;
use crate::report::{Capacity, Kind, Report, Results};
use crate::search::{self, Limits, TRIALS_EXPECTED};
use crate::{attach, run, unloaded};

/// A trial of the search for the capacity. With this patience a rate that is higher by one in fifty shows.
const SEARCH_LENGTH: Duration = Duration::from_millis(500);
/// How long a frame may wait there: longer than a machine pauses, mostly.
const SEARCH_PATIENCE: Duration = Duration::from_millis(10);
/// To such a part the capacity is known.
const SEARCH_RESOLUTION: f64 = 0.02;
/// Trials of a rate before it counts as too high.
const SEARCH_ATTEMPTS: u32 = 3;

/// Measures every line of the table.
///
/// # Errors
/// What cannot be, or does not work.
pub fn measure(args: &LatencyArgs, watch: &Watch) -> Result<Results> {
    ensure!(
        !args.direction.contains(&Direction::ToGuest),
        "--direction to-guest: nobody here knows when such a frame was sent"
    );
    let drivers = args.load.driver_lcores.as_ref();
    let (door, division) = match &args.socket {
        Some(socket) => {
            ensure!(
                !args.direction.contains(&Direction::GuestToGuest),
                "--direction guest-to-guest needs two devices: `attach --socket A --peer-socket B --rate N` measures that"
            );
            (Some(Door::new(socket.clone(), args.server, attach::PATIENCE)?), division(drivers)?)
        }
        None => (None, Division::new(args.engine.lcores.as_ref(), drivers, &lcore::usable())?),
    };
    let mut plans = Plan::all(&args.load, &args.direction, &division, args.seconds, Some(args.rate))?;
    if args.unloaded {
        ensure!(args.direction == [Direction::Loopback], "--unloaded: a frame has to come back, --direction loopback");
        ensure!(args.load.queues == 1, "--unloaded with --queues {}: one frame at a time is on one", args.load.queues);
        plans.iter_mut().for_each(|plan| plan.rate_pps = None);
    }
    let searched: Vec<Plan> = plans.iter().map(to_search).collect();
    let shares = args.capacity_percent.len() as u32;
    let length = |(plan, searched): (&Plan, &Plan)| match shares {
        0 => plan.length,
        shares => plan.length * shares + searched.length * TRIALS_EXPECTED,
    };
    let progress = Progress::new(plans.iter().zip(&searched).map(length).sum::<Duration>());
    let bench = Bench { door: door.as_ref(), watch, progress: &progress };
    let mut results = Results::default();
    for (plan, searched) in plans.iter().zip(&searched) {
        if watch.stopped() {
            break;
        }
        if args.unloaded {
            results.reports.push(bench.unloaded(plan)?);
        } else if shares > 0 {
            bench.at_shares(plan, searched, &args.capacity_percent, &mut results)?;
        } else {
            results.reports.push(bench.at_rate(plan)?);
        }
    }
    Ok(results)
}

/// The plan of the search for the capacity.
fn to_search(plan: &Plan) -> Plan {
    let mut plan = plan.clone();
    (plan.rate_pps, plan.patience) = (None, SEARCH_PATIENCE);
    if !plan.smoke {
        plan.length = plan.length.min(SEARCH_LENGTH);
    }
    plan
}

/// What all lines have in common.
struct Bench<'a> {
    door: Option<&'a Door>,
    watch: &'a Watch,
    progress: &'a Progress,
}

impl Bench<'_> {
    fn at_rate(&self, plan: &Plan) -> Result<Report> {
        match self.door {
            Some(door) => {
                attach::measure(plan, std::slice::from_ref(door), "latency", false, self.watch, self.progress)
            }
            None => run::measure(plan, Kind::Run, "latency", self.watch, self.progress),
        }
    }

    /// The highest rate without loss, and shares of it.
    fn at_shares(&self, plan: &Plan, searched: &Plan, shares: &[f64], results: &mut Results) -> Result<()> {
        // In a tiny run on a busy machine nothing goes without loss.
        let (tolerance, attempts) = if plan.smoke { (0.9, 10) } else { (0.0, SEARCH_ATTEMPTS) };
        let limits = Limits { rate_max: None, resolution: SEARCH_RESOLUTION, tolerance, attempts };
        let found = search::search(limits, "latency", searched, self.door, self.watch, self.progress)?;
        let pps = found.search.as_ref().map_or(0.0, |found| found.zero_loss_pps);
        results.reports.push(found);
        ensure!(pps >= 1.0 || self.watch.stopped(), "{}: no rate went without loss", plan.title());
        for &percent in shares {
            if self.watch.stopped() {
                break;
            }
            let mut plan = plan.clone();
            plan.rate_pps = Some((pps * percent / 100.0).max(1.0));
            let mut report = self.at_rate(&plan)?;
            report.capacity = Some(Capacity { pps, percent });
            results.reports.push(report);
        }
        Ok(())
    }

    fn unloaded(&self, plan: &Plan) -> Result<Report> {
        let (bed, whereabouts, backend): (Box<dyn Bed>, _, _) = match self.door {
            Some(door) => {
                let bed = Attached::new(plan, std::slice::from_ref(door), self.watch)?;
                let activity = Activity::of(bed.process());
                (Box::new(bed), Whereabouts::There(activity), door.path().display().to_string())
            }
            None => {
                let bed = InProcess::new(plan, plan.direction)?;
                (Box::new(bed), Whereabouts::Here(plan.division.workers.clone()), "in-process".to_owned())
            }
        };
        let label = Label { kind: Kind::Run, command: "latency", backend, allow_loss: false };
        unloaded::measure(bed, plan, label, &whereabouts, self.watch, self.progress)
    }
}
