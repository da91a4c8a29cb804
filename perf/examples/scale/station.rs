//! A guest of some queue pairs, and its device.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use anyhow::Result;
use rustix::event::{EventfdFlags, eventfd};
use virtnet_engine::{DeviceConfig, DeviceId, Engine, PortConfig};
use virtnet_rings::guest::net::{Nic, NicOptions};
use virtnet_rings::guest::{Driver, Ram};
use virtnet_rings::spec::virtq::VIRTIO_F_VERSION_1;
use virtnet_rings::{Layout, Notifier, QueueSetup};

const RAM_GPA: u64 = 0x10_0000;
/// Ethernet, without its check sequence; 64 bytes on the wire.
const FRAME_BYTES: u32 = 60;
const BURST: usize = 32;

/// One guest.
pub struct Station {
    pub device: DeviceId,
    pub nics: Vec<Nic>,
    kicks: Vec<[Option<OwnedFd>; 2]>,
    pub mac: [u8; 6],
    /// Frames received whose receipt nobody has asked for.
    pub received: u64,
}

/// What a guest is like.
#[derive(Clone, Copy)]
pub struct Kind {
    pub layout: Layout,
    pub pairs: u16,
    pub queue_size: u16,
    /// It kicks where it is asked to; else it leaves the device to poll.
    pub kicks: bool,
}

impl Station {
    /// A guest, plugged in. `workers` as in [`DeviceConfig`].
    pub fn new(engine: &mut Engine, number: u16, kind: Kind, port: PortConfig, workers: Vec<usize>) -> Result<Self> {
        let queue_bytes = usize::from(kind.queue_size) * 2 * 2048 + (64 << 10);
        let ram_bytes = (usize::from(kind.pairs) * queue_bytes).next_power_of_two();
        let ram = Arc::new(Ram::new(ram_bytes, RAM_GPA)?);
        let memory = ram.guest_memory()?;
        let options = NicOptions { layout: kind.layout, size: kind.queue_size, ..NicOptions::default() };
        let device = engine.add_device(DeviceConfig { pairs: kind.pairs, port, workers })?;
        let mut nics = Vec::new();
        let mut kicks = Vec::new();
        for pair in 0..kind.pairs {
            let nic = Nic::new(&ram, options.clone())?;
            let kick = || kind.kicks.then(|| eventfd(0, EventfdFlags::CLOEXEC)).transpose();
            let pair_kicks = [kick()?, kick()?];
            for (at, driver) in [(0, &nic.receiveq), (1, &nic.transmitq)] {
                let copy = pair_kicks[usize::from(at)].as_ref().map(OwnedFd::try_clone).transpose()?;
                let setup = QueueSetup { kick: Notifier::new(copy), ..driver.setup(1 << VIRTIO_F_VERSION_1) };
                let features = setup.features;
                engine.attach(device, 2 * pair + at, setup.activate(memory.clone())?, features, true)?;
            }
            nics.push(nic);
            kicks.push(pair_kicks);
        }
        let [high, low] = number.to_be_bytes();
        Ok(Station { device, nics, kicks, mac: [2, 0, 0, 0, high, low], received: 0 })
    }

    fn kick(driver: &mut Driver, kick: &Option<OwnedFd>) -> Result<()> {
        if let Some(kick) = kick
            && driver.needs_kick()
        {
            rustix::io::write(kick, &1u64.to_ne_bytes())?;
        }
        Ok(())
    }

    /// A burst on each queue, with whatever was in the buffers.
    pub fn flood(&mut self) -> Result<()> {
        for (nic, [_, kick]) in self.nics.iter_mut().zip(&self.kicks) {
            nic.send_burst(BURST, |_, _| FRAME_BYTES)?;
            Self::kick(&mut nic.transmitq, kick)?;
        }
        Ok(())
    }

    /// Up to `count` frames on the first queue. Returns how many there was room for.
    pub fn send(&mut self, to: [u8; 6], count: usize) -> Result<usize> {
        let from = self.mac;
        let nic = &mut self.nics[0];
        let sent = nic.send_burst(count, |ram, slot| {
            ram.write(slot.gpa, &to);
            ram.write(slot.gpa + 6, &from);
            ram.write(slot.gpa + 12, &[0x88, 0xb5]);
            FRAME_BYTES
        })?;
        Self::kick(&mut nic.transmitq, &self.kicks[0][1])?;
        Ok(sent)
    }

    /// Takes in what has arrived. Returns how many frames were from `from`.
    pub fn listen(&mut self, from: [u8; 6]) -> Result<u64> {
        let (mut of_these, mut all) = (0, 0);
        for (nic, [kick, _]) in self.nics.iter_mut().zip(&self.kicks) {
            nic.receive_burst(|ram, received| {
                if received.part == 0 {
                    let mut source = [0; 6];
                    ram.read(received.gpa + 6, &mut source);
                    of_these += u64::from(source == from);
                    all += 1;
                }
            })?;
            Self::kick(&mut nic.receiveq, kick)?;
        }
        self.received += all;
        Ok(of_these)
    }
}
