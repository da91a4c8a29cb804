//! The service manager that has started us, if one has: it is told when we are ready, that we are alive, and how many
//! functions there are.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// How long after one that did not get through it is told again that we are ready.
const AGAIN: Duration = Duration::from_secs(1);
/// Signs of life are no closer than this, whatever is asked for.
const PULSE_MIN: Duration = Duration::from_millis(1);

/// Who is at `NOTIFY_SOCKET`, and what it was told.
#[derive(Debug, Default)]
pub struct Manager {
    /// Time between signs of life, if they are asked for.
    pulse: Option<Duration>,
    /// When the next one is due, once we are ready.
    due: Option<Instant>,
    /// The number of functions that was told.
    functions: Option<usize>,
    /// When it is told again that we are ready, if it could not be told.
    tells_ready_at: Option<Instant>,
}

impl Manager {
    /// As the environment has it.
    pub fn of_process() -> Self {
        Self::new(sd_notify::watchdog_enabled())
    }

    /// One that starts us anew without a sign of life for so long.
    fn new(watchdog: Option<Duration>) -> Self {
        let pulse = watchdog.filter(|watchdog| !watchdog.is_zero()).map(|watchdog| PULSE_MIN.max(watchdog / 2));
        Self { pulse, ..Self::default() }
    }

    /// All functions are up.
    pub fn ready(&mut self, now: Instant, functions: usize) {
        let is_told = tell(&[NotifyState::Ready, NotifyState::Status(&status(functions))]);
        self.tells_ready_at = (!is_told).then(|| now + AGAIN);
        self.functions = Some(functions);
        self.due = self.pulse.map(|pulse| now + pulse);
    }

    /// When [`Self::alive`] is to be called next.
    pub fn wakes_at(&self) -> Option<Instant> {
        self.due
    }

    /// The control loop has come round. Tells what is due.
    pub fn alive(&mut self, now: Instant, functions: usize) {
        if self.tells_ready_at.is_some_and(|at| at <= now) {
            self.ready(now, functions);
        }
        if self.functions != Some(functions) {
            self.functions = Some(functions);
            tell(&[NotifyState::Status(&status(functions))]);
        }
        if self.is_due(now) {
            tell(&[NotifyState::Watchdog]);
        }
    }

    /// We are about to end.
    pub fn stopping(&self) {
        tell(&[NotifyState::Stopping]);
    }

    /// Whether a sign of life is due; if so, the next one is a pulse away.
    fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self.due.is_some_and(|due| due <= now);
        if is_due {
            self.due = self.pulse.map(|pulse| now + pulse);
        }
        is_due
    }
}

fn status(functions: usize) -> String {
    format!("{functions} function{}", if functions == 1 { "" } else { "s" })
}

/// Nobody is told where nobody asked. Whether that is done: a manager that does not read is not waited for.
fn tell(states: &[NotifyState<'_>]) -> bool {
    let told = std::env::var_os("NOTIFY_SOCKET").map_or(Ok(()), |socket| send(&socket, states));
    told.inspect_err(|error| tracing::warn!("telling the service manager: {error}")).is_ok()
}

fn send(socket: &OsStr, states: &[NotifyState<'_>]) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    let lines: String = states.iter().map(|state| format!("{state}\n")).collect();
    let sender = UnixDatagram::unbound()?;
    sender.set_nonblocking(true)?;
    sender.send_to_addr(lines.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_of_life_is_due_at_half_of_what_is_asked_for() {
        let now = Instant::now();
        let mut manager = Manager::new(Some(Duration::from_secs(30)));
        assert_eq!(manager.wakes_at(), None, "before it is ready");
        manager.ready(now, 0);
        let half = now + Duration::from_secs(15);
        assert_eq!(manager.wakes_at(), Some(half));
        assert!(!manager.is_due(half - Duration::from_nanos(1)));
        assert!(manager.is_due(half));
        // After a late one the next is due a pulse later, not at once.
        assert!(!manager.is_due(half));
        let late = now + Duration::from_secs(100);
        assert!(manager.is_due(late));
        assert_eq!(manager.wakes_at(), Some(late + Duration::from_secs(15)));
    }

    #[test]
    fn none_is_due_where_none_is_asked_for() {
        for watchdog in [None, Some(Duration::ZERO)] {
            let mut manager = Manager::new(watchdog);
            manager.ready(Instant::now(), 0);
            assert_eq!(manager.wakes_at(), None);
            assert!(!manager.is_due(Instant::now() + Duration::from_secs(3600)));
        }
    }

    #[test]
    fn odd_wishes_keep_the_loop_sane() {
        let now = Instant::now();
        let longest = Duration::from_micros(u64::MAX);
        for (watchdog, pulse) in [(Duration::from_micros(1), PULSE_MIN), (longest, longest / 2)] {
            let mut manager = Manager::new(Some(watchdog));
            manager.ready(now, 0);
            assert_eq!(manager.wakes_at(), Some(now + pulse));
        }
    }

    #[test]
    fn a_manager_that_does_not_read_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let reader = UnixDatagram::bind(&path).unwrap();
        let mut sent = 0;
        while send(path.as_os_str(), &[NotifyState::Ready, NotifyState::Status("1 function")]).is_ok() {
            sent += 1;
        }
        let mut text = [0; 64];
        let len = reader.recv(&mut text).unwrap();
        assert_eq!(&text[..len], b"READY=1\nSTATUS=1 function\n");
        assert!(sent > 0 && send(path.as_os_str(), &[NotifyState::Watchdog]).is_ok(), "there is room again");
        let name = format!("@{}", path.display());
        assert!(send(name.as_ref(), &[NotifyState::Ready]).is_err(), "nobody is there");
    }

    #[test]
    fn the_status_counts() {
        assert_eq!([0, 1, 2].map(status), ["0 functions", "1 function", "2 functions"]);
    }
}
