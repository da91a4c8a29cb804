//! A virtio device as a PCI function, for whoever carries its registers to a driver. ("Virtio Over PCI Bus")
//!
//! * [`layout`]: where registers are.
//! * [`admin`]: what the driver of a function asks of the function's VFs.
//! * [`Function`]: the registers, and the rings that a [`Backend`](crate::transport::Backend) runs as they say.
//! * [`shadow`]: rings in memory that can only be reached by messages.
//!
//! Whatever happens changes what the registers say; then [`Function`] starts and stops rings, and points their notifications,
//! until all is as they say. A write that makes no sense changes nothing, and is told as a [`Refusal`].

pub mod admin;
mod common;
mod function;
pub mod layout;
mod queue;
mod refusal;
pub mod shadow;
#[cfg(test)]
mod tests;

pub use common::NO_VECTOR;
pub use function::{Function, IMAGE_BYTES_MAX, Kind, Stopper, Traits, Unfit, Vfs};
pub use refusal::Refusal;
