//! What a session wants of the device it serves.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use virtnet_engine::caller::Line;
use virtnet_rings::{Notifier, Queue};

use crate::device::controlq::Said;

/// Who resets a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resetter {
    /// Its driver, by the device status field.
    Driver,
    /// Its host, the whole function. ("Function Level Reset")
    Function,
    /// Whoever shows it to a guest.
    FrontEnd,
    /// An operator.
    Operator,
}

impl Resetter {
    /// All, in the order in which they are told.
    pub const ALL: [Self; 4] = [Self::Driver, Self::Function, Self::FrontEnd, Self::Operator];

    /// As replies say it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Driver => "driver",
            Self::Function => "function_level",
            Self::FrontEnd => "front_end",
            Self::Operator => "operator",
        }
    }
}

/// A device as a session sees it. Rings are numbered as in the specification: 2 × pair is a receiveq, 2 × pair + 1
/// a transmitq, and the control queue comes last; behind it, the administration virtqueue of a function that can have VFs.
///
/// None of these may wait for anything a guest or a front end does.
pub trait Backend {
    /// Feature bits the device offers. The transport's own are the session's business.
    fn features(&self) -> u64;

    /// How many rings it has, control queue included, and without an administration virtqueue; at most [`crate::vhost_user::message::VRINGS_MAX`].
    fn ring_count(&self) -> usize;

    /// The largest queue size it takes.
    fn queue_size_max(&self) -> u16;

    /// Its configuration space as it is now.
    fn config(&self) -> Vec<u8>;

    /// Restores part of the configuration space after a live migration.
    ///
    /// # Errors
    /// In words, what is allowed.
    fn restore_config(&mut self, offset: usize, bytes: &[u8]) -> Result<(), &'static str>;

    /// The driver has accepted these features. No ring runs.
    fn set_features(&mut self, features: u64);

    /// What its driver has said by the control queue.
    fn said(&self) -> Vec<Said>;

    /// A driver that has acknowledged these features goes on here, and has said this besides what it has said here, if it has
    /// acknowledged the same here. No ring runs.
    ///
    /// # Errors
    /// In words, what is allowed: nothing has changed.
    fn go_on(&mut self, features: u64, said: &[Said]) -> Result<(), &'static str>;

    /// Takes a ring that is set up and serves it. While it is not enabled, nothing arrives through it and what is sent
    /// through it is thrown away ("Ring states").
    ///
    /// # Errors
    /// In words, why it cannot: the ring then does not run.
    fn start_ring(&mut self, index: usize, queue: Queue, enabled: bool) -> Result<(), &'static str>;

    /// Memory that was not there may be there now: a control queue that waits for it is looked at again, soon.
    fn look_again(&mut self);

    /// Stops a ring that runs, finishes what is in flight, and tells where it stands ([`virtnet_rings::Virtqueue::base`]).
    /// After this no byte of guest memory is touched for this ring.
    fn stop_ring(&mut self, index: usize) -> u32;

    /// Makes a line to the front end out of a descriptor of its. Who rings it waits for nothing that the front end does.
    ///
    /// # Errors
    /// The system's.
    fn line(&mut self, descriptor: OwnedFd) -> std::io::Result<Arc<Line>>;

    /// The session is served when there is something to read here, too.
    ///
    /// # Errors
    /// The system's.
    fn watch(&mut self, descriptor: BorrowedFd<'_>) -> std::io::Result<()>;

    /// It is not, any more.
    fn unwatch(&mut self, descriptor: BorrowedFd<'_>);

    /// Changes where the used-buffer notifications of a ring that runs go.
    fn set_call(&mut self, index: usize, call: Notifier);

    /// Enables or disables a ring that runs.
    fn enable_ring(&mut self, index: usize, enabled: bool);

    /// The driver's address from now on, until its device is reset.
    ///
    /// # Errors
    /// In words, what is allowed.
    fn set_address(&mut self, mac: [u8; 6]) -> Result<(), &'static str>;

    /// The driver has reset a ring, which does not run: what it has said of it is forgotten.
    fn reset_ring(&mut self, index: usize);

    /// The device status field was written, and not with 0.
    fn set_status(&mut self, status: u8);

    /// The device begins anew. No ring runs.
    fn reset(&mut self, by: Resetter);

    /// The guest's MTU, in bytes, without the Ethernet header.
    ///
    /// # Errors
    /// In words, what is allowed.
    fn set_mtu(&mut self, mtu: u16) -> Result<(), &'static str>;

    /// The guest has moved here: tell the network where `mac` is now.
    fn announce(&mut self, mac: [u8; 6]);
}
