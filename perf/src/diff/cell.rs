//! What figures must have in common to be compared, and which figures there are.

use std::fmt;

use serde::{Serialize, Serializer};

/// What a figure was measured with; everything but who was measured, when and where.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Cell {
    /// The subcommand; with `search`, `round` or `versus` where the line is of that kind.
    pub command: String,
    /// Layout.
    pub ring: String,
    /// Direction.
    pub direction: String,
    /// Bytes of a frame, `imix`, or the capture.
    pub frames: String,
    /// Negotiated, sorted.
    pub features: Option<String>,
    /// Queue pairs.
    pub queues: Option<u64>,
    /// Descriptors of a queue.
    pub queue_size: Option<u64>,
    /// Frames at a time.
    pub burst: Option<u64>,
    /// Workers.
    pub workers: Option<u64>,
    /// The guest's threads.
    pub drivers: Option<u64>,
    /// What was offered: frames a second, or a share of the capacity.
    pub load: Option<String>,
    /// `versus`: the first back end or the second; `self-loop`: the driver's path.
    pub side: Option<String>,
    /// How far the two sides' lcores were apart, where that matters.
    pub class: Option<String>,
}

impl Cell {
    /// Name and value of each part, in the order of the table.
    pub fn parts(&self) -> [(&'static str, String); 13] {
        let text = |part: &Option<String>| part.clone().unwrap_or_default();
        let number = |part: Option<u64>| part.map_or(String::new(), |number| number.to_string());
        [
            ("command", self.command.clone()),
            ("ring", self.ring.clone()),
            ("direction", self.direction.clone()),
            ("frames", self.frames.clone()),
            ("features", text(&self.features)),
            ("queues", number(self.queues)),
            ("queue size", number(self.queue_size)),
            ("burst", number(self.burst)),
            ("workers", number(self.workers)),
            ("drivers", number(self.drivers)),
            ("load", text(&self.load)),
            ("side", text(&self.side)),
            ("cores", text(&self.class)),
        ]
    }

    /// The same wherever its lcores were.
    pub fn anywhere(&self) -> Cell {
        Cell { class: None, ..self.clone() }
    }
}

/// All parts that are known.
impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self
            .parts()
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| match name {
                "command" | "ring" | "direction" | "frames" => value,
                _ => format!("{name} {value}"),
            })
            .collect();
        f.write_str(&parts.join(" "))
    }
}

/// A figure of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Figure {
    /// Millions of frames a second; of a search, the highest rate without loss.
    Mpps,
    /// The median round trip of a frame by itself.
    P50,
    /// The latency that one frame in a hundred exceeds.
    P99,
    /// What a frame costs the device.
    DeviceNs,
    /// What DPDK's device costs over what ours costs, or the rate of back end A over that of B.
    Ratio,
}

impl Figure {
    /// As in table and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Figure::Mpps => "mpps",
            Figure::P50 => "p50_ns",
            Figure::P99 => "p99_ns",
            Figure::DeviceNs => "device_ns",
            Figure::Ratio => "ratio",
        }
    }

    /// Whether less of it is better.
    pub fn is_cost(self) -> bool {
        matches!(self, Figure::P50 | Figure::P99 | Figure::DeviceNs)
    }
}

impl Serialize for Figure {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}
