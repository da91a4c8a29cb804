//! A driver that writes registers, right or wrong, of a function whose device keeps a diary.

use std::os::fd::OwnedFd;

use proptest::prelude::*;
use rustix::event::{EventfdFlags, eventfd};
use virtnet_rings::Virtqueue;
use virtnet_rings::guest::Ram;

mod admin;
mod legacy;
mod sriov;

use super::common::*;
use super::layout::*;
use super::*;
use crate::firmware::PciIds;
use crate::pci::config_space::{BAR_0, COMMAND, COMMAND_MASTER, CONFIG_BYTES};
use crate::transport::diary::{Deed, Diary, RING_RESET, VERSION_1, rung};
use crate::transport::{Backend, Resetter};

const PACKED: u64 = 1 << 34;
const ACCESS_PLATFORM: u64 = 1 << 33;
const NOTIFICATION_DATA: u64 = 1 << 38;
const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;
/// Where the guest's memory is.
const GPA: u64 = 0x10_0000;

struct Bench {
    function: Function,
    device: Diary,
    ram: Ram,
}

impl Bench {
    fn new() -> Self {
        Self::of(false)
    }

    fn of(is_transitional: bool) -> Self {
        Self::with(is_transitional, Kind::Single)
    }

    fn with(is_transitional: bool, kind: Kind) -> Self {
        let device = Diary::default();
        let ids = PciIds { vendor: 0x1af4, device: 0x1041, class: 0x02_8000 };
        let function = Function::new(Traits { ids, is_transitional, msix: 6, kind }, &device);
        let mut bench = Self { function, device, ram: Ram::new(1 << 20, GPA).unwrap() };
        bench.remember();
        bench.command(COMMAND_MASTER);
        bench
    }

    /// The guest's memory is there.
    fn remember(&mut self) {
        self.function.set_memory(self.ram.guest_memory().unwrap(), &mut self.device);
    }

    fn command(&mut self, bits: u16) {
        self.function.write_config(COMMAND, &bits.to_le_bytes(), &mut self.device).unwrap();
    }

    fn try_write(&mut self, register: u64, len_bytes: usize, value: u64) -> Result<(), Refusal> {
        self.function.write_bar(VIRTIO_BAR, register, &value.to_le_bytes()[..len_bytes], &mut self.device)
    }

    #[track_caller]
    fn write(&mut self, register: u64, len_bytes: usize, value: u64) {
        self.try_write(register, len_bytes, value).unwrap();
    }

    /// The outcome of a write that is refused.
    #[track_caller]
    fn refused(&mut self, register: u64, len_bytes: usize, value: u64) -> &'static str {
        self.try_write(register, len_bytes, value).unwrap_err().name()
    }

    fn read(&mut self, register: u64, len_bytes: usize) -> u64 {
        let mut bytes = [0; 8];
        self.function.read_bar(VIRTIO_BAR, register, &mut bytes[..len_bytes], &self.device);
        u64::from_le_bytes(bytes)
    }

    fn config(&mut self, offset: usize, len_bytes: usize) -> u64 {
        let mut bytes = [0; 8];
        self.function.read_config(offset, &mut bytes[..len_bytes], &self.device);
        u64::from_le_bytes(bytes)
    }

    fn status(&mut self) -> u8 {
        self.read(DEVICE_STATUS, 1) as u8
    }

    fn negotiate(&mut self, features: u64) {
        for status in [0, 1, 3] {
            self.write(DEVICE_STATUS, 1, status);
        }
        for half in 0..2 {
            self.write(DRIVER_FEATURE_SELECT, 4, half);
            self.write(DRIVER_FEATURE, 4, features >> (32 * half) & 0xffff_ffff);
        }
    }

    /// Describes a queue, and does not enable it.
    fn describe(&mut self, index: u64) {
        self.write(QUEUE_SELECT, 2, index);
        self.write(QUEUE_SIZE, 2, 8);
        for (register, offset) in [(QUEUE_DESC, 0), (QUEUE_DRIVER, 0x1000), (QUEUE_DEVICE, 0x2000)] {
            let address = GPA + 0x4000 * index + offset;
            self.write(register, 4, address & 0xffff_ffff);
            self.write(register + 4, 4, address >> 32);
        }
    }

    /// A driver that has got as far as possible, with queues 0 and 1.
    fn drive(&mut self, features: u64) {
        self.negotiate(features);
        self.write(DEVICE_STATUS, 1, 0xb);
        for index in 0..2 {
            self.describe(index);
            self.write(QUEUE_ENABLE, 2, 1);
        }
        self.write(DEVICE_STATUS, 1, 0xf);
    }

    fn driven() -> Self {
        let mut bench = Self::new();
        bench.drive(VERSION_1 | RING_RESET);
        assert_eq!(bench.device.running(), [0, 1]);
        bench.device.read();
        bench
    }

    /// Connects a vector, or without one INTx.
    fn connect(&mut self, vector: Option<u16>) -> OwnedFd {
        let fd = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let line = self.device.line(fd.try_clone().unwrap()).unwrap();
        match vector {
            Some(vector) => self.function.change_msix(|msix| msix.connect(vector, Some(line)), &mut self.device),
            None => self.function.connect_intx(Some(line), &mut self.device),
        }
        fd
    }

    fn use_msix(&mut self) {
        let control = self.capability(0x11)[0] + 2;
        self.function.write_config(control, &0x8000u16.to_le_bytes(), &mut self.device).unwrap();
    }

    /// Where capabilities with this id are.
    fn capability(&mut self, id: u64) -> Vec<usize> {
        let mut found = Vec::new();
        let mut at = self.config(0x34, 1) as usize;
        while at != 0 {
            if self.config(at, 1) == id {
                found.push(at);
            }
            at = self.config(at + 1, 1) as usize;
            assert!(found.len() < 10, "the list ends");
        }
        found
    }
}

#[test]
fn capabilities_name_the_structures() {
    let mut bench = Bench::new();
    let found: Vec<_> = bench
        .capability(9)
        .into_iter()
        .map(|at| {
            let [kind, bar] = [3, 4].map(|field| bench.config(at + field, 1));
            (kind, bar, bench.config(at + 8, 4), bench.config(at + 12, 4), bench.config(at + 2, 1))
        })
        .collect();
    assert_eq!(
        found,
        [(1, 4, 0, 64, 16), (3, 4, 0x1000, 1, 16), (4, 4, 0x2000, 8, 16), (2, 4, 0x3000, 16, 20), (5, 0, 0, 0, 20)]
    );
    let notify = bench.capability(9)[3];
    assert_eq!(bench.config(notify + 16, 4), 4, "the doorbells' distance");
    assert_eq!((bench.function.bar_bytes(2), bench.function.bar_bytes(4)), (0x2000, 0x4000));
    let express = bench.capability(0x10)[0];
    assert_eq!(bench.config(express + 4, 4) >> 28 & 1, 1, "it can be reset alone");
    assert_eq!((bench.capability(1).len(), bench.capability(0x11).len()), (1, 1));
}

#[test]
fn a_driver_brings_the_device_up() {
    let mut bench = Bench::new();
    assert_eq!(bench.read(18, 2), 4, "queues");
    bench.write(DEVICE_FEATURE_SELECT, 4, 1);
    assert_eq!(bench.read(4, 4), (VERSION_1 | PACKED | RING_RESET | ACCESS_PLATFORM | NOTIFICATION_DATA) >> 32);
    for select in [2, 3, 4, u32::MAX] {
        bench.write(DEVICE_FEATURE_SELECT, 4, select.into());
        assert_eq!(bench.read(4, 4), 0);
    }
    bench.negotiate(VERSION_1 | PACKED);
    bench.device.read();
    bench.write(DEVICE_STATUS, 1, 0xb);
    assert_eq!(bench.device.read(), [Deed::Features(VERSION_1 | PACKED), Deed::Status(0xb)]);
    bench.write(QUEUE_SELECT, 2, 1);
    assert_eq!((bench.read(QUEUE_SIZE, 2), bench.read(30, 2)), (1024, 1));
    bench.describe(1);
    bench.write(QUEUE_ENABLE, 2, 1);
    bench.function.write_bar(VIRTIO_BAR, NOTIFY + 4, &[1, 0], &mut bench.device).unwrap_err();
    assert_eq!(bench.device.read(), [], "no queue before DRIVER_OK");
    bench.write(DEVICE_STATUS, 1, 0xf);
    let start = Deed::Start { index: 1, enabled: true, base: 0x8000_8000 };
    assert_eq!(bench.device.read(), [Deed::Status(0xf), start]);
    // One that is enabled later starts at once.
    bench.describe(0);
    bench.write(QUEUE_ENABLE, 2, 1);
    assert_eq!((bench.device.running(), bench.status()), (vec![0, 1], 0xf));
    let areas: Vec<_> = bench.function.rings().collect();
    assert_eq!(areas[1], (1, 8, true, [GPA + 0x4000, GPA + 0x5000, GPA + 0x6000]));
}

#[test]
fn features_that_cannot_be_are_not_ok() {
    for features in [0, 1 << 15, VERSION_1 | 1 << 7, VERSION_1 | 1 << 22, VERSION_1 | 1 << 63] {
        let mut bench = Bench::new();
        bench.negotiate(features);
        assert_eq!((bench.refused(DEVICE_STATUS, 1, 0xb), bench.status()), ("value", 3), "{features:#x}");
        assert_eq!((bench.refused(DEVICE_STATUS, 1, 0xf), bench.status()), ("value", 3));
        bench.describe(0);
        assert_eq!(bench.refused(QUEUE_ENABLE, 2, 1), "value");
    }
    let mut bench = Bench::new();
    bench.negotiate(VERSION_1);
    bench.write(DRIVER_FEATURE_SELECT, 4, 2);
    bench.write(DRIVER_FEATURE, 4, 1);
    assert_eq!(bench.refused(DEVICE_STATUS, 1, 0xb), "value", "the 65th bit");
    bench.write(DRIVER_FEATURE, 4, 0);
    bench.write(DEVICE_STATUS, 1, 0xb);
    assert_eq!(bench.refused(DRIVER_FEATURE, 4, 1), "value", "after FEATURES_OK");
    let mut bench = Bench::new();
    bench.negotiate(VERSION_1);
    bench.write(DEVICE_STATUS, 1, 0);
    assert_eq!((bench.refused(DEVICE_STATUS, 1, 8), bench.status()), ("value", 0), "without a driver");
    assert_eq!((bench.refused(DEVICE_STATUS, 1, 4), bench.status()), ("value", 0), "DRIVER_OK before FEATURES_OK");
}

#[test]
fn status_bits_go_with_a_reset_only() {
    let mut bench = Bench::driven();
    bench.write(DEVICE_STATUS, 1, 1);
    assert_eq!((bench.status(), bench.device.running().len()), (0xf, 2));
    bench.write(DEVICE_STATUS, 1, 0x40);
    assert_eq!(bench.status(), 0xf, "DEVICE_NEEDS_RESET is the device's");
    bench.write(DEVICE_STATUS, 1, 0x80);
    assert_eq!((bench.status(), bench.device.running().len()), (0x8f, 0), "given up");
    bench.write(CONFIG_MSIX_VECTOR, 2, 3);
    bench.write(DEVICE_STATUS, 1, 0);
    assert_eq!((bench.status(), bench.read(CONFIG_MSIX_VECTOR, 2), bench.read(DRIVER_FEATURE, 4)), (0, 0xffff, 0));
    bench.write(QUEUE_SELECT, 2, 0);
    assert_eq!((bench.read(QUEUE_ENABLE, 2), bench.read(QUEUE_SIZE, 2), bench.read(QUEUE_DESC, 8)), (0, 1024, 0));
    bench.drive(VERSION_1);
    assert_eq!(bench.device.running(), [0, 1]);
}

#[test]
fn registers_have_lengths_and_values() {
    let mut bench = Bench::new();
    bench.negotiate(VERSION_1);
    bench.write(DEVICE_STATUS, 1, 0xb);
    for (register, len_bytes) in
        [(0, 2), (1, 4), (4, 4), (18, 2), (20, 2), (21, 1), (30, 2), (33, 4), (36, 8), (56, 2), (60, 4), (20, 8)]
    {
        assert_eq!(bench.refused(register, len_bytes, 1), "register", "{register} {len_bytes}");
    }
    for (register, len_bytes) in [(ISR, 1), (DEVICE, 1), (ISR - 4, 4)] {
        assert_eq!(bench.refused(register, len_bytes, 1), "register");
    }
    for bar in [0, 1, 3, 5, 6] {
        assert!(bench.function.write_bar(bar, 0, &[0], &mut bench.device).is_err());
    }
    assert!(bench.function.write_bar(VIRTIO_BAR, 0, &[0; 9], &mut bench.device).is_err());
    bench.write(QUEUE_SELECT, 2, 0);
    for size in [0, 3, 2048, 0xffff] {
        assert_eq!(bench.refused(QUEUE_SIZE, 2, size), "value", "{size}");
    }
    bench.write(QUEUE_MSIX_VECTOR, 2, 5);
    assert_eq!(bench.read(QUEUE_MSIX_VECTOR, 2), 5);
    bench.write(QUEUE_MSIX_VECTOR, 2, 6);
    assert_eq!(bench.read(QUEUE_MSIX_VECTOR, 2), 0xffff, "there is no such vector");
    bench.write(QUEUE_DRIVER, 8, 0x1122_3344_5566_7788);
    bench.write(QUEUE_DRIVER + 4, 4, 0x99);
    assert_eq!(bench.read(QUEUE_DRIVER, 8), 0x99_5566_7788);
    assert_eq!((bench.refused(QUEUE_ENABLE, 2, 0), bench.refused(QUEUE_ENABLE, 2, 2)), ("value", "value"));
    // A queue that does not exist reads as nothing, and cannot be written.
    bench.write(QUEUE_SELECT, 2, 4);
    assert_eq!((bench.read(QUEUE_SIZE, 2), bench.read(QUEUE_ENABLE, 2)), (0, 0));
    assert_eq!((bench.refused(QUEUE_SIZE, 2, 8), bench.refused(QUEUE_ENABLE, 2, 1)), ("value", "value"));
    let mut bench = Bench::driven();
    bench.write(QUEUE_SELECT, 2, 0);
    assert_eq!((bench.refused(QUEUE_SIZE, 2, 4), bench.refused(QUEUE_DESC, 4, 0)), ("value", "value"), "it is enabled");
}

#[test]
fn a_queue_is_reset_alone() {
    let mut bench = Bench::driven();
    bench.write(QUEUE_SELECT, 2, 1);
    bench.write(QUEUE_RESET, 2, 1);
    assert_eq!((bench.device.read(), bench.read(QUEUE_RESET, 2)), (vec![Deed::Stop(1), Deed::ResetRing(1)], 0));
    assert_eq!((bench.read(QUEUE_ENABLE, 2), bench.read(QUEUE_SIZE, 2), bench.read(QUEUE_DESC, 8)), (0, 1024, 0));
    bench.describe(1);
    bench.write(QUEUE_ENABLE, 2, 1);
    assert_eq!(bench.device.read(), [Deed::Start { index: 1, enabled: true, base: 0 }]);
    assert_eq!(bench.refused(QUEUE_RESET, 2, 0), "value");
    let mut bench = Bench::new();
    bench.drive(VERSION_1);
    assert_eq!(bench.refused(QUEUE_RESET, 2, 1), "value", "without RING_RESET");
}

#[test]
fn a_queue_outside_memory_wants_a_reset() {
    let mut bench = Bench::new();
    bench.use_msix();
    let fd = bench.connect(Some(2));
    bench.negotiate(VERSION_1);
    bench.write(DEVICE_STATUS, 1, 0xb);
    bench.write(CONFIG_MSIX_VECTOR, 2, 2);
    bench.describe(0);
    bench.write(QUEUE_DESC, 8, GPA + (1 << 20));
    bench.write(QUEUE_ENABLE, 2, 1);
    assert_eq!((bench.refused(DEVICE_STATUS, 1, 0xf), bench.status(), rung(&fd)), ("ring", 0x4f, 1));
    assert!(bench.function.needs_reset() && !bench.function.has_rings());
    bench.drive(VERSION_1);
    assert_eq!((bench.status(), bench.function.take_recoveries(), bench.function.take_recoveries()), (0xf, 1, 0));
}

#[test]
fn rings_wait_while_the_function_may_not_master_the_bus() {
    let mut bench = Bench::driven();
    let go_on = |index| Deed::Start { index, enabled: true, base: 0 };
    bench.command(0);
    assert_eq!(bench.device.read(), [Deed::Stop(0), Deed::Stop(1)]);
    bench.command(COMMAND_MASTER);
    assert_eq!(bench.device.read(), [go_on(0), go_on(1)]);
    let power = bench.capability(1)[0] + 4;
    bench.function.write_config(power, &[3, 0], &mut bench.device).unwrap();
    assert_eq!((bench.device.running().len(), bench.config(power, 2)), (0, 0x000b), "D3hot");
    bench.function.write_config(power, &[0, 0], &mut bench.device).unwrap();
    assert_eq!((bench.device.running().len(), bench.status()), (2, 0xf));
}

#[test]
fn rings_wait_for_their_memory() {
    let mut bench = Bench::driven();
    bench.function.leave(&mut bench.device);
    assert_eq!((bench.device.running().len(), bench.status()), (0, 0xf), "the device stays as it is");
    assert!(!bench.function.needs_reset());
    bench.remember();
    assert_eq!(bench.device.running(), [0, 1]);
}

#[test]
fn a_function_level_reset_forgets_all() {
    let mut bench = Bench::driven();
    bench.use_msix();
    bench.function.write_config(BAR_0 + 16, &[0xff; 4], &mut bench.device).unwrap();
    let control = bench.capability(0x10)[0] + 8;
    bench.function.write_config(control, &[0, 0x80], &mut bench.device).unwrap();
    assert_eq!((bench.device.running().len(), bench.status(), bench.config(COMMAND, 2)), (0, 0, 0));
    assert_eq!((bench.config(BAR_0 + 16, 4), bench.config(control, 2)), (4, 0), "the bit reads as 0");
    // In the upper half of a longer write, too; not where only its neighbours are written.
    for (offset, bytes, status) in [(control + 1, &[0x7f][..], 0xf), (control - 2, &[0, 0, 0, 0x80], 0)] {
        bench.command(COMMAND_MASTER);
        bench.drive(VERSION_1);
        bench.function.write_config(offset, bytes, &mut bench.device).unwrap();
        assert_eq!(bench.status(), status);
    }
}

#[test]
fn doorbells_reach_the_ring() {
    let mut bench = Bench::driven();
    bench.write(NOTIFY + 4, 2, 1);
    let kick = |bench: &Bench, index: usize| {
        bench.device.queues[index].as_ref().unwrap().kick().eventfd().unwrap().try_clone().unwrap()
    };
    assert_eq!(rung(&kick(&bench, 1)), 1);
    assert_eq!(bench.refused(NOTIFY + 8, 2, 2), "value", "a queue that does not run");
    assert_eq!([bench.refused(NOTIFY + 0xffc, 2, 0x3ff), bench.refused(NOTIFY + 4, 2, 0)], ["value"; 2]);
    for (offset, len_bytes) in [(4, 1), (4, 4), (5, 2), (4, 8)] {
        assert_eq!(bench.refused(NOTIFY + offset, len_bytes, 1), "register");
    }
    let shared: Vec<_> = bench
        .function
        .share_doorbells(3, &mut bench.device)
        .unwrap()
        .into_iter()
        .map(|(offset, fd)| (offset, fd.try_clone_to_owned().unwrap()))
        .collect();
    assert_eq!(shared.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [NOTIFY, NOTIFY + 4, NOTIFY + 8]);
    rustix::io::write(&shared[0].1, &1u64.to_ne_bytes()).unwrap();
    assert_eq!(rung(&kick(&bench, 0)), 1, "the client rings");
    // A client that fills it and makes it block holds nobody but itself.
    let flags = rustix::fs::fcntl_getfl(&shared[0].1).unwrap();
    rustix::io::write(&shared[0].1, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    rustix::fs::fcntl_setfl(&shared[0].1, flags - rustix::fs::OFlags::NONBLOCK).unwrap();
    bench.write(NOTIFY, 2, 0);
    bench.write(NOTIFY, 2, 0);
    bench.function.leave(&mut bench.device);
    bench.remember();
    bench.write(NOTIFY, 2, 0);
    assert_eq!(rung(&kick(&bench, 0)), 1, "and has none any more when it has left");
}

#[test]
fn doorbells_may_say_where_the_driver_stands() {
    let mut bench = Bench::new();
    bench.drive(VERSION_1 | NOTIFICATION_DATA);
    bench.write(NOTIFY + 4, 4, 0x8003_0001);
    assert_eq!(rung(bench.device.queues[1].as_ref().unwrap().kick().eventfd().unwrap()), 1);
    assert_eq!((bench.refused(NOTIFY + 4, 2, 1), bench.refused(NOTIFY + 4, 4, 0x1_0000)), ("register", "value"));
}

#[test]
fn interrupts_go_by_vector_or_by_pin() {
    let mut bench = Bench::new();
    let (pin, queue, config) = (bench.connect(None), bench.connect(Some(1)), bench.connect(Some(2)));
    bench.drive(VERSION_1);
    let call = |bench: &mut Bench, index: usize| bench.device.queues[index].as_mut().unwrap().call().notify();
    call(&mut bench, 0);
    assert_eq!((rung(&pin), bench.config(6, 1) & 8), (1, 8), "the pin, and the bit that says so");
    assert_eq!((bench.read(ISR, 1), bench.read(ISR, 1), bench.config(6, 1) & 8), (ISR_QUEUE.into(), 0, 0));
    bench.function.intx().mask(false);
    bench.function.config_changed();
    assert_eq!((rung(&pin), bench.read(ISR, 1)), (1, ISR_CONFIG.into()));
    // Under traffic, to MSI-X.
    for (register, vector) in [(CONFIG_MSIX_VECTOR, 2), (QUEUE_MSIX_VECTOR, 1)] {
        bench.write(QUEUE_SELECT, 2, 1);
        bench.write(register, 2, vector);
    }
    bench.use_msix();
    call(&mut bench, 1);
    assert_eq!(rung(&queue), 1);
    call(&mut bench, 0);
    let generation = bench.read(21, 1);
    bench.function.config_changed();
    assert_eq!((rung(&config), bench.read(21, 1)), (1, generation + 1));
    assert!(!bench.device.queues[0].as_mut().unwrap().call().is_connected(), "NO_VECTOR");
    // Masked, it is pending; unmasked, it is told.
    bench.function.change_msix(|msix| msix.hold(1, true), &mut bench.device);
    call(&mut bench, 1);
    let mut pending = [0; 1];
    bench.function.read_bar(MSIX_BAR, 0x1000, &mut pending, &bench.device);
    assert_eq!(pending, [2]);
    bench.function.change_msix(|msix| msix.hold(1, false), &mut bench.device);
    assert_eq!(rung(&queue), 1);
}

#[test]
fn registers_can_be_reached_through_configuration_space() {
    let mut bench = Bench::new();
    let at = bench.capability(9)[4];
    let point = |bench: &mut Bench, bar: u8, offset: u32, len_bytes: u32| {
        let device = &mut bench.device;
        bench.function.write_config(at + 4, &[bar], device).unwrap();
        bench.function.write_config(at + 8, &[offset.to_le_bytes(), len_bytes.to_le_bytes()].concat(), device).unwrap();
    };
    point(&mut bench, 4, DEVICE_STATUS as u32, 1);
    bench.function.write_config(at + 16, &[1, 0, 0, 0], &mut bench.device).unwrap();
    assert_eq!((bench.status(), bench.config(at + 16, 4)), (1, 1));
    point(&mut bench, 4, DEVICE as u32, 4);
    assert_eq!(bench.config(at + 16, 4), 0x0000_0002, "the address");
    // What does not point into a BAR, or not at a register, does nothing.
    for (bar, offset, len_bytes) in
        [(4, 0x4000, 4), (4, u32::MAX, 1), (0, 0, 4), (200, 0, 4), (4, 2, 4), (4, 0, 0), (4, 0, 8)]
    {
        point(&mut bench, bar, offset, len_bytes);
        bench.config(at + 16, 4);
        bench.function.write_config(at + 16, &[0xff; 4], &mut bench.device).unwrap();
    }
    point(&mut bench, 4, 18, 2);
    assert!(bench.function.write_config(at + 16, &[9, 9, 0, 0], &mut bench.device).is_err());
    assert_eq!(bench.status(), 1);
}

#[test]
fn somebody_else_resets_the_device_or_gives_it_up() {
    let mut bench = Bench::driven();
    bench.use_msix();
    let fd = bench.connect(Some(0));
    bench.write(CONFIG_MSIX_VECTOR, 2, 0);
    bench.function.put_status(0x4f, &mut bench.device);
    assert_eq!((bench.status(), rung(&fd), bench.device.running().len()), (0x4f, 1, 2));
    bench.function.put_status(0x8f, &mut bench.device);
    assert_eq!((bench.status(), rung(&fd), bench.device.running().len()), (0xcf, 1, 0));
    bench.function.put_status(0, &mut bench.device);
    assert_eq!((bench.status(), rung(&fd)), (0, 1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is written wherever, in whatever lengths: no panic, no ring before DRIVER_OK, none after a reset.
    #[test]
    fn any_writes_leave_an_honest_function(is_transitional: bool, writes in prop::collection::vec(
        (0usize..8, prop_oneof![0u64..64, Just(0x3000u64), Just(0x1000), 0u64..0x4000], 0usize..9,
         prop_oneof![Just(0u64), Just(1), Just(0xf), Just(VERSION_1 >> 32), 0u64..256, any::<u64>()]), 0..200)
    ) {
        let mut bench = Bench::of(is_transitional);
        bench.negotiate(VERSION_1);
        for (bar, offset, len_bytes, value) in writes {
            let bytes = &value.to_le_bytes()[..len_bytes.min(8)];
            match bar {
                7 => {
                    let offset = (offset as usize % CONFIG_BYTES).min(CONFIG_BYTES - bytes.len());
                    let _ = bench.function.write_config(offset, bytes, &mut bench.device);
                    let mut into = [0; 8];
                    bench.function.read_config(offset, &mut into[..bytes.len()], &bench.device);
                }
                6 => { let _ = bench.try_write(offset % 64, bytes.len(), value); }
                bar => {
                    let _ = bench.function.write_bar(bar, offset, bytes, &mut bench.device);
                    let mut into = [0; 8];
                    bench.function.read_bar(bar, offset, &mut into, &bench.device);
                }
            }
            let running = bench.device.running();
            prop_assert!(running.is_empty() || bench.status() & 0x8c == 0xc || bench.function.is_legacy() && bench.status() < 0x80);
            prop_assert_eq!(running.len(), bench.function.rings().count());
        }
        bench.function.reset(Resetter::Function, &mut bench.device);
        prop_assert!(bench.device.running().is_empty() && bench.status() == 0);
    }
}
