//! The service, asked.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;
use virtnet_control::daemon::RPC_SOCKET;
use virtnet_control::folders::Folders;
use virtnet_control::rpc::{Client, ClientError};

use crate::request::Request;

/// How long the service may take: plugging a device in and asking for all of a thousand are slow.
const TIMEOUT: Duration = Duration::from_secs(60);

/// What it says.
pub enum Answer {
    /// It did what was asked.
    Done(Value),
    /// It did not.
    Refused {
        /// Negative: one of the product's, of Linux's, of JSON-RPC's.
        errno: i64,
        /// What was found, and what is allowed.
        errstr: String,
    },
}

/// Connects to the service of a run folder, for calls that take no longer than `timeout`.
///
/// # Errors
/// Nobody is there.
pub fn connect(run_dir: Option<&Path>, timeout: Duration) -> Result<Client> {
    let folder = Folders::of_process().run(run_dir)?;
    Ok(Client::connect(&folder.join(RPC_SOCKET), timeout)?)
}

/// Asks the service of a run folder.
///
/// # Errors
/// Nobody is there, or what answers is not the service.
pub fn ask(run_dir: Option<&Path>, request: &Request) -> Result<Answer> {
    let params = Value::Object(request.params.clone());
    match connect(run_dir, TIMEOUT)?.call(&request.method, params) {
        Ok(reply) => Ok(Answer::Done(reply)),
        Err(ClientError::Refused { errno, errstr }) => Ok(Answer::Refused { errno, errstr }),
        Err(error) => Err(error.into()),
    }
}
