//! The control queue: commands of the driver to the device. ("Control Virtqueue")
//!
//! It is served by the control thread, a bounded number of commands at a time. What is no [`Command`] is answered with an error:
//! nothing else is offered.

use std::os::fd::OwnedFd;

use virtnet_rings::{Chain, Notifier, PartStore, Queue, Violation, Virtqueue};

use crate::config::Mac;

/// Commands served at a time; the rest has to wait for the next.
const COMMANDS_PER_TURN: usize = 16;
/// Bytes of a command that we look at. Only a table of more than 600 addresses has more.
const COMMAND_BYTES_MAX: usize = 4096;

/// `ack`: the command was done.
pub const VIRTIO_NET_OK: u8 = 0;
/// `ack`: it was not.
pub const VIRTIO_NET_ERR: u8 = 1;
/// Class of the commands about what is received; a command is the number of a mode. ("Packet Receive Filtering")
const VIRTIO_NET_CTRL_RX: u8 = 0;
const VIRTIO_NET_CTRL_RX_NOBCAST: u8 = 5;
/// Class of the commands about addresses. ("Setting MAC Address Filtering")
const VIRTIO_NET_CTRL_MAC: u8 = 1;
const VIRTIO_NET_CTRL_MAC_TABLE_SET: u8 = 0;
const VIRTIO_NET_CTRL_MAC_ADDR_SET: u8 = 1;
/// Class of the commands about VLANs. ("VLAN Filtering")
const VIRTIO_NET_CTRL_VLAN: u8 = 2;
const VIRTIO_NET_CTRL_VLAN_ADD: u8 = 0;
const VIRTIO_NET_CTRL_VLAN_DEL: u8 = 1;
/// Class of the commands about multiqueue. ("Automatic receive steering in multiqueue mode")
const VIRTIO_NET_CTRL_MQ: u8 = 4;
const VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET: u8 = 0;

/// Class of the commands about offloads. ("Offloads State Configuration")
const VIRTIO_NET_CTRL_GUEST_OFFLOADS: u8 = 5;
const VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET: u8 = 0;

/// What a driver asks for; whether it may is for the device to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// A receive mode, by its number, is on or off.
    SetMode(u8, bool),
    /// What else is received than the device's own address; `None` is more than we keep.
    SetAddresses(Option<Vec<[u8; 6]>>),
    /// The device's own address.
    SetAddress(Mac),
    /// So many queue pairs are used.
    UsePairs(u16),
    /// Frames of this VLAN are taken.
    JoinVlan(u16),
    /// And not any more.
    LeaveVlan(u16),
    /// Frames may come with these offloads, by their feature bits, and no others.
    SetOffloads(u64),
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
    let mut command = [0; COMMAND_BYTES_MAX + 1];
    let mut len = 0;
    // Copied once, and the copy is looked at.
    for part in chain.parts.iter().take(chain.parts.readable()) {
        len += part.read(&mut command[len..]);
    }
    let [class, command, argument @ ..] = &command[..len] else { return None };
    let number = || argument.first_chunk().map(|bytes| u16::from_le_bytes(*bytes));
    Some(match (*class, *command) {
        (VIRTIO_NET_CTRL_RX, mode @ ..=VIRTIO_NET_CTRL_RX_NOBCAST) => Command::SetMode(mode, *argument.first()? != 0),
        (VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET) if len > COMMAND_BYTES_MAX => Command::SetAddresses(None),
        (VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET) => Command::SetAddresses(Some(addresses(argument)?)),
        (VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET) => Command::SetAddress(Mac(*argument.first_chunk()?)),
        (VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN_ADD) => Command::JoinVlan(number()?),
        (VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN_DEL) => Command::LeaveVlan(number()?),
        (VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET) => Command::UsePairs(number()?),
        (VIRTIO_NET_CTRL_GUEST_OFFLOADS, VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET) => {
            Command::SetOffloads(u64::from_le_bytes(*argument.first_chunk()?))
        }
        _ => return None,
    })
}

/// Those of the two tables, of stations and of groups: each a number, and as many addresses.
fn addresses(mut tables: &[u8]) -> Option<Vec<[u8; 6]>> {
    let mut all = Vec::new();
    for _ in 0..2 {
        let (count, rest) = tables.split_first_chunk()?;
        let len_bytes = usize::try_from(u32::from_le_bytes(*count)).ok()?.checked_mul(6)?;
        let (table, rest) = rest.split_at_checked(len_bytes)?;
        all.extend_from_slice(table.as_chunks().0);
        tables = rest;
    }
    Some(all)
}

/// Writes `ack` where the driver has left a byte for it; gives back how many bytes were written.
fn acknowledge(chain: &Chain, queue: &Queue, ack: u8) -> u32 {
    let writable = chain.parts.iter().skip(chain.parts.readable()).find(|part| !part.is_empty());
    let Some(part) = writable.map(|part| part.first(1)) else { return 0 };
    let written = part.write(&[ack]);
    queue.log_written(part);
    written as u32
}
