//! What of a function can be changed while the controller runs, and when.

use virtnet_engine::filter::Modes;
use virtnet_engine::frame::hash::{self, KEY_BYTES};
use virtnet_rings::spec::net::{VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU};
use virtnet_rings::spec::virtq::VIRTIO_F_RING_PACKED;

use super::{Entry, Live, Service};
use crate::class::Class;
use crate::config::{Mac, Port};
use crate::device::Spec;
use crate::device::settings::{Settings, Speed};
use crate::function::{Coalescing, Fault, Function, Id, Share};
use crate::refusal::{Code, Refusal};
use crate::transport::{Backend, STATUS_ADDABLE};

/// The most bytes of a frame's payload that are documented for a device.
const MTU_MAX: u16 = 9216;
const MTU_MIN: u16 = 68;

/// Changes to functions, all or none of which are made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Its address.
    pub mac: Option<Mac>,
    /// Bytes, 68 to 9216.
    pub mtu: Option<u16>,
    /// Feature bits it offers.
    pub features: Option<u64>,
    /// MSI-X vectors of a VF.
    pub msix: Option<u16>,
    /// Queue pairs.
    pub queue_pairs: Option<u16>,
    /// Descriptors of its largest queue: a power of two, 4 to 32768.
    pub queue_size_max: Option<u16>,
    /// Whether it offers packed rings.
    pub packed: Option<bool>,
    /// Whether it offers mergeable buffers.
    pub mergeable: Option<bool>,
    /// Whether its link is up; at any time.
    pub link_up: Option<bool>,
    /// The speed that its link says it has; at any time.
    pub speed: Option<Speed>,
    /// What its driver receives; at any time.
    pub rx_mode: Option<Modes>,
    /// The destination port that is steered, 0 for none; at any time.
    pub dst_port: Option<u16>,
    /// Whether flows follow their senders; at any time.
    pub aarfs: Option<bool>,
    /// Hash types that its driver may enable, a bit each, where it offers hashes; at any time.
    pub hash_types: Option<u64>,
    /// Bytes of the longest key of a hash, where it offers hashes: 40; at any time.
    pub rss_key_bytes: Option<u64>,
    /// Its device status; at any time.
    pub status: Option<u8>,
    /// Whether frames are counted by size; at any time.
    pub packet_counters: Option<bool>,
    /// Whether drops are counted; at any time.
    pub drop_counter: Option<bool>,
    /// Whether moderation of its receiveqs follows their load; at any time.
    pub dim: Option<bool>,
}

impl Service {
    /// Makes changes to functions, to all of them or to none. What a driver has read must not change under it: what is not said
    /// to be changed at any time needs it to be unbound.
    ///
    /// # Errors
    /// The first change that cannot be: nothing is changed then. [`Code::SfCreate`]: a function could not be made anew, and those
    /// behind it are as they were. [`Code::Period`]: a worker does not answer. Or [`Code::RecoverySave`]: all are changed, until the next start.
    pub fn modify(&mut self, keys: &[usize], changes: &Changes) -> Result<(), Refusal> {
        if let (Some(mac), 2..) = (changes.mac, keys.len()) {
            return Err(Code::Mac.because(format!("{mac} is one function's, {} are selected", keys.len())));
        }
        let planned = self.plan_all(keys, changes)?;
        // No driver comes to one that is still to be changed.
        keys.iter().for_each(|&key| self.entries[key].is_held = true);
        let changed = keys.iter().zip(planned).enumerate().try_for_each(|(step, (&key, after))| {
            self.breathe_at(step);
            self.change(key, after, changes)
        });
        keys.iter().for_each(|&key| self.entries[key].is_held = false);
        changed?;
        self.keep(keys).inspect_err(|_| {
            if changes.drop_counter.or(changes.packet_counters).is_some() {
                keys.iter().for_each(|&key| self.entries[key].faults.count(Fault::Counters));
            }
        })
    }

    /// The functions as they are to be, if they all can be.
    fn plan_all(&mut self, keys: &[usize], changes: &Changes) -> Result<Vec<Function>, Refusal> {
        let shares: Vec<Share> = keys.iter().map(|&key| self.entries[key].function.share).collect();
        let plan = |&key: &usize| {
            let mut after = self.entries[key].function.clone();
            self.plan(&mut after, changes)?;
            if self.needs_unbound(key, &after) {
                self.check_unbound(key)?;
            }
            if let Some(status) = changes.status {
                self.check_status(key, status)?;
            }
            // What one takes from the pool, the next cannot have.
            self.entries[key].function.share = after.share;
            Ok(after)
        };
        let planned = keys.iter().map(plan).collect();
        keys.iter().zip(shares).for_each(|(&key, share)| self.entries[key].function.share = share);
        planned
    }

    fn needs_unbound(&self, key: usize, after: &Function) -> bool {
        let before = &self.entries[key].function;
        let spec = Spec { settings: after.spec.settings, ..before.spec.clone() };
        (&after.spec, after.share) != (&spec, before.share)
    }

    fn change(&mut self, key: usize, after: Function, changes: &Changes) -> Result<(), Refusal> {
        if self.needs_unbound(key, &after) {
            self.replace(key, after).map_err(|error| Refusal::of(error, Code::SfCreate))?;
        } else if self.entries[key].function.spec.settings != after.spec.settings {
            self.set(key, after.spec.settings);
        }
        if let Some(status) = changes.status {
            self.set_status(key, status);
        }
        let counts = self.counts(key);
        let function = &mut self.entries[key].function;
        if let Some(enabled) = changes.packet_counters {
            function.packet_counters.set(enabled, &counts);
        }
        if let Some(enabled) = changes.drop_counter {
            function.drop_counter.set(enabled, &counts);
        }
        let coalescing = Coalescing { dim: changes.dim.unwrap_or(function.coalescing.dim), ..function.coalescing };
        if coalescing != function.coalescing {
            self.set_coalescing(key, coalescing)?;
        }
        Ok(())
    }

    /// The function as it is to be, if it can be.
    fn plan(&self, function: &mut Function, changes: &Changes) -> Result<(), Refusal> {
        let Function { identity, spec, share, port, .. } = function;
        if let Some(mac) = changes.mac {
            self.check_mac_is_free(mac, Some(identity.id))?;
            spec.mac = mac;
        }
        if let Some(mtu) = changes.mtu {
            spec.mtu = Some(check_mtu(mtu)?);
            spec.offered |= 1 << VIRTIO_NET_F_MTU;
        }
        if let Some(size) = changes.queue_size_max {
            spec.queue_size_max = check_queue_size(size)?;
        }
        if changes.dst_port.is_some_and(|port| port != 0) && *port != Port::Switch {
            return Err(Code::DstPort.because(format!("{} is not a port of the switch, which steers", identity.id)));
        }
        if changes.aarfs == Some(true) && (*port != Port::Switch || identity.class == Class::Vf) {
            let why = "the switch steers, and only for PFs; a TAP does so by itself";
            return Err(Code::NotSupported.because(format!("{} is another: {why}", identity.id)));
        }
        let settings = &mut spec.settings;
        settings.rx_mode = changes.rx_mode.unwrap_or(settings.rx_mode);
        settings.dst_port = changes.dst_port.map_or(settings.dst_port, |port| Some(port).filter(|port| *port != 0));
        settings.aarfs = changes.aarfs.unwrap_or(settings.aarfs);
        settings.link_up = changes.link_up.unwrap_or(settings.link_up);
        settings.speed = changes.speed.unwrap_or(settings.speed);
        if let Some(bits) = changes.features {
            spec.offered = self.host.check_features(bits)?;
        }
        check_hashes(spec, changes)?;
        spec.settings.hash_types = changes.hash_types.map_or(spec.settings.hash_types, |types| types as u32);
        for (wanted, bit) in [(changes.packed, VIRTIO_F_RING_PACKED), (changes.mergeable, VIRTIO_NET_F_MRG_RXBUF)] {
            match wanted {
                Some(true) => spec.offered |= 1 << bit,
                Some(false) => spec.offered &= !(1 << bit),
                None => {}
            }
        }
        let wanted = match (changes.msix, changes.queue_pairs) {
            (None, None) => return Ok(()),
            (Some(_), Some(_)) => {
                return Err(Code::InvalidArgument.because("MSI-X vectors and queue pairs follow each other: give one"));
            }
            (Some(_), None) if identity.class != Class::Vf => {
                return Err(Code::Msix.because("only a VF's number can be changed"));
            }
            (Some(msix), None) => Share::with_msix(msix)?,
            (None, Some(pairs)) => Share::with_pairs(pairs)?,
        };
        match identity.id {
            Id::Pf(_) if wanted.pairs == 0 || wanted.msix > share.msix.max(self.host.limits.msix_pf) => {
                let most = crate::function::pools::pairs_of(share.msix.max(self.host.limits.msix_pf));
                return Err(Code::Queues.because(format!("{} queue pairs; 1 to {most} are allowed", wanted.pairs)));
            }
            Id::Pf(_) => *share = Share { msix: share.msix.max(wanted.msix), ..wanted },
            Id::Vf { pf, .. } => {
                let pf = self.key_of(Id::Pf(pf)).ok_or_else(|| Code::NotFound.because(format!("PF {pf}")))?;
                self.pool_of(pf).allows(*share, wanted)?;
                *share = wanted;
            }
        }
        spec.queue_pairs = share.pairs;
        Ok(())
    }

    /// Changes what can change under a driver, and tells it of what it can read.
    fn set(&mut self, key: usize, settings: Settings) {
        self.entries[key].function.spec.settings = settings;
        let Some(Live { device, endpoint, .. }) = &mut self.entries[key].live else { return };
        let mut served = super::served(device, &mut self.engine, &self.epoll, key);
        let before = served.config();
        served.set(settings);
        if served.config() != before
            && let Some(session) = endpoint.session()
        {
            session.config_changed();
        }
    }

    fn check_status(&mut self, key: usize, status: u8) -> Result<(), Refusal> {
        let Entry { function, live, .. } = &mut self.entries[key];
        let now = live.as_mut().and_then(|live| live.endpoint.session()).map_or(0, |session| session.status());
        let added = status & !now;
        let is_kept = status & !STATUS_ADDABLE == 0 || now & !status == 0;
        if status == now || status == 0 || now != 0 && is_kept && added & !STATUS_ADDABLE == 0 {
            return Ok(());
        }
        let allowed = match now {
            0 => "no driver has it: 0 is allowed".to_owned(),
            _ => format!("it is {now:#x}: 0 (reset), 0x40 (DEVICE_NEEDS_RESET) and 0x80 (FAILED) are allowed"),
        };
        Err(Code::InvalidArgument.because(format!("device status {status:#x} of {}; {allowed}", function.identity.id)))
    }

    /// Resets a function, gives it up, or asks its driver for a reset.
    fn set_status(&mut self, key: usize, status: u8) {
        let Some(Live { device, endpoint, .. }) = &mut self.entries[key].live else { return };
        let Some(session) = endpoint.session() else { return };
        session.put_status(status, &mut super::served(device, &mut self.engine, &self.epoll, key));
    }

    /// Refuses where a driver has the function.
    ///
    /// # Errors
    /// [`Code::DriverLoaded`].
    pub fn check_unbound(&mut self, key: usize) -> Result<(), Refusal> {
        let Entry { function, live, .. } = &mut self.entries[key];
        let session = live.as_mut().and_then(|live| live.endpoint.session());
        match session.is_some_and(|session| session.has_rings()) {
            true => Err(Code::DriverLoaded.because(format!("{} has queues that run", function.identity.id))),
            false => Ok(()),
        }
    }

    /// Refuses an address that another function has. VFs of a PF have the same one where it was planned so.
    ///
    /// # Errors
    /// [`Code::Mac`].
    pub fn check_mac_is_free(&self, mac: Mac, id: Option<Id>) -> Result<(), Refusal> {
        let is_planned = |id: Id| matches!(id, Id::Vf { pf, vf } if self.host.vf_mac(pf, vf) == Some(mac));
        let may_share = |other: Id| id.is_some_and(|id| id.pf() == other.pf() && is_planned(id) && is_planned(other));
        let mut having = self.entries.iter().filter(|(_, entry)| entry.function.spec.mac == mac);
        let other = having.find_map(|(_, entry)| {
            let other = entry.function.identity.id;
            (Some(other) != id && !may_share(other)).then_some(other)
        });
        other.map_or(Ok(()), |other| Err(Code::Mac.because(format!("{mac} is {other}'s"))))
    }

    /// Refuses a function whose address or socket another one has.
    ///
    /// # Errors
    /// [`Code::Mac`] or [`Code::InvalidArgument`].
    pub(super) fn check_is_alone(&self, function: &Function) -> Result<(), Refusal> {
        self.check_mac_is_free(function.spec.mac, Some(function.identity.id))?;
        let path = &function.socket.path;
        let mut others = self.entries.iter().map(|(_, entry)| &entry.function);
        match others.find(|other| other.socket.path.as_os_str() == path.as_os_str()) {
            Some(other) => {
                let why = format!("{} is the socket of {}", path.display(), other.identity.id);
                Err(Code::InvalidArgument.because(why))
            }
            None => Ok(()),
        }
    }
}

/// A queue size that a device can have.
///
/// # Errors
/// [`Code::QueueSizePower`] or [`Code::QueueSize`].
pub fn check_queue_size(size: u16) -> Result<u16, Refusal> {
    if !size.is_power_of_two() || size < 4 {
        return Err(Code::QueueSizePower.because(format!("{size}; a power of 2 from 4 to 32768 is allowed")));
    }
    Ok(size)
}

/// Refuses hashes that a device cannot have.
///
/// # Errors
/// [`Code::HashTypes`] or [`Code::RssKeySize`].
fn check_hashes(spec: &Spec, changes: &Changes) -> Result<(), Refusal> {
    let check = |code: Code, is_allowed: bool, why: String| match spec.hash_types() {
        None => {
            Err(code.because(format!("{} offers neither VIRTIO_NET_F_RSS nor VIRTIO_NET_F_HASH_REPORT", spec.name)))
        }
        Some(_) if is_allowed => Ok(()),
        Some(_) => Err(code.because(why)),
    };
    if let Some(types) = changes.hash_types {
        let why = format!("{types:#x}; 0x0 to {:#x} are allowed", hash::TYPES);
        check(Code::HashTypes, types <= hash::TYPES.into(), why)?;
    }
    if let Some(bytes) = changes.rss_key_bytes {
        check(Code::RssKeySize, bytes == KEY_BYTES as u64, format!("{bytes}; {KEY_BYTES} is allowed"))?;
    }
    Ok(())
}

/// An MTU that a device can have.
///
/// # Errors
/// [`Code::Mtu`].
pub fn check_mtu(mtu: u16) -> Result<u16, Refusal> {
    if !(MTU_MIN..=MTU_MAX).contains(&mtu) {
        return Err(Code::Mtu.because(format!("{mtu}; {MTU_MIN} to {MTU_MAX} are allowed")));
    }
    Ok(mtu)
}
