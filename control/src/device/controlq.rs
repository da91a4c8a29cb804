//! The control queue: commands of the driver to the device. ("Control Virtqueue")
//!
//! It is served by the control thread, a bounded number of commands at a time. The device understands how many queue
//! pairs are used; to everything else it answers with an error, as it offers nothing else.

use std::os::fd::OwnedFd;

use virtnet_rings::{Chain, Notifier, PartStore, Queue, Violation, Virtqueue};

/// Commands served at a time; the rest has to wait for the next.
const COMMANDS_PER_TURN: usize = 16;
/// Bytes of a command that we look at: class, command, and the longest argument we know.
const COMMAND_BYTES_MAX: usize = 64;

/// `ack`: the command was done.
pub const VIRTIO_NET_OK: u8 = 0;
/// `ack`: it was not.
pub const VIRTIO_NET_ERR: u8 = 1;
/// Class of the commands about multiqueue. ("Automatic receive steering in multiqueue mode")
pub const VIRTIO_NET_CTRL_MQ: u8 = 4;
/// How many queue pairs are used.
pub const VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET: u8 = 0;

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

    /// Serves commands that are available. `use_pairs` is told of each that says how many queue pairs, of
    /// `queue_pairs_max`, are used, and does so before the driver hears that it is done.
    ///
    /// # Errors
    /// The driver broke a rule. Nothing is served any more.
    pub fn serve(&mut self, queue_pairs_max: u16, mut use_pairs: impl FnMut(u16)) -> Result<(), Violation> {
        if self.broken {
            return Ok(());
        }
        self.queue.kick().drain();
        let (chains, violation) = self.queue.take_list(COMMANDS_PER_TURN, &mut self.store);
        for mut chain in chains {
            let ack = match parse(&chain, queue_pairs_max) {
                Some(pairs) => {
                    use_pairs(pairs);
                    VIRTIO_NET_OK
                }
                None => VIRTIO_NET_ERR,
            };
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

/// The number of queue pairs that a command asks for, if that is what it does and if it may.
fn parse(chain: &Chain, queue_pairs_max: u16) -> Option<u16> {
    let mut command = [0; COMMAND_BYTES_MAX];
    let mut len = 0;
    // Copied once, and the copy is looked at.
    for part in chain.parts.iter().take(chain.parts.readable()) {
        len += part.read(&mut command[len..]);
    }
    match command[..len] {
        [VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, low, high, ..] => {
            Some(u16::from_le_bytes([low, high])).filter(|pairs| (1..=queue_pairs_max).contains(pairs))
        }
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
