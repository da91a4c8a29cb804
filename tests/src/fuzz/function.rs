//! A host and a driver that write anything anywhere in a function's configuration space and its BARs, itself or by the capability that
//! gives access to BARs, whose client masks vectors, takes memory away, leaves and comes again: reads are as long as they were asked
//! for, the device is never asked for what it has not been given, and a function level reset makes everything as it was at first.

use std::sync::Arc;

use virtnet_control::firmware::PciIds;
use virtnet_control::pci::config_space::{BARS, CONFIG_BYTES};
use virtnet_control::transport::{Backend, Resetter};
use virtnet_control::virtio_pci::layout::{MSIX_BAR, VIRTIO_BAR};
use virtnet_control::virtio_pci::{Function, Kind, Stopper, Traits, Vfs};
use virtnet_rings::guest::Ram;
use virtnet_rings::memory::GuestMemory;

use super::Input;
use super::device::{Device, descriptor};

const GPA: u64 = 0x10_0000;
/// Vectors.
const MSIX: u16 = 6;
/// Registers of common configuration that take a driver further, and what they do so with.
const FURTHER: [(u64, usize, u64); 12] = [
    (20, 1, 3),
    (8, 4, 1),
    (12, 4, 0x301),
    (20, 1, 0xb),
    (22, 2, 4),
    (22, 2, 0),
    (24, 2, 16),
    (32, 8, GPA),
    (40, 8, GPA + 0x1000),
    (48, 8, GPA + 0x2000),
    (28, 2, 1),
    (20, 1, 0xf),
];

/// All of configuration space.
fn look(function: &mut Function, device: &Device) -> Vec<u8> {
    let mut bytes = vec![0; CONFIG_BYTES];
    function.read_config(0, &mut bytes, device);
    bytes
}

/// A value, or a register: one that there is, or any.
fn some(input: &mut Input, end: u64) -> u64 {
    let value = [u64::from(input.u8()), u64::from(input.u16()), input.u64()][usize::from(input.u8() % 3)];
    value % end.max(1)
}

/// A function, from its first register to its last.
pub fn function(bytes: &[u8]) {
    let mut input = Input(bytes);
    let mut device = Device::default();
    let ids = PciIds { vendor: 0x1af4, device: 0x1041, class: 0x02_8000 };
    let vfs = Vfs { total: 8, first_offset: 0x100, are_transitional: false, msix: MSIX };
    let kind = [Kind::Single, Kind::Virtual, Kind::Physical(vfs)][usize::from(input.u8() % 3)];
    let traits = Traits { ids, is_transitional: input.u8() % 2 == 1, msix: MSIX, kind };
    let mut function = Function::new(traits, &device);
    let first = look(&mut function, &device);
    let ram = Ram::new(1 << 16, GPA).expect("a little memory");
    function.set_memory(ram.guest_memory().expect("its memory"), &mut device);
    let _ = function.write_config(4, &[6, 0], &mut device);
    let mut further = FURTHER.iter().cycle();
    while !input.is_empty() {
        match input.u8() % 16 {
            0..4 => {
                let (register, len_bytes, value) = *further.next().expect("it goes round");
                let _ = function.write_bar(VIRTIO_BAR, register, &value.to_le_bytes()[..len_bytes], &mut device);
            }
            4 | 5 => {
                let offset = some(&mut input, CONFIG_BYTES as u64) as usize;
                let count = usize::from(input.u8() % 9).min(CONFIG_BYTES - offset);
                let _ = function.write_config(offset, input.bytes(count), &mut device);
            }
            6..9 => {
                let bar = [VIRTIO_BAR, VIRTIO_BAR, MSIX_BAR, 0][usize::from(input.u8() % 4)];
                let len_bytes = function.bar_bytes(bar);
                let offset = some(&mut input, len_bytes);
                let count = u64::from(input.u8() % 10).min(len_bytes.saturating_sub(offset)) as usize;
                let _ = function.write_bar(bar, offset, input.bytes(count), &mut device);
            }
            9 | 10 => {
                let bar = usize::from(input.u8()) % BARS;
                let len_bytes = function.bar_bytes(bar);
                let offset = some(&mut input, len_bytes);
                let mut bytes = vec![0; u64::from(input.u8()).min(len_bytes.saturating_sub(offset)) as usize];
                function.read_bar(bar, offset, &mut bytes, &device);
            }
            11 => {
                // BAR, offset and length of the capability that gives access to BARs, and what it writes there.
                let at =
                    first.windows(4).position(|bytes| bytes[0] == 9 && bytes[2..] == [20, 5]).expect("there is one");
                let offset = some(&mut input, 0x4000) as u32 & !3;
                let _ = function.write_config(at + 4, &[[4, 2, 0, 9][usize::from(input.u8() % 4)]], &mut device);
                let _ = function.write_config(at + 8, &offset.to_le_bytes(), &mut device);
                let _ =
                    function.write_config(at + 12, &[[1, 2, 4, 3][usize::from(input.u8() % 4)], 0, 0, 0], &mut device);
                let _ = function.write_config(at + 16, &input.u64().to_le_bytes()[..4], &mut device);
            }
            12 => {
                let line = device.line(descriptor(4)).expect("a line");
                let vector = u16::from(input.u8()) % MSIX;
                match input.u8() % 4 {
                    0 => function.connect_intx(Some(line), &mut device),
                    1 => function.change_msix(|msix| msix.hold(vector, true), &mut device),
                    2 => function.change_msix(|msix| msix.hold(vector, false), &mut device),
                    _ => function.change_msix(|msix| msix.connect(vector, Some(line)), &mut device),
                }
            }
            13 => match input.u8() % 4 {
                0 => function.set_memory(Arc::new(GuestMemory::default()), &mut device),
                1 => function.memory_goes(&(GPA..=GPA + 0xfff), &mut device),
                2 => function.leave(&mut device),
                _ => function.set_memory(ram.guest_memory().expect("its memory"), &mut device),
            },
            14 => match input.u8() % 6 {
                0 => function.put_status(0, &mut device),
                1 => function.put_status(function.status() | 0x40, &mut device),
                2 => function.config_changed(),
                3 => function.set_stopped(Stopper::Owner, true, &mut device),
                4 => function.set_stopped(Stopper::Owner, false, &mut device),
                _ => {
                    let wanted = function.take_vfs_wanted().unwrap_or(u16::from(input.u8()) % (vfs.total + 1));
                    assert!(wanted <= vfs.total);
                    function.show_vfs(wanted);
                    assert!(function.take_rung().iter().all(|(member, _)| (1..=vfs.total).contains(member)));
                }
            },
            _ => {
                function.show_vfs(0);
                function.reset(Resetter::Function, &mut device);
                function.take_vfs_wanted();
                function.show_vfs(0);
                assert!(look(&mut function, &device) == first, "it is not as it was at first");
                assert_eq!((function.status(), device.has_rings()), (0, false));
                let _ = function.write_config(4, &[6, 0], &mut device);
            }
        }
        let status = function.status();
        let may_run = status & 0x8c == 0xc || function.is_legacy() && status < 0x80;
        assert!(!device.has_rings() || may_run && !function.is_stopped(), "rings with status {status:#x}");
        device.turn(|_| function.ring_failed());
    }
    function.leave(&mut device);
    assert!(!device.has_rings(), "rings outlive their client");
}
