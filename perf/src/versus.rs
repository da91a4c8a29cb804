//! `versus`: two back ends in alternating rounds, and the ratio of their rates.
//!
//! Both stay connected all the time; the one that is not measured is stopped, where that may be. Each round has a placement probe
//! before and after, and only pairs of rounds that fell into one class are compared. Which of the two comes first changes from
//! pair to pair, so that a drift favours neither.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::args::{Direction, VersusArgs};
use crate::attach::PATIENCE;
use crate::bed::{Attached, Bed, Door, division};
use crate::judge::{self, Account, Label};
use crate::load::Watch;
use crate::plan::Plan;
use crate::process::{Activity, Pausable, Started};
use crate::progress::Progress;
use crate::report::{ClassRatio, Comparison, Kind, Report, Results};
use crate::statistics::median_interval;

/// After it was stopped, a back end gets so long to find its pace again.
const RESUME: Duration = Duration::from_millis(20);

/// Compares for every layout and frame size.
///
/// # Errors
/// What cannot be, or does not work.
pub fn run(args: &VersusArgs, watch: &Watch) -> Result<Results> {
    let count = args.socket.len() + args.command.len();
    ensure!(count == 2, "two back ends are compared: --socket or --command, twice in all (found {count})");
    ensure!(args.direction != Direction::GuestToGuest, "--direction guest-to-guest: a back end here has one guest");
    let mut contestants: Vec<Contestant> =
        args.socket.iter().map(|socket| Contestant::Running(socket.clone())).collect();
    for command in &args.command {
        let mut started = Started::new(command)?;
        started.wait_for_socket(PATIENCE, || !watch.stopped()).with_context(|| command.clone())?;
        contestants.push(Contestant::Started(command.clone(), started));
    }
    let division = division(args.load.driver_lcores.as_ref())?;
    let plans = Plan::all(&args.load, &[args.direction], &division, args.seconds, None)?;
    let rounds = if args.load.smoke { args.rounds.min(2) } else { args.rounds };
    let progress = Progress::new(plans.iter().map(|plan| plan.length * 2 * rounds).sum::<Duration>());
    let mut results = Results::default();
    for plan in &plans {
        if watch.stopped() {
            break;
        }
        let contest = Contest { args, plan, watch, progress: &progress };
        let mut sides = contestants.iter().map(|contestant| contest.side(contestant)).collect::<Result<Vec<_>>>()?;
        contest.fight(&mut sides, rounds)?;
        let reports: Vec<&[Report]> = sides.iter().map(|side| &side.reports[..]).collect();
        results.comparisons.push(compare(
            plan,
            [&sides[0].name, &sides[1].name],
            reports[0],
            reports[1],
            args.waited_max,
            watch.stopped(),
        ));
        for side in sides {
            results.reports.extend(contest.leave(side)?);
        }
    }
    Ok(results)
}

/// A back end that takes part.
enum Contestant {
    /// At a socket.
    Running(PathBuf),
    /// Of our starting.
    Started(String, Started),
}

/// A back end, connected.
struct Side<'a> {
    name: String,
    bed: Box<Attached>,
    pausable: Pausable<'a>,
    /// Where it polls, as far as known.
    lcore: Option<usize>,
    checked: u64,
    reports: Vec<Report>,
}

/// What holds for all rounds.
struct Contest<'a> {
    args: &'a VersusArgs,
    plan: &'a Plan,
    watch: &'a Watch,
    progress: &'a Progress,
}

impl Contest<'_> {
    /// Connects, checks, finds out where it polls, and stops it.
    fn side<'a>(&self, contestant: &'a Contestant) -> Result<Side<'a>> {
        let (name, socket) = match contestant {
            Contestant::Running(socket) => (socket.display().to_string(), socket.clone()),
            Contestant::Started(command, started) => (command.clone(), started.socket()),
        };
        let door = Door::new(socket, false, PATIENCE)?;
        let mut bed = Box::new(Attached::new(self.plan, &[door], self.watch).with_context(|| name.clone())?);
        let activity = Activity::of(bed.process());
        let checked = bed.load().check(self.plan.smoke, self.watch).with_context(|| name.clone())?;
        bed.load().measure(self.plan.pace(), self.plan.warm_up.max(RESUME), self.watch)?;
        let lcore = self.args.backend_lcore.or_else(|| activity.busiest().map(|busiest| busiest.lcore));
        let pausable = match contestant {
            Contestant::Started(_, started) => Pausable::Ours(started),
            Contestant::Running(_) => {
                bed.process().filter(|_| self.args.pause).map_or(Pausable::Never, Pausable::Theirs)
            }
        };
        pausable.pause();
        Ok(Side { name, bed, pausable, lcore, checked, reports: Vec::new() })
    }

    fn fight(&self, sides: &mut [Side<'_>], rounds: u32) -> Result<()> {
        for round in 0..rounds {
            for turn in 0..2 {
                if self.watch.stopped() {
                    return Ok(());
                }
                let side = &mut sides[((round + turn) % 2) as usize];
                let name = side.name.clone();
                self.round(side, round).with_context(|| name)?;
            }
        }
        Ok(())
    }

    fn round(&self, side: &mut Side<'_>, round: u32) -> Result<()> {
        let driver = self.plan.division.drivers[0];
        let title = format!("{} {}", self.plan.title(), round + 1);
        let (plan, watch) = (self.plan, self.watch);
        let Side { name, bed, pausable, lcore, .. } = side;
        // Both stand still while the placement is probed.
        let (measured, placement) = judge::with_placement(driver, lcore.as_slice(), bed.process(), || {
            pausable.resume();
            let load = bed.load();
            load.measure(plan.pace(), plan.warm_up.max(RESUME), watch)?;
            let measured =
                self.progress.during(&title, plan.length, watch, || load.measure(plan.pace(), plan.length, watch))?;
            load.settle()?;
            pausable.pause();
            Ok(measured)
        })?;
        let label =
            Label { kind: Kind::Round, command: "versus", backend: name.clone(), allow_loss: self.args.allow_loss };
        let mut report = judge::report(plan, label, measured, placement, &Account::default());
        report.round = Some(round);
        side.reports.push(report);
        Ok(())
    }

    /// Accounts for all frames of all rounds, in the report of the last one.
    fn leave(&self, side: Side<'_>) -> Result<Vec<Report>> {
        let Side { name, bed, pausable, checked, mut reports, .. } = side;
        pausable.resume();
        let mut account = Account::default();
        account.findings.checked_before = checked;
        account.close(bed, self.plan.direction, self.args.allow_loss).context(name)?;
        if let Some(last) = reports.last_mut() {
            last.drops = account.drops;
            last.integrity = account.findings;
            last.integrity_errors = account.findings.errors();
        }
        Ok(reports)
    }
}

fn compare(plan: &Plan, names: [&String; 2], a: &[Report], b: &[Report], waited_max: f64, partial: bool) -> Comparison {
    let pairs: Vec<(&Report, &Report)> = a.iter().zip(b).collect();
    let alike = |(a, b): &&(&Report, &Report)| a.placement.class == b.placement.class && a.placement.class != "mixed";
    let undisturbed = |(a, b): &&(&Report, &Report)| a.placement.waited.max(b.placement.waited) <= waited_max;
    let compared: Vec<_> =
        pairs.iter().filter(alike).filter(undisturbed).copied().filter(|(_, b)| b.mpps > 0.0).collect();
    let interval = |figure: &dyn Fn(&(&Report, &Report)) -> f64, pairs: &[(&Report, &Report)]| {
        let figures: Vec<f64> = pairs.iter().map(figure).collect();
        (!figures.is_empty()).then(|| median_interval(&figures))
    };
    let ratio = |(a, b): &(&Report, &Report)| a.mpps / b.mpps;
    let mut classes: Vec<&'static str> = compared.iter().map(|(a, _)| a.placement.class).collect();
    classes.sort_unstable();
    classes.dedup();
    let of_class = |class| {
        let pairs: Vec<_> = compared.iter().filter(|(a, _)| a.placement.class == class).copied().collect();
        Some(ClassRatio { class, rounds: pairs.len() as u32, ratio: interval(&ratio, &pairs)? })
    };
    Comparison {
        kind: "versus",
        ring: plan.ring,
        direction: plan.direction,
        frame_bytes: plan.sizes(),
        a: names[0].clone(),
        b: names[1].clone(),
        rounds: pairs.len() as u32,
        rounds_compared: compared.len() as u32,
        a_mpps: interval(&|(a, _)| a.mpps, &compared),
        b_mpps: interval(&|(_, b)| b.mpps, &compared),
        ratio: interval(&ratio, &compared),
        classes: classes.into_iter().filter_map(of_class).collect(),
        partial,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    fn rounds(figures: &[(f64, &'static str)]) -> Vec<Report> {
        let round = |&(mpps, class): &(f64, &'static str)| {
            let mut report = sample();
            report.mpps = mpps;
            report.placement.class = class;
            report
        };
        figures.iter().map(round).collect()
    }

    #[test]
    fn only_pairs_of_one_class_are_compared() {
        use clap::Parser;
        let arguments = crate::args::Arguments::parse_from(["virtnet-perf", "versus", "--ring", "split"]);
        let crate::args::Command::Versus(args) = arguments.command else { panic!("versus was asked for") };
        let division = division(None).unwrap();
        let plan = Plan::all(&args.load, &[Direction::Loopback], &division, 1.0, None).unwrap().remove(0);
        let a =
            rounds(&[(20.0, "near"), (10.0, "far"), (99.0, "near"), (30.0, "mixed"), (22.0, "near"), (5.0, "near")]);
        let b = rounds(&[(10.0, "near"), (10.0, "far"), (1.0, "far"), (30.0, "mixed"), (11.0, "near"), (0.0, "near")]);
        let mut disturbed = rounds(&[(9.0, "near")]);
        disturbed[0].placement.waited = 0.2;
        let names = ["a".to_owned(), "b".to_owned()];
        let comparison = compare(&plan, [&names[0], &names[1]], &a, &b, 0.05, false);
        assert_eq!((comparison.rounds, comparison.rounds_compared), (6, 3));
        assert_eq!(comparison.ratio.unwrap().median, 2.0);
        let classes: Vec<_> = comparison.classes.iter().map(|c| (c.class, c.rounds, c.ratio.median)).collect();
        assert_eq!(classes, [("far", 1, 1.0), ("near", 2, 2.0)]);
        let none = compare(&plan, [&names[0], &names[1]], &a[..1], &disturbed, 0.05, false);
        assert_eq!((none.rounds, none.rounds_compared), (1, 0));
        let nothing = compare(&plan, [&names[0], &names[1]], &a[3..4], &b[3..4], 0.05, true);
        assert!(nothing.ratio.is_none() && nothing.classes.is_empty() && nothing.partial);
    }
}
