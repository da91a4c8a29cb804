//! One cell of the table: a ring, a direction, a size; and its rounds.

use std::fmt;

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

#[derive(Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    FromGuest,
    ToGuest,
    Loopback,
}

impl Direction {
    pub const ALL: [Direction; 3] = [Direction::FromGuest, Direction::ToGuest, Direction::Loopback];
}

/// Sizes without the frame check sequence.
#[derive(Clone, Copy, PartialEq, Serialize)]
pub enum Frames {
    #[serde(rename = "64")]
    Small,
    #[serde(rename = "1518")]
    Large,
    /// 64, 570 and 1518 bytes in equal parts.
    #[serde(rename = "imix")]
    Mixed,
}

impl Frames {
    pub const ALL: [Frames; 3] = [Frames::Small, Frames::Large, Frames::Mixed];
}

/// One cell of the table.
#[derive(Clone, Copy, Serialize)]
pub struct Cell {
    #[serde(flatten)]
    pub ring: Ring,
    pub direction: Direction,
    pub frames: Frames,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = match self.direction {
            Direction::FromGuest => "from-guest",
            Direction::ToGuest => "to-guest",
            Direction::Loopback => "loopback",
        };
        let frames = match self.frames {
            Frames::Small => "64",
            Frames::Large => "1518",
            Frames::Mixed => "imix",
        };
        write!(f, "{} {direction} {frames}", self.ring)
    }
}

/// One window: a rate, and how far apart the lcores were, or that something else ran on them.
#[derive(Clone, Copy, Serialize)]
pub struct Window {
    pub mpps: f64,
    pub class: &'static str,
}

/// A cell's windows, round by round: DPDK's back end, ours.
#[derive(Serialize)]
pub struct Measured {
    #[serde(flatten)]
    pub cell: Cell,
    pub rounds: Vec<[Window; 2]>,
}

/// Runs a cell's rounds. Who goes first alternates.
pub fn measure(bench: &Bench, cell: Cell, theirs: &mut Pair, ours: &mut Pair) -> Measured {
    for pair in [&mut *theirs, &mut *ours] {
        pair.resume();
        pair.prepare(cell);
        pair.pause();
    }
    let [device, driver] = bench.lcores;
    let window = |pair: &mut Pair| {
        let before = probe::round_trip_ns(device, driver);
        let waited = pair.waited();
        pair.resume();
        let mpps = pair.rate_mpps(cell, bench.window);
        pair.pause();
        let waited = pair.waited().saturating_sub(waited);
        let after = probe::round_trip_ns(device, driver);
        let disturbed = waited > bench.window.mul_f64(WAITED_PART_MAX);
        Window { mpps, class: if disturbed { "disturbed" } else { probe::class_around(before, after) } }
    };
    let mut rounds = Vec::with_capacity(bench.rounds);
    for round in 0..bench.rounds {
        if round % 2 == 0 {
            let first = window(theirs);
            rounds.push([first, window(ours)]);
        } else {
            let first = window(ours);
            rounds.push([window(theirs), first]);
        }
    }
    Measured { cell, rounds }
}
