//! The device in another process, behind a vhost-user socket: we are the front end.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::process::Pid;
use virtnet_control::transport::listener::{Listener, connect_to};
use virtnet_control::vhost_user::frontend::{Frontend, RingSetup, SharedRegion};
use virtnet_control::vhost_user::message::{MemoryRegion, ProtocolFeature, ProtocolFeatures, VringBase};
use virtnet_rings::Notifier;
use virtnet_rings::guest::Driver;
use virtnet_rings::spec::net::VIRTIO_NET_F_MQ;

use super::{Bed, Counted};
use crate::args::{Direction, Ring};
use crate::lcore::Division;
use crate::load::{Guest, Lane, Load, LoadOptions, Watch};
use crate::plan::Plan;

/// How long a back end may take to answer a request.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Between two tries to connect.
const RETRY: Duration = Duration::from_millis(20);
/// ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK. ("Device Status Field")
const DRIVER_OK: u8 = 1 | 2 | 8 | 4;

/// A socket at which a back end is to be found, or is to find us.
#[derive(Debug)]
pub struct Door {
    path: PathBuf,
    listener: Option<Listener>,
    patience: Duration,
}

impl Door {
    /// At `path`; with `server` we listen there.
    ///
    /// # Errors
    /// We cannot listen there.
    pub fn new(path: PathBuf, server: bool, patience: Duration) -> Result<Self> {
        let listener = server.then(|| Listener::bind(&path, Mode::RUSR | Mode::WUSR)).transpose()?;
        Ok(Door { path, listener, patience })
    }

    /// Where it is.
    pub fn path(&self) -> &PathBuf {
        &self.path
    }

    /// A connection, as soon as there is somebody.
    fn open(&self, watch: &Watch) -> Result<OwnedFd> {
        let deadline = Instant::now() + self.patience;
        loop {
            let refused = match &self.listener {
                None => match connect_to(&self.path) {
                    Ok(stream) => return Ok(stream),
                    Err(error) => match error.errno() {
                        Some(Errno::NOENT | Errno::CONNREFUSED | Errno::AGAIN) => Some(error),
                        _ => return Err(error.into()),
                    },
                },
                Some(listener) => {
                    if let Some(stream) = listener.accept()? {
                        return Ok(stream);
                    }
                    let nap = Timespec { tv_sec: 0, tv_nsec: RETRY.as_nanos() as _ };
                    let _ = poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&nap));
                    None
                }
            };
            ensure!(!watch.stopped(), "interrupted before a back end was there");
            if Instant::now() >= deadline {
                match refused {
                    Some(error) => return Err(error).context("nobody listens there"),
                    None => {
                        bail!("{}: no back end connected within {} s", self.path.display(), self.patience.as_secs())
                    }
                }
            }
            if refused.is_some() {
                std::thread::sleep(RETRY);
            }
        }
    }
}

/// A back end, connected, with the queues of one guest.
#[derive(Debug)]
struct Session {
    frontend: Frontend,
    rings: u8,
    /// What the back end signals; nobody listens, as we poll.
    _calls: Vec<OwnedFd>,
}

/// One back end, or two with frames going from the first to the second.
#[derive(Debug)]
pub struct Attached {
    sessions: Vec<Session>,
    load: Load,
    peer: Option<Pid>,
}

impl Attached {
    /// Connects at every door, one guest each.
    ///
    /// # Errors
    /// Nobody is there, or the back end has not what is asked for.
    pub fn new(plan: &Plan, doors: &[Door], watch: &Watch) -> Result<Self> {
        let mut sessions = Vec::new();
        let mut guests = Vec::new();
        let mut peer = None;
        for (number, door) in (0..).zip(doors) {
            let mut guest = Guest::new(&plan.guest_options(), number, (number + 1) % 2)?;
            let place = || door.path.display().to_string();
            let stream = door.open(watch).with_context(place)?;
            let pid = socket_peercred(&stream).ok().map(|peer| peer.pid);
            peer = peer.or(pid);
            sessions.push(Session::start(stream, plan, &mut guest).with_context(place)?);
            guests.push(guest);
        }
        let options = LoadOptions {
            direction: plan.direction,
            burst: plan.burst,
            lcores: plan.division.drivers.clone(),
            shared_lcore: false,
            persistent: plan.smoke,
            inject: plan.inject,
            beside: None,
        };
        Ok(Attached { sessions, load: Load::new(guests, options)?, peer })
    }
}

impl Session {
    fn start(stream: OwnedFd, plan: &Plan, guest: &mut Guest) -> Result<Self> {
        let mut frontend = Frontend::new(stream, TIMEOUT);
        let several = u64::from(plan.queues > 1) << VIRTIO_NET_F_MQ;
        let wanted = plan.feature_bits() | several;
        let protocol =
            ProtocolFeatures::of(&[ProtocolFeature::MQ, ProtocolFeature::REPLY_ACK, ProtocolFeature::STATUS]);
        let negotiated = frontend.negotiate(wanted, protocol)?;
        let missing = plan.feature_bits() & !negotiated.offered;
        ensure!(
            missing == 0,
            "the back end does not offer {}: its features are {:#x}",
            plan.names_of(missing),
            negotiated.offered
        );
        if plan.queues > 1 {
            let has =
                if negotiated.protocol_features.has(ProtocolFeature::MQ) { frontend.get_queue_num()? } else { 1 };
            // Some count queues, some pairs; fewer than we have pairs are too few either way.
            ensure!(has >= u64::from(plan.queues), "the back end has {has} queue pairs, --queues {}", plan.queues);
        }
        frontend.share_memory(&[SharedRegion {
            region: MemoryRegion {
                guest_addr: guest.ram.gpa(),
                size_bytes: guest.ram.len_bytes(),
                user_addr: guest.ram.user_address(),
                mmap_offset: 0,
            },
            file: guest.ram.fd(),
        }])?;
        let to_user = guest.ram.user_address().wrapping_sub(guest.ram.gpa());
        let mut calls = Vec::new();
        let mut ring = |frontend: &mut Frontend, index: u8, driver: &Driver| -> Result<Notifier> {
            let flags = EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC;
            let (kick, call) = (eventfd(0, flags)?, eventfd(0, flags)?);
            let addresses = driver.addresses();
            frontend.start_ring(
                index,
                &RingSetup {
                    size: driver.size().into(),
                    base: VringBase::start(plan.ring == Ring::Packed),
                    descriptor_addr: addresses.descriptor.wrapping_add(to_user),
                    driver_addr: addresses.driver.wrapping_add(to_user),
                    device_addr: addresses.device.wrapping_add(to_user),
                    log_addr: None,
                    kick: Some(kick.as_fd()),
                    call: Some(call.as_fd()),
                    err: None,
                },
            )?;
            calls.push(call);
            Ok(Notifier::new(Some(kick)))
        };
        for (pair, lane) in (0..).zip(&mut guest.lanes) {
            let receive = ring(&mut frontend, 2 * pair, &lane.nic().receiveq)?;
            let transmit = ring(&mut frontend, 2 * pair + 1, &lane.nic().transmitq)?;
            lane.connect(receive, transmit);
        }
        if negotiated.protocol_features.has(ProtocolFeature::STATUS) {
            frontend.set_status(DRIVER_OK)?;
        }
        // The buffers were there before the back end looked.
        guest.lanes.iter().for_each(Lane::kick);
        Ok(Session { frontend, rings: 2 * plan.queues as u8, _calls: calls })
    }
}

impl Bed for Attached {
    fn load(&mut self) -> &mut Load {
        &mut self.load
    }

    fn counted(&mut self) -> Result<Option<Counted>> {
        ensure!(
            !self.sessions.iter_mut().any(|session| session.frontend.backend_gone()),
            "the back end closed the connection"
        );
        Ok(None)
    }

    fn process(&self) -> Option<Pid> {
        self.peer
    }

    fn dismantle(mut self: Box<Self>) -> Result<()> {
        for session in &mut self.sessions {
            for index in 0..session.rings {
                session.frontend.stop_ring(index).context("stopping the rings")?;
            }
        }
        Ok(())
    }
}

/// Where frames go if nobody says it.
pub fn default_direction(doors: usize) -> Direction {
    if doors > 1 { Direction::GuestToGuest } else { Direction::Loopback }
}

/// Only the guest's side has lcores of ours.
pub fn division(drivers: Option<&crate::args::Lcores>) -> Result<Division> {
    let mut division = Division::new(None, drivers, &crate::lcore::usable())?;
    division.workers.clear();
    Ok(division)
}
