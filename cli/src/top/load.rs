//! What was moved between two looks at the service.

use std::collections::HashMap;

use serde::Deserialize;
use virtnet_control::reply::{Moved, Rates, Way};

use crate::show::{printable, table};

/// The reply to `lcore`, without queue pairs.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Lcores {
    /// One a worker.
    pub lcores: Vec<Lcore>,
}

/// What a worker has done since this was last asked.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Lcore {
    /// Its number.
    pub worker: u64,
    /// Where it is pinned, if it is.
    pub lcore: Option<u64>,
    /// The NUMA node of that.
    pub numa_node: Option<u64>,
    /// How much of the time it moved frames.
    pub busy_percent: f64,
    /// What a frame cost it; none if none moved.
    pub ns_per_frame: Option<f64>,
}

/// What a function has moved, a second.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Flow {
    /// Its id, or its PF's.
    pub pf: u16,
    /// Which of that PF's VFs it is.
    pub vf: Option<u16>,
    /// What it is called.
    pub name: String,
    /// Mpps and Gbit/s to its driver, the same from it, drops a second.
    pub figures: [f64; 5],
}

/// One picture.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Load {
    /// Seconds it was measured over.
    pub seconds: f64,
    /// In the order they were told.
    pub functions: Vec<Flow>,
    /// By worker.
    pub lcores: Vec<Lcore>,
}

/// What is shown of functions; the first two are text.
pub const COLUMNS: [&str; 7] = ["function", "name", "rx Mpps", "rx Gbit/s", "tx Mpps", "tx Gbit/s", "drops/s"];
/// What is shown of lcores.
pub const LCORE_COLUMNS: [&str; 5] = ["worker", "lcore", "node", "busy %", "ns/frame"];

impl Load {
    /// What happened from one look to the next. Functions that are new, or count anew, have moved what they say now.
    pub fn between(before: &Rates, now: &Rates, lcores: Lcores) -> Self {
        let seconds = now.seconds - before.seconds;
        let earlier: HashMap<&str, &Moved> = before.functions.iter().map(|moved| (&*moved.vuid, moved)).collect();
        let flow = |moved: &Moved| {
            let was =
                earlier.get(&*moved.vuid).filter(|was| was.counts().zip(moved.counts()).all(|(was, is)| was <= is));
            let per_second = |of: fn(&Moved) -> u64| {
                let count = of(moved) - was.map_or(0, |was| of(was));
                if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
            };
            Flow {
                pf: moved.pf,
                vf: moved.vf,
                name: printable(&moved.name),
                figures: [
                    per_second(|moved| moved.rx.packets) / 1e6,
                    per_second(|moved| moved.rx.bytes) * 8.0 / 1e9,
                    per_second(|moved| moved.tx.packets) / 1e6,
                    per_second(|moved| moved.tx.bytes) * 8.0 / 1e9,
                    per_second(|moved| moved.rx.drops) + per_second(|moved| moved.tx.drops),
                ],
            }
        };
        Self { seconds, functions: now.functions.iter().map(flow).collect(), lcores: lcores.lcores }
    }

    /// All functions together.
    pub fn total(&self) -> [f64; 5] {
        self.functions.iter().fold([0.0; 5], |mut total, flow| {
            total.iter_mut().zip(flow.figures).for_each(|(total, figure)| *total += figure);
            total
        })
    }

    /// The picture as tables.
    pub fn text(&self) -> String {
        let header = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let total = ["total".to_owned(), String::new()].into_iter().chain(figures(&self.total())).collect();
        let functions = self.functions.iter().map(|flow| flow.cells().to_vec()).chain([total]);
        let lcores = table(header(&LCORE_COLUMNS), self.lcores.iter().map(|lcore| lcore.cells().to_vec()));
        format!("{lcores}\n{}", table(header(&COLUMNS), functions))
    }
}

impl Flow {
    /// A row of [`COLUMNS`].
    pub fn cells(&self) -> [String; 7] {
        let id = match self.vf {
            Some(vf) => format!("pf{}vf{vf}", self.pf),
            None => format!("pf{}", self.pf),
        };
        let [a, b, c, d, e] = figures(&self.figures);
        [id, self.name.clone(), a, b, c, d, e]
    }
}

impl Lcore {
    /// A row of [`LCORE_COLUMNS`].
    pub fn cells(&self) -> [String; 5] {
        let number = |number: Option<u64>| number.map(|number| number.to_string()).unwrap_or_default();
        let cost = self.ns_per_frame.map(|cost| format!("{cost:.1}")).unwrap_or_default();
        let busy = format!("{:.1}", self.busy_percent);
        [self.worker.to_string(), number(self.lcore), number(self.numa_node), busy, cost]
    }
}

/// Rates by three decimals, drops as whole numbers.
pub fn figures(figures: &[f64; 5]) -> [String; 5] {
    let [a, b, c, d, drops] = figures;
    [format!("{a:.3}"), format!("{b:.3}"), format!("{c:.3}"), format!("{d:.3}"), format!("{drops:.0}")]
}

/// Every count.
trait Counts {
    fn counts(&self) -> impl Iterator<Item = u64>;
}

impl Counts for Moved {
    fn counts(&self) -> impl Iterator<Item = u64> {
        [self.rx, self.tx].into_iter().flat_map(|Way { packets, bytes, drops }| [packets, bytes, drops])
    }
}
