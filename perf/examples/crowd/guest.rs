//! Two guests behind vhost-user sockets, one of which sends to the other.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hdrhistogram::Histogram;
use rustix::event::{EventfdFlags, eventfd};
use virtnet_control::vhost_user::frontend::{Frontend, PROTOCOL_FEATURES, RingSetup, SharedRegion};
use virtnet_control::vhost_user::message::{MemoryRegion, VringBase};
use virtnet_rings::guest::net::{Nic, NicOptions};
use virtnet_rings::guest::{Driver, Ram};
use virtnet_rings::spec::virtq::VIRTIO_F_VERSION_1;

const TIMEOUT: Duration = Duration::from_secs(5);
const LATENCY_NS_MAX: u64 = 60_000_000_000;
const RAM_BYTES: usize = 4 << 20;
const BURST: usize = 32;
/// No more on the way than a receiver's inbox holds.
const ON_THE_WAY: u64 = 128;
/// Ethernet, without its check sequence; 64 bytes on the wire.
const FRAME_BYTES: u32 = 60;
/// Where a frame says when it was sent.
const STAMP: u64 = 14;
const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];

/// A guest of one pair.
struct Guest {
    nic: Nic,
    kicks: [OwnedFd; 2],
    /// Nobody listens: it polls.
    _calls: [OwnedFd; 2],
    _frontend: Frontend,
}

impl Guest {
    fn new(socket: &Path) -> Result<Self> {
        let ram = Arc::new(Ram::new(RAM_BYTES, 0x10_0000)?);
        let nic = Nic::new(&ram, NicOptions::default())?;
        let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let (kicks, calls) = ([event()?, event()?], [event()?, event()?]);
        let mut frontend = Frontend::connect(socket, TIMEOUT, TIMEOUT)?;
        frontend.negotiate(1 << VIRTIO_F_VERSION_1, PROTOCOL_FEATURES)?;
        let region = MemoryRegion {
            guest_addr: ram.gpa(),
            size_bytes: ram.len_bytes(),
            user_addr: ram.user_address(),
            mmap_offset: 0,
        };
        frontend.share_memory(&[SharedRegion { region, file: ram.fd() }])?;
        let user = |gpa: u64| gpa - ram.gpa() + ram.user_address();
        for (index, driver) in [(0, &nic.receiveq), (1, &nic.transmitq)] {
            let at = driver.addresses();
            let setup = RingSetup {
                size: driver.size().into(),
                base: VringBase::start(false),
                descriptor_addr: user(at.descriptor),
                driver_addr: user(at.driver),
                device_addr: user(at.device),
                log_addr: None,
                kick: Some(kicks[usize::from(index)].as_fd()),
                call: Some(calls[usize::from(index)].as_fd()),
                err: None,
            };
            frontend.start_ring(index, &setup)?;
        }
        Ok(Guest { nic, kicks, _calls: calls, _frontend: frontend })
    }

    fn kick(driver: &mut Driver, kick: &OwnedFd) {
        if driver.needs_kick() {
            // One that is full says it already.
            let _ = rustix::io::write(kick, &1u64.to_ne_bytes());
        }
    }

    fn send(&mut self, from: [u8; 6], to: [u8; 6], count: usize, stamp_ns: u64) -> Result<u64> {
        let sent = self.nic.send_burst(count, |ram, slot| {
            ram.write(slot.gpa, &to);
            ram.write(slot.gpa + 6, &from);
            ram.write(slot.gpa + 12, &[0x88, 0xb5]);
            ram.write(slot.gpa + STAMP, &stamp_ns.to_le_bytes());
            FRAME_BYTES
        })?;
        Self::kick(&mut self.nic.transmitq, &self.kicks[1]);
        Ok(sent as u64)
    }

    /// Takes in what has arrived from `from`; shows when each was sent.
    fn receive(&mut self, from: [u8; 6], mut show: impl FnMut(u64)) -> Result<u64> {
        let mut count = 0;
        self.nic.receive_burst(|ram, received| {
            let (mut source, mut stamp_ns) = ([0; 6], [0; 8]);
            ram.read(received.gpa + 6, &mut source);
            ram.read(received.gpa + STAMP, &mut stamp_ns);
            if source == from {
                count += 1;
                show(u64::from_le_bytes(stamp_ns));
            }
        })?;
        Self::kick(&mut self.nic.receiveq, &self.kicks[0]);
        Ok(count)
    }
}

/// What went from one to the other in a window.
pub struct Window {
    pub seconds: f64,
    pub received: u64,
    pub lost: u64,
    /// From before a frame was sent until it was taken in, in nanoseconds.
    pub latency: Histogram<u64>,
}

/// Two guests.
pub struct Exchange {
    guests: [Guest; 2],
    rate: Option<f64>,
    lcore: usize,
}

impl Exchange {
    /// Two guests, which know each other, on one lcore.
    pub fn new(sockets: &[PathBuf; 2], rate: Option<f64>, lcore: usize) -> Result<Self> {
        let mut guests = [Guest::new(&sockets[0])?, Guest::new(&sockets[1])?];
        let end = Instant::now() + TIMEOUT;
        // The switch hears where the second is.
        guests[1].send(MACS[1], MACS[0], 1, 0)?;
        while guests[0].receive(MACS[1], |_| {})? == 0 {
            ensure!(Instant::now() < end, "a greeting did not arrive");
        }
        Ok(Exchange { guests, rate, lcore })
    }

    /// Sends until `stop`, then waits for what is on its way.
    pub fn run(&mut self, stop: &AtomicBool) -> Result<Window> {
        core_affinity::set_for_current(core_affinity::CoreId { id: self.lcore });
        let [sender, receiver] = &mut self.guests;
        let (mut sent, mut received, mut latency) = (0, 0, Histogram::<u64>::new_with_max(LATENCY_NS_MAX, 3)?);
        let start = Instant::now();
        let now_ns = || start.elapsed().as_nanos() as u64;
        let mut arrive = |received: &mut u64, latency: &mut Histogram<u64>| {
            let now_ns = now_ns();
            let count =
                receiver.receive(MACS[0], |stamp_ns| latency.saturating_record(now_ns.saturating_sub(stamp_ns)))?;
            *received += count;
            anyhow::Ok(())
        };
        while !stop.load(Ordering::Relaxed) {
            let due = self.rate.map_or(u64::MAX, |rate| (start.elapsed().as_secs_f64() * rate) as u64);
            let count = due.min(received + ON_THE_WAY).saturating_sub(sent).min(BURST as u64);
            sent += sender.send(MACS[0], MACS[1], count as usize, now_ns())?;
            arrive(&mut received, &mut latency)?;
        }
        let seconds = start.elapsed().as_secs_f64();
        let in_time = received;
        let end = Instant::now() + Duration::from_millis(200);
        while received < sent && Instant::now() < end {
            arrive(&mut received, &mut latency)?;
        }
        Ok(Window { seconds, received: in_time, lost: sent - received, latency })
    }
}
