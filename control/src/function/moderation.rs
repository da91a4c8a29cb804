//! How a function's used buffer notifications are held back.

use serde::{Deserialize, Serialize};
use virtnet_engine::moderation::{self, Moderation, Setting};

/// From which moment a period counts, as requests and files say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PeriodMode {
    /// From the first used buffer that was not told.
    Event,
    /// Anew from each burst of used buffers.
    Cqe,
}

impl From<PeriodMode> for moderation::PeriodMode {
    fn from(mode: PeriodMode) -> Self {
        match mode {
            PeriodMode::Event => Self::Event,
            PeriodMode::Cqe => Self::Cqe,
        }
    }
}

impl From<moderation::PeriodMode> for PeriodMode {
    fn from(mode: moderation::PeriodMode) -> Self {
        match mode {
            moderation::PeriodMode::Event => Self::Event,
            moderation::PeriodMode::Cqe => Self::Cqe,
        }
    }
}

/// What operators have said of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coalescing {
    /// For all its queues.
    pub fixed: Moderation,
    /// Whether that of its receiveqs follows their load instead.
    pub dim: bool,
}

impl Coalescing {
    /// What that is for one of its queues.
    pub fn of(self, queue_index: u16) -> Setting {
        if self.dim && queue_index.is_multiple_of(2) { Setting::Dynamic } else { Setting::Fixed(self.fixed) }
    }
}
