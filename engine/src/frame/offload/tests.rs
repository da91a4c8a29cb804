use super::*;
use proptest::prelude::*;

/// A packet as its fields, from which bytes are made the slow way.
#[derive(Clone, Debug)]
struct Packet {
    tags: usize,
    is_ipv4: bool,
    is_tcp: bool,
    /// IPv4 options or an IPv6 destination options header: units of 4 or 8 bytes.
    ip_extra: usize,
    tcp_options: usize,
    id: u16,
    sequence: u32,
    flags: u8,
    payload: Vec<u8>,
}

impl Packet {
    fn ip_at(&self) -> usize {
        14 + 4 * self.tags
    }

    fn above_at(&self) -> usize {
        self.ip_at() + if self.is_ipv4 { 20 + 4 * self.ip_extra } else { 40 + 8 * self.ip_extra }
    }

    fn above_bytes(&self) -> usize {
        if self.is_tcp { 20 + 4 * self.tcp_options } else { 8 }
    }

    fn checksum_at(&self) -> usize {
        self.above_at() + if self.is_tcp { 16 } else { 6 }
    }

    fn pseudo_header(&self, above_bytes: usize) -> Vec<u8> {
        let addresses = if self.is_ipv4 { vec![10, 0, 0, 1, 10, 0, 0, 2] } else { [[0xfd; 16], [0xfe; 16]].concat() };
        let protocol = if self.is_tcp { 6 } else { 17 };
        [&addresses[..], &(above_bytes as u32).to_be_bytes(), &[0, 0, 0, protocol]].concat()
    }

    /// The frame with its checksums: complete, or the transport's as a driver leaves it.
    fn bytes(&self, complete: bool) -> Vec<u8> {
        let protocol = if self.is_tcp { 6 } else { 17 };
        let above_bytes = self.above_bytes() + self.payload.len();
        let mut frame = vec![2; 12];
        (0..self.tags).for_each(|tag| frame.extend([0x81, 0x00, 0, tag as u8 + 1]));
        if self.is_ipv4 {
            let total = (20 + 4 * self.ip_extra + above_bytes) as u16;
            let mut ip = vec![0x45 + self.ip_extra as u8, 0];
            ip.extend([total, self.id, 0x4000].iter().flat_map(|word| word.to_be_bytes()));
            ip.extend([64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
            ip.extend(vec![1; 4 * self.ip_extra]);
            let checksum = slow_checksum(&ip);
            ip[10..12].copy_from_slice(&checksum.to_be_bytes());
            frame.extend([8, 0]);
            frame.extend(ip);
        } else {
            let payload_length = (8 * self.ip_extra + above_bytes) as u16;
            let next = if self.ip_extra > 0 { 60 } else { protocol };
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(payload_length.to_be_bytes());
            frame.extend([next, 64]);
            frame.extend([[0xfd; 16], [0xfe; 16]].concat());
            if self.ip_extra > 0 {
                frame.extend([protocol, self.ip_extra as u8 - 1, 1, 4, 0, 0, 0, 0]);
                frame.extend(vec![0; 8 * (self.ip_extra - 1)]);
            }
        }
        let mut above = vec![0x12, 0x34, 0x56, 0x78];
        if self.is_tcp {
            above.extend(self.sequence.to_be_bytes());
            above.extend([9, 8, 7, 6, ((5 + self.tcp_options) << 4) as u8, self.flags, 1, 1, 0, 0, 0, 0]);
            above.extend(vec![1; 4 * self.tcp_options]);
        } else {
            above.extend((above_bytes as u16).to_be_bytes());
            above.extend([0, 0]);
        }
        above.extend(&self.payload);
        let pseudo = self.pseudo_header(above_bytes);
        let field = self.checksum_at() - self.above_at();
        let checksum = match slow_checksum(&[&pseudo[..], &above].concat()) {
            _ if !complete => !slow_checksum(&pseudo),
            0 => 0xffff,
            checksum => checksum,
        };
        above[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
        frame.extend(above);
        frame
    }

    fn header(&self, gso_size: u16) -> NetHeader {
        let gso_type = match (self.is_tcp, self.is_ipv4) {
            (true, true) => 1,
            (true, false) => 4,
            (false, _) => 5,
        };
        NetHeader {
            flags: 1,
            gso_type,
            hdr_len: 0,
            gso_size,
            csum_start: self.above_at() as u16,
            csum_offset: (self.checksum_at() - self.above_at()) as u16,
            num_buffers: 0,
        }
    }
}

/// "Computing the Internet Checksum", one word at a time.
fn slow_checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn packet(payload_max: usize) -> impl Strategy<Value = Packet> {
    let shape = (0..=2usize, any::<bool>(), any::<bool>(), 0..=4usize, 0..=10usize);
    let numbers = (any::<u16>(), any::<u32>(), any::<u8>());
    // Long payloads repeat a short pattern: what is drawn stays small.
    let payload = (0..=payload_max, prop::collection::vec(any::<u8>(), 1..40))
        .prop_map(|(len, pattern)| pattern.iter().copied().cycle().take(len).collect());
    (shape, numbers, payload).prop_map(
        |((tags, is_ipv4, is_tcp, ip_extra, tcp_options), (id, sequence, flags), payload)| Packet {
            tags,
            is_ipv4,
            is_tcp,
            ip_extra,
            tcp_options,
            id,
            sequence,
            flags,
            payload,
        },
    )
}

fn checked(frame: &[u8], header: &NetHeader, features: u64) -> Result<NetHeader, Refusal> {
    check(header, features, &frame[..frame.len().min(HEAD_BYTES_MAX)], frame.len() as u32)
}

fn tcp4(payload: usize) -> Packet {
    Packet {
        tags: 0,
        is_ipv4: true,
        is_tcp: true,
        ip_extra: 0,
        tcp_options: 0,
        id: 0xffff,
        sequence: u32::MAX - 5,
        flags: 0xff,
        payload: vec![7; payload],
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn pieces_are_what_a_stack_would_have_sent(packet in packet(65_000), gso_size in 1..9000u16, ecn: bool) {
        let gso_size = gso_size.max((packet.payload.len() / 1000) as u16);
        let frame = packet.bytes(false);
        let mut asked = packet.header(gso_size);
        asked.hdr_len = frame.len().min(60) as u16;
        if ecn && packet.is_tcp {
            asked.gso_type |= 0x80;
        }
        let header = checked(&frame, &asked, FROM_GUEST).unwrap();
        let headers_bytes = packet.above_at() + packet.above_bytes();
        prop_assert_eq!(header, NetHeader { hdr_len: headers_bytes as u16, ..asked });

        let mut segments = Segments::of(&frame, &header).unwrap();
        let mut to = vec![0xee; segments.len_bytes_max()];
        let pieces: Vec<&[u8]> = if packet.payload.is_empty() { vec![&[]] } else { packet.payload.chunks(gso_size.into()).collect() };
        for (n, piece) in pieces.iter().enumerate() {
            let mut flags = packet.flags;
            if n + 1 < pieces.len() {
                flags &= !0x09;
            }
            if n > 0 {
                flags &= !0x80;
            }
            let expected = Packet {
                id: packet.id.wrapping_add(n as u16),
                sequence: packet.sequence.wrapping_add(n as u32 * u32::from(gso_size)),
                flags,
                payload: piece.to_vec(),
                ..packet.clone()
            };
            let len = segments.next_into(&mut to).expect("there are more");
            prop_assert_eq!(&to[..len], &expected.bytes(true)[..], "piece {}", n);
        }
        prop_assert_eq!(segments.next_into(&mut to), None);
        prop_assert_eq!(segments.next_into(&mut to), None);
    }

    #[test]
    fn a_partial_checksum_is_completed(packet in packet(3000)) {
        let mut frame = packet.bytes(false);
        let asked = NetHeader { gso_type: 0, gso_size: 0, ..packet.header(0) };
        let header = checked(&frame, &asked, FROM_GUEST).unwrap();
        prop_assert_eq!(header, asked);
        complete_checksum(&mut frame, &header).unwrap();
        prop_assert_eq!(frame, packet.bytes(true));
    }

    #[test]
    fn no_header_and_no_frame_is_too_strange(
        raw: [u8; 12], features: u64, mut frame in prop::collection::vec(any::<u8>(), 14..400),
        sane in any::<Option<(u8, u16, bool)>>(),
    ) {
        let mut header = NetHeader::from_bytes(raw);
        if let Some((gso_type, gso_size, v4)) = sane {
            // Near enough to the real thing to get past the first checks.
            let packet = Packet { is_ipv4: v4, payload: frame.clone(), ..tcp4(0) };
            let strange = frame.clone();
            frame = packet.bytes(false);
            for (at, byte) in strange.iter().enumerate().filter(|(at, _)| at % 29 == 3) {
                let at = (at * usize::from(*byte)) % frame.len();
                frame[at] = *byte;
            }
            header = NetHeader { gso_type: [1, 4, 5, 0x81, 0][usize::from(gso_type) % 5], gso_size: gso_size % 300, ..packet.header(0) };
        }
        let verdict = checked(&frame, &header, features | FROM_GUEST);
        let mut copy = frame.clone();
        prop_assert_eq!(complete_checksum(&mut copy, &header).is_ok(),
            check_checksum(header.csum_start, header.csum_offset, frame.len() as u32).is_ok());
        let segments = Segments::of(&frame, &header);
        if let Ok(good) = verdict && good.gso_type != 0 {
            prop_assert!(segments.is_ok());
        }
        if let Ok(mut segments) = segments {
            let mut to = vec![0; segments.len_bytes_max()];
            let mut payload = 0;
            while let Some(len) = segments.next_into(&mut to) {
                prop_assert!(len <= to.len());
                payload += len - segments.layers.payload_at;
            }
            prop_assert_eq!(payload, frame.len() - segments.layers.payload_at);
        }
    }

    #[test]
    fn sums_agree(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert_eq!((!fold(sum(&bytes))).to_ne_bytes(), slow_checksum(&bytes).to_be_bytes());
    }
}

#[test]
fn a_sum_of_the_largest_frame_does_not_overflow() {
    assert_eq!(fold(sum(&[0xff; 65_558])), 0xffff);
}

#[test]
fn what_was_not_negotiated_is_refused() {
    let packet = tcp4(3000);
    let frame = packet.bytes(false);
    let header = packet.header(1000);
    let plain = NetHeader { gso_type: 0, ..header };
    let ecn = NetHeader { gso_type: 0x81, ..header };
    let without = |bit: u32| FROM_GUEST & !(1 << bit);
    assert_eq!(checked(&frame, &plain, without(VIRTIO_NET_F_CSUM)), Err(Refusal::NotNegotiated));
    assert_eq!(checked(&frame, &header, without(VIRTIO_NET_F_CSUM)), Err(Refusal::NotNegotiated));
    assert_eq!(checked(&frame, &header, without(VIRTIO_NET_F_HOST_TSO4)), Err(Refusal::NotNegotiated));
    assert_eq!(checked(&frame, &ecn, without(VIRTIO_NET_F_HOST_ECN)), Err(Refusal::NotNegotiated));
    assert_eq!(checked(&frame, &NetHeader { gso_type: 3, ..header }, u64::MAX), Err(Refusal::NotNegotiated));
    assert_eq!(Refusal::NotNegotiated.reason(), DropReason::OffloadRefused);
    assert!(checked(&frame, &ecn, FROM_GUEST).is_ok());
}

#[test]
fn what_contradicts_itself_is_refused() {
    let packet = tcp4(3000);
    let frame = packet.bytes(false);
    let good = packet.header(1000);
    let len_bytes = frame.len() as u32;
    let cases = [
        (NetHeader { gso_type: 7, ..good }, Refusal::GsoType { found: 7 }),
        (NetHeader { gso_type: 0x80, ..good }, Refusal::GsoType { found: 0x80 }),
        (NetHeader { flags: 0, ..good }, Refusal::SegmentsWithoutChecksum),
        (NetHeader { gso_size: 0, ..good }, Refusal::GsoSize { found: 0, payload_bytes: 3000 }),
        (NetHeader { gso_size: 2, ..good }, Refusal::GsoSize { found: 2, payload_bytes: 3000 }),
        (NetHeader { hdr_len: 4000, ..good }, Refusal::HdrLen { found: 4000, len_bytes }),
        (NetHeader { csum_start: 3053, ..good }, Refusal::ChecksumOutside { start: 3053, offset: 16, len_bytes }),
        (NetHeader { csum_start: 13, ..good }, Refusal::ChecksumOutside { start: 13, offset: 16, len_bytes }),
        (
            NetHeader { csum_offset: 0xffff, csum_start: 0xffff, ..good },
            Refusal::ChecksumOutside { start: 0xffff, offset: 0xffff, len_bytes },
        ),
        (NetHeader { csum_start: 36, ..good }, Refusal::Headers { gso_type: 1 }),
        (NetHeader { csum_offset: 6, ..good }, Refusal::Headers { gso_type: 1 }),
        (NetHeader { gso_type: 4, ..good }, Refusal::Headers { gso_type: 4 }),
        (NetHeader { gso_type: 5, ..good }, Refusal::Headers { gso_type: 5 }),
    ];
    for (header, refusal) in cases {
        assert_eq!(checked(&frame, &header, FROM_GUEST), Err(refusal));
        assert_eq!(refusal.reason(), DropReason::MalformedHeader);
    }
    let fragment = {
        let mut frame = frame.clone();
        frame[20] = 0x20;
        frame
    };
    assert_eq!(checked(&fragment, &good, FROM_GUEST), Err(Refusal::Headers { gso_type: 1 }));
    let short_tcp = {
        let mut frame = frame.clone();
        frame[46] = 0x40;
        frame
    };
    assert_eq!(checked(&short_tcp, &good, FROM_GUEST), Err(Refusal::Headers { gso_type: 1 }));
    assert!(Segments::of(&short_tcp, &good).is_err());
}

#[test]
fn only_what_was_asked_for_goes_on() {
    let packet = tcp4(100);
    let frame = packet.bytes(false);
    let noisy = NetHeader { flags: 0xff, gso_type: 0, hdr_len: 7, gso_size: 9, num_buffers: 3, ..packet.header(0) };
    let clean = NetHeader { flags: 1, gso_type: 0, hdr_len: 0, gso_size: 0, num_buffers: 0, ..noisy };
    assert_eq!(checked(&frame, &noisy, FROM_GUEST), Ok(clean));
    // That the checksum was verified is not for a driver to say.
    assert_eq!(checked(&frame, &NetHeader { flags: 2, ..noisy }, FROM_GUEST), Ok(NetHeader::default()));
}

#[test]
fn each_receiver_gets_what_it_can_take() {
    let bits = |bits: &[u32]| bits.iter().fold(0, |all, bit| all | 1u64 << bit);
    let checksum = NetHeader { gso_type: 0, ..tcp4(0).header(0) };
    let tso4 = tcp4(0).header(1000);
    let tso6 = NetHeader { gso_type: 4, ..tso4 };
    let uso = NetHeader { gso_type: 5, ..tso4 };
    let ecn = NetHeader { gso_type: 0x81, ..tso4 };
    let (csum, ts4, ts6) = (VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6);
    for (header, features, work) in [
        (checksum, 0, Work::Checksum),
        (checksum, bits(&[csum]), Work::Nothing),
        (tso4, bits(&[csum]), Work::Segments),
        (tso4, bits(&[ts4]), Work::Segments),
        (tso4, bits(&[csum, ts4]), Work::Nothing),
        (tso6, bits(&[csum, ts4]), Work::Segments),
        (tso6, bits(&[csum, ts6]), Work::Nothing),
        (ecn, bits(&[csum, ts4]), Work::Segments),
        (ecn, bits(&[csum, ts4, VIRTIO_NET_F_GUEST_ECN]), Work::Nothing),
        (uso, bits(&[csum, ts4, ts6]), Work::Segments),
        (uso, bits(&[csum, VIRTIO_NET_F_GUEST_USO4, VIRTIO_NET_F_GUEST_USO6]), Work::Nothing),
    ] {
        assert_eq!(Work::for_receiver(header.gso_type, features), work, "{header:?} for {features:#x}");
    }
}
