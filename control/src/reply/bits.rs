//! Bit maps: the value, and a name for each bit that is set.

use serde_json::Value;

use super::Object;

const FEATURES: [(u32, &str); 47] = [
    (0, "VIRTIO_NET_F_CSUM"),
    (1, "VIRTIO_NET_F_GUEST_CSUM"),
    (2, "VIRTIO_NET_F_CTRL_GUEST_OFFLOADS"),
    (3, "VIRTIO_NET_F_MTU"),
    (5, "VIRTIO_NET_F_MAC"),
    (7, "VIRTIO_NET_F_GUEST_TSO4"),
    (8, "VIRTIO_NET_F_GUEST_TSO6"),
    (9, "VIRTIO_NET_F_GUEST_ECN"),
    (10, "VIRTIO_NET_F_GUEST_UFO"),
    (11, "VIRTIO_NET_F_HOST_TSO4"),
    (12, "VIRTIO_NET_F_HOST_TSO6"),
    (13, "VIRTIO_NET_F_HOST_ECN"),
    (14, "VIRTIO_NET_F_HOST_UFO"),
    (15, "VIRTIO_F_MRG_RX_BUFFER"),
    (16, "VIRTIO_NET_F_STATUS"),
    (17, "VIRTIO_NET_F_CTRL_VQ"),
    (18, "VIRTIO_NET_F_CTRL_RX"),
    (19, "VIRTIO_NET_F_CTRL_VLAN"),
    (20, "VIRTIO_NET_F_CTRL_RX_EXTRA"),
    (21, "VIRTIO_NET_F_GUEST_ANNOUNCE"),
    (22, "VIRTIO_NET_F_MQ"),
    (23, "VIRTIO_NET_F_CTRL_MAC_ADDR"),
    (27, "VIRTIO_F_ANY_LAYOUT"),
    (28, "VIRTIO_F_INDIRECT_DESC"),
    (29, "VIRTIO_F_EVENT_IDX"),
    (32, "VIRTIO_F_VERSION_1"),
    (33, "VIRTIO_F_IOMMU_PLATFORM"),
    (34, "VIRTIO_F_RING_PACKED"),
    (35, "VIRTIO_F_IN_ORDER"),
    (36, "VIRTIO_F_ORDER_PLATFORM"),
    (37, "VIRTIO_F_SR_IOV"),
    (38, "VIRTIO_F_NOTIFICATION_DATA"),
    (39, "VIRTIO_F_NOTIF_CONFIG_DATA"),
    (40, "VIRTIO_F_RING_RESET"),
    (41, "VIRTIO_F_ADMIN_VQ"),
    (50, "VIRTIO_NET_F_DEVICE_STATS"),
    (52, "VIRTIO_NET_F_VQ_NOTF_COAL"),
    (53, "VIRTIO_NET_F_NOTF_COAL"),
    (54, "VIRTIO_NET_F_GUEST_USO4"),
    (55, "VIRTIO_NET_F_GUEST_USO6"),
    (56, "VIRTIO_NET_F_HOST_USO"),
    (57, "VIRTIO_NET_F_HASH_REPORT"),
    (59, "VIRTIO_NET_F_GUEST_HDRLEN"),
    (60, "VIRTIO_NET_F_RSS"),
    (61, "VIRTIO_NET_F_RSC_EXT"),
    (62, "VIRTIO_NET_F_STANDBY"),
    (63, "VIRTIO_NET_F_SPEED_DUPLEX"),
];

const STATUS: [(u32, &str); 6] =
    [(0, "ACK"), (1, "DRIVER"), (2, "DRIVER_OK"), (3, "FEATURES_OK"), (6, "DEVICE_NEEDS_RESET"), (7, "FAILED")];

/// Virtio feature bits.
pub fn features(value: u64) -> Value {
    bits(value, &FEATURES)
}

/// The device status field.
pub fn status(value: u8) -> Value {
    bits(value.into(), &STATUS)
}

/// Bits that have names; others show in the value only.
pub(super) fn bits(value: u64, names: &[(u32, &str)]) -> Value {
    let mut object = Object::default();
    object.hex("value", value);
    for (bit, name) in names.iter().filter(|(bit, _)| value & 1 << bit != 0) {
        object.put(&format!("{bit:>5}"), *name);
    }
    object.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_named_in_order_at_the_right_of_five_characters() {
        let text = serde_json::to_string(&features(1 << 15 | 1 << 3 | 1 << 63 | 1 << 4)).unwrap();
        assert_eq!(
            text,
            r#"{"value":"0x8000000000008018","    3":"VIRTIO_NET_F_MTU","   15":"VIRTIO_F_MRG_RX_BUFFER","   63":"VIRTIO_NET_F_SPEED_DUPLEX"}"#
        );
        let text = serde_json::to_string(&status(0x4f)).unwrap();
        assert!(text.ends_with(r#""    3":"FEATURES_OK","    6":"DEVICE_NEEDS_RESET"}"#), "{text}");
    }
}
