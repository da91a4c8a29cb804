//! `health`: a row for each device, with the errors that it has had.

use serde_json::Value;

use super::device::{each, ids};
use super::table::{bits, cell, printable, table};

/// The reply.
pub fn text(reply: &Value) -> String {
    let header = ["pf", "vf", "type", "vuid", "status", "health", "recoveries", "errors"];
    let rows = each(reply).map(|device| {
        let mut row = ids(device).to_vec();
        row.extend(["type", "vuid"].map(|field| cell(&device[field])));
        row.push(bits(&device["dev_status"]));
        row.extend(["health_status", "health_recover_counter"].map(|field| cell(&device[field])));
        row.push(errors(&device["dev_health_details"]));
        row
    });
    table(header.map(str::to_owned).to_vec(), rows)
}

/// A line for each counter that is not 0.
fn errors(details: &Value) -> String {
    let counters = details.as_object().into_iter().flatten().filter_map(|(_, section)| section.as_object()).flatten();
    let counted = counters.filter(|(_, count)| cell(count) != "0");
    let lines: Vec<_> = counted.map(|(name, count)| format!("{} {}", printable(name), cell(count))).collect();
    if lines.is_empty() { "none".into() } else { lines.join("\n") }
}
