//! Medians, spreads and ratios of what was measured.

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{CellAlignment, LineStyle, Table};
use serde_json::json;

use crate::Bench;
use crate::cell::{Measured, Round};
use crate::environment::Environment;
use crate::floor::Deed;
use crate::statistics::{Interval, median_interval};

/// Who reaches so much of what the driver does with a back end that does nothing, is bound by the driver.
const BOUND_PART: f64 = 0.95;

/// The class with the most comparable rounds, and what they say.
struct Judged {
    class: &'static str,
    rounds: usize,
    dpdk: Interval,
    ours: Interval,
    /// Ours over DPDK's.
    ratio: Interval,
    floor: Option<Floor>,
}

/// Of the same class, which is not that of disturbed windows: a floor that was disturbed is none.
struct Floor {
    mpps: Interval,
    /// Ours over the floor.
    ours: Interval,
}

impl Floor {
    fn binds(&self) -> bool {
        self.ours.median >= BOUND_PART
    }
}

fn column<T>(rates: &[T], value: impl Fn(&T) -> f64) -> Interval {
    median_interval(&rates.iter().map(value).collect::<Vec<_>>())
}

/// Rounds whose two windows are of one class, for the class that has most of them. Disturbed windows only where there are
/// no others: the table says so, and such a figure is worth little.
fn judge(measured: &Measured) -> Option<Judged> {
    let classes = ["near", "far", "sibling", "astray"];
    let of = |class: &str| -> Vec<&Round> {
        measured.rounds.iter().filter(|round| round.dpdk.class == class && round.ours.class == class).collect()
    };
    // The first of those that are even: near windows tell more than far ones.
    let most = classes.into_iter().rev().max_by_key(|class| of(class).len())?;
    let class = if of(most).is_empty() { "disturbed" } else { most };
    let rounds = of(class);
    if rounds.is_empty() {
        return None;
    }
    let with_floor: Vec<[f64; 2]> = rounds
        .iter()
        .filter(|_| class != "disturbed")
        .filter_map(|round| Some([round.ours.mpps, round.floor.filter(|floor| floor.class == class)?.mpps]))
        .collect();
    Some(Judged {
        class,
        rounds: rounds.len(),
        dpdk: column(&rounds, |round| round.dpdk.mpps),
        ours: column(&rounds, |round| round.ours.mpps),
        ratio: column(&rounds, |round| round.ours.mpps / round.dpdk.mpps),
        floor: (!with_floor.is_empty()).then(|| Floor {
            mpps: column(&with_floor, |[_, floor]| *floor),
            ours: column(&with_floor, |[ours, floor]| ours / floor),
        }),
    })
}

/// A cell in one line, as it is done.
pub fn line(measured: &Measured) -> String {
    match judge(measured) {
        None => format!("{}: no round with both windows in one class", measured.cell),
        Some(judged) => {
            let floor = judged.floor.as_ref().map_or(String::new(), |floor| {
                let bound = if floor.binds() { ", bound by the driver" } else { "" };
                format!(", floor {:.2}{bound}", floor.mpps.median)
            });
            format!(
                "{}: {:.2} against {:.2} Mpps, ratio {:.2}{floor} ({}, {} of {} rounds)",
                measured.cell,
                judged.ours.median,
                judged.dpdk.median,
                judged.ratio.median,
                judged.class,
                judged.rounds,
                measured.rounds.len()
            )
        }
    }
}

/// The whole table.
pub fn table(results: &[Measured], floor: Deed) -> String {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none()));
    table.set_header([
        "ring, direction, bytes",
        "lcores",
        "rounds",
        "DPDK Mpps",
        "ours Mpps",
        "ratio",
        "95 % of the ratio",
        "floor Mpps",
        "ours of it",
    ]);
    for measured in results {
        let name = measured.cell.to_string();
        let Some(judged) = judge(measured) else {
            table.add_row([name, "-".into(), "0".into()]);
            continue;
        };
        let floor = judged.floor.as_ref();
        table.add_row([
            name,
            judged.class.into(),
            judged.rounds.to_string(),
            spread(judged.dpdk),
            spread(judged.ours),
            format!("{:.2}", judged.ratio.median),
            format!("{:.2} to {:.2}", judged.ratio.low, judged.ratio.high),
            floor.map_or("-".into(), |floor| spread(floor.mpps)),
            floor.map_or("-".into(), |floor| {
                let bound = if floor.binds() { " bound by the driver" } else { "" };
                format!("{:.0} %{bound}", floor.ours.median * 100.0)
            }),
        ]);
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let judged: Vec<Judged> = results.iter().filter_map(judge).collect();
    let below = judged.iter().filter(|judged| judged.ratio.median < 1.0).count();
    let bound = judged.iter().filter(|judged| judged.floor.as_ref().is_some_and(Floor::binds)).count();
    format!(
        "{table}\nratio above 1: our daemon is faster. {below} of {} ratios are below 1.\n\
         floor: {}. Of {bound} cells ours reaches {:.0} % of that or more: they are bound by the driver.",
        judged.len(),
        floor.sentence(),
        BOUND_PART * 100.0
    )
}

fn spread(interval: Interval) -> String {
    format!("{:.2} ({:.2}-{:.2})", interval.median, interval.low, interval.high)
}

/// Everything, for a program to read.
pub fn json(bench: &Bench, results: &[Measured], floor: Deed) -> String {
    let cells: Vec<_> = results
        .iter()
        .map(|measured| {
            let mut value = serde_json::to_value(measured).expect("plain data");
            if let Some(judged) = judge(measured) {
                value["class"] = json!(judged.class);
                value["rounds_compared"] = json!(judged.rounds);
                value["dpdk_mpps"] = json!(judged.dpdk);
                value["ours_mpps"] = json!(judged.ours);
                value["ratio"] = json!(judged.ratio);
                if let Some(floor) = judged.floor {
                    value["floor_mpps"] = json!(floor.mpps);
                    value["ours_of_floor"] = json!(floor.ours);
                    value["bound_by_driver"] = json!(floor.binds());
                }
            }
            value
        })
        .collect();
    let report = json!({
        "environment": Environment::look(&bench.lcores[..1], &bench.lcores[1..]),
        "hugepages": bench.huge,
        "window_ms": bench.window.as_millis() as u64,
        "lcores": bench.lcores,
        "floor": floor,
        "cells": cells,
    });
    serde_json::to_string_pretty(&report).expect("plain data") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cell::{Cell, Direction, Frames, Ring, Window};

    fn measured(rounds: &[[(f64, &'static str); 3]]) -> Measured {
        let ring = Ring { packed: false, mergeable: true, in_order: false };
        let window = |(mpps, class)| Window { mpps, class };
        let round = |[dpdk, ours, floor]: &[(f64, &'static str); 3]| Round {
            dpdk: window(*dpdk),
            ours: window(*ours),
            floor: Some(window(*floor)),
        };
        Measured {
            cell: Cell { ring, direction: Direction::Loopback, frames: Frames::Small, workers: 1 },
            rounds: rounds.iter().map(round).collect(),
        }
    }

    #[test]
    fn only_rounds_of_one_class_are_compared() {
        let near = |dpdk, ours, floor| [(dpdk, "near"), (ours, "near"), (floor, "near")];
        let far = [(1.0, "near"), (9.0, "far"), (9.0, "far")];
        let judged = judge(&measured(&[near(10.0, 15.0, 20.0), far, near(10.0, 15.0, 20.0)])).unwrap();
        assert_eq!((judged.class, judged.rounds, judged.ratio.median), ("near", 2, 1.5));
        let floor = judged.floor.unwrap();
        assert_eq!((floor.mpps.median, floor.ours.median, floor.binds()), (20.0, 0.75, false));
        assert!(judge(&measured(&[far])).is_none());
    }

    #[test]
    fn who_reaches_the_floor_is_bound_by_the_driver() {
        let round = [(10.0, "near"), (19.0, "near"), (20.0, "near")];
        let bound = measured(&[round]);
        assert!(judge(&bound).unwrap().floor.unwrap().binds());
        assert!(line(&bound).contains("floor 20.00, bound by the driver"));
        let table = table(&[bound], Deed::Touches);
        assert!(table.contains("95 % bound by the driver") && table.contains("eight bytes of each frame"));
        // A floor of another class says nothing.
        let elsewhere = measured(&[[(10.0, "near"), (19.0, "near"), (20.0, "far")]]);
        assert!(judge(&elsewhere).unwrap().floor.is_none());
        assert!(line(&elsewhere).contains("ratio 1.90 (near"));
    }
}
