//! A network card's driver: a receiveq kept stocked with buffers, a transmitq, and the buffers of both. ("Network Device")
//!
//! `send` and `receive` are for tests, one frame at a time. `send_burst` and `receive_burst` are for load: frames are
//! written and read where they lie, one publication a burst. None of them notifies the device: ask the queue's
//! `needs_kick` after it.

use std::sync::Arc;

use super::{Buffer, Completed, Driver, Fault, Layout, Options, OutOfMemory, Ram, Refused, SetupError, Virtqueue};

/// Length of the header before each frame; a legacy driver's that does not merge buffers lacks the last two.
pub const HEADER_BYTES: u32 = 12;
const LEGACY_HEADER_BYTES: u32 = 10;
/// Length of the same with a hash behind it.
const HASH_HEADER_BYTES: u32 = 20;

/// Most places at which a buffer can be cut into descriptors.
pub const CUTS_MAX: usize = 7;

const BURST: usize = 64;
const LINE_BYTES: u64 = 64;

/// The header before each frame. ("Device Operation" of the network device)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// 1: a checksum is to be filled in; 2: the checksum is good.
    pub flags: u8,
    /// 0: none, 1: TCPv4, 3: UDP fragments, 4: TCPv6, 5: UDP; 0x80 added: with ECN.
    pub gso_type: u8,
    /// Length of the headers before what is to be cut, in bytes.
    pub hdr_len: u16,
    /// Payload bytes per segment.
    pub gso_size: u16,
    /// Where summing starts, in bytes from the frame's start.
    pub csum_start: u16,
    /// Where the sum goes, in bytes after that.
    pub csum_offset: u16,
    /// Chains that hold the frame.
    pub num_buffers: u16,
}

impl Header {
    /// As it lies in memory.
    pub fn to_bytes(self) -> [u8; HEADER_BYTES as usize] {
        let mut bytes = [self.flags, self.gso_type, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let words = [self.hdr_len, self.gso_size, self.csum_start, self.csum_offset, self.num_buffers];
        for (at, word) in bytes[2..].chunks_exact_mut(2).zip(words) {
            at.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// From memory.
    pub fn from_bytes(bytes: [u8; HEADER_BYTES as usize]) -> Self {
        let word = |at| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        Self {
            flags: bytes[0],
            gso_type: bytes[1],
            hdr_len: word(2),
            gso_size: word(4),
            csum_start: word(6),
            csum_offset: word(8),
            num_buffers: word(10),
        }
    }
}

/// What a card is made with.
#[derive(Clone, Debug)]
pub struct NicOptions {
    /// Of both queues.
    pub layout: Layout,
    /// Of both queues, in descriptors.
    pub size: u16,
    /// Of both queues. With `indirect`, a chain of more than one descriptor is laid in a table.
    pub queue: Options,
    /// VIRTIO_NET_F_MRG_RXBUF: a frame may arrive in several buffers.
    pub mergeable: bool,
    /// Its driver knows the legacy interface only: no VIRTIO_F_VERSION_1.
    pub legacy: bool,
    /// VIRTIO_NET_F_HASH_REPORT: headers have a hash.
    pub hash_report: bool,
    /// Frame bytes that a buffer has room for, besides the header.
    pub frame_bytes_max: u32,
    /// The same of receive buffers, where frames may arrive in several; `None` is as many.
    pub receive_bytes_max: Option<u32>,
    /// Receive buffers kept on offer, as far as the queue has room for them.
    pub receive_buffers: u16,
    /// Lengths of the first descriptors of each receive buffer; what is left is the last one. At most `CUTS_MAX`.
    pub receive_cuts: Vec<u32>,
    /// The same of each frame sent, its header included.
    pub transmit_cuts: Vec<u32>,
}

impl Default for NicOptions {
    /// A split queue of 256 with one descriptor a chain, for frames of up to 1522 bytes.
    fn default() -> Self {
        Self {
            layout: Layout::Split,
            size: 256,
            queue: Options::default(),
            mergeable: false,
            legacy: false,
            hash_report: false,
            frame_bytes_max: 1522,
            receive_bytes_max: None,
            receive_buffers: 256,
            receive_cuts: vec![],
            transmit_cuts: vec![],
        }
    }
}

impl NicOptions {
    fn header_bytes(&self) -> u32 {
        match (self.hash_report, self.legacy && !self.mergeable) {
            (true, _) => HASH_HEADER_BYTES,
            (false, true) => LEGACY_HEADER_BYTES,
            (false, false) => HEADER_BYTES,
        }
    }
}

/// What a network device got wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NicFault {
    /// The ring.
    #[error(transparent)]
    Ring(#[from] Fault),
    /// A receive buffer came back with something in it, but less than a header.
    #[error("{len_bytes} bytes received, less than a header has")]
    HeaderShort {
        /// Bytes written.
        len_bytes: u32,
    },
    /// A header that says that its frame is in no buffer at all.
    #[error("num_buffers is 0")]
    NoBuffers,
}

/// A frame's place in guest memory, to be written and sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Which of the card's transmit buffers it is: below the queue's size.
    pub index: u16,
    /// Guest physical address of the frame, a multiple of 64; the header is before it.
    pub gpa: u64,
}

/// A buffer with a frame in it, or with the part of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Guest physical address of the frame's bytes, after the header if this is the first part.
    pub gpa: u64,
    /// How many they are.
    pub len_bytes: u32,
    /// Which part, from 0.
    pub part: u16,
    /// Of how many.
    pub parts: u16,
}

/// Buffers of one queue, side by side, one for each id that a chain can have: a chain's buffer goes by its id. Each begins on a cache line boundary less a header, so that the frame begins on
/// one; they are an odd number of lines apart, so that they do not all fall into the same few sets of a cache.
#[derive(Debug)]
struct Slots {
    gpa: u64,
    stride_bytes: u64,
    header_bytes: u32,
    frame_bytes_max: u32,
}

impl Slots {
    fn new(ram: &Ram, count: u16, header_bytes: u32, frame_bytes_max: u32) -> Result<Self, OutOfMemory> {
        let lines = (LINE_BYTES + u64::from(frame_bytes_max)).div_ceil(LINE_BYTES) | 1;
        let gpa = ram.alloc(u64::from(count) * lines * LINE_BYTES, LINE_BYTES)?;
        Ok(Self { gpa, stride_bytes: lines * LINE_BYTES, header_bytes, frame_bytes_max })
    }

    /// Where the header is.
    #[inline]
    fn at(&self, id: u16) -> u64 {
        self.frame_at(id) - u64::from(self.header_bytes)
    }

    /// Where the frame is, behind it.
    #[inline]
    fn frame_at(&self, id: u16) -> u64 {
        self.gpa + u64::from(id) * self.stride_bytes + LINE_BYTES
    }

    /// Has a frame written, with an empty header before it.
    #[inline(always)]
    fn fill(&self, id: u16, ram: &Ram, fill: &mut impl FnMut(&Ram, Slot) -> u32) -> Buffer {
        let gpa = self.frame_at(id);
        // As drivers do: a header that stays as it was stays in the device's cache. What a short one lacks is room before it.
        const EMPTY: [u8; HEADER_BYTES as usize] = [0; HEADER_BYTES as usize];
        let mut header = EMPTY;
        let header_at = gpa - u64::from(self.header_bytes.max(HEADER_BYTES));
        ram.read(header_at, &mut header);
        if header != EMPTY {
            ram.write(header_at, &EMPTY);
        }
        let frame_bytes = fill(ram, Slot { index: id, gpa });
        debug_assert!(frame_bytes <= self.frame_bytes_max);
        Buffer::readable(self.at(id), self.header_bytes + frame_bytes)
    }
}

/// What bursts go over, once it is known which layout it is.
impl Slots {
    #[inline]
    fn send(
        &self,
        queue: &mut impl Virtqueue,
        ram: &Ram,
        count: usize,
        mut fill: impl FnMut(&Ram, Slot) -> u32,
    ) -> usize {
        let sent = queue.offer_each(count, |id| Some((self.fill(id, ram, &mut fill), u32::from(id))));
        queue.publish();
        sent
    }

    #[inline]
    fn collect(&self, queue: &mut impl Virtqueue, ram: &Ram, done: &mut [Completed]) -> Result<usize, Fault> {
        let mut places = done.iter_mut();
        queue.collect_each(places.len(), |completed| {
            // Where the header ends and the frame begins.
            ram.prefetch(self.at(completed.id));
            ram.prefetch(self.frame_at(completed.id));
            places.next().into_iter().for_each(|place| *place = completed);
        })
    }

    #[inline]
    fn stock(&self, queue: &mut impl Virtqueue, count: usize) -> usize {
        queue.offer_each(count, |id| Some((self.whole(id), u32::from(id))))
    }

    /// The whole of a buffer, to be written.
    #[inline(always)]
    fn whole(&self, id: u16) -> Buffer {
        Buffer::writable(self.at(id), self.header_bytes + self.frame_bytes_max)
    }
}

/// A card: one pair of queues.
#[derive(Debug)]
pub struct Nic {
    /// Queue of arriving frames.
    pub receiveq: Driver,
    /// Queue of leaving frames.
    pub transmitq: Driver,
    ram: Arc<Ram>,
    options: NicOptions,
    receive_slots: Slots,
    transmit_slots: Slots,
    /// Receive buffers to be offered.
    unstocked: usize,
    /// Where we are in a frame of several buffers.
    part: u16,
    parts: u16,
    /// What `receive` has of it.
    joined: Vec<u8>,
    header: [u8; HASH_HEADER_BYTES as usize],
    empty_buffers: u64,
    foreign_chains: u64,
}

impl Nic {
    /// Makes a card in `ram` and stocks its receiveq.
    ///
    /// # Panics
    /// If more than `CUTS_MAX` cuts are asked for.
    pub fn new(ram: &Arc<Ram>, options: NicOptions) -> Result<Self, SetupError> {
        assert!(options.receive_cuts.len() <= CUTS_MAX && options.transmit_cuts.len() <= CUTS_MAX, "too many cuts");
        let header_bytes = options.header_bytes();
        let receive_bytes_max = options.receive_bytes_max.unwrap_or(options.frame_bytes_max);
        let mut nic = Self {
            receiveq: Driver::new(ram, options.layout, options.size, options.queue)?,
            transmitq: Driver::new(ram, options.layout, options.size, options.queue)?,
            ram: Arc::clone(ram),
            receive_slots: Slots::new(ram, options.size, header_bytes, receive_bytes_max)?,
            transmit_slots: Slots::new(ram, options.size, header_bytes, options.frame_bytes_max)?,
            unstocked: usize::from(options.receive_buffers.min(options.size)),
            part: 0,
            parts: 0,
            joined: vec![],
            header: [0; HASH_HEADER_BYTES as usize],
            empty_buffers: 0,
            foreign_chains: 0,
            options,
        };
        nic.restock();
        Ok(nic)
    }

    /// The memory it is in.
    pub fn ram(&self) -> &Arc<Ram> {
        &self.ram
    }

    /// What it was made with.
    pub fn options(&self) -> &NicOptions {
        &self.options
    }

    /// The header of the frame received last.
    pub fn header(&self) -> Header {
        Header::from_bytes(*self.header.first_chunk().expect("the shorter part"))
    }

    /// Value and kind of its hash, with `hash_report`. ("Hash reporting for incoming packets")
    pub fn hash(&self) -> (u32, u16) {
        let [a, b, c, d, low, high, ..] = self.header[HEADER_BYTES as usize..] else { return (0, 0) };
        (u32::from_le_bytes([a, b, c, d]), u16::from_le_bytes([low, high]))
    }

    /// Receive buffers that came back with nothing in them.
    pub fn empty_buffers(&self) -> u64 {
        self.empty_buffers
    }

    /// Chains that came back and were not ours: offered straight on a queue, with a token that is not their id.
    pub fn foreign_chains(&self) -> u64 {
        self.foreign_chains
    }

    /// Sends a frame with an empty header. False if there is no room now.
    ///
    /// # Panics
    /// If the frame is longer than `frame_bytes_max`.
    pub fn send(&mut self, frame: &[u8]) -> Result<bool, NicFault> {
        let cuts = std::mem::take(&mut self.options.transmit_cuts);
        let sent = self.send_with(Header::default(), frame, &cuts);
        self.options.transmit_cuts = cuts;
        sent
    }

    /// Sends a frame with this header, cut into descriptors of these lengths and one for what is left.
    ///
    /// # Panics
    /// If the frame is longer than `frame_bytes_max`, or there are more than `CUTS_MAX` cuts.
    pub fn send_with(&mut self, header: Header, frame: &[u8], cuts: &[u32]) -> Result<bool, NicFault> {
        assert!(frame.len() <= self.options.frame_bytes_max as usize, "a frame of {} bytes", frame.len());
        self.reap()?;
        let id = self.transmitq.next_id();
        if self.transmitq.free() == 0 {
            return Ok(false);
        }
        let Slots { header_bytes, .. } = self.transmit_slots;
        self.ram.write(self.transmit_slots.at(id), &header.to_bytes()[..header_bytes.min(HEADER_BYTES) as usize]);
        self.ram.write(self.transmit_slots.frame_at(id), frame);
        let whole = Buffer::readable(self.transmit_slots.at(id), header_bytes + frame.len() as u32);
        let sent = offer_cut(&mut self.transmitq, whole, cuts, id);
        self.transmitq.publish();
        Ok(sent)
    }

    /// Sends up to `count` frames: `fill` writes each into its slot and says how long it is, at most `frame_bytes_max`.
    /// A slot keeps its contents from one time to the next. Returns how many there was room for.
    #[inline]
    pub fn send_burst(&mut self, count: usize, fill: impl FnMut(&Ram, Slot) -> u32) -> Result<usize, NicFault> {
        if self.transmitq.free() < count * (1 + self.options.transmit_cuts.len()) {
            self.reap()?;
        }
        if !self.options.transmit_cuts.is_empty() {
            return Ok(self.send_burst_cut(count, fill));
        }
        let Self { transmitq, transmit_slots: slots, ram, .. } = self;
        Ok(match transmitq {
            Driver::Split(queue) => slots.send(queue, ram, count, fill),
            Driver::Packed(queue) => slots.send(queue, ram, count, fill),
        })
    }

    #[inline(never)]
    fn send_burst_cut(&mut self, count: usize, mut fill: impl FnMut(&Ram, Slot) -> u32) -> usize {
        let mut sent = 0;
        while sent < count && self.transmitq.free() > 0 {
            let id = self.transmitq.next_id();
            let whole = self.transmit_slots.fill(id, &self.ram, &mut fill);
            if !offer_cut(&mut self.transmitq, whole, &self.options.transmit_cuts, id) {
                break;
            }
            sent += 1;
        }
        self.transmitq.publish();
        sent
    }

    /// Takes back the buffers of frames that the device has sent. Returns how many.
    #[inline]
    pub fn reap(&mut self) -> Result<usize, NicFault> {
        let mut foreign = 0;
        let reaped = self.transmitq.collect_each(usize::MAX, |completed| {
            foreign += u64::from(completed.token != u32::from(completed.id));
        });
        self.foreign_chains += foreign;
        Ok(reaped?)
    }

    /// Frames sent that the device still has.
    pub fn unreaped(&self) -> usize {
        self.transmitq.in_flight()
    }

    /// Receives a frame into `frame`, in place of what was there; `header` has what came with it. False if none is
    /// there yet.
    pub fn receive(&mut self, frame: &mut Vec<u8>) -> Result<bool, NicFault> {
        loop {
            let mut joined = std::mem::take(&mut self.joined);
            let mut whole = false;
            let visited = self.receive_parts(1, |ram, received| {
                let start = joined.len();
                joined.resize(start + received.len_bytes as usize, 0);
                ram.read(received.gpa, &mut joined[start..]);
                whole = received.part + 1 == received.parts;
            });
            if whole {
                std::mem::swap(frame, &mut joined);
                joined.clear();
            }
            self.joined = joined;
            if visited? == 0 || whole {
                return Ok(whole);
            }
        }
    }

    /// Visits up to 64 buffers of frames that have arrived, in order, then offers them again. Returns how many they were.
    #[inline]
    pub fn receive_burst(&mut self, visit: impl FnMut(&Ram, Received)) -> Result<usize, NicFault> {
        self.receive_parts(BURST, visit)
    }

    /// Visits up to `room` buffers, `BURST` at most.
    #[inline]
    fn receive_parts(&mut self, room: usize, mut visit: impl FnMut(&Ram, Received)) -> Result<usize, NicFault> {
        let mut done = [Completed::default(); BURST];
        let Self { receiveq, receive_slots: slots, ram, .. } = self;
        let arrived = match receiveq {
            Driver::Split(queue) => slots.collect(queue, ram, &mut done[..room]),
            Driver::Packed(queue) => slots.collect(queue, ram, &mut done[..room]),
        }?;
        for completed in &done[..arrived] {
            if completed.token != u32::from(completed.id) {
                self.foreign_chains += 1;
                continue;
            }
            self.unstocked += 1;
            if completed.len_bytes == 0 {
                self.empty_buffers += 1;
                continue;
            }
            let Slots { header_bytes, .. } = self.receive_slots;
            let gpa = self.receive_slots.at(completed.id);
            let mut received = Received { gpa, len_bytes: completed.len_bytes, part: self.part, parts: self.parts };
            if self.part == self.parts {
                if completed.len_bytes < header_bytes {
                    return Err(NicFault::HeaderShort { len_bytes: completed.len_bytes });
                }
                self.ram.read(gpa, &mut self.header[..header_bytes as usize]);
                let num_buffers = u16::from_le_bytes([self.header[10], self.header[11]]);
                let parts = if self.options.mergeable { num_buffers } else { 1 };
                if parts == 0 {
                    return Err(NicFault::NoBuffers);
                }
                let len_bytes = completed.len_bytes - header_bytes;
                received = Received { gpa: gpa + u64::from(header_bytes), len_bytes, part: 0, parts };
            }
            visit(&self.ram, received);
            (self.part, self.parts) = (received.part + 1, received.parts);
        }
        if arrived > 0 {
            self.restock();
        }
        Ok(arrived)
    }

    /// Offers what receive buffers there are, as far as there is room.
    #[inline]
    fn restock(&mut self) {
        let Self { receiveq, receive_slots: slots, options, .. } = self;
        if options.receive_cuts.is_empty() {
            self.unstocked -= match receiveq {
                Driver::Split(queue) => slots.stock(queue, self.unstocked),
                Driver::Packed(queue) => slots.stock(queue, self.unstocked),
            };
        } else {
            while self.unstocked > 0 && receiveq.free() > 0 {
                let id = receiveq.next_id();
                if !offer_cut(receiveq, slots.whole(id), &options.receive_cuts, id) {
                    break;
                }
                self.unstocked -= 1;
            }
        }
        receiveq.publish();
    }
}

/// Offers `whole`, the buffer of the next id, as descriptors of the lengths `cuts` and one for what is left. False if there
/// is no room.
fn offer_cut(queue: &mut Driver, whole: Buffer, cuts: &[u32], id: u16) -> bool {
    assert!(cuts.len() <= CUTS_MAX, "too many cuts");
    let mut chain = [whole; CUTS_MAX + 1];
    let mut count = 0;
    let mut rest = whole;
    for &cut in cuts.iter().chain([&u32::MAX]) {
        let len_bytes = cut.min(rest.len_bytes);
        if len_bytes > 0 {
            chain[count] = Buffer { len_bytes, ..rest };
            count += 1;
        }
        rest.gpa += u64::from(len_bytes);
        rest.len_bytes -= len_bytes;
    }
    let chain = &chain[..count];
    let offered = match queue.options().indirect && count > 1 {
        true => queue.offer_indirect(chain, u32::from(id)),
        false => queue.offer(chain, u32::from(id)),
    };
    match offered {
        Ok(()) => true,
        Err(Refused::Full { .. }) => false,
        Err(refused) => panic!("these cuts do not fit this queue: {refused}"),
    }
}

#[cfg(test)]
mod tests;
