//! Copies between spans, at every length that is made in place and some that are the library's, wherever they lie: every byte
//! that is asked for, and no other.

use virtnet_rings::memory::OwnedMemory;

/// Longer than any copy that is made in place.
const LEN_MAX: usize = 2200;
/// Room before and after.
const MARGIN: usize = 64;

fn pattern(len_bytes: usize) -> Vec<u8> {
    (0..len_bytes).map(|at| (at * 7 + at / 256 + 1) as u8).collect()
}

#[test]
fn a_copy_is_what_was_there_and_touches_nothing_else() {
    const WHOLE: usize = MARGIN + LEN_MAX + MARGIN;
    let (from, to) = (OwnedMemory::new(WHOLE), OwnedMemory::new(WHOLE));
    let bytes = pattern(WHOLE);
    from.span(0, WHOLE).write(&bytes);
    let mut expected = vec![0xee; WHOLE];
    let mut found = vec![0; WHOLE];
    for (from_offset, to_offset) in [(0, 0), (0, 1), (12, 12), (5, 31), (63, 32), (1, 63), (44, 20)] {
        for len_bytes in 0..=LEN_MAX {
            to.span(0, WHOLE).write(&expected);
            let source = from.span(from_offset, len_bytes);
            // The shorter of the two counts.
            let target = to.span(to_offset, len_bytes + len_bytes % 3);
            assert_eq!(target.copy_from(source), len_bytes as u32);
            to.span(0, WHOLE).read(&mut found);
            expected[to_offset..][..len_bytes].copy_from_slice(&bytes[from_offset..][..len_bytes]);
            assert!(found == expected, "{len_bytes} bytes from {from_offset} to {to_offset}");
            expected[to_offset..][..len_bytes].fill(0xee);
        }
    }
}

#[test]
fn a_copy_of_a_buffer_into_another_that_overlaps_it_leaves_all_else_alone() {
    const WHOLE: usize = 2 * MARGIN + 2 * LEN_MAX;
    let memory = OwnedMemory::new(WHOLE);
    let bytes = pattern(WHOLE);
    let mut found = vec![0; WHOLE];
    for len_bytes in (0..=LEN_MAX).step_by(3) {
        for distance in [0, 1, 31, 64, 65, len_bytes / 2] {
            for (from, to) in [(MARGIN, MARGIN + distance), (MARGIN + distance, MARGIN)] {
                memory.span(0, WHOLE).write(&bytes);
                memory.span(to, len_bytes).copy_from(memory.span(from, len_bytes));
                memory.span(0, WHOLE).read(&mut found);
                assert!(found[..to] == bytes[..to] && found[to + len_bytes..] == bytes[to + len_bytes..]);
            }
        }
    }
}

#[test]
fn an_update_leaves_what_was_asked_for_where_there_is_room() {
    let memory = OwnedMemory::new(16);
    for (before, len_bytes) in [([0xee; 16], 12), ([7; 16], 12), ([0xee; 16], 13), ([0xee; 16], 11)] {
        memory.span(0, 16).write(&before);
        let fits = len_bytes >= 12;
        assert_eq!(memory.span(0, len_bytes).update_array([7; 12]), fits);
        let mut found = [0; 16];
        memory.span(0, 16).read(&mut found);
        let (updated, rest) = found.split_at(if fits { 12 } else { 0 });
        assert!(updated.iter().all(|&byte| byte == 7) && rest.iter().all(|&byte| byte == before[15]));
    }
}
