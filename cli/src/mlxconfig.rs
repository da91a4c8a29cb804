//! `mlxconfig`: the firmware's settings, read and set where the service finds them at its next start.

use std::path::Path;

use serde_json::{Value, json};
use virtnet_control::firmware::{self, Entry, EntryError, Store, StoreError};
use virtnet_control::refusal::{Code, Refusal};

use crate::args::{Format, Mlxconfig};
use crate::show;

/// Why it was not done.
pub enum Error {
    /// What was asked for is wrong.
    Refused(Refusal),
    /// The store cannot be used.
    Store(StoreError),
}

/// Does it; returns what is to be printed.
///
/// # Errors
/// Nothing was changed then, unless its file could not be written.
pub fn run(command: &Mlxconfig, format: Format, state_dir: &Path) -> Result<String, Error> {
    let mut store = Store::load(state_dir)?;
    match command {
        Mlxconfig::Query { names } => {
            let entries = firmware::entries(names)?;
            Ok(match format {
                Format::Json => show::json(
                    &json!({ "entries": entries.iter().map(|entry| values(&store, *entry)).collect::<Vec<_>>() }),
                ),
                Format::Table => firmware::table(&store, &entries).trim_end().into(),
            })
        }
        Mlxconfig::Set { values } => {
            store.set(&firmware::assignments(values)?)?;
            Ok(success())
        }
        Mlxconfig::Reset => {
            store.reset()?;
            Ok(success())
        }
    }
}

fn success() -> String {
    show::json(&json!({ "errno": 0, "errstr": "Success" }))
}

/// An entry's values, as mlxconfig writes them.
fn values(store: &Store, entry: Entry) -> Value {
    let text = |value| entry.kind().text(value);
    json!({
        "name": entry.name(),
        "default": text(entry.default_value()),
        "current": text(store.current(entry)),
        "next_boot": text(store.next(entry)),
    })
}

impl From<EntryError> for Error {
    fn from(error: EntryError) -> Self {
        Self::Refused(Code::InvalidArgument.because(error.to_string()))
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Entry(error) => error.into(),
            error => Self::Store(error),
        }
    }
}
