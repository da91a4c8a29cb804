//! What a device offers.

use virtnet_engine::frame::offload;
use virtnet_rings::spec::net::*;
use virtnet_rings::spec::virtq::*;

use crate::config;

/// What every device offers.
pub const ALWAYS: u64 = 1 << VIRTIO_F_VERSION_1
    | 1 << VIRTIO_F_RING_RESET
    | 1 << VIRTIO_NET_F_MAC
    | 1 << VIRTIO_NET_F_STATUS
    | 1 << VIRTIO_NET_F_CTRL_VQ;

/// All that a device can offer.
pub const SUPPORTED: u64 = ALWAYS
    | 1 << VIRTIO_NET_F_CTRL_GUEST_OFFLOADS
    | 1 << VIRTIO_NET_F_CTRL_RX
    | 1 << VIRTIO_NET_F_CTRL_VLAN
    | 1 << VIRTIO_NET_F_CTRL_RX_EXTRA
    | 1 << VIRTIO_NET_F_CTRL_MAC_ADDR
    | 1 << VIRTIO_NET_F_GUEST_ANNOUNCE
    | 1 << VIRTIO_NET_F_MQ
    | 1 << VIRTIO_NET_F_RSS
    | 1 << VIRTIO_NET_F_HASH_REPORT
    | 1 << VIRTIO_NET_F_DEVICE_STATS
    | 1 << VIRTIO_NET_F_VQ_NOTF_COAL
    | 1 << VIRTIO_NET_F_NOTF_COAL
    | 1 << VIRTIO_NET_F_MTU
    | 1 << VIRTIO_NET_F_SPEED_DUPLEX
    | 1 << VIRTIO_NET_F_MRG_RXBUF
    | 1 << VIRTIO_F_ACCESS_PLATFORM
    | 1 << VIRTIO_F_RING_PACKED
    | 1 << VIRTIO_F_IN_ORDER
    | 1 << VIRTIO_F_EVENT_IDX
    | 1 << VIRTIO_F_INDIRECT_DESC
    | offload::FROM_GUEST
    | offload::TO_GUEST;

/// Each with those without which a device must not offer it: one of them is enough. ("Feature bit requirements", of the
/// network device)
const NEEDS: [(u32, u64); 21] = [
    (VIRTIO_NET_F_GUEST_TSO4, 1 << VIRTIO_NET_F_GUEST_CSUM),
    (VIRTIO_NET_F_GUEST_TSO6, 1 << VIRTIO_NET_F_GUEST_CSUM),
    (VIRTIO_NET_F_GUEST_USO4, 1 << VIRTIO_NET_F_GUEST_CSUM),
    (VIRTIO_NET_F_GUEST_USO6, 1 << VIRTIO_NET_F_GUEST_CSUM),
    (VIRTIO_NET_F_GUEST_ECN, 1 << VIRTIO_NET_F_GUEST_TSO4 | 1 << VIRTIO_NET_F_GUEST_TSO6),
    (VIRTIO_NET_F_HOST_TSO4, 1 << VIRTIO_NET_F_CSUM),
    (VIRTIO_NET_F_HOST_TSO6, 1 << VIRTIO_NET_F_CSUM),
    (VIRTIO_NET_F_HOST_USO, 1 << VIRTIO_NET_F_CSUM),
    (VIRTIO_NET_F_HOST_ECN, 1 << VIRTIO_NET_F_HOST_TSO4 | 1 << VIRTIO_NET_F_HOST_TSO6),
    (VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, 1 << VIRTIO_NET_F_CTRL_VQ),
    (VIRTIO_NET_F_CTRL_RX, 1 << VIRTIO_NET_F_CTRL_VQ),
    (VIRTIO_NET_F_CTRL_VLAN, 1 << VIRTIO_NET_F_CTRL_VQ),
    (VIRTIO_NET_F_CTRL_RX_EXTRA, 1 << VIRTIO_NET_F_CTRL_VQ),
    (VIRTIO_NET_F_CTRL_MAC_ADDR, 1 << VIRTIO_NET_F_CTRL_VQ),
    (VIRTIO_NET_F_GUEST_ANNOUNCE, 1 << VIRTIO_NET_F_CTRL_VQ),
    (VIRTIO_NET_F_MQ, 1 << VIRTIO_NET_F_CTRL_VQ),
    (VIRTIO_NET_F_RSS, 1 << VIRTIO_NET_F_CTRL_VQ),
    (VIRTIO_NET_F_HASH_REPORT, 1 << VIRTIO_NET_F_CTRL_VQ),
    (VIRTIO_NET_F_DEVICE_STATS, 1 << VIRTIO_NET_F_CTRL_VQ),
    (VIRTIO_NET_F_VQ_NOTF_COAL, 1 << VIRTIO_NET_F_CTRL_VQ),
    (VIRTIO_NET_F_NOTF_COAL, 1 << VIRTIO_NET_F_CTRL_VQ),
];

/// Of some bits, those that a device can offer, and those that every device offers.
pub fn known(bits: u64) -> u64 {
    bits & SUPPORTED | ALWAYS
}

/// Bits without those that need another which is not among them: a driver would refuse the device.
pub fn consistent(bits: u64) -> u64 {
    NEEDS.iter().fold(bits, |bits, (bit, needed)| if bits & needed == 0 { bits & !(1 << bit) } else { bits })
}

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
        (on.mq, 1 << VIRTIO_NET_F_MQ),
        (on.rss, 1 << VIRTIO_NET_F_RSS),
        (on.hash_report, 1 << VIRTIO_NET_F_HASH_REPORT),
        (on.iommu, 1 << VIRTIO_F_ACCESS_PLATFORM),
        (on.offload, offload::FROM_GUEST | offload::TO_GUEST),
    ] {
        left_out |= if is_on { 0 } else { bits };
    }
    SUPPORTED & !left_out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_offered_has_what_it_needs() {
        assert_eq!(consistent(SUPPORTED), SUPPORTED);
        let lost = |without: u32| SUPPORTED & !consistent(SUPPORTED & !(1 << without)) & !(1 << without);
        let by_commands = [
            VIRTIO_NET_F_CTRL_GUEST_OFFLOADS,
            VIRTIO_NET_F_CTRL_RX,
            VIRTIO_NET_F_CTRL_VLAN,
            VIRTIO_NET_F_CTRL_RX_EXTRA,
            VIRTIO_NET_F_CTRL_MAC_ADDR,
            VIRTIO_NET_F_GUEST_ANNOUNCE,
            VIRTIO_NET_F_MQ,
            VIRTIO_NET_F_RSS,
            VIRTIO_NET_F_HASH_REPORT,
            VIRTIO_NET_F_DEVICE_STATS,
            VIRTIO_NET_F_VQ_NOTF_COAL,
            VIRTIO_NET_F_NOTF_COAL,
        ];
        assert_eq!(lost(VIRTIO_NET_F_CTRL_VQ), by_commands.map(|bit| 1 << bit).iter().sum::<u64>());
        assert_eq!(lost(VIRTIO_NET_F_CSUM), offload::FROM_GUEST & !(1 << VIRTIO_NET_F_CSUM));
        assert_eq!(lost(VIRTIO_NET_F_GUEST_CSUM), offload::TO_GUEST & !(1 << VIRTIO_NET_F_GUEST_CSUM));
        assert_eq!(lost(VIRTIO_NET_F_HOST_TSO4), 0, "ECN has TSO6 still");
        assert_eq!(known(u64::MAX), SUPPORTED);
        assert_eq!(known(0), ALWAYS);
    }
}
