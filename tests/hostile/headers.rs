//! Net headers of any content before frames of any length, cut into descriptors anywhere: what comes of each is told by a model that
//! sees one row of bytes, and each is in exactly one counter.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::TestRunner;
use virtnet_engine::counters::{DropReason, QueueCounts};
use virtnet_engine::frame::FRAME_LEN_MIN;
use virtnet_engine::frame::offload::{self, Segments, Work, complete_checksum};
use virtnet_rings::Layout;
use virtnet_rings::guest::net::NicOptions;
use virtnet_rings::guest::{Buffer, Completed, Options};
use virtnet_rings::spec::net::*;
use virtnet_tests::{Device, Guest, House};

const CASES: u32 = 3;
const SENDER: [u64; 5] = [
    0,
    1 << VIRTIO_NET_F_CSUM,
    1 << VIRTIO_NET_F_HOST_TSO4,
    1 << VIRTIO_NET_F_HOST_ECN,
    1 << VIRTIO_NET_F_CSUM | 1 << VIRTIO_NET_F_HOST_TSO4 | 1 << VIRTIO_NET_F_HOST_USO,
];
const RECEIVER: [u64; 3] =
    [0, 1 << VIRTIO_NET_F_GUEST_CSUM, 1 << VIRTIO_NET_F_GUEST_CSUM | 1 << VIRTIO_NET_F_GUEST_TSO4];

/// What a guest sends.
#[derive(Clone, Debug)]
struct Sent {
    header: [u8; NET_HEADER_SIZE_BYTES],
    frame: Vec<u8>,
    /// How much of both is sent: not always all.
    len_bytes: usize,
    cuts: Vec<usize>,
}

/// Header fields that make sense now and then.
fn header() -> impl Strategy<Value = [u8; NET_HEADER_SIZE_BYTES]> {
    let fields = (
        select(vec![0, 1, 1, 1, 2, 3, 0xfe, 0xff]),
        select(vec![0, 0, 1, 1, 3, 4, 5, 0x80, 0x81, 0xff]),
        select(vec![0, 54, u16::MAX]),
        select(vec![0, 20, 100, 536, 1448, u16::MAX]),
        select(vec![34, 34, 34, 0, u16::MAX]),
        select(vec![16, 16, 16, 6, u16::MAX]),
        any::<u16>(),
    );
    let sane = fields.prop_map(|(flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, num_buffers)| {
        NetHeader { flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, num_buffers }.to_bytes()
    });
    prop_oneof![4 => sane, 1 => any::<[u8; NET_HEADER_SIZE_BYTES]>()]
}

/// TCP over IPv4, or near it.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let changed = vec((12..80_usize, any::<u8>()), 0..3);
    (0..1400_usize, any::<u8>(), changed, any::<bool>()).prop_map(|(payload, seed, changed, change)| {
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
        frame.extend([0x45, 0, 0, 0, 0x11, 0x22, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend([0x10, 0, 0x20, 0, 0xff, 0xff, 0xff, 0xf0, 0, 0, 0, 1, 0x50, 0x19, 1, 0, 0, 0, 0, 0]);
        frame.extend((0..payload).map(|at| (at as u8).wrapping_mul(13) ^ seed));
        for (at, byte) in changed.into_iter().filter(|_| change) {
            frame.get_mut(at).into_iter().for_each(|place| *place = byte);
        }
        frame
    })
}

fn sent() -> impl Strategy<Value = Sent> {
    let shorter = prop_oneof![4 => Just(usize::MAX), 1 => 1..40_usize, 1 => 1..1500_usize];
    (header(), frame(), shorter, vec(1..60_usize, 0..5)).prop_map(|(header, frame, len_bytes, cuts)| {
        let len_bytes = len_bytes.min(NET_HEADER_SIZE_BYTES + frame.len());
        Sent { header, frame, len_bytes, cuts }
    })
}

impl Sent {
    /// What the receiver gets, each with its header, the number of buffers left out.
    fn outcome(&self, features: u64, receiver: u64) -> Result<Vec<(NetHeader, Vec<u8>)>, DropReason> {
        let len_bytes = self.len_bytes.checked_sub(net_header_size_bytes(features)).ok_or(DropReason::TooShort)?;
        let len_bytes = len_bytes.min(self.frame.len());
        let mut frame = self.frame[..len_bytes].to_vec();
        if len_bytes < FRAME_LEN_MIN as usize {
            return Err(DropReason::TooShort);
        }
        let asked = NetHeader::from_bytes(self.header);
        if features & offload::FROM_GUEST == 0 {
            return Ok(vec![(NetHeader::default(), frame)]);
        }
        let head = &frame[..len_bytes.min(offload::HEAD_BYTES_MAX)];
        let header = offload::check(&asked, features, head, len_bytes as u32).map_err(offload::Refusal::reason)?;
        if header == NetHeader::default() {
            return Ok(vec![(header, frame)]);
        }
        Ok(match Work::for_receiver(header.gso_type, receiver) {
            Work::Nothing => vec![(header, frame)],
            Work::Checksum => {
                complete_checksum(&mut frame, &header).expect("checked");
                vec![(NetHeader::default(), frame)]
            }
            Work::Segments => {
                let mut segments = Segments::of(&frame, &header).expect("checked");
                let mut piece = vec![0; segments.len_bytes_max()];
                std::iter::from_fn(|| {
                    let len_bytes = segments.next_into(&mut piece)?;
                    Some((NetHeader::default(), piece[..len_bytes].to_vec()))
                })
                .collect()
            }
        })
    }
}

struct Street {
    house: House,
    sender: Guest,
    receiver: Guest,
    devices: [Device; 2],
    buffer_gpa: u64,
}

impl Street {
    fn new(options: NicOptions, [sends, receives]: [u64; 2]) -> Self {
        let cut = NicOptions { receive_buffers: 0, mergeable: false, ..options.clone() };
        let mut sender = Guest::with_memory(1, cut, 2 << 20);
        let mut receiver = Guest::with_memory(2, options, 2 << 20);
        sender.features |= sends;
        receiver.features |= receives;
        let mut house = House::new(1);
        let devices = [house.move_in(0, &sender), house.move_in(0, &receiver)];
        let buffer_gpa = sender.nic.ram().alloc(2048, 64).unwrap();
        Street { house, sender, receiver, devices, buffer_gpa }
    }

    fn counts(&self) -> [QueueCounts; 2] {
        [self.devices[0].counts(1), self.devices[1].counts(0)]
    }

    /// Sends one, and compares what comes of it with what should.
    fn send(&mut self, sent: &Sent) {
        let header = &sent.header[..net_header_size_bytes(self.sender.features)];
        let mut bytes = [header, &sent.frame].concat();
        bytes.truncate(sent.len_bytes);
        let nic = &mut self.sender.nic;
        nic.ram().write(self.buffer_gpa, &bytes);
        let (mut chain, mut at) = (vec![], 0);
        for cut in sent.cuts.iter().copied().chain([usize::MAX]) {
            let len_bytes = cut.min(bytes.len() - at);
            if len_bytes > 0 {
                chain.push(Buffer::readable(self.buffer_gpa + at as u64, len_bytes as u32));
            }
            at += len_bytes;
        }
        match nic.options().queue.indirect && chain.len() > 1 {
            true => nic.transmitq.offer_indirect(&chain, 7).unwrap(),
            false => nic.transmitq.offer(&chain, 7).unwrap(),
        }
        nic.transmitq.publish();
        let base = self.counts();
        self.house.turns(3);
        let mut done = [Completed::default(); 2];
        assert_eq!((self.sender.nic.transmitq.collect(&mut done), done[0].token), (Ok(1), 7));

        let outcome = sent.outcome(self.sender.features, self.receiver.features);
        let mut frame = vec![];
        for (header, expected) in outcome.iter().flatten() {
            assert!(self.receiver.nic.receive(&mut frame).unwrap(), "nothing came");
            assert_eq!(&frame, expected);
            let found = NetHeader::from_bytes(self.receiver.nic.header().to_bytes());
            let counts_buffers = net_header_size_bytes(self.receiver.features) == NET_HEADER_SIZE_BYTES;
            assert_eq!(found.num_buffers >= 1, counts_buffers);
            assert_eq!(NetHeader { num_buffers: 0, ..found }, *header);
        }
        assert!(!self.receiver.nic.receive(&mut frame).unwrap(), "more came");
        let [transmit, receive] = self.counts();
        let [transmit, receive] = [transmit.since(&base[0]), receive.since(&base[1])];
        let came = outcome.as_ref().map_or(0, Vec::len) as u64;
        assert_eq!((receive.packets, receive.dropped()), (came, 0), "{receive:?}");
        assert_eq!((transmit.packets, transmit.dropped()), (outcome.is_ok().into(), outcome.is_err().into()));
        let reason = outcome.map_or_else(|reason| transmit.drops[reason as usize], |_| 1);
        assert_eq!((reason, transmit.completed), (1, 1), "{transmit:?}");
    }
}

#[test]
fn whatever_is_in_a_header_and_however_it_is_cut_one_thing_comes_of_it_and_is_counted() {
    // Packed rings and buffers used in order are nothing that a legacy driver knows.
    let options = (0..64_usize).filter(|bits| bits & 32 == 0 || bits & (1 | 8) == 0).map(|bits| {
        let [packed, mergeable, indirect, in_order, event_idx, legacy] =
            [1, 2, 4, 8, 16, 32].map(|bit| bits & bit != 0);
        NicOptions {
            legacy,
            layout: if packed { Layout::Packed } else { Layout::Split },
            size: if packed { 103 } else { 128 },
            queue: Options { indirect, in_order, event_idx, tight: false },
            mergeable,
            frame_bytes_max: if mergeable { 500 } else { 1522 },
            ..NicOptions::default()
        }
    });
    for options in options {
        for features in SENDER.into_iter().flat_map(|sends| RECEIVER.map(|receives| [sends, receives])) {
            let config = ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() };
            let run = TestRunner::new(config).run(&vec(sent(), 1..4), |frames| {
                let mut street = Street::new(options.clone(), features);
                frames.iter().for_each(|sent| street.send(sent));
                Ok(())
            });
            if let Err(error) = run {
                panic!("{options:?}, {features:#x?}: {error}");
            }
        }
    }
}
