//! A packet's journey, both ways, top to bottom.
//!
//! What nearly every frame is (one part, a header that asks for nothing) goes by itself, unrolled into the port it is sent to;
//! every other frame goes by the functions named `other`.

use virtnet_rings::{Chain, Taken, Violation, Virtqueue};

use crate::arch::Burst;
use crate::bench::Bench;
use crate::counters::{BurstCounts, DropReason};
use crate::frame::{self, Frame, Lender, Loan, PlainFrame};
use crate::hand::Hand;
use crate::port::Port;
use crate::window::Window;

/// Guest to wire ("Packet Transmission"). The frames before a bad chain still go out.
pub struct FromGuest<'b, Q, P> {
    /// Where chains come from.
    pub transmitq: &'b mut Q,
    /// What is out of it.
    pub window: &'b mut Window,
    /// Where frames go.
    pub port: &'b mut P,
    /// The worker's.
    pub bench: &'b mut Bench,
    /// Negotiated feature bits.
    pub features: u64,
}

/// Wire to guest ("Processing of Incoming Packets").
pub struct ToGuest<'b, Q, P> {
    /// Where buffers come from.
    pub receiveq: &'b mut Q,
    /// What is taken of it.
    pub hand: &'b mut Hand,
    /// Where frames come from.
    pub port: &'b mut P,
    /// The worker's.
    pub bench: &'b mut Bench,
    /// Negotiated feature bits.
    pub features: u64,
}

impl<Q: Virtqueue, P: Port> Burst for FromGuest<'_, Q, P> {
    type Output = Result<(), Violation>;

    #[inline(always)]
    fn run(self) -> Self::Output {
        let FromGuest { transmitq, window, port, bench, features } = self;
        let room = bench.burst.min(window.room()).min(port.room()); // ask first: nothing is ever un-taken
        let taken = take(transmitq, window, bench, room); // chains, each walked and checked
        if taken.count == 0 && taken.violation.is_none() && window.is_empty() {
            return Ok(()); // nothing to do, as so often
        }
        let first = lend(P::KEEPS, window, bench, taken.count); // out until their tickets are settled
        let Bench { chains, counts, lender, .. } = bench;
        let reads_header = frame::reads_header(features);
        let plain = if frame::has_plain_path(features) { taken.count } else { 0 };
        let (mut packets, mut bytes) = (0, 0);
        for (chain, number) in chains[..plain].iter_mut().zip(0..) {
            let ticket = first.wrapping_add(number);
            match Frame::plain(chain, reads_header) {
                Some(frame) => {
                    packets += 1;
                    bytes += u64::from(frame.len_bytes());
                    counts.size(frame.len_bytes());
                    port.send_plain(PlainFrame { bytes: frame, ticket, lender: *lender }, window); // there was room
                }
                None => send_other(chain, ticket, *lender, window, port, counts, features),
            }
        }
        counts.frames(packets, bytes);
        for (chain, number) in chains[plain..taken.count].iter_mut().zip(0..) {
            send_other(chain, first.wrapping_add(number), *lender, window, port, counts, features);
        }
        if P::KEEPS {
            port.reap(window); // what the wire has finished with
            window.close(&mut bench.used); // in the order it came
        }
        publish(transmitq, bench); // once; then one notification, if it is wanted and nothing holds it back
        taken.violation.map_or(Ok(()), Err)
    }
}

impl<Q: Virtqueue, P: Port> Burst for ToGuest<'_, Q, P> {
    type Output = Result<(), Violation>;

    #[inline(always)]
    fn run(self) -> Self::Output {
        let ToGuest { receiveq, hand, port, bench, features } = self;
        let filled = hand.fill(receiveq, port, bench, features); // header and payload into buffers taken for them
        publish(receiveq, bench); // once; then as above
        filled
    }
}

/// A transmitq that is not enabled is emptied, to nowhere (vhost-user, "Ring states").
pub fn discard(
    transmitq: &mut impl Virtqueue,
    window: &mut Window,
    port: &mut impl Port,
    bench: &mut Bench,
) -> Result<(), Violation> {
    let taken = take(transmitq, window, bench, bench.burst.min(window.room()));
    let first = lend(true, window, bench, taken.count);
    for (chain, number) in bench.chains[..taken.count].iter_mut().zip(0..) {
        refuse(chain, true, first.wrapping_add(number), window, &mut bench.counts, DropReason::QueueDisabled);
    }
    port.reap(window); // what was sent while it was enabled
    window.close(&mut bench.used);
    publish(transmitq, bench);
    taken.violation.map_or(Ok(()), Err)
}

#[inline(always)]
fn take(queue: &mut impl Virtqueue, window: &mut Window, bench: &mut Bench, room: usize) -> Taken {
    let before = queue.outstanding();
    let taken = queue.take_available(&mut bench.chains[..room], &mut window.store);
    bench.counts.taken(queue.outstanding() - before);
    taken
}

/// Notes that chains are out, each until its ticket is settled; returns the first ticket. Past a port that keeps nothing
/// they are as good as used.
#[inline(always)]
fn lend(keeps: bool, window: &mut Window, bench: &mut Bench, count: usize) -> u32 {
    let used = bench.chains[..count].iter().map(|chain| chain.used(0));
    if keeps {
        return window.open(used);
    }
    bench.used.extend(used);
    0
}

/// Sends any other frame: in several parts, or one whose header asks for something, or is bad.
#[inline(never)]
fn send_other<P: Port>(
    chain: &mut Chain,
    ticket: u32,
    lender: Lender,
    window: &mut Window,
    port: &mut P,
    counts: &mut BurstCounts,
    features: u64,
) {
    let mut frame = Frame { parts: std::mem::take(&mut chain.parts), ticket, lender, ..Frame::default() };
    match frame.open(features) {
        Ok(()) => {
            counts.frame(frame.len_bytes);
            port.send(frame, window);
        }
        Err(reason) => {
            chain.parts = frame.parts;
            refuse(chain, P::KEEPS, ticket, window, counts, reason);
        }
    }
}

/// A bad frame goes back empty.
fn refuse(
    chain: &mut Chain,
    keeps: bool,
    ticket: u32,
    window: &mut Window,
    counts: &mut BurstCounts,
    reason: DropReason,
) {
    counts.drop(reason, 1);
    let list = chain.parts.take_list();
    if keeps {
        window.settle(Loan { ticket, count: 1, list });
    } else {
        window.store.give_back(list);
    }
}

/// Publishes what is done.
#[inline(always)]
fn publish(queue: &mut impl Virtqueue, bench: &mut Bench) {
    if bench.used.is_empty() {
        return;
    }
    queue.return_used(&bench.used);
    bench.counts.completed(bench.used.len());
    bench.used.clear();
}

/// Decides once whether to say so: of all that was published since that was last decided.
#[inline]
pub fn notify(queue: &mut impl Virtqueue, counts: &mut BurstCounts) {
    if queue.call().is_connected() {
        let wanted = queue.wants_notification();
        if wanted {
            queue.call().notify();
        }
        counts.notification(wanted);
    }
}
