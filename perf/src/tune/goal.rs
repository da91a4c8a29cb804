//! What is to be reached.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use crate::args::rate;

/// A goal, as in `max-throughput`, `p99=5us` or `rate=4M`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// As many frames a second as go, with no more lcores than win something.
    MaxThroughput,
    /// 99 % of each device's frames sooner than this, none lost, at the load's rate, with the fewest lcores.
    P99 {
        /// Nanoseconds from the moment a frame was due.
        ns: u64,
    },
    /// So many frames a second, all devices together, none lost, with the fewest lcores.
    Rate {
        /// Frames a second.
        pps: f64,
    },
}

impl Goal {
    /// Whether it is about the fewest lcores that do.
    pub fn wants_fewest(self) -> bool {
        self != Goal::MaxThroughput
    }
}

impl FromStr for Goal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            None if text == "max-throughput" => Ok(Goal::MaxThroughput),
            Some(("p99", time)) => nanoseconds(time).map(|ns| Goal::P99 { ns }),
            Some(("rate", pps)) => rate(pps).map(|pps| Goal::Rate { pps }),
            _ => Err("max-throughput, p99=TIME as in p99=5us, or rate=FRAMES as in rate=4M".to_owned()),
        }
    }
}

fn nanoseconds(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_alphabetic());
    let scale = match &text[digits.len()..] {
        "ns" => 1.0,
        "us" | "µs" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        _ => f64::NAN,
    };
    let ns = digits.parse::<f64>().unwrap_or(f64::NAN) * scale;
    if (100.0..=10e9).contains(&ns) { Ok(ns as u64) } else { Err("100ns to 10s, as in 5us or 1.5ms".to_owned()) }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Goal::MaxThroughput => f.write_str("max-throughput"),
            Goal::P99 { ns } => {
                let (scale, unit) = match ns {
                    0..1_000 => (1.0, "ns"),
                    1_000..1_000_000 => (1e3, "us"),
                    1_000_000..1_000_000_000 => (1e6, "ms"),
                    _ => (1e9, "s"),
                };
                write!(f, "p99={}{unit}", ns as f64 / scale)
            }
            Goal::Rate { pps } if pps < 1e3 => write!(f, "rate={pps}"),
            Goal::Rate { pps } if pps < 1e6 => write!(f, "rate={}k", pps / 1e3),
            Goal::Rate { pps } => write!(f, "rate={}M", pps / 1e6),
        }
    }
}

impl Serialize for Goal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (p99_ns, rate_pps) = match *self {
            Goal::MaxThroughput => (None, None),
            Goal::P99 { ns } => (Some(ns), None),
            Goal::Rate { pps } => (None, Some(pps)),
        };
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("text", &self.to_string())?;
        map.serialize_entry("p99_ns", &p99_ns)?;
        map.serialize_entry("rate_pps", &rate_pps)?;
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_are_read_and_written_back() {
        for (text, goal) in [
            ("max-throughput", Goal::MaxThroughput),
            ("p99=5us", Goal::P99 { ns: 5000 }),
            ("p99=1.5ms", Goal::P99 { ns: 1_500_000 }),
            ("p99=800ns", Goal::P99 { ns: 800 }),
            ("rate=4M", Goal::Rate { pps: 4e6 }),
            ("p99=2s", Goal::P99 { ns: 2_000_000_000 }),
            ("rate=250k", Goal::Rate { pps: 250e3 }),
            ("rate=7", Goal::Rate { pps: 7.0 }),
        ] {
            assert_eq!(text.parse(), Ok(goal), "{text}");
            assert_eq!(goal.to_string(), text);
        }
        assert_eq!("p99=5µs".parse(), Ok(Goal::P99 { ns: 5000 }));
    }

    #[test]
    fn what_is_no_goal_is_refused_with_what_is() {
        for (text, said) in [
            ("", "max-throughput, p99="),
            ("fast", "max-throughput, p99="),
            ("p95=1us", "max-throughput, p99="),
            ("p99=5", "100ns to 10s"),
            ("p99=us", "100ns to 10s"),
            ("p99=99ns", "100ns to 10s"),
            ("p99=11s", "100ns to 10s"),
            ("p99=-5us", "100ns to 10s"),
            ("p99=nanus", "100ns to 10s"),
            ("rate=0", "frames a second"),
            ("rate=", "frames a second"),
        ] {
            let error = text.parse::<Goal>().unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
