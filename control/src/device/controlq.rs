//! The control queue: commands of the driver to the device. ("Control Virtqueue")
//!
//! It is served by the control thread, a bounded number of commands at a time. What is no [`Command`] is answered with an error.

use std::os::fd::OwnedFd;

use virtnet_engine::frame::hash::KEY_BYTES;
use virtnet_engine::frame::steer::INDIRECTION_ENTRIES;
use virtnet_engine::moderation::{Moderation, PeriodMode};
use virtnet_engine::pair::Side;
use virtnet_rings::{Notifier, Queue, Violation};

use super::command_queue::{CommandQueue, Counts};
use crate::config::Mac;

/// Commands served at a time; the rest has to wait for the next.
const COMMANDS_PER_TURN: usize = 16;
/// Bytes of a command that we look at. Only a table of more than 600 addresses has more.
pub(super) const COMMAND_BYTES_MAX: usize = 4096;

/// `ack`: the command was done.
pub const VIRTIO_NET_OK: u8 = 0;
/// `ack`: it was not.
pub const VIRTIO_NET_ERR: u8 = 1;
/// Class of the commands about what is received; a command is the number of a mode. ("Packet Receive Filtering")
pub(super) const VIRTIO_NET_CTRL_RX: u8 = 0;
const VIRTIO_NET_CTRL_RX_NOBCAST: u8 = 5;
/// Class of the commands about addresses. ("Setting MAC Address Filtering")
pub(super) const VIRTIO_NET_CTRL_MAC: u8 = 1;
pub(super) const VIRTIO_NET_CTRL_MAC_TABLE_SET: u8 = 0;
pub(super) const VIRTIO_NET_CTRL_MAC_ADDR_SET: u8 = 1;
/// Class of the commands about VLANs. ("VLAN Filtering")
pub(super) const VIRTIO_NET_CTRL_VLAN: u8 = 2;
pub(super) const VIRTIO_NET_CTRL_VLAN_ADD: u8 = 0;
const VIRTIO_NET_CTRL_VLAN_DEL: u8 = 1;
/// Class of the commands about announcements. ("Gratuitous Packet Sending")
const VIRTIO_NET_CTRL_ANNOUNCE: u8 = 3;
const VIRTIO_NET_CTRL_ANNOUNCE_ACK: u8 = 0;
/// Class of the commands about multiqueue. ("Device operation in multiqueue mode")
pub(super) const VIRTIO_NET_CTRL_MQ: u8 = 4;
pub(super) const VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET: u8 = 0;
pub(super) const VIRTIO_NET_CTRL_MQ_RSS_CONFIG: u8 = 1;
pub(super) const VIRTIO_NET_CTRL_MQ_HASH_CONFIG: u8 = 2;

/// Class of the commands about offloads. ("Offloads State Configuration")
pub(super) const VIRTIO_NET_CTRL_GUEST_OFFLOADS: u8 = 5;
pub(super) const VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET: u8 = 0;
/// Class of the commands about used buffer notifications. ("Notifications Coalescing")
pub(super) const VIRTIO_NET_CTRL_NOTF_COAL: u8 = 6;
pub(super) const VIRTIO_NET_CTRL_NOTF_COAL_TX_SET: u8 = 0;
pub(super) const VIRTIO_NET_CTRL_NOTF_COAL_RX_SET: u8 = 1;
pub(super) const VIRTIO_NET_CTRL_NOTF_COAL_VQ_SET: u8 = 2;
const VIRTIO_NET_CTRL_NOTF_COAL_VQ_GET: u8 = 3;
/// Class of the commands about statistics. ("Device Statistics")
const VIRTIO_NET_CTRL_STATS: u8 = 8;
const VIRTIO_NET_CTRL_STATS_QUERY: u8 = 0;
const VIRTIO_NET_CTRL_STATS_GET: u8 = 1;

/// Classes of commands, and what each is called; what has none that we know is the last.
const CLASSES: [u8; 8] = [
    VIRTIO_NET_CTRL_RX,
    VIRTIO_NET_CTRL_MAC,
    VIRTIO_NET_CTRL_VLAN,
    VIRTIO_NET_CTRL_ANNOUNCE,
    VIRTIO_NET_CTRL_MQ,
    VIRTIO_NET_CTRL_GUEST_OFFLOADS,
    VIRTIO_NET_CTRL_NOTF_COAL,
    VIRTIO_NET_CTRL_STATS,
];
const CLASS_NAMES: [&str; 9] = ["rx", "mac", "vlan", "announce", "mq", "guest_offloads", "notf_coal", "stats", "other"];
/// What came of commands: none yet.
pub const NO_COUNTS: Counts = Counts::new(&CLASS_NAMES);

/// A command as it is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// `class`.
    pub class: u8,
    /// `command`.
    pub command: u8,
    /// `command-specific-data`.
    pub data: Vec<u8>,
}

impl Said {
    /// Whether the specification has a device part for it. ("VIRTIO_NET_DEV_PART_CVQ_CFG_PART")
    pub fn has_part(&self) -> bool {
        let classes = [VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_ANNOUNCE];
        classes.contains(&self.class) || self.class == VIRTIO_NET_CTRL_MQ
    }
}

/// What a driver asks for; whether it may is for the device to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// A receive mode, by its number, is on or off.
    SetMode(u8, bool),
    /// What else is received than the device's own address; `None` is more than we keep.
    SetAddresses(Option<Vec<[u8; 6]>>),
    /// The device's own address.
    SetAddress(Mac),
    /// So many queue pairs are used, and incoming frames are spread over them as the device likes.
    UsePairs(u16),
    /// Incoming frames are spread by a table. ("Setting RSS parameters")
    Scale(Scale),
    /// Incoming frames are hashed, and spread as the device likes. ("Hash calculation", of automatic receive steering)
    Hash(Hashing),
    /// Frames of this VLAN are taken.
    JoinVlan(u16),
    /// And not any more.
    LeaveVlan(u16),
    /// The guest has announced itself.
    Announced,
    /// Used buffer notifications of all queues of a side are held back like this.
    CoalesceAll(Side, Moderation),
    /// Those of one are.
    Coalesce(u16, Moderation),
    /// How are those of one held back?
    GetCoalescing(u16),
    /// Which statistics are there?
    QueryStatistics,
    /// What are they, of these queues, of the types whose bits are set?
    GetStatistics(Vec<(u16, u64)>),
    /// Frames may come with these offloads, by their feature bits, and no others.
    SetOffloads(u64),
}

/// What comes of a command that is done: the bytes that it asks for. None, where it is not.
pub type Answer = Option<Vec<u8>>;

/// What is hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hashing {
    /// Hash types, a bit each.
    pub types: u32,
    /// The key; zeroes follow a shorter one.
    pub key: [u8; KEY_BYTES],
}

/// A table that incoming frames are spread by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scale {
    /// What is hashed.
    pub hashing: Hashing,
    /// Pairs by their number, a power of two of them, at most [`INDIRECTION_ENTRIES`].
    pub indirection: Box<[u16]>,
    /// The pair of what has no hash.
    pub unclassified: u16,
    /// How many transmitqs are used.
    pub transmitqs: u16,
}

/// A control queue in use.
#[derive(Debug)]
pub struct ControlQueue(CommandQueue);

impl ControlQueue {
    /// Serves a queue.
    pub fn new(queue: Queue) -> Self {
        Self(CommandQueue::new(queue, COMMANDS_PER_TURN, COMMAND_BYTES_MAX + 1))
    }

    /// What the driver kicks.
    pub fn kick(&self) -> Option<&OwnedFd> {
        self.0.kick()
    }

    /// Whether commands were left for the next time.
    pub fn has_work(&self) -> bool {
        self.0.has_work()
    }

    /// Memory that it has waited for may be there now.
    pub fn look_again(&mut self) {
        self.0.look_again();
    }

    /// Where it stands.
    pub fn base(&self) -> u32 {
        self.0.base()
    }

    /// Changes where used-buffer notifications go.
    pub fn set_call(&mut self, call: Notifier) {
        self.0.set_call(call);
    }

    /// Serves commands that are available, and counts them. `obey` does each before the driver hears that it is done, or says that
    /// it may not be. One that cannot be answered whole is not done.
    ///
    /// # Errors
    /// The driver broke a rule. Nothing is served any more.
    pub fn serve(
        &mut self,
        counts: &mut Counts,
        mut obey: impl FnMut(Command, &Counts) -> Answer,
    ) -> Result<(), Violation> {
        self.0.serve(|bytes, room| {
            let command = parse(bytes).filter(|_| room > 0);
            let answer = command.and_then(|command| obey(command, counts)).filter(|answer| answer.len() < room);
            let class = CLASSES.iter().position(|class| Some(class) == bytes.first()).unwrap_or(CLASSES.len());
            counts.count(answer.is_none().then_some(class));
            let ack = if answer.is_some() { VIRTIO_NET_OK } else { VIRTIO_NET_ERR };
            [vec![ack], answer.unwrap_or_default()].concat()
        })
    }
}

/// What a command says, if it says anything.
pub(super) fn parse(command: &[u8]) -> Option<Command> {
    let is_cut = command.len() > COMMAND_BYTES_MAX;
    let [class, command, argument @ ..] = command else { return None };
    let number = || argument.first_chunk().map(|bytes| u16::from_le_bytes(*bytes));
    Some(match (*class, *command) {
        (VIRTIO_NET_CTRL_RX, mode @ ..=VIRTIO_NET_CTRL_RX_NOBCAST) => Command::SetMode(mode, *argument.first()? != 0),
        (VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET) if is_cut => Command::SetAddresses(None),
        (VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET) => Command::SetAddresses(Some(addresses(argument)?)),
        (VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET) => Command::SetAddress(Mac(*argument.first_chunk()?)),
        (VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN_ADD) => Command::JoinVlan(number()?),
        (VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN_DEL) => Command::LeaveVlan(number()?),
        (VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET) => Command::UsePairs(number()?),
        (VIRTIO_NET_CTRL_GUEST_OFFLOADS, VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET) => {
            Command::SetOffloads(u64::from_le_bytes(*argument.first_chunk()?))
        }
        (VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_RSS_CONFIG) => Command::Scale(scale(argument)?),
        (VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_HASH_CONFIG) => Command::Hash(hashing(argument)?),
        (VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK) => Command::Announced,
        (VIRTIO_NET_CTRL_NOTF_COAL, VIRTIO_NET_CTRL_NOTF_COAL_TX_SET) => {
            Command::CoalesceAll(Side::Transmitq, moderation(argument)?)
        }
        (VIRTIO_NET_CTRL_NOTF_COAL, VIRTIO_NET_CTRL_NOTF_COAL_RX_SET) => {
            Command::CoalesceAll(Side::Receiveq, moderation(argument)?)
        }
        (VIRTIO_NET_CTRL_NOTF_COAL, VIRTIO_NET_CTRL_NOTF_COAL_VQ_SET) => {
            Command::Coalesce(number()?, moderation(argument.get(4..)?)?)
        }
        (VIRTIO_NET_CTRL_NOTF_COAL, VIRTIO_NET_CTRL_NOTF_COAL_VQ_GET) => Command::GetCoalescing(number()?),
        (VIRTIO_NET_CTRL_STATS, VIRTIO_NET_CTRL_STATS_QUERY) => Command::QueryStatistics,
        (VIRTIO_NET_CTRL_STATS, VIRTIO_NET_CTRL_STATS_GET) if !is_cut => {
            Command::GetStatistics(queues_and_types(argument)?)
        }
        _ => return None,
    })
}

fn scale(argument: &[u8]) -> Option<Scale> {
    let (types, rest) = argument.split_first_chunk()?;
    let (mask, rest) = rest.split_first_chunk()?;
    let (unclassified, rest) = rest.split_first_chunk()?;
    let entries = usize::from(u16::from_le_bytes(*mask)) + 1;
    if !entries.is_power_of_two() || entries > INDIRECTION_ENTRIES {
        return None;
    }
    let (indirection, rest) = rest.split_at_checked(2 * entries)?;
    let (transmitqs, rest) = rest.split_first_chunk()?;
    Some(Scale {
        hashing: Hashing { types: u32::from_le_bytes(*types), key: key(rest)? },
        indirection: indirection.as_chunks().0.iter().map(|entry| u16::from_le_bytes(*entry)).collect(),
        unclassified: u16::from_le_bytes(*unclassified),
        transmitqs: u16::from_le_bytes(*transmitqs),
    })
}

fn hashing(argument: &[u8]) -> Option<Hashing> {
    // Linux before 6.6 has the number of transmitqs in one of them.
    const RESERVED_BYTES: usize = 8;
    let (types, rest) = argument.split_first_chunk()?;
    let (_, rest) = rest.split_first_chunk::<RESERVED_BYTES>()?;
    Some(Hashing { types: u32::from_le_bytes(*types), key: key(rest)? })
}

/// A key behind its length. What follows it does not count: the newest Linux has a byte there.
fn key(bytes: &[u8]) -> Option<[u8; KEY_BYTES]> {
    let (&len_bytes, bytes) = bytes.split_first()?;
    let mut key = [0; KEY_BYTES];
    key.get_mut(..len_bytes.into())?.copy_from_slice(bytes.get(..len_bytes.into())?);
    Some(key)
}

/// Those of the two tables, of stations and of groups: each a number, and as many addresses.
fn addresses(mut tables: &[u8]) -> Option<Vec<[u8; 6]>> {
    let mut all = Vec::new();
    for _ in 0..2 {
        let (count, rest) = tables.split_first_chunk()?;
        let len_bytes = usize::try_from(u32::from_le_bytes(*count)).ok()?.checked_mul(6)?;
        let (table, rest) = rest.split_at_checked(len_bytes)?;
        all.extend_from_slice(table.as_chunks().0);
        tables = rest;
    }
    Some(all)
}

/// `struct virtio_net_ctrl_coal`, as far as it can be: both numbers have 16 bits here.
fn moderation(coalescing: &[u8]) -> Option<Moderation> {
    let [packets, microseconds] = coalescing.first_chunk::<8>()?.as_chunks::<4>().0 else { return None };
    let number = |bytes: &[u8; 4]| u16::try_from(u32::from_le_bytes(*bytes)).ok();
    Some(Moderation { mode: PeriodMode::Event, period_us: number(microseconds)?, max_count: number(packets)? })
}

/// The same, to be answered.
pub fn coalescing(Moderation { period_us, max_count, .. }: Moderation) -> Vec<u8> {
    [max_count, period_us].map(|number| u32::from(number).to_le_bytes()).concat()
}

/// Some `struct virtio_net_ctrl_queue_stats`, at least one.
fn queues_and_types(asked: &[u8]) -> Option<Vec<(u16, u64)>> {
    let (asked, []) = asked.as_chunks::<16>() else { return None };
    let one = |[low, high, _, _, _, _, _, _, types @ ..]: &[u8; 16]| {
        (u16::from_le_bytes([*low, *high]), u64::from_le_bytes(*types))
    };
    (!asked.is_empty()).then(|| asked.iter().map(one).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn coalescing_is_read_as_far_as_it_fits() {
        let read =
            |packets: u32, microseconds: u32| moderation(&[packets.to_le_bytes(), microseconds.to_le_bytes()].concat());
        let expected = Moderation { mode: PeriodMode::Event, period_us: 100, max_count: 7 };
        assert_eq!(read(7, 100), Some(expected));
        assert_eq!(moderation(&coalescing(expected)), Some(expected));
        assert_eq!((read(0x1_0000, 100), read(7, 0x1_0000), moderation(&[0; 7])), (None, None, None));
    }

    #[test]
    fn statistics_are_asked_for_whole() {
        let queue = |index: u16, types: u64| [index.into(), types].map(u64::to_le_bytes).concat();
        let two = [queue(3, 1 << 16), queue(254, 1 << 32)].concat();
        assert_eq!(queues_and_types(&two), Some(vec![(3, 1 << 16), (254, 1 << 32)]));
        assert_eq!((queues_and_types(&two[..31]), queues_and_types(&[])), (None, None));
    }

    #[test]
    fn what_is_refused_is_counted_by_its_class() {
        let mut counts = NO_COUNTS;
        for refused in [None, Some(7), Some(8), Some(8), Some(0)] {
            counts.count(refused);
        }
        assert_eq!((counts.given, counts.done), (5, 1));
        let refused: Vec<_> = counts.refused().filter(|(_, count)| *count > 0).collect();
        assert_eq!(refused, [("rx", 1), ("stats", 1), ("other", 2)]);
    }

    fn words(words: &[u16]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    proptest! {
        #[test]
        fn a_table_is_taken_whole_or_not_at_all(
            types: u32,
            table in (0..=7u32).prop_flat_map(|power| prop::collection::vec(any::<u16>(), 1 << power)),
            (unclassified, transmitqs) in any::<(u16, u16)>(),
            key in prop::collection::vec(any::<u8>(), 0..=KEY_BYTES),
        ) {
            let mask = table.len() as u16 - 1;
            let head = [&types.to_le_bytes()[..], &words(&[mask, unclassified])].concat();
            let tail = [&words(&[transmitqs])[..], &[key.len() as u8], &key].concat();
            let bytes = [&head[..], &words(&table), &tail].concat();
            let mut padded = [0; KEY_BYTES];
            padded[..key.len()].copy_from_slice(&key);
            let hashing = Hashing { types, key: padded };
            let indirection = table.into();
            let expected = Some(Scale { hashing: hashing.clone(), indirection, unclassified, transmitqs });
            prop_assert_eq!(&scale(&bytes), &expected);
            prop_assert!((0..bytes.len()).all(|cut| scale(&bytes[..cut]).is_none()));
            prop_assert_eq!(scale(&[&bytes[..], &[1]].concat()), expected, "more than the key");
            let bytes = [&types.to_le_bytes()[..], &[0xff; 8], &[key.len() as u8], &key].concat();
            prop_assert_eq!(super::hashing(&bytes), Some(hashing));
            prop_assert!((0..bytes.len()).all(|cut| super::hashing(&bytes[..cut]).is_none()));
        }

        #[test]
        fn a_table_of_another_size_is_refused(mask: u16, bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let entries = u32::from(mask) + 1;
            let is_allowed = entries.is_power_of_two() && entries <= 128;
            let whole = [&[0; 4][..], &words(&[mask, 0]), &vec![0; 2 * entries as usize], &[0; 3]].concat();
            prop_assert_eq!(scale(&whole).is_some(), is_allowed);
            // Whatever else it is.
            let _ = (scale(&bytes), hashing(&bytes));
        }
    }

    #[test]
    fn a_key_is_no_longer_than_a_device_takes() {
        let of = |len_bytes: u8| key(&[&[len_bytes][..], &vec![1; len_bytes.into()]].concat());
        assert_eq!(of(40), Some([1; 40]));
        assert_eq!((of(0), of(41), of(255)), (Some([0; 40]), None, None));
        assert_eq!(key(&[]), None);
    }
}
