//! A capture, read into memory.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use pcap_file::pcap::PcapReader;
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption;
use pcap_file::pcapng::{Block, PcapNgReader};
use pcap_file::{DataLink, PcapError, TsResolution};
use thiserror::Error;
use virtnet_rings::memory::{OwnedMemory, Span};

use crate::frame::{FRAME_LEN_MAX, FRAME_LEN_MIN};

/// The most bytes of frames a capture may have.
pub const CAPTURE_BYTES_MAX: usize = 1 << 30;
/// The most frames it may have.
pub const CAPTURE_FRAMES_MAX: usize = 1 << 24;

const PCAPNG_MAGIC: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

/// Why a capture was refused.
#[derive(Debug, Error)]
pub enum CaptureError {
    /// It could not be read.
    #[error("{path}: {source}")]
    Read {
        /// Which file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is not pcap or pcapng, or is damaged.
    #[error("{path}: frame {frame}: {source}")]
    Format {
        /// Which file.
        path: String,
        /// How many frames were read before.
        frame: usize,
        /// What is wrong.
        source: PcapError,
    },
    /// Not of an Ethernet.
    #[error("{path}: link type {found:?}; allowed is Ethernet")]
    LinkType {
        /// Which file.
        path: String,
        /// As found.
        found: DataLink,
    },
    /// Too large to be kept in memory.
    #[error("{path}: more than {CAPTURE_FRAMES_MAX} frames or {CAPTURE_BYTES_MAX} bytes")]
    TooLarge {
        /// Which file.
        path: String,
    },
    /// There is no frame in it that could be sent.
    #[error("{path}: none of its {skipped} frames has {FRAME_LEN_MIN} to {FRAME_LEN_MAX} bytes on an Ethernet")]
    Empty {
        /// Which file.
        path: String,
        /// Frames that cannot be sent.
        skipped: usize,
    },
}

/// One frame: where its bytes are, and when it was captured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shot {
    offset: usize,
    pub(super) len_bytes: u32,
    /// Since the first one.
    pub(super) at_ns: u64,
}

/// What was found in a capture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CaptureSummary {
    /// Frames to replay.
    pub frames: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Those of them that were not captured whole, and are replayed as far as they go.
    pub truncated: usize,
    /// Frames left out: too short, too long, or not from an Ethernet.
    pub skipped: usize,
}

/// A capture in memory, never changed, lent to as many ports as like.
#[derive(Debug)]
pub struct Capture {
    memory: OwnedMemory,
    shots: Box<[Shot]>,
    summary: CaptureSummary,
}

impl Capture {
    /// Reads a pcap or pcapng file whole.
    ///
    /// # Errors
    /// [`CaptureError`].
    pub fn load(path: &Path) -> Result<Self, CaptureError> {
        let name = path.display().to_string();
        let read_error = |source| CaptureError::Read { path: name.clone(), source };
        let mut file = File::open(path).map_err(read_error)?;
        let mut magic = [0; 4];
        file.read_exact(&mut magic).map_err(read_error)?;
        file.seek(SeekFrom::Start(0)).map_err(read_error)?;
        let mut reel = Reel { path: name, bytes: Vec::new(), shots: Vec::new(), summary: CaptureSummary::default() };
        if magic == PCAPNG_MAGIC {
            reel.read_pcapng(file)?
        } else {
            reel.read_pcap(file)?
        }
        reel.develop()
    }

    /// What was found.
    pub fn summary(&self) -> CaptureSummary {
        self.summary
    }

    /// Copies of all frames, in order.
    pub fn frames(&self) -> impl Iterator<Item = Vec<u8>> {
        self.shots.iter().map(|&shot| {
            let mut frame = vec![0; shot.len_bytes as usize];
            self.span(shot).read(&mut frame);
            frame
        })
    }

    /// When each frame was captured, in nanoseconds since the first one, in order.
    pub fn times_ns(&self) -> impl Iterator<Item = u64> {
        self.shots.iter().map(|shot| shot.at_ns)
    }

    /// Frames a second on the average, as they were captured; none if all were captured at once.
    pub fn rate_pps(&self) -> Option<f64> {
        let length_ns = self.shots.last().filter(|shot| shot.at_ns > 0)?.at_ns;
        Some((self.shots.len() - 1) as f64 * 1e9 / length_ns as f64)
    }

    pub(super) fn shots(&self) -> &[Shot] {
        &self.shots
    }

    #[inline]
    pub(super) fn span(&self, shot: Shot) -> Span {
        self.memory.span(shot.offset, shot.len_bytes as usize)
    }
}

/// A capture while it is read.
struct Reel {
    path: String,
    bytes: Vec<u8>,
    /// With absolute times until [`Reel::develop`].
    shots: Vec<Shot>,
    summary: CaptureSummary,
}

impl Reel {
    fn read_pcap(&mut self, file: File) -> Result<(), CaptureError> {
        let mut reader = PcapReader::new(file).map_err(|source| self.format_error(source))?;
        let header = reader.header();
        if header.datalink != DataLink::ETHERNET {
            return Err(CaptureError::LinkType { path: self.path.clone(), found: header.datalink });
        }
        let unit_ns = if header.ts_resolution == TsResolution::NanoSecond { 1 } else { 1000 };
        // Raw, because a frame that was captured in part is an error to the cooked reader.
        while let Some(packet) = reader.next_raw_packet() {
            let packet = packet.map_err(|source| self.format_error(source))?;
            let at_ns = u64::from(packet.ts_sec) * 1_000_000_000 + u64::from(packet.ts_frac) * unit_ns;
            self.add(&packet.data, packet.orig_len, at_ns)?;
        }
        Ok(())
    }

    fn read_pcapng(&mut self, file: File) -> Result<(), CaptureError> {
        let mut reader = PcapNgReader::new(file).map_err(|source| self.format_error(source))?;
        // Of the section being read: whether each interface is an Ethernet, and its units of time.
        let mut interfaces: Vec<Option<TimeUnit>> = Vec::new();
        while let Some(block) = reader.next_block() {
            match block.map_err(|source| self.format_error(source))? {
                Block::SectionHeader(_) => interfaces.clear(),
                Block::InterfaceDescription(interface) => {
                    let is_ethernet = interface.linktype == DataLink::ETHERNET;
                    interfaces.push(is_ethernet.then(|| TimeUnit::of(&interface.options)));
                }
                Block::EnhancedPacket(packet) => match interfaces.get(packet.interface_id as usize) {
                    None => return Err(self.format_error(PcapError::InvalidInterfaceId(packet.interface_id))),
                    Some(None) => self.summary.skipped += 1,
                    // The library hands out the file's number as if it were nanoseconds.
                    Some(Some(unit)) => {
                        let at_ns = unit.to_ns(packet.timestamp.as_nanos() as u64);
                        self.add(&packet.data, packet.original_len, at_ns)?;
                    }
                },
                // These have no time; they follow the one before.
                Block::SimplePacket(packet) => match interfaces.first() {
                    Some(Some(_)) => {
                        let at_ns = self.shots.last().map_or(0, |shot| shot.at_ns);
                        // The library leaves the padding on.
                        let len_bytes = packet.data.len().min(packet.original_len as usize);
                        self.add(&packet.data[..len_bytes], packet.original_len, at_ns)?;
                    }
                    _ => self.summary.skipped += 1,
                },
                _ => {}
            }
        }
        Ok(())
    }

    fn add(&mut self, frame: &[u8], original_len: u32, at_ns: u64) -> Result<(), CaptureError> {
        if !(FRAME_LEN_MIN as usize..=FRAME_LEN_MAX as usize).contains(&frame.len()) {
            self.summary.skipped += 1;
            return Ok(());
        }
        if self.shots.len() == CAPTURE_FRAMES_MAX || self.bytes.len() + frame.len() > CAPTURE_BYTES_MAX {
            return Err(CaptureError::TooLarge { path: self.path.clone() });
        }
        self.summary.truncated += usize::from((frame.len() as u64) < u64::from(original_len));
        self.shots.push(Shot { offset: self.bytes.len(), len_bytes: frame.len() as u32, at_ns });
        self.bytes.extend_from_slice(frame);
        Ok(())
    }

    fn develop(mut self) -> Result<Capture, CaptureError> {
        let Some(start_ns) = self.shots.iter().map(|shot| shot.at_ns).min() else {
            return Err(CaptureError::Empty { path: self.path, skipped: self.summary.skipped });
        };
        // Captures of several interfaces are not always in order of time; a replay goes by the order in the file.
        let mut latest_ns = 0;
        for shot in &mut self.shots {
            latest_ns = latest_ns.max(shot.at_ns - start_ns);
            shot.at_ns = latest_ns;
        }
        self.summary.frames = self.shots.len();
        self.summary.bytes = self.bytes.len();
        let memory = OwnedMemory::new(self.bytes.len());
        // A span counts in 32 bits; the capture may have more.
        for shot in &self.shots {
            let bytes = &self.bytes[shot.offset..][..shot.len_bytes as usize];
            memory.span(shot.offset, bytes.len()).write(bytes);
        }
        Ok(Capture { memory, shots: self.shots.into(), summary: self.summary })
    }

    fn format_error(&self, source: PcapError) -> CaptureError {
        CaptureError::Format { path: self.path.clone(), frame: self.shots.len() + self.summary.skipped, source }
    }
}

/// `if_tsresol`: a negative power of ten, or of two where the top bit is set.
#[derive(Clone, Copy, Debug)]
struct TimeUnit(u8);

impl TimeUnit {
    const MICROSECOND: Self = Self(6);

    fn of(options: &[InterfaceDescriptionOption]) -> Self {
        let resolution = options.iter().find_map(|option| match option {
            InterfaceDescriptionOption::IfTsResol(resolution) => Some(Self(*resolution)),
            _ => None,
        });
        resolution.unwrap_or(Self::MICROSECOND)
    }

    fn to_ns(self, units: u64) -> u64 {
        let exponent = u32::from(self.0 & 0x7f);
        let base: u128 = if self.0 & 0x80 == 0 { 10 } else { 2 };
        // A unit too small to be told from none.
        let per_second = base.checked_pow(exponent).unwrap_or(u128::MAX);
        u64::try_from(u128::from(units) * 1_000_000_000 / per_second).unwrap_or(u64::MAX)
    }
}
