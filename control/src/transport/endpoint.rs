//! A device's place in the file system: it listens for its front end, or looks for it.
//!
//! One front end at a time. While one is served, another that connects waits in the listening socket's queue and is
//! served next. A device that looks for its front end goes on doing so for ever, at a slackening pace.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::epoll;
use rustix::fs::Mode;

use super::entrance::Entrance;
use super::listener::{PathError, connect_to};
use super::session::{Session, Told, Transport};
use super::{Backend, Counters, Served};
use crate::virtio_pci::Function;

/// The pause after the first look that found nobody; each one after it is twice as long, up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Refusals that a session may put into the log; all of them are counted.
const REFUSALS_LOGGED: u64 = 16;

/// How a device and its front end find each other.
#[derive(Debug)]
enum Meeting {
    /// It comes to us.
    Listen(Entrance),
    /// We go to it.
    Connect {
        path: PathBuf,
        /// When to look next.
        at: Instant,
        /// How long to wait after that.
        pause: Duration,
    },
}

/// A device's socket, and the session on it.
#[derive(Debug)]
pub struct Endpoint {
    /// For the log.
    name: String,
    meeting: Meeting,
    /// What is to be served.
    transport: Transport,
    session: Option<Session>,
    /// Of sessions that are over.
    past: Counters,
    sessions: u64,
    /// Whether the last session left the device in need of a reset.
    is_broken: bool,
}

impl Endpoint {
    /// Listens at `path`.
    ///
    /// # Errors
    /// [`PathError`]: somebody listens there already, or it cannot be.
    pub fn listen(name: &str, path: &Path, mode: Mode, transport: Transport) -> Result<Self, PathError> {
        Ok(Self::new(name, Meeting::Listen(Entrance::bind(path, mode)?), transport))
    }

    /// Looks for a vhost-user front end that listens at `path`, from now on.
    pub fn connect(name: &str, path: &Path) -> Self {
        let meeting = Meeting::Connect { path: path.into(), at: Instant::now(), pause: PAUSE_MIN };
        Self::new(name, meeting, Transport::VhostUser)
    }

    fn new(name: &str, meeting: Meeting, transport: Transport) -> Self {
        let (session, past, sessions, is_broken) = Default::default();
        Self { name: name.into(), meeting, transport, session, past, sessions, is_broken }
    }

    /// Asks `epoll` to report this endpoint as `token`. To be called once, before the first [`Self::turn`].
    ///
    /// # Errors
    /// The system's.
    pub fn watch(&self, epoll: &OwnedFd, token: u64) -> io::Result<()> {
        match &self.meeting {
            Meeting::Listen(entrance) => Ok(entrance.open(epoll, token)?),
            Meeting::Connect { .. } => Ok(()),
        }
    }

    /// Does what there is to do now: takes a message, a connection, or a look. Never waits.
    pub fn turn(&mut self, device: &mut impl Backend, epoll: &OwnedFd, token: u64) {
        if let Some(session) = &mut self.session {
            let served = session.serve(device);
            if session.counters().messages == 1 && matches!(served, Served::Message | Served::Refused(_)) {
                tracing::info!(device = self.name, session = self.sessions, "a front end is here");
            }
            match served {
                Served::Message | Served::Nothing => {}
                Served::Refused(refusal) => tell_refusal(&self.name, session, &refusal),
                Served::Ended(why) => self.end(device, epoll, token, why.map(|why| why.to_string())),
            }
        } else if let Some(stream) = self.meet(epoll, token) {
            self.begin(stream, device, epoll, token);
        }
    }

    /// When [`Self::turn`] is to be called even if nothing is reported.
    pub fn wakes_at(&self) -> Option<Instant> {
        match &self.meeting {
            _ if self.session.is_some() => None,
            Meeting::Connect { at, .. } => Some(*at),
            Meeting::Listen(entrance) => entrance.wakes_at(),
        }
    }

    /// The session, while there is one.
    pub fn session(&mut self) -> Option<&mut Session> {
        self.session.as_mut()
    }

    /// The function that is served, if that is what is.
    pub fn function(&mut self) -> Option<&mut Function> {
        match (&mut self.session, &mut self.transport) {
            (Some(Session::VfioUser(session)), _) => Some(session.function_mut()),
            (None, Transport::VfioUser(function)) => function.as_deref_mut(),
            _ => None,
        }
    }

    /// Counts a refusal of what was asked for by an earlier message.
    pub fn count(&mut self, outcome: &'static str) {
        self.past.count(outcome);
    }

    /// What has come over all sessions.
    pub fn counters(&self) -> Counters {
        let mut counters = self.past.clone();
        if let Some(session) = &self.session {
            counters.add(session.counters());
        }
        counters
    }

    /// Sessions begun so far.
    pub fn sessions(&self) -> u64 {
        self.sessions
    }

    /// Whether whoever is connected can go on with a device that is made anew: who has the rings alone has read too much of it.
    pub fn can_go_on(&self) -> bool {
        matches!(self.session, Some(Session::VfioUser(_)))
    }

    /// Goes on with a device that was made anew. No ring runs.
    pub fn go_on(&mut self, device: &mut impl Backend) {
        if let Some(Session::VfioUser(session)) = &mut self.session {
            session.function_mut().renew(device);
        }
    }

    /// Ends the session, if there is one: its rings stop. A listening socket is gone when the endpoint is dropped.
    pub fn close(&mut self, device: &mut impl Backend) {
        if let Some(session) = self.session.take() {
            self.past.add(&session.close(&mut self.transport, device));
        }
    }

    /// A front end, if there is one to be had now.
    fn meet(&mut self, epoll: &OwnedFd, token: u64) -> Option<OwnedFd> {
        let now = Instant::now();
        match &mut self.meeting {
            Meeting::Listen(entrance) => {
                entrance.wake(now, epoll, token);
                entrance.accept(now, epoll)
            }
            Meeting::Connect { path, at, pause } => {
                if now < *at {
                    return None;
                }
                match connect_to(path) {
                    Ok(stream) => Some(stream),
                    Err(error) => {
                        tracing::debug!(device = self.name, "looking for a front end: {error}");
                        slacken(at, pause);
                        None
                    }
                }
            }
        }
    }

    fn begin(&mut self, stream: OwnedFd, device: &impl Backend, epoll: &OwnedFd, token: u64) {
        let data = epoll::EventData::new_u64(token);
        if let Err(errno) = epoll::add(epoll, &stream, data, epoll::EventFlags::IN) {
            // The connection closes here, and the front end comes again, or we look again.
            tracing::error!(device = self.name, "watching a connection: {errno}");
            if let Meeting::Connect { at, pause, .. } = &mut self.meeting {
                slacken(at, pause);
            }
            return;
        }
        if let Meeting::Listen(entrance) = &self.meeting {
            // The next one waits in the queue.
            entrance.shut(epoll);
        }
        self.sessions += 1;
        self.past.recoveries += u64::from(std::mem::take(&mut self.is_broken));
        let session = Session::new(stream, &mut self.transport, device);
        if let Some(bell) = session.bell() {
            // An edge, so that one which outlives its session rings no more. Where nobody hears it, the session is asked now and then.
            let data = epoll::EventData::new_u64(token);
            let _ = epoll::add(epoll, bell, data, epoll::EventFlags::IN | epoll::EventFlags::ET);
        }
        self.session = Some(session);
    }

    fn end(&mut self, device: &mut impl Backend, epoll: &OwnedFd, token: u64, why: Option<String>) {
        let Some(session) = self.session.take() else { return };
        let _ = epoll::delete(epoll, &session);
        session.bell().map(|bell| epoll::delete(epoll, bell));
        // A function outlives its client, and counts this itself.
        self.is_broken = matches!(session, Session::VhostUser(_)) && session.needs_reset();
        let counters = session.close(&mut self.transport, device);
        self.past.add(&counters);
        let refused: Vec<_> = counters.by_outcome().map(|(name, count)| format!("{name} {count}")).collect();
        let (session, messages, refused) = (self.sessions, counters.messages, refused.join(", "));
        match why {
            // Whoever connects and says nothing does not fill the log.
            _ if messages == 0 => tracing::debug!(device = self.name, session, "somebody connected and left"),
            None => tracing::info!(device = self.name, session, messages, refused, "the front end has left"),
            Some(why) => tracing::warn!(device = self.name, session, messages, refused, "the session is over: {why}"),
        }
        match &mut self.meeting {
            Meeting::Listen(entrance) => entrance.reopen(Instant::now(), epoll, token),
            Meeting::Connect { at, pause, .. } if messages == 0 => slacken(at, pause),
            Meeting::Connect { at, pause, .. } => (*at, *pause) = (Instant::now() + PAUSE_MIN, PAUSE_MIN),
        }
    }
}

fn slacken(at: &mut Instant, pause: &mut Duration) {
    *at = Instant::now() + *pause;
    *pause = PAUSE_MAX.min(*pause * 2);
}

fn tell_refusal(device: &str, session: &Session, refusal: &Told) {
    let refused = session.counters().refused();
    match refused {
        ..REFUSALS_LOGGED => tracing::warn!(device, "refused: {refusal}"),
        REFUSALS_LOGGED => tracing::warn!(device, "refused: {refusal}; no more of these in this session's log"),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
