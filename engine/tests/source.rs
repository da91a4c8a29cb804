//! A source by itself: every number once and in order, whoever keeps its frames for how long, at whatever rate and count.

use std::collections::VecDeque;

use proptest::prelude::*;
use virtnet_engine::frame::Frame;
use virtnet_engine::port::source::{Source, SourceConfig};
use virtnet_engine::port::{Arrival, Copier, Port};

const STAMP_OFFSET: u16 = 20;

fn read(frame: &Frame) -> (u64, usize) {
    let mut bytes = [0; 128];
    let count = frame.parts.read(&mut bytes);
    let stamp = &bytes[usize::from(STAMP_OFFSET)..][..8];
    assert_eq!(count, frame.len_bytes as usize);
    (u64::from_le_bytes(stamp.try_into().unwrap()), count)
}

struct Reader(bool, Vec<(u64, usize)>);

impl Copier for Reader {
    fn copy(&mut self, frame: &Frame) -> bool {
        if self.0 {
            self.1.push(read(frame));
        }
        self.0
    }
}

fn source(templates: usize, count: Option<u64>, rate_fps: Option<f64>) -> Source {
    // Template by template as long as its place among them, from 40 bytes on.
    let templates = (0..templates).map(|at| vec![0; 40 + at % 60]).collect();
    Source::new(&SourceConfig { templates, stamp_offset: Some(STAMP_OFFSET), count, rate_fps }).unwrap()
}

proptest! {
    #[test]
    fn every_number_is_there_once_whatever_is_kept(
        templates in prop_oneof![1_usize..10, Just(63), Just(64), Just(65), Just(127), Just(128), Just(129), Just(300)],
        count in 0_u64..1500,
        turns in prop::collection::vec((any::<bool>(), 0_usize..300, 0_usize..300), 1..60),
    ) {
        let mut source = source(templates, Some(count), None);
        let mut kept: VecDeque<(Frame, u64)> = VecDeque::new();
        let mut next = 0;
        for (copies, receives, releases) in turns {
            // Whoever keeps some of them takes no copies before they are released.
            let mut reader = Reader(copies && kept.is_empty(), Vec::new());
            for _ in 0..source.arrived(0).min(receives) {
                match source.receive(0, &mut reader) {
                    Arrival::None => panic!("fewer than arrived"),
                    Arrival::Copied => {
                        prop_assert_eq!(reader.1.pop(), Some((next, 40 + next as usize % templates % 60)));
                    }
                    Arrival::Lent(frame) => kept.push_back((frame, next)),
                }
                next += 1;
            }
            for (frame, number) in &kept {
                prop_assert_eq!(read(frame), (*number, 40 + *number as usize % templates % 60));
            }
            kept.drain(..releases.min(kept.len())).for_each(|(mut frame, _)| source.release(&mut frame));
        }
        kept.drain(..).for_each(|(mut frame, _)| source.release(&mut frame));
        while source.arrived(0) > 0 {
            while let Arrival::Copied = source.receive(0, &mut Reader(true, Vec::new())) {
                next += 1;
            }
        }
        prop_assert_eq!((next, source.is_over()), (count, true));
    }
}

#[test]
fn any_rate_above_0_is_kept_for_ever() {
    for rate_fps in [f64::MIN_POSITIVE, 1e-9, 1.0, 1e9, 1e30, f64::MAX, f64::INFINITY] {
        let mut source = source(1, None, Some(rate_fps));
        let mut sent = 0;
        for now_ns in [0, 1, 1_000_000_000, u64::MAX / 2, u64::MAX] {
            let due = source.arrived(now_ns);
            assert!(due > 0 || sent as f64 > rate_fps * now_ns as f64 / 1e9 - 64.0, "{rate_fps} at {now_ns}");
            while let Arrival::Copied = source.receive(now_ns, &mut Reader(true, Vec::new())) {
                sent += 1;
            }
        }
    }
}
