//! Why a back end could not be asked, or said no.

use std::path::PathBuf;

use super::super::message::{FrontendRequest, ProtocolError, ProtocolFeature};
use super::super::socket::SocketError;
use crate::transport::listener::PathError;

/// What went wrong with a back end.
#[derive(Debug, thiserror::Error)]
pub enum FrontendError {
    /// There is no connection.
    #[error(transparent)]
    Path(#[from] PathError),
    /// Nobody has connected.
    #[error("{}: {source}", path.display())]
    Accept {
        /// Where we listen.
        path: PathBuf,
        /// Why not.
        source: SocketError,
    },
    /// The request or its answer did not get through.
    #[error("{request}: {source}")]
    Socket {
        /// The request.
        request: FrontendRequest,
        /// Why not.
        source: SocketError,
    },
    /// An earlier request failed, so that answers cannot be told apart any more.
    #[error("{request}: the connection is lost")]
    Lost {
        /// The request.
        request: FrontendRequest,
    },
    /// The back end says no.
    #[error("{request}: the back end refuses ({code})")]
    Refused {
        /// The request.
        request: FrontendRequest,
        /// Its word for it; 0 if it has none.
        code: u64,
    },
    /// The answer is malformed.
    #[error("the reply to {request} is malformed: {source}")]
    Reply {
        /// The request.
        request: FrontendRequest,
        /// What is wrong.
        source: ProtocolError,
    },
    /// The answer is to something else.
    #[error("{request}: the back end answers request {found} instead")]
    OtherReply {
        /// The request.
        request: FrontendRequest,
        /// Number in the answer.
        found: u32,
    },
    /// The answer is about another ring.
    #[error("asked where ring {asked} stands, told about ring {found}")]
    OtherRing {
        /// The ring asked about.
        asked: u32,
        /// The ring answered about.
        found: u32,
    },
    /// The back end has not offered what the request needs, or it was not acknowledged.
    #[error("{request}: needs {feature}, which was not negotiated")]
    NotNegotiated {
        /// The request.
        request: FrontendRequest,
        /// The missing feature.
        feature: ProtocolFeature,
    },
    /// More memory regions than the back end can take.
    #[error("{found} memory regions, the back end takes {allowed}")]
    TooManyRegions {
        /// Regions to share.
        found: usize,
        /// Regions it takes.
        allowed: u64,
    },
}

impl FrontendError {
    pub(super) fn socket(request: FrontendRequest, source: SocketError) -> Self {
        Self::Socket { request, source }
    }
}
