//! What the values come to: how many functions of each sort there can be, and with what.

use super::entry::Entry;
use super::values::Values;

/// A function with fewer MSI-X vectors cannot be used.
pub const MSIX_MIN: u16 = 4;

/// VFs in all, whoever's limits hold.
const VFS_MAX: u32 = 1008;
/// PCIe functions that the product shows to its host, in all.
const FUNCTIONS_MAX: u32 = 256;
/// Hotplug PFs that the product has beside VFs.
const HOTPLUG_PFS_BESIDE_VFS_MAX: u32 = 15;
/// The product's native PFs.
const NATIVE_PFS: u32 = 2;
/// And its management function.
const RSHIMS: u32 = 1;

/// Whose limits hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// 31 static PFs, 31 hotplug PFs and 1008 VFs.
    Ours,
    /// The same, and the combinations of them that the product's hardware has: 256 PCIe functions in all, with native
    /// ones, and 15 hotplug PFs beside VFs.
    Product,
}

/// How a function shows itself on PCI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PciIds {
    /// Vendor.
    pub vendor: u16,
    /// Device.
    pub device: u16,
    /// Class, subclass and programming interface: 24 bits.
    pub class: u32,
}

/// What can be made. Without emulation there are no functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Whose limits these are.
    pub profile: Profile,
    /// Whether there is virtio-net at all.
    pub emulation: bool,
    /// Static PFs there are.
    pub static_pfs: u16,
    /// VFs that each static PF can have.
    pub vfs_per_pf: u16,
    /// Hotplug PFs there can be.
    pub hotplug_pfs: u16,
    /// MSI-X vectors of a PF.
    pub msix_pf: u16,
    /// MSI-X vectors of a VF, to begin with.
    pub msix_vf: u16,
    /// SFs there can be, one to a function; none: not bounded here.
    pub max_sf: Option<u16>,
    /// Whether static PFs are transitional.
    pub transitional_pf: bool,
    /// Whether VFs are transitional.
    pub transitional_vf: bool,
    /// Whether hotplug PFs may be transitional.
    pub transitional_hotplug: bool,
    /// How functions show themselves.
    pub pci: PciIds,
}

/// Values that are good each for itself, and not together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Combination {
    /// Too many VFs.
    #[error(
        "{static_pfs} static PFs with {vfs_per_pf} VFs each have {} VFs; allowed are {VFS_MAX} in all",
        static_pfs * vfs_per_pf
    )]
    Vfs {
        /// Static PFs.
        static_pfs: u32,
        /// VFs of each.
        vfs_per_pf: u32,
    },
    /// Too many hotplug PFs beside VFs.
    #[error(
        "there are {hotplug_pfs} hotplug PFs beside VFs; allowed are {HOTPLUG_PFS_BESIDE_VFS_MAX} with {}={}",
        Entry::Profile, Entry::Profile.kind().text(1)
    )]
    HotplugBesideVfs {
        /// Hotplug PFs.
        hotplug_pfs: u32,
    },
    /// Too many PCIe functions.
    #[error(
        "{native} native functions, {static_pfs} static PFs with {vfs_per_pf} VFs each and {hotplug_pfs} hotplug PFs are {} PCIe \
         functions; allowed are {FUNCTIONS_MAX} in all with {}={}",
        native + static_pfs * (1 + vfs_per_pf) + hotplug_pfs, Entry::Profile, Entry::Profile.kind().text(1)
    )]
    Functions {
        /// Native PFs, their VFs, and management.
        native: u32,
        /// Static PFs.
        static_pfs: u32,
        /// VFs of each.
        vfs_per_pf: u32,
        /// Hotplug PFs.
        hotplug_pfs: u32,
    },
}

/// Functions that a start would make room for, were emulation on.
struct Functions {
    static_pfs: u32,
    vfs_per_pf: u32,
    hotplug_pfs: u32,
}

impl Functions {
    fn of(values: &Values) -> Self {
        let when = |entry, value| if values.is_set(entry) { values.of(value) } else { 0 };
        Self {
            static_pfs: values.of(Entry::StaticPfs),
            vfs_per_pf: when(Entry::Sriov, Entry::VfsPerPf),
            hotplug_pfs: when(Entry::Switch, Entry::SwitchPorts),
        }
    }
}

fn profile(values: &Values) -> Profile {
    if values.is_set(Entry::Profile) { Profile::Product } else { Profile::Ours }
}

/// Whether values can be in effect together.
pub(super) fn check(values: &Values) -> Result<(), Combination> {
    let Functions { static_pfs, vfs_per_pf, hotplug_pfs } = Functions::of(values);
    let vfs = static_pfs * vfs_per_pf;
    if vfs > VFS_MAX {
        return Err(Combination::Vfs { static_pfs, vfs_per_pf });
    }
    if profile(values) == Profile::Ours {
        return Ok(());
    }
    if vfs > 0 && hotplug_pfs > HOTPLUG_PFS_BESIDE_VFS_MAX {
        return Err(Combination::HotplugBesideVfs { hotplug_pfs });
    }
    let native_vfs = if values.is_set(Entry::Sriov) { values.of(Entry::NativeVfs) } else { 0 };
    let native = RSHIMS + NATIVE_PFS * (1 + native_vfs);
    if native + static_pfs + vfs + hotplug_pfs > FUNCTIONS_MAX {
        return Err(Combination::Functions { native, static_pfs, vfs_per_pf, hotplug_pfs });
    }
    Ok(())
}

impl Default for Limits {
    /// What the entries' defaults come to: no functions.
    fn default() -> Self {
        Self::of(&Values::default())
    }
}

impl Limits {
    pub(super) fn of(values: &Values) -> Self {
        let runs_here = !values.is_set(Entry::OffloadEngine) && values.is_set(Entry::CpuModel);
        let emulation = values.is_set(Entry::Emulation) && runs_here;
        let Functions { static_pfs, vfs_per_pf, hotplug_pfs } = Functions::of(values);
        // Every entry's kind keeps it within 16 bits, but for the class.
        let narrow = |value: u32| value as u16;
        let count = |functions| if emulation { narrow(functions) } else { 0 };
        let msix_vf = match (values.of(Entry::VfMsix), values.of(Entry::NativeVfMsix)) {
            (0, 0) => values.of(Entry::Msix),
            (0, bound) => bound.min(values.of(Entry::Msix)),
            (own, _) => own,
        };
        Self {
            profile: profile(values),
            emulation,
            static_pfs: count(static_pfs),
            vfs_per_pf: count(vfs_per_pf),
            hotplug_pfs: count(hotplug_pfs),
            msix_pf: narrow(values.of(Entry::Msix)),
            msix_vf: narrow(msix_vf),
            max_sf: values.is_set(Entry::PerPfSfs).then(|| narrow(values.of(Entry::TotalSfs))),
            transitional_pf: values.is_set(Entry::PfLayout),
            transitional_vf: values.is_set(Entry::VfLayout),
            transitional_hotplug: values.is_set(Entry::HotplugTransitional),
            pci: PciIds {
                vendor: narrow(values.of(Entry::VendorId)),
                device: narrow(values.of(Entry::DeviceId)),
                class: values.of(Entry::ClassCode),
            },
        }
    }

    /// Whether a PF has vectors enough to be used.
    pub fn is_pf_usable(&self) -> bool {
        self.msix_pf >= MSIX_MIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(words: &str) -> Values {
        let words: Vec<_> = words.split_whitespace().collect();
        Values::default().with(&super::super::assignments(&words).unwrap()).unwrap()
    }

    /// Functions, with the product's native VFs as given.
    fn functions(profile: &str, native_vfs: u32, static_pfs: u32, vfs_per_pf: u32, ports: u32) -> Values {
        values(&format!(
            "VIRTIO_NET_EMULATION_ENABLE=1 VIRTNET_LIMITS={profile} NUM_OF_VFS={native_vfs} PCI_SWITCH_EMULATION_ENABLE=1
             VIRTIO_NET_EMULATION_NUM_PF={static_pfs} VIRTIO_NET_EMULATION_NUM_VF={vfs_per_pf}
             PCI_SWITCH_EMULATION_NUM_PORT={ports}"
        ))
    }

    #[test]
    fn defaults_are_within_either_limits_and_make_nothing() {
        for profile in ["OURS", "PRODUCT"] {
            let values = values(&format!("VIRTNET_LIMITS={profile}"));
            assert_eq!(check(&values), Ok(()));
            let limits = Limits::of(&values);
            assert!(!limits.emulation && !limits.is_pf_usable());
            assert_eq!((limits.static_pfs, limits.vfs_per_pf, limits.hotplug_pfs), (0, 0, 0));
            assert_eq!(limits.pci, PciIds { vendor: 0x1af4, device: 0x1041, class: 0x02_8000 });
        }
    }

    #[test]
    fn ours_are_31_31_and_1008_together() {
        for (static_pfs, vfs_per_pf) in [(31, 32), (16, 63), (1, 1008), (8, 126), (31, 0), (0, 1008)] {
            assert_eq!(check(&functions("OURS", 1008, static_pfs, vfs_per_pf, 31)), Ok(()));
            let limits = Limits::of(&functions("OURS", 0, static_pfs, vfs_per_pf, 31));
            assert_eq!(
                (limits.static_pfs, limits.vfs_per_pf, limits.hotplug_pfs),
                (static_pfs as u16, vfs_per_pf as u16, 31)
            );
        }
        for (static_pfs, vfs_per_pf) in [(31, 33), (2, 505), (31, 1008)] {
            for profile in ["OURS", "PRODUCT"] {
                let refused = check(&functions(profile, 0, static_pfs, vfs_per_pf, 0));
                assert_eq!(refused, Err(Combination::Vfs { static_pfs, vfs_per_pf }));
            }
        }
    }

    #[test]
    fn the_products_are_256_functions_in_all() {
        // As its guide has them: one PF leaves room for 252 VFs, two for 125 each, none for 253 other functions.
        for (static_pfs, vfs_per_pf, ports) in [(1, 252, 0), (2, 125, 0), (2, 100, 15), (31, 0, 31), (2, 118, 15)] {
            assert_eq!(check(&functions("PRODUCT", 0, static_pfs, vfs_per_pf, ports)), Ok(()));
        }
        for (native_vfs, static_pfs, vfs_per_pf, ports) in
            [(0, 1, 253, 0), (0, 2, 126, 0), (1, 1, 251, 0), (0, 2, 119, 15)]
        {
            let refused = check(&functions("PRODUCT", native_vfs, static_pfs, vfs_per_pf, ports));
            let native = 3 + 2 * native_vfs;
            assert_eq!(refused, Err(Combination::Functions { native, static_pfs, vfs_per_pf, hotplug_pfs: ports }));
        }
        let error = check(&functions("PRODUCT", 16, 2, 126, 8)).unwrap_err().to_string();
        assert_eq!(
            error,
            "35 native functions, 2 static PFs with 126 VFs each and 8 hotplug PFs are 297 PCIe functions; allowed are 256 in \
             all with VIRTNET_LIMITS=PRODUCT(1)"
        );
    }

    #[test]
    fn the_products_are_15_hotplug_pfs_beside_vfs() {
        assert_eq!(check(&functions("PRODUCT", 0, 1, 1, 15)), Ok(()));
        assert_eq!(check(&functions("PRODUCT", 0, 1, 0, 31)), Ok(()));
        assert_eq!(check(&functions("PRODUCT", 0, 0, 1, 31)), Ok(()), "no PF, no VFs");
        let error = check(&functions("PRODUCT", 0, 1, 1, 16)).unwrap_err();
        assert_eq!(error, Combination::HotplugBesideVfs { hotplug_pfs: 16 });
        let error = error.to_string();
        assert_eq!(error, "there are 16 hotplug PFs beside VFs; allowed are 15 with VIRTNET_LIMITS=PRODUCT(1)");
    }

    #[test]
    fn what_is_switched_off_does_not_count() {
        let on = "VIRTIO_NET_EMULATION_ENABLE=1 VIRTIO_NET_EMULATION_NUM_PF=2 VIRTIO_NET_EMULATION_NUM_VF=100
                  PCI_SWITCH_EMULATION_NUM_PORT=31 VIRTNET_LIMITS=PRODUCT NUM_OF_VFS=0";
        let limits = Limits::of(&values(on));
        assert_eq!((limits.static_pfs, limits.vfs_per_pf, limits.hotplug_pfs), (2, 100, 0));
        assert_eq!(check(&values(on)), Ok(()));
        let limits = Limits::of(&values(&format!("{on} PCI_SWITCH_EMULATION_ENABLE=1 SRIOV_EN=0")));
        assert_eq!((limits.static_pfs, limits.vfs_per_pf, limits.hotplug_pfs), (2, 0, 31));
        assert_eq!(check(&values("VIRTNET_LIMITS=1 NUM_OF_VFS=1008 SRIOV_EN=0")), Ok(()));
        for nic_mode in ["INTERNAL_CPU_MODEL=0", "INTERNAL_CPU_OFFLOAD_ENGINE=1"] {
            let limits = Limits::of(&values(&format!("{on} {nic_mode}")));
            assert!(!limits.emulation);
            assert_eq!((limits.static_pfs, limits.vfs_per_pf), (0, 0));
        }
    }

    #[test]
    fn a_vf_has_its_own_vectors_or_the_pfs() {
        let vectors = |pf: u32, vf: u32, native_vf: u32| {
            let limits = Limits::of(&values(&format!(
                "VIRTIO_NET_EMULATION_NUM_MSIX={pf} VIRTIO_NET_EMULATION_NUM_VF_MSIX={vf} NUM_VF_MSIX={native_vf}"
            )));
            (limits.msix_pf, limits.msix_vf, limits.is_pf_usable())
        };
        assert_eq!(vectors(64, 0, 0), (64, 64, true));
        assert_eq!(vectors(10, 64, 0), (10, 64, true));
        assert_eq!(vectors(64, 3, 32), (64, 3, true));
        assert_eq!(vectors(3, 4, 0), (3, 4, false));
        assert_eq!(vectors(64, 0, 32), (64, 32, true));
        assert_eq!(vectors(16, 0, 32), (16, 16, true));
        assert_eq!(vectors(2048, 2048, 2048), (2048, 2048, true));
    }

    #[test]
    fn the_rest_is_as_it_is_set() {
        let limits = Limits::of(&values(
            "PER_PF_NUM_SF=1 PF_TOTAL_SF=65535 VIRTIO_NET_EMULATION_VENDOR_ID=0xfffe VIRTIO_NET_EMULATION_DEVICE_ID=0x1000
             VIRTIO_NET_EMULATION_CLASS_CODE=0xffffff VIRTIO_NET_EMULATION_VF_PCI_LAYOUT=1 VIRTNET_LIMITS=1",
        ));
        assert_eq!((limits.max_sf, limits.profile), (Some(65535), Profile::Product));
        assert_eq!(limits.pci, PciIds { vendor: 0xfffe, device: 0x1000, class: 0xff_ffff });
        assert_eq!((limits.transitional_pf, limits.transitional_vf, limits.transitional_hotplug), (false, true, false));
        let limits =
            Limits::of(&values("PF_TOTAL_SF=64 VIRTIO_NET_EMULATION_PF_PCI_LAYOUT=1 VIRTIO_EMULATION_HOTPLUG_TRANS=1"));
        assert_eq!((limits.max_sf, limits.profile), (None, Profile::Ours));
        assert_eq!((limits.transitional_pf, limits.transitional_vf, limits.transitional_hotplug), (true, false, true));
    }
}
