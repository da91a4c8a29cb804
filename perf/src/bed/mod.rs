//! Test beds: a device with its guests' queues attached, ready for load.

mod attached;
mod fleet;
mod in_process;
mod one_core;

use anyhow::Result;
use rustix::process::Pid;
use virtnet_engine::LcoreLoad;

pub use attached::{Attached, Door, default_direction, division};
pub use fleet::{Fleet, Seat};
pub use in_process::InProcess;
pub use one_core::OneCore;

use crate::load::Load;

/// What a device counted, where it can be asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Frames that came out of transmitqs and went on.
    pub from_guest: u64,
    /// Bytes of these.
    pub from_guest_bytes: u64,
    /// Frames dropped for whatever reason, and counted.
    pub drops: u64,
}

/// A device under test.
pub trait Bed {
    /// The load that drives it.
    fn load(&mut self) -> &mut Load;

    /// What the device counted since it was made; `None` where it cannot be asked.
    ///
    /// # Errors
    /// It does not answer.
    fn counted(&mut self) -> Result<Option<Counted>>;

    /// How busy its workers have been since this was last asked; none where they cannot be asked.
    fn workers(&mut self) -> Vec<LcoreLoad> {
        Vec::new()
    }

    /// The process that it is in, as far as known.
    fn process(&self) -> Option<Pid>;

    /// Stops its queues and gives everything up.
    ///
    /// # Errors
    /// It does not let go.
    fn dismantle(self: Box<Self>) -> Result<()>;
}
