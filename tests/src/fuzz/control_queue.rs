//! A driver's commands, of any content and in chains of any shape: each is answered, with no more bytes than it has room for; what is
//! kept of them is what its device has.

use std::sync::Arc;

use virtnet_control::device::controlq::{Command, ControlQueue, NO_COUNTS};
use virtnet_control::device::orders::Orders;
use virtnet_control::device::statistics;
use virtnet_engine::QueueCountsOf;
use virtnet_engine::counters::QueueCounts;
use virtnet_engine::frame::hash;
use virtnet_rings::Layout;
use virtnet_rings::guest::{Buffer, Completed, Driver, Options, Ram};

use super::Input;

const GPA: u64 = 0x10_0000;
const PAIRS: u16 = 3;

/// Commands that make sense at the beginning: class, command.
const HEADS: [u16; 16] = [
    0x0000, 0x0005, 0x0100, 0x0101, 0x0200, 0x0201, 0x0300, 0x0400, 0x0401, 0x0402, 0x0500, 0x0601, 0x0602, 0x0603,
    0x0800, 0x0801,
];

/// A control queue, from its first command to its last.
pub fn control_queue(bytes: &[u8]) {
    let mut input = Input(bytes);
    let ram = Arc::new(Ram::new(1 << 20, GPA).expect("a little memory"));
    let layout = if input.u8() % 2 == 0 { Layout::Split } else { Layout::Packed };
    let mut driver = Driver::new(&ram, layout, 64, Options::default()).expect("a queue");
    let memory = ram.guest_memory().expect("its memory");
    let queue = driver.setup(1 << 32).activate(memory).expect("a queue that is good");
    let mut controlq = ControlQueue::new(queue);
    let buffers = ram.alloc(0x8000, 64).expect("room for commands");
    // Some accept everything, some little.
    let features = if input.u8() % 4 == 0 { input.u64() } else { u64::MAX };
    let (mut orders, mut counts) = (Orders::default(), NO_COUNTS);
    let queues: Vec<_> =
        (0..2 * PAIRS).map(|queue_index| QueueCountsOf { queue_index, counts: QueueCounts::default() }).collect();
    let mut offered = 0;
    while !input.is_empty() {
        let head = HEADS[usize::from(input.u8()) % HEADS.len()];
        let mut command = if input.u8() % 8 == 0 { Vec::new() } else { head.to_be_bytes().to_vec() };
        let count = usize::from(input.u8());
        command.extend(input.bytes(count));
        if input.u8() % 32 == 0 {
            command.resize(4000 + usize::from(input.u8()), 0);
        }
        ram.write(buffers, &command);
        let cut = u32::from(input.u8()).min(command.len() as u32);
        let room = [0, 1, 9, u32::from(input.u8()), 0x4000][usize::from(input.u8() % 5)];
        let parts = [
            Buffer::readable(buffers, cut),
            Buffer::readable(buffers + u64::from(cut), command.len() as u32 - cut),
            Buffer::writable(buffers + 0x2000, room.min(1)),
            Buffer::writable(buffers + 0x2001, room.saturating_sub(1)),
        ];
        let parts: Vec<_> = parts.into_iter().filter(|part| part.len_bytes > 0).collect();
        if parts.is_empty() || driver.offer(&parts, room).is_err() {
            continue;
        }
        offered += 1;
        driver.publish();
        let served = controlq.serve(&mut counts, |command, counts| {
            if !orders.obey(command.clone(), features, PAIRS, hash::TYPES) {
                return None;
            }
            match command {
                Command::GetStatistics(asked) => {
                    statistics::reply(&asked, &queues, Some(usize::from(2 * PAIRS)), counts)
                }
                _ => Some(Vec::new()),
            }
        });
        served.expect("the ring itself is good");
        let mut done = [Completed::default(); 1];
        assert_eq!(driver.collect(&mut done), Ok(1), "every command is answered");
        assert!(done[0].len_bytes <= room, "{} bytes were written to {room}", done[0].len_bytes);
        assert_eq!(done[0].len_bytes == 0, room == 0, "whoever has room hears what became of it");
        assert!(orders.pairs.is_none_or(|pairs| (1..=PAIRS).contains(&pairs)));
        let table = orders.scaling.iter().flat_map(|scaling| scaling.indirection.iter().chain([&scaling.unclassified]));
        assert!(table.copied().all(|pair| Some(pair) < orders.pairs));
    }
    assert_eq!(counts.given, offered);
    assert_eq!(counts.done + counts.refused().map(|(_, count)| count).sum::<u64>(), offered);
}
