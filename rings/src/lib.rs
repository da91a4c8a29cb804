//! Virtqueues over shared guest memory: what the driver and the device share.
//!
//! A [`QueueSetup`] and a [`memory::GuestMemory`] make a [`Queue`], split or packed, with every check on its shape made.
//! From then on [`Virtqueue::take_available`] gives [`Chain`]s, whose parts are already translated and checked, and
//! [`Virtqueue::return_used`] hands them back, a burst at a time. What a driver breaks is a [`Violation`], which ends
//! the queue; what is wrong with a single chain is a [`Fault`], which ends that chain.
//!
//! The driver's side, honest and otherwise, is in `guest` (feature `guest`).
//!
//! May use: nothing of ours.

mod chain;
#[cfg(feature = "guest")]
pub mod guest;
pub mod inflight;
pub mod memory;
mod notify;
pub mod packed;
mod setup;
pub mod spec;
pub mod split;
mod sync;
mod violation;
mod virtqueue;

pub use chain::{Chain, PARTS_MAX, PartList, PartStore, Parts};
pub use memory::Access;
pub use notify::{Bell, NotificationData, Notifier, passed_event, passed_packed_event};
pub use setup::{Layout, QueueAddresses, QueueSetup, SetupError};
pub use violation::{Fault, Violation};
pub use virtqueue::{Queue, Taken, Used, Virtqueue};
