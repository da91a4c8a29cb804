//! A packet's journey, both ways, top to bottom.

use virtnet_rings::{Used, Violation, Virtqueue};

use crate::bench::Bench;
use crate::counters::DropReason;
use crate::frame::Frame;
use crate::hand::Hand;
use crate::port::Port;
use crate::window::Window;

/// Guest to wire ("Packet Transmission"). The frames before a bad chain still go out.
#[inline]
pub fn from_guest<P: Port>(
    transmitq: &mut impl Virtqueue,
    window: &mut Window,
    port: &mut P,
    bench: &mut Bench,
    features: u64,
) -> Result<(), Violation> {
    let room = bench.burst.min(window.room()).min(port.room()); // ask first: nothing is ever un-taken
    let taken = take(transmitq, window, bench, room); // chains, each walked and checked
    let refused = open(bench, features); // header copied out once
    lend(P::KEEPS, window, bench, refused); // a bad frame goes back empty
    port.send(&mut bench.frames, window); // every good frame: there was room
    if P::KEEPS {
        port.reap(window); // what the wire has finished with
        window.close(&mut bench.used); // in the order it came
    }
    clear(window, bench); // what the port has not kept
    finish(transmitq, bench); // one publish, one notification if it is wanted
    taken
}

/// Wire to guest ("Processing of Incoming Packets").
#[inline]
pub fn to_guest(
    receiveq: &mut impl Virtqueue,
    hand: &mut Hand,
    port: &mut impl Port,
    bench: &mut Bench,
    features: u64,
) -> Result<(), Violation> {
    let taken = hand.stock(receiveq, bench); // empty buffers, on hand until a frame needs them
    hand.arrive(port, bench); // frames, of which some may wait for buffers
    hand.fill(receiveq, bench, features, port.patience_ns()); // header and payload into the guest's buffers
    finish(receiveq, bench); // one publish, one notification if it is wanted
    hand.release(port); // what was copied goes back to who lent it
    taken
}

/// A transmitq that is not enabled is emptied, to nowhere (vhost-user, "Ring states").
pub fn discard(
    transmitq: &mut impl Virtqueue,
    window: &mut Window,
    port: &mut impl Port,
    bench: &mut Bench,
) -> Result<(), Violation> {
    let taken = take(transmitq, window, bench, bench.burst.min(window.room()));
    for frame in &mut bench.frames {
        frame.len_bytes = 0;
        bench.counts.drop(DropReason::QueueDisabled);
    }
    lend(true, window, bench, true);
    port.reap(window); // what was sent while it was enabled
    window.close(&mut bench.used);
    finish(transmitq, bench);
    taken
}

/// Takes chains as unopened frames, whose tickets are the chains' ids and descriptor counts until [`lend`].
#[inline]
fn take(queue: &mut impl Virtqueue, window: &mut Window, bench: &mut Bench, room: usize) -> Result<(), Violation> {
    let Bench { frames, counts, lender, .. } = bench;
    let before = queue.outstanding();
    let taken = queue.take_available(room, &mut window.store, |chain| {
        let ticket = u32::from(chain.id) | u32::from(chain.descriptors) << 16;
        frames.push(Frame { parts: chain.parts, len_bytes: 0, header: [0; _], ticket, lender: *lender });
    });
    counts.descriptors += u64::from(queue.outstanding() - before);
    taken
}

/// Takes the headers off; whether any frame was bad, which its length of 0 shows.
#[inline]
fn open(bench: &mut Bench, features: u64) -> bool {
    let mut refused = false;
    for frame in &mut bench.frames {
        match frame.open(features) {
            Ok(()) => bench.counts.frame(frame.len_bytes),
            Err(reason) => {
                bench.counts.drop(reason);
                frame.len_bytes = 0;
                refused = true;
            }
        }
    }
    refused
}

/// Enters the frames into the window, and settles the bad ones. Past a port that keeps nothing, chains are as good as used.
#[inline(always)]
fn lend(keeps: bool, window: &mut Window, bench: &mut Bench, refused: bool) {
    let chain = |frame: &Frame| (frame.ticket as u16, (frame.ticket >> 16) as u16);
    if keeps {
        for frame in &mut bench.frames {
            let (id, descriptors) = chain(frame);
            frame.ticket = window.open(id, descriptors);
        }
    } else {
        bench.used.extend(bench.frames.iter().map(chain).map(|(id, descriptors)| Used {
            id,
            descriptors,
            len_bytes: 0,
        }));
    }
    if refused {
        bench.frames.retain_mut(|frame| {
            let good = frame.len_bytes > 0;
            match (good, keeps) {
                (true, _) => {}
                (false, true) => window.settle(frame.loan()),
                (false, false) => window.store.give_back(frame.parts.take_list()),
            }
            good
        });
    }
}

/// Takes back the room of long chains from frames that the port has not kept.
#[inline]
fn clear(window: &mut Window, bench: &mut Bench) {
    for frame in bench.frames.drain(..) {
        window.store.give_back(frame.parts.into_list());
    }
}

/// Publishes what is done, and decides once whether to say so.
#[inline]
fn finish(queue: &mut impl Virtqueue, bench: &mut Bench) {
    if bench.used.is_empty() {
        return;
    }
    queue.return_used(&bench.used);
    bench.counts.completed += bench.used.len() as u64;
    bench.used.clear();
    if queue.call().is_connected() {
        if queue.wants_notification() {
            queue.call().notify();
            bench.counts.notifications_sent += 1;
        } else {
            bench.counts.notifications_suppressed += 1;
        }
    }
}
