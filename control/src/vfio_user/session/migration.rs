//! A function on its way to another client: its state, read here and written there, and what of memory it writes meanwhile.

use std::sync::Arc;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use virtnet_rings::memory::{DIRTY_PAGE_SIZE_BYTES, DirtyLog, GuestMemory, MemoryError};

use super::{Refusal, Reply, Session};
use crate::transport::Backend;
use crate::vfio_user::message::{DeviceFeature, DmaLogging, DmaReport, Feature, MigData, MigState};
use crate::virtio_pci::{IMAGE_BYTES_MAX, Stopper, Unfit};

/// What can be logged of files, in bytes: a log of 64 MiB.
const LOGGED_BYTES_MAX: u64 = DIRTY_PAGE_SIZE_BYTES << 29;
/// There is the state in which the device's is read, and no others that need not be there.
const VFIO_MIGRATION_STOP_COPY: u64 = 1;

/// ("enum vfio_device_mig_state")
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// It cannot be what was written, and needs a reset.
    Error = 0,
    /// It does nothing.
    Stop = 1,
    /// It does what it is for.
    #[default]
    Running = 2,
    /// It does nothing, and is read.
    StopCopy = 3,
    /// It does nothing, and is written.
    Resuming = 4,
}

/// Where a device is on its way.
#[derive(Debug, Default)]
pub struct Migration {
    state: State,
    /// What is read or written.
    image: Vec<u8>,
    /// How much of it was read.
    read_bytes: usize,
    /// It was written, and has not run since.
    has_moved: bool,
}

/// What is written to the files that there are.
#[derive(Debug)]
pub struct Log {
    written: Arc<DirtyLog>,
    /// Of files that somebody else may have written before: what was told of them already.
    told: Option<DirtyLog>,
}

impl Log {
    /// For the files of a memory, of which nothing was written, or all.
    pub fn new(memory: &GuestMemory, is_all: bool) -> Result<Self, Refusal> {
        let end = memory.regions().iter().map(|region| region.gpa() + region.len_bytes()).max();
        let found = end.unwrap_or(DIRTY_PAGE_SIZE_BYTES);
        if found > LOGGED_BYTES_MAX {
            return Err(Refusal::Migration("files of more than 2 TiB are not logged"));
        }
        let len_bytes = found.div_ceil(8 * DIRTY_PAGE_SIZE_BYTES);
        let empty = || {
            let fd = memfd_create("dirty log", MemfdFlags::CLOEXEC).map_err(std::io::Error::from)?;
            ftruncate(&fd, len_bytes).map_err(std::io::Error::from)?;
            let log = DirtyLog::map(&fd, 0, len_bytes).map_err(|source| MemoryError::Map { gpa: 0, source })?;
            Ok::<_, Refusal>(log)
        };
        Ok(Self { written: Arc::new(empty()?), told: is_all.then(empty).transpose()? })
    }

    /// Whether a page was written since this was last asked.
    fn take(&self, place: u64) -> bool {
        self.written.take(place) | self.told.as_ref().is_some_and(|told| told.mark_new(place))
    }
}

impl Session {
    pub(super) fn feature(
        &mut self,
        feature: &Feature,
        argsz: u32,
        device: &mut impl Backend,
    ) -> Result<Reply, Refusal> {
        let told = |method: u32, argsz: u32, data: &[u8]| {
            let feature = DeviceFeature { argsz, flags: method | feature.index() };
            Ok(Reply::from([&feature.to_bytes()[..], data].concat()))
        };
        let set = |data: &[u8]| told(DeviceFeature::SET, argsz, data);
        // Whoever has no room for what it gets learns how much it takes.
        let get = |data: &[u8]| {
            let needed = (DeviceFeature::LEN_BYTES + data.len()) as u32;
            told(DeviceFeature::GET, needed, if needed > argsz { &[] } else { data })
        };
        match feature {
            Feature::Probe(asked) => Ok(asked.to_bytes().into()),
            Feature::Migration => get(&VFIO_MIGRATION_STOP_COPY.to_ne_bytes()),
            Feature::State => get(&MigState { device_state: self.migration().state as u32, data_fd: 0 }.to_bytes()),
            Feature::SetState(state) => {
                self.set_state(state.device_state, device)?;
                set(&state.to_bytes())
            }
            Feature::StartLogging(logging, ranges) => {
                if self.log.is_some() {
                    return Err(Refusal::Migration("writes are logged already"));
                }
                self.begin_log(Log::new(self.function.memory(), false)?, device);
                let logging = DmaLogging { page_size: DIRTY_PAGE_SIZE_BYTES, ..*logging };
                set(&[&logging.to_bytes()[..], ranges].concat())
            }
            Feature::StopLogging => {
                self.log = None;
                self.function.set_log(None, device);
                set(&[])
            }
            Feature::Report(report) => get(&self.report(report)?),
        }
    }

    /// From one state to another. All ways lead by [`State::Stop`].
    fn set_state(&mut self, to: u32, device: &mut impl Backend) -> Result<(), Refusal> {
        let states = [State::Stop, State::Running, State::StopCopy, State::Resuming];
        let to = states.into_iter().find(|state| *state as u32 == to);
        let to = to.ok_or(Refusal::Migration("there are states 1 to 4: stop, running, stop_copy, resuming"))?;
        let from = self.migration().state;
        if from == State::Error {
            return Err(Refusal::Migration("it needs a reset"));
        }
        if from == to {
            return Ok(());
        }
        self.function.set_stopped(Stopper::Client, true, device);
        let image = std::mem::take(&mut self.migration.image);
        (self.migration.state, self.migration.read_bytes) = (State::Stop, 0);
        if from == State::Resuming {
            if self.function.load(&image, device) == Err(Unfit) {
                self.migration.state = State::Error;
                return Err(Refusal::Migration("what was written is no state of such a function"));
            }
            self.migration.has_moved = true;
        }
        match to {
            State::StopCopy => {
                let image = self.function.save(device);
                self.migration.image = image.map_err(|Unfit| Refusal::Migration("its VFs would be left behind"))?;
            }
            State::Running => {
                self.function.set_stopped(Stopper::Client, false, device);
                if std::mem::take(&mut self.migration.has_moved)
                    && let Some(mac) = device.config().first_chunk()
                {
                    device.announce(*mac);
                }
            }
            _ => {}
        }
        self.migration.state = to;
        Ok(())
    }

    /// Where it is on its way, as it is now: a function that was reset meanwhile, by whomever, is on none.
    fn migration(&mut self) -> &mut Migration {
        if self.migration.state != State::Running && !self.function.is_stopped_by(Stopper::Client) {
            self.migration = Migration::default();
        }
        &mut self.migration
    }

    /// The client is gone: the function waits for the next one, and for nothing else.
    pub(super) fn end_migration(&mut self, device: &mut impl Backend) {
        if self.migration().state != State::Running {
            self.function.set_stopped(Stopper::Client, false, device);
        }
    }

    pub(super) fn read_state(&mut self, most: u32) -> Result<Reply, Refusal> {
        let Migration { state: State::StopCopy, image, read_bytes, .. } = self.migration() else {
            return Err(Refusal::Migration("its state is read in stop_copy"));
        };
        let left = &image[*read_bytes..];
        let part = &left[..left.len().min(most as usize)];
        *read_bytes += part.len();
        let size = part.len() as u32;
        let argsz = (MigData::LEN_BYTES + part.len()) as u32;
        Ok([&MigData { argsz, size }.to_bytes()[..], part].concat().into())
    }

    pub(super) fn write_state(&mut self, bytes: &[u8]) -> Result<Reply, Refusal> {
        let Migration { state: State::Resuming, image, .. } = self.migration() else {
            return Err(Refusal::Migration("its state is written in resuming"));
        };
        if image.len() + bytes.len() > IMAGE_BYTES_MAX {
            return Err(Refusal::Migration("no state of a function is as long"));
        }
        image.extend_from_slice(bytes);
        let size = bytes.len() as u32;
        Ok(MigData { argsz: MigData::LEN_BYTES as u32, size }.to_bytes().into())
    }

    /// It is logged there what is written, from now on.
    pub(super) fn begin_log(&mut self, log: Log, device: &mut impl Backend) {
        self.function.set_log(Some(log.written.clone()), device);
        self.log = Some(log);
    }

    /// What was written of some addresses since the last report.
    fn report(&self, report: &DmaReport) -> Result<Vec<u8>, Refusal> {
        let Some(log) = &self.log else { return Err(Refusal::Migration("nothing is logged")) };
        let DmaReport { iova, length, page_size } = *report;
        let last = iova + (length - 1);
        let pages = length.div_ceil(page_size);
        let mut bits = vec![0u8; pages.div_ceil(64) as usize * 8];
        for (address, map) in self.maps_in(iova, last) {
            if map.shown.is_none() {
                continue;
            }
            let (first, end) = (iova.max(*address), last.min(address + (map.len_bytes - 1)));
            let mut at = first & !(DIRTY_PAGE_SIZE_BYTES - 1);
            while at <= end {
                let place = self.function.memory().place(at);
                if place.is_some_and(|place| log.take(place)) {
                    let page = (at.max(iova) - iova) / page_size;
                    bits[page as usize / 8] |= 1 << (page % 8);
                }
                let Some(next) = at.checked_add(DIRTY_PAGE_SIZE_BYTES) else { break };
                at = next;
            }
        }
        Ok([report.to_bytes(), bits].concat())
    }
}
