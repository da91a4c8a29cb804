//! The serving end: a listening socket and its connections, turned by an epoll loop.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fs::Mode;
use rustix::net::{SendFlags, send, sockopt};
use rustix::process::{Uid, geteuid};
use serde_json::Value;

use super::connection::Connection;
use super::work::error_line;
use super::{Error, Handler, Params};
use crate::transport::entrance::Entrance;
use crate::transport::listener::PathError;

/// Connections that are served at a time. For one more, the one that was quiet for the longest is told so, and closed.
pub const CONNECTIONS_MAX: usize = 64;
/// Connections taken in a turn.
const ACCEPTS_PER_TURN: usize = 16;

/// A socket that is asked, and those who ask.
///
/// Epoll reports it under [`Server::TOKENS`] tokens in a row. What is reported goes to [`Server::turn`]; when
/// [`Server::wakes_at`] has come, [`Server::turn_those_due`] is to be called.
#[derive(Debug)]
pub struct Server {
    entrance: Entrance,
    first_token: u64,
    connections: Vec<Option<Connection>>,
    /// Who may ask.
    users: [Uid; 2],
}

impl Server {
    /// How many tokens it uses: one for the socket, one a connection.
    pub const TOKENS: u64 = 1 + CONNECTIONS_MAX as u64;

    /// Listens at `path`, mode 0600, for this process's user and root. A socket left behind is replaced. Uses the
    /// tokens from `first_token` on.
    ///
    /// # Errors
    /// [`PathError`]: somebody listens there already, or it cannot be.
    pub fn listen(path: &Path, first_token: u64) -> Result<Self, PathError> {
        Ok(Self {
            entrance: Entrance::bind(path, Mode::RUSR | Mode::WUSR)?,
            first_token,
            connections: std::iter::repeat_with(|| None).take(CONNECTIONS_MAX).collect(),
            users: [geteuid(), Uid::ROOT],
        })
    }

    /// Asks `epoll` to report the socket. To be called once, before the first [`Self::turn`], which takes the same.
    ///
    /// # Errors
    /// The system's.
    pub fn watch(&self, epoll: &OwnedFd) -> io::Result<()> {
        Ok(self.entrance.open(epoll, self.first_token)?)
    }

    /// Whether `token` is one of this server's.
    pub fn owns(&self, token: u64) -> bool {
        token.checked_sub(self.first_token).is_some_and(|index| index < Self::TOKENS)
    }

    /// Does what an event asks for: takes connections, or serves some requests of one. Never waits, unless `handle`
    /// does, which serves a method with its parameters.
    pub fn turn<E: Into<Error>>(
        &mut self,
        token: u64,
        now: Instant,
        epoll: &OwnedFd,
        handle: &mut impl FnMut(&str, Params) -> Result<Value, E>,
    ) {
        match token.checked_sub(self.first_token) {
            Some(0) => self.accept(now, epoll),
            Some(index) => self.serve(index as usize - 1, now, epoll, &mut |method, params| {
                handle(method, params).map_err(Into::into)
            }),
            None => {}
        }
    }

    /// When [`Self::turn_those_due`] is to be called even if nothing is reported. Long ago, if there is work left.
    pub fn wakes_at(&self) -> Option<Instant> {
        self.connections.iter().flatten().filter_map(Connection::wakes_at).chain(self.entrance.wakes_at()).min()
    }

    /// Goes on with work that is left, and drops those who take too long.
    pub fn turn_those_due<E: Into<Error>>(
        &mut self,
        now: Instant,
        epoll: &OwnedFd,
        handle: &mut impl FnMut(&str, Params) -> Result<Value, E>,
    ) {
        self.entrance.wake(now, epoll, self.first_token);
        for index in 0..self.connections.len() {
            let wakes_at = self.connections[index].as_ref().and_then(Connection::wakes_at);
            if wakes_at.is_some_and(|at| at <= now) {
                self.serve(index, now, epoll, &mut |method, params| handle(method, params).map_err(Into::into));
            }
        }
    }

    fn accept(&mut self, now: Instant, epoll: &OwnedFd) {
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(stream) = self.entrance.accept(now, epoll) else { return };
            self.admit(stream, now, epoll);
        }
    }

    fn admit(&mut self, stream: OwnedFd, now: Instant, epoll: &OwnedFd) {
        let user = match sockopt::socket_peercred(&stream) {
            Ok(peer) => peer.uid,
            Err(errno) => return tracing::warn!("asking who has connected: {errno}"),
        };
        if !self.users.contains(&user) {
            tracing::warn!(user = user.as_raw(), "somebody else has connected");
            return turn_away(stream.as_fd(), Error::Peer(user));
        }
        let index = self.connections.iter().position(Option::is_none).unwrap_or_else(|| self.dismiss_quietest(epoll));
        match add(epoll, stream.as_fd(), self.token(index)) {
            Ok(()) => self.connections[index] = Some(Connection::new(stream, now)),
            Err(errno) => tracing::warn!("watching a connection: {errno}"),
        }
    }

    /// Whoever keeps connections for nothing keeps nobody out. Returns a free place.
    fn dismiss_quietest(&mut self, epoll: &OwnedFd) -> usize {
        let quiet_since = |index: &usize| self.connections[*index].as_ref().map(Connection::moved);
        let index = (0..self.connections.len()).min_by_key(quiet_since).unwrap_or(0);
        if let Some(connection) = self.connections[index].take() {
            let _ = epoll::delete(epoll, &connection);
            turn_away(connection.as_fd(), Error::Busy);
        }
        index
    }

    fn serve(&mut self, index: usize, now: Instant, epoll: &OwnedFd, handler: &mut Handler<'_>) {
        let token = self.token(index);
        let Some(slot) = self.connections.get_mut(index) else { return };
        let Some(connection) = slot else { return };
        let before = connection.interest();
        let outcome = connection.turn(now, handler).and_then(|()| match connection.interest() {
            after if after == before => Ok(()),
            after => Ok(epoll::modify(epoll, &*connection, EventData::new_u64(token), after)?),
        });
        if let Err(why) = outcome {
            tracing::debug!("a connection is over: {why}");
            let _ = epoll::delete(epoll, &*connection);
            *slot = None;
        }
    }

    fn token(&self, index: usize) -> u64 {
        self.first_token + 1 + index as u64
    }
}

fn add(epoll: &OwnedFd, fd: BorrowedFd<'_>, token: u64) -> rustix::io::Result<()> {
    epoll::add(epoll, fd, EventData::new_u64(token), EventFlags::IN)
}

/// Says why, before it is hung up. A new connection has room for that.
fn turn_away(stream: BorrowedFd<'_>, error: Error) {
    let _ = send(stream, &error_line(error), SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
}

#[cfg(test)]
mod tests;
