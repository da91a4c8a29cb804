//! Ethernet ports, and those of them that are virtual devices of one thread: `net_virtio_user`, `net_vhost`, and whatever else needs
//! no hardware.

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

/// A device with a queue each way, started. It is taken away when this is dropped.
#[derive(Debug)]
pub(crate) struct Device {
    devargs: CString,
    port: u16,
}

impl Device {
    /// Makes or takes the device and starts it; DPDK is started.
    pub(crate) fn open(devargs: &str, queue_size: u16, pool: Pool) -> Result<Self, Error> {
        let text = CString::new(devargs)?;
        let mut port = 0;
        // SAFETY: a text that ends with a zero, a place for the number, and DPDK is started.
        match unsafe { shim::shim_device_add(text.as_ptr(), &mut port) } {
            0 => {}
            code => return Err(Error::refused(format!("making {devargs}"), code)),
        }
        let device = Device { devargs: text, port };
        // SAFETY: the port is there, and its pool stays as long as it has buffers of it.
        match unsafe { shim::shim_port_start(port, queue_size, queue_size, pool.as_ptr()) } {
            0 => Ok(device),
            code => Err(Error::refused(format!("starting {devargs}"), code)),
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn is_up(&self) -> bool {
        // SAFETY: the port is there as long as this is.
        unsafe { shim::shim_port_link_is_up(self.port) == 1 }
    }

    /// # Safety
    /// Nobody else uses its receive queue at the same time.
    #[inline]
    pub(crate) unsafe fn receive(&self, burst: &mut Burst) -> usize {
        // SAFETY: the port is started, only the caller uses its queue, and it hands over what it says it does.
        unsafe { burst.receive(|frames, room| shim::shim_port_receive(self.port, frames, room)) }
    }

    /// # Safety
    /// Nobody else uses its transmit queue at the same time.
    #[inline]
    pub(crate) unsafe fn transmit(&self, burst: &mut Burst, count: usize) -> usize {
        // SAFETY: the port is started, only the caller uses its queue, and it takes over what it says it does.
        unsafe { burst.transmit(count, |frames, count| shim::shim_port_transmit(self.port, frames, count)) }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // Nobody can be told. A port that does not stop is not used any more, either.
        // SAFETY: the port is there, and nobody uses it after this.
        unsafe {
            shim::shim_port_stop(self.port);
            shim::shim_device_remove(self.devargs.as_ptr());
        }
    }
}

/// A virtual device of the thread that made it. It is taken away when this is dropped.
#[derive(Debug)]
pub struct Port {
    device: Device,
    _of_this_thread: PhantomData<*const ()>,
}

impl Port {
    /// Makes the device and starts it; waits for whoever is at its other end. `name` says which driver.
    ///
    /// # Errors
    /// What DPDK objects to; nothing is left of it then.
    pub fn new(_eal: &Eal, name: &str, arguments: &str, options: PortOptions) -> Result<Self, Error> {
        let device = Device::open(&format!("{name},{arguments}"), options.queue_size, options.pool)?;
        Ok(Port { device, _of_this_thread: PhantomData })
    }

    /// Whether its link is up: whether there is somebody at its other end.
    pub fn is_up(&self) -> bool {
        self.device.is_up()
    }

    /// What it has counted.
    ///
    /// # Errors
    /// Its driver does not say.
    pub fn counters(&self) -> Result<Counters, Error> {
        let mut found = [0; 6];
        // SAFETY: the port is there, and so is room for six numbers.
        match unsafe { shim::shim_port_counters(self.device.port, found.as_mut_ptr()) } {
            0 => {}
            code => return Err(Error::refused(format!("counters of {}", self.device.devargs.to_string_lossy()), code)),
        }
        let [received, received_bytes, transmitted, transmitted_bytes, missed, errors] = found;
        Ok(Counters { received, received_bytes, transmitted, transmitted_bytes, missed, errors })
    }

    /// Receives as many frames as have come and there is room for. Returns how many that were.
    #[inline]
    pub fn receive(&mut self, burst: &mut Burst) -> usize {
        // SAFETY: the device is ours alone.
        unsafe { self.device.receive(burst) }
    }

    /// Transmits the first frames of a burst, as many as there is room for now; the others stay. Returns how many went.
    #[inline]
    pub fn transmit(&mut self, burst: &mut Burst) -> usize {
        let count = burst.len();
        // SAFETY: the device is ours alone.
        unsafe { self.device.transmit(burst, count) }
    }
}
