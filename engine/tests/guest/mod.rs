//! A simulated guest with one card, on real memory, for tests of the engine.

use std::sync::Arc;

use virtnet_engine::{DeviceId, Engine};
use virtnet_rings::guest::net::{Nic, NicOptions};
use virtnet_rings::guest::{Driver, Ram};
use virtnet_rings::memory::{GuestMemory, RegionSpec};
use virtnet_rings::spec::net::VIRTIO_NET_F_MRG_RXBUF;
use virtnet_rings::{Layout, Notifier, Queue, QueueAddresses, QueueSetup};

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
        let region = RegionSpec {
            gpa: ram.gpa(),
            len_bytes: ram.len_bytes(),
            frontend_address: ram.user_address(),
            fd: ram.fd().try_clone_to_owned().unwrap(),
            offset_bytes: 0,
        };
        let memory = GuestMemory::new(vec![region]).unwrap();
        let mergeable = u64::from(options.mergeable) << VIRTIO_NET_F_MRG_RXBUF;
        Guest { nic: Nic::new(&ram, options).unwrap(), memory, features: features | mergeable }
    }

    /// Connects its queues, which nobody has used yet.
    pub fn plug(&self, engine: &mut Engine, device: DeviceId) {
        for (index, driver) in [&self.nic.receiveq, &self.nic.transmitq].into_iter().enumerate() {
            engine.attach(device, index as u16, self.queue(driver), self.features, true).unwrap();
        }
    }

    fn queue(&self, driver: &Driver) -> Queue {
        let at = driver.addresses();
        QueueSetup {
            layout: driver.layout(),
            size: driver.size(),
            addresses: QueueAddresses {
                descriptor_area: at.descriptor,
                driver_area: at.driver,
                device_area: at.device,
            },
            base: if driver.layout() == Layout::Packed { 0x8000_8000 } else { 0 },
            features: self.features,
            call: Notifier::default(),
            kick: Notifier::default(),
            log: None,
        }
        .activate(self.memory.clone())
        .unwrap()
    }
}
