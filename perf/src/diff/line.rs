//! One line of a report as it is read: judged by what it says, as anybody may have written it.

use std::collections::BTreeMap;

use clap::ValueEnum;
use serde_json::{Map, Value};
use thiserror::Error;

use super::cell::{Cell, Figure};
use crate::args::{Direction, Feature, Ring};
use crate::statistics::{Interval, median};

/// Into so many blocks the intervals of a run are joined: neighbouring intervals are alike, neighbouring blocks less so.
const BLOCKS: usize = 10;
/// Characters of foreign text that are shown.
const SHOWN_MAX: usize = 100;

/// Why a line is not what it should be.
#[derive(Debug, Error, PartialEq)]
pub enum Fault {
    /// No JSON.
    #[error("{0}")]
    Json(String),
    /// JSON of something else.
    #[error("found {found}, where an object is needed, a report of virtnet-perf")]
    NoObject {
        /// What it is.
        found: String,
    },
    /// Not there.
    #[error("`{key}` is missing: {needed} is needed")]
    Missing {
        /// Where it should be.
        key: String,
        /// What should be there.
        needed: &'static str,
    },
    /// There is something else.
    #[error("`{key}` is {found}: {needed} is needed")]
    Wrong {
        /// Where it is.
        key: String,
        /// What is there.
        found: String,
        /// What should be there.
        needed: &'static str,
    },
}

/// What a line is of.
#[derive(Debug, PartialEq)]
pub enum Line {
    /// Figures: of one run, or of a sweep's rounds by placement class.
    Records(Vec<Record>),
    /// Of a kind that has none of the figures that are compared.
    OfKind(String),
}

/// A measured line.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// What was measured.
    pub cell: Cell,
    /// Its figures.
    pub figures: Vec<(Figure, Sample)>,
    /// A round of `versus`: of the same run as the others, and who was measured in it.
    pub round_of: Option<String>,
    /// Interrupted.
    pub partial: bool,
    /// Frames lost silently, corrupted, reordered, duplicated.
    pub integrity_errors: u64,
    /// The part of the time in which one side waited for its lcore, where that matters.
    pub waited: f64,
    /// What of its surroundings may make a difference, by key.
    pub surroundings: Vec<(&'static str, String)>,
    /// What was said of its reliability; older reports say nothing.
    pub warnings: Option<Vec<String>>,
}

/// A figure of one run, and what the run itself says of its spread.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The figure.
    pub value: f64,
    /// Within the run.
    pub within: Option<Within>,
}

/// The spread of a figure within one run.
#[derive(Clone, Debug, PartialEq)]
pub enum Within {
    /// Its values one after another.
    Blocks(Vec<f64>),
    /// An interval that was calculated there.
    Interval(Interval),
}

/// Keys of `environment` that are compared.
const ENVIRONMENT: [&str; 14] = [
    "cpu_model",
    "cpus",
    "kernel",
    "architecture",
    "hypervisor",
    "governor",
    "isolated_cpus",
    "numa_nodes",
    "hugepages_total",
    "transparent_hugepages",
    "transparent_hugepages_shmem",
    "build_profile",
    "version",
    "commit",
];

impl Line {
    /// Reads a line. Of a sweep, rounds in which a side waited for its lcore for more than `waited_max` of the time go by
    /// themselves.
    ///
    /// # Errors
    /// It is not one that `virtnet-perf` writes.
    pub fn read(bytes: &[u8], waited_max: f64) -> Result<Line, Fault> {
        let value: Value = serde_json::from_slice(bytes).map_err(|error| {
            let place = format!("{error}").replace(" at line 1 column ", " at character ");
            let hint = if error.is_eof() { "; is the file cut short?" } else { "" };
            let start = clean(&String::from_utf8_lossy(&bytes[..bytes.len().min(40)]));
            Fault::Json(format!("no JSON: {place}{hint} (it begins with {start})"))
        })?;
        let Value::Object(map) = &value else { return Err(Fault::NoObject { found: found(&value) }) };
        let fields = Fields { map, path: String::new() };
        let kind = fields.text("kind", "run, search, sweep, round, versus or self-loop")?;
        Ok(Line::Records(match kind {
            "run" | "search" | "round" => vec![fields.report(kind)?],
            "sweep" => fields.sweep(waited_max)?,
            "versus" => vec![fields.versus()?],
            "self-loop" => vec![fields.self_loop()?],
            other => return Ok(Line::OfKind(clean(other))),
        }))
    }
}

/// An object, and where it is.
struct Fields<'a> {
    map: &'a Map<String, Value>,
    path: String,
}

impl<'a> Fields<'a> {
    /// What is there, unless that is nothing or `null`.
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.path)
    }

    fn need<T>(&self, key: &str, needed: &'static str, read: impl Fn(&'a Value) -> Option<T>) -> Result<T, Fault> {
        let value = self.get(key).ok_or_else(|| Fault::Missing { key: self.key(key), needed })?;
        read(value).ok_or_else(|| Fault::Wrong { key: self.key(key), found: found(value), needed })
    }

    fn may<T>(
        &self,
        key: &str,
        needed: &'static str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, Fault> {
        self.get(key).map(|_| self.need(key, needed, read)).transpose()
    }

    fn text(&self, key: &str, needed: &'static str) -> Result<&'a str, Fault> {
        self.need(key, needed, Value::as_str)
    }

    /// A figure: no number below 0.
    fn number(&self, key: &str) -> Result<f64, Fault> {
        self.need(key, "a number, 0 or more", |value| value.as_f64().filter(|number| *number >= 0.0))
    }

    fn count(&self, key: &str) -> Result<u64, Fault> {
        self.need(key, "a whole number", Value::as_u64)
    }

    fn object(&self, key: &str) -> Result<Fields<'a>, Fault> {
        let map = self.need(key, "an object", Value::as_object)?;
        Ok(Fields { map, path: format!("{}.", self.key(key)) })
    }

    fn may_object(&self, key: &str) -> Result<Option<Fields<'a>>, Fault> {
        self.get(key).map(|_| self.object(key)).transpose()
    }

    fn numbers(&self, key: &str) -> Result<Vec<f64>, Fault> {
        self.need(key, "a list of numbers", |value| value.as_array()?.iter().map(Value::as_f64).collect())
    }

    fn length(&self, key: &str) -> Result<u64, Fault> {
        self.need(key, "a list", |value| Some(value.as_array()?.len() as u64))
    }

    fn is(&self, key: &str) -> Result<bool, Fault> {
        self.need(key, "true or false", Value::as_bool)
    }

    fn interval(&self, key: &str) -> Result<Sample, Fault> {
        let fields = self.object(key)?;
        let [median, low, high] = [fields.number("median")?, fields.number("low")?, fields.number("high")?];
        Ok(Sample { value: median, within: Some(Within::Interval(Interval { median, low, high })) })
    }

    /// What every line has.
    fn cell(&self, command: String) -> Result<Cell, Fault> {
        let known = |value: &'a Value, is_known: fn(&str) -> bool| value.as_str().filter(|name| is_known(name));
        let ring =
            self.need("ring", "split or packed", |value| known(value, |name| Ring::from_str(name, false).is_ok()))?;
        let directions = "from-guest, to-guest, loopback or guest-to-guest";
        let direction =
            self.need("direction", directions, |value| known(value, |name| Direction::from_str(name, false).is_ok()))?;
        let frames = match (self.get("frame_bytes"), self.get("pcap")) {
            (None, Some(_)) => clean(self.text("pcap", "the path of a capture")?),
            // Of `versus` with a capture.
            (None, None) => "capture".to_owned(),
            _ => self.need("frame_bytes", "a number, imix or null", |value| match value {
                Value::String(name) if name == "imix" => Some(name.clone()),
                value => value.as_u64().map(|bytes| bytes.to_string()),
            })?,
        };
        Ok(Cell { command, ring: ring.to_owned(), direction: direction.to_owned(), frames, ..Cell::default() })
    }

    fn features(&self) -> Result<String, Fault> {
        let needed = "a list of mrg_rxbuf, in_order, event_idx and indirect";
        let mut names = self.need("features", needed, |value| {
            let name = |value: &'a Value| value.as_str().filter(|name| Feature::from_str(name, false).is_ok());
            value.as_array()?.iter().map(name).collect::<Option<Vec<_>>>()
        })?;
        names.sort_unstable();
        Ok(if names.is_empty() { "none".to_owned() } else { names.join(",") })
    }

    /// `run`, `search`, `round`.
    fn report(&self, kind: &str) -> Result<Record, Fault> {
        let command = clean(self.text("command", "a subcommand")?);
        let backend = clean(self.text("backend", "in-process, a socket or a command")?);
        let mut cell = self.cell(if kind == "round" { "versus round".to_owned() } else { command })?;
        cell.features = Some(self.features()?);
        cell.queues = Some(self.count("queues")?);
        cell.queue_size = Some(self.count("queue_size")?);
        cell.burst = Some(self.count("burst")?);
        cell.workers = Some(self.length("lcores")?).filter(|_| backend == "in-process");
        cell.drivers = Some(self.length("driver_lcores")?);
        let placement = self.object("placement")?;
        let class = clean(placement.text("class", "a class")?);
        let one_core = self.may_object("one_core")?;
        let unloaded = self.may_object("unloaded")?;
        let search = self.may_object("search")?;
        let capacity = self.may_object("capacity")?;
        let latency = self.may_object("latency_ns")?;
        cell.load = match (&capacity, self.get("rate_pps")) {
            _ if search.is_some() => None,
            (Some(capacity), _) => Some(format!("{} % of capacity", capacity.number("percent")?)),
            (None, Some(_)) => Some(format!("{} pps", self.number("rate_pps")?)),
            (None, None) => unloaded.as_ref().map(|_| "one frame at a time".to_owned()),
        };
        let mut figures = Vec::new();
        let percentile = |key: &str| {
            latency.as_ref().map(|latency| latency.number(key).map(|value| Sample { value, within: None })).transpose()
        };
        if let Some(one_core) = &one_core {
            let value = one_core.number("device_ns_per_frame")?;
            figures.push((Figure::DeviceNs, Sample { value, within: None }));
            cell.load = Some("one core".to_owned());
        } else if unloaded.is_some() {
            figures.extend(percentile("p50")?.map(|p50| (Figure::P50, p50)));
            figures.extend(percentile("p99")?.map(|p99| (Figure::P99, p99)));
        } else if let Some(search) = &search {
            figures.push((Figure::Mpps, Sample { value: search.number("zero_loss_pps")? / 1e6, within: None }));
        } else {
            let blocks = blocks(&self.object("evenness")?.numbers("mpps")?);
            figures.push((Figure::Mpps, Sample { value: self.number("mpps")?, within: blocks.map(Within::Blocks) }));
            figures.extend(percentile("p99")?.map(|p99| (Figure::P99, p99)));
        }
        let (waited, surroundings, warnings) = (placement.number("waited")?, self.surroundings()?, self.warnings()?);
        // Where both sides share an lcore it is no matter where that one is.
        cell.class = one_core.is_none().then_some(class);
        Ok(Record {
            waited: if one_core.is_some() { 0.0 } else { waited },
            cell,
            figures,
            round_of: (kind == "round").then_some(backend),
            partial: self.is("partial")?,
            integrity_errors: self.count("integrity_errors")?,
            surroundings,
            warnings,
        })
    }

    /// A record for the rounds of each placement class: what they say is the median of theirs.
    fn sweep(&self, waited_max: f64) -> Result<Vec<Record>, Fault> {
        let record = self.report("sweep")?;
        let sweep = self.object("sweep")?;
        let rounds = sweep.need("rounds", "a list of objects", |value| {
            value.as_array()?.iter().map(Value::as_object).collect::<Option<Vec<_>>>()
        })?;
        // By class, and whether a side waited: rates and p99 latencies.
        let mut groups: BTreeMap<(String, bool), [Vec<f64>; 2]> = BTreeMap::new();
        for (number, map) in rounds.into_iter().enumerate() {
            let round = Fields { map, path: format!("sweep.rounds[{number}].") };
            let waits = round.number("waited")? > waited_max;
            let group = groups.entry((clean(round.text("class", "a class")?), waits)).or_default();
            group[0].push(round.number("mpps")?);
            group[1].extend(round.get("p99_ns").map(|_| round.number("p99_ns")).transpose()?);
        }
        let of_group = |((class, waits), values): ((String, bool), [Vec<f64>; 2])| {
            let figures = [Figure::Mpps, Figure::P99].into_iter().zip(values).filter(|(_, values)| !values.is_empty());
            let sample = |values: Vec<f64>| Sample { value: median(&values), within: Some(Within::Blocks(values)) };
            Record {
                cell: Cell { class: Some(class), ..record.cell.clone() },
                figures: figures.map(|(figure, values)| (figure, sample(values))).collect(),
                waited: if waits { 1.0 } else { 0.0 },
                ..record.clone()
            }
        };
        Ok(groups.into_iter().map(of_group).collect())
    }

    fn versus(&self) -> Result<Record, Fault> {
        let ratio = self.get("ratio").map(|_| self.interval("ratio")).transpose()?;
        Ok(Record {
            cell: self.cell("versus".to_owned())?,
            figures: ratio.into_iter().map(|ratio| (Figure::Ratio, ratio)).collect(),
            round_of: None,
            partial: self.is("partial")?,
            integrity_errors: 0,
            waited: 0.0,
            surroundings: Vec::new(),
            warnings: None,
        })
    }

    fn self_loop(&self) -> Result<Record, Fault> {
        let mut cell = self.cell("self-loop".to_owned())?;
        cell.features = Some(self.features()?);
        cell.queue_size = Some(self.count("queue_size")?);
        cell.burst = Some(self.count("burst")?);
        cell.side = Some(clean(self.text("driver", "scalar or vectorised")?));
        let device = self.object("virtnet")?.interval("device_ns")?;
        Ok(Record {
            cell,
            figures: vec![(Figure::DeviceNs, device), (Figure::Ratio, self.interval("ratio")?)],
            round_of: None,
            partial: self.is("partial")?,
            integrity_errors: 0,
            waited: 0.0,
            surroundings: self.surroundings()?,
            warnings: self.warnings()?,
        })
    }

    /// Where, with what and of whom it was measured.
    fn surroundings(&self) -> Result<Vec<(&'static str, String)>, Fault> {
        let environment = self.object("environment")?;
        let of = |fields: &Fields<'_>, key: &str| fields.get(key).map_or("unknown".to_owned(), shown);
        let mut found: Vec<_> = ENVIRONMENT.into_iter().map(|key| (key, of(&environment, key))).collect();
        let own = ["backend", "lcores", "driver_lcores", "lcore", "huge_pages", "dpdk_version"];
        found.extend(own.into_iter().filter(|key| self.get(key).is_some()).map(|key| (key, of(self, key))));
        Ok(found)
    }

    fn warnings(&self) -> Result<Option<Vec<String>>, Fault> {
        let environment = self.object("environment")?;
        let texts = |value: &'a Value| value.as_array()?.iter().map(|text| Some(clean(text.as_str()?))).collect();
        environment.may("warnings", "a list of sentences", texts)
    }
}

/// Means of stretches of equal length; `None` of too few values.
fn blocks(values: &[f64]) -> Option<Vec<f64>> {
    let length = values.len() / BLOCKS;
    (length > 0).then(|| {
        let block = |block: &[f64]| block.iter().sum::<f64>() / length as f64;
        values.chunks_exact(length).take(BLOCKS).map(block).collect()
    })
}

/// Text of others, so that it cannot do anything to a terminal, and not too much of it.
pub fn clean(text: &str) -> String {
    let mut clean: String = text.chars().take(SHOWN_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN_MAX).is_some() {
        clean.push('…');
    }
    // What is only quoted needs no escaping here.
    clean.replace("\\'", "'").replace("\\\"", "\"")
}

/// A value as text.
fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| clean(&value.to_string()), clean)
}

/// A value in an error.
fn found(value: &Value) -> String {
    match value {
        Value::Array(values) => format!("a list of {}", values.len()),
        Value::Object(_) => "an object".to_owned(),
        Value::String(text) => format!("\"{}\"", clean(text)),
        value => clean(&value.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::report::{Capacity, OneCoreCost, Unloaded, tests::sample};

    fn read(value: &Value) -> Record {
        match Line::read(value.to_string().as_bytes(), 0.05) {
            Ok(Line::Records(mut records)) if records.len() == 1 => records.remove(0),
            other => panic!("{other:?}"),
        }
    }

    fn figure(record: &Record, figure: Figure) -> Option<&Sample> {
        record.figures.iter().find(|(other, _)| *other == figure).map(|(_, sample)| sample)
    }

    fn self_loop() -> Value {
        let interval = |median: f64| json!({"median": median, "low": median * 0.98, "high": median * 1.02});
        json!({
            "kind": "self-loop", "command": "self-loop", "ring": "packed", "features": ["in_order"], "driver": "vectorised",
            "direction": "loopback", "frame_bytes": 64, "queue_size": 256, "burst": 32, "partial": false,
            "dpdk": {"device_ns": interval(20.0)}, "virtnet": {"device_ns": interval(10.0)}, "ratio": interval(2.0),
            "huge_pages": true, "lcore": 1, "dpdk_version": "DPDK 24.11", "environment": {"kernel": "Linux 6"},
        })
    }

    #[test]
    fn what_is_written_is_read() {
        let record = read(&serde_json::to_value(sample()).unwrap());
        assert_eq!(
            record.cell.to_string(),
            "run packed guest-to-guest 64 features mrg_rxbuf queues 1 queue size 256 burst 32 workers 1 drivers 1 cores near"
        );
        let Some(Sample { value, within: Some(Within::Blocks(blocks)) }) = figure(&record, Figure::Mpps) else {
            panic!()
        };
        assert_eq!((*value, blocks.len()), (10.0, 10));
        assert!(blocks.iter().all(|block| (block - 9.95).abs() < 0.01), "{blocks:?}");
        assert_eq!(figure(&record, Figure::P99).map(|sample| sample.value), Some(99_007.0));
        assert!(record.surroundings.iter().any(|(key, value)| *key == "backend" && value == "in-process"));
        let mut one_core = sample();
        one_core.one_core = Some(OneCoreCost { driver_ns_per_frame: 20.0, device_ns_per_frame: 10.0 });
        let record = read(&serde_json::to_value(one_core).unwrap());
        assert_eq!(record.figures, [(Figure::DeviceNs, Sample { value: 10.0, within: None })]);
        assert_eq!(record.cell.class, None);
    }

    #[test]
    fn shares_of_a_capacity_are_compared_whatever_rate_that_was() {
        let at = |pps: f64| {
            let mut report = sample();
            (report.rate_pps, report.capacity) = (Some(pps / 2.0), Some(Capacity { pps, percent: 50.0 }));
            read(&serde_json::to_value(report).unwrap()).cell
        };
        assert_eq!(at(1e6).load.as_deref(), Some("50 % of capacity"));
        assert_eq!(at(1e6), at(2e6));
        let mut report = sample();
        report.rate_pps = Some(250e3);
        assert_eq!(read(&serde_json::to_value(report).unwrap()).cell.load.as_deref(), Some("250000 pps"));
    }

    #[test]
    fn of_a_frame_at_a_time_the_round_trips_are_compared() {
        let mut report = sample();
        let one = Interval { median: 1.0, low: 1.0, high: 1.0 };
        report.unloaded =
            Some(Unloaded { ping_pong_ns: one, copy_ns: one, line_transfers: 4, limit_ns: one, ratio: one });
        let record = read(&serde_json::to_value(report).unwrap());
        assert_eq!(record.figures.iter().map(|(figure, _)| *figure).collect::<Vec<_>>(), [Figure::P50, Figure::P99]);
        assert_eq!(record.cell.load.as_deref(), Some("one frame at a time"));
    }

    #[test]
    fn a_self_loop_has_the_device_and_the_ratio_with_their_intervals() {
        let record = read(&self_loop());
        assert_eq!(figure(&record, Figure::DeviceNs).map(|sample| sample.value), Some(10.0));
        let interval = Interval { median: 2.0, low: 1.96, high: 2.04 };
        assert_eq!(figure(&record, Figure::Ratio).unwrap().within, Some(Within::Interval(interval)));
    }

    #[test]
    fn rounds_of_a_sweep_go_by_their_class() {
        let mut line = serde_json::to_value(sample()).unwrap();
        line["kind"] = json!("sweep");
        let round = |mpps: f64, p99_ns: u64, class: &str, waited: f64| json!({"round": 0, "mpps": mpps, "p99_ns": p99_ns, "class": class, "waited": waited});
        line["sweep"] = json!({"rounds": [
            round(10.0, 500, "near", 0.0), round(4.0, 900, "far", 0.01), round(12.0, 700, "near", 0.0), round(2.0, 5, "near", 0.5),
        ]});
        let Ok(Line::Records(records)) = Line::read(line.to_string().as_bytes(), 0.05) else { panic!("{line}") };
        let found: Vec<_> = records
            .iter()
            .map(|record| {
                let value = |of| figure(record, of).map(|sample: &Sample| sample.value);
                (record.cell.class.as_deref(), record.waited, value(Figure::Mpps), value(Figure::P99))
            })
            .collect();
        let [far, near, waits] = found[..] else { panic!("{found:?}") };
        assert_eq!(far, (Some("far"), 0.0, Some(4.0), Some(900.0)));
        assert_eq!(near, (Some("near"), 0.0, Some(11.0), Some(600.0)));
        assert_eq!(waits, (Some("near"), 1.0, Some(2.0), Some(5.0)));
        line["sweep"]["rounds"][1]["class"] = Value::Null;
        let fault = Line::read(line.to_string().as_bytes(), 0.05).unwrap_err().to_string();
        assert!(fault.contains("`sweep.rounds[1].class` is missing"), "{fault}");
    }

    #[test]
    fn lines_of_other_kinds_are_known_by_name() {
        assert_eq!(Line::read(br#"{"kind": "tune"}"#, 0.05), Ok(Line::OfKind("tune".to_owned())));
    }

    #[test]
    fn a_line_of_something_else_is_refused_with_what_was_found() {
        let with = |key: &str, value: Value| {
            let mut line = serde_json::to_value(sample()).unwrap();
            line[key] = value;
            line.to_string()
        };
        let whole = with("ring", json!("split"));
        for (line, said) in [
            ("", "no JSON"),
            ("perf record", "no JSON: expected value at character 1 (it begins with perf record)"),
            (&whole[..whole.len() / 2], "cut short"),
            ("[1, 2]", "found a list of 2"),
            ("7", "found 7"),
            ("{}", "`kind` is missing"),
            (r#"{"kind": 5}"#, "`kind` is 5"),
            (r#"{"kind": "run"}"#, "`command` is missing"),
            (&with("ring", json!("triple\u{1b}[2J")), r#"`ring` is "triple\u{1b}[2J": split or packed is needed"#),
            (&with("mpps", json!(-1.0)), "`mpps` is -1.0: a number, 0 or more"),
            (&with("mpps", json!("fast")), "`mpps` is"),
            (&with("frame_bytes", json!("huge")), "`frame_bytes`"),
            (&with("features", json!(["sriov"])), "`features` is a list of 1"),
            (&with("evenness", json!({"mpps": [1, "x"]})), "`evenness.mpps`"),
            (&with("placement", json!(7)), "`placement` is 7: an object"),
            (&with("placement", json!({"class": "near"})), "`placement.waited` is missing"),
            (&with("latency_ns", json!({"p99": "short"})), "`latency_ns.p99`"),
            (&with("environment", Value::Null), "`environment` is missing"),
        ] {
            let fault = Line::read(line.as_bytes(), 0.05).unwrap_err().to_string();
            assert!(fault.contains(said), "{said}: {fault}");
            assert!(fault.len() < 300 && !fault.contains('\u{1b}'), "{fault}");
        }
        assert!(Line::read("[".repeat(100_000).as_bytes(), 0.05).is_err());
        assert!(Line::read(&[0xff, 0xfe, b'{'], 0.05).is_err());
    }

    #[test]
    fn text_of_others_is_harmless_and_short() {
        assert_eq!(clean("a'b\"c\u{1b}[31m\n"), "a'b\"c\\u{1b}[31m\\n");
        assert!(clean(&"x".repeat(1000)).chars().count() == SHOWN_MAX + 1);
    }

    #[test]
    fn blocks_are_means_of_equal_stretches() {
        let values: Vec<f64> = (0..25).map(f64::from).collect();
        let found = blocks(&values).unwrap();
        assert_eq!((found.len(), found[0], found[9]), (BLOCKS, 0.5, 18.5));
        assert_eq!((blocks(&values[..9]), blocks(&[])), (None, None));
    }
}
