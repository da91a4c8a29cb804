//! What a receiveq has on hand: empty buffers taken from the driver, and frames that wait for buffers.

use std::collections::VecDeque;

use virtnet_rings::spec::net::{NET_HEADER_SIZE_BYTES, VIRTIO_NET_F_MRG_RXBUF};
use virtnet_rings::{Chain, Fault, PartStore, Used, Violation, Virtqueue};

use crate::bench::{BURST_MAX, Bench};
use crate::counters::DropReason;
use crate::frame::{self, Access, Frame};
use crate::port::Port;

/// Enough for a 64 KiB frame in receive buffers of an Ethernet frame each.
const CHAINS_MAX: usize = 128;

/// How many long chains can be on hand at once.
const PART_LISTS: usize = 32;

/// Buffers and frames of one receiveq.
#[derive(Debug)]
pub struct Hand {
    /// Buffers in the order they were taken, which is the order they are used in.
    chains: VecDeque<Chain>,
    /// The most that are taken ahead.
    chains_max: usize,
    /// Frames in the order they arrived.
    arrivals: Vec<Frame>,
    /// Since when the first of them has been waiting for buffers.
    waiting_since_ns: Option<u64>,
    store: PartStore,
}

impl Hand {
    /// An empty hand for a queue of `queue_size`.
    pub fn new(queue_size: u16) -> Self {
        let chains_max = CHAINS_MAX.min(usize::from(queue_size));
        Hand {
            chains: VecDeque::with_capacity(chains_max),
            chains_max,
            arrivals: Vec::with_capacity(BURST_MAX),
            waiting_since_ns: None,
            store: PartStore::new(PART_LISTS),
        }
    }

    /// Whether a frame is waiting for buffers.
    #[inline]
    pub fn is_waiting(&self) -> bool {
        !self.arrivals.is_empty()
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
            chains.push_back(chain);
        })
    }

    /// Takes frames from the port: no more than there are buffers for, where the port can keep them.
    #[inline]
    pub fn arrive(&mut self, port: &mut impl Port, bench: &Bench) {
        let keeps = port.patience_ns() == u64::MAX;
        let most = if keeps { bench.burst.min(self.chains.len()) } else { bench.burst };
        port.receive(bench.now_ns, most.saturating_sub(self.arrivals.len()), &mut self.arrivals);
    }

    /// Fills buffers with the frames that have arrived, into `bench.used`, and moves the frames that are done with, copied
    /// or dropped, to `bench.frames`.
    #[inline]
    pub fn fill(&mut self, receiveq: &mut impl Virtqueue, bench: &mut Bench, features: u64, patience_ns: u64) {
        if self.arrivals.is_empty() {
            return;
        }
        let mergeable = features & 1 << VIRTIO_NET_F_MRG_RXBUF != 0;
        let mut done = 0;
        while let Some(frame) = self.arrivals.get(done) {
            // What nearly every frame is: one part, into the one part of the first buffer.
            let need = frame.len_bytes + NET_HEADER_SIZE_BYTES as u32;
            if let Some(from) = frame.parts.only()
                && let Some(chain) = self.chains.front()
                && let Some(to) = chain.parts.only()
                && chain.readable == 0
                && chain.fault == Fault::None
                && to.len_bytes() >= need
                && bench.used_room() > 0
                && !receiveq.is_logging()
            {
                to.write_array(frame::header_to_guest(frame.header, features, 1).to_bytes());
                to.skip(NET_HEADER_SIZE_BYTES as u32).copy_from(from);
                bench.used.push(Used { id: chain.id, descriptors: chain.descriptors, len_bytes: need });
                bench.counts.frame(frame.len_bytes);
                self.chains.pop_front();
                done += 1;
                continue;
            }
            self.drop_unusable(bench);
            let chains = match self.buffers_for(need as usize, mergeable) {
                Buffers::Enough(chains) if chains <= bench.used_room() => chains,
                Buffers::TooSmall => {
                    bench.counts.drop(DropReason::TooLong);
                    done += 1;
                    continue;
                }
                _ => break,
            };
            let frame = &self.arrivals[done];
            let header = frame::header_to_guest(frame.header, features, chains as u16);
            let used = &mut bench.used;
            frame::fill(frame, header, self.chains.range(..chains), |chain, len_bytes| {
                used.push(Used { id: chain.id, descriptors: chain.descriptors, len_bytes });
            });
            bench.counts.frame(frame.len_bytes);
            for mut chain in self.chains.drain(..chains) {
                if receiveq.is_logging() {
                    chain.parts.as_slice().iter().for_each(|&part| receiveq.log_written(part));
                }
                self.store.give_back(chain.parts.take_list());
            }
            done += 1;
        }
        self.wait(done, bench, patience_ns);
        bench.frames.extend(self.arrivals.drain(..done.min(self.arrivals.len())));
    }

    /// Drops what has waited for buffers too long: it keeps what its sender lent.
    #[inline]
    fn wait(&mut self, done: usize, bench: &mut Bench, patience_ns: u64) {
        if done == self.arrivals.len() {
            self.waiting_since_ns = None;
            return;
        }
        let since = if done > 0 { None } else { self.waiting_since_ns };
        let since = *self.waiting_since_ns.insert(since.unwrap_or(bench.now_ns));
        if bench.now_ns.saturating_sub(since) > patience_ns {
            for frame in self.arrivals.drain(done..) {
                bench.counts.drop(DropReason::NoBuffers);
                bench.frames.push(frame);
            }
        }
    }

    /// Returns buffers at the front that no frame can be put into, empty.
    #[inline]
    fn drop_unusable(&mut self, bench: &mut Bench) {
        while let Some(chain) = self.chains.front()
            && let Some(reason) = frame::refusal(chain, Access::Write)
            && bench.used_room() > 0
        {
            bench.counts.drop(reason);
            bench.used.push(Used { id: chain.id, descriptors: chain.descriptors, len_bytes: 0 });
            let chain = self.chains.pop_front();
            self.store.give_back(chain.and_then(|mut chain| chain.parts.take_list()));
        }
    }

    /// How many buffers a frame takes.
    #[inline]
    fn buffers_for(&self, need: usize, mergeable: bool) -> Buffers {
        let mut room = 0;
        for (index, chain) in self.chains.iter().enumerate() {
            if frame::refusal(chain, Access::Write).is_some() {
                // It goes back empty once it is at the front; merging it would give the driver a buffer of 0 bytes.
                return Buffers::TooSmall;
            }
            room += chain.parts.len_bytes() as usize;
            if room >= need {
                return Buffers::Enough(index + 1);
            }
            if !mergeable {
                return Buffers::TooSmall;
            }
        }
        if self.chains.len() == self.chains_max { Buffers::TooSmall } else { Buffers::NotYet }
    }

    /// Gives everything up because the queue goes: frames to `bench.frames`, buffers untouched to the queue, from which a
    /// successor takes them again.
    pub fn abandon(&mut self, receiveq: &mut impl Virtqueue, bench: &mut Bench) {
        for frame in self.arrivals.drain(..) {
            bench.counts.drop(DropReason::QueueDisabled);
            bench.frames.push(frame);
        }
        for mut chain in self.chains.drain(..) {
            receiveq.abandon(&chain);
            self.store.give_back(chain.parts.take_list());
        }
        self.waiting_since_ns = None;
    }
}

/// What [`Hand::buffers_for`] found.
enum Buffers {
    /// The first so many.
    Enough(usize),
    /// Not enough are on hand, but more may come.
    NotYet,
    /// The frame will never fit.
    TooSmall,
}
