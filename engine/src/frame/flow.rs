//! A flow: what tells the frames of one conversation from those of others.
//!
//! All fragments of a datagram must travel together, and only the first knows its ports: fragments are known by their addresses
//! alone. A frame that is not IP, or whose head is cut short before both addresses, belongs to no flow.

/// No more of a frame's head is looked at.
pub const HEAD_BYTES_MAX: usize = 128;
/// Two IPv6 addresses and two ports.
pub(super) const INPUT_BYTES_MAX: usize = 16 + 16 + 2 + 2;

pub(super) const ETHERTYPE_IPV4: u16 = 0x0800;
pub(super) const ETHERTYPE_IPV6: u16 = 0x86dd;
pub(super) const ETHERTYPE_VLAN: [u16; 3] = [0x8100, 0x88a8, 0x9100];
pub(super) const VLAN_TAGS_MAX: usize = 2;

pub(super) const IPPROTO_TCP: u8 = 6;
pub(super) const IPPROTO_UDP: u8 = 17;
pub(super) const IPPROTO_HOPOPTS: u8 = 0;
const IPPROTO_ROUTING: u8 = 43;
const IPPROTO_AH: u8 = 51;
pub(super) const IPPROTO_DSTOPTS: u8 = 60;
/// Behind these a flow's ports can be read.
const PASSABLE: [u8; 4] = [IPPROTO_HOPOPTS, IPPROTO_ROUTING, IPPROTO_AH, IPPROTO_DSTOPTS];
/// "IPv6 Extension Headers" allows each once and destination options twice.
const EXTENSIONS_MAX: usize = 7;

/// Which numbers of a frame tell its flow, as hash reports count them. ("Hash reporting for incoming packets")
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowKind {
    /// IPv4 addresses.
    Ipv4 = 1,
    /// IPv4 addresses and TCP ports.
    Tcpv4,
    /// IPv4 addresses and UDP ports.
    Udpv4,
    /// IPv6 addresses.
    Ipv6,
    /// IPv6 addresses and TCP ports.
    Tcpv6,
    /// IPv6 addresses and UDP ports.
    Udpv6,
}

impl FlowKind {
    /// Its bit among hash types. ("Supported/enabled hash types")
    #[inline]
    pub const fn bit(self) -> u32 {
        1 << (self as u32 - 1)
    }

    /// The same without ports.
    #[inline]
    fn without_ports(self) -> Self {
        match self {
            Self::Ipv4 | Self::Tcpv4 | Self::Udpv4 => Self::Ipv4,
            Self::Ipv6 | Self::Tcpv6 | Self::Udpv6 => Self::Ipv6,
        }
    }

    #[inline]
    fn address_bytes(self) -> usize {
        if self.without_ports() == Self::Ipv4 { 4 } else { 16 }
    }
}

/// The numbers that tell one flow from another, in network order: source, destination, source port, destination port.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    kind: FlowKind,
    bytes: [u8; INPUT_BYTES_MAX],
    len_bytes: usize,
}

impl Flow {
    /// Parses the head of a frame, from its destination MAC on. Bytes past [`HEAD_BYTES_MAX`] are not looked at.
    #[inline]
    pub fn parse(head: &[u8]) -> Option<Self> {
        let head = &head[..head.len().min(HEAD_BYTES_MAX)];
        let mut at = 12;
        let mut ethertype = be16(head, at)?;
        for _ in 0..VLAN_TAGS_MAX {
            if !ETHERTYPE_VLAN.contains(&ethertype) {
                break;
            }
            at += 4;
            ethertype = be16(head, at)?;
        }
        let packet = head.get(at + 2..)?;
        match ethertype {
            ETHERTYPE_IPV4 => Self::of_ipv4(packet),
            ETHERTYPE_IPV6 => Self::of_ipv6(packet),
            _ => None,
        }
    }

    /// What was found.
    pub fn kind(&self) -> FlowKind {
        self.kind
    }

    /// All of them.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len_bytes]
    }

    /// Those that a hash is of where hashes of some types are asked for: without ports if need be. `None` if there is none.
    #[inline]
    pub fn input(&self, types: u32) -> Option<(FlowKind, &[u8])> {
        if types & self.kind.bit() != 0 {
            return Some((self.kind, self.bytes()));
        }
        let kind = self.kind.without_ports();
        (types & kind.bit() != 0).then(|| (kind, &self.bytes[..2 * kind.address_bytes()]))
    }

    /// The same flow as seen from its other end.
    #[inline]
    pub fn reversed(&self) -> Self {
        let mut bytes = [0; INPUT_BYTES_MAX];
        let address_bytes = self.kind.address_bytes();
        let (addresses, ports) = self.bytes().split_at(2 * address_bytes);
        let turned = addresses[address_bytes..].iter().chain(&addresses[..address_bytes]);
        let turned = turned.chain(ports.iter().skip(2)).chain(ports.iter().take(2));
        bytes.iter_mut().zip(turned).for_each(|(place, byte)| *place = *byte);
        Self { bytes, ..*self }
    }

    /// The destination port, of TCP and UDP over IPv4.
    #[inline]
    pub fn ipv4_port(&self) -> Option<u16> {
        let has_port = matches!(self.kind, FlowKind::Tcpv4 | FlowKind::Udpv4);
        has_port.then(|| u16::from_be_bytes([self.bytes[10], self.bytes[11]]))
    }

    fn of_ipv4(packet: &[u8]) -> Option<Self> {
        let header: &[u8; 20] = packet.first_chunk()?;
        let header_bytes = usize::from(header[0] & 0xf) * 4;
        if header[0] >> 4 != 4 || header_bytes < 20 {
            return None;
        }
        let flow = Self::of_addresses(FlowKind::Ipv4, &header[12..20]);
        let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
        let ports = packet.get(header_bytes..).and_then(|segment| segment.first_chunk());
        Some(match (header[9], ports) {
            (IPPROTO_TCP, Some(ports)) if !fragment => flow.with_ports(FlowKind::Tcpv4, ports),
            (IPPROTO_UDP, Some(ports)) if !fragment => flow.with_ports(FlowKind::Udpv4, ports),
            _ => flow,
        })
    }

    fn of_ipv6(packet: &[u8]) -> Option<Self> {
        let header: &[u8; 40] = packet.first_chunk()?;
        if header[0] >> 4 != 6 {
            return None;
        }
        let flow = Self::of_addresses(FlowKind::Ipv6, &header[8..40]);
        let above = upper_layer(header[6], &packet[40..], &PASSABLE);
        let ports = above.and_then(|(_, at)| packet.get(40 + at..)?.first_chunk());
        Some(match (above, ports) {
            (Some((IPPROTO_TCP, _)), Some(ports)) => flow.with_ports(FlowKind::Tcpv6, ports),
            (Some((IPPROTO_UDP, _)), Some(ports)) => flow.with_ports(FlowKind::Udpv6, ports),
            _ => flow,
        })
    }

    #[inline]
    fn of_addresses(kind: FlowKind, addresses: &[u8]) -> Self {
        let mut bytes = [0; INPUT_BYTES_MAX];
        bytes[..addresses.len()].copy_from_slice(addresses);
        Self { kind, bytes, len_bytes: addresses.len() }
    }

    #[inline]
    fn with_ports(mut self, kind: FlowKind, ports: &[u8; 4]) -> Self {
        self.bytes[self.len_bytes..][..4].copy_from_slice(ports);
        Self { kind, len_bytes: self.len_bytes + 4, ..self }
    }
}

/// Passes over those IPv6 extension headers that are `passable`: the protocol above, and where it starts in `rest`.
/// `None` past the end of what there is and at any other header, that of a fragment among them.
pub(super) fn upper_layer(mut next: u8, rest: &[u8], passable: &[u8]) -> Option<(u8, usize)> {
    let mut at = 0;
    for _ in 0..=EXTENSIONS_MAX {
        if let IPPROTO_TCP | IPPROTO_UDP = next {
            return Some((next, at));
        }
        if !passable.contains(&next) {
            return None;
        }
        let &[following, len, ..] = rest.get(at..)? else { return None };
        // The two kinds of length leave out 8 bytes: one unit of eight, or two of four.
        at += 8 + usize::from(len) * if next == IPPROTO_AH { 4 } else { 8 };
        next = following;
    }
    None
}

#[inline]
pub(super) fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|&pair| u16::from_be_bytes(pair))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::hash;
    use super::super::sample::*;
    use super::*;

    #[test]
    fn all_fragments_of_a_datagram_are_of_one_flow() {
        let ports = ports(53, 40_000);
        let [first, middle, last] = [0x2000, 0x20b9, 0x0172]
            .map(|f| Flow::parse(&ipv4([10, 0, 0, 1], [10, 0, 0, 2], 0, f, 17, &ports)).unwrap());
        assert_eq!(first.kind(), FlowKind::Ipv4);
        assert_eq!((first.bytes(), first.bytes()), (middle.bytes(), last.bytes()));
        let fragment = [&[17, 0, 0, 1, 0, 0, 0, 9][..], &ports].concat();
        assert_eq!(Flow::parse(&ipv6([1; 8], [2; 8], 44, &fragment)).unwrap().kind(), FlowKind::Ipv6);
    }

    #[test]
    fn vlan_tags_are_passed_over() {
        let untagged = ipv4([10, 0, 0, 1], [10, 0, 0, 2], 0, 0, 17, &ports(53, 40_000));
        let bytes = |frame: &[u8]| Flow::parse(frame).map(|flow| flow.bytes().to_vec());
        assert!(bytes(&untagged).is_some());
        for tags in [&[[0x81, 0, 0, 5]][..], &[[0x88, 0xa8, 0, 9], [0x81, 0, 0x20, 5]]] {
            assert_eq!(bytes(&ethernet(tags, 0x0800, &untagged[14..])), bytes(&untagged));
        }
        assert_eq!(bytes(&ethernet(&[[0x81, 0, 0, 5]; 3], 0x0800, &untagged[14..])), None);
    }

    #[test]
    fn hash_types_say_which_numbers_count() {
        use FlowKind::*;
        let flow = |protocol| Flow::parse(&ipv4([1; 4], [2; 4], 0, 0, protocol, &ports(3, 4))).unwrap();
        let flow6 = |next| Flow::parse(&ipv6([1; 8], [2; 8], next, &ports(3, 4))).unwrap();
        for (flow, with_ports, without) in
            [(flow(6), Tcpv4, Ipv4), (flow(17), Udpv4, Ipv4), (flow6(6), Tcpv6, Ipv6), (flow6(17), Udpv6, Ipv6)]
        {
            let addresses = &flow.bytes()[..flow.bytes().len() - 4];
            for types in 0..=hash::TYPES {
                let expected = match types {
                    _ if types & with_ports.bit() != 0 => Some((with_ports, flow.bytes())),
                    _ if types & without.bit() != 0 => Some((without, addresses)),
                    _ => None,
                };
                assert_eq!(flow.input(types), expected, "{types:#x}");
            }
        }
        let (icmp, other) = (flow(1), Ipv4.bit());
        assert_eq!(icmp.input(hash::TYPES & !other), None);
        assert_eq!(icmp.input(other), Some((Ipv4, icmp.bytes())));
    }

    #[test]
    fn every_cut_of_a_frame_is_met() {
        let options = [&[60, 0], &[0; 6][..], &[17, 1], &[0; 14], &ports(1, 2)].concat();
        for frame in [ipv4([1; 4], [2; 4], 8, 0, 6, &ports(1, 2)), ipv6([1; 8], [2; 8], 0, &options)] {
            let whole = Flow::parse(&frame).unwrap();
            for cut in 0..frame.len() {
                if let Some(flow) = Flow::parse(&frame[..cut]) {
                    assert!(whole.bytes().starts_with(flow.bytes()));
                }
            }
        }
    }
}
