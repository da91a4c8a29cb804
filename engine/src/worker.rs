//! A worker: what one lcore owns, and its turn.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::bench::Bench;
use crate::command::{Broken, Command, Reply};
use crate::frame::Lender;
use crate::idle::{Idle, IdlePolicy, Rest};
use crate::pair::{Pair, Side, Turned};
use crate::port::switch::Lane;
use crate::uplink::Uplink;
use crate::wake::Wake;

/// Commands taken in one turn.
const COMMANDS_PER_TURN: usize = 4;
/// Room of each queue between a worker and control.
pub(crate) const MESSAGES: usize = 256;

/// What control and a worker share: three queues and a bell.
#[derive(Debug)]
pub struct Desk {
    /// Commands with their numbers.
    pub commands: ArrayQueue<(u64, Command)>,
    /// Replies with the numbers of their commands.
    pub replies: ArrayQueue<(u64, Reply)>,
    /// What nobody asked for. When it is full, more is not told; the counters still have it.
    pub broken: ArrayQueue<Broken>,
    /// Wakes the worker.
    pub wake: Wake,
}

impl Desk {
    /// A desk for one worker.
    ///
    /// # Errors
    /// Where there is no eventfd to be had.
    pub fn new() -> std::io::Result<Arc<Self>> {
        Ok(Arc::new(Desk {
            commands: ArrayQueue::new(MESSAGES),
            replies: ArrayQueue::new(MESSAGES),
            broken: ArrayQueue::new(MESSAGES),
            wake: Wake::new()?,
        }))
    }
}

/// A command that waits for something to come home.
#[derive(Debug)]
enum Waiting {
    Detach(u64, u16, Side),
    RemoveUplink(u64, u16),
}

/// What has its turn in a slot.
#[derive(Debug)]
enum Seated {
    Pair(Box<Pair>),
    Uplink(Box<Uplink>),
}

/// What one lcore owns. A test turns one by hand.
#[derive(Debug)]
pub struct Worker {
    me: u16,
    slots: Vec<Option<Seated>>,
    lane: Lane,
    bench: Bench,
    desk: Arc<Desk>,
    /// Desks of all workers, to wake those that were sent something.
    desks: Vec<Arc<Desk>>,
    waiting: Vec<Waiting>,
    idle: Idle,
    stop: Option<u64>,
}

impl Worker {
    /// A worker with nothing to do, for bursts of `burst` frames.
    pub fn new(me: u16, desks: Vec<Arc<Desk>>, lane: Lane, burst: usize, idle: IdlePolicy) -> Self {
        Worker {
            me,
            slots: Vec::new(),
            lane,
            bench: Bench::new(burst),
            desk: desks[usize::from(me)].clone(),
            desks,
            waiting: Vec::new(),
            idle: Idle::new(idle),
            stop: None,
        }
    }

    /// Turns until told to stop.
    pub fn run(mut self) {
        let start = Instant::now();
        loop {
            let moved = self.turn(start.elapsed().as_nanos() as u64);
            if let Some(number) = self.stop {
                return self.reply(number, Reply::Done);
            }
            match self.idle.after(moved) {
                Rest::No => {}
                Rest::Nap(nap) => std::thread::sleep(nap),
                Rest::UntilCalled(nap) => self.sleep(nap),
            }
        }
    }

    /// A few commands, what other workers sent, one burst a queue and direction. Returns how much moved.
    pub fn turn(&mut self, now_ns: u64) -> usize {
        self.bench.now_ns = now_ns;
        let mut moved = self.obey();
        moved += self.lane.gather(now_ns);
        for index in 0..self.slots.len() {
            let slot = index as u16;
            self.bench.lender = Lender { worker: self.me, slot };
            let Turned { moved: some, violation } = match &mut self.slots[index] {
                None => continue,
                Some(Seated::Pair(pair)) => pair.turn(&mut self.lane, &mut self.bench),
                Some(Seated::Uplink(uplink)) => {
                    let moved = uplink.turn(&mut self.lane, &mut self.bench);
                    Turned { moved, violation: None }
                }
            };
            moved += some;
            if let Some((side, violation)) = violation {
                let _ = self.desk.broken.push(Broken { slot, side, violation });
            }
        }
        for worker in self.lane.take_sent_to() {
            self.desks[usize::from(worker)].wake.call();
        }
        if !self.waiting.is_empty() {
            self.answer_waiting();
        }
        moved
    }

    fn obey(&mut self) -> usize {
        let mut count = 0;
        while count < COMMANDS_PER_TURN
            && let Some((number, command)) = self.desk.commands.pop()
        {
            count += 1;
            if let Some(reply) = self.answer(number, command) {
                self.reply(number, reply);
            }
        }
        count
    }

    /// The answer to a command; `None` where it must wait.
    fn answer(&mut self, number: u64, command: Command) -> Option<Reply> {
        Some(match command {
            Command::AddPair(pair) => self.put(Seated::Pair(pair)),
            Command::RemovePair(slot) => self.remove_pair(slot),
            Command::AddUplink(uplink) => self.put(Seated::Uplink(uplink)),
            Command::RemoveUplink(slot) => {
                match self.uplink(slot) {
                    Some(uplink) => uplink.leave(),
                    None => return Some(Reply::Uplink(None)),
                }
                self.waiting.push(Waiting::RemoveUplink(number, slot));
                return None;
            }
            Command::Attach(slot, attachment) => match self.pair(slot) {
                None => Reply::Refused(Some(attachment)),
                Some(pair) => match pair.attach(attachment) {
                    Ok(()) => Reply::Done,
                    Err(attachment) => Reply::Refused(Some(attachment)),
                },
            },
            Command::Detach(slot, side) => {
                if let Some(pair) = self.pair(slot) {
                    pair.detach(side);
                }
                self.waiting.push(Waiting::Detach(number, slot, side));
                return None;
            }
            Command::SetEnabled(slot, side, enabled) => self.pair(slot).map_or(Reply::Refused(None), |pair| {
                pair.set_enabled(side, enabled);
                Reply::Done
            }),
            Command::SetCall(slot, side, call) => self.pair(slot).map_or(Reply::Refused(None), |pair| {
                pair.set_call(side, call);
                Reply::Done
            }),
            Command::Announce(slot, announcement) => {
                let sent = match self.slots.get_mut(usize::from(slot)) {
                    Some(Some(Seated::Uplink(uplink))) => uplink.announce(&announcement),
                    Some(Some(Seated::Pair(pair))) => pair.announce(&announcement),
                    _ => false,
                };
                if sent { Reply::Done } else { Reply::Refused(None) }
            }
            Command::SetPort(map) => {
                self.lane.set_port(map);
                Reply::Done
            }
            Command::ForgetPort(port) => {
                self.lane.forget_port(port);
                Reply::Done
            }
            Command::Stop => {
                self.stop = Some(number);
                return None;
            }
        })
    }

    fn pair(&mut self, slot: u16) -> Option<&mut Pair> {
        match self.slots.get_mut(usize::from(slot)) {
            Some(Some(Seated::Pair(pair))) => Some(pair),
            _ => None,
        }
    }

    fn uplink(&mut self, slot: u16) -> Option<&mut Uplink> {
        match self.slots.get_mut(usize::from(slot)) {
            Some(Some(Seated::Uplink(uplink))) => Some(uplink),
            _ => None,
        }
    }

    fn pairs(&self) -> impl Iterator<Item = &Pair> {
        self.slots.iter().flatten().filter_map(|seated| match seated {
            Seated::Pair(pair) => Some(&**pair),
            Seated::Uplink(_) => None,
        })
    }

    fn put(&mut self, content: Seated) -> Reply {
        let index = self.slots.iter().position(Option::is_none).unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[index] = Some(content);
        self.lane.open_mailbox(index as u16);
        Reply::Slot(index as u16)
    }

    fn take(&mut self, slot: u16) -> Option<Seated> {
        // What other workers have sent it is on its way back before the slot is somebody else's.
        self.lane.gather(self.bench.now_ns);
        self.lane.close_mailbox(slot);
        self.slots.get_mut(usize::from(slot)).and_then(Option::take)
    }

    fn remove_pair(&mut self, slot: u16) -> Reply {
        if !self.pair(slot).is_some_and(|pair| pair.is_bare()) {
            return Reply::Pair(None);
        }
        Reply::Pair(match self.take(slot) {
            Some(Seated::Pair(pair)) => Some(pair),
            _ => None,
        })
    }

    /// The uplink, as soon as the switch has nothing of it.
    fn remove_uplink(&mut self, slot: u16) -> Option<Reply> {
        if self.uplink(slot).is_some_and(|uplink| !uplink.is_idle()) {
            return None;
        }
        Some(Reply::Uplink(match self.take(slot) {
            Some(Seated::Uplink(uplink)) => Some(uplink),
            _ => None,
        }))
    }

    fn answer_waiting(&mut self) {
        for index in (0..self.waiting.len()).rev() {
            let answer = match self.waiting[index] {
                Waiting::Detach(number, slot, side) => match self.pair(slot).map(|pair| pair.take_left(side)) {
                    Some(Err(_)) => None,
                    Some(Ok(attachment)) => Some((number, Reply::Detached(attachment))),
                    None => Some((number, Reply::Detached(None))),
                },
                Waiting::RemoveUplink(number, slot) => self.remove_uplink(slot).map(|reply| (number, reply)),
            };
            if let Some((number, reply)) = answer {
                self.waiting.swap_remove(index);
                self.reply(number, reply);
            }
        }
    }

    fn reply(&mut self, number: u64, reply: Reply) {
        // Control has no more commands out than this queue holds.
        let sent = self.desk.replies.push((number, reply));
        assert!(sent.is_ok(), "control has no more commands out than there is room for replies");
    }

    /// Sleeps until a kick, a command or another worker calls. Where something cannot call, it sleeps for a nap only.
    fn sleep(&mut self, nap: Duration) {
        let mut busy = false;
        for seated in self.slots.iter_mut().flatten() {
            if let Seated::Pair(pair) = seated {
                busy |= pair.arm();
            }
        }
        self.desk.wake.lie_down();
        busy |= !self.waiting.is_empty();
        let called = !self.desk.commands.is_empty() || self.lane.has_mail();
        if !called {
            let kicks = self.pairs().flat_map(|pair| pair.kicks()).filter_map(|kick| kick.eventfd());
            let wires = self.slots.iter().flatten().filter_map(|seated| match seated {
                Seated::Pair(pair) => pair.door(),
                Seated::Uplink(uplink) => uplink.door(),
            });
            let mut doors = vec![PollFd::new(&self.desk.wake, PollFlags::IN)];
            doors.extend(kicks.map(|kick| PollFd::new(kick, PollFlags::IN)));
            doors.extend(wires.map(|wire| PollFd::from_borrowed_fd(wire, PollFlags::IN)));
            let nap = Timespec { tv_sec: 0, tv_nsec: nap.as_nanos() as _ };
            let _ = poll(&mut doors, busy.then_some(&nap));
        }
        self.desk.wake.get_up();
        for seated in self.slots.iter_mut().flatten() {
            if let Seated::Pair(pair) = seated {
                pair.disarm();
            }
        }
    }
}
