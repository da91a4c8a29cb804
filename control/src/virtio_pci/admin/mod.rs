//! The administration virtqueue: what the driver of a function that has VFs asks of these. ("Administration Virtqueues")
//!
//! * [`Admin`]: commands in, answers out.
//! * [`Group`]: what was agreed with the driver, and what becomes of a command.

mod group;

use std::os::fd::OwnedFd;

use virtnet_rings::{Notifier, Queue, Violation};

pub use group::{Group, Members};

use crate::device::command_queue::{CommandQueue, Counts};

/// Commands served at a time: one may stop all queues of a device.
const COMMANDS_PER_TURN: usize = 1;
/// Bytes of a command that we look at: more than all parts of a device have.
const COMMAND_BYTES_MAX: usize = 0x1_0000;
/// Of `struct virtio_admin_cmd`: up to `command_specific_data`, and of its device-writable part up to `command_specific_result`.
const HEADER_BYTES: usize = 24;
const STATUS_BYTES: usize = 8;

/// What a driver asks for. What was not given is 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// `opcode`.
    pub opcode: u16,
    /// `group_type`.
    pub group: u16,
    /// `group_member_id`.
    pub member: u64,
    /// `command_specific_data`.
    pub data: Vec<u8>,
    /// Bytes that there is room for in `command_specific_result`.
    pub room: usize,
}

impl Command {
    fn read(bytes: &[u8], room: usize) -> Self {
        let mut header = [0; HEADER_BYTES];
        let (known, data) = bytes.split_at(bytes.len().min(HEADER_BYTES));
        header[..known.len()].copy_from_slice(known);
        let [o0, o1, g0, g1, _, _, _, _, _, _, _, _, _, _, _, _, member @ ..] = header;
        Self {
            opcode: u16::from_le_bytes([o0, o1]),
            group: u16::from_le_bytes([g0, g1]),
            member: u64::from_le_bytes(member),
            data: data.to_vec(),
            room: room.saturating_sub(STATUS_BYTES),
        }
    }
}

/// What comes of a command: `command_specific_result`, of which the driver gets what it has room for.
pub type Answer = Result<Vec<u8>, Refusal>;

/// Why a command is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is none of this number, or the driver has not said that it uses it.
    Opcode,
    /// There is no such group, or nobody in it.
    Group,
    /// There is no such member, or it is no PCI function here.
    Member,
    /// Something in its data makes no sense, or does not fit what the device is.
    Field,
    /// There is such an object.
    Exists,
    /// There is no such object, or capability.
    Missing,
    /// Not while there are objects, or the device is not stopped.
    Busy,
    /// The result is longer than there is room for.
    Room,
    /// VFs come or go at present.
    Again,
}

impl Refusal {
    const NAMES: [&'static str; 9] = [
        "invalid_opcode",
        "invalid_group",
        "invalid_member",
        "invalid_field",
        "exists",
        "missing",
        "busy",
        "no_room",
        "try_again",
    ];

    /// `status` and `status_qualifier`.
    const fn status(self) -> [u16; 2] {
        const Q_INVALID_COMMAND: u16 = 1;
        match self {
            Self::Opcode => [22, 2],
            Self::Field => [22, 3],
            Self::Group => [22, 4],
            Self::Member => [22, 5],
            Self::Exists => [17, Q_INVALID_COMMAND],
            Self::Missing => [6, Q_INVALID_COMMAND],
            Self::Busy => [16, Q_INVALID_COMMAND],
            Self::Room => [12, Q_INVALID_COMMAND],
            Self::Again => [11, 7],
        }
    }
}

/// An owner's administration virtqueue, while it is in use, and what was agreed by it.
#[derive(Debug)]
pub struct Admin {
    queue: Option<CommandQueue>,
    group: Group,
    counts: Counts,
}

impl Default for Admin {
    fn default() -> Self {
        Self { queue: None, group: Group::default(), counts: Counts::new(&Refusal::NAMES) }
    }
}

impl Admin {
    /// Serves a queue from now on.
    pub fn start(&mut self, queue: Queue) {
        self.queue = Some(CommandQueue::new(queue, COMMANDS_PER_TURN, COMMAND_BYTES_MAX));
    }

    /// And not any more. Where it stands.
    pub fn stop(&mut self) -> u32 {
        self.queue.take().map_or(0, |queue| queue.base())
    }

    /// Whether a queue is served.
    pub fn is_running(&self) -> bool {
        self.queue.is_some()
    }

    /// The owner was reset.
    pub fn reset(&mut self) {
        self.group = Group::default();
    }

    /// What the driver kicks.
    pub fn kick(&self) -> Option<&OwnedFd> {
        self.queue.as_ref()?.kick()
    }

    /// Whether commands were left for the next time.
    pub fn has_work(&self) -> bool {
        self.queue.as_ref().is_some_and(CommandQueue::has_work)
    }

    /// Changes where used-buffer notifications go.
    pub fn set_call(&mut self, call: Notifier) {
        if let Some(queue) = &mut self.queue {
            queue.set_call(call);
        }
    }

    /// What came of commands.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Serves commands that are available; `obey` does each. One without room for its status is done all the same.
    ///
    /// # Errors
    /// The driver broke a rule. Nothing is served any more.
    pub fn serve(&mut self, mut obey: impl FnMut(&mut Group, &Command) -> Answer) -> Result<(), Violation> {
        let Self { queue: Some(queue), group, counts } = self else { return Ok(()) };
        queue.serve(|bytes, room| {
            let answer = obey(group, &Command::read(bytes, room));
            let refusal = answer.as_ref().err();
            counts.count(refusal.map(|refusal| *refusal as usize));
            let status = refusal.map_or([0; 2], |refusal| refusal.status()).map(u16::to_le_bytes);
            [status.concat(), vec![0; 4], answer.unwrap_or_default()].concat()
        })
    }
}
