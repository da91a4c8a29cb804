//! A guest with one card that remembers what it sent and checks all that it hears.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};
use virtnet_rings::guest::net::{Nic, NicOptions};
use virtnet_rings::guest::{Driver, Ram};
use virtnet_rings::memory::GuestMemory;
use virtnet_rings::spec::net::{VIRTIO_NET_F_HASH_REPORT, VIRTIO_NET_F_MRG_RXBUF};
use virtnet_rings::spec::virtq::{VIRTIO_F_EVENT_IDX, VIRTIO_F_IN_ORDER, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_VERSION_1};
use virtnet_rings::{Notifier, Queue, QueueSetup};

use crate::frames::{self, Heard, Mac};

/// Guest physical address of a guest's memory.
pub const RAM_GPA: u64 = 0x10_0000;

/// Where frames come from that no guest here has made: those of `rings::guest::mischief`.
pub const STRANGER: Mac = [2, 0, 0, 0, 0xba, 0xd2];

/// What has been heard from one station on one address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// How many frames.
    pub count: u64,
    /// The number that the next one has if nothing is lost.
    pub next: u64,
    /// How many numbers were passed over.
    pub missed: u64,
}

/// A guest with one card.
#[derive(Debug)]
pub struct Guest {
    /// Its card.
    pub nic: Nic,
    /// Its address.
    pub mac: Mac,
    /// Its memory as the device sees it.
    pub memory: Arc<GuestMemory>,
    /// The features it accepted.
    pub features: u64,
    /// By sender and address.
    pub heard: BTreeMap<(Mac, Mac), Record>,
    /// Frames from [`STRANGER`] and from whom it distrusts, as they came.
    pub strange: Vec<Vec<u8>>,
    /// Guests that may send anything: while there are any, a frame may be nonsense.
    pub distrusted: BTreeSet<Mac>,
    /// Frames sent, by address.
    sent: BTreeMap<Mac, u64>,
    /// Where it kicks, by queue index; a guest without leaves the device to poll.
    kicks: Option<[OwnedFd; 2]>,
    buffer: Vec<u8>,
}

impl Guest {
    /// A guest with 8 MiB of memory.
    pub fn new(station: u16, options: NicOptions) -> Self {
        Self::with_memory(station, options, 8 << 20)
    }

    /// A guest with `ram_bytes` of memory.
    pub fn with_memory(station: u16, options: NicOptions, ram_bytes: usize) -> Self {
        let ram = Arc::new(Ram::new(ram_bytes, RAM_GPA).expect("memory for a guest"));
        let memory = memory_of(&ram);
        let features = features_of(&options);
        let nic = Nic::new(&ram, options).expect("a card");
        let mac = frames::mac(station);
        let (heard, strange, distrusted, sent) = Default::default();
        Guest { nic, mac, memory, features, heard, strange, distrusted, sent, kicks: None, buffer: Vec::new() }
    }

    /// The same guest, with kicks.
    pub fn with_kicks(mut self) -> Self {
        // Blocking, as a front end may make them.
        self.kicks = Some([(); 2].map(|()| eventfd(0, EventfdFlags::CLOEXEC).expect("an eventfd")));
        self
    }

    /// Kicks where the device wants it.
    pub fn kick(&mut self) {
        let Some(kicks) = &self.kicks else { return };
        for (driver, kick) in [&mut self.nic.receiveq, &mut self.nic.transmitq].into_iter().zip(kicks) {
            if driver.needs_kick() {
                rustix::io::write(kick, &1u64.to_ne_bytes()).expect("there is room for more kicks");
            }
        }
    }

    /// Kicks whether the device wants it or not.
    pub fn kick_anyway(&self) {
        for kick in self.kicks.iter().flatten() {
            rustix::io::write(kick, &1u64.to_ne_bytes()).expect("there is room for more kicks");
        }
    }

    /// The device's side of one of its queues, from `base` on.
    pub fn queue(&self, driver: &Driver, base: u32) -> Queue {
        self.queue_with(driver, base, Notifier::default())
    }

    /// As `queue`, with a kick.
    pub fn queue_with(&self, driver: &Driver, base: u32, kick: Notifier) -> Queue {
        let setup = QueueSetup { base, kick, ..driver.setup(self.features) };
        setup.activate(self.memory.clone()).expect("an honest queue")
    }

    /// Its queue by index: 0 is the receiveq, 1 the transmitq.
    pub fn queue_at(&self, index: u16, base: u32) -> Queue {
        let driver = if index == 0 { &self.nic.receiveq } else { &self.nic.transmitq };
        let kick = self.kicks.as_ref().map(|kicks| kicks[usize::from(index)].try_clone().expect("a descriptor"));
        self.queue_with(driver, base, Notifier::new(kick))
    }

    /// The base of a ring that nobody has used yet.
    pub fn fresh_base(&self) -> u32 {
        self.nic.receiveq.setup(self.features).base
    }

    /// Sends up to `count` frames of these lengths by number; returns how many there was room for.
    pub fn send(&mut self, to: Mac, count: u64, len_bytes: impl Fn(u64) -> usize) -> u64 {
        let number = self.sent.entry(to).or_default();
        let first = *number;
        while *number < first + count {
            let frame = frames::frame(to, self.mac, *number, len_bytes(*number));
            if !self.nic.send(&frame).expect("the device keeps to the rules") {
                break;
            }
            *number += 1;
        }
        *number - first
    }

    /// How many frames it has sent to an address.
    pub fn sent_to(&self, to: Mac) -> u64 {
        self.sent.get(&to).copied().unwrap_or_default()
    }

    /// Takes in all that has arrived: each frame whole, and no number before an earlier one. Returns how many they were.
    pub fn listen(&mut self) -> u64 {
        let mut count = 0;
        let mut bytes = std::mem::take(&mut self.buffer);
        while self.nic.receive(&mut bytes).expect("the device keeps to the rules") {
            count += 1;
            if bytes.get(6..12) == Some(&STRANGER) {
                self.strange.push(bytes.clone());
                continue;
            }
            let Heard { to, from, number } = match frames::check(&bytes) {
                Ok(heard) if !self.distrusted.contains(&heard.from) => heard,
                Err(wrong) if self.distrusted.is_empty() => panic!("{wrong}"),
                _ => {
                    self.strange.push(bytes.clone());
                    continue;
                }
            };
            let record = self.heard.entry((from, to)).or_default();
            assert!(number >= record.next, "frame {number} from {from:x?} after {}", record.next);
            record.missed += number - record.next;
            record.next = number + 1;
            record.count += 1;
        }
        self.buffer = bytes;
        count
    }

    /// What it has heard from a station on its own address.
    pub fn heard_from(&self, from: Mac) -> Record {
        self.heard.get(&(from, self.mac)).copied().unwrap_or_default()
    }

    /// Takes back what the device has finished with; tells how many frames it still has.
    pub fn unreaped(&mut self) -> usize {
        self.nic.reap().expect("the device keeps to the rules");
        self.nic.unreaped()
    }
}

/// The device's view of a guest's memory.
pub fn memory_of(ram: &Ram) -> Arc<GuestMemory> {
    ram.guest_memory().expect("one region")
}

/// The feature bits that a card's options stand for.
pub fn features_of(options: &NicOptions) -> u64 {
    let queue = options.queue;
    let bits = [
        (queue.event_idx, VIRTIO_F_EVENT_IDX),
        (queue.in_order, VIRTIO_F_IN_ORDER),
        (queue.indirect, VIRTIO_F_INDIRECT_DESC),
        (options.mergeable, VIRTIO_NET_F_MRG_RXBUF),
        (options.hash_report, VIRTIO_NET_F_HASH_REPORT),
        (!options.legacy, VIRTIO_F_VERSION_1),
    ];
    bits.iter().filter(|(on, _)| *on).map(|(_, bit)| 1 << bit).sum()
}
