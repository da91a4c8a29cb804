//! The device's configuration space. ("Device configuration layout", of the network device)

use virtnet_rings::spec::net::VIRTIO_NET_S_LINK_UP;

use super::Spec;
use crate::config::Mac;

/// Bytes up to the end of `mtu`, the last field that we have a feature for.
pub const CONFIG_SPACE_BYTES: usize = 12;
const MAC_BYTES: usize = 6;

/// What the driver can read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigSpace {
    mac: Mac,
    queue_pairs: u16,
    /// As configured: what the front end may not exceed.
    mtu_max: Option<u16>,
    mtu: u16,
    link_up: bool,
}

impl ConfigSpace {
    /// That of a device.
    pub fn new(&Spec { mac, queue_pairs, mtu, link_up, .. }: &Spec) -> Self {
        Self { mac, queue_pairs, mtu_max: mtu, mtu: mtu.unwrap_or(0), link_up }
    }

    /// Whether the link is up.
    pub fn is_link_up(&self) -> bool {
        self.link_up
    }

    /// Puts the link up or down.
    pub fn set_link(&mut self, up: bool) {
        self.link_up = up;
    }

    /// The device's address.
    pub fn mac(&self) -> Mac {
        self.mac
    }

    /// As the driver reads it.
    pub fn to_bytes(&self) -> [u8; CONFIG_SPACE_BYTES] {
        let mut bytes = [0; CONFIG_SPACE_BYTES];
        bytes[..MAC_BYTES].copy_from_slice(&self.mac.0);
        let status = if self.link_up { VIRTIO_NET_S_LINK_UP } else { 0 };
        bytes[6..8].copy_from_slice(&status.to_le_bytes());
        bytes[8..10].copy_from_slice(&self.queue_pairs.to_le_bytes());
        bytes[10..12].copy_from_slice(&self.mtu.to_le_bytes());
        bytes
    }

    /// Takes over what the device was where it came from: its address. Its link's state may differ, too, and stays ours.
    ///
    /// # Errors
    /// In words, what is allowed.
    pub fn restore(&mut self, offset: usize, bytes: &[u8]) -> Result<(), &'static str> {
        let mut space = self.to_bytes().to_vec();
        let end = offset.saturating_add(bytes.len());
        // Fields behind ours are zero here, and must be there.
        space.resize(end.max(CONFIG_SPACE_BYTES), 0);
        space[offset..end].copy_from_slice(bytes);
        let (mac, rest) = space.split_at_mut(MAC_BYTES);
        let ours = self.to_bytes();
        let (same, behind) = rest.split_at_mut(CONFIG_SPACE_BYTES - MAC_BYTES);
        same[0] ^= (same[0] ^ ours[MAC_BYTES]) & VIRTIO_NET_S_LINK_UP as u8;
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
    use super::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 9]);

    fn space(queue_pairs: u16, mtu: Option<u16>) -> ConfigSpace {
        let name = String::new();
        ConfigSpace::new(&Spec { name, queue_pairs, queue_size_max: 256, mac: MAC, mtu, offered: 0, link_up: true })
    }

    #[test]
    fn fields_lie_as_the_specification_says() {
        let mut space = space(0x0102, Some(0x05dc));
        assert_eq!(space.to_bytes(), [2, 0, 0, 0, 0, 9, 1, 0, 2, 1, 0xdc, 5]);
        space.set_link(false);
        assert_eq!(space.to_bytes(), [2, 0, 0, 0, 0, 9, 0, 0, 2, 1, 0xdc, 5]);
    }

    #[test]
    fn a_migration_brings_its_address_and_nothing_else() {
        let mut space = space(1, None);
        assert_eq!(space.restore(0, &[2, 0, 0, 0, 0, 1, 1, 0, 1, 0, 0, 0, 0, 0]), Ok(()));
        assert_eq!(space.mac(), Mac([2, 0, 0, 0, 0, 1]));
        assert_eq!(space.restore(5, &[7]), Ok(()));
        assert_eq!(space.mac(), Mac([2, 0, 0, 0, 0, 7]));
        assert!(space.restore(8, &[2]).is_err(), "other queue pairs");
        assert!(space.restore(6, &[3]).is_err(), "an announcement that nobody asked for");
        assert_eq!((space.restore(6, &[0]), space.is_link_up()), (Ok(()), true), "it was down there, and is up here");
        assert!(space.restore(12, &[1]).is_err(), "a field we do not know");
        assert!(space.restore(0, &[3]).is_err(), "a group's address");
        assert_eq!(space.mac(), Mac([2, 0, 0, 0, 0, 7]));
    }

    #[test]
    fn the_mtu_goes_as_far_as_configured() {
        let mut limited = space(1, Some(1500));
        assert_eq!((limited.set_mtu(1400), limited.set_mtu(1501).is_err()), (Ok(()), true));
        assert_eq!(limited.to_bytes()[10..], 1400u16.to_le_bytes());
        assert_eq!(space(1, None).set_mtu(9000), Ok(()));
    }
}
