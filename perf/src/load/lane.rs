//! One queue pair of a guest, driven: frames of a flow out, whatever arrives in, checked.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use virtnet_engine::port::pcap::Capture;
use virtnet_rings::Notifier;
use virtnet_rings::guest::Ram;
use virtnet_rings::guest::net::{HEADER_BYTES, Nic, NicFault, Received};

use super::gremlin::Gremlin;
use super::schedule::Schedule;
use crate::args::Direction;
use crate::frame::{Addressing, Checker, FRAME_BYTES_MAX, FRAME_BYTES_MIN, STAMP_OFFSET, Sizes, template};

/// What guests send.
#[derive(Clone, Debug)]
pub enum Traffic {
    /// Frames of our own.
    Stamped(Sizes),
    /// Those of a capture, again and again.
    Scripted(Script),
}

/// A capture to be sent.
#[derive(Clone, Debug)]
pub struct Script {
    /// Its frames, as they are sent.
    pub frames: Arc<[Box<[u8]>]>,
    /// The capture.
    pub capture: Arc<Capture>,
    /// Where it is from.
    pub path: PathBuf,
}

impl Traffic {
    /// The longest frame.
    pub fn longest_bytes(&self) -> usize {
        match self {
            Traffic::Stamped(sizes) => sizes.longest(),
            Traffic::Scripted(script) => script.frames.iter().map(|frame| frame.len()).max().unwrap_or(0),
        }
    }
}

/// What a lane does in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It sends this flow, and takes no notice of what arrives.
    Sends(u16),
    /// It sends this flow and expects it, or another, back.
    SendsAndExpects(u16),
    /// It expects flows.
    Expects,
    /// It expects this flow, whatever number the frames carry: ports that generate may use the same one for all queues.
    ExpectsAs(u16),
}

impl Role {
    /// Of pair `index` of guest `number`.
    pub fn of(direction: Direction, number: usize, index: u16) -> Self {
        match (direction, number) {
            (Direction::FromGuest, _) | (Direction::GuestToGuest, 0) => Role::Sends(index),
            (Direction::Loopback, _) => Role::SendsAndExpects(index),
            (Direction::ToGuest, _) => Role::ExpectsAs(index),
            (Direction::GuestToGuest, _) => Role::Expects,
        }
    }
}

/// One queue pair.
#[derive(Debug)]
pub struct Lane {
    nic: Nic,
    traffic: Arc<Traffic>,
    addressing: Addressing,
    role: Role,
    next_sequence: u64,
    sent_bytes: u64,
    /// By transmit buffer: how long the frame in it is; 0 before there is one.
    lengths: Box<[u16]>,
    /// The part that has arrived of a frame in several buffers.
    joined: Joined,
    kick_transmit: Notifier,
    kick_receive: Notifier,
}

/// A frame put together from several buffers; what goes beyond any frame's length is counted only.
#[derive(Debug)]
struct Joined {
    bytes: Box<[u8]>,
    len_bytes: usize,
}

impl Joined {
    fn add(&mut self, ram: &Ram, part: Received) {
        let start = self.len_bytes.min(self.bytes.len());
        let end = (start + part.len_bytes as usize).min(self.bytes.len());
        ram.read(part.gpa, &mut self.bytes[start..end]);
        self.len_bytes += part.len_bytes as usize;
    }

    fn read(&self, offset: usize, into: &mut [u8]) {
        into.copy_from_slice(&self.bytes[offset..][..into.len()]);
    }
}

/// Measures from the moment that frames were due.
#[derive(Debug)]
pub struct Stopwatch<'a> {
    /// When the schedule began.
    pub start: Instant,
    /// The schedule.
    pub schedule: &'a Schedule,
    /// First sequence number of the schedule, by flow.
    pub first: &'a [u64],
    /// Where latencies go.
    pub histogram: &'a mut hdrhistogram::Histogram<u64>,
}

impl Stopwatch<'_> {
    #[inline]
    pub fn record(&mut self, flow: u16, sequence: u64, now_ns: u64) {
        let first = self.first[usize::from(flow)];
        // Frames of before the schedule have no due time.
        if let Some(number) = sequence.checked_sub(first) {
            let latency_ns = now_ns.saturating_sub(self.schedule.due_ns(flow, number));
            self.histogram.saturating_record(latency_ns);
        }
    }
}

impl Lane {
    /// Over a card; sends nothing until it is given a flow.
    pub fn new(mut nic: Nic, traffic: Arc<Traffic>, addressing: Addressing) -> Self {
        // We poll.
        nic.receiveq.suppress_interrupts();
        nic.transmitq.suppress_interrupts();
        let lengths = vec![0; usize::from(nic.options().size)].into();
        Lane {
            nic,
            traffic,
            addressing,
            role: Role::Expects,
            next_sequence: 0,
            sent_bytes: 0,
            lengths,
            joined: Joined { bytes: vec![0; FRAME_BYTES_MAX + 1].into(), len_bytes: 0 },
            kick_transmit: Notifier::default(),
            kick_receive: Notifier::default(),
        }
    }

    /// What it is to do from now on.
    pub fn take_role(&mut self, role: Role) {
        self.role = role;
    }

    /// The flow that it sends.
    #[inline]
    pub fn flow(&self) -> Option<u16> {
        match self.role {
            Role::Sends(flow) | Role::SendsAndExpects(flow) => Some(flow),
            Role::Expects | Role::ExpectsAs(_) => None,
        }
    }

    /// Whether what arrives is to be looked at, rather than just taken in.
    #[inline]
    pub fn expects(&self) -> bool {
        !matches!(self.role, Role::Sends(_))
    }

    /// Sends a frame of no flow, addressed like all others.
    ///
    /// # Errors
    /// The device broke the ring.
    pub fn announce(&mut self) -> Result<(), NicFault> {
        self.nic.send(&template(FRAME_BYTES_MIN, u16::MAX, 0, self.addressing))?;
        if self.nic.transmitq.needs_kick() {
            self.kick_transmit.notify();
        }
        Ok(())
    }

    /// Takes in what arrives without looking at it.
    ///
    /// # Errors
    /// The device broke the ring.
    pub fn ignore(&mut self) -> Result<(), NicFault> {
        if self.nic.receive_burst(|_, _| {})? > 0 && self.nic.receiveq.needs_kick() {
            self.kick_receive.notify();
        }
        Ok(())
    }

    /// Connects the lines over which the device is told of buffers.
    pub fn connect(&mut self, kick_receive: Notifier, kick_transmit: Notifier) {
        self.kick_receive = kick_receive;
        self.kick_transmit = kick_transmit;
    }

    /// Tells the device to look, whether it wants to be told or not.
    pub fn kick(&self) {
        self.kick_receive.notify();
        self.kick_transmit.notify();
    }

    /// What it sends.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Card and queues.
    pub fn nic(&self) -> &Nic {
        &self.nic
    }

    /// Frames sent so far, which is also the next sequence number.
    #[inline]
    pub fn sent(&self) -> u64 {
        self.next_sequence
    }

    /// Bytes of the frames sent so far.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes
    }

    /// Of the frames sent, those that the device has used.
    #[inline]
    pub fn used(&self) -> u64 {
        self.next_sequence.saturating_sub(self.nic.unreaped() as u64)
    }

    /// Frames for which the receiveq has buffers.
    pub fn receive_frames_max(&self) -> u64 {
        let options = self.nic.options();
        let buffer_bytes = HEADER_BYTES + options.receive_bytes_max.unwrap_or(options.frame_bytes_max);
        let longest_bytes = HEADER_BYTES + self.traffic.longest_bytes() as u32;
        u64::from(options.receive_buffers) / u64::from(longest_bytes.div_ceil(buffer_bytes))
    }

    /// Sends up to `count` frames; says how many there was room for.
    ///
    /// # Errors
    /// The device broke the ring.
    #[inline]
    pub fn send(&mut self, count: usize) -> Result<usize, NicFault> {
        let Some(flow) = self.flow() else { return Ok(0) };
        let Self { nic, lengths, next_sequence, sent_bytes, traffic, addressing, .. } = self;
        let sent = match &**traffic {
            Traffic::Stamped(sizes) => nic.send_burst(count, |ram, slot| {
                let length = &mut lengths[usize::from(slot.index)];
                if *length == 0 {
                    *length = lay(ram, slot.gpa, *sizes, slot.index, flow, *addressing);
                }
                ram.write_u64(slot.gpa + STAMP_OFFSET as u64, *next_sequence);
                *next_sequence += 1;
                *sent_bytes += u64::from(*length);
                u32::from(*length)
            })?,
            Traffic::Scripted(Script { frames, .. }) => nic.send_burst(count, |ram, slot| {
                let frame = &frames[(*next_sequence % frames.len() as u64) as usize];
                ram.write(slot.gpa, frame);
                *next_sequence += 1;
                *sent_bytes += frame.len() as u64;
                frame.len() as u32
            })?,
        };
        if sent > 0 && self.kick_transmit.is_connected() && self.nic.transmitq.needs_kick() {
            self.kick_transmit.notify();
        }
        Ok(sent)
    }

    /// Takes back what the device has sent.
    ///
    /// # Errors
    /// The device broke the ring.
    #[inline]
    pub fn reap(&mut self) -> Result<usize, NicFault> {
        self.nic.reap()
    }

    /// Receives and checks what is there, up to a burst of buffers. Returns how many buffers came back.
    ///
    /// # Errors
    /// The device broke the ring.
    #[inline]
    pub fn receive(
        &mut self,
        checker: &mut Checker,
        mut stopwatch: Option<&mut Stopwatch<'_>>,
        gremlin: &mut Option<Gremlin>,
    ) -> Result<usize, NicFault> {
        let Self { nic, joined, role, .. } = self;
        let as_flow = if let Role::ExpectsAs(flow) = *role { Some(flow) } else { None };
        let mut now_ns = None;
        let buffers = nic.receive_burst(|ram, part| {
            if let Some(gremlin) = gremlin
                && part.parts == 1
                && gremlin.meddle(ram, part, checker)
            {
                return;
            }
            let marks = if part.parts == 1 {
                checker.check(part.len_bytes as usize, as_flow, |offset, into| ram.read(part.gpa + offset as u64, into))
            } else {
                if part.part == 0 {
                    joined.len_bytes = 0;
                }
                joined.add(ram, part);
                if part.part + 1 < part.parts {
                    return;
                }
                checker.check(joined.len_bytes, as_flow, |offset, into| joined.read(offset, into))
            };
            if let (Some(stopwatch), Some(marks)) = (&mut stopwatch, marks) {
                let now_ns = *now_ns.get_or_insert_with(|| stopwatch.start.elapsed().as_nanos() as u64);
                stopwatch.record(marks.flow, marks.sequence, now_ns);
            }
        })?;
        checker.expect_burst(buffers);
        if buffers > 0 && self.kick_receive.is_connected() && self.nic.receiveq.needs_kick() {
            self.kick_receive.notify();
        }
        Ok(buffers)
    }
}

/// Lays the frame that a transmit buffer will carry from now on.
#[cold]
fn lay(ram: &Ram, gpa: u64, sizes: Sizes, index: u16, flow: u16, addressing: Addressing) -> u16 {
    let frame = template(sizes.at(index.into()), flow, index.into(), addressing);
    ram.write(gpa, &frame);
    frame.len() as u16
}
