//! Steering: which queue pair an arriving frame belongs to, so that one flow stays in order on one queue.
//!
//! The head of the frame is parsed for a flow's numbers, a Toeplitz hash of these numbers picks an entry of the
//! indirection table, the entry names the pair. Hash, key and order of the numbers are those of receive-side scaling
//! ("Receive-side scaling (RSS)", "Hash calculation for incoming packets"), so that a driver which programs them
//! later gets what it expects.
//!
//! All fragments of a datagram must travel together, and only the first knows its ports: fragments are hashed by
//! addresses alone. A frame that is not IP, or whose head is cut short before both addresses, has no hash and goes to
//! the first pair.
//!
//! Two rules go before the table, where they are asked for: a destination port whose frames the first pair gets, and flows
//! that follow their senders, each to the pair that has last sent something of it the other way.

use std::sync::{Arc, LazyLock};

use crate::sync::{AtomicU64, Ordering};

/// No more of a frame's head is looked at.
pub const HEAD_BYTES_MAX: usize = 128;
/// Length of a Toeplitz key.
pub const KEY_BYTES: usize = 40;
/// The key of the published RSS verification suite, for devices whose driver has set none.
pub const DEFAULT_KEY: [u8; KEY_BYTES] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0, 0xca, 0x2b,
    0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac,
    0x01, 0xfa,
];
/// Entries of the indirection table.
pub const INDIRECTION_ENTRIES: usize = 128;

/// Two IPv6 addresses and two ports.
const INPUT_BYTES_MAX: usize = 16 + 16 + 2 + 2;

pub(super) const ETHERTYPE_IPV4: u16 = 0x0800;
pub(super) const ETHERTYPE_IPV6: u16 = 0x86dd;
pub(super) const ETHERTYPE_VLAN: [u16; 3] = [0x8100, 0x88a8, 0x9100];
pub(super) const VLAN_TAGS_MAX: usize = 2;

pub(super) const IPPROTO_TCP: u8 = 6;
pub(super) const IPPROTO_UDP: u8 = 17;
pub(super) const IPPROTO_HOPOPTS: u8 = 0;
const IPPROTO_ROUTING: u8 = 43;
const IPPROTO_AH: u8 = 51;
pub(super) const IPPROTO_DSTOPTS: u8 = 60;
/// Behind these a flow's ports can be read.
const PASSABLE: [u8; 4] = [IPPROTO_HOPOPTS, IPPROTO_ROUTING, IPPROTO_AH, IPPROTO_DSTOPTS];
/// "IPv6 Extension Headers" allows each once and destination options twice.
const EXTENSIONS_MAX: usize = 7;

/// What kind of numbers were hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowKind {
    /// IPv4 addresses.
    Ipv4,
    /// IPv4 addresses and TCP ports.
    Tcpv4,
    /// IPv4 addresses and UDP ports.
    Udpv4,
    /// IPv6 addresses.
    Ipv6,
    /// IPv6 addresses and TCP ports.
    Tcpv6,
    /// IPv6 addresses and UDP ports.
    Udpv6,
}

/// The numbers that tell one flow from another, in network order: source, destination, source port, destination port.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    kind: FlowKind,
    bytes: [u8; INPUT_BYTES_MAX],
    len_bytes: usize,
}

impl Flow {
    /// Parses the head of a frame, from its destination MAC on. Bytes past [`HEAD_BYTES_MAX`] are not looked at.
    #[inline]
    pub fn parse(head: &[u8]) -> Option<Self> {
        let head = &head[..head.len().min(HEAD_BYTES_MAX)];
        let mut at = 12;
        let mut ethertype = be16(head, at)?;
        for _ in 0..VLAN_TAGS_MAX {
            if !ETHERTYPE_VLAN.contains(&ethertype) {
                break;
            }
            at += 4;
            ethertype = be16(head, at)?;
        }
        let packet = head.get(at + 2..)?;
        match ethertype {
            ETHERTYPE_IPV4 => Self::of_ipv4(packet),
            ETHERTYPE_IPV6 => Self::of_ipv6(packet),
            _ => None,
        }
    }

    /// What was found.
    pub fn kind(&self) -> FlowKind {
        self.kind
    }

    /// What is hashed.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len_bytes]
    }

    /// The same flow as seen from its other end.
    #[inline]
    pub fn reversed(&self) -> Self {
        let mut bytes = [0; INPUT_BYTES_MAX];
        let address_bytes = if self.len_bytes > 12 { 16 } else { 4 };
        let (addresses, ports) = self.bytes().split_at(2 * address_bytes);
        let turned = addresses[address_bytes..].iter().chain(&addresses[..address_bytes]);
        let turned = turned.chain(ports.iter().skip(2)).chain(ports.iter().take(2));
        bytes.iter_mut().zip(turned).for_each(|(place, byte)| *place = *byte);
        Self { bytes, ..*self }
    }

    /// The destination port, of TCP and UDP over IPv4.
    #[inline]
    pub fn ipv4_port(&self) -> Option<u16> {
        let has_port = matches!(self.kind, FlowKind::Tcpv4 | FlowKind::Udpv4);
        has_port.then(|| u16::from_be_bytes([self.bytes[10], self.bytes[11]]))
    }

    fn of_ipv4(packet: &[u8]) -> Option<Self> {
        let header: &[u8; 20] = packet.first_chunk()?;
        let header_bytes = usize::from(header[0] & 0xf) * 4;
        if header[0] >> 4 != 4 || header_bytes < 20 {
            return None;
        }
        let flow = Self::of_addresses(FlowKind::Ipv4, &header[12..20]);
        let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
        let ports = packet.get(header_bytes..).and_then(|segment| segment.first_chunk());
        Some(match (header[9], ports) {
            (IPPROTO_TCP, Some(ports)) if !fragment => flow.with_ports(FlowKind::Tcpv4, ports),
            (IPPROTO_UDP, Some(ports)) if !fragment => flow.with_ports(FlowKind::Udpv4, ports),
            _ => flow,
        })
    }

    fn of_ipv6(packet: &[u8]) -> Option<Self> {
        let header: &[u8; 40] = packet.first_chunk()?;
        if header[0] >> 4 != 6 {
            return None;
        }
        let flow = Self::of_addresses(FlowKind::Ipv6, &header[8..40]);
        let above = upper_layer(header[6], &packet[40..], &PASSABLE);
        let ports = above.and_then(|(_, at)| packet.get(40 + at..)?.first_chunk());
        Some(match (above, ports) {
            (Some((IPPROTO_TCP, _)), Some(ports)) => flow.with_ports(FlowKind::Tcpv6, ports),
            (Some((IPPROTO_UDP, _)), Some(ports)) => flow.with_ports(FlowKind::Udpv6, ports),
            _ => flow,
        })
    }

    #[inline]
    fn of_addresses(kind: FlowKind, addresses: &[u8]) -> Self {
        let mut bytes = [0; INPUT_BYTES_MAX];
        bytes[..addresses.len()].copy_from_slice(addresses);
        Self { kind, bytes, len_bytes: addresses.len() }
    }

    #[inline]
    fn with_ports(mut self, kind: FlowKind, ports: &[u8; 4]) -> Self {
        self.bytes[self.len_bytes..][..4].copy_from_slice(ports);
        Self { kind, len_bytes: self.len_bytes + 4, ..self }
    }
}

/// Passes over those IPv6 extension headers that are `passable`: the protocol above, and where it starts in `rest`.
/// `None` past the end of what there is and at any other header, that of a fragment among them.
pub(super) fn upper_layer(mut next: u8, rest: &[u8], passable: &[u8]) -> Option<(u8, usize)> {
    let mut at = 0;
    for _ in 0..=EXTENSIONS_MAX {
        if let IPPROTO_TCP | IPPROTO_UDP = next {
            return Some((next, at));
        }
        if !passable.contains(&next) {
            return None;
        }
        let &[following, len, ..] = rest.get(at..)? else { return None };
        // The two kinds of length leave out 8 bytes: one unit of eight, or two of four.
        at += 8 + usize::from(len) * if next == IPPROTO_AH { 4 } else { 8 };
        next = following;
    }
    None
}

#[inline]
pub(super) fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|&pair| u16::from_be_bytes(pair))
}

/// The hash under one key: for each place of the input, what each of a byte's 256 values contributes.
pub struct Toeplitz([[u32; 256]; INPUT_BYTES_MAX]);

impl Toeplitz {
    /// The tables of a key: 36 KiB, of which an IPv4 flow touches at most a third.
    pub fn new(key: &[u8; KEY_BYTES]) -> Box<Self> {
        let mut tables = Box::new(Self([[0; 256]; INPUT_BYTES_MAX]));
        for (at, table) in tables.0.iter_mut().enumerate() {
            // The five key bytes that the eight bits of this input byte slide over.
            let window = key[at..at + 5].iter().fold(0u64, |window, &byte| window << 8 | u64::from(byte));
            for (value, contribution) in table.iter_mut().enumerate() {
                let bits = (0..8).filter(|bit| value >> (7 - bit) & 1 == 1);
                *contribution = bits.fold(0, |sum, bit| sum ^ (window >> (8 - bit)) as u32);
            }
        }
        tables
    }

    /// The hash of `input`; bytes past the 36th are not looked at.
    #[inline]
    pub fn hash(&self, input: &[u8]) -> u32 {
        self.0.iter().zip(input).fold(0, |sum, (table, &byte)| sum ^ table[usize::from(byte)])
    }
}

/// A hash of both MAC addresses.
fn station_hash(head: &[u8]) -> u32 {
    // The golden ratio's fraction: every bit of the product's upper half depends on all below it.
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let stations = head.first_chunk::<12>().map_or(0, |bytes| {
        let [low, high] = [0, 6].map(|at| bytes[at..at + 6].iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte)));
        low.wrapping_mul(ODD).rotate_left(32) ^ high
    });
    (stations.wrapping_mul(ODD) >> 32) as u32
}

/// The tables of [`DEFAULT_KEY`], made once and shared by all devices.
static DEFAULT: LazyLock<Arc<Toeplitz>> = LazyLock::new(|| Arc::from(Toeplitz::new(&DEFAULT_KEY)));

/// How many flows' senders are known at a time; a power of two.
const FLOWS: usize = 4096;

/// The pairs that flows were last sent by. All workers read and write it, each entry by itself: of two flows in one place the last
/// counts.
pub struct FlowTable(Box<[AtomicU64]>);

impl FlowTable {
    /// No flow is known.
    pub fn new() -> Self {
        Self((0..FLOWS).map(|_| AtomicU64::new(0)).collect())
    }

    /// Remembers who sends what arrives with this hash.
    #[inline]
    fn learn(&self, hash: u32, pair: u16) {
        let (place, known) = (self.place(hash), Self::entry(hash, pair));
        // A line that says so already stays with all who read it.
        if place.load(Ordering::Relaxed) != known {
            place.store(known, Ordering::Relaxed);
        }
    }

    #[inline]
    fn pair(&self, hash: u32) -> Option<u16> {
        let known = self.place(hash).load(Ordering::Relaxed);
        let pair = (known as u16).wrapping_sub(1);
        (known == Self::entry(hash, pair)).then_some(pair)
    }

    fn place(&self, hash: u32) -> &AtomicU64 {
        &self.0[hash as usize % FLOWS]
    }

    /// Hash and pair; never 0.
    fn entry(hash: u32, pair: u16) -> u64 {
        u64::from(hash) << 32 | (u64::from(pair) + 1)
    }
}

impl Default for FlowTable {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for FlowTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FlowTable").finish_non_exhaustive()
    }
}

/// What goes before the hash.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// TCP and UDP over IPv4 to this port go to the first pair.
    pub ipv4_port: Option<u16>,
    /// Flows follow their senders.
    pub senders: Option<Arc<FlowTable>>,
}

/// A device's way of spreading frames over its pairs.
#[derive(Clone)]
pub struct Steering {
    toeplitz: Arc<Toeplitz>,
    indirection: Box<[u16; INDIRECTION_ENTRIES]>,
    /// Mostly there are none, which is one look a frame.
    rules: Option<Box<Rules>>,
    /// Both MAC addresses count, too.
    by_station: bool,
}

impl Steering {
    /// Spreads over pairs `0..pairs` evenly, under the default key. No pairs count as one.
    pub fn over(pairs: u16) -> Self {
        let pairs = pairs.max(1);
        let entry = |n| (n % usize::from(pairs)) as u16;
        Self {
            toeplitz: DEFAULT.clone(),
            indirection: Box::new(std::array::from_fn(entry)),
            rules: None,
            by_station: false,
        }
    }

    /// The same for members of a bond: frames that belong to no flow are spread as well, by their MAC addresses, which count for
    /// the others, too.
    pub fn over_members(members: u16) -> Self {
        Self { by_station: true, ..Self::over(members) }
    }

    /// Spreads as a driver has it, by its own key and table. Whoever parsed the command has checked that the entries
    /// name pairs.
    pub fn by(key: &[u8; KEY_BYTES], indirection: [u16; INDIRECTION_ENTRIES]) -> Self {
        Self { toeplitz: Toeplitz::new(key).into(), indirection: Box::new(indirection), rules: None, by_station: false }
    }

    /// The same with rules before the hash.
    pub fn with(self, rules: Rules) -> Self {
        let has_some = rules.ipv4_port.is_some() || rules.senders.is_some();
        Self { rules: has_some.then(|| rules.into()), ..self }
    }

    /// The pair for a frame, by its first bytes from the destination MAC on.
    #[inline]
    pub fn pair(&self, head: &[u8]) -> u16 {
        if self.by_station {
            return self.member(head);
        }
        let Some(flow) = Flow::parse(head) else { return self.indirection[0] };
        let hash = self.toeplitz.hash(flow.bytes());
        let ruled = self.rules.as_ref().and_then(|rules| rules.pair(&flow, hash));
        ruled.unwrap_or(self.indirection[hash as usize % INDIRECTION_ENTRIES])
    }

    /// Whether flows follow their senders.
    #[inline]
    pub fn follows(&self) -> bool {
        self.rules.as_ref().is_some_and(|rules| rules.senders.is_some())
    }

    /// A pair has sent a frame that begins so: what comes back is its.
    #[inline]
    pub fn sent_by(&self, pair: u16, head: &[u8]) {
        if let Some(senders) = self.rules.as_ref().and_then(|rules| rules.senders.as_ref())
            && let Some(flow) = Flow::parse(head)
        {
            senders.learn(self.toeplitz.hash(flow.reversed().bytes()), pair);
        }
    }

    fn member(&self, head: &[u8]) -> u16 {
        let hash = self.hash(head).unwrap_or(0) ^ station_hash(head);
        self.indirection[hash as usize % INDIRECTION_ENTRIES]
    }

    /// The frame's hash, if it belongs to a flow.
    #[inline]
    pub fn hash(&self, head: &[u8]) -> Option<u32> {
        Flow::parse(head).map(|flow| self.toeplitz.hash(flow.bytes()))
    }
}

impl Rules {
    #[inline(never)]
    fn pair(&self, flow: &Flow, hash: u32) -> Option<u16> {
        if self.ipv4_port.is_some() && self.ipv4_port == flow.ipv4_port() {
            return Some(0);
        }
        self.senders.as_ref()?.pair(hash)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition: for each bit set in the input, the 32 key bits from that place on.
    fn hash_bit_by_bit(key: &[u8; KEY_BYTES], input: &[u8]) -> u32 {
        let key_bit = |n: usize| u32::from(key[n / 8] >> (7 - n % 8) & 1);
        let set = (0..input.len() * 8).filter(|n| input[n / 8] >> (7 - n % 8) & 1 == 1);
        set.fold(0, |sum, n| sum ^ (0..32).fold(0, |word, k| word << 1 | key_bit(n + k)))
    }

    fn ethernet(tags: &[[u8; 4]], ethertype: u16, packet: &[u8]) -> Vec<u8> {
        [&[2; 12], tags.concat().as_slice(), &ethertype.to_be_bytes(), packet].concat()
    }

    fn ipv4(
        source: [u8; 4],
        destination: [u8; 4],
        options: usize,
        fragment: u16,
        protocol: u8,
        payload: &[u8],
    ) -> Vec<u8> {
        let len = (20 + options + payload.len()) as u16;
        let [l0, l1] = len.to_be_bytes();
        let [f0, f1] = fragment.to_be_bytes();
        let start = [0x40 | (5 + options / 4) as u8, 0, l0, l1, 0, 0, f0, f1, 64, protocol, 0, 0];
        ethernet(&[], 0x0800, &[&start, &source[..], &destination, &vec![1; options], payload].concat())
    }

    fn ipv6(source: [u16; 8], destination: [u16; 8], next: u8, payload: &[u8]) -> Vec<u8> {
        let bytes = |address: [u16; 8]| address.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<u8>>();
        let [l0, l1] = (payload.len() as u16).to_be_bytes();
        let packet = [&[0x60, 0, 0, 0, l0, l1, next, 64], &bytes(source)[..], &bytes(destination), payload].concat();
        ethernet(&[], 0x86dd, &packet)
    }

    fn ports(source: u16, destination: u16) -> Vec<u8> {
        [source.to_be_bytes(), destination.to_be_bytes(), [0; 2], [0; 2]].concat()
    }

    /// "Verifying the RSS Hash Calculation": source, destination, hash of addresses, hash with TCP ports.
    #[test]
    fn the_published_ipv4_vectors_come_out() {
        let vectors = [
            ([66, 9, 149, 187], 2794, [161, 142, 100, 80], 1766, 0x323e_8fc2, 0x51cc_c178),
            ([199, 92, 111, 2], 14230, [65, 69, 140, 83], 4739, 0xd718_262a, 0xc626_b0ea),
            ([24, 19, 198, 95], 12898, [12, 22, 207, 184], 38024, 0xd2d0_a5de, 0x5c2b_394a),
            ([38, 27, 205, 30], 48228, [209, 142, 163, 6], 2217, 0x8298_9176, 0xafc7_327f),
            ([153, 39, 163, 191], 44251, [202, 188, 127, 2], 1303, 0x5d18_09c5, 0x10e8_28a2),
        ];
        let steering = Steering::over(8);
        for (source, source_port, destination, destination_port, by_address, with_ports) in vectors {
            let ports = ports(source_port, destination_port);
            assert_eq!(steering.hash(&ipv4(source, destination, 0, 0, 1, &ports)), Some(by_address));
            assert_eq!(steering.hash(&ipv4(source, destination, 0, 0, 6, &ports)), Some(with_ports));
            assert_eq!(steering.hash(&ipv4(source, destination, 12, 0x4000, 17, &ports)), Some(with_ports));
        }
    }

    #[test]
    fn the_published_ipv6_vectors_come_out() {
        let vectors = [
            (
                [0x3ffe, 0x2501, 0x200, 0x1fff, 0, 0, 0, 7],
                2794,
                [0x3ffe, 0x2501, 0x200, 3, 0, 0, 0, 1],
                1766,
                0x2cc1_8cd5,
                0x4020_7d3d,
            ),
            (
                [0x3ffe, 0x501, 8, 0, 0x260, 0x97ff, 0xfe40, 0xefab],
                14230,
                [0xff02, 0, 0, 0, 0, 0, 0, 1],
                4739,
                0x0f0c_461c,
                0xdde5_1bbf,
            ),
            (
                [0x3ffe, 0x1900, 0x4545, 3, 0x200, 0xf8ff, 0xfe21, 0x67cf],
                44251,
                [0xfe80, 0, 0, 0, 0x200, 0xf8ff, 0xfe21, 0x67cf],
                38024,
                0x4b61_e985,
                0x02d1_feef,
            ),
        ];
        let steering = Steering::over(8);
        for (source, source_port, destination, destination_port, by_address, with_ports) in vectors {
            let ports = ports(source_port, destination_port);
            assert_eq!(steering.hash(&ipv6(source, destination, 58, &ports)), Some(by_address));
            assert_eq!(steering.hash(&ipv6(source, destination, 6, &ports)), Some(with_ports));
            // Behind hop-by-hop options of 16 bytes and an authentication header of 12.
            let extended = [&[51, 1], &[0; 14][..], &[17, 1], &[0; 10], &ports].concat();
            assert_eq!(steering.hash(&ipv6(source, destination, 0, &extended)), Some(with_ports));
        }
    }

    #[test]
    fn all_fragments_of_a_datagram_go_one_way() {
        let steering = Steering::over(64);
        let ports = ports(53, 40_000);
        let [first, middle, last] =
            [0x2000, 0x20b9, 0x0172].map(|f| ipv4([10, 0, 0, 1], [10, 0, 0, 2], 0, f, 17, &ports));
        assert_eq!(Flow::parse(&first).unwrap().kind(), FlowKind::Ipv4);
        assert_eq!(steering.hash(&first), steering.hash(&middle));
        assert_eq!(steering.hash(&first), steering.hash(&last));
        let fragment = [&[17, 0, 0, 1, 0, 0, 0, 9][..], &ports].concat();
        assert_eq!(Flow::parse(&ipv6([1; 8], [2; 8], 44, &fragment)).unwrap().kind(), FlowKind::Ipv6);
    }

    #[test]
    fn vlan_tags_are_passed_over() {
        let untagged = ipv4([10, 0, 0, 1], [10, 0, 0, 2], 0, 0, 17, &ports(53, 40_000));
        let hash = Steering::over(4).hash(&untagged);
        assert!(hash.is_some());
        for tags in [&[[0x81, 0, 0, 5]][..], &[[0x88, 0xa8, 0, 9], [0x81, 0, 0x20, 5]]] {
            assert_eq!(Steering::over(4).hash(&ethernet(tags, 0x0800, &untagged[14..])), hash);
        }
        let three = ethernet(&[[0x81, 0, 0, 5]; 3], 0x0800, &untagged[14..]);
        assert_eq!(Steering::over(4).hash(&three), None);
    }

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

    #[test]
    fn a_drivers_own_table_is_followed() {
        let steering = Steering::by(&DEFAULT_KEY, std::array::from_fn(|n| n as u16 + 100));
        let frame = ipv4([66, 9, 149, 187], [161, 142, 100, 80], 0, 0, 6, &ports(2794, 1766));
        assert_eq!(steering.pair(&frame), 100 + 0x51cc_c178u32 as u16 % 128);
        assert_eq!(steering.pair(&[0; 60]), 100);
    }

    #[test]
    fn every_cut_of_a_frame_is_met() {
        let options = [&[60, 0], &[0; 6][..], &[17, 1], &[0; 14], &ports(1, 2)].concat();
        for frame in [ipv4([1; 4], [2; 4], 8, 0, 6, &ports(1, 2)), ipv6([1; 8], [2; 8], 0, &options)] {
            let whole = Flow::parse(&frame).unwrap();
            for cut in 0..frame.len() {
                if let Some(flow) = Flow::parse(&frame[..cut]) {
                    assert!(whole.bytes().starts_with(flow.bytes()));
                }
            }
        }
    }

    proptest! {
        #[test]
        fn the_tables_agree_with_the_definition(key: [u8; KEY_BYTES], input in prop::collection::vec(any::<u8>(), 0..=36)) {
            prop_assert_eq!(Toeplitz::new(&key).hash(&input), hash_bit_by_bit(&key, &input));
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
    }

    #[test]
    fn frames_to_a_port_of_ipv4_go_to_the_first_pair() {
        let rules = Rules { ipv4_port: Some(0x50), senders: None };
        let steering = Steering::by(&DEFAULT_KEY, [3; _]).with(rules);
        let to =
            |protocol, fragment, port| steering.pair(&ipv4([1; 4], [2; 4], 8, fragment, protocol, &ports(9, port)));
        assert_eq!([to(6, 0, 80), to(17, 0x4000, 80)], [0, 0]);
        assert_eq!([to(6, 0, 81), to(1, 0, 80), to(17, 0x2000, 80)], [3, 3, 3], "another port, none, a fragment");
        assert_eq!(steering.pair(&ipv6([1; 8], [2; 8], 6, &ports(9, 80))), 3);
        assert_eq!(steering.pair(&ports(80, 80)), 3, "no frame at all");
    }

    #[test]
    fn flows_follow_their_senders() {
        let senders = Some(Arc::default());
        let steering = Steering::by(&DEFAULT_KEY, [7; _]).with(Rules { ipv4_port: Some(53), senders });
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
}
