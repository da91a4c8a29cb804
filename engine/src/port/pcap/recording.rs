//! Writing what guests send into a file. Each pair has a [`Tape`], a ring of bytes that one thread empties into the
//! file; when all tapes of a recording are gone, it writes what is left, and the last tape's end waits for that.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
use pcap_file::pcapng::blocks::interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption};
use pcap_file::{DataLink, Endianness, PcapError, TsResolution};
use rtrb::{Consumer, Producer, RingBuffer};
use thiserror::Error;

use crate::frame::{FRAME_LEN_MAX, Frame};

/// The longest part of a frame that is recorded: all of it.
pub const SNAPLEN_BYTES: u32 = FRAME_LEN_MAX;
/// What a tape holds until the writer has come by.
pub const RING_BYTES: usize = 4 << 20;

/// Before each frame in the ring: its time, and how long it is.
const MARK_BYTES: usize = 12;
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
    /// The file; one that is there is replaced.
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
    /// Its first bytes could not be written.
    #[error("{path}: {source}")]
    Write {
        /// Which file.
        path: String,
        /// What the library said.
        source: PcapError,
    },
}

/// Starts a recording, and gives a tape for each of `pairs` queue pairs.
///
/// # Errors
/// [`RecordError`].
pub fn record(config: &RecordConfig, pairs: u16) -> Result<Vec<Tape>, RecordError> {
    let path = config.path.display().to_string();
    let create_error = |source| RecordError::Create { path: path.clone(), source };
    let file = BufWriter::new(File::create(&config.path).map_err(create_error)?);
    let writer =
        FileWriter::start(file, config.format).map_err(|source| RecordError::Write { path: path.clone(), source })?;
    let (producers, consumers): (Vec<_>, Vec<_>) = (0..pairs).map(|_| RingBuffer::new(RING_BYTES)).unzip();
    let failed = Arc::new(AtomicBool::new(false));
    let thread = std::thread::Builder::new().name("pcap-writer".into()).spawn({
        let failed = failed.clone();
        move || {
            if run(writer, consumers).is_err() {
                failed.store(true, Ordering::Relaxed);
            }
        }
    });
    let ending = Arc::new(Ending { thread: Some(thread.map_err(create_error)?) });
    Ok(producers.into_iter().map(|ring| Tape::new(ring, failed.clone(), ending.clone())).collect())
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
fn run(mut writer: FileWriter, rings: Vec<Consumer<u8>>) -> Result<(), PcapError> {
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
    Pcap(PcapWriter<BufWriter<File>>),
    PcapNg(PcapNgWriter<BufWriter<File>>),
}

impl FileWriter {
    fn start(file: BufWriter<File>, format: Format) -> Result<Self, PcapError> {
        Ok(match format {
            Format::Pcap => Self::Pcap(PcapWriter::with_header(
                file,
                PcapHeader {
                    snaplen: SNAPLEN_BYTES,
                    datalink: DataLink::ETHERNET,
                    ts_resolution: TsResolution::NanoSecond,
                    endianness: Endianness::native(),
                    ..PcapHeader::default()
                },
            )?),
            Format::PcapNg => {
                let mut writer = PcapNgWriter::new(file)?;
                // The library writes nanoseconds, and says so nowhere.
                let options = vec![InterfaceDescriptionOption::IfTsResol(9)];
                let linktype = DataLink::ETHERNET;
                writer.write_pcapng_block(InterfaceDescriptionBlock { linktype, snaplen: SNAPLEN_BYTES, options })?;
                Self::PcapNg(writer)
            }
        })
    }

    fn write(&mut self, timestamp: Duration, frame: &[u8]) -> Result<(), PcapError> {
        let original_len = frame.len() as u32;
        match self {
            Self::Pcap(writer) => writer.write_packet(&PcapPacket::new(timestamp, original_len, frame)),
            Self::PcapNg(writer) => writer.write_pcapng_block(EnhancedPacketBlock {
                interface_id: 0,
                timestamp,
                original_len,
                data: frame.into(),
                options: vec![],
            }),
        }
        .map(drop)
    }

    fn finish(self) -> Result<(), PcapError> {
        let mut file = match self {
            Self::Pcap(writer) => writer.into_writer(),
            Self::PcapNg(writer) => writer.into_inner(),
        };
        file.flush().map_err(PcapError::IoError)
    }
}
