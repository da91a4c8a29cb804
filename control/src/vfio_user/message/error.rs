//! What a client can get wrong, each with what was found and what is allowed.

use rustix::io::Errno;

use super::{BODY_BYTES_MAX, Command, HEADER_BYTES};

const MESSAGE_BYTES_MAX: usize = HEADER_BYTES + BODY_BYTES_MAX;

/// A message that breaks the protocol. All but the first few leave the stream in step: the message is refused and the session
/// goes on ([`ProtocolError::ends_the_session`]).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// The message announced is shorter than its header, or longer than any message.
    #[error("command {command}: a message of {found} bytes, allowed are {HEADER_BYTES} to {MESSAGE_BYTES_MAX}")]
    Length {
        /// Number in the header.
        command: u16,
        /// Bytes announced.
        found: u32,
    },
    /// The stream ended inside a message.
    #[error("the stream ended {found} bytes into a message of {wanted}")]
    Truncated {
        /// Bytes that came, header included.
        found: usize,
        /// Bytes announced, header included.
        wanted: usize,
    },
    /// The client asks, but does not read our answers.
    #[error("command {command}: the reply cannot be sent, for the client does not read")]
    ReplyUnread {
        /// Number of what it asked.
        command: u16,
    },
    /// A version that is not ours.
    #[error("version {major}.{minor}, allowed is major version 0")]
    Version {
        /// Its first number.
        major: u16,
        /// Its second.
        minor: u16,
    },
    /// The version's data are not what they are to be.
    #[error("VERSION: the capabilities are malformed: {why}")]
    Capabilities {
        /// What the reader says.
        why: String,
    },
    /// It is no command.
    #[error("command {command}: flags {found:#x}, allowed are 0 and 0x10")]
    Flags {
        /// Number in the header.
        command: u16,
        /// The flags.
        found: u32,
    },
    /// It answers nothing that was asked, or with something else.
    #[error("command {command}: a reply of {found} bytes, id {id:#x}, to nothing that was asked like this")]
    Reply {
        /// Number in the header.
        command: u16,
        /// Its name.
        id: u16,
        /// Bytes of the body.
        found: usize,
    },
    /// No command has this number, or none that is served.
    #[error("command {command}: unknown, or not served")]
    UnknownCommand {
        /// Number in the header.
        command: u16,
    },
    /// The version comes first, and once.
    #[error("{command}: {why}")]
    Order {
        /// The command.
        command: Command,
        /// What is missing, or in the way.
        why: &'static str,
    },
    /// A body of the wrong length.
    #[error("{command}: a body of {found} bytes, allowed are {min} to {max}")]
    Size {
        /// The command.
        command: Command,
        /// Bytes of the body.
        found: usize,
        /// At least.
        min: usize,
        /// At most.
        max: usize,
    },
    /// Too few or too many descriptors.
    #[error("{command}: {found} descriptors, allowed are {min} to {max}")]
    Descriptors {
        /// The command.
        command: Command,
        /// Descriptors that came; one more than fit if some did not fit.
        found: usize,
        /// At least.
        min: usize,
        /// At most.
        max: usize,
    },
    /// There is no such feature, or it cannot be got or set.
    #[error("DEVICE_FEATURE: feature {index}, flags {flags:#x}: unknown, or not served like this")]
    Feature {
        /// Its number.
        index: u32,
        /// What was to be done with it.
        flags: u32,
    },
    /// A field's value makes no sense.
    #[error("{command}: {field} is {found:#x}, allowed is {allowed}")]
    Field {
        /// The command.
        command: Command,
        /// The field, as the specification calls it.
        field: &'static str,
        /// Its value.
        found: u64,
        /// What it may be.
        allowed: String,
    },
}

impl ProtocolError {
    /// The outcome's name, as in its counter and in the documentation.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Length { .. } => "length",
            Self::Truncated { .. } => "truncated",
            Self::ReplyUnread { .. } => "reply_unread",
            Self::Version { .. } => "version",
            Self::Capabilities { .. } => "capabilities",
            Self::Flags { .. } => "flags",
            Self::Reply { .. } => "reply",
            Self::UnknownCommand { .. } => "unknown_command",
            Self::Order { .. } => "order",
            Self::Size { .. } => "size",
            Self::Descriptors { .. } => "descriptors",
            Self::Feature { .. } => "feature",
            Self::Field { .. } => "field",
        }
    }

    /// What the client is told.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::UnknownCommand { .. } => Errno::OPNOTSUPP,
            Self::Feature { .. } => Errno::NOTTY,
            Self::Version { .. } => Errno::PROTONOSUPPORT,
            _ => Errno::INVAL,
        }
    }

    /// Whether nobody can know any more where the next message starts, what it means, or whether the client listens: nothing is
    /// left but to close.
    pub const fn ends_the_session(&self) -> bool {
        matches!(self, Self::Length { .. } | Self::Truncated { .. } | Self::ReplyUnread { .. } | Self::Version { .. })
    }
}
