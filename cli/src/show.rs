//! Replies as text: JSON as the product prints it, or tables for people.

mod device;
mod health;
mod lcore;
mod stats;
mod table;
#[cfg(test)]
mod tests;

use serde_json::{Value, json};

pub use table::{printable, table};

use crate::args::{Command, Format};

/// JSON in the product's form: two spaces a level, fields in the order they came.
pub fn json(value: &Value) -> String {
    format!("{value:#}")
}

/// The reply to a command that was not refused.
pub fn reply(command: &Command, format: Format, reply: &Value) -> String {
    match (command, format) {
        (Command::Restart, _) => "SUCCESS".into(),
        (Command::Version, _) => json(&versions(reply)),
        (_, Format::Json) => json(reply),
        (Command::List, Format::Table) => device::list(reply),
        (Command::Query(_), Format::Table) => device::query(reply),
        (Command::Stats(_), Format::Table) => stats::text(reply),
        (Command::Health(_), Format::Table) => health::text(reply),
        (Command::Lcore(_), Format::Table) if reply.get("lcores").is_some() => lcore::text(reply),
        (Command::Lcore(_) | Command::Switch(_), Format::Table) => table::text(reply),
        (_, Format::Table) => json(reply),
    }
}

/// The running controller and the one that comes with this program.
fn versions(reply: &Value) -> Value {
    let installed = concat!("v", env!("CARGO_PKG_VERSION"));
    json!([{ "Original Controller": reply["version"] }, { "Destination Controller": installed }])
}
