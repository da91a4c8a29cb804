//! The controller as it runs: one control thread, an epoll loop over every device's socket.

mod port;

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::event::{Timespec, epoll};
use rustix::fs::Mode;
use virtnet_engine::counters::DropReason;
use virtnet_engine::{DeviceConfig, Engine, EngineConfig, QueueCountsOf, ViolationEvent};

use crate::config::{self, Config};
use crate::device::{Device, Served};
use crate::vhost_user::server::Endpoint;

/// How often workers' news is looked at.
const WATCH: Duration = Duration::from_millis(100);
/// Events taken from epoll at a time.
const EVENTS_MAX: usize = 64;
/// What says that the process is to end.
const STOP_TOKEN: u64 = u64::MAX;
/// Violations that a device's guest may put into the log, for each session; all of them are counted.
const VIOLATIONS_LOGGED: u32 = 16;

/// A device and its socket.
#[derive(Debug)]
struct Entry {
    device: Device,
    endpoint: Endpoint,
    /// Which session violations are counted for, and how many there were.
    violations: (u64, u32),
}

/// A running controller.
#[derive(Debug)]
pub struct Daemon {
    engine: Engine,
    entries: Vec<Entry>,
    epoll: OwnedFd,
    /// Readable when the process is to end.
    stop: OwnedFd,
}

impl Daemon {
    /// Starts the engine and every device of `config`, with sockets in `run_dir`. `stop` becomes readable when the
    /// process is to end.
    ///
    /// # Errors
    /// What the configuration asks for cannot be had. Nothing is left of it.
    pub fn start(config: &Config, run_dir: &Path, stop: OwnedFd) -> anyhow::Result<Self> {
        let engine = Engine::start(EngineConfig {
            lcores: config.lcores.workers(),
            idle: config.idle_policy(None),
            burst: config.burst as usize,
        })
        .context("starting the engine")?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).context("making an epoll instance")?;
        let data = epoll::EventData::new_u64(STOP_TOKEN);
        epoll::add(&epoll, &stop, data, epoll::EventFlags::IN).context("watching for the end")?;
        let mut daemon = Self { engine, entries: Vec::with_capacity(config.devices.len()), epoll, stop };
        port::add_uplinks(&mut daemon.engine, &config.switch)?;
        for device in &config.devices {
            daemon.add(device, run_dir).with_context(|| format!("device {:?}", device.name))?;
        }
        Ok(daemon)
    }

    /// Serves until it is to end, then stops every ring and removes every socket.
    ///
    /// # Errors
    /// The system's, from waiting.
    pub fn run(mut self) -> anyhow::Result<()> {
        let mut watched = Instant::now();
        let mut events = Vec::with_capacity(EVENTS_MAX);
        loop {
            let timeout = self.timeout(watched);
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno).context("waiting for events"),
            }
            for event in &events {
                match event.data.u64() {
                    STOP_TOKEN => return self.end(),
                    token => self.turn(token),
                }
            }
            self.turn_those_due();
            if watched.elapsed() >= WATCH {
                watched = Instant::now();
                self.watch();
            }
        }
    }

    fn add(&mut self, config: &config::Device, run_dir: &Path) -> anyhow::Result<()> {
        let port = port::of(config)?;
        let id =
            self.engine.add_device(DeviceConfig { pairs: config.queue_pairs as u16, port, workers: Vec::new() })?;
        let device = Device::new(config, id);
        let path = run_dir.join(&config.socket);
        let endpoint = match config.mode {
            config::Mode::Server => Endpoint::listen(&config.name, &path, Mode::from_raw_mode(config.socket_mode))?,
            config::Mode::Client => Endpoint::connect(&config.name, &path),
        };
        endpoint.watch(&self.epoll, endpoint_token(self.entries.len())).context("watching the socket")?;
        tracing::info!(device = config.name, mac = %device.mac(), socket = %path.display(), "device is ready");
        self.entries.push(Entry { device, endpoint, violations: (0, 0) });
        Ok(())
    }

    /// How long nothing needs to be done that nobody reports.
    fn timeout(&self, watched: Instant) -> Timespec {
        let due = self.entries.iter().filter_map(|entry| entry.endpoint.wakes_at()).min();
        let next = due.map_or(watched + WATCH, |due| due.min(watched + WATCH));
        let busy = self.entries.iter().any(|entry| entry.device.has_work());
        let wait = if busy { Duration::ZERO } else { next.saturating_duration_since(Instant::now()) };
        Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() }
    }

    /// Does what an event asks for.
    fn turn(&mut self, token: u64) {
        let (index, is_controlq) = ((token / 2) as usize, token % 2 == 1);
        let Some(entry) = self.entries.get_mut(index) else { return };
        let Entry { device, endpoint, .. } = entry;
        let mut served = Served { device, engine: &mut self.engine, epoll: &self.epoll, token: controlq_token(index) };
        if !is_controlq {
            endpoint.turn(&mut served, &self.epoll, endpoint_token(index));
        } else if !served.serve_controlq() {
            let failed = served.controlq_index();
            if let Some((session, failed)) = endpoint.session().zip(failed) {
                session.ring_failed(failed);
            }
        }
    }

    fn turn_those_due(&mut self) {
        let now = Instant::now();
        for index in 0..self.entries.len() {
            let Entry { device, endpoint, .. } = &self.entries[index];
            let (has_work, is_due) = (device.has_work(), endpoint.wakes_at().is_some_and(|at| at <= now));
            if has_work {
                self.turn(controlq_token(index));
            }
            if is_due {
                self.turn(endpoint_token(index));
            }
        }
    }

    /// Passes on what the workers have to say.
    fn watch(&mut self) {
        for ViolationEvent { device, queue_index, violation } in self.engine.watch() {
            let Some(entry) = self.entries.iter_mut().find(|entry| entry.device.id() == device) else { continue };
            let session = entry.endpoint.sessions();
            if entry.violations.0 != session {
                entry.violations = (session, 0);
            }
            entry.violations.1 += 1;
            if entry.violations.1 <= VIOLATIONS_LOGGED {
                tracing::warn!(device = entry.device.name(), queue = queue_index, "retired a queue: {violation}");
            }
            if let Some(session) = entry.endpoint.session() {
                session.ring_failed(queue_index.into());
            }
        }
        for (index, Entry { device, endpoint, .. }) in self.entries.iter_mut().enumerate() {
            let Some(session) = endpoint.session() else { continue };
            let token = controlq_token(index);
            let mut served = Served { device, engine: &mut self.engine, epoll: &self.epoll, token };
            if session.check_memory(&mut served) {
                tracing::warn!(
                    device = device.name(),
                    "the front end has cut its memory short: all queues are stopped"
                );
            }
        }
    }

    fn end(mut self) -> anyhow::Result<()> {
        tracing::info!("ending");
        let _ = epoll::delete(&self.epoll, self.stop.as_fd());
        for (index, Entry { device, endpoint, .. }) in self.entries.iter_mut().enumerate() {
            let token = controlq_token(index);
            let mut served = Served { device, engine: &mut self.engine, epoll: &self.epoll, token };
            endpoint.close(&mut served);
            let id = device.id();
            tell_counters(device.name(), &self.engine.counters(id).unwrap_or_default());
            self.engine.remove_device(id).with_context(|| format!("device {:?}", device.name()))?;
        }
        Ok(())
    }
}

/// Leaves in the log what a device's queues have done.
fn tell_counters(device: &str, queues: &[QueueCountsOf]) {
    for QueueCountsOf { queue_index, counts } in queues {
        let drops = DropReason::ALL.iter().zip(counts.drops).filter(|(_, count)| *count != 0);
        let drops: Vec<_> = drops.map(|(reason, count)| format!("{} {count}", reason.name())).collect();
        let (packets, bytes, violations) = (counts.packets, counts.bytes, counts.violations);
        tracing::info!(device, queue = queue_index, packets, bytes, violations, drops = drops.join(", "), "in all");
    }
}

fn endpoint_token(index: usize) -> u64 {
    2 * index as u64
}

fn controlq_token(index: usize) -> u64 {
    2 * index as u64 + 1
}
