//! The entries: names, kinds, defaults.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize, Serializer};

use super::kind::Kind;
use super::limits::Combination;

/// Characters of an unknown name or a wrong value that an error repeats.
const FOUND_CHARS_MAX: usize = 64;
const LAYOUT: Kind = Kind::Choice(&["VIRTIO_1_X", "TRANSITIONAL"]);
const MSIX: Kind = Kind::Number { max: 2048 };

macro_rules! entries {
    ($($entry:ident = $name:literal, $kind:expr, $default:literal, $doc:literal;)*) => {
        /// An entry. Ranges, names and defaults that the product's documents leave out are our choice.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
        #[serde(try_from = "String")]
        pub enum Entry {
            $(#[doc = $doc] $entry,)*
        }

        impl Entry {
            /// All, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$entry,)*];

            /// As it is set and queried.
            pub fn name(self) -> &'static str {
                match self { $(Self::$entry => $name,)* }
            }

            /// What its value can be.
            pub fn kind(self) -> Kind {
                match self { $(Self::$entry => $kind,)* }
            }

            /// Its value when nobody has set it.
            pub fn default_value(self) -> u32 {
                match self { $(Self::$entry => $default,)* }
            }
        }
    };
}

entries! {
    Emulation = "VIRTIO_NET_EMULATION_ENABLE", Kind::Flag, 0, "Whether there is virtio-net at all.";
    StaticPfs = "VIRTIO_NET_EMULATION_NUM_PF", Kind::Number { max: 31 }, 0, "Static PFs.";
    VfsPerPf = "VIRTIO_NET_EMULATION_NUM_VF", Kind::Number { max: 1008 }, 0, "VFs that each static PF can have.";
    Msix = "VIRTIO_NET_EMULATION_NUM_MSIX", MSIX, 2, "MSI-X vectors of a PF; of a VF, too, when it has no number of its own.";
    VfMsix = "VIRTIO_NET_EMULATION_NUM_VF_MSIX", MSIX, 0, "MSI-X vectors of a VF; 0: as many as a PF.";
    Switch = "PCI_SWITCH_EMULATION_ENABLE", Kind::Flag, 0, "Whether there is a PCIe switch to hotplug PFs into.";
    SwitchPorts = "PCI_SWITCH_EMULATION_NUM_PORT", Kind::Number { max: 31 }, 0, "The switch's ports: hotplug PFs at most.";
    PerPfSfs = "PER_PF_NUM_SF", Kind::Flag, 0, "Whether `PF_TOTAL_SF` and `PF_SF_BAR_SIZE` count.";
    TotalSfs = "PF_TOTAL_SF", Kind::Number { max: 65535 }, 0, "SFs, of everybody who uses them.";
    SfBarSize = "PF_SF_BAR_SIZE", Kind::Number { max: 20 }, 0, "The size of an SF's BAR: this power of 2, in KiB.";
    Bar2 = "PF_BAR2_ENABLE", Kind::Flag, 1, "SFs on the host's side.";
    Sriov = "SRIOV_EN", Kind::Flag, 1, "Whether PFs can have VFs.";
    RomPxe = "EXP_ROM_VIRTIO_NET_PXE_ENABLE", Kind::Flag, 1, "Option ROM for PXE.";
    RomUefiArm = "EXP_ROM_VIRTIO_NET_UEFI_ARM_ENABLE", Kind::Flag, 1, "Option ROM for UEFI on Arm hosts.";
    RomUefiX86 = "EXP_ROM_VIRTIO_NET_UEFI_x86_ENABLE", Kind::Flag, 1, "Option ROM for UEFI on x86 hosts.";
    PfLayout = "VIRTIO_NET_EMULATION_PF_PCI_LAYOUT", LAYOUT, 0, "Whether static PFs are transitional.";
    VfLayout = "VIRTIO_NET_EMULATION_VF_PCI_LAYOUT", LAYOUT, 0, "Whether VFs are transitional.";
    HotplugTransitional = "VIRTIO_EMULATION_HOTPLUG_TRANS", Kind::Flag, 0, "Whether hotplug PFs may be transitional.";
    VendorId = "VIRTIO_NET_EMULATION_VENDOR_ID", Kind::Hex { min: 1, max: 0xfffe }, 0x1af4, "PCI vendor.";
    DeviceId = "VIRTIO_NET_EMULATION_DEVICE_ID", Kind::Hex { min: 0, max: 0xffff }, 0x1041, "PCI device.";
    ClassCode = "VIRTIO_NET_EMULATION_CLASS_CODE", Kind::Hex { min: 0, max: 0xff_ffff }, 0x02_8000, "PCI class.";
    NativeVfs = "NUM_OF_VFS", Kind::Number { max: 1008 }, 16, "VFs of each of the two native PFs.";
    NativeVfMsix = "NUM_VF_MSIX", MSIX, 0, "The most MSI-X vectors of a VF that has no number of its own; 0: no bound.";
    CpuModel = "INTERNAL_CPU_MODEL", Kind::Choice(&["SEPARATED_HOST", "EMBEDDED_CPU"]), 1,
        "Whose the network is; virtio-net needs `EMBEDDED_CPU`.";
    OffloadEngine = "INTERNAL_CPU_OFFLOAD_ENGINE", Kind::Choice(&["ENABLED", "DISABLED"]), 0,
        "Whether the card's CPU has a part in it; virtio-net needs `ENABLED`.";
    Profile = "VIRTNET_LIMITS", Kind::Choice(&["OURS", "PRODUCT"]), 0,
        "Whose limits hold, see [`Profile`](super::Profile). The product has no such entry.";
}

/// Why a command line's words were refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// There is no such entry.
    #[error("{name:?} is not an entry; the nearest is {nearest}")]
    Unknown {
        /// What was found, cut short.
        name: String,
        /// The entry most like it.
        nearest: &'static str,
    },
    /// The value is of another kind, or out of range.
    #[error("{entry} is {found:?}; allowed is {allowed}")]
    Value {
        /// Of which entry.
        entry: Entry,
        /// What was found, cut short.
        found: String,
        /// What could be.
        allowed: String,
    },
    /// An entry is set twice at once.
    #[error("{0} is given twice")]
    Twice(Entry),
    /// A word sets nothing.
    #[error("{0:?} sets nothing; allowed is NAME=VALUE")]
    Word(String),
    /// Each value is good, together they are not.
    #[error(transparent)]
    Combination(#[from] Combination),
}

impl Entry {
    /// Reads a value as a command line has it.
    ///
    /// # Errors
    /// It is of another kind, or out of range.
    pub fn parse(self, text: &str) -> Result<u32, EntryError> {
        let allowed = || self.kind().allowed();
        self.kind().parse(text).ok_or_else(|| EntryError::Value { entry: self, found: cut(text), allowed: allowed() })
    }

    /// Reads a value of the store's file.
    pub(super) fn parse_json(self, found: &serde_json::Value) -> Result<u32, String> {
        let kind = self.kind();
        let refusal = || format!("{self} is {}; allowed is {}", cut(&found.to_string()), kind.allowed_json());
        kind.parse_json(found).ok_or_else(refusal)
    }
}

/// As much of it as an error repeats.
pub(super) fn cut(found: &str) -> String {
    match found.char_indices().nth(FOUND_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &found[..end]),
        None => found.into(),
    }
}

impl FromStr for Entry {
    type Err = EntryError;

    fn from_str(name: &str) -> Result<Self, EntryError> {
        if let Some(entry) = Self::ALL.iter().find(|entry| entry.name() == name) {
            return Ok(*entry);
        }
        let name = cut(name);
        let distance = |entry: &&Self| strsim::damerau_levenshtein(&name.to_uppercase(), &entry.name().to_uppercase());
        let nearest = Self::ALL.iter().min_by_key(distance).map_or("", |entry| entry.name());
        Err(EntryError::Unknown { name, nearest })
    }
}

impl TryFrom<String> for Entry {
    type Error = EntryError;

    fn try_from(name: String) -> Result<Self, EntryError> {
        name.parse()
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Serialize for Entry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}
