//! What both transports have in common: sockets, framing, one session after another, and what a session wants of its device.
//!
//! * [`listener`]: sockets in the file system; [`entrance`]: one that listens, in an epoll loop.
//! * [`connection`]: messages over a socket, descriptors passed. [`line`]: descriptors that notify.
//! * [`backend`]: a device as a session sees it.
//! * [`endpoint`]: one device's place in the file system, [`session`] after session, of whichever protocol.

pub mod backend;
pub mod connection;
mod counters;
#[cfg(test)]
pub(crate) mod diary;
pub mod endpoint;
pub mod entrance;
pub mod line;
pub mod listener;
pub mod session;

use virtnet_rings::spec::status::{DEVICE_NEEDS_RESET, FAILED};

pub use backend::{Backend, Resetter};
pub use counters::Counters;
pub use session::Session;

/// What others than the driver may add to the device status field.
pub const STATUS_ADDABLE: u8 = DEVICE_NEEDS_RESET | FAILED;

/// What became of a look at the socket.
#[derive(Debug)]
pub enum Served<R, E> {
    /// A message was taken; there may be another.
    Message,
    /// A message was taken and refused.
    Refused(R),
    /// Nothing has come.
    Nothing,
    /// The front end has left, or cannot be understood any more (why).
    Ended(Option<E>),
}
