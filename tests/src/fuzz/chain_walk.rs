//! Descriptors and rings of any content, on either layout, changed at any moment: what the device takes lies inside guest
//! memory and inside the queue's limits, and all of it can be given back.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use virtnet_rings::guest::Ram;
use virtnet_rings::memory::{GuestMemory, RegionSpec};
use virtnet_rings::{Chain, Layout, Notifier, PARTS_MAX, PartStore, Queue, QueueAddresses, QueueSetup, Virtqueue};

use super::Input;

/// Two regions that touch as the guest counts, and need not where they are mapped.
const REGION_BYTES: u64 = 32 << 10;
const GPA: u64 = 0x1_0000;
const LISTS: usize = 8;

/// Where the areas are: each in any of a few places, tables over the seam between the regions among them.
const PLACES: [u64; 6] = [0, 0x1000, 0x4000, 0x7000, 0x8000, 0xc000];

fn memory(ram: &Ram) -> std::sync::Arc<GuestMemory> {
    let region = |index: u64| RegionSpec {
        gpa: GPA + index * REGION_BYTES,
        len_bytes: REGION_BYTES,
        frontend_address: index * REGION_BYTES,
        fd: ram.fd().try_clone_to_owned().expect("a file descriptor"),
        offset_bytes: index * REGION_BYTES,
    };
    GuestMemory::new(vec![region(0), region(1)]).expect("two regions side by side")
}

fn queue(input: &mut Input, ram: &Ram) -> Option<Queue> {
    let choice = input.u8();
    let layout = if choice & 1 == 0 { Layout::Split } else { Layout::Packed };
    let size = match layout {
        Layout::Split => 1 << (input.u8() % 9),
        Layout::Packed => 1 + input.u16() % 300,
    };
    let area = |place: u8| GPA + PLACES[usize::from(place) % PLACES.len()];
    let setup = QueueSetup {
        layout,
        size,
        addresses: QueueAddresses {
            descriptor_area: area(input.u8()),
            driver_area: area(input.u8()) + 0x800,
            device_area: area(input.u8()) + 0xc00,
        },
        base: input.u16().into(),
        // Indirect tables, event indices, in-order use, in any mixture.
        features: (1 << 32 | u64::from(choice & 0x0e) << 27) | u64::from(choice & 0x10) << 31,
        call: Notifier::default(),
        kick: Notifier::default(),
        log: None,
    };
    setup.activate(memory(ram)).ok()
}

/// What a chain promises, whatever the driver wrote.
fn check(chain: &Chain, queue: &Queue) {
    assert!(chain.descriptors >= 1 && chain.descriptors <= queue.size());
    assert!(chain.id < queue.size());
    assert!(chain.parts.count() <= PARTS_MAX && chain.parts.readable() <= chain.parts.count());
    for part in chain.parts.iter() {
        assert!(!part.is_empty());
        let gpa = queue.memory().gpa_of(part).expect("a part lies in guest memory");
        let end = gpa + u64::from(part.len_bytes());
        assert!(gpa >= GPA && end <= GPA + 2 * REGION_BYTES, "a part of {} bytes at {gpa:#x}", part.len_bytes());
    }
}

/// A queue over memory that the input fills, taken from and returned to as the input says.
pub fn chain_walk(bytes: &[u8]) {
    let mut input = Input(bytes);
    let ram = Ram::new(2 * REGION_BYTES as usize, GPA).expect("a little memory");
    let Some(mut queue) = queue(&mut input, &ram) else { return };
    let mut store = PartStore::new(LISTS);
    let mut held = VecDeque::new();
    let mut broken = false;
    while !input.is_empty() {
        match input.u8() % 8 {
            0..3 => {
                let at = u64::from(input.u16()) % (2 * REGION_BYTES - 256);
                let count = usize::from(input.u8());
                ram.write(GPA + at, input.bytes(count));
            }
            // A descriptor or an index where one is read, so that not all is nonsense.
            3 => {
                let at = (GPA + u64::from(input.u16()) % 0xffc0) & !1;
                ram.store_u16(at, u16::from(input.u8()), Ordering::Release);
            }
            4 | 5 if !broken => {
                let room = usize::from(input.u8() % 70);
                let before = held.len();
                let (taken, violation) = queue.take_list(room, &mut store);
                assert!(taken.len() <= room);
                taken.iter().for_each(|chain| check(chain, &queue));
                held.extend(taken);
                broken = violation.is_some();
                assert!(queue.outstanding() as usize >= held.len() && queue.outstanding() <= u32::from(queue.size()));
                assert!(held.len() >= before);
            }
            6 => {
                let count = usize::from(input.u8()).min(held.len());
                let written = u32::from(input.u16());
                let mut used = Vec::new();
                for mut chain in held.drain(..count) {
                    for part in chain.parts.iter().skip(chain.parts.readable()) {
                        part.write(&[0x5a; 64]);
                    }
                    used.push(chain.used(written));
                    store.give_back(chain.parts.take_list());
                }
                queue.return_used(&used);
                queue.wants_notification();
            }
            7 => {
                queue.arm();
                queue.disarm();
            }
            _ => {}
        }
    }
    for mut chain in held {
        queue.put_back(&chain);
        store.give_back(chain.parts.take_list());
    }
    assert_eq!((queue.outstanding(), store.available()), (0, LISTS), "something was not given back");
}
