//! `log`: how much is told.

use serde::Deserialize;
use serde_json::{Value, json};
use tracing_subscriber::EnvFilter;

use super::params;
use crate::refusal::{Code, Refusal};
use crate::rpc::Params;

/// Changes what the log lets through.
pub type Reload = Box<dyn Fn(EnvFilter) -> Result<(), String> + Send>;

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Info,
    Err,
    Debug,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Log {
    level: Level,
}

/// `log`: sets the level.
pub fn level(reload: &Reload, params: Params) -> Result<Value, Refusal> {
    let Log { level } = params::read(params)?;
    let filter = EnvFilter::new(match level {
        Level::Info => "info",
        Level::Err => "error",
        Level::Debug => "debug",
    });
    reload(filter).map_err(|error| Code::NotSupported.because(error))?;
    Ok(json!("Success"))
}
