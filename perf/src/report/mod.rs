//! What is reported of a run: the model behind table, JSON, histogram files and page.
//!
//! Keys, units and meanings are promised in docs/perf.md; a test compares the two.

mod hdr;
mod html;
mod sweep;
mod table;

use std::io::{self, Write};
use std::iter::Sum;
use std::ops::AddAssign;

use anyhow::Result;
use hdrhistogram::Histogram;
use serde::Serialize;
use virtnet_engine::LcoreLoad;

use crate::args::{Direction, Features, ResultArgs, Ring};
use crate::environment::Environment;
use crate::frame::Sizes;
use crate::halving::Found;
use crate::lcore;
use crate::output::{self, write_file};
use crate::statistics::Interval;
pub use sweep::{RoundFigures, SweepFigures};
pub use table::{counted, duration};

/// Who waited for an lcore for a larger part of the time was disturbed.
const WAITED_MAX: f64 = 0.05;
/// The same of what a hypervisor took.
const STOLEN_MAX: f64 = 0.01;

/// What kind of object it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A measured run of any subcommand but those below.
    Run,
    /// A search for the highest rate without loss; the figures are those of the best trial.
    Search,
    /// A round of `versus`.
    Round,
    /// A cell of `sweep`: the figures are those of all its rounds.
    Sweep,
}

/// Percentiles in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Percentiles {
    /// Half of all are below.
    pub p50: u64,
    /// 90 %.
    pub p90: u64,
    /// 99 %.
    pub p99: u64,
    /// 99.9 %.
    pub p99_9: u64,
    /// 99.99 %.
    pub p99_99: u64,
    /// The longest.
    pub max: u64,
}

impl Percentiles {
    /// Of a histogram in nanoseconds, unless it is empty.
    pub fn of(histogram: &Histogram<u64>) -> Option<Self> {
        (!histogram.is_empty()).then(|| Percentiles {
            p50: histogram.value_at_quantile(0.5),
            p90: histogram.value_at_quantile(0.9),
            p99: histogram.value_at_quantile(0.99),
            p99_9: histogram.value_at_quantile(0.999),
            p99_99: histogram.value_at_quantile(0.9999),
            max: histogram.max(),
        })
    }
}

/// From where to where latency was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LatencyOf {
    /// Every frame, from the moment it was due to its arrival: open loop, coordinated omission cannot happen.
    DueToArrival,
    /// One frame of a burst now and then, from its offer to its arrival, under full load.
    OfferToArrival,
    /// One frame of a burst now and then, from its offer to its chain being used, under full load.
    OfferToUsed,
    /// Every frame, from the moment it was due to its chain being used.
    DueToUsed,
    /// Every frame, from its offer to its arrival, with no other on its way.
    SendToArrival,
}

/// What the checks found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// Frames checked, byte by byte, before anything was measured.
    pub checked_before: u64,
    /// Frames whose checksum was checked, all in all.
    pub checksummed: u64,
    /// Frames that did not arrive and that no counter admits to.
    pub lost: u64,
    /// Frames of another length or content than sent.
    pub corrupted: u64,
    /// Frames that came after a later one of their flow.
    pub reordered: u64,
    /// Frames that came again.
    pub duplicated: u64,
    /// Frames that were none of ours: no error by itself.
    pub foreign: u64,
}

impl AddAssign for Findings {
    fn add_assign(&mut self, other: Findings) {
        self.checked_before += other.checked_before;
        self.checksummed += other.checksummed;
        self.lost += other.lost;
        self.corrupted += other.corrupted;
        self.reordered += other.reordered;
        self.duplicated += other.duplicated;
        self.foreign += other.foreign;
    }
}

impl Sum for Findings {
    fn sum<I: Iterator<Item = Findings>>(all: I) -> Findings {
        all.fold(Findings::default(), |mut sum, one| {
            sum += one;
            sum
        })
    }
}

impl Findings {
    /// All that must not happen.
    pub fn errors(&self) -> u64 {
        self.lost + self.corrupted + self.reordered + self.duplicated
    }
}

/// How even the rate was, interval by interval.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Evenness {
    /// Length of an interval in milliseconds.
    pub interval_ms: f64,
    /// Millions of frames a second in each.
    pub mpps: Vec<f64>,
}

/// Placement of the two sides' lcores: round trip of a cache line between them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Placement {
    /// Before the run, in nanoseconds.
    pub before_ns: Option<f64>,
    /// After it.
    pub after_ns: Option<f64>,
    /// The class that both fall in, or `mixed`.
    pub class: &'static str,
    /// The part of the time in which one side wanted to run and something else had its lcore.
    pub waited: f64,
    /// The part of the time of one of the lcores that the hypervisor gave to others.
    pub stolen: f64,
}

impl Placement {
    /// What makes the figures measured in it unreliable, a sentence each, the same for all runs that suffer from it.
    pub fn doubts(&self) -> Vec<String> {
        let waited = self.waited > WAITED_MAX;
        let stolen = self.stolen > STOLEN_MAX;
        let moved = self.class == "mixed";
        let doubt = |is: bool, what: &str| is.then(|| what.to_owned());
        [
            doubt(waited, "while measuring, something else had an lcore of ours for more than 5 % of the time"),
            doubt(stolen, "while measuring, the hypervisor took more than 1 % of the time of an lcore of ours"),
            doubt(moved, "while measuring, the lcores came to be nearer to each other or farther apart"),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// What a frame costs either side where they share a thread, reading the clock twice a burst included.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct OneCoreCost {
    /// The guest.
    pub driver_ns_per_frame: f64,
    /// The device.
    pub device_ns_per_frame: f64,
}

/// How busy a worker of the engine was.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct WorkerLoad {
    /// Where it is pinned.
    pub lcore: Option<usize>,
    /// The part of the time in which it moved frames.
    pub busy: f64,
    /// What a frame cost it, once through a queue, in nanoseconds.
    pub ns_per_frame: Option<f64>,
    /// Queue pairs that it served.
    pub queue_pairs: usize,
}

impl From<&LcoreLoad> for WorkerLoad {
    fn from(load: &LcoreLoad) -> Self {
        let &LcoreLoad { lcore, busy, frame_ns, pairs, .. } = load;
        WorkerLoad { lcore, busy, ns_per_frame: frame_ns, queue_pairs: pairs }
    }
}

/// What the rate of a run is a share of.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Capacity {
    /// Frames a second that went through without loss, by search.
    pub pps: f64,
    /// The share.
    pub percent: f64,
}

/// A round trip of one frame at a time, beside what the machine needs at least for it; medians over slices of milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Unloaded {
    /// A cache line between the two lcores, there and back.
    pub ping_pong_ns: Interval,
    /// A bare copy of a frame with its header, in the cache.
    pub copy_ns: Interval,
    /// Cache lines that have to go from one lcore to the other, one after the other.
    pub line_transfers: u32,
    /// So many halves of a ping-pong, and the copy.
    pub limit_ns: Interval,
    /// The median round trip over the limit, slice by slice.
    pub ratio: Interval,
}

/// One run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What it is.
    pub kind: Kind,
    /// The subcommand.
    pub command: &'static str,
    /// Where the device is: `in-process`, or the socket.
    pub backend: String,
    /// Layout.
    pub ring: Ring,
    /// Direction.
    pub direction: Direction,
    /// Frame size in bytes, or `imix`; `null` with a capture.
    pub frame_bytes: Option<Sizes>,
    /// The capture whose frames were sent.
    pub pcap: Option<String>,
    /// Queue pairs of a guest.
    pub queues: u16,
    /// Descriptors of a queue.
    pub queue_size: u16,
    /// Frames sent at a time.
    pub burst: u16,
    /// Negotiated, of those that change the rings.
    pub features: Features,
    /// Of the engine's workers; none where the device is elsewhere.
    pub lcores: Vec<usize>,
    /// Of the guest's threads.
    pub driver_lcores: Vec<usize>,
    /// Rate asked for, in frames a second; `null` for as many as go.
    pub rate_pps: Option<f64>,
    /// Length of the measurement.
    pub seconds: f64,
    /// Frames sent while measuring, by the guest or, to-guest, by the port.
    pub frames_sent: u64,
    /// Frames that arrived while measuring; from-guest: chains used by the device.
    pub frames_received: u64,
    /// Frames dropped and counted as such.
    pub drops: u64,
    /// Frames lost without a counter, corrupted, reordered, duplicated: all of the run, also outside the measurement.
    pub integrity_errors: u64,
    /// The same, one by one.
    pub integrity: Findings,
    /// Millions of frames received a second.
    pub mpps: f64,
    /// Bits of frames received, 10^9 a second.
    pub gbit_per_s: f64,
    /// Rate over time.
    pub evenness: Evenness,
    /// Latency, where there is any.
    pub latency_ns: Option<Percentiles>,
    /// What that latency is of.
    pub latency_of: Option<LatencyOf>,
    /// Placement of the two sides.
    pub placement: Placement,
    /// With `--one-core`.
    pub one_core: Option<OneCoreCost>,
    /// Of the engine's workers; none where the device is elsewhere or has no lcore of its own.
    pub workers: Vec<WorkerLoad>,
    /// Interrupted: the figures are of what was done until then.
    pub partial: bool,
    /// `versus`: which round, from 0.
    pub round: Option<u32>,
    /// `search`: rate found and trials.
    pub search: Option<Found>,
    /// `sweep`: what all rounds together say.
    pub sweep: Option<SweepFigures>,
    /// `latency --capacity-percent`.
    pub capacity: Option<Capacity>,
    /// `latency --unloaded`.
    pub unloaded: Option<Unloaded>,
    /// Where it was measured.
    pub environment: Environment,
    /// The latencies themselves.
    #[serde(skip)]
    pub histogram: Histogram<u64>,
    /// Seconds since the Unix epoch when it began.
    pub started_at_s: f64,
}

impl Report {
    /// Short name of what was measured, for files and legends.
    pub fn name(&self) -> String {
        let frames = self.frame_bytes.map_or("pcap".to_owned(), |sizes| sizes.to_string());
        let name = format!("{}-{}-{frames}", self.ring.name(), self.direction.name());
        match self.kind {
            Kind::Sweep => format!("{name}-{}q-lcores{}", self.queues, lcore::list(&self.lcores)),
            _ => name,
        }
    }
}

/// The outcome of `versus`.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// Always `versus`.
    pub kind: &'static str,
    /// Layout.
    pub ring: Ring,
    /// Direction.
    pub direction: Direction,
    /// Frame size.
    pub frame_bytes: Option<Sizes>,
    /// The first back end.
    pub a: String,
    /// The second.
    pub b: String,
    /// Pairs of rounds measured.
    pub rounds: u32,
    /// Pairs whose rounds were of one placement class, the only ones compared.
    pub rounds_compared: u32,
    /// Rate of A in those, median and 95 % interval, millions of frames a second.
    pub a_mpps: Option<Interval>,
    /// Rate of B.
    pub b_mpps: Option<Interval>,
    /// Rate of A over rate of B, pair by pair: median and 95 % interval.
    pub ratio: Option<Interval>,
    /// The same by placement class.
    pub classes: Vec<ClassRatio>,
    /// Interrupted.
    pub partial: bool,
}

/// Ratio in one placement class.
#[derive(Clone, Debug, Serialize)]
pub struct ClassRatio {
    /// The class.
    pub class: &'static str,
    /// Pairs of rounds.
    pub rounds: u32,
    /// Rate of A over rate of B.
    pub ratio: Interval,
}

/// Everything that a command has to show.
#[derive(Debug, Default)]
pub struct Results {
    /// Runs, in order.
    pub reports: Vec<Report>,
    /// Comparisons, in order.
    pub comparisons: Vec<Comparison>,
    /// What was not done as asked for, and why: a sentence each.
    pub notes: Vec<String>,
}

impl Results {
    /// Frames lost silently, corrupted, reordered or duplicated in any run.
    pub fn integrity_errors(&self) -> u64 {
        self.reports.iter().map(|report| report.integrity_errors).sum()
    }

    /// Writes table and files.
    ///
    /// # Errors
    /// Those of the files.
    pub fn publish(&self, args: &ResultArgs) -> Result<()> {
        output::publish(&table::render(self), args.json.as_deref(), |out| self.write_json(out))?;
        if let Some(path) = &args.hdr {
            hdr::write(path, &self.reports)?;
        }
        match &args.html {
            Some(path) => write_file(path, |out| html::write(out, self)),
            None => Ok(()),
        }
    }

    fn write_json(&self, mut out: impl Write) -> io::Result<()> {
        for report in &self.reports {
            serde_json::to_writer(&mut out, report)?;
            out.write_all(b"\n")?;
        }
        for comparison in &self.comparisons {
            serde_json::to_writer(&mut out, comparison)?;
            out.write_all(b"\n")?;
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub fn sample() -> Report {
        let mut histogram = crate::load::histogram();
        (1..=10_000).for_each(|i| histogram.record(i * 10).unwrap());
        Report {
            kind: Kind::Run,
            command: "run",
            backend: "in-process".to_owned(),
            ring: Ring::Packed,
            direction: Direction::GuestToGuest,
            frame_bytes: Some(Sizes::Fixed(64)),
            pcap: None,
            queues: 1,
            queue_size: 256,
            burst: 32,
            features: "mrg_rxbuf".parse().unwrap(),
            lcores: vec![0],
            driver_lcores: vec![1],
            rate_pps: None,
            seconds: 2.0,
            frames_sent: 20_000_100,
            frames_received: 20_000_000,
            drops: 0,
            integrity_errors: 0,
            integrity: Findings { checked_before: 4096, checksummed: 160_000, ..Findings::default() },
            mpps: 10.0,
            gbit_per_s: 5.12,
            evenness: Evenness { interval_ms: 10.0, mpps: (0..200).map(|i| 9.0 + f64::from(i % 20) / 10.0).collect() },
            latency_ns: Percentiles::of(&histogram),
            latency_of: Some(LatencyOf::OfferToArrival),
            placement: Placement {
                before_ns: Some(120.0),
                after_ns: Some(130.0),
                class: "near",
                waited: 0.01,
                stolen: 0.0,
            },
            one_core: None,
            workers: vec![WorkerLoad { lcore: Some(0), busy: 0.75, ns_per_frame: Some(37.5), queue_pairs: 2 }],
            partial: false,
            round: None,
            search: None,
            sweep: None,
            capacity: None,
            unloaded: None,
            environment: Environment::look(&[0], &[1]),
            histogram,
            started_at_s: 1.7e9,
        }
    }

    fn keys(value: &serde_json::Value, prefix: &str, into: &mut Vec<String>) {
        if let serde_json::Value::Object(object) = value {
            for (key, value) in object {
                into.push(format!("{prefix}{key}"));
                keys(value, &format!("{prefix}{key}."), into);
            }
        }
    }

    #[test]
    fn every_key_is_documented_and_every_documented_key_is_there() {
        let mut report = sample();
        report.one_core = Some(OneCoreCost { driver_ns_per_frame: 1.0, device_ns_per_frame: 1.0 });
        report.search = Some(Found { zero_loss_pps: 1.0, trials: Vec::new() });
        report.sweep = Some(SweepFigures {
            rounds: Vec::new(),
            mpps: Interval { median: 1.0, low: 1.0, high: 1.0 },
            busy: None,
            ns_per_frame: None,
            efficiency: None,
        });
        report.capacity = Some(Capacity { pps: 1e6, percent: 50.0 });
        let one = Interval { median: 1.0, low: 1.0, high: 1.0 };
        report.unloaded =
            Some(Unloaded { ping_pong_ns: one, copy_ns: one, line_transfers: 4, limit_ns: one, ratio: one });
        let mut found = Vec::new();
        keys(&serde_json::to_value(&report).unwrap(), "", &mut found);
        let interval = Some(Interval { median: 1.0, low: 1.0, high: 1.0 });
        let comparison = Comparison {
            kind: "versus",
            ring: Ring::Split,
            direction: Direction::Loopback,
            frame_bytes: Some(Sizes::Imix),
            a: "a".to_owned(),
            b: "b".to_owned(),
            rounds: 1,
            rounds_compared: 1,
            a_mpps: interval,
            b_mpps: interval,
            ratio: interval,
            classes: Vec::new(),
            partial: false,
        };
        keys(&serde_json::to_value(&comparison).unwrap(), "", &mut found);
        found.sort();
        found.dedup();
        let page = include_str!("../../../docs/perf.md");
        let (_, page) = page.split_once("## JSON").unwrap();
        let mut documented: Vec<String> = page
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split_once("` |"))
            .flat_map(|(keys, _)| keys.split("`, `").map(str::to_owned))
            .collect();
        documented.sort();
        documented.dedup();
        assert_eq!(found, documented);
    }

    #[test]
    fn a_placement_that_disturbed_says_so() {
        let placement = sample().placement;
        assert!(placement.doubts().is_empty());
        for (disturbed, said) in [
            (Placement { waited: 0.06, ..placement }, "something else"),
            (Placement { stolen: 0.02, ..placement }, "hypervisor"),
            (Placement { class: "mixed", ..placement }, "farther apart"),
        ] {
            let doubts = disturbed.doubts();
            assert!(doubts.len() == 1 && doubts[0].contains(said), "{doubts:?}");
        }
    }

    #[test]
    fn each_report_is_one_line_of_json() {
        let results = Results { reports: vec![sample(), sample()], ..Results::default() };
        let mut out = Vec::new();
        results.write_json(&mut out).unwrap();
        let lines: Vec<serde_json::Value> =
            String::from_utf8(out).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["ring"], "packed");
        assert_eq!(lines[0]["direction"], "guest-to-guest");
        assert_eq!(lines[0]["frame_bytes"], 64);
        assert_eq!(lines[0]["latency_ns"]["p50"], 50_015);
    }
}
