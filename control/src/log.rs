//! Where the log goes: to the journal where standard error is connected to it, otherwise to standard error.

mod journal;

use std::io::{IsTerminal, stderr};

use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt, reload};

use crate::command::Reload;
use journal::Journal;

/// Starts the log, at the level that `RUST_LOG` says; returns what changes the level. To be called once.
pub fn start() -> Reload {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let (filter, handle) = reload::Layer::new(filter);
    let registry = tracing_subscriber::registry().with(filter);
    match Journal::of(&stderr()) {
        Some(journal) => registry.with(journal).init(),
        None => {
            let lines = fmt::layer().with_writer(stderr).with_ansi(stderr().is_terminal());
            // A line names its device; what else is known of it is in the line that says that it is ready.
            registry.with(lines.with_filter(filter_fn(|metadata| metadata.is_event()))).init();
        }
    }
    Box::new(move |filter| handle.reload(filter).map_err(|error| error.to_string()))
}
