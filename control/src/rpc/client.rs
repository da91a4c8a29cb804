//! The asking end. It waits, and not longer than it is told.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv, send, socket_with,
    sockopt,
};
use serde_json::{Value, json};

use super::Error;
use crate::transport::connection::wait_any;

/// The longest reply that is taken.
pub const REPLY_BYTES_MAX: usize = 256 << 20;
const TIMEOUT_MIN: Duration = Duration::from_millis(1);
const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);
/// Bytes read at a time.
const READ_BYTES_MAX: usize = 64 << 10;

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens at this path.
    #[error("{}: nobody is listening there; is the service running?", .0.display())]
    NobodyThere(PathBuf),
    /// The socket, or who listens there, does not let us in.
    #[error("{}: permission denied; the service answers its own user and root", .0.display())]
    Permission(PathBuf),
    /// There was no connection, or no whole reply, in time.
    #[error("{}: no answer within {} ms", path.display(), timeout.as_millis())]
    Timeout {
        /// Who was asked.
        path: PathBuf,
        /// How long it was waited for.
        timeout: Duration,
    },
    /// The service has closed the connection, without a reply.
    #[error("{}: the service has closed the connection", .0.display())]
    Gone(PathBuf),
    /// What came is no reply to what was asked; what it is.
    #[error("the reply makes no sense: {0}")]
    Nonsense(String),
    /// The service has replied with an error.
    #[error("{errstr} ({errno})")]
    Refused {
        /// Its number: one of JSON-RPC's from -32768 to -32000, one of [`crate::refusal::Code`] otherwise.
        errno: i64,
        /// Its text.
        errstr: String,
    },
    /// The system refused.
    #[error("{}: {doing}: {source}", path.display())]
    System {
        /// Who was to be asked.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// Its answer.
        source: io::Error,
    },
}

/// A connection to the service.
#[derive(Debug)]
pub struct Client {
    stream: OwnedFd,
    path: PathBuf,
    timeout: Duration,
    calls: u64,
    /// Whether a call failed in a way that leaves the stream out of step.
    is_broken: bool,
    reply_bytes_max: usize,
}

impl Client {
    /// Connects to the service that listens at `path`. This, and each call, may take as long as `timeout`, from a
    /// millisecond to a day.
    ///
    /// # Errors
    /// Nobody is there, we are not let in, it takes too long; or the system's.
    pub fn connect(path: &Path, timeout: Duration) -> Result<Self, ClientError> {
        let timeout = timeout.clamp(TIMEOUT_MIN, TIMEOUT_MAX);
        let failed = |doing| {
            move |errno| match errno {
                Errno::NOENT | Errno::NOTDIR | Errno::CONNREFUSED => ClientError::NobodyThere(path.into()),
                Errno::ACCESS | Errno::PERM => ClientError::Permission(path.into()),
                Errno::AGAIN => ClientError::Timeout { path: path.into(), timeout },
                errno => ClientError::System { path: path.into(), doing, source: errno.into() },
            }
        };
        let address = SocketAddrUnix::new(path).map_err(failed("making an address of it"))?;
        let stream = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(failed("making a socket"))?;
        // A Unix socket waits as long for a place in the listener's queue as it would to send.
        sockopt::set_socket_timeout(&stream, sockopt::Timeout::Send, Some(timeout))
            .map_err(failed("setting a timeout"))?;
        retry_on_intr(|| connect(&stream, &address)).map_err(failed("connecting"))?;
        let path = path.into();
        Ok(Self { stream, path, timeout, calls: 0, is_broken: false, reply_bytes_max: REPLY_BYTES_MAX })
    }

    /// Has `method` served with `params`, an object, and waits for its result.
    ///
    /// # Errors
    /// [`ClientError::Refused`] is the service's answer; others say that there is none. After one of those the client
    /// is of no more use.
    pub fn call(&mut self, method: &str, params: Value) -> Result<Value, ClientError> {
        if self.is_broken {
            return Err(ClientError::Gone(self.path.clone()));
        }
        self.calls += 1;
        let request = json!({"jsonrpc": "2.0", "id": self.calls, "method": method, "params": params});
        let deadline = Instant::now() + self.timeout;
        let outcome = self.exchange(&format!("{request}\n"), deadline);
        self.is_broken = !matches!(outcome, Ok(_) | Err(ClientError::Refused { .. }));
        outcome
    }

    fn exchange(&self, request: &str, deadline: Instant) -> Result<Value, ClientError> {
        match self.send(request.as_bytes(), deadline) {
            // Who hangs up may have said why.
            Ok(()) | Err(ClientError::Gone(_)) => self.result_of(&self.receive(deadline)?),
            Err(error) => Err(error),
        }
    }

    fn send(&self, mut bytes: &[u8], deadline: Instant) -> Result<(), ClientError> {
        while !bytes.is_empty() {
            match retry_on_intr(|| send(&self.stream, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)) {
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT, deadline)?,
                Err(errno) => return Err(self.failed("sending")(errno)),
            }
        }
        Ok(())
    }

    /// The next line. There is one request at a time, so nothing follows it.
    fn receive(&self, deadline: Instant) -> Result<Vec<u8>, ClientError> {
        let mut line = Vec::new();
        let mut bytes = vec![0; READ_BYTES_MAX];
        loop {
            self.wait(PollFlags::IN, deadline)?;
            let count = match retry_on_intr(|| recv(&self.stream, &mut bytes[..], RecvFlags::DONTWAIT)) {
                Ok((0, _)) if line.is_empty() => return Err(ClientError::Gone(self.path.clone())),
                Ok((0, _)) => {
                    return Err(nonsense(format!("it ends after {} bytes, without a line's end", line.len())));
                }
                Ok((count, _)) => count,
                Err(Errno::AGAIN) => continue,
                Err(errno) => return Err(self.failed("receiving")(errno)),
            };
            line.extend_from_slice(&bytes[..count]);
            if line.len() > self.reply_bytes_max {
                return Err(nonsense(format!("it has more than {} bytes", self.reply_bytes_max)));
            }
            match bytes[..count].iter().position(|byte| *byte == b'\n') {
                None => {}
                Some(at) if at + 1 == count => return Ok(line),
                Some(_) => return Err(nonsense("something follows it".into())),
            }
        }
    }

    fn result_of(&self, line: &[u8]) -> Result<Value, ClientError> {
        let Value::Object(mut reply) = serde_json::from_slice(line).map_err(|error| nonsense(error.to_string()))?
        else {
            return Err(nonsense("it is no object".into()));
        };
        let id = reply.remove("id").unwrap_or(Value::Null);
        let is_ours = id.as_u64() == Some(self.calls);
        match (reply.remove("result"), reply.remove("error")) {
            (Some(result), None) if is_ours => Ok(result),
            // What was no request has no id.
            (None, Some(error)) if is_ours || id.is_null() => Err(self.refused(&error)),
            (Some(_), None) | (None, Some(_)) => Err(nonsense(format!("it is for request {:.64}", id.to_string()))),
            _ => Err(nonsense("it has neither a result nor an error, or both".into())),
        }
    }

    fn refused(&self, error: &Value) -> ClientError {
        match (error["code"].as_i64(), error["message"].as_str()) {
            (Some(Error::PEER), _) => ClientError::Permission(self.path.clone()),
            (Some(errno), Some(errstr)) => ClientError::Refused { errno, errstr: errstr.into() },
            _ => nonsense("its error has no code and message".into()),
        }
    }

    fn wait(&self, flags: PollFlags, deadline: Instant) -> Result<(), ClientError> {
        let mut fds = [PollFd::from_borrowed_fd(self.stream.as_fd(), flags)];
        match wait_any(&mut fds, deadline) {
            // A peer that sends on and on is late, too.
            Ok(true) if Instant::now() < deadline => Ok(()),
            Ok(_) => Err(ClientError::Timeout { path: self.path.clone(), timeout: self.timeout }),
            Err(errno) => Err(self.failed("waiting")(errno)),
        }
    }

    fn failed(&self, doing: &'static str) -> impl FnOnce(Errno) -> ClientError {
        let path = self.path.clone();
        move |errno| match errno {
            Errno::PIPE | Errno::CONNRESET => ClientError::Gone(path),
            errno => ClientError::System { path, doing, source: errno.into() },
        }
    }
}

fn nonsense(why: String) -> ClientError {
    ClientError::Nonsense(why)
}

#[cfg(test)]
mod tests;
