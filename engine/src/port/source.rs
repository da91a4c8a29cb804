//! A wire that sends by itself: frames from templates, in turn, as fast as the guest takes them or at a rate.

use thiserror::Error;
use virtnet_rings::Parts;
use virtnet_rings::memory::{OwnedMemory, Span};

use super::{Arrival, Copier, Port};
use crate::frame::{FRAME_LEN_MAX, FRAME_LEN_MIN, Frame};
use crate::window::Window;

/// The most templates there may be.
pub const TEMPLATES_MAX: usize = 4096;

/// How many frames are numbered ahead, and the most that are lent or that a turn has: few, so that they stay in the cache.
const AHEAD: usize = 64;

/// What a source sends.
#[derive(Clone, Debug, Default)]
pub struct SourceConfig {
    /// Whole frames, sent in turn. At least one.
    pub templates: Vec<Vec<u8>>,
    /// Frames a second and queue pair; `None` is as fast as they are taken.
    pub rate_fps: Option<f64>,
    /// Where in each frame to put its number, from 0 on, as a little-endian u64.
    pub stamp_offset: Option<u16>,
    /// How many frames to send in all; `None` is without end.
    pub count: Option<u64>,
}

/// Why a source was refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SourceError {
    /// None, or too many.
    #[error("{found} templates; allowed are 1 to {TEMPLATES_MAX}")]
    Templates {
        /// How many.
        found: usize,
    },
    /// A template that is no frame, or too short for the stamp.
    #[error("template {index} has {len_bytes} bytes; allowed are {min} to {FRAME_LEN_MAX}")]
    Length {
        /// Which one.
        index: usize,
        /// Its length.
        len_bytes: usize,
        /// The least, with the stamp in it.
        min: usize,
    },
    /// Not above zero.
    #[error("a rate must be above 0 frames a second")]
    Rate,
}

/// The source of one pair.
#[derive(Debug)]
pub struct Source {
    /// Copies of the templates, one after another, as many as can be lent or numbered at once.
    frames: Box<[Span]>,
    /// What they lie in.
    _memory: OwnedMemory,
    /// The next one to be sent, and the one that is not to be sent in this turn.
    next: usize,
    end: usize,
    /// How many had been sent when the first of `frames` was the next one.
    sent_before: u64,
    lent: usize,
    next_stamped: usize,
    /// How many have got their number: some ahead of those sent, so that copying them does not wait for the stores.
    stamped: u64,
    count: u64,
    stamp_offset: Option<u32>,
    rate: Option<Rate>,
}

/// An open-loop schedule.
#[derive(Debug)]
struct Rate {
    interval_ns: f64,
    /// When the first frame was due.
    start_ns: Option<u64>,
}

impl Source {
    /// A source of its own for one pair.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn new(config: &SourceConfig) -> Result<Self, SourceError> {
        let templates = &config.templates;
        if templates.is_empty() || templates.len() > TEMPLATES_MAX {
            return Err(SourceError::Templates { found: templates.len() });
        }
        let min = config.stamp_offset.map_or(0, |at| usize::from(at) + 8).max(FRAME_LEN_MIN as usize);
        for (index, template) in templates.iter().enumerate() {
            if template.len() < min || template.len() > FRAME_LEN_MAX as usize {
                return Err(SourceError::Length { index, len_bytes: template.len(), min });
            }
        }
        if config.rate_fps.is_some_and(|rate| rate.is_nan() || rate <= 0.0) {
            return Err(SourceError::Rate);
        }
        let longest = templates.iter().map(Vec::len).max().unwrap_or_default();
        let stride_bytes = longest.next_multiple_of(64);
        // Whole rounds of the templates.
        let rounds = (2 * AHEAD).div_ceil(templates.len());
        let memory = OwnedMemory::new(rounds * templates.len() * stride_bytes);
        let places = std::iter::repeat_n(templates, rounds).flatten().enumerate();
        let frames = places.map(|(place, template)| {
            let span = memory.span(place * stride_bytes, template.len());
            span.write(template);
            span
        });
        Ok(Source {
            frames: frames.collect(),
            _memory: memory,
            next: 0,
            end: 0,
            sent_before: 0,
            lent: 0,
            next_stamped: 0,
            stamped: 0,
            count: config.count.unwrap_or(u64::MAX),
            stamp_offset: config.stamp_offset.map(u32::from),
            rate: config.rate_fps.map(|rate| Rate { interval_ns: 1e9 / rate, start_ns: None }),
        })
    }

    /// Whether it has sent all that it will.
    pub fn is_over(&self) -> bool {
        self.sent() >= self.count
    }

    fn sent(&self) -> u64 {
        self.sent_before + self.next as u64
    }

    /// Numbers the frames that come next. They are not lent: there are more than are lent and numbered.
    #[inline]
    fn stamp(&mut self, at: u32) {
        while self.stamped < self.sent() + AHEAD as u64 {
            self.frames[self.next_stamped].skip(at).write_array(self.stamped.to_le_bytes());
            self.next_stamped = if self.next_stamped + 1 == self.frames.len() { 0 } else { self.next_stamped + 1 };
            self.stamped += 1;
        }
    }
}

impl Rate {
    /// How many frames are due in all by now.
    fn due(&mut self, now_ns: u64) -> u64 {
        let start_ns = *self.start_ns.get_or_insert(now_ns);
        ((now_ns.saturating_sub(start_ns) as f64 / self.interval_ns) as u64).saturating_add(1)
    }
}

impl Port for Source {
    const KEEPS: bool = false;

    fn room(&self) -> usize {
        usize::MAX
    }

    /// Nobody listens at this end.
    fn send(&mut self, frame: Frame, window: &mut Window) {
        window.take_list(frame);
    }

    fn reap(&mut self, _window: &mut Window) {}

    #[inline]
    fn arrived(&mut self, now_ns: u64) -> usize {
        let due = self.rate.as_mut().map_or(u64::MAX, |rate| rate.due(now_ns));
        if self.next == self.frames.len() {
            self.sent_before = self.sent();
            self.next = 0;
        }
        if let Some(at) = self.stamp_offset {
            self.stamp(at);
        }
        let left = due.min(self.count).saturating_sub(self.sent()).min((AHEAD - self.lent) as u64) as usize;
        let count = left.min(self.frames.len() - self.next); // the others come next
        self.end = self.next + count;
        count
    }

    #[inline(always)]
    fn receive(&mut self, _now_ns: u64, copier: &mut impl Copier) -> Arrival {
        if self.next >= self.end {
            return Arrival::None;
        }
        let span = self.frames[self.next];
        self.next += 1;
        let frame = Frame { parts: Parts::one(span), len_bytes: span.len_bytes(), ..Frame::default() };
        if copier.copy(&frame) {
            return Arrival::Copied;
        }
        self.lent += 1;
        Arrival::Lent(frame)
    }

    #[inline(always)]
    fn release(&mut self, _frame: &mut Frame) {
        self.lent -= 1;
    }

    /// The schedule does not slip because the guest is slow: what is due waits at the source.
    fn patience_ns(&self) -> u64 {
        u64::MAX
    }
}
