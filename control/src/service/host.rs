//! What functions are made from: the configuration, the firmware's limits, and the names of this board.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use virtnet_rings::spec::net::{VIRTIO_NET_F_HASH_REPORT, VIRTIO_NET_F_MRG_RXBUF};
use virtnet_rings::spec::virtq::{VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_ANY_LAYOUT, VIRTIO_F_RING_PACKED};

use crate::class::Class;
use crate::config::providers::Provider;
use crate::config::{Config, Mac, Mode, Port, SfPort, Tap, Template};
use crate::device::settings::Settings;
use crate::device::{Spec, features};
use crate::firmware::Limits;
use crate::function::identity::{VFS_MAX, mac_after, serial};
use crate::function::{Function, Id, Identity, Seat, Share, Socket, pools};
use crate::recovery::Record;
use crate::refusal::{Code, Refusal};
use crate::transport::listener::remove_stale;
use crate::virtio_pci::{Kind, Vfs};

/// Descriptors of a queue where nobody says.
const QUEUE_SIZE: u16 = 256;
/// Bytes, where nobody says.
const MTU: u16 = 1500;

/// The board and what it is set to.
#[derive(Clone, Debug)]
pub struct Host {
    /// What VUIDs begin with.
    pub serial: String,
    /// Where sockets are.
    pub run_dir: PathBuf,
    /// Where is kept what outlives a controller.
    pub state_dir: PathBuf,
    /// Where virtnet.conf is.
    pub config_path: PathBuf,
    /// What it said at the start.
    pub config: Config,
    /// What the provider files choose.
    pub provider: Option<Provider>,
    /// What the firmware allows.
    pub limits: Limits,
}

impl Host {
    /// This board, with everything at its default but the configuration.
    pub fn new(config: Config, run_dir: &Path) -> Self {
        let (serial, run_dir, config_path) = (serial(), PathBuf::from(run_dir), PathBuf::new());
        let state_dir = run_dir.join("state");
        Self { serial, run_dir, state_dir, config_path, config, provider: None, limits: Limits::default() }
    }

    /// Removes sockets of functions that a killed controller has left behind. Those that somebody listens on stay.
    pub fn sweep(&self) {
        for class in Class::ALL {
            let socket = self.config.sockets.of(class);
            let template = socket.path.clone().unwrap_or_else(|| Template::of(class));
            let Some(folder) = template.folder().filter(|_| socket.mode == Mode::Server) else { continue };
            let entries = std::fs::read_dir(self.run_dir.join(folder)).into_iter().flatten().flatten();
            let sockets = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_socket()));
            let is_its = |name: &str| template.matches(&format!("{folder}{name}"));
            for entry in sockets.filter(|entry| entry.file_name().to_str().is_some_and(is_its)) {
                if let Err(error) = remove_stale(&entry.path()) {
                    tracing::debug!("a socket stays: {error}");
                }
            }
        }
    }

    /// How many static PFs there are: as many as the firmware has, and at least those that are described one by one.
    pub fn static_pfs(&self) -> u16 {
        self.limits.static_pfs.max(self.config.devices.len() as u16)
    }

    /// How many PFs can be plugged.
    pub fn hotplug_pfs(&self) -> u16 {
        self.limits.hotplug_pfs
    }

    /// How many VFs each static PF can have.
    pub fn vfs_per_pf(&self) -> u16 {
        self.limits.vfs_per_pf
    }

    /// How many VFs there can be, over all static PFs.
    pub fn vfs(&self) -> u16 {
        (self.static_pfs() * self.vfs_per_pf()).min(VFS_MAX)
    }

    /// The TAPs that are made ahead: of the first SFs that functions can have, static PFs' before hotplug PFs' before VFs', as
    /// many as `sf_pool_percent` says of all that there can be.
    pub fn sf_pool(&self) -> Vec<String> {
        let (static_pfs, per_pf) = (self.static_pfs(), self.vfs_per_pf());
        let described = self.config.devices.len();
        let statics = (0..static_pfs).map(|n| (Id::Pf(n), Seat::Static(n), usize::from(n) >= described));
        let plugged = (0..self.hotplug_pfs()).map(|n| (Id::Pf(static_pfs + n), Seat::Slot(n), true));
        let vf = move |pf, vf| (Id::Vf { pf, vf }, Seat::Vf { pf, vf, per_pf }, true);
        let vfs = (0..static_pfs).flat_map(|pf| (0..per_pf).map(move |n| vf(pf, n))).take(self.vfs().into());
        let all: Vec<_> = statics.chain(plugged).chain(vfs).collect();
        let most = self.limits.max_sf.map_or(all.len(), usize::from);
        let count = most * usize::from(self.config.sf_pool_percent) / 100;
        let name = |(id, seat, own): (Id, Seat, bool)| {
            let parent = match seat {
                Seat::Slot(_) => self.config.ib_devices()[0],
                _ => self.config.ib_dev_for_static_pf.as_str(),
            };
            let identity = self.identity(id, seat, None, parent);
            let is_tap = matches!(self.config.sf_port.of(identity.class), SfPort::Tap | SfPort::TapOffload);
            (own && is_tap).then(|| identity.representor())
        };
        all.into_iter().take(count).filter_map(name).collect()
    }

    /// What each VF is meant to have.
    pub fn vf_share(&self) -> Share {
        let msix = self.limits.msix_vf;
        let pairs = pools::pairs_of(msix);
        Share { msix, pairs: self.config.vf.max_queue_pairs.map_or(pairs, |most| pairs.min(most)) }
    }

    /// A static PF.
    ///
    /// # Errors
    /// The firmware gives it too few MSI-X vectors.
    pub fn static_pf(&self, n: u16) -> Result<Function, Refusal> {
        let parent = &self.config.ib_dev_for_static_pf;
        let identity = self.identity(Id::Pf(n), Seat::Static(n), None, parent);
        if let Some(described) = self.config.devices.get(usize::from(n)) {
            let mut function = Function::configured(described, identity, &self.run_dir);
            function.spec.transitional = self.limits.transitional_pf;
            return Ok(function);
        }
        if !self.limits.is_pf_usable() {
            let found = self.limits.msix_pf;
            return Err(Code::Msix.because(format!("VIRTIO_NET_EMULATION_NUM_MSIX is {found}; 4 at least are needed")));
        }
        let mac = self.config.static_pf.mac_base.map(|base| mac_after(base, n.into()));
        let offered = self.config.static_pf.features.map_or(self.features_default(), |bits| features::known(bits.0));
        let share = Share { msix: self.limits.msix_pf, pairs: pools::pairs_of(self.limits.msix_pf) };
        Ok(self.function(identity, share, mac, QUEUE_SIZE, MTU, offered))
    }

    /// A VF of a static PF.
    pub fn vf(&self, pf: u16, vf: u16) -> Function {
        let per_pf = self.vfs_per_pf();
        let parent = &self.config.ib_dev_for_static_pf;
        let identity = self.identity(Id::Vf { pf, vf }, Seat::Vf { pf, vf, per_pf }, None, parent);
        let settings = &self.config.vf;
        let mac = self.vf_mac(pf, vf);
        let offered = settings.features.map_or(self.features_default(), |bits| features::known(bits.0));
        self.function(identity, self.vf_share(), mac, settings.max_queue_size.unwrap_or(QUEUE_SIZE), MTU, offered)
    }

    /// What a function is to others on PCI.
    pub fn kind(&self, identity: &Identity) -> Kind {
        match (identity.id, self.vfs_per_pf()) {
            (Id::Vf { .. }, _) => Kind::Virtual,
            (Id::Pf(pf), total @ 1..) if identity.class == Class::StaticPf => Kind::Physical(Vfs {
                total,
                first_offset: self.vf(pf, 0).identity.bdf.0 - identity.bdf.0,
                are_transitional: self.limits.transitional_vf,
                msix: self.vf_share().msix,
            }),
            _ => Kind::Single,
        }
    }

    /// The address that is planned for a VF. Where more are made than addresses were planned for, addresses come again.
    pub fn vf_mac(&self, pf: u16, vf: u16) -> Option<Mac> {
        let (base, per_pf) = self.config.vf.mac_base.zip(self.config.vf.vfs_per_pf)?;
        Some(mac_after(base, u32::from(pf) * u32::from(per_pf) + u32::from(vf % per_pf.max(1))))
    }

    /// A hotplug PF as its file has it.
    ///
    /// # Errors
    /// There is no slot for it, or no such port any more.
    pub fn plugged(&self, record: &Record) -> Result<Function, Refusal> {
        let (pf, slot, slots) = (record.pf_id, record.pf_num, self.hotplug_pfs());
        if slot >= slots {
            return Err(Code::IdOutOfRange.because(format!("slot {slot}; there are {slots}")));
        }
        let seat = Seat::Slot(slot);
        let identity = self.identity(Id::Pf(pf), seat, Some(record.sf_num), &record.port_ib_dev);
        self.check_port(&record.port_ib_dev)?;
        let share = Share::with_pairs(record.mq)?;
        let mut function = self.function(identity, share, Some(record.mac), QUEUE_SIZE, MTU, self.features_default());
        self.set_transitional(&mut function, record.transitional.unwrap_or(false))?;
        Ok(function)
    }

    /// Makes a hotplug PF transitional, or not.
    ///
    /// # Errors
    /// [`Code::NotSupported`]: the firmware does not allow it.
    pub fn set_transitional(&self, function: &mut Function, wanted: bool) -> Result<(), Refusal> {
        if wanted && !self.limits.transitional_hotplug {
            let why = "transitional hotplug PFs need VIRTIO_EMULATION_HOTPLUG_TRANS=1, which is not in effect";
            return Err(Code::NotSupported.because(why));
        }
        function.spec.transitional = wanted;
        Ok(())
    }

    /// Whether SFs can be made on an RDMA device.
    ///
    /// # Errors
    /// It is none of the ports.
    pub fn check_port(&self, ib_device: &str) -> Result<(), Refusal> {
        let ports = self.config.ib_devices();
        if ports.contains(&ib_device) {
            return Ok(());
        }
        Err(Code::InvalidArgument.because(format!("ib_device is {ib_device:.64}; {} are allowed", ports.join(", "))))
    }

    /// A function with all its names.
    pub fn identity(&self, id: Id, seat: Seat, sf_num: Option<u32>, parent: &str) -> Identity {
        let port = self.config.ib_devices().iter().position(|device| *device == parent).unwrap_or(0);
        Identity::new(&self.serial, id, seat, sf_num, parent, port as u8)
    }

    /// A function as its class is set up. Without an address it gets one of its own, always the same.
    pub fn function(
        &self,
        identity: Identity,
        share: Share,
        mac: Option<Mac>,
        queue_size_max: u16,
        mtu: u16,
        offered: u64,
    ) -> Function {
        let mac = mac.unwrap_or_else(|| Mac::of_name(&identity.vuid));
        let transitional = match identity.class {
            Class::StaticPf => self.limits.transitional_pf,
            Class::Vf => self.limits.transitional_vf,
            Class::HotplugPf => false,
        };
        let spec = Spec {
            name: identity.id.to_string(),
            queue_pairs: share.pairs,
            queue_size_max,
            mac,
            mtu: Some(mtu),
            offered: offered | features::ALWAYS,
            transitional,
            is_steered: matches!(self.config.sf_port.of(identity.class), SfPort::Switch),
            settings: Settings::default(),
        };
        let port = match self.config.sf_port.of(identity.class) {
            SfPort::Switch => Port::Switch,
            SfPort::Loopback => Port::Loopback,
            SfPort::Sink => Port::Sink,
            SfPort::Tap => Port::Tap(Tap { name: identity.representor(), offload: false }),
            SfPort::TapOffload => Port::Tap(Tap { name: identity.representor(), offload: true }),
        };
        let socket = self.socket(&identity);
        Function { share, ..Function::new(identity, spec, port, socket) }
    }

    fn socket(&self, identity: &Identity) -> Socket {
        let vf = if let Id::Vf { vf, .. } = identity.id { Some(vf) } else { None };
        let socket = self.config.sockets.of(identity.class);
        let template = socket.path.clone().unwrap_or_else(|| Template::of(identity.class));
        let path = self.run_dir.join(template.path(identity.id.pf(), vf, &identity.vuid));
        Socket { path, transport: socket.transport, mode: socket.mode, permissions: socket.socket_mode }
    }

    /// What a function offers where nobody says: all but hash reports and addresses of an IOMMU, and packed rings and mergeable buffers
    /// only where they are enabled.
    pub fn features_default(&self) -> u64 {
        let kept = [
            (self.config.packed_vq, VIRTIO_F_RING_PACKED),
            (self.config.mrg_rxbuf, VIRTIO_NET_F_MRG_RXBUF),
            (false, VIRTIO_NET_F_HASH_REPORT),
            (false, VIRTIO_F_ACCESS_PLATFORM),
        ];
        let kept = kept.into_iter().filter(|(enabled, _)| !enabled).fold(0, |bits, (_, bit)| bits | 1 << bit);
        features::SUPPORTED & !kept
    }

    /// Feature bits that a function can offer.
    ///
    /// # Errors
    /// [`Code::Features`]: bits that no function has.
    pub fn check_features(&self, bits: u64) -> Result<u64, Refusal> {
        // What a transitional function offers besides is not a matter of choice.
        let unknown = bits & !(features::SUPPORTED | 1 << VIRTIO_F_ANY_LAYOUT);
        if unknown != 0 {
            let allowed = features::SUPPORTED;
            return Err(Code::Features.because(format!("{unknown:#x} of {bits:#x}; {allowed:#x} are allowed")));
        }
        Ok(features::known(bits))
    }
}
