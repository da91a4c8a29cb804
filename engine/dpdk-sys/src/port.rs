//! Ethernet ports that are virtual devices: `net_virtio_user`, `net_vhost`, and whatever else needs no hardware.

// UNSAFETY: calls of the shim.
#![expect(unsafe_code)]

use std::ffi::CString;
use std::marker::PhantomData;

use crate::burst::Burst;
use crate::eal::Eal;
use crate::error::Error;
use crate::pool::Pool;
use crate::shim;

/// How a port is set up.
#[derive(Clone, Copy, Debug)]
pub struct PortOptions {
    /// Descriptors of its receive queue and of its transmit queue.
    pub queue_size: u16,
    /// Where buffers for what it receives come from.
    pub pool: Pool,
}

/// What a port has counted since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames that came in.
    pub received: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Frames that went out.
    pub transmitted: u64,
    /// Their bytes.
    pub transmitted_bytes: u64,
    /// Frames for which there was no room.
    pub missed: u64,
    /// Frames that were wrong, or did not go out.
    pub errors: u64,
}

/// A virtual device with a queue each way, started. It is taken away when this is dropped.
#[derive(Debug)]
pub struct Port {
    name: CString,
    number: u16,
    _of_this_thread: PhantomData<*const ()>,
}

impl Port {
    /// Makes the device and starts it; waits for whoever is at its other end. `name` says which driver.
    ///
    /// # Errors
    /// What DPDK objects to; nothing is left of it then.
    pub fn new(_eal: &Eal, name: &str, arguments: &str, options: PortOptions) -> Result<Self, Error> {
        let PortOptions { queue_size, pool } = options;
        let (text, list) = (CString::new(name)?, CString::new(arguments)?);
        let mut number = 0;
        // SAFETY: two texts that end with a zero, a place for the number, and DPDK is started.
        match unsafe { shim::shim_vdev_add(text.as_ptr(), list.as_ptr(), &mut number) } {
            0 => {}
            code => return Err(Error::refused(format!("making {name},{arguments}"), code)),
        }
        let port = Port { name: text, number, _of_this_thread: PhantomData };
        // SAFETY: the port is there, and pools stay.
        match unsafe { shim::shim_port_start(number, queue_size, queue_size, pool.as_ptr()) } {
            0 => Ok(port),
            code => Err(Error::refused(format!("starting {name},{arguments}"), code)),
        }
    }

    /// Whether its link is up: whether there is somebody at its other end.
    pub fn is_up(&self) -> bool {
        // SAFETY: the port is there as long as this is.
        unsafe { shim::shim_port_link_is_up(self.number) == 1 }
    }

    /// What it has counted.
    ///
    /// # Errors
    /// Its driver does not say.
    pub fn counters(&self) -> Result<Counters, Error> {
        let mut found = [0; 6];
        // SAFETY: the port is there, and so is room for six numbers.
        match unsafe { shim::shim_port_counters(self.number, found.as_mut_ptr()) } {
            0 => {}
            code => return Err(Error::refused(format!("counters of {}", self.name.to_string_lossy()), code)),
        }
        let [received, received_bytes, transmitted, transmitted_bytes, missed, errors] = found;
        Ok(Counters { received, received_bytes, transmitted, transmitted_bytes, missed, errors })
    }

    /// Receives as many frames as have come and there is room for. Returns how many that were.
    #[inline]
    pub fn receive(&mut self, burst: &mut Burst) -> usize {
        // SAFETY: the port is started, only we use its queue, and it hands over what it says it does.
        unsafe { burst.receive(|frames, room| shim::shim_port_receive(self.number, frames, room)) }
    }

    /// Transmits the first frames of a burst, as many as there is room for now; the others stay. Returns how many went.
    #[inline]
    pub fn transmit(&mut self, burst: &mut Burst) -> usize {
        // SAFETY: the port is started, only we use its queue, and it takes over what it says it does.
        unsafe { burst.transmit(|frames, count| shim::shim_port_transmit(self.number, frames, count)) }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        // Nobody can be told. A port that does not stop is not used any more, either.
        // SAFETY: the port is there, and nobody uses it after this.
        unsafe {
            shim::shim_port_stop(self.number);
            shim::shim_vdev_remove(self.name.as_ptr());
        }
    }
}
