//! Queue pairs move from one worker to another while frames move, and who moves where.
//!
//! A move: every worker keeps the frames for the pair; so all that is on its way is at its old place, where it is delivered
//! while the pair sends nothing more and what it has lent comes home; then the pair is given back, queues and all, and put
//! to its new place; then every worker sends on what it has kept. No frame is lost, and none overtakes another.

use std::time::Instant;

use super::{DeviceId, Engine, EngineError};
use crate::command::{Command, Reply};
use crate::placement::{self, Move, PairLoad, Room};
use crate::port::switch::Place;

/// How busy one worker was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LcoreLoad {
    /// Its number.
    pub worker: u16,
    /// Where it is pinned, if it is.
    pub lcore: Option<usize>,
    /// The NUMA node of that.
    pub node: Option<usize>,
    /// How much of the time it moved frames, from 0 to 1.
    pub busy: f64,
    /// What a frame cost, either way through a queue, in nanoseconds; none if none moved.
    pub frame_ns: Option<f64>,
    /// How many queue pairs it serves.
    pub pairs: usize,
}

/// Loads over some time.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadReport {
    /// Over how long.
    pub seconds: f64,
    /// By worker, ascending.
    pub lcores: Vec<LcoreLoad>,
    /// By device and pair, ascending; uplinks are among them.
    pub pairs: Vec<PairLoad>,
}

impl Engine {
    /// How busy workers and pairs have been since this was last asked. Asks no worker. Pairs are sampled: over less than a
    /// tenth of a second their figures mean little.
    pub fn lcores(&mut self) -> LoadReport {
        let elapsed_ns = (self.measured.elapsed().as_nanos() as u64).max(1);
        self.measured = Instant::now();
        let share = |busy_ns: u64| (busy_ns as f64 / elapsed_ns as f64).min(1.0);
        let mut pairs = Vec::new();
        let mut frames = std::collections::BTreeMap::<u16, u64>::new();
        for (&id, device) in &mut self.devices {
            for (pair, &Place { worker, .. }) in device.places.iter().enumerate() {
                let queues = &mut device.counters[2 * pair..][..2];
                let counts: u64 = super::read_counters(queues).iter().map(|queue| queue.counts.packets).sum();
                let busy_ns = queues.iter().map(|(reader, _)| reader.busy_ns()).sum::<u64>();
                let before = std::mem::replace(&mut device.measured[pair], (busy_ns, counts));
                *frames.entry(worker).or_default() += counts - before.1;
                let busy = share(busy_ns - before.0);
                pairs.push(PairLoad { device: id, pair: pair as u16, worker, busy, node: device.node });
            }
        }
        let lcores = self.workers.iter_mut().map(|(&worker, handle)| {
            let total_ns = handle.desk.gauge.busy_ns();
            let busy_ns = total_ns.wrapping_sub(std::mem::replace(&mut handle.busy_ns, total_ns));
            let frames = frames.get(&worker).copied().unwrap_or_default();
            LcoreLoad {
                worker,
                lcore: handle.lcore,
                node: handle.lcore.and_then(|lcore| self.topology.node_of(lcore)),
                busy: share(busy_ns),
                frame_ns: (frames > 0).then(|| busy_ns as f64 / frames as f64),
                pairs: handle.slots_used,
            }
        });
        LoadReport { seconds: elapsed_ns as f64 / 1e9, lcores: lcores.collect(), pairs }
    }

    /// Who should move where, after such a load; nothing is moved.
    pub fn rebalance(&self, report: &LoadReport) -> Vec<Move> {
        let rooms = report.lcores.iter().filter(|load| self.workers.contains_key(&load.worker));
        let rooms: Vec<Room> = rooms.map(|load| Room { worker: load.worker, node: load.node }).collect();
        placement::plan(&rooms, &report.pairs)
    }

    /// Moves pairs, one after another. One that is not where the move says any more stays where it is.
    ///
    /// # Errors
    /// Of the first that fails.
    pub fn apply(&mut self, moves: &[Move]) -> Result<(), EngineError> {
        for step in moves {
            let place = self.devices.get(&step.device).and_then(|device| device.places.get(usize::from(step.pair)));
            if place.is_some_and(|place| place.worker == step.from) {
                self.relocate(step.device, step.pair, step.to.into())?;
            }
        }
        Ok(())
    }

    /// Says on which NUMA node a device's guest has its memory. Pairs are placed there by [`Self::rebalance`], and where a
    /// worker goes.
    ///
    /// # Errors
    /// [`EngineError::NoDevice`].
    pub fn set_node(&mut self, id: DeviceId, node: Option<usize>) -> Result<(), EngineError> {
        self.devices.get_mut(&id).ok_or(EngineError::NoDevice)?.node = node;
        Ok(())
    }

    /// Moves one pair of a device, or one queue of an uplink, to another worker, under traffic and without loss.
    ///
    /// # Errors
    /// [`EngineError::NoDevice`], [`EngineError::PairIndex`], [`EngineError::NoWorker`] and [`EngineError::Silent`].
    pub fn relocate(&mut self, id: DeviceId, pair: u16, worker: usize) -> Result<(), EngineError> {
        let device = self.device(id)?;
        let pairs = device.places.len() as u16;
        let from = *device.places.get(usize::from(pair)).ok_or(EngineError::PairIndex { pair, pairs })?;
        let on_switch = device.port.is_some();
        if !self.workers.keys().any(|&other| usize::from(other) == worker) {
            return Err(EngineError::NoWorker { worker });
        }
        if usize::from(from.worker) == worker {
            return Ok(());
        }
        let held = if on_switch { self.ask_all(|| Command::Hold(from)) } else { Ok(Vec::new()) };
        let moved = held.and_then(|held| {
            assert!(held.iter().all(|reply| matches!(reply, Reply::Done)), "one pair moves at a time");
            self.carry(from, worker)
        });
        // Whoever is where now, frames go there.
        let to = *moved.as_ref().unwrap_or(&from);
        self.collect_events();
        if let Some(device) = self.devices.get_mut(&id) {
            device.places[usize::from(pair)] = to;
            if let Some(map) = device.port_map() {
                self.ask_all(|| Command::Lead(map.clone(), to))?;
            }
        }
        moved.map(drop)
    }

    fn carry(&mut self, from: Place, worker: usize) -> Result<Place, EngineError> {
        let seat = match self.ask(from.worker, Command::Depart(from.slot))? {
            Reply::Pair(Some(pair)) => Command::AddPair(pair),
            Reply::Uplink(Some(uplink)) => Command::AddUplink(uplink),
            _ => return Err(EngineError::Silent { worker: from.worker }),
        };
        self.count_slots(from.worker, -1);
        self.place(worker, seat)
    }

    /// The pairs that a worker serves.
    pub(super) fn served_by(&self, worker: u16) -> Vec<(DeviceId, u16)> {
        let pairs = |(&id, device): (&DeviceId, &super::Device)| {
            let here = |&(_, place): &(usize, &Place)| place.worker == worker;
            device.places.iter().enumerate().filter(here).map(|(pair, _)| (id, pair as u16)).collect::<Vec<_>>()
        };
        self.devices.iter().flat_map(pairs).collect()
    }

    /// The worker that has least to do, as far as is known: on this node, or else on the first worker's.
    pub(super) fn least_loaded(&self, node: Option<usize>) -> usize {
        self.least_loaded_of(node, |_| true).unwrap_or_default().into()
    }

    pub(super) fn least_loaded_of(&self, node: Option<usize>, may: impl Fn(u16) -> bool) -> Option<u16> {
        let rooms = self.workers.iter().filter(|&(&worker, _)| may(worker)).map(|(&worker, handle)| {
            let node = handle.lcore.and_then(|lcore| self.topology.node_of(lcore));
            (Room { worker, node }, handle.slots_used)
        });
        placement::first(&rooms.collect::<Vec<_>>(), node)
    }
}
