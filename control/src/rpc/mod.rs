//! JSON-RPC 2.0 over a Unix stream socket, one JSON text a line: how the service is asked.
//!
//! * [`Server`]: the serving end, for an epoll loop. It never waits.
//! * [`Client`]: the asking end. It waits, not longer than it is told.
//!
//! Peers of the server are let in by who they are, and then not trusted: what they send is bounded, and so is what is
//! kept for them. What the methods mean is the caller's business; `docs/rpc.md` has the protocol.

mod client;
mod connection;
mod error;
pub mod lines;
mod server;
mod work;

pub use client::{Client, ClientError, REPLY_BYTES_MAX};
pub use connection::{PATIENCE, STEPS_PER_TURN};
pub use error::Error;
pub use lines::LINE_BYTES_MAX;
pub use server::{CONNECTIONS_MAX, Server};
pub use work::{BATCH_MAX, REPLY_LINE_BYTES_MAX};

/// The parameters of a method, by name.
pub type Params = serde_json::Map<String, serde_json::Value>;

/// Who serves methods.
type Handler<'a> = dyn FnMut(&str, Params) -> Result<serde_json::Value, Error> + 'a;
