//! The driver: DPDK's `net_virtio_user`, one port a guest.

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, ensure};
use dpdk_sys::{Eal, Port, PortOptions};

use super::bench::PATIENCE;
use super::frames::{Inspector, Maker, announcement};
use super::setup::{Pools, Setup};
use crate::args::Direction;
use crate::frame::guest_mac;

/// Makes a guest's port; waits for its back end.
///
/// # Errors
/// What DPDK objects to.
pub fn port(eal: &Eal, setup: &Setup, pools: &Pools, guest: usize, socket: &Path) -> Result<Port> {
    let mac = guest_mac(guest as u16).map(|byte| format!("{byte:02x}")).join(":");
    let Setup { number, ring, queue_size, .. } = setup;
    let name = format!("net_virtio_user{number}_{guest}");
    let arguments = format!("path={},mac={mac},queues=1,queue_size={queue_size},{ring}", socket.display());
    let options = PortOptions { queue_size: *queue_size, pool: pools.guest_receive };
    Ok(Port::new(eal, &name, &arguments, options)?)
}

/// The guests of one device.
#[derive(Debug)]
pub struct Guests {
    ports: Vec<Port>,
    maker: Option<Maker>,
    inspector: Inspector,
    receives: bool,
}

impl Guests {
    /// The first one sends, the last one receives.
    ///
    /// # Errors
    /// There are not enough buffers.
    pub fn new(ports: Vec<Port>, setup: &Setup, pools: &Pools) -> Result<Self> {
        let sends = setup.direction != Direction::ToGuest;
        let maker = sends.then(|| Maker::new(pools.guest_transmit, setup.sizes, setup.burst, 1)).transpose()?;
        let receives = setup.direction != Direction::FromGuest;
        Ok(Guests { ports, maker, inspector: Inspector::new(setup.burst), receives })
    }

    /// Lets the receiver say who it is, as guests do when they come: a switch that has not heard of it floods its frames.
    ///
    /// # Errors
    /// It was not heard.
    pub fn announce(&mut self, pools: &Pools, mut device_turns: impl FnMut()) -> Result<()> {
        let [sender, receiver] = &mut self.ports[..] else { return Ok(()) };
        let mut burst = announcement(pools.guest_transmit)?;
        receiver.transmit(&mut burst);
        let deadline = Instant::now() + PATIENCE;
        while sender.receive(&mut burst) == 0 {
            ensure!(
                Instant::now() < deadline,
                "what a guest announces does not reach the other in {} s",
                PATIENCE.as_secs()
            );
            device_turns();
        }
        burst.free();
        Ok(())
    }

    /// Makes ready what is sent next.
    ///
    /// # Errors
    /// There are no buffers left.
    pub fn prepare(&mut self) -> Result<()> {
        if let Some(maker) = &mut self.maker {
            maker.prepare()?;
        }
        Ok(())
    }

    /// Sends what is ready. Returns how many frames went.
    #[inline]
    pub fn transmit(&mut self) -> usize {
        let Some(maker) = &mut self.maker else { return 0 };
        self.ports[0].transmit(maker.front())
    }

    /// Receives up to a burst. Returns how many frames came.
    #[inline]
    pub fn receive(&mut self) -> usize {
        let last = self.ports.len() - 1;
        if self.receives { self.ports[last].receive(self.inspector.arrived()) } else { 0 }
    }

    /// Checks and frees what was received.
    ///
    /// # Errors
    /// A frame is not as it was sent.
    pub fn inspect(&mut self) -> Result<()> {
        self.inspector.inspect()
    }

    /// What has arrived.
    pub fn inspector(&mut self) -> &mut Inspector {
        &mut self.inspector
    }

    /// Whether they send.
    pub fn sends(&self) -> bool {
        self.maker.is_some()
    }

    /// Whether they receive.
    pub fn receives(&self) -> bool {
        self.receives
    }

    /// Frames that were sent, and their bytes.
    pub fn sent(&self) -> (u64, u64) {
        self.maker.as_ref().map_or((0, 0), Maker::sent)
    }
}
