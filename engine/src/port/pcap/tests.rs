use super::*;
use proptest::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use virtnet_rings::Parts;
use virtnet_rings::memory::OwnedMemory;

/// A file that goes with its test.
struct TempFile(tempfile::TempPath);

impl TempFile {
    fn of(bytes: &[u8]) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        Self(file.into_temp_path())
    }

    fn path(&self) -> &Path {
        &self.0
    }

    fn load(&self) -> Result<Capture, CaptureError> {
        Capture::load(self.path())
    }
}

/// A udp frame of a flow.
fn frame(source_port: u16, len_bytes: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..len_bytes).map(|at| at as u8).collect();
    frame[12..34].copy_from_slice(&[8, 0, 0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame[34..36].copy_from_slice(&source_port.to_be_bytes());
    frame
}

/// "PCAP Capture File Format", written out: magic number, link type, then (seconds, fraction, original length, bytes).
fn pcap(magic: u32, link_type: u32, packets: &[(u32, u32, u32, &[u8])], word: fn(u32) -> [u8; 4]) -> Vec<u8> {
    // Version 2.4 is two words of 16 bits; swapped as a pair they come out as the file's order has them.
    let version = if word(1) == 1u32.to_be_bytes() { 2 << 16 | 4 } else { 4 << 16 | 2 };
    let mut file: Vec<u8> = [magic, version, 0, 0, 96, link_type].into_iter().flat_map(word).collect();
    for &(seconds, fraction, original, bytes) in packets {
        file.extend([seconds, fraction, bytes.len() as u32, original].into_iter().flat_map(word));
        file.extend(bytes);
    }
    file
}

/// A block of "PCAP Next Generation (pcapng) Capture File Format", little-endian.
fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let pad = vec![0; body.len().wrapping_neg() % 4];
    let total = ((12 + body.len() + pad.len()) as u32).to_le_bytes();
    [&kind.to_le_bytes(), &total[..], body, &pad, &total].concat()
}

fn section() -> Vec<u8> {
    block(0x0a0d_0d0a, &[&[0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0][..], &[0xff; 8]].concat())
}

fn interface(link_type: u8, resolution: Option<u8>) -> Vec<u8> {
    let option = resolution.map_or(vec![], |units| vec![9, 0, 1, 0, units, 0, 0, 0, 0, 0, 0, 0]);
    block(1, &[&[link_type, 0, 0, 0, 0, 0, 0, 0][..], &option].concat())
}

fn enhanced(interface: u32, units: u64, bytes: &[u8]) -> Vec<u8> {
    let len = bytes.len() as u32;
    let words = [interface, (units >> 32) as u32, units as u32, len, len];
    block(6, &[&words.map(u32::to_le_bytes).concat(), bytes].concat())
}

fn contents(capture: &Capture) -> Vec<(u64, Vec<u8>)> {
    let read = |shot| {
        let mut bytes = vec![0; capture.span(shot).len_bytes() as usize];
        capture.span(shot).read(&mut bytes);
        (shot.at_ns, bytes)
    };
    capture.shots().iter().map(|&shot| read(shot)).collect()
}

#[test]
fn both_byte_orders_and_resolutions_of_pcap_are_read() {
    let (one, two) = (frame(1, 60), frame(2, 90));
    let packets = |fraction: u32| [(7, 999_999 * fraction, 60, &one[..]), (8, 5 * fraction, 90, &two[..])];
    for word in [u32::to_be_bytes, u32::to_le_bytes] {
        for (magic, fraction) in [(0xa1b2_c3d4, 1), (0xa1b2_3c4d, 1000)] {
            let capture = TempFile::of(&pcap(magic, 1, &packets(fraction), word)).load().unwrap();
            assert_eq!(contents(&capture), [(0, one.clone()), (6_000, two.clone())]);
            let summary = CaptureSummary { frames: 2, bytes: 150, truncated: 0, skipped: 0 };
            assert_eq!(capture.summary(), summary);
        }
    }
}

#[test]
fn times_of_pcapng_go_by_each_interfaces_own_units() {
    let frames: Vec<_> = (0..6).map(|n| frame(n, 60 + usize::from(n))).collect();
    let file = [
        section(),
        interface(1, None),
        interface(1, Some(9)),
        interface(1, Some(0x80 | 10)),
        interface(101, None),
        enhanced(0, 1_000_000, &frames[0]),
        enhanced(1, 1_000_000_500, &frames[1]),
        enhanced(2, 1024 + 512, &frames[2]),
        enhanced(3, 0, &frames[3]),
        block(0xbad, b"what nobody knows is passed over"),
        block(3, &[&65u32.to_le_bytes(), &frames[5][..]].concat()),
        // Earlier than the one before: it follows at once.
        enhanced(0, 1_000_001, &frames[4]),
    ];
    let capture = TempFile::of(&file.concat()).load().unwrap();
    let [zero, one, two, _, four, five] = <[_; 6]>::try_from(frames).unwrap();
    let half = 500_000_000;
    assert_eq!(contents(&capture), [(0, zero), (500, one), (half, two), (half, five), (half, four)]);
    assert_eq!(capture.summary().skipped, 1);
}

#[test]
fn frames_that_were_cut_are_replayed_as_far_as_they_go() {
    let (cut, tiny) = (frame(1, 60), [0; 13]);
    let file = pcap(0xa1b2_c3d4, 1, &[(0, 0, 1500, &cut), (0, 0, 13, &tiny)], u32::to_le_bytes);
    let summary = TempFile::of(&file).load().unwrap().summary();
    assert_eq!(summary, CaptureSummary { frames: 1, bytes: 60, truncated: 1, skipped: 1 });
}

#[test]
fn what_is_no_capture_is_refused_with_its_reason() {
    let good = frame(1, 60);
    let packets: &[(u32, u32, u32, &[u8])] = &[(0, 0, 60, &good)];
    let message = |bytes: &[u8]| TempFile::of(bytes).load().unwrap_err().to_string();
    let file = pcap(0xa1b2_c3d4, 1, packets, u32::to_le_bytes);
    assert!(message(&pcap(0xa1b2_c3d4, 101, packets, u32::to_le_bytes)).contains("link type RAW; allowed is Ethernet"));
    assert!(message(&pcap(0xa1b2_c3d4, 1, &[(0, 0, 9, &[0; 9])], u32::to_le_bytes)).contains("none of its 1 frames"));
    assert!(message(&pcap(0xa1b2_c3d4, 1, &[], u32::to_le_bytes)).contains("none of its 0 frames"));
    assert!(message(&file[..file.len() - 1]).contains("frame 0: Error reading bytes"));
    assert!(message(b"\x7fELF and so on, for longer than a header").contains("frame 0: Invalid field value"));
    assert!(message(b"abc").contains("failed to fill"));
    let stray = [section(), interface(1, None), enhanced(1, 0, &good)].concat();
    assert!(message(&stray).contains("No corresponding interface id: 1"));
    let missing = Capture::load(Path::new("/nonexistent/file.pcap")).unwrap_err().to_string();
    assert!(missing.starts_with("/nonexistent/file.pcap: No such file"), "{missing}");
}

proptest! {
    #[test]
    fn damaged_captures_are_met(newer: bool, changes in prop::collection::vec((any::<u16>(), any::<u8>()), 0..6), end: u16) {
        let (one, two) = (frame(1, 60), frame(2, 90));
        let mut file = match newer {
            true => [section(), interface(1, Some(9)), enhanced(0, 5, &one), section(), interface(1, None), enhanced(0, 9, &two)].concat(),
            false => pcap(0xa1b2_c3d4, 1, &[(0, 0, 60, &one), (1, 0, 90, &two)], u32::to_le_bytes),
        };
        for (at, byte) in changes {
            let at = usize::from(at) % file.len();
            file[at] = byte;
        }
        file.truncate(usize::from(end));
        if let Ok(capture) = TempFile::of(&file).load() {
            // A length that was damaged may take what follows for its frame, or leave it for others: no more than there is.
            let CaptureSummary { frames, bytes, .. } = capture.summary();
            prop_assert!(16 * frames + bytes <= file.len());
        }
    }
}

fn replays(frames: &[(u32, Vec<u8>)], pace: Pace, repeat: bool, pairs: u16) -> Vec<Replay> {
    let packets: Vec<_> = frames.iter().map(|(ns, bytes)| (0, *ns, bytes.len() as u32, &bytes[..])).collect();
    let capture = TempFile::of(&pcap(0xa1b2_3c4d, 1, &packets, u32::to_le_bytes)).load().unwrap();
    Replay::over(&ReplayConfig { capture: Arc::new(capture), pace, repeat }, pairs).unwrap()
}

/// Lengths of the frames that arrive at this time.
fn arrive(replay: &mut Replay, now_ns: u64, room: usize) -> Vec<u32> {
    (0..room).map_while(|_| replay.receive(now_ns)).map(|frame| frame.len_bytes).collect()
}

#[test]
fn a_replay_keeps_the_captures_time() {
    let frames = [(100, frame(1, 60)), (110, frame(1, 61)), (140, frame(1, 62))];
    let mut replay = replays(&frames, Pace::AsCaptured, true, 1).remove(0);
    assert_eq!(arrive(&mut replay, 1000, 32), [60]);
    assert_eq!(arrive(&mut replay, 1009, 32), []);
    assert_eq!(arrive(&mut replay, 1039, 32), [61]);
    // The next round starts a mean gap of 20 ns after the last frame.
    assert_eq!(arrive(&mut replay, 1059, 32), [62]);
    assert_eq!(arrive(&mut replay, 1060, 32), [60]);
    // What is due waits, and keeps its order.
    assert_eq!(arrive(&mut replay, 1200, 4), [61, 62, 60, 61]);
    assert_eq!(arrive(&mut replay, 1200, 32), [62, 60, 61]);
}

#[test]
fn a_replay_keeps_a_rate() {
    let frames = [(0, frame(1, 60)), (1, frame(1, 61)), (500, frame(1, 62))];
    let mut replay = replays(&frames, Pace::Rate(1e7), false, 1).remove(0);
    assert_eq!(arrive(&mut replay, 7, 32), [60]);
    assert_eq!(arrive(&mut replay, 106, 32), []);
    assert_eq!(arrive(&mut replay, 107, 32), [61]);
    assert!(!replay.is_over());
    assert_eq!(arrive(&mut replay, 10_000, 32), [62]);
    assert!(replay.is_over());
    assert_eq!(arrive(&mut replay, 20_000, 32), []);
    let refused =
        |rate| Replay::over(&ReplayConfig { capture: replay.capture(), pace: Pace::Rate(rate), repeat: false }, 1);
    assert_eq!(refused(0.0).unwrap_err(), ReplayError::Rate { found: 0.0 });
    assert!(refused(f64::NAN).is_err());
}

#[test]
fn a_replay_goes_as_fast_as_it_is_taken() {
    let frames = [(0, frame(1, 60)), (1_000_000, frame(1, 61))];
    let mut replay = replays(&frames, Pace::AsFastAsPossible, true, 1).remove(0);
    assert_eq!(arrive(&mut replay, 0, 5), [60, 61, 60, 61, 60]);
}

#[test]
fn pairs_share_a_replay_by_flow() {
    let frames: Vec<_> = (0..100).map(|n| (u32::from(n), frame(n, 60 + usize::from(n)))).collect();
    let mut shares = replays(&frames, Pace::AsFastAsPossible, false, 3);
    let lens: Vec<Vec<u32>> = shares.iter_mut().map(|replay| arrive(replay, 0, 1000)).collect();
    assert!(lens.iter().all(|share| share.len() > 10 && share.is_sorted()), "{lens:?}");
    let mut all = lens.concat();
    all.sort_unstable();
    assert_eq!(all, (60..160).collect::<Vec<_>>());
}

/// Frames that lie in memory, some in two parts.
fn lay(memory: &OwnedMemory, frames: &[Vec<u8>]) -> Vec<Frame> {
    let mut at = 0;
    let lend = |bytes: &Vec<u8>| {
        let span = memory.span(at, bytes.len());
        span.write(bytes);
        at += bytes.len();
        Frame { parts: Parts::one(span), len_bytes: bytes.len() as u32, ..Frame::default() }
    };
    frames.iter().map(lend).collect()
}

fn recording(format: Format, pairs: u16, path: &Path) -> Vec<Tape> {
    record(&RecordConfig { path: path.into(), format }, pairs).unwrap()
}

#[test]
fn what_was_recorded_is_in_the_file_when_the_last_tape_is_gone() {
    for format in [Format::Pcap, Format::PcapNg] {
        let file = TempFile::of(b"");
        let mut tapes = recording(format, 2, file.path());
        let memory = OwnedMemory::new(1 << 20);
        let frames: Vec<_> = (0..200).map(|n| frame(n, 60 + usize::from(n) * 7)).collect();
        for (n, burst) in frames.chunks(10).enumerate() {
            lay(&memory, burst).iter().for_each(|frame| tapes[n % 2].write(frame));
        }
        let long = vec![vec![7; crate::frame::FRAME_LEN_MAX as usize]];
        tapes[1].write(&lay(&memory, &long)[0]);
        assert_eq!(tapes.iter_mut().map(Tape::take_drops).sum::<u64>(), 0);
        drop(tapes);
        let capture = file.load().unwrap();
        assert_eq!(capture.summary().truncated, 0);
        let mut found: Vec<_> = contents(&capture).into_iter().map(|(_, bytes)| bytes).collect();
        let mut sent = [frames, long].concat();
        // Two tapes written in the same nanosecond may come in either order.
        found.sort();
        sent.sort();
        assert!(found == sent, "{} of {} frames", found.len(), sent.len());
        let magic: &[u8] = if format == Format::Pcap { &[0x4d, 0x3c, 0xb2, 0xa1] } else { &[0x0a, 0x0d, 0x0d, 0x0a] };
        assert!(std::fs::read(file.path()).unwrap().starts_with(magic));
    }
}

/// Records frames of these numbers, each 60 bytes and its number long.
fn record_some(format: Format, path: &Path, numbers: std::ops::Range<u16>) {
    let mut tape = recording(format, 1, path).remove(0);
    let memory = OwnedMemory::new(1 << 16);
    let frames: Vec<_> = numbers.map(|n| frame(n, 60 + usize::from(n))).collect();
    lay(&memory, &frames).iter().for_each(|frame| tape.write(frame));
    assert_eq!(tape.take_drops(), 0);
}

/// How long the frames of a file are.
fn lens(file: &TempFile) -> Vec<usize> {
    contents(&file.load().unwrap()).into_iter().map(|(_, bytes)| bytes.len()).collect()
}

#[test]
fn a_recording_goes_on_behind_what_is_whole_of_it() {
    for format in [Format::Pcap, Format::PcapNg] {
        let file = TempFile::of(b"");
        record_some(format, file.path(), 0..20);
        record_some(format, file.path(), 20..30);
        assert_eq!(lens(&file), (60..90).collect::<Vec<_>>(), "{format:?}");
        // A writer that is killed leaves any part of what it was writing.
        let whole = std::fs::read(file.path()).unwrap();
        for len_bytes in (0..whole.len()).rev().step_by(7) {
            std::fs::write(file.path(), &whole[..len_bytes]).unwrap();
            record_some(format, file.path(), 30..31);
            let found = lens(&file);
            let before = found.len() - 1;
            assert_eq!(found[..before], (60..60 + before).collect::<Vec<_>>(), "{format:?}, cut to {len_bytes}");
            assert_eq!(found[before], 90);
        }
        std::fs::write(file.path(), &whole[..whole.len() - 1]).unwrap();
        record_some(format, file.path(), 30..31);
        assert_eq!(lens(&file).len(), 30, "only the last is lost");
    }
}

#[test]
fn what_is_no_recording_is_left_alone() {
    for (format, other) in [(Format::Pcap, Format::PcapNg), (Format::PcapNg, Format::Pcap)] {
        let file = TempFile::of(b"somebody's diary, which nobody wants to lose");
        let before = std::fs::read(file.path()).unwrap();
        let config = RecordConfig { path: file.path().into(), format };
        let error = record(&config, 1).unwrap_err().to_string();
        assert!(error.contains("is no recording in"), "{error}");
        assert_eq!(std::fs::read(file.path()).unwrap(), before);
        let file = TempFile::of(b"");
        record_some(other, file.path(), 0..3);
        assert!(record(&RecordConfig { path: file.path().into(), format }, 1).is_err(), "another format");
        assert_eq!(lens(&file), [60, 61, 62]);
    }
}

#[test]
fn blocks_of_senseless_lengths_are_not_gone_on_with() {
    let file = TempFile::of(b"");
    record_some(Format::PcapNg, file.path(), 0..3);
    let mut bytes = std::fs::read(file.path()).unwrap();
    // Behind the section header, 28 bytes, is the interface's block; the last byte is cut off, so that all are gone through.
    bytes[32..36].copy_from_slice(&0u32.to_ne_bytes());
    bytes.pop();
    std::fs::write(file.path(), &bytes).unwrap();
    let mut tape = recording(Format::PcapNg, 1, file.path()).remove(0);
    let memory = OwnedMemory::new(1 << 12);
    let frames = lay(&memory, &[frame(1, 60)]);
    while tape.take_drops() == 0 {
        tape.write(&frames[0]);
        std::thread::yield_now();
    }
    drop(tape);
    assert_eq!(std::fs::read(file.path()).unwrap(), bytes, "it is left as it was");
}

#[test]
fn two_do_not_record_to_one_file() {
    let file = TempFile::of(b"");
    let tapes = recording(Format::PcapNg, 2, file.path());
    let config = RecordConfig { path: file.path().into(), format: Format::PcapNg };
    assert!(matches!(record(&config, 1), Err(RecordError::Busy { .. })));
    drop(tapes);
    record(&config, 1).unwrap();
}

#[test]
fn what_the_tape_has_no_room_for_is_counted_and_nothing_waits() {
    let file = TempFile::of(b"");
    let mut tape = recording(Format::PcapNg, 1, file.path()).remove(0);
    let memory = OwnedMemory::new(64 << 10);
    let frames = lay(&memory, &[vec![1; 60_000]]);
    // Four rings full at once; how many the writer takes away meanwhile is its affair.
    let sent = 4 * RING_BYTES / 60_000;
    (0..sent).for_each(|_| tape.write(&frames[0]));
    let drops = tape.take_drops();
    assert_eq!(tape.take_drops(), 0);
    drop(tape);
    assert_eq!(file.load().unwrap().summary().frames as u64 + drops, sent as u64);
}

#[test]
fn a_full_disk_is_counted_as_drops() {
    let mut tape = recording(Format::Pcap, 1, Path::new("/dev/full")).remove(0);
    let memory = OwnedMemory::new(64 << 10);
    let frames = lay(&memory, &[vec![1; 60_000]]);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while tape.take_drops() == 0 {
        tape.write(&frames[0]);
        assert!(std::time::Instant::now() < deadline);
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

#[test]
fn a_recording_that_cannot_be_made_says_why() {
    let path = PathBuf::from("/nonexistent/file.pcap");
    let error = record(&RecordConfig { path, format: Format::Pcap }, 1).unwrap_err().to_string();
    assert!(error.starts_with("/nonexistent/file.pcap: No such file"), "{error}");
}
