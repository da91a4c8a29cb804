//! The search: narrow ranges first, all of one width in turns, and the choice once more against its runner-up.

use std::time::Duration;

use anyhow::Result;

use super::args::TuneArgs;
use super::choice::{Choice, beats, choose, fastest};
use super::load::Load;
use super::standing::Standing;
use super::trial::{Round, Trial};
use crate::args::Direction;
use crate::bed::{Fleet, Seat};
use crate::judge::with_placement;
use crate::lcore::Division;
use crate::load::{Measured, Watch};
use crate::plan::Plan;
use crate::progress::Progress;
use crate::report::{Findings, WorkerLoad, duration};

/// What a round takes besides warming up and measuring, and what each device adds.
pub const SETTING_UP: Duration = Duration::from_millis(100);
/// See above.
pub const SETTING_UP_DEVICE: Duration = Duration::from_millis(20);

/// A search under way.
pub struct Hunt<'a> {
    pub args: &'a TuneArgs,
    pub load: &'a Load,
    pub drivers: Vec<usize>,
    pub rounds: u32,
    pub watch: &'a Watch,
    pub progress: &'a Progress,
    /// What was tried so far.
    pub trials: Vec<Trial>,
    /// What was found wrong.
    pub findings: Findings,
    /// What is to be said.
    pub notes: Vec<String>,
    /// What made rounds unreliable, a sentence each.
    pub doubts: Vec<String>,
    /// When the first round began, in seconds since the Unix epoch.
    pub started_at_s: f64,
}

impl Hunt<'_> {
    /// Tries ranges, given by width, until the goal is reached and confirmed, or nothing more is to be won.
    ///
    /// # Errors
    /// What does not work.
    pub fn go(&mut self, ranges: &[Vec<(Vec<usize>, Standing)>]) -> Result<Choice> {
        let goal = self.args.goal;
        for of_width in ranges {
            let from = self.trials.len();
            self.trials.extend(of_width.iter().map(|(lcores, standing)| Trial::new(lcores.clone(), *standing)));
            self.try_from(from)?;
            if self.watch.stopped() {
                break;
            }
            if goal.wants_fewest() {
                let choice = choose(goal, &self.trials);
                if choice.met {
                    let confirmed = self.confirm(choice)?;
                    // What does not last needs more lcores.
                    if confirmed.met || self.watch.stopped() {
                        return Ok(confirmed);
                    }
                }
            } else if from > 0 {
                let narrower = fastest(&self.trials, 0..from);
                let this = fastest(&self.trials, from..self.trials.len());
                if let (Some(narrower), Some(this)) = (narrower, this)
                    && !beats(&self.trials[this], &self.trials[narrower])
                {
                    let (width, best) = (self.trials[this].width(), self.trials[narrower].width());
                    if width < ranges.len() {
                        self.notes.push(format!(
                            "more than {width} workers were not tried: {width} won nothing beyond the spread over {best}"
                        ));
                    }
                    break;
                }
            }
        }
        let choice = choose(goal, &self.trials);
        // What misses the goal was measured often enough.
        if choice.met && !goal.wants_fewest() && !self.watch.stopped() { self.confirm(choice) } else { Ok(choice) }
    }

    /// All rounds of the trials from one on, in turns. What the engine would move after the first round is a trial of its own.
    fn try_from(&mut self, from: usize) -> Result<()> {
        for round in 0..self.rounds {
            let mut at = from;
            while at < self.trials.len() && !self.watch.stopped() {
                let better = self.round(at, round, false)?;
                let is_plain = self.trials[at].moved.is_none();
                if let Some(seats) = better.filter(|_| is_plain && round == 0 && !self.args.smoke) {
                    let moved = self.trials[at].moved(seats);
                    self.trials.push(moved);
                }
                at += 1;
            }
        }
        Ok(())
    }

    /// Measures the choice again, in turns with its runner-up, and chooses again by everything measured.
    fn confirm(&mut self, choice: Choice) -> Result<Choice> {
        let Some(chosen) = choice.trial else { return Ok(choice) };
        for round in 0..self.rounds {
            let mut sides = [Some(chosen), choice.runner_up];
            // Who comes first changes, so that a drift favours neither.
            sides.rotate_left((round % 2) as usize);
            for at in sides.into_iter().flatten() {
                if !self.watch.stopped() {
                    self.round(at, round, true)?;
                }
            }
        }
        let mut again = choose(self.args.goal, &self.trials);
        again.reasons.extend(self.told_again(&choice, &again));
        Ok(again)
    }

    /// What the second measuring said.
    fn told_again(&self, before: &Choice, again: &Choice) -> Option<String> {
        let alone = |at: usize| {
            let trial = &self.trials[at];
            let rounds: Vec<Round> = trial.rounds.iter().filter(|round| round.second).cloned().collect();
            Trial { rounds, ..trial.clone() }
        };
        let say = |at: usize| {
            let trial = alone(at);
            let p99 = trial.p99_ns().filter(|_| self.args.goal.wants_fewest());
            let p99 = p99.map_or(String::new(), |ns| format!(", p99 {}", duration(ns as u64)));
            Some(format!("{} {:.3} Mpps{p99}", trial.name(), trial.mpps()?.median))
        };
        let chosen = say(before.trial?)?;
        let text = match before.runner_up {
            None => format!("measured a second time, with no other range to compare it with: {chosen}"),
            Some(runner_up) => format!("measured a second time, in turns: {chosen}; {}", say(runner_up)?),
        };
        let verdict = match (again.met, again.trial == before.trial) {
            (true, true) => "the choice stands",
            (true, false) => "the choice was another one before that",
            (false, _) => "the goal was not reached any more",
        };
        Some(format!("{text}: {verdict}"))
    }

    /// One round of one trial. Returns who should serve whom, if the engine would have it otherwise.
    fn round(&mut self, at: usize, round: u32, second: bool) -> Result<Option<Vec<Seat>>> {
        let trial = &self.trials[at];
        let division = Division { workers: trial.lcores.clone(), drivers: self.drivers.clone() };
        let plans = self.load.plans(self.args, &division)?;
        let first = &plans[0];
        let (length, warm_up) = (first.length, first.warm_up);
        self.check_on_loop(&plans)?;
        let trial = &self.trials[at];
        let mut fleet = Fleet::new(&plans, trial.moved.as_deref().unwrap_or_default(), false)?;
        self.findings.checked_before += fleet.check(self.watch)?;
        fleet.measure(warm_up, self.watch)?;
        let mut parts = Vec::new();
        let mut report = fleet.loads();
        let process = Some(rustix::process::getpid());
        let (sum, placement) = with_placement(division.drivers[0], &division.workers, process, || {
            fleet.loads();
            let title = trial.name();
            parts = self.progress.during(&title, length, self.watch, || fleet.measure(length, self.watch))?;
            report = fleet.loads();
            sum(&parts)
        })?;
        fleet.settle()?;
        let accounts = fleet.audit()?;
        let (seats, better) = (fleet.seats(&report), fleet.better_seats(&report));
        fleet.dismantle()?;
        self.findings += accounts.iter().map(|account| account.findings).sum();
        if self.started_at_s == 0.0 {
            self.started_at_s = sum.started_at_s;
        }
        if sum.interrupted {
            return Ok(None);
        }
        for doubt in placement.doubts() {
            if !self.doubts.contains(&doubt) {
                self.doubts.push(doubt);
            }
        }
        let behind: u64 = plans.iter().zip(&parts).map(|(plan, part)| self.behind(plan, part)).sum();
        let lost = behind + sum.given_up + accounts.iter().map(|account| account.drops).sum::<u64>();
        let trial = &mut self.trials[at];
        trial.seats = seats;
        trial.rounds.push(Round {
            round,
            second,
            mpps: parts.iter().map(mpps).sum(),
            offered_mpps: plans.iter().zip(&parts).map(offered_mpps).sum(),
            p99_ns: worst_p99_ns(&plans, &parts),
            lost,
            workers: report.lcores.iter().map(WorkerLoad::from).collect(),
            class: placement.class,
            waited: placement.waited,
            devices_mpps: parts.iter().map(mpps).collect(),
        });
        Ok(better)
    }

    /// What sinks swallow cannot be looked at: before anything else the same rings are checked on a loop.
    fn check_on_loop(&mut self, plans: &[Plan]) -> Result<()> {
        let is_first = self.trials.iter().all(|trial| trial.rounds.is_empty());
        if is_first && plans.iter().any(|plan| plan.direction == Direction::FromGuest) {
            let mut fleet = Fleet::new(plans, &[], true)?;
            self.findings.checked_before += fleet.check(self.watch)?;
            self.findings += fleet.audit()?.iter().map(|account| account.findings).sum();
            fleet.dismantle()?;
        }
        Ok(())
    }

    /// Frames that a source should have sent: it loses none, it falls behind.
    fn behind(&self, plan: &Plan, part: &Measured) -> u64 {
        let Some(pps) = plan.rate_pps.filter(|_| plan.direction == Direction::ToGuest) else { return 0 };
        let due = (pps * part.seconds) as u64;
        let allowed = (pps * self.args.patience_ms / 1e3) as u64 + u64::from(plan.burst);
        due.saturating_sub(part.moved).saturating_sub(allowed)
    }
}

fn mpps(part: &Measured) -> f64 {
    part.moved as f64 / part.seconds / 1e6
}

/// What was due, in millions of frames a second; none without a rate.
fn offered_mpps((plan, part): (&Plan, &Measured)) -> Option<f64> {
    let pps = plan.rate_pps?;
    Some(if plan.direction == Direction::ToGuest { pps / 1e6 } else { part.due as f64 / part.seconds / 1e6 })
}

fn sum(parts: &[Measured]) -> Result<Measured> {
    let mut sum = parts[0].clone();
    parts[1..].iter().try_for_each(|part| sum.add(part))?;
    Ok(sum)
}

/// 99 % of the frames of the device that fares worst were faster; none if one that should have latencies has none.
fn worst_p99_ns(plans: &[Plan], parts: &[Measured]) -> Option<u64> {
    let timed = plans.iter().zip(parts).filter(|(plan, _)| plan.direction != Direction::ToGuest);
    let each = timed.map(|(_, part)| (!part.histogram.is_empty()).then(|| part.histogram.value_at_quantile(0.99)));
    each.collect::<Option<Vec<u64>>>()?.into_iter().max()
}
