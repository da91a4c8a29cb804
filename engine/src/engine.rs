//! The engine as control sees it: workers on lcores, devices on workers. One thread owns it; it never waits for a worker
//! longer than [`REPLY_TIMEOUT`].

mod crew;
mod relocation;
mod uplinks;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use relocation::{LcoreLoad, LoadReport};
use thiserror::Error;
pub use uplinks::{Member, UplinkConfig};
use virtnet_rings::{Notifier, Queue, Violation};

use crate::announcement;
use crate::command::{Broken, Command, Reply};
use crate::counters::{CountersReader, QueueCounters, QueueCounts};
use crate::filter::Filter;
use crate::frame::hash::Hasher;
#[cfg(doc)]
use crate::frame::offload;
use crate::frame::steer::{FlowTable, Rules, Scaling, Steering};
use crate::idle::IdlePolicy;
use crate::latency::Latencies;
use crate::moderation::{Moderation, Setting};
use crate::pair::{AnyPort, Attachment, Pair, Side};
use crate::port::loopback::Loopback;
use crate::port::netdev::NetdevError;
use crate::port::pcap::{self, Pcap, PcapConfig, RecordError, Replay, ReplayError};
use crate::port::sink::Sink;
use crate::port::source::{Source, SourceConfig, SourceError};
use crate::port::switch::fdb::{Entry, Fdb, PortId, TICK_SECONDS};
use crate::port::switch::{Lane, Link, Place, PortMap, WORKERS_MAX};
use crate::port::tap::{Tap, TapConfig, TapError};
use crate::topology::Topology;
use crate::uplink::wire::{LinkState, Probe};
use crate::worker::{Desk, MESSAGES, Worker};

/// How long a worker may take to answer. A turn takes microseconds; a queue that leaves waits for what is out of it.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(5);
/// What a worker that polls needs for an answer, mostly: so long it is waited for without leaving the lcore.
const REPLY_USUAL: Duration = Duration::from_micros(20);
/// The most queue pairs a device may have.
pub const PAIRS_MAX: u16 = 128;
/// Bits of the forwarding database's buckets: 16384 addresses, 4096 ports.
const FDB_BUCKET_BITS: u32 = 12;

/// How an engine starts.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// One worker on each; a worker that is not to be pinned has `None`.
    pub lcores: Vec<Option<usize>>,
    /// What workers do when there is nothing to do.
    pub idle: IdlePolicy,
    /// Frames a burst, 1 to 256.
    pub burst: usize,
}

/// What a device is connected to.
#[derive(Clone, Debug)]
pub enum PortConfig {
    /// A port of the engine's switch.
    Switch,
    /// Itself.
    Loopback,
    /// Captures: one to replay, one to record.
    Pcap(PcapConfig),
    /// Nothing: frames are fetched and forgotten.
    Sink,
    /// A generator.
    Source(SourceConfig),
    /// A network interface of the host.
    Tap(TapConfig),
}

/// What a device is.
#[derive(Clone, Debug)]
pub struct DeviceConfig {
    /// Queue pairs, 1 to 128.
    pub pairs: u16,
    /// What it is connected to.
    pub port: PortConfig,
    /// Which workers serve its pairs, in turn; empty is whichever has least to do.
    pub workers: Vec<usize>,
}

/// Names a device or an uplink for as long as the engine runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId(u32);

#[cfg(test)]
impl DeviceId {
    pub(crate) fn for_test(number: u32) -> Self {
        Self(number)
    }
}

/// What can go wrong.
#[derive(Debug, Error)]
pub enum EngineError {
    /// Too few or too many workers.
    #[error("{found} lcores; allowed are 1 to {WORKERS_MAX}")]
    Workers {
        /// How many were asked for.
        found: usize,
    },
    /// A thread or a bell could not be made.
    #[error("starting a worker: {0}")]
    Start(#[from] std::io::Error),
    /// The lcore does not exist or is not ours to use.
    #[error("lcore {lcore} is not one of those this process may run on")]
    Lcore {
        /// Its number.
        lcore: usize,
    },
    /// No such device.
    #[error("there is no such device")]
    NoDevice,
    /// Too few or too many pairs.
    #[error("{found} queue pairs; allowed are 1 to {PAIRS_MAX}")]
    Pairs {
        /// How many were asked for.
        found: u16,
    },
    /// More queues than interfaces of the kind have.
    #[error("{found} queues; an interface of this kind has one")]
    Queues {
        /// How many were asked for.
        found: u16,
    },
    /// No queue of that index.
    #[error("queue index {index}: the device has {queues} queues")]
    QueueIndex {
        /// As found.
        index: u16,
        /// How many there are.
        queues: u16,
    },
    /// The queue is attached already, or is not attached.
    #[error("queue {index} is {}attached", if *.attached { "" } else { "not " })]
    QueueState {
        /// Which queue.
        index: u16,
        /// What it is.
        attached: bool,
    },
    /// No worker of that number.
    #[error("there is no worker {worker}")]
    NoWorker {
        /// Its number.
        worker: usize,
    },
    /// No pair of that index.
    #[error("queue pair {pair}: the device has {pairs}")]
    PairIndex {
        /// As found.
        pair: u16,
        /// How many there are.
        pairs: u16,
    },
    /// All ports of the switch are in use.
    #[error("the switch has no free port; it has {ports_max}")]
    NoPort {
        /// How many there are.
        ports_max: usize,
    },
    /// The source's configuration.
    #[error("source: {0}")]
    Source(#[from] SourceError),
    /// The capture to replay.
    #[error("replay: {0}")]
    Replay(#[from] ReplayError),
    /// The capture to record.
    #[error("recording: {0}")]
    Record(#[from] RecordError),
    /// The network interface.
    #[error("tap: {0}")]
    Tap(#[from] TapError),
    /// The same, of one that was there already.
    #[error("netdev: {0}")]
    Netdev(#[from] NetdevError),
    /// A port of DPDK's could not be opened.
    #[cfg(feature = "dpdk")]
    #[error("dpdk: {0}")]
    Dpdk(#[from] dpdk_sys::Error),
    /// A worker did not answer.
    #[error("worker {worker} has not answered for {} s", REPLY_TIMEOUT.as_secs())]
    Silent {
        /// Which one.
        worker: u16,
    },
}

/// The counters of one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueCountsOf {
    /// In vhost-user's order: receiveqs even, transmitqs odd.
    pub queue_index: u16,
    /// What it has done.
    pub counts: QueueCounts,
}

/// An address that the switch has learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LearnedAddress {
    /// The station.
    pub mac: [u8; 6],
    /// Its VLAN, 0 when untagged.
    pub vlan: u16,
    /// The device or uplink it was last heard at.
    pub device: DeviceId,
    /// Since when, in seconds, to 30 s.
    pub age_s: u64,
}

/// A queue that broke a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ViolationEvent {
    /// Whose.
    pub device: DeviceId,
    /// In vhost-user's order.
    pub queue_index: u16,
    /// What its driver did.
    pub violation: Violation,
}

#[derive(Debug)]
struct Device {
    /// It has interfaces of the host where others have queue pairs, as many queues of each: what tells of them.
    members: Vec<(Probe, LinkState)>,
    places: Vec<Place>,
    port: Option<PortId>,
    /// By queue index: whether it is enabled, if it is attached; of an uplink, whether its interface has a link, at receiveqs' places.
    /// Frames are steered to receiveqs that are both.
    attached: Vec<Option<bool>>,
    /// What its guest does not want to receive.
    filter: Option<Arc<Filter>>,
    /// What goes before the table where frames are steered.
    rules: Rules,
    /// How its driver has them steered.
    scaling: Option<Scaling>,
    /// What its driver hears of their hash.
    hasher: Option<Hasher>,
    /// By queue index.
    counters: Vec<(CountersReader, QueueCounts)>,
    /// By pair: what it had cost in nanoseconds, and how many frames had moved, when that was last asked.
    measured: Vec<(u64, u64)>,
    /// Where its guest's memory is.
    node: Option<usize>,
}

impl Device {
    /// Its port of the switch as it is now: frames are spread over the pairs that receive, or as the driver says, over pairs that do
    /// or do not. A driver may use fewer pairs than there are. ("Automatic receive steering in multiqueue mode", "RSS processing")
    fn port_map(&self) -> Option<PortMap> {
        let id = self.port?;
        if let Some(scaling) = &self.scaling {
            let steering = Steering::by(scaling).with(self.rules.clone());
            return Some(PortMap { id, places: self.places.clone().into(), steering });
        }
        let receiveqs = self.attached.iter().step_by(2);
        let receiving = self.places.iter().zip(receiveqs).filter(|&(_, &enabled)| enabled == Some(true));
        let mut places: Vec<Place> = receiving.map(|(&place, _)| place).collect();
        if places.is_empty() {
            // Somebody must count what nobody receives.
            places.clone_from(&self.places);
        }
        let count = places.len() as u16;
        let steering = if self.members.len() > 1 { Steering::over_members(count) } else { Steering::over(count) };
        let steering = steering.with(self.rules.clone());
        Some(PortMap { id, places: places.into(), steering })
    }

    /// Pairs have other numbers among those that receive, or flows another hash.
    fn forget_senders(&mut self) {
        self.rules.senders = self.rules.senders.is_some().then(Arc::<FlowTable>::default);
    }

    fn is_attached(&self, queue_index: u16) -> bool {
        self.attached.get(usize::from(queue_index)).is_some_and(Option::is_some)
    }

    /// How many virtqueues it has, attached or not.
    fn queues(&self) -> u16 {
        if self.is_uplink() { 0 } else { 2 * self.places.len() as u16 }
    }

    fn is_uplink(&self) -> bool {
        !self.members.is_empty()
    }
}

#[derive(Debug)]
struct Handle {
    desk: Arc<Desk>,
    /// None where it is turned by hand.
    thread: Option<JoinHandle<()>>,
    lcore: Option<usize>,
    slots_used: usize,
    /// It was given up on, and is asked again once it has taken what it was told.
    is_silent: bool,
    /// How busy it had been when that was last asked.
    busy_ns: u64,
}

/// Workers, and what they serve.
#[derive(Debug)]
pub struct Engine {
    workers: BTreeMap<u16, Handle>,
    /// What a new worker is made with.
    burst: usize,
    idle: IdlePolicy,
    devices: BTreeMap<DeviceId, Device>,
    /// What workers have told of their own accord and nobody has asked for yet.
    events: Vec<ViolationEvent>,
    topology: Topology,
    /// When loads were last asked for.
    measured: Instant,
    fdb: Arc<Fdb>,
    ports_used: Vec<bool>,
    next_number: u64,
    next_id: u32,
    /// How often workers were waited for.
    rounds: u64,
    started: Instant,
}

impl Engine {
    /// Starts one worker an lcore and pins it there.
    ///
    /// # Errors
    /// [`EngineError::Workers`], [`EngineError::Lcore`] and [`EngineError::Start`].
    pub fn start(config: EngineConfig) -> Result<Self, EngineError> {
        check_lcores(&config.lcores)?;
        let (mut engine, workers) = Self::by_hand(&config)?;
        for (me, worker) in workers.into_iter().enumerate() {
            let thread = crew::start(me as u16, config.lcores[me], worker, engine.started)?;
            engine.workers.entry(me as u16).and_modify(|handle| handle.thread = Some(thread));
        }
        Ok(engine)
    }

    /// An engine whose workers are the caller's to turn, on whatever thread; lcores say only how many. Whatever asks a
    /// worker waits for its turns, so another thread than the one that asks has to make them.
    ///
    /// # Errors
    /// [`EngineError::Workers`] and [`EngineError::Start`].
    pub fn by_hand(config: &EngineConfig) -> Result<(Self, Vec<Worker>), EngineError> {
        let count = config.lcores.len();
        if count == 0 || count > WORKERS_MAX {
            return Err(EngineError::Workers { found: count });
        }
        let fdb = Arc::new(Fdb::new(FDB_BUCKET_BITS));
        let desks = (0..count).map(|_| Desk::new()).collect::<Result<Vec<_>, _>>()?;
        let worker = |(me, links): (usize, Vec<Option<Link>>)| {
            let lane = Lane::new(me as u16, fdb.clone(), links);
            Worker::new(me as u16, desks.clone(), lane, config.burst, config.idle)
        };
        let workers = links(count).into_iter().enumerate().map(worker).collect();
        let handle = |(me, desk): (usize, &Arc<Desk>)| (me as u16, Handle::new(desk, config.lcores[me]));
        let engine = Engine {
            workers: desks.iter().enumerate().map(handle).collect(),
            burst: config.burst,
            idle: config.idle,
            events: Vec::new(),
            topology: Topology::of_this_machine(),
            measured: Instant::now(),
            devices: Default::default(),
            fdb,
            ports_used: Vec::new(),
            next_number: 0,
            next_id: 0,
            rounds: 0,
            started: Instant::now(),
        };
        Ok((engine, workers))
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Makes a device without queues.
    ///
    /// # Errors
    /// Whatever its configuration, its port or a worker objects to; nothing is left of it then.
    pub fn add_device(&mut self, config: DeviceConfig) -> Result<DeviceId, EngineError> {
        self.check_placement(config.pairs, &config.workers)?;
        let port = match config.port {
            PortConfig::Switch => Some(self.free_port()?),
            _ => None,
        };
        let seats = any_ports(&config, port)?.into_iter().map(|any_port| {
            move |receive, transmit| Command::AddPair(Box::new(Pair::new(any_port, receive, transmit)))
        });
        self.seat(Vec::new(), port, seats, &config.workers)
    }

    fn check_placement(&self, pairs: u16, workers: &[usize]) -> Result<(), EngineError> {
        if pairs == 0 || pairs > PAIRS_MAX {
            return Err(EngineError::Pairs { found: pairs });
        }
        match workers.iter().find(|&&worker| !self.workers.contains_key(&(worker as u16))) {
            Some(&worker) => Err(EngineError::NoWorker { worker }),
            None => Ok(()),
        }
    }

    /// Gives each part of a device to a worker. A part is made with its counters: those of what goes out of the switch, and
    /// those of what comes in.
    fn seat<S>(
        &mut self,
        members: Vec<(Probe, LinkState)>,
        port: Option<PortId>,
        seats: impl Iterator<Item = S>,
        workers: &[usize],
    ) -> Result<DeviceId, EngineError>
    where
        S: FnOnce(QueueCounters, QueueCounters) -> Command,
    {
        let (places, attached, filter, rules, scaling, hasher, counters, measured, node) = Default::default();
        let mut device =
            Device { members, places, port, attached, filter, rules, scaling, hasher, counters, measured, node };
        let mut commands = Vec::new();
        for (index, seat) in seats.enumerate() {
            let worker = match workers {
                [] => self.least_loaded(None),
                workers => workers[index % workers.len()],
            };
            let (receive, receive_reader) = QueueCounters::new();
            let (transmit, transmit_reader) = QueueCounters::new();
            self.count_slots(worker as u16, 1);
            commands.push((worker as u16, seat(receive, transmit)));
            device.attached.extend([device.is_uplink().then_some(true), None]);
            device.measured.push((0, 0));
            device.counters.extend([receive_reader, transmit_reader].map(|reader| (reader, QueueCounts::default())));
        }
        let workers: Vec<u16> = commands.iter().map(|(worker, _)| *worker).collect();
        let mut failed = None;
        for (worker, reply) in workers.into_iter().zip(self.ask_each(commands)) {
            match reply {
                Ok(Reply::Slot(slot)) => device.places.push(Place { worker, slot }),
                other => {
                    self.count_slots(worker, -1);
                    failed = failed.or(Some(other.err().unwrap_or(EngineError::Silent { worker })));
                }
            }
        }
        if let Some(error) = failed {
            self.take_apart(&device)?;
            return Err(error);
        }
        if let Some(map) = device.port_map() {
            let index = usize::from(map.id.0);
            if self.ports_used.len() <= index {
                self.ports_used.resize(index + 1, false);
            }
            self.ports_used[index] = true;
            self.tell_port(map)?;
        }
        let id = DeviceId(self.next_id());
        self.devices.insert(id, device);
        Ok(id)
    }

    /// Stops a device's queues and forgets it. Queues come back in order of index, those that were attached.
    ///
    /// # Errors
    /// [`EngineError::NoDevice`] and [`EngineError::Silent`].
    pub fn remove_device(&mut self, id: DeviceId) -> Result<Vec<Queue>, EngineError> {
        self.collect_events();
        let device = self.device(id)?;
        let attached: Vec<u16> = (0..device.queues()).filter(|&index| device.is_attached(index)).collect();
        let left = attached.into_iter().map(|index| self.detach(id, index)).collect::<Result<_, _>>()?;
        if let Some(device) = self.devices.remove(&id) {
            self.take_apart(&device)?;
        }
        Ok(left)
    }

    /// Starts serving a queue; `queue_index` counts as vhost-user does, receiveqs even, transmitqs odd. `features` are
    /// those that the driver accepted.
    ///
    /// # Errors
    /// [`EngineError`]; the queue is dropped then.
    pub fn attach(
        &mut self,
        id: DeviceId,
        queue_index: u16,
        queue: Queue,
        features: u64,
        enabled: bool,
    ) -> Result<(), EngineError> {
        let (place, side) = self.locate(id, queue_index)?;
        let attachment = Attachment::new(side, queue, features, enabled);
        match self.ask(place.worker, Command::Attach(place.slot, attachment))? {
            Reply::Done => self.steer(id, queue_index, Some(enabled)),
            _ => Err(EngineError::QueueState { index: queue_index, attached: true }),
        }
    }

    /// Stops serving a queue, once nothing of it is out, and gives it back: its base says where it stopped.
    ///
    /// # Errors
    /// [`EngineError::QueueState`] where it is not attached, and others.
    pub fn detach(&mut self, id: DeviceId, queue_index: u16) -> Result<Queue, EngineError> {
        let (place, side) = self.locate(id, queue_index)?;
        let refused = EngineError::QueueState { index: queue_index, attached: false };
        let Some(enabled) = self.device(id)?.attached[usize::from(queue_index)] else { return Err(refused) };
        self.steer(id, queue_index, None)?;
        match self.ask(place.worker, Command::Detach(place.slot, side)) {
            Ok(Reply::Detached(Some(attachment))) => Ok(attachment.into_queue()),
            Ok(_) => Err(refused),
            Err(error) => {
                // The worker has it still.
                self.steer(id, queue_index, Some(enabled)).and(Err(error))
            }
        }
    }

    /// Enables or disables a queue (vhost-user, "Ring states"): a disabled receiveq is given nothing, what a disabled
    /// transmitq sends is discarded.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn set_enabled(&mut self, id: DeviceId, queue_index: u16, enabled: bool) -> Result<(), EngineError> {
        let (place, side) = self.locate(id, queue_index)?;
        match self.device(id)?.attached[usize::from(queue_index)] {
            // One that is not attached is told when it is.
            None => return Ok(()),
            Some(known) if known == enabled => return Ok(()),
            Some(_) => {}
        }
        self.ask(place.worker, Command::SetEnabled(place.slot, side, enabled))?;
        self.steer(id, queue_index, Some(enabled))
    }

    /// Changes what arrives for a device's guest: all of it without a filter, as at first.
    ///
    /// # Errors
    /// [`EngineError::NoDevice`] and [`EngineError::Silent`].
    pub fn set_filter(&mut self, id: DeviceId, filter: Option<Filter>) -> Result<(), EngineError> {
        let device = self.device(id)?;
        if device.filter.as_deref() == filter.as_ref() {
            return Ok(());
        }
        let filter = filter.map(Arc::new);
        let command = |place: &Place| (place.worker, Command::SetFilter(place.slot, filter.clone()));
        let commands = device.places.iter().map(command).collect();
        self.ask_each(commands).into_iter().try_for_each(|answer| answer.map(drop))?;
        self.devices.get_mut(&id).ok_or(EngineError::NoDevice)?.filter = filter;
        Ok(())
    }

    /// Changes which offloads, bits of [`offload::TO_GUEST`], frames for a device's guest may come with; what is attached later says so
    /// itself.
    ///
    /// # Errors
    /// [`EngineError::NoDevice`] and [`EngineError::Silent`].
    pub fn set_offloads(&mut self, id: DeviceId, offloads: u64) -> Result<(), EngineError> {
        let places = &self.device(id)?.places;
        let commands = places.iter().map(|place| (place.worker, Command::SetOffloads(place.slot, offloads))).collect();
        self.ask_each(commands).into_iter().try_for_each(|answer| answer.map(drop))
    }

    /// Changes how frames from the switch find a device's pairs: those to a destination port of TCP or UDP over IPv4 go to the first
    /// that receives; with `follows_senders`, those of a flow to the one that has last sent something of it the other way; all others
    /// by their hash, as all do at first, or as [`Self::set_scaling`] has it. Elsewhere than on the switch, it changes nothing.
    ///
    /// # Errors
    /// [`EngineError::NoDevice`] and [`EngineError::Silent`].
    pub fn set_steering(
        &mut self,
        id: DeviceId,
        ipv4_port: Option<u16>,
        follows_senders: bool,
    ) -> Result<(), EngineError> {
        let device = self.devices.get_mut(&id).ok_or(EngineError::NoDevice)?;
        let Rules { ipv4_port: port_before, senders } = &mut device.rules;
        if (*port_before, senders.is_some()) == (ipv4_port, follows_senders) {
            return Ok(());
        }
        // Who is followed already stays so.
        let senders = follows_senders.then(|| senders.take().unwrap_or_default());
        device.rules = Rules { ipv4_port, senders };
        device.port_map().map_or(Ok(()), |map| self.tell_port(map))
    }

    /// Changes which pairs frames from the switch find by their hash: those of a driver's table, whose queues may be attached or not; or
    /// all that receive, as at first. Who makes the table has checked that it names pairs. Elsewhere than on the switch, it changes nothing.
    ///
    /// # Errors
    /// [`EngineError::NoDevice`] and [`EngineError::Silent`].
    pub fn set_scaling(&mut self, id: DeviceId, scaling: Option<Scaling>) -> Result<(), EngineError> {
        let device = self.devices.get_mut(&id).ok_or(EngineError::NoDevice)?;
        if device.scaling == scaling {
            return Ok(());
        }
        device.scaling = scaling;
        device.forget_senders();
        device.port_map().map_or(Ok(()), |map| self.tell_port(map))
    }

    /// Changes what hash of a frame a driver hears of that has it reported (VIRTIO_NET_F_HASH_REPORT): of none, as at first.
    ///
    /// # Errors
    /// [`EngineError::NoDevice`] and [`EngineError::Silent`].
    pub fn set_hasher(&mut self, id: DeviceId, hasher: Option<Hasher>) -> Result<(), EngineError> {
        let device = self.device(id)?;
        if device.hasher == hasher {
            return Ok(());
        }
        let command = |place: &Place| (place.worker, Command::SetHasher(place.slot, hasher.clone()));
        let commands = device.places.iter().map(command).collect();
        self.ask_each(commands).into_iter().try_for_each(|answer| answer.map(drop))?;
        self.devices.get_mut(&id).ok_or(EngineError::NoDevice)?.hasher = hasher;
        Ok(())
    }

    /// Changes where a queue's used buffer notifications go.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn set_call(&mut self, id: DeviceId, queue_index: u16, call: Notifier) -> Result<(), EngineError> {
        let (place, side) = self.locate(id, queue_index)?;
        self.ask(place.worker, Command::SetCall(place.slot, side, call)).map(drop)
    }

    /// Changes how used buffer notifications of a device's queues are held back, whether they are attached or will be.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn moderate(&mut self, id: DeviceId, settings: &[(u16, Setting)]) -> Result<(), EngineError> {
        for some in settings.chunks(MESSAGES / 2) {
            let command = |&(queue_index, setting): &(u16, Setting)| {
                let (place, side) = self.locate(id, queue_index)?;
                Ok((place.worker, Command::Moderate(place.slot, side, setting)))
            };
            let commands = some.iter().map(command).collect::<Result<_, EngineError>>()?;
            self.ask_each(commands).into_iter().try_for_each(|answer| answer.map(drop))?;
        }
        Ok(())
    }

    /// Whether a queue is served.
    pub fn is_attached(&self, id: DeviceId, queue_index: u16) -> bool {
        self.device(id).is_ok_and(|device| device.is_attached(queue_index))
    }

    /// How they are held back at present, by queue index. Asks no worker.
    ///
    /// # Errors
    /// [`EngineError::NoDevice`].
    pub fn moderation(&self, id: DeviceId) -> Result<Vec<Moderation>, EngineError> {
        Ok(self.device(id)?.counters.iter().map(|(reader, _)| reader.moderation()).collect())
    }

    /// What each queue of a device has done since it was made. Asks no worker.
    ///
    /// # Errors
    /// [`EngineError::NoDevice`].
    pub fn counters(&mut self, id: DeviceId) -> Result<Vec<QueueCountsOf>, EngineError> {
        let device = self.devices.get_mut(&id).ok_or(EngineError::NoDevice)?;
        Ok(read_counters(&mut device.counters))
    }

    /// How long each queue of a device has had chains or frames in hand: a transmitq from taking a chain to giving it back, a
    /// receiveq from the turn that found a frame to giving back the buffer it is in. Sampled, since the device was made; uplinks
    /// are not. Asks no worker.
    ///
    /// # Errors
    /// [`EngineError::NoDevice`].
    pub fn latencies(&self, id: DeviceId) -> Result<Vec<Latencies>, EngineError> {
        Ok(self.device(id)?.counters.iter().map(|(reader, _)| reader.latencies()).collect())
    }

    /// Tells the network that a guest with this address is behind a device now: the switch learns it, and what lies
    /// behind its uplinks, or behind the device's own interface, gets an [`announcement`].
    ///
    /// # Errors
    /// [`EngineError::NoDevice`] and [`EngineError::Silent`].
    pub fn announce(&mut self, id: DeviceId, mac: [u8; 6]) -> Result<(), EngineError> {
        let device = self.device(id)?;
        let places: Vec<_> = match device.port {
            Some(port) => {
                self.fdb.learn(mac, 0, port, self.tick());
                let uplinks = self.devices.values().filter(|device| device.is_uplink());
                uplinks.filter_map(|uplink| uplink.port_map()?.places.first().copied()).collect()
            }
            None => device.places.first().copied().into_iter().collect(),
        };
        let announcement = announcement::of(mac);
        // An interface that is down, or a port that is none, does not hear of it.
        places
            .into_iter()
            .try_for_each(|Place { worker, slot }| self.ask(worker, Command::Announce(slot, announcement)).map(drop))
    }

    /// Addresses that the switch has learned and not forgotten, in no particular order. Asks no worker.
    pub fn addresses(&self) -> Vec<LearnedAddress> {
        let port_of = |(&id, device): (&DeviceId, &Device)| Some((device.port?, id));
        let devices: BTreeMap<PortId, DeviceId> = self.devices.iter().filter_map(port_of).collect();
        let told = self.fdb.entries(self.tick()).filter_map(|Entry { mac, vlan, port, age_ticks }| {
            Some(LearnedAddress { mac, vlan, device: *devices.get(&port)?, age_s: age_ticks * TICK_SECONDS })
        });
        told.collect()
    }

    /// Queues that broke a rule since this was last asked, and the passing of time in the switch.
    pub fn watch(&mut self) -> Vec<ViolationEvent> {
        self.fdb.expire(self.tick());
        self.collect_events();
        std::mem::take(&mut self.events)
    }

    /// Takes what workers have told, while queues are still where they were when it was told.
    fn collect_events(&mut self) {
        for (&worker, handle) in &self.workers {
            while let Some(Broken { slot, side, violation }) = handle.desk.broken.pop() {
                let place = Place { worker, slot };
                let found = self.devices.iter().find_map(|(&device, entry)| {
                    let pair = entry.places.iter().position(|&other| other == place)?;
                    Some((device, 2 * pair as u16 + u16::from(side == Side::Transmitq)))
                });
                if let Some((device, queue_index)) = found {
                    self.events.push(ViolationEvent { device, queue_index, violation });
                }
            }
        }
    }

    fn tick(&self) -> u64 {
        self.started.elapsed().as_secs() / TICK_SECONDS
    }

    fn device(&self, id: DeviceId) -> Result<&Device, EngineError> {
        self.devices.get(&id).ok_or(EngineError::NoDevice)
    }

    fn locate(&self, id: DeviceId, queue_index: u16) -> Result<(Place, Side), EngineError> {
        let device = self.device(id)?;
        let queues = device.queues();
        if queue_index >= queues {
            return Err(EngineError::QueueIndex { index: queue_index, queues });
        }
        let place = device.places[usize::from(queue_index / 2)];
        Ok((place, if queue_index.is_multiple_of(2) { Side::Receiveq } else { Side::Transmitq }))
    }

    fn next_id(&mut self) -> u32 {
        self.next_id += 1;
        self.next_id
    }

    fn free_port(&mut self) -> Result<PortId, EngineError> {
        let ports_max = self.fdb.ports_max();
        let index = self.ports_used.iter().position(|used| !used).unwrap_or(self.ports_used.len());
        if index == ports_max {
            return Err(EngineError::NoPort { ports_max });
        }
        Ok(PortId(index as u16))
    }

    /// A queue came, went, or was enabled or disabled: if it is a receiveq, all workers learn where its port's frames go now.
    fn steer(&mut self, id: DeviceId, queue_index: u16, enabled: Option<bool>) -> Result<(), EngineError> {
        let Some(device) = self.devices.get_mut(&id) else { return Err(EngineError::NoDevice) };
        let Some(known) = device.attached.get_mut(usize::from(queue_index)) else { return Ok(()) };
        if std::mem::replace(known, enabled) == enabled || !queue_index.is_multiple_of(2) {
            return Ok(());
        }
        device.forget_senders();
        let is_deserted = device.attached.iter().step_by(2).all(Option::is_none);
        let Some(map) = device.port_map() else { return Ok(()) };
        let port = map.id;
        self.tell_port(map)?;
        if is_deserted {
            // Its stations may be heard at another port from now on.
            self.fdb.forget_port(port);
        }
        Ok(())
    }

    fn tell_port(&mut self, map: PortMap) -> Result<(), EngineError> {
        self.ask_all(|| Command::SetPort(map.clone())).map(drop)
    }

    fn disconnect(&mut self, port: PortId) -> Result<(), EngineError> {
        self.ask_all(|| Command::ForgetPort(port))?;
        self.fdb.forget_port(port);
        self.ports_used[usize::from(port.0)] = false;
        Ok(())
    }

    fn place(&mut self, worker: usize, command: Command) -> Result<Place, EngineError> {
        let worker = worker as u16;
        match self.ask(worker, command)? {
            Reply::Slot(slot) => {
                self.count_slots(worker, 1);
                Ok(Place { worker, slot })
            }
            _ => Err(EngineError::Silent { worker }),
        }
    }

    fn take_apart(&mut self, device: &Device) -> Result<(), EngineError> {
        if let Some(port) = device.port.filter(|port| self.ports_used.get(usize::from(port.0)) == Some(&true)) {
            self.disconnect(port)?;
        }
        let replies: Vec<_> = if device.is_uplink() {
            // Each leaves when nothing of it is out.
            device.places.iter().map(|place| self.ask(place.worker, Command::RemoveUplink(place.slot))).collect()
        } else {
            self.ask_each(device.places.iter().map(|place| (place.worker, Command::RemovePair(place.slot))).collect())
        };
        for (place, reply) in device.places.iter().zip(replies) {
            reply?;
            self.count_slots(place.worker, -1);
        }
        Ok(())
    }

    fn count_slots(&mut self, worker: u16, more: isize) {
        if let Some(handle) = self.workers.get_mut(&worker) {
            handle.slots_used = handle.slots_used.saturating_add_signed(more);
        }
    }

    /// How often workers were waited for, since the start.
    pub fn rounds(&self) -> u64 {
        self.rounds
    }

    /// Sends a command and waits for its answer.
    fn ask(&mut self, worker: u16, command: Command) -> Result<Reply, EngineError> {
        self.rounds += 1;
        let number = self.order(worker, command)?;
        self.answer(worker, number)
    }

    /// Sends commands that are answered in their order, and waits for all answers.
    fn ask_each(&mut self, commands: Vec<(u16, Command)>) -> Vec<Result<Reply, EngineError>> {
        self.rounds += 1;
        let ordered: Vec<_> =
            commands.into_iter().map(|(worker, command)| (worker, self.order(worker, command))).collect();
        ordered.into_iter().map(|(worker, number)| self.answer(worker, number?)).collect()
    }

    /// Sends a command to every worker, and waits for all answers.
    fn ask_all(&mut self, command: impl Fn() -> Command) -> Result<Vec<Reply>, EngineError> {
        let commands = self.workers.keys().map(|&worker| (worker, command())).collect();
        self.ask_each(commands).into_iter().collect()
    }

    fn order(&mut self, worker: u16, command: Command) -> Result<u64, EngineError> {
        self.next_number += 1;
        let no_worker = || EngineError::NoWorker { worker: worker.into() };
        let Handle { desk, is_silent, .. } = self.workers.get_mut(&worker).ok_or_else(no_worker)?;
        *is_silent &= !desk.commands.is_empty();
        if *is_silent {
            return Err(EngineError::Silent { worker });
        }
        desk.commands.push((self.next_number, command)).map_err(|_| EngineError::Silent { worker })?;
        desk.wake.call();
        Ok(self.next_number)
    }

    fn answer(&mut self, worker: u16, number: u64) -> Result<Reply, EngineError> {
        let handle = self.workers.get_mut(&worker).ok_or(EngineError::NoWorker { worker: worker.into() })?;
        let Handle { desk, is_silent, .. } = handle;
        let asked_at = Instant::now();
        loop {
            // An older number is the late answer to a command that was given up.
            while let Some((answered, reply)) = desk.replies.pop() {
                if answered == number {
                    return Ok(reply);
                }
            }
            match asked_at.elapsed() {
                // To yield would be to wait for a whole slice of whoever else is on this lcore.
                waited if waited < REPLY_USUAL => std::hint::spin_loop(),
                waited if waited < REPLY_TIMEOUT => std::thread::sleep(REPLY_USUAL),
                _ => {
                    *is_silent = true;
                    return Err(EngineError::Silent { worker });
                }
            }
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let workers: Vec<u16> = self.workers.keys().copied().collect();
        workers.into_iter().for_each(|worker| self.stop(worker));
    }
}

fn read_counters(counters: &mut [(CountersReader, QueueCounts)]) -> Vec<QueueCountsOf> {
    let read = |(index, (reader, last)): (usize, &mut (CountersReader, QueueCounts))| {
        // A writer caught in the middle again and again: what was read last is the best there is.
        *last = reader.read().unwrap_or(*last);
        QueueCountsOf { queue_index: index as u16, counts: *last }
    };
    counters.iter_mut().enumerate().map(read).collect()
}

/// The lcores that this process may run on.
pub fn allowed_lcores() -> Vec<usize> {
    core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect()
}

/// Whether threads of this process may be put there.
fn check_lcores(lcores: &[Option<usize>]) -> Result<(), EngineError> {
    let allowed = allowed_lcores();
    match lcores.iter().flatten().find(|lcore| !allowed.contains(lcore)) {
        Some(&lcore) => Err(EngineError::Lcore { lcore }),
        None => Ok(()),
    }
}

/// The ends of the rings between all workers, by worker and then by the other worker.
fn links(workers: usize) -> Vec<Vec<Option<Link>>> {
    let mut all: Vec<Vec<Option<Link>>> =
        (0..workers).map(|_| std::iter::repeat_with(|| None).take(workers).collect()).collect();
    for (one, other) in (0..workers).flat_map(|one| (one + 1..workers).map(move |other| (one, other))) {
        let (near, far) = Link::pair();
        all[one][other] = Some(near);
        all[other][one] = Some(far);
    }
    all
}

/// The ports of a device's pairs.
fn any_ports(config: &DeviceConfig, port: Option<PortId>) -> Result<Vec<AnyPort>, EngineError> {
    let pairs = usize::from(config.pairs);
    Ok(match &config.port {
        PortConfig::Switch => {
            let port = port.expect("a port of the switch was found for it");
            (0..pairs).map(|_| AnyPort::Switch(port)).collect()
        }
        PortConfig::Pcap(pcap) => {
            let replays = pcap.replay.as_ref().map(|replay| Replay::over(replay, config.pairs)).transpose()?;
            let tapes = pcap.record.as_ref().map(|record| pcap::record(record, config.pairs)).transpose()?;
            let mut replays = replays.into_iter().flatten();
            let mut tapes = tapes.into_iter().flatten();
            (0..pairs).map(|_| AnyPort::Pcap(Pcap::new(replays.next(), tapes.next()))).collect()
        }
        PortConfig::Loopback => (0..pairs).map(|_| AnyPort::Loopback(Loopback::default())).collect(),
        PortConfig::Tap(tap) => Tap::open(tap, config.pairs)?.into_iter().map(AnyPort::Tap).collect(),
        PortConfig::Sink => (0..pairs).map(|_| AnyPort::Sink(Sink::default())).collect(),
        PortConfig::Source(source) => {
            (0..pairs).map(|_| Source::new(source).map(AnyPort::Source)).collect::<Result<_, _>>()?
        }
    })
}
