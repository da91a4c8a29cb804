//! The card against reference devices.

use super::super::reference::Device;
use super::*;

/// Both ends of a card on reference devices that send back what they get, joined and cut as asked.
struct Loop {
    nic: Nic,
    transmit: Device,
    receive: Device,
}

impl Loop {
    fn new(options: NicOptions) -> Self {
        let ram = Arc::new(Ram::new(8 << 20, 1 << 30).unwrap());
        let nic = Nic::new(&ram, options).unwrap();
        let (transmit, receive) = (Device::of(&nic.transmitq, &ram), Device::of(&nic.receiveq, &ram));
        Self { nic, transmit, receive }
    }

    /// What the device reads of the next frame sent.
    fn sent(&mut self) -> Vec<u8> {
        assert!(self.transmit.take(), "a frame was sent");
        let taken = self.transmit.held.pop_front().unwrap();
        let mut bytes = vec![];
        for element in &taken.elements {
            assert!(!element.writable);
            let start = bytes.len();
            bytes.resize(start + element.len_bytes as usize, 0);
            self.nic.ram.read(element.gpa, &mut bytes[start..]);
        }
        self.transmit.give_back(&[(taken, 0)], false);
        bytes
    }

    /// Puts a frame, with header, into as many receive buffers as it takes.
    fn deliver(&mut self, mut bytes: Vec<u8>) {
        let NicOptions { receive_bytes_max, frame_bytes_max, .. } = self.nic.options;
        let room = (HEADER_BYTES + receive_bytes_max.unwrap_or(frame_bytes_max)) as usize;
        let buffers = bytes.len().div_ceil(room);
        if self.nic.options.mergeable {
            bytes[10..12].copy_from_slice(&(buffers as u16).to_le_bytes());
        }
        let mut chains = vec![];
        for part in bytes.chunks(room) {
            assert!(self.receive.take(), "a receive buffer is there");
            let taken = self.receive.held.pop_front().unwrap();
            let mut rest = part;
            for element in &taken.elements {
                assert!(element.writable);
                let (now, later) = rest.split_at(rest.len().min(element.len_bytes as usize));
                self.nic.ram.write(element.gpa, now);
                rest = later;
            }
            assert!(rest.is_empty());
            chains.push((taken, part.len() as u32));
        }
        self.receive.give_back(&chains, false);
    }
}

fn frame(seed: usize, len_bytes: usize) -> Vec<u8> {
    (0..len_bytes).map(|i| (seed * 31 + i * 7) as u8).collect()
}

#[test]
fn a_header_is_laid_as_the_specification_prints_it() {
    let header = Header {
        flags: 1,
        gso_type: 2,
        hdr_len: 0x0403,
        gso_size: 0x0605,
        csum_start: 0x0807,
        csum_offset: 0x0a09,
        num_buffers: 0x0c0b,
    };
    assert_eq!(header.to_bytes(), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    assert_eq!(Header::from_bytes(header.to_bytes()), header);
}

#[test]
fn a_legacy_driver_has_a_header_without_a_number_of_buffers() {
    let mut pair = Loop::new(NicOptions { legacy: true, ..NicOptions::default() });
    assert!(pair.nic.send(&frame(1, 60)).unwrap());
    assert_eq!(pair.sent(), [vec![0; 10], frame(1, 60)].concat());
    let header = Header { flags: 2, ..Header::default() };
    let header = &header.to_bytes()[..10];
    pair.deliver([header, &frame(2, 70)].concat());
    let mut received = vec![];
    assert!(pair.nic.receive(&mut received).unwrap());
    assert_eq!((received, pair.nic.header().flags), (frame(2, 70), 2));
}

#[test]
fn frames_go_out_and_come_in_whole_however_they_are_cut() {
    for layout in [Layout::Split, Layout::Packed] {
        for bits in 0..32 {
            let queue = Options { indirect: bits & 1 != 0, in_order: bits & 2 != 0, ..Options::default() };
            let cuts = |on: bool, cuts: &[u32]| if on { cuts.to_vec() } else { vec![] };
            let options = NicOptions {
                layout,
                size: 16,
                queue,
                mergeable: true,
                legacy: false,
                hash_report: false,
                // Frames may be longer than the receive buffers, where several may hold one.
                frame_bytes_max: if bits & 16 != 0 { 1500 } else { 1000 },
                receive_bytes_max: (bits & 16 != 0).then_some(1000),
                receive_buffers: 16,
                receive_cuts: cuts(bits & 4 != 0, &[12, 64]),
                transmit_cuts: cuts(bits & 8 != 0, &[5, 5, 5, 60]),
            };
            let mut pair = Loop::new(options);
            let mut received = vec![0xaa];
            for round in 0..100 {
                let sent = frame(round, 14 + round * 9);
                assert!(pair.nic.send(&sent).unwrap());
                let seen = pair.sent();
                assert_eq!(seen[..12], [0; 12]);
                assert_eq!(seen[12..], sent);
                assert!(!pair.nic.receive(&mut received).unwrap());
                let whole = frame(round, 12 + 14 + round * 29 % 3000);
                pair.deliver(whole.clone());
                assert!(pair.nic.receive(&mut received).unwrap());
                assert_eq!(received, whole[12..]);
                assert_eq!(usize::from(pair.nic.header().num_buffers), whole.len().div_ceil(1012));
                assert_eq!(pair.nic.header().flags, whole[0]);
            }
            assert_eq!(pair.nic.reap(), Ok(1));
            assert_eq!(pair.nic.unreaped(), 0);
        }
    }
}

#[test]
fn bursts_fill_the_queue_and_no_more() {
    for layout in [Layout::Split, Layout::Packed] {
        for transmit_cuts in [vec![], vec![12]] {
            let mut pair = Loop::new(NicOptions { layout, size: 8, transmit_cuts, ..NicOptions::default() });
            let room = 8 / (1 + pair.nic.options.transmit_cuts.len());
            for round in 0..50 {
                let mut written = vec![];
                let fill = |ram: &Ram, slot: Slot| {
                    assert!(slot.index < 8 && slot.gpa.is_multiple_of(64));
                    let bytes = frame(round * 8 + written.len(), 60 + written.len());
                    ram.write(slot.gpa, &bytes);
                    written.push(bytes);
                    written.len() as u32 + 59
                };
                let sent = pair.nic.send_burst(20, fill).unwrap();
                assert_eq!(sent, room);
                assert_eq!(pair.nic.send_burst(1, |_, _| 60), Ok(0));
                assert!(!pair.nic.send(&[0; 60]).unwrap());
                for bytes in &written[..room] {
                    assert_eq!(pair.sent()[12..], *bytes);
                }
                let mut arrivals = vec![];
                for bytes in &written[..room] {
                    pair.deliver([&[0; 12], &bytes[..]].concat());
                }
                let visit = |ram: &Ram, received: Received| {
                    assert_eq!((received.part, received.parts), (0, 1));
                    let mut bytes = vec![0; received.len_bytes as usize];
                    ram.read(received.gpa, &mut bytes);
                    arrivals.push(bytes);
                };
                assert_eq!(pair.nic.receive_burst(visit), Ok(room));
                assert_eq!(arrivals, written[..room]);
            }
        }
    }
}

#[test]
fn a_device_that_misdescribes_a_frame_is_found_out() {
    let mut pair = Loop::new(NicOptions { mergeable: true, ..NicOptions::default() });
    let give = |pair: &mut Loop, len_bytes| {
        assert!(pair.receive.take());
        let taken = pair.receive.held.pop_front().unwrap();
        pair.receive.give_back(&[(taken, len_bytes)], false);
        pair.nic.receive(&mut vec![])
    };
    assert_eq!(give(&mut pair, 0), Ok(false));
    assert_eq!(pair.nic.empty_buffers(), 1);
    assert_eq!(give(&mut pair, 11), Err(NicFault::HeaderShort { len_bytes: 11 }));
    assert_eq!(give(&mut pair, 12), Err(NicFault::NoBuffers));
    let fault = Fault::LengthBeyondChain { id: 3, len_bytes: 1535, writable_bytes: 1534 };
    assert_eq!(give(&mut pair, 1535), Err(NicFault::Ring(fault)));
}
