//! The device's configuration space. ("Device configuration layout", of the network device)

use virtnet_engine::frame::hash::KEY_BYTES;
use virtnet_engine::frame::steer::INDIRECTION_ENTRIES;
use virtnet_rings::spec::net::{VIRTIO_NET_DUPLEX_FULL, VIRTIO_NET_F_RSS, VIRTIO_NET_S_ANNOUNCE, VIRTIO_NET_S_LINK_UP};

use super::Spec;
use super::settings::Settings;
use crate::config::Mac;

/// Bytes up to the end of `supported_hash_types`, the last field that we have a feature for.
pub const CONFIG_SPACE_BYTES: usize = 24;
/// Where fields begin.
pub const FIELDS: [usize; 9] = [0, STATUS, 8, 10, SPEED, 16, HASHES, 18, 20];
const MAC_BYTES: usize = 6;
/// Where `status` is.
pub const STATUS: usize = 6;
const SPEED: usize = 12;
const HASHES: usize = 17;

/// What the driver can read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigSpace {
    mac: Mac,
    queue_pairs: u16,
    /// As configured: what the front end may not exceed.
    mtu_max: Option<u16>,
    mtu: u16,
    has_rss: bool,
    has_hashes: bool,
    settings: Settings,
}

impl ConfigSpace {
    /// That of a device.
    pub fn new(spec: &Spec) -> Self {
        let &Spec { mac, queue_pairs, mtu, settings, .. } = spec;
        let has_rss = spec.features() & 1 << VIRTIO_NET_F_RSS != 0;
        let has_hashes = spec.hash_types().is_some();
        Self { mac, queue_pairs, mtu_max: mtu, mtu: mtu.unwrap_or(0), has_rss, has_hashes, settings }
    }

    /// What can change under a driver, as it is.
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// Changes what can change under a driver.
    pub fn set(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// The device's address.
    pub fn mac(&self) -> Mac {
        self.mac
    }

    /// As the driver reads it.
    pub fn to_bytes(&self) -> [u8; CONFIG_SPACE_BYTES] {
        let mut bytes = [0; CONFIG_SPACE_BYTES];
        bytes[..MAC_BYTES].copy_from_slice(&self.mac.0);
        let status = if self.settings.link_up { VIRTIO_NET_S_LINK_UP } else { 0 };
        bytes[STATUS..8].copy_from_slice(&status.to_le_bytes());
        bytes[8..10].copy_from_slice(&self.queue_pairs.to_le_bytes());
        bytes[10..12].copy_from_slice(&self.mtu.to_le_bytes());
        bytes[SPEED..16].copy_from_slice(&self.settings.speed.mbps().to_le_bytes());
        bytes[16] = VIRTIO_NET_DUPLEX_FULL;
        if self.has_hashes {
            bytes[17] = KEY_BYTES as u8;
            bytes[20..].copy_from_slice(&self.settings.hash_types.to_le_bytes());
        }
        if self.has_rss {
            bytes[18..20].copy_from_slice(&(INDIRECTION_ENTRIES as u16).to_le_bytes());
        }
        bytes
    }

    /// Takes over what the device was where it came from: its address. Its link's state and speed, and whether it was asked to announce
    /// itself, may differ, too, and stay ours.
    ///
    /// # Errors
    /// In words, what is allowed.
    pub fn restore(&mut self, offset: usize, bytes: &[u8]) -> Result<(), &'static str> {
        let mut space = self.to_bytes().to_vec();
        let end = offset.saturating_add(bytes.len());
        // Fields behind ours are zero here, and must be there.
        space.resize(end.max(CONFIG_SPACE_BYTES), 0);
        space[offset..end].copy_from_slice(bytes);
        let ours = self.to_bytes();
        space[STATUS] ^= (space[STATUS] ^ ours[STATUS]) & (VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE) as u8;
        space[SPEED..HASHES].copy_from_slice(&ours[SPEED..HASHES]);
        let (mac, rest) = space.split_at(MAC_BYTES);
        let (same, behind) = rest.split_at(CONFIG_SPACE_BYTES - MAC_BYTES);
        if same != &ours[MAC_BYTES..] || behind.iter().any(|byte| *byte != 0) {
            return Err("only the address and the link may differ between two hosts");
        }
        if mac[0] & 1 != 0 {
            return Err("the address must be one device's");
        }
        self.mac.0.copy_from_slice(mac);
        Ok(())
    }

    /// Sets the MTU that the guest was given.
    ///
    /// # Errors
    /// In words, what is allowed.
    pub fn set_mtu(&mut self, mtu: u16) -> Result<(), &'static str> {
        if self.mtu_max.is_some_and(|max| mtu > max) {
            return Err("the MTU is above the one configured");
        }
        self.mtu = mtu;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use virtnet_rings::spec::net::{VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_HASH_REPORT};

    use super::*;
    use crate::device::settings::Speed;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 9]);

    fn space(queue_pairs: u16, mtu: Option<u16>) -> ConfigSpace {
        let name = String::new();
        let (offered, transitional, is_steered, settings) = Default::default();
        ConfigSpace::new(&Spec {
            name,
            queue_pairs,
            queue_size_max: 256,
            mac: MAC,
            mtu,
            offered,
            transitional,
            is_steered,
            settings,
        })
    }

    fn with_hashes(queue_pairs: u16) -> ConfigSpace {
        let bits = [VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_RSS, VIRTIO_NET_F_HASH_REPORT];
        let ConfigSpace { mac, mtu, settings, .. } = space(queue_pairs, None);
        ConfigSpace::new(&Spec {
            name: String::new(),
            queue_pairs,
            queue_size_max: 256,
            mac,
            mtu: Some(mtu),
            offered: bits.iter().fold(0, |bits, bit| bits | 1 << bit),
            transitional: false,
            is_steered: true,
            settings: Settings { hash_types: 0x39, ..settings },
        })
    }

    #[test]
    fn fields_lie_as_the_specification_says() {
        let mut space = space(0x0102, Some(0x05dc));
        assert_eq!(space.to_bytes()[..17], [2, 0, 0, 0, 0, 9, 1, 0, 2, 1, 0xdc, 5, 0xa0, 0x86, 1, 0, 1]);
        space.set(Settings { link_up: false, speed: Speed::try_from(10).unwrap(), ..Settings::default() });
        assert_eq!(space.to_bytes()[..17], [2, 0, 0, 0, 0, 9, 0, 0, 2, 1, 0xdc, 5, 10, 0, 0, 0, 1]);
        assert_eq!(space.to_bytes()[17..], [0; 7], "no hashes");
        assert_eq!(with_hashes(2).to_bytes()[17..], [40, 128, 0, 0x39, 0, 0, 0]);
        assert_eq!(with_hashes(1).to_bytes()[17..], [40, 0, 0, 0x39, 0, 0, 0], "no RSS");
    }

    #[test]
    fn a_migration_brings_its_address_and_nothing_else() {
        let mut space = space(1, None);
        assert_eq!(space.restore(0, &[2, 0, 0, 0, 0, 1, 1, 0, 1, 0, 0, 0, 0, 0]), Ok(()));
        assert_eq!(space.mac(), Mac([2, 0, 0, 0, 0, 1]));
        assert_eq!(space.restore(5, &[7]), Ok(()));
        assert_eq!(space.mac(), Mac([2, 0, 0, 0, 0, 7]));
        assert!(space.restore(8, &[2]).is_err(), "other queue pairs");
        assert_eq!(space.restore(6, &[3]), Ok(()), "it was asked to announce itself there");
        assert!(space.restore(6, &[7]).is_err(), "a bit that there is not");
        assert_eq!(
            (space.restore(6, &[0]), space.settings().link_up),
            (Ok(()), true),
            "it was down there, and is up here"
        );
        let before = space.to_bytes();
        assert_eq!((space.restore(12, &[1, 2, 3, 4, 5]), space.to_bytes()), (Ok(()), before), "another speed");
        assert!(space.restore(17, &[40]).is_err(), "hashes that are not offered");
        assert_eq!(with_hashes(2).restore(17, &[40, 128, 0, 0x39, 0, 0, 0, 0]), Ok(()));
        assert!(with_hashes(2).restore(20, &[0x3f]).is_err(), "types that are not offered");
        assert!(space.restore(24, &[1]).is_err(), "a field we do not know");
        assert!(space.restore(0, &[3]).is_err(), "a group's address");
        assert_eq!(space.mac(), Mac([2, 0, 0, 0, 0, 7]));
    }

    #[test]
    fn the_mtu_goes_as_far_as_configured() {
        let mut limited = space(1, Some(1500));
        assert_eq!((limited.set_mtu(1400), limited.set_mtu(1501).is_err()), (Ok(()), true));
        assert_eq!(limited.to_bytes()[10..12], 1400u16.to_le_bytes());
        assert_eq!(space(1, None).set_mtu(9000), Ok(()));
    }
}
