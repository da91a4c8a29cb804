//! Guests that are asked to announce themselves, when the network may not know where they are. ("Gratuitous Packet Sending")

use std::time::{Duration, Instant};

/// How long a driver is given to take its link up, and to fill its queues, before it is asked: what it sends earlier is lost.
const PAUSE: Duration = Duration::from_secs(1);

/// Whether the guest is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Announcement {
    /// No.
    #[default]
    None,
    /// From then on.
    Due(Instant),
    /// It has not answered yet.
    Asked,
}

impl Announcement {
    /// The guest is to be asked soon.
    pub fn soon(now: Instant) -> Self {
        Self::Due(now + PAUSE)
    }

    /// When it is to be asked.
    pub fn due_at(self) -> Option<Instant> {
        if let Self::Due(at) = self { Some(at) } else { None }
    }

    /// Asks, if it is time to; whether it was.
    pub fn begin(&mut self, now: Instant) -> bool {
        let is_due = self.due_at().is_some_and(|at| at <= now);
        if is_due {
            *self = Self::Asked;
        }
        is_due
    }
}
