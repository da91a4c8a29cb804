//! The table at the end.

use std::collections::HashSet;
use std::fmt::Write;

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{CellAlignment, Table};

use super::{Comparison, Kind, Report, Results, Unloaded, sweep};
use crate::lcore::list;
use crate::statistics::{Interval, quantile};

/// Everything as text, ending with a line feed.
pub fn render(results: &Results) -> String {
    let mut text = String::new();
    let runs: Vec<&Report> = results.reports.iter().filter(|report| report.kind != Kind::Round).collect();
    if let Some(first) = runs.first() {
        let table = if first.kind == Kind::Sweep { sweep::table(&runs) } else { runs_table(&runs) };
        let _ = writeln!(text, "{table}");
        let _ = writeln!(text, "{}", setting(first));
        // What was true of several runs is said once.
        let mut said = HashSet::new();
        for warning in runs.iter().flat_map(|report| &report.environment.warnings) {
            if said.insert(warning) {
                let _ = writeln!(text, "WARNING: {warning}");
            }
        }
        notes(&mut text, &runs);
    }
    for note in &results.notes {
        let _ = writeln!(text, "NOTE: {note}");
    }
    for comparison in &results.comparisons {
        comparison_text(&mut text, comparison);
    }
    let errors = results.integrity_errors();
    if errors > 0 {
        let _ = writeln!(text, "INTEGRITY: {errors} frames silently lost, corrupted, reordered or duplicated");
        for report in results.reports.iter().filter(|report| report.integrity_errors > 0) {
            let found = report.integrity;
            let _ = writeln!(
                text,
                "  {}: {} lost, {} corrupted, {} reordered, {} duplicated",
                report.name(),
                found.lost,
                found.corrupted,
                found.reordered,
                found.duplicated
            );
        }
    } else if !results.reports.is_empty() {
        let checked: u64 = results.reports.iter().map(|report| report.integrity.checksummed).sum();
        let _ =
            writeln!(text, "integrity: every frame accounted for, {} checked byte by byte, no error", grouped(checked));
    }
    text
}

fn runs_table(runs: &[&Report]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY);
    let with_rate = runs.iter().any(|report| report.rate_pps.is_some() || report.search.is_some());
    let mut header = vec![
        "ring",
        "direction",
        "frame",
        "Mpps",
        "Gbit/s",
        "p5..p95 Mpps",
        "drops",
        "p50",
        "p99",
        "p99.9",
        "p99.99",
        "max",
        "cores",
    ];
    if with_rate {
        header.insert(3, "rate");
    }
    table.set_header(&header);
    let numbers_from = 2;
    for column in table.column_iter_mut().skip(numbers_from) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for report in runs {
        let part = |part| quantile(&report.evenness.mpps, part);
        let spread = if report.evenness.mpps.is_empty() {
            "-".to_owned()
        } else {
            format!("{:.2}..{:.2}", part(0.05), part(0.95))
        };
        let latency = |pick: fn(&super::Percentiles) -> u64| {
            report.latency_ns.as_ref().map_or("-".to_owned(), |latency| duration(pick(latency)))
        };
        let mut row = vec![
            report.ring.name().to_owned(),
            report.direction.name().to_owned() + if report.partial { " (interrupted)" } else { "" },
            report.frame_bytes.map_or("pcap".to_owned(), |sizes| sizes.to_string()),
            format!("{:.2}", report.mpps),
            format!("{:.2}", report.gbit_per_s),
            spread,
            grouped(report.drops),
            latency(|l| l.p50),
            latency(|l| l.p99),
            latency(|l| l.p99_9),
            latency(|l| l.p99_99),
            latency(|l| l.max),
            report.placement.class.to_owned(),
        ];
        if with_rate {
            let share = report.capacity.map_or(String::new(), |capacity| format!(" ({} %)", capacity.percent));
            row.insert(3, report.rate_pps.map_or("-".to_owned(), |rate| format!("{:.2}{share}", rate / 1e6)));
        }
        table.add_row(row);
    }
    table
}

fn setting(report: &Report) -> String {
    let environment = &report.environment;
    let features: Vec<_> = report
        .features
        .0
        .iter()
        .filter_map(|feature| clap::ValueEnum::to_possible_value(feature).map(|value| value.get_name().to_owned()))
        .collect();
    let on = list(&report.lcores);
    let (length, on) = match &report.sweep {
        Some(sweep) => {
            (format!("{} of each cell, {:.3} s in all", counted(sweep.rounds.len(), "round"), report.seconds), "")
        }
        None => (format!("{:.3} s each, {}", report.seconds, counted(report.queues.into(), "queue pair")), on.as_str()),
    };
    format!(
        "{length}, queue size {}, burst {}, features {}; device {}{}, guest on lcore {}\n{}, {} CPUs, {}, {}{}",
        report.queue_size,
        report.burst,
        if features.is_empty() { "none".to_owned() } else { features.join(",") },
        report.backend,
        if on.is_empty() { String::new() } else { format!(" on lcore {on}") },
        list(&report.driver_lcores),
        environment.cpu_model,
        environment.cpus,
        environment.kernel,
        environment.build_profile,
        if environment.hypervisor { ", under a hypervisor" } else { "" },
    )
}

fn notes(text: &mut String, runs: &[&Report]) {
    for report in runs {
        if let Some(found) = &report.search {
            let _ = writeln!(
                text,
                "{}: highest rate without loss {:.3} Mpps, {}{}",
                report.name(),
                found.zero_loss_pps / 1e6,
                counted(found.trials.len(), "trial"),
                if report.partial { "; INTERRUPTED: it may be higher" } else { "" }
            );
        }
    }
    for report in runs {
        if let Some(cost) = &report.one_core {
            let name = report.name();
            let (device, driver) = (cost.device_ns_per_frame, cost.driver_ns_per_frame);
            let _ = writeln!(text, "{name}: device {device:.1} ns a frame, guest {driver:.1} ns");
        }
    }
    for report in runs {
        if let Some(Unloaded { ping_pong_ns, copy_ns, line_transfers, limit_ns, ratio }) = &report.unloaded {
            let p50 = report.latency_ns.map_or(0, |latency| latency.p50);
            let _ = writeln!(
                text,
                "{}: one frame at a time, round trip {p50} ns; limit {:.0} ns: {line_transfers} halves of a ping-pong of {:.0} ns, \
                 a copy of {:.0} ns; ratio {:.2} ({:.2} to {:.2})",
                report.name(),
                limit_ns.median,
                ping_pong_ns.median,
                copy_ns.median,
                ratio.median,
                ratio.low,
                ratio.high
            );
        }
    }
    if runs.iter().any(|report| report.latency_ns.is_some() && report.unloaded.is_none()) {
        let open = runs.iter().any(|report| report.rate_pps.is_some());
        let what = if open {
            "latency of every frame from the moment it was due"
        } else {
            "latency under full load: frames wait in full rings; `virtnet-perf latency` measures at a rate"
        };
        let _ = writeln!(text, "{what}");
    }
    // A sweep has a note of its own, which says which cells.
    let shares = |report: &&Report| report.placement.class == "shared" && report.one_core.is_none();
    if runs.iter().any(|report| shares(report) && report.sweep.is_none()) {
        let _ = writeln!(
            text,
            "NOTE: guest and device shared a core and took turns; give them one each for figures that mean something"
        );
    }
}

fn comparison_text(text: &mut String, comparison: &Comparison) {
    let Comparison { a, b, rounds, rounds_compared, .. } = comparison;
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY);
    table.set_header(["", "median", "95 % of medians"]);
    let mut row = |name: &str, interval: &Option<Interval>, unit: &str| {
        if let Some(Interval { median, low, high }) = interval {
            table.add_row([name.to_owned(), format!("{median:.3}{unit}"), format!("{low:.3} to {high:.3}")]);
        }
    };
    row("A", &comparison.a_mpps, " Mpps");
    row("B", &comparison.b_mpps, " Mpps");
    row("A over B", &comparison.ratio, "");
    for class in &comparison.classes {
        row(&format!("  cores {} ({})", class.class, counted(class.rounds as usize, "round")), &Some(class.ratio), "");
    }
    let _ = writeln!(text, "A: {a}\nB: {b}");
    let _ = writeln!(
        text,
        "{}, {}, frames of {}: {} of each, {} compared{}",
        comparison.ring.name(),
        comparison.direction.name(),
        comparison.frame_bytes.map_or("a capture".to_owned(), |sizes| sizes.to_string()),
        counted(*rounds as usize, "round"),
        counted(*rounds_compared as usize, "pair"),
        if comparison.partial { ", interrupted" } else { "" }
    );
    if comparison.ratio.is_some() {
        let _ = writeln!(text, "{table}");
    } else {
        let _ = writeln!(
            text,
            "nothing to compare: no pair of rounds in one placement in which neither side waited long for its lcore \
             (--waited-max); more --rounds may help"
        );
    }
}

/// Nanoseconds in a unit that reads well.
pub fn duration(ns: u64) -> String {
    let ns = ns as f64;
    match ns {
        ns if ns < 1e3 => format!("{ns:.0} ns"),
        ns if ns < 1e6 => format!("{:.1} µs", ns / 1e3),
        ns if ns < 1e9 => format!("{:.1} ms", ns / 1e6),
        ns => format!("{:.2} s", ns / 1e9),
    }
}

/// So many of something, as in "1 round" and "2 rounds".
pub fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// With a space between thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::tests::sample;
    use super::*;

    #[test]
    fn the_table_tells_rate_latency_and_integrity() {
        let mut bad = sample();
        bad.integrity.lost = 7;
        bad.integrity_errors = 7;
        let text = render(&Results { reports: vec![sample()], ..Results::default() });
        for part in ["packed", "guest-to-guest", "10.00", "5.12", "50.0 µs", "near", "no error", "160 000"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        let text = render(&Results { reports: vec![sample(), bad], ..Results::default() });
        assert!(text.contains("INTEGRITY: 7 frames") && text.contains("7 lost"), "{text}");
    }

    #[test]
    fn durations_and_numbers_read_well() {
        assert_eq!([999, 1_500, 2_500_000, 3_000_000_000].map(duration), ["999 ns", "1.5 µs", "2.5 ms", "3.00 s"]);
        assert_eq!([0, 1, 2].map(|count| counted(count, "lcore")), ["0 lcores", "1 lcore", "2 lcores"]);
        assert_eq!([1, 999, 1_000, 1_234_567].map(grouped), ["1", "999", "1 000", "1 234 567"]);
    }
}
