//! What `tune` shows: the table of what was tried, the choice with its reasons, the lines; and the same as JSON.

use std::fmt::Write;

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use super::choice::Choice;
use super::goal::Goal;
use super::lines::{Lines, product_range};
use super::load_file::DeviceLoad;
use super::trial::{Round, Trial};
use crate::args::Features;
use crate::environment::Environment;
use crate::lcore;
use crate::report::{Findings, counted, duration};
use crate::statistics::Interval;

/// Lines of a placement that are shown; all are in the JSON.
const PLACES_SHOWN_MAX: usize = 32;

/// Everything.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// Always `tune`.
    pub kind: &'static str,
    /// Always `tune`.
    pub command: &'static str,
    /// What was to be reached.
    pub goal: Goal,
    /// Whether it was.
    pub met: bool,
    /// What the devices had to carry.
    pub devices: Vec<DeviceLoad>,
    /// The capture whose frames were sent.
    pub pcap: Option<String>,
    /// Descriptors of each queue.
    pub queue_size: u16,
    /// Frames sent at a time.
    pub burst: u16,
    /// Negotiated, of those that change the rings.
    pub features: Features,
    /// Of the guests' threads.
    pub driver_lcores: Vec<usize>,
    /// Every range that was tried.
    pub tried: Vec<Tried>,
    /// The lcores chosen; where the goal was not met, of the range that came closest.
    pub lcores: Option<Vec<usize>>,
    /// Sentences with the figures that decided.
    pub reasons: Vec<String>,
    /// For virtnet.conf; none where the goal was not met.
    pub lines: Option<Lines>,
    /// Who serves whom.
    pub placement: Vec<Place>,
    /// Whether the pairs were moved there, from where the engine puts them by itself.
    pub moved: bool,
    /// What was not done as asked for, or not tried.
    pub notes: Vec<String>,
    /// Frames lost silently, corrupted, reordered, duplicated.
    pub integrity_errors: u64,
    /// The same one by one, and what was checked.
    pub integrity: Findings,
    /// Interrupted.
    pub partial: bool,
    /// Seconds since the Unix epoch when it began.
    pub started_at_s: f64,
    /// Where it was measured.
    pub environment: Environment,
}

/// A range that was tried.
#[derive(Debug, Serialize)]
pub struct Tried {
    /// One worker on each.
    pub lcores: Vec<usize>,
    /// Whether pairs were moved from where the engine puts them by itself.
    pub moved: bool,
    /// Whether it reaches the goal.
    pub met: bool,
    /// In how many rounds it did.
    pub rounds_met: usize,
    /// Rate: median and 95 % interval, millions of frames a second.
    pub mpps: Option<Interval>,
    /// The median of the rounds' 99th percentiles, of the device that fares worst, in nanoseconds.
    pub p99_ns: Option<f64>,
    /// Frames lost, in all rounds.
    pub lost: u64,
    /// The part of the time in which the busiest worker moved frames.
    pub busiest: Option<f64>,
    /// Placement class.
    pub class: &'static str,
    /// Round by round.
    pub rounds: Vec<Round>,
}

/// Where a queue pair is served.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Place {
    /// The device's name; of two from guest to guest `/from` and `/to`.
    pub device: String,
    /// Which pair.
    pub queue_pair: u16,
    /// The worker, by its place in the list of lcores.
    pub worker: usize,
    /// Its lcore.
    pub lcore: usize,
}

impl Tried {
    /// As it is shown.
    pub fn new(trial: &Trial, goal: Goal) -> Self {
        Tried {
            lcores: trial.lcores.clone(),
            moved: trial.moved.is_some(),
            met: trial.meets(goal),
            rounds_met: trial.rounds_met(goal),
            mpps: trial.mpps(),
            p99_ns: trial.p99_ns(),
            lost: trial.lost(),
            busiest: trial.busiest(),
            class: trial.class(),
            rounds: trial.rounds.clone(),
        }
    }
}

/// Who serves whom in a trial.
pub fn places(trial: &Trial, devices: &[DeviceLoad]) -> Vec<Place> {
    let place = |seat: &crate::bed::Seat| {
        let device = devices.get(seat.device)?;
        let two = device.direction == crate::args::Direction::GuestToGuest;
        let end = match (two, seat.guest) {
            (false, _) => "",
            (true, 0) => "/from",
            (true, _) => "/to",
        };
        let device = device.name.clone() + end;
        Some(Place { device, queue_pair: seat.pair, worker: seat.worker, lcore: *trial.lcores.get(seat.worker)? })
    };
    trial.seats.iter().filter_map(place).collect()
}

impl Outcome {
    /// Of a choice among trials; the rest is to be filled in.
    pub fn choose(&mut self, choice: Choice, trials: &[Trial]) {
        self.met = choice.met;
        self.tried = trials.iter().filter(|t| !t.rounds.is_empty()).map(|trial| Tried::new(trial, self.goal)).collect();
        self.reasons = choice.reasons;
        let Some(trial) = choice.trial.map(|at| &trials[at]) else { return };
        self.lcores = Some(trial.lcores.clone());
        self.moved = trial.moved.is_some();
        self.placement = places(trial, &self.devices);
        self.lines = choice.met.then(|| Lines::new(&trial.lcores, trial.standing.shared > 0, self.burst));
    }

    /// For people, ending with a line feed.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "{}", self.table())?;
        let environment = &self.environment;
        writeln!(
            text,
            "goal {}; {}, queue size {}, burst {}, guests on lcore {}\n{}, {} CPUs, {}, {}{}",
            self.goal,
            counted(self.devices.len(), "device"),
            self.queue_size,
            self.burst,
            lcore::list(&self.driver_lcores),
            environment.cpu_model,
            environment.cpus,
            environment.kernel,
            environment.build_profile,
            if environment.hypervisor { ", under a hypervisor" } else { "" },
        )?;
        for warning in &environment.warnings {
            writeln!(text, "WARNING: {warning}")?;
        }
        for note in &self.notes {
            writeln!(text, "NOTE: {note}")?;
        }
        if self.partial {
            writeln!(text, "INTERRUPTED: the choice is by what was measured until then")?;
        }
        self.write_integrity(text)?;
        let Some(lcores) = &self.lcores else { return Ok(()) };
        let range = lcore::list(lcores);
        match self.met {
            true => writeln!(text, "\nCHOICE: workers on lcore {range}")?,
            false => writeln!(text, "\nNO RANGE REACHES {}; the closest: workers on lcore {range}", self.goal)?,
        }
        for reason in &self.reasons {
            writeln!(text, "  - {reason}")?;
        }
        self.write_placement(text)?;
        if let Some(lines) = &self.lines {
            writeln!(text, "virtnet.conf:\n    {}", lines.own())?;
            match lines.product() {
                Some(product) => writeln!(text, "  or, instead of lcores, as the product has it:\n    {product}")?,
                None => writeln!(
                    text,
                    "  dpa_core_start and dpa_core_end cannot say this range: {}",
                    product_range(lcores).err().unwrap_or_default()
                )?,
            }
        }
        Ok(())
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(UTF8_HORIZONTAL_ONLY);
        let with_loss = self.goal.wants_fewest();
        let mut header = vec!["lcores", "pairs", "rounds", "Mpps", "95 % of medians", "p99", "busiest", "cores"];
        if with_loss {
            header.extend(["lost", "met"]);
        }
        table.set_header(header);
        for column in table.column_iter_mut().skip(2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        for tried in &self.tried {
            let chosen = Some(&tried.lcores) == self.lcores.as_ref() && tried.moved == self.moved;
            let interval = |pick: &dyn Fn(&Interval) -> String| tried.mpps.as_ref().map_or("-".to_owned(), pick);
            let mut row = vec![
                lcore::list(&tried.lcores) + if chosen && self.met { " *" } else { "" },
                if tried.moved { "moved" } else { "as they come" }.to_owned(),
                tried.rounds.len().to_string(),
                interval(&|mpps| format!("{:.3}", mpps.median)),
                interval(&|mpps| format!("{:.3}..{:.3}", mpps.low, mpps.high)),
                tried.p99_ns.map_or("-".to_owned(), |ns| duration(ns as u64)),
                tried.busiest.map_or("-".to_owned(), |busy| format!("{:.0} %", busy * 100.0)),
                tried.class.to_owned(),
            ];
            if with_loss {
                row.push(tried.lost.to_string());
                row.push(format!("{} of {}", tried.rounds_met, tried.rounds.len()));
            }
            table.add_row(row);
        }
        table
    }

    fn write_placement(&self, text: &mut String) -> std::fmt::Result {
        let how = if self.moved {
            "pairs moved after their load was seen (Engine::rebalance); no key of virtnet.conf says so"
        } else {
            "as the controller places them by itself, with the devices in this order"
        };
        writeln!(text, "placement ({how}):")?;
        for Place { device, queue_pair, worker, lcore } in self.placement.iter().take(PLACES_SHOWN_MAX) {
            writeln!(text, "    {device} pair {queue_pair} -> worker {worker} (lcore {lcore})")?;
        }
        match self.placement.len().checked_sub(PLACES_SHOWN_MAX) {
            None | Some(0) => Ok(()),
            Some(more) => writeln!(text, "    and {more} more: --json has all"),
        }
    }

    fn write_integrity(&self, text: &mut String) -> std::fmt::Result {
        let Findings { lost, corrupted, reordered, duplicated, checksummed, .. } = self.integrity;
        if self.integrity_errors > 0 {
            writeln!(
                text,
                "INTEGRITY: {} frames silently lost, corrupted, reordered or duplicated: {lost} lost, {corrupted} corrupted, \
                 {reordered} reordered, {duplicated} duplicated",
                self.integrity_errors
            )
        } else {
            writeln!(text, "integrity: every frame accounted for, {checksummed} checked byte by byte, no error")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Direction, Ring};
    use crate::bed::Seat;
    use crate::frame::Sizes;
    use crate::tune::choice::choose;
    use crate::tune::standing::Standing;

    fn outcome(goal: Goal, lcores: &[usize], offered_mpps: f64) -> Outcome {
        let mut trial = Trial::new(lcores.to_vec(), Standing::default());
        let round = |round| Round {
            round,
            second: false,
            mpps: 4.0,
            offered_mpps: Some(offered_mpps),
            p99_ns: Some(4321),
            lost: 0,
            workers: Vec::new(),
            class: "near",
            waited: 0.0,
            devices_mpps: vec![4.0],
        };
        trial.rounds = (0..3).map(round).collect();
        trial.seats = (0..40).map(|pair| Seat { device: 0, guest: 1, pair, worker: 1 }).collect();
        let trials = [trial];
        let device = DeviceLoad {
            name: "web".to_owned(),
            queue_pairs: 40,
            ring: Ring::Split,
            frame_bytes: Some(Sizes::Imix),
            direction: Direction::GuestToGuest,
            rate_pps: Some(4e6),
        };
        let mut outcome = Outcome {
            kind: "tune",
            command: "tune",
            goal,
            met: false,
            devices: vec![device],
            pcap: None,
            queue_size: 256,
            burst: 32,
            features: "mrg_rxbuf".parse().unwrap(),
            driver_lcores: vec![7],
            tried: Vec::new(),
            lcores: None,
            reasons: Vec::new(),
            lines: None,
            placement: Vec::new(),
            moved: false,
            notes: vec!["the moon is full".to_owned()],
            integrity_errors: 0,
            integrity: Findings::default(),
            partial: false,
            started_at_s: 1.7e9,
            environment: Environment::look(&[0], &[1]),
        };
        outcome.choose(choose(goal, &trials), &trials);
        outcome
    }

    #[test]
    fn a_goal_that_is_met_comes_with_lines_and_placement() {
        let text = outcome(Goal::P99 { ns: 5000 }, &[2, 3], 4.0).text();
        for part in [
            "CHOICE: workers on lcore 2-3",
            "2-3 *",
            "4.3 µs",
            "3 of 3",
            "\"lcores\": \"2-3\", \"idle\": \"poll\", \"burst\": 32",
            "\"dpa_core_start\": 2, \"dpa_core_end\": 3",
            "web/to pair 0 -> worker 1 (lcore 3)",
            "and 8 more",
            "NOTE: the moon is full",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        let text = outcome(Goal::MaxThroughput, &[2, 4], 4.0).text();
        assert!(text.contains("\"lcores\": \"2,4\"") && text.contains("cannot say this range"), "{text}");
    }

    #[test]
    fn a_goal_that_is_not_met_comes_without_lines() {
        let outcome = outcome(Goal::Rate { pps: 5e6 }, &[2, 3], 5.0);
        let text = outcome.text();
        assert!(text.contains("NO RANGE REACHES rate=5M; the closest: workers on lcore 2-3"), "{text}");
        assert!(!text.contains("virtnet.conf:") && outcome.lines.is_none(), "{text}");
    }

    fn keys(value: &serde_json::Value, prefix: &str, into: &mut Vec<String>) {
        if let serde_json::Value::Object(object) = value {
            for (key, value) in object {
                into.push(format!("{prefix}{key}"));
                // Those of the environment and the checks are in the table of `run`.
                if !["environment", "integrity"].contains(&key.as_str()) {
                    keys(value, &format!("{prefix}{key}."), into);
                }
            }
        }
    }

    #[test]
    fn every_key_is_documented_and_every_documented_key_is_there() {
        let mut found = Vec::new();
        keys(&serde_json::to_value(outcome(Goal::MaxThroughput, &[2, 3], 4.0)).unwrap(), "", &mut found);
        let page = include_str!("../../../docs/perf.md");
        let (_, section) = page.split_once("## Tune").unwrap();
        let (_, section) = section.split_once("`--json` writes one object").unwrap();
        let (section, _) = section.split_once("\n## ").unwrap();
        let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
        let mut documented: Vec<String> = rows.map(|(key, _)| key.to_owned()).collect();
        found.sort();
        documented.sort();
        assert_eq!(found, documented);
    }
}
