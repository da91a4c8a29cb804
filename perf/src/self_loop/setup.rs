//! What a loop is made from.

use std::path::{Path, PathBuf};

use anyhow::Result;
use dpdk_sys::{Eal, Pool};

use super::cell::Cell;
use super::frames::{empty_pool, full_pool};
use crate::args::Direction;
use crate::frame::Sizes;

/// More than all queues of the largest size and all bursts in turn hold.
const BUFFERS_SPARE: u32 = 4096;

/// The most guests of a loop.
pub const GUESTS_MAX: usize = 2;

/// Where a guest's socket is.
pub fn socket(folder: &Path, guest: usize) -> PathBuf {
    folder.join(format!("{guest}.sock"))
}

/// What a loop is like, whichever the device.
#[derive(Clone, Debug)]
pub struct Setup {
    /// No two loops of a process have the same.
    pub number: u32,
    /// Which way frames go.
    pub direction: Direction,
    /// How long they are.
    pub sizes: Sizes,
    /// What the driver is told of the ring.
    pub ring: String,
    /// Descriptors.
    pub queue_size: u16,
    /// Frames at a time.
    pub burst: usize,
}

impl Setup {
    /// Of a line of the table.
    pub fn new(number: u32, cell: &Cell, queue_size: u16, burst: usize) -> Self {
        Setup { number, direction: cell.direction, sizes: cell.sizes, ring: cell.arguments(), queue_size, burst }
    }

    /// How many guests there are.
    pub fn guests(&self) -> usize {
        if self.direction == Direction::GuestToGuest { GUESTS_MAX } else { 1 }
    }
}

/// The buffers of all loops.
#[derive(Clone, Copy, Debug)]
pub struct Pools {
    /// What guests receive into.
    pub guest_receive: Pool,
    /// What guests send from, with frames in it.
    pub guest_transmit: Pool,
    /// What DPDK's device receives into.
    pub device_receive: Pool,
    /// What DPDK's device sends from, with frames in it.
    pub device_transmit: Pool,
}

impl Pools {
    /// For loops of that queue size, two at a time.
    ///
    /// # Errors
    /// There is no memory.
    pub fn new(eal: &Eal, queue_size: u16) -> Result<Self> {
        let buffers = buffers(queue_size);
        Ok(Pools {
            guest_receive: empty_pool(eal, "guest_receive", buffers)?,
            guest_transmit: full_pool(eal, "guest_transmit", buffers)?,
            device_receive: empty_pool(eal, "device_receive", buffers)?,
            device_transmit: full_pool(eal, "device_transmit", buffers)?,
        })
    }
}

/// Two loops of two guests have four queues of a kind.
fn buffers(queue_size: u16) -> u32 {
    4 * u32::from(queue_size) + BUFFERS_SPARE
}

/// Memory for all of it, in MiB.
pub fn memory_mib(queue_size: u16) -> u32 {
    // Four pools, 2.5 KiB a buffer with all that is around it, and as much again for rings and what DPDK takes itself.
    64 + (4 * buffers(queue_size) * 5 / 2).div_ceil(1024)
}
