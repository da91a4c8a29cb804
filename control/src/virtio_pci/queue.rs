//! One queue as its registers describe it.

use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};
use virtnet_engine::caller::Line;
use virtnet_rings::{Layout, Notifier, QueueAddresses};

use super::common::NO_VECTOR;
use super::shadow::Shadow;
use crate::pci::msix::Route;
use crate::transport::Backend;

/// Where a queue's notifications go, to see whether they still do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aim {
    /// Nowhere.
    Nowhere,
    /// To the interrupt pin, in this epoch of its.
    Intx(u32),
    /// To a vector, by this way.
    Vector(u16, Route),
}

/// What a driver rings.
#[derive(Debug)]
struct Doorbell {
    eventfd: OwnedFd,
    /// The client has it, too, and may make it block: somebody else rings it for us then.
    line: Option<Arc<Line>>,
}

impl Doorbell {
    fn new() -> io::Result<Self> {
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { eventfd, line: None })
    }

    fn ring(&self) {
        match &self.line {
            Some(line) => virtnet_rings::Bell::ring(&**line),
            // A counter that is full already says the same thing, so failure is none.
            None => drop(rustix::io::write(&self.eventfd, &1u64.to_ne_bytes())),
        }
    }
}

/// A queue's registers, and what came of them.
#[derive(Debug)]
pub struct VirtQueue {
    /// `queue_size`.
    pub size: u16,
    /// `queue_msix_vector`.
    pub vector: u16,
    /// `queue_enable`.
    pub is_enabled: bool,
    /// `queue_desc`, `queue_driver` and `queue_device`.
    pub addresses: QueueAddresses,
    /// Where it stands, since it was stopped and is to go on.
    pub base: Option<u32>,
    /// Where its notifications go, while the device has it.
    pub runs: Option<Aim>,
    /// What the device has instead, where nobody here can map it.
    pub shadow: Option<Shadow>,
    doorbell: Option<Doorbell>,
}

impl VirtQueue {
    /// As it comes out of a reset.
    pub fn new(size: u16) -> Self {
        let (addresses, base, runs, shadow, doorbell) = Default::default();
        Self { size, vector: NO_VECTOR, is_enabled: false, addresses, base, runs, shadow, doorbell }
    }

    /// The same again. It does not run.
    pub fn reset(&mut self, size: u16) {
        *self = Self { doorbell: self.doorbell.take(), ..Self::new(size) };
    }

    /// Whether some of an area is at one of these addresses.
    pub fn is_at(&self, addresses: &RangeInclusive<u64>, layout: Layout) -> bool {
        let areas = self.addresses.areas(layout, self.size).into_iter();
        areas
            .map(|(gpa, len_bytes)| gpa..=gpa.saturating_add(len_bytes - 1))
            .any(|area| area.start() <= addresses.end() && addresses.start() <= area.end())
    }

    /// What tells the device that the driver has rung.
    ///
    /// # Errors
    /// The system's.
    pub fn kick(&mut self) -> io::Result<Notifier> {
        Ok(Notifier::new(Some(self.doorbell()?.eventfd.try_clone()?)))
    }

    /// The driver rings.
    pub fn ring(&self) {
        if let Some(doorbell) = &self.doorbell {
            doorbell.ring();
        }
    }

    /// What the client can ring itself.
    ///
    /// # Errors
    /// The system's.
    pub fn share(&mut self, device: &mut impl Backend) -> io::Result<BorrowedFd<'_>> {
        let doorbell = self.doorbell()?;
        if doorbell.line.is_none() {
            doorbell.line = Some(device.line(doorbell.eventfd.try_clone()?)?);
        }
        Ok(doorbell.eventfd.as_fd())
    }

    /// Whoever has had the doorbell rings in vain from now on. The queue does not run.
    pub fn unshare(&mut self) {
        self.doorbell.take_if(|doorbell| doorbell.line.is_some());
    }

    fn doorbell(&mut self) -> io::Result<&mut Doorbell> {
        match &mut self.doorbell {
            Some(doorbell) => Ok(doorbell),
            none => Ok(none.insert(Doorbell::new()?)),
        }
    }
}
