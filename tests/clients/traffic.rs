//! Frames that can be told apart, and the captures that carry them to a client and back.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::Path;
use std::time::Duration;

use pcap_file::DataLink;
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter};

/// `count` UDP frames of many flows, their sizes (without frame check sequence) drawn from `sizes_bytes`.
/// Every byte after the headers is drawn too, from `seed`.
pub fn frames(seed: u64, count: usize, sizes_bytes: &[usize]) -> Vec<Vec<u8>> {
    let mut draw = Draw(seed.wrapping_mul(2).wrapping_add(0x9E37_79B9_7F4A_7C15));
    (0..count)
        .map(|index| {
            // Each size at least once, whatever is drawn.
            let size = *sizes_bytes.get(index).unwrap_or_else(|| &sizes_bytes[draw.below(sizes_bytes.len())]);
            frame(index, size, &mut draw)
        })
        .collect()
}

fn frame(index: usize, size_bytes: usize, draw: &mut Draw) -> Vec<u8> {
    let mut frame = Vec::with_capacity(size_bytes);
    frame.extend([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00]);
    let length = u16::try_from(size_bytes - 14).expect("a frame fits IPv4");
    let mut ip = [0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 77, 0, 2, 10, 77, 0, 1];
    ip[2..4].copy_from_slice(&length.to_be_bytes());
    let sum = ip.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum::<u32>();
    let folded = (sum & 0xFFFF) + (sum >> 16);
    ip[10..12].copy_from_slice(&(!(folded as u16 + (folded >> 16) as u16)).to_be_bytes());
    frame.extend(ip);
    let source_port = 1024 + (draw.next() % 60000) as u16;
    frame.extend(source_port.to_be_bytes());
    frame.extend(7u16.to_be_bytes());
    frame.extend((length - 20).to_be_bytes());
    frame.extend([0, 0]); // no UDP checksum, which IPv4 allows
    frame.extend(u32::try_from(index).expect("a small number").to_be_bytes());
    while frame.len() < size_bytes {
        frame.push(draw.next() as u8);
    }
    assert_eq!(frame.len(), size_bytes, "a frame holds its headers and its number");
    frame
}

/// A small generator of numbers, the same on every run.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 16
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// Writes frames as a capture.
pub fn write(path: &Path, frames: &[Vec<u8>]) {
    let file = BufWriter::new(File::create(path).expect("the folder is ours"));
    let header = PcapHeader { snaplen: 65535, datalink: DataLink::ETHERNET, ..PcapHeader::default() };
    let mut writer = PcapWriter::with_header(file, header).expect("a capture's header");
    for frame in frames {
        let length = u32::try_from(frame.len()).expect("a frame");
        writer.write_packet(&PcapPacket::new(Duration::ZERO, length, frame)).expect("a capture's frame");
    }
}

/// Reads the frames of a capture.
pub fn read(path: &Path) -> Vec<Vec<u8>> {
    let file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut reader = PcapReader::new(BufReader::new(file)).expect("a capture");
    let mut frames = Vec::new();
    while let Some(packet) = reader.next_packet() {
        frames.push(packet.expect("a whole capture").data.into_owned());
    }
    frames
}

/// Checks that `arrived` is `sent`: same frames, same bytes, same order.
#[track_caller]
pub fn assert_same_in_order(what: &str, sent: &[Vec<u8>], arrived: &[Vec<u8>]) {
    for (index, (sent, arrived)) in sent.iter().zip(arrived).enumerate() {
        assert_eq!(sent.len(), arrived.len(), "{what}: length of frame {index}");
        let differs = sent.iter().zip(arrived).position(|(a, b)| a != b);
        assert_eq!(differs, None, "{what}: frame {index} of {} bytes, first byte that differs", sent.len());
    }
    assert_eq!(sent.len(), arrived.len(), "{what}: number of frames");
}

/// Checks that `arrived` holds the frames of `sent`, each as often, in any order.
#[track_caller]
pub fn assert_same(what: &str, sent: &[Vec<u8>], arrived: &[Vec<u8>]) {
    let mut missing: HashMap<&[u8], isize> = HashMap::new();
    for frame in sent {
        *missing.entry(frame).or_default() += 1;
    }
    for (index, frame) in arrived.iter().enumerate() {
        let left = missing.entry(frame).or_default();
        *left -= 1;
        assert!(*left >= 0, "{what}: arriving frame {index} of {} bytes was not sent, or came twice", frame.len());
    }
    assert_eq!(sent.len(), arrived.len(), "{what}: number of frames");
}
