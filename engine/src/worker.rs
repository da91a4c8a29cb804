//! A worker: what one lcore owns, and its turn.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;

use crate::bench::Bench;
use crate::command::{Broken, Command, Reply};
use crate::dim;
use crate::doors::{Call, Doors, Opened};
use crate::frame::Lender;
use crate::idle::{Idle, IdlePolicy, Rest};
use crate::meter::{Gauge, Meter};
use crate::pair::{Pair, Side, Turned};
use crate::port::switch::Lane;
use crate::roster::{Roster, Wait};
use crate::uplink::Uplink;
use crate::wake::Wake;

/// Commands taken in one turn.
const COMMANDS_PER_TURN: usize = 4;
/// Room of each queue between a worker and control.
pub(crate) const MESSAGES: usize = 256;
/// Slots parked in one turn.
const PARKS_PER_TURN: usize = 4;
/// How often the doors of parked slots are looked at while frames move, in nanoseconds: a system call each time.
const LOOK_NS: u64 = 50_000;
/// The same while nothing moves.
const LOOK_IDLE_NS: u64 = 2_000;
/// A notification that is due before has no sleep come between: longer than any nap lasts.
const AWAKE_NS: u64 = 250_000;

/// What control and a worker share: three queues, a bell and the worker's doors.
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
    /// Who else can call it.
    pub doors: Doors,
    /// How busy it is.
    pub gauge: Gauge,
}

impl Desk {
    /// A desk for one worker.
    ///
    /// # Errors
    /// Where there is no eventfd or epoll instance to be had.
    pub fn new() -> std::io::Result<Arc<Self>> {
        let wake = Wake::new()?;
        Ok(Arc::new(Desk {
            commands: ArrayQueue::new(MESSAGES),
            replies: ArrayQueue::new(MESSAGES),
            broken: ArrayQueue::new(MESSAGES),
            doors: Doors::new(&wake)?,
            gauge: Gauge::default(),
            wake,
        }))
    }
}

/// A command that waits for something to come home.
#[derive(Debug)]
enum Waiting {
    Detach(u64, u16, Side),
    RemoveUplink(u64, u16),
    Depart(u64, u16),
    Lead(u64),
}

/// What has its turn in a slot.
#[derive(Debug)]
enum Seated {
    Pair(Box<Pair>),
    Uplink(Box<Uplink>),
}

impl Seated {
    fn arm(&mut self) -> Wait {
        match self {
            Self::Pair(pair) => pair.arm(),
            Self::Uplink(uplink) => uplink.arm(),
        }
    }

    fn disarm(&mut self) {
        if let Self::Pair(pair) = self {
            pair.disarm();
        }
    }
}

/// A slot, and what has its turn there.
#[derive(Debug, Default)]
struct Slot {
    seated: Option<Seated>,
    /// What its doors are like, all together.
    doors: Option<Opened>,
}

/// What one lcore owns. A test turns one by hand.
#[derive(Debug)]
pub struct Worker {
    me: u16,
    slots: Vec<Slot>,
    roster: Roster,
    /// When doors are looked at again.
    look_ns: u64,
    /// When slots whose moderation follows their load are measured again, if there are any.
    measure_ns: u64,
    lane: Lane,
    bench: Bench,
    meter: Meter,
    desk: Arc<Desk>,
    /// Desks of all workers, by number, to wake those that were sent something.
    desks: Vec<Option<Arc<Desk>>>,
    waiting: Vec<Waiting>,
    idle: Idle,
    stop: Option<u64>,
}

impl Worker {
    /// A worker with nothing to do, for bursts of `burst` frames.
    pub fn new(me: u16, desks: Vec<Arc<Desk>>, lane: Lane, burst: usize, idle: IdlePolicy) -> Self {
        let desk = desks[usize::from(me)].clone();
        Worker { desks: desks.into_iter().map(Some).collect(), ..Worker::alone(me, desk, lane, burst, idle) }
    }

    /// The same, to whom no other is known yet.
    pub fn alone(me: u16, desk: Arc<Desk>, lane: Lane, burst: usize, idle: IdlePolicy) -> Self {
        Worker {
            me,
            slots: Vec::new(),
            roster: Roster::default(),
            look_ns: 0,
            measure_ns: u64::MAX,
            lane,
            bench: Bench::new(burst),
            meter: Meter::default(),
            desk,
            desks: Vec::new(),
            waiting: Vec::new(),
            idle: Idle::new(idle),
            stop: None,
        }
    }

    /// Turns until told to stop. Workers of one engine count time from the same `start`.
    pub fn run(mut self, start: Instant) {
        loop {
            let moved = self.turn(start.elapsed().as_nanos() as u64);
            if let Some(number) = self.stop {
                return self.reply(number, Reply::Done);
            }
            match self.idle.after(moved) {
                Rest::No => {}
                _ if self.bench.due_ns < self.bench.now_ns + AWAKE_NS => {}
                Rest::Nap(nap) => self.rest(Some(nap)),
                Rest::UntilCalled(nap) => {
                    let all_call = self.roster.all_parked() && self.waiting.is_empty();
                    self.rest((!all_call).then_some(nap));
                }
            }
        }
    }

    /// A few commands, what other workers sent, one burst a queue and direction. Returns how much moved.
    pub fn turn(&mut self, now_ns: u64) -> usize {
        (self.bench.now_ns, self.bench.due_ns) = (now_ns, u64::MAX);
        self.meter.begin(now_ns, &self.desk.gauge);
        let mut moved = self.obey();
        moved += self.lane.gather(now_ns);
        while let Some(slot) = self.lane.take_roused() {
            self.rouse(slot);
        }
        let (mut place, mut parks) = (0, 0);
        while let Some(slot) = self.roster.hot(place) {
            let some = self.turn_slot(slot);
            moved += some;
            if self.roster.has_rested(slot, some, now_ns) && parks < PARKS_PER_TURN {
                parks += 1;
                self.park(slot);
            }
            // One that is parked has left its place to another.
            place += usize::from(self.roster.hot(place) == Some(slot));
        }
        if let Some(slot) = self.roster.due(now_ns) {
            let some = self.turn_slot(slot);
            if some > 0 {
                self.rouse(slot);
            }
            moved += some;
        }
        for worker in self.lane.take_sent_to() {
            if let Some(Some(desk)) = self.desks.get(usize::from(worker)) {
                desk.wake.call();
            }
        }
        if !self.waiting.is_empty() {
            self.answer_waiting();
        }
        if now_ns >= self.measure_ns {
            self.measure();
        }
        if self.roster.parked_count() > 0 && now_ns >= self.look_ns {
            self.look_ns = now_ns + if moved > 0 { LOOK_NS } else { LOOK_IDLE_NS };
            self.wait(Some(Duration::ZERO));
        }
        self.meter.end(moved);
        moved
    }

    /// One burst each way for one slot.
    #[inline]
    fn turn_slot(&mut self, slot: u16) -> usize {
        self.bench.lender = Lender { worker: self.me, slot };
        self.bench.sampled_at = self.meter.lap();
        let Turned { moved, violation } = match &mut self.slots[usize::from(slot)].seated {
            None => return 0,
            Some(Seated::Pair(pair)) => pair.turn(&mut self.lane, &mut self.bench),
            Some(Seated::Uplink(uplink)) => {
                let moved = uplink.turn(&mut self.lane, &mut self.bench);
                Turned { moved, violation: None }
            }
        };
        if let Some((side, violation)) = violation {
            let _ = self.desk.broken.push(Broken { slot, side, violation });
        }
        if let Some(busy_ns) = self.meter.sample(moved) {
            match &mut self.slots[usize::from(slot)].seated {
                Some(Seated::Pair(pair)) => pair.add_busy(busy_ns),
                Some(Seated::Uplink(uplink)) => uplink.add_busy(busy_ns),
                None => {}
            }
        }
        moved
    }

    /// Lets a slot that moves nothing wait for a call, if it can: first whoever could call is asked to, then one looks
    /// whether there is something already. Calls that came before were for what is seen now.
    fn park(&mut self, slot: u16) {
        let Slot { seated: Some(seated), doors } = &mut self.slots[usize::from(slot)] else { return };
        let mut wait = seated.arm();
        if wait == Wait::Nothing || !self.lane.park(slot) {
            wait = Wait::Nothing;
            seated.disarm();
        } else if *doors == Some(Opened::Mute) {
            wait = Wait::Look;
        }
        self.roster.park(slot, wait, self.bench.now_ns);
    }

    /// Brings a slot back into the hot scan.
    fn rouse(&mut self, slot: u16) {
        let Some(Slot { seated: Some(seated), .. }) = self.slots.get_mut(usize::from(slot)) else { return };
        if self.roster.rouse(slot, self.bench.now_ns) {
            seated.disarm();
            self.lane.unpark(slot);
            self.watch_load(slot);
        }
    }

    /// Moderation that follows the load is set anew where frames move. Who is parked is measured from when it is roused.
    #[cold]
    fn measure(&mut self) {
        let now_ns = self.bench.now_ns;
        self.measure_ns = u64::MAX;
        let mut place = 0;
        while let Some(slot) = self.roster.hot(place) {
            place += 1;
            if self.pair(slot).is_some_and(|pair| pair.measure(now_ns)) {
                self.measure_ns = now_ns + dim::WINDOW_NS;
            }
        }
    }

    /// From now on a slot has its turn; if its moderation follows its load, that is measured.
    fn watch_load(&mut self, slot: u16) {
        if self.measure_ns == u64::MAX && self.pair(slot).is_some_and(|pair| pair.is_dynamic()) {
            self.measure_ns = self.bench.now_ns + dim::WINDOW_NS;
        }
    }

    /// Waits for calls, and rouses who is called.
    fn wait(&mut self, timeout: Option<Duration>) {
        let desk = self.desk.clone();
        desk.doors.wait(timeout, |call| {
            let (Call::Kick(slot, _) | Call::Wire(slot)) = call;
            let fills = self.slots.get(usize::from(slot)).is_some_and(|slot| slot.doors >= Some(Opened::Fills));
            if let (Call::Kick(_, side), Some(pair)) = (call, self.pair(slot)) {
                pair.count_kick(side);
                if fills {
                    for (_, kick) in pair.kicks() {
                        kick.drain();
                    }
                }
            }
            self.rouse(slot);
        });
    }

    /// Sleeps until a kick, a command or another worker calls, or for a nap.
    fn rest(&mut self, nap: Option<Duration>) {
        self.meter.publish(&self.desk.gauge);
        self.desk.wake.lie_down();
        if self.desk.commands.is_empty() && !self.lane.has_mail() {
            self.wait(nap);
        }
        self.desk.wake.get_up();
    }

    /// Listens to all that can call for a slot.
    fn open_doors(&mut self, slot: u16) {
        let Slot { seated: Some(seated), doors } = &mut self.slots[usize::from(slot)] else { return };
        let listen = &self.desk.doors;
        let mut worst = None;
        match seated {
            Seated::Pair(pair) => {
                for (side, kick) in pair.kicks() {
                    worst = worst.max(kick.eventfd().map(|kick| listen.open(kick, Call::Kick(slot, side))));
                }
                worst = worst.max(pair.door().map(|wire| listen.open(wire, Call::Wire(slot))));
            }
            Seated::Uplink(uplink) => {
                worst = worst.max(uplink.door().map(|wire| listen.open(wire, Call::Wire(slot))));
            }
        }
        *doors = worst;
    }

    fn close_doors(&mut self, slot: u16) {
        let Slot { seated: Some(seated), .. } = &mut self.slots[usize::from(slot)] else { return };
        let listen = &self.desk.doors;
        match seated {
            Seated::Pair(pair) => {
                pair.kicks().filter_map(|(_, kick)| kick.eventfd()).for_each(|kick| listen.close(kick));
                pair.door().into_iter().for_each(|wire| listen.close(wire));
            }
            Seated::Uplink(uplink) => uplink.door().into_iter().for_each(|wire| listen.close(wire)),
        }
    }

    /// How many slots have a turn in every turn.
    pub fn hot(&self) -> usize {
        self.roster.hot_count()
    }

    /// How many cost nothing until they are called.
    pub fn parked(&self) -> usize {
        self.roster.parked_count()
    }

    fn obey(&mut self) -> usize {
        let mut count = 0;
        // A look at an empty queue costs less than an attempt to take from it.
        while count < COMMANDS_PER_TURN
            && !self.desk.commands.is_empty()
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
                self.rouse(slot);
                match self.uplink(slot) {
                    Some(uplink) => uplink.leave(),
                    None => return Some(Reply::Uplink(None)),
                }
                self.waiting.push(Waiting::RemoveUplink(number, slot));
                return None;
            }
            Command::SetLink(slot, has_link) => self.uplink(slot).map_or(Reply::Refused(None), |uplink| {
                uplink.set_link(has_link);
                Reply::Done
            }),
            Command::Attach(slot, attachment) => match self.roused_pair(slot) {
                None => Reply::Refused(Some(attachment)),
                Some(pair) => match pair.attach(attachment) {
                    Ok(()) => {
                        self.open_doors(slot);
                        Reply::Done
                    }
                    Err(attachment) => Reply::Refused(Some(attachment)),
                },
            },
            Command::Detach(slot, side) => {
                if let Some(pair) = self.roused_pair(slot) {
                    pair.detach(side);
                }
                self.waiting.push(Waiting::Detach(number, slot, side));
                return None;
            }
            Command::SetEnabled(slot, side, enabled) => self.roused_pair(slot).map_or(Reply::Refused(None), |pair| {
                pair.set_enabled(side, enabled);
                Reply::Done
            }),
            Command::SetFilter(slot, filter) => self.pair(slot).map_or(Reply::Refused(None), |pair| {
                pair.set_filter(filter);
                Reply::Done
            }),
            Command::SetOffloads(slot, offloads) => self.pair(slot).map_or(Reply::Refused(None), |pair| {
                pair.set_offloads(offloads);
                Reply::Done
            }),
            Command::SetHasher(slot, hasher) => self.pair(slot).map_or(Reply::Refused(None), |pair| {
                pair.set_hasher(hasher);
                Reply::Done
            }),
            Command::SetCall(slot, side, call) => self.pair(slot).map_or(Reply::Refused(None), |pair| {
                pair.set_call(side, call);
                Reply::Done
            }),
            Command::Moderate(slot, side, setting) => match self.roused_pair(slot) {
                None => Reply::Refused(None),
                Some(pair) => {
                    pair.moderate(side, setting);
                    self.watch_load(slot);
                    Reply::Done
                }
            },
            Command::Announce(slot, announcement) => {
                let sent = match self.seated(slot) {
                    Some(Seated::Uplink(uplink)) => uplink.announce(&announcement),
                    Some(Seated::Pair(pair)) => pair.announce(&announcement),
                    None => false,
                };
                if sent { Reply::Done } else { Reply::Refused(None) }
            }
            Command::Depart(slot) => {
                self.rouse(slot);
                match self.seated(slot) {
                    Some(Seated::Pair(pair)) => pair.depart(),
                    Some(Seated::Uplink(uplink)) => uplink.leave(),
                    None => return Some(Reply::Refused(None)),
                }
                self.waiting.push(Waiting::Depart(number, slot));
                return None;
            }
            Command::Hold(place) => {
                if self.lane.hold(place) {
                    Reply::Done
                } else {
                    Reply::Refused(None)
                }
            }
            Command::Lead(map, place) => {
                self.lane.lead(map, place);
                self.waiting.push(Waiting::Lead(number));
                return None;
            }
            Command::Connect(worker, link, desk) => {
                let index = usize::from(worker);
                if self.desks.len() <= index {
                    self.desks.resize(index + 1, None);
                }
                self.desks[index] = Some(desk);
                self.lane.connect(worker, *link);
                Reply::Done
            }
            Command::Disconnect(worker) => {
                if self.lane.disconnect(worker, self.bench.now_ns) {
                    self.desks[usize::from(worker)] = None;
                    Reply::Done
                } else {
                    Reply::Refused(None)
                }
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

    fn seated(&mut self, slot: u16) -> Option<&mut Seated> {
        self.slots.get_mut(usize::from(slot)).and_then(|slot| slot.seated.as_mut())
    }

    fn pair(&mut self, slot: u16) -> Option<&mut Pair> {
        match self.seated(slot) {
            Some(Seated::Pair(pair)) => Some(pair),
            _ => None,
        }
    }

    /// The same, with something new for it to do.
    fn roused_pair(&mut self, slot: u16) -> Option<&mut Pair> {
        self.rouse(slot);
        self.pair(slot)
    }

    fn uplink(&mut self, slot: u16) -> Option<&mut Uplink> {
        match self.seated(slot) {
            Some(Seated::Uplink(uplink)) => Some(uplink),
            _ => None,
        }
    }

    fn put(&mut self, content: Seated) -> Reply {
        let index = self.slots.iter().position(|slot| slot.seated.is_none()).unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() - 1
        });
        let slot = index as u16;
        self.slots[index].seated = Some(content);
        self.lane.open_mailbox(slot);
        self.open_doors(slot);
        self.roster.enter(slot, self.bench.now_ns);
        self.watch_load(slot);
        Reply::Slot(slot)
    }

    fn take(&mut self, slot: u16) -> Option<Seated> {
        // What other workers have sent it is on its way back before the slot is somebody else's.
        self.lane.gather(self.bench.now_ns);
        self.lane.close_mailbox(slot);
        self.close_doors(slot);
        let seated = self.slots.get_mut(usize::from(slot)).and_then(|slot| slot.seated.take());
        if seated.is_some() {
            self.roster.leave(slot);
        }
        seated
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

    /// What is to depart, as soon as nothing of it is out and nothing waits for it.
    fn let_depart(&mut self, slot: u16) -> Option<Reply> {
        let settled = match self.seated(slot) {
            Some(Seated::Pair(pair)) => pair.has_settled(),
            Some(Seated::Uplink(uplink)) => uplink.is_idle(),
            None => true,
        };
        if !settled || !self.lane.is_empty(slot) {
            return None;
        }
        Some(match self.take(slot) {
            Some(Seated::Pair(mut pair)) => {
                [Side::Receiveq, Side::Transmitq].into_iter().for_each(|side| pair.tell(side));
                pair.stay();
                Reply::Pair(Some(pair))
            }
            Some(Seated::Uplink(mut uplink)) => {
                uplink.stay();
                Reply::Uplink(Some(uplink))
            }
            None => Reply::Refused(None),
        })
    }

    fn answer_waiting(&mut self) {
        for index in (0..self.waiting.len()).rev() {
            let answer = match self.waiting[index] {
                Waiting::Detach(number, slot, side) => match self.pair(slot).map(|pair| pair.take_left(side)) {
                    Some(Err(_)) => None,
                    Some(Ok(attachment)) => {
                        let kick = attachment.as_ref().and_then(|attachment| attachment.kick().eventfd());
                        kick.into_iter().for_each(|kick| self.desk.doors.close(kick));
                        Some((number, Reply::Detached(attachment)))
                    }
                    None => Some((number, Reply::Detached(None))),
                },
                Waiting::RemoveUplink(number, slot) => self.remove_uplink(slot).map(|reply| (number, reply)),
                Waiting::Depart(number, slot) => self.let_depart(slot).map(|reply| (number, reply)),
                Waiting::Lead(number) => self.lane.holds_nothing().then_some((number, Reply::Done)),
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
}
