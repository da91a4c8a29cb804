//! `run`: everything in one process.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use virtnet_engine::port::pcap::Capture;

use crate::args::{Direction, RunArgs};
use crate::bed::{Bed, InProcess, OneCore};
use crate::judge::{Account, Label, Whereabouts, judge};
use crate::lcore::{self, Division};
use crate::load::Watch;
use crate::plan::Plan;
use crate::progress::Progress;
use crate::report::{Kind, Report, Results};

/// Measures every line of the table.
///
/// # Errors
/// What cannot be, or does not work.
pub fn run(args: &RunArgs, watch: &Watch) -> Result<Results> {
    let mut division = Division::new(args.engine.lcores.as_ref(), args.load.driver_lcores.as_ref(), &lcore::usable())?;
    if args.one_core.one_core {
        let drivers = division.drivers.len();
        ensure!(drivers == 1, "--one-core with {drivers} lcores in --driver-lcores: it has one thread");
        division.workers = division.drivers.clone();
    }
    let directions = if args.direction.is_empty() { &Direction::ALL[..] } else { &args.direction };
    let mut plans = Plan::all(&args.load, directions, &division, args.seconds, args.rate)?;
    plans.iter_mut().for_each(|plan| (plan.inject, plan.one_core) = (args.inject, args.one_core.one_core));
    if let Some(path) = &args.pcap {
        let capture = Arc::new(Capture::load(path)?);
        plans.iter_mut().try_for_each(|plan| plan.replay(path, &capture))?;
    }
    let progress = Progress::new(plans.iter().map(|plan| plan.length).sum::<Duration>());
    if division.is_shared() && !args.one_core.one_core {
        progress.say("guest and device share an lcore and take turns: the figures say little about either");
    }
    let mut results = Results::default();
    for plan in &plans {
        if watch.stopped() {
            break;
        }
        results.reports.push(measure(plan, Kind::Run, "run", watch, &progress)?);
    }
    Ok(results)
}

/// Measures one plan in this process.
///
/// # Errors
/// As above.
pub fn measure(plan: &Plan, kind: Kind, command: &'static str, watch: &Watch, progress: &Progress) -> Result<Report> {
    let label = Label { kind, command, backend: "in-process".to_owned(), allow_loss: false };
    let account = check_on_loop(plan, watch)?;
    let whereabouts = Whereabouts::Here(plan.division.workers.clone());
    judge(bed(plan, plan.direction)?, plan, label, account, whereabouts, watch, progress)
}

fn bed(plan: &Plan, direction: Direction) -> Result<Box<dyn Bed>> {
    Ok(if plan.one_core {
        Box::new(OneCore::new(plan, direction)?)
    } else {
        Box::new(InProcess::new(plan, direction)?)
    })
}

/// What a sink swallows cannot be looked at: the same rings with the same frames are checked on a loop first, and accounted for.
///
/// # Errors
/// As above.
pub fn check_on_loop(plan: &Plan, watch: &Watch) -> Result<Account> {
    let mut account = Account::default();
    if plan.direction == Direction::FromGuest {
        let mut bed = bed(plan, Direction::Loopback)?;
        account.findings.checked_before = bed.load().check(plan.smoke, watch)?;
        account.close(bed, Direction::Loopback, false)?;
    }
    Ok(account)
}
