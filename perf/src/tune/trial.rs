//! A range of lcores that was tried: its rounds, and what they say together.

use serde::Serialize;

use super::goal::Goal;
use super::standing::Standing;
use crate::bed::Seat;
use crate::lcore;
use crate::report::WorkerLoad;
use crate::statistics::{Interval, median, median_interval};

/// Frames that may be on their way still when a round at a rate ends, as a part of those due.
const UNDERWAY: f64 = 0.01;

/// One round of a range.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Round {
    /// Which, from 0, of the first measuring and of the second one.
    pub round: u32,
    /// Whether it is of the second measuring, of the choice against its runner-up.
    pub second: bool,
    /// Millions of frames a second, all devices together.
    pub mpps: f64,
    /// The same as asked for; `null` for as many as go.
    pub offered_mpps: Option<f64>,
    /// Of the device that waited longest: 99 % of its frames were faster, in nanoseconds.
    pub p99_ns: Option<u64>,
    /// Frames that were dropped, given up, or that a source fell behind by.
    pub lost: u64,
    /// Of the workers, in order.
    pub workers: Vec<WorkerLoad>,
    /// Placement class.
    pub class: &'static str,
    /// The part of the time in which one side wanted to run and something else had its lcore.
    pub waited: f64,
    /// Each device's rate, in millions of frames a second.
    pub devices_mpps: Vec<f64>,
}

impl Round {
    /// Whether it reached the goal; any round has as much throughput as it has.
    pub fn meets(&self, goal: Goal) -> bool {
        let kept_up = |offered: f64| self.lost == 0 && self.mpps >= offered * (1.0 - UNDERWAY);
        match goal {
            Goal::MaxThroughput => true,
            Goal::P99 { ns } => {
                self.p99_ns.is_some_and(|p99| p99 <= ns) && self.offered_mpps.is_none_or(kept_up) && self.lost == 0
            }
            Goal::Rate { pps } => kept_up(pps / 1e6),
        }
    }

    /// How busy the busiest worker was.
    pub fn busiest(&self) -> Option<f64> {
        self.workers.iter().map(|worker| worker.busy).max_by(f64::total_cmp)
    }
}

/// A range, and who is served where in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Trial {
    /// One worker on each.
    pub lcores: Vec<usize>,
    /// How well these are placed.
    pub standing: Standing,
    /// Who serves whom, if not as the engine places them by itself.
    pub moved: Option<Vec<Seat>>,
    /// What was measured.
    pub rounds: Vec<Round>,
    /// Who served whom in the last round.
    pub seats: Vec<Seat>,
}

impl Trial {
    /// Not measured yet.
    pub fn new(lcores: Vec<usize>, standing: Standing) -> Self {
        Trial { lcores, standing, moved: None, rounds: Vec::new(), seats: Vec::new() }
    }

    /// The same lcores with pairs placed like this.
    pub fn moved(&self, seats: Vec<Seat>) -> Self {
        Trial { moved: Some(seats), ..Trial::new(self.lcores.clone(), self.standing) }
    }

    /// How many workers.
    pub fn width(&self) -> usize {
        self.lcores.len()
    }

    /// Rate: median and 95 % interval; none before it is measured.
    pub fn mpps(&self) -> Option<Interval> {
        let rates: Vec<f64> = self.rounds.iter().map(|round| round.mpps).collect();
        (!rates.is_empty()).then(|| median_interval(&rates))
    }

    /// The median of the rounds' 99th percentiles, in nanoseconds.
    pub fn p99_ns(&self) -> Option<f64> {
        let all: Vec<f64> = self.rounds.iter().filter_map(|round| round.p99_ns).map(|ns| ns as f64).collect();
        (!all.is_empty()).then(|| median(&all))
    }

    /// Frames lost, in all rounds.
    pub fn lost(&self) -> u64 {
        self.rounds.iter().map(|round| round.lost).sum()
    }

    /// The median of how busy the busiest worker was.
    pub fn busiest(&self) -> Option<f64> {
        let all: Vec<f64> = self.rounds.iter().filter_map(Round::busiest).collect();
        (!all.is_empty()).then(|| median(&all))
    }

    /// The median of the part of the time in which one side waited for its lcore.
    pub fn waited(&self) -> Option<f64> {
        let all: Vec<f64> = self.rounds.iter().map(|round| round.waited).collect();
        (!all.is_empty()).then(|| median(&all))
    }

    /// How many rounds reached the goal.
    pub fn rounds_met(&self, goal: Goal) -> usize {
        self.rounds.iter().filter(|round| round.meets(goal)).count()
    }

    /// Whether more than half of the rounds reached the goal: a machine that pauses now and then spoils one by itself.
    pub fn meets(&self, goal: Goal) -> bool {
        2 * self.rounds_met(goal) > self.rounds.len()
    }

    /// As in text.
    pub fn name(&self) -> String {
        let s = if self.width() == 1 { "" } else { "s" };
        let moved = if self.moved.is_some() { " with pairs moved" } else { "" };
        format!("lcore{s} {}{moved}", lcore::list(&self.lcores))
    }

    /// The placement class of all rounds, `mixed` if they differ.
    pub fn class(&self) -> &'static str {
        match self.rounds.split_first() {
            None => "unknown",
            Some((first, rest)) if rest.iter().all(|round| round.class == first.class) => first.class,
            Some(_) => "mixed",
        }
    }
}
