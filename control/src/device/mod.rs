//! One virtio-net device: what it offers and tells its driver, and its queues on the engine.

mod announcement;
pub mod command_queue;
pub mod config_space;
pub mod controlq;
pub mod features;
pub mod orders;
pub mod settings;
pub mod statistics;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use rustix::event::epoll;
use virtnet_engine::caller::{Caller, Line};
use virtnet_engine::filter::Vlans;
use virtnet_engine::frame::offload;
use virtnet_engine::moderation::{Moderation, Setting};
use virtnet_engine::{DeviceId, Engine, EngineError};
use virtnet_rings::spec::net::{
    VIRTIO_NET_F_CTRL_VLAN, VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_GUEST_ANNOUNCE, VIRTIO_NET_F_HASH_REPORT,
    VIRTIO_NET_F_MQ, VIRTIO_NET_F_MTU, VIRTIO_NET_F_RSS, VIRTIO_NET_S_ANNOUNCE,
};
use virtnet_rings::spec::virtq::{VIRTIO_F_ADMIN_VQ, VIRTIO_F_ANY_LAYOUT, VIRTIO_F_RING_PACKED};
use virtnet_rings::{Notifier, Queue, Virtqueue};

use crate::config::{self, Mac};
use crate::function::{Coalescing, Fault, Faults, Resets};
use crate::transport::{Backend, Resetter};
use crate::vhost_user::message::VringBase;
use crate::virtio_pci::admin::Admin;
use announcement::Announcement;
use command_queue::Counts;
use config_space::ConfigSpace;
use controlq::{Answer, Command, ControlQueue, Said};
use orders::Orders;
use settings::Settings;

/// What a device is made as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// For the log.
    pub name: String,
    /// Queue pairs, 1 to 127.
    pub queue_pairs: u16,
    /// Descriptors of its largest queue.
    pub queue_size_max: u16,
    /// Its address.
    pub mac: Mac,
    /// The MTU it tells its driver, if it does.
    pub mtu: Option<u16>,
    /// Feature bits it is to offer.
    pub offered: u64,
    /// Whether it is meant for legacy drivers, too.
    pub transitional: bool,
    /// Whether it is on the switch, which finds a pair for each frame.
    pub is_steered: bool,
    /// What can change under its driver.
    pub settings: Settings,
}

impl From<&config::Device> for Spec {
    fn from(config: &config::Device) -> Self {
        Spec {
            name: config.name.clone(),
            queue_pairs: config.queue_pairs as u16,
            queue_size_max: config.queue_size_max as u16,
            mac: config.mac(),
            mtu: config.mtu.map(|mtu| mtu as u16),
            offered: features::offered(config),
            transitional: false,
            is_steered: config.port == config::Port::Switch,
            settings: Settings::default(),
        }
    }
}

impl Spec {
    /// Feature bits it offers: of those it is to offer, the ones that it has a use for, and all they need.
    pub fn features(&self) -> u64 {
        let has_pairs = self.queue_pairs > 1;
        let mut without_use = 0;
        for (has_use, bit) in [
            (has_pairs, VIRTIO_NET_F_MQ),
            (has_pairs && self.is_steered, VIRTIO_NET_F_RSS),
            (self.mtu.is_some(), VIRTIO_NET_F_MTU),
        ] {
            without_use |= u64::from(!has_use) << bit;
        }
        let legacy = u64::from(self.transitional) << VIRTIO_F_ANY_LAYOUT;
        features::consistent(self.offered & !without_use) | legacy
    }

    /// Hash types that its driver may enable, if it offers hashes at all.
    pub fn hash_types(&self) -> Option<u32> {
        let has_hashes = self.features() & (1 << VIRTIO_NET_F_RSS | 1 << VIRTIO_NET_F_HASH_REPORT) != 0;
        has_hashes.then_some(self.settings.hash_types)
    }

    /// Whether its frames may carry more than Ethernet's 1500 bytes.
    pub fn is_jumbo(&self) -> bool {
        self.mtu.is_some_and(|mtu| mtu > 1500)
    }
}

/// A device, beside its queues, which are the engine's.
#[derive(Debug)]
pub struct Device {
    spec: Spec,
    id: DeviceId,
    config_space: ConfigSpace,
    /// Feature bits the driver has accepted.
    accepted: u64,
    controlq: Option<ControlQueue>,
    /// Which queues the front end has enabled.
    enabled: Vec<bool>,
    /// What the driver has said by its control queue, if it says so to us and not to its front end.
    orders: Orders,
    /// Its driver goes on here, and has not got its control queue yet.
    has_moved: bool,
    /// Whether its guest is asked to announce itself.
    announcement: Announcement,
    /// How its notifications are held back, as operators say.
    coalescing: Coalescing,
    /// Rings the lines to its front end.
    caller: Caller,
    /// What came of its driver's commands.
    commands: Counts,
    /// What its driver asks of its VFs.
    pub admin: Admin,
    /// How often it was reset.
    pub resets: Resets,
    /// What has gone wrong.
    pub faults: Faults,
}

impl Device {
    /// A device that the engine knows as `id`.
    pub fn new(spec: Spec, id: DeviceId) -> Self {
        let queues = 2 * usize::from(spec.queue_pairs);
        let (orders, announcement, coalescing, caller, admin, resets, faults) = Default::default();
        Self {
            config_space: ConfigSpace::new(&spec),
            spec,
            id,
            accepted: 0,
            controlq: None,
            enabled: vec![false; queues],
            orders,
            has_moved: false,
            announcement,
            coalescing,
            caller,
            commands: controlq::NO_COUNTS,
            admin,
            resets,
            faults,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Its address, as its driver has it.
    pub fn mac(&self) -> Mac {
        self.orders.mac.unwrap_or(self.config_space.mac())
    }

    /// What it was made as.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Feature bits the driver has accepted.
    pub fn accepted(&self) -> u64 {
        self.accepted
    }

    /// Those that frames go by: without offloads that the driver does not take at present.
    pub fn features(&self) -> u64 {
        self.orders.offloads.map_or(self.accepted, |offloads| self.accepted & !offload::TO_GUEST | offloads)
    }

    /// What the driver has said by its control queue.
    pub fn orders(&self) -> &Orders {
        &self.orders
    }

    /// What came of its driver's commands, since it is there.
    pub fn commands(&self) -> &Counts {
        &self.commands
    }

    /// What the engine knows it as.
    pub fn id(&self) -> DeviceId {
        self.id
    }

    /// Whether frames go through a queue: its link is up, its front end has enabled it, and its driver uses its pair.
    pub fn is_enabled(&self, index: usize) -> bool {
        self.config_space.settings().link_up && self.enabled[index] && index / 2 < usize::from(self.pairs_used())
    }

    /// How many pairs its driver uses.
    fn pairs_used(&self) -> u16 {
        self.orders.pairs.unwrap_or(self.spec.queue_pairs)
    }

    /// The engine knows it as `id` from now on.
    pub fn move_to(&mut self, id: DeviceId) {
        self.id = id;
    }

    /// Tells the engine what it does not have by default: how frames for its driver are filtered and steered. Whether it does so.
    pub fn steer(&mut self, engine: &mut Engine) -> bool {
        let Settings { rx_mode, dst_port, aarfs, .. } = self.config_space.settings();
        let filter = self.orders.filter(self.mac(), rx_mode);
        let Orders { scaling, hasher, .. } = &self.orders;
        let hasher = hasher.as_ref().filter(|_| self.has(VIRTIO_NET_F_HASH_REPORT));
        let told = engine
            .set_filter(self.id, filter)
            .and_then(|()| engine.set_steering(self.id, dst_port, aarfs))
            .and_then(|()| engine.set_scaling(self.id, scaling.clone()))
            .and_then(|()| engine.set_hasher(self.id, hasher.cloned()));
        if let Err(error) = &told {
            self.faults.count(Fault::Announce);
            tracing::error!(device = self.spec.name, "the engine refuses: {error}");
        }
        told.is_ok()
    }

    /// An operator says how its notifications are held back, and goes before what its driver has said.
    pub fn set_coalescing(&mut self, coalescing: Coalescing) {
        self.coalescing = coalescing;
        self.orders.forget_moderation();
    }

    fn setting(&self, queue: u16) -> Setting {
        self.orders.moderation(queue).map_or_else(|| self.coalescing.of(queue), Setting::Fixed)
    }

    /// Tells the engine how notifications of all its queues are held back.
    ///
    /// # Errors
    /// The engine's.
    pub fn moderate(&self, engine: &mut Engine) -> Result<(), EngineError> {
        self.moderate_those(engine, |_| true)
    }

    /// The same, where it is a new device of the engine's, which holds nothing back.
    ///
    /// # Errors
    /// The engine's.
    pub fn moderate_anew(&self, engine: &mut Engine) -> Result<(), EngineError> {
        self.moderate_those(engine, |queue| self.setting(queue) != Setting::Fixed(Moderation::default()))
    }

    fn moderate_those(&self, engine: &mut Engine, are_meant: impl Fn(u16) -> bool) -> Result<(), EngineError> {
        let queues = (0..2 * self.spec.queue_pairs).filter(|queue| are_meant(*queue));
        let settings: Vec<_> = queues.map(|queue| (queue, self.setting(queue))).collect();
        engine.moderate(self.id, &settings)
    }

    /// The network may not know where its guest is: asks it soon, if it can answer.
    fn ask_to_announce(&mut self) {
        if self.has(VIRTIO_NET_F_GUEST_ANNOUNCE) && self.controlq.is_some() {
            self.announcement = Announcement::soon(Instant::now());
        }
    }

    /// When [`Self::begin_announcement`] is to be called.
    pub fn announces_at(&self) -> Option<Instant> {
        self.announcement.due_at()
    }

    /// Asks its guest to announce itself, if it is time to: its driver is to look at the configuration space then.
    pub fn begin_announcement(&mut self, now: Instant) -> bool {
        self.announcement.begin(now)
    }

    /// Looks whether its front end keeps the thread that notifies it.
    pub fn look_for_hangs(&mut self) {
        if self.caller.has_hung() {
            self.faults.hangs += 1;
            tracing::warn!(device = self.spec.name, "used buffer notifications do not get through to the front end");
        }
    }

    /// Whether there is work on the control queue, or the administration virtqueue, that nobody will kick for.
    pub fn has_work(&self) -> bool {
        self.controlq.as_ref().is_some_and(ControlQueue::has_work) || self.admin.has_work()
    }

    fn has(&self, feature: u32) -> bool {
        self.accepted & 1 << feature != 0
    }

    /// Which ring is the administration virtqueue, if its driver knows of it.
    pub fn adminq_index(&self) -> Option<usize> {
        self.has(VIRTIO_F_ADMIN_VQ).then(|| self.enabled.len() + 1)
    }

    /// Which ring is the control queue. ("Virtqueues", of the network device)
    pub fn controlq_index(&self) -> Option<usize> {
        let has_pairs = self.has(VIRTIO_NET_F_MQ) || self.has(VIRTIO_NET_F_RSS);
        let pairs = if has_pairs { self.spec.queue_pairs } else { 1 };
        self.has(VIRTIO_NET_F_CTRL_VQ).then(|| 2 * usize::from(pairs))
    }
}

/// A device and all it takes to serve it, together for the length of a call.
#[derive(Debug)]
pub struct Served<'a> {
    /// The device.
    pub device: &'a mut Device,
    /// Where its queues are.
    pub engine: &'a mut Engine,
    /// What tells of kicks of the control queue, and of what the session is to be served for.
    pub epoll: &'a OwnedFd,
    /// What it calls the ones.
    pub controlq_token: u64,
    /// And the others.
    pub session_token: u64,
}

impl Served<'_> {
    /// Serves the control queue, after a kick. A control queue that breaks a rule is served no more: `false`, once.
    pub fn serve_controlq(&mut self) -> bool {
        let Some(mut controlq) = self.device.controlq.take() else { return true };
        let mut counts = self.device.commands;
        let served = controlq.serve(&mut counts, |command, counts| self.obey(command, counts));
        self.device.controlq = Some(controlq);
        self.device.commands = counts;
        if let Err(violation) = &served {
            tracing::warn!(device = self.device.spec.name, "control queue: {violation}");
            self.forget_controlq_kick();
        }
        served.is_ok()
    }

    fn obey(&mut self, command: Command, counts: &Counts) -> Answer {
        let pairs_before = self.device.pairs_used();
        let Device { orders, accepted, spec, config_space, id, .. } = &mut *self.device;
        let id = *id;
        if let Command::Coalesce(queue, _) | Command::GetCoalescing(queue) = command
            && !self.engine.is_attached(id, queue)
        {
            return None;
        }
        if !orders.obey(command.clone(), *accepted, spec.queue_pairs, config_space.settings().hash_types) {
            return None;
        }
        let told = match command {
            Command::SetOffloads(offloads) => self.engine.set_offloads(id, offloads),
            Command::Announced => {
                self.device.announcement = Announcement::None;
                Ok(())
            }
            Command::CoalesceAll(side, _) => {
                self.device.moderate_those(self.engine, |queue| usize::from(queue % 2) == side as usize)
            }
            Command::Coalesce(queue, _) => self.device.moderate_those(self.engine, |other| other == queue),
            Command::GetCoalescing(queue) => {
                return Some(controlq::coalescing(*self.engine.moderation(id).ok()?.get(usize::from(queue))?));
            }
            Command::QueryStatistics => return Some(statistics::TYPES.to_le_bytes().to_vec()),
            Command::GetStatistics(asked) => {
                return statistics::reply(
                    &asked,
                    &self.engine.counters(id).ok()?,
                    self.device.controlq_index(),
                    counts,
                );
            }
            _ => return self.steer(pairs_before).then(Vec::new),
        };
        told.map_err(|error| self.refused(Fault::Announce, &error)).ok().map(|()| Vec::new())
    }

    /// Frames are steered to pairs only while they are used.
    fn steer(&mut self, pairs_before: u16) -> bool {
        if self.device.pairs_used() > pairs_before {
            self.tell_all_enabled(Fault::Steer);
        }
        let told = self.device.steer(self.engine);
        if self.device.pairs_used() < pairs_before {
            self.tell_all_enabled(Fault::Steer);
        }
        told
    }

    /// A driver begins anew.
    fn forget_orders(&mut self) {
        let is_moderated = self.device.orders.forget_moderation();
        self.device.orders = Orders::default();
        self.device.has_moved = false;
        self.device.announcement = Announcement::None;
        self.device.steer(self.engine);
        if is_moderated {
            self.moderate_again(|_| true);
        }
    }

    fn moderate_again(&mut self, are_meant: impl Fn(u16) -> bool) {
        if let Err(error) = self.device.moderate_those(self.engine, are_meant) {
            self.refused(Fault::Announce, &error);
        }
    }

    fn tell_all_enabled(&mut self, fault: Fault) {
        (0..self.device.enabled.len()).for_each(|index| self.tell_enabled(index, fault));
    }

    /// Changes settings. Receive modes that are changed go before its driver's. While the link is down, all queues are as if they were disabled.
    pub fn set(&mut self, settings: Settings) {
        if settings.rx_mode != self.device.config_space.settings().rx_mode {
            self.device.orders.forget_modes();
        }
        let was_up = self.device.config_space.settings().link_up;
        self.device.config_space.set(settings);
        self.device.steer(self.engine);
        self.tell_all_enabled(Fault::Link);
        if settings.link_up && !was_up {
            self.device.ask_to_announce();
        }
    }

    fn tell_enabled(&mut self, index: usize, fault: Fault) {
        let enabled = self.device.is_enabled(index);
        // A queue that is not attached yet learns it when it is.
        if let Err(error) = self.engine.set_enabled(self.device.id, index as u16, enabled) {
            self.refused(fault, &error);
        }
    }

    /// Commands of a queue are served when its driver kicks.
    fn watch_kick(&mut self, queue: &Queue) -> Result<(), &'static str> {
        let Some(kick) = queue.kick().eventfd() else { return Ok(()) };
        let data = epoll::EventData::new_u64(self.controlq_token);
        epoll::add(self.epoll, kick, data, epoll::EventFlags::IN).map_err(|_| {
            self.device.faults.count(Fault::Attach);
            "its kick cannot be watched"
        })
    }

    fn start_controlq(&mut self, queue: Queue) -> Result<(), &'static str> {
        self.watch_kick(&queue)?;
        // A driver that goes on, after we were killed, has given orders that we do not know of: it gets everything.
        let is_new = queue.base() == VringBase::start(self.device.has(VIRTIO_F_RING_PACKED)).to_num();
        if is_new && self.device.orders.pairs.is_none() {
            self.device.orders.pairs = Some(1);
            self.device.orders.vlans = self.device.has(VIRTIO_NET_F_CTRL_VLAN).then_some(Vlans::ZERO);
            self.device.steer(self.engine);
            self.tell_all_enabled(Fault::Steer);
        }
        let has_moved = std::mem::take(&mut self.device.has_moved) || !is_new && self.device.orders.pairs.is_none();
        self.device.controlq = Some(ControlQueue::new(queue));
        if has_moved {
            self.device.ask_to_announce();
        }
        // What came before the kick was watched has no kick of its own.
        self.serve_controlq();
        Ok(())
    }

    fn forget_controlq_kick(&self) {
        self.forget_kick(self.device.controlq.as_ref().and_then(ControlQueue::kick));
    }

    /// The administration virtqueue has broken a rule.
    pub fn forget_adminq_kick(&self) {
        self.forget_kick(self.device.admin.kick());
    }

    fn forget_kick(&self, kick: Option<&OwnedFd>) {
        if let Some(kick) = kick {
            let _ = epoll::delete(self.epoll, kick.as_fd());
        }
    }

    fn refused(&mut self, fault: Fault, error: &EngineError) -> &'static str {
        self.device.faults.count(fault);
        tracing::error!(device = self.device.spec.name, "the engine refuses: {error}");
        "the engine refuses it"
    }
}

impl Backend for Served<'_> {
    fn features(&self) -> u64 {
        self.device.spec.features()
    }

    fn ring_count(&self) -> usize {
        self.device.enabled.len() + 1
    }

    fn queue_size_max(&self) -> u16 {
        self.device.spec.queue_size_max
    }

    fn config(&self) -> Vec<u8> {
        let mut bytes = self.device.config_space.to_bytes().to_vec();
        bytes[..6].copy_from_slice(&self.device.mac().0);
        if self.device.announcement == Announcement::Asked {
            bytes[config_space::STATUS] |= VIRTIO_NET_S_ANNOUNCE as u8;
        }
        bytes
    }

    fn restore_config(&mut self, offset: usize, bytes: &[u8]) -> Result<(), &'static str> {
        self.device.config_space.restore(offset, bytes)?;
        self.device.steer(self.engine);
        Ok(())
    }

    fn set_features(&mut self, features: u64) {
        self.device.accepted = features;
        self.forget_orders();
    }

    fn said(&self) -> Vec<Said> {
        self.device.orders.said()
    }

    fn go_on(&mut self, features: u64, said: &[Said]) -> Result<(), &'static str> {
        let Device { orders, accepted, spec, config_space, .. } = &*self.device;
        let before = if features == *accepted { orders.clone() } else { Orders::default() };
        let heard = before.hear(said, features, spec.queue_pairs, config_space.settings().hash_types);
        let orders = heard.ok_or("what a driver with these features may say")?;
        if features != self.device.accepted {
            self.set_features(features);
        }
        let pairs_before = self.device.pairs_used();
        self.device.orders = orders;
        self.device.has_moved = true;
        self.steer(pairs_before);
        self.moderate_again(|_| true);
        Ok(())
    }

    fn start_ring(&mut self, index: usize, queue: Queue, enabled: bool) -> Result<(), &'static str> {
        if self.device.controlq_index() == Some(index) {
            return self.start_controlq(queue);
        }
        if self.device.adminq_index() == Some(index) {
            self.watch_kick(&queue)?;
            self.device.admin.start(queue);
            return Ok(());
        }
        if index >= self.device.enabled.len() {
            return Err("the control queue was not negotiated");
        }
        self.device.enabled[index] = enabled;
        let enabled = self.device.is_enabled(index);
        let attached = self.engine.attach(self.device.id, index as u16, queue, self.device.features(), enabled);
        attached.map_err(|error| self.refused(Fault::Attach, &error))
    }

    fn look_again(&mut self) {
        if let Some(controlq) = &mut self.device.controlq {
            controlq.look_again();
        }
    }

    fn stop_ring(&mut self, index: usize) -> u32 {
        if self.device.controlq_index() == Some(index) {
            self.forget_controlq_kick();
            return self.device.controlq.take().map_or(0, |controlq| controlq.base());
        }
        if self.device.adminq_index() == Some(index) {
            self.forget_adminq_kick();
            return self.device.admin.stop();
        }
        match self.engine.detach(self.device.id, index as u16) {
            Ok(queue) => queue.base(),
            Err(error) => {
                self.device.faults.stalls += u64::from(matches!(error, EngineError::Silent { .. }));
                self.refused(Fault::Attach, &error);
                0
            }
        }
    }

    fn line(&mut self, descriptor: OwnedFd) -> std::io::Result<Arc<Line>> {
        self.device.caller.line(descriptor)
    }

    fn watch(&mut self, descriptor: BorrowedFd<'_>) -> std::io::Result<()> {
        let data = epoll::EventData::new_u64(self.session_token);
        Ok(epoll::add(self.epoll, descriptor, data, epoll::EventFlags::IN)?)
    }

    fn unwatch(&mut self, descriptor: BorrowedFd<'_>) {
        let _ = epoll::delete(self.epoll, descriptor);
    }

    fn set_call(&mut self, index: usize, call: Notifier) {
        if self.device.controlq_index() == Some(index) {
            if let Some(controlq) = &mut self.device.controlq {
                controlq.set_call(call);
            }
        } else if self.device.adminq_index() == Some(index) {
            self.device.admin.set_call(call);
        } else if let Err(error) = self.engine.set_call(self.device.id, index as u16, call) {
            self.refused(Fault::Announce, &error);
        }
    }

    fn enable_ring(&mut self, index: usize, enabled: bool) {
        if let Some(known) = self.device.enabled.get_mut(index) {
            *known = enabled;
            self.tell_enabled(index, Fault::Steer);
        }
    }

    fn reset_ring(&mut self, index: usize) {
        let queue = index as u16;
        if self.device.orders.forget_moderation_of(queue) {
            self.moderate_again(|other| other == queue);
        }
    }

    fn set_status(&mut self, status: u8) {
        tracing::debug!(device = self.device.spec.name, "device status {status:#x}");
    }

    fn reset(&mut self, by: Resetter) {
        tracing::debug!(device = self.device.spec.name, by = by.name(), "reset");
        self.device.resets.count(by);
        self.device.admin.reset();
        self.forget_orders();
    }

    fn set_address(&mut self, mac: [u8; 6]) -> Result<(), &'static str> {
        if mac[0] & 1 != 0 {
            return Err("the address must be one device's");
        }
        self.device.orders.mac = Some(Mac(mac));
        self.device.steer(self.engine);
        Ok(())
    }

    fn set_mtu(&mut self, mtu: u16) -> Result<(), &'static str> {
        self.device.config_space.set_mtu(mtu)
    }

    fn announce(&mut self, mac: [u8; 6]) {
        tracing::debug!(device = self.device.spec.name, mac = %Mac(mac), "the guest is here now");
        if let Err(error) = self.engine.announce(self.device.id, mac) {
            self.refused(Fault::Announce, &error);
        }
    }
}
