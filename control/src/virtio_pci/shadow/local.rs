//! The ring that the device has instead of its guest's, and its driver: a split queue in memory of ours, whose chains have room for
//! a whole frame each way. The device uses them in the order they were made available in.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use virtnet_rings::memory::{GuestMemory, MemoryError, RegionSpec, Span};
use virtnet_rings::spec::virtq::{VIRTIO_F_VERSION_1, VIRTQ_DESC_F_NEXT, VIRTQ_DESC_F_WRITE};
use virtnet_rings::{Layout, Notifier, Queue, QueueAddresses, QueueSetup, SetupError};

/// Chains.
pub const CHAINS: u16 = 64;
/// Bytes of a chain, the device's and the driver's together: what is longer is no frame, and no command.
pub const CHAIN_BYTES: usize = 68 << 10;

/// Descriptors: one each way.
const SIZE: u16 = 2 * CHAINS;
const AVAILABLE: u64 = 16 * SIZE as u64;
const USED: u64 = AVAILABLE + 8 + 2 * SIZE as u64;
const BUFFERS: u64 = 4096;
const LEN_BYTES: u64 = BUFFERS + CHAINS as u64 * CHAIN_BYTES as u64;

/// Why there is no such ring.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The system gives us no memory.
    #[error(transparent)]
    System(#[from] io::Error),
    /// It cannot be mapped.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// It is no ring.
    #[error(transparent)]
    Setup(#[from] SetupError),
}

/// Its driver.
#[derive(Debug)]
pub struct Local {
    memory: Arc<GuestMemory>,
    /// Chains made available so far, and chains that have come back, both modulo 2^16.
    available: u16,
    used: u16,
}

impl Local {
    /// A ring, and the device's side of it.
    ///
    /// # Errors
    /// [`LocalError`].
    pub fn new(kick: Notifier, call: Notifier) -> Result<(Self, Queue), LocalError> {
        let fd = memfd_create("shadow virtqueue", MemfdFlags::CLOEXEC).map_err(io::Error::from)?;
        ftruncate(&fd, LEN_BYTES).map_err(io::Error::from)?;
        let region = RegionSpec { gpa: 0, len_bytes: LEN_BYTES, frontend_address: 0, fd, offset_bytes: 0 };
        let memory = GuestMemory::new(vec![region])?;
        let setup = QueueSetup {
            layout: Layout::Split,
            size: SIZE,
            addresses: QueueAddresses { descriptor_area: 0, driver_area: AVAILABLE, device_area: USED },
            base: Layout::Split.base(),
            features: 1 << VIRTIO_F_VERSION_1,
            call,
            kick,
            log: None,
        };
        let queue = setup.activate(memory.clone())?;
        Ok((Self { memory, available: 0, used: 0 }, queue))
    }

    /// Chains that can be made available.
    pub fn room(&self) -> usize {
        usize::from(CHAINS - self.in_flight())
    }

    /// Chains that the device has.
    pub fn in_flight(&self) -> u16 {
        self.available.wrapping_sub(self.used)
    }

    /// Makes a chain available, of these bytes and room for `writable` more; of [`CHAIN_BYTES`] together at most. The device sees it
    /// with [`Self::publish`].
    pub fn offer(&mut self, readable: &[u8], writable: usize) {
        debug_assert!(self.room() > 0 && readable.len() + writable <= CHAIN_BYTES);
        let head = 2 * (self.available % CHAINS);
        let buffer = buffer(self.available);
        self.span(buffer, readable.len()).write(readable);
        let next = if writable > 0 { VIRTQ_DESC_F_NEXT } else { 0 };
        let parts = [(0, readable.len(), next), (readable.len() as u64, writable, VIRTQ_DESC_F_WRITE)];
        // A chain has a descriptor, even where it has no bytes.
        let first = usize::from(readable.is_empty() && writable > 0);
        for (index, (offset, len_bytes, flags)) in (head..).zip(parts).skip(first) {
            let mut descriptor = [0; 16];
            descriptor[..8].copy_from_slice(&(buffer + offset).to_le_bytes());
            descriptor[8..12].copy_from_slice(&(len_bytes as u32).to_le_bytes());
            descriptor[12..14].copy_from_slice(&flags.to_le_bytes());
            descriptor[14..].copy_from_slice(&(index + 1).to_le_bytes());
            self.span(16 * u64::from(index), 16).write(&descriptor);
        }
        let entry = AVAILABLE + 4 + 2 * u64::from(self.available % SIZE);
        self.span(entry, 2).write(&(head + first as u16).to_le_bytes());
        self.available = self.available.wrapping_add(1);
    }

    /// The device sees what was made available.
    pub fn publish(&self) {
        fence(Ordering::SeqCst);
        self.span(AVAILABLE + 2, 2).write(&self.available.to_le_bytes());
        fence(Ordering::SeqCst);
    }

    /// Takes a chain back, if the device has used one: what it has written there, behind the first `readable` bytes, which are ours.
    pub fn take_back(&mut self, readable: usize) -> Option<Vec<u8>> {
        let index = self.span(USED + 2, 2).read_array().map(u16::from_le_bytes);
        fence(Ordering::SeqCst);
        if index == Some(self.used) {
            return None;
        }
        let element = self.span(USED + 4 + 8 * u64::from(self.used % SIZE), 8);
        let len_bytes = element.skip(4).read_array().map_or(0, u32::from_le_bytes) as usize;
        let mut written = vec![0; len_bytes.min(CHAIN_BYTES - readable)];
        // One that is read whole has nothing behind that, and the last of them no address either.
        self.span(buffer(self.used), CHAIN_BYTES).skip(readable as u32).read(&mut written);
        self.used = self.used.wrapping_add(1);
        Some(written)
    }

    fn span(&self, address: u64, len_bytes: usize) -> Span {
        self.memory.span(address, len_bytes as u32).expect("all addresses are ours")
    }
}

/// Where the bytes of a chain are.
fn buffer(chain: u16) -> u64 {
    BUFFERS + u64::from(chain % CHAINS) * CHAIN_BYTES as u64
}
