use proptest::prelude::*;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::{pread, pwrite};

use super::*;

const PAGE: u64 = 4096;
const FILE_PAGES: u64 = 64;

/// A file of pages, each full of its number, and a mapping of it.
fn file() -> (OwnedFd, Arc<Mapping>) {
    let file = memfd_create("pages", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&file, FILE_PAGES * PAGE).unwrap();
    (0..FILE_PAGES).for_each(|page| assert_eq!(pwrite(&file, &[page as u8; 4096], page * PAGE), Ok(4096)));
    let mapping = Arc::new(Mapping::of_file(&file, 0, FILE_PAGES * PAGE).unwrap());
    (file, mapping)
}

/// So many pages of a file, from one on, at an address.
fn part(mapping: &Arc<Mapping>, page: u64, gpa: u64, pages: u64) -> Region {
    Region::part(mapping, page * PAGE, gpa, pages * PAGE).unwrap()
}

fn behind_iommu(mapping: &Arc<Mapping>) -> Arc<GuestMemory> {
    GuestMemory::behind_iommu(vec![part(mapping, 0, 0, FILE_PAGES)], &[]).unwrap()
}

fn byte(memory: &GuestMemory, gpa: u64) -> Option<u8> {
    let [byte] = memory.span(gpa, 1)?.read_array()?;
    Some(byte)
}

#[test]
fn parts_of_a_mapping_are_regions() {
    let (file, mapping) = file();
    let memory = GuestMemory::from_regions(vec![part(&mapping, 1, 0x10_0000, 2), part(&mapping, 0, 0, 1)]).unwrap();
    let span = memory.span(0x10_0000 + PAGE - 4, 8).unwrap();
    assert_eq!(span.write(b"seamless"), 8);
    assert_eq!(memory.gpa_of(span), Some(0x10_0000 + PAGE - 4));
    let mut found = [0; 8];
    pread(&file, &mut found, 2 * PAGE - 4).unwrap();
    assert_eq!(&found, b"seamless");
    for (offset, gpa, len_bytes) in
        [(0, 0, 0), (0, 0, FILE_PAGES * PAGE + 1), (FILE_PAGES * PAGE, 0, 1), (u64::MAX, 0, 2), (0, u64::MAX, 1)]
    {
        assert!(Region::part(&mapping, offset, gpa, len_bytes).is_err());
    }
}

#[test]
fn scattered_pages_are_one_area() {
    let (file, mapping) = file();
    let memory = behind_iommu(&mapping);
    for (page, at) in [(9, 0), (3, 1), (4, 2), (7, 3)] {
        assert!(memory.translate_to(&part(&mapping, page, 0x1_0000 + at * PAGE, 1), Permissions::BOTH));
    }
    let (area, joined) = memory.area(0x1_0010, 3 * PAGE as u32, Access::Write).unwrap();
    let joined = joined.expect("it lies in several pieces");
    for (offset, page) in [(0, 9), (4079, 9), (4080, 3), (8176, 4), (12272, 7), (12287, 7)] {
        assert_eq!(area.skip(offset).read_array(), Some([page]), "{offset}");
    }
    assert!(area.skip(4078).write_array(*b"over"));
    let mut found = [[0; 2]; 2];
    pread(&file, &mut found[0], 10 * PAGE - 2).unwrap();
    pread(&file, &mut found[1], 3 * PAGE).unwrap();
    assert_eq!(found.concat(), b"over");
    // Its pages are where they were, for all who have them.
    assert_eq!(memory.span(0x1_0ffe, 2).unwrap().read_array(), Some(*b"ov"));
    // One piece needs nothing; nor do two that go on in the file.
    assert!(memory.area(0x1_1800, PAGE as u32, Access::Read).unwrap().1.is_none());
    assert!(memory.area(0x1_3800, PAGE as u32, Access::Read).is_none(), "only partly there");
    // The file is cut short: the area reads as zeroes, and the memory is broken.
    ftruncate(&file, 0).unwrap();
    assert_eq!(area.skip(8176).read_array(), Some([0]));
    assert!(memory.is_broken());
    drop(joined);
}

#[test]
fn pages_that_do_not_fit_together_are_no_area() {
    let (_, mapping) = file();
    let odd = Region::part(&mapping, 512, 0, PAGE).unwrap();
    let memory = GuestMemory::from_regions(vec![odd, part(&mapping, 9, PAGE, 1)]).unwrap();
    assert!(memory.area(PAGE - 16, 32, Access::Read).is_none());
    let short = Region::part(&mapping, 0, 0, 512).unwrap();
    let memory = GuestMemory::from_regions(vec![short, Region::part(&mapping, 8 * PAGE + 512, 512, PAGE).unwrap()]);
    assert!(memory.unwrap().area(496, 32, Access::Read).is_none(), "a seam within a page");
}

#[test]
fn translations_are_found_and_gone() {
    let (_, mapping) = file();
    let memory = behind_iommu(&mapping);
    let end = u64::MAX - 2 * PAGE + 1;
    let regions = [part(&mapping, 5, 0, 3), part(&mapping, 20, 1 << 40, 33), part(&mapping, 1, end, 1)];
    assert!(regions.iter().all(|region| memory.translate_to(region, Permissions::BOTH)));
    let seen = |gpa| byte(&memory, gpa);
    assert_eq!([0, PAGE, 3 * PAGE - 1, 3 * PAGE].map(seen), [Some(5), Some(6), Some(7), None]);
    assert_eq!([(1 << 40) - 1, 1 << 40, (1 << 40) + 33 * PAGE - 1].map(seen), [None, Some(20), Some(52)]);
    assert_eq!([end, end + PAGE].map(seen), [Some(1), None]);
    memory.forget(&regions[1]);
    assert_eq!([0, 1 << 40, (1 << 40) + 32 * PAGE, end].map(seen), [Some(5), None, None, Some(1)]);
    // What is not of this memory's files, or no page, has no place in it.
    let (_, other) = file();
    assert!(!memory.translate_to(&part(&other, 0, 1 << 41, 1), Permissions::BOTH));
    assert!(!memory.translate_to(&Region::part(&mapping, 0, 1 << 41, 512).unwrap(), Permissions::BOTH));
}

#[test]
fn what_may_be_read_may_not_be_written() {
    let (_, mapping) = file();
    let memory = behind_iommu(&mapping);
    let mut window = Window::default();
    for (bits, page) in [(1, 1), (2, 2), (3, 3)] {
        let permissions = Permissions::from_bits(bits).unwrap();
        assert!(memory.translate_to(&part(&mapping, page, page * PAGE, 1), permissions));
    }
    for (page, read, write) in [(3, true, true), (1, true, false), (2, false, true)] {
        for (access, allowed) in [(Access::Read, read), (Access::Write, write)] {
            let found = memory.translate(page * PAGE, 8, access, &mut window);
            assert_eq!(found.is_ok(), allowed, "page {page}, {access:?}");
        }
    }
    assert!([0, 4, u64::MAX].map(Permissions::from_bits).iter().all(Option::is_none));
}

#[test]
fn there_is_room_for_as_much_as_is_asked_for_up_to_a_bound() {
    let (_, mapping) = file();
    let memory = behind_iommu(&mapping);
    let pages: Vec<Region> =
        (0..BLOCKS_MAX as u64 + 1).map(|at| part(&mapping, at % FILE_PAGES, at * 2 * PAGE, 1)).collect();
    let fitted = pages.iter().take_while(|page| memory.translate_to(page, Permissions::BOTH)).count();
    assert!((64..pages.len()).contains(&fitted), "{fitted}");
    let with = |count| {
        let translations: Vec<_> = pages[..count].iter().map(|page| (page, Permissions::BOTH)).collect();
        GuestMemory::behind_iommu(vec![part(&mapping, 0, 0, FILE_PAGES)], &translations)
    };
    let memory = with(REGIONS_MAX).unwrap();
    assert!(
        pages[..REGIONS_MAX]
            .iter()
            .all(|page| byte(&memory, page.gpa) == Some((page.gpa / PAGE / 2 % FILE_PAGES) as u8))
    );
    assert!(matches!(with(pages.len()), Err(MemoryError::TooMany { .. })));
    let odd = Region::part(&mapping, 0, 512, PAGE).unwrap();
    let refused = GuestMemory::behind_iommu(vec![odd.clone()], &[(&odd, Permissions::BOTH)]);
    assert!(matches!(refused, Err(MemoryError::Unaligned { gpa: 512, .. })));
}

#[test]
fn a_translation_is_found_at_once_among_few_and_among_thousands() {
    let (_, mapping) = file();
    // Side by side, as drivers map them, and far apart. As different as seeds are, it takes 1.2 steps, and hardly ever 1.4.
    for (count, stride) in [8, 8192].into_iter().flat_map(|count| [1, 2, 1 << 20].map(|stride| (count, stride))) {
        let pages: Vec<_> = (0..count).map(|at| part(&mapping, at % FILE_PAGES, at * stride * PAGE, 1)).collect();
        let translations: Vec<_> = pages.iter().map(|page| (page, Permissions::BOTH)).collect();
        let memory = GuestMemory::behind_iommu(vec![part(&mapping, 0, 0, FILE_PAGES)], &translations).unwrap();
        let iotlb = memory.iotlb.as_ref().unwrap();
        let steps: usize = pages.iter().map(|page| iotlb.steps(page.gpa)).sum();
        assert!(steps < 2 * pages.len(), "{steps} steps to find {count}, {stride} pages apart");
    }
}

#[test]
fn workers_find_what_was_there_or_what_is_there_now() {
    let (_, mapping) = file();
    let memory = behind_iommu(&mapping);
    // One that stays, and many that come and go around it.
    assert!(memory.translate_to(&part(&mapping, 1, 0, 1), Permissions::BOTH));
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let mut found = 0;
            while found < 20_000 {
                // A lookup may have to give way to whoever writes.
                match memory.translate(0, 1, Access::Read, &mut Window::default()) {
                    Ok(span) => assert_eq!(span.read_array(), Some([1])),
                    Err(absent) => assert_eq!(absent, Absent::NotYet),
                }
                for gpa in (1..40).map(|page| page * PAGE) {
                    let page = memory.span(gpa, 1).and_then(Span::read_array);
                    assert!(page.is_none() || page == Some([(gpa / PAGE) as u8]), "another's page");
                    found += 1;
                }
            }
        });
        while !worker.is_finished() {
            let pages: Vec<_> = (1..40).map(|page| part(&mapping, page, page * PAGE, 1)).collect();
            pages.iter().for_each(|page| assert!(memory.translate_to(page, Permissions::BOTH)));
            pages.iter().for_each(|page| memory.forget(page));
        }
        worker.join().unwrap();
    });
}

proptest! {
    /// Whatever comes and goes, what is found is what a list of it says.
    #[test]
    fn translations_are_as_a_list_of_them_says(steps in prop::collection::vec((0u64..96, 1u64..20, 0u64..32), 1..200)) {
        let (_, mapping) = file();
        let memory = behind_iommu(&mapping);
        let mut list: Vec<Region> = Vec::new();
        for (at, pages, page) in steps {
            let new = part(&mapping, page, at * PAGE, pages);
            let overlaps = |old: &Region| old.gpa < new.gpa + new.len_bytes && new.gpa < old.gpa + old.len_bytes;
            match list.iter().position(overlaps) {
                Some(index) => memory.forget(&list.swap_remove(index)),
                None => {
                    prop_assert!(memory.translate_to(&new, Permissions::BOTH));
                    list.push(new);
                }
            }
            for page in 0..120 {
                let gpa = page * PAGE;
                let of = list.iter().find(|region| (region.gpa..region.gpa + region.len_bytes).contains(&gpa));
                let host = memory.span(gpa, 1).map(Span::address);
                prop_assert_eq!(host, of.map(|region| region.start + (gpa - region.gpa) as usize));
            }
        }
    }
}
