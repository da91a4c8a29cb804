//! VFs, as their PF's capability shows them, and as its host asks for them. ("SR-IOV Extended Capability")

use super::capability;
use super::config_space::ConfigSpace;

/// Offsets of registers, from the capability on.
const CONTROL: usize = 0x08;
const INITIAL_VFS: usize = 0x0c;
const TOTAL_VFS: usize = 0x0e;
const NUM_VFS: usize = 0x10;
const FIRST_OFFSET: usize = 0x14;
const STRIDE: usize = 0x16;
const DEVICE: usize = 0x1a;
const PAGE_SIZES: usize = 0x1c;
const PAGE_SIZE: usize = 0x20;
const BAR_0: usize = 0x24;
const END: usize = 0x40;
/// The capability's header.
const HEADER_BYTES: usize = 4;

/// `CONTROL`: there are VFs.
const VF_ENABLE: u16 = 1 << 0;
/// What there is besides: VFs' memory answers, and routing ids are a whole bus's. Kept, and nothing comes of it: who presents VFs
/// sees to both.
const CONTROL_OTHERS: u16 = 1 << 3 | 1 << 4;
/// In pages of 4 KiB, a bit each: 4, 8, 64 and 256 KiB, 1 and 4 MiB, as the specification wants it.
const SUPPORTED_PAGE_SIZES: u32 = 0x553;

/// What VFs a function can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traits {
    /// At most.
    pub total: u16,
    /// From the PF's routing id to the first VF's; each has the next.
    pub first_offset: u16,
    /// Their device id.
    pub device: u16,
    /// Their BARs and how many bytes each has, a power of two.
    pub bars: [(usize, u64); 2],
}

/// A value that a register did not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// Which register.
    pub register: &'static str,
    /// What was written.
    pub found: u64,
    /// What it may be, and when.
    pub allowed: &'static str,
}

/// What the host has written.
#[derive(Clone, Copy, Debug)]
pub struct Written {
    control: u16,
    count: u16,
    page_size: u32,
}

/// A PF's VFs.
#[derive(Clone, Debug)]
pub struct Sriov {
    traits: Traits,
    /// Where the capability is.
    at: usize,
    /// How many there are.
    count: u16,
    /// The host has made them.
    are_hosts: bool,
    /// How many it wants, and has not got yet. Those that there are go first.
    wanted: Option<u16>,
    /// It is getting them.
    is_changing: bool,
}

impl Sriov {
    /// Adds the capability. There are no VFs.
    pub fn new(traits: Traits, space: &mut ConfigSpace) -> Self {
        let (mut body, mut writable) = ([0; END - HEADER_BYTES], [0; END - HEADER_BYTES]);
        let put = |body: &mut [u8], at: usize, bytes: &[u8]| {
            body[at - HEADER_BYTES..at - HEADER_BYTES + bytes.len()].copy_from_slice(bytes);
        };
        for (at, value) in [
            (INITIAL_VFS, traits.total),
            (TOTAL_VFS, traits.total),
            (FIRST_OFFSET, traits.first_offset),
            (STRIDE, 1),
            (DEVICE, traits.device),
        ] {
            put(&mut body, at, &value.to_le_bytes());
        }
        put(&mut body, PAGE_SIZES, &SUPPORTED_PAGE_SIZES.to_le_bytes());
        put(&mut body, PAGE_SIZE, &1u32.to_le_bytes());
        put(&mut writable, CONTROL, &(VF_ENABLE | CONTROL_OTHERS).to_le_bytes());
        put(&mut writable, NUM_VFS, &[0xff; 2]);
        put(&mut writable, PAGE_SIZE, &[0xff; 4]);
        let at = space.add_extended(capability::SRIOV, &body, &writable);
        let sriov = Self { traits, at, count: 0, are_hosts: false, wanted: None, is_changing: false };
        sriov.set_bars(space);
        sriov
    }

    /// What is written now, to be compared with later.
    pub fn look(&self, space: &ConfigSpace) -> Written {
        Written {
            control: space.half(self.at + CONTROL),
            count: space.half(self.at + NUM_VFS),
            page_size: space.word(self.at + PAGE_SIZE),
        }
    }

    /// The host has written; what it may not is as it was before.
    ///
    /// # Errors
    /// The first such register.
    pub fn settle(&mut self, before: Written, space: &mut ConfigSpace) -> Result<(), Misfit> {
        let now = self.look(space);
        let [was_enabled, is_enabled] = [before, now].map(|written| written.control & VF_ENABLE != 0);
        let mut settled = Ok(());
        if now.page_size != before.page_size {
            let is_one = now.page_size.is_power_of_two() && now.page_size & SUPPORTED_PAGE_SIZES != 0;
            if was_enabled || !is_one {
                space.put(self.at + PAGE_SIZE, &before.page_size.to_le_bytes());
                let allowed = "one that is supported, while there are no VFs";
                settled = Err(Misfit { register: "System Page Size", found: now.page_size.into(), allowed });
            }
            self.set_bars(space);
        }
        if now.count != before.count && (was_enabled || now.count > self.traits.total) {
            space.put(self.at + NUM_VFS, &before.count.to_le_bytes());
            let allowed = "up to TotalVFs, while there are no VFs";
            settled = settled.and(Err(Misfit { register: "NumVFs", found: now.count.into(), allowed }));
        }
        if was_enabled != is_enabled {
            self.wanted = Some(if is_enabled { space.half(self.at + NUM_VFS) } else { 0 });
            self.are_hosts |= is_enabled;
        }
        settled
    }

    /// How many VFs there are; none, while the host is to get others.
    pub fn count(&self) -> Option<u16> {
        (self.wanted.is_none() && !self.is_changing).then_some(self.count)
    }

    /// How many VFs the host wants instead of those that there are, if it wants anything.
    pub fn wanted(&self) -> Option<u16> {
        self.wanted
    }

    /// The same, once.
    pub fn take_wanted(&mut self) -> Option<u16> {
        self.is_changing |= self.wanted.is_some();
        self.wanted.take()
    }

    /// There are so many VFs now. What the host has written since it was last asked goes before that.
    pub fn show(&mut self, count: u16, space: &mut ConfigSpace) {
        (self.count, self.is_changing) = (count, false);
        if self.wanted.is_some() {
            return;
        }
        self.are_hosts &= count > 0;
        let control = space.half(self.at + CONTROL);
        if count > 0 || control & VF_ENABLE != 0 {
            let enabled = if count > 0 { VF_ENABLE } else { 0 };
            space.put(self.at + CONTROL, &(control & !VF_ENABLE | enabled).to_le_bytes());
            space.put(self.at + NUM_VFS, &count.to_le_bytes());
        }
    }

    /// The function was reset: VFs that its host has made go, others stay.
    pub fn reset(&mut self, space: &mut ConfigSpace) {
        self.set_bars(space);
        match self.wanted {
            _ if self.are_hosts => self.wanted = Some(0),
            None => self.show(self.count, space),
            Some(_) => {}
        }
    }

    /// BARs are of the VFs' size, and of a page at least.
    fn set_bars(&self, space: &mut ConfigSpace) {
        let page_bytes = u64::from(space.word(self.at + PAGE_SIZE)) << 12;
        for (bar, len_bytes) in self.traits.bars {
            space.set_bar(self.at + BAR_0 + 4 * bar, len_bytes.max(page_bytes));
        }
    }
}
