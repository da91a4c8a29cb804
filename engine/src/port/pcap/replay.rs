//! Sending a capture's frames to a guest: in their own time, at a rate, or as fast as it takes them.

use std::sync::Arc;

use thiserror::Error;
use virtnet_rings::Parts;

use super::capture::Capture;
use crate::frame::Frame;
use crate::frame::flow::HEAD_BYTES_MAX;
use crate::frame::steer::Steering;

/// When frames are due.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Pace {
    /// As they were captured.
    #[default]
    AsCaptured,
    /// As fast as the guest takes them.
    AsFastAsPossible,
    /// So many frames a second, over all queue pairs.
    Rate(f64),
}

/// What is replayed, and how.
#[derive(Clone, Debug)]
pub struct ReplayConfig {
    /// The frames.
    pub capture: Arc<Capture>,
    /// When they are due.
    pub pace: Pace,
    /// Whether to begin again after the last.
    pub repeat: bool,
}

/// Why a replay was refused.
#[derive(Clone, Copy, Debug, Error, PartialEq)]
pub enum ReplayError {
    /// Not above zero.
    #[error("a rate of {found} frames a second; it must be above 0")]
    Rate {
        /// As found.
        found: f64,
    },
}

/// The replay of one pair: its share of the frames, by the flows they belong to.
#[derive(Debug)]
pub struct Replay {
    capture: Arc<Capture>,
    /// By number in the capture.
    share: Box<[u32]>,
    next: usize,
    /// Rounds finished.
    round: u64,
    /// How long a round lasts: to the last frame, and a mean gap more.
    round_ns: u64,
    /// Nanoseconds from one frame of the capture to the next, if that is what goes by.
    interval_ns: Option<f64>,
    pace: Pace,
    repeat: bool,
    start_ns: Option<u64>,
}

impl Replay {
    /// One for each of `pairs` queue pairs. A flow stays on one.
    ///
    /// # Errors
    /// [`ReplayError`].
    pub fn over(config: &ReplayConfig, pairs: u16) -> Result<Vec<Self>, ReplayError> {
        let interval_ns = match config.pace {
            Pace::Rate(rate) if rate.is_nan() || rate <= 0.0 => return Err(ReplayError::Rate { found: rate }),
            Pace::Rate(rate) => Some(1e9 / rate),
            _ => None,
        };
        let shots = config.capture.shots();
        let steering = Steering::over(pairs);
        let mut shares = vec![Vec::new(); usize::from(pairs)];
        let mut head = [0; HEAD_BYTES_MAX];
        for (number, &shot) in (0..).zip(shots) {
            let count = config.capture.span(shot).read(&mut head);
            shares[usize::from(steering.pair(&head[..count]))].push(number);
        }
        let last_ns = shots.last().map_or(0, |shot| shot.at_ns);
        let round_ns = match interval_ns {
            Some(interval_ns) => (interval_ns * shots.len() as f64) as u64,
            None => last_ns + last_ns / (shots.len() as u64 - 1).max(1),
        };
        let of = |share: Vec<u32>| Self {
            capture: config.capture.clone(),
            share: share.into(),
            next: 0,
            round: 0,
            round_ns,
            interval_ns,
            pace: config.pace,
            repeat: config.repeat,
            start_ns: None,
        };
        Ok(shares.into_iter().map(of).collect())
    }

    #[cfg(test)]
    pub(super) fn capture(&self) -> Arc<Capture> {
        self.capture.clone()
    }

    /// Whether there is nothing more to come.
    pub fn is_over(&self) -> bool {
        self.share.is_empty() || (self.round > 0 && !self.repeat)
    }

    /// The next frame, if it is due. The first call starts the clock.
    #[inline]
    pub(super) fn receive(&mut self, now_ns: u64) -> Option<Frame> {
        if self.is_over() {
            return None;
        }
        let elapsed_ns = now_ns.saturating_sub(*self.start_ns.get_or_insert(now_ns));
        let number = self.share[self.next];
        let shot = self.capture.shots()[number as usize];
        let at_ns = match (self.pace, self.interval_ns) {
            (Pace::AsFastAsPossible, _) => 0,
            (_, Some(interval_ns)) => (interval_ns * f64::from(number)) as u64,
            (_, None) => shot.at_ns,
        };
        if self.pace != Pace::AsFastAsPossible
            && self.round.saturating_mul(self.round_ns).saturating_add(at_ns) > elapsed_ns
        {
            return None;
        }
        self.next += 1;
        if self.next == self.share.len() {
            self.next = 0;
            self.round += 1;
        }
        let parts = Parts::one(self.capture.span(shot));
        Some(Frame { parts, len_bytes: shot.len_bytes, ..Frame::default() })
    }
}
