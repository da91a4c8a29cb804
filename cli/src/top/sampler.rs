//! Who asks the service, beside the screen: keys are answered whatever the service does.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use virtnet_control::reply::Rates;
use virtnet_control::rpc::{Client, ClientError};

use super::Error;
use super::load::{Lcores, Load};
use crate::service;

/// A service, and what it said last.
pub struct Source {
    run_dir: Option<PathBuf>,
    timeout: Duration,
    /// None since it was last lost.
    client: Option<Client>,
    before: Option<Rates>,
}

impl Source {
    /// The service of a run folder.
    ///
    /// # Errors
    /// It is not there.
    pub fn connect(run_dir: Option<&Path>, timeout: Duration) -> Result<Self, Error> {
        let client = service::connect(run_dir, timeout).map_err(Error::Service)?;
        Ok(Self { run_dir: run_dir.map(Into::into), timeout, client: Some(client), before: None })
    }

    /// What happened since the last look; nothing at the first.
    ///
    /// # Errors
    /// The service is lost; the next look is for it again, and is the first.
    pub fn next(&mut self) -> Result<Option<Load>, Error> {
        let looked = self.look();
        if looked.is_err() {
            (self.client, self.before) = (None, None);
        }
        looked
    }

    fn look(&mut self) -> Result<Option<Load>, Error> {
        let client = match &mut self.client {
            Some(client) => client,
            none => none.insert(service::connect(self.run_dir.as_deref(), self.timeout).map_err(Error::Service)?),
        };
        let rates: Rates = ask(client, "rates", json!({}))?;
        let lcores: Lcores = ask(client, "lcore", json!({ "brief": true }))?;
        let before = self.before.replace(rates);
        Ok(before.zip(self.before.as_ref()).map(|(before, now)| Load::between(&before, now, lcores)))
    }
}

fn ask<T: DeserializeOwned>(client: &mut Client, method: &str, params: Value) -> Result<T, Error> {
    let reply = client.call(method, params)?;
    T::deserialize(reply).map_err(|error| ClientError::Nonsense(format!("{method}: {error}")).into())
}

/// A picture, or why there is none.
pub type News = Result<Load, String>;

/// Looks every `delay` until the sender that is returned is dropped.
///
/// # Errors
/// There is no thread for it.
pub fn start(mut source: Source, delay: Duration) -> std::io::Result<(Sender<()>, Receiver<News>)> {
    let (stop, stopped) = mpsc::channel::<()>();
    let (sender, news) = mpsc::channel();
    thread::Builder::new().name("sampler".into()).spawn(move || {
        let mut due = Instant::now() + delay;
        while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(due.saturating_duration_since(Instant::now())) {
            // What was late is not made up for.
            due = Instant::now() + delay;
            let sent = match source.next() {
                Ok(None) => continue,
                Ok(Some(load)) => sender.send(Ok(load)),
                Err(Error::Refused { errno, errstr }) => sender.send(Err(format!("{errstr} ({errno})"))),
                Err(Error::Service(error) | Error::Terminal(error)) => sender.send(Err(format!("{error:#}"))),
            };
            if sent.is_err() {
                break;
            }
        }
    })?;
    Ok((stop, news))
}
