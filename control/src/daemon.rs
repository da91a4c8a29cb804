//! The controller as it runs: one control thread, an epoll loop over every socket.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::event::{Timespec, epoll};

use crate::command::{self, Reload};
use crate::manager::Manager;
use crate::recovery::Folder;
use crate::rpc;
use crate::service::{Host, Service};
use crate::transport::listener::PathError;

/// The socket that `virtnet` asks, in the run folder.
pub const RPC_SOCKET: &str = "virtnet.sock";

/// How often workers' news is looked at.
const WATCH: Duration = Duration::from_millis(100);
/// Events taken from epoll at a time.
const EVENTS_MAX: usize = 64;
/// What says that the process is to end.
const STOP_TOKEN: u64 = u64::MAX;
/// Below are the service's.
const RPC_TOKEN_FIRST: u64 = 1 << 32;

/// A running controller.
pub struct Daemon {
    service: Service,
    rpc: rpc::Server,
    reload: Reload,
    /// Readable when the process is to end.
    stop: OwnedFd,
}

impl Daemon {
    /// Takes the run folder, before anything else is touched: one controller at a time has it, and the state.
    ///
    /// # Errors
    /// There is a controller, or the socket cannot be.
    pub fn claim(run_dir: &Path) -> Result<rpc::Server, PathError> {
        rpc::Server::listen(&run_dir.join(RPC_SOCKET), RPC_TOKEN_FIRST)
    }

    /// [`Self::claim`] and [`Self::start_on`] at once, where there is nothing to be done between them.
    ///
    /// # Errors
    /// As theirs.
    pub fn start(host: Host, recovery: Option<Folder>, reload: Reload, stop: OwnedFd) -> anyhow::Result<Self> {
        Self::start_on(Self::claim(&host.run_dir)?, host, recovery, reload, stop)
    }

    /// Starts what `host` asks for, where a run folder was claimed. `reload` changes what the log lets through; `stop` becomes readable when the process is to
    /// end.
    ///
    /// # Errors
    /// What the configuration asks for cannot be had. Nothing is left of it.
    pub fn start_on(
        rpc: rpc::Server,
        host: Host,
        recovery: Option<Folder>,
        reload: Reload,
        stop: OwnedFd,
    ) -> anyhow::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).context("making an epoll instance")?;
        let data = epoll::EventData::new_u64(STOP_TOKEN);
        epoll::add(&epoll, &stop, data, epoll::EventFlags::IN).context("watching for the end")?;
        rpc.watch(&epoll).context("watching for requests")?;
        let service = Service::start(host, recovery, Arc::new(epoll))?;
        Ok(Self { service, rpc, reload, stop })
    }

    /// Serves until it is to end, then stops every ring and removes every socket.
    ///
    /// # Errors
    /// The system's, from waiting.
    pub fn run(mut self) -> anyhow::Result<()> {
        let mut watched = Instant::now();
        let mut manager = Manager::of_process();
        manager.ready(watched, self.service.function_count());
        let mut events = Vec::with_capacity(EVENTS_MAX);
        loop {
            let due = [self.service.wakes_at(), self.rpc.wakes_at(), manager.wakes_at(), Some(watched + WATCH)];
            let due = due.into_iter().flatten().min();
            let wait = due.map_or(WATCH, |at| at.saturating_duration_since(Instant::now()));
            let timeout = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
            events.clear();
            match epoll::wait(self.service.epoll(), rustix::buffer::spare_capacity(&mut events), Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno).context("waiting for events"),
            }
            for event in &events {
                match event.data.u64() {
                    STOP_TOKEN => {
                        manager.stopping();
                        return self.end();
                    }
                    token => self.turn(Some(token)),
                }
            }
            self.service.turn_those_due();
            self.service.grant_wish();
            self.turn(None);
            if watched.elapsed() >= WATCH {
                watched = Instant::now();
                self.service.watch();
            }
            manager.alive(Instant::now(), self.service.function_count());
        }
    }

    /// Does what an event asks for, or what is due by itself.
    fn turn(&mut self, token: Option<u64>) {
        let Self { service, rpc, reload, .. } = self;
        let now = Instant::now();
        let epoll = service.epoll().clone();
        let mut handle = |method: &str, params| command::run(service, reload, method, params);
        match token {
            Some(token) if rpc.owns(token) => rpc.turn(token, now, &epoll, &mut handle),
            Some(token) => service.turn(token),
            None => rpc.turn_those_due(now, &epoll, &mut handle),
        }
    }

    fn end(self) -> anyhow::Result<()> {
        tracing::info!("ending");
        let _ = epoll::delete(self.service.epoll(), self.stop.as_fd());
        self.service.end()
    }
}
