//! VFs, as a driver finds them in extended configuration space and asks for them.

use super::*;

const VFS: Vfs = Vfs { total: 7, first_offset: 0x3f00, are_transitional: false, msix: 4 };
const CONTROL: usize = 0x08;
const NUM_VFS: usize = 0x10;
const PAGE_SIZE: usize = 0x20;
const BAR_2: usize = 0x2c;

impl Bench {
    /// Extended capabilities: their ids, and where they are.
    fn extended(&mut self) -> Vec<(u64, usize)> {
        let mut found = Vec::new();
        let mut at = 0x100;
        while at != 0 {
            let header = self.config(at, 4);
            found.push((header & 0xf_ffff, at));
            at = (header >> 20) as usize;
        }
        found
    }

    /// One that can have VFs, and where its capability for them is.
    fn physical() -> (Self, usize) {
        let mut bench = Self::with(false, Kind::Physical(VFS));
        let [(0x1_000e, _), (0x1_000d, _), (0x1_0010, at)] = bench.extended()[..] else { panic!("three capabilities") };
        (bench, at)
    }

    fn try_set(&mut self, at: usize, value: u32, len_bytes: usize) -> Result<(), Refusal> {
        self.function.write_config(at, &value.to_le_bytes()[..len_bytes], &mut self.device)
    }

    #[track_caller]
    fn set(&mut self, at: usize, value: u16) {
        self.try_set(at, value.into(), 2).unwrap();
    }
}

#[test]
fn a_function_says_which_vfs_it_can_have() {
    let (mut bench, at) = Bench::physical();
    let half = |bench: &mut Bench, offset: usize| bench.config(at + offset, 2);
    let fields = [CONTROL, 0x0c, 0x0e, NUM_VFS, 0x14, 0x16, 0x1a].map(|offset| half(&mut bench, offset));
    assert_eq!(fields, [0, 7, 7, 0, 0x3f00, 1, 0x1041]);
    assert_eq!((bench.config(at + 0x1c, 4), bench.config(at + PAGE_SIZE, 4)), (0x553, 1));
    bench.try_set(at + BAR_2, u32::MAX, 4).unwrap();
    assert_eq!(bench.config(at + BAR_2, 8), 0xffff_e004, "as large as a VF's own");
    let mut vf = Bench::with(false, Kind::Virtual);
    assert_eq!(vf.extended().iter().map(|(id, _)| *id).collect::<Vec<_>>(), [0x1_000e, 0x1_000d]);
    assert_eq!(Bench::new().extended(), [(0, 0x100)], "an empty list");
}

#[test]
fn a_driver_asks_for_vfs_and_has_them() {
    let (mut bench, at) = Bench::physical();
    bench.set(at + NUM_VFS, 3);
    assert_eq!(bench.function.vfs_wanted(), None, "a number makes none");
    bench.set(at + CONTROL, 0x19);
    assert_eq!(bench.function.members(), None, "they come");
    assert_eq!((bench.function.vfs_wanted(), bench.function.take_vfs_wanted()), (Some(3), Some(3)));
    assert_eq!(bench.function.members(), None);
    assert_eq!(bench.function.take_vfs_wanted(), None);
    bench.function.show_vfs(3);
    assert_eq!(bench.function.members(), Some(3));
    assert_eq!((bench.config(at + CONTROL, 2), bench.config(at + NUM_VFS, 2)), (0x19, 3));
    assert_eq!(bench.try_set(at + NUM_VFS, 4, 2).unwrap_err().name(), "value");
    assert_eq!(bench.try_set(at + PAGE_SIZE, 2, 4).unwrap_err().name(), "value");
    assert_eq!((bench.config(at + NUM_VFS, 2), bench.config(at + PAGE_SIZE, 4)), (3, 1), "while there are VFs");
    bench.set(at + CONTROL, 0x18);
    assert_eq!(bench.function.take_vfs_wanted(), Some(0));
    bench.function.show_vfs(0);
    assert_eq!((bench.config(at + CONTROL, 2), bench.config(at + NUM_VFS, 2)), (0x18, 3), "its number stays");
    bench.set(at + CONTROL, 1);
    bench.function.take_vfs_wanted();
    bench.function.show_vfs(0);
    assert_eq!((bench.config(at + CONTROL, 2), bench.config(at + NUM_VFS, 2)), (0, 0), "they could not be made");
}

#[test]
fn what_there_cannot_be_is_refused() {
    let (mut bench, at) = Bench::physical();
    bench.set(at + NUM_VFS, 7);
    assert_eq!(bench.try_set(at + NUM_VFS, 8, 2).unwrap_err().name(), "value");
    for pages in [0, 3, 4, 0x1000] {
        assert_eq!(bench.try_set(at + PAGE_SIZE, pages, 4).unwrap_err().name(), "value", "{pages:#x}");
    }
    assert_eq!((bench.config(at + NUM_VFS, 2), bench.config(at + PAGE_SIZE, 4)), (7, 1));
    bench.try_set(at + PAGE_SIZE, 0x10, 4).unwrap();
    bench.try_set(at + BAR_2, u32::MAX, 4).unwrap();
    assert_eq!(bench.config(at + BAR_2, 4), 0xffff_0004, "a page at least");
    // Number and control at once: the number counts as it is then.
    let both = [&[1, 0, 0, 0][..], &[7, 0, 7, 0], &[2, 0]].concat();
    bench.function.write_config(at + CONTROL, &both, &mut bench.device).unwrap();
    assert_eq!((bench.function.take_vfs_wanted(), bench.config(at + 0x0e, 2)), (Some(2), 7));
}

#[test]
fn a_reset_takes_the_drivers_vfs_and_leaves_an_operators() {
    let (mut bench, at) = Bench::physical();
    bench.function.show_vfs(2);
    assert_eq!((bench.config(at + CONTROL, 2), bench.config(at + NUM_VFS, 2)), (1, 2), "an operator's are shown");
    bench.function.reset(Resetter::Function, &mut bench.device);
    assert_eq!((bench.config(at + CONTROL, 2), bench.config(at + NUM_VFS, 2)), (1, 2));
    assert_eq!(bench.function.vfs_wanted(), None);
    bench.function.show_vfs(0);
    assert_eq!((bench.config(at + CONTROL, 2), bench.config(at + NUM_VFS, 2)), (0, 0));
    bench.set(at + NUM_VFS, 4);
    bench.set(at + CONTROL, 1);
    bench.function.take_vfs_wanted();
    bench.function.show_vfs(4);
    bench.function.reset(Resetter::Function, &mut bench.device);
    assert_eq!((bench.function.take_vfs_wanted(), bench.config(at + CONTROL, 2)), (Some(0), 0));
    bench.function.show_vfs(0);
    // An operator's that the driver has given up are gone, whatever comes before that is done.
    bench.function.show_vfs(2);
    bench.set(at + CONTROL, 0);
    bench.function.reset(Resetter::Function, &mut bench.device);
    bench.function.show_vfs(2);
    assert_eq!((bench.function.take_vfs_wanted(), bench.config(at + CONTROL, 2)), (Some(0), 0));
}
