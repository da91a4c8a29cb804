//! A guest's memory and queues as a device is told of them.

use super::{Driver, Ram};
use crate::memory::{GuestMemory, RegionSpec};
use crate::{Notifier, QueueAddresses, QueueSetup};
use std::io;
use std::sync::Arc;

impl Ram {
    /// The whole of it as one region, for a device.
    ///
    /// # Errors
    /// Where there are no descriptors left, or no address space.
    pub fn guest_memory(&self) -> io::Result<Arc<GuestMemory>> {
        let region = RegionSpec {
            gpa: self.gpa(),
            len_bytes: self.len_bytes(),
            frontend_address: self.user_address(),
            fd: self.fd().try_clone_to_owned()?,
            offset_bytes: 0,
        };
        GuestMemory::new(vec![region]).map_err(io::Error::other)
    }
}

impl Driver {
    /// What a device needs to know of a queue that nobody has used yet, by polling on both sides; `features` are those
    /// negotiated.
    pub fn setup(&self, features: u64) -> QueueSetup {
        let at = self.addresses();
        QueueSetup {
            layout: self.layout(),
            size: self.size(),
            addresses: QueueAddresses {
                descriptor_area: at.descriptor,
                driver_area: at.driver,
                device_area: at.device,
            },
            base: self.layout().base(),
            features,
            call: Notifier::default(),
            kick: Notifier::default(),
            log: None,
        }
    }
}
