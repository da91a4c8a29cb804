//! `attach`: the load against a back end in another process.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::args::{AttachArgs, Direction};
use crate::bed::{Attached, Bed, Door, default_direction, division};
use crate::judge::{Account, Label, Whereabouts, judge};
use crate::load::Watch;
use crate::plan::Plan;
use crate::process::Activity;
use crate::progress::Progress;
use crate::report::{Kind, Report, Results};

/// How long a back end may take to be there.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Measures every line of the table.
///
/// # Errors
/// What cannot be, or does not work.
pub fn run(args: &AttachArgs, watch: &Watch) -> Result<Results> {
    let socket = &args.socket;
    let mut doors = vec![Door::new(socket.socket.clone(), socket.server, PATIENCE)?];
    if let Some(peer) = &socket.peer_socket {
        doors.push(Door::new(peer.clone(), socket.server, PATIENCE)?);
    }
    let default = [default_direction(doors.len())];
    let directions = if args.direction.is_empty() { &default[..] } else { &args.direction };
    ensure!(
        !directions.contains(&Direction::GuestToGuest) || doors.len() == 2,
        "--direction guest-to-guest needs the other guest's device, --peer-socket"
    );
    let division = division(args.load.driver_lcores.as_ref())?;
    let plans = Plan::all(&args.load, directions, &division, args.seconds, args.rate)?;
    let progress = Progress::new(plans.iter().map(|plan| plan.length).sum::<Duration>());
    let mut results = Results::default();
    for plan in &plans {
        if watch.stopped() {
            break;
        }
        let used = if plan.direction == Direction::GuestToGuest { &doors[..] } else { &doors[..1] };
        results.reports.push(measure(plan, used, "attach", socket.allow_loss, watch, &progress)?);
    }
    Ok(results)
}

/// Measures one plan at the back ends behind `doors`.
///
/// # Errors
/// As above.
pub fn measure(
    plan: &Plan,
    doors: &[Door],
    command: &'static str,
    allow_loss: bool,
    watch: &Watch,
    progress: &Progress,
) -> Result<Report> {
    let bed = Attached::new(plan, doors, watch)?;
    let backend = doors[0].path().display().to_string();
    let label = Label { kind: Kind::Run, command, backend, allow_loss };
    // Where the back end polls shows in which of its threads is busy while the queues are set up and checked.
    let whereabouts = Whereabouts::There(Activity::of(bed.process()));
    judge(Box::new(bed), plan, label, Account::default(), whereabouts, watch, progress)
}
