//! The control queue: commands of the driver to the device. ("Control Virtqueue")
//!
//! It is served by the control thread, a bounded number of commands at a time. What is no [`Command`] is answered with an error:
//! nothing else is offered.

use std::os::fd::OwnedFd;

use virtnet_rings::{Chain, Notifier, PartStore, Queue, Violation, Virtqueue};

/// Commands served at a time; the rest has to wait for the next.
const COMMANDS_PER_TURN: usize = 16;
/// Bytes of a command that we look at: class, command, and a number, which all that we know have.
const COMMAND_BYTES: usize = 4;

/// `ack`: the command was done.
pub const VIRTIO_NET_OK: u8 = 0;
/// `ack`: it was not.
pub const VIRTIO_NET_ERR: u8 = 1;
/// Class of the commands about VLANs. ("VLAN Filtering")
const VIRTIO_NET_CTRL_VLAN: u8 = 2;
const VIRTIO_NET_CTRL_VLAN_ADD: u8 = 0;
const VIRTIO_NET_CTRL_VLAN_DEL: u8 = 1;
/// Class of the commands about multiqueue. ("Automatic receive steering in multiqueue mode")
const VIRTIO_NET_CTRL_MQ: u8 = 4;
const VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET: u8 = 0;

/// What a driver asks for; whether it may is for the device to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// So many queue pairs are used.
    UsePairs(u16),
    /// Frames of this VLAN are taken.
    JoinVlan(u16),
    /// And not any more.
    LeaveVlan(u16),
}

/// A control queue in use.
#[derive(Debug)]
pub struct ControlQueue {
    queue: Queue,
    store: PartStore,
    broken: bool,
    has_work: bool,
}

impl ControlQueue {
    /// Serves a queue.
    pub fn new(queue: Queue) -> Self {
        Self { queue, store: PartStore::new(COMMANDS_PER_TURN), broken: false, has_work: false }
    }

    /// What the driver kicks.
    pub fn kick(&self) -> Option<&OwnedFd> {
        self.queue.kick().eventfd()
    }

    /// Whether commands were left for the next time.
    pub fn has_work(&self) -> bool {
        self.has_work
    }

    /// Where it stands.
    pub fn base(&self) -> u32 {
        self.queue.base()
    }

    /// Changes where used-buffer notifications go.
    pub fn set_call(&mut self, call: Notifier) {
        *self.queue.call() = call;
    }

    /// Serves commands that are available. `obey` does each before the driver hears that it is done, or says that it may not be.
    ///
    /// # Errors
    /// The driver broke a rule. Nothing is served any more.
    pub fn serve(&mut self, mut obey: impl FnMut(Command) -> bool) -> Result<(), Violation> {
        if self.broken {
            return Ok(());
        }
        self.queue.kick().drain();
        let (chains, violation) = self.queue.take_list(COMMANDS_PER_TURN, &mut self.store);
        for mut chain in chains {
            let ack = if parse(&chain).is_some_and(&mut obey) { VIRTIO_NET_OK } else { VIRTIO_NET_ERR };
            let len_bytes = acknowledge(&chain, &self.queue, ack);
            self.queue.return_used(&[chain.used(len_bytes)]);
            self.store.give_back(chain.parts.take_list());
        }
        if self.queue.wants_notification() {
            self.queue.call().notify();
        }
        self.has_work = false;
        if let Some(violation) = violation {
            self.broken = true;
            return Err(violation);
        }
        self.has_work = self.queue.arm();
        Ok(())
    }
}

fn parse(chain: &Chain) -> Option<Command> {
    let mut command = [0; COMMAND_BYTES];
    let mut len = 0;
    // Copied once, and the copy is looked at.
    for part in chain.parts.iter().take(chain.parts.readable()) {
        len += part.read(&mut command[len..]);
    }
    let [class, command, low, high, ..] = command[..len] else { return None };
    let number = u16::from_le_bytes([low, high]);
    match (class, command) {
        (VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN_ADD) => Some(Command::JoinVlan(number)),
        (VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN_DEL) => Some(Command::LeaveVlan(number)),
        (VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET) => Some(Command::UsePairs(number)),
        _ => None,
    }
}

/// Writes `ack` where the driver has left a byte for it; gives back how many bytes were written.
fn acknowledge(chain: &Chain, queue: &Queue, ack: u8) -> u32 {
    let writable = chain.parts.iter().skip(chain.parts.readable()).find(|part| !part.is_empty());
    let Some(part) = writable.map(|part| part.first(1)) else { return 0 };
    let written = part.write(&[ack]);
    queue.log_written(part);
    written as u32
}
