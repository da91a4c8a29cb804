//! What a receiveq has on hand: empty buffers taken from the driver, and frames that wait for buffers.

use std::slice;
use std::time::{Duration, Instant};

use virtnet_rings::spec::net::{
    NET_HEADER_HASH_SIZE_BYTES, NET_HEADER_SIZE_BYTES, VIRTIO_NET_F_HASH_REPORT, VIRTIO_NET_F_MRG_RXBUF,
    net_header_size_bytes,
};
use virtnet_rings::{Access, Chain, PartStore, Parts, Used, Violation, Virtqueue};

use crate::bench::{BURST_MAX, Bench};
use crate::counters::{BurstCounts, DropReason};
use crate::frame::flow::{self, Flow};
use crate::frame::hash::{Hash, Hasher};
use crate::frame::offload::Work;
use crate::frame::{self, FRAME_LEN_MIN, Frame, NUM_BUFFERS};
use crate::port::{Arrival, Copier, Keep, Port};
use crate::shelf::Shelf;

/// Enough for a 64 KiB frame in receive buffers of an Ethernet frame each.
const CHAINS_MAX: usize = 128;

/// How many long chains can be on hand at once.
const PART_LISTS: usize = 32;

/// Buffers and frames of one receiveq.
#[derive(Debug)]
pub struct Hand {
    /// Buffers in the order they were taken, which is the order they are used in.
    chains: Box<[Chain]>,
    /// The first of them that is not filled, and the end of them.
    next: usize,
    end: usize,
    /// Frames that must wait for buffers, or be looked at more closely, in the order they arrived.
    arrivals: Vec<Frame>,
    /// How many of them are copied or dropped.
    arrivals_done: usize,
    /// How much of the first of the others is copied, where it goes in pieces.
    pieces_done: usize,
    /// Since when the first of the others has been waiting for buffers.
    waiting_since_ns: Option<u64>,
    /// Since when the frame waits whose latency is measured.
    followed: Option<Instant>,
    store: PartStore,
    /// Where the bytes of the first arrivals are, once they have waited for a translation; for queues that have to.
    shelf: Option<Box<Shelf>>,
    /// What is hashed of frames to a driver that has the hash reported.
    hasher: Option<Hasher>,
}

impl Hand {
    /// An empty hand for a queue of `queue_size`, whose buffers may have to wait for translations.
    pub fn new(queue_size: u16, is_on_demand: bool) -> Self {
        let chains_max = CHAINS_MAX.min(usize::from(queue_size));
        Hand {
            chains: (0..chains_max).map(|_| Chain::default()).collect(),
            next: 0,
            end: 0,
            arrivals: Vec::with_capacity(BURST_MAX),
            arrivals_done: 0,
            pieces_done: 0,
            waiting_since_ns: None,
            followed: None,
            store: PartStore::new(PART_LISTS),
            shelf: is_on_demand.then(Box::default),
            hasher: None,
        }
    }

    /// Changes what hash a driver that has it reported hears of: none of any frame, at first.
    pub fn set_hasher(&mut self, hasher: Option<Hasher>) {
        self.hasher = hasher;
    }

    /// Whether a frame is waiting for buffers.
    #[inline]
    pub fn is_waiting(&self) -> bool {
        !self.arrivals.is_empty()
    }

    /// Whether one is that a sender has lent.
    pub fn borrows(&self) -> bool {
        self.arrivals.len() > self.shelf.as_ref().map_or(0, |shelf| shelf.count())
    }

    /// Whether a frame is being followed.
    #[inline(always)]
    pub fn follows(&self) -> bool {
        self.followed.is_some()
    }

    /// After a burst: goes on following a frame, or begins with one that was found in a turn which began at `found_at`. How long
    /// it has waited, once one is delivered.
    #[cold]
    pub fn follow(&mut self, found_at: Option<Instant>, delivered: bool) -> Option<Duration> {
        let since = self.followed.take().or(found_at)?;
        // What was dropped has no latency.
        self.followed = (!delivered && self.is_waiting()).then_some(since);
        delivered.then(|| since.elapsed())
    }

    /// Whether there are buffers for frames to come.
    pub fn has_buffers(&self) -> bool {
        self.next < self.end
    }

    /// Whether there is nothing on hand.
    pub fn is_empty(&self) -> bool {
        self.next == self.end && self.arrivals.is_empty()
    }

    /// Takes buffers from the driver until so many are on hand, or all that a hand holds.
    #[inline(always)]
    fn stock(&mut self, receiveq: &mut impl Virtqueue, bench: &mut Bench, count: usize) -> Result<(), Violation> {
        if self.next == self.end {
            (self.next, self.end) = (0, 0);
        } else if self.next > 0 {
            self.move_up();
        }
        let count = count.min(self.chains.len());
        if count <= self.end {
            return Ok(());
        }
        let before = receiveq.outstanding();
        let taken = receiveq.take_available(&mut self.chains[self.end..count], &mut self.store);
        self.end += taken.count;
        bench.counts.taken(receiveq.outstanding() - before);
        taken.violation.map_or(Ok(()), Err)
    }

    /// Moves the buffers that are left to the front.
    #[cold]
    fn move_up(&mut self) {
        let gone = self.next;
        (gone..self.end).for_each(|at| self.chains.swap(at - gone, at));
        (self.next, self.end) = (0, self.end - gone);
    }

    /// Fills buffers with frames from the port, into `bench.used`. Buffers are taken when frames are there for them.
    ///
    /// # Errors
    /// A [`Violation`] of the driver's. What was filled before is good; the rest stays on hand.
    #[inline(always)]
    pub fn fill(
        &mut self,
        receiveq: &mut impl Virtqueue,
        port: &mut impl Port,
        bench: &mut Bench,
        features: u64,
    ) -> Result<(), Violation> {
        let mut left = port.arrived(bench.now_ns).min(bench.burst);
        if left == 0 && !self.is_waiting() {
            return Ok(());
        }
        self.stock(receiveq, bench, left.max(self.arrivals.len()))?;
        if port.patience_ns() == u64::MAX {
            // No more than there are buffers for: the rest waits in the port.
            left = left.min(self.end.saturating_sub(self.arrivals.len()));
        }
        if self.arrivals.is_empty() && !receiveq.is_logging() && frame::has_plain_path(features) {
            left -= self.fill_plain(port, bench, features, left);
            if !bench.used.is_empty() {
                self.waiting_since_ns = None;
            }
        }
        if left > 0 || self.is_waiting() {
            self.fill_others(receiveq, port, bench, features, left)?;
        }
        Ok(())
    }

    /// Copies up to `count` frames of one part into one part of a buffer each; stops at the first other one, which it sets
    /// aside, and at the last buffer. Returns how many frames it received.
    #[inline(always)]
    fn fill_plain(&mut self, port: &mut impl Port, bench: &mut Bench, features: u64, count: usize) -> usize {
        let Bench { used, counts, now_ns, .. } = bench;
        let chains = self.chains[self.next..self.end].iter();
        let mut filling = Filling { chains, used, counts, bytes: 0, features };
        let count = count.min(filling.chains.len());
        let mut received = 0;
        while received < count {
            match port.receive(*now_ns, &mut filling) {
                Arrival::Copied => received += 1,
                Arrival::Lent(frame) => {
                    received += 1;
                    self.arrivals.push(frame);
                    break;
                }
                Arrival::None => break,
            }
        }
        let next = self.end - filling.chains.len();
        filling.counts.frames((next - self.next) as u64, filling.bytes);
        self.next = next;
        received
    }

    /// Goes on with frames that wait or that are not plain, and with `left` more from the port.
    #[inline(never)]
    fn fill_others(
        &mut self,
        receiveq: &mut impl Virtqueue,
        port: &mut impl Port,
        bench: &mut Bench,
        features: u64,
        mut left: usize,
    ) -> Result<(), Violation> {
        loop {
            while self.arrivals_done < self.arrivals.len() {
                if self.fill_other(receiveq, bench, features) {
                    self.arrivals_done += 1;
                } else if bench.used_room() == 0 || self.end - self.next == self.chains.len() {
                    return self.wait(receiveq, port, bench, left);
                } else {
                    // It takes more buffers than were stocked.
                    let before = self.end - self.next;
                    self.stock(receiveq, bench, usize::MAX)?;
                    if self.end - self.next == before {
                        return self.wait(receiveq, port, bench, left);
                    }
                }
            }
            self.release(port);
            if left == 0 {
                self.waiting_since_ns = None;
                return Ok(());
            }
            if !receiveq.is_logging() && frame::has_plain_path(features) {
                left -= self.fill_plain(port, bench, features, left.min(bench.used_room()));
            }
            if left > 0 && !self.is_waiting() {
                self.arrivals.extend(port.receive(bench.now_ns, &mut Keep).lent());
                // One was taken, or there are no more.
                left = if self.is_waiting() { left - 1 } else { 0 };
            }
        }
    }

    /// Any frame: in several parts, or into several buffers, or one that is not taken as it is, or where the
    /// buffer is not usable. `false` if it must wait.
    fn fill_other(&mut self, receiveq: &mut impl Virtqueue, bench: &mut Bench, features: u64) -> bool {
        self.return_unusable(bench, features);
        let work = match self.pieces_done {
            0 => self.arrivals[self.arrivals_done].work_for(features),
            // What was begun is finished, whatever the receiver takes now.
            _ => Work::Segments,
        };
        match work {
            Work::Nothing => self.fill_parts(receiveq, bench, features),
            work => self.fill_worked(receiveq, bench, features, work),
        }
    }

    fn fill_parts(&mut self, receiveq: &mut impl Virtqueue, bench: &mut Bench, features: u64) -> bool {
        let header_bytes = net_header_size_bytes(features);
        let frame = &self.arrivals[self.arrivals_done];
        let chains = match self.buffers_for(header_bytes + frame.len_bytes as usize, features) {
            Buffers::Enough(chains) if chains <= bench.used_room() => chains,
            Buffers::TooSmall => {
                bench.counts.drop(DropReason::TooLong, 1);
                return true;
            }
            _ => return false,
        };
        let mut header = [0; NET_HEADER_HASH_SIZE_BYTES];
        header[..NET_HEADER_SIZE_BYTES].copy_from_slice(&frame.header_to_guest(features, chains as u16));
        if let Some(report) = self.report(frame, features) {
            header[NET_HEADER_SIZE_BYTES..].copy_from_slice(&report);
        }
        let used = &mut bench.used;
        frame::fill(frame, &header[..header_bytes], self.chains[self.next..][..chains].iter(), |chain, len_bytes| {
            used.push(chain.used(len_bytes));
        });
        bench.counts.frame(frame.len_bytes);
        self.filled(receiveq, chains);
        true
    }

    /// A frame whose receiver wants it with its checksum complete, or cut. The pieces may find room over several
    /// turns: the frame is copied again each time, and what was delivered is passed over.
    fn fill_worked(&mut self, receiveq: &mut impl Virtqueue, bench: &mut Bench, features: u64, work: Work) -> bool {
        let header_bytes = net_header_size_bytes(features);
        let Bench { workshop, used, counts, .. } = bench;
        let mut finished = match workshop.start(&self.arrivals[self.arrivals_done], work, self.pieces_done) {
            Ok(finished) => finished,
            Err(refusal) => {
                counts.drop(refusal.reason(), 1);
                self.pieces_done = 0;
                return true;
            }
        };
        // Pieces have the ports of the whole.
        let report = self.report(&self.arrivals[self.arrivals_done], features);
        while let Some(piece) = finished.next_piece(header_bytes) {
            match self.buffers_for(piece.len(), features) {
                Buffers::Enough(chains) if chains <= used.capacity() - used.len() => {
                    if let Some(num_buffers) = piece[..header_bytes].get_mut(NUM_BUFFERS..NET_HEADER_SIZE_BYTES) {
                        num_buffers.copy_from_slice(&(chains as u16).to_le_bytes());
                    }
                    if let Some(report) = report {
                        piece[NET_HEADER_SIZE_BYTES..header_bytes].copy_from_slice(&report);
                    }
                    frame::fill_from(piece, self.chains[self.next..][..chains].iter(), |chain, len_bytes| {
                        used.push(chain.used(len_bytes));
                    });
                    counts.frame((piece.len() - header_bytes) as u32);
                    self.filled(receiveq, chains);
                }
                Buffers::TooSmall => counts.drop(DropReason::TooLong, 1),
                _ => return false,
            }
            self.pieces_done += 1;
        }
        self.pieces_done = 0;
        true
    }

    /// What a net header says of a frame's hash, if it says anything.
    #[inline]
    fn report(&self, frame: &Frame, features: u64) -> Option<[u8; 8]> {
        (features & 1 << VIRTIO_NET_F_HASH_REPORT != 0).then(|| self.hash(frame))
    }

    /// Out of the way of those that have none reported.
    #[inline(never)]
    fn hash(&self, frame: &Frame) -> [u8; 8] {
        let hash = self.hasher.as_ref().and_then(|hasher| {
            let mut head = [0; flow::HEAD_BYTES_MAX];
            let count = frame.parts.read(&mut head);
            hasher.hash(&Flow::parse(&head[..count])?)
        });
        Hash::report(hash)
    }

    /// The next `count` buffers are done.
    fn filled(&mut self, receiveq: &mut impl Virtqueue, count: usize) {
        for chain in &mut self.chains[self.next..][..count] {
            if receiveq.is_logging() {
                chain.parts.iter().for_each(|part| receiveq.log_written(part));
            }
            self.store.give_back(chain.parts.take_list());
        }
        self.next += count;
    }

    /// Nothing fits any more. What has waited for buffers too long is dropped, for it keeps what its sender lent; and so is
    /// what comes after it, until something fits again. Where a buffer is there, and waits for a translation, so do frames.
    fn wait(
        &mut self,
        receiveq: &impl Virtqueue,
        port: &mut impl Port,
        bench: &mut Bench,
        left: usize,
    ) -> Result<(), Violation> {
        let moved = self.arrivals_done > 0 || !bench.used.is_empty();
        self.release(port);
        let patience_ns = port.patience_ns();
        if patience_ns < u64::MAX {
            let room = left.min(self.arrivals.capacity() - self.arrivals.len());
            self.arrivals.extend((0..room).map_while(|_| port.receive(bench.now_ns, &mut Keep).lent()));
        }
        let since_ns = self.waiting_since_ns.filter(|_| !moved).unwrap_or(bench.now_ns);
        self.waiting_since_ns = Some(since_ns);
        if bench.now_ns.saturating_sub(since_ns) > patience_ns {
            match &mut self.shelf {
                Some(shelf) if receiveq.misses() => shelve(&mut self.arrivals, shelf, port, bench),
                _ => {
                    self.drop_arrivals(bench, DropReason::NoBuffers);
                    self.release(port);
                }
            }
        }
        Ok(())
    }

    fn drop_arrivals(&mut self, bench: &mut Bench, reason: DropReason) {
        bench.counts.drop(reason, (self.arrivals.len() - self.arrivals_done) as u64);
        self.arrivals_done = self.arrivals.len();
        self.pieces_done = 0;
    }

    /// Gives the frames that are done with back to the port.
    fn release(&mut self, port: &mut impl Port) {
        let done = std::mem::take(&mut self.arrivals_done);
        for frame in &mut self.arrivals[..done] {
            if !self.shelf.as_mut().is_some_and(|shelf| shelf.let_go()) {
                port.release(frame);
            }
        }
        self.arrivals.drain(..done);
    }

    /// Returns the next buffers empty if no frame can be put into them.
    fn return_unusable(&mut self, bench: &mut Bench, features: u64) {
        while let Some(chain) = self.chains[..self.end].get_mut(self.next)
            && let Some(reason) = unusable(&chain.parts, features)
            && bench.used_room() > 0
        {
            bench.counts.drop(reason, 1);
            bench.used.push(chain.used(0));
            self.store.give_back(chain.parts.take_list());
            self.next += 1;
        }
    }

    /// How many buffers a header and a frame take.
    fn buffers_for(&self, need: usize, features: u64) -> Buffers {
        let mut room = 0;
        let chains = &self.chains[self.next..self.end];
        for (index, chain) in chains.iter().enumerate() {
            if unusable(&chain.parts, features).is_some() {
                // It goes back empty once it is next; merging it would give the driver a buffer of 0 bytes.
                return if index == 0 { Buffers::NotYet } else { Buffers::TooSmall };
            }
            room += chain.parts.len_bytes() as usize;
            if room >= need {
                return Buffers::Enough(index + 1);
            }
            if !is_mergeable(features) {
                return Buffers::TooSmall;
            }
        }
        // No more can be on hand: the place for them is full, or every list is in use.
        let is_all = chains.len() == self.chains.len() || self.store.available() == 0;
        if is_all { Buffers::TooSmall } else { Buffers::NotYet }
    }

    /// Gives up the frames, because the queue is not served any more: they keep what their senders lent.
    pub fn forsake(&mut self, port: &mut impl Port, bench: &mut Bench) {
        self.drop_arrivals(bench, DropReason::QueueDisabled);
        self.release(port);
        self.waiting_since_ns = None;
    }

    /// Gives everything up because the queue goes: frames to the port, buffers to the queue.
    pub fn abandon(&mut self, receiveq: &mut impl Virtqueue, port: &mut impl Port, bench: &mut Bench) {
        self.forsake(port, bench);
        self.put_back(receiveq);
    }

    /// Gives buffers untouched back to the queue, from which they will be taken again.
    pub fn put_back(&mut self, receiveq: &mut impl Virtqueue) {
        for chain in self.chains[self.next..self.end].iter_mut().rev() {
            receiveq.put_back(chain);
            self.store.give_back(chain.parts.take_list());
        }
        (self.next, self.end) = (0, 0);
    }
}

/// Gives frames back to their senders, and goes on with copies of them, as far as there is room.
#[cold]
fn shelve(arrivals: &mut Vec<Frame>, shelf: &mut Shelf, port: &mut impl Port, bench: &mut Bench) {
    for frame in &mut arrivals[shelf.count()..] {
        let Some(copy) = shelf.copy(frame) else { break };
        port.release(frame);
        frame.parts = copy;
    }
    let surplus = arrivals.drain(shelf.count()..);
    bench.counts.drop(DropReason::NoBuffers, surplus.len() as u64);
    surplus.for_each(|mut frame| port.release(&mut frame));
}

/// Buffers that are being filled with plain frames.
struct Filling<'b> {
    chains: slice::Iter<'b, Chain>,
    used: &'b mut Vec<Used>,
    counts: &'b mut BurstCounts,
    /// Of the frames.
    bytes: u64,
    features: u64,
}

impl Copier for Filling<'_> {
    #[inline(always)]
    fn copy(&mut self, frame: &Frame) -> bool {
        if let Some((header, from)) = frame.plain_bytes(self.features)
            && let Some(chain) = self.chains.as_slice().first()
            && let Some(to) = chain.parts.plain(Access::Write)
            && let Some(room) = to.len_bytes().checked_sub(NET_HEADER_SIZE_BYTES as u32)
            && room >= from.len_bytes()
        {
            to.update_array(header);
            to.skip(NET_HEADER_SIZE_BYTES as u32).copy_from(from);
            self.used.push(chain.used(NET_HEADER_SIZE_BYTES as u32 + from.len_bytes()));
            self.counts.size(from.len_bytes());
            self.bytes += u64::from(from.len_bytes());
            self.chains.next();
            true
        } else {
            false
        }
    }
}

fn is_mergeable(features: u64) -> bool {
    features & 1 << VIRTIO_NET_F_MRG_RXBUF != 0
}

/// Why no frame can be put into a buffer, alone or with others: "Setting Up Receive Buffers" asks for room for the header
/// where buffers are merged, and for a whole frame where they are not.
fn unusable(parts: &Parts, features: u64) -> Option<DropReason> {
    let least = net_header_size_bytes(features) as u32 + if is_mergeable(features) { 0 } else { FRAME_LEN_MIN };
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

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_followed_until_one_is_delivered() {
        let mut hand = Hand::new(4, false);
        let found_at = Instant::now();
        assert_eq!((hand.follow(Some(found_at), false), hand.follows()), (None, false), "there was none");
        assert!(hand.follow(Some(found_at), true).is_some());
        hand.arrivals.push(Frame::default());
        assert_eq!(hand.follow(Some(found_at), false), None);
        let least = found_at.elapsed();
        assert_eq!(hand.follow(None, false), None);
        assert!(hand.follow(Some(Instant::now()), true).unwrap() >= least, "since the first look");
        assert_eq!(hand.follow(Some(found_at), false), None);
        hand.arrivals.clear();
        assert_eq!((hand.follow(None, false), hand.follows()), (None, false), "what was dropped has no latency");
    }
}
