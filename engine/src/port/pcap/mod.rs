//! A wire made of captures: frames of a pcap or pcapng file go to the guest, and what the guest sends goes into
//! another. Either half may be left out: then nothing arrives, or what is sent is swallowed.
//!
//! A capture is read whole when the device is made, within bounds, and its frames are lent from there. A recording is
//! written by a thread of its own; the worker copies frames into a ring and never waits.

mod capture;
mod recording;
mod replay;

pub use capture::{CAPTURE_BYTES_MAX, CAPTURE_FRAMES_MAX, Capture, CaptureError, CaptureSummary};
pub use recording::{Format, RING_BYTES, RecordConfig, RecordError, SNAPLEN_BYTES, Tape, record};
pub use replay::{Pace, Replay, ReplayConfig, ReplayError};

use super::{Arrival, Copier, Port};
use crate::frame::Frame;
use crate::window::Window;

/// What a device's pcap ports do. Each half may be left out.
#[derive(Clone, Debug, Default)]
pub struct PcapConfig {
    /// What goes to the guest.
    pub replay: Option<ReplayConfig>,
    /// Where to put what the guest sends.
    pub record: Option<RecordConfig>,
}

/// The pcap port of one pair.
#[derive(Debug, Default)]
pub struct Pcap {
    replay: Option<Replay>,
    tape: Option<Tape>,
}

impl Pcap {
    /// A port that replays to the guest, records from it, or both.
    pub fn new(replay: Option<Replay>, tape: Option<Tape>) -> Self {
        Self { replay, tape }
    }

    /// How many frames from the guest were not recorded since this was last asked.
    #[inline]
    pub fn take_drops(&mut self) -> u64 {
        self.tape.as_mut().map_or(0, Tape::take_drops)
    }

    /// Whether frames will arrive without anybody calling.
    pub fn is_replaying(&self) -> bool {
        self.replay.as_ref().is_some_and(|replay| !replay.is_over())
    }
}

impl Port for Pcap {
    const KEEPS: bool = false;

    #[inline]
    fn room(&self) -> usize {
        usize::MAX
    }

    #[inline]
    fn send(&mut self, frame: Frame, window: &mut Window) {
        if let Some(tape) = &mut self.tape {
            tape.write(&frame);
        }
        window.take_list(frame);
    }

    #[inline]
    fn reap(&mut self, _window: &mut Window) {}

    #[inline]
    fn arrived(&mut self, _now_ns: u64) -> usize {
        if self.is_replaying() { usize::MAX } else { 0 }
    }

    #[inline]
    fn receive(&mut self, now_ns: u64, copier: &mut impl Copier) -> Arrival {
        match self.replay.as_mut().and_then(|replay| replay.receive(now_ns)) {
            None => Arrival::None,
            Some(frame) if copier.copy(&frame) => Arrival::Copied,
            Some(frame) => Arrival::Lent(frame),
        }
    }

    #[inline]
    fn release(&mut self, _frame: &mut Frame) {}

    /// What is due waits at the port: a replay leaves nothing out because the guest is slow.
    fn patience_ns(&self) -> u64 {
        u64::MAX
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
