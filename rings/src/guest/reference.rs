//! A device for the driver's tests, written from the specification's text in the plainest way: one word at a time, no arithmetic
//! where counting will do, no care for speed or for a hostile driver.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Addresses, Buffer, Driver, Layout, Ram};

/// A chain as the device read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    pub id: u16,
    pub elements: Vec<Buffer>,
    /// Descriptors in the ring.
    pub count: u16,
}

pub struct Device {
    ram: Arc<Ram>,
    at: Addresses,
    layout: Layout,
    size: u16,
    event_idx: bool,
    /// Split: an index. Packed: an offset.
    next_avail: u16,
    avail_wrap: bool,
    next_used: u16,
    used_wrap: bool,
    /// What was taken and not returned, oldest first.
    pub held: VecDeque<Taken>,
}

impl Device {
    pub fn of(driver: &Driver, ram: &Arc<Ram>) -> Self {
        Self {
            ram: Arc::clone(ram),
            at: driver.addresses(),
            layout: driver.layout(),
            size: driver.size(),
            event_idx: driver.options().event_idx,
            next_avail: 0,
            avail_wrap: true,
            next_used: 0,
            used_wrap: true,
            held: VecDeque::new(),
        }
    }

    fn u16(&self, gpa: u64) -> u16 {
        self.ram.read_u16(gpa)
    }

    /// Takes the next available chain, if there is one.
    pub fn take(&mut self) -> bool {
        let taken = match self.layout {
            Layout::Split => self.take_split(),
            Layout::Packed => self.take_packed(),
        };
        let got = taken.is_some();
        self.held.extend(taken);
        got
    }

    fn take_split(&mut self) -> Option<Taken> {
        if self.u16(self.at.driver + 2) == self.next_avail {
            return None;
        }
        let entry = u64::from(self.next_avail % self.size);
        let id = self.u16(self.at.driver + 4 + 2 * entry);
        self.next_avail = self.next_avail.wrapping_add(1);
        let mut taken = Taken { id, elements: vec![], count: 0 };
        let mut table = self.at.descriptor;
        let mut i = id;
        loop {
            let gpa = table + 16 * u64::from(i);
            let (address, len_bytes) = (self.ram.read_u64(gpa), self.ram.read_u32(gpa + 8));
            let (flags, next) = (self.u16(gpa + 12), self.u16(gpa + 14));
            if table == self.at.descriptor {
                taken.count += 1;
            }
            if flags & 4 != 0 {
                assert_eq!(flags & 1, 0, "INDIRECT with NEXT");
                assert_eq!(table, self.at.descriptor, "a table in a table");
                assert!(len_bytes > 0 && len_bytes % 16 == 0, "a table of {len_bytes} bytes");
                (table, i) = (address, 0);
                continue;
            }
            taken.elements.push(Buffer { gpa: address, len_bytes, writable: flags & 2 != 0 });
            if flags & 1 == 0 {
                return Some(taken);
            }
            i = next;
        }
    }

    fn take_packed(&mut self) -> Option<Taken> {
        let mut taken = Taken { id: 0, elements: vec![], count: 0 };
        loop {
            let gpa = self.at.descriptor + 16 * u64::from(self.next_avail);
            let (address, len_bytes) = (self.ram.read_u64(gpa), self.ram.read_u32(gpa + 8));
            let (id, flags) = (self.u16(gpa + 12), self.u16(gpa + 14));
            let (avail, used) = (flags & 1 << 7 != 0, flags & 1 << 15 != 0);
            let available = avail == self.avail_wrap && used != self.avail_wrap;
            if !available {
                assert_eq!(taken.count, 0, "a chain that is available in part");
                return None;
            }
            taken.count += 1;
            self.next_avail += 1;
            if self.next_avail == self.size {
                self.next_avail = 0;
                self.avail_wrap = !self.avail_wrap;
            }
            if flags & 4 != 0 {
                assert_eq!((flags & 1, taken.count), (0, 1), "INDIRECT in a list");
                assert!(len_bytes > 0 && len_bytes % 16 == 0, "a table of {len_bytes} bytes");
                for gpa in (address..address + u64::from(len_bytes)).step_by(16) {
                    let writable = self.u16(gpa + 14) & 2 != 0;
                    taken.elements.push(Buffer {
                        gpa: self.ram.read_u64(gpa),
                        len_bytes: self.ram.read_u32(gpa + 8),
                        writable,
                    });
                }
            } else {
                taken.elements.push(Buffer { gpa: address, len_bytes, writable: flags & 2 != 0 });
            }
            if flags & 1 == 0 {
                taken.id = id;
                return Some(taken);
            }
        }
    }

    /// Returns chains. One entry or descriptor each; or, `as_batch`, one for all of them, with the last one's id and length.
    /// True if the driver must be notified.
    pub fn give_back(&mut self, chains: &[(Taken, u32)], as_batch: bool) -> bool {
        let mut notify = false;
        if as_batch {
            let Some((last, len_bytes)) = chains.last() else { return false };
            let slots = match self.layout {
                Layout::Split => chains.len() as u16,
                Layout::Packed => chains.iter().map(|(taken, _)| taken.count).sum(),
            };
            return self.write_used(last.id, *len_bytes, slots);
        }
        for (taken, len_bytes) in chains {
            let slots = if self.layout == Layout::Split { 1 } else { taken.count };
            notify |= self.write_used(taken.id, *len_bytes, slots);
        }
        notify
    }

    /// Writes one used entry and goes on by `slots`.
    pub fn write_used(&mut self, id: u16, len_bytes: u32, slots: u16) -> bool {
        let mut notify = false;
        if self.layout == Layout::Split {
            let gpa = self.at.device + 4 + 8 * u64::from(self.next_used % self.size);
            self.ram.write_u32(gpa, u32::from(id));
            self.ram.write_u32(gpa + 4, len_bytes);
            let used_event = self.u16(self.at.driver + 4 + 2 * u64::from(self.size));
            for _ in 0..slots {
                notify |= self.next_used == used_event;
                self.next_used = self.next_used.wrapping_add(1);
            }
            self.ram.write_u16(self.at.device + 2, self.next_used);
            return if self.event_idx { notify } else { self.u16(self.at.driver) == 0 };
        }
        let gpa = self.at.descriptor + 16 * u64::from(self.next_used);
        self.ram.write_u32(gpa + 8, if len_bytes > 0 { len_bytes } else { 0xdead });
        self.ram.write_u16(gpa + 12, id);
        let marks = if self.used_wrap { 1 << 7 | 1 << 15 } else { 0 };
        self.ram.write_u16(gpa + 14, marks | if len_bytes > 0 { 2 } else { 0 });
        let (event, flags) = (self.u16(self.at.driver), self.u16(self.at.driver + 2));
        for _ in 0..slots {
            notify |= event & 0x7fff == self.next_used && (event >> 15 == 1) == self.used_wrap;
            self.next_used += 1;
            if self.next_used == self.size {
                self.next_used = 0;
                self.used_wrap = !self.used_wrap;
            }
        }
        match flags {
            0 => true,
            1 => false,
            2 if self.event_idx => notify,
            _ => panic!("driver event flags {flags}"),
        }
    }

    /// Asks for no notifications, or (with event index) for one when position `offset`, `wrap` is made available,
    /// or (without) for all.
    pub fn ask(&mut self, event: Option<(u16, bool)>) {
        match (self.layout, event) {
            (Layout::Split, _) if !self.event_idx => {
                self.ram.write_u16(self.at.device, u16::from(event.is_none()));
            }
            (Layout::Split, _) => {
                let (idx, _) = event.unwrap_or((self.next_avail.wrapping_sub(1), true));
                self.ram.write_u16(self.at.device + 4 + 8 * u64::from(self.size), idx);
            }
            (Layout::Packed, None) => self.ram.write_u16(self.at.device + 2, 1),
            (Layout::Packed, Some(_)) if !self.event_idx => self.ram.write_u16(self.at.device + 2, 0),
            (Layout::Packed, Some((offset, wrap))) => {
                self.ram.write_u16(self.at.device, offset | u16::from(wrap) << 15);
                self.ram.write_u16(self.at.device + 2, 2);
            }
        }
    }

    /// The first position that it has not taken.
    pub fn next_available(&self) -> (u16, bool) {
        (self.next_avail, self.avail_wrap)
    }

    /// Whether it has asked to be notified when position `offset`, `wrap` is made available.
    pub fn asked_for(&self, offset: u16, wrap: bool) -> bool {
        match (self.layout, self.event_idx) {
            (Layout::Split, false) => self.u16(self.at.device) == 0,
            (Layout::Split, true) => self.u16(self.at.device + 4 + 8 * u64::from(self.size)) == offset,
            (Layout::Packed, _) => match self.u16(self.at.device + 2) {
                0 => true,
                1 => false,
                _ => self.u16(self.at.device) == offset | u16::from(wrap) << 15,
            },
        }
    }
}
