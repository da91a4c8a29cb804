//! Everything in this process: simulated guests, the engine with its workers, and a port.

use std::sync::Arc;

use anyhow::{Context, Result};
use rustix::process::Pid;
use virtnet_engine::port::pcap::{Pace, PcapConfig, ReplayConfig};
use virtnet_engine::port::source::SourceConfig;
use virtnet_engine::{DeviceConfig, DeviceId, Engine, EngineConfig, IdlePolicy, LcoreLoad, PortConfig};
use virtnet_rings::guest::Driver;
use virtnet_rings::memory::{GuestMemory, RegionSpec};
use virtnet_rings::spec::virtq::{VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1};
use virtnet_rings::{Layout, Notifier, QueueAddresses, QueueSetup};

use super::{Bed, Counted};
use crate::args::Direction;
use crate::frame::{Addressing, STAMP_OFFSET, template};
use crate::load::{Guest, Load, LoadOptions, Traffic};
use crate::plan::Plan;

/// Templates of a source: enough that a stale buffer is told from a fresh one.
const TEMPLATES: usize = 24;

/// Guests, engine, port.
#[derive(Debug)]
pub struct InProcess {
    engine: Engine,
    devices: Vec<DeviceId>,
    load: Load,
}

impl InProcess {
    /// Starts an engine and attaches one guest, or two where frames go from one to the other.
    ///
    /// # Errors
    /// No memory, or the engine refuses.
    pub fn new(plan: &Plan, direction: Direction) -> Result<Self> {
        let mut engine = start(plan)?;
        let count = if direction == Direction::GuestToGuest { 2 } else { 1 };
        let mut guests = Vec::new();
        let mut devices = Vec::new();
        for number in 0..count {
            let guest = Guest::new(&plan.guest_options(), number, (number + 1) % 2)?;
            devices.push(attach(&mut engine, plan, &guest, port(plan, direction), Vec::new())?);
            guests.push(guest);
        }
        let options = LoadOptions {
            direction,
            burst: plan.burst,
            lcores: plan.division.drivers.clone(),
            shared_lcore: plan.division.is_shared(),
            persistent: plan.smoke,
            inject: plan.inject,
            beside: None,
        };
        Ok(InProcess { engine, devices, load: Load::new(guests, options)? })
    }
}

impl Bed for InProcess {
    fn load(&mut self) -> &mut Load {
        &mut self.load
    }

    fn counted(&mut self) -> Result<Option<Counted>> {
        counted(&mut self.engine, &self.devices).map(Some)
    }

    fn workers(&mut self) -> Vec<LcoreLoad> {
        self.engine.lcores().lcores
    }

    fn process(&self) -> Option<Pid> {
        Some(rustix::process::getpid())
    }

    fn dismantle(mut self: Box<Self>) -> Result<()> {
        for &device in &self.devices {
            self.engine.remove_device(device).context("stopping the device")?;
        }
        Ok(())
    }
}

/// An engine on the plan's lcores.
pub(super) fn start(plan: &Plan) -> Result<Engine> {
    let config = EngineConfig {
        lcores: plan.division.workers.iter().copied().map(Some).collect(),
        // On an lcore of its own a worker polls; otherwise it leaves the guest its turn.
        idle: if plan.division.is_shared() { IdlePolicy::Adaptive } else { IdlePolicy::Poll },
        burst: usize::from(plan.burst),
    };
    Engine::start(config).context("the engine")
}

/// What devices of an engine have counted.
pub(super) fn counted(engine: &mut Engine, devices: &[DeviceId]) -> Result<Counted> {
    let mut sum = Counted::default();
    for &device in devices {
        for queue in engine.counters(device)? {
            if !queue.queue_index.is_multiple_of(2) {
                sum.from_guest += queue.counts.packets;
                sum.from_guest_bytes += queue.counts.bytes;
            }
            sum.drops += queue.counts.dropped();
        }
    }
    if let Some(event) = engine.watch().first() {
        anyhow::bail!("the engine retired queue {}: {}", event.queue_index, event.violation);
    }
    Ok(sum)
}

/// What a device is connected to.
pub(super) fn port(plan: &Plan, direction: Direction) -> PortConfig {
    match direction {
        Direction::FromGuest => PortConfig::Sink,
        Direction::Loopback => PortConfig::Loopback,
        Direction::GuestToGuest => PortConfig::Switch,
        Direction::ToGuest => match generator(plan) {
            Generator::Source(config) => PortConfig::Source(config),
            Generator::Replay(config) => PortConfig::Pcap(PcapConfig { replay: Some(config), record: None }),
        },
    }
}

/// What sends what the guest is to receive.
pub(super) enum Generator {
    /// Frames of our own.
    Source(SourceConfig),
    /// Those of a capture.
    Replay(ReplayConfig),
}

/// The generator of a plan.
pub(super) fn generator(plan: &Plan) -> Generator {
    match &*plan.traffic {
        Traffic::Scripted(script) => {
            let pace = match (&plan.timetable, plan.rate_pps) {
                (Some(_), _) => Pace::AsCaptured,
                (None, Some(pps)) => Pace::Rate(pps),
                (None, None) => Pace::AsFastAsPossible,
            };
            Generator::Replay(ReplayConfig { capture: Arc::clone(&script.capture), pace, repeat: true })
        }
        Traffic::Stamped(sizes) => {
            let frame = |index| template(sizes.at(index), 0, index as u32, Addressing::between(1, 0));
            Generator::Source(SourceConfig {
                templates: (0..TEMPLATES.next_multiple_of(sizes.period())).map(frame).collect(),
                rate_fps: plan.rate_pps.map(|rate| rate / f64::from(plan.queues)),
                stamp_offset: Some(STAMP_OFFSET as u16),
                count: None,
            })
        }
    }
}

/// A guest's memory as the device sees it.
pub(super) fn guest_memory(guest: &Guest) -> Result<Arc<GuestMemory>> {
    let region = RegionSpec {
        gpa: guest.ram.gpa(),
        len_bytes: guest.ram.len_bytes(),
        frontend_address: guest.ram.user_address(),
        fd: guest.ram.fd().try_clone_to_owned()?,
        offset_bytes: 0,
    };
    Ok(GuestMemory::new(vec![region])?)
}

/// Makes a device, served by these workers (see [`DeviceConfig`]), and gives it the guest's queues.
pub(super) fn attach(
    engine: &mut Engine,
    plan: &Plan,
    guest: &Guest,
    port: PortConfig,
    workers: Vec<usize>,
) -> Result<DeviceId> {
    let memory = guest_memory(guest)?;
    let device = engine.add_device(DeviceConfig { pairs: plan.queues, port, workers })?;
    for (pair, lane) in (0..).zip(&guest.lanes) {
        for (index, driver) in [(2 * pair, &lane.nic().receiveq), (2 * pair + 1, &lane.nic().transmitq)] {
            let queue = queue_setup(driver, plan.feature_bits()).activate(Arc::clone(&memory))?;
            engine.attach(device, index, queue, plan.feature_bits(), true)?;
        }
    }
    Ok(device)
}

/// What makes the device's side of a queue. Both sides poll: nobody is notified.
pub(super) fn queue_setup(driver: &Driver, features: u64) -> QueueSetup {
    let addresses = driver.addresses();
    let packed = driver.layout() == Layout::Packed;
    QueueSetup {
        layout: driver.layout(),
        size: driver.size(),
        addresses: QueueAddresses {
            descriptor_area: addresses.descriptor,
            driver_area: addresses.driver,
            device_area: addresses.device,
        },
        // From the start: on the packed layout both wrap counters are 1. ("Driver and Device Ring Wrap Counters")
        base: if packed { 0x8000_8000 } else { 0 },
        features: features | 1 << VIRTIO_F_VERSION_1 | u64::from(packed) << VIRTIO_F_RING_PACKED,
        call: Notifier::default(),
        kick: Notifier::default(),
        log: None,
    }
}
