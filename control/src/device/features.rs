//! What a device offers.

use virtnet_engine::frame::offload;
use virtnet_rings::spec::net::*;
use virtnet_rings::spec::virtq::*;

use crate::config;

/// What every device offers.
pub const ALWAYS: u64 =
    1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_F_RING_RESET | 1 << VIRTIO_NET_F_MAC | 1 << VIRTIO_NET_F_STATUS;

/// What only a device of several queue pairs offers: the only use of its control queue, so far, is to tell how many are used.
pub const SEVERAL_PAIRS: u64 = 1 << VIRTIO_NET_F_MQ | 1 << VIRTIO_NET_F_CTRL_VQ;

/// All that a device can offer.
pub const SUPPORTED: u64 = ALWAYS
    | SEVERAL_PAIRS
    | 1 << VIRTIO_NET_F_MTU
    | 1 << VIRTIO_NET_F_MRG_RXBUF
    | 1 << VIRTIO_F_RING_PACKED
    | 1 << VIRTIO_F_IN_ORDER
    | 1 << VIRTIO_F_EVENT_IDX
    | 1 << VIRTIO_F_INDIRECT_DESC
    | offload::FROM_GUEST
    | offload::TO_GUEST;

/// The feature bits of a device as configured.
pub fn offered(config: &config::Device) -> u64 {
    let on = config.features;
    let mut left_out = 0;
    for (is_on, bits) in [
        (config.mtu.is_some(), 1 << VIRTIO_NET_F_MTU),
        (on.mrg_rxbuf, 1 << VIRTIO_NET_F_MRG_RXBUF),
        (on.packed, 1 << VIRTIO_F_RING_PACKED),
        (on.in_order, 1 << VIRTIO_F_IN_ORDER),
        (on.event_idx, 1 << VIRTIO_F_EVENT_IDX),
        (on.indirect, 1 << VIRTIO_F_INDIRECT_DESC),
        (on.mq, SEVERAL_PAIRS),
        (on.offload, offload::FROM_GUEST | offload::TO_GUEST),
    ] {
        left_out |= if is_on { 0 } else { bits };
    }
    SUPPORTED & !left_out
}
