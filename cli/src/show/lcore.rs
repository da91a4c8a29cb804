//! `lcore`: a row for each lcore, and below one for each queue pair, the busiest first.

use serde_json::Value;

use super::table::{cell, pairs, table};

const LCORES: [(&str, &str); 5] = [
    ("worker", "worker"),
    ("lcore", "lcore"),
    ("numa_node", "node"),
    ("busy_percent", "busy %"),
    ("ns_per_frame", "ns/frame"),
];

const PAIRS: [(&str, &str); 3] = [("device", "device"), ("queue_pair", "pair"), ("busy_percent", "busy %")];

/// The reply.
pub fn text(reply: &Value) -> String {
    let lcores = || reply["lcores"].as_array().into_iter().flatten();
    let pairs_of = |lcore: &Value| lcore["queue_pairs"].as_array().cloned().unwrap_or_default();
    let header = LCORES.iter().map(|(_, name)| *name).chain(["pairs"]);
    let rows = lcores().map(|lcore| {
        let own = LCORES.iter().map(|(field, _)| figure(&lcore[field]));
        own.chain([pairs_of(lcore).len().to_string()]).collect()
    });
    let above = table(header.map(str::to_owned).collect(), rows);
    let mut busiest: Vec<(Value, Value)> =
        lcores().flat_map(|lcore| pairs_of(lcore).into_iter().map(|pair| (lcore["worker"].clone(), pair))).collect();
    let busy = |pair: &Value| pair["busy_percent"].as_f64().unwrap_or_default();
    busiest.sort_by(|(_, a), (_, b)| busy(b).total_cmp(&busy(a)));
    let header = PAIRS.iter().map(|(_, name)| *name).chain(["worker"]);
    let rows = busiest
        .iter()
        .map(|(worker, pair)| PAIRS.iter().map(|(field, _)| figure(&pair[field])).chain([cell(worker)]).collect());
    let below = table(header.map(str::to_owned).collect(), rows);
    let rest = reply.as_object().into_iter().flatten().filter(|(name, _)| *name != "lcores");
    let rest = rest.map(|(name, value)| (name.clone(), figure(value).into())).collect();
    format!("{}\n{above}\n{below}", pairs(&rest))
}

/// A measured number by its first decimal.
fn figure(value: &Value) -> String {
    value.as_f64().filter(|_| value.is_f64()).map_or_else(|| cell(value), |number| format!("{number:.1}"))
}
