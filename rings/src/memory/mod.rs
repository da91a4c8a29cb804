//! Guest memory: a table of regions, each mapped from a file descriptor of the front end.
//!
//! Rules of this room, the only one that touches bytes which another machine writes while we read:
//!
//! * No reference or slice to guest memory, ever: typed loads and stores (`area`) and copies (`span`).
//! * An address is translated and checked to its end once, into a [`Span`]; after that, use cannot fail.
//! * A span is good while its mapping lives. Queues hold their [`GuestMemory`], and one that is dropped with chains
//!   still out keeps the mapping for ever rather than let a span dangle.
//! * A file cut short under us raises SIGBUS; [`fault`] turns that into zeroes and a mark on the region.

pub(crate) mod area;
mod dirty;
pub mod fault;
mod map;
mod owned;
mod span;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use thiserror::Error;

pub use dirty::{DIRTY_PAGE_SIZE_BYTES, DirtyLog};
pub use map::{MapError, Mapping};
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

    /// Takes in a part of the same mapping that goes on where this one ends, for the guest, its front end and here; `false` if it
    /// is none.
    pub fn extend(&mut self, next: &Region) -> bool {
        let ends = (self.gpa + self.len_bytes, self.frontend_address + self.len_bytes);
        let goes_on = Arc::ptr_eq(&self.mapping, &next.mapping)
            && ends == (next.gpa, next.frontend_address)
            && self.start + self.len_bytes as usize == next.start;
        if goes_on {
            self.len_bytes += next.len_bytes;
        }
        goes_on
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

/// All regions of one guest, sorted, without overlap, never changed: a new table is a new value.
#[derive(Debug, Default)]
pub struct GuestMemory {
    regions: Box<[Region]>,
}

/// The region hit last, kept by whoever translates: most addresses fall into the same one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Window {
    gpa: u64,
    len_bytes: u64,
    host: usize,
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
        Ok(Arc::new(GuestMemory { regions: regions.into() }))
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
    /// `None` where no region holds `gpa`. A zero length gives an empty span anywhere inside a region.
    #[inline]
    pub fn translate(&self, gpa: u64, len_bytes: u32, window: &mut Window) -> Option<Span> {
        window.span(gpa, len_bytes).or_else(|| self.translate_elsewhere(gpa, len_bytes, window))
    }

    #[cold]
    #[inline(never)]
    fn translate_elsewhere(&self, gpa: u64, len_bytes: u32, window: &mut Window) -> Option<Span> {
        let after = self.regions.partition_point(|region| region.gpa <= gpa);
        let region = &self.regions[after.checked_sub(1)?];
        let offset = gpa - region.gpa;
        if offset >= region.len_bytes {
            return None;
        }
        *window = Window { gpa: region.gpa, len_bytes: region.len_bytes, host: region.start };
        let len_bytes = u64::from(len_bytes).min(region.len_bytes - offset) as u32;
        Some(Span::in_window(window.host, offset, len_bytes))
    }

    /// A whole stretch of guest memory within one region, or nothing.
    pub fn span(&self, gpa: u64, len_bytes: u32) -> Option<Span> {
        self.translate(gpa, len_bytes, &mut Window::default()).filter(|span| span.len_bytes() == len_bytes)
    }

    /// Where a span of this memory starts, as the guest counts: the way back, for the dirty log.
    pub fn gpa_of(&self, span: Span) -> Option<u64> {
        self.regions.iter().find_map(|region| {
            let offset = (span.address() as u64).checked_sub(region.start as u64)?;
            (offset < region.len_bytes).then(|| region.gpa + offset)
        })
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use super::*;

    const PAGE: u64 = 4096;

    #[test]
    fn parts_of_a_mapping_that_lie_side_by_side_are_one_region() {
        let file = memfd_create("parts", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, 4 * PAGE).unwrap();
        let mapping = Arc::new(Mapping::of_file(&file, 0, 4 * PAGE).unwrap());
        let part = |offset, gpa| Region::part(&mapping, offset, gpa, PAGE).unwrap();
        let mut first = part(PAGE, 0x10_0000);
        assert!(!first.extend(&part(2 * PAGE, 0x10_0000 + 2 * PAGE)), "not for the guest");
        assert!(!first.extend(&part(3 * PAGE, 0x10_0000 + PAGE)), "not in the file");
        let other = Arc::new(Mapping::of_file(&file, 0, 4 * PAGE).unwrap());
        assert!(
            !first.extend(&Region::part(&other, 2 * PAGE, 0x10_0000 + PAGE, PAGE).unwrap()),
            "not the same mapping"
        );
        assert!(first.extend(&part(2 * PAGE, 0x10_0000 + PAGE)));
        let memory = GuestMemory::from_regions(vec![first, part(0, 0)]).unwrap();
        let span = memory.span(0x10_0000 + PAGE - 4, 8).unwrap();
        assert_eq!(span.write(b"seamless"), 8);
        assert_eq!(memory.gpa_of(span), Some(0x10_0000 + PAGE - 4));
        let mut found = [0; 8];
        rustix::io::pread(&file, &mut found, 2 * PAGE - 4).unwrap();
        assert_eq!(&found, b"seamless");
        for (offset, gpa, len_bytes) in
            [(0, 0, 0), (0, 0, 4 * PAGE + 1), (4 * PAGE, 0, 1), (u64::MAX, 0, 2), (0, u64::MAX, 1)]
        {
            assert!(Region::part(&mapping, offset, gpa, len_bytes).is_err());
        }
    }
}
