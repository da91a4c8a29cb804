//! PCI functions: what each is called, what it has, and how it is set.

mod counting;
mod fault;
pub mod identity;
mod moderation;
pub mod pools;
mod resets;

use std::path::{Path, PathBuf};

pub use counting::Counting;
pub use fault::{Fault, Faults};
pub use identity::{Id, Identity, Seat};
pub use moderation::{Coalescing, PeriodMode};
pub use pools::{Pool, Share};
pub use resets::Resets;

use crate::config::{self, Mode, Port, Transport};
use crate::device::Spec;
use crate::qemu::Place;

/// Where a function and its front end meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    /// The socket.
    pub path: PathBuf,
    /// What the function is served as.
    pub transport: Transport,
    /// Whether we listen there or connect to it.
    pub mode: Mode,
    /// Who may connect, where we listen.
    pub permissions: u32,
}

/// One function, beside the device that stands for it.
#[derive(Clone, Debug)]
pub struct Function {
    /// Its names.
    pub identity: Identity,
    /// What its device is made as.
    pub spec: Spec,
    /// Its MSI-X vectors and queue pairs. A share that is not usable has no device.
    pub share: Share,
    /// What its SF is connected to.
    pub port: Port,
    /// Where its front end comes to.
    pub socket: Socket,
    /// The packet counters, as operators switch them.
    pub packet_counters: Counting,
    /// The drop counter, likewise.
    pub drop_counter: Counting,
    /// How its notifications are held back.
    pub coalescing: Coalescing,
    /// Where it is plugged, if that is a running guest that the configuration knows.
    pub place: Option<Place>,
}

impl Function {
    /// A static PF that the configuration describes.
    pub fn configured(config: &config::Device, identity: Identity, run_dir: &Path) -> Self {
        let &config::Device { ref socket, transport, mode, socket_mode: permissions, .. } = config;
        let socket = Socket { path: run_dir.join(socket), transport, mode, permissions };
        Self::new(identity, config.into(), config.port.clone(), socket)
    }

    /// A function whose vectors are as many as its queue pairs need.
    pub fn new(identity: Identity, spec: Spec, port: Port, socket: Socket) -> Self {
        let share = Share { msix: pools::msix_of(spec.queue_pairs), pairs: spec.queue_pairs };
        let (packet_counters, drop_counter, coalescing, place) = Default::default();
        Self { identity, spec, share, port, socket, packet_counters, drop_counter, coalescing, place }
    }
}
