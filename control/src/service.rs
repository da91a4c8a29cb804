//! What the controller keeps: the engine, the functions on it, and the sockets of those that are there for a driver.

mod group;
mod guests;
mod host;
mod keep;
pub mod life;
mod moderation;
pub mod modify;
mod netdevs;
mod port;
mod restart;
mod sight;
#[cfg(test)]
mod tests;
mod uplink;
mod vfs;

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::event::{Timespec, epoll};
use rustix::fs::Mode;
use slab::Slab;
use virtnet_engine::counters::{DropReason, QueueCounts};
use virtnet_engine::latency::Latencies;
use virtnet_engine::{DeviceConfig, DeviceId, Engine, EngineConfig, EngineError, QueueCountsOf, ViolationEvent};

pub use host::Host;

use self::netdevs::Netdevs;
use crate::config;
use crate::device::{Device, Served};
use crate::function::{Counting, Fault, Faults, Function, Id, Identity, Resets};
use crate::recovery::Folder;
use crate::transport::endpoint::Endpoint;
use crate::transport::listener::PathError;
use crate::transport::session::Transport;
use crate::virtio_pci::{self, Traits};
use uplink::Uplink;

/// Events taken from epoll at a time, within a command.
const EVENTS_MAX: usize = 64;
/// Functions that are made, changed or removed before others' front ends are served.
const STEPS_A_BREATH: usize = 8;
/// How often it is looked whether the disk has done its work.
const DISK_LOOK: Duration = Duration::from_micros(500);
/// Violations that a device's guest may put into the log, for each session; all of them are counted.
const VIOLATIONS_LOGGED: u32 = 16;

/// A function, and what stands for it.
#[derive(Debug)]
struct Entry {
    /// As it is set.
    function: Function,
    /// None while it has too little for a driver.
    live: Option<Live>,
    /// What its queues had counted on devices of the engine that it does not have any more.
    past: Vec<QueueCountsOf>,
    /// How many VFs it is to have.
    num_vfs: u16,
    /// What has gone wrong with it, beside what its device has counted.
    faults: Faults,
    /// How often it was reset, beside what its device has counted.
    resets: Resets,
    /// How often it went on after a failure, beside what its socket has counted.
    recovered: u64,
    /// Its front end waits while it is being changed.
    is_held: bool,
    /// What is counted for debugging, from where that was last cleared.
    debug_counters: Counting,
    /// What latencies of its device were cleared of, by queue.
    latencies_before: Vec<Latencies>,
}

impl Entry {
    fn new(function: Function, live: Option<Live>) -> Self {
        let (past, num_vfs, faults, resets, recovered, is_held, latencies_before) = Default::default();
        let debug_counters = Counting::Enabled(Vec::new());
        Self { function, live, past, num_vfs, faults, resets, recovered, is_held, debug_counters, latencies_before }
    }
}

/// A device and its socket.
#[derive(Debug)]
struct Live {
    device: Device,
    endpoint: Endpoint,
    /// Which session violations are counted for, and how many there were.
    violations: (u64, u32),
}

/// The engine and all functions.
#[derive(Debug)]
pub struct Service {
    host: Host,
    engine: Engine,
    /// Ways out of its switch.
    uplinks: Vec<Uplink>,
    netdevs: Netdevs,
    entries: Slab<Entry>,
    /// Where functions' files are, if they are kept.
    recovery: Option<Folder>,
    epoll: Arc<OwnedFd>,
    /// PFs whose drivers want other VFs, and when the first of them is to have its will.
    wishes: VecDeque<usize>,
    wishes_at: Instant,
}

impl Service {
    /// Starts the engine, the ways out of its switch, the static PFs, and what the files in `recovery` tell of.
    ///
    /// # Errors
    /// What the configuration asks for cannot be had.
    pub fn start(host: Host, recovery: Option<Folder>, epoll: Arc<OwnedFd>) -> anyhow::Result<Self> {
        host.sweep();
        let mut engine = start_engine(&host).context("starting the engine")?;
        let destroy = host.config.sf_pool_force_destroy;
        let mut netdevs = Netdevs::start(host.sf_pool(), destroy, &host.state_dir)?;
        let uplinks = uplink::add_all(&mut engine, &host.config, &mut netdevs)?;
        let (entries, wishes, wishes_at) = (Slab::new(), VecDeque::new(), Instant::now());
        let mut service = Self { host, engine, uplinks, netdevs, entries, recovery, epoll, wishes, wishes_at };
        service.recover()?;
        Ok(service)
    }

    /// What functions are made from.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// What tells of events, which go to [`Self::turn`].
    pub fn epoll(&self) -> &Arc<OwnedFd> {
        &self.epoll
    }

    /// The engine.
    pub fn engine(&mut self) -> &mut Engine {
        &mut self.engine
    }

    fn keys(&self) -> Vec<usize> {
        self.entries.iter().map(|(key, _)| key).collect()
    }

    /// How many functions there are.
    pub fn function_count(&self) -> usize {
        self.entries.len()
    }

    /// All functions, in the order of their ids.
    pub fn functions(&self) -> Vec<(usize, &Function)> {
        let mut all: Vec<_> = self.entries.iter().map(|(key, entry)| (key, &entry.function)).collect();
        all.sort_by_key(|(_, function)| function.identity.id);
        all
    }

    /// The entry of a function.
    pub fn key_of(&self, id: Id) -> Option<usize> {
        self.entries.iter().find(|(_, entry)| entry.function.identity.id == id).map(|(key, _)| key)
    }

    /// The entry of the function with this VUID.
    pub fn key_of_vuid(&self, vuid: &str) -> Option<usize> {
        self.entries.iter().find(|(_, entry)| entry.function.identity.vuid == vuid).map(|(key, _)| key)
    }

    /// A function as it is set.
    pub fn function(&self, key: usize) -> &Function {
        &self.entries[key].function
    }

    /// What devices of the engine are called, and ways out of its switch.
    pub fn names(&self) -> HashMap<DeviceId, &str> {
        let devices = self.entries.iter().filter_map(|(_, entry)| entry.live.as_ref().map(|live| &live.device));
        let uplinks = self.uplinks.iter().map(|uplink| (uplink.id, uplink.name()));
        devices.map(|device| (device.id(), device.name())).chain(uplinks).collect()
    }

    /// Adds a function, and opens its socket if it has enough for a driver. Returns its key.
    ///
    /// # Errors
    /// Another function has its address or its socket, there is no SF for it, or the engine or the system refuses; nothing is left of
    /// it.
    pub fn add(&mut self, function: Function) -> anyhow::Result<usize> {
        self.check_is_alone(&function)?;
        self.check_sfs(1)?;
        let key = self.entries.vacant_key();
        let live = self.live_of(&function, key, None).inspect_err(|_| self.netdevs.give_back(&function.port))?;
        self.entries.insert(Entry::new(function, live));
        Ok(key)
    }

    /// Takes a function out: its front end is left, its queues stop, its socket goes.
    ///
    /// # Errors
    /// The engine's, of a worker that does not answer.
    pub fn remove(&mut self, key: usize) -> anyhow::Result<Function> {
        let mut entry = self.entries.remove(key);
        if let Some(live) = entry.live.take() {
            entry.function.identity.span().in_scope(|| self.take_down(key, live))?;
        }
        self.netdevs.give_back(&entry.function.port);
        Ok(entry.function)
    }

    /// Makes a function anew with other settings. No driver has it.
    ///
    /// # Errors
    /// It cannot be made; it is as it was then.
    fn replace(&mut self, key: usize, function: Function) -> anyhow::Result<()> {
        self.put_counts_by(key);
        let entry = &mut self.entries[key];
        let had_lost_it = entry.live.is_none() && entry.function.share.is_usable();
        let mut kept = None;
        if let Some(live) = entry.live.take() {
            entry.faults += live.device.faults;
            entry.resets += live.device.resets;
            let span = entry.function.identity.span().entered();
            let left = if live.endpoint.can_go_on() && entry.function.share == function.share {
                kept = Some(live.endpoint);
                self.dismiss(&live.device)
            } else {
                entry.recovered += live.endpoint.counters().recoveries;
                self.take_down(key, live)
            };
            drop(span);
            if let Err(error) = left {
                self.entries[key].faults.count(Fault::Port);
                return Err(error);
            }
        }
        match self.live_of(&function, key, kept) {
            Ok(live) => {
                let entry = &mut self.entries[key];
                entry.recovered += u64::from(had_lost_it && live.is_some());
                (entry.function, entry.live) = (function, live);
                self.show_vfs(key);
                Ok(())
            }
            Err(error) => {
                let entry = &mut self.entries[key];
                entry.faults.count(if error.is::<PathError>() { Fault::Socket } else { Fault::Port });
                let before = entry.function.clone();
                self.entries[key].live = self.live_of(&before, key, None).context("as it was")?;
                self.entries[key].recovered += u64::from(had_lost_it && self.entries[key].live.is_some());
                self.show_vfs(key);
                Err(error)
            }
        }
    }

    /// What stands for a function, if it has enough for a driver; its front end goes on at `kept`, if it can.
    fn live_of(&mut self, function: &Function, key: usize, kept: Option<Endpoint>) -> anyhow::Result<Option<Live>> {
        if function.share.is_usable() {
            return self.bring_up(function, key, kept).map(Some);
        }
        self.netdevs.rest(&function.port);
        Ok(None)
    }

    fn bring_up(&mut self, function: &Function, key: usize, kept: Option<Endpoint>) -> anyhow::Result<Live> {
        let Function { spec, socket, coalescing, .. } = function;
        let port = port::of(&function.port, spec, &mut self.netdevs)?;
        let pairs = spec.queue_pairs;
        let id = self.engine.add_device(DeviceConfig { pairs, port, workers: Vec::new() })?;
        let mut device = Device::new(spec.clone(), id);
        let endpoint = match kept {
            Some(mut endpoint) => {
                endpoint.go_on(&mut served(&mut device, &mut self.engine, &self.epoll, key));
                Ok(endpoint)
            }
            None => self.endpoint_of(function, &mut device, key),
        };
        let endpoint = endpoint.map_err(anyhow::Error::from).and_then(|endpoint| {
            device.set_coalescing(*coalescing);
            device.moderate_anew(&mut self.engine)?;
            Ok(endpoint)
        });
        match endpoint {
            Ok(endpoint) => {
                device.steer(&mut self.engine);
                let Identity { id, vuid, .. } = &function.identity;
                tracing::info!(
                    device = spec.name,
                    pf = id.pf(),
                    vf = id.vf(),
                    vuid,
                    mac = %spec.mac,
                    socket = %socket.path.display(),
                    "device is ready"
                );
                Ok(Live { device, endpoint, violations: (0, 0) })
            }
            Err(error) => {
                self.engine.remove_device(id)?;
                Err(error)
            }
        }
    }

    /// Where a function's front end is to come to, or is looked for.
    fn endpoint_of(&mut self, function: &Function, device: &mut Device, key: usize) -> Result<Endpoint, PathError> {
        let Function { identity, spec, socket, share, .. } = function;
        let transport = match socket.transport {
            config::Transport::VhostUser => Transport::VhostUser,
            config::Transport::VfioUser => {
                let served = served(device, &mut self.engine, &self.epoll, key);
                let is_transitional = spec.transitional;
                let (ids, msix, kind) = (self.host.limits.pci, share.msix, self.host.kind(identity));
                let traits = Traits { ids, is_transitional, msix, kind };
                Transport::VfioUser(Some(Box::new(virtio_pci::Function::new(traits, &served))))
            }
        };
        let endpoint = match socket.mode {
            config::Mode::Server => {
                Endpoint::listen(&spec.name, &socket.path, Mode::from_raw_mode(socket.permissions), transport)?
            }
            config::Mode::Client => Endpoint::connect(&spec.name, &socket.path),
        };
        let refused = |source| PathError::System { path: socket.path.clone(), doing: "watching the socket", source };
        endpoint.watch(&self.epoll, endpoint_token(key)).map_err(refused)?;
        Ok(endpoint)
    }

    fn take_down(&mut self, key: usize, live: Live) -> anyhow::Result<()> {
        let Live { mut device, mut endpoint, .. } = live;
        endpoint.close(&mut served(&mut device, &mut self.engine, &self.epoll, key));
        self.dismiss(&device)
    }

    /// Takes a device from the engine. None of its queues runs.
    fn dismiss(&mut self, device: &Device) -> anyhow::Result<()> {
        let id = device.id();
        tell_counters(device.name(), &self.engine.counters(id).unwrap_or_default());
        self.engine.remove_device(id).with_context(|| format!("device {:?}", device.name()))?;
        Ok(())
    }

    /// When something needs to be done that nobody reports; now, where there is work.
    pub fn wakes_at(&self) -> Option<Instant> {
        let live = || self.entries.iter().filter_map(|(_, entry)| entry.live.as_ref());
        if self.netdevs.is_making() || live().any(|live| live.device.has_work()) {
            return Some(Instant::now());
        }
        let wish = (!self.wishes.is_empty()).then_some(self.wishes_at);
        let theirs = live().flat_map(|live| [live.endpoint.wakes_at(), live.device.announces_at()]).flatten();
        theirs.chain(wish).min()
    }

    /// Does what an event asks for.
    pub fn turn(&mut self, token: u64) {
        let (key, is_controlq) = ((token / 2) as usize, token % 2 == 1);
        let Some(Entry { function, live: Some(live), is_held: false, .. }) = self.entries.get_mut(key) else { return };
        let _span = function.identity.span().entered();
        let Live { device, endpoint, .. } = live;
        let mut served = served(device, &mut self.engine, &self.epoll, key);
        if !is_controlq {
            endpoint.turn(&mut served, &self.epoll, endpoint_token(key));
            let Some(function) = endpoint.function() else { return };
            let (wanted, rung) = (function.vfs_wanted(), function.take_rung());
            if wanted.is_some() && !self.wishes.contains(&key) {
                self.wishes.push_back(key);
            }
            self.ring_members(key, rung);
        } else {
            if !served.serve_controlq() {
                let failed = device.controlq_index();
                if let Some((session, failed)) = endpoint.session().zip(failed) {
                    session.ring_failed(failed);
                }
            }
            self.serve_adminq(key);
        }
    }

    /// Does what is due by itself.
    pub fn turn_those_due(&mut self) {
        if let Err(error) = self.netdevs.make_next() {
            tracing::error!("the SF pool is smaller by one: {error:#}");
        }
        let now = Instant::now();
        let due = |(key, entry): (usize, &Entry)| {
            let Live { device, endpoint, .. } = entry.live.as_ref()?;
            let (has_work, is_due) = (device.has_work(), endpoint.wakes_at().is_some_and(|at| at <= now));
            (has_work || is_due).then_some((key, has_work, is_due))
        };
        let due: Vec<_> = self.entries.iter().filter_map(due).collect();
        for (_, _, Live { device, endpoint, .. }) in lives(&mut self.entries) {
            if device.begin_announcement(now)
                && let Some(session) = endpoint.session()
            {
                session.config_changed();
            }
        }
        for (key, has_work, is_due) in due {
            if has_work {
                self.turn(controlq_token(key));
            }
            if is_due {
                self.turn(endpoint_token(key));
            }
        }
    }

    /// Serves front ends in the middle of a command that takes long. Whoever asks for something waits for its end. Where nothing is
    /// reported, it takes `patience`.
    fn breathe(&mut self, patience: Duration) {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        let timeout = Timespec { tv_sec: 0, tv_nsec: patience.subsec_nanos().into() };
        // What fails here fails in the loop again, and is told there.
        let _ = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&timeout));
        for event in &events {
            self.turn(event.data.u64());
        }
        self.turn_those_due();
    }

    /// Serves front ends every few steps of a command.
    fn breathe_at(&mut self, step: usize) {
        if step.is_multiple_of(STEPS_A_BREATH) {
            self.breathe(Duration::ZERO);
        }
    }

    /// Does what waits for the disk, or for another process, on a thread of its own, and serves front ends meanwhile.
    fn beside<T: Send>(&mut self, work: impl Fn() -> T + Sync) -> T {
        std::thread::scope(|scope| match std::thread::Builder::new().name("waits".into()).spawn_scoped(scope, &work) {
            Ok(thread) => {
                while !thread.is_finished() {
                    self.breathe(DISK_LOOK);
                }
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            }
            Err(_) => work(),
        })
    }

    /// Passes on what the workers have to say, and what has become of the uplinks.
    pub fn watch(&mut self) {
        self.watch_links();
        for ViolationEvent { device, queue_index, violation } in self.engine.watch() {
            let of_device = |(.., live): &(usize, &Identity, &mut Live)| live.device.id() == device;
            let Some((_, identity, live)) = lives(&mut self.entries).find(of_device) else { continue };
            let session = live.endpoint.sessions();
            if live.violations.0 != session {
                live.violations = (session, 0);
            }
            live.violations.1 += 1;
            if live.violations.1 <= VIOLATIONS_LOGGED {
                let _span = identity.span().entered();
                tracing::warn!(device = live.device.name(), queue = queue_index, "retired a queue: {violation}");
            }
            if let Some(session) = live.endpoint.session() {
                session.ring_failed(queue_index.into());
            }
        }
        for (key, identity, Live { device, endpoint, .. }) in lives(&mut self.entries) {
            identity.span().in_scope(|| device.look_for_hangs());
            let Some(session) = endpoint.session() else { continue };
            let mut served = served(device, &mut self.engine, &self.epoll, key);
            session.ask_again(&mut served);
            if session.check_memory(&mut served) {
                let _span = identity.span().entered();
                tracing::warn!(
                    device = device.name(),
                    "the front end has cut its memory short: all queues are stopped"
                );
            }
        }
    }

    /// Takes all functions out.
    ///
    /// # Errors
    /// The engine's, of a worker that does not answer.
    pub fn end(mut self) -> anyhow::Result<()> {
        let removed: Vec<_> = self.keys().into_iter().map(|key| self.remove(key).map(drop)).collect();
        removed.into_iter().collect()
    }
}

/// An engine without devices.
fn start_engine(host: &Host) -> Result<Engine, EngineError> {
    let (lcores, fewer) = host.config.lcores_of(&virtnet_engine::allowed_lcores());
    fewer.iter().for_each(|note| tracing::warn!("{note}"));
    Engine::start(EngineConfig {
        lcores: lcores.workers(),
        idle: host.config.idle_policy(host.provider),
        burst: host.config.burst as usize,
    })
}

fn lives(entries: &mut Slab<Entry>) -> impl Iterator<Item = (usize, &Identity, &mut Live)> {
    entries.iter_mut().filter_map(|(key, Entry { function, live, .. })| Some((key, &function.identity, live.as_mut()?)))
}

/// Leaves in the log what a device's queues have done, those that did anything.
fn tell_counters(device: &str, queues: &[QueueCountsOf]) {
    let used = queues.iter().filter(|queue| queue.counts != QueueCounts::default());
    for QueueCountsOf { queue_index, counts } in used {
        let drops = DropReason::ALL.iter().zip(counts.drops).filter(|(_, count)| *count != 0);
        let drops: Vec<_> = drops.map(|(reason, count)| format!("{} {count}", reason.name())).collect();
        let (packets, bytes, violations) = (counts.packets, counts.bytes, counts.violations);
        tracing::info!(device, queue = queue_index, packets, bytes, violations, drops = drops.join(", "), "in all");
    }
}

/// A device, for as long as it is served.
fn served<'a>(device: &'a mut Device, engine: &'a mut Engine, epoll: &'a OwnedFd, key: usize) -> Served<'a> {
    Served { device, engine, epoll, controlq_token: controlq_token(key), session_token: endpoint_token(key) }
}

fn endpoint_token(key: usize) -> u64 {
    2 * key as u64
}

fn controlq_token(key: usize) -> u64 {
    2 * key as u64 + 1
}
