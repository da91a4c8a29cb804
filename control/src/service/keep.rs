//! What survives a restart: each function's file, written when it changes, and read at the start.

use super::Service;
use crate::class::Class;
use crate::config::Hex;
use crate::device::features;
use crate::function::{Function, Id, Share, pools};
use crate::recovery::{DeviceType, Record};
use crate::refusal::{Code, Refusal};

impl Service {
    /// Writes functions' files.
    ///
    /// # Errors
    /// [`Code::RecoverySave`].
    pub(super) fn keep(&self, keys: &[usize]) -> Result<(), Refusal> {
        let Some(folder) = &self.recovery else { return Ok(()) };
        let records: Vec<Record> = keys.iter().map(|&key| record(&self.entries[key].function)).collect();
        folder.save(&records).map_err(|error| Code::RecoverySave.because(error.to_string()))
    }

    /// Removes functions' files. One that cannot be removed is told of: at the next start it says of a function that is gone.
    pub(super) fn forget(&self, functions: &[Function]) {
        let vuids = functions.iter().map(|function| function.identity.vuid.as_str());
        if let Some(Err(error)) = self.recovery.as_ref().map(|folder| folder.remove(vuids)) {
            tracing::error!("recovery: {error}");
        }
    }

    /// Reads all files, and makes what they say of hotplug PFs and VFs. What a file says of a function that cannot be is told,
    /// and costs only that function.
    pub(super) fn recover(&mut self) {
        let Some(folder) = &self.recovery else { return };
        let (mut records, errors) = folder.load();
        errors.iter().for_each(|error| tracing::error!("recovery: {error}"));
        records.sort_by_key(|record| (record.vf_id, record.pf_id));
        for record in records {
            if let Err(refusal) = self.recover_one(&record) {
                tracing::error!("recovery: {}: {refusal}", record.vuid);
            }
        }
    }

    fn recover_one(&mut self, record: &Record) -> Result<(), Refusal> {
        let function = match record.class().map_err(|fault| Code::InvalidArgument.because(fault.to_string()))? {
            Class::StaticPf => {
                let key = self.key_of_vuid(&record.vuid);
                let key = key.ok_or_else(|| Code::NotFound.because("the static PF is not there any more"))?;
                let mut function = self.entries[key].function.clone();
                restore(&mut function, record);
                return self.replace(key, function).map_err(|error| Code::SfCreate.because(format!("{error:#}")));
            }
            Class::HotplugPf => self.host.plugged(record)?,
            Class::Vf => {
                let (pf, vf) = (record.pf_id, record.vf_id.unwrap_or_default());
                let is_its = pf < self.host.static_pfs() && self.key_of(Id::Pf(pf)).is_some();
                if !is_its || vf >= self.host.vfs_per_pf() || self.vfs() >= self.host.vfs().into() {
                    return Err(Code::IdOutOfRange.because(format!("PF {pf} has no VF {vf}")));
                }
                self.host.vf(pf, vf)
            }
        };
        let id = function.identity.id;
        if self.key_of(id).is_some() {
            return Err(Code::IdOutOfRange.because(format!("there is another {id}")));
        }
        if function.identity.vuid != record.vuid {
            return Err(Code::Vuid.because(format!("what it says is {}", function.identity.vuid)));
        }
        // VFs whose addresses come again are made so.
        if function.identity.class == Class::HotplugPf || function.spec.mac != record.mac {
            self.check_mac_is_free(record.mac, Some(id))?;
        }
        let mut function = function;
        restore(&mut function, record);
        self.add(function).map(drop).map_err(|error| Code::SfCreate.because(format!("{error:#}")))
    }
}

/// What a function's file says.
fn record(function: &Function) -> Record {
    let Function { identity, spec, share, .. } = function;
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
        max_queue_size: Some(spec.queue_size_max),
        num_msix: Some(share.msix),
        link: Some(spec.link_up),
        packet_counter: Some(function.packet_counters.is_enabled()),
        drop_count: Some(function.drop_counter.is_enabled()),
    }
}

/// Sets a function to what its file says.
fn restore(function: &mut Function, record: &Record) {
    let Function { spec, share, .. } = function;
    spec.mac = record.mac;
    *share = Share { msix: record.num_msix.unwrap_or(pools::msix_of(record.mq)), pairs: record.mq };
    spec.queue_pairs = record.mq;
    spec.mtu = record.mtu.or(spec.mtu);
    spec.offered = record.features.map_or(spec.offered, |bits| features::known(bits.0));
    spec.queue_size_max = record.max_queue_size.unwrap_or(spec.queue_size_max);
    spec.link_up = record.link.unwrap_or(spec.link_up);
    function.packet_counters.set(record.packet_counter.unwrap_or(false), &[]);
    function.drop_counter.set(record.drop_count.unwrap_or(false), &[]);
}
