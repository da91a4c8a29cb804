//! A listening socket in an epoll loop, which reports it as long as somebody waits: where the system lets nobody in, nothing is
//! reported for a while, or the loop would spin.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fs::Mode;

use super::listener::{Listener, PathError};

/// How long nobody is let in when the system has refused to.
pub const REST: Duration = Duration::from_secs(1);

/// Where peers come in.
#[derive(Debug)]
pub struct Entrance {
    listener: Listener,
    /// Nobody is let in until then.
    rests_until: Option<Instant>,
}

impl Entrance {
    /// Listens at `path`, as [`Listener::bind`] does.
    ///
    /// # Errors
    /// [`PathError`].
    pub fn bind(path: &Path, mode: Mode) -> Result<Self, PathError> {
        Ok(Self { listener: Listener::bind(path, mode)?, rests_until: None })
    }

    /// Asks `epoll` to report, as `token`, who comes.
    ///
    /// # Errors
    /// The system's.
    pub fn open(&self, epoll: &OwnedFd, token: u64) -> rustix::io::Result<()> {
        epoll::add(epoll, self.listener.as_fd(), EventData::new_u64(token), EventFlags::IN)
    }

    /// The same; where the system refuses, after a rest.
    pub fn reopen(&mut self, now: Instant, epoll: &OwnedFd, token: u64) {
        self.rests_until = self.open(epoll, token).err().map(|errno| {
            tracing::warn!("watching {}: {errno}", self.listener.path().display());
            now + REST
        });
    }

    /// Who comes waits, unreported.
    pub fn shut(&self, epoll: &OwnedFd) {
        let _ = epoll::delete(epoll, &self.listener);
    }

    /// Lets the next one in, if somebody waits and the system does.
    pub fn accept(&mut self, now: Instant, epoll: &OwnedFd) -> Option<OwnedFd> {
        self.listener.accept().unwrap_or_else(|error| {
            tracing::warn!("accepting a connection at {}: {error}", self.listener.path().display());
            self.rest(now, epoll);
            None
        })
    }

    /// Lets nobody in for a while.
    pub fn rest(&mut self, now: Instant, epoll: &OwnedFd) {
        self.shut(epoll);
        self.rests_until = Some(now + REST);
    }

    /// When [`Self::wake`] is to be called.
    pub fn wakes_at(&self) -> Option<Instant> {
        self.rests_until
    }

    /// Ends a rest that is over.
    pub fn wake(&mut self, now: Instant, epoll: &OwnedFd, token: u64) {
        if self.rests_until.is_some_and(|at| at <= now) {
            self.reopen(now, epoll, token);
        }
    }
}
