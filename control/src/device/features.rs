//! What a device offers.

use virtnet_engine::frame::offload;
use virtnet_rings::spec::net::*;
use virtnet_rings::spec::virtq::*;

use crate::config;

/// The feature bits of a device as configured.
pub fn offered(config: &config::Device) -> u64 {
    let on = config.features;
    let several = config.queue_pairs > 1 && on.mq;
    let bits = [
        (true, VIRTIO_F_VERSION_1),
        (true, VIRTIO_F_RING_RESET),
        (true, VIRTIO_NET_F_MAC),
        (true, VIRTIO_NET_F_STATUS),
        (config.mtu.is_some(), VIRTIO_NET_F_MTU),
        (on.mrg_rxbuf, VIRTIO_NET_F_MRG_RXBUF),
        (on.packed, VIRTIO_F_RING_PACKED),
        (on.in_order, VIRTIO_F_IN_ORDER),
        (on.event_idx, VIRTIO_F_EVENT_IDX),
        (on.indirect, VIRTIO_F_INDIRECT_DESC),
        (several, VIRTIO_NET_F_MQ),
        // Its only use, so far, is to tell how many pairs are used.
        (several, VIRTIO_NET_F_CTRL_VQ),
    ];
    let offloads = if on.offload { offload::FROM_GUEST | offload::TO_GUEST } else { 0 };
    bits.into_iter().filter(|(offered, _)| *offered).fold(offloads, |all, (_, bit)| all | 1 << bit)
}
