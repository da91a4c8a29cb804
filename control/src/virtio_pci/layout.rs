//! Where a function's registers are. ("PCI Device Layout")

use crate::firmware::PciIds;
use crate::pci::capability::VENDOR;
use crate::pci::config_space::{ConfigSpace, Ids};

/// Of all functions that are not transitional. ("PCI Device Discovery")
const REVISION: u8 = 1;
/// What the specification gives transitional network devices. ("Legacy Interfaces: A Note on PCI Device Discovery")
const TRANSITIONAL_DEVICE: u16 = 0x1000;
/// Among device types. ("Device Types")
const NETWORK_DEVICE: u16 = 1;

/// The BAR of the legacy interface, in I/O space. Only transitional functions have it.
pub const LEGACY_BAR: usize = 0;
/// The BAR of MSI-X, with the one above it.
pub const MSIX_BAR: usize = 2;
/// The BAR of all else, with the one above it.
pub const VIRTIO_BAR: usize = 4;
/// Each structure has pages of its own.
const PAGE_BYTES: u64 = 4096;
/// Common configuration.
pub const COMMON: u64 = 0;
/// Its registers, up to `admin_queue_num`.
pub const COMMON_BYTES: usize = 64;
/// Interrupt status: one byte.
pub const ISR: u64 = PAGE_BYTES;
/// Device configuration.
pub const DEVICE: u64 = 2 * PAGE_BYTES;
/// A doorbell for each queue.
pub const NOTIFY: u64 = 3 * PAGE_BYTES;
/// Bytes from doorbell to doorbell.
pub const NOTIFY_STRIDE: u32 = 4;
/// The doorbell of all queues of a legacy driver, behind the others: what is written to it is a queue's number.
pub const LEGACY_NOTIFY: u64 = NOTIFY + PAGE_BYTES - NOTIFY_STRIDE as u64;
/// Bytes of the BAR.
pub const VIRTIO_BAR_BYTES: u64 = 4 * PAGE_BYTES;
/// Of a function that can have VFs: such a doorbell for each VF, of those whose drivers are legacy ones.
pub const MEMBERS_NOTIFY: u64 = VIRTIO_BAR_BYTES;
/// Bytes of the BAR of such a function.
pub const OWNER_BAR_BYTES: u64 = 2 * VIRTIO_BAR_BYTES;

/// Types of structures.
const CFG_COMMON: u8 = 1;
const CFG_NOTIFY: u8 = 2;
const CFG_ISR: u8 = 3;
const CFG_DEVICE: u8 = 4;
const CFG_PCI: u8 = 5;

/// Within the capability for access through configuration space: which BAR.
pub const ACCESS_BAR: usize = 4;
/// Where in it.
pub const ACCESS_OFFSET: usize = 8;
/// How many bytes: 1, 2 or 4.
pub const ACCESS_LENGTH: usize = 12;
/// The bytes.
pub const ACCESS_DATA: usize = 16;

/// What a function is.
pub fn ids(PciIds { vendor, device, class }: PciIds, is_transitional: bool) -> Ids {
    let (device, subsystem, revision) = match is_transitional {
        true => (TRANSITIONAL_DEVICE, NETWORK_DEVICE, 0),
        false => (device, device, REVISION),
    };
    Ids { vendor, device, subsystem, class, revision }
}

/// Adds the capabilities that name the structures, of a device with so many queues and bytes of configuration. Returns where the
/// one is that gives access to BARs. ("Virtio Structure PCI Capabilities")
pub fn add_capabilities(space: &mut ConfigSpace, queues: usize, config_bytes: usize) -> usize {
    let doorbells_bytes = queues * NOTIFY_STRIDE as usize;
    for (kind, offset, len_bytes) in
        [(CFG_COMMON, COMMON, COMMON_BYTES), (CFG_ISR, ISR, 1), (CFG_DEVICE, DEVICE, config_bytes)]
    {
        space.add_capability(VENDOR, &body(kind, offset, len_bytes, 16), &[]);
    }
    let mut notify = body(CFG_NOTIFY, NOTIFY, doorbells_bytes, 20);
    notify.extend_from_slice(&NOTIFY_STRIDE.to_le_bytes());
    space.add_capability(VENDOR, &notify, &[]);
    let mut access = body(CFG_PCI, 0, 0, 20);
    access[ACCESS_BAR - 2] = 0;
    access.extend_from_slice(&[0; 4]);
    let mut writable = [0xff; 18];
    // Length, type, and what is between the BAR and the offset.
    for at in [2, 3, 5, 6, 7] {
        writable[at - 2] = 0;
    }
    space.add_capability(VENDOR, &access, &writable)
}

/// `struct virtio_pci_cap` behind its id and its pointer.
fn body(kind: u8, offset: u64, len_bytes: usize, cap_bytes: u8) -> Vec<u8> {
    let mut body = vec![cap_bytes, kind, VIRTIO_BAR as u8, 0, 0, 0];
    body.extend_from_slice(&(offset as u32).to_le_bytes());
    body.extend_from_slice(&(len_bytes as u32).to_le_bytes());
    body
}
