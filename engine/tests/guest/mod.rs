//! A simulated guest with one card, on real memory, for tests of the engine.

use std::sync::Arc;

use virtnet_engine::{DeviceId, Engine};
use virtnet_rings::QueueSetup;
use virtnet_rings::guest::Ram;
use virtnet_rings::guest::net::{Nic, NicOptions};
use virtnet_rings::memory::GuestMemory;
use virtnet_rings::spec::net::{VIRTIO_NET_F_HASH_REPORT, VIRTIO_NET_F_MRG_RXBUF};
use virtnet_rings::spec::virtq::{VIRTIO_F_EVENT_IDX, VIRTIO_F_IN_ORDER, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_VERSION_1};

/// A guest with one card.
pub struct Guest {
    /// Its card.
    pub nic: Nic,
    memory: Arc<GuestMemory>,
    features: u64,
}

impl Guest {
    /// A guest that accepted `features`, and what its options say.
    pub fn new(options: NicOptions, features: u64) -> Self {
        let ram = Arc::new(Ram::new(64 << 20, 0x10_0000).unwrap());
        let queue = options.queue;
        let bits = [
            (queue.event_idx, VIRTIO_F_EVENT_IDX),
            (queue.in_order, VIRTIO_F_IN_ORDER),
            (queue.indirect, VIRTIO_F_INDIRECT_DESC),
            (options.mergeable, VIRTIO_NET_F_MRG_RXBUF),
            (options.hash_report, VIRTIO_NET_F_HASH_REPORT),
            (!options.legacy, VIRTIO_F_VERSION_1),
        ];
        let features = bits.iter().filter(|(on, _)| *on).fold(features, |all, (_, bit)| all | 1 << bit);
        Guest { nic: Nic::new(&ram, options).unwrap(), memory: ram.guest_memory().unwrap(), features }
    }

    /// Connects its queues, which nobody has used yet.
    pub fn plug(&self, engine: &mut Engine, device: DeviceId) {
        self.plug_at(engine, device, self.fresh_bases());
    }

    /// Connects its queues, receiveq and transmitq, to go on from these bases.
    pub fn plug_at(&self, engine: &mut Engine, device: DeviceId, bases: [u32; 2]) {
        self.plug_as(0, engine, device, bases);
    }

    /// The same as one of the device's pairs.
    pub fn plug_as(&self, pair: u16, engine: &mut Engine, device: DeviceId, bases: [u32; 2]) {
        for (index, driver) in [&self.nic.receiveq, &self.nic.transmitq].into_iter().enumerate() {
            let setup = QueueSetup { base: bases[index], ..driver.setup(self.features) };
            let queue = setup.activate(self.memory.clone()).unwrap();
            engine.attach(device, 2 * pair + index as u16, queue, self.features, true).unwrap();
        }
    }

    /// Where its queues start, receiveq and transmitq.
    pub fn fresh_bases(&self) -> [u32; 2] {
        [&self.nic.receiveq, &self.nic.transmitq].map(|driver| driver.setup(self.features).base)
    }
}
