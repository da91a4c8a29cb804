//! DPDK's device: `net_vhost`, one port a guest, forwarding as testpmd does.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dpdk_sys::{Burst, Counters, Eal, Port, PortOptions};
use tempfile::TempDir;

use super::frames::Maker;
use super::setup::{GUESTS_MAX, Pools, Setup, socket};
use crate::args::Direction;

/// How long a guest's queues may take to be there.
const PATIENCE: Duration = Duration::from_secs(5);
/// Frames to the guest are made from so many buffers in turn: as many as our source port has.
const FRAMES_IN_TURN: usize = 128;

/// `net_vhost` ports, listening. They serve one bench after another: DPDK takes up to a second to notice a new socket.
#[derive(Debug)]
pub struct Listening {
    ports: Vec<Port>,
    folder: TempDir,
}

impl Listening {
    /// As many as a bench has guests at most.
    ///
    /// # Errors
    /// What DPDK or the system objects to.
    pub fn new(eal: &Eal, queue_size: u16, pools: &Pools) -> Result<Self> {
        let folder = tempfile::tempdir().context("a folder for sockets")?;
        let options = PortOptions { queue_size, pool: pools.device_receive };
        let port = |guest| {
            let arguments = format!("iface={},queues=1", socket(folder.path(), guest).display());
            Port::new(eal, &format!("net_vhost{guest}"), &arguments, options)
        };
        let ports = (0..GUESTS_MAX).map(port).collect::<Result<_, _>>()?;
        Ok(Listening { ports, folder })
    }
}

/// `net_vhost` ports, and what is done with what they receive.
#[derive(Debug)]
pub struct Theirs<'a> {
    ports: &'a mut [Port],
    folder: &'a Path,
    work: Work,
    /// What the first one had received when this was made.
    before: Counters,
}

#[derive(Debug)]
enum Work {
    /// Received and freed.
    Drop(Burst),
    /// Made and transmitted.
    Make(Maker),
    /// Received, and transmitted by the last port.
    Forward(Burst),
}

impl<'a> Theirs<'a> {
    /// For guests yet to come.
    ///
    /// # Errors
    /// What DPDK objects to.
    pub fn new(listening: &'a mut Listening, setup: &Setup, pools: &Pools) -> Result<Self> {
        let Listening { ports, folder } = listening;
        let before = ports[0].counters()?;
        let burst = setup.burst;
        let work = match setup.direction {
            Direction::FromGuest => Work::Drop(Burst::new(burst)),
            Direction::ToGuest => {
                let in_turn = FRAMES_IN_TURN.div_ceil(burst);
                Work::Make(Maker::new(pools.device_transmit, setup.sizes, burst, in_turn)?)
            }
            Direction::Loopback | Direction::GuestToGuest => Work::Forward(Burst::new(burst)),
        };
        Ok(Theirs { ports: &mut ports[..setup.guests()], folder: folder.path(), work, before })
    }

    /// Where guests are to come to.
    pub fn sockets(&self) -> Vec<PathBuf> {
        (0..self.ports.len()).map(|guest| socket(self.folder, guest)).collect()
    }

    /// Waits until the guests' queues are there, or are not any more.
    ///
    /// # Errors
    /// They are not, in time.
    pub fn wait(&self, there: bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.ports.iter().any(|port| port.is_up() != there) {
            ensure!(Instant::now() < deadline, "a link of net_vhost has not changed for {} s", PATIENCE.as_secs());
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Makes ready what the next turn transmits.
    ///
    /// # Errors
    /// There are no buffers left.
    pub fn prepare(&mut self) -> Result<()> {
        if let Work::Make(maker) = &mut self.work {
            maker.prepare()?;
        }
        Ok(())
    }

    /// One burst.
    #[inline]
    pub fn turn(&mut self) {
        let last = self.ports.len() - 1;
        match &mut self.work {
            Work::Drop(burst) => {
                self.ports[0].receive(burst);
                burst.free();
            }
            Work::Make(maker) => {
                self.ports[0].transmit(maker.front());
            }
            Work::Forward(burst) => {
                // What found no room stays, and is the first to go.
                self.ports[0].receive(burst);
                self.ports[last].transmit(burst);
            }
        }
    }

    /// Frames and bytes that came out of the first guest.
    ///
    /// # Errors
    /// The port does not say.
    pub fn fetched(&self) -> Result<(u64, u64)> {
        let counters = self.ports[0].counters()?;
        let Counters { received, received_bytes, .. } = self.before;
        Ok((counters.received - received, counters.received_bytes - received_bytes))
    }

    /// Frames that it has made and sent to the guest.
    pub fn made(&self) -> u64 {
        if let Work::Make(maker) = &self.work { maker.sent().0 } else { 0 }
    }
}
