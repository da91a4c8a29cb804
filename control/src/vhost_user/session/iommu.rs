//! Addresses behind the IOMMU of the front end's guest: what it has told of them, and what it is asked for. ("IOMMU support")
//!
//! It is a cache: what is forgotten is asked for again when it is needed, and what is needed is held meanwhile.

use std::collections::BTreeMap;
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Instant;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd};
use virtnet_rings::memory::{
    GuestMemory, MemoryError, Misses, Permissions, REGIONS_MAX, Region, TRANSLATION_ALIGN_BYTES,
};
use virtnet_rings::{Notifier, QueueAddresses};

use super::super::message::{
    Allowed, BackendRequest, FrontendRequest, Header, Iotlb, ProtocolError, VIRTIO_F_ACCESS_PLATFORM,
};
use super::super::socket::wait_any;
use super::{Refusal, Reply, Session};
use crate::transport::Backend;

/// How many translations are kept.
pub const TRANSLATIONS_MAX: usize = 8192;
/// How many go when there are as many: workers are waited for once, and not for each.
const GOING: usize = TRANSLATIONS_MAX / 8;
const REQUEST: &str = FrontendRequest::IOTLB_MSG.name();

/// What is known of an IOMMU.
#[derive(Debug)]
pub struct Iommu {
    /// As they were told, by their first address.
    told: BTreeMap<u64, Iotlb>,
    /// What is to be asked for.
    misses: Arc<Misses>,
    /// The first address after those that have gone last.
    next_to_go: u64,
}

impl Iommu {
    /// Of a device that offers these features, nothing.
    pub fn new(offered: u64) -> Self {
        let has_one = offered & VIRTIO_F_ACCESS_PLATFORM != 0;
        // Without an eventfd it is seen when it is looked for.
        let bell = has_one.then(|| eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).ok()).flatten();
        Self { told: BTreeMap::new(), misses: Arc::new(Misses::new(Notifier::new(bell))), next_to_go: 0 }
    }

    /// Translations that have some of these addresses, by their first.
    fn overlapping(&self, addresses: &RangeInclusive<u64>) -> Vec<u64> {
        let below = self.told.range(..=addresses.end()).rev();
        let overlapping = below.take_while(|(first, told)| *addresses.start() <= *first + (told.size_bytes - 1));
        overlapping.map(|(first, _)| *first).collect()
    }

    /// Some translations that nobody misses soon, where there is room for no more: of those that `may_go` the next ones.
    fn next_to_go(&self, may_go: impl Fn(&Iotlb) -> bool) -> Vec<u64> {
        if self.told.len() < TRANSLATIONS_MAX {
            return Vec::new();
        }
        let all = self.told.range(self.next_to_go..).chain(self.told.range(..self.next_to_go));
        all.filter(|(_, told)| may_go(told)).map(|(first, _)| *first).take(GOING).collect()
    }
}

impl Session {
    /// Whether addresses are those of an IOMMU.
    pub(super) fn has_iommu(&self) -> bool {
        self.features & VIRTIO_F_ACCESS_PLATFORM != 0
    }

    /// What tells that there is something to ask for: [`Session::serve`] does.
    pub fn bell(&self) -> Option<BorrowedFd<'_>> {
        self.iommu.misses.bell().eventfd().map(AsFd::as_fd)
    }

    /// Memory of these regions, as the driver's features have it.
    pub(super) fn memory_of(&self, regions: Vec<Region>) -> Result<Arc<GuestMemory>, MemoryError> {
        let plain = GuestMemory::from_regions(regions)?;
        if !self.has_iommu() {
            return Ok(plain);
        }
        let known = |told: &Iotlb| Some((part(plain.regions(), told)?, permissions(told)?));
        let known: Vec<_> = self.iommu.told.values().filter_map(known).collect();
        let known: Vec<_> = known.iter().map(|(region, permissions)| (region, *permissions)).collect();
        GuestMemory::on_demand(plain.regions().to_vec(), &known, self.iommu.misses.clone())
    }

    /// The memory is this from now on. Translations stay that are to be found in it.
    pub(super) fn set_memory(&mut self, memory: Arc<GuestMemory>) {
        self.iommu.told.retain(|_, told| memory.is_on_demand() && part(memory.regions(), told).is_some());
        self.memory = memory;
    }

    pub(super) fn iotlb_msg(&mut self, message: Iotlb, device: &mut impl Backend) -> Result<Reply, Refusal> {
        if !self.has_iommu() {
            let why = "VIRTIO_F_ACCESS_PLATFORM was not acknowledged";
            return Err(ProtocolError::Order { request: REQUEST, why }.into());
        }
        match message.kind {
            Iotlb::UPDATE => self.update(message, device)?,
            Iotlb::INVALIDATE => self.invalidate(&message, device)?,
            kind => {
                let allowed = Allowed::Such("2 (update) or 3 (invalidate)");
                return Err(field("type", kind.into(), allowed));
            }
        }
        Ok(Reply::U64(0))
    }

    fn update(&mut self, told: Iotlb, device: &mut impl Backend) -> Result<(), Refusal> {
        let Iotlb { iova, size_bytes, user_addr, .. } = told;
        let allowed = Allowed::Between(1, 3);
        let permissions = permissions(&told).ok_or(field("permissions flags", told.permissions.into(), allowed))?;
        let addresses = range(iova, size_bytes)?;
        if !(iova | size_bytes).is_multiple_of(TRANSLATION_ALIGN_BYTES) {
            return Err(memory(MemoryError::Unaligned { gpa: iova, len_bytes: size_bytes }));
        }
        let outside = Refusal::Outside { user_addr, len_bytes: size_bytes };
        let region = part(self.memory.regions(), &told).ok_or(outside)?;
        if self.iommu.told.get(&iova) != Some(&told) {
            // What it replaces may be in use.
            self.forget(&self.iommu.overlapping(&addresses), device)?;
            self.make_room(device)?;
            self.iommu.told.insert(iova, told);
            if !self.memory.translate_to(&region, permissions)
                && let Err(refusal) = self.renew(device)
            {
                self.iommu.told.remove(&iova);
                return Err(refusal);
            }
        }
        self.iommu.misses.end(&addresses);
        self.start_those_complete(device);
        device.look_again();
        Ok(())
    }

    fn invalidate(&mut self, what: &Iotlb, device: &mut impl Backend) -> Result<(), Refusal> {
        let addresses = match (what.iova, what.size_bytes) {
            // All there are: 2^64 does not fit.
            (0, 0) => 0..=u64::MAX,
            (iova, size_bytes) => range(iova, size_bytes)?,
        };
        self.forget(&self.iommu.overlapping(&addresses), device)?;
        // Who still waits says so again.
        self.iommu.misses.end(&addresses);
        self.await_areas();
        Ok(())
    }

    /// Forgets all translations, if no ring runs: a front end that has stopped them need not tell any more what goes.
    pub(super) fn forget_if_idle(&mut self) {
        if !self.has_rings() {
            let told = std::mem::take(&mut self.iommu.told);
            let gone = told.values().filter_map(|told| part(self.memory.regions(), told));
            gone.for_each(|region| self.memory.forget(&region));
        }
    }

    /// Lets translations go, and waits until nobody uses them. Rings stop that have an area there.
    fn forget(&mut self, going: &[u64], device: &mut impl Backend) -> Result<(), Refusal> {
        for first in going {
            let Some(told) = self.iommu.told.remove(first) else { continue };
            for index in 0..self.vrings.len() {
                if self.is_at(index, &told) {
                    self.stop(index, device);
                }
            }
            if let Some(region) = part(self.memory.regions(), &told) {
                self.memory.forget(&region);
            }
        }
        if going.is_empty() || self.memory.pass() {
            return Ok(());
        }
        Err(Refusal::System { request: REQUEST, source: io::ErrorKind::TimedOut.into() })
    }

    /// Makes room for one more translation. What rings lie in stays.
    fn make_room(&mut self, device: &mut impl Backend) -> Result<(), Refusal> {
        let may_go = |told: &Iotlb| !(0..self.vrings.len()).any(|index| self.is_at(index, told));
        let going = self.iommu.next_to_go(may_go);
        self.iommu.next_to_go = going.last().map_or(self.iommu.next_to_go, |last| last.wrapping_add(1));
        self.forget(&going, device)?;
        if self.iommu.told.len() < TRANSLATIONS_MAX {
            return Ok(());
        }
        Err(memory(MemoryError::TooMany { found: TRANSLATIONS_MAX + 1, max: TRANSLATIONS_MAX }))
    }

    /// Makes the memory anew, with more room for translations. Rings stop meanwhile.
    fn renew(&mut self, device: &mut impl Backend) -> Result<(), Refusal> {
        let memory = self.memory_of(self.memory.regions().to_vec()).map_err(memory)?;
        self.stop_all(device);
        self.memory = memory;
        Ok(())
    }

    /// Whether a ring has an area at a translation's addresses.
    fn is_at(&self, index: usize, told: &Iotlb) -> bool {
        let last = told.iova + (told.size_bytes - 1);
        let overlaps = |(gpa, len_bytes): (u64, u64)| gpa <= last && told.iova <= gpa.saturating_add(len_bytes - 1);
        let (vring, layout) = (&self.vrings[index], self.layout());
        let areas = vring.areas().zip(vring.size).map(|(areas, size)| areas.areas(layout, size));
        areas.is_some_and(|areas| areas.into_iter().any(overlaps))
    }

    /// Rings that waited for translations start, if all are there.
    fn start_those_complete(&mut self, device: &mut impl Backend) {
        for index in 0..self.vrings.len() {
            if let Err(refusal) = self.start_if_complete(REQUEST, index, device) {
                // It is no fault of the translation's.
                tracing::debug!("a ring waits: {refusal}");
                self.counters.count(refusal.name());
            }
        }
    }

    /// Has what rings wait for asked for.
    fn await_areas(&self) {
        for vring in self.vrings.iter().filter(|vring| !vring.running && vring.is_complete()) {
            let areas: Option<(QueueAddresses, u16)> = vring.areas().zip(vring.size);
            areas.map(|(areas, size)| areas.are_awaited(self.layout(), size, &self.memory));
        }
    }

    /// Asks for what somebody waits for. A front end that does not read is asked later.
    pub(super) fn ask(&mut self) {
        for (iova, permissions) in self.iommu.misses.take() {
            if self.memory.is_translated(iova) {
                // It came while somebody was about to say that it was missing. By the next answer it may be another's.
                self.iommu.misses.end(&(iova..=iova));
                continue;
            }
            let Some(channel) = &self.channel else { return };
            let ready = wait_any(&mut [PollFd::new(channel, PollFlags::OUT)], Instant::now());
            if ready != Ok(true) {
                return;
            }
            let miss = Iotlb { iova, permissions: permissions.bits(), kind: Iotlb::MISS, ..Iotlb::default() };
            let header = Header::request(BackendRequest::IOTLB_MSG.number(), Iotlb::LEN_BYTES as u32, false);
            if channel.send(header, &miss.to_bytes(), &[]).is_err() {
                self.channel = None;
            }
        }
    }

    /// Asks once more for what was asked for before this was called last and has not come, if somebody still waits for it. To be
    /// called now and then.
    pub fn ask_again(&mut self, device: &mut impl Backend) {
        if self.has_iommu() {
            self.iommu.misses.forget_old();
            self.await_areas();
            device.look_again();
            self.ask();
        }
    }
}

/// What a translation is to, in some regions.
fn part(regions: &[Region], told: &Iotlb) -> Option<Region> {
    regions.iter().find_map(|region| {
        let offset_bytes = told.user_addr.checked_sub(region.frontend_address())?;
        Region::part(region.mapping(), offset_bytes, told.iova, told.size_bytes).ok()
    })
}

fn permissions(told: &Iotlb) -> Option<Permissions> {
    Permissions::from_bits(told.permissions.into())
}

/// Addresses from the first on: some, and none past the end.
fn range(iova: u64, size_bytes: u64) -> Result<RangeInclusive<u64>, Refusal> {
    let last = size_bytes.checked_sub(1).and_then(|more| iova.checked_add(more));
    Ok(iova..=last.ok_or(memory(MemoryError::Range { gpa: iova, len_bytes: size_bytes }))?)
}

fn memory(source: MemoryError) -> Refusal {
    Refusal::Memory { request: REQUEST, source }
}

fn field(field: &'static str, found: u64, allowed: Allowed) -> Refusal {
    ProtocolError::Field { request: REQUEST, field, found, allowed }.into()
}

// A memory's table has room for all of them, where each is a power of two bytes.
const _: () = assert!(TRANSLATIONS_MAX <= REGIONS_MAX);
