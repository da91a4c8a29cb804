//! The server's side of one connection: it carries a function's registers, the guest's memory and the function's interrupts.
//!
//! A message that is refused changes nothing and is answered with an errno. What a driver writes in vain is no fault of its
//! client's: that is answered as any write, and counted.

mod migration;
mod refusal;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};

use rustix::fs::{FileType, fstat};
use virtnet_engine::caller::Line;
use virtnet_rings::memory::{
    DIRTY_PAGE_SIZE_BYTES, GuestMemory, Mapping, MemoryError, Permissions, REGIONS_MAX, Region, RegionSpec,
    TRANSLATION_ALIGN_BYTES,
};

use migration::{Log, Migration};
pub use refusal::Refusal;

use super::message::{
    Action, Ask, CONFIG_REGION, Connection, DESCRIPTORS_MAX, DeviceInfo, DmaAccess, DmaMap, DmaUnmap, Header, INTX_IRQ,
    IRQS, IoEventfd, IrqInfo, Irqs, MSIX_IRQ, Message, ProtocolError, REGIONS, Received, RegionAccess, RegionInfo,
    RegionIoFds, Request, SocketError, Version,
};
use crate::pci::config_space::{BARS, CONFIG_BYTES};
use crate::transport::{self, Backend, Counters, Resetter, line};
use crate::virtio_pci::Function;
use crate::virtio_pci::layout::VIRTIO_BAR;
use crate::virtio_pci::shadow::dma::{Transfer, Unreachable, Wanted};

/// What became of a look at the socket.
pub type Served = transport::Served<Refusal, SocketError>;

/// Some of the guest's memory.
#[derive(Debug)]
struct Map {
    len_bytes: u64,
    /// None, where the client has no file of it, and is asked, or lets nobody use it.
    shown: Option<(Region, Permissions)>,
}

/// Messages that a client is asked to answer at a time: as many as its socket holds, should it not read for a while.
const ASKED_MAX: usize = 8;

/// A file: its file system and its number there.
type FileId = (u64, u64);

/// What goes back for a message that was taken.
#[derive(Debug, Default)]
struct Reply {
    body: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

impl From<Vec<u8>> for Reply {
    fn from(body: Vec<u8>) -> Self {
        Self { body, descriptors: Vec::new() }
    }
}

/// One connection with a client.
#[derive(Debug)]
pub struct Session {
    connection: Connection,
    /// What the client has said of itself.
    version: Option<Version>,
    /// By their addresses.
    maps: BTreeMap<u64, Map>,
    /// What of files is mapped here.
    files: BTreeMap<FileId, Weak<Mapping>>,
    /// There has been memory without a file, which the log tells once.
    has_remote: bool,
    function: Box<Function>,
    /// What the client was asked and has not answered, by the name of the message.
    asked: HashMap<u16, Arc<Transfer>>,
    /// The name of the next.
    next_id: u16,
    migration: Migration,
    /// Where it is logged what is written, while it is.
    log: Option<Log>,
    counters: Counters,
}

impl Session {
    /// A session over a connected socket, for a function.
    pub fn new(stream: OwnedFd, function: Box<Function>) -> Self {
        let (version, maps, files, has_remote, asked, next_id) = Default::default();
        let (migration, log, counters) = Default::default();
        let connection = Connection::new(stream);
        Self { connection, version, maps, files, has_remote, function, asked, next_id, migration, log, counters }
    }

    /// Takes at most one message, and never waits.
    pub fn serve(&mut self, device: &mut impl Backend) -> Served {
        let served = self.serve_message(device);
        if matches!(served, Served::Ended(_)) {
            return served;
        }
        match self.copy(device) {
            Err(error) => self.end(error),
            Ok(Err(refusal)) if !matches!(served, Served::Refused(_)) => Served::Refused(refusal),
            Ok(_) => served,
        }
    }

    /// Goes on with rings whose memory is reached by messages, and asks the client for what they want.
    fn copy(&mut self, device: &mut impl Backend) -> Result<Result<(), Refusal>, SocketError> {
        let copied = self.function.copy(device).map_err(Refusal::Ring);
        if let Err(refusal) = &copied {
            self.counters.count(refusal.name());
        }
        while self.asked.len() < ASKED_MAX
            && let Some(transfer) = self.function.remote().dma().take()
        {
            let (ask, count, data) = match &transfer.wanted {
                Wanted::Read(count) => (Ask::DMA_READ, *count, &[][..]),
                Wanted::Write(bytes) => (Ask::DMA_WRITE, bytes.len(), &bytes[..]),
            };
            let body = [&DmaAccess { address: transfer.address, count: count as u64 }.to_bytes(), data].concat();
            while self.asked.contains_key(&self.next_id) {
                self.next_id = self.next_id.wrapping_add(1);
            }
            self.connection.send(Header::ask(self.next_id, ask, body.len()), &body, &[]).map_err(unread(ask as u16))?;
            self.asked.insert(self.next_id, transfer);
        }
        Ok(copied)
    }

    /// The client has answered.
    fn answered(&mut self, message: &Message) -> Result<(), Refusal> {
        let Message { header: Header { id, command, flags, .. }, body, .. } = message;
        let refused = ProtocolError::Reply { command: *command, id: *id, found: body.len() };
        let transfer = self.asked.remove(id).ok_or_else(|| refused.clone())?;
        let outcome = match &transfer.wanted {
            _ if flags & Header::ERROR != 0 => Err(Unreachable),
            Wanted::Read(count) => body
                .get(DmaAccess::LEN_BYTES..)
                .filter(|data| data.len() == *count)
                .map(<[u8]>::to_vec)
                .ok_or(Unreachable),
            Wanted::Write(_) => Ok(Vec::new()),
        };
        let is_good = outcome.is_ok() || flags & Header::ERROR != 0;
        transfer.answer(outcome);
        if is_good { Ok(()) } else { Err(refused.into()) }
    }

    fn serve_message(&mut self, device: &mut impl Backend) -> Served {
        let message = match self.connection.receive() {
            Ok(Received::Message(message)) => message,
            Ok(Received::NotYet) => return Served::Nothing,
            Ok(Received::Gone) => return Served::Ended(None),
            Err(error) => return self.end(error),
        };
        self.counters.messages += 1;
        if message.header.is_reply() {
            return match self.answered(&message) {
                Ok(()) => Served::Message,
                Err(refusal) => self.refuse(refusal),
            };
        }
        let header = message.header;
        let request = Request::new(message).map_err(Refusal::from);
        let outcome = request.and_then(|request| self.take(request, device));
        self.counters.recoveries += self.function.take_recoveries();
        if let Err(error) = self.answer(&header, &outcome) {
            return self.end(error);
        }
        match outcome {
            Ok(_) => Served::Message,
            Err(Refusal::Protocol(error)) if error.ends_the_session() => self.end(SocketError::Protocol(error)),
            Err(refusal) => self.refuse(refusal),
        }
    }

    fn refuse(&mut self, refusal: Refusal) -> Served {
        self.counters.count(refusal.name());
        Served::Refused(refusal)
    }

    /// The client has left: the function without its memory, its rings taken back from the device. To be called once, when the
    /// session is over.
    pub fn close(mut self, device: &mut impl Backend) -> (Counters, Box<Function>) {
        self.function.leave(device);
        self.end_migration(device);
        (self.counters, self.function)
    }

    /// What has come so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The function that is carried.
    pub fn function(&self) -> &Function {
        &self.function
    }

    /// The same, to be changed.
    pub fn function_mut(&mut self) -> &mut Function {
        &mut self.function
    }

    fn end(&mut self, error: SocketError) -> Served {
        if let SocketError::Protocol(error) = &error {
            self.counters.count(error.name());
        }
        Served::Ended(Some(error))
    }

    fn answer(&self, header: &Header, outcome: &Result<Reply, Refusal>) -> Result<(), SocketError> {
        if !header.wants_reply() {
            return Ok(());
        }
        let sent = match outcome {
            Ok(Reply { body, descriptors }) => {
                let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
                self.connection.send(header.reply(body.len()), body, &descriptors)
            }
            Err(Refusal::Register { access, .. }) => {
                self.connection.send(header.reply(RegionAccess::LEN_BYTES), &access.to_bytes(), &[])
            }
            Err(refusal) => self.connection.send(header.refusal(refusal.errno().raw_os_error() as u32), &[], &[]),
        };
        sent.map_err(unread(header.command))
    }

    fn take(&mut self, request: Request, device: &mut impl Backend) -> Result<Reply, Refusal> {
        let command = request.command();
        let order = |why| Refusal::Protocol(ProtocolError::Order { command, why });
        match (&self.version, &request) {
            (Some(_), Request::Version(_)) => return Err(order("a second time")),
            (Some(_), _) | (None, Request::Version(_)) => {}
            (None, _) => return Err(order("before VERSION")),
        }
        match request {
            Request::Version(version) => {
                self.version = Some(version);
                Ok(Version::answer().into())
            }
            Request::DmaMap(map, file) => self.map(&map, file, device),
            Request::DmaUnmap(unmap) => self.unmap(unmap, device),
            Request::DeviceInfo => {
                let flags = DeviceInfo::RESET | DeviceInfo::PCI;
                let argsz = DeviceInfo::LEN_BYTES as u32;
                Ok(DeviceInfo { argsz, flags, num_regions: REGIONS, num_irqs: IRQS }.to_bytes().into())
            }
            Request::RegionInfo(index) => {
                let size = self.region_bytes(index);
                let flags = if size > 0 { RegionInfo::READ | RegionInfo::WRITE } else { 0 };
                let argsz = RegionInfo::LEN_BYTES as u32;
                Ok(RegionInfo { argsz, flags, index, size, ..RegionInfo::default() }.to_bytes().into())
            }
            Request::RegionIoFds(index, argsz) => self.io_fds(index, argsz, device),
            Request::IrqInfo(index) => {
                let (count, own) = (self.irqs(index), if index == INTX_IRQ { IrqInfo::AUTOMASKED } else { 0 });
                let flags = if count > 0 { IrqInfo::EVENTFD | IrqInfo::MASKABLE | own } else { 0 };
                Ok(IrqInfo { argsz: IrqInfo::LEN_BYTES as u32, flags, index, count }.to_bytes().into())
            }
            Request::SetIrqs(irqs) => self.set_irqs(irqs, device),
            Request::Read(access) => self.read(access, device),
            Request::Write(access, data) => self.write(access, &data, device),
            Request::WriteMulti(writes) => {
                let count = writes.len() as u64;
                for (access, data) in writes {
                    match self.write(access, &data, device) {
                        Err(refusal @ Refusal::Register { .. }) => self.counters.count(refusal.name()),
                        written => drop(written?),
                    }
                }
                Ok(count.to_ne_bytes().to_vec().into())
            }
            Request::Reset => {
                self.function.reset(Resetter::FrontEnd, device);
                Ok(Reply::default())
            }
            Request::Feature(feature, argsz) => self.feature(&feature, argsz, device),
            Request::ReadState(most) => self.read_state(most),
            Request::WriteState(bytes) => self.write_state(&bytes),
        }
    }

    fn map(&mut self, map: &DmaMap, file: Option<OwnedFd>, device: &mut impl Backend) -> Result<Reply, Refusal> {
        let &DmaMap { address, size: len_bytes, .. } = map;
        if let Some((other, known)) = self.maps_in(address, address + (len_bytes - 1)).next() {
            return Err(Refusal::Mapped { address, len_bytes, other: (*other, known.len_bytes) });
        }
        if self.maps.len() == REGIONS_MAX {
            return Err(Refusal::Maps);
        }
        let permissions = Permissions::from_bits(map.flags.into());
        let shown = match file.zip(permissions) {
            Some((file, permissions)) => Some((self.region(map, file)?, permissions)),
            None => None,
        };
        let fits = shown.as_ref().is_none_or(|(region, can)| self.function.memory().translate_to(region, *can));
        let addresses = address..=address + (len_bytes - 1);
        let is_shown = shown.is_some();
        let is_remote = !is_shown && permissions == Some(Permissions::BOTH);
        self.maps.insert(address, Map { len_bytes, shown });
        if is_remote {
            if !std::mem::replace(&mut self.has_remote, true) {
                tracing::warn!(
                    "the client shares no file of its memory: queues there are slow, and served by the control thread"
                );
            }
            self.function.remote().add(&addresses);
        }
        if !fits && let Err(refusal) = self.remember(device) {
            self.maps.remove(&address);
            return Err(refusal);
        }
        if is_shown || is_remote {
            self.function.memory_came(&addresses, device);
        }
        Ok(Reply::default())
    }

    /// What a map shows of its file, which is mapped whole, and once: a client may map it page by page.
    fn region(&mut self, map: &DmaMap, fd: OwnedFd) -> Result<Region, Refusal> {
        let &DmaMap { address: gpa, size: len_bytes, offset: offset_bytes, .. } = map;
        if !(gpa | len_bytes).is_multiple_of(TRANSLATION_ALIGN_BYTES) {
            return Err(MemoryError::Unaligned { gpa, len_bytes }.into());
        }
        let found = fstat(&fd).map_err(io::Error::from)?;
        let end = offset_bytes + len_bytes;
        if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile || end > found.st_size as u64 {
            let spec = RegionSpec { gpa, len_bytes, frontend_address: gpa, fd, offset_bytes };
            return Ok(Region::map(spec)?);
        }
        let file = (found.st_dev, found.st_ino);
        let known = self.files.get(&file).and_then(Weak::upgrade);
        let mapping = match known.filter(|mapping| end <= mapping.len_bytes() as u64) {
            Some(mapping) => mapping,
            None => {
                let mapped = Mapping::of_file(&fd, 0, found.st_size as u64);
                Arc::new(mapped.map_err(|source| MemoryError::Map { gpa, source })?)
            }
        };
        self.files.insert(file, Arc::downgrade(&mapping));
        Ok(Region::part(&mapping, offset_bytes, gpa, len_bytes)?)
    }

    /// Maps that have some of the addresses from the first to the last, the highest first.
    fn maps_in(&self, first: u64, last: u64) -> impl Iterator<Item = (&u64, &Map)> {
        let below = self.maps.range(..=last).rev();
        below.take_while(move |(address, map)| first <= **address + (map.len_bytes - 1))
    }

    fn unmap(&mut self, unmap: DmaUnmap, device: &mut impl Backend) -> Result<Reply, Refusal> {
        // All there is has a size of 0.
        let (first, last) = (unmap.address, unmap.address.wrapping_add(unmap.size).wrapping_sub(1));
        let is_inside = |address: u64, map: &Map| first <= address && address + (map.len_bytes - 1) <= last;
        if let Some((address, map)) = self.maps_in(first, last).find(|(address, map)| !is_inside(**address, map)) {
            let (len_bytes, map) = (unmap.size, (*address, map.len_bytes));
            return Err(Refusal::Cut { address: first, len_bytes, map });
        }
        let gone: Vec<u64> = self.maps_in(first, last).map(|(address, _)| *address).collect();
        let gone: Vec<(u64, Map)> = gone.iter().filter_map(|address| self.maps.remove_entry(address)).collect();
        for (address, map) in &gone {
            let addresses = *address..=address + (map.len_bytes - 1);
            self.function.memory_goes(&addresses, device);
            self.function.remote().remove(&addresses);
        }
        let gone: Vec<Region> = gone.into_iter().filter_map(|(_, map)| Some(map.shown?.0)).collect();
        for region in &gone {
            self.function.memory().forget(region);
        }
        if !gone.is_empty() && !self.function.memory().pass() {
            return Err(io::Error::from(io::ErrorKind::TimedOut).into());
        }
        let files: HashMap<_, _> = gone.into_iter().map(|gone| (Arc::as_ptr(gone.mapping()), gone)).collect();
        // A file is let go of which nothing is mapped any more: the function's memory has it, and we here.
        if files.values().any(|gone| Arc::strong_count(gone.mapping()) == 2) {
            drop(files);
            self.remember(device)?;
        }
        Ok(DmaUnmap { argsz: DmaUnmap::LEN_BYTES as u32, ..unmap }.to_bytes().into())
    }

    /// Makes the function's memory anew: where a file comes or goes, or there are more maps than there was room for. Its rings stop
    /// meanwhile.
    fn remember(&mut self, device: &mut impl Backend) -> Result<(), Refusal> {
        let shown = || self.maps.values().filter_map(|map| map.shown.as_ref());
        let files: HashMap<_, _> = shown().map(|(region, _)| (Arc::as_ptr(region.mapping()), region)).collect();
        // One file behind the other: that is what the dirty log counts.
        let mut end = 0;
        let files = files.into_values().map(|region| {
            let (start, len_bytes) = (end, region.mapping().len_bytes() as u64);
            end += len_bytes.next_multiple_of(DIRTY_PAGE_SIZE_BYTES);
            Region::part(region.mapping(), 0, start, len_bytes)
        });
        let files = files.collect::<Result<_, _>>()?;
        let translations: Vec<_> = shown().map(|(region, permissions)| (region, *permissions)).collect();
        let memory = GuestMemory::behind_iommu(files, &translations)?;
        // What is logged is of the files that there were.
        let log = self.log.as_ref().map(|_| Log::new(&memory, true)).transpose()?;
        self.function.set_memory(memory, device);
        self.files.retain(|_, mapping| mapping.strong_count() > 0);
        if let Some(log) = log {
            self.begin_log(log, device);
        }
        Ok(())
    }

    fn region_bytes(&self, index: u32) -> u64 {
        match index {
            CONFIG_REGION => CONFIG_BYTES as u64,
            bar if (bar as usize) < BARS => self.function.bar_bytes(bar as usize),
            _ => 0,
        }
    }

    fn check_bounds(&self, access: RegionAccess) -> Result<(), Refusal> {
        let len_bytes = self.region_bytes(access.region);
        match access.offset + u64::from(access.count) <= len_bytes {
            true => Ok(()),
            false => Err(Refusal::Bounds { access, len_bytes }),
        }
    }

    fn read(&mut self, access: RegionAccess, device: &mut impl Backend) -> Result<Reply, Refusal> {
        self.check_bounds(access)?;
        let mut body = access.to_bytes();
        body.resize(RegionAccess::LEN_BYTES + access.count as usize, 0);
        let data = &mut body[RegionAccess::LEN_BYTES..];
        match access.region {
            CONFIG_REGION => self.function.read_config(access.offset as usize, data, device),
            bar => self.function.read_bar(bar as usize, access.offset, data, device),
        }
        Ok(body.into())
    }

    fn write(&mut self, access: RegionAccess, data: &[u8], device: &mut impl Backend) -> Result<Reply, Refusal> {
        self.check_bounds(access)?;
        let written = match access.region {
            CONFIG_REGION => self.function.write_config(access.offset as usize, data, device),
            bar => self.function.write_bar(bar as usize, access.offset, data, device),
        };
        written.map_err(|source| Refusal::Register { access, source })?;
        Ok(access.to_bytes().into())
    }

    fn io_fds(&mut self, index: u32, argsz: u32, device: &mut impl Backend) -> Result<Reply, Refusal> {
        let most = self.version.map_or(0, |version| version.max_msg_fds.min(DESCRIPTORS_MAX));
        let most = if index as usize == VIRTIO_BAR { most } else { 0 };
        let doorbells = self.function.share_doorbells(most, device)?;
        let count = doorbells.len() as u32;
        let needed = (RegionIoFds::LEN_BYTES + doorbells.len() * IoEventfd::LEN_BYTES) as u32;
        let mut reply = Reply::from(RegionIoFds { argsz: needed, flags: 0, index, count }.to_bytes());
        if argsz < needed {
            return Ok(reply);
        }
        for (fd_index, (offset, eventfd)) in (0..).zip(doorbells) {
            reply.body.extend(IoEventfd { offset, fd_index, ..IoEventfd::default() }.to_bytes());
            reply.descriptors.push(eventfd.try_clone_to_owned()?);
        }
        Ok(reply)
    }

    /// How many interrupts of a kind there are.
    fn irqs(&self, index: u32) -> u32 {
        match index {
            INTX_IRQ => 1,
            MSIX_IRQ => self.function.vectors().into(),
            _ => 0,
        }
    }

    fn set_irqs(&mut self, irqs: Irqs, device: &mut impl Backend) -> Result<Reply, Refusal> {
        let Irqs { index, start, count, action } = irqs;
        let there = self.irqs(index);
        if start + count > there {
            return Err(Refusal::Irqs { index, start, count, there });
        }
        let range = start as u16..(start + count) as u16;
        match (index, action) {
            (INTX_IRQ, Action::Connect(descriptors)) if count == 1 => {
                let line = lines(descriptors, device)?.pop();
                self.function.connect_intx(line, device);
            }
            (INTX_IRQ, Action::Disable) => self.function.connect_intx(None, device),
            (INTX_IRQ, Action::Mask(masked, chosen)) if count == 1 && chosen.has(0) => {
                self.function.intx().mask(masked)
            }
            (INTX_IRQ, Action::Trigger(chosen)) if count == 1 && chosen.has(0) => self.function.intx().trigger(),
            (MSIX_IRQ, Action::Connect(descriptors)) => {
                let mut lines = lines(descriptors, device)?.into_iter();
                self.function.change_msix(|msix| range.for_each(|vector| msix.connect(vector, lines.next())), device);
            }
            (MSIX_IRQ, Action::Disable) => self.function.change_msix(|msix| msix.disconnect(), device),
            (MSIX_IRQ, Action::Mask(held, chosen)) => {
                let chosen = range.enumerate().filter(|(place, _)| chosen.has(*place));
                self.function.change_msix(|msix| chosen.for_each(|(_, vector)| msix.hold(vector, held)), device);
            }
            (MSIX_IRQ, Action::Trigger(chosen)) => {
                let chosen = range.enumerate().filter(|(place, _)| chosen.has(*place));
                chosen.for_each(|(_, vector)| self.function.trigger(vector));
            }
            // Of those that there are none of, or none was chosen.
            _ => {}
        }
        Ok(Reply::default())
    }
}

/// A client that does not read.
fn unread(command: u16) -> impl Fn(SocketError) -> SocketError {
    move |error| match error {
        SocketError::Timeout(_) => SocketError::Protocol(ProtocolError::ReplyUnread { command }),
        error => error,
    }
}

/// A line to each descriptor.
fn lines(descriptors: Vec<OwnedFd>, device: &mut impl Backend) -> Result<Vec<Arc<Line>>, Refusal> {
    let checked: Result<Vec<_>, _> = descriptors.into_iter().map(line::notification_descriptor).collect();
    let checked = checked.map_err(|mode| Refusal::Descriptor { mode })?;
    Ok(checked.into_iter().map(|descriptor| device.line(descriptor)).collect::<Result<_, _>>()?)
}

impl AsFd for Session {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}
