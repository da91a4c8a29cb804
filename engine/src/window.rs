//! What a transmitq has taken and not returned, oldest first. Chains go back in the order they came whatever order the
//! wire finishes them in, so that the used index alone tells a successor where to go on, with `VIRTIO_F_IN_ORDER` or
//! without.

use virtnet_rings::{PartStore, Used};

use crate::frame::Loan;

/// How many long chains can be out at once; one burst.
const PART_LISTS: usize = 32;

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    id: u16,
    descriptors: u16,
    /// Readers that have not finished with it.
    lent: u16,
}

/// The window of one transmitq.
#[derive(Debug)]
pub struct Window {
    entries: Box<[Entry]>,
    /// Ticket of the oldest chain, and of the next one; they run on and wrap.
    oldest: u32,
    next: u32,
    /// Room for the parts of long chains.
    pub store: PartStore,
}

impl Window {
    /// Room for `chains`, rounded up to a power of two.
    pub fn new(chains: usize) -> Self {
        let entries = vec![Entry::default(); chains.next_power_of_two()].into();
        Window { entries, oldest: 0, next: 0, store: PartStore::new(PART_LISTS) }
    }

    /// How many more chains it can hold.
    #[inline]
    pub fn room(&self) -> usize {
        self.entries.len() - self.len()
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

    #[inline]
    fn entry(&mut self, ticket: u32) -> &mut Entry {
        let mask = self.entries.len() - 1;
        &mut self.entries[ticket as usize & mask]
    }

    /// Notes a chain that was taken; it has one reader. Returns its ticket.
    #[inline]
    pub fn open(&mut self, id: u16, descriptors: u16) -> u32 {
        let ticket = self.next;
        *self.entry(ticket) = Entry { id, descriptors, lent: 1 };
        self.next = ticket.wrapping_add(1);
        ticket
    }

    /// Notes one more reader of a chain that is out.
    #[inline]
    pub fn lend_again(&mut self, ticket: u32) {
        self.entry(ticket).lent += 1;
    }

    /// One reader has finished.
    #[inline]
    pub fn settle(&mut self, loan: Loan) {
        let entry = self.entry(loan.ticket);
        assert!(entry.lent > 0, "a loan is settled once");
        entry.lent -= 1;
        self.store.give_back(loan.list);
    }

    /// Moves the oldest chains whose readers have all finished into `used`, with no bytes written.
    #[inline]
    pub fn close(&mut self, used: &mut Vec<Used>) {
        debug_assert!(used.is_empty());
        let mask = self.entries.len() - 1;
        let room = self.len().min(used.capacity() - used.len());
        let oldest = self.oldest as usize;
        let entries = (oldest..oldest + room).map(|at| self.entries[at & mask]);
        used.extend(entries.take_while(|entry| entry.lent == 0).map(|Entry { id, descriptors, .. }| Used {
            id,
            descriptors,
            len_bytes: 0,
        }));
        self.oldest = self.oldest.wrapping_add(used.len() as u32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loan(ticket: u32) -> Loan {
        Loan { ticket, list: None }
    }

    fn closed(window: &mut Window) -> Vec<u16> {
        let mut used = Vec::with_capacity(16);
        window.close(&mut used);
        used.iter().map(|used| used.id).collect()
    }

    #[test]
    fn chains_close_in_the_order_they_were_opened() {
        let mut window = Window::new(4);
        let tickets: Vec<u32> = (10..14).map(|id| window.open(id, 1)).collect();
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
    fn a_chain_with_two_readers_waits_for_both() {
        let mut window = Window::new(1);
        let ticket = window.open(7, 1);
        window.lend_again(ticket);
        window.settle(loan(ticket));
        assert_eq!(closed(&mut window), []);
        window.settle(loan(ticket));
        assert_eq!(closed(&mut window), [7]);
    }
}
