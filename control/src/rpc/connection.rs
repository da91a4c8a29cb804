//! A peer that asks, line by line.
//!
//! One thing at a time: while a reply is on its way no more is read, so that no more than one line of requests and one
//! line of replies is ever kept. A turn takes a bounded number of steps and never waits.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::Handler;
use super::lines::Lines;
use super::work::{Work, error_line};

/// How long a peer may leave a reply or half a line where it is.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Steps of a connection in a turn. A step reads, takes a line, or serves a request.
pub const STEPS_PER_TURN: usize = 32;
/// Bytes read in a step.
const READ_BYTES_MAX: usize = 16 << 10;

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
pub enum Closed {
    #[error("the peer has left")]
    Gone,
    #[error("the peer has not read its reply for {} s", PATIENCE.as_secs())]
    Stuck,
    #[error("half a line came, and nothing more for {} s", PATIENCE.as_secs())]
    Silent,
    #[error("the socket failed: {0}")]
    System(#[from] io::Error),
}

impl From<Errno> for Closed {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::CONNRESET | Errno::PIPE => Self::Gone,
            errno => Self::System(errno.into()),
        }
    }
}

/// A connection that is served.
#[derive(Debug)]
pub struct Connection {
    stream: OwnedFd,
    lines: Lines,
    work: Option<Work>,
    out: Vec<u8>,
    sent: usize,
    /// When bytes last went either way.
    moved: Instant,
}

impl Connection {
    /// Serves a connected Unix stream socket, blocking or not.
    pub fn new(stream: OwnedFd, now: Instant) -> Self {
        Self { stream, lines: Lines::default(), work: None, out: Vec::new(), sent: 0, moved: now }
    }

    /// Does what there is to do now. An error says that the connection is to be dropped.
    pub fn turn(&mut self, now: Instant, handler: &mut Handler<'_>) -> Result<(), Closed> {
        for _ in 0..STEPS_PER_TURN {
            if !self.flush(now)? || !self.step(now, handler)? {
                break;
            }
        }
        let is_sent = self.flush(now)?;
        match self.deadline() {
            Some(at) if at <= now => Err(if is_sent { Closed::Silent } else { Closed::Stuck }),
            _ => Ok(()),
        }
    }

    /// When [`Self::turn`] is to be called even if nothing is reported.
    pub fn wakes_at(&self) -> Option<Instant> {
        if self.has_work() { Some(self.moved) } else { self.deadline() }
    }

    /// When bytes last went either way.
    pub fn moved(&self) -> Instant {
        self.moved
    }

    /// What is waited for.
    pub fn interest(&self) -> EventFlags {
        if self.is_sent() { EventFlags::IN } else { EventFlags::OUT }
    }

    /// Whether there is something to do without anything being reported.
    fn has_work(&self) -> bool {
        self.is_sent() && (self.work.is_some() || self.lines.is_ready())
    }

    fn deadline(&self) -> Option<Instant> {
        let waits = !self.is_sent() || (self.lines.is_partial() && self.work.is_none());
        waits.then(|| self.moved + PATIENCE)
    }

    fn is_sent(&self) -> bool {
        self.sent == self.out.len()
    }

    /// One step; `false` if there is nothing to do.
    fn step(&mut self, now: Instant, handler: &mut Handler<'_>) -> Result<bool, Closed> {
        if let Some(work) = &mut self.work {
            work.step(handler);
            if let Some(work) = self.work.take_if(|work| work.is_done()) {
                self.reply(work.into_line(), now);
            }
            return Ok(true);
        }
        match self.lines.take() {
            Some(Ok(line)) if line.trim_ascii().is_empty() => Ok(true),
            Some(line) => {
                match line.and_then(|line| Work::of(&line)) {
                    Ok(work) => self.work = Some(work),
                    Err(error) => self.reply(error_line(error), now),
                }
                Ok(true)
            }
            None if self.lines.has_ended() => Err(Closed::Gone),
            None => self.read(now),
        }
    }

    fn reply(&mut self, line: Vec<u8>, now: Instant) {
        (self.out, self.sent, self.moved) = (line, 0, now);
    }

    /// Reads what has come; `false` if that is nothing.
    fn read(&mut self, now: Instant) -> Result<bool, Closed> {
        let mut bytes = [0; READ_BYTES_MAX];
        let room = self.lines.room().min(bytes.len());
        match retry_on_intr(|| recv(&self.stream, &mut bytes[..room], RecvFlags::DONTWAIT)) {
            Ok((0, _)) => self.lines.end(),
            Ok((count, _)) => {
                self.lines.add(&bytes[..count]);
                self.moved = now;
            }
            Err(Errno::AGAIN) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        }
        Ok(true)
    }

    /// Sends what can be sent; `false` if some is left.
    fn flush(&mut self, now: Instant) -> Result<bool, Closed> {
        while !self.is_sent() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match retry_on_intr(|| send(&self.stream, &self.out[self.sent..], flags)) {
                Ok(count) => (self.sent, self.moved) = (self.sent + count, now),
                Err(Errno::AGAIN) => return Ok(false),
                Err(errno) => return Err(errno.into()),
            }
        }
        (self.out, self.sent) = (Vec::new(), 0);
        Ok(true)
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests;
