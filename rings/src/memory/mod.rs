//! Guest memory: a table of regions, each mapped from a file descriptor of the front end.
//!
//! Rules of this room, the only one that touches bytes which another machine writes while we read:
//!
//! * No reference or slice to guest memory, ever: typed loads and stores (`area`) and copies (`span`).
//! * An address is translated and checked to its end once, into a [`Span`]; after that, use cannot fail.
//! * A span is good while its mapping lives. Queues hold their [`GuestMemory`], and one that is dropped with chains
//!   still out keeps the mapping for ever rather than let a span dangle.
//! * Behind an IOMMU what is mapped where changes ([`iotlb`]), but not which files are mapped: an address that goes is no reason
//!   for a span to dangle.
//! * A file cut short under us raises SIGBUS; [`fault`] turns that into zeroes and a mark on the region.

pub(crate) mod area;
mod dirty;
pub mod fault;
mod iotlb;
pub(crate) mod joined;
mod map;
mod misses;
mod owned;
mod span;
#[cfg(all(test, not(loom)))]
mod tests;
pub(crate) mod turns;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use thiserror::Error;

use iotlb::{BLOCKS_MAX, Iotlb, block_count};
use joined::Joined;
use turns::Member;

pub use dirty::{DIRTY_PAGE_SIZE_BYTES, DirtyLog};
pub use iotlb::{Permissions, TRANSLATION_ALIGN_BYTES};
pub use map::{MapError, Mapping};
pub use misses::Misses;
pub use owned::OwnedMemory;
pub use span::Span;

/// The most regions a table may have.
pub const REGIONS_MAX: usize = 16384;

/// One region as a front end names it.
#[derive(Debug)]
pub struct RegionSpec {
    /// First guest physical address.
    pub gpa: u64,
    /// Length in bytes, not 0.
    pub len_bytes: u64,
    /// The same memory's address in the front end, by which vhost-user names rings.
    pub frontend_address: u64,
    /// The file that holds it.
    pub fd: OwnedFd,
    /// Where in the file the region starts, in bytes.
    pub offset_bytes: u64,
}

/// Why a memory table was refused.
#[derive(Debug, Error)]
pub enum MemoryError {
    /// Empty, or its end lies past 2^64.
    #[error("region at {gpa:#x} of {len_bytes:#x} bytes: the length must be above 0 and the end below 2^64")]
    Range {
        /// First address.
        gpa: u64,
        /// Length as found.
        len_bytes: u64,
    },
    /// Two regions share guest physical addresses.
    #[error("regions at {first_gpa:#x} and {second_gpa:#x} overlap")]
    Overlap {
        /// The lower region.
        first_gpa: u64,
        /// The higher region.
        second_gpa: u64,
    },
    /// More than there can be.
    #[error("{found} regions; at most {max} are allowed")]
    TooMany {
        /// How many were asked for.
        found: usize,
        /// How many there can be: [`REGIONS_MAX`], or fewer.
        max: usize,
    },
    /// A translation that does not start or end where one can.
    #[error(
        "translation at {gpa:#x} of {len_bytes:#x} bytes: must start and end at multiples of {TRANSLATION_ALIGN_BYTES:#x}"
    )]
    Unaligned {
        /// First address.
        gpa: u64,
        /// Length as found.
        len_bytes: u64,
    },
    /// The file could not be mapped.
    #[error("region at {gpa:#x}: {source}")]
    Map {
        /// First address.
        gpa: u64,
        /// What the mapping said.
        source: MapError,
    },
}

/// One mapped region. Cloning shares the mapping, so that a table can change around it.
#[derive(Clone, Debug)]
pub struct Region {
    gpa: u64,
    len_bytes: u64,
    frontend_address: u64,
    /// Where it is in this process.
    start: usize,
    mapping: Arc<Mapping>,
}

impl Region {
    /// Maps a region.
    ///
    /// # Errors
    /// [`MemoryError::Range`] and [`MemoryError::Map`]: the latter also where the file is shorter than the region.
    pub fn map(spec: RegionSpec) -> Result<Self, MemoryError> {
        let RegionSpec { gpa, len_bytes, frontend_address, fd, offset_bytes } = spec;
        let fits = |start: u64| start.checked_add(len_bytes).is_some();
        if len_bytes == 0 || !fits(gpa) || !fits(frontend_address) {
            return Err(MemoryError::Range { gpa, len_bytes });
        }
        let mapping =
            Mapping::of_file(&fd, offset_bytes, len_bytes).map_err(|source| MemoryError::Map { gpa, source })?;
        let start = mapping.address();
        Ok(Region { gpa, len_bytes, frontend_address, start, mapping: Arc::new(mapping) })
    }

    /// A part of what is mapped already, `offset_bytes` from its start on. The front end knows it by its guest physical address.
    ///
    /// # Errors
    /// [`MemoryError::Range`]: also where the mapping does not hold it.
    pub fn part(mapping: &Arc<Mapping>, offset_bytes: u64, gpa: u64, len_bytes: u64) -> Result<Self, MemoryError> {
        let end = offset_bytes.checked_add(len_bytes).filter(|end| *end <= mapping.len_bytes() as u64);
        if len_bytes == 0 || end.is_none() || gpa.checked_add(len_bytes).is_none() {
            return Err(MemoryError::Range { gpa, len_bytes });
        }
        let start = mapping.address() + offset_bytes as usize;
        Ok(Region { gpa, len_bytes, frontend_address: gpa, start, mapping: mapping.clone() })
    }

    /// First guest physical address.
    pub fn gpa(&self) -> u64 {
        self.gpa
    }

    /// Length in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// The same memory's address in the front end.
    pub fn frontend_address(&self) -> u64 {
        self.frontend_address
    }

    /// What it is a part of.
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// Whether the file was cut short under us; what was cut reads as zeroes.
    pub fn is_broken(&self) -> bool {
        self.mapping.is_broken()
    }
}

/// All regions of one guest, sorted, without overlap, never changed: a new table is a new value. Addresses are those of the regions,
/// or what an IOMMU translates to places in them.
#[derive(Debug, Default)]
pub struct GuestMemory {
    regions: Box<[Region]>,
    iotlb: Option<Iotlb>,
}

/// Why there is nothing at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Absent {
    /// It is outside of memory, or not to be used like this.
    Outside,
    /// It may be there soon.
    NotYet,
}

/// The region hit last, kept by whoever translates: most addresses fall into the same one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Window {
    gpa: u64,
    len_bytes: u64,
    host: usize,
}

/// What an address belongs to.
#[derive(Clone, Copy, Debug)]
struct Found {
    window: Window,
    permissions: Permissions,
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To the device, which may read them: a transmitq's.
    Read,
    /// From the device, which may write them: a receiveq's.
    Write,
}

impl Window {
    /// The bytes at `gpa`, if all of them lie in this region.
    #[inline(always)]
    pub(crate) fn span(&self, gpa: u64, len_bytes: u32) -> Option<Span> {
        let offset = gpa.wrapping_sub(self.gpa);
        (offset < self.len_bytes && u64::from(len_bytes) <= self.len_bytes - offset)
            .then(|| Span::in_window(self.host, offset, len_bytes))
    }
}

impl GuestMemory {
    /// Maps every region of a table.
    ///
    /// # Errors
    /// Any [`MemoryError`]; nothing stays mapped.
    pub fn new(specs: Vec<RegionSpec>) -> Result<Arc<Self>, MemoryError> {
        if specs.len() > REGIONS_MAX {
            return Err(MemoryError::TooMany { found: specs.len(), max: REGIONS_MAX });
        }
        let regions = specs.into_iter().map(Region::map).collect::<Result<Vec<_>, _>>()?;
        Self::from_regions(regions)
    }

    /// A table of regions that are mapped already.
    ///
    /// # Errors
    /// [`MemoryError::Overlap`] and [`MemoryError::TooMany`].
    pub fn from_regions(mut regions: Vec<Region>) -> Result<Arc<Self>, MemoryError> {
        if regions.len() > REGIONS_MAX {
            return Err(MemoryError::TooMany { found: regions.len(), max: REGIONS_MAX });
        }
        regions.sort_by_key(|region| region.gpa);
        for pair in regions.windows(2) {
            if pair[0].gpa + pair[0].len_bytes > pair[1].gpa {
                return Err(MemoryError::Overlap { first_gpa: pair[0].gpa, second_gpa: pair[1].gpa });
            }
        }
        Ok(Arc::new(GuestMemory { regions: regions.into(), iotlb: None }))
    }

    /// Memory that is reached by what `translations` say, and by others that come and go as long as it is there. Each is a part of
    /// one of `files`, which may overlap.
    ///
    /// # Errors
    /// [`MemoryError::TooMany`] and [`MemoryError::Unaligned`].
    pub fn behind_iommu(files: Vec<Region>, translations: &[(&Region, Permissions)]) -> Result<Arc<Self>, MemoryError> {
        Self::translated(files, translations, None)
    }

    /// The same, where translations are asked for that are not there: what lacks one waits.
    ///
    /// # Errors
    /// As above.
    pub fn on_demand(
        files: Vec<Region>,
        translations: &[(&Region, Permissions)],
        misses: Arc<Misses>,
    ) -> Result<Arc<Self>, MemoryError> {
        Self::translated(files, translations, Some(misses))
    }

    fn translated(
        files: Vec<Region>,
        translations: &[(&Region, Permissions)],
        misses: Option<Arc<Misses>>,
    ) -> Result<Arc<Self>, MemoryError> {
        let aligned = |region: &Region| (region.gpa | region.len_bytes).is_multiple_of(TRANSLATION_ALIGN_BYTES);
        if let Some((Region { gpa, len_bytes, .. }, _)) = translations.iter().find(|(region, _)| !aligned(region)) {
            return Err(MemoryError::Unaligned { gpa: *gpa, len_bytes: *len_bytes });
        }
        let blocks: usize = translations.iter().map(|(region, _)| block_count(region)).sum();
        let mut memory = GuestMemory { regions: files.into(), iotlb: None };
        let mut room = 2 * blocks;
        loop {
            let iotlb = memory.iotlb.insert(Iotlb::new(room, misses.clone()));
            if translations.iter().all(|(region, permissions)| iotlb.insert(region, *permissions)) {
                return Ok(Arc::new(memory));
            }
            if room >= BLOCKS_MAX {
                return Err(MemoryError::TooMany { found: translations.len(), max: REGIONS_MAX });
            }
            room *= 2;
        }
    }

    /// Whether an IOMMU is between it and whoever gives addresses.
    pub fn is_behind_iommu(&self) -> bool {
        self.iotlb.is_some()
    }

    /// Whether what it lacks may come when it is asked for.
    pub fn is_on_demand(&self) -> bool {
        self.iotlb.as_ref().is_some_and(Iotlb::is_on_demand)
    }

    /// From now on `part` has a translation, which none of its addresses had. `false` if that cannot be in this memory: it is no
    /// part of its files, does not start or end where translations do, or there is no room.
    pub fn translate_to(&self, part: &Region, permissions: Permissions) -> bool {
        let is_known = self.regions.iter().any(|region| Arc::ptr_eq(&region.mapping, &part.mapping));
        let is_aligned = (part.gpa | part.len_bytes).is_multiple_of(TRANSLATION_ALIGN_BYTES);
        is_known && is_aligned && self.iotlb.as_ref().is_some_and(|iotlb| iotlb.insert(part, permissions))
    }

    /// `part` was given a translation, and has none any more. Workers may still be using it: see [`Self::pass`].
    pub fn forget(&self, part: &Region) {
        self.iotlb.iter().for_each(|iotlb| iotlb.remove(part));
    }

    /// Returns when no worker writes by a translation that was forgotten before, nor begins to read by it. What was lent by then is
    /// read to its end. `false` if a worker does not come to an end.
    pub fn pass(&self) -> bool {
        self.iotlb.as_ref().is_none_or(|iotlb| iotlb.turns.pass())
    }

    /// Whether an address has a translation.
    pub fn is_translated(&self, gpa: u64) -> bool {
        self.iotlb.as_ref().is_some_and(|iotlb| iotlb.has(gpa))
    }

    /// Whether some of a stretch has no translation, where it can be asked for; it is.
    pub(crate) fn awaits(&self, gpa: u64, len_bytes: u64, access: Access) -> bool {
        self.iotlb.as_ref().is_some_and(|iotlb| iotlb.awaits(gpa, len_bytes, access))
    }

    /// Joins those who have turns, where translations come and go.
    pub(crate) fn join(&self) -> Option<Member> {
        self.iotlb.as_ref().map(|iotlb| iotlb.turns.join())
    }

    /// Begins a turn; whether what was translated before may not hold any more.
    #[inline]
    pub(crate) fn begin(&self, member: &mut Member) -> bool {
        self.iotlb.as_ref().is_some_and(|iotlb| member.begin(&iotlb.turns))
    }

    /// The regions, by address.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// Whether any region's file was cut short.
    pub fn is_broken(&self) -> bool {
        self.regions.iter().any(Region::is_broken)
    }

    /// The guest physical address of `len_bytes` at a front end's address, all within one region.
    pub fn frontend_to_gpa(&self, address: u64, len_bytes: u64) -> Option<u64> {
        self.regions.iter().find_map(|region| {
            let offset = address.checked_sub(region.frontend_address)?;
            let fits = offset < region.len_bytes && len_bytes <= region.len_bytes - offset;
            fits.then(|| region.gpa + offset)
        })
    }

    /// The bytes at `gpa`: all `len_bytes` of them, or as many as lie before the end of the region they start in.
    ///
    /// A zero length gives an empty span anywhere inside a region. A window is good for one kind of access, until
    /// [`Self::begin`] says otherwise.
    #[inline]
    pub(crate) fn translate(
        &self,
        gpa: u64,
        len_bytes: u32,
        access: Access,
        window: &mut Window,
    ) -> Result<Span, Absent> {
        match window.span(gpa, len_bytes) {
            Some(span) => Ok(span),
            None => self.translate_elsewhere(gpa, len_bytes, access, window),
        }
    }

    #[cold]
    #[inline(never)]
    fn translate_elsewhere(
        &self,
        gpa: u64,
        len_bytes: u32,
        access: Access,
        window: &mut Window,
    ) -> Result<Span, Absent> {
        let found = match &self.iotlb {
            None => self.region_of(gpa).ok_or(Absent::Outside)?,
            Some(iotlb) => iotlb.find(gpa, len_bytes, access)?,
        };
        // What is good for one access only is looked up each time.
        if found.permissions == Permissions::BOTH {
            *window = found.window;
        }
        let Window { gpa: start, len_bytes: left, host } = found.window;
        let offset = gpa - start;
        Ok(Span::in_window(host, offset, u64::from(len_bytes).min(left - offset) as u32))
    }

    fn region_of(&self, gpa: u64) -> Option<Found> {
        let after = self.regions.partition_point(|region| region.gpa <= gpa);
        let region = &self.regions[after.checked_sub(1)?];
        let window = Window { gpa: region.gpa, len_bytes: region.len_bytes, host: region.start };
        (gpa - region.gpa < region.len_bytes).then_some(Found { window, permissions: Permissions::BOTH })
    }

    /// The bytes from `gpa` + `offset` on, over seams of regions.
    #[cold]
    pub(crate) fn read_array<const N: usize>(
        &self,
        gpa: u64,
        offset: u32,
        window: &mut Window,
    ) -> Result<[u8; N], Absent> {
        let mut bytes = [0; N];
        let mut done = 0;
        while done < N {
            let at = gpa.checked_add(u64::from(offset) + done as u64).ok_or(Absent::Outside)?;
            let span = self.translate(at, (N - done) as u32, Access::Read, window)?;
            done += span.read(&mut bytes[done..]);
        }
        Ok(bytes)
    }

    /// A whole stretch of guest memory within one region, to be read, or nothing.
    pub fn span(&self, gpa: u64, len_bytes: u32) -> Option<Span> {
        let span = self.translate(gpa, len_bytes, Access::Read, &mut Window::default());
        span.ok().filter(|span| span.len_bytes() == len_bytes)
    }

    /// The same wherever it lies, piece by piece.
    fn pieces(&self, gpa: u64, len_bytes: u32, access: Access) -> Option<Vec<(Span, &Mapping)>> {
        let mut pieces: Vec<(Span, &Mapping)> = Vec::new();
        let (mut at, mut left) = (gpa, len_bytes);
        loop {
            let span = self.translate(at, left, access, &mut Window::default()).ok()?;
            left -= span.len_bytes();
            let mapping = self.mapping_of(span)?;
            match pieces.last_mut() {
                Some((last, of)) if std::ptr::eq(*of, mapping) && last.end() == span.address() => {
                    *last = last.with(span)
                }
                _ => pieces.push((span, mapping)),
            }
            if left == 0 {
                return Some(pieces);
            }
            at = at.checked_add(span.len_bytes().into())?;
        }
    }

    /// The same in one, as long as pages can be put side by side: in that case, what does that.
    pub(crate) fn area(&self, gpa: u64, len_bytes: u32, access: Access) -> Option<(Span, Option<Joined>)> {
        let pieces = self.pieces(gpa, len_bytes, access)?;
        if let [(span, _)] = pieces[..] {
            return Some((span, None));
        }
        let joined = Joined::new(&pieces)?;
        Some((joined.span(len_bytes), Some(joined)))
    }

    fn mapping_of(&self, span: Span) -> Option<&Mapping> {
        let holds = |region: &&Region| {
            let mapping = &region.mapping;
            span.address().checked_sub(mapping.address()).is_some_and(|offset| offset < mapping.len_bytes())
        };
        self.regions.iter().find(holds).map(|region| &*region.mapping)
    }

    /// Where an area lies, as the guest counts, whatever is between: for the dirty log.
    pub(crate) fn places(&self, gpa: u64, len_bytes: u64) -> Vec<(u64, u64)> {
        let pieces = self.pieces(gpa, len_bytes as u32, Access::Write).unwrap_or_default();
        pieces.iter().filter_map(|(span, _)| Some((self.gpa_of(*span)?, span.len_bytes().into()))).collect()
    }

    /// Where an address lies, as the dirty log counts.
    pub fn place(&self, gpa: u64) -> Option<u64> {
        [Access::Write, Access::Read].into_iter().find_map(|access| {
            let span = self.translate(gpa, 1, access, &mut Window::default()).ok()?;
            self.gpa_of(span)
        })
    }

    /// Where a span of this memory starts, as the guest counts: the way back, for the dirty log.
    pub fn gpa_of(&self, span: Span) -> Option<u64> {
        self.regions.iter().find_map(|region| {
            let offset = (span.address() as u64).checked_sub(region.start as u64)?;
            (offset < region.len_bytes).then(|| region.gpa + offset)
        })
    }
}
