//! What a function is called: on the host's PCI bus, at the SFs, and by operators.

use std::fmt;

use crate::class::Class;
use crate::config::Mac;

/// The most static PFs, and the most hotplug PFs.
pub const PFS_MAX: u16 = 31;
/// The most VFs, over all PFs.
pub const VFS_MAX: u16 = 1008;
/// RDMA devices 0 and 1 are the ports.
const RDMA_DEVICE_FIRST: u16 = 2;
const STATIC_BUS: u16 = 0x01;
const HOTPLUG_BUS_FIRST: u16 = 0x10;
const VF_BUS_FIRST: u16 = 0x40;

/// What operators select a function by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Id {
    /// A PF.
    Pf(u16),
    /// A VF of a PF.
    Vf {
        /// Its PF.
        pf: u16,
        /// Which of its VFs, from 0.
        vf: u16,
    },
}

impl Id {
    /// The PF itself, or the PF it belongs to.
    pub fn pf(self) -> u16 {
        let (Id::Pf(pf) | Id::Vf { pf, .. }) = self;
        pf
    }

    /// Which VF of its PF it is.
    pub fn vf(self) -> Option<u16> {
        if let Id::Vf { vf, .. } = self { Some(vf) } else { None }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Id::Pf(pf) => write!(f, "pf{pf}"),
            Id::Vf { pf, vf } => write!(f, "pf{pf}vf{vf}"),
        }
    }
}

/// Bus, device and function number: 8, 5 and 3 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bdf(pub u16);

impl fmt::Display for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Bdf(raw) = self;
        write!(f, "{:02x}:{:02x}.{}", raw >> 8, raw >> 3 & 0x1f, raw & 7)
    }
}

/// Where a function stands among its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seat {
    /// Static PFs are counted from 0.
    Static(u16),
    /// So are the slots that PFs are plugged into.
    Slot(u16),
    /// A VF of a static PF, each of which has room for so many.
    Vf {
        /// The static PF.
        pf: u16,
        /// Which of its VFs.
        vf: u16,
        /// How many each PF can have.
        per_pf: u16,
    },
}

impl Seat {
    /// Its number among all functions there can be.
    fn ordinal(self) -> u16 {
        match self {
            Seat::Static(n) => n,
            Seat::Slot(n) => PFS_MAX + n,
            Seat::Vf { pf, vf, per_pf } => 2 * PFS_MAX + pf * per_pf + vf,
        }
    }
}

/// Everything that names one function. Nothing of it changes while the function is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its kind.
    pub class: Class,
    /// What it is selected by.
    pub id: Id,
    /// Its unique name: serial, `VNETS`, 0 (static) or 1 (hotplug), `D0F` and its function number, and of a VF `VF` and its number
    /// from 1.
    pub vuid: String,
    /// Its function number; of a VF, its PF's.
    pub pf_num: u16,
    /// Its place on the host's bus.
    pub bdf: Bdf,
    /// Its number among emulated functions.
    pub vhca_id: u16,
    /// The SF behind it.
    pub sf_num: u32,
    /// The RDMA device its SF is made on.
    pub sf_parent_device: String,
    /// Which port of the board that is.
    pub port: u8,
    /// The RDMA device of its SF.
    pub sf_rdma_device: String,
}

impl Identity {
    /// A function with the SF number of its seat, or, where one is given, with that.
    pub fn new(serial: &str, id: Id, seat: Seat, sf_num: Option<u32>, parent: &str, port: u8) -> Self {
        let ordinal = seat.ordinal();
        let (class, kind, pf_num, number, bdf) = match seat {
            Seat::Static(n) => (Class::StaticPf, 0, n, n, STATIC_BUS << 8 | n),
            Seat::Slot(n) => (Class::HotplugPf, 1, n, n, (HOTPLUG_BUS_FIRST + n) << 8),
            Seat::Vf { pf, vf, per_pf } => {
                let number = pf * per_pf + vf;
                (Class::Vf, 0, pf, number, (VF_BUS_FIRST << 8) + number)
            }
        };
        let vf = if let Seat::Vf { vf, .. } = seat { format!("VF{}", vf + 1) } else { String::new() };
        Identity {
            class,
            id,
            vuid: format!("{serial}VNETS{kind}D0F{pf_num}{vf}"),
            pf_num,
            bdf: Bdf(bdf),
            vhca_id: ordinal + 1,
            sf_num: sf_num.unwrap_or(class.sf_nums().start() + u32::from(number)),
            sf_parent_device: parent.to_owned(),
            port,
            sf_rdma_device: format!("mlx5_{}", RDMA_DEVICE_FIRST + ordinal),
        }
    }

    /// What log entries about it are in.
    pub fn span(&self) -> tracing::Span {
        tracing::error_span!("function", pf = self.id.pf(), vf = self.id.vf(), vuid = self.vuid)
    }

    /// Its SF's representor, which is also the name of its TAP, if it has one.
    pub fn representor(&self) -> String {
        format!("en3f{port}pf{port}sf{sf}", port = self.port, sf = self.sf_num)
    }

    /// Its parent's place on the board's own bus.
    pub fn parent_pci_addr(&self) -> String {
        format!("0000:03:00.{}", self.port)
    }
}

/// What VUIDs on this machine begin with: always the same, and not the machine's id itself.
pub fn serial() -> String {
    let id = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let [_, a, b, c, d, e] = Mac::of_name(id.trim()).0;
    format!("VN{a:02X}{b:02X}{c:02X}{d:02X}{e:02X}")
}

/// `base` and so many more; the vendor's three bytes stay as they are.
pub fn mac_after(base: Mac, count: u32) -> Mac {
    let [a, b, c, rest @ ..] = base.0;
    let number = u32::from_be_bytes([0, rest[0], rest[1], rest[2]]).wrapping_add(count);
    let [_, d, e, f] = number.to_be_bytes();
    Mac([a, b, c, d, e, f])
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn identity(id: Id, seat: Seat) -> Identity {
        Identity::new("VN0123456789", id, seat, None, "mlx5_0", 0)
    }

    #[test]
    fn each_class_has_its_pattern() {
        let pf = identity(Id::Pf(0), Seat::Static(0));
        assert_eq!((&*pf.vuid, &*pf.bdf.to_string()), ("VN0123456789VNETS0D0F0", "01:00.0"));
        assert_eq!((pf.sf_num, &*pf.representor(), &*pf.sf_rdma_device), (1000, "en3f0pf0sf1000", "mlx5_2"));
        let plugged = identity(Id::Pf(5), Seat::Slot(1));
        assert_eq!((&*plugged.vuid, &*plugged.bdf.to_string()), ("VN0123456789VNETS1D0F1", "11:00.0"));
        assert_eq!(plugged.sf_num, 2001);
        let vf = identity(Id::Vf { pf: 2, vf: 3 }, Seat::Vf { pf: 2, vf: 3, per_pf: 10 });
        assert_eq!((&*vf.vuid, &*vf.bdf.to_string()), ("VN0123456789VNETS0D0F2VF4", "40:02.7"));
        assert_eq!((vf.sf_num, vf.class.name(), &*vf.id.to_string()), (3023, "VF", "pf2vf3"));
    }

    #[test]
    fn no_two_functions_share_a_name() {
        for per_pf in [0, 1, 32, VFS_MAX] {
            let statics = (0..PFS_MAX).map(|n| identity(Id::Pf(n), Seat::Static(n)));
            let plugged = (0..PFS_MAX).map(|n| identity(Id::Pf(PFS_MAX + n), Seat::Slot(n)));
            let vfs = (0..PFS_MAX)
                .flat_map(|pf| (0..per_pf).map(move |vf| identity(Id::Vf { pf, vf }, Seat::Vf { pf, vf, per_pf })));
            let all: Vec<Identity> = statics.chain(plugged).chain(vfs).collect();
            let distinct = |name: fn(&Identity) -> String| all.iter().map(name).collect::<HashSet<_>>().len();
            for name in [
                |one: &Identity| one.vuid.clone(),
                |one: &Identity| one.bdf.to_string(),
                |one: &Identity| one.vhca_id.to_string(),
                |one: &Identity| one.sf_num.to_string(),
                |one: &Identity| one.representor(),
                |one: &Identity| one.sf_rdma_device.clone(),
                |one: &Identity| one.id.to_string(),
            ] {
                assert_eq!(distinct(name), all.len());
            }
            assert!(all.iter().all(|one: &Identity| one.representor().len() <= 15), "a netdev's name");
        }
    }

    #[test]
    fn addresses_count_on_behind_the_vendors_bytes() {
        let base = Mac([8, 0x11, 0x22, 0x33, 0x44, 0xff]);
        assert_eq!(mac_after(base, 1), Mac([8, 0x11, 0x22, 0x33, 0x45, 0]));
        assert_eq!(mac_after(Mac([8, 0x11, 0x22, 0xff, 0xff, 0xff]), 2), Mac([8, 0x11, 0x22, 0, 0, 1]));
    }

    #[test]
    fn the_serial_is_always_the_same() {
        assert_eq!((serial(), serial().len()), (serial(), 12));
    }
}
