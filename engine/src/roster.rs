//! Whose turn it is. A slot that moves frames has its turn in every turn of the worker. One that has moved nothing for a
//! while is parked, and costs nothing until it is called; where its driver cannot call, it joins those that are looked at one
//! after another, one every [`ROUND_NS`].

/// How long a slot moves nothing before it is parked, in nanoseconds.
pub const PARK_AFTER_NS: u64 = 1_000_000;
/// How often one of those is looked at that cannot call, in nanoseconds.
pub const ROUND_NS: u64 = 5_000;

/// What a slot waits for that has moved nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// There is something to do, or will be without anybody calling.
    Nothing,
    /// For something that nobody will call for.
    Look,
    /// For a call, a frame or a command.
    Call,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Empty,
    Hot,
    Looked,
    Parked,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seat {
    state: State,
    /// Its place in the list of those in the same state.
    place: usize,
    /// When it last moved something, or was called.
    quiet_since_ns: u64,
}

/// The slots of one worker.
#[derive(Debug, Default)]
pub struct Roster {
    seats: Vec<Seat>,
    hot: Vec<u16>,
    looked: Vec<u16>,
    parked: usize,
    /// Which of `looked` comes next, and when.
    next: usize,
    next_ns: u64,
}

impl Roster {
    /// A slot is taken; it starts hot.
    pub fn enter(&mut self, slot: u16, now_ns: u64) {
        let count = self.seats.len().max(usize::from(slot) + 1);
        self.seats.resize(count, Seat::default());
        // No turn makes any of these grow.
        self.hot.reserve(count - self.hot.len());
        self.looked.reserve(count - self.looked.len());
        self.rouse(slot, now_ns);
    }

    /// A slot is empty.
    pub fn leave(&mut self, slot: u16) {
        self.set(slot, State::Empty);
    }

    /// A slot is called, or moved something, or has been told something: it is hot from now on. `true` if it was not.
    pub fn rouse(&mut self, slot: u16, now_ns: u64) -> bool {
        let seat = &mut self.seats[usize::from(slot)];
        seat.quiet_since_ns = now_ns;
        let was_away = seat.state != State::Hot;
        if was_away {
            self.set(slot, State::Hot);
        }
        was_away
    }

    /// Those that have a turn now, by place; one that is parked leaves its place to another.
    #[inline]
    pub fn hot(&self, place: usize) -> Option<u16> {
        self.hot.get(place).copied()
    }

    /// Takes note of what a hot slot has moved; whether it has been quiet for so long that it may be parked.
    #[inline]
    pub fn has_rested(&mut self, slot: u16, moved: usize, now_ns: u64) -> bool {
        let seat = &mut self.seats[usize::from(slot)];
        if moved > 0 {
            seat.quiet_since_ns = now_ns;
            return false;
        }
        now_ns.saturating_sub(seat.quiet_since_ns) >= PARK_AFTER_NS
    }

    /// Lets a slot wait for what it says.
    pub fn park(&mut self, slot: u16, wait: Wait, now_ns: u64) {
        match wait {
            Wait::Nothing => self.seats[usize::from(slot)].quiet_since_ns = now_ns,
            Wait::Look => self.set(slot, State::Looked),
            Wait::Call => self.set(slot, State::Parked),
        }
    }

    /// The slot that is to be looked at now, if any is.
    #[inline]
    pub fn due(&mut self, now_ns: u64) -> Option<u16> {
        if self.looked.is_empty() || now_ns < self.next_ns {
            return None;
        }
        self.next_ns = now_ns + ROUND_NS;
        self.next = if self.next + 1 < self.looked.len() { self.next + 1 } else { 0 };
        Some(self.looked[self.next])
    }

    /// How many have a turn in every turn.
    pub fn hot_count(&self) -> usize {
        self.hot.len()
    }

    /// How many wait for a call.
    pub fn parked_count(&self) -> usize {
        self.parked
    }

    /// Whether all wait for a call.
    pub fn all_parked(&self) -> bool {
        self.hot.is_empty() && self.looked.is_empty()
    }

    fn set(&mut self, slot: u16, state: State) {
        let Seat { state: before, place, .. } = self.seats[usize::from(slot)];
        match before {
            State::Empty => {}
            State::Parked => self.parked -= 1,
            State::Hot | State::Looked => {
                let list = if before == State::Hot { &mut self.hot } else { &mut self.looked };
                list.swap_remove(place);
                if let Some(&moved) = list.get(place) {
                    self.seats[usize::from(moved)].place = place;
                }
            }
        }
        let mut place = 0;
        match state {
            State::Empty => {}
            State::Parked => self.parked += 1,
            State::Hot | State::Looked => {
                let list = if state == State::Hot { &mut self.hot } else { &mut self.looked };
                place = list.len();
                list.push(slot);
            }
        }
        let seat = &mut self.seats[usize::from(slot)];
        (seat.state, seat.place) = (state, place);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn hot(roster: &Roster) -> Vec<u16> {
        let mut slots: Vec<u16> = (0..).map_while(|place| roster.hot(place)).collect();
        slots.sort_unstable();
        slots
    }

    #[test]
    fn a_slot_rests_when_it_has_moved_nothing_for_long_enough() {
        let mut roster = Roster::default();
        roster.enter(0, 5);
        assert!(!roster.has_rested(0, 0, 5 + PARK_AFTER_NS - 1));
        assert!(!roster.has_rested(0, 1, 5 + PARK_AFTER_NS));
        assert!(!roster.has_rested(0, 0, 5 + PARK_AFTER_NS));
        assert!(roster.has_rested(0, 0, 5 + 2 * PARK_AFTER_NS));
        assert!(!roster.rouse(0, 5 + 2 * PARK_AFTER_NS), "it was hot");
        assert!(!roster.has_rested(0, 0, 5 + 2 * PARK_AFTER_NS));
    }

    #[test]
    fn those_that_cannot_call_are_looked_at_one_after_another() {
        let mut roster = Roster::default();
        (0..4).for_each(|slot| roster.enter(slot, 0));
        (0..3).for_each(|slot| roster.park(slot, Wait::Look, 0));
        let mut seen: Vec<_> = (0..6).map(|round| roster.due(round * ROUND_NS)).collect();
        assert_eq!(roster.due(5 * ROUND_NS + 1), None, "not yet");
        seen.sort_unstable();
        assert_eq!(seen, [0, 0, 1, 1, 2, 2].map(Some));
        assert!(!roster.all_parked());
    }

    #[test]
    fn every_order_of_events_leaves_each_slot_where_it_was_put_last() {
        // Every sequence of five events on three slots.
        const EVENTS: u32 = 15;
        for sequence in 0..EVENTS.pow(5) {
            let mut roster = Roster::default();
            let mut model = [State::Empty; 3];
            for step in 0..5 {
                let event = sequence / EVENTS.pow(step) % EVENTS;
                let slot = (event % 3) as u16;
                let state = &mut model[usize::from(slot)];
                match (event / 3, *state) {
                    (0, State::Empty) => {
                        roster.enter(slot, 0);
                        *state = State::Hot;
                    }
                    (_, State::Empty) => {}
                    (0, _) => {
                        roster.leave(slot);
                        *state = State::Empty;
                    }
                    (1, _) => {
                        assert_eq!(roster.rouse(slot, 0), *state != State::Hot);
                        *state = State::Hot;
                    }
                    (2, State::Hot) => {
                        roster.park(slot, Wait::Look, 0);
                        *state = State::Looked;
                    }
                    (3, State::Hot) => {
                        roster.park(slot, Wait::Call, 0);
                        *state = State::Parked;
                    }
                    (4, State::Hot) => roster.park(slot, Wait::Nothing, 0),
                    _ => {}
                }
                let is = |wanted| (0..3).filter(|&slot| model[usize::from(slot)] == wanted).collect::<Vec<u16>>();
                let mut looked = roster.looked.clone();
                looked.sort_unstable();
                assert_eq!((hot(&roster), looked), (is(State::Hot), is(State::Looked)));
                assert_eq!(roster.parked_count(), is(State::Parked).len());
            }
        }
    }
}

#[cfg(all(test, loom))]
mod handshake {
    use loom::sync::Arc;

    use super::*;
    use crate::sync::{AtomicBool, AtomicU64, Ordering, fence};

    /// What driver and worker share: how much is available, whether a kick is wanted, whether one came.
    #[derive(Default)]
    struct Ring {
        available: AtomicU64,
        armed: AtomicBool,
        kicked: AtomicBool,
    }

    impl Ring {
        fn offer(&self, number: u64) {
            self.available.store(number, Ordering::Release);
            fence(Ordering::SeqCst);
            if self.armed.load(Ordering::Relaxed) {
                self.kicked.swap(true, Ordering::AcqRel);
            }
        }

        /// As the rings do it: asks for kicks, and looks whether it asked too late.
        fn arm(&self, taken: u64) -> bool {
            self.armed.store(true, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            self.available.load(Ordering::Acquire) != taken
        }

        fn disarm(&self) {
            self.armed.store(false, Ordering::Relaxed);
        }
    }

    /// Turns in the worker's order, each a while after the last; a kick may be taken in any of them, also where its slot is hot.
    fn turns(ring: &Ring, roster: &mut Roster, taken: &mut u64, count: u64) {
        for turn in 1..=count {
            let now_ns = turn * PARK_AFTER_NS;
            if roster.hot(0).is_some() {
                let available = ring.available.load(Ordering::Acquire);
                let moved = available - std::mem::replace(taken, available);
                if roster.has_rested(0, moved as usize, now_ns) {
                    let wait = if ring.arm(*taken) { Wait::Nothing } else { Wait::Call };
                    if wait == Wait::Nothing {
                        ring.disarm();
                    }
                    roster.park(0, wait, now_ns);
                }
            }
            if ring.kicked.swap(false, Ordering::AcqRel) && roster.rouse(0, now_ns) {
                ring.disarm();
            }
        }
    }

    #[test]
    fn nothing_is_left_on_the_ring_of_a_slot_that_is_parked_without_a_kick_on_its_way() {
        loom::model(|| {
            let ring = Arc::new(Ring::default());
            let driver = loom::thread::spawn({
                let ring = ring.clone();
                move || (1..=2).for_each(|number| ring.offer(number))
            });
            let (mut roster, mut taken) = (Roster::default(), 0);
            roster.enter(0, 0);
            turns(&ring, &mut roster, &mut taken, 3);
            driver.join().unwrap();
            let called = ring.kicked.swap(false, Ordering::AcqRel);
            assert!(!roster.all_parked() || taken == 2 || called, "{taken} of 2 taken, and nobody calls");
        });
    }
}
