//! What a peer can get wrong, each with what was found and what is allowed.

use std::fmt;

use super::{BODY_BYTES_MAX, Header, ProtocolFeature};

/// A message that breaks the protocol. All but the first few leave the stream in step: the message is
/// refused and the session goes on ([`ProtocolError::ends_the_session`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// The header's version is not ours: these are not headers.
    #[error("request {request}: version {found}, allowed is {}", Header::VERSION)]
    Version {
        /// Number in the header.
        request: u32,
        /// The two version bits.
        found: u32,
    },
    /// The body announced is longer than any message.
    #[error("request {request}: a body of {found} bytes, allowed are {BODY_BYTES_MAX} at most")]
    TooLong {
        /// Number in the header.
        request: u32,
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
    /// The peer asks, but does not read our answers.
    #[error("{request}: the reply cannot be sent, for the peer does not read")]
    ReplyUnread {
        /// What it asked.
        request: &'static str,
    },
    /// Header flags that no request has.
    #[error("request {request}: flags {found:#x}, allowed are the version and need_reply ({:#x})",
        Header::VERSION | Header::NEED_REPLY)]
    Flags {
        /// Number in the header.
        request: u32,
        /// The flags.
        found: u32,
    },
    /// No request has this number.
    #[error("request {request}: unknown")]
    UnknownRequest {
        /// Number in the header.
        request: u32,
    },
    /// A request of the protocol that this device does not serve.
    #[error("{request}: not served, its protocol feature is not offered")]
    NotServed {
        /// The request.
        request: &'static str,
    },
    /// A request whose protocol feature was not acknowledged.
    #[error("{request}: needs {feature}, which was not acknowledged")]
    NotNegotiated {
        /// The request.
        request: &'static str,
        /// The missing feature.
        feature: ProtocolFeature,
    },
    /// A body of the wrong length.
    #[error("{request}: a body of {found} bytes, allowed are {min} to {max}")]
    Size {
        /// The request.
        request: &'static str,
        /// Bytes of the body.
        found: usize,
        /// At least.
        min: usize,
        /// At most.
        max: usize,
    },
    /// Too few or too many descriptors.
    #[error("{request}: {found} descriptors, allowed are {min} to {max}")]
    Descriptors {
        /// The request.
        request: &'static str,
        /// Descriptors that came; one more than fit if some did not fit.
        found: usize,
        /// At least.
        min: usize,
        /// At most.
        max: usize,
    },
    /// A field's value makes no sense.
    #[error("{request}: {field} is {found:#x}, allowed is {allowed}")]
    Field {
        /// The request.
        request: &'static str,
        /// The field, as the specification calls it.
        field: &'static str,
        /// Its value.
        found: u64,
        /// What it may be.
        allowed: Allowed,
    },
    /// Bits acknowledged that were never offered.
    #[error("{request}: {found:#x} acknowledged, offered is {offered:#x}")]
    NotOffered {
        /// The request.
        request: &'static str,
        /// Bits too many.
        found: u64,
        /// Bits offered.
        offered: u64,
    },
    /// The message makes sense, but not now.
    #[error("{request}: {why}")]
    Order {
        /// The request.
        request: &'static str,
        /// What is missing, or in the way.
        why: &'static str,
    },
}

/// What a field may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// Only this.
    Only(u64),
    /// From the first to the second, both included.
    Between(u64, u64),
    /// In words.
    Such(&'static str),
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Only(value) => write!(f, "{value:#x}"),
            Self::Between(min, max) => write!(f, "{min:#x} to {max:#x}"),
            Self::Such(words) => f.write_str(words),
        }
    }
}

macro_rules! outcomes {
    ($( $(#[$doc:meta])* $name:ident = $text:literal; )*) => {
        /// The named outcomes of a malformed message, for counting.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Outcome { $( $(#[$doc])* $name, )* }

        impl Outcome {
            /// All of them, in the order of their counters.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The counter's name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }

        impl ProtocolError {
            /// The counter this belongs to.
            pub const fn outcome(&self) -> Outcome {
                match self { $(Self::$name { .. } => Outcome::$name,)* }
            }
        }
    };
}

outcomes! {
    /// [`ProtocolError::Version`].
    Version = "version";
    /// [`ProtocolError::TooLong`].
    TooLong = "too_long";
    /// [`ProtocolError::Truncated`].
    Truncated = "truncated";
    /// [`ProtocolError::ReplyUnread`].
    ReplyUnread = "reply_unread";
    /// [`ProtocolError::Flags`].
    Flags = "flags";
    /// [`ProtocolError::UnknownRequest`].
    UnknownRequest = "unknown_request";
    /// [`ProtocolError::NotServed`].
    NotServed = "not_served";
    /// [`ProtocolError::NotNegotiated`].
    NotNegotiated = "not_negotiated";
    /// [`ProtocolError::Size`].
    Size = "size";
    /// [`ProtocolError::Descriptors`].
    Descriptors = "descriptors";
    /// [`ProtocolError::Field`].
    Field = "field";
    /// [`ProtocolError::NotOffered`].
    NotOffered = "not_offered";
    /// [`ProtocolError::Order`].
    Order = "order";
}

impl ProtocolError {
    /// Whether nobody can know any more where the next message starts (or the peer has stopped
    /// listening): nothing is left but to close.
    pub const fn ends_the_session(&self) -> bool {
        matches!(self, Self::Version { .. } | Self::TooLong { .. } | Self::Truncated { .. } | Self::ReplyUnread { .. })
    }
}
