//! What a transmitq has taken and not returned, oldest first. Chains go back in the order they came whatever order the
//! wire finishes them in, so that the used index alone tells a successor where to go on, with `VIRTIO_F_IN_ORDER` or
//! without.

use std::time::{Duration, Instant};

use virtnet_rings::{PartStore, Used};

use crate::frame::{Frame, Loan};

/// How many long chains can be out at once; one burst.
const PART_LISTS: usize = 32;

/// The window of one transmitq.
#[derive(Debug)]
pub struct Window {
    /// By ticket: what will be returned.
    used: Box<[Used]>,
    /// By ticket: readers that have not finished with it.
    lent: Box<[u16]>,
    /// Ticket of the oldest chain, and of the next one; they run on and wrap.
    oldest: u32,
    next: u32,
    /// The ticket of the chain whose latency is measured, and since when.
    followed: Option<(u32, Instant)>,
    /// Room for the parts of long chains.
    pub store: PartStore,
}

impl Window {
    /// Room for `chains`, rounded up to a power of two.
    pub fn new(chains: usize) -> Self {
        let room = chains.next_power_of_two();
        let (used, lent) = (vec![Used::default(); room].into(), vec![0; room].into());
        Window { used, lent, oldest: 0, next: 0, followed: None, store: PartStore::new(PART_LISTS) }
    }

    /// How many more chains it can hold.
    #[inline]
    pub fn room(&self) -> usize {
        self.lent.len() - self.len()
    }

    /// How many chains it holds.
    #[inline]
    pub fn len(&self) -> usize {
        self.next.wrapping_sub(self.oldest) as usize
    }

    /// Whether everything was returned.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.next == self.oldest
    }

    /// The ticket of the chain that is taken next.
    #[inline(always)]
    pub fn next(&self) -> u32 {
        self.next
    }

    /// Whether a chain is being followed.
    #[inline(always)]
    pub fn follows(&self) -> bool {
        self.followed.is_some()
    }

    /// After a burst: goes on following a chain, or begins with the one of ticket `first` that was taken at `taken_at`. How long
    /// it was out, once it is back.
    #[cold]
    pub fn follow(&mut self, first: u32, taken_at: Option<Instant>) -> Option<Duration> {
        let (ticket, since) = self.followed.take().or(taken_at.map(|since| (first, since)))?;
        // One that was never entered is back already.
        if (ticket.wrapping_sub(self.oldest) as usize) < self.len() {
            self.followed = Some((ticket, since));
            return None;
        }
        Some(since.elapsed())
    }

    #[inline(always)]
    fn lent(&mut self, ticket: u32) -> &mut u16 {
        let mask = self.lent.len() - 1;
        &mut self.lent[ticket as usize & mask]
    }

    /// Notes chains that were taken and will be returned like this, no more than there is room for; each has one reader.
    /// Returns the first one's ticket, which the others' follow.
    #[inline(always)]
    pub fn open(&mut self, mut used: impl ExactSizeIterator<Item = Used>) -> u32 {
        let ticket = self.next;
        let count = used.len();
        let at = ticket as usize & (self.lent.len() - 1);
        let until_end = count.min(self.lent.len() - at);
        let (before, after) = self.used.split_at_mut(at);
        after.iter_mut().zip(used.by_ref().take(until_end)).for_each(|(place, used)| *place = used);
        before.iter_mut().zip(used).for_each(|(place, used)| *place = used);
        self.lent[at..][..until_end].fill(1);
        self.lent[..count - until_end].fill(1);
        self.next = ticket.wrapping_add(count as u32);
        ticket
    }

    /// Notes one more reader of a chain that is out.
    #[inline]
    pub fn lend_again(&mut self, ticket: u32) {
        *self.lent(ticket) += 1;
    }

    /// One reader has finished, with one chain or with several in a row.
    #[inline]
    pub fn settle(&mut self, loan: Loan) {
        let count = loan.count as usize;
        let at = loan.ticket as usize & (self.lent.len() - 1);
        let until_end = count.min(self.lent.len() - at);
        let (before, after) = self.lent.split_at_mut(at);
        for run in [&mut after[..until_end], &mut before[..count - until_end]] {
            assert!(run.iter().fold(u16::MAX, |least, &lent| least.min(lent)) > 0, "a loan is settled once");
            run.iter_mut().for_each(|lent| *lent -= 1);
        }
        self.store.give_back(loan.list);
    }

    /// Takes back the list of a frame that a port which keeps nothing is done with.
    #[inline(always)]
    pub fn take_list(&mut self, mut frame: Frame) {
        self.store.give_back(frame.parts.take_list());
    }

    /// Moves the oldest chains whose readers have all finished into `used`.
    #[inline]
    pub fn close(&mut self, used: &mut Vec<Used>) {
        let mask = self.lent.len() - 1;
        let room = self.len().min(used.capacity() - used.len());
        let oldest = self.oldest as usize & mask;
        let until_end = room.min(self.lent.len() - oldest);
        let mut count = settled(&self.lent[oldest..][..until_end]);
        if count == until_end {
            count += settled(&self.lent[..room - until_end]);
        }
        let until_end = count.min(until_end);
        used.extend_from_slice(&self.used[oldest..][..until_end]);
        used.extend_from_slice(&self.used[..count - until_end]);
        self.oldest = self.oldest.wrapping_add(count as u32);
    }
}

/// How many at the front have no reader any more.
#[inline]
fn settled(lent: &[u16]) -> usize {
    let (groups, _) = lent.as_chunks::<8>();
    let all = groups.iter().take_while(|group| group.iter().fold(0, |any, lent| any | lent) == 0).count() * 8;
    all + lent[all..].iter().take_while(|&&lent| lent == 0).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loan(ticket: u32) -> Loan {
        Loan { ticket, count: 1, list: None }
    }

    fn chain(id: u16) -> Used {
        Used { id, descriptors: 1, len_bytes: 0 }
    }

    fn closed(window: &mut Window) -> Vec<u16> {
        let mut used = Vec::with_capacity(16);
        window.close(&mut used);
        used.iter().map(|used| used.id).collect()
    }

    #[test]
    fn chains_close_in_the_order_they_were_opened() {
        let mut window = Window::new(4);
        let tickets: Vec<u32> = (10..14).map(|id| window.open(std::iter::once(chain(id)))).collect();
        assert_eq!(window.room(), 0);
        window.settle(loan(tickets[1]));
        window.settle(loan(tickets[3]));
        assert_eq!(closed(&mut window), []);
        window.settle(loan(tickets[0]));
        assert_eq!(closed(&mut window), [10, 11]);
        window.settle(loan(tickets[2]));
        assert_eq!(closed(&mut window), [12, 13]);
        assert!(window.is_empty());
    }

    #[test]
    fn a_chain_is_followed_until_it_is_back() {
        let mut window = Window::new(4);
        assert_eq!(window.follow(window.next(), None), None, "nothing was taken");
        let taken_at = Instant::now();
        let first = window.open([chain(1), chain(2)].into_iter());
        assert_eq!(window.follow(first, Some(taken_at)), None);
        let second = window.open(std::iter::once(chain(3)));
        window.settle(Loan { count: 2, ..loan(first) });
        assert_eq!(
            (window.follow(second, Some(Instant::now())), window.follows()),
            (None, true),
            "settled, not returned"
        );
        closed(&mut window);
        let least = taken_at.elapsed();
        assert!(window.follow(second, Some(Instant::now())).unwrap() >= least, "the first chain's, not the second's");
        assert!(!window.follows());
        window.settle(loan(second));
        closed(&mut window);
        assert!(
            window.follow(window.next(), Some(taken_at)).unwrap() >= least,
            "a port that keeps nothing enters nothing"
        );
    }

    #[test]
    fn a_chain_with_two_readers_waits_for_both() {
        let mut window = Window::new(1);
        let ticket = window.open(std::iter::once(chain(7)));
        window.lend_again(ticket);
        window.settle(loan(ticket));
        assert_eq!(closed(&mut window), []);
        window.settle(loan(ticket));
        assert_eq!(closed(&mut window), [7]);
    }
}
