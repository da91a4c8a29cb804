//! What a receiveq has on hand: empty buffers taken from the driver, and frames that wait for buffers.

use virtnet_rings::spec::net::{NET_HEADER_SIZE_BYTES, VIRTIO_NET_F_MRG_RXBUF};
use virtnet_rings::{Chain, PartStore, Parts, Used, Violation, Virtqueue};

use crate::bench::{BURST_MAX, Bench};
use crate::counters::DropReason;
use crate::frame::offload::Work;
use crate::frame::{self, Access, FRAME_LEN_MIN, Frame};
use crate::port::Port;

/// Enough for a 64 KiB frame in receive buffers of an Ethernet frame each.
const CHAINS_MAX: usize = 128;

/// How many long chains can be on hand at once.
const PART_LISTS: usize = 32;

/// Buffers and frames of one receiveq. What is done with stays at the front of its list until the burst is over.
#[derive(Debug)]
pub struct Hand {
    /// Buffers in the order they were taken, which is the order they are used in.
    chains: Vec<Chain>,
    /// How many of them are filled.
    chains_done: usize,
    /// The most that are taken ahead.
    chains_max: usize,
    /// Frames in the order they arrived.
    arrivals: Vec<Frame>,
    /// How many of them are copied or dropped.
    arrivals_done: usize,
    /// How much of the first of the others is copied, where it goes in pieces.
    pieces_done: usize,
    /// Since when the first of the others has been waiting for buffers.
    waiting_since_ns: Option<u64>,
    store: PartStore,
}

impl Hand {
    /// An empty hand for a queue of `queue_size`.
    pub fn new(queue_size: u16) -> Self {
        let chains_max = CHAINS_MAX.min(usize::from(queue_size));
        Hand {
            chains: Vec::with_capacity(chains_max),
            chains_done: 0,
            chains_max,
            arrivals: Vec::with_capacity(BURST_MAX),
            arrivals_done: 0,
            pieces_done: 0,
            waiting_since_ns: None,
            store: PartStore::new(PART_LISTS),
        }
    }

    /// Whether a frame is waiting for buffers.
    #[inline]
    pub fn is_waiting(&self) -> bool {
        !self.arrivals.is_empty()
    }

    /// Whether there are buffers for frames to come.
    pub fn has_buffers(&self) -> bool {
        !self.chains.is_empty()
    }

    /// Whether there is nothing on hand.
    pub fn is_empty(&self) -> bool {
        self.chains.is_empty() && self.arrivals.is_empty()
    }

    /// Takes buffers, a burst at a time, up to what a hand holds.
    #[inline]
    pub fn stock(&mut self, receiveq: &mut impl Virtqueue, bench: &mut Bench) -> Result<(), Violation> {
        let room = (self.chains_max - self.chains.len()).min(bench.burst.max(self.arrivals.len()));
        let Hand { chains, store, .. } = self;
        receiveq.take_available(room, store, |chain| {
            bench.counts.descriptors += u64::from(chain.descriptors);
            chains.push(chain);
        })
    }

    /// Takes frames from the port: no more than there are buffers for, where the port can keep them.
    #[inline]
    pub fn arrive(&mut self, port: &mut impl Port, bench: &Bench) {
        let keeps = port.patience_ns() == u64::MAX;
        let most = if keeps { bench.burst.min(self.chains.len()) } else { bench.burst };
        port.receive(bench.now_ns, most.saturating_sub(self.arrivals.len()), &mut self.arrivals);
    }

    /// Fills buffers with the frames that have arrived, into `bench.used`.
    #[inline]
    pub fn fill(&mut self, receiveq: &mut impl Virtqueue, bench: &mut Bench, features: u64, patience_ns: u64) {
        if self.arrivals.is_empty() {
            return;
        }
        let logging = receiveq.is_logging();
        while let Some(frame) = self.arrivals.get(self.arrivals_done) {
            // What nearly every frame is: one part, into the one part of the next buffer.
            let need = frame.len_bytes + NET_HEADER_SIZE_BYTES as u32;
            if let Some(from) = frame.parts.only()
                && let Some(chain) = self.chains.get(self.chains_done)
                && let Some(to) = chain.parts.only()
                && frame::refusal(&chain.parts, Access::Write).is_none()
                && to.len_bytes() >= need
                && frame.work_for(features) == Work::Nothing
                && bench.used_room() > 0
                && !logging
            {
                to.write_array(frame.header_to_guest(features, 1));
                to.skip(NET_HEADER_SIZE_BYTES as u32).copy_from(from);
                bench.used.push(Used { id: chain.id, descriptors: chain.descriptors, len_bytes: need });
                bench.counts.frame(frame.len_bytes);
                self.chains_done += 1;
            } else if !self.fill_otherwise(receiveq, bench, features) {
                break;
            }
            self.arrivals_done += 1;
        }
        self.chains.drain(..self.chains_done);
        self.wait(bench, patience_ns);
        self.chains_done = 0;
    }

    /// Any other frame: in several parts, or into several buffers, or one that is not taken as it is, or where the
    /// buffer is not usable. `false` if it must wait.
    #[cold]
    fn fill_otherwise(&mut self, receiveq: &mut impl Virtqueue, bench: &mut Bench, features: u64) -> bool {
        self.return_unusable(bench, features & 1 << VIRTIO_NET_F_MRG_RXBUF != 0);
        match self.arrivals[self.arrivals_done].work_for(features) {
            Work::Nothing => self.fill_parts(receiveq, bench, features),
            work => self.fill_worked(receiveq, bench, features, work),
        }
    }

    fn fill_parts(&mut self, receiveq: &mut impl Virtqueue, bench: &mut Bench, features: u64) -> bool {
        let mergeable = features & 1 << VIRTIO_NET_F_MRG_RXBUF != 0;
        let frame = &self.arrivals[self.arrivals_done];
        let need = frame.len_bytes as usize + NET_HEADER_SIZE_BYTES;
        let chains = match self.buffers_for(need, mergeable) {
            Buffers::Enough(chains) if chains <= bench.used_room() => chains,
            Buffers::TooSmall => {
                bench.counts.drop(DropReason::TooLong);
                return true;
            }
            _ => return false,
        };
        let header = frame.header_to_guest(features, chains as u16);
        let used = &mut bench.used;
        frame::fill(frame, header, self.chains[self.chains_done..][..chains].iter(), |chain, len_bytes| {
            used.push(Used { id: chain.id, descriptors: chain.descriptors, len_bytes });
        });
        bench.counts.frame(frame.len_bytes);
        self.filled(receiveq, chains);
        true
    }

    /// A frame whose receiver wants it with its checksum complete, or cut. The pieces may find room over several
    /// turns: the frame is copied again each time, and what was delivered is passed over.
    fn fill_worked(&mut self, receiveq: &mut impl Virtqueue, bench: &mut Bench, features: u64, work: Work) -> bool {
        let mergeable = features & 1 << VIRTIO_NET_F_MRG_RXBUF != 0;
        let Bench { workshop, used, counts, .. } = bench;
        let mut finished = match workshop.start(&self.arrivals[self.arrivals_done], work, self.pieces_done) {
            Ok(finished) => finished,
            Err(refusal) => {
                counts.drop(refusal.reason());
                self.pieces_done = 0;
                return true;
            }
        };
        while let Some(piece) = finished.next_piece() {
            match self.buffers_for(piece.len(), mergeable) {
                Buffers::Enough(chains) if chains <= used.capacity() - used.len() => {
                    piece[NET_HEADER_SIZE_BYTES - 2..NET_HEADER_SIZE_BYTES]
                        .copy_from_slice(&(chains as u16).to_le_bytes());
                    frame::fill_from(piece, self.chains[self.chains_done..][..chains].iter(), |chain, len_bytes| {
                        used.push(Used { id: chain.id, descriptors: chain.descriptors, len_bytes });
                    });
                    counts.frame((piece.len() - NET_HEADER_SIZE_BYTES) as u32);
                    self.filled(receiveq, chains);
                }
                Buffers::TooSmall => counts.drop(DropReason::TooLong),
                _ => return false,
            }
            self.pieces_done += 1;
        }
        self.pieces_done = 0;
        true
    }

    /// The next `count` buffers are done.
    fn filled(&mut self, receiveq: &mut impl Virtqueue, count: usize) {
        for chain in &mut self.chains[self.chains_done..][..count] {
            if receiveq.is_logging() {
                chain.parts.iter().for_each(|part| receiveq.log_written(part));
            }
            self.store.give_back(chain.parts.take_list());
        }
        self.chains_done += count;
    }

    /// Drops what has waited for buffers too long: it keeps what its sender lent.
    #[inline]
    fn wait(&mut self, bench: &mut Bench, patience_ns: u64) {
        if self.arrivals_done == self.arrivals.len() {
            self.waiting_since_ns = None;
            return;
        }
        let moved = self.arrivals_done > 0 || self.chains_done > 0;
        let since_ns = self.waiting_since_ns.filter(|_| !moved).unwrap_or(bench.now_ns);
        self.waiting_since_ns = Some(since_ns);
        if bench.now_ns.saturating_sub(since_ns) > patience_ns {
            self.drop_arrivals(bench, DropReason::NoBuffers);
        }
    }

    fn drop_arrivals(&mut self, bench: &mut Bench, reason: DropReason) {
        for _ in self.arrivals_done..self.arrivals.len() {
            bench.counts.drop(reason);
        }
        self.arrivals_done = self.arrivals.len();
        self.pieces_done = 0;
    }

    /// Gives the frames that are done with back to the port.
    #[inline]
    pub fn release(&mut self, port: &mut impl Port) {
        let done = std::mem::take(&mut self.arrivals_done);
        self.arrivals[..done].iter_mut().for_each(|frame| port.release(frame));
        self.arrivals.drain(..done);
    }

    /// Returns the next buffers empty if no frame can be put into them.
    fn return_unusable(&mut self, bench: &mut Bench, mergeable: bool) {
        while let Some(chain) = self.chains.get_mut(self.chains_done)
            && let Some(reason) = unusable(&chain.parts, mergeable)
            && bench.used_room() > 0
        {
            bench.counts.drop(reason);
            bench.used.push(Used { id: chain.id, descriptors: chain.descriptors, len_bytes: 0 });
            self.store.give_back(chain.parts.take_list());
            self.chains_done += 1;
        }
    }

    /// How many buffers a frame takes.
    fn buffers_for(&self, need: usize, mergeable: bool) -> Buffers {
        let mut room = 0;
        let chains = &self.chains[self.chains_done..];
        for (index, chain) in chains.iter().enumerate() {
            if unusable(&chain.parts, mergeable).is_some() {
                // It goes back empty once it is next; merging it would give the driver a buffer of 0 bytes.
                return if index == 0 { Buffers::NotYet } else { Buffers::TooSmall };
            }
            room += chain.parts.len_bytes() as usize;
            if room >= need {
                return Buffers::Enough(index + 1);
            }
            if !mergeable {
                return Buffers::TooSmall;
            }
        }
        if chains.len() == self.chains_max { Buffers::TooSmall } else { Buffers::NotYet }
    }

    /// Gives up the frames, because the queue is not served any more: they keep what their senders lent.
    pub fn forsake(&mut self, port: &mut impl Port, bench: &mut Bench) {
        self.drop_arrivals(bench, DropReason::QueueDisabled);
        self.release(port);
        self.waiting_since_ns = None;
    }

    /// Gives everything up because the queue goes: frames to the port, buffers untouched to the queue, from which a
    /// successor takes them again.
    pub fn abandon(&mut self, receiveq: &mut impl Virtqueue, port: &mut impl Port, bench: &mut Bench) {
        self.forsake(port, bench);
        for mut chain in self.chains.drain(..) {
            receiveq.abandon(&chain);
            self.store.give_back(chain.parts.take_list());
        }
    }
}

/// Why no frame can be put into a buffer, alone or with others: "Setting Up Receive Buffers" asks for room for the header
/// where buffers are merged, and for a whole frame where they are not.
fn unusable(parts: &Parts, mergeable: bool) -> Option<DropReason> {
    let least = NET_HEADER_SIZE_BYTES as u32 + if mergeable { 0 } else { FRAME_LEN_MIN };
    frame::refusal(parts, Access::Write).or((parts.len_bytes() < least).then_some(DropReason::TooShort))
}

/// What [`Hand::buffers_for`] found.
enum Buffers {
    /// The next so many.
    Enough(usize),
    /// Not enough are on hand, but more may come.
    NotYet,
    /// The frame will never fit.
    TooSmall,
}
