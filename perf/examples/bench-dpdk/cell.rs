//! One cell of the table: a ring, a direction, a size; and its rounds.

use std::fmt;

use clap::ValueEnum;
use serde::Serialize;

use crate::Bench;
use crate::probe;
use crate::testpmd::Pair;

/// A window counts if its threads waited for their lcores for no more of it than this.
const WAITED_PART_MAX: f64 = 0.05;

/// What the two sides negotiate.
#[derive(Clone, Copy, PartialEq, Serialize)]
pub struct Ring {
    pub packed: bool,
    pub mergeable: bool,
    pub in_order: bool,
}

impl Ring {
    /// Every combination.
    pub fn all() -> [Ring; 8] {
        std::array::from_fn(|n| Ring { packed: n & 4 != 0, mergeable: n & 2 != 0, in_order: n & 1 != 0 })
    }
}

impl fmt::Display for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mergeable = if self.mergeable { "mergeable" } else { "single" };
        let order = if self.in_order { "in-order" } else { "any-order" };
        write!(f, "{} {mergeable} {order}", if self.packed { "packed" } else { "split" })
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    FromGuest,
    ToGuest,
    Loopback,
    /// Two front ends in one testpmd. What it receives at one it sends at the other, so frames go round and both devices
    /// send and receive.
    GuestToGuest,
}

impl Direction {
    /// How many front ends there are.
    pub fn guests(self) -> usize {
        if self == Direction::GuestToGuest { 2 } else { 1 }
    }
}

/// Sizes without the frame check sequence.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
pub enum Frames {
    #[serde(rename = "64")]
    #[value(name = "64")]
    Small,
    #[serde(rename = "1518")]
    #[value(name = "1518")]
    Large,
    /// 64, 570 and 1518 bytes in equal parts.
    #[serde(rename = "imix")]
    #[value(name = "imix")]
    Mixed,
}

impl Frames {
    /// Each length.
    pub fn bytes(self) -> &'static [u32] {
        match self {
            Frames::Small => &[64],
            Frames::Large => &[1518],
            Frames::Mixed => &[64, 570, 1518],
        }
    }
}

/// As on the command line.
pub fn name(value: &impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

/// One cell of the table.
#[derive(Clone, Copy, Serialize)]
pub struct Cell {
    #[serde(flatten)]
    pub ring: Ring,
    pub direction: Direction,
    pub frames: Frames,
    /// Lcores of the device, and as many of the driver.
    pub workers: usize,
}

impl Cell {
    /// Every one of a ring.
    pub fn all(ring: Ring) -> Vec<Cell> {
        let mut cells = Vec::new();
        for &direction in Direction::value_variants() {
            for workers in 1..=direction.guests() {
                for &frames in Frames::value_variants() {
                    cells.push(Cell { ring, direction, frames, workers });
                }
            }
        }
        cells
    }

    /// Whether its name has each of these words.
    pub fn has(&self, words: &[&str]) -> bool {
        let name = self.to_string();
        words.iter().all(|word| name.split(' ').any(|part| part == *word))
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let workers = if self.workers > 1 { " two-workers" } else { "" };
        write!(f, "{} {}{workers} {}", self.ring, name(&self.direction), name(&self.frames))
    }
}

/// One window: a rate, and how far apart the lcores were, or that something else ran on them.
#[derive(Clone, Copy, Serialize)]
pub struct Window {
    pub mpps: f64,
    pub class: &'static str,
}

/// One window of each back end.
#[derive(Clone, Copy, Serialize)]
pub struct Round {
    pub dpdk: Window,
    pub ours: Window,
    /// Of the back end that does nothing, unless it was left out.
    pub floor: Option<Window>,
}

/// A cell's windows, round by round.
#[derive(Serialize)]
pub struct Measured {
    #[serde(flatten)]
    pub cell: Cell,
    pub rounds: Vec<Round>,
}

/// The back ends that take turns, each with its front end.
pub struct Contest<'p> {
    pub dpdk: &'p mut Pair,
    pub ours: Pair,
    pub floor: Option<Pair>,
}

/// Runs a cell's rounds. Who goes first alternates.
pub fn measure(bench: &Bench, cell: Cell, contest: Contest<'_>) -> Measured {
    let Contest { dpdk, mut ours, mut floor } = contest;
    for pair in [&mut *dpdk, &mut ours].into_iter().chain(&mut floor) {
        pair.resume();
        pair.prepare(cell);
        pair.pause();
    }
    let (device, driver) = bench.lcores(1);
    let window = |pair: &mut Pair| {
        let before = probe::round_trip_ns(device[0], driver[0]);
        let waited = pair.waited();
        pair.resume();
        let mpps = pair.rate_mpps(cell, bench.window);
        pair.pause();
        let waited = pair.waited().saturating_sub(waited);
        let after = probe::round_trip_ns(device[0], driver[0]);
        let disturbed = waited > bench.window.mul_f64(WAITED_PART_MAX);
        Window { mpps, class: if disturbed { "disturbed" } else { probe::class_around(before, after) } }
    };
    let rounds = (0..bench.rounds).map(|round| {
        if round % 2 == 0 {
            let (dpdk, ours) = (window(dpdk), window(&mut ours));
            Round { dpdk, ours, floor: floor.as_mut().map(window) }
        } else {
            let floor = floor.as_mut().map(window);
            let ours = window(&mut ours);
            Round { dpdk: window(dpdk), ours, floor }
        }
    });
    Measured { cell, rounds: rounds.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_known_by_the_words_of_their_names() {
        let cells: Vec<Cell> = Ring::all().into_iter().flat_map(Cell::all).collect();
        assert_eq!(cells.len(), 8 * (4 + 1) * 3);
        let names: std::collections::HashSet<String> = cells.iter().map(Cell::to_string).collect();
        assert_eq!(names.len(), cells.len());
        let with = |words: &[&str]| cells.iter().filter(|cell| cell.has(words)).count();
        assert_eq!(with(&[]), cells.len());
        assert_eq!(with(&["packed", "loopback", "64"]), 4);
        assert_eq!(with(&["guest-to-guest", "imix", "split", "mergeable", "in-order"]), 2);
        assert_eq!((with(&["two-workers"]), with(&["guest"])), (24, 0));
    }
}
