//! What was measured, as a file and as a table; two of them side by side.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, Result, ensure};
use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{CellAlignment, LineStyle, Table};
use serde::{Deserialize, Serialize};

use crate::path::Path;
use crate::steps::Step;

/// A change of more than this is marked, and belongs into the message of its commit.
const MARKED_PART: f64 = 0.03;

/// What counts depend on besides the source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Conditions {
    /// The level for which the engine's path was compiled.
    pub level: String,
    pub rustc: String,
    pub valgrind: String,
    /// Frames in a turn.
    pub burst: usize,
}

/// A path's instructions on the device's side, as a line: so many for each frame, and so many for each turn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    #[serde(flatten)]
    pub path: Path,
    /// For each frame, where bursts are full: a turn's share included.
    pub frame: f64,
    /// For each turn, whatever is in it.
    pub turn: f64,
    /// What a frame takes by steps; their sum is `frame`.
    pub steps: BTreeMap<Step, f64>,
}

impl Measured {
    /// From what turns of two bursts took: the longer burst first.
    pub fn new(
        path: Path,
        turns: u64,
        longer: (usize, BTreeMap<Step, u64>),
        shorter: (usize, BTreeMap<Step, u64>),
    ) -> Self {
        let a_turn = |sums: &BTreeMap<Step, u64>| sums.values().sum::<u64>() as f64 / turns as f64;
        let (most, least) = (longer.0 as f64, shorter.0 as f64);
        let slope = (a_turn(&longer.1) - a_turn(&shorter.1)) / (most - least);
        let a_frame = |count: f64| count / (turns as f64 * most);
        Measured {
            path,
            frame: round(a_turn(&longer.1) / most),
            turn: (a_turn(&longer.1) - slope * most).round(),
            steps: longer.1.iter().map(|(&step, &sum)| (step, round(a_frame(sum as f64)))).collect(),
        }
    }
}

/// To two digits: what is behind them says nothing.
fn round(count: f64) -> f64 {
    (count * 100.0).round() / 100.0
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub conditions: Conditions,
    pub paths: Vec<Measured>,
}

impl Record {
    /// # Errors
    /// It is not one.
    pub fn read(text: &str) -> Result<Self> {
        let record: Record = serde_json::from_str(text).context("not a record of instructions")?;
        ensure!(record.paths.iter().all(|measured| measured.frame > 0.0), "a record of paths that take no instruction");
        Ok(record)
    }

    /// One path a line, so that a change of it is a change of lines.
    pub fn to_json(&self) -> String {
        let line = |value: &_| serde_json::to_string(value).expect("plain data");
        let paths: Vec<String> = self
            .paths
            .iter()
            .map(|path| format!("    {}", line(&serde_json::to_value(path).expect("plain data"))))
            .collect();
        let conditions = line(&serde_json::to_value(&self.conditions).expect("plain data"));
        format!("{{\n  \"conditions\": {conditions},\n  \"paths\": [\n{}\n  ]\n}}\n", paths.join(",\n"))
    }

    /// What changed of a path, as a part of what it was.
    fn change(&self, before: &Record, path: Path) -> Option<f64> {
        let frame =
            |record: &Record| record.paths.iter().find(|measured| measured.path == path).map(|measured| measured.frame);
        Some(frame(self)? / frame(before)? - 1.0)
    }

    /// The table, and what is to be known about it.
    pub fn table(&self, before: Option<&(String, Record)>) -> String {
        let mut table = Table::new();
        table.load_style(UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none()));
        let shown =
            |step: &Step| self.paths.iter().any(|path| path.steps.get(step).is_some_and(|&count| count >= 0.05));
        let steps: Vec<Step> = Step::ALL.into_iter().filter(shown).collect();
        let titles = ["path", "a frame", "change", "a turn"].into_iter().chain(steps.iter().map(|step| step.title()));
        table.set_header(titles);
        let mut marked = 0;
        for measured in &self.paths {
            let change = before.and_then(|(_, before)| self.change(before, measured.path));
            let mark = match change {
                Some(change) if change > MARKED_PART => " MORE",
                Some(change) if change < -MARKED_PART => " less",
                _ => "",
            };
            marked += usize::from(mark == " MORE");
            let change = change.map_or("-".to_owned(), |change| format!("{:+.1} %{mark}", change * 100.0));
            let counts = [format!("{:.1}", measured.frame), change, format!("{:.0}", measured.turn)];
            let by_step = steps.iter().map(|step| format!("{:.1}", measured.steps.get(step).unwrap_or(&0.0)));
            table.add_row([measured.path.to_string()].into_iter().chain(counts).chain(by_step));
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let Conditions { level, rustc, valgrind, burst } = &self.conditions;
        let mut text = format!(
            "{table}\ninstructions of the device's side for each frame, in bursts of {burst}, all and by step; a turn: what it takes \
             with no frame in it, of which each frame of a burst bears its part\n\
             compiled for {level}, the highest that valgrind has and the engine knows; {rustc}, valgrind {valgrind}\n"
        );
        if let Some((name, before)) = before {
            let _ = writeln!(
                text,
                "change: since {name}; {marked} of {} paths take over {:.0} % more",
                self.paths.len(),
                MARKED_PART * 100.0
            );
            if before.conditions != self.conditions {
                let _ = writeln!(text, "NOT THE SAME CONDITIONS: that was {:?}", before.conditions);
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::{Direction, Ring};

    const PATH: Path =
        Path { direction: Direction::Loopback, ring: Ring::Split, mergeable: true, in_order: false, frame_bytes: 64 };

    fn record(frame: f64) -> Record {
        let conditions = Conditions { level: "avx2".into(), rustc: "1".into(), valgrind: "3".into(), burst: 32 };
        let measured = Measured { path: PATH, frame, turn: 50.0, steps: [(Step::Take, frame)].into() };
        Record { conditions, paths: vec![measured] }
    }

    #[test]
    fn a_line_through_two_bursts_tells_turns_from_frames() {
        let turns = 256;
        // 100 a turn and 7 a frame in one step, 3 a frame in another.
        let burst = |frames: u64| {
            (
                frames as usize,
                BTreeMap::from([(Step::Take, turns * (100 + 7 * frames)), (Step::Copy, turns * 3 * frames)]),
            )
        };
        let measured = Measured::new(PATH, turns, burst(32), burst(16));
        assert_eq!((measured.turn, measured.frame), (100.0, round(10.0 + 100.0 / 32.0)));
        assert_eq!(measured.steps, [(Step::Take, round(7.0 + 100.0 / 32.0)), (Step::Copy, 3.0)].into());
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let record = record(123.45);
        assert_eq!(Record::read(&record.to_json()).unwrap(), record);
        assert!(Record::read("{}").is_err());
        assert!(Record::read(&record.to_json().replace("123.45", "0.0")).is_err());
    }

    #[test]
    fn what_is_kept_is_of_every_path() {
        let kept = Record::read(include_str!("../../instructions.json")).unwrap();
        assert!(kept.paths.iter().map(|measured| measured.path).eq(Path::all()));
        for Measured { path, frame, steps, .. } in &kept.paths {
            assert!((steps.values().sum::<f64>() - frame).abs() < 0.1, "{path}: steps are all of it");
        }
    }

    #[test]
    fn more_than_three_percent_is_marked() {
        let before = record(100.0);
        let table = |frame| record(frame).table(Some(&("before".to_owned(), before.clone())));
        assert!(table(104.0).contains("+4.0 % MORE") && table(104.0).contains("1 of 1 paths take over 3 % more"));
        assert!(table(95.0).contains("-5.0 % less"));
        let even = table(102.0);
        assert!(even.contains("+2.0 %") && !even.contains("MORE") && even.contains("0 of 1 paths"));
        assert!(!even.contains("NOT THE SAME"));
        let mut other = record(100.0);
        other.conditions.level = "baseline".into();
        assert!(record(100.0).table(Some(&("other".to_owned(), other))).contains("NOT THE SAME CONDITIONS"));
    }
}
