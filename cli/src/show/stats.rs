//! Counters of queues, of `stats` and `query`: a row for each queue, a column for each counter that is not 0 in all of them.

use serde_json::{Map, Value};

use super::table::{cell, pairs, printable, table};

/// The field that tells queues apart.
const INDEX: &str = "VQ Index";

/// The reply to `stats`.
pub fn text(reply: &Value) -> String {
    let empty = Map::new();
    let device = reply["device"].as_object().or(reply.as_object()).unwrap_or(&empty);
    let (queues, own): (Map<_, _>, Map<_, _>) =
        device.clone().into_iter().partition(|(name, _)| name == "queues-stats");
    let queues: Vec<_> = queues.values().flat_map(|queues| queues.as_array().into_iter().flatten()).collect();
    if queues.is_empty() {
        return format!("{}\nno queue runs", pairs(&own));
    }
    format!("{}\n{}", pairs(&own), counters(INDEX, queues.into_iter().filter_map(Value::as_object)))
}

/// Queues, told apart by a field, with their counters.
pub fn counters<'v>(index: &str, queues: impl Iterator<Item = &'v Map<String, Value>> + Clone) -> String {
    let mut shown: Vec<&String> = Vec::new();
    for (name, value) in queues.clone().flatten() {
        if (name == index || !matches!(&*cell(value), "0" | "")) && !shown.contains(&name) {
            shown.push(name);
        }
    }
    let header = shown.iter().map(|name| title(name)).collect();
    table(header, queues.map(|queue| shown.iter().map(|name| queue.get(*name).map(cell).unwrap_or_default()).collect()))
}

/// A counter's name in few words: rx_65_to_127_octet_packets counts what has 65 to 127 bytes.
fn title(name: &str) -> String {
    let size = name.strip_suffix("_octet_packets");
    printable(size.map_or_else(|| name.to_owned(), |size| size.replace("_to_", "–")).as_str()).replace('_', " ")
}
