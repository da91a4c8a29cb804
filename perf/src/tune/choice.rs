//! From what was measured to a choice and its reasons: pure.

use std::cmp::Reverse;

use super::goal::Goal;
use super::trial::Trial;
use crate::report::duration;
use crate::statistics::Interval;

/// Less than this part is no gain, however even the rounds were.
const GAIN_MIN: f64 = 0.01;
/// A worker that is less busy than this waits for the guests.
const BUSY_ENOUGH: f64 = 0.8;
/// If an lcore of ours is somebody else's for more than this part of the time, little can be said.
const WAITED_MAX: f64 = 0.05;

/// What is chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// Which trial: the choice if the goal is met, else the one that comes closest; none if nothing was measured.
    pub trial: Option<usize>,
    /// Whether it reaches the goal.
    pub met: bool,
    /// What it is to be measured against again.
    pub runner_up: Option<usize>,
    /// Why, in sentences with the figures that decided.
    pub reasons: Vec<String>,
}

/// Chooses among what was measured.
pub fn choose(goal: Goal, trials: &[Trial]) -> Choice {
    let measured: Vec<usize> = (0..trials.len()).filter(|&at| !trials[at].rounds.is_empty()).collect();
    match goal {
        Goal::MaxThroughput => most(trials, &measured),
        Goal::P99 { .. } | Goal::Rate { .. } => fewest(goal, trials, &measured),
    }
}

/// How much more one rate is than another, as a part, and what of that the spread of both may be.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Gain {
    part: f64,
    spread: f64,
}

impl Gain {
    fn over(one: Interval, other: Interval) -> Self {
        let half = |interval: Interval| (interval.high - interval.low) / 2.0;
        let base = other.median.max(f64::MIN_POSITIVE);
        Gain { part: (one.median - other.median) / base, spread: ((half(one) + half(other)) / base).max(GAIN_MIN) }
    }

    fn is_real(self) -> bool {
        self.part > self.spread
    }

    fn text(self) -> String {
        let more = if self.part < 0.0 { "less" } else { "more" };
        let spread = self.spread * 100.0;
        format!("{:.1} % {more} (rounds spread by {spread:.1} %)", self.part.abs() * 100.0)
    }
}

/// Whether a trial beats another by more than the spread of both.
pub fn beats(one: &Trial, other: &Trial) -> bool {
    matches!((one.mpps(), other.mpps()), (Some(one), Some(other)) if Gain::over(one, other).is_real())
}

/// By preference where figures do not decide: the better placed, the engine's own placement, the lower number.
fn preference(trial: &Trial) -> impl Ord + '_ {
    (trial.standing, trial.moved.is_some(), &trial.lcores)
}

fn rate(trial: &Trial) -> f64 {
    trial.mpps().map_or(0.0, |mpps| mpps.median)
}

/// The best of some trials by rate.
pub fn fastest(trials: &[Trial], among: impl Iterator<Item = usize>) -> Option<usize> {
    among.max_by(|&one, &other| {
        let by_rate = rate(&trials[one]).total_cmp(&rate(&trials[other]));
        by_rate.then_with(|| preference(&trials[other]).cmp(&preference(&trials[one])))
    })
}

/// Max throughput: the narrowest range that nothing beats by more than the spread.
fn most(trials: &[Trial], measured: &[usize]) -> Choice {
    let Some(best) = fastest(trials, measured.iter().copied()) else {
        return Choice { trial: None, met: false, runner_up: None, reasons: Vec::new() };
    };
    let level = |&at: &usize| !beats(&trials[best], &trials[at]);
    let order = |at: &usize| (trials[*at].width(), preference(&trials[*at]));
    let chosen = measured.iter().copied().filter(level).min_by(|one, other| order(one).cmp(&order(other)));
    let chosen = chosen.unwrap_or(best);
    let others = measured.iter().copied().filter(|&at| at != chosen);
    let runner_up = if chosen == best { fastest(trials, others) } else { Some(best) };
    let mut reasons = vec![achieved(&trials[chosen])];
    let mine = trials[chosen].mpps();
    let against = |at: usize| Some(Gain::over(trials[at].mpps()?, mine?));
    for width in 1..=trials.iter().map(Trial::width).max().unwrap_or(0) {
        let of_width = measured.iter().copied().filter(|&at| at != chosen && trials[at].width() == width);
        let Some(rival) = fastest(trials, of_width) else { continue };
        let Some(gain) = against(rival) else { continue };
        let verdict = match width.cmp(&trials[chosen].width()) {
            std::cmp::Ordering::Less => "fewer lcores are not enough",
            std::cmp::Ordering::Greater => "which does not pay for the lcores",
            std::cmp::Ordering::Equal if gain.is_real() => continue,
            std::cmp::Ordering::Equal if gain.part.abs() <= gain.spread => "as good as the same",
            std::cmp::Ordering::Equal => "the worse of the two",
        };
        reasons.push(format!(
            "{} moved {:.3} Mpps, {}: {verdict}",
            trials[rival].name(),
            rate(&trials[rival]),
            gain.text()
        ));
    }
    reasons.extend(busy(&trials[chosen]));
    reasons.extend(placed(&trials[chosen]));
    Choice { trial: Some(chosen), met: true, runner_up, reasons }
}

/// The narrowest range that reaches the goal.
fn fewest(goal: Goal, trials: &[Trial], measured: &[usize]) -> Choice {
    let missed = |at: usize| trials[at].rounds.len() - trials[at].rounds_met(goal);
    // Of equal width: those that missed no round first.
    let order = |at: &usize| (trials[*at].width(), missed(*at) > 0, preference(&trials[*at]));
    let meeting = measured.iter().copied().filter(|&at| trials[at].meets(goal));
    let Some(chosen) = meeting.min_by(|one, other| order(one).cmp(&order(other))) else {
        return closest(goal, trials, measured);
    };
    let width = trials[chosen].width();
    let same = measured.iter().copied().filter(|&at| at != chosen && trials[at].width() == width);
    let same = same.filter(|&at| trials[at].meets(goal)).min_by(|one, other| order(one).cmp(&order(other)));
    let narrower = nearest(goal, trials, measured.iter().copied().filter(|&at| trials[at].width() < width));
    let mut reasons = vec![reached(goal, &trials[chosen])];
    if let Some(same) = same {
        reasons.push(format!(
            "{}, as many workers, would do as well{}",
            trials[same].name(),
            if missed(same) > missed(chosen) { ", but missed the goal in more rounds" } else { "" }
        ));
    }
    match narrower {
        Some(narrower) => reasons.push(format!("fewer are not enough: {}", fallen_short(goal, &trials[narrower]))),
        None if width == 1 => reasons.push("fewer than one worker there cannot be".to_owned()),
        None => {}
    }
    reasons.extend(placed(&trials[chosen]));
    Choice { trial: Some(chosen), met: true, runner_up: same.or(narrower), reasons }
}

/// Nothing reaches the goal.
fn closest(goal: Goal, trials: &[Trial], measured: &[usize]) -> Choice {
    let trial = nearest(goal, trials, measured.iter().copied());
    let mut reasons = Vec::new();
    if let Some(at) = trial {
        reasons.push(format!("no range reached {goal}; the closest: {}", fallen_short(goal, &trials[at])));
        reasons.extend(busy(&trials[at]));
        reasons.extend(placed(&trials[at]));
    }
    Choice { trial, met: false, runner_up: None, reasons }
}

/// The trial that comes nearest to the goal.
fn nearest(goal: Goal, trials: &[Trial], among: impl Iterator<Item = usize>) -> Option<usize> {
    let order = |at: usize| {
        let trial = &trials[at];
        // Numbers in place of fractions, to be ordered.
        let key = match goal {
            Goal::P99 { .. } => trial.p99_ns().map_or(u64::MAX, |ns| ns as u64),
            Goal::Rate { .. } | Goal::MaxThroughput => u64::MAX - (rate(trial) * 1e6) as u64,
        };
        (Reverse(trial.rounds_met(goal)), key, trial.width())
    };
    among.min_by(|&one, &other| {
        order(one).cmp(&order(other)).then_with(|| preference(&trials[one]).cmp(&preference(&trials[other])))
    })
}

fn achieved(trial: &Trial) -> String {
    let Some(Interval { median, low, high }) = trial.mpps() else { return String::new() };
    let (name, rounds) = (trial.name(), trial.rounds.len());
    format!("{name} moved {median:.3} Mpps, {low:.3} to {high:.3} in {rounds} rounds")
}

fn reached(goal: Goal, trial: &Trial) -> String {
    let (met, rounds) = (trial.rounds_met(goal), trial.rounds.len());
    let figures = figures(goal, trial);
    format!("{} reached {goal} in {met} of {rounds} rounds: {figures}", trial.name())
}

fn fallen_short(goal: Goal, trial: &Trial) -> String {
    let (met, rounds) = (trial.rounds_met(goal), trial.rounds.len());
    let figures = figures(goal, trial);
    format!("{} reached it in {met} of {rounds} rounds: {figures}", trial.name())
}

fn figures(goal: Goal, trial: &Trial) -> String {
    let lost = match trial.lost() {
        0 => "nothing lost".to_owned(),
        lost => format!("{lost} frames lost in all"),
    };
    match (goal, trial.p99_ns()) {
        (Goal::P99 { .. }, Some(ns)) => format!("p99 {} at {:.3} Mpps, {lost}", duration(ns as u64), rate(trial)),
        (Goal::P99 { .. }, None) => format!("no latency to be had at {:.3} Mpps, {lost}", rate(trial)),
        _ => format!("{:.3} Mpps, {lost}", rate(trial)),
    }
}

/// Whether it is the guests that limit the rate, or none of us.
fn busy(trial: &Trial) -> Option<String> {
    if let Some(waited) = trial.waited().filter(|waited| *waited > WAITED_MAX) {
        return Some(format!(
            "something else had an lcore of ours for {:.0} % of the time: on a machine that is left alone the choice may be another",
            waited * 100.0
        ));
    }
    let busiest = trial.busiest().filter(|busy| *busy < BUSY_ENOUGH)?;
    Some(format!(
        "the busiest worker was busy for {:.0} % of the time: the guests' threads limit the rate, and more or better lcores for \
         these (--driver-lcores) would show more",
        busiest * 100.0
    ))
}

/// What there is to say against where it is.
fn placed(trial: &Trial) -> Option<String> {
    let doubts = trial.standing.doubts();
    (!doubts.is_empty()).then(|| format!("its placement is not the best there can be: {}", doubts.join(", ")))
}

#[cfg(test)]
mod tests;
