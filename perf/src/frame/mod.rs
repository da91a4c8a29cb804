//! The frames that perf sends, and how it knows them again.
//!
//! An Ethernet frame with an IPv4 and a UDP header, 64 to 9216 bytes as it lies in a virtqueue (no frame check sequence, no
//! net header). Behind the UDP header: the sequence number of its flow ([`STAMP_OFFSET`], the only bytes that differ from one
//! sending to the next), a magic number, the frame's length, the flow, and a checksum (XXH3, 64 bits) over the whole frame with stamp and
//! checksum taken as zero. What follows is pseudo-random, drawn from flow and salt, so that a frame in a wrong place is not
//! taken for the right one. Numbers in the payload are little-endian.

mod check;
mod sequence;
mod sizes;

pub use check::{Checker, Integrity};
pub use sizes::Sizes;

use xxhash_rust::xxh3::xxh3_64;

/// Ethernet, IPv4 and UDP headers, in bytes.
const HEADERS_BYTES: usize = 14 + 20 + 8;
/// Where the sequence number is: `u64`. Whoever sends a template again and again writes nothing else.
pub const STAMP_OFFSET: usize = HEADERS_BYTES;
const MAGIC_OFFSET: usize = STAMP_OFFSET + 8;
const LENGTH_OFFSET: usize = MAGIC_OFFSET + 2;
const FLOW_OFFSET: usize = LENGTH_OFFSET + 2;
const CHECKSUM_OFFSET: usize = FLOW_OFFSET + 2;
/// What is read of every frame: from the stamp to the checksum.
pub const MARK_BYTES: usize = CHECKSUM_OFFSET + 8 - STAMP_OFFSET;
const MAGIC: u16 = u16::from_le_bytes(*b"vn");

/// The smallest frame: headers and marks fill it.
pub const FRAME_BYTES_MIN: usize = CHECKSUM_OFFSET + 8;
/// The largest, as the jumbo frames of the field.
pub const FRAME_BYTES_MAX: usize = 9216;

/// Who a frame is from and for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addressing {
    /// Source MAC address.
    pub source: [u8; 6],
    /// Destination MAC address.
    pub destination: [u8; 6],
}

impl Addressing {
    /// From one of our guests (numbered from 0) to another.
    pub fn between(source: u16, destination: u16) -> Self {
        Addressing { source: guest_mac(source), destination: guest_mac(destination) }
    }
}

/// The locally administered address of a simulated guest.
pub fn guest_mac(guest: u16) -> [u8; 6] {
    let [high, low] = guest.to_be_bytes();
    [0x02, b'v', b'p', 0, high, low]
}

/// A frame of `len_bytes` for a flow, its sequence number 0. Frames of one flow with another `salt` have other contents.
///
/// # Panics
/// If the length is not [`FRAME_BYTES_MIN`] to [`FRAME_BYTES_MAX`].
pub fn template(len_bytes: usize, flow: u16, salt: u32, addressing: Addressing) -> Vec<u8> {
    assert!((FRAME_BYTES_MIN..=FRAME_BYTES_MAX).contains(&len_bytes), "a frame of {len_bytes} bytes");
    let mut frame = Vec::with_capacity(len_bytes);
    frame.extend(addressing.destination);
    frame.extend(addressing.source);
    frame.extend([0x08, 0x00]);
    frame.extend(ipv4_header(len_bytes - 14, addressing));
    // Flows differ in their source port, for whoever steers by it. A UDP checksum of 0 says that there is none.
    frame.extend(1024_u16.wrapping_add(flow).to_be_bytes());
    frame.extend(9_u16.to_be_bytes()); // discard
    frame.extend(((len_bytes - 34) as u16).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend([0; 8]);
    frame.extend(MAGIC.to_le_bytes());
    frame.extend((len_bytes as u16).to_le_bytes());
    frame.extend(flow.to_le_bytes());
    frame.extend([0; 8]);
    let mut seed = u64::from(flow) << 32 | u64::from(salt);
    while frame.len() < len_bytes {
        seed = split_mix(seed);
        let rest = (len_bytes - frame.len()).min(8);
        frame.extend(&seed.to_le_bytes()[..rest]);
    }
    let checksum = xxh3_64(&frame);
    frame[CHECKSUM_OFFSET..CHECKSUM_OFFSET + 8].copy_from_slice(&checksum.to_le_bytes());
    frame
}

fn ipv4_header(total_bytes: usize, addressing: Addressing) -> [u8; 20] {
    let mut header = [0; 20];
    header[0] = 0x45;
    header[2..4].copy_from_slice(&(total_bytes as u16).to_be_bytes());
    header[6] = 0x40; // do not fragment
    header[8] = 64;
    header[9] = 17;
    // 198.18.0.0/15 is set aside for benchmarks of network devices.
    header[12..16].copy_from_slice(&[198, 18, addressing.source[4], addressing.source[5]]);
    header[16..20].copy_from_slice(&[198, 19, addressing.destination[4], addressing.destination[5]]);
    let sum: u32 = header.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    header[10..12].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    header
}

/// One step of SplitMix64: a number that looks like no other.
fn split_mix(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// What the marks of a frame say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// Sequence number within the flow.
    pub sequence: u64,
    /// The frame's length when it was sent.
    pub len_bytes: u16,
    /// Which flow.
    pub flow: u16,
}

impl Marks {
    /// Reads the [`MARK_BYTES`] from [`STAMP_OFFSET`] on; `None` where the frame is not one of ours.
    #[inline]
    pub fn read(bytes: &[u8; MARK_BYTES]) -> Option<Self> {
        let [s0, s1, s2, s3, s4, s5, s6, s7, m0, m1, l0, l1, f0, f1, ..] = *bytes;
        let sequence = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        let len_bytes = u16::from_le_bytes([l0, l1]);
        let flow = u16::from_le_bytes([f0, f1]);
        (u16::from_le_bytes([m0, m1]) == MAGIC).then_some(Marks { sequence, len_bytes, flow })
    }
}

/// Whether a frame of ours is as it was sent, but for its sequence number. Zeroes stamp and checksum in the copy it is given.
pub fn is_whole(frame: &mut [u8]) -> bool {
    if frame.len() < FRAME_BYTES_MIN {
        return false;
    }
    let mut checksum = [0; 8];
    checksum.copy_from_slice(&frame[CHECKSUM_OFFSET..CHECKSUM_OFFSET + 8]);
    frame[CHECKSUM_OFFSET..CHECKSUM_OFFSET + 8].fill(0);
    frame[STAMP_OFFSET..STAMP_OFFSET + 8].fill(0);
    xxh3_64(frame) == u64::from_le_bytes(checksum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_of_any_size_is_known_again() {
        for len_bytes in [64, 65, 71, 72, 594, 1518, 9216] {
            let mut frame = template(len_bytes, 3, 9, Addressing::between(0, 1));
            assert_eq!(frame.len(), len_bytes);
            frame[STAMP_OFFSET..STAMP_OFFSET + 8].copy_from_slice(&77_u64.to_le_bytes());
            let marks = Marks::read(frame[STAMP_OFFSET..][..MARK_BYTES].try_into().unwrap());
            assert_eq!(marks, Some(Marks { sequence: 77, len_bytes: len_bytes as u16, flow: 3 }));
            assert!(is_whole(&mut frame));
        }
    }

    #[test]
    fn one_wrong_bit_anywhere_but_in_the_stamp_is_noticed() {
        let frame = template(130, 0, 0, Addressing::between(0, 1));
        for byte in 0..frame.len() {
            for bit in 0..8 {
                let mut broken = frame.clone();
                broken[byte] ^= 1 << bit;
                let in_stamp = (STAMP_OFFSET..STAMP_OFFSET + 8).contains(&byte);
                assert_eq!(is_whole(&mut broken), in_stamp, "byte {byte} bit {bit}");
            }
        }
    }

    #[test]
    fn a_frame_cut_short_or_padded_is_not_whole() {
        let frame = template(130, 0, 0, Addressing::between(0, 1));
        assert!(!is_whole(&mut frame[..129].to_vec()));
        assert!(!is_whole(&mut [&frame[..], &[0]].concat()));
        assert!(!is_whole(&mut []));
    }

    #[test]
    fn the_ip_header_adds_up_and_contents_differ() {
        let frame = template(64, 0, 0, Addressing::between(0, 1));
        let sum: u32 = frame[14..34].chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
        let contents = |flow, salt| template(100, flow, salt, Addressing::between(0, 1))[64..].to_vec();
        assert_ne!(contents(0, 1), contents(0, 2));
        assert_ne!(contents(1, 1), contents(0, 1));
    }
}
