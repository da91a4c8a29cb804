//! The comparison as text and as JSON, whose keys docs/perf.md names.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{self, Write};

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{CellAlignment, LineStyle, Table};
use serde::Serialize;

use super::cell::{Cell, Figure};
use super::side::Side;
use super::verdict::{Comparison, Verdict};

/// The difference whose values are sentences.
const WARNINGS: &str = "warnings";

/// The last object: everything but the figures.
#[derive(Debug, Serialize)]
pub struct Summary<'a> {
    /// Always `diff-summary`.
    pub kind: &'static str,
    /// As a part of 1.
    pub threshold: f64,
    /// Figures that became better.
    pub faster: usize,
    /// Figures that became worse.
    pub slower: usize,
    /// Figures that stayed the same.
    pub same: usize,
    /// Figures of which it is not known.
    pub unclear: usize,
    /// The same of those that are weak.
    pub weakly_faster: usize,
    /// The same.
    pub weakly_slower: usize,
    /// What differs around them.
    pub differences: Vec<Difference<'a>>,
    /// Cells of one side.
    pub only_old: &'a [Cell],
    /// The same.
    pub only_new: &'a [Cell],
    /// Cells that were measured in other placements.
    pub elsewhere: &'a [Cell],
    /// Runs that were left out, by the reason.
    pub left_out_old: &'a BTreeMap<String, u64>,
    /// The same.
    pub left_out_new: &'a BTreeMap<String, u64>,
    /// Frames lost silently, corrupted, reordered or duplicated, in NEW.
    pub integrity_errors: u64,
}

/// Something that is not the same on both sides.
#[derive(Debug, Serialize)]
pub struct Difference<'a> {
    /// What.
    pub what: &'a str,
    /// Its values in OLD.
    pub old: BTreeSet<String>,
    /// Its values in NEW.
    pub new: BTreeSet<String>,
}

impl<'a> Summary<'a> {
    /// Of two sides that were compared.
    pub fn of(old: &'a Side, new: &'a Side, comparison: &'a Comparison, threshold: f64) -> Self {
        let count = |verdict| comparison.count(verdict, false);
        let weakly = |verdict| comparison.count(verdict, true);
        Summary {
            kind: "diff-summary",
            threshold,
            faster: count(Verdict::Faster),
            slower: count(Verdict::Slower),
            same: count(Verdict::Same) + weakly(Verdict::Same),
            unclear: count(Verdict::Unclear) + weakly(Verdict::Unclear),
            weakly_faster: weakly(Verdict::Faster),
            weakly_slower: weakly(Verdict::Slower),
            differences: differences(old, new),
            only_old: &comparison.only_old,
            only_new: &comparison.only_new,
            elsewhere: &comparison.elsewhere,
            left_out_old: &old.left_out,
            left_out_new: &new.left_out,
            integrity_errors: new.integrity_errors,
        }
    }
}

fn differences<'a>(old: &'a Side, new: &'a Side) -> Vec<Difference<'a>> {
    let keys: BTreeSet<&str> = old.surroundings.keys().chain(new.surroundings.keys()).copied().collect();
    let of = |side: &Side, key: &str| side.surroundings.get(key).cloned().unwrap_or_default();
    let mut differences: Vec<_> = keys
        .into_iter()
        .map(|key| Difference { what: key, old: of(old, key), new: of(new, key) })
        .filter(|difference| difference.old != difference.new)
        .collect();
    if let (Some(old), Some(new)) = (&old.warnings, &new.warnings)
        && old != new
    {
        let only = |side: &BTreeSet<String>, other| side.difference(other).cloned().collect();
        differences.push(Difference { what: WARNINGS, old: only(old, new), new: only(new, old) });
    }
    differences
}

/// One object a figure, and the summary.
///
/// # Errors
/// Those of `out`.
pub fn write_json(out: &mut dyn Write, comparison: &Comparison, summary: &Summary<'_>) -> io::Result<()> {
    for compared in &comparison.compared {
        serde_json::to_writer(&mut *out, compared)?;
        out.write_all(b"\n")?;
    }
    serde_json::to_writer(&mut *out, summary)?;
    out.write_all(b"\n")
}

/// Everything as text, ending with a line feed.
pub fn render(comparison: &Comparison, summary: &Summary<'_>) -> String {
    let mut text = String::new();
    let list = |values: &BTreeSet<String>| {
        if values.is_empty() {
            "none".to_owned()
        } else {
            values.iter().map(String::as_str).collect::<Vec<_>>().join(" | ")
        }
    };
    for Difference { what, old, new } in &summary.differences {
        if *what == WARNINGS {
            // Sentences, which take a line each.
            for (side, warnings) in [("OLD", old), ("NEW", new)] {
                warnings.iter().for_each(|warning| text.push_str(&format!("WARNING in {side} only: {warning}\n")));
            }
            continue;
        }
        let _ = writeln!(text, "DIFFERS {what}: {} -> {}", list(old), list(new));
    }
    if summary.differences.iter().any(|difference| ["cpu_model", "architecture"].contains(&difference.what)) {
        let _ = writeln!(text, "WARNING: these are different machines: figures differ for that alone");
    }
    if !comparison.compared.is_empty() {
        let _ = writeln!(text, "{}", table(comparison));
        let _ = writeln!(
            text,
            "{} faster, {} slower, {} the same, {} unclear, by {} % and 95 % certainty over all {} figures",
            summary.faster,
            summary.slower,
            summary.same,
            summary.unclear,
            summary.threshold * 100.0,
            comparison.compared.len()
        );
    }
    if comparison.compared.iter().any(|one| one.weak) {
        let _ = writeln!(
            text,
            "?: weak, by the intervals of one run each: these follow one another, and the machine's mood in that run is not \
             excluded. {} look faster, {} slower; only several runs a side count as a regression",
            summary.weakly_faster, summary.weakly_slower
        );
    }
    if let Some(runs) = comparison.runs_needed {
        let _ = writeln!(
            text,
            "too few runs to tell every difference from chance: {runs} or more a side would do, in one placement"
        );
    }
    for (cells, where_) in [
        (summary.only_old, "only in OLD"),
        (summary.only_new, "only in NEW"),
        (summary.elsewhere, "not in one placement"),
    ] {
        for cell in cells {
            let _ = writeln!(text, "{where_}: {cell}");
        }
    }
    for (side, left_out) in [("OLD", summary.left_out_old), ("NEW", summary.left_out_new)] {
        for (why, count) in left_out {
            let _ = writeln!(text, "left out of {side}: {count} ({why})");
        }
    }
    if summary.integrity_errors > 0 {
        let errors = summary.integrity_errors;
        let _ =
            writeln!(text, "INTEGRITY: in NEW {errors} frames were silently lost, corrupted, reordered or duplicated");
    }
    text
}

fn table(comparison: &Comparison) -> Table {
    // What all have in common needs no column.
    let parts: Vec<_> = comparison.compared.iter().map(|one| one.cell.parts()).collect();
    let always = ["ring", "direction", "frames"];
    let columns: Vec<usize> = (0..parts[0].len())
        .filter(|&at| always.contains(&parts[0][at].0) || parts.iter().any(|other| other[at].1 != parts[0][at].1))
        .collect();
    let mut header: Vec<&str> = columns.iter().map(|&at| parts[0][at].0).collect();
    let numbers_from = header.len() + 1;
    header.extend(["figure", "old", "new", "new/old", "95 %", "p", "runs", "verdict"]);
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none()));
    table.set_header(header);
    for column in table.column_iter_mut().skip(numbers_from).take(6) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for (one, parts) in comparison.compared.iter().zip(&parts) {
        let mut row: Vec<String> = columns.iter().map(|&at| parts[at].1.clone()).collect();
        let value = |value: f64| {
            if one.figure == Figure::P50 || one.figure == Figure::P99 {
                format!("{value:.0}")
            } else {
                format!("{value:.3}")
            }
        };
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        row.extend([
            one.figure.name().to_owned(),
            value(one.old.median),
            value(one.new.median),
            or_none(one.ratio.map(|ratio| format!("{ratio:.3}"))),
            or_none(one.ratio_low.zip(one.ratio_high).map(|(low, high)| format!("{low:.3}..{high:.3}"))),
            or_none(one.p_holm.map(|p| if p < 0.001 { "<0.001".to_owned() } else { format!("{p:.3}") })),
            format!("{}+{}", one.old.runs, one.new.runs),
            verdict(one.verdict, one.weak),
        ]);
        table.add_row(row);
    }
    table
}

fn verdict(verdict: Verdict, weak: bool) -> String {
    let name = match verdict {
        Verdict::Faster => "faster",
        Verdict::Slower => "SLOWER",
        Verdict::Same => "same",
        Verdict::Unclear => return "unclear".to_owned(),
    };
    name.to_owned() + if weak { "?" } else { "" }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::diff::line::Sample;
    use crate::diff::side::Samples;

    #[test]
    fn every_key_is_documented_and_every_documented_key_is_there() {
        let mut side = Side::default();
        let samples = vec![Sample { value: 10.0, within: None }; 2];
        side.figures.insert((Cell::default(), Figure::Mpps), Samples { samples, rounds: false });
        side.warnings = Some(BTreeSet::new());
        let other = Side { warnings: Some(BTreeSet::from(["a debug build".to_owned()])), ..Side::default() };
        let comparison = Comparison::of(&side, &side, 0.03);
        let summary = Summary::of(&side, &other, &comparison, 0.03);
        assert!(render(&comparison, &summary).contains("WARNING in NEW only: a debug build"));
        let mut found = Vec::new();
        let mut out = Vec::new();
        write_json(&mut out, &comparison, &summary).unwrap();
        for line in String::from_utf8(out).unwrap().lines() {
            let Value::Object(object) = serde_json::from_str(line).unwrap() else { panic!("{line}") };
            for (key, value) in object {
                for inner in value.as_object().filter(|_| key == "old" || key == "new").into_iter().flatten() {
                    found.push(format!("{key}.{}", inner.0));
                }
                found.push(key);
            }
        }
        found.sort();
        found.dedup();
        let page = include_str!("../../../docs/perf.md");
        let (_, section) = page.split_once("## Comparing reports").unwrap();
        let (section, _) = section.split_once("\n## ").unwrap();
        let keys = |line: &str| {
            let (keys, _) = line.strip_prefix("| `")?.split_once("` |")?;
            Some(keys.split("`, `").map(str::to_owned).collect::<Vec<_>>())
        };
        let mut documented: Vec<String> = section.lines().filter_map(keys).flatten().collect();
        documented.sort();
        documented.dedup();
        assert_eq!(found, documented);
    }
}
