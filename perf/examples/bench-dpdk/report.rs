//! Medians, spreads and ratios of what was measured.

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{CellAlignment, Table};
use serde_json::json;

use crate::Bench;
use crate::cell::Measured;
use crate::environment::Environment;
use crate::statistics::{Interval, median_interval};

/// The class with the most comparable rounds, and what they say.
struct Judged {
    class: &'static str,
    rounds: usize,
    theirs: Interval,
    ours: Interval,
    ratio: Interval,
}

/// Rounds whose two windows are of one class, for the class that has most of them. Disturbed windows only where there are
/// no others: the table says so, and such a figure is worth little.
fn judge(measured: &Measured) -> Option<Judged> {
    let classes = ["near", "far", "sibling", "astray"];
    let of = |class: &str| -> Vec<[f64; 2]> {
        let same = measured.rounds.iter().filter(|round| round.iter().all(|window| window.class == class));
        same.map(|round| round.map(|window| window.mpps)).collect()
    };
    // The first of those that are even: near windows tell more than far ones.
    let most = classes.into_iter().rev().max_by_key(|class| of(class).len())?;
    let class = if of(most).is_empty() { "disturbed" } else { most };
    let rates = of(class);
    if rates.is_empty() {
        return None;
    }
    let column = |value: fn(&[f64; 2]) -> f64| median_interval(&rates.iter().map(value).collect::<Vec<_>>());
    Some(Judged {
        class,
        rounds: rates.len(),
        theirs: column(|rate| rate[0]),
        ours: column(|rate| rate[1]),
        ratio: column(|rate| rate[1] / rate[0]),
    })
}

/// A cell in one line, as it is done.
pub fn line(measured: &Measured) -> String {
    match judge(measured) {
        None => format!("{}: no round with both windows in one class", measured.cell),
        Some(judged) => format!(
            "{}: {:.2} against {:.2} Mpps, ratio {:.2} ({}, {} of {} rounds)",
            measured.cell,
            judged.ours.median,
            judged.theirs.median,
            judged.ratio.median,
            judged.class,
            judged.rounds,
            measured.rounds.len()
        ),
    }
}

/// The whole table.
pub fn table(results: &[Measured]) -> String {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY);
    table.set_header([
        "ring, direction, bytes",
        "lcores",
        "rounds",
        "DPDK Mpps",
        "ours Mpps",
        "ratio",
        "95 % of the ratio",
    ]);
    for measured in results {
        let name = measured.cell.to_string();
        match judge(measured) {
            None => table.add_row([name, "-".into(), "0".into()]),
            Some(judged) => table.add_row([
                name,
                judged.class.into(),
                judged.rounds.to_string(),
                spread(judged.theirs),
                spread(judged.ours),
                format!("{:.2}", judged.ratio.median),
                format!("{:.2} to {:.2}", judged.ratio.low, judged.ratio.high),
            ]),
        };
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let ratios: Vec<f64> = results.iter().filter_map(|measured| Some(judge(measured)?.ratio.median)).collect();
    let below = ratios.iter().filter(|&&ratio| ratio < 1.0).count();
    format!("{table}\nratio above 1: our daemon is faster. {below} of {} ratios are below 1.", ratios.len())
}

fn spread(interval: Interval) -> String {
    format!("{:.2} ({:.2}-{:.2})", interval.median, interval.low, interval.high)
}

/// Everything, for a program to read.
pub fn json(bench: &Bench, results: &[Measured]) -> String {
    let cells: Vec<_> = results
        .iter()
        .map(|measured| {
            let mut value = serde_json::to_value(measured).expect("plain data");
            if let Some(judged) = judge(measured) {
                value["class"] = json!(judged.class);
                value["rounds_compared"] = json!(judged.rounds);
                value["dpdk_mpps"] = json!(judged.theirs);
                value["ours_mpps"] = json!(judged.ours);
                value["ratio"] = json!(judged.ratio);
            }
            value
        })
        .collect();
    let report = json!({
        "environment": Environment::look(&bench.lcores[..1], &bench.lcores[1..]),
        "hugepages": bench.huge,
        "window_ms": bench.window.as_millis() as u64,
        "lcores": { "device": bench.lcores[0], "driver": bench.lcores[1] },
        "cells": cells,
    });
    serde_json::to_string_pretty(&report).expect("plain data") + "\n"
}
