//! One file of reports: its figures by cell, and what had to be left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use super::cell::{Cell, Figure};
use super::line::{Line, Record, Sample};

/// The longest line: a run of hours with all its intervals has a hundredth of it.
const LINE_BYTES_MAX: u64 = 4 << 20;
/// The most lines.
const LINES_MAX: usize = 100_000;
/// Different values of one thing that are kept to be shown.
const SHOWN_MAX: usize = 8;

/// All that a file says of one figure of one cell.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples {
    /// One a run.
    pub samples: Vec<Sample>,
    /// They are rounds of one run, or of a few.
    pub rounds: bool,
}

/// A file of reports.
#[derive(Debug, Default)]
pub struct Side {
    /// Figures by cell.
    pub figures: BTreeMap<(Cell, Figure), Samples>,
    /// Values of each thing that may make a difference.
    pub surroundings: BTreeMap<&'static str, BTreeSet<String>>,
    /// What was said of its reliability, if somebody said something.
    pub warnings: Option<BTreeSet<String>>,
    /// How many runs are not compared, by the reason.
    pub left_out: BTreeMap<String, u64>,
    /// Frames that were lost silently, corrupted, reordered or duplicated.
    pub integrity_errors: u64,
}

impl Side {
    /// Reads a file. Who waited for an lcore for more than `waited_max` of the time is left out.
    ///
    /// # Errors
    /// It cannot be read, or is not what `virtnet-perf` writes: with the number of the line and what was found there.
    pub fn read(path: &Path, waited_max: f64) -> Result<Self> {
        let place = || path.display().to_string();
        let mut file = BufReader::new(File::open(path).with_context(place)?);
        let (mut side, mut backends) = (Side::default(), BTreeMap::new());
        let mut line = Vec::new();
        let mut lines = 0;
        let mut runs = 0;
        loop {
            line.clear();
            let length = file.by_ref().take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut line).with_context(place)?;
            if length == 0 {
                break;
            }
            lines += 1;
            let place = || format!("{}: line {lines}", path.display());
            ensure!(lines <= LINES_MAX, "{}: more than {LINES_MAX} lines", path.display());
            ensure!(length as u64 <= LINE_BYTES_MAX, "{}: longer than {LINE_BYTES_MAX} bytes, no report is", place());
            if line.trim_ascii().is_empty() {
                continue;
            }
            runs += 1;
            match Line::read(line.trim_ascii(), waited_max).with_context(place)? {
                Line::Records(records) => {
                    // Those of one line tell of the same frames.
                    let errors = records.first().map_or(0, |record| record.integrity_errors);
                    side.integrity_errors = side.integrity_errors.saturating_add(errors);
                    records.into_iter().for_each(|record| side.add(record, waited_max, &mut backends));
                }
                Line::OfKind(kind) => side.leave_out(format!("kind {kind}, which has no figures to compare")),
            }
        }
        if runs == 0 {
            bail!("{}: there is no report in it", path.display());
        }
        Ok(side)
    }

    fn leave_out(&mut self, why: String) {
        // However many kinds somebody invents.
        if self.left_out.len() < SHOWN_MAX || self.left_out.contains_key(&why) {
            *self.left_out.entry(why).or_default() += 1;
        }
    }

    /// `backends` has who took part in the rounds of each cell, in the order in which they came.
    fn add(&mut self, record: Record, waited_max: f64, backends: &mut BTreeMap<Cell, Vec<String>>) {
        let Record { mut cell, figures, round_of, partial, integrity_errors, waited, surroundings, warnings } = record;
        for (key, value) in surroundings {
            keep(self.surroundings.entry(key).or_default(), value);
        }
        if let Some(class) = &cell.class {
            keep(self.surroundings.entry("placement").or_default(), class.clone());
        }
        if let Some(warnings) = warnings {
            let kept = self.warnings.get_or_insert_default();
            warnings.into_iter().for_each(|warning| keep(kept, warning));
        }
        let rounds = round_of.is_some();
        if let Some(backend) = round_of {
            let seen = backends.entry(cell.anywhere()).or_default();
            let number = seen.iter().position(|other| *other == backend).unwrap_or_else(|| {
                seen.push(backend);
                seen.len() - 1
            });
            cell.side = Some(if number == 0 { "A" } else { "B" }.to_owned());
        }
        for (is, why) in [
            (integrity_errors > 0, "frames were lost silently, corrupted, reordered or duplicated".to_owned()),
            (partial, "interrupted".to_owned()),
            (cell.class.as_deref() == Some("mixed"), "the lcores' placement changed meanwhile".to_owned()),
            (waited > waited_max, format!("one side waited for its lcore for more than {:.0} %", waited_max * 100.0)),
        ] {
            if is {
                return self.leave_out(why);
            }
        }
        for (figure, sample) in figures {
            let samples = self.figures.entry((cell.clone(), figure)).or_default();
            samples.samples.push(sample);
            samples.rounds |= rounds;
        }
    }
}

fn keep(values: &mut BTreeSet<String>, value: String) {
    if values.len() < SHOWN_MAX {
        values.insert(value);
    }
}
