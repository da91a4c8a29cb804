//! Ethernet ports for threads that are not DPDK's: virtual devices, and hardware that it has a driver for.
//!
//! Such a thread has no number among lcores, so pools are without caches of lcores for it: each buffer is taken from and given back
//! to what all threads share, a burst at a time. So nothing is to be registered, and a queue may go from one thread to another.

// UNSAFETY: calls of the shim.
#![expect(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::burst::Burst;
use crate::eal;
use crate::error::Error;
use crate::pool::{Pool, PoolOptions};
use crate::port::Device;
use crate::shim;

/// Descriptors of each queue.
const QUEUE_SIZE: u16 = 1024;
/// What both queues and a few bursts hold; a pool is best filled with a power of two less one.
const BUFFERS: u32 = 4095;

/// A device that is started, and after it what its buffers are from.
#[derive(Debug)]
struct Started {
    device: Device,
    buffers: Buffers,
}

#[derive(Debug)]
struct Buffers(Pool);

// SAFETY: DPDK keeps its pools together for all threads; who may use which queue of the device is said where it is used.
unsafe impl Send for Started {}
// SAFETY: likewise.
unsafe impl Sync for Started {}

impl Drop for Buffers {
    fn drop(&mut self) {
        // SAFETY: the device was the last to take buffers from it.
        unsafe { self.0.end() };
    }
}

/// The port's queue each way. The device is taken away, and can be had again, when this and its [`Link`] are dropped.
#[derive(Debug)]
pub struct Interface {
    started: Arc<Started>,
}

/// Tells about the port's link.
#[derive(Debug)]
pub struct Link {
    started: Arc<Started>,
}

impl Interface {
    /// Bytes of a frame that fit into a buffer.
    pub const ROOM_BYTES: u16 = 2048;

    /// Starts DPDK if need be, and the port of the device with these devargs: `net_tap0,iface=tap0`, `0000:08:00.0`,
    /// `auxiliary:mlx5_core.sf.4`. It takes all frames, whatever their address. Where the first device of a process is virtual, all do
    /// without huge pages.
    ///
    /// # Errors
    /// What DPDK objects to; nothing is left of the device then.
    pub fn open(devargs: &str) -> Result<(Self, Link), Error> {
        static POOLS: AtomicU32 = AtomicU32::new(0);
        let (name, _) = devargs.split_once(',').unwrap_or((devargs, ""));
        let is_hardware = name.contains(':');
        eal::start_for_all(is_hardware)?;
        let number = POOLS.fetch_add(1, Ordering::Relaxed);
        let options = PoolOptions { buffers: BUFFERS, cache: 0, room_bytes: Self::ROOM_BYTES };
        let buffers = Buffers(Pool::make(&format!("interface_{number}"), options)?);
        let device = Device::open(devargs, QUEUE_SIZE, buffers.0)?;
        // SAFETY: the port is there.
        match unsafe { shim::shim_port_take_all(device.port()) } {
            0 => {}
            code => return Err(Error::refused(format!("making {devargs} promiscuous"), code)),
        }
        let started = Arc::new(Started { device, buffers });
        Ok((Self { started: started.clone() }, Link { started }))
    }

    /// Adds `count` frames of no length, to be sent: all, or none if there are too few buffers. Says whether there were enough.
    #[inline]
    pub fn fill(&self, burst: &mut Burst, count: usize) -> bool {
        burst.fill(self.started.buffers.0, count)
    }

    /// Receives as many frames as have come and there is room for. Returns how many that were.
    #[inline]
    pub fn receive(&mut self, burst: &mut Burst) -> usize {
        // SAFETY: only an interface receives, and there is one of a device.
        unsafe { self.started.device.receive(burst) }
    }

    /// Transmits the first `count` frames of a burst, as many as there is room for now; the others stay. Returns how many went.
    #[inline]
    pub fn transmit(&mut self, burst: &mut Burst, count: usize) -> usize {
        // SAFETY: only an interface transmits, and there is one of a device.
        unsafe { self.started.device.transmit(burst, count) }
    }
}

impl Link {
    /// Whether it is up; `None` where the device has been taken out.
    pub fn is_up(&self) -> Option<bool> {
        let device = &self.started.device;
        // SAFETY: the port is there.
        let is_removed = unsafe { shim::shim_port_is_removed(device.port()) } != 0;
        (!is_removed).then(|| device.is_up())
    }
}
