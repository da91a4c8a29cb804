//! The back end's side of one connection: a state machine of small functions, one a request.
//!
//! The session holds what the front end has said so far and turns it into rings that a [`Backend`] runs. A ring runs
//! when its setup is complete and memory is there; it is taken back before anything under it changes and goes on where
//! it stood. A message that is refused changes nothing.

mod inflight;
mod iommu;
mod refusal;
#[cfg(test)]
mod tests;
mod vring;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use virtnet_engine::caller::Line;
use virtnet_rings::memory::{DirtyLog, GuestMemory, MemoryError, Region, RegionSpec};
use virtnet_rings::spec::status::{DEVICE_NEEDS_RESET, FAILED};
use virtnet_rings::{Layout, Virtqueue};

pub use iommu::TRANSLATIONS_MAX;
pub use refusal::Refusal;

use super::message::{
    Allowed, BackendRequest, CONFIG_BYTES_MAX, Config, FrontendRequest, Header, Inflight, Iotlb, LogBase, MemoryRegion,
    MemoryTable, ProtocolError, ProtocolFeature, ProtocolFeatures, VHOST_F_LOG_ALL, VHOST_USER_F_PROTOCOL_FEATURES,
    VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_RING_PACKED, VringAddr, VringBase, VringFd, VringState, check_descriptors,
    check_shape, u64_from, u64_to,
};
use super::socket::{Connection, Message, Received, SocketError};
use crate::transport::{self, Backend, Counters, Resetter, line};
use iommu::Iommu;
use vring::Vring;

/// Feature bits that are between a front end and us: no driver has heard of them.
const TRANSPORT_FEATURES: u64 = VHOST_F_LOG_ALL | VHOST_USER_F_PROTOCOL_FEATURES;
/// Protocol features every device offers.
pub const PROTOCOL_FEATURES: ProtocolFeatures = ProtocolFeatures::of(&[
    ProtocolFeature::MQ,
    ProtocolFeature::LOG_SHMFD,
    ProtocolFeature::RARP,
    ProtocolFeature::REPLY_ACK,
    ProtocolFeature::NET_MTU,
    ProtocolFeature::BACKEND_REQ,
    ProtocolFeature::CONFIG,
    ProtocolFeature::INFLIGHT_SHMFD,
    ProtocolFeature::RESET_DEVICE,
    ProtocolFeature::CONFIGURE_MEM_SLOTS,
    ProtocolFeature::STATUS,
]);

/// Memory regions that can be added one by one. ("CONFIGURE_MEM_SLOTS")
const SLOTS_MAX: usize = 512;
/// The least MTU of an IPv4 host, which is what the device's MTU may not go below. ("Device configuration layout")
const MTU_MIN: u64 = 68;

/// What became of a look at the socket.
pub type Served = transport::Served<Refusal, SocketError>;

/// What goes back for a message that was taken.
enum Reply {
    /// Nothing of its own.
    None,
    /// A 64-bit integer.
    U64(u64),
    /// A body.
    Body(Vec<u8>),
    /// A body and a descriptor.
    WithFile(Vec<u8>, OwnedFd),
}

/// One connection with a front end.
#[derive(Debug)]
pub struct Session {
    connection: Connection,
    /// Where our own requests go.
    channel: Option<Connection>,
    features: u64,
    protocol_features: ProtocolFeatures,
    memory: Arc<GuestMemory>,
    iommu: Iommu,
    log: Option<Arc<DirtyLog>>,
    inflight: Option<Arc<inflight::Buffer>>,
    status: u8,
    needs_reset: bool,
    /// Somebody else than the driver has given the device up.
    is_given_up: bool,
    vrings: Vec<Vring>,
    counters: Counters,
}

impl Session {
    /// A session over a connected socket, for a device.
    pub fn new(stream: OwnedFd, device: &impl Backend) -> Self {
        Self {
            connection: Connection::new(stream),
            channel: None,
            features: 0,
            protocol_features: ProtocolFeatures::default(),
            memory: Arc::default(),
            iommu: Iommu::new(device.features()),
            log: None,
            inflight: None,
            status: 0,
            needs_reset: false,
            is_given_up: false,
            vrings: (0..device.ring_count()).map(|_| Vring::default()).collect(),
            counters: Counters::default(),
        }
    }

    /// Takes at most one message, and never waits.
    pub fn serve(&mut self, device: &mut impl Backend) -> Served {
        self.ask();
        let message = match self.connection.receive() {
            Ok(Received::Message(message)) => message,
            Ok(Received::NotYet) => return Served::Nothing,
            Ok(Received::Gone) => return Served::Ended(None),
            Err(error) => return self.end(error),
        };
        self.counters.messages += 1;
        let header = message.header;
        let outcome = self.take(message, device);
        if let Err(refusal) = &outcome {
            self.counters.count(refusal.name());
        }
        if let Err(error) = self.answer(&header, &outcome) {
            return self.end(error);
        }
        outcome.map_or_else(Served::Refused, |_| Served::Message)
    }

    /// Takes every ring back from the device. To be called once, when the session is over.
    pub fn close(mut self, device: &mut impl Backend) -> Counters {
        self.stop_all(device);
        // The next one may find another driver, and none of its features differ from none.
        device.set_features(0);
        self.counters
    }

    /// What has come so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The device status field: as the driver has written it, where its front end passes it on, and otherwise as running
    /// rings show.
    pub fn status(&self) -> u8 {
        const DRIVEN: u8 = 0xf;
        let told = if self.status == 0 && self.has_rings() { DRIVEN } else { self.status };
        told | self.added_status()
    }

    /// What is in the device status field that the driver has not written.
    fn added_status(&self) -> u8 {
        let needs_reset = if self.needs_reset { DEVICE_NEEDS_RESET } else { 0 };
        let failed = if self.is_given_up { FAILED } else { 0 };
        needs_reset | failed
    }

    /// Does what a device status that somebody else than the driver has chosen stands for, and tells the front end that there is
    /// something to read: 0 resets the device as its driver would, DEVICE_NEEDS_RESET asks the driver for that, FAILED stops all rings
    /// until they are set up again. Other bits are the driver's.
    pub fn put_status(&mut self, status: u8, device: &mut impl Backend) {
        if status == 0 {
            self.reset_status(Resetter::Operator, device);
        }
        if status & FAILED != 0 {
            self.end_all(device);
            self.is_given_up = true;
        }
        self.needs_reset |= status & DEVICE_NEEDS_RESET != 0;
        self.config_changed();
    }

    /// Whether the driver has to reset the device before it can go on.
    pub fn needs_reset(&self) -> bool {
        self.needs_reset
    }

    /// Whether a ring runs.
    pub fn has_rings(&self) -> bool {
        self.vrings.iter().any(|vring| vring.running)
    }

    /// The rings that run: index, size, whether it is enabled, and where its descriptor, driver and device areas are in the front
    /// end's memory.
    pub fn rings(&self) -> impl Iterator<Item = (usize, u16, bool, [u64; 3])> {
        self.vrings.iter().enumerate().filter(|(_, vring)| vring.running).map(|(index, vring)| {
            let areas = vring.addr.map_or([0; 3], |addr| [addr.descriptor, addr.available, addr.used]);
            (index, vring.size.unwrap_or(0), self.is_enabled(index), areas)
        })
    }

    /// Tells the front end that the configuration space has changed, if it wants to know.
    pub fn config_changed(&mut self) {
        if let Some(channel) = &self.channel {
            // No answer is asked for, so none needs to be waited for.
            let header = Header::request(BackendRequest::CONFIG_CHANGE_MSG.number(), 0, false);
            if channel.send(header, &[], &[]).is_err() {
                self.channel = None;
            }
        }
    }

    /// The driver has broken a ring, and it was retired: the device wants a reset.
    pub fn ring_failed(&mut self, index: usize) {
        if let Some(vring) = self.vrings.get(index) {
            vring.tell_failure();
            self.needs_reset = true;
            self.config_changed();
        }
    }

    /// Looks whether the front end has cut a memory file short. If so, every ring stops, the memory is let go and the device
    /// wants a reset; `true` once for each such memory.
    pub fn check_memory(&mut self, device: &mut impl Backend) -> bool {
        let broken = self.memory.is_broken();
        if broken {
            self.stop_all(device);
            self.set_memory(Arc::default());
            self.vrings.iter().for_each(Vring::tell_failure);
            self.needs_reset = true;
            self.config_changed();
        }
        broken
    }

    fn end(&mut self, error: SocketError) -> Served {
        if let SocketError::Protocol(error) = &error {
            self.counters.count(error.outcome().name());
        }
        Served::Ended(Some(error))
    }

    /// Checks what can be checked without knowing what the message is about, then acts on it.
    fn take(&mut self, mut message: Message, device: &mut impl Backend) -> Result<Reply, Refusal> {
        message.header.check_request_flags()?;
        let number = message.header.request;
        let request = FrontendRequest::from_number(number).ok_or(ProtocolError::UnknownRequest { request: number })?;
        check_shape(
            request.name(),
            request.shape(),
            message.body.len(),
            request.descriptors(),
            message.descriptor_count(),
        )?;
        if let Some(feature) = request.needs().filter(|feature| !self.protocol_features.has(*feature)) {
            let request = request.name();
            return Err(match PROTOCOL_FEATURES.has(feature) {
                true => ProtocolError::NotNegotiated { request, feature }.into(),
                false => ProtocolError::NotServed { request }.into(),
            });
        }
        tracing::trace!(request = request.name(), body = ?message.body, descriptors = message.descriptors.len());
        self.dispatch(request, &mut message, device)
    }

    fn dispatch(
        &mut self,
        request: FrontendRequest,
        message: &mut Message,
        device: &mut impl Backend,
    ) -> Result<Reply, Refusal> {
        use FrontendRequest as R;
        let name = request.name();
        let body = &message.body[..];
        let fds = &mut message.descriptors;
        match request {
            R::GET_FEATURES => Ok(Reply::U64(offered(device))),
            R::SET_FEATURES => self.set_features(u64_from(name, body)?, device),
            R::GET_PROTOCOL_FEATURES => Ok(Reply::U64(PROTOCOL_FEATURES.0)),
            R::SET_PROTOCOL_FEATURES => self.set_protocol_features(u64_from(name, body)?),
            R::SET_OWNER => Ok(Reply::None),
            R::RESET_OWNER => self.reset_owner(device),
            R::SET_MEM_TABLE => self.set_mem_table(&MemoryTable::from_bytes(name, body)?, fds, device),
            R::GET_MAX_MEM_SLOTS => self.get_max_mem_slots(),
            R::ADD_MEM_REG => self.add_mem_reg(MemoryRegion::from_single_bytes(name, body)?, fds, device),
            R::REM_MEM_REG => self.rem_mem_reg(&MemoryRegion::from_single_bytes(name, body)?, device),
            R::SET_LOG_BASE => self.set_log_base(LogBase::from_bytes(name, body)?, fds, device),
            // It would say that the log has changed, which whoever migrates a guest assumes anyway.
            R::SET_LOG_FD => Ok(Reply::None),
            R::SET_VRING_NUM => self.set_vring_num(VringState::from_bytes(name, body)?, device),
            R::SET_VRING_ADDR => self.set_vring_addr(VringAddr::from_bytes(name, body)?, device),
            R::SET_VRING_BASE => self.set_vring_base(VringState::from_bytes(name, body)?, device),
            R::GET_VRING_BASE => self.get_vring_base(VringState::from_bytes(name, body)?, device),
            R::SET_VRING_KICK => self.set_vring_kick(VringFd::from_bytes(name, body)?, fds, device),
            R::SET_VRING_CALL => self.set_vring_call(VringFd::from_bytes(name, body)?, fds, device),
            R::SET_VRING_ERR => self.set_vring_err(VringFd::from_bytes(name, body)?, fds, device),
            R::SET_VRING_ENABLE => self.set_vring_enable(VringState::from_bytes(name, body)?, device),
            R::GET_QUEUE_NUM => self.get_queue_num(),
            R::SEND_RARP => self.send_rarp(u64_from(name, body)?, device),
            R::NET_SET_MTU => self.net_set_mtu(u64_from(name, body)?, device),
            R::SET_BACKEND_REQ_FD => self.set_backend_req_fd(fds),
            R::GET_CONFIG => self.get_config(Config::from_bytes(name, body)?, device),
            R::SET_CONFIG => self.set_config(&Config::from_bytes(name, body)?, device),
            R::GET_INFLIGHT_FD => self.get_inflight_fd(Inflight::from_bytes(name, body)?, device),
            R::SET_INFLIGHT_FD => self.set_inflight_fd(&Inflight::from_bytes(name, body)?, fds, device),
            R::RESET_DEVICE => self.reset_device(device),
            R::SET_STATUS => self.set_status(u64_from(name, body)?, device),
            R::GET_STATUS => self.get_status(),
            R::IOTLB_MSG => self.iotlb_msg(Iotlb::from_bytes(name, body)?, device),
            R::SET_VRING_ENDIAN
            | R::CREATE_CRYPTO_SESSION
            | R::CLOSE_CRYPTO_SESSION
            | R::POSTCOPY_ADVISE
            | R::POSTCOPY_LISTEN
            | R::POSTCOPY_END
            | R::GPU_SET_SOCKET
            | R::VRING_KICK
            | R::GET_SHARED_OBJECT
            | R::SET_DEVICE_STATE_FD
            | R::CHECK_DEVICE_STATE
            | R::GET_SHMEM_CONFIG
            | R::GET_VRING_BASE_SKIP_DRAIN => Err(ProtocolError::NotServed { request: name }.into()),
        }
    }

    /// Sends what `outcome` asks for. A request that is refused is answered where somebody waits for it: with 1 under
    /// REPLY_ACK, with an empty body where a reply was due.
    fn answer(&self, header: &Header, outcome: &Result<Reply, Refusal>) -> Result<(), SocketError> {
        let request = FrontendRequest::from_number(header.request);
        // Its own reply says what an acknowledgement does.
        let is_iotlb = request == Some(FrontendRequest::IOTLB_MSG);
        let acknowledged = is_iotlb || header.needs_reply() && self.protocol_features.has(ProtocolFeature::REPLY_ACK);
        let waited_for = request.is_some_and(|request| self.is_waited_for(request));
        let (body, file) = match outcome {
            Ok(Reply::U64(value)) => (u64_to(*value), None),
            Ok(Reply::Body(body)) => (body.clone(), None),
            Ok(Reply::WithFile(body, file)) => (body.clone(), Some(file.as_fd())),
            Ok(Reply::None) if acknowledged => (u64_to(0), None),
            Err(_) if header.is_reply() => return Ok(()),
            Err(_) if waited_for && !is_iotlb => (Vec::new(), None),
            Err(_) if acknowledged => (u64_to(1), None),
            Ok(Reply::None) | Err(_) => return Ok(()),
        };
        let reply = Header::reply(header.request, body.len() as u32);
        self.connection.send(reply, &body, file.as_slice()).map_err(|error| match error {
            SocketError::Timeout(_) => {
                let request = request.map_or("a request", FrontendRequest::name);
                SocketError::Protocol(ProtocolError::ReplyUnread { request })
            }
            error => error,
        })
    }

    /// Whether the front end waits for a reply of the request's own.
    fn is_waited_for(&self, request: FrontendRequest) -> bool {
        let log_shmfd = self.protocol_features.has(ProtocolFeature::LOG_SHMFD);
        request.reply().is_some() && (request != FrontendRequest::SET_LOG_BASE || log_shmfd)
    }

    fn set_features(&mut self, features: u64, device: &mut impl Backend) -> Result<Reply, Refusal> {
        not_offered("SET_FEATURES", features, offered(device))?;
        let changed = self.features ^ features;
        let accepted = features & !TRANSPORT_FEATURES;
        if changed & !TRANSPORT_FEATURES != 0 {
            // Rings of the old features have no meaning under the new: they start anew, each with its kick.
            self.end_all(device);
            device.set_features(accepted);
            self.features = features;
            if changed & VIRTIO_F_ACCESS_PLATFORM != 0 {
                // The same regions, and addresses of another kind.
                let memory = self.memory_of(self.memory.regions().to_vec());
                self.set_memory(memory.map_err(|source| Refusal::Memory { request: "SET_FEATURES", source })?);
            }
            return Ok(Reply::None);
        }
        if !self.has_rings() {
            // Another driver with the same features, or the same one again.
            device.set_features(accepted);
        }
        self.change("SET_FEATURES", device, |session| session.features = features)
    }

    fn set_protocol_features(&mut self, features: u64) -> Result<Reply, Refusal> {
        not_offered("SET_PROTOCOL_FEATURES", features, PROTOCOL_FEATURES.0)?;
        self.protocol_features = ProtocolFeatures(features);
        Ok(Reply::None)
    }

    fn reset_owner(&mut self, device: &mut impl Backend) -> Result<Reply, Refusal> {
        for (index, vring) in self.vrings.iter_mut().enumerate() {
            vring.enabled = false;
            if vring.running {
                device.enable_ring(index, false);
            }
        }
        Ok(Reply::None)
    }

    fn set_mem_table(
        &mut self,
        table: &MemoryTable,
        fds: &mut Vec<OwnedFd>,
        device: &mut impl Backend,
    ) -> Result<Reply, Refusal> {
        let request = "SET_MEM_TABLE";
        check_descriptors(request, table.regions.len()..=table.regions.len(), fds.len())?;
        let regions = table.regions.iter().zip(fds.drain(..)).map(|(region, fd)| region_spec(region, fd));
        let regions = regions.map(Region::map).collect::<Result<_, _>>();
        let memory = regions.and_then(|regions| self.memory_of(regions));
        let memory = memory.map_err(|source| Refusal::Memory { request, source })?;
        self.change(request, device, |session| session.set_memory(memory))
    }

    fn get_max_mem_slots(&self) -> Result<Reply, Refusal> {
        Ok(Reply::U64(SLOTS_MAX as u64))
    }

    fn add_mem_reg(
        &mut self,
        region: MemoryRegion,
        fds: &mut Vec<OwnedFd>,
        device: &mut impl Backend,
    ) -> Result<Reply, Refusal> {
        let request = "ADD_MEM_REG";
        let refused = |source| Refusal::Memory { request, source };
        let fd = fds.pop().expect("their number was checked");
        let mut regions = self.memory.regions().to_vec();
        if regions.len() == SLOTS_MAX {
            return Err(refused(MemoryError::TooMany { found: SLOTS_MAX + 1, max: SLOTS_MAX }));
        }
        regions.push(Region::map(region_spec(&region, fd)).map_err(refused)?);
        let memory = self.memory_of(regions).map_err(refused)?;
        self.change(request, device, |session| session.set_memory(memory))
    }

    fn rem_mem_reg(&mut self, region: &MemoryRegion, device: &mut impl Backend) -> Result<Reply, Refusal> {
        let request = "REM_MEM_REG";
        let is_it = |found: &Region| {
            found.gpa() == region.guest_addr
                && found.frontend_address() == region.user_addr
                && found.len_bytes() == region.size_bytes
        };
        let regions: Vec<_> = self.memory.regions().iter().filter(|found| !is_it(found)).cloned().collect();
        if regions.len() == self.memory.regions().len() {
            let why = "no such region was added";
            return Err(ProtocolError::Order { request, why }.into());
        }
        let memory = self.memory_of(regions).map_err(|source| Refusal::Memory { request, source })?;
        self.change(request, device, |session| session.set_memory(memory))
    }

    fn set_log_base(&mut self, log: LogBase, fds: &[OwnedFd], device: &mut impl Backend) -> Result<Reply, Refusal> {
        let request = "SET_LOG_BASE";
        check_descriptors(request, 1..=1, fds.len())?;
        if log.size_bytes == 0 {
            let allowed = Allowed::Such("above 0");
            return Err(ProtocolError::Field { request, field: "log size", found: 0, allowed }.into());
        }
        let mapped = DirtyLog::map(&fds[0], log.mmap_offset, log.size_bytes);
        let mapped = Arc::new(mapped.map_err(|source| Refusal::Map { request, source })?);
        self.change(request, device, |session| session.log = Some(mapped))?;
        // QEMU takes any body; rust-vmm's front end waits for the log's description.
        Ok(Reply::Body(log.to_bytes()))
    }

    fn set_vring_num(&mut self, state: VringState, device: &mut impl Backend) -> Result<Reply, Refusal> {
        let request = "SET_VRING_NUM";
        let index = self.index(request, state.index)?;
        let max = u32::from(device.queue_size_max());
        if state.num == 0 || state.num > max {
            let allowed = Allowed::Between(1, max.into());
            return Err(ProtocolError::Field { request, field: "num", found: state.num.into(), allowed }.into());
        }
        self.stop_anew(index, device);
        self.vrings[index].size = Some(state.num as u16);
        self.start_if_complete(request, index, device)
    }

    fn set_vring_base(&mut self, state: VringState, device: &mut impl Backend) -> Result<Reply, Refusal> {
        let request = "SET_VRING_BASE";
        let index = self.index(request, state.index)?;
        VringBase::from_num(request, state.num, self.layout() == Layout::Packed)?;
        self.stop_anew(index, device);
        self.vrings[index].base = Some(state.num);
        Ok(Reply::None)
    }

    fn set_vring_addr(&mut self, addr: VringAddr, device: &mut impl Backend) -> Result<Reply, Refusal> {
        let request = "SET_VRING_ADDR";
        let index = self.index(request, addr.index)?;
        if addr.flags & !VringAddr::LOG != 0 {
            let allowed = Allowed::Between(0, VringAddr::LOG.into());
            return Err(ProtocolError::Field { request, field: "flags", found: addr.flags.into(), allowed }.into());
        }
        // A ring may run: it goes on, with or without a log.
        self.stop(index, device);
        self.vrings[index].addr = Some(addr);
        self.start_if_complete(request, index, device)
    }

    fn get_vring_base(&mut self, state: VringState, device: &mut impl Backend) -> Result<Reply, Refusal> {
        let index = self.index("GET_VRING_BASE", state.index)?;
        self.stop(index, device);
        self.forget_if_idle();
        let base = self.base(index)?.to_num();
        let vring = &mut self.vrings[index];
        (vring.base, vring.kick, vring.call) = (Some(base), None, None);
        vring.was_enabled = vring.enabled;
        Ok(Reply::Body(VringState { index: state.index, num: base }.to_bytes()))
    }

    fn set_vring_kick(
        &mut self,
        vring: VringFd,
        fds: &mut Vec<OwnedFd>,
        device: &mut impl Backend,
    ) -> Result<Reply, Refusal> {
        let request = "SET_VRING_KICK";
        let index = self.index(request, vring.index.into())?;
        let kick = notification_descriptor(request, vring, fds)?;
        self.stop(index, device);
        self.vrings[index].kick = Some(kick);
        self.start_if_complete(request, index, device)
    }

    fn set_vring_call(
        &mut self,
        vring: VringFd,
        fds: &mut Vec<OwnedFd>,
        device: &mut impl Backend,
    ) -> Result<Reply, Refusal> {
        let request = "SET_VRING_CALL";
        let index = self.index(request, vring.index.into())?;
        let call = line(request, vring, fds, device)?;
        let vring = &mut self.vrings[index];
        vring.call = call;
        if vring.running {
            device.set_call(index, vring.call_line());
            vring.call_once();
        }
        Ok(Reply::None)
    }

    fn set_vring_err(
        &mut self,
        vring: VringFd,
        fds: &mut Vec<OwnedFd>,
        device: &mut impl Backend,
    ) -> Result<Reply, Refusal> {
        let request = "SET_VRING_ERR";
        let index = self.index(request, vring.index.into())?;
        self.vrings[index].err = line(request, vring, fds, device)?;
        Ok(Reply::None)
    }

    fn set_vring_enable(&mut self, state: VringState, device: &mut impl Backend) -> Result<Reply, Refusal> {
        let request = "SET_VRING_ENABLE";
        let index = self.index(request, state.index)?;
        if state.num > 1 {
            let allowed = Allowed::Between(0, 1);
            return Err(ProtocolError::Field { request, field: "num", found: state.num.into(), allowed }.into());
        }
        let vring = &mut self.vrings[index];
        vring.enabled = state.num == 1;
        vring.was_enabled |= vring.enabled;
        if vring.running {
            device.enable_ring(index, self.is_enabled(index));
        }
        self.start_if_complete(request, index, device)
    }

    /// How many rings there are, which is what the words say, and what user-mode Linux compares with. QEMU and DPDK mean
    /// queue pairs here: to them it is a bound that is too high, and rings beyond ours are refused one by one.
    fn get_queue_num(&self) -> Result<Reply, Refusal> {
        Ok(Reply::U64(self.vrings.len() as u64))
    }

    fn send_rarp(&mut self, mac: u64, device: &mut impl Backend) -> Result<Reply, Refusal> {
        let [mac @ .., _, _] = mac.to_ne_bytes();
        device.announce(mac);
        Ok(Reply::None)
    }

    fn net_set_mtu(&mut self, mtu: u64, device: &mut impl Backend) -> Result<Reply, Refusal> {
        let request = "NET_SET_MTU";
        let allowed = Allowed::Between(MTU_MIN, u16::MAX.into());
        let refused = ProtocolError::Field { request, field: "u64", found: mtu, allowed };
        let mtu = u16::try_from(mtu).ok().filter(|mtu| u64::from(*mtu) >= MTU_MIN).ok_or(refused)?;
        device.set_mtu(mtu).map_err(|why| Refusal::Device { request, why })?;
        Ok(Reply::None)
    }

    fn set_backend_req_fd(&mut self, fds: &mut Vec<OwnedFd>) -> Result<Reply, Refusal> {
        self.channel = fds.pop().map(Connection::new);
        Ok(Reply::None)
    }

    fn get_config(&mut self, mut asked: Config, device: &impl Backend) -> Result<Reply, Refusal> {
        let range = config_range("GET_CONFIG", &asked)?;
        // Fields behind the device's last are there for front ends that know more features than we do.
        let mut space = device.config();
        space.resize(CONFIG_BYTES_MAX, 0);
        asked.bytes.copy_from_slice(&space[range]);
        Ok(Reply::Body(asked.to_bytes()))
    }

    fn set_config(&mut self, config: &Config, device: &mut impl Backend) -> Result<Reply, Refusal> {
        let request = "SET_CONFIG";
        let range = config_range(request, config)?;
        match config.flags {
            // No field of the device is the guest's to write. ("Device configuration layout")
            0 => Err(Refusal::Device { request, why: "the guest may not write any field" }),
            1 => {
                let restored = device.restore_config(range.start, &config.bytes);
                restored.map_err(|why| Refusal::Device { request, why })?;
                Ok(Reply::None)
            }
            flags => {
                let allowed = Allowed::Between(0, 1);
                Err(ProtocolError::Field { request, field: "flags", found: flags.into(), allowed }.into())
            }
        }
    }

    fn get_inflight_fd(&mut self, asked: Inflight, device: &impl Backend) -> Result<Reply, Refusal> {
        let request = "GET_INFLIGHT_FD";
        let shape = inflight::Shape::new(request, &asked, self.layout(), device)?;
        let file = inflight::create(shape.len_bytes());
        let file = file.map_err(|errno| Refusal::System { request, source: errno.into() })?;
        let inflight = Inflight { mmap_size: shape.len_bytes(), mmap_offset: 0, ..asked };
        Ok(Reply::WithFile(inflight.to_bytes(), file))
    }

    fn set_inflight_fd(
        &mut self,
        given: &Inflight,
        fds: &mut Vec<OwnedFd>,
        device: &mut impl Backend,
    ) -> Result<Reply, Refusal> {
        let request = "SET_INFLIGHT_FD";
        let shape = inflight::Shape::new(request, given, self.layout(), device)?;
        let file = fds.pop().expect("their number was checked");
        let buffer = Arc::new(inflight::Buffer::new(request, shape, given, file)?);
        self.change(request, device, |session| session.inflight = Some(buffer))
    }

    fn reset_device(&mut self, device: &mut impl Backend) -> Result<Reply, Refusal> {
        self.stop_all(device);
        self.vrings.fill_with(Vring::default);
        self.forget_if_idle();
        (self.log, self.inflight) = (None, None);
        self.forget_status(Resetter::FrontEnd, device);
        Ok(Reply::None)
    }

    fn set_status(&mut self, status: u64, device: &mut impl Backend) -> Result<Reply, Refusal> {
        let allowed = Allowed::Between(0, 0xff);
        let refused = ProtocolError::Field { request: "SET_STATUS", field: "u64", found: status, allowed };
        self.status = u8::try_from(status).map_err(|_| refused)?;
        match self.status {
            0 => self.reset_status(Resetter::Driver, device),
            status => device.set_status(status),
        }
        Ok(Reply::None)
    }

    fn reset_status(&mut self, by: Resetter, device: &mut impl Backend) {
        self.end_all(device);
        self.forget_status(by, device);
    }

    fn forget_status(&mut self, by: Resetter, device: &mut impl Backend) {
        self.counters.recoveries += u64::from(self.needs_reset);
        (self.status, self.needs_reset, self.is_given_up) = (0, false, false);
        device.reset(by);
    }

    fn get_status(&self) -> Result<Reply, Refusal> {
        Ok(Reply::U64((self.status | self.added_status()).into()))
    }

    /// The ring a message is about.
    fn index(&self, request: &'static str, index: u32) -> Result<usize, ProtocolError> {
        let allowed = Allowed::Between(0, self.vrings.len() as u64 - 1);
        let refused = ProtocolError::Field { request, field: "index", found: index.into(), allowed };
        usize::try_from(index).ok().filter(|index| *index < self.vrings.len()).ok_or(refused)
    }

    fn layout(&self) -> Layout {
        if self.features & VIRTIO_F_RING_PACKED != 0 { Layout::Packed } else { Layout::Split }
    }

    fn is_enabled(&self, index: usize) -> bool {
        self.vrings[index].enabled || self.features & VHOST_USER_F_PROTOCOL_FEATURES == 0
    }

    fn base(&self, index: usize) -> Result<VringBase, ProtocolError> {
        vring::base(self.vrings[index].base, self.layout() == Layout::Packed)
    }

    /// Changes what lies under the rings: takes back those that run, and lets them go on afterwards. One that cannot go
    /// on stays where it is, and goes on when a later message makes that possible.
    fn change(
        &mut self,
        request: &'static str,
        device: &mut impl Backend,
        change: impl FnOnce(&mut Self),
    ) -> Result<Reply, Refusal> {
        self.stop_all(device);
        change(self);
        let started = (0..self.vrings.len()).map(|index| self.start_if_complete(request, index, device));
        // All are tried, and the first that fails is told.
        let started: Vec<_> = started.collect();
        started.into_iter().collect::<Result<Vec<_>, _>>().map(|_| Reply::None)
    }

    fn stop_all(&mut self, device: &mut impl Backend) {
        for index in 0..self.vrings.len() {
            self.stop(index, device);
        }
    }

    /// Takes all rings back; each waits for another kick.
    fn end_all(&mut self, device: &mut impl Backend) {
        self.stop_all(device);
        for vring in &mut self.vrings {
            vring.kick = None;
        }
        self.forget_if_idle();
    }

    /// Takes a ring back, if it runs; it can go on where it stands.
    fn stop(&mut self, index: usize, device: &mut impl Backend) {
        let vring = &mut self.vrings[index];
        if vring.running {
            vring.base = Some(device.stop_ring(index));
            (vring.running, vring.resumes) = (false, true);
        }
    }

    /// Takes a ring back that is described anew: it waits for another kick.
    fn stop_anew(&mut self, index: usize, device: &mut impl Backend) {
        if self.vrings[index].running {
            self.stop(index, device);
            self.vrings[index].kick = None;
        }
    }

    fn start_if_complete(
        &mut self,
        request: &'static str,
        index: usize,
        device: &mut impl Backend,
    ) -> Result<Reply, Refusal> {
        let vring = &self.vrings[index];
        if vring.running || !vring.is_complete() || self.memory.regions().is_empty() {
            return Ok(Reply::None);
        }
        // What is sent through a disabled ring is thrown away. Before the ring is enabled for the first time that would
        // take frames from a driver which has only been faster than its front end.
        if !vring.was_enabled && !self.is_enabled(index) {
            return Ok(Reply::None);
        }
        let refused = |source| Refusal::Ring { request, index, source };
        let Some(setup) = vring.setup(self.layout(), self.base(index)?, &self.memory).map_err(refused)? else {
            return Ok(Reply::None);
        };
        let notifiers = vring.notifiers().map_err(|source| Refusal::System { request, source })?;
        let log = self.log.clone().filter(|_| self.features & VHOST_F_LOG_ALL != 0);
        let base = setup.base;
        let setup = setup.with(self.features, notifiers, log);
        let mut queue = setup.activate(Arc::clone(&self.memory)).map_err(refused)?;
        if let Some(buffer) = &self.inflight
            && let Some(region) = buffer.region(request, index, self.layout(), queue.size())?
        {
            queue.resume_from(region);
        }
        let started = device.start_ring(index, queue, self.is_enabled(index));
        started.map_err(|why| Refusal::Device { request, why })?;
        self.is_given_up = false;
        let vring = &mut self.vrings[index];
        vring.running = true;
        if vring.resumes || base != VringBase::start(self.features & VIRTIO_F_RING_PACKED != 0) {
            vring.call_once();
        }
        Ok(Reply::None)
    }
}

impl AsFd for Session {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

fn offered(device: &impl Backend) -> u64 {
    device.features() | TRANSPORT_FEATURES
}

fn not_offered(request: &'static str, acknowledged: u64, offered: u64) -> Result<(), ProtocolError> {
    match acknowledged & !offered {
        0 => Ok(()),
        found => Err(ProtocolError::NotOffered { request, found, offered }),
    }
}

fn region_spec(region: &MemoryRegion, fd: OwnedFd) -> RegionSpec {
    let MemoryRegion { guest_addr, size_bytes, user_addr, mmap_offset } = *region;
    RegionSpec { gpa: guest_addr, len_bytes: size_bytes, frontend_address: user_addr, fd, offset_bytes: mmap_offset }
}

fn config_range(request: &'static str, config: &Config) -> Result<std::ops::Range<usize>, ProtocolError> {
    let start = config.offset as usize;
    let end = start.saturating_add(config.bytes.len());
    if end > CONFIG_BYTES_MAX {
        let allowed = Allowed::Between(0, (CONFIG_BYTES_MAX - config.bytes.len()) as u64);
        return Err(ProtocolError::Field { request, field: "offset", found: config.offset.into(), allowed });
    }
    Ok(start..end)
}

/// The line of a SET_VRING_CALL or SET_VRING_ERR, if there is one.
fn line(
    request: &'static str,
    vring: VringFd,
    fds: &mut Vec<OwnedFd>,
    device: &mut impl Backend,
) -> Result<Option<Arc<Line>>, Refusal> {
    let descriptor = notification_descriptor(request, vring, fds)?;
    let line = descriptor.map(|descriptor| device.line(descriptor)).transpose();
    line.map_err(|source| Refusal::System { request, source })
}

/// The descriptor of a SET_VRING_KICK, SET_VRING_CALL or SET_VRING_ERR: one, or none if the body says so.
fn notification_descriptor(
    request: &'static str,
    vring: VringFd,
    fds: &mut Vec<OwnedFd>,
) -> Result<Option<OwnedFd>, ProtocolError> {
    let expected = usize::from(!vring.no_fd);
    check_descriptors(request, expected..=expected, fds.len())?;
    let taken = fds.pop().map(line::notification_descriptor).transpose();
    taken.map_err(|mode| {
        let allowed = Allowed::Such(line::ALLOWED);
        ProtocolError::Field { request, field: "descriptor", found: mode.into(), allowed }
    })
}
