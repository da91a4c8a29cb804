//! Our device: the engine's worker, turned by whoever holds it, and the controller's vhost-user server, on a thread of its own
//! that sleeps as long as nobody sends it a message.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{Timespec, epoll};
use rustix::fs::Mode;
use tempfile::TempDir;
use virtnet_control::config;
use virtnet_control::device::{Device, Served, Spec};
use virtnet_control::transport::endpoint::Endpoint;
use virtnet_control::transport::session::Transport;
use virtnet_engine::worker::Worker;
use virtnet_engine::{DeviceConfig, Engine, EngineConfig, IdlePolicy, PortConfig};

use super::frames::source;
use super::setup::{Setup, socket};
use crate::args::Direction;
use crate::lcore;

/// The longest that the server sleeps: it may be told to end.
const NAP: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// Devices of an engine that has no thread.
#[derive(Debug)]
pub struct Ours {
    worker: ByHand,
    house: Arc<House>,
    server: Option<JoinHandle<Result<()>>>,
    folder: TempDir,
    guests: usize,
    /// Frames that it admits to have dropped, and may.
    dropped: u64,
}

/// A worker that is turned by whoever holds it.
#[derive(Debug)]
struct ByHand {
    worker: Worker,
    start: Instant,
    /// Where others are to run than who measures.
    elsewhere: Option<usize>,
}

impl ByHand {
    #[inline]
    fn turn(&mut self) {
        self.worker.turn(self.start.elapsed().as_nanos() as u64);
    }

    /// Has another thread turn it while this one works.
    fn during<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                self.elsewhere.into_iter().for_each(lcore::pin);
                while !done.load(Ordering::Acquire) {
                    self.turn();
                    thread::yield_now();
                }
            });
            let result = work();
            done.store(true, Ordering::Release);
            result
        })
    }
}

/// What the server has, and what it shares.
#[derive(Debug)]
struct House {
    desk: Mutex<Desk>,
    epoll: OwnedFd,
    stop: AtomicBool,
}

#[derive(Debug)]
struct Desk {
    engine: Engine,
    devices: Vec<(Device, Endpoint)>,
}

impl House {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn served<'a>(&'a self, device: &'a mut Device, engine: &'a mut Engine, token: u64) -> Served<'a> {
        Served { device, engine, epoll: &self.epoll, controlq_token: token, session_token: token }
    }

    /// Serves messages until told to stop, then gives up what is served.
    fn serve(&self) -> Result<()> {
        let mut events = Vec::with_capacity(8);
        while !self.stop.load(Ordering::Acquire) {
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&NAP)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno).context("waiting for messages"),
            }
            let Desk { engine, devices } = &mut *self.desk();
            for event in &events {
                let token = event.data.u64();
                let Some((device, endpoint)) = devices.get_mut(token as usize) else { continue };
                endpoint.turn(&mut self.served(device, engine, token), &self.epoll, token);
            }
        }
        let Desk { engine, devices } = &mut *self.desk();
        for (token, (device, endpoint)) in (0..).zip(devices) {
            endpoint.close(&mut self.served(device, engine, token));
            engine.remove_device(device.id())?;
        }
        Ok(())
    }
}

impl Ours {
    /// Listens, at a socket for each guest; messages are served on lcore `elsewhere`.
    ///
    /// # Errors
    /// The engine or the system refuses.
    pub fn new(setup: &Setup, elsewhere: Option<usize>) -> Result<Self> {
        let folder = tempfile::tempdir().context("a folder for sockets")?;
        let config = EngineConfig { lcores: vec![None], idle: IdlePolicy::Poll, burst: setup.burst };
        let (engine, mut workers) = Engine::by_hand(&config)?;
        let worker = workers.pop().context("a worker")?;
        let mut worker = ByHand { worker, start: Instant::now(), elsewhere };
        let house = House {
            desk: Mutex::new(Desk { engine, devices: Vec::new() }),
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC).context("making an epoll instance")?,
            stop: AtomicBool::new(false),
        };
        worker.during(|| {
            let Desk { engine, devices } = &mut *house.desk();
            for guest in 0..setup.guests() {
                let name = format!("guest{guest}");
                let socket = socket(folder.path(), guest);
                let config = device_config(&name, &socket)?;
                let port = match setup.direction {
                    Direction::FromGuest => PortConfig::Sink,
                    Direction::ToGuest => PortConfig::Source(source(setup.sizes)),
                    Direction::Loopback => PortConfig::Loopback,
                    Direction::GuestToGuest => PortConfig::Switch,
                };
                let id = engine.add_device(DeviceConfig { pairs: 1, port, workers: Vec::new() })?;
                let endpoint = Endpoint::listen(&name, &socket, Mode::RUSR | Mode::WUSR, Transport::VhostUser)?;
                endpoint.watch(&house.epoll, guest as u64).context("watching a socket")?;
                devices.push((Device::new(Spec::from(&config), id), endpoint));
            }
            anyhow::Ok(())
        })?;
        let house = Arc::new(house);
        let served = Arc::clone(&house);
        let server = thread::Builder::new().name("server".to_owned()).spawn(move || {
            elsewhere.into_iter().for_each(lcore::pin);
            served.serve()
        })?;
        Ok(Ours { worker, house, server: Some(server), folder, guests: setup.guests(), dropped: 0 })
    }

    /// Where guests are to come to.
    pub fn sockets(&self) -> Vec<PathBuf> {
        (0..self.guests).map(|guest| socket(self.folder.path(), guest)).collect()
    }

    /// Does something that waits for the server, which waits for the worker: another thread turns it meanwhile.
    pub fn during<T>(&mut self, work: impl FnOnce() -> T) -> T {
        self.worker.during(work)
    }

    /// One burst each way.
    #[inline]
    pub fn turn(&mut self) {
        self.worker.turn();
    }

    /// What our source had ready for a guest whose queues were not, is dropped and counted. From here on that must not be.
    ///
    /// # Errors
    /// A queue broke a rule.
    pub fn forgive_drops(&mut self) -> Result<()> {
        self.dropped = self.counted()?.1;
        Ok(())
    }

    /// Frames and bytes that came out of the first guest.
    ///
    /// # Errors
    /// A queue broke a rule, or frames were dropped.
    pub fn fetched(&self) -> Result<(u64, u64)> {
        let (fetched, dropped) = self.counted()?;
        ensure!(dropped == self.dropped, "the engine dropped {} frames", dropped - self.dropped);
        Ok(fetched)
    }

    /// What came out of the first guest, frames and bytes, and frames dropped anywhere.
    fn counted(&self) -> Result<((u64, u64), u64)> {
        let Desk { engine, devices } = &mut *self.house.desk();
        if let Some(event) = engine.watch().first() {
            bail!("the engine retired queue {}: {}", event.queue_index, event.violation);
        }
        let (mut fetched, mut dropped) = ((0, 0), 0);
        for (guest, (device, _)) in devices.iter().enumerate() {
            for queue in engine.counters(device.id())? {
                dropped += queue.counts.dropped();
                if (guest, queue.queue_index) == (0, 1) {
                    fetched = (queue.counts.packets, queue.counts.bytes);
                }
            }
        }
        Ok((fetched, dropped))
    }

    /// Stops the server; its guests have left.
    ///
    /// # Errors
    /// It did not end well.
    pub fn close(&mut self) -> Result<()> {
        let Some(server) = self.server.take() else { return Ok(()) };
        self.house.stop.store(true, Ordering::Release);
        match self.during(|| server.join()) {
            Ok(ended) => ended,
            Err(_) => bail!("the server panicked"),
        }
    }
}

/// A device as a configuration file would have it: all features.
fn device_config(name: &str, socket: &Path) -> Result<config::Device> {
    Ok(serde_json::from_value(serde_json::json!({ "name": name, "socket": socket }))?)
}
