//! `tune`: for given devices and their load, the range of lcores that reaches a goal, why, and the lines that say so in
//! virtnet.conf.

pub mod args;
mod choice;
mod goal;
mod hunt;
mod lines;
mod load;
mod load_file;
mod show;
mod standing;
mod trial;

use std::process::ExitCode;

use anyhow::{Result, ensure};

use crate::environment::Environment;
use crate::lcore::{self, Division};
use crate::load::Watch;
use crate::progress::{Progress, about};
use crate::report::{Findings, counted};
use crate::{EXIT_INTEGRITY, output};
use args::TuneArgs;
use hunt::Hunt;
use load::Load;
use show::Outcome;
use standing::{Machine, Standing};

/// No range reaches the goal.
const EXIT_UNREACHED: u8 = 4;
/// An engine has no more workers.
const WORKERS_MAX: usize = 64;

/// Searches, and shows what was found.
///
/// # Errors
/// What cannot be, or does not work.
pub fn run(args: &TuneArgs, watch: &Watch) -> Result<ExitCode> {
    let usable = lcore::usable();
    let load = Load::new(args)?;
    let drivers = Division::new(args.lcores.as_ref(), args.driver_lcores.as_ref(), &usable)?.drivers;
    let mut notes = Vec::new();
    let ranges = ranges(args, &load, &usable, &drivers, &mut notes);
    // Whatever cannot be shows before anything is measured.
    let first = Division { workers: ranges[0][0].0.clone(), drivers: drivers.clone() };
    let plans = load.plans(args, &first)?;
    let rounds = if args.smoke { args.rounds.min(2) } else { args.rounds };
    let round = plans[0].length + plans[0].warm_up + hunt::SETTING_UP + hunt::SETTING_UP_DEVICE * plans.len() as u32;
    let count = ranges.iter().map(Vec::len).sum::<usize>() as u32;
    let most = round * rounds * (count + 2);
    let progress = Progress::new(plans[0].length * rounds * (count + 2));
    notes.iter().for_each(|note| progress.say(note));
    progress.say(&format!("up to {}: {} at most", counted(count as usize, "range"), about(most)));
    let mut hunt = Hunt {
        args,
        load: &load,
        drivers: drivers.clone(),
        rounds,
        watch,
        progress: &progress,
        trials: Vec::new(),
        findings: Findings::default(),
        notes,
        doubts: Vec::new(),
        started_at_s: 0.0,
    };
    let choice = hunt.go(&ranges)?;
    drop(plans);
    let Hunt { trials, findings, notes, doubts, started_at_s, .. } = hunt;
    drop(progress);
    let workers = choice.trial.map_or(first.workers, |at| trials[at].lcores.clone());
    let mut outcome = Outcome {
        kind: "tune",
        command: "tune",
        goal: args.goal,
        met: false,
        devices: load.devices.clone(),
        pcap: args.recorded.as_ref().map(|path| path.display().to_string()),
        queue_size: args.queue.queue_size,
        burst: args.queue.burst,
        features: args.queue.features.clone(),
        tried: Vec::new(),
        lcores: None,
        reasons: Vec::new(),
        lines: None,
        placement: Vec::new(),
        moved: false,
        notes,
        integrity_errors: findings.errors(),
        integrity: findings,
        partial: watch.stopped(),
        started_at_s,
        environment: Environment::look(&workers, &drivers),
        driver_lcores: drivers,
    };
    outcome.environment.warnings.extend(doubts);
    outcome.choose(choice, &trials);
    ensure!(outcome.lcores.is_some(), "interrupted before the first round was over");
    output::publish(&outcome.text(), args.json.as_deref(), |mut out| {
        serde_json::to_writer(&mut out, &outcome)?;
        out.write_all(b"\n")
    })?;
    Ok(match (outcome.integrity_errors, outcome.met) {
        (0, true) => ExitCode::SUCCESS,
        (0, false) => ExitCode::from(EXIT_UNREACHED),
        _ => ExitCode::from(EXIT_INTEGRITY),
    })
}

/// What is tried, by width, and what is not.
fn ranges(
    args: &TuneArgs,
    load: &Load,
    usable: &[usize],
    drivers: &[usize],
    notes: &mut Vec<String>,
) -> Vec<Vec<(Vec<usize>, Standing)>> {
    let spare = || usable.iter().copied().filter(|lcore| !drivers.contains(lcore)).collect::<Vec<_>>();
    let lcores = match &args.lcores {
        Some(lcores) => lcores.0.clone(),
        None => Some(spare()).filter(|spare| !spare.is_empty()).unwrap_or_else(|| usable.to_vec()),
    };
    if lcores.iter().any(|lcore| drivers.contains(lcore)) {
        notes.push(format!(
            "the guests are on lcore {}: workers there take turns with them, and the figures say little about either",
            lcore::list(drivers)
        ));
    }
    let mut ranges = Machine::this().ranges(&lcores, drivers, args.ranges.into());
    let pairs = load.pairs();
    let most = pairs.min(WORKERS_MAX);
    if ranges.len() > most {
        notes.push(match pairs <= WORKERS_MAX {
            true => {
                format!(
                    "not more than {} tried, one for each queue pair: there are {}",
                    counted(pairs, "worker"),
                    counted(lcores.len(), "lcore")
                )
            }
            false => format!("no more than {WORKERS_MAX} workers are tried, as many as an engine has"),
        });
        ranges.truncate(most);
    }
    ranges
}
