//! Notification suppression as pure functions, and the two eventfds.

use std::fmt::Debug;
use std::io::IoSliceMut;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::{Errno, ReadWriteFlags, preadv2};

use crate::setup::Layout;

/// "Used Buffer Notification Suppression": whether moving from `old` to `new` passed `event`, all modulo 2^16.
#[inline]
pub fn passed_event(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

/// Packed: the same for a ring of any size. `new` is the position after the burst, `moved` how many descriptors the
/// burst took (at most `size`), `wrap` our wrap counter at `new`; `event` is offset and wrap as the driver wrote them.
#[inline]
pub fn passed_packed_event(event: u16, new: u16, wrap: bool, moved: u16, size: u16) -> bool {
    let (offset, event_wrap) = (event & 0x7fff, event & 0x8000 != 0);
    // How far back from `new` the event lies: 1 is the last descriptor used.
    let behind = if event_wrap == wrap {
        i32::from(new) - i32::from(offset)
    } else {
        i32::from(new) + i32::from(size) - i32::from(offset)
    };
    offset < size && (1..=i32::from(moved)).contains(&behind)
}

/// What an available buffer notification carries with `VIRTIO_F_NOTIFICATION_DATA` ("Driver Notifications").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotificationData {
    /// Which queue.
    pub queue_index: u16,
    /// Split: the next available index. Packed: the next descriptor's position, below 32768.
    pub next: u16,
    /// Packed: the driver's wrap counter there. Split: `false`.
    pub wrap: bool,
}

impl NotificationData {
    /// From the 32 bits as the transport delivers them. All values are possible; the driver may say anything.
    pub fn decode(data: u32, layout: Layout) -> Self {
        let next = (data >> 16) as u16;
        let (next, wrap) = match layout {
            Layout::Split => (next, false),
            Layout::Packed => (next & 0x7fff, next & 0x8000 != 0),
        };
        NotificationData { queue_index: data as u16, next, wrap }
    }
}

/// Something that has the other side told, and does not wait for that.
pub trait Bell: Debug + Send + Sync {
    /// Has it told, soon.
    fn ring(&self);
}

/// A notification line: an eventfd, or a bell, or nothing where the other side polls.
#[derive(Debug, Default)]
pub struct Notifier {
    eventfd: Option<OwnedFd>,
    bell: Option<Arc<dyn Bell>>,
}

impl Notifier {
    /// A line over an eventfd, or none.
    pub fn new(eventfd: Option<OwnedFd>) -> Self {
        Notifier { eventfd, bell: None }
    }

    /// A line that somebody else rings.
    pub fn through(bell: Arc<dyn Bell>) -> Self {
        Notifier { eventfd: None, bell: Some(bell) }
    }

    /// Whether there is anyone to tell.
    #[inline]
    pub fn is_connected(&self) -> bool {
        self.eventfd.is_some() || self.bell.is_some()
    }

    /// Tells the other side. Over an eventfd it is a system call, which waits if the other side has filled it and made it
    /// block. A counter that is full already says the same thing, so failure is none.
    pub fn notify(&self) {
        if let Some(bell) = &self.bell {
            return bell.ring();
        }
        if let Some(eventfd) = &self.eventfd {
            let _ = rustix::io::write(eventfd, &1u64.to_ne_bytes());
        }
    }

    /// The eventfd, to wait on or to empty.
    pub fn eventfd(&self) -> Option<&OwnedFd> {
        self.eventfd.as_ref()
    }

    /// Takes out what was put in, so that the next event is seen. Does not wait for any, whatever the other side does to
    /// the descriptor, unless it is one that knows no reading without waiting. Whether there was something.
    pub fn drain(&self) -> bool {
        let Some(eventfd) = &self.eventfd else { return false };
        let mut bytes = [0u8; 256];
        let nowhere = u64::MAX; // It has no positions.
        let mut read = preadv2(eventfd, &mut [IoSliceMut::new(&mut bytes)], nowhere, ReadWriteFlags::NOWAIT);
        if read == Err(Errno::OPNOTSUPP) || read == Err(Errno::NOSYS) {
            read = rustix::io::read(eventfd, &mut bytes);
        }
        read.is_ok_and(|count| count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every index from `old` on, one by one: did any of them say `event + 1`?
    fn passed_slowly(event: u16, new: u16, old: u16) -> bool {
        let mut index = old;
        while index != new {
            if index == event {
                return true;
            }
            index = index.wrapping_add(1);
        }
        false
    }

    #[test]
    fn the_event_is_passed_exactly_when_a_step_reaches_it() {
        for start in [0u16, 1, 100, 65530] {
            for moved in 0..12u16 {
                for offset in 0..24u16 {
                    let (new, event) = (start.wrapping_add(moved), start.wrapping_sub(6).wrapping_add(offset));
                    assert_eq!(passed_event(event, new, start), passed_slowly(event, new, start));
                }
            }
        }
    }

    #[test]
    fn notification_data_is_taken_apart_by_layout() {
        let split = NotificationData { queue_index: 3, next: 0x8005, wrap: false };
        assert_eq!(NotificationData::decode(0x8005_0003, Layout::Split), split);
        let packed = NotificationData { queue_index: 3, next: 5, wrap: true };
        assert_eq!(NotificationData::decode(0x8005_0003, Layout::Packed), packed);
    }

    #[test]
    fn the_packed_event_is_passed_exactly_when_a_step_reaches_it() {
        for size in 1..7u16 {
            for old in 0..size {
                for old_wrap in [false, true] {
                    for moved in 0..=size {
                        let (mut at, mut wrap, mut visited) = (old, old_wrap, Vec::new());
                        for _ in 0..moved {
                            visited.push(at | u16::from(wrap) << 15);
                            at += 1;
                            if at == size {
                                (at, wrap) = (0, !wrap);
                            }
                        }
                        for offset in 0..size {
                            for event_wrap in [false, true] {
                                let event = offset | u16::from(event_wrap) << 15;
                                assert_eq!(
                                    passed_packed_event(event, at, wrap, moved, size),
                                    visited.contains(&event),
                                    "size {size} old {old} {old_wrap} moved {moved} event {offset} {event_wrap}"
                                );
                            }
                        }
                    }
                }
            }
        }
    }
}
