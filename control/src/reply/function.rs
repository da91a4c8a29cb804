//! What `list` and `query` say of a function.

use serde_json::Value;
use virtnet_engine::frame::hash::KEY_BYTES;
use virtnet_rings::spec::virtq::VIRTIO_F_ADMIN_VQ;

use super::debug::{Debug, Details};
use super::queue::{Ring, rings};
use super::{Object, features, status};
use crate::class::Class;
use crate::config::Mac;
use crate::firmware::PciIds;
use crate::function::{Function, Id, Pool, Resets, pools};
use crate::pci::config_space::Ids;
use crate::qemu::Place;
use crate::virtio_pci::layout;

/// A function as it is now.
#[derive(Debug)]
pub struct Sight<'a> {
    /// As it is set.
    pub function: &'a Function,
    /// How it shows itself on PCI.
    pub pci: PciIds,
    /// Of a PF: how many VFs it can have, and has.
    pub vfs: (u16, u16),
    /// Of a PF: what its VFs could still have.
    pub pool: Pool,
    /// Whether there is something for a driver.
    pub has_device: bool,
    /// Feature bits that a driver is offered.
    pub offered: u64,
    /// Feature bits that the driver has accepted.
    pub accepted: u64,
    /// The device status field.
    pub status: u8,
    /// The MSI-X vector of its configuration, 0xffff for none, or where a front end keeps it for itself.
    pub config_vector: u16,
    /// The address that the driver has.
    pub driver_mac: Mac,
    /// How many queue pairs the driver uses, where it has said so.
    pub pairs_used: u16,
    /// The index of its representor, 0 where that is no netdev.
    pub ifindex: u32,
    /// Its queues that run.
    pub rings: Vec<Ring>,
    /// How often it was reset.
    pub resets: Resets,
    /// Frames that found no receive buffer, while that is counted.
    pub dropped: Option<u64>,
}

/// An entry of `list`.
pub fn listed(sight: &Sight) -> Value {
    let mut object = Object::default();
    put_identity(&mut object, sight);
    let Function { identity, share, .. } = sight.function;
    if identity.class != Class::Vf {
        object.put("msix_num_pool_size", sight.pool.msix);
        object.put("min_msix_num", 0);
        object.put("max_msix_num", pools::MSIX_MAX.max(share.msix));
        object.put("min_num_of_qp", 0);
        object.put("max_num_of_qp", pools::QUEUE_PAIRS_MAX);
        object.put("qp_pool_size", sight.pool.pairs);
    }
    put_state(&mut object, sight);
    object.into()
}

/// An entry of `query`; `debug` is of its queues, for the details that need it.
pub fn queried(sight: &Sight, details: &Details, debug: &[Debug]) -> Value {
    let mut object = Object::default();
    put_identity(&mut object, sight);
    let Ids { vendor, device, subsystem, class, revision } = layout::ids(sight.pci, sight.function.spec.transitional);
    object.hex("pci_dev_id", device);
    object.hex("pci_vendor_id", vendor);
    // Of the class only its base is told.
    object.hex("pci_class_code", class & 0xff_0000);
    object.hex("pci_subsys_id", subsystem);
    object.hex("pci_subsys_vendor_id", vendor);
    object.text("pci_revision_id", revision);
    object.put("device_feature", features(sight.offered));
    object.put("driver_feature", features(sight.accepted));
    object.put("status", status(sight.status));
    // Nothing is asked in the middle of one.
    object.text("reset", 0);
    object.text("enabled", u8::from(sight.has_device));
    put_state(&mut object, sight);
    if let Some(dropped) = sight.dropped {
        object.text("num_desc_drop_pkts", dropped);
    }
    if details.dbg_stats {
        let mut resets = Object::default();
        sight.resets.iter().for_each(|(by, count)| resets.put(by, count));
        object.put("resets", resets);
    }
    if !details.brief {
        object.put("enabled-queues-info", rings(&sight.rings, details, debug));
    }
    object.into()
}

/// The fields that tell a function from others.
pub(super) fn put_id(object: &mut Object, id: Id) {
    match id {
        Id::Pf(pf) => object.put("pf_id", pf),
        Id::Vf { pf, vf } => {
            object.put("vf_id", vf);
            object.put("parent_pf_id", pf);
        }
    }
}

fn put_identity(object: &mut Object, sight: &Sight) {
    let identity = &sight.function.identity;
    put_id(object, identity.id);
    object.put("function_type", identity.class.name());
    object.put("transitional", u8::from(sight.function.spec.transitional));
    object.put("vuid", identity.vuid.as_str());
    object.text("pci_bdf", identity.bdf);
    object.capital_hex("pci_vhca_id", identity.vhca_id);
    object.text("pci_max_vfs", sight.vfs.0);
    object.text("enabled_vfs", sight.vfs.1);
}

fn put_state(object: &mut Object, sight: &Sight) {
    let Function { identity, spec, share, coalescing, place, .. } = sight.function;
    object.text("num_msix", share.msix);
    let has_adminq = sight.offered & 1 << VIRTIO_F_ADMIN_VQ != 0;
    object.text("num_queues", share.msix.saturating_sub(1) + u16::from(has_adminq));
    object.text("enabled_queues", sight.rings.len());
    object.text("max_queue_size", spec.queue_size_max);
    object.put("msix_config_vector", format!("0x{:X}", sight.config_vector));
    object.put("mac", capitals(spec.mac));
    object.text("link_status", u8::from(spec.settings.link_up));
    object.text("max_queue_pairs", share.pairs);
    object.text("mtu", spec.mtu.unwrap_or(1500));
    object.text("speed", spec.settings.speed.mbps());
    if let Some(types) = spec.hash_types() {
        object.text("rss_max_key_size", KEY_BYTES);
        object.hex("supported_hash_types", types);
    }
    object.put("ctrl_mac", capitals(sight.driver_mac));
    object.text("ctrl_mq", sight.pairs_used);
    object.put("sf_num", identity.sf_num);
    object.put("sf_parent_device", identity.sf_parent_device.as_str());
    object.put("sf_parent_device_pci_addr", identity.parent_pci_addr());
    object.put("sf_rep_net_device", identity.representor());
    object.put("sf_rep_net_ifindex", sight.ifindex);
    object.put("sf_rdma_device", identity.sf_rdma_device.as_str());
    object.put("sf_cross_mkey", "0x0");
    object.capital_hex("sf_vhca_id", 0x400 + u64::from(identity.vhca_id));
    object.put("sf_rqt_num", "0x0");
    object.put("aarfs", if spec.settings.aarfs { "enabled" } else { "disabled" });
    object.put("dim", if coalescing.dim { "enabled" } else { "disabled" });
    if let Some(Place { guest, root_port }) = place {
        object.put("guest", guest.as_str());
        object.put("root_port", root_port.as_str());
    }
}

/// An address as the product prints it.
pub fn capitals(mac: Mac) -> String {
    mac.to_string().to_uppercase()
}
