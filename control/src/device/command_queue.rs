//! A queue of commands of a driver, served by the control thread, a bounded number of them at a time.

use std::os::fd::OwnedFd;

use virtnet_rings::memory::Span;
use virtnet_rings::{Chain, Notifier, PartStore, Queue, Violation, Virtqueue};

/// The most reasons to refuse a command for, of any kind of queue.
const REASONS_MAX: usize = 9;

/// What came of commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// All.
    pub given: u64,
    /// Those that were done.
    pub done: u64,
    reasons: &'static [&'static str],
    refused: [u64; REASONS_MAX],
}

impl Counts {
    /// None yet, of commands that are refused for these reasons, nine at most.
    pub const fn new(reasons: &'static [&'static str]) -> Self {
        Self { given: 0, done: 0, reasons, refused: [0; REASONS_MAX] }
    }

    /// Counts one that was done, or that was refused for a reason of this number.
    pub fn count(&mut self, refused: Option<usize>) {
        self.given += 1;
        match refused {
            Some(reason) => self.refused[reason] += 1,
            None => self.done += 1,
        }
    }

    /// Those that were not done, by reason.
    pub fn refused(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.reasons.iter().copied().zip(self.refused)
    }
}

/// A queue of commands in use.
#[derive(Debug)]
pub struct CommandQueue {
    queue: Queue,
    store: PartStore,
    per_turn: usize,
    /// Room for a command.
    bytes: Box<[u8]>,
    broken: bool,
    has_work: bool,
}

impl CommandQueue {
    /// Serves a queue, so many commands at a time, of which so many bytes are looked at.
    pub fn new(queue: Queue, per_turn: usize, bytes_max: usize) -> Self {
        let (store, bytes) = (PartStore::new(per_turn), vec![0; bytes_max].into());
        // What came before the kick was watched has no kick of its own.
        Self { queue, store, per_turn, bytes, broken: false, has_work: true }
    }

    /// What the driver kicks.
    pub fn kick(&self) -> Option<&OwnedFd> {
        self.queue.kick().eventfd()
    }

    /// Whether commands were left for the next time.
    pub fn has_work(&self) -> bool {
        self.has_work
    }

    /// Memory that it has waited for may be there now.
    pub fn look_again(&mut self) {
        self.has_work |= self.queue.misses();
    }

    /// Where it stands.
    pub fn base(&self) -> u32 {
        self.queue.base()
    }

    /// Changes where used-buffer notifications go.
    pub fn set_call(&mut self, call: Notifier) {
        *self.queue.call() = call;
    }

    /// Serves commands that are available: `answer` has the bytes of each, and how many there is room for in its answer. What of the
    /// answer has no room is not written.
    ///
    /// # Errors
    /// The driver broke a rule. Nothing is served any more.
    pub fn serve(&mut self, mut answer: impl FnMut(&[u8], usize) -> Vec<u8>) -> Result<(), Violation> {
        if self.broken {
            return Ok(());
        }
        self.queue.kick().drain();
        self.queue.begin_turn();
        let (chains, violation) = self.queue.take_list(self.per_turn, &mut self.store);
        for mut chain in chains {
            let len = read(&chain, &mut self.bytes);
            let room = writable(&chain).map(|part| part.len_bytes() as usize).sum();
            let bytes = answer(&self.bytes[..len], room);
            let len_bytes = write(&chain, &self.queue, &bytes);
            self.queue.return_used(&[chain.used(len_bytes)]);
            self.store.give_back(chain.parts.take_list());
        }
        self.queue.end_turn();
        if self.queue.wants_notification() {
            self.queue.call().notify();
        }
        self.has_work = false;
        if let Some(violation) = violation {
            self.broken = true;
            return Err(violation);
        }
        // One that waits for memory is left until that may be there.
        self.has_work = self.queue.arm() && !self.queue.misses();
        Ok(())
    }
}

fn writable(chain: &Chain) -> impl Iterator<Item = Span> {
    chain.parts.iter().skip(chain.parts.readable())
}

/// A command is copied once, and the copy is looked at.
fn read(chain: &Chain, into: &mut [u8]) -> usize {
    let readable = chain.parts.iter().take(chain.parts.readable());
    readable.fold(0, |len, part| len + part.read(&mut into[len..]))
}

fn write(chain: &Chain, queue: &Queue, bytes: &[u8]) -> u32 {
    let mut left = bytes;
    for part in writable(chain).map_while(|part| (!left.is_empty()).then_some(part)) {
        let written = part.write(left);
        queue.log_written(part.first(written as u32));
        left = &left[written..];
    }
    (bytes.len() - left.len()) as u32
}
