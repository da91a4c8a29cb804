//! Frames that wait because the pair they are for is on its way from one worker to another.
//!
//! Each lane keeps its own, from the moment it is told that the pair will go until it is told where the pair is. So what was
//! sent before is all at the old place, and what is sent later comes after it. A sender is asked for no more than there is
//! room for, and its queue waits meanwhile: nothing is lost, nothing is overtaken.

use std::collections::VecDeque;

use super::Place;
use crate::frame::Frame;

/// How many frames wait in one lane.
const ROOM: usize = 1024;
const NOWHERE: Place = Place { worker: u16::MAX, slot: u16::MAX };

/// What one lane keeps.
#[derive(Debug)]
pub struct Hold {
    /// Where they are for.
    place: Place,
    frames: VecDeque<Frame>,
    /// The pair has arrived, and what is here goes there.
    leads: bool,
}

impl Default for Hold {
    fn default() -> Self {
        Self { place: NOWHERE, frames: VecDeque::new(), leads: false }
    }
}

impl Hold {
    /// Keeps what is for a place. `false` where another is kept for.
    pub fn begin(&mut self, place: Place) -> bool {
        let free = self.place == NOWHERE;
        if free {
            self.frames.reserve(ROOM);
            (self.place, self.leads) = (place, false);
        }
        free
    }

    /// Lets it go, to where the pair is now.
    pub fn end(&mut self, place: Place) {
        if self.place != NOWHERE {
            (self.place, self.leads) = (place, true);
        }
    }

    /// Whether a frame for this place must wait.
    #[inline(always)]
    pub fn keeps(&self, place: Place) -> bool {
        self.place == place
    }

    /// How many frames there is room for, wherever they are for.
    #[inline(always)]
    pub fn room(&self) -> usize {
        if self.place == NOWHERE { usize::MAX } else { ROOM - self.frames.len() }
    }

    /// Takes a frame away, if there is room.
    pub fn put(&mut self, frame: &mut Frame) -> bool {
        let has_room = self.frames.len() < ROOM;
        if has_room {
            self.frames.push_back(std::mem::take(frame));
        }
        has_room
    }

    /// The next frame to go, and where to. When none is left, nothing is kept any more.
    pub fn next(&mut self) -> Option<(Place, Frame)> {
        if !self.leads {
            return None;
        }
        let frame = self.frames.pop_front();
        let next = frame.map(|frame| (self.place, frame));
        if next.is_none() {
            self.place = NOWHERE;
            self.leads = false;
        }
        next
    }

    /// Puts a frame back that cannot go yet.
    pub fn put_back(&mut self, frame: Frame) {
        self.frames.push_front(frame);
    }

    /// Whether nothing is kept.
    pub fn is_over(&self) -> bool {
        self.place == NOWHERE
    }
}
