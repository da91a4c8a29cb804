//! What a driver has said by its control queue, since its device was last reset.

use std::collections::BTreeMap;

use virtnet_engine::filter::{Filter, Modes, Vlans};
use virtnet_engine::frame::hash::Hasher;
use virtnet_engine::frame::offload;
use virtnet_engine::frame::steer::Scaling;
use virtnet_engine::moderation::Moderation;
use virtnet_engine::pair::Side;
use virtnet_rings::spec::net::{
    VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, VIRTIO_NET_F_CTRL_MAC_ADDR, VIRTIO_NET_F_CTRL_RX, VIRTIO_NET_F_CTRL_RX_EXTRA,
    VIRTIO_NET_F_CTRL_VLAN, VIRTIO_NET_F_DEVICE_STATS, VIRTIO_NET_F_GUEST_ANNOUNCE, VIRTIO_NET_F_HASH_REPORT,
    VIRTIO_NET_F_MQ, VIRTIO_NET_F_NOTF_COAL, VIRTIO_NET_F_RSS, VIRTIO_NET_F_VQ_NOTF_COAL,
};

use super::controlq::*;
use crate::config::Mac;

/// Modes that VIRTIO_NET_F_CTRL_RX is enough for.
const PLAIN_MODES: u8 = Modes::PROMISC | Modes::ALLMULTI;

/// Nothing, as long as it has said nothing.
#[derive(Clone, Debug, Default)]
pub struct Orders {
    /// How many queue pairs it uses: one, from the start of its control queue, until it asks for more.
    pub pairs: Option<u16>,
    /// How it has incoming frames spread, instead of over all pairs it uses.
    pub scaling: Option<Scaling>,
    /// What it has hashed.
    pub hasher: Option<Hasher>,
    /// The device's address.
    pub mac: Option<Mac>,
    /// The VLANs it is in, if we have heard of all.
    pub vlans: Option<Vlans>,
    /// The offloads that frames may come with, of those it has accepted.
    pub offloads: Option<u64>,
    /// How used buffer notifications are held back: of all receiveqs, of all transmitqs.
    coalescing: [Option<Moderation>; 2],
    /// Those of single queues.
    coalescing_of: BTreeMap<u16, Moderation>,
    /// The receive modes that it has said anything of, and those of them that are on, a bit each.
    modes: [u8; 2],
    /// Addresses it receives besides the device's.
    addresses: Vec<[u8; 6]>,
    /// Whether there are more of them than we keep.
    has_more: bool,
}

impl Orders {
    /// Takes note of a command; whether a driver that has accepted `features`, of a device of so many pairs and these hash types,
    /// may give it.
    pub fn obey(&mut self, command: Command, features: u64, queue_pairs: u16, hash_types: u32) -> bool {
        let needed = match command {
            Command::SetMode(number, _) if PLAIN_MODES & 1 << number == 0 => VIRTIO_NET_F_CTRL_RX_EXTRA,
            Command::SetMode(..) | Command::SetAddresses(_) => VIRTIO_NET_F_CTRL_RX,
            Command::SetAddress(_) => VIRTIO_NET_F_CTRL_MAC_ADDR,
            Command::JoinVlan(_) | Command::LeaveVlan(_) => VIRTIO_NET_F_CTRL_VLAN,
            Command::UsePairs(_) => VIRTIO_NET_F_MQ,
            Command::SetOffloads(_) => VIRTIO_NET_F_CTRL_GUEST_OFFLOADS,
            Command::Scale(_) => VIRTIO_NET_F_RSS,
            Command::Hash(_) => VIRTIO_NET_F_HASH_REPORT,
            Command::Announced => VIRTIO_NET_F_GUEST_ANNOUNCE,
            Command::CoalesceAll(..) => VIRTIO_NET_F_NOTF_COAL,
            Command::Coalesce(..) | Command::GetCoalescing(_) => VIRTIO_NET_F_VQ_NOTF_COAL,
            Command::QueryStatistics | Command::GetStatistics(_) => VIRTIO_NET_F_DEVICE_STATS,
        };
        let has = |hashing: &Hashing| hashing.types & !hash_types == 0;
        if features & 1 << needed == 0 {
            return false;
        }
        match command {
            Command::SetMode(number, is_on) => {
                let [said, on] = &mut self.modes;
                *said |= 1 << number;
                *on = *on & !(1 << number) | u8::from(is_on) << number;
            }
            Command::SetAddresses(addresses) => {
                self.has_more = addresses.is_none();
                self.addresses = addresses.unwrap_or_default();
            }
            Command::SetAddress(mac) if mac.0[0] & 1 == 0 => self.mac = Some(mac),
            Command::JoinVlan(vlan) => return self.set_vlan(vlan, true),
            Command::LeaveVlan(vlan) => return self.set_vlan(vlan, false),
            Command::UsePairs(pairs) if (1..=queue_pairs).contains(&pairs) => {
                self.pairs = Some(pairs);
                self.scaling = None;
            }
            Command::Scale(scale) if has(&scale.hashing) => return self.scale(scale, queue_pairs),
            Command::Hash(hashing) if has(&hashing) => {
                self.hasher = Some(Hasher::new(&hashing.key, hashing.types));
                self.scaling = None;
            }
            Command::SetOffloads(offloads) if offloads & !(features & offload::TO_GUEST) == 0 => {
                self.offloads = Some(offloads);
            }
            Command::CoalesceAll(side, moderation) => {
                self.coalescing[side as usize] = Some(moderation);
                self.coalescing_of.retain(|queue, _| usize::from(queue % 2) != side as usize);
            }
            Command::Coalesce(queue, moderation) if queue / 2 < queue_pairs => {
                self.coalescing_of.insert(queue, moderation);
            }
            Command::Announced | Command::GetCoalescing(_) | Command::QueryStatistics | Command::GetStatistics(_) => {}
            Command::SetAddress(_)
            | Command::UsePairs(_)
            | Command::Scale(_)
            | Command::Hash(_)
            | Command::SetOffloads(_)
            | Command::Coalesce(..) => return false,
        }
        true
    }

    /// Pairs are used up to the last that sends, or that frames are to arrive at.
    fn scale(&mut self, Scale { hashing, indirection, unclassified, transmitqs }: Scale, queue_pairs: u16) -> bool {
        let last = indirection.iter().fold(unclassified, |last, pair| last.max(*pair));
        if transmitqs == 0 || transmitqs > queue_pairs || last >= queue_pairs {
            return false;
        }
        let hasher = Hasher::new(&hashing.key, hashing.types);
        self.pairs = Some(transmitqs.max(last + 1));
        self.scaling = Some(Scaling { hasher: hasher.clone(), indirection, unclassified });
        self.hasher = Some(hasher);
        true
    }

    fn set_vlan(&mut self, vlan: u16, is_joined: bool) -> bool {
        let is_one = usize::from(vlan) < Vlans::ZERO.len();
        if let Some(vlans) = self.vlans.as_mut().filter(|_| is_one) {
            vlans.set(vlan.into(), is_joined);
        }
        is_one
    }

    /// All of it as commands, for a device that its driver goes on at.
    pub fn said(&self) -> Vec<Said> {
        let mut all = Vec::new();
        let mut say = |class, command, data: Vec<u8>| all.push(Said { class, command, data });
        let [said, on] = self.modes;
        for mode in (0..u8::BITS as u8).filter(|mode| said & 1 << mode != 0) {
            say(VIRTIO_NET_CTRL_RX, mode, vec![on >> mode & 1]);
        }
        // More than we keep is said by so many that are none.
        let more = vec![[0; 6]; COMMAND_BYTES_MAX / 6];
        let addresses = if self.has_more { &more } else { &self.addresses };
        if !addresses.is_empty() {
            let count = (addresses.len() as u32).to_le_bytes();
            say(
                VIRTIO_NET_CTRL_MAC,
                VIRTIO_NET_CTRL_MAC_TABLE_SET,
                [&count, addresses.as_flattened(), &[0; 4]].concat(),
            );
        }
        if let Some(mac) = self.mac {
            say(VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, mac.0.to_vec());
        }
        if let Some(vlans) = &self.vlans {
            let joined = vlans.iter_ones().flat_map(|vlan| (vlan as u16).to_le_bytes());
            say(VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN_ADD, joined.collect());
        }
        let halves = |numbers: &[u16]| numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>();
        let key = |hasher: &Hasher| [&[hasher.key().len() as u8], &hasher.key()[..]].concat();
        match (self.pairs, &self.scaling, &self.hasher) {
            (Some(pairs), Some(Scaling { hasher, indirection, unclassified }), _) => {
                let head = [&hasher.types().to_le_bytes()[..], &halves(&[indirection.len() as u16 - 1, *unclassified])];
                let data = [&head.concat()[..], &halves(indirection), &pairs.to_le_bytes(), &key(hasher)].concat();
                say(VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_RSS_CONFIG, data);
            }
            (pairs, _, hasher) => {
                if let Some(pairs) = pairs {
                    say(VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, pairs.to_le_bytes().to_vec());
                }
                if let Some(hasher) = hasher {
                    let data = [&hasher.types().to_le_bytes()[..], &[0; 8], &key(hasher)].concat();
                    say(VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_HASH_CONFIG, data);
                }
            }
        }
        if let Some(offloads) = self.offloads {
            let data = offloads.to_le_bytes().to_vec();
            say(VIRTIO_NET_CTRL_GUEST_OFFLOADS, VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET, data);
        }
        let coalescing = |Moderation { period_us, max_count, .. }: &Moderation| {
            [max_count, period_us].iter().flat_map(|number| u32::from(**number).to_le_bytes()).collect::<Vec<u8>>()
        };
        for (side, command) in
            [(Side::Receiveq, VIRTIO_NET_CTRL_NOTF_COAL_RX_SET), (Side::Transmitq, VIRTIO_NET_CTRL_NOTF_COAL_TX_SET)]
        {
            if let Some(moderation) = &self.coalescing[side as usize] {
                say(VIRTIO_NET_CTRL_NOTF_COAL, command, coalescing(moderation));
            }
        }
        for (queue, moderation) in &self.coalescing_of {
            let data = [halves(&[*queue, 0]), coalescing(moderation)].concat();
            say(VIRTIO_NET_CTRL_NOTF_COAL, VIRTIO_NET_CTRL_NOTF_COAL_VQ_SET, data);
        }
        all
    }

    /// The same, heard; `None` where a driver that has accepted `features` could not have said it.
    pub fn hear(mut self, said: &[Said], features: u64, queue_pairs: u16, hash_types: u32) -> Option<Self> {
        for Said { class, command, data } in said {
            let one = |data: &[u8]| parse(&[&[*class, *command], data].concat());
            let commands: Option<Vec<_>> = match (*class, *command) {
                (VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN_ADD) => {
                    self.vlans = Some(Vlans::ZERO).filter(|_| features & 1 << VIRTIO_NET_F_CTRL_VLAN != 0);
                    self.vlans?;
                    let (vlans, []) = data.as_chunks::<2>() else { return None };
                    vlans.iter().map(|vlan| one(vlan)).collect()
                }
                // One pair is used without a word.
                (VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET) if data[..] == [1, 0] => {
                    self.pairs = Some(1);
                    Some(Vec::new())
                }
                _ => one(data).map(|command| vec![command]),
            };
            for command in commands? {
                // Who leaves a VLAN goes on in others, and questions have no answer here.
                let is_order = !matches!(
                    command,
                    Command::LeaveVlan(_)
                        | Command::GetCoalescing(_)
                        | Command::QueryStatistics
                        | Command::GetStatistics(_)
                );
                if !is_order || !self.obey(command, features, queue_pairs, hash_types) {
                    return None;
                }
            }
        }
        Some(self)
    }

    /// How used buffer notifications of a queue are held back.
    pub fn moderation(&self, queue: u16) -> Option<Moderation> {
        self.coalescing_of.get(&queue).copied().or(self.coalescing[usize::from(queue % 2)])
    }

    /// Forgets what it has said of that: whether there was anything.
    pub fn forget_moderation(&mut self) -> bool {
        let said = self.coalescing != [None; 2] || !self.coalescing_of.is_empty();
        (self.coalescing, self.coalescing_of) = Default::default();
        said
    }

    /// Forgets what it has said of that for this queue alone: whether there was anything.
    pub fn forget_moderation_of(&mut self, queue: u16) -> bool {
        self.coalescing_of.remove(&queue).is_some()
    }

    /// Forgets what it has said of receive modes.
    pub fn forget_modes(&mut self) {
        self.modes = [0; 2];
    }

    /// What arrives for it, at a device of this address; `modes` are an operator's, each of which holds until it says something of it.
    /// Who asked for everything gets all VLANs, too.
    pub fn filter(&self, mac: Mac, modes: Modes) -> Option<Filter> {
        let [said, on] = self.modes;
        let kept = if self.has_more { Modes::ALLUNI | Modes::ALLMULTI } else { 0 };
        let modes = modes.with(said, false).with(on | kept, true);
        let addresses = [&[mac.0], &self.addresses[..]].concat();
        Filter::new(modes, addresses, self.vlans.filter(|_| on & Modes::PROMISC == 0))
    }
}

#[cfg(test)]
mod tests {
    use virtnet_engine::frame::hash;
    use virtnet_engine::moderation::PeriodMode;
    use virtnet_rings::spec::net::{VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4};

    use super::*;

    const ALL: u64 = 1 << VIRTIO_NET_F_CTRL_RX
        | 1 << VIRTIO_NET_F_CTRL_RX_EXTRA
        | 1 << VIRTIO_NET_F_CTRL_MAC_ADDR
        | 1 << VIRTIO_NET_F_CTRL_VLAN
        | 1 << VIRTIO_NET_F_MQ
        | 1 << VIRTIO_NET_F_CTRL_GUEST_OFFLOADS
        | 1 << VIRTIO_NET_F_GUEST_ANNOUNCE
        | 1 << VIRTIO_NET_F_NOTF_COAL
        | 1 << VIRTIO_NET_F_VQ_NOTF_COAL
        | 1 << VIRTIO_NET_F_DEVICE_STATS
        | 1 << VIRTIO_NET_F_RSS
        | 1 << VIRTIO_NET_F_HASH_REPORT;
    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const SOME: Moderation = Moderation { mode: PeriodMode::Event, period_us: 50, max_count: 8 };
    const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 2];

    fn of(commands: &[Command]) -> Orders {
        let mut orders = Orders { vlans: Some(Vlans::ZERO), ..Orders::default() };
        assert!(commands.iter().all(|command| orders.obey(command.clone(), ALL, 4, hash::TYPES)));
        orders
    }

    #[test]
    fn what_is_said_is_heard_elsewhere() {
        let spread = scale(&[0, 1, 2, 3], 2, 3);
        for (commands, parts) in [
            (vec![], 1),
            (vec![Command::SetMode(0, true), Command::SetMode(5, false), Command::SetAddress(MAC)], 4),
            (vec![Command::SetAddresses(Some(vec![OTHER, MAC.0])), Command::JoinVlan(7), Command::JoinVlan(4095)], 2),
            (vec![Command::SetAddresses(None), Command::UsePairs(3)], 3),
            (vec![Command::UsePairs(1), Command::Hash(hashing(5))], 3),
            (vec![Command::UsePairs(4), spread], 2),
            (vec![Command::SetOffloads(0), Command::CoalesceAll(Side::Transmitq, SOME)], 3),
            (
                vec![
                    Command::CoalesceAll(Side::Receiveq, SOME),
                    Command::Coalesce(3, SOME),
                    Command::Coalesce(0, SOME),
                ],
                4,
            ),
        ] {
            let here = of(&commands);
            let said = here.said();
            assert_eq!(said.len(), parts, "{commands:?}");
            let there = Orders::default().hear(&said, ALL, 4, hash::TYPES).unwrap();
            assert_eq!((there.pairs, &there.scaling, &there.hasher), (here.pairs, &here.scaling, &here.hasher));
            assert_eq!((there.modes, there.mac, there.vlans), (here.modes, here.mac, here.vlans));
            assert_eq!((&there.addresses, there.has_more), (&here.addresses, here.has_more));
            assert_eq!((there.offloads, there.coalescing), (here.offloads, here.coalescing));
            assert_eq!(there.coalescing_of, here.coalescing_of);
            // A device of which that cannot be said hears nothing.
            assert!(Orders::default().hear(&said, 0, 4, hash::TYPES).is_none(), "{commands:?}");
        }
        let said = |class, command, data: &[u8]| Said { class, command, data: data.to_vec() };
        for said in [
            said(4, 0, &[5, 0]),
            said(4, 0, &[3]),
            said(2, 0, &[1]),
            said(2, 0, &[0, 0x10]),
            said(2, 1, &[1, 0]),
            said(0, 6, &[1]),
            said(6, 0, &[0; 7]),
            said(6, 3, &[0; 4]),
            said(5, 0, &[1; 8]),
            said(8, 0, &[]),
            said(9, 0, &[1]),
        ] {
            assert!(Orders::default().hear(std::slice::from_ref(&said), ALL, 4, hash::TYPES).is_none(), "{said:?}");
        }
    }

    #[test]
    fn a_command_needs_its_feature() {
        for (command, bit) in [
            (Command::SetMode(0, true), VIRTIO_NET_F_CTRL_RX),
            (Command::SetMode(1, false), VIRTIO_NET_F_CTRL_RX),
            (Command::SetMode(2, true), VIRTIO_NET_F_CTRL_RX_EXTRA),
            (Command::SetMode(5, true), VIRTIO_NET_F_CTRL_RX_EXTRA),
            (Command::SetAddresses(None), VIRTIO_NET_F_CTRL_RX),
            (Command::SetAddress(MAC), VIRTIO_NET_F_CTRL_MAC_ADDR),
            (Command::JoinVlan(1), VIRTIO_NET_F_CTRL_VLAN),
            (Command::LeaveVlan(1), VIRTIO_NET_F_CTRL_VLAN),
            (Command::UsePairs(1), VIRTIO_NET_F_MQ),
            (Command::SetOffloads(0), VIRTIO_NET_F_CTRL_GUEST_OFFLOADS),
            (scale(&[0], 0, 1), VIRTIO_NET_F_RSS),
            (Command::Hash(hashing(hash::TYPES)), VIRTIO_NET_F_HASH_REPORT),
            (Command::Announced, VIRTIO_NET_F_GUEST_ANNOUNCE),
            (Command::CoalesceAll(Side::Receiveq, SOME), VIRTIO_NET_F_NOTF_COAL),
            (Command::Coalesce(1, SOME), VIRTIO_NET_F_VQ_NOTF_COAL),
            (Command::GetCoalescing(1), VIRTIO_NET_F_VQ_NOTF_COAL),
            (Command::QueryStatistics, VIRTIO_NET_F_DEVICE_STATS),
            (Command::GetStatistics(vec![]), VIRTIO_NET_F_DEVICE_STATS),
        ] {
            assert!(Orders::default().obey(command.clone(), 1 << bit, 1, hash::TYPES), "{command:?}");
            assert!(!Orders::default().obey(command.clone(), ALL & !(1 << bit), 1, hash::TYPES), "{command:?}");
        }
    }

    fn hashing(types: u32) -> Hashing {
        Hashing { types, key: hash::DEFAULT_KEY }
    }

    fn scale(indirection: &[u16], unclassified: u16, transmitqs: u16) -> Command {
        let indirection = indirection.into();
        Command::Scale(Scale { hashing: hashing(hash::TYPES), indirection, unclassified, transmitqs })
    }

    #[test]
    fn the_last_command_says_how_frames_are_spread() {
        let spread = |commands: &[Command]| {
            let Orders { pairs, scaling, hasher, .. } = of(commands);
            let table = scaling.map(|scaling| (scaling.indirection.to_vec(), scaling.unclassified));
            (pairs, table, hasher.is_some())
        };
        let table = scale(&[0, 2], 1, 2);
        assert_eq!(spread(std::slice::from_ref(&table)), (Some(3), Some((vec![0, 2], 1)), true));
        assert_eq!(spread(&[scale(&[0], 0, 4)]).0, Some(4), "it sends by more pairs than it receives by");
        assert_eq!(spread(&[table.clone(), Command::UsePairs(2)]), (Some(2), None, true));
        assert_eq!(spread(&[table.clone(), Command::Hash(hashing(1))]), (Some(3), None, true));
        assert_eq!(spread(&[Command::Hash(hashing(1)), Command::UsePairs(2), table]).1, Some((vec![0, 2], 1)));
    }

    #[test]
    fn what_makes_no_sense_changes_nothing() {
        let mut orders = of(&[Command::UsePairs(2), Command::SetAddress(MAC)]);
        for command in [
            Command::UsePairs(0),
            Command::UsePairs(5),
            Command::SetAddress(Mac([3, 0, 0, 0, 0, 1])),
            Command::JoinVlan(4096),
            Command::LeaveVlan(u16::MAX),
            Command::SetOffloads(1 << VIRTIO_NET_F_GUEST_CSUM),
            Command::Coalesce(8, SOME),
            scale(&[0, 4], 0, 1),
            scale(&[0], 4, 1),
            scale(&[u16::MAX], 0, 1),
            scale(&[0], 0, 0),
            scale(&[0], 0, 5),
            Command::Hash(hashing(0x40)),
        ] {
            assert!(!orders.obey(command.clone(), ALL, 4, hash::TYPES), "{command:?}");
        }
        assert!(!orders.obey(scale(&[0], 0, 1), ALL, 4, hash::TYPES & !1), "a type that is not supported");
        assert_eq!((orders.pairs, orders.mac, orders.vlans), (Some(2), Some(MAC), Some(Vlans::ZERO)));
        assert!(orders.scaling.is_none() && orders.hasher.is_none());
    }

    #[test]
    fn offloads_are_those_that_were_accepted() {
        const ACCEPTED: u64 = 1 << VIRTIO_NET_F_GUEST_CSUM | 1 << VIRTIO_NET_F_GUEST_TSO4;
        let mut orders = Orders::default();
        for (offloads, is_obeyed) in
            [(ACCEPTED, true), (0, true), (1 << VIRTIO_NET_F_GUEST_TSO4, true), (1 << 8, false), (ALL, false)]
        {
            assert_eq!(
                orders.obey(Command::SetOffloads(offloads), ALL | ACCEPTED, 1, hash::TYPES),
                is_obeyed,
                "{offloads:#x}"
            );
        }
        assert_eq!(orders.offloads, Some(1 << VIRTIO_NET_F_GUEST_TSO4));
    }

    #[test]
    fn an_operators_modes_hold_until_the_driver_says_others() {
        let none = Modes::new(0).unwrap();
        let filter = |commands: &[Command], modes| Orders { vlans: None, ..of(commands) }.filter(MAC, modes);
        assert_eq!(filter(&[], Modes::default()), None);
        assert_eq!(filter(&[], none), Filter::new(none, [MAC.0], None));
        let own = [Command::SetMode(0, false)];
        assert_eq!(filter(&own, Modes::default()), Filter::new(none, [MAC.0], None));
        let groups = [Command::SetMode(2, true), Command::SetMode(1, true), Command::SetMode(2, false)];
        assert_eq!(filter(&groups, Modes::new(0x24).unwrap()), Filter::new(Modes::new(0x22).unwrap(), [MAC.0], None));
        let table = [Command::SetMode(0, false), Command::SetAddresses(Some(vec![OTHER]))];
        assert_eq!(filter(&table, none), Filter::new(none, [MAC.0, OTHER], None));
        let long = [Command::SetMode(0, false), Command::SetAddresses(None)];
        assert_eq!(filter(&long, none), Filter::new(Modes::new(6).unwrap(), [MAC.0], None), "too many to know");
        let short = [&long[..], &[Command::SetAddresses(Some(vec![]))]].concat();
        assert_eq!(filter(&short, none), Filter::new(none, [MAC.0], None));
    }

    #[test]
    fn what_was_said_last_of_a_queue_holds_for_it() {
        let more = Moderation { period_us: 90, ..SOME };
        let mut orders = of(&[Command::Coalesce(2, SOME), Command::Coalesce(3, SOME)]);
        assert_eq!([0, 1, 2, 3].map(|queue| orders.moderation(queue)), [None, None, Some(SOME), Some(SOME)]);
        assert!(orders.obey(Command::CoalesceAll(Side::Receiveq, more), ALL, 4, hash::TYPES));
        assert_eq!([0, 1, 2, 3].map(|queue| orders.moderation(queue)), [Some(more), None, Some(more), Some(SOME)]);
        assert!(orders.obey(Command::Coalesce(0, SOME), ALL, 4, hash::TYPES));
        assert_eq!((orders.moderation(0), orders.moderation(2)), (Some(SOME), Some(more)));
        assert!(orders.forget_moderation_of(0) && !orders.forget_moderation_of(0));
        assert_eq!(orders.moderation(0), Some(more));
        assert!(orders.forget_moderation() && !orders.forget_moderation());
        assert_eq!([0, 1, 2, 3].map(|queue| orders.moderation(queue)), [None; 4]);
    }

    #[test]
    fn a_driver_that_asks_for_everything_gets_all_vlans() {
        let mut vlans = Vlans::ZERO;
        vlans.set(7, true);
        let modes = Modes::default();
        assert_eq!(of(&[Command::JoinVlan(7)]).filter(MAC, modes), Filter::new(modes, [MAC.0], Some(vlans)));
        assert_eq!(of(&[Command::JoinVlan(7), Command::SetMode(0, true)]).filter(MAC, modes), None);
    }
}
