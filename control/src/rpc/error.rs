//! Why a request got no result.

use rustix::process::Uid;

use super::{BATCH_MAX, CONNECTIONS_MAX, LINE_BYTES_MAX};
use crate::refusal::Refusal;

/// Why a request got no result. The text is the reply's `message`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The line is no JSON text; why.
    #[error("Parse error: {0}")]
    Parse(String),
    /// The JSON text is no request; what was found, and what is allowed.
    #[error("Invalid request: {0}")]
    Request(String),
    /// No method has this name.
    #[error("Method not found: {0:.64}")]
    Method(String),
    /// The parameters do not fit the method; what was found, and what is allowed.
    #[error("Invalid params: {0}")]
    Params(String),
    /// The request is good and we could not serve it; why.
    #[error("Internal error: {0}")]
    Internal(String),
    /// As many connections are open as may be.
    #[error("Too many connections: {CONNECTIONS_MAX} are open, no more are allowed")]
    Busy,
    /// The peer's user may not ask.
    #[error("Permission denied: user {} asks, the service's own and root may", .0.as_raw())]
    Peer(Uid),
    /// The command was refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl Error {
    /// Of [`Error::Busy`], in the range that JSON-RPC leaves to servers.
    pub(super) const BUSY: i64 = -32000;
    /// Of [`Error::Peer`], in the same range.
    pub(super) const PEER: i64 = -32001;

    /// The reply's `code`: JSON-RPC's own, or the refusal's errno.
    pub fn code(&self) -> i64 {
        match self {
            Self::Parse(_) => -32700,
            Self::Request(_) => -32600,
            Self::Method(_) => -32601,
            Self::Params(_) => -32602,
            Self::Internal(_) => -32603,
            Self::Busy => Self::BUSY,
            Self::Peer(_) => Self::PEER,
            Self::Refused(refusal) => refusal.errno().into(),
        }
    }

    pub(super) fn line_too_long() -> Self {
        Self::Request(format!("a line of more than {LINE_BYTES_MAX} bytes was found, no longer ones are allowed"))
    }

    pub(super) fn batch_size(found: usize) -> Self {
        Self::Request(format!("a batch of {found} was found, 1 to {BATCH_MAX} requests are allowed"))
    }
}
