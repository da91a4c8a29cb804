//! Devices: `list` has a row for each, `query` a table, with its queues below.

use serde_json::{Map, Value};

use super::stats;
use super::table::{cell, pairs, table};

/// What tells devices apart, and what is most asked for.
const COLUMNS: [(&str, &str); 10] = [
    ("function_type", "type"),
    ("vuid", "vuid"),
    ("pci_bdf", "bdf"),
    ("mac", "mac"),
    ("link_status", "link"),
    ("mtu", "mtu"),
    ("speed", "Mb/s"),
    ("num_msix", "msix"),
    ("max_queue_pairs", "pairs"),
    ("sf_rep_net_device", "representor"),
];

/// What a queue is doing.
const QUEUE_COLUMNS: [(&str, &str); 11] = [
    ("index", "queue"),
    ("size", "size"),
    ("msix_vector", "msix"),
    ("enable", "enabled"),
    ("received_desc", "received"),
    ("completed_desc", "completed"),
    ("bad_desc_errors", "bad"),
    ("error_cqes", "errors"),
    ("exceed_max_chain", "too long"),
    ("invalid_buffer", "invalid"),
    ("total_bytes", "bytes"),
];

/// The reply to `list`.
pub fn list(reply: &Value) -> String {
    let controller: Map<_, _> = reply["controller"].as_object().into_iter().flatten().map(in_short).collect();
    let mut header = vec!["pf".to_owned(), "vf".to_owned()];
    header.extend(COLUMNS.map(|(_, name)| name.to_owned()));
    let devices = each(reply).map(|device| {
        let mut row = ids(device).to_vec();
        row.extend(COLUMNS.map(|(field, _)| cell(&device[field])));
        row
    });
    format!("{}\n{}", pairs(&controller), table(header, devices))
}

/// A bit map by its value only.
fn in_short((name, value): (&String, &Value)) -> (String, Value) {
    (name.clone(), value.get("value").unwrap_or(value).clone())
}

/// The reply to `query`.
pub fn query(reply: &Value) -> String {
    let devices = each(reply).filter_map(Value::as_object).map(|device| {
        let (queues, own): (Map<_, _>, Map<_, _>) =
            device.clone().into_iter().partition(|(name, _)| name == "enabled-queues-info");
        let tables = std::iter::once(pairs(&own)).chain(queues.values().map(of_queues));
        tables.collect::<Vec<_>>().join("\n")
    });
    devices.collect::<Vec<_>>().join("\n\n")
}

/// Queues; what was asked for besides is in tables of its own.
fn of_queues(queues: &Value) -> String {
    let queues = || queues.as_array().into_iter().flatten();
    let rows = queues().map(|queue| QUEUE_COLUMNS.map(|(field, _)| cell(&queue[field])).to_vec());
    let mut tables = vec![table(QUEUE_COLUMNS.map(|(_, name)| name.to_owned()).to_vec(), rows)];
    for details in ["dbg_stats", "latency_stats"] {
        let of_queue = |queue: &Value| {
            let figures = queue.get(details)?.as_object()?.clone();
            Some([("queue".to_owned(), queue["index"].clone())].into_iter().chain(figures).collect::<Map<_, _>>())
        };
        let of_queues: Vec<_> = queues().filter_map(of_queue).collect();
        if !of_queues.is_empty() {
            tables.push(stats::counters("queue", of_queues.iter()));
        }
    }
    tables.join("\n")
}

/// The devices of a reply: listed under `devices`, listed, or one alone.
pub fn each(reply: &Value) -> impl Iterator<Item = &Value> {
    let devices = reply.get("devices").unwrap_or(reply);
    let listed = devices.as_array();
    listed.into_iter().flatten().chain(listed.is_none().then_some(devices))
}

/// The ids of a device's PF and VF.
pub fn ids(device: &Value) -> [String; 2] {
    let pf = device.get("parent_pf_id").unwrap_or(&device["pf_id"]);
    [cell(pf), cell(&device["vf_id"])]
}
