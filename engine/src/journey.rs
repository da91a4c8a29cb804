//! A packet's journey, both ways, top to bottom.
//!
//! What nearly every frame is (one part, a header that asks for nothing) goes by itself, unrolled into the port it is sent to;
//! every other frame goes by the functions named `other`.

use virtnet_rings::{Chain, Taken, Violation, Virtqueue};

use crate::bench::Bench;
use crate::counters::DropReason;
use crate::frame::Frame;
use crate::hand::Hand;
use crate::port::Port;
use crate::window::Window;

/// Guest to wire ("Packet Transmission"). The frames before a bad chain still go out.
#[inline(always)]
pub fn from_guest<P: Port>(
    transmitq: &mut impl Virtqueue,
    window: &mut Window,
    port: &mut P,
    bench: &mut Bench,
    features: u64,
) -> Result<(), Violation> {
    let room = bench.burst.min(window.room()).min(port.room()); // ask first: nothing is ever un-taken
    let taken = take(transmitq, window, bench, room); // chains, each walked and checked
    for at in 0..taken.count {
        match Frame::plain(&bench.chains[at]) {
            Some(mut frame) => {
                bench.counts.frame(frame.len_bytes);
                lend(&mut frame, P::KEEPS, window, bench, at);
                port.send(&mut frame, window); // there was room
            }
            None => send_other(at, window, port, bench, features),
        }
    }
    if P::KEEPS {
        port.reap(window); // what the wire has finished with
        window.close(&mut bench.used); // in the order it came
    }
    finish(transmitq, bench); // one publish, one notification if it is wanted
    taken.violation.map_or(Ok(()), Err)
}

/// Wire to guest ("Processing of Incoming Packets").
#[inline(always)]
pub fn to_guest(
    receiveq: &mut impl Virtqueue,
    hand: &mut Hand,
    port: &mut impl Port,
    bench: &mut Bench,
    features: u64,
) -> Result<(), Violation> {
    let filled = hand.fill(receiveq, port, bench, features); // header and payload into buffers taken for them
    finish(receiveq, bench); // one publish, one notification if it is wanted
    filled
}

/// A transmitq that is not enabled is emptied, to nowhere (vhost-user, "Ring states").
pub fn discard(
    transmitq: &mut impl Virtqueue,
    window: &mut Window,
    port: &mut impl Port,
    bench: &mut Bench,
) -> Result<(), Violation> {
    let taken = take(transmitq, window, bench, bench.burst.min(window.room()));
    for at in 0..taken.count {
        refuse(at, true, window, bench, DropReason::QueueDisabled);
    }
    port.reap(window); // what was sent while it was enabled
    window.close(&mut bench.used);
    finish(transmitq, bench);
    taken.violation.map_or(Ok(()), Err)
}

#[inline(always)]
fn take(queue: &mut impl Virtqueue, window: &mut Window, bench: &mut Bench, room: usize) -> Taken {
    let before = queue.outstanding();
    let taken = queue.take_available(&mut bench.chains[..room], &mut window.store);
    bench.counts.descriptors += u64::from(queue.outstanding() - before);
    taken
}

/// Notes whose frame it is, and that the chain at `at` is out until its ticket is settled. Past a port that keeps nothing
/// a chain is as good as used.
#[inline(always)]
fn lend(frame: &mut Frame, keeps: bool, window: &mut Window, bench: &mut Bench, at: usize) {
    let used = bench.chains[at].used(0);
    if keeps {
        frame.lender = bench.lender;
        frame.ticket = window.open(used);
    } else {
        bench.used.push(used);
    }
}

/// Sends any other frame: in several parts, or one whose header asks for something, or is bad.
#[inline(never)]
fn send_other<P: Port>(at: usize, window: &mut Window, port: &mut P, bench: &mut Bench, features: u64) {
    let Chain { parts, .. } = &mut bench.chains[at];
    let mut frame = Frame { parts: std::mem::take(parts), ..Frame::default() };
    match frame.open(features) {
        Ok(()) => {
            bench.counts.frame(frame.len_bytes);
            lend(&mut frame, P::KEEPS, window, bench, at);
            port.send(&mut frame, window);
            window.store.give_back(frame.parts.take_list());
        }
        Err(reason) => {
            bench.chains[at].parts = frame.parts;
            refuse(at, P::KEEPS, window, bench, reason);
        }
    }
}

/// A bad frame goes back empty.
fn refuse(at: usize, keeps: bool, window: &mut Window, bench: &mut Bench, reason: DropReason) {
    bench.counts.drop(reason);
    let mut frame = Frame { parts: std::mem::take(&mut bench.chains[at].parts), ..Frame::default() };
    lend(&mut frame, keeps, window, bench, at);
    if keeps {
        window.settle(frame.loan());
    } else {
        window.store.give_back(frame.parts.take_list());
    }
}

/// Publishes what is done, and decides once whether to say so.
#[inline(always)]
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
