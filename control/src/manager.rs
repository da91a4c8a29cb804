//! The service manager that has started us, if one has: it is told when we are ready, that we are alive, and how many
//! functions there are.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

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
        tell(&[NotifyState::Ready, NotifyState::Status(&status(functions))]);
        self.functions = Some(functions);
        self.due = self.pulse.map(|pulse| now + pulse);
    }

    /// When [`Self::alive`] is to be called next.
    pub fn wakes_at(&self) -> Option<Instant> {
        self.due
    }

    /// The control loop has come round. Tells what is due.
    pub fn alive(&mut self, now: Instant, functions: usize) {
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

/// Nobody is told where nobody asked.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("telling the service manager: {error}");
    }
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
    fn the_status_counts() {
        assert_eq!([0, 1, 2].map(status), ["0 functions", "1 function", "2 functions"]);
    }
}
