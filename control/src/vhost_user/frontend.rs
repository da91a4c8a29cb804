//! A front end: shares memory and rings with any back end and asks it to serve them. For load generators
//! and tests; it holds no guest of its own.
//!
//! One method a request, each with the specification's name in its doc. With REPLY_ACK acknowledged every
//! request is answered, and a refusal is an error here. Every wait ends after the time-out given; since a
//! late answer could then be taken for the next one's, the connection is of no more use.

mod error;
#[cfg(test)]
mod tests;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

pub use error::FrontendError;

use super::message::{
    BackendRequest, Config, FrontendRequest, Header, Inflight, Iotlb, LogBase, MEMORY_REGIONS_MAX, MemoryRegion,
    MemoryTable, ProtocolFeature, ProtocolFeatures, VHOST_USER_F_PROTOCOL_FEATURES, VIRTIO_F_RING_PACKED, VringAddr,
    VringBase, VringFd, VringState, check_shape, u64_from, u64_to,
};
use super::socket::{Connection, Message, Received, SocketError, stream_pair, wait, wait_any};
use crate::transport::listener::{Listener, connect_to};

/// How long a back end that is not there yet is left alone between two tries.
const RETRY: Duration = Duration::from_millis(10);

/// The protocol features this front end can make use of.
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

/// One region of guest memory to share.
#[derive(Clone, Copy, Debug)]
pub struct SharedRegion<'a> {
    /// Where it is.
    pub region: MemoryRegion,
    /// The file it is in.
    pub file: BorrowedFd<'a>,
}

/// All a back end needs to serve one ring.
#[derive(Clone, Copy, Debug)]
pub struct RingSetup<'a> {
    /// How many descriptors it has.
    pub size: u32,
    /// Where it resumes.
    pub base: VringBase,
    /// Descriptor area, as a user address of the memory shared.
    pub descriptor_addr: u64,
    /// Driver area, likewise.
    pub driver_addr: u64,
    /// Device area, likewise.
    pub device_addr: u64,
    /// Guest address of the device area, if writes to it are to be marked in the dirty log.
    pub log_addr: Option<u64>,
    /// Signalled when buffers are available; `None`: the back end polls.
    pub kick: Option<BorrowedFd<'a>>,
    /// Signalled when buffers are used; `None`: we poll.
    pub call: Option<BorrowedFd<'a>>,
    /// Signalled when the ring fails.
    pub err: Option<BorrowedFd<'a>>,
}

/// What both sides have agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// All that the back end offers, device and protocol.
    pub offered: u64,
    /// What was acknowledged of it.
    pub features: u64,
    /// The protocol features acknowledged.
    pub protocol_features: ProtocolFeatures,
}

/// A session with a back end.
#[derive(Debug)]
pub struct Frontend {
    connection: Connection,
    timeout: Duration,
    features: u64,
    protocol_features: ProtocolFeatures,
    /// Our end of the back end's own channel.
    backend_channel: Option<Connection>,
    config_changes: u64,
    /// What the back end has asked for on its channel.
    misses: Vec<Iotlb>,
    lost: bool,
}

impl Frontend {
    /// Over a connected socket. No answer is waited for longer than `timeout`.
    pub fn new(stream: OwnedFd, timeout: Duration) -> Self {
        Self {
            connection: Connection::new(stream),
            timeout,
            features: 0,
            protocol_features: ProtocolFeatures::default(),
            backend_channel: None,
            config_changes: 0,
            misses: Vec::new(),
            lost: false,
        }
    }

    /// Connects to a back end that listens at `path`, which may take until `patience` is over to do so.
    pub fn connect(path: &Path, patience: Duration, timeout: Duration) -> Result<Self, FrontendError> {
        let deadline = Instant::now() + patience;
        loop {
            match connect_to(path) {
                Ok(stream) => return Ok(Self::new(stream, timeout)),
                Err(error) if Instant::now() >= deadline => return Err(error.into()),
                Err(error) => match error.errno() {
                    Some(Errno::NOENT | Errno::CONNREFUSED | Errno::AGAIN) => {
                        std::thread::sleep(RETRY);
                    }
                    _ => return Err(error.into()),
                },
            }
        }
    }

    /// Waits until `patience` is over for a back end to connect to `listener`.
    pub fn accept(listener: &Listener, patience: Duration, timeout: Duration) -> Result<Self, FrontendError> {
        let deadline = Instant::now() + patience;
        let failed = |source| FrontendError::Accept { path: listener.path().into(), source };
        loop {
            if let Some(stream) = listener.accept().map_err(|error| failed(error.into()))? {
                return Ok(Self::new(stream, timeout));
            }
            wait(listener.as_fd(), PollFlags::IN, deadline, patience).map_err(failed)?;
        }
    }

    /// Agrees on features, those `wanted` that the back end offers, and opens the session: GET_FEATURES,
    /// GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES, SET_BACKEND_REQ_FD, SET_OWNER, SET_FEATURES.
    pub fn negotiate(&mut self, wanted: u64, wanted_protocol: ProtocolFeatures) -> Result<Negotiated, FrontendError> {
        let offered = self.get_features()?;
        let mut features = wanted & offered;
        if offered & VHOST_USER_F_PROTOCOL_FEATURES != 0 {
            let protocol = self.get_protocol_features()?.and(wanted_protocol);
            self.set_protocol_features(protocol)?;
            if protocol.has(ProtocolFeature::BACKEND_REQ) {
                self.set_backend_req_fd()?;
            }
            features |= VHOST_USER_F_PROTOCOL_FEATURES;
        }
        self.set_owner()?;
        self.set_features(features)?;
        Ok(Negotiated { offered, features, protocol_features: self.protocol_features })
    }

    /// The features acknowledged.
    pub fn features(&self) -> u64 {
        self.features
    }

    /// The protocol features acknowledged.
    pub fn protocol_features(&self) -> ProtocolFeatures {
        self.protocol_features
    }

    /// Whether the rings are packed, as acknowledged.
    pub fn packed(&self) -> bool {
        self.features & VIRTIO_F_RING_PACKED != 0
    }

    /// GET_FEATURES.
    pub fn get_features(&mut self) -> Result<u64, FrontendError> {
        self.ask_u64(FrontendRequest::GET_FEATURES)
    }

    /// SET_FEATURES.
    pub fn set_features(&mut self, features: u64) -> Result<(), FrontendError> {
        self.tell(FrontendRequest::SET_FEATURES, &u64_to(features), &[])?;
        self.features = features;
        Ok(())
    }

    /// GET_PROTOCOL_FEATURES.
    pub fn get_protocol_features(&mut self) -> Result<ProtocolFeatures, FrontendError> {
        Ok(ProtocolFeatures(self.ask_u64(FrontendRequest::GET_PROTOCOL_FEATURES)?))
    }

    /// SET_PROTOCOL_FEATURES.
    pub fn set_protocol_features(&mut self, features: ProtocolFeatures) -> Result<(), FrontendError> {
        self.tell(FrontendRequest::SET_PROTOCOL_FEATURES, &u64_to(features.0), &[])?;
        self.protocol_features = features;
        Ok(())
    }

    /// SET_OWNER.
    pub fn set_owner(&mut self) -> Result<(), FrontendError> {
        self.tell(FrontendRequest::SET_OWNER, &[], &[])
    }

    /// SET_BACKEND_REQ_FD: opens the back end's own channel.
    pub fn set_backend_req_fd(&mut self) -> Result<(), FrontendError> {
        let request = FrontendRequest::SET_BACKEND_REQ_FD;
        let (here, there) = stream_pair().map_err(|error| FrontendError::socket(request, error.into()))?;
        self.backend_channel = Some(Connection::new(here));
        self.tell(request, &[], &[there.as_fd()])
    }

    /// Shares guest memory: SET_MEM_TABLE, or GET_MAX_MEM_SLOTS and ADD_MEM_REG for each region if there are
    /// more than one message holds.
    pub fn share_memory(&mut self, regions: &[SharedRegion<'_>]) -> Result<(), FrontendError> {
        if regions.len() <= MEMORY_REGIONS_MAX {
            return self.set_mem_table(regions);
        }
        let slots = self.get_max_mem_slots()?;
        if regions.len() as u64 > slots {
            return Err(FrontendError::TooManyRegions { found: regions.len(), allowed: slots });
        }
        regions.iter().try_for_each(|region| self.add_mem_reg(region))
    }

    /// SET_MEM_TABLE.
    pub fn set_mem_table(&mut self, regions: &[SharedRegion<'_>]) -> Result<(), FrontendError> {
        if regions.len() > MEMORY_REGIONS_MAX {
            return Err(FrontendError::TooManyRegions { found: regions.len(), allowed: MEMORY_REGIONS_MAX as u64 });
        }
        let table = MemoryTable { regions: regions.iter().map(|shared| shared.region).collect() };
        let files: Vec<_> = regions.iter().map(|shared| shared.file).collect();
        self.tell(FrontendRequest::SET_MEM_TABLE, &table.to_bytes(), &files)
    }

    /// GET_MAX_MEM_SLOTS.
    pub fn get_max_mem_slots(&mut self) -> Result<u64, FrontendError> {
        self.ask_u64(FrontendRequest::GET_MAX_MEM_SLOTS)
    }

    /// ADD_MEM_REG.
    pub fn add_mem_reg(&mut self, shared: &SharedRegion<'_>) -> Result<(), FrontendError> {
        self.tell(FrontendRequest::ADD_MEM_REG, &shared.region.to_single_bytes(), &[shared.file])
    }

    /// REM_MEM_REG.
    pub fn rem_mem_reg(&mut self, region: &MemoryRegion) -> Result<(), FrontendError> {
        self.tell(FrontendRequest::REM_MEM_REG, &region.to_single_bytes(), &[])
    }

    /// Starts a ring: SET_VRING_NUM, SET_VRING_BASE, SET_VRING_ADDR, SET_VRING_CALL, SET_VRING_ERR,
    /// SET_VRING_KICK, and SET_VRING_ENABLE where rings start disabled.
    pub fn start_ring(&mut self, index: u8, setup: &RingSetup<'_>) -> Result<(), FrontendError> {
        let state = |num| VringState { index: index.into(), num };
        self.set_vring_num(state(setup.size))?;
        self.set_vring_base(state(setup.base.to_num()))?;
        self.set_vring_addr(&VringAddr {
            index: index.into(),
            flags: if setup.log_addr.is_some() { VringAddr::LOG } else { 0 },
            descriptor: setup.descriptor_addr,
            used: setup.device_addr,
            available: setup.driver_addr,
            log: setup.log_addr.unwrap_or(0),
        })?;
        self.set_vring_call(index, setup.call)?;
        if let Some(err) = setup.err {
            self.set_vring_err(index, Some(err))?;
        }
        self.set_vring_kick(index, setup.kick)?;
        if self.features & VHOST_USER_F_PROTOCOL_FEATURES != 0 {
            self.set_vring_enable(index, true)?;
        }
        Ok(())
    }

    /// Stops a ring and tells where it stands: GET_VRING_BASE.
    pub fn stop_ring(&mut self, index: u8) -> Result<VringBase, FrontendError> {
        let request = FrontendRequest::GET_VRING_BASE;
        let asked = VringState { index: index.into(), num: 0 };
        let reply = self.ask(request, &asked.to_bytes(), &[])?;
        let malformed = |source| FrontendError::Reply { request, source };
        let state = VringState::from_bytes(request.name(), &reply.body).map_err(malformed)?;
        if state.index != asked.index {
            return Err(FrontendError::OtherRing { asked: asked.index, found: state.index });
        }
        VringBase::from_num(request.name(), state.num, self.packed()).map_err(malformed)
    }

    /// SET_VRING_NUM.
    pub fn set_vring_num(&mut self, state: VringState) -> Result<(), FrontendError> {
        self.tell(FrontendRequest::SET_VRING_NUM, &state.to_bytes(), &[])
    }

    /// SET_VRING_BASE.
    pub fn set_vring_base(&mut self, state: VringState) -> Result<(), FrontendError> {
        self.tell(FrontendRequest::SET_VRING_BASE, &state.to_bytes(), &[])
    }

    /// SET_VRING_ADDR.
    pub fn set_vring_addr(&mut self, addr: &VringAddr) -> Result<(), FrontendError> {
        self.tell(FrontendRequest::SET_VRING_ADDR, &addr.to_bytes(), &[])
    }

    /// SET_VRING_KICK; without a descriptor the back end polls.
    pub fn set_vring_kick(&mut self, index: u8, fd: Option<BorrowedFd<'_>>) -> Result<(), FrontendError> {
        self.tell_vring_fd(FrontendRequest::SET_VRING_KICK, index, fd)
    }

    /// SET_VRING_CALL; without a descriptor nobody is called.
    pub fn set_vring_call(&mut self, index: u8, fd: Option<BorrowedFd<'_>>) -> Result<(), FrontendError> {
        self.tell_vring_fd(FrontendRequest::SET_VRING_CALL, index, fd)
    }

    /// SET_VRING_ERR.
    pub fn set_vring_err(&mut self, index: u8, fd: Option<BorrowedFd<'_>>) -> Result<(), FrontendError> {
        self.tell_vring_fd(FrontendRequest::SET_VRING_ERR, index, fd)
    }

    /// SET_VRING_ENABLE.
    pub fn set_vring_enable(&mut self, index: u8, enabled: bool) -> Result<(), FrontendError> {
        let state = VringState { index: index.into(), num: enabled.into() };
        self.tell(FrontendRequest::SET_VRING_ENABLE, &state.to_bytes(), &[])
    }

    /// SET_LOG_BASE: the dirty log, in shared memory.
    pub fn set_log_base(&mut self, log: LogBase, file: BorrowedFd<'_>) -> Result<(), FrontendError> {
        self.ask(FrontendRequest::SET_LOG_BASE, &log.to_bytes(), &[file]).map(drop)
    }

    /// SET_LOG_FD: an eventfd told of every change of the log.
    pub fn set_log_fd(&mut self, fd: BorrowedFd<'_>) -> Result<(), FrontendError> {
        self.tell(FrontendRequest::SET_LOG_FD, &[], &[fd])
    }

    /// GET_INFLIGHT_FD: a buffer for `num_queues` rings of `queue_size`.
    pub fn get_inflight_fd(&mut self, num_queues: u16, queue_size: u16) -> Result<(Inflight, OwnedFd), FrontendError> {
        let request = FrontendRequest::GET_INFLIGHT_FD;
        let asked = Inflight { mmap_size: 0, mmap_offset: 0, num_queues, queue_size };
        let mut reply = self.ask(request, &asked.to_bytes(), &[])?;
        let inflight = Inflight::from_bytes(request.name(), &reply.body)
            .map_err(|source| FrontendError::Reply { request, source })?;
        match reply.descriptors.pop() {
            Some(file) if inflight.mmap_size != 0 => Ok((inflight, file)),
            _ => Err(FrontendError::Refused { request, code: 0 }),
        }
    }

    /// SET_INFLIGHT_FD: gives the buffer back.
    pub fn set_inflight_fd(&mut self, inflight: &Inflight, file: BorrowedFd<'_>) -> Result<(), FrontendError> {
        self.tell(FrontendRequest::SET_INFLIGHT_FD, &inflight.to_bytes(), &[file])
    }

    /// GET_QUEUE_NUM: how many rings there can be, or queue pairs; back ends for net devices differ on that.
    pub fn get_queue_num(&mut self) -> Result<u64, FrontendError> {
        self.ask_u64(FrontendRequest::GET_QUEUE_NUM)
    }

    /// GET_CONFIG: `len_bytes` of the configuration space, from `offset`.
    pub fn get_config(&mut self, offset: u32, len_bytes: usize) -> Result<Vec<u8>, FrontendError> {
        let request = FrontendRequest::GET_CONFIG;
        let asked = Config { offset, flags: 0, bytes: vec![0; len_bytes] };
        let reply = self.ask(request, &asked.to_bytes(), &[])?;
        let config = Config::from_bytes(request.name(), &reply.body)
            .map_err(|source| FrontendError::Reply { request, source })?;
        if config.bytes.len() != len_bytes {
            return Err(FrontendError::Refused { request, code: 0 });
        }
        Ok(config.bytes)
    }

    /// SET_CONFIG: writes `bytes` at `offset`; `migration` also where the guest may only read.
    pub fn set_config(&mut self, offset: u32, bytes: &[u8], migration: bool) -> Result<(), FrontendError> {
        let config = Config { offset, flags: migration.into(), bytes: bytes.to_vec() };
        self.tell(FrontendRequest::SET_CONFIG, &config.to_bytes(), &[])
    }

    /// GET_STATUS: the device status field.
    pub fn get_status(&mut self) -> Result<u64, FrontendError> {
        self.ask_u64(FrontendRequest::GET_STATUS)
    }

    /// SET_STATUS.
    pub fn set_status(&mut self, status: u8) -> Result<(), FrontendError> {
        self.tell(FrontendRequest::SET_STATUS, &u64_to(status.into()), &[])
    }

    /// RESET_DEVICE.
    pub fn reset_device(&mut self) -> Result<(), FrontendError> {
        self.tell(FrontendRequest::RESET_DEVICE, &[], &[])
    }

    /// SEND_RARP: the guest with this address is here now.
    pub fn send_rarp(&mut self, mac: [u8; 6]) -> Result<(), FrontendError> {
        let mut body = [0; 8];
        body[..6].copy_from_slice(&mac);
        self.tell(FrontendRequest::SEND_RARP, &body, &[])
    }

    /// NET_SET_MTU, in bytes.
    pub fn net_set_mtu(&mut self, mtu: u16) -> Result<(), FrontendError> {
        self.tell(FrontendRequest::NET_SET_MTU, &u64_to(mtu.into()), &[])
    }

    /// How often the back end has told of a change of its configuration space, so far.
    pub fn config_changes(&mut self) -> u64 {
        self.serve_backend_channel();
        self.config_changes
    }

    /// Translations that the back end has asked for since this was last asked.
    pub fn misses(&mut self) -> Vec<Iotlb> {
        self.serve_backend_channel();
        std::mem::take(&mut self.misses)
    }

    /// IOTLB_MSG: an update or an invalidation.
    pub fn iotlb_msg(&mut self, message: &Iotlb) -> Result<(), FrontendError> {
        let request = FrontendRequest::IOTLB_MSG;
        let reply = self.ask(request, &message.to_bytes(), &[])?;
        match u64_from(request.name(), &reply.body).map_err(|source| FrontendError::Reply { request, source })? {
            0 => Ok(()),
            code => Err(FrontendError::Refused { request, code }),
        }
    }

    /// Whether the back end has closed the connection.
    pub fn backend_gone(&mut self) -> bool {
        self.lost |= !matches!(self.connection.receive(), Ok(Received::NotYet));
        self.lost
    }

    /// A request without a reply of its own: answered if REPLY_ACK was acknowledged.
    fn tell(
        &mut self,
        request: FrontendRequest,
        body: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), FrontendError> {
        let acknowledged = self.protocol_features.has(ProtocolFeature::REPLY_ACK);
        self.send(request, body, descriptors, acknowledged)?;
        if !acknowledged {
            return Ok(());
        }
        let reply = self.reply(request)?;
        let answer = u64_from(request.name(), &reply.body);
        match answer.map_err(|source| FrontendError::Reply { request, source })? {
            0 => Ok(()),
            code => Err(FrontendError::Refused { request, code }),
        }
    }

    fn tell_vring_fd(
        &mut self,
        request: FrontendRequest,
        index: u8,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<(), FrontendError> {
        let body = VringFd { index, no_fd: fd.is_none() }.to_bytes();
        self.tell(request, &body, fd.as_slice())
    }

    /// A request with a reply of its own.
    fn ask(
        &mut self,
        request: FrontendRequest,
        body: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<Message, FrontendError> {
        self.send(request, body, descriptors, false)?;
        let reply = self.reply(request)?;
        let shape = request.reply().expect("only requests that are replied to are asked");
        if reply.body.is_empty() && !shape.len_bytes().contains(&0) {
            // How a back end says no where zero would be an answer. ("VHOST_USER_GET_CONFIG")
            return Err(FrontendError::Refused { request, code: 0 });
        }
        check_shape(request.name(), shape, reply.body.len(), request.reply_descriptors(), reply.descriptor_count())
            .map_err(|source| FrontendError::Reply { request, source })?;
        Ok(reply)
    }

    fn ask_u64(&mut self, request: FrontendRequest) -> Result<u64, FrontendError> {
        let reply = self.ask(request, &[], &[])?;
        u64_from(request.name(), &reply.body).map_err(|source| FrontendError::Reply { request, source })
    }

    fn send(
        &mut self,
        request: FrontendRequest,
        body: &[u8],
        descriptors: &[BorrowedFd<'_>],
        need_reply: bool,
    ) -> Result<(), FrontendError> {
        if self.lost {
            return Err(FrontendError::Lost { request });
        }
        if let Some(feature) = request.needs().filter(|feature| !self.protocol_features.has(*feature)) {
            return Err(FrontendError::NotNegotiated { request, feature });
        }
        let header = Header::request(request.number(), body.len() as u32, need_reply);
        let sent = self.connection.send_within(header, body, descriptors, self.timeout);
        sent.map_err(|source| self.lose(request, source))
    }

    /// Waits for the answer to `request`, serving the back end's own channel meanwhile: the back end may
    /// want an answer there before it gives one here.
    fn reply(&mut self, request: FrontendRequest) -> Result<Message, FrontendError> {
        let deadline = Instant::now() + self.timeout;
        loop {
            self.serve_backend_channel();
            match self.connection.receive() {
                Ok(Received::Message(reply)) => return self.check_reply(request, reply),
                Ok(Received::Gone) => return Err(self.lose(request, SocketError::Gone)),
                Err(error) => return Err(self.lose(request, error)),
                Ok(Received::NotYet) => {}
            }
            let channel = self.backend_channel.as_ref();
            let mut fds: Vec<_> = [Some(&self.connection), channel]
                .into_iter()
                .flatten()
                .map(|end| PollFd::new(end, PollFlags::IN))
                .collect();
            match wait_any(&mut fds, deadline) {
                Ok(true) => {}
                Ok(false) => return Err(self.lose(request, SocketError::Timeout(self.timeout))),
                Err(errno) => return Err(self.lose(request, errno.into())),
            }
        }
    }

    fn check_reply(&mut self, request: FrontendRequest, reply: Message) -> Result<Message, FrontendError> {
        if reply.header.is_reply() && reply.header.request == request.number() {
            return Ok(reply);
        }
        self.lost = true;
        Err(FrontendError::OtherReply { request, found: reply.header.request })
    }

    fn lose(&mut self, request: FrontendRequest, source: SocketError) -> FrontendError {
        self.lost = true;
        FrontendError::socket(request, source)
    }

    /// Takes what the back end has asked on its own channel. A channel that is out of step is closed.
    fn serve_backend_channel(&mut self) {
        while let Some(channel) = &mut self.backend_channel {
            let outcome = match channel.receive() {
                Ok(Received::NotYet) => return,
                Ok(Received::Message(asked)) => {
                    let done = match BackendRequest::from_number(asked.header.request) {
                        Some(BackendRequest::CONFIG_CHANGE_MSG) => {
                            self.config_changes += 1;
                            true
                        }
                        Some(BackendRequest::IOTLB_MSG) => {
                            let miss = Iotlb::from_bytes(BackendRequest::IOTLB_MSG.name(), &asked.body);
                            miss.is_ok_and(|miss| {
                                self.misses.push(miss);
                                miss.kind == Iotlb::MISS
                            })
                        }
                        _ => false,
                    };
                    answer(channel, &asked.header, done)
                }
                Ok(Received::Gone) => Err(SocketError::Gone),
                Err(error) => Err(error),
            };
            if outcome.is_err() {
                self.backend_channel = None;
            }
        }
    }
}

/// Answers a request of the back end's, if it wants an answer: 0 for done, 1 for what we do not know.
fn answer(channel: &Connection, asked: &Header, done: bool) -> Result<(), SocketError> {
    if !asked.needs_reply() {
        return Ok(());
    }
    let body = u64_to(u64::from(!done));
    channel.send(Header::reply(asked.request, body.len() as u32), &body, &[])
}
