//! What `sweep` adds to a report, and its table.

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use super::Report;
use super::table::duration;
use crate::lcore;
use crate::statistics::Interval;

/// What all rounds of a cell together say.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SweepFigures {
    /// Round by round.
    pub rounds: Vec<RoundFigures>,
    /// Rate: median and 95 % interval, millions of frames a second.
    pub mpps: Interval,
    /// The part of the time in which workers moved frames, all together: the median.
    pub busy: Option<f64>,
    /// How long a worker was busy with a frame, in nanoseconds: the median.
    pub ns_per_frame: Option<f64>,
    /// Rate by worker, over the rate of one worker with the same load.
    pub efficiency: Option<f64>,
}

/// One round of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RoundFigures {
    /// Which, from 0.
    pub round: u32,
    /// Millions of frames a second.
    pub mpps: f64,
    /// 99 % of latencies are below, in nanoseconds.
    pub p99_ns: Option<u64>,
    /// Placement class.
    pub class: &'static str,
    /// The part of the time in which one side wanted to run and something else had its lcore.
    pub waited: f64,
}

/// One line a cell.
pub fn table(cells: &[&Report]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY);
    let with_rate = cells.iter().any(|report| report.rate_pps.is_some());
    let mut header = vec!["lcores", "queues", "ring", "direction", "frame", "Mpps", "95 % of medians"];
    header.extend(["busy", "ns a frame", "efficiency"]);
    if with_rate {
        header.extend(["rate", "drops", "p99"]);
    }
    header.push("cores");
    table.set_header(header);
    for (at, column) in table.column_iter_mut().enumerate() {
        // Words to the left, numbers to the right.
        column.set_cell_alignment(if matches!(at, 0 | 2 | 3) { CellAlignment::Left } else { CellAlignment::Right });
    }
    for report in cells {
        let Some(sweep) = &report.sweep else { continue };
        let figure = |figure: Option<f64>, digits: usize| figure.map_or("-".to_owned(), |f| format!("{f:.digits$}"));
        let percent = |part: Option<f64>| part.map_or("-".to_owned(), |part| format!("{:.0} %", part * 100.0));
        let mut row = vec![
            lcore::list(&report.lcores),
            report.queues.to_string(),
            report.ring.name().to_owned(),
            report.direction.name().to_owned() + if report.partial { " (interrupted)" } else { "" },
            report.frame_bytes.map_or("pcap".to_owned(), |sizes| sizes.to_string()),
            format!("{:.2}", sweep.mpps.median),
            format!("{:.2}..{:.2}", sweep.mpps.low, sweep.mpps.high),
            percent(sweep.busy),
            figure(sweep.ns_per_frame, 1),
            percent(sweep.efficiency),
        ];
        if with_rate {
            row.push(figure(report.rate_pps.map(|rate| rate / 1e6), 2));
            row.push(report.drops.to_string());
            row.push(report.latency_ns.map_or("-".to_owned(), |latency| duration(latency.p99)));
        }
        row.push(report.placement.class.to_owned());
        table.add_row(row);
    }
    table
}
