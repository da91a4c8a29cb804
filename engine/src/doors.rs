//! Who can call a worker: its own bell, the kicks of its queues, the interfaces of its ports; one epoll instance watches them all.
//!
//! Events are edges: each is told once and nothing has to be read for it, so a front end that plays with its end of a kick
//! cannot make a worker wait. What is told while its slot has its turn anyway is passed over: who parks a slot looks at its
//! rings once more after that.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{Timespec, epoll};
use rustix::fs::{FileType, fstat};
use rustix::io::Errno;

use crate::pair::Side;
use crate::wake::Wake;

/// Calls taken at a time; the others are told next time.
const CALLS_MAX: usize = 16;
const BELL: u64 = u64::MAX;

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// A queue's driver.
    Kick(u16, Side),
    /// The interface behind a slot.
    Wire(u16),
}

impl Call {
    fn token(self) -> u64 {
        match self {
            Self::Kick(slot, Side::Receiveq) => u64::from(slot) << 2,
            Self::Kick(slot, Side::Transmitq) => u64::from(slot) << 2 | 1,
            Self::Wire(slot) => u64::from(slot) << 2 | 2,
        }
    }

    fn of(token: u64) -> Option<Self> {
        let slot = (token >> 2) as u16;
        match (token, token & 3) {
            (BELL, _) => None,
            (_, 0) => Some(Self::Kick(slot, Side::Receiveq)),
            (_, 1) => Some(Self::Kick(slot, Side::Transmitq)),
            _ => Some(Self::Wire(slot)),
        }
    }
}

/// Whether a door that was opened is of use, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Opened {
    /// It calls.
    Calls,
    /// It calls, and what it holds must be taken out: a pipe or a socket, which would fill up.
    Fills,
    /// It cannot be watched.
    Mute,
}

/// One worker's doors.
#[derive(Debug)]
pub struct Doors {
    epoll: OwnedFd,
}

impl Doors {
    /// No doors but the bell.
    ///
    /// # Errors
    /// Where there is no epoll instance to be had.
    pub fn new(bell: &Wake) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, bell, epoll::EventData::new_u64(BELL), epoll::EventFlags::IN)?;
        Ok(Self { epoll })
    }

    /// Listens to one more. One that is open already stays so.
    pub fn open(&self, door: impl AsFd, call: Call) -> Opened {
        let data = epoll::EventData::new_u64(call.token());
        match epoll::add(&self.epoll, &door, data, epoll::EventFlags::IN | epoll::EventFlags::ET) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(_) => return Opened::Mute,
        }
        let kind = fstat(door).map(|stat| FileType::from_raw_mode(stat.st_mode));
        let fills = matches!(kind, Ok(FileType::Fifo | FileType::Socket)) && matches!(call, Call::Kick(..));
        if fills { Opened::Fills } else { Opened::Calls }
    }

    /// Listens to it no more. To be called before it is closed: the other side may have it open too.
    pub fn close(&self, door: impl AsFd) {
        let _ = epoll::delete(&self.epoll, door);
    }

    /// Waits for a call; `None` is as long as it takes, zero only looks.
    pub fn wait(&self, timeout: Option<Duration>, mut put: impl FnMut(Call)) {
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: i64::from(timeout.subsec_nanos()) as _,
        });
        let mut events = [const { std::mem::MaybeUninit::<epoll::Event>::uninit() }; CALLS_MAX];
        if let Ok((events, _)) = epoll::wait(&self.epoll, &mut events, timeout.as_ref()) {
            events.iter().filter_map(|event| Call::of(event.data.u64())).for_each(&mut put);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    fn calls(doors: &Doors) -> Vec<Call> {
        let mut calls = Vec::new();
        doors.wait(Some(Duration::ZERO), |call| calls.push(call));
        calls
    }

    fn kick(door: &OwnedFd) {
        rustix::io::write(door, &1u64.to_ne_bytes()).unwrap();
    }

    #[test]
    fn each_kick_is_told_once_and_nothing_is_read() {
        let bell = Wake::new().unwrap();
        let doors = Doors::new(&bell).unwrap();
        let (one, other) = (eventfd(0, EventfdFlags::empty()).unwrap(), eventfd(0, EventfdFlags::empty()).unwrap());
        let ours = Call::Kick(700, Side::Transmitq);
        assert_eq!(doors.open(&one, ours), Opened::Calls);
        assert_eq!(doors.open(&one, ours), Opened::Calls, "twice is as good as once");
        assert_eq!(doors.open(&other, Call::Kick(3, Side::Receiveq)), Opened::Calls);
        assert_eq!(calls(&doors), []);
        for _ in 0..3 {
            kick(&one);
            assert_eq!(calls(&doors), [ours]);
            assert_eq!(calls(&doors), []);
        }
        kick(&other);
        assert_eq!(calls(&doors), [Call::Kick(3, Side::Receiveq)]);
        // Its other end lives on, and is not heard any more.
        let far = one.try_clone().unwrap();
        doors.close(&one);
        drop(one);
        kick(&far);
        assert_eq!(calls(&doors), []);
    }

    #[test]
    fn what_cannot_be_watched_is_mute_and_what_fills_up_is_known() {
        let doors = Doors::new(&Wake::new().unwrap()).unwrap();
        let file = tempfile::tempfile().unwrap();
        assert_eq!(doors.open(&file, Call::Kick(0, Side::Receiveq)), Opened::Mute);
        let (read, _write) = rustix::pipe::pipe().unwrap();
        assert_eq!(doors.open(&read, Call::Kick(0, Side::Receiveq)), Opened::Fills);
    }

    #[test]
    fn the_bell_ends_a_wait_and_is_nobodys_call() {
        let bell = Wake::new().unwrap();
        let doors = Doors::new(&bell).unwrap();
        bell.lie_down();
        bell.call();
        doors.wait(None, |call| panic!("{call:?}"));
        bell.get_up();
        assert_eq!(calls(&doors), []);
    }
}
