//! `stats`: a row for each queue, a column for each counter that is not 0 in all of them.

use serde_json::{Map, Value};

use super::table::{cell, pairs, printable, table};

/// The field that tells queues apart.
const INDEX: &str = "VQ Index";

/// The reply.
pub fn text(reply: &Value) -> String {
    let empty = Map::new();
    let device = reply["device"].as_object().or(reply.as_object()).unwrap_or(&empty);
    let (queues, own): (Map<_, _>, Map<_, _>) =
        device.clone().into_iter().partition(|(name, _)| name == "queues-stats");
    let queues: Vec<_> = queues.values().flat_map(|queues| queues.as_array().into_iter().flatten()).collect();
    let mut counters: Vec<&String> = Vec::new();
    for (name, value) in queues.iter().filter_map(|queue| queue.as_object()).flatten() {
        if (name == INDEX || cell(value) != "0") && !counters.contains(&name) {
            counters.push(name);
        }
    }
    if queues.is_empty() {
        return format!("{}\nno queue runs", pairs(&own));
    }
    let header = counters.iter().map(|name| title(name)).collect();
    let rows = queues.iter().map(|queue| counters.iter().map(|name| cell(&queue[name.as_str()])).collect());
    format!("{}\n{}", pairs(&own), table(header, rows))
}

/// A counter's name in few words: rx_65_to_127_octet_packets counts what has 65 to 127 bytes.
fn title(name: &str) -> String {
    let size = name.strip_prefix("rx_").and_then(|name| name.strip_suffix("_octet_packets"));
    match size {
        Some(size) => format!("rx {}", printable(size).replace("_to_", "–").replace('_', " ")),
        None => printable(name).replace('_', " "),
    }
}
