//! The daemon at its sockets, and rust-vmm's client, which Cloud Hypervisor shows functions to its guests with: one that we did not
//! write. It finds the function's structures as a driver does.

#[allow(dead_code)] // what it does as a front end of vhost-user
#[path = "../vhost_user/house.rs"]
mod house;

mod admin;
mod migration;

use std::os::fd::AsRawFd;

use house::{Guest, House};
use serde_json::{Value, json};
use vfio_user::Client;
use virtnet_control::firmware::Limits;
use virtnet_rings::Layout;
use virtnet_rings::guest::Driver;

const CONFIG_REGION: u32 = 7;
const INTX: u32 = 0;
const MSIX: u32 = 2;
/// DATA_EVENTFD, ACTION_TRIGGER.
const TO_EVENTFDS: u32 = 4 | 32;
const VIRTIO_F_ACCESS_PLATFORM: u64 = 1 << 33;
/// Of a virtio capability: what it is of. ("Virtio Structure PCI Capabilities")
const COMMON: u8 = 1;
const NOTIFY: u8 = 2;
const DEVICE: u8 = 4;

fn function(n: u8) -> String {
    format!(
        r#""name": "vm{n}", "socket": "vm{n}.sock", "transport": "vfio-user", "port": "loopback", "mac": "02:00:00:00:00:0{n}""#
    )
}

/// A virtual machine with one function.
struct Machine {
    client: Client,
    guest: Guest,
    config: Vec<u8>,
}

impl Machine {
    fn new(house: &House, n: u8, layout: Layout) -> Self {
        Self::at(house, &format!("vm{n}.sock"), Guest::new(layout, true))
    }

    fn at(house: &House, socket: &str, guest: Guest) -> Self {
        let mut client = Client::new(&house.socket(socket)).unwrap();
        // It is as whoever was there before has left it.
        client.reset().unwrap();
        let mut config = vec![0; 256];
        client.region_read(CONFIG_REGION, 0, &mut config).unwrap();
        Self { client, guest, config }
    }

    /// Capabilities: id, and where they are.
    fn capabilities(&self) -> Vec<(u8, usize)> {
        let mut at = usize::from(self.config[0x34]);
        std::iter::from_fn(|| {
            let here = at;
            at = usize::from(*self.config.get(here + 1)?);
            (here != 0).then(|| (self.config[here], here))
        })
        .collect()
    }

    /// Region, offset, and where the capability is, of one of virtio's structures.
    fn structure(&self, kind: u8) -> (u32, u64, usize) {
        let is_it = |(id, at): &(u8, usize)| *id == 9 && self.config[at + 3] == kind;
        let (_, at) = self.capabilities().into_iter().find(is_it).unwrap();
        (self.config[at + 4].into(), self.word(at + 8).into(), at)
    }

    fn word(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.config[at..at + 4].try_into().unwrap())
    }

    fn read<const N: usize>(&mut self, kind: u8, at: u64) -> [u8; N] {
        let (region, offset, _) = self.structure(kind);
        let mut bytes = [0; N];
        self.client.region_read(region, offset + at, &mut bytes).unwrap();
        bytes
    }

    fn write(&mut self, kind: u8, at: u64, bytes: &[u8]) {
        let (region, offset, _) = self.structure(kind);
        self.client.region_write(region, offset + at, bytes).unwrap();
    }

    /// Memory, bus mastering, MSI-X to the guest's eventfds.
    fn connect(&mut self) {
        let ram = self.guest.nic.ram();
        self.client.dma_map(0, ram.gpa(), ram.len_bytes(), ram.fd().as_raw_fd()).unwrap();
        self.client.region_write(CONFIG_REGION, 4, &[6, 0]).unwrap();
        let calls: Vec<_> = self.guest.calls.iter().map(AsRawFd::as_raw_fd).collect();
        self.client.set_irqs(MSIX, TO_EVENTFDS, 0, 2, &calls).unwrap();
        let (_, at) = self.capabilities().into_iter().find(|(id, _)| *id == 0x11).unwrap();
        self.client.region_write(CONFIG_REGION, at as u64 + 2, &0x8000u16.to_le_bytes()).unwrap();
    }

    /// What a driver does until its queues run. ("Driver Requirements: Device Initialization")
    fn drive(&mut self) {
        self.drive_with(0, &[]);
    }

    /// The same with more features, and with more queues behind the pair's.
    fn drive_with(&mut self, features: u64, queues: &[&Driver]) {
        for status in [1, 3] {
            self.write(COMMON, 20, &[status]);
        }
        let features = self.guest.features() | VIRTIO_F_ACCESS_PLATFORM | features;
        for half in 0..2u32 {
            self.write(COMMON, 0, &half.to_le_bytes());
            let wanted = (features >> (32 * half)) as u32;
            assert_eq!(u32::from_le_bytes(self.read(COMMON, 4)) & wanted, wanted);
            self.write(COMMON, 8, &half.to_le_bytes());
            self.write(COMMON, 12, &wanted.to_le_bytes());
        }
        self.write(COMMON, 20, &[11]);
        assert_eq!(self.read(COMMON, 20), [11], "the features are accepted");
        let pair = [0, 1].map(|index| self.guest.driver(index)).into_iter();
        let queues: Vec<_> = pair.chain(queues.iter().copied()).map(|q| (q.size(), q.addresses())).collect();
        for (index, (size, at)) in (0..).zip(queues) {
            self.write(COMMON, 22, &u16::to_le_bytes(index));
            self.write(COMMON, 24, &size.to_le_bytes());
            self.write(COMMON, 26, &index.to_le_bytes());
            for (offset, area) in [(32, at.descriptor), (40, at.driver), (48, at.device)] {
                self.write(COMMON, offset, &area.to_le_bytes());
            }
            self.write(COMMON, 28, &1u16.to_le_bytes());
        }
        self.write(COMMON, 20, &[15]);
    }

    /// Frames go out and come back, with doorbells that are registers.
    #[track_caller]
    fn loop_frames(&mut self, count: u32) {
        let (region, offset, at) = self.structure(NOTIFY);
        let multiplier = u64::from(self.word(at + 16));
        let client = &mut self.client;
        self.guest.loop_frames_by(count, |guest| {
            for (index, driver) in [&mut guest.nic.receiveq, &mut guest.nic.transmitq].into_iter().enumerate() {
                if driver.needs_kick() {
                    let doorbell = offset + index as u64 * multiplier;
                    client.region_write(region, doorbell, &(index as u16).to_le_bytes()).unwrap();
                }
            }
        });
    }
}

#[test]
fn frames_go_round_through_a_function_that_another_client_drives() {
    let house = House::with(&[&function(1)]);
    for layout in [Layout::Split, Layout::Packed] {
        let mut machine = Machine::new(&house, 1, layout);
        assert_eq!(machine.word(0), 0x1041_1af4);
        let vectors = machine.client.get_irq_info(MSIX).unwrap().count;
        assert_eq!((vectors, machine.client.get_irq_info(INTX).unwrap().count), (4, 1));
        assert_eq!(machine.read(DEVICE, 0), [2, 0, 0, 0, 0, 1]);
        machine.connect();
        machine.drive();
        machine.loop_frames(500);
        for call in &machine.guest.calls {
            let mut count = [0; 8];
            assert_eq!(rustix::io::read(call, &mut count), Ok(8), "it was interrupted");
        }
        // Without memory queues stand still; a reset forgets them.
        let (gpa, len_bytes) = (machine.guest.nic.ram().gpa(), machine.guest.nic.ram().len_bytes());
        machine.client.dma_unmap(gpa, len_bytes).unwrap();
        machine.client.reset().unwrap();
        assert_eq!(machine.read(COMMON, 20), [0]);
        machine.guest = Guest::new(layout, false);
        machine.connect();
        machine.drive();
        machine.loop_frames(100);
    }
    house.end();
}

#[test]
fn what_a_driver_has_made_of_its_function_is_shown() {
    const CONFIG_VECTOR: u64 = 16;
    // A pair, and a control queue; of a PF that can have VFs, and so administers them.
    let limits = Limits { vfs_per_pf: 1, msix_vf: 4, ..Limits::default() };
    let house = House::of(&format!(r#"{{"devices": [{{{}}}]}}"#, function(1)), limits);
    for layout in [Layout::Split, Layout::Packed] {
        let mut machine = Machine::new(&house, 1, layout);
        let shown = house.query();
        let offered = [0, 1].map(|half: u32| {
            machine.write(COMMON, 0, &half.to_le_bytes());
            u64::from(u32::from_le_bytes(machine.read(COMMON, 4))) << (32 * half)
        });
        assert_eq!(shown["device_feature"]["value"], format!("{:#x}", offered[0] | offered[1]));
        assert_eq!((&shown["num_msix"], &shown["num_queues"]), (&json!("4"), &json!("4")), "{shown}");
        let untouched = |shown: &Value| {
            let values = ["driver_feature", "status"].map(|key| shown[key]["value"].clone());
            let others = ["msix_config_vector", "ctrl_mac", "ctrl_mq", "enabled_queues"].map(|key| shown[key].clone());
            assert_eq!(values, ["0x0", "0x0"]);
            assert_eq!(others, ["0xFFFF", "00:00:00:00:00:00", "0", "0"]);
            assert_eq!(shown["enabled-queues-info"], json!([]));
        };
        untouched(&shown);

        machine.connect();
        machine.write(COMMON, CONFIG_VECTOR, &2u16.to_le_bytes());
        machine.drive();
        machine.loop_frames(10);
        let shown = house.query();
        let accepted = machine.guest.features() | VIRTIO_F_ACCESS_PLATFORM;
        assert_eq!(shown["driver_feature"]["value"], format!("{accepted:#x}"));
        assert_eq!((&shown["status"]["value"], &shown["ctrl_mac"]), (&json!("0xf"), &shown["mac"]));
        assert_eq!((&shown["msix_config_vector"], &shown["enabled_queues"]), (&json!("0x2"), &json!("2")));
        for index in 0..2 {
            let (queue, driver) = (&shown["enabled-queues-info"][index], machine.guest.driver(index));
            let at = driver.addresses();
            let areas = [at.descriptor, at.driver, at.device].map(|area| format!("{area:#x}"));
            assert_eq!(
                ["descriptor_address", "driver_address", "device_address"].map(|key| &queue[key]),
                areas.each_ref()
            );
            let (number, size) = (index.to_string(), driver.size().to_string());
            assert_eq!(
                ["index", "size", "enable", "notify_offset"].map(|key| &queue[key]),
                [&number, &size, "1", &number]
            );
            assert_eq!(queue["msix_vector"], format!("{index:#x}"));
        }
        // A vector that the function does not have is none.
        machine.write(COMMON, 22, &0u16.to_le_bytes());
        machine.write(COMMON, 26, &4u16.to_le_bytes());
        assert_eq!(house.query()["enabled-queues-info"][0]["msix_vector"], "0xffff");
        machine.write(COMMON, 20, &[0]);
        assert_eq!(machine.read(COMMON, 20), [0]);
        untouched(&house.query());
    }
    house.end();
}

#[test]
fn functions_of_one_process_do_not_feel_each_other() {
    let house = House::with(&[&function(1), &function(2)]);
    let [mut first, mut second] = [1, 2].map(|n| Machine::new(&house, n, Layout::Split));
    for machine in [&mut first, &mut second] {
        machine.connect();
        machine.drive();
        machine.loop_frames(100);
    }
    // A client that leaves without a word takes nothing from the other, and another one finds its function.
    drop(first);
    second.loop_frames(200);
    let mut third = Machine::new(&house, 1, Layout::Packed);
    third.connect();
    third.drive();
    third.loop_frames(200);
    second.loop_frames(200);
    house.end();
}
