//! `top`: what functions move and lcores do, again and again.

mod load;
mod sampler;
mod screen;
#[cfg(test)]
mod tests;
mod view;

use std::io::{IsTerminal, stdout};
use std::path::Path;
use std::time::Duration;

use anyhow::anyhow;
use virtnet_control::rpc::ClientError;

use crate::args::Top;
use sampler::Source;

/// How long the service may take for one request.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why it ended, other than by being told to.
#[derive(Debug)]
pub enum Error {
    /// The service was not reached, or is something else.
    Service(anyhow::Error),
    /// It does not answer such requests.
    Refused {
        /// Its number.
        errno: i64,
        /// Its text.
        errstr: String,
    },
    /// There is no terminal, or it failed.
    Terminal(anyhow::Error),
}

/// Shows pictures until it is told to end. Returns what is left to print.
///
/// # Errors
/// The service was not reached to begin with, or the terminal is none.
pub fn run(args: &Top, run_dir: Option<&Path>) -> Result<String, Error> {
    let mut source = Source::connect(run_dir, PATIENCE)?;
    source.next()?;
    if args.once {
        std::thread::sleep(args.delay);
        return Ok(source.next()?.unwrap_or_default().text());
    }
    if !stdout().is_terminal() {
        return Err(Error::Terminal(anyhow!("standard output is no terminal; --once prints one picture")));
    }
    screen::run(source, args.delay).map_err(|error| Error::Terminal(error.into()))?;
    Ok(String::new())
}

impl From<ClientError> for Error {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Refused { errno, errstr } => Self::Refused { errno, errstr },
            error => Self::Service(error.into()),
        }
    }
}
