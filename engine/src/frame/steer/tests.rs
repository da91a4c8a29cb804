use super::*;
use crate::frame::flow::FlowKind;
use crate::frame::hash::DEFAULT_KEY;
use crate::frame::sample::*;
use proptest::prelude::*;

#[test]
fn flows_spread_evenly() {
    for pairs in [1, 2, 3, 8] {
        let steering = Steering::over(pairs);
        let mut frames = vec![0; usize::from(pairs)];
        for n in 0..8192u16 {
            frames[usize::from(steering.pair(&ipv4([10, 0, 0, 1], [10, 0, 0, 2], 0, 0, 6, &ports(n, 80))))] += 1;
        }
        let even = 8192 / i32::from(pairs);
        assert!(frames.iter().all(|&count: &i32| (count - even).abs() < even / 5), "{pairs} pairs: {frames:?}");
    }
}

#[test]
fn members_of_a_bond_share_flows_and_stations_alike() {
    let bond = Steering::over_members(2);
    let stations = |n: u16, frame: &mut Vec<u8>| frame[10..12].copy_from_slice(&n.to_be_bytes());
    let other = |n: u16| {
        let mut frame = ethernet(&[], 0x88cc, &[0; 46]);
        stations(n, &mut frame);
        frame
    };
    let same_flow = |n: u16| {
        let mut frame = ipv4([10, 0, 0, 1], [10, 0, 0, 2], 0, 0, 6, &ports(1, 80));
        stations(n, &mut frame);
        frame
    };
    let flow = |n: u16| ipv4([10, 0, 0, 1], [10, 0, 0, 2], 0, 0, 17, &ports(n, 80));
    for frame in [&flow as &dyn Fn(u16) -> Vec<u8>, &same_flow, &other] {
        let first = (0..4096).filter(|&n| bond.pair(&frame(n)) == 0).count();
        assert!((1700..2400).contains(&first), "{first} of 4096");
        assert!((0..4096).all(|n| bond.pair(&frame(n)) == bond.pair(&frame(n))));
    }
    let fragments = [0x2000, 0x20b9, 0x0172].map(|f| ipv4([10, 0, 0, 1], [10, 0, 0, 2], 0, f, 17, &ports(f, f)));
    assert!(fragments.iter().all(|fragment| bond.pair(fragment) == bond.pair(&fragments[0])));
}

fn scaled(table: &[u16], unclassified: u16) -> Steering {
    Steering::by(&Scaling { hasher: Hasher::default(), indirection: table.into(), unclassified })
}

#[test]
fn a_drivers_own_table_is_followed() {
    let frame = ipv4([66, 9, 149, 187], [161, 142, 100, 80], 0, 0, 6, &ports(2794, 1766));
    for entries in (0..=7).map(|power| 1 << power) {
        let table: Vec<u16> = (100..100 + entries).collect();
        assert_eq!(scaled(&table, 7).pair(&frame), 100 + 0x51cc_c178u32 as u16 % entries);
        assert_eq!(scaled(&table, 7).pair(&[0; 60]), 7, "no flow");
    }
    let hasher = Hasher::new(&DEFAULT_KEY, FlowKind::Udpv4.bit());
    let steering = Steering::by(&Scaling { hasher, indirection: [1].into(), unclassified: 7 });
    assert_eq!(steering.pair(&frame), 7, "no hash");
}

#[test]
fn frames_to_a_port_of_ipv4_go_to_the_first_pair() {
    let rules = Rules { ipv4_port: Some(0x50), senders: None };
    let steering = scaled(&[3], 3).with(rules);
    let to = |protocol, fragment, port| steering.pair(&ipv4([1; 4], [2; 4], 8, fragment, protocol, &ports(9, port)));
    assert_eq!([to(6, 0, 80), to(17, 0x4000, 80)], [0, 0]);
    assert_eq!([to(6, 0, 81), to(1, 0, 80), to(17, 0x2000, 80)], [3, 3, 3], "another port, none, a fragment");
    assert_eq!(steering.pair(&ipv6([1; 8], [2; 8], 6, &ports(9, 80))), 3);
    assert_eq!(steering.pair(&ports(80, 80)), 3, "no frame at all");
}

#[test]
fn flows_follow_their_senders() {
    let senders = Some(Arc::default());
    let steering = scaled(&[7], 7).with(Rules { ipv4_port: Some(53), senders });
    let (one, other) = ([10, 0, 0, 1], [10, 0, 0, 2]);
    let out = ipv4(one, other, 0, 0, 6, &ports(4000, 80));
    let back = ipv4(other, one, 0, 0, 6, &ports(80, 4000));
    assert_eq!(steering.pair(&back), 7, "nothing was sent");
    for pair in [2, 0, 5] {
        steering.sent_by(pair, &out);
        assert_eq!(steering.pair(&back), pair);
    }
    assert_eq!(steering.pair(&out), 7, "what goes the same way is another flow");
    steering.sent_by(4, &ipv6([1; 8], [2; 8], 17, &ports(1, 2)));
    assert_eq!(steering.pair(&ipv6([2; 8], [1; 8], 17, &ports(2, 1))), 4);
    assert_eq!(steering.pair(&ipv6([2; 8], [1; 8], 17, &ports(2, 3))), 7);
    steering.sent_by(1, &ipv4(one, other, 0, 0, 17, &ports(53, 5)));
    assert_eq!(steering.pair(&ipv4(other, one, 0, 0, 17, &ports(5, 53))), 0, "the port goes before");
    steering.sent_by(1, &out[..20]);
}

proptest! {
    #[test]
    fn only_pairs_of_the_table_are_hit(
        table in (0..=7u32).prop_flat_map(|power| prop::collection::vec(any::<u16>(), 1 << power)),
        unclassified: u16,
        types in 0..=crate::frame::hash::TYPES,
        key: [u8; 40],
        (protocol, source, port) in (prop::sample::select(vec![1u8, 6, 17]), any::<[u8; 4]>(), any::<u16>()),
    ) {
        let hasher = Hasher::new(&key, types);
        let steering = Steering::by(&Scaling { hasher: hasher.clone(), indirection: table.clone().into(), unclassified });
        let frame = ipv4(source, [2; 4], 0, 0, protocol, &ports(port, 80));
        let pair = steering.pair(&frame);
        prop_assert_eq!(pair, steering.pair(&frame));
        let hash = hasher.hash(&Flow::parse(&frame).unwrap());
        let expected = hash.map_or(unclassified, |hash| table[hash.value as usize & (table.len() - 1)]);
        prop_assert_eq!(pair, expected);
    }

    #[test]
    fn no_head_is_too_strange(mut head in prop::collection::vec(any::<u8>(), 0..200), start in 0..4usize) {
        let starts: [&[u8]; 4] = [&[8, 0, 0x45], &[0x86, 0xdd, 0x60], &[0x81, 0, 0, 1, 8, 0, 0x4f], &[0x88, 0xa8, 0, 1, 0x86, 0xdd, 0x60]];
        if head.len() > 20 {
            head[12..12 + starts[start].len()].copy_from_slice(starts[start]);
        }
        let pair = Steering::over(3).pair(&head);
        prop_assert!(pair < 3);
    }

    #[test]
    fn a_flow_table_knows_whom_it_was_told_last(told in prop::collection::vec((any::<u32>(), 0..128u16), 1..200)) {
        let table = FlowTable::new();
        let mut known = std::collections::BTreeMap::new();
        for (hash, pair) in told {
            table.learn(hash, pair);
            known.insert(hash as usize % FLOWS, (hash, pair));
        }
        for (hash, pair) in known.into_values() {
            prop_assert_eq!(table.pair(hash), Some(pair));
            prop_assert_eq!(table.pair(hash ^ 1 << 31), None);
        }
        prop_assert_eq!(FlowTable::new().pair(0), None);
    }
}
