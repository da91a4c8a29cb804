//! `latency`: an open loop at a rate.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::args::{Direction, LatencyArgs};
use crate::bed::{Door, division};
use crate::lcore::{self, Division};
use crate::load::Watch;
use crate::plan::Plan;
use crate::progress::Progress;
use crate::report::{Kind, Results};
use crate::{attach, run};

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
    let plans = Plan::all(&args.load, &args.direction, &division, args.seconds, Some(args.rate))?;
    let progress = Progress::new(plans.iter().map(|plan| plan.length).sum::<Duration>());
    let mut results = Results::default();
    for plan in &plans {
        if watch.stopped() {
            break;
        }
        results.reports.push(match &door {
            Some(door) => attach::measure(plan, std::slice::from_ref(door), "latency", false, watch, &progress)?,
            None => run::measure(plan, Kind::Run, "latency", watch, &progress)?,
        });
    }
    Ok(results)
}
