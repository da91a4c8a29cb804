//! The in-flight buffer: what a back end that dies leaves for the one after it. ("Inflight I/O tracking")
//!
//! Rings here are served in order, so all that has to outlive us is how far each has come; the split ring tells that
//! itself, and the packed one in its region of this buffer.

use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use virtnet_rings::Layout;
use virtnet_rings::inflight::{Region, region_len_bytes};

use super::super::message::{Allowed, Inflight, ProtocolError};
use super::{Backend, Refusal};

/// How many rings a buffer has regions for, and how large they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    layout: Layout,
    queues: u16,
    queue_size: u16,
}

impl Shape {
    /// What a message asks for, if the device could have that many rings of that size.
    pub fn new(
        request: &'static str,
        asked: &Inflight,
        layout: Layout,
        device: &impl Backend,
    ) -> Result<Self, ProtocolError> {
        let within = |field, found: u16, max: u64| {
            let allowed = Allowed::Between(1, max);
            let fits = (1..=max).contains(&found.into());
            if fits { Ok(()) } else { Err(ProtocolError::Field { request, field, found: found.into(), allowed }) }
        };
        within("num queues", asked.num_queues, device.ring_count() as u64)?;
        within("queue size", asked.queue_size, device.queue_size_max().into())?;
        Ok(Self { layout, queues: asked.num_queues, queue_size: asked.queue_size })
    }

    /// Bytes of the whole buffer: at most a few MiB for every ring a device can have.
    pub fn len_bytes(&self) -> u64 {
        u64::from(self.queues) * region_len_bytes(self.layout, self.queue_size)
    }
}

/// A new buffer, all zero, that neither end can cut short.
pub fn create(len_bytes: u64) -> Result<OwnedFd, Errno> {
    let file = rustix::fs::memfd_create("vhost-user-inflight", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&file, len_bytes)?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(file)
}

/// A buffer that a front end has given back.
#[derive(Debug)]
pub struct Buffer {
    shape: Shape,
    file: OwnedFd,
    offset_bytes: u64,
}

impl Buffer {
    /// Checks that the file holds what the message says.
    pub fn new(request: &'static str, shape: Shape, given: &Inflight, file: OwnedFd) -> Result<Self, Refusal> {
        if given.mmap_size < shape.len_bytes() {
            let allowed = Allowed::Between(shape.len_bytes(), u64::MAX);
            return Err(ProtocolError::Field { request, field: "mmap size", found: given.mmap_size, allowed }.into());
        }
        let this = Self { shape, file, offset_bytes: given.mmap_offset };
        for index in 0..shape.queues {
            this.region(request, index.into(), shape.layout, shape.queue_size)?;
        }
        Ok(this)
    }

    /// The region of a ring; `None` for one the buffer does not track, or not in this shape.
    pub fn region(
        &self,
        request: &'static str,
        index: usize,
        layout: Layout,
        size: u16,
    ) -> Result<Option<Region>, Refusal> {
        let Shape { queues, queue_size, .. } = self.shape;
        if index >= queues.into() || size > queue_size || layout != self.shape.layout {
            return Ok(None);
        }
        let offset = self.offset_bytes.checked_add(index as u64 * region_len_bytes(layout, queue_size));
        let allowed = Allowed::Such("such that the buffer ends below 2^64");
        let field = "mmap offset";
        let refused = ProtocolError::Field { request, field, found: self.offset_bytes, allowed };
        let region = Region::map(&self.file, offset.ok_or(refused)?, layout, queue_size);
        region.map(Some).map_err(|source| Refusal::Map { request, source })
    }
}
