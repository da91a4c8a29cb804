//! What a queue can do, and the queue of either layout.

use crate::chain::{Chain, PartStore};
use crate::memory::{GuestMemory, Span};
use crate::notify::Notifier;
use crate::violation::Violation;
use crate::{packed, split};

/// One chain on its way back to the driver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// As in the chain.
    pub id: u16,
    /// As in the chain.
    pub descriptors: u16,
    /// How many bytes the device wrote, from the front.
    pub len_bytes: u32,
}

/// What [`Virtqueue::take_available`] took: so many, and perhaps a violation behind them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Taken {
    /// How many chains; they are good whatever came after them.
    pub count: usize,
    /// What the driver broke next. The queue must not be asked again.
    pub violation: Option<Violation>,
}

/// The device's side of a virtqueue. Chains are returned in the order they were taken, all of them.
pub trait Virtqueue {
    /// Takes as many available chains as there are places for in `chains`, in order, each walked and checked; long ones
    /// borrow from `store`, and wait while it has nothing to lend. What was in the places is gone: it held no list.
    fn take_available(&mut self, chains: &mut [Chain], store: &mut PartStore) -> Taken;

    /// The same into a new list of up to `room`, for queues where that is quick enough.
    fn take_list(&mut self, room: usize, store: &mut PartStore) -> (Vec<Chain>, Option<Violation>) {
        let mut chains = Vec::new();
        chains.resize_with(room.min(usize::from(self.size())), Chain::default);
        let Taken { count, violation } = self.take_available(&mut chains, store);
        chains.truncate(count);
        (chains, violation)
    }

    /// Returns chains and publishes them at once.
    fn return_used(&mut self, used: &[Used]);

    /// Whether the driver wants a notification for what [`Self::return_used`] published since this was last asked
    /// ("Used Buffer Notification Suppression").
    fn wants_notification(&mut self) -> bool;

    /// Asks the driver for available buffer notifications; `true` if more was made available meanwhile, which no
    /// notification will tell of.
    fn arm(&mut self) -> bool;

    /// Asks for none.
    fn disarm(&mut self);

    /// Where a successor goes on, as in [`crate::QueueSetup::base`]: after the last chain that was returned.
    fn base(&self) -> u32;

    /// Chains or, for a packed queue, ring slots that were taken and not returned.
    fn outstanding(&self) -> u32;

    /// Queue size.
    fn size(&self) -> u16;

    /// Whether the next chain was there in this turn, and waits for a translation.
    fn misses(&self) -> bool;

    /// Lets go of a chain untouched, and of all that were taken after it: they will be taken again, here or by a successor.
    fn put_back(&mut self, chain: &Chain);

    /// The memory that this queue lives in.
    fn memory(&self) -> &GuestMemory;

    /// Notes that a part of guest memory was written, where a dirty log is kept.
    fn log_written(&self, part: Span);

    /// Whether a dirty log is kept.
    fn is_logging(&self) -> bool;

    /// Used buffer notifications go here.
    fn call(&mut self) -> &mut Notifier;

    /// Available buffer notifications come from here.
    fn kick(&self) -> &Notifier;
}

/// A queue of either layout. Hot paths match once a burst and go on with the layout's own type.
#[derive(Debug)]
pub enum Queue {
    /// "Split Virtqueues".
    Split(split::Queue),
    /// "Packed Virtqueues".
    Packed(packed::Queue),
}

/// Runs one expression for the queue of whichever layout.
#[macro_export]
macro_rules! with_queue {
    ($queue:expr, $name:ident => $body:expr) => {
        match $queue {
            $crate::Queue::Split($name) => $body,
            $crate::Queue::Packed($name) => $body,
        }
    };
}

impl Queue {
    /// Says that this is a queue whose chains are only ever read, a transmitq: no used length is but 0. Entries of a packed
    /// ring's indirect tables then count as readable whatever their WRITE flag says: DPDK's driver leaves the flag behind
    /// on some (the header's always), and means none of them. The first `unread_bytes` of a chain, nobody will look at.
    pub fn only_reads(&mut self, unread_bytes: u32) {
        with_queue!(self, q => (q.reach.only_reads, q.reach.unread_bytes) = (true, unread_bytes));
    }

    /// Begins a turn of whoever serves the queue; `true` if translations may have gone since the last one: what was taken and is
    /// still to be written has to be put back. Between turns nothing may be taken or written where memory is behind an IOMMU.
    #[inline]
    pub fn begin_turn(&mut self) -> bool {
        with_queue!(self, q => q.reach.begin_turn())
    }

    /// Ends it.
    #[inline]
    pub fn end_turn(&self) {
        with_queue!(self, q => q.reach.end_turn())
    }

    /// Lends the ring its region of an in-flight buffer: where one before us left off, this one goes on, instead of at
    /// the base it was made with. To be called before the first chain is taken.
    pub fn resume_from(&mut self, region: crate::inflight::Region) {
        with_queue!(self, q => q.resume_from(region));
    }
}

impl Virtqueue for Queue {
    fn take_available(&mut self, chains: &mut [Chain], store: &mut PartStore) -> Taken {
        with_queue!(self, q => q.take_available(chains, store))
    }
    fn return_used(&mut self, used: &[Used]) {
        with_queue!(self, q => q.return_used(used))
    }
    fn wants_notification(&mut self) -> bool {
        with_queue!(self, q => q.wants_notification())
    }
    fn arm(&mut self) -> bool {
        with_queue!(self, q => q.arm())
    }
    fn disarm(&mut self) {
        with_queue!(self, q => q.disarm())
    }
    fn base(&self) -> u32 {
        with_queue!(self, q => q.base())
    }
    fn outstanding(&self) -> u32 {
        with_queue!(self, q => q.outstanding())
    }
    fn size(&self) -> u16 {
        with_queue!(self, q => q.size())
    }
    fn misses(&self) -> bool {
        with_queue!(self, q => q.misses())
    }
    fn put_back(&mut self, chain: &Chain) {
        with_queue!(self, q => q.put_back(chain))
    }
    fn memory(&self) -> &GuestMemory {
        with_queue!(self, q => q.memory())
    }
    fn log_written(&self, part: Span) {
        with_queue!(self, q => q.log_written(part))
    }
    fn is_logging(&self) -> bool {
        with_queue!(self, q => q.is_logging())
    }
    fn call(&mut self) -> &mut Notifier {
        with_queue!(self, q => q.call())
    }
    fn kick(&self) -> &Notifier {
        with_queue!(self, q => q.kick())
    }
}
