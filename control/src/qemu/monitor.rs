//! QEMU's monitor, asked by one who does not wait for longer than he may. (QEMU Machine Protocol)

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with, sockopt};
use serde_json::{Value, json};

use crate::rpc::lines::{LINE_BYTES_MAX, Lines};

/// Shorter waits are none to the system.
const WAIT_MIN: Duration = Duration::from_millis(1);

/// Why QEMU has not done what it was told.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// Nobody listens there: the machine is not running.
    #[error("{}: no QEMU listens there", .0.display())]
    Nobody(PathBuf),
    /// It has ended meanwhile.
    #[error("{}: QEMU has closed its monitor", .0.display())]
    Gone(PathBuf),
    /// It does not answer in time; what was waited for. A monitor talks to one at a time.
    #[error("{}: no {waited_for} in time; somebody else may have its monitor", path.display())]
    Late {
        /// Its monitor.
        path: PathBuf,
        /// What did not come.
        waited_for: String,
    },
    /// The guest has not released the device in time.
    #[error("the guest has not released {0}")]
    Held(String),
    /// The guest says that it does not release the device.
    #[error("the guest refuses to release {0}")]
    Kept(String),
    /// There is no such object.
    #[error("{command}: {text}")]
    Unknown {
        /// What it was told.
        command: &'static str,
        /// Its answer.
        text: String,
    },
    /// The device is being unplugged already.
    #[error("it is being unplugged already")]
    Leaving,
    /// Another answer.
    #[error("{command}: {text}")]
    Refused {
        /// What it was told.
        command: &'static str,
        /// Its answer.
        text: String,
    },
    /// What it says is not of this protocol.
    #[error("{}: no QEMU monitor: {why}", path.display())]
    Nonsense {
        /// Who was taken for one.
        path: PathBuf,
        /// What was found.
        why: String,
    },
    /// The system refused.
    #[error("{}: {source}", path.display())]
    System {
        /// Whose monitor it is.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
}

/// What has become of a device that was to be unplugged.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Deleted(String),
    Kept(String),
}

/// A connection to a monitor.
#[derive(Debug)]
pub(super) struct Monitor {
    stream: UnixStream,
    lines: Lines,
    path: PathBuf,
    deadline: Instant,
    /// The last of them; one device is unplugged at a time.
    fate: Option<Fate>,
}

impl Monitor {
    /// Connects to the monitor at `path`, for all that ends before `deadline`.
    pub(super) fn connect(path: &Path, deadline: Instant) -> Result<Self, MonitorError> {
        let failed = |errno: Errno| match errno {
            Errno::NOENT | Errno::CONNREFUSED => MonitorError::Nobody(path.into()),
            Errno::AGAIN => MonitorError::Late { path: path.into(), waited_for: "connection".into() },
            errno => MonitorError::System { path: path.into(), source: errno.into() },
        };
        let address = SocketAddrUnix::new(path).map_err(failed)?;
        let socket =
            socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).map_err(failed)?;
        // A Unix socket waits as long for a place in the listener's queue as it would to send.
        let wait = deadline.saturating_duration_since(Instant::now()).max(WAIT_MIN);
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(wait)).map_err(failed)?;
        connect(&socket, &address).map_err(failed)?;
        let path = path.into();
        let mut monitor = Self { stream: socket.into(), lines: Lines::default(), path, deadline, fate: None };
        monitor.wait_for("greeting", |message| message.get("QMP").map(|_| ()))?;
        monitor.execute("qmp_capabilities", json!({}))?;
        Ok(monitor)
    }

    /// Has QEMU obey one command.
    pub(super) fn execute(&mut self, command: &'static str, arguments: Value) -> Result<(), MonitorError> {
        let line = format!("{}\n", json!({ "execute": command, "arguments": arguments }));
        let sent = self.stream.write_all(line.as_bytes());
        sent.map_err(|error| self.failed(error, command))?;
        self.wait_for(&format!("answer to {command}"), |message| match message.get("error") {
            Some(error) => Some(Err(refusal(command, error))),
            None => message.get("return").map(|_| Ok(())),
        })?
    }

    /// Waits until the guest has released a device that it was told to.
    pub(super) fn wait_until_deleted(&mut self, id: &str) -> Result<(), MonitorError> {
        while self.fate != Some(Fate::Deleted(id.to_owned())) {
            if self.fate == Some(Fate::Kept(id.to_owned())) {
                return Err(MonitorError::Kept(id.to_owned()));
            }
            let event = self.wait_for("event", |message| message.get("event").map(|_| ()));
            event.map_err(|error| match error {
                MonitorError::Late { .. } => MonitorError::Held(id.to_owned()),
                error => error,
            })?;
        }
        Ok(())
    }

    /// Takes messages until one is what is waited for. Of all others only what becomes of devices is kept.
    fn wait_for<T>(&mut self, what: &str, mut is_it: impl FnMut(&Value) -> Option<T>) -> Result<T, MonitorError> {
        loop {
            let message = self.message(what)?;
            let device = || message["data"]["device"].as_str().unwrap_or_default().to_owned();
            match message["event"].as_str() {
                Some("DEVICE_DELETED") => self.fate = Some(Fate::Deleted(device())),
                Some("DEVICE_UNPLUG_GUEST_ERROR") => self.fate = Some(Fate::Kept(device())),
                _ => {}
            }
            if let Some(found) = is_it(&message) {
                return Ok(found);
            }
        }
    }

    fn message(&mut self, what: &str) -> Result<Value, MonitorError> {
        let nonsense = |path: &PathBuf, why: String| MonitorError::Nonsense { path: path.clone(), why };
        loop {
            // One who talks on and on is late, too.
            let wait = self.deadline.saturating_duration_since(Instant::now());
            if wait < WAIT_MIN {
                return Err(MonitorError::Late { path: self.path.clone(), waited_for: what.to_owned() });
            }
            match self.lines.take() {
                Some(Ok(line)) => {
                    return serde_json::from_slice(&line).map_err(|error| nonsense(&self.path, error.to_string()));
                }
                Some(Err(_)) => {
                    return Err(nonsense(&self.path, format!("a line of more than {LINE_BYTES_MAX} bytes")));
                }
                None if self.lines.has_ended() => return Err(MonitorError::Gone(self.path.clone())),
                None => {}
            }
            let mut bytes = [0; 4096];
            let room = self.lines.room().min(bytes.len());
            let read = self.stream.set_read_timeout(Some(wait)).and_then(|()| self.stream.read(&mut bytes[..room]));
            match read {
                Ok(0) => self.lines.end(),
                Ok(count) => self.lines.add(&bytes[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(error, what)),
            }
        }
    }

    fn failed(&self, source: io::Error, what: &str) -> MonitorError {
        let path = self.path.clone();
        match source.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => MonitorError::Late { path, waited_for: what.to_owned() },
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => MonitorError::Gone(path),
            _ => MonitorError::System { path, source },
        }
    }
}

/// What an error of QEMU's says.
fn refusal(command: &'static str, error: &Value) -> MonitorError {
    let text = error["desc"].as_str().unwrap_or("no reason was given").to_owned();
    match error["class"].as_str() {
        Some("DeviceNotFound") => MonitorError::Unknown { command, text },
        _ if text.ends_with("not found") => MonitorError::Unknown { command, text },
        _ if text.contains("already in the process of unplug") => MonitorError::Leaving,
        _ => MonitorError::Refused { command, text },
    }
}
