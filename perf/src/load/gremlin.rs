//! A fault put in between arrival and check, so that tests see the judge notice it.

use virtnet_rings::guest::Ram;
use virtnet_rings::guest::net::Received;

use crate::args::{InjectedFault, Injection};
use crate::frame::{Checker, STAMP_OFFSET};

/// Meddles with one frame in so many.
#[derive(Debug)]
pub struct Gremlin {
    injection: Injection,
    frames: u64,
    /// A frame held back for the next one to pass.
    held: Option<Vec<u8>>,
}

impl Gremlin {
    /// That does as told.
    pub fn new(injection: Injection) -> Self {
        Gremlin { injection, frames: 0, held: None }
    }

    /// A whole frame arrived. True if it is dealt with.
    pub fn meddle(&mut self, ram: &Ram, frame: Received, checker: &mut Checker) -> bool {
        let mut copy = vec![0; frame.len_bytes as usize];
        ram.read(frame.gpa, &mut copy);
        if let Some(held) = self.held.take() {
            check(checker, &copy);
            check(checker, &held);
            return true;
        }
        self.frames += 1;
        if !self.frames.is_multiple_of(self.injection.every) {
            return false;
        }
        match self.injection.fault {
            InjectedFault::Lose => true,
            InjectedFault::Repeat => {
                check(checker, &copy);
                false
            }
            InjectedFault::Swap => {
                self.held = Some(copy);
                true
            }
            InjectedFault::Corrupt => {
                // Sparing the stamp: a wrong number is another fault.
                if let Some(byte) = copy.get_mut(STAMP_OFFSET - 1) {
                    *byte ^= 1;
                }
                check(checker, &copy);
                true
            }
        }
    }
}

fn check(checker: &mut Checker, frame: &[u8]) {
    checker.check(frame.len(), None, |offset, into| into.copy_from_slice(&frame[offset..][..into.len()]));
}
