//! A packet's journey, both ways, top to bottom.

use virtnet_rings::{Violation, Virtqueue};

use crate::bench::Bench;
use crate::counters::DropReason;
use crate::frame::Frame;
use crate::hand::Hand;
use crate::port::Port;
use crate::window::Window;

/// Guest to wire ("Packet Transmission"). The frames before a bad chain still go out.
#[inline]
pub fn from_guest(
    transmitq: &mut impl Virtqueue,
    window: &mut Window,
    port: &mut impl Port,
    bench: &mut Bench,
) -> Result<(), Violation> {
    let room = bench.burst.min(window.room()).min(port.room()); // ask first: nothing is ever un-taken
    let taken = take(transmitq, window, bench, room); // chains, each walked and checked
    open(window, bench); // header copied out once; a bad frame is settled, empty
    port.send(&mut bench.frames, window); // every good frame: there was room
    port.reap(window); // what the wire has finished with is settled
    window.close(&mut bench.used); // in the order it came
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
pub fn discard(transmitq: &mut impl Virtqueue, window: &mut Window, bench: &mut Bench) -> Result<(), Violation> {
    let taken = take(transmitq, window, bench, bench.burst.min(window.room()));
    for mut frame in bench.frames.drain(..) {
        frame.ticket = window.open(frame.ticket as u16, (frame.ticket >> 16) as u16);
        bench.counts.drop(DropReason::QueueDisabled);
        window.settle(frame.loan());
    }
    window.close(&mut bench.used);
    finish(transmitq, bench);
    taken
}

/// Takes chains as unopened frames, whose tickets are the chains' ids and descriptor counts until [`open`].
#[inline]
fn take(queue: &mut impl Virtqueue, window: &mut Window, bench: &mut Bench, room: usize) -> Result<(), Violation> {
    let Bench { frames, counts, lender, .. } = bench;
    queue.take_available(room, &mut window.store, |chain| {
        counts.descriptors += u64::from(chain.descriptors);
        frames.push(Frame {
            ticket: u32::from(chain.id) | u32::from(chain.descriptors) << 16,
            parts: chain.parts,
            lender: *lender,
            ..Frame::default()
        });
    })
}

#[inline]
fn open(window: &mut Window, bench: &mut Bench) {
    let mut refused = false;
    for frame in &mut bench.frames {
        frame.ticket = window.open(frame.ticket as u16, (frame.ticket >> 16) as u16);
        match frame.open() {
            Ok(()) => bench.counts.frame(frame.len_bytes),
            Err(reason) => {
                bench.counts.drop(reason);
                frame.len_bytes = 0;
                refused = true;
            }
        }
    }
    if refused {
        bench.frames.retain_mut(|frame| {
            let good = frame.len_bytes > 0;
            if !good {
                window.settle(frame.loan());
            }
            good
        });
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
