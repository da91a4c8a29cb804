//! Writing what guests send into a file. Each pair has a [`Tape`], a ring of bytes that one thread empties into the
//! file; when all tapes of a recording are gone, it writes what is left, and the last tape's end waits for that.
//!
//! A recording that is there is gone on with: nothing of it is lost when a device is made anew, or a program.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pcap_file::pcap::PcapHeader;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
use pcap_file::pcapng::blocks::interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption};
use pcap_file::{DataLink, Endianness, TsResolution};
use rtrb::{Consumer, Producer, RingBuffer};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use thiserror::Error;

use crate::frame::{FRAME_LEN_MAX, Frame};

/// The longest part of a frame that is recorded: all of it.
pub const SNAPLEN_BYTES: u32 = FRAME_LEN_MAX;
/// What a tape holds until the writer has come by.
pub const RING_BYTES: usize = 4 << 20;

/// Before each frame in the ring: its time, and how long it is.
const MARK_BYTES: usize = 12;
/// Before each frame in a pcap file: seconds, nanoseconds, and its length twice.
const RECORD_HEADER_BYTES: usize = 16;
/// Before each block of a pcapng file, type and length; the length again behind it.
const BLOCK_HEADER_BYTES: usize = 8;
/// What a block can have: no more than the longest frame and 64 bytes around it.
const BLOCK_BYTES: RangeInclusive<u64> = 12..=SNAPLEN_BYTES as u64 + 64;
/// Types of the blocks that are written here: section header, interface description, enhanced packet.
const BLOCK_TYPES: [u32; 3] = [0x0a0d_0d0a, 1, 6];
/// How long the writer waits for more.
const NAP: Duration = Duration::from_millis(2);

/// The format of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// The classic one, with nanoseconds.
    Pcap,
    /// The newer one.
    #[default]
    PcapNg,
}

/// Where to record, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordConfig {
    /// The file; a recording of this format that is there goes on, in pcapng as another section of it.
    pub path: PathBuf,
    /// Its format.
    pub format: Format,
}

/// Why a recording could not be started.
#[derive(Debug, Error)]
pub enum RecordError {
    /// The file could not be made.
    #[error("{path}: {source}")]
    Create {
        /// Which file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// There is a file, and it is not this program's to go on with.
    #[error("{path} is there and is no recording in {format:?}: it is left alone, move it away or record elsewhere")]
    Foreign {
        /// Which file.
        path: String,
        /// What was to be written.
        format: Format,
    },
    /// Somebody is recording there.
    #[error("{path} is being recorded to already: each recording takes a file of its own")]
    Busy {
        /// Which file.
        path: String,
    },
}

/// Starts a recording, and gives a tape for each of `pairs` queue pairs.
///
/// # Errors
/// [`RecordError`].
pub fn record(config: &RecordConfig, pairs: u16) -> Result<Vec<Tape>, RecordError> {
    let format = config.format;
    let file = open(&config.path, format)?;
    let (producers, consumers): (Vec<_>, Vec<_>) = (0..pairs).map(|_| RingBuffer::new(RING_BYTES)).unzip();
    let failed = Arc::new(AtomicBool::new(false));
    let thread = std::thread::Builder::new().name("pcap-writer".into()).spawn({
        let failed = failed.clone();
        move || {
            if FileWriter::start(file, format).and_then(|writer| run(writer, consumers)).is_err() {
                failed.store(true, Ordering::Relaxed);
            }
        }
    });
    let create_error = |source| RecordError::Create { path: config.path.display().to_string(), source };
    let ending = Arc::new(Ending { thread: Some(thread.map_err(create_error)?) });
    Ok(producers.into_iter().map(|ring| Tape::new(ring, failed.clone(), ending.clone())).collect())
}

/// The file, new or to be gone on with. Pipes and the like are written to as they are.
fn open(path: &Path, format: Format) -> Result<File, RecordError> {
    let name = || path.display().to_string();
    let create_error = |source| RecordError::Create { path: name(), source };
    let is_regular = path.metadata().map_or(true, |about| about.is_file());
    let mut options = OpenOptions::new();
    let opened = options.read(is_regular).write(true).create(true).truncate(false).open(path);
    let mut file = opened.map_err(create_error)?;
    if !is_regular {
        return Ok(file);
    }
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => return Err(RecordError::Busy { path: name() }),
        locked => locked.map_err(io::Error::from).map_err(create_error)?,
    }
    let head = head(format).map_err(create_error)?;
    let mut found = Vec::with_capacity(head.len());
    Read::by_ref(&mut file).take(head.len() as u64).read_to_end(&mut found).map_err(create_error)?;
    // One that was killed at its first bytes has written some of them.
    if head.starts_with(&found) { Ok(file) } else { Err(RecordError::Foreign { path: name(), format }) }
}

/// What a file begins with.
fn head(format: Format) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    match format {
        Format::Pcap => {
            let header = PcapHeader {
                snaplen: SNAPLEN_BYTES,
                datalink: DataLink::ETHERNET,
                ts_resolution: TsResolution::NanoSecond,
                endianness: Endianness::native(),
                ..PcapHeader::default()
            };
            header.write_to(&mut head).map_err(io::Error::other)?;
        }
        Format::PcapNg => head = PcapNgWriter::new(head).map_err(io::Error::other)?.into_inner(),
    }
    Ok(head)
}

/// Where the last whole frame or block of a file ends: a writer that was killed has left a part of one behind it.
fn whole_bytes(mut file: &File, format: Format, head: u64) -> io::Result<u64> {
    let len_bytes = file.metadata()?.len();
    if len_bytes < head {
        return Ok(0);
    }
    if format == Format::PcapNg && ends_with_a_block(file, len_bytes)? {
        return Ok(len_bytes);
    }
    let (mut at, header_bytes) = match format {
        Format::Pcap => (head, RECORD_HEADER_BYTES),
        Format::PcapNg => (0, BLOCK_HEADER_BYTES),
    };
    file.seek(SeekFrom::Start(at))?;
    let mut reader = BufReader::new(file);
    loop {
        let mut header = [0; RECORD_HEADER_BYTES];
        if let Err(error) = reader.read_exact(&mut header[..header_bytes]) {
            return if error.kind() == io::ErrorKind::UnexpectedEof { Ok(at) } else { Err(error) };
        }
        let step = match format {
            Format::Pcap => header_bytes as u64 + u64::from(word(&header, 8)),
            Format::PcapNg => u64::from(word(&header, 4)),
        };
        let is_sound = match format {
            Format::Pcap => step <= RECORD_HEADER_BYTES as u64 + u64::from(SNAPLEN_BYTES),
            Format::PcapNg => BLOCK_BYTES.contains(&step) && step.is_multiple_of(4),
        };
        if !is_sound {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if at + step > len_bytes {
            return Ok(at);
        }
        reader.seek_relative((step - header_bytes as u64) as i64)?;
        at += step;
    }
}

/// Whether the file ends with a block that is written here: then it need not be gone through.
fn ends_with_a_block(mut file: &File, len_bytes: u64) -> io::Result<bool> {
    let mut bytes = [0; BLOCK_HEADER_BYTES];
    file.seek(SeekFrom::Start(len_bytes - 4))?;
    file.read_exact(&mut bytes[..4])?;
    let last = word(&bytes, 0);
    let Some(start) = len_bytes.checked_sub(last.into()).filter(|_| BLOCK_BYTES.contains(&last.into())) else {
        return Ok(false);
    };
    file.seek(SeekFrom::Start(start))?;
    file.read_exact(&mut bytes)?;
    Ok(BLOCK_TYPES.contains(&word(&bytes, 0)) && word(&bytes, 4) == last)
}

/// Files are in the byte order of this machine.
fn word(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_ne_bytes(word)
}

/// Waits for the writer. A tape drops its ring before its share of this, so all rings are gone when the last share is.
#[derive(Debug)]
struct Ending {
    thread: Option<JoinHandle<()>>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One pair's end of a recording. Dropping the last one of a recording completes its file.
#[derive(Debug)]
pub struct Tape {
    ring: Producer<u8>,
    /// Where a frame's mark and bytes are gathered.
    gathered: Box<[u8]>,
    /// The file cannot be written any more.
    failed: Arc<AtomicBool>,
    drops: u64,
    _ending: Arc<Ending>,
}

impl Tape {
    fn new(ring: Producer<u8>, failed: Arc<AtomicBool>, ending: Arc<Ending>) -> Self {
        let gathered = vec![0; MARK_BYTES + SNAPLEN_BYTES as usize].into();
        Self { ring, gathered, failed, drops: 0, _ending: ending }
    }

    /// Copies a frame onto the tape; one that finds no room is counted.
    #[inline]
    pub(super) fn write(&mut self, frame: &Frame) {
        let now_ns = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
        let (mark, bytes) = self.gathered.split_at_mut(MARK_BYTES);
        let len_bytes = frame.parts.read(&mut bytes[..frame.len_bytes.min(SNAPLEN_BYTES) as usize]);
        mark[..8].copy_from_slice(&now_ns.to_le_bytes());
        mark[8..].copy_from_slice(&(len_bytes as u32).to_le_bytes());
        let failed = self.failed.load(Ordering::Relaxed);
        if failed || self.ring.push_entire_slice(&self.gathered[..MARK_BYTES + len_bytes]).is_err() {
            self.drops += 1;
        }
    }

    pub(super) fn take_drops(&mut self) -> u64 {
        std::mem::take(&mut self.drops)
    }
}

/// The other end of a tape.
struct Reel {
    ring: Consumer<u8>,
    /// Time and length of the next frame, once they are read.
    next: Option<(u64, usize)>,
}

impl Reel {
    /// When the next frame was sent, if there is one. A frame is put on a tape whole, so its bytes follow its mark.
    fn next_at_ns(&mut self) -> Option<u64> {
        let mut mark = [0; MARK_BYTES];
        if self.next.is_none() && self.ring.pop_entire_slice(&mut mark).is_ok() {
            let [at_ns @ .., l0, l1, l2, l3] = mark;
            self.next = Some((u64::from_le_bytes(at_ns), u32::from_le_bytes([l0, l1, l2, l3]) as usize));
        }
        self.next.map(|(at_ns, _)| at_ns)
    }

    fn take<'b>(&mut self, buffer: &'b mut [u8]) -> Option<(u64, &'b [u8])> {
        let (at_ns, len_bytes) = self.next.take()?;
        let bytes = &mut buffer[..len_bytes];
        self.ring.pop_entire_slice(bytes).ok()?;
        Some((at_ns, bytes))
    }
}

/// Moves frames from tapes to the file, in order of time as far as they are there, until the tapes are gone.
fn run(mut writer: FileWriter, rings: Vec<Consumer<u8>>) -> io::Result<()> {
    let mut reels: Vec<Reel> = rings.into_iter().map(|ring| Reel { ring, next: None }).collect();
    let mut buffer = vec![0; SNAPLEN_BYTES as usize];
    loop {
        // Asked first: what was written before a tape's end is still found after it.
        let over = reels.iter().all(|reel| reel.ring.is_abandoned());
        let earliest =
            reels.iter_mut().filter_map(|reel| Some((reel.next_at_ns()?, reel))).min_by_key(|(at_ns, _)| *at_ns);
        match earliest {
            Some((_, reel)) => {
                if let Some((at_ns, frame)) = reel.take(&mut buffer) {
                    writer.write(Duration::from_nanos(at_ns), frame)?;
                }
            }
            None if over => return writer.finish(),
            None => std::thread::sleep(NAP),
        }
    }
}

/// A file in either format.
enum FileWriter {
    Pcap(BufWriter<File>),
    PcapNg(PcapNgWriter<BufWriter<File>>),
}

impl FileWriter {
    /// Goes on behind what is whole of the file.
    fn start(mut file: File, format: Format) -> io::Result<Self> {
        let head = head(format)?;
        let mut end = 0;
        if file.metadata()?.is_file() {
            end = whole_bytes(&file, format, head.len() as u64)?;
            file.set_len(end)?;
            file.seek(SeekFrom::Start(end))?;
        }
        let mut file = BufWriter::new(file);
        Ok(match format {
            Format::Pcap => {
                if end == 0 {
                    file.write_all(&head)?;
                }
                Self::Pcap(file)
            }
            Format::PcapNg => {
                let mut writer = PcapNgWriter::new(file).map_err(io::Error::other)?;
                // The library writes nanoseconds, and says so nowhere.
                let options = vec![InterfaceDescriptionOption::IfTsResol(9)];
                let linktype = DataLink::ETHERNET;
                let interface = InterfaceDescriptionBlock { linktype, snaplen: SNAPLEN_BYTES, options };
                writer.write_pcapng_block(interface).map_err(io::Error::other)?;
                Self::PcapNg(writer)
            }
        })
    }

    fn write(&mut self, timestamp: Duration, frame: &[u8]) -> io::Result<()> {
        let original_len = frame.len() as u32;
        match self {
            Self::Pcap(file) => {
                let header = [timestamp.as_secs() as u32, timestamp.subsec_nanos(), original_len, original_len];
                header.iter().try_for_each(|word| file.write_all(&word.to_ne_bytes()))?;
                file.write_all(frame)?;
            }
            Self::PcapNg(writer) => {
                let data = frame.into();
                let block = EnhancedPacketBlock { interface_id: 0, timestamp, original_len, data, options: vec![] };
                writer.write_pcapng_block(block).map_err(io::Error::other)?;
            }
        }
        Ok(())
    }

    fn finish(self) -> io::Result<()> {
        let mut file = match self {
            Self::Pcap(file) => file,
            Self::PcapNg(writer) => writer.into_inner(),
        };
        file.flush()
    }
}
