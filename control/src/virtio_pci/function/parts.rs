//! What a driver has made of a function, in parts that another one can be set to: so it goes on there. ("Device parts")
//!
//! Where a queue stands is in no part. A split ring shows it itself; of a packed ring nobody knows, and it is neither told nor taken.

use std::collections::HashSet;

use virtnet_rings::QueueAddresses;
use virtnet_rings::spec::status::{DEVICE_NEEDS_RESET, DRIVER_OK, FEATURES_OK};

use super::Function;
use crate::device::controlq::Said;
use crate::transport::Backend;
use crate::virtio_pci::common::{self as register, NO_VECTOR};
use crate::virtio_pci::queue::VirtQueue;

const VIRTIO_DEV_PART_DEV_FEATURES: u16 = 0x100;
const VIRTIO_DEV_PART_DRV_FEATURES: u16 = 0x101;
const VIRTIO_DEV_PART_PCI_COMMON_CFG: u16 = 0x102;
const VIRTIO_DEV_PART_DEVICE_STATUS: u16 = 0x103;
const VIRTIO_DEV_PART_VQ_CFG: u16 = 0x104;
const VIRTIO_DEV_PART_VQ_NOTIFY_CFG: u16 = 0x105;
/// What the driver has said by the control queue, a command each. ("Device parts", of the network device)
const VIRTIO_NET_DEV_PART_CVQ_CFG_PART: u16 = 0x200;
/// A device need not be set to it.
const VIRTIO_DEV_PART_F_OPTIONAL: u8 = 1 << 0;
/// Of `struct virtio_dev_part_hdr`.
pub const HEADER_BYTES: usize = 16;

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    kind: u16,
    flags: u8,
    selector: [u8; 8],
    value: Vec<u8>,
}

impl Part {
    pub(super) fn new(kind: u16, selected: u16, value: impl Into<Vec<u8>>) -> Self {
        let [low, high] = selected.to_le_bytes();
        Self { kind, flags: 0, selector: [low, high, 0, 0, 0, 0, 0, 0], value: value.into() }
    }

    /// Which kind.
    pub(super) fn kind(&self) -> u16 {
        self.kind
    }

    /// Its value.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.value
    }

    /// What it is of.
    pub fn header(&self) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[..2].copy_from_slice(&self.kind.to_le_bytes());
        header[2] = self.flags;
        header[4..12].copy_from_slice(&self.selector);
        header[12..].copy_from_slice(&(self.value.len() as u32).to_le_bytes());
        header
    }

    /// The header, and its value behind it.
    pub fn to_bytes(&self) -> Vec<u8> {
        [&self.header()[..], &self.value].concat()
    }

    /// Whether this is the part that a header names.
    pub fn is(&self, header: &[u8; HEADER_BYTES]) -> bool {
        let [a, b, _, _, selector @ .., _, _, _, _] = header;
        self.kind == u16::from_le_bytes([*a, *b]) && self.selector == *selector
    }

    /// Parts, one behind the other; none where one is cut short.
    pub fn read_all(mut bytes: &[u8]) -> Option<Vec<Self>> {
        let mut parts = Vec::new();
        while !bytes.is_empty() {
            let ([a, b, flags, _, selector @ .., l0, l1, l2, l3], rest) = bytes.split_first_chunk::<HEADER_BYTES>()?;
            let len_bytes = usize::try_from(u32::from_le_bytes([*l0, *l1, *l2, *l3])).ok()?;
            let (value, rest) = rest.split_at_checked(len_bytes)?;
            let kind = u16::from_le_bytes([*a, *b]);
            parts.push(Self { kind, flags: *flags, selector: *selector, value: value.to_vec() });
            bytes = rest;
        }
        Some(parts)
    }

    /// The register or the queue that it is of.
    pub(super) fn selected(&self) -> Option<u16> {
        let [low, high, rest @ ..] = self.selector;
        (rest == [0; 6]).then(|| u16::from_le_bytes([low, high]))
    }

    /// Its value, if it has this length.
    pub(super) fn value<const N: usize>(&self) -> Result<[u8; N], Unfit> {
        self.value[..].try_into().map_err(|_| Unfit)
    }
}

/// A function cannot be as parts say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfit;

/// `struct virtio_dev_part_vq_cfg`.
#[derive(Clone, Copy, Debug)]
struct QueueConfig {
    size: u16,
    vector: u16,
    is_enabled: bool,
    addresses: QueueAddresses,
}

impl QueueConfig {
    fn of(queue: &VirtQueue) -> Self {
        let &VirtQueue { size, vector, is_enabled, addresses, .. } = queue;
        Self { size, vector, is_enabled, addresses }
    }

    fn to_bytes(self) -> Vec<u8> {
        let QueueAddresses { descriptor_area, driver_area, device_area } = self.addresses;
        let halves = [self.size, self.vector, self.is_enabled.into(), 0].map(u16::to_le_bytes);
        let areas = [descriptor_area, driver_area, device_area].map(u64::to_le_bytes);
        [halves.concat(), areas.concat()].concat()
    }

    fn read(bytes: [u8; 32]) -> Self {
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let area = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| bytes[at + byte]));
        let addresses = QueueAddresses { descriptor_area: area(8), driver_area: area(16), device_area: area(24) };
        Self { size: half(0), vector: half(2), is_enabled: half(4) != 0, addresses }
    }
}

impl Function {
    /// All of them, in the specification's order; none where a packed ring is among them.
    pub fn parts(&self, device: &impl Backend) -> Option<Vec<Part>> {
        let is_packed = self.registers.is_packed() && self.queues.iter().any(|queue| queue.is_enabled);
        (!is_packed).then(|| self.all_parts(device))
    }

    /// The same, whatever its rings are like.
    pub(super) fn all_parts(&self, device: &impl Backend) -> Vec<Part> {
        let registers = &self.registers;
        let offered = u128::from(self.offered(device)).to_le_bytes();
        let mut parts = vec![
            Part { flags: VIRTIO_DEV_PART_F_OPTIONAL, ..Part::new(VIRTIO_DEV_PART_DEV_FEATURES, 0, offered) },
            Part::new(VIRTIO_DEV_PART_DRV_FEATURES, 0, registers.driver_features.to_le_bytes()),
        ];
        let count = device.ring_count() as u16;
        for (offset, value) in [
            (register::DEVICE_FEATURE_SELECT, registers.device_feature_select.to_le_bytes().to_vec()),
            (register::DRIVER_FEATURE_SELECT, registers.driver_feature_select.to_le_bytes().to_vec()),
            (register::CONFIG_MSIX_VECTOR, registers.config_vector.to_le_bytes().to_vec()),
            (register::NUM_QUEUES, count.to_le_bytes().to_vec()),
            (register::QUEUE_SELECT, registers.queue_select.to_le_bytes().to_vec()),
        ] {
            parts.push(Part::new(VIRTIO_DEV_PART_PCI_COMMON_CFG, offset as u16, value));
        }
        parts.push(Part::new(VIRTIO_DEV_PART_DEVICE_STATUS, 0, [self.status()]));
        let queues = || (0..).zip(&self.queues);
        let config = |(index, queue)| Part::new(VIRTIO_DEV_PART_VQ_CFG, index, QueueConfig::of(queue).to_bytes());
        parts.extend(queues().map(config));
        parts.extend(queues().map(|(index, _)| Part::new(VIRTIO_DEV_PART_VQ_NOTIFY_CFG, index, doorbell_of(index))));
        let said = device.said().into_iter().filter(Said::has_part).map(|Said { class, command, data }| {
            Part::new(VIRTIO_NET_DEV_PART_CVQ_CFG_PART, u16::from_le_bytes([class, command]), data)
        });
        parts.extend(said);
        parts
    }

    /// Sets it to all of these, or to none. It is stopped: its rings start when it goes on.
    ///
    /// # Errors
    /// It cannot be as they say, or is not stopped.
    pub fn set_parts(&mut self, parts: &[Part], device: &mut impl Backend) -> Result<(), Unfit> {
        self.set_all_parts(parts, Vec::new(), &[], device)
    }

    /// The same, with what else its driver has said, and where queues stand, if that is known.
    pub(super) fn set_all_parts(
        &mut self,
        parts: &[Part],
        mut said: Vec<Said>,
        positions: &[Option<u32>],
        device: &mut impl Backend,
    ) -> Result<(), Unfit> {
        let mut registers = self.registers.clone();
        let mut status = self.status();
        let mut queues: Vec<_> = self.queues.iter().map(|queue| (QueueConfig::of(queue), false)).collect();
        let mut seen = HashSet::new();
        for part in parts {
            // Some take their time.
            if !seen.insert((part.kind, part.selector)) {
                return Err(Unfit);
            }
            let selected = part.selected().ok_or(Unfit)?;
            match part.kind {
                VIRTIO_DEV_PART_DEV_FEATURES if part.value()? == u128::from(self.offered(device)).to_le_bytes() => {}
                VIRTIO_DEV_PART_DRV_FEATURES => registers.driver_features = u128::from_le_bytes(part.value()?),
                VIRTIO_DEV_PART_PCI_COMMON_CFG => match selected.into() {
                    register::DEVICE_FEATURE_SELECT => {
                        registers.device_feature_select = u32::from_le_bytes(part.value()?);
                    }
                    register::DRIVER_FEATURE_SELECT => {
                        registers.driver_feature_select = u32::from_le_bytes(part.value()?);
                    }
                    register::CONFIG_MSIX_VECTOR => {
                        registers.config_vector = self.known_vector(u16::from_le_bytes(part.value()?))?;
                    }
                    register::NUM_QUEUES if part.value()? == (device.ring_count() as u16).to_le_bytes() => {}
                    register::QUEUE_SELECT => registers.queue_select = u16::from_le_bytes(part.value()?),
                    _ => return Err(Unfit),
                },
                VIRTIO_DEV_PART_DEVICE_STATUS => [status] = part.value()?,
                VIRTIO_DEV_PART_VQ_CFG => {
                    let config = QueueConfig::read(part.value()?);
                    self.known_vector(config.vector)?;
                    *queues.get_mut(usize::from(selected)).ok_or(Unfit)? = (config, true);
                }
                VIRTIO_DEV_PART_VQ_NOTIFY_CFG if part.value()? == doorbell_of(selected) => {}
                VIRTIO_NET_DEV_PART_CVQ_CFG_PART => {
                    let [class, command] = selected.to_le_bytes();
                    let one = Said { class, command, data: part.value.clone() };
                    said.push(Some(one).filter(Said::has_part).ok_or(Unfit)?);
                }
                _ if part.kind != VIRTIO_DEV_PART_DEV_FEATURES && part.flags & VIRTIO_DEV_PART_F_OPTIONAL != 0 => {}
                _ => return Err(Unfit),
            }
        }
        registers.status = status & !DEVICE_NEEDS_RESET;
        let is_enabled = queues.iter().any(|(queue, _)| queue.is_enabled);
        // A driver of the legacy interface gets there without FEATURES_OK.
        registers.is_legacy = status & FEATURES_OK == 0 && (status & DRIVER_OK != 0 || is_enabled);
        registers.has_begun = false;
        let is_shape = |queue: &QueueConfig| registers.allows_size(queue.size, device.queue_size_max());
        let is_fit = self.is_stopped()
            && !(registers.is_packed() && is_enabled && positions.is_empty())
            && queues.iter().all(|(queue, is_said)| !is_said || is_shape(queue));
        let offered = self.offered(device);
        let before = self.registers.accepted(offered).unwrap_or(0);
        let features = registers.accepted(offered).filter(|_| is_fit).ok_or(Unfit)?;
        if features != before || !said.is_empty() {
            device.go_on(features, &said).map_err(|_| Unfit)?;
        }
        self.registers = registers;
        (self.needs_reset, self.is_given_up) = (status & DEVICE_NEEDS_RESET != 0, false);
        let positions = positions.iter().copied().chain(std::iter::repeat(None));
        let queues = self.queues.iter_mut().zip(queues).zip(positions);
        for ((queue, (config, _)), position) in queues.filter(|((_, (_, is_said)), _)| *is_said) {
            let QueueConfig { size, vector, is_enabled, addresses } = config;
            (queue.size, queue.vector, queue.is_enabled, queue.addresses) = (size, vector, is_enabled, addresses);
            // A split ring tells itself where it stands, whatever this says.
            queue.base = position.or(is_enabled.then_some(0));
        }
        Ok(())
    }

    /// A vector that there is, or none.
    fn known_vector(&self, vector: u16) -> Result<u16, Unfit> {
        if vector < self.msix.count() || vector == NO_VECTOR { Ok(vector) } else { Err(Unfit) }
    }
}

/// `struct virtio_dev_part_vq_notify_data`, of a queue.
fn doorbell_of(index: u16) -> [u8; 8] {
    u64::from(index).to_le_bytes()
}
