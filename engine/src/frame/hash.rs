//! The Toeplitz hash of a flow. ("Hash calculation for incoming packets")
//!
//! Types for IPv6 packets with extension headers are not known: such a packet is hashed as one without, by the ports behind those
//! headers where they can be read.

use std::sync::{Arc, LazyLock};

use virtnet_rings::spec::net::VIRTIO_NET_HASH_REPORT_NONE;

use super::flow::{Flow, FlowKind, INPUT_BYTES_MAX};

/// Length of a key; a shorter one goes on with zeroes.
pub const KEY_BYTES: usize = 40;
/// Hash types that there are, of IPv4 and IPv6 each: addresses, with TCP ports, with UDP ports.
pub const TYPES: u32 = FlowKind::Ipv4.bit()
    | FlowKind::Tcpv4.bit()
    | FlowKind::Udpv4.bit()
    | FlowKind::Ipv6.bit()
    | FlowKind::Tcpv6.bit()
    | FlowKind::Udpv6.bit();
/// The key of the published RSS verification suite, for devices whose driver has set none.
pub const DEFAULT_KEY: [u8; KEY_BYTES] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0, 0xca, 0x2b,
    0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac,
    0x01, 0xfa,
];

/// The hash under one key: for each place of the input, what each of a byte's 256 values contributes.
struct Toeplitz {
    key: [u8; KEY_BYTES],
    tables: [[u32; 256]; INPUT_BYTES_MAX],
}

impl Toeplitz {
    /// The tables of a key: 36 KiB, of which an IPv4 flow touches at most a third.
    fn new(key: &[u8; KEY_BYTES]) -> Box<Self> {
        let mut toeplitz = Box::new(Self { key: *key, tables: [[0; 256]; INPUT_BYTES_MAX] });
        for (at, table) in toeplitz.tables.iter_mut().enumerate() {
            // The five key bytes that the eight bits of this input byte slide over.
            let window = key[at..at + 5].iter().fold(0u64, |window, &byte| window << 8 | u64::from(byte));
            for value in 1..table.len() {
                let last = value.trailing_zeros();
                table[value] = table[value & (value - 1)] ^ (window >> (last + 1)) as u32;
            }
        }
        toeplitz
    }

    #[inline]
    fn hash(&self, input: &[u8]) -> u32 {
        self.tables.iter().zip(input).fold(0, |sum, (table, &byte)| sum ^ table[usize::from(byte)])
    }
}

/// A flow's hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hash {
    /// Its value.
    pub value: u32,
    /// What it is of.
    pub kind: FlowKind,
}

impl Hash {
    /// `hash_value`, `hash_report` and padding of a net header. ("Hash reporting for incoming packets")
    pub fn report(hash: Option<Self>) -> [u8; 8] {
        let value = hash.map_or(0, |hash| hash.value);
        let kind = hash.map_or(VIRTIO_NET_HASH_REPORT_NONE, |hash| hash.kind as u16);
        (u64::from(kind) << 32 | u64::from(value)).to_le_bytes()
    }
}

/// What is hashed, and how.
#[derive(Clone)]
pub struct Hasher {
    toeplitz: Arc<Toeplitz>,
    types: u32,
}

/// The tables of [`DEFAULT_KEY`], made once and shared by all devices.
static DEFAULT: LazyLock<Arc<Toeplitz>> = LazyLock::new(|| Arc::from(Toeplitz::new(&DEFAULT_KEY)));

impl Hasher {
    /// Flows of these types, under a key.
    pub fn new(key: &[u8; KEY_BYTES], types: u32) -> Self {
        Self { toeplitz: Toeplitz::new(key).into(), types }
    }

    /// The key.
    pub fn key(&self) -> &[u8; KEY_BYTES] {
        &self.toeplitz.key
    }

    /// The types.
    pub fn types(&self) -> u32 {
        self.types
    }

    /// The hash of a flow, if it is of some type that is hashed.
    #[inline]
    pub fn hash(&self, flow: &Flow) -> Option<Hash> {
        let (kind, input) = flow.input(self.types)?;
        Some(Hash { value: self.toeplitz.hash(input), kind })
    }
}

impl Default for Hasher {
    /// All flows, under the default key.
    fn default() -> Self {
        Self { toeplitz: DEFAULT.clone(), types: TYPES }
    }
}

impl PartialEq for Hasher {
    fn eq(&self, other: &Self) -> bool {
        (self.types, self.toeplitz.key) == (other.types, other.toeplitz.key)
    }
}

impl std::fmt::Debug for Hasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { toeplitz, types } = self;
        f.debug_struct("Hasher").field("key", &toeplitz.key).field("types", types).finish()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::super::sample::*;
    use super::*;

    /// The definition: for each bit set in the input, the 32 key bits from that place on.
    fn hash_bit_by_bit(key: &[u8; KEY_BYTES], input: &[u8]) -> u32 {
        let key_bit = |n: usize| u32::from(key[n / 8] >> (7 - n % 8) & 1);
        let set = (0..input.len() * 8).filter(|n| input[n / 8] >> (7 - n % 8) & 1 == 1);
        set.fold(0, |sum, n| sum ^ (0..32).fold(0, |word, k| word << 1 | key_bit(n + k)))
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
        let hash = |frame: &[u8]| Hasher::default().hash(&Flow::parse(frame).unwrap()).map(|hash| hash.value);
        for (source, source_port, destination, destination_port, by_address, with_ports) in vectors {
            let ports = ports(source_port, destination_port);
            assert_eq!(hash(&ipv4(source, destination, 0, 0, 1, &ports)), Some(by_address));
            assert_eq!(hash(&ipv4(source, destination, 0, 0, 6, &ports)), Some(with_ports));
            assert_eq!(hash(&ipv4(source, destination, 12, 0x4000, 17, &ports)), Some(with_ports));
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
        let hash = |frame: &[u8]| Hasher::default().hash(&Flow::parse(frame).unwrap()).map(|hash| hash.value);
        for (source, source_port, destination, destination_port, by_address, with_ports) in vectors {
            let ports = ports(source_port, destination_port);
            assert_eq!(hash(&ipv6(source, destination, 58, &ports)), Some(by_address));
            assert_eq!(hash(&ipv6(source, destination, 6, &ports)), Some(with_ports));
            // Behind hop-by-hop options of 16 bytes and an authentication header of 12.
            let extended = [&[51, 1], &[0; 14][..], &[17, 1], &[0; 10], &ports].concat();
            assert_eq!(hash(&ipv6(source, destination, 0, &extended)), Some(with_ports));
        }
    }

    #[test]
    fn a_report_says_what_was_hashed() {
        let flow = Flow::parse(&ipv6([1; 8], [2; 8], 17, &ports(1, 2))).unwrap();
        let hash = Hasher::new(&DEFAULT_KEY, TYPES).hash(&flow).unwrap();
        let [a, b, c, d] = hash.value.to_le_bytes();
        assert_eq!(Hash::report(Some(hash)), [a, b, c, d, 6, 0, 0, 0]);
        let none = Hasher::new(&DEFAULT_KEY, FlowKind::Udpv4.bit()).hash(&flow);
        assert_eq!(Hash::report(none), [0; 8]);
        let alone = Hasher::new(&[0; 40], FlowKind::Ipv6.bit()).hash(&flow);
        assert_eq!(Hash::report(alone), [0, 0, 0, 0, 4, 0, 0, 0]);
    }

    proptest! {
        #[test]
        fn the_tables_agree_with_the_definition(key: [u8; KEY_BYTES], input in prop::collection::vec(any::<u8>(), 0..=36)) {
            prop_assert_eq!(Toeplitz::new(&key).hash(&input), hash_bit_by_bit(&key, &input));
        }
    }
}
