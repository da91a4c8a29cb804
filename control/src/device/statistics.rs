//! What a device counts, as its driver reads it. ("Device Statistics")

use virtnet_engine::QueueCountsOf;
use virtnet_engine::counters::DropReason;

use super::command_queue::Counts;
use super::controlq::Answer;

/// Types of statistics: bits of what is asked for, and the numbers of replies.
const RX_BASIC: u8 = 0;
const TX_BASIC: u8 = 16;
const CVQ: u8 = 32;
/// All that there are here.
pub const TYPES: u64 = 1 << RX_BASIC | 1 << TX_BASIC | 1 << CVQ;

/// Why a frame cannot be what its driver says it is.
const MALFORMED: [DropReason; 7] = [
    DropReason::MalformedHeader,
    DropReason::TooShort,
    DropReason::TooLong,
    DropReason::OutsideMemory,
    DropReason::WrongDirection,
    DropReason::TooManyParts,
    DropReason::OffloadRefused,
];

/// The statistics of these queues, of the types whose bits are set with them; none, where one of them is not there.
pub fn reply(asked: &[(u16, u64)], queues: &[QueueCountsOf], controlq: Option<usize>, commands: &Counts) -> Answer {
    let mut reply = Vec::new();
    for &(index, types) in asked {
        let (kind, values) = if controlq == Some(index.into()) {
            (CVQ, vec![commands.given, commands.done])
        } else {
            let queue = queues.iter().find(|queue| queue.queue_index == index)?;
            if index % 2 == 0 { (RX_BASIC, received(queue)) } else { (TX_BASIC, transmitted(queue)) }
        };
        if types & !(1 << kind) != 0 {
            return None;
        }
        if types != 0 {
            reply.extend([kind, 0]);
            reply.extend([index, 0, 8 + 8 * values.len() as u16].map(u16::to_le_bytes).concat());
            values.into_iter().for_each(|value| reply.extend(value.to_le_bytes()));
        }
    }
    Some(reply)
}

fn received(QueueCountsOf { counts, .. }: &QueueCountsOf) -> Vec<u64> {
    let overruns = counts.drops[DropReason::NoBuffers as usize];
    vec![counts.kicks, counts.packets, counts.bytes, counts.notifications_sent, counts.dropped(), overruns]
}

fn transmitted(QueueCountsOf { counts, .. }: &QueueCountsOf) -> Vec<u64> {
    let malformed = MALFORMED.iter().map(|reason| counts.drops[*reason as usize]).sum();
    vec![counts.kicks, counts.packets, counts.bytes, counts.notifications_sent, counts.dropped(), malformed]
}

#[cfg(test)]
mod tests {
    use virtnet_engine::counters::QueueCounts;

    use super::*;
    use crate::device::controlq::NO_COUNTS;

    #[test]
    fn each_queue_has_its_own_type() {
        let queue = |queue_index: u16| {
            let mut counts =
                QueueCounts { packets: 3, bytes: 180, kicks: 2, notifications_sent: 1, ..Default::default() };
            counts.drops[DropReason::NoBuffers as usize] = 5;
            counts.drops[DropReason::TooLong as usize] = 7;
            QueueCountsOf { queue_index, counts }
        };
        let queues = [queue(0), queue(1), queue(2)];
        let mut commands = NO_COUNTS;
        (commands.given, commands.done) = (9, 8);
        let ask = |asked: &[(u16, u64)]| reply(asked, &queues, Some(2), &commands);
        let words =
            |reply: Vec<u8>| -> Vec<u64> { reply.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)).collect() };
        let header = |kind: u64, index: u64, len_bytes: u64| kind | index << 16 | len_bytes << 48;
        let all = words(ask(&[(0, 1), (1, 1 << 16), (2, 1 << 32)]).unwrap());
        assert_eq!(all[..7], [header(0, 0, 56), 2, 3, 180, 1, 12, 5]);
        assert_eq!(all[7..14], [header(16, 1, 56), 2, 3, 180, 1, 12, 7]);
        assert_eq!(all[14..], [header(32, 2, 24), 9, 8], "which is no queue of the engine's");
        assert_eq!(ask(&[(0, 0)]), Some(vec![]));
        for (index, types) in [(0, 1 << 16), (0, 3), (1, 1), (2, 1), (3, 1), (u16::MAX, 1 << 32), (0, u64::MAX)] {
            assert_eq!(ask(&[(0, 1), (index, types)]), None, "{types:#x} of queue {index}");
        }
    }
}
