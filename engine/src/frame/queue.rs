//! A queue of frames with a place for each from the start. (The library's would move a frame out to let go of it.)

use super::{Frame, PlainFrame};

/// Up to `N` frames, first in, first out; `N` is a power of two.
#[derive(Debug)]
pub struct FrameQueue<const N: usize> {
    /// Empty where it is not allocated: then nothing may be pushed.
    places: Option<Box<[Frame; N]>>,
    /// How many frames went out and came in; they run on and wrap.
    head: usize,
    tail: usize,
}

impl<const N: usize> FrameQueue<N> {
    const MASK: usize = {
        assert!(N.is_power_of_two());
        N - 1
    };

    /// One without places.
    pub const CLOSED: Self = FrameQueue { places: None, head: 0, tail: 0 };

    /// How many there are.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.tail.wrapping_sub(self.head)
    }

    /// Whether there is none.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.head == self.tail
    }

    /// How many more there is a place for.
    #[inline(always)]
    pub fn room(&self) -> usize {
        if self.places.is_some() { N - self.len() } else { 0 }
    }

    /// Adds one at the end; there is room.
    #[inline(always)]
    pub fn push(&mut self, frame: Frame) {
        assert!(self.len() < N, "there is room");
        if let Some(places) = &mut self.places {
            places[self.tail & Self::MASK] = frame;
            self.tail = self.tail.wrapping_add(1);
        }
    }

    /// The same for a plain one, laid down where it will be.
    #[inline(always)]
    pub fn push_plain(&mut self, frame: PlainFrame) {
        assert!(self.len() < N, "there is room");
        if let Some(places) = &mut self.places {
            frame.lay_down(&mut places[self.tail & Self::MASK]);
            self.tail = self.tail.wrapping_add(1);
        }
    }

    /// The first one.
    #[inline(always)]
    pub fn front_mut(&mut self) -> Option<&mut Frame> {
        if self.is_empty() {
            return None;
        }
        self.places.as_mut().map(|places| &mut places[self.head & Self::MASK])
    }

    /// Lets go of the first one, whose list was taken. It stays where it is until its place is needed. After the last one, the
    /// first places are used again, which are in the cache.
    #[inline(always)]
    pub fn pass(&mut self) {
        debug_assert!(!self.is_empty());
        self.head = self.head.wrapping_add(1);
        if self.is_empty() {
            (self.head, self.tail) = (0, 0);
        }
    }

    /// Takes the first one out.
    #[inline]
    pub fn pop(&mut self) -> Option<Frame> {
        let frame = std::mem::take(self.front_mut()?);
        self.pass();
        Some(frame)
    }
}

impl<const N: usize> Default for FrameQueue<N> {
    /// An empty one.
    fn default() -> Self {
        let places: Box<[Frame]> = (0..N).map(|_| Frame::default()).collect();
        FrameQueue { places: places.try_into().ok(), ..Self::CLOSED }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_leave_in_the_order_they_came_lap_after_lap() {
        let mut queue = FrameQueue::<4>::default();
        let (mut pushed, mut popped) = (0, 0);
        for round in 0..20 {
            while queue.room() > 0 {
                queue.push(Frame { ticket: pushed, ..Frame::default() });
                pushed += 1;
            }
            assert_eq!(queue.len(), 4);
            for at in 0..=round % 4 {
                assert_eq!(queue.front_mut().map(|frame| frame.ticket), Some(popped));
                if at % 2 == 0 {
                    queue.pass()
                } else {
                    assert!(queue.pop().is_some())
                }
                popped += 1;
            }
        }
    }

    #[test]
    fn a_closed_queue_has_no_room() {
        let mut queue = FrameQueue::<4>::CLOSED;
        assert_eq!((queue.room(), queue.len()), (0, 0));
        assert!(queue.pop().is_none());
    }
}
