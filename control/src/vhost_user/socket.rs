//! Connections of this protocol.

use super::message::{BODY_BYTES_MAX, DESCRIPTORS_MAX, HEADER_BYTES, Header, ProtocolError};
use crate::transport::connection::{self, Head};
pub use crate::transport::connection::{stream_pair, wait, wait_any};

/// One end of a vhost-user connection.
pub type Connection = connection::Connection<Header>;
/// A whole message as it came.
pub type Message = connection::Message<Header>;
/// What a connection has for us.
pub type Received = connection::Received<Header>;
/// Why a message could not be received or sent.
pub type SocketError = connection::SocketError<ProtocolError>;

impl Head for Header {
    const BYTES: usize = HEADER_BYTES;
    const BODY_BYTES_MAX: usize = BODY_BYTES_MAX;
    const DESCRIPTORS_MAX: usize = DESCRIPTORS_MAX;
    type Error = ProtocolError;

    fn read(bytes: &[u8]) -> Self {
        Self::from_bytes(bytes.first_chunk().expect("a header's bytes"))
    }

    fn write(&self, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self.to_bytes());
    }

    fn body_bytes(&self) -> Result<usize, ProtocolError> {
        self.check_framing().map(|()| self.size_bytes as usize)
    }

    fn truncated(found: usize, wanted: usize) -> ProtocolError {
        ProtocolError::Truncated { found, wanted }
    }
}
