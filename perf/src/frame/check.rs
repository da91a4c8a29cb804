//! Whether what arrived is what was sent: length and sequence of every frame, the checksum of some.

use std::ops::AddAssign;

use std::sync::Arc;

use super::sequence::{Arrival, Sequence};
use super::{FRAME_BYTES_MAX, FRAME_BYTES_MIN, MARK_BYTES, Marks, STAMP_OFFSET, is_whole};

/// With frames coming in numbers, one in so many is checked byte by byte.
const SAMPLE_EVERY: u32 = 128;
/// A burst of no more than this says that there is time to check every frame.
const LEISURE: usize = 4;

/// What a checker counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Integrity {
    /// Frames that arrived, of whatever kind.
    pub received: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Frames not sent by us: no marks, an unknown flow, or a number this flow has not reached.
    pub foreign: u64,
    /// Frames of ours with another length, or another content, than when they were sent.
    pub corrupted: u64,
    /// Frames that came after a later one.
    pub reordered: u64,
    /// Frames that came again.
    pub duplicated: u64,
    /// Frames checked byte by byte.
    pub checksummed: u64,
}

impl AddAssign for Integrity {
    fn add_assign(&mut self, other: Self) {
        self.received += other.received;
        self.received_bytes += other.received_bytes;
        self.foreign += other.foreign;
        self.corrupted += other.corrupted;
        self.reordered += other.reordered;
        self.duplicated += other.duplicated;
        self.checksummed += other.checksummed;
    }
}

/// Frames without marks, sent again and again in this order: they are known by their place.
#[derive(Debug)]
struct Script {
    frames: Arc<[Box<[u8]>]>,
    /// Which one is due, counted over all rounds.
    due: u64,
}

/// How far a frame that is not the one due is looked for, forward and back.
const SCRIPT_SEARCH: u64 = 64;
/// What is compared of every frame; of some, all.
const SCRIPT_HEAD_BYTES: usize = 64;

impl Script {
    fn at(&self, place: u64) -> &[u8] {
        &self.frames[(place % self.frames.len() as u64) as usize]
    }

    /// The place of a frame of which `head` is the start: the one due, or one near it.
    fn find(&mut self, len_bytes: usize, head: &[u8]) -> Option<u64> {
        let due = self.due;
        // The nearest is the likeliest.
        let nearby = (0..SCRIPT_SEARCH).flat_map(|distance| [Some(due + distance), due.checked_sub(distance + 1)]);
        let place = nearby.flatten().find(|&place| {
            let frame = self.at(place);
            frame.len() == len_bytes && frame.starts_with(head)
        })?;
        self.due = self.due.max(place + 1);
        Some(place)
    }
}

/// Checks frames as they arrive. Allocates nothing after it is made.
#[derive(Debug)]
pub struct Checker {
    flows: Box<[Sequence]>,
    counts: Integrity,
    copy: Box<[u8]>,
    until_sample: u32,
    every: u32,
    script: Option<Script>,
}

impl Checker {
    /// For flows 0 to `flows`, excluded.
    pub fn new(flows: u16) -> Self {
        let flows = (0..flows).map(|_| Sequence::default()).collect();
        Checker {
            flows,
            counts: Integrity::default(),
            copy: vec![0; FRAME_BYTES_MAX].into(),
            until_sample: 0,
            every: SAMPLE_EVERY,
            script: None,
        }
    }

    /// For frames without marks, one flow of them, sent again and again in this order.
    pub fn of_script(frames: Arc<[Box<[u8]>]>) -> Self {
        Checker { script: Some(Script { frames, due: 0 }), ..Checker::new(1) }
    }

    /// From here on every frame is checked byte by byte, or again only some.
    pub fn check_all(&mut self, all: bool) {
        self.every = if all { 1 } else { SAMPLE_EVERY };
        self.until_sample = 0;
    }

    /// There is no time to check the next frames byte by byte.
    #[inline]
    pub fn check_few(&mut self) {
        self.until_sample = self.every;
    }

    /// A burst of so many frames is about to be checked.
    #[inline]
    pub fn expect_burst(&mut self, count: usize) {
        if count <= LEISURE {
            self.until_sample = 0;
        }
    }

    /// Checks one frame, as one of flow `as_flow` whatever it says itself. `read(offset, into)` copies part of it. Returns its
    /// marks, if it is one of ours.
    #[inline]
    pub fn check(&mut self, len_bytes: usize, as_flow: Option<u16>, read: impl Fn(usize, &mut [u8])) -> Option<Marks> {
        self.counts.received += 1;
        self.counts.received_bytes += len_bytes as u64;
        if self.script.is_some() {
            return self.check_place(len_bytes, read);
        }
        let mut bytes = [0; MARK_BYTES];
        if len_bytes >= FRAME_BYTES_MIN {
            read(STAMP_OFFSET, &mut bytes);
        }
        let Some(marks) = Marks::read(&bytes) else {
            self.counts.foreign += 1;
            return None;
        };
        let Some(flow) = self.flows.get_mut(usize::from(as_flow.unwrap_or(marks.flow))) else {
            self.counts.foreign += 1;
            return None;
        };
        match flow.arrive(marks.sequence) {
            Arrival::Due | Arrival::Ahead => {}
            Arrival::Late => self.counts.reordered += 1,
            Arrival::Again => self.counts.duplicated += 1,
            Arrival::Wild => {
                self.counts.foreign += 1;
                return None;
            }
        }
        if self.until_sample == 0 {
            self.until_sample = self.every;
            self.check_content(len_bytes, usize::from(marks.len_bytes), read);
        } else if len_bytes != usize::from(marks.len_bytes) {
            self.counts.corrupted += 1;
        }
        self.until_sample -= 1;
        Some(marks)
    }

    #[inline(never)]
    fn check_place(&mut self, len_bytes: usize, read: impl Fn(usize, &mut [u8])) -> Option<Marks> {
        let script = self.script.as_mut()?;
        let mut head = [0; SCRIPT_HEAD_BYTES];
        let head = &mut head[..len_bytes.min(SCRIPT_HEAD_BYTES)];
        read(0, head);
        let Some(place) = script.find(len_bytes, head) else {
            // Nothing like it: the one due, damaged.
            self.counts.corrupted += 1;
            self.flows[0].arrive(script.due);
            script.due += 1;
            return None;
        };
        match self.flows[0].arrive(place) {
            Arrival::Late => self.counts.reordered += 1,
            Arrival::Again => self.counts.duplicated += 1,
            Arrival::Due | Arrival::Ahead | Arrival::Wild => {}
        }
        if self.until_sample == 0 {
            self.until_sample = self.every;
            self.counts.checksummed += 1;
            let copy = &mut self.copy[..len_bytes];
            read(0, copy);
            self.counts.corrupted += u64::from(*copy != *script.at(place));
        }
        self.until_sample -= 1;
        Some(Marks { sequence: place, len_bytes: len_bytes as u16, flow: 0 })
    }

    #[inline(never)]
    fn check_content(&mut self, len_bytes: usize, sent_bytes: usize, read: impl Fn(usize, &mut [u8])) {
        self.counts.checksummed += 1;
        if len_bytes != sent_bytes || len_bytes > FRAME_BYTES_MAX {
            self.counts.corrupted += 1;
            return;
        }
        let copy = &mut self.copy[..len_bytes];
        read(0, copy);
        self.counts.corrupted += u64::from(!is_whole(copy));
    }

    /// One more than the highest sequence number of a flow that arrived.
    #[inline]
    pub fn due(&self, flow: u16) -> u64 {
        self.flows[usize::from(flow)].due()
    }

    /// Sequence numbers of a flow that are missing below the highest that arrived.
    pub fn missing(&self, flow: u16) -> u64 {
        self.flows[usize::from(flow)].missing()
    }

    /// What was counted so far.
    pub fn counts(&self) -> Integrity {
        self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Addressing, template};
    use super::*;

    fn check(checker: &mut Checker, frame: &[u8]) -> Option<u64> {
        let marks =
            checker.check(frame.len(), None, |offset, into| into.copy_from_slice(&frame[offset..][..into.len()]));
        marks.map(|marks| marks.sequence)
    }

    fn frame(flow: u16, sequence: u64) -> Vec<u8> {
        let mut frame = template(200, flow, 1, Addressing::between(0, 1));
        frame[STAMP_OFFSET..][..8].copy_from_slice(&sequence.to_le_bytes());
        frame
    }

    #[test]
    fn good_frames_pass_and_are_counted_by_flow() {
        let mut checker = Checker::new(2);
        for sequence in 0..300 {
            assert_eq!(check(&mut checker, &frame(1, sequence)), Some(sequence));
        }
        assert_eq!((checker.due(0), checker.due(1), checker.missing(1)), (0, 300, 0));
        let Integrity { received, received_bytes, checksummed, .. } = checker.counts();
        assert_eq!((received, received_bytes, checksummed), (300, 60_000, 3));
    }

    #[test]
    fn each_fault_is_counted_as_what_it_is() {
        let mut checker = Checker::new(1);
        checker.check_all(true);
        let mut broken = frame(0, 0);
        broken[199] ^= 1;
        check(&mut checker, &broken);
        check(&mut checker, &frame(0, 3));
        check(&mut checker, &frame(0, 2));
        check(&mut checker, &frame(0, 2));
        check(&mut checker, &frame(0, 4)[..199]);
        check(&mut checker, &frame(1, 0));
        check(&mut checker, &[0; 63]);
        check(&mut checker, &[0; 20_000]);
        let Integrity { received, foreign, corrupted, reordered, duplicated, checksummed, .. } = checker.counts();
        assert_eq!((received, foreign, corrupted, reordered, duplicated, checksummed), (8, 3, 2, 1, 1, 5));
        assert_eq!(checker.missing(0), 1);
    }

    #[test]
    fn frames_without_marks_are_known_by_their_place() {
        let frames: Vec<Box<[u8]>> = (0..10_u8).map(|i| vec![i; 60 + usize::from(i) * 30].into()).collect();
        let mut checker = Checker::of_script(frames.clone().into());
        checker.check_all(true);
        for round in 0..3 {
            for (place, frame) in (0..).zip(&frames) {
                assert_eq!(check(&mut checker, frame), Some(10 * round + place));
            }
        }
        let Integrity { received, corrupted, reordered, duplicated, checksummed, .. } = checker.counts();
        assert_eq!((received, corrupted, reordered, duplicated, checksummed), (30, 0, 0, 0, 30));
        assert_eq!(check(&mut checker, &frames[2]), Some(32)); // 30 and 31 are missing
        assert_eq!(check(&mut checker, &frames[1]), Some(31));
        assert_eq!(check(&mut checker, &frames[1]), Some(31));
        let mut damaged = frames[2].clone();
        damaged[100] ^= 1;
        check(&mut checker, &damaged);
        check(&mut checker, &[7; 300]);
        let Integrity { corrupted, reordered, duplicated, .. } = checker.counts();
        assert_eq!((corrupted, reordered, duplicated, checker.due(0), checker.missing(0)), (2, 1, 2, 34, 1)); // the damaged one came twice
    }

    #[test]
    fn a_wrong_length_is_noticed_in_every_frame_and_leisure_means_all_are_summed() {
        let mut checker = Checker::new(1);
        check(&mut checker, &frame(0, 0));
        check(&mut checker, &[&frame(0, 1)[..], &[0]].concat());
        assert_eq!((checker.counts().corrupted, checker.counts().checksummed), (1, 1));
        for sequence in 2..6 {
            checker.expect_burst(1);
            check(&mut checker, &frame(0, sequence));
        }
        assert_eq!(checker.counts().checksummed, 5);
    }
}
