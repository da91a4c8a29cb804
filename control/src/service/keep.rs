//! What survives a restart: each function's file, written when it changes, and read at the start.

use std::collections::BTreeMap;

use anyhow::Context;
use virtnet_engine::filter::Modes;
use virtnet_engine::moderation::Moderation;

use super::Service;
use crate::class::Class;
use crate::config::{Hex, Mac, Port};
use crate::device::features;
use crate::function::{Coalescing, Function, Id, Identity, Pool, Share, pools};
use crate::qemu::Place;
use crate::recovery::{DeviceType, Folder, Record};
use crate::refusal::{Code, Refusal};

impl Service {
    /// Writes functions' files. That of a PF's VF 0 says how many VFs there are, and is the last.
    ///
    /// # Errors
    /// [`Code::RecoverySave`].
    pub(super) fn keep(&mut self, keys: &[usize]) -> Result<(), Refusal> {
        let Some(folder) = self.recovery.take() else { return Ok(()) };
        let record = |&key: &usize| {
            let function = &self.entries[key].function;
            Record { num_vfs: self.num_vfs(function.identity.id), ..record(function) }
        };
        let mut records: Vec<Record> = keys.iter().map(record).collect();
        records.sort_by_key(|record| record.num_vfs.is_some());
        let saved = self.beside(|| folder.save(&records));
        self.recovery = Some(folder);
        saved.map_err(|error| Code::RecoverySave.because(error.to_string()))
    }

    /// What VF 0's file says of its PF.
    fn num_vfs(&self, id: Id) -> Option<u16> {
        let Id::Vf { pf, vf: 0 } = id else { return None };
        Some(self.entries[self.key_of(Id::Pf(pf))?].num_vfs)
    }

    /// Removes functions' files, a PF's VF 0's first. One that cannot be removed is told of: at the next start it says of a function
    /// that is gone.
    pub(super) fn forget(&mut self, mut functions: Vec<Identity>) {
        let Some(folder) = self.recovery.take() else { return };
        functions.sort_by_key(|identity| identity.id.vf() != Some(0));
        let removed = self.beside(|| folder.remove(functions.iter().map(|identity| identity.vuid.as_str())));
        self.recovery = Some(folder);
        if let Err(error) = removed {
            tracing::error!("recovery: {error}");
        }
    }

    /// Reads all files, and makes the functions that there are to be. What a file says of a function that cannot be is told, and costs
    /// only that function.
    ///
    /// # Errors
    /// A static PF that the configuration describes cannot be had.
    pub(super) fn recover(&mut self) -> anyhow::Result<()> {
        let (records, errors) = self.recovery.as_ref().map(Folder::load).unwrap_or_default();
        errors.iter().for_each(|error| tracing::error!("recovery: {error}"));
        let (mut static_pfs, mut plugged, mut vfs) = (Vec::new(), Vec::new(), BTreeMap::<u16, Vec<Record>>::new());
        for record in records {
            match (record.device_type, record.vf_id) {
                (Some(DeviceType::Static), _) => static_pfs.push(record),
                (Some(DeviceType::Hotplug), _) => plugged.push(record),
                (None, _) => vfs.entry(record.pf_id).or_default().push(record),
            }
        }
        self.start_static_pfs(static_pfs)?;
        plugged.sort_by_key(|record| record.pf_id);
        for record in plugged {
            if let Err(refusal) = self.plug_again(&record) {
                tell(&record.vuid, &refusal);
            }
        }
        for (pf, records) in vfs {
            let is_broken =
                |vuid: &str| errors.iter().any(|error| error.file.file_stem().is_some_and(|stem| stem == vuid));
            self.recover_vfs(pf, records, is_broken);
        }
        Ok(())
    }

    /// Makes the static PFs, as their files have them. One that the firmware has and that cannot be made is told of, and does not
    /// keep the others away.
    fn start_static_pfs(&mut self, records: Vec<Record>) -> anyhow::Result<()> {
        let described = self.host.config.devices.len();
        let mut planned = Vec::new();
        for n in 0..self.host.static_pfs() {
            match self.host.static_pf(n) {
                Ok(function) => planned.push(Planned { configured: function, kept: None }),
                Err(refusal) => tracing::error!("static PF {n}: {refusal}"),
            }
        }
        for record in records {
            let Some(one) = planned.iter_mut().find(|one| one.configured.identity.vuid == record.vuid) else {
                tell(&record.vuid, &Code::NotFound.because("the static PF is not there any more"));
                continue;
            };
            let msix_max = one.configured.share.msix.max(self.host.limits.msix_pf);
            match self.restored(&one.configured, &record, msix_max) {
                Ok(function) => one.kept = Some(function),
                Err(refusal) => tell(&record.vuid, &refusal),
            }
        }
        Planned::settle(&mut planned);
        for Planned { configured, kept } in planned {
            let function = kept.unwrap_or(configured);
            let Identity { id, .. } = function.identity;
            let name = function.spec.name.clone();
            match self.add(function).with_context(|| format!("device {name:?}")) {
                Err(error) if usize::from(id.pf()) < described => return Err(error),
                Err(error) => tracing::error!("static PF {}: {error:#}", id.pf()),
                Ok(_) => {}
            }
        }
        Ok(())
    }

    fn plug_again(&mut self, record: &Record) -> Result<(), Refusal> {
        let function = self.host.plugged(record)?;
        let id = function.identity.id;
        if let Some(key) = self.key_of(id) {
            let other = self.entries[key].function.identity.class.name();
            return Err(Code::IdOutOfRange.because(format!("{id} is a {other} now; the file stays for when it is not")));
        }
        let function = self.restored(&function, record, self.host.limits.msix_pf)?;
        self.add(function).map(drop).map_err(|error| Refusal::of(error, Code::SfCreate))
    }

    /// Makes as many VFs of a PF as there were: what cannot be as its file says is as new. Without VF 0's file there were none:
    /// others are of VFs that were being made or taken away.
    fn recover_vfs(&mut self, pf: u16, mut records: Vec<Record>, is_broken: impl Fn(&str) -> bool) {
        let is_static = |key: &usize| self.entries[*key].function.identity.class == Class::StaticPf;
        let Some(key) = self.key_of(Id::Pf(pf)).filter(is_static) else {
            let refusal = Code::IdOutOfRange.because(format!("PF {pf} has no VFs"));
            return records.iter().for_each(|record| tell(&record.vuid, &refusal));
        };
        records.sort_by_key(|record| record.vf_id);
        let all = records.last().and_then(|record| record.vf_id).map_or(0, |last| last + 1);
        let count = match records.first() {
            Some(first) if first.vf_id == Some(0) => first.num_vfs.unwrap_or(all),
            _ if is_broken(&self.host.vf(pf, 0).identity.vuid) => all,
            _ => 0,
        };
        let most = self.host.vfs_per_pf().min(self.host.vfs().saturating_sub(self.vfs() as u16));
        let beyond = |record: &Record| record.vf_id.is_some_and(|vf| vf >= count);
        let left =
            records.extract_if(.., |record| beyond(record)).map(|record| self.host.vf(pf, record.vf_id.unwrap_or(0)));
        let left: Vec<Identity> = left.map(|function| function.identity).collect();
        if !left.is_empty() {
            tracing::info!("PF {pf}: {} VFs were being made or taken away", left.len());
            self.forget(left);
        }
        for record in records.iter().filter(|record| record.vf_id.is_some_and(|vf| vf >= most)) {
            tell(&record.vuid, &Code::IdOutOfRange.because(format!("PF {pf} can have {most} VFs")));
        }
        let mut planned: Vec<(Function, Option<&Record>)> =
            (0..count.min(most)).map(|vf| (self.host.vf(pf, vf), None)).collect();
        for record in &records {
            if let Some((_, kept)) = record.vf_id.and_then(|vf| planned.get_mut(usize::from(vf))) {
                *kept = Some(record);
            }
        }
        let shares = self.shares(&planned);
        for ((function, record), share) in planned.into_iter().zip(shares) {
            let kept = record.map(|record| {
                let share = share?;
                self.restored(&function, record, share.msix)
            });
            let function = match kept {
                Some(Ok(kept)) => kept,
                Some(Err(refusal)) => {
                    tell(&function.identity.vuid, &refusal);
                    function
                }
                None => function,
            };
            let vuid = function.identity.vuid.clone();
            if let Err(error) = self.add(function) {
                tell(&vuid, &Refusal::of(error, Code::SfCreate));
            }
        }
        self.entries[key].num_vfs = count;
        self.show_vfs(key);
    }

    /// What VFs have of their PF's pool: those that want less than they are meant to have leave more for others.
    fn shares(&self, planned: &[(Function, Option<&Record>)]) -> Vec<Result<Share, Refusal>> {
        let even = self.even_share();
        let wanted = |record: Option<&Record>| record.map_or(even, share_of);
        let is_small = |share: Share| share.msix <= even.msix && share.pairs <= even.pairs;
        let mut shares: Vec<Share> = planned
            .iter()
            .map(|(_, record)| Some(wanted(*record)).filter(|share| is_small(*share)).unwrap_or(even))
            .collect();
        let mut pool = Pool::of(even, shares.iter().copied());
        let give = |(index, (_, record)): (usize, &(Function, Option<&Record>))| {
            let wanted = wanted(*record);
            pool.allows(shares[index], wanted)?;
            if wanted != shares[index] {
                shares[index] = wanted;
                pool = Pool::of(even, shares.iter().copied());
            }
            Ok(wanted)
        };
        planned.iter().enumerate().map(give).collect()
    }

    /// A function as its file has it.
    ///
    /// # Errors
    /// The file is another function's, says more than there is (`msix_max` vectors), or an address that another function has.
    fn restored(&self, function: &Function, record: &Record, msix_max: u16) -> Result<Function, Refusal> {
        let Identity { id, vuid, class, .. } = &function.identity;
        if *vuid != record.vuid {
            return Err(Code::Vuid.because(format!("what it says is {vuid}")));
        }
        let Share { msix, pairs } = share_of(record);
        if msix > msix_max {
            return Err(Code::Msix.because(format!("num_msix {msix}; {msix_max} are allowed")));
        }
        if pairs == 0 && *class != Class::Vf {
            return Err(Code::Queues.because("mq 0; a PF has 1 queue pair at least"));
        }
        self.check_mac_is_free(record.mac, Some(*id))?;
        let mut function = function.clone();
        restore(&mut function, record);
        Ok(function)
    }
}

/// A static PF that is to be made.
struct Planned {
    configured: Function,
    /// As its file has it.
    kept: Option<Function>,
}

impl Planned {
    fn mac(&self) -> Mac {
        self.kept.as_ref().unwrap_or(&self.configured).spec.mac
    }

    /// One whose address by its file is another's by now is as it is configured.
    fn settle(planned: &mut [Self]) {
        let clash = |planned: &[Self]| {
            let kept = (0..planned.len()).rev().filter(|&at| planned[at].kept.is_some());
            let other =
                |at: usize| (0..planned.len()).find(|&other| other != at && planned[other].mac() == planned[at].mac());
            kept.filter_map(|at| Some((at, other(at)?))).next()
        };
        while let Some((at, other)) = clash(planned) {
            let (mac, other) = (planned[at].mac(), planned[other].configured.identity.id);
            tell(&planned[at].configured.identity.vuid, &Code::Mac.because(format!("{mac} is {other}'s")));
            planned[at].kept = None;
        }
    }
}

/// Says why a file is not used.
fn tell(vuid: &str, refusal: &Refusal) {
    tracing::error!("recovery: {vuid}: {refusal}");
}

/// What a file says of vectors and queue pairs.
fn share_of(record: &Record) -> Share {
    Share { msix: record.num_msix.unwrap_or(pools::msix_of(record.mq)), pairs: record.mq }
}

/// What a function's file says.
fn record(function: &Function) -> Record {
    let Function { identity, spec, share, coalescing: Coalescing { fixed, dim }, .. } = function;
    Record {
        vuid: identity.vuid.clone(),
        port_ib_dev: identity.sf_parent_device.clone(),
        pf_id: identity.id.pf(),
        vf_id: if let Id::Vf { vf, .. } = identity.id { Some(vf) } else { None },
        function_type: identity.class.into(),
        bdf_raw: identity.bdf.0,
        device_type: DeviceType::of(identity.class),
        mac: spec.mac,
        pf_num: identity.pf_num,
        sf_num: identity.sf_num,
        mq: share.pairs,
        mtu: spec.mtu,
        features: Some(Hex(spec.offered)),
        transitional: (identity.class == Class::HotplugPf).then_some(spec.transitional),
        max_queue_size: Some(spec.queue_size_max),
        num_msix: Some(share.msix),
        num_vfs: None,
        link: Some(spec.settings.link_up),
        speed: Some(spec.settings.speed),
        rx_mode: Some(spec.settings.rx_mode.bits()),
        dst_port: spec.settings.dst_port,
        aarfs: Some(spec.settings.aarfs),
        supported_hash_types: Some(spec.settings.hash_types),
        packet_counter: Some(function.packet_counters.is_enabled()),
        drop_count: Some(function.drop_counter.is_enabled()),
        period_mode: Some(fixed.mode.into()),
        period: Some(fixed.period_us),
        max_count: Some(fixed.max_count),
        dim: Some(*dim),
        guest: function.place.as_ref().map(|place| place.guest.clone()),
        root_port: function.place.as_ref().map(|place| place.root_port.clone()),
    }
}

/// Sets a function to what its file says.
fn restore(function: &mut Function, record: &Record) {
    let place = record.guest.clone().zip(record.root_port.clone());
    function.place = place.map(|(guest, root_port)| Place { guest, root_port });
    let Function { spec, share, .. } = function;
    spec.mac = record.mac;
    *share = share_of(record);
    spec.queue_pairs = record.mq;
    spec.mtu = record.mtu.or(spec.mtu);
    spec.offered = record.features.map_or(spec.offered, |bits| features::known(bits.0));
    spec.queue_size_max = record.max_queue_size.unwrap_or(spec.queue_size_max);
    let settings = &mut spec.settings;
    settings.link_up = record.link.unwrap_or(settings.link_up);
    settings.speed = record.speed.unwrap_or(settings.speed);
    settings.hash_types = record.supported_hash_types.unwrap_or(settings.hash_types);
    settings.rx_mode = record.rx_mode.and_then(|bits| Modes::new(bits.into())).unwrap_or_default();
    if function.port == Port::Switch {
        settings.dst_port = record.dst_port;
        settings.aarfs = record.aarfs.unwrap_or(false) && function.identity.class != Class::Vf;
    }
    function.packet_counters.set(record.packet_counter.unwrap_or(false), &[]);
    function.drop_counter.set(record.drop_count.unwrap_or(false), &[]);
    function.coalescing = Coalescing {
        fixed: Moderation {
            mode: record.period_mode.map(Into::into).unwrap_or_default(),
            period_us: record.period.unwrap_or_default(),
            max_count: record.max_count.unwrap_or_default(),
        },
        dim: record.dim.unwrap_or_default(),
    };
}
