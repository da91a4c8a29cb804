//! Workers come and go while devices are served.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use super::{Engine, EngineError, Handle, check_lcores};
use crate::command::{Command, Reply};
use crate::port::switch::{Lane, Link, WORKERS_MAX};
use crate::worker::{Desk, Worker};

impl Handle {
    pub(super) fn new(desk: &Arc<Desk>, lcore: Option<usize>) -> Self {
        Handle { desk: desk.clone(), thread: None, lcore, slots_used: 0, is_silent: false, busy_ns: 0 }
    }
}

/// Puts a worker on its lcore.
pub(super) fn start(
    me: u16,
    lcore: Option<usize>,
    worker: Worker,
    started: Instant,
) -> std::io::Result<JoinHandle<()>> {
    let name = lcore.map_or_else(|| format!("worker-{me}"), |lcore| format!("lcore-{lcore}"));
    let lcore = lcore.map(|id| core_affinity::CoreId { id });
    std::thread::Builder::new().name(name).spawn(move || {
        if let Some(lcore) = lcore {
            core_affinity::set_for_current(lcore);
        }
        worker.run(started);
    })
}

impl Engine {
    /// Serves with these lcores from now on, as [`super::EngineConfig::lcores`] says them. Workers on lcores that stay are left
    /// alone; what those have that go is moved to those with least to do, and loses no frame.
    ///
    /// # Errors
    /// [`EngineError::Workers`], also where new ones and old ones together are too many; [`EngineError::Lcore`];
    /// [`EngineError::Start`]: everything is as before then. [`EngineError::Silent`].
    pub fn set_lcores(&mut self, lcores: &[Option<usize>]) -> Result<(), EngineError> {
        let found = lcores.len();
        if found == 0 || found > WORKERS_MAX {
            return Err(EngineError::Workers { found });
        }
        check_lcores(lcores)?;
        let mut wanted = lcores.to_vec();
        let mut going: Vec<u16> = Vec::new();
        for (&worker, handle) in &self.workers {
            match wanted.iter().position(|&lcore| lcore == handle.lcore) {
                Some(at) => drop(wanted.remove(at)),
                None => going.push(worker),
            }
        }
        let at_once = self.workers.len() + wanted.len();
        if at_once > WORKERS_MAX {
            return Err(EngineError::Workers { found: at_once });
        }
        let mut hired = Vec::new();
        for lcore in wanted {
            match self.hire(lcore) {
                Ok(worker) => hired.push(worker),
                Err(error) => {
                    hired.into_iter().try_for_each(|worker| self.retire(worker, &[]))?;
                    return Err(error);
                }
            }
        }
        going.iter().try_for_each(|&worker| self.retire(worker, &going))
    }

    /// Starts one more worker.
    fn hire(&mut self, lcore: Option<usize>) -> Result<u16, EngineError> {
        let free = (0..WORKERS_MAX as u16).find(|worker| !self.workers.contains_key(worker));
        let me = free.ok_or(EngineError::Workers { found: WORKERS_MAX + 1 })?;
        let desk = Desk::new()?;
        let lane = Lane::new(me, self.fdb.clone(), Vec::new());
        let worker = Worker::alone(me, desk.clone(), lane, self.burst, self.idle);
        let thread = start(me, lcore, worker, self.started)?;
        let others: Vec<_> = self.workers.iter().map(|(&other, handle)| (other, handle.desk.clone())).collect();
        self.workers.insert(me, Handle { thread: Some(thread), ..Handle::new(&desk, lcore) });
        for (other, their_desk) in others {
            let (near, far) = Link::pair();
            self.ask(me, Command::Connect(other, Box::new(near), their_desk))?;
            self.ask(other, Command::Connect(me, Box::new(far), desk.clone()))?;
        }
        let maps: Vec<_> = self.devices.values().filter_map(super::Device::port_map).collect();
        maps.into_iter().try_for_each(|map| self.ask(me, Command::SetPort(map)).map(drop))?;
        Ok(me)
    }

    /// Ends a worker, after what it has is with others, but not with those that go too.
    fn retire(&mut self, worker: u16, going: &[u16]) -> Result<(), EngineError> {
        for (id, pair) in self.served_by(worker) {
            let node = self.devices.get(&id).and_then(|device| device.node);
            let to = self.least_loaded_of(node, |other| other != worker && !going.contains(&other));
            let to = to.ok_or(EngineError::Workers { found: 0 })?;
            self.relocate(id, pair, to.into())?;
        }
        self.collect_events();
        for other in self.workers.keys().copied().filter(|&other| other != worker).collect::<Vec<_>>() {
            match self.ask(other, Command::Disconnect(worker))? {
                Reply::Done => {}
                _ => return Err(EngineError::Silent { worker }),
            }
        }
        self.stop(worker);
        self.workers.remove(&worker);
        Ok(())
    }

    /// Ends a worker's thread. Those that are turned by hand are not ours to stop.
    pub(super) fn stop(&mut self, worker: u16) {
        let thread = self.workers.get_mut(&worker).and_then(|handle| handle.thread.take());
        if let Some(thread) = thread
            && self.ask(worker, Command::Stop).is_ok()
        {
            let _ = thread.join();
        }
    }
}
