//! Functions come and go: static PFs at the start, hotplug PFs by command, VFs all at once.

use super::Service;
use super::modify::{check_mtu, check_queue_size};
use crate::class::Class;
use crate::config::Mac;
use crate::function::{Function, Id, Identity, Seat, Share, pools};
use crate::refusal::{Code, Refusal};

/// A PF to be plugged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plug {
    /// The RDMA device its SF is made on.
    pub ib_device: String,
    /// Feature bits it offers; all by default.
    pub features: Option<u64>,
    /// Its address.
    pub mac: Mac,
    /// Bytes.
    pub mtu: u16,
    /// Queue pairs.
    pub queue_pairs: u16,
    /// Descriptors of its largest queue.
    pub queue_size_max: u16,
    /// The number of its SF; the first that is free by default.
    pub sf_num: Option<u32>,
    /// Whether it is meant for legacy drivers, too.
    pub transitional: bool,
    /// The guest that it is for; by default the only one, where there is one.
    pub guest: Option<String>,
}

impl Service {
    /// Plugs a PF, into a running guest where there is one for it. Returns its key.
    ///
    /// # Errors
    /// What is asked for is not allowed, there is no room for one more, or its guest does not take it.
    pub fn plug(&mut self, plug: &Plug) -> Result<usize, Refusal> {
        let slots = self.host.hotplug_pfs();
        let is_free = |slot: &u16| !self.identities().any(|one| one.class == Class::HotplugPf && one.pf_num == *slot);
        let Some(slot) = (0..slots).find(is_free) else {
            return Err(Code::Hotplug.because(format!("{slots} are allowed, and there are as many")));
        };
        let place = self.place(plug.guest.as_deref())?;
        self.host.check_port(&plug.ib_device)?;
        self.check_mac_is_free(plug.mac, None)?;
        let sf_num = self.free_sf(plug.sf_num)?;
        self.check_sfs(1)?;
        let share = Share::with_pairs(plug.queue_pairs)?;
        if !share.is_usable() || share.msix > self.host.limits.msix_pf {
            let most = pools::pairs_of(self.host.limits.msix_pf);
            return Err(Code::Queues.because(format!("{} queue pairs; 1 to {most} are allowed", plug.queue_pairs)));
        }
        let offered = plug.features.map_or(Ok(self.host.features_default()), |bits| self.host.check_features(bits))?;
        let first = self.host.static_pfs();
        let is_free = |pf: &u16| !self.identities().any(|one| one.id == Id::Pf(*pf));
        let pf = (first..).find(is_free).unwrap_or(first);
        let identity = self.host.identity(Id::Pf(pf), Seat::Slot(slot), Some(sf_num), &plug.ib_device);
        let size = check_queue_size(plug.queue_size_max)?;
        let mut function = self.host.function(identity, share, Some(plug.mac), size, check_mtu(plug.mtu)?, offered);
        self.host.set_transitional(&mut function, plug.transitional)?;
        function.place = place;
        let key = self.add(function).map_err(|error| Refusal::of(error, Code::Hotplug))?;
        self.keep_or_discard(&[key])?;
        self.plug_into_guest(key).or_else(|refusal| self.discard(&[key]).and(Err(refusal)))?;
        Ok(key)
    }

    /// Unplugs a PF, and before that from its guest.
    ///
    /// # Errors
    /// It was not plugged, or its guest does not release it.
    pub fn unplug(&mut self, key: usize) -> Result<(), Refusal> {
        let identity = &self.entries[key].function.identity;
        if identity.class != Class::HotplugPf {
            return Err(Code::NotHotplug.because(format!("{} is a {}", identity.id, identity.class.name())));
        }
        self.unplug_from_guest(key)?;
        self.discard(&[key])
    }

    /// Makes all VFs of a static PF, as many as there are to be, or takes all away.
    ///
    /// # Errors
    /// It can have no or fewer VFs, has some, or one cannot be made: then none are.
    pub fn set_vfs(&mut self, key: usize, count: u16) -> Result<(), Refusal> {
        let changed = self.change_vfs(key, count);
        self.show_vfs(key);
        changed
    }

    /// The same; its driver is not shown it yet.
    pub(super) fn change_vfs(&mut self, key: usize, count: u16) -> Result<(), Refusal> {
        let identity = &self.entries[key].function.identity;
        let Id::Pf(pf) = identity.id else {
            return Err(Code::InvalidArgument.because("a VF has no VFs"));
        };
        let most = if identity.class == Class::StaticPf { self.host.vfs_per_pf() } else { 0 };
        let there = self.vfs_of(key);
        if count > most {
            return Err(Code::IdOutOfRange.because(format!("{count} VFs; 0 to {most} are allowed")));
        }
        if count > 0 && !there.is_empty() {
            let there = there.len();
            return Err(Code::InvalidArgument.because(format!("there are {there} VFs: 0 first, then another number")));
        }
        let (others, most) = (self.vfs(), self.host.vfs());
        if count > 0 && others + usize::from(count) > usize::from(most) {
            return Err(Code::IdOutOfRange.because(format!("{count} VFs beside {others}; {most} are allowed in all")));
        }
        if count == 0 {
            // Some may have a file and no function.
            let meant = std::mem::take(&mut self.entries[key].num_vfs);
            self.forget((0..meant).map(|vf| self.host.vf(pf, vf).identity).collect());
            self.take_out(&there)?;
            if !there.is_empty() {
                tracing::info!("static PF[{pf}], Unload ({}) VFs finished", there.len());
            }
            return Ok(());
        }
        let planned: Vec<Function> = (0..count).map(|vf| self.host.vf(pf, vf)).collect();
        planned.iter().try_for_each(|function| self.check_is_alone(function))?;
        self.check_sfs(planned.len())?;
        let addresses = self.host.config.vf.mac_base.and(self.host.config.vf.vfs_per_pf);
        if let Some(addresses) = addresses.filter(|addresses| *addresses < count) {
            tracing::warn!("PF {pf}: vf.vfs_per_pf is {addresses}: {count} VFs have addresses of one another");
        }
        let mut made = Vec::with_capacity(planned.len());
        for function in planned {
            let id = function.identity.id;
            self.breathe_at(made.len());
            match self.add(function) {
                Ok(key) => made.push(key),
                Err(error) => {
                    self.discard(&made)?;
                    return Err(Refusal::of(error.context(id.to_string()), Code::SfCreate));
                }
            }
        }
        self.entries[key].num_vfs = count;
        self.keep_or_discard(&made).inspect_err(|_| self.entries[key].num_vfs = 0)
    }

    /// Functions that would not be there after a restart are not there before.
    fn keep_or_discard(&mut self, keys: &[usize]) -> Result<(), Refusal> {
        self.keep(keys).or_else(|refusal| self.discard(keys).and(Err(refusal)))
    }

    /// Takes functions out, and their files before them.
    fn discard(&mut self, keys: &[usize]) -> Result<(), Refusal> {
        self.forget(keys.iter().map(|&key| self.entries[key].function.identity.clone()).collect());
        self.take_out(keys)
    }

    /// Takes functions out, all of them, whichever makes trouble.
    fn take_out(&mut self, keys: &[usize]) -> Result<(), Refusal> {
        let remove = |(step, &key): (usize, &usize)| {
            self.breathe_at(step);
            self.remove(key)
        };
        let removed: Vec<_> = keys.iter().enumerate().map(remove).collect();
        let first = removed.into_iter().find_map(Result::err);
        first.map_or(Ok(()), |error| Err(Code::UnplugNotReady.because(format!("{error:#}"))))
    }

    fn identities(&self) -> impl Iterator<Item = &Identity> {
        self.entries.iter().map(|(_, entry)| &entry.function.identity)
    }

    /// VFs that are there, of all PFs.
    pub(super) fn vfs(&self) -> usize {
        self.identities().filter(|one| one.class == Class::Vf).count()
    }

    /// Refuses where so many more functions would have more SFs than the firmware has.
    ///
    /// # Errors
    /// [`Code::SfCreate`].
    pub(super) fn check_sfs(&self, more: usize) -> Result<(), Refusal> {
        let there = self.entries.len();
        match self.host.limits.max_sf {
            Some(most) if there + more > most.into() => {
                Err(Code::SfCreate.because(format!("{more} beside {there}; PF_TOTAL_SF allows {most} in all")))
            }
            _ => Ok(()),
        }
    }

    fn free_sf(&self, wanted: Option<u32>) -> Result<u32, Refusal> {
        let is_used = |sf: u32| self.identities().any(|one| one.sf_num == sf);
        let mut sfs = Class::HotplugPf.sf_nums();
        match wanted {
            Some(sf) if !sfs.contains(&sf) => {
                let (first, last) = (sfs.start(), sfs.end());
                Err(Code::SfNumberRange.because(format!("{sf}; {first} to {last} are allowed")))
            }
            Some(sf) if is_used(sf) => Err(Code::SfNumberUsed.because(sf.to_string())),
            Some(sf) => Ok(sf),
            None => sfs.find(|sf| !is_used(*sf)).ok_or_else(|| Code::SfCreate.because("all are used")),
        }
    }
}
