//! `sweep`: how rates depend on ranges of lcores, queues, layouts, frame sizes and directions. All cells are measured once before
//! any is measured again, so that the machine's moods hit all alike.

pub mod args;
mod cell;
mod ranges;

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::args::Direction;
use crate::lcore;
use crate::load::Watch;
use crate::plan::Plan;
use crate::progress::{Progress, about};
use crate::report::{Kind, Report, Results, counted};
use crate::run;
use args::SweepArgs;
use cell::Cell;
use ranges::Ranges;

/// More would be mostly a mistake, and take days.
const CELLS_MAX: usize = 2000;
/// What a round takes besides warming up and measuring: memory, threads, and the frames that are checked.
const SETTING_UP: Duration = Duration::from_millis(120);

/// Measures all cells.
///
/// # Errors
/// What cannot be, or does not work.
pub fn run(args: &SweepArgs, watch: &Watch) -> Result<Results> {
    let Ranges { divisions, mut notes } = Ranges::new(args, &lcore::usable())?;
    let directions = if args.direction.is_empty() { &Direction::ALL[..] } else { &args.direction };
    let mut cells = Vec::new();
    let mut idle = Vec::new();
    for &queues in &args.queues {
        let plans = Plan::all(&args.load(queues), directions, &divisions[0], args.seconds, args.rate)?;
        for (plan, division) in plans.iter().flat_map(|plan| divisions.iter().map(move |division| (plan, division))) {
            let pairs = usize::from(queues) * if plan.direction == Direction::GuestToGuest { 2 } else { 1 };
            let workers = division.workers.len();
            if workers > pairs {
                idle.push((workers, pairs));
            } else {
                cells.push(Cell::new(Plan { division: division.clone(), ..plan.clone() }));
            }
        }
        ensure!(cells.len() <= CELLS_MAX, "more than {CELLS_MAX} cells: fewer of each, please");
    }
    idle.sort_unstable();
    idle.dedup();
    if !idle.is_empty() {
        let each: Vec<_> = idle.iter().map(|(workers, pairs)| format!("{workers} workers for {pairs}")).collect();
        notes.push(format!("left out, as a worker needs a queue pair of its own: {}", each.join(", ")));
    }
    ensure!(!cells.is_empty(), "{}: nothing is left to measure", notes.join("; "));
    let rounds = if args.smoke { args.rounds.min(2) } else { args.rounds };
    let progress = Progress::new(cells.iter().map(|cell| cell.plan.length * rounds).sum());
    notes.iter().for_each(|note| progress.say(note));
    let whole: Duration = cells.iter().map(|cell| duration(&cell.plan) * rounds).sum();
    let (cells_said, rounds_said) = (counted(cells.len(), "cell"), counted(rounds as usize, "round"));
    progress.say(&format!("{cells_said}, {rounds_said} of each: {}", about(whole)));
    'rounds: for round in 0..rounds {
        for cell in &mut cells {
            if watch.stopped() {
                break 'rounds;
            }
            let report = run::measure(&cell.plan, Kind::Round, "sweep", watch, &progress)?;
            cell.add(round, report);
        }
    }
    Ok(Results { reports: reports(&cells, rounds), notes, ..Results::default() })
}

fn duration(plan: &Plan) -> Duration {
    // What a sink swallows is checked on a loop before.
    let beds = if plan.direction == Direction::FromGuest { 2 } else { 1 };
    plan.length + plan.warm_up + SETTING_UP * beds
}

/// Of all cells of which something was measured.
fn reports(cells: &[Cell], rounds: u32) -> Vec<Report> {
    let report = |cell: &Cell| {
        let alone = cells.iter().filter(|other| other.is_alone_with_load_of(&cell.plan));
        cell.report(alone.filter_map(Cell::mpps).max_by(f64::total_cmp), rounds)
    };
    cells.iter().filter_map(report).collect()
}

#[cfg(test)]
pub mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Arguments, Command};
    use crate::lcore::Division;

    /// Of one queue pair, split.
    pub fn plan(direction: Direction, workers: &[usize], drivers: &[usize]) -> Plan {
        let arguments = Arguments::parse_from(["virtnet-perf", "sweep", "--ring", "split", "--frame-bytes", "64"]);
        let Command::Sweep(args) = arguments.command else { panic!("sweep was asked for") };
        let division = Division { workers: workers.to_vec(), drivers: drivers.to_vec() };
        Plan::all(&args.load(1), &[direction], &division, 1.0, None).unwrap().remove(0)
    }
}
