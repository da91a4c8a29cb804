//! Requests as a session takes them: whole, and within all bounds that are the protocol's.

use std::os::fd::OwnedFd;

use virtnet_rings::memory::DIRTY_PAGE_SIZE_BYTES;

use super::{
    BODY_BYTES_MAX, Command, DATA_BYTES_MAX, DeviceFeature, DmaLogging, DmaMap, DmaReport, DmaUnmap, Header, IRQS,
    IrqInfo, IrqSet, Message, MigData, MigState, ProtocolError, REGIONS, RegionAccess, RegionInfo, RegionIoFds,
    Version, WRITE_BYTES_MAX,
};

/// What a client asks.
#[derive(Debug)]
pub enum Request {
    /// The version and the limits of the client.
    Version(Version),
    /// Memory of the guest, with the file that holds it if it can be mapped. It is not empty, and ends below 2^64.
    DmaMap(DmaMap, Option<OwnedFd>),
    /// Memory that goes: that, or all.
    DmaUnmap(DmaUnmap),
    /// What the device is.
    DeviceInfo,
    /// What a region is, one of [`REGIONS`].
    RegionInfo(u32),
    /// Descriptors for parts of a region, one of [`REGIONS`], and bytes that the client has room for.
    RegionIoFds(u32, u32),
    /// How many interrupts of a kind there are, one of [`IRQS`].
    IrqInfo(u32),
    /// Where interrupts go.
    SetIrqs(Irqs),
    /// Reads up to [`DATA_BYTES_MAX`] of a region, one of [`REGIONS`].
    Read(RegionAccess),
    /// Writes to it, as many bytes as are there.
    Write(RegionAccess, Vec<u8>),
    /// Writes to several after each other, 1 to [`WRITES_MAX`], up to [`WRITE_BYTES_MAX`] each.
    WriteMulti(Vec<(RegionAccess, Vec<u8>)>),
    /// Resets the function.
    Reset,
    /// What has to do with migration, and bytes that the client has room for.
    Feature(Feature, u32),
    /// Reads up to so many bytes of the device's state.
    ReadState(u32),
    /// Writes them.
    WriteState(Vec<u8>),
}

/// What has to do with migration.
#[derive(Debug)]
pub enum Feature {
    /// Whether a feature can be got, or set: it can.
    Probe(DeviceFeature),
    /// Which states there are.
    Migration,
    /// Which one it is in.
    State,
    /// It is to go to that one.
    SetState(MigState),
    /// What is written to memory is logged. What of it, is for the report to say.
    StartLogging(DmaLogging, Vec<u8>),
    /// It is not.
    StopLogging,
    /// What was logged since the last report: in pages of a power of two bytes, 4096 at least, of no more bytes than pages of 4096 fit
    /// into an answer.
    Report(DmaReport),
}

impl Feature {
    const MIGRATION: u32 = 1;
    const MIG_DEVICE_STATE: u32 = 2;
    const DMA_LOGGING_START: u32 = 6;
    const DMA_LOGGING_STOP: u32 = 7;
    const DMA_LOGGING_REPORT: u32 = 8;

    /// Its number.
    pub fn index(&self) -> u32 {
        match self {
            Self::Probe(asked) => asked.flags & DeviceFeature::INDEX_MASK,
            Self::Migration => Self::MIGRATION,
            Self::State | Self::SetState(_) => Self::MIG_DEVICE_STATE,
            Self::StartLogging(..) => Self::DMA_LOGGING_START,
            Self::StopLogging => Self::DMA_LOGGING_STOP,
            Self::Report(_) => Self::DMA_LOGGING_REPORT,
        }
    }

    fn new(command: Command, asked: DeviceFeature, data: &[u8]) -> Result<Self, ProtocolError> {
        const GET: u32 = DeviceFeature::GET;
        const SET: u32 = DeviceFeature::SET;
        let (index, flags) = (asked.flags & DeviceFeature::INDEX_MASK, asked.flags & !DeviceFeature::INDEX_MASK);
        let unknown = ProtocolError::Feature { index, flags };
        let whole = |rest: &[u8]| if rest.is_empty() { Ok(()) } else { Err(size(command, 8 + data.len(), 8, 8)) };
        if flags & DeviceFeature::PROBE != 0 {
            let possible = match index {
                Self::MIGRATION | Self::DMA_LOGGING_REPORT => GET,
                Self::MIG_DEVICE_STATE => GET | SET,
                Self::DMA_LOGGING_START | Self::DMA_LOGGING_STOP => SET,
                _ => return Err(unknown),
            };
            let is_possible = flags & !(possible | DeviceFeature::PROBE) == 0;
            return if is_possible { Ok(Self::Probe(asked)) } else { Err(unknown) };
        }
        Ok(match (index, flags) {
            (Self::MIGRATION, GET) => Self::Migration,
            (Self::MIG_DEVICE_STATE, GET) => Self::State,
            (Self::MIG_DEVICE_STATE, SET) => {
                let (state, rest) = MigState::split(command, data)?;
                whole(rest)?;
                Self::SetState(state)
            }
            (Self::DMA_LOGGING_START, SET) => {
                let (logging, ranges) = DmaLogging::split(command, data)?;
                check_pages(command, logging.page_size)?;
                let wanted = 16 * u64::from(logging.num_ranges);
                if ranges.len() as u64 != wanted {
                    return Err(field(command, "num_ranges", logging.num_ranges.into(), "as many as follow"));
                }
                Self::StartLogging(logging, ranges.to_vec())
            }
            (Self::DMA_LOGGING_STOP, SET) => Self::StopLogging,
            (Self::DMA_LOGGING_REPORT, GET) => {
                let (report, rest) = DmaReport::split(command, data)?;
                whole(rest)?;
                check_pages(command, report.page_size)?;
                check_range(command, report.iova, report.length)?;
                // Whatever a bit stands for, each page of the log is looked at.
                let most = 8 * DATA_BYTES_MAX as u64 * DIRTY_PAGE_SIZE_BYTES;
                if report.length > most {
                    return Err(field(command, "length", report.length, format!("up to {most:#x}")));
                }
                Self::Report(report)
            }
            _ => return Err(unknown),
        })
    }
}

/// Interrupts of a kind, one of [`IRQS`], and what is to become of them.
#[derive(Debug)]
pub struct Irqs {
    /// Which kind.
    pub index: u32,
    /// The first of them.
    pub start: u32,
    /// How many.
    pub count: u32,
    /// What is to be done.
    pub action: Action,
}

/// What is to become of interrupts.
#[derive(Debug)]
pub enum Action {
    /// Each goes to its descriptor from now on; without descriptors, nowhere.
    Connect(Vec<OwnedFd>),
    /// Those that are chosen are masked, or not any more.
    Mask(bool, Chosen),
    /// Those that are chosen are raised.
    Trigger(Chosen),
    /// All of the kind go nowhere.
    Disable,
}

/// Which interrupts of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chosen {
    /// All of them.
    All,
    /// Those whose byte is not 0.
    Some(Vec<u8>),
}

impl Chosen {
    /// Whether the one at this place of the range is chosen.
    pub fn has(&self, place: usize) -> bool {
        match self {
            Self::All => true,
            Self::Some(bytes) => bytes.get(place).is_some_and(|byte| *byte != 0),
        }
    }
}

impl Request {
    /// Takes a message apart.
    ///
    /// # Errors
    /// [`ProtocolError`].
    pub fn new(message: Message) -> Result<Self, ProtocolError> {
        let descriptors_found = message.descriptor_count();
        let Message { header, body, mut descriptors, .. } = message;
        if header.flags & !Header::NO_REPLY != 0 {
            return Err(ProtocolError::Flags { command: header.command, found: header.flags });
        }
        let command = Command::from_number(header.command);
        let command = command.ok_or(ProtocolError::UnknownCommand { command: header.command })?;
        let (bytes, fds) = (command.len_bytes(), command.descriptors());
        if !bytes.contains(&body.len()) {
            return Err(size(command, body.len(), *bytes.start(), *bytes.end()));
        }
        if !fds.contains(&descriptors_found) {
            let (min, max) = (*fds.start(), *fds.end());
            return Err(ProtocolError::Descriptors { command, found: descriptors_found, min, max });
        }
        Ok(match command {
            Command::VERSION => {
                let number = |at: usize| u16::from_ne_bytes([body[at], body[at + 1]]);
                Self::Version(Version::new(number(0), number(2), &body[4..])?)
            }
            Command::DMA_MAP => {
                let (map, _) = DmaMap::split(command, &body)?;
                check_bits(command, map.flags, DmaMap::READ | DmaMap::WRITE)?;
                check_range(command, map.address, map.size)?;
                for (name, start) in [("address", map.address), ("offset", map.offset)] {
                    if start.checked_add(map.size).is_none() {
                        return Err(field(command, name, start, "one that ends below 2^64"));
                    }
                }
                Self::DmaMap(map, descriptors.pop())
            }
            Command::DMA_UNMAP => {
                let (unmap, _) = DmaUnmap::split(command, &body)?;
                check_bits(command, unmap.flags, DmaUnmap::ALL)?;
                if unmap.flags == 0 {
                    check_range(command, unmap.address, unmap.size)?;
                } else if (unmap.address, unmap.size) != (0, 0) {
                    return Err(field(command, "size", unmap.size, "0, as the address, for all"));
                }
                Self::DmaUnmap(unmap)
            }
            Command::DEVICE_GET_INFO => Self::DeviceInfo,
            Command::DEVICE_GET_REGION_INFO => {
                let (info, _) = RegionInfo::split(command, &body)?;
                check_argsz(command, info.argsz, RegionInfo::LEN_BYTES)?;
                Self::RegionInfo(check_below(command, "index", info.index, REGIONS)?)
            }
            Command::DEVICE_GET_REGION_IO_FDS => {
                let (asked, _) = RegionIoFds::split(command, &body)?;
                check_argsz(command, asked.argsz, RegionIoFds::LEN_BYTES)?;
                check_bits(command, asked.flags, 0)?;
                Self::RegionIoFds(check_below(command, "index", asked.index, REGIONS)?, asked.argsz)
            }
            Command::DEVICE_GET_IRQ_INFO => {
                let (info, _) = IrqInfo::split(command, &body)?;
                check_argsz(command, info.argsz, IrqInfo::LEN_BYTES)?;
                Self::IrqInfo(check_below(command, "index", info.index, IRQS)?)
            }
            Command::DEVICE_SET_IRQS => Self::SetIrqs(Irqs::new(command, &body, descriptors)?),
            Command::REGION_READ => {
                let (access, _) = RegionAccess::split(command, &body)?;
                access.check(command, DATA_BYTES_MAX)?;
                Self::Read(access)
            }
            Command::REGION_WRITE => {
                let (access, data) = RegionAccess::split(command, &body)?;
                access.check(command, DATA_BYTES_MAX)?;
                if data.len() != access.count as usize {
                    let wanted = RegionAccess::LEN_BYTES + access.count as usize;
                    return Err(size(command, body.len(), wanted, wanted));
                }
                Self::Write(access, data.to_vec())
            }
            Command::DEVICE_RESET => Self::Reset,
            Command::DEVICE_FEATURE => {
                let (asked, data) = DeviceFeature::split(command, &body)?;
                Self::Feature(Feature::new(command, asked, data)?, asked.argsz)
            }
            Command::MIG_DATA_READ => {
                let (data, _) = MigData::split(command, &body)?;
                if data.size > DATA_BYTES_MAX as u32 {
                    return Err(field(command, "size", data.size.into(), format!("up to {DATA_BYTES_MAX:#x}")));
                }
                check_argsz(command, data.argsz, MigData::LEN_BYTES + data.size as usize)?;
                Self::ReadState(data.size)
            }
            Command::MIG_DATA_WRITE => {
                let (data, bytes) = MigData::split(command, &body)?;
                if bytes.len() != data.size as usize {
                    return Err(field(command, "size", data.size.into(), "as many bytes as follow"));
                }
                Self::WriteState(bytes.to_vec())
            }
            Command::REGION_WRITE_MULTI => Self::WriteMulti(writes(command, &body)?),
        })
    }

    /// Which command it was.
    pub fn command(&self) -> Command {
        match self {
            Self::Version(_) => Command::VERSION,
            Self::DmaMap(..) => Command::DMA_MAP,
            Self::DmaUnmap(_) => Command::DMA_UNMAP,
            Self::DeviceInfo => Command::DEVICE_GET_INFO,
            Self::RegionInfo(_) => Command::DEVICE_GET_REGION_INFO,
            Self::RegionIoFds(..) => Command::DEVICE_GET_REGION_IO_FDS,
            Self::IrqInfo(_) => Command::DEVICE_GET_IRQ_INFO,
            Self::SetIrqs(_) => Command::DEVICE_SET_IRQS,
            Self::Read(_) => Command::REGION_READ,
            Self::Write(..) => Command::REGION_WRITE,
            Self::Reset => Command::DEVICE_RESET,
            Self::Feature(..) => Command::DEVICE_FEATURE,
            Self::ReadState(_) => Command::MIG_DATA_READ,
            Self::WriteState(_) => Command::MIG_DATA_WRITE,
            Self::WriteMulti(_) => Command::REGION_WRITE_MULTI,
        }
    }
}

impl RegionAccess {
    fn check(&self, command: Command, bytes_max: usize) -> Result<(), ProtocolError> {
        check_below(command, "region", self.region, REGIONS)?;
        if !(1..=bytes_max as u32).contains(&self.count) {
            return Err(field(command, "count", self.count.into(), format!("1 to {bytes_max:#x}")));
        }
        match self.offset.checked_add(self.count.into()) {
            Some(_) => Ok(()),
            None => Err(field(command, "offset", self.offset, "one that ends below 2^64")),
        }
    }
}

/// Their number is said first; a client may send room for more. ("VFIO_USER_REGION_WRITE_MULTI")
fn writes(command: Command, body: &[u8]) -> Result<Vec<(RegionAccess, Vec<u8>)>, ProtocolError> {
    let (number, mut rest) = body.split_first_chunk().ok_or_else(|| size(command, body.len(), 8, BODY_BYTES_MAX))?;
    let number = u64::from_ne_bytes(*number);
    let there = rest.len() / (RegionAccess::LEN_BYTES + WRITE_BYTES_MAX);
    if !(1..=there as u64).contains(&number) {
        return Err(field(command, "wr_cnt", number, format!("1 to {there:#x}, those that are there")));
    }
    let mut writes = Vec::with_capacity(there);
    for _ in 0..number {
        let (access, data) = RegionAccess::split(command, rest)?;
        access.check(command, WRITE_BYTES_MAX)?;
        writes.push((access, data[..access.count as usize].to_vec()));
        rest = &data[WRITE_BYTES_MAX..];
    }
    Ok(writes)
}

impl Irqs {
    /// What data follow. ("VFIO_USER_DEVICE_SET_IRQS")
    const DATA_NONE: u32 = 1;
    const DATA_BOOL: u32 = 2;
    const DATA_EVENTFD: u32 = 4;
    const ACTION_MASK: u32 = 8;
    const ACTION_UNMASK: u32 = 16;
    const ACTION_TRIGGER: u32 = 32;

    fn new(command: Command, body: &[u8], descriptors: Vec<OwnedFd>) -> Result<Self, ProtocolError> {
        let (set, data) = IrqSet::split(command, body)?;
        let IrqSet { flags, index, start, count, .. } = set;
        check_below(command, "index", index, IRQS)?;
        if start.checked_add(count).is_none() {
            return Err(field(command, "count", count.into(), "up to the last interrupt"));
        }
        let by_eventfd = flags & Self::DATA_EVENTFD != 0;
        let fds = if by_eventfd && !descriptors.is_empty() { count as usize } else { 0 };
        if descriptors.len() != fds {
            return Err(ProtocolError::Descriptors { command, found: descriptors.len(), min: fds, max: fds });
        }
        let data_bytes = if flags & Self::DATA_BOOL != 0 { count as usize } else { 0 };
        if data.len() != data_bytes {
            let wanted = IrqSet::LEN_BYTES.saturating_add(data_bytes);
            return Err(size(command, body.len(), wanted, wanted));
        }
        let chosen = || if data.is_empty() { Chosen::All } else { Chosen::Some(data.to_vec()) };
        const DATA_MASK: u32 = Irqs::DATA_NONE | Irqs::DATA_BOOL | Irqs::DATA_EVENTFD;
        let action = match (flags & DATA_MASK, flags & !DATA_MASK) {
            (Self::DATA_EVENTFD, Self::ACTION_TRIGGER) => Action::Connect(descriptors),
            (Self::DATA_NONE, Self::ACTION_TRIGGER) if (start, count) == (0, 0) => Action::Disable,
            (Self::DATA_NONE | Self::DATA_BOOL, Self::ACTION_TRIGGER) => Action::Trigger(chosen()),
            (Self::DATA_NONE | Self::DATA_BOOL, Self::ACTION_MASK) => Action::Mask(true, chosen()),
            (Self::DATA_NONE | Self::DATA_BOOL, Self::ACTION_UNMASK) => Action::Mask(false, chosen()),
            _ => {
                let allowed = "one kind of data and one action; eventfds only to be triggered";
                return Err(field(command, "flags", flags.into(), allowed));
            }
        };
        Ok(Self { index, start, count, action })
    }
}

fn size(command: Command, found: usize, min: usize, max: usize) -> ProtocolError {
    ProtocolError::Size { command, found, min, max }
}

fn field(command: Command, field: &'static str, found: u64, allowed: impl Into<String>) -> ProtocolError {
    ProtocolError::Field { command, field, found, allowed: allowed.into() }
}

fn check_below(command: Command, name: &'static str, found: u32, bound: u32) -> Result<u32, ProtocolError> {
    if found < bound {
        return Ok(found);
    }
    Err(field(command, name, found.into(), format!("below {bound:#x}")))
}

fn check_bits(command: Command, flags: u32, known: u32) -> Result<(), ProtocolError> {
    if flags & !known == 0 {
        return Ok(());
    }
    Err(field(command, "flags", flags.into(), format!("bits of {known:#x}")))
}

fn check_argsz(command: Command, argsz: u32, least: usize) -> Result<(), ProtocolError> {
    if argsz as usize >= least {
        return Ok(());
    }
    Err(field(command, "argsz", argsz.into(), format!("{least:#x} at least")))
}

/// What a bit of the dirty log stands for.
fn check_pages(command: Command, page_size: u64) -> Result<(), ProtocolError> {
    if page_size.is_power_of_two() && page_size >= DIRTY_PAGE_SIZE_BYTES {
        return Ok(());
    }
    let allowed = format!("a power of two, {DIRTY_PAGE_SIZE_BYTES:#x} at least");
    Err(field(command, "page_size", page_size, allowed))
}

/// Some bytes of an address space, the last address of which is 2^64 - 1.
fn check_range(command: Command, address: u64, size: u64) -> Result<(), ProtocolError> {
    if size != 0 && address.checked_add(size - 1).is_some() {
        return Ok(());
    }
    Err(field(command, "size", size, "above 0, and no more than there are up to 2^64"))
}
