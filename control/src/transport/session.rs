//! One connection, of whichever protocol.

use std::error::Error;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::{Backend, Counters, Served};
use crate::vfio_user::session::Session as VfioUser;
use crate::vhost_user::session::Session as VhostUser;
use crate::virtio_pci::{Function, NO_VECTOR};

/// What a device is served as.
#[derive(Debug)]
pub enum Transport {
    /// Its rings.
    VhostUser,
    /// A whole PCI function, which is a session's while there is one.
    VfioUser(Option<Box<Function>>),
}

/// One connection.
#[derive(Debug)]
pub enum Session {
    /// With a front end that shows the device to its guest.
    VhostUser(Box<VhostUser>),
    /// With a client that carries the function's registers.
    VfioUser(Box<VfioUser>),
}

/// Why something was refused, or has ended, in words.
pub type Told = Box<dyn Error + Send + Sync>;

/// Runs one expression with a vhost-user session, or another with a vfio-user session.
macro_rules! either {
    ($session:expr, $vhost:ident => $rings:expr, $vfio:ident => $function:expr) => {
        match $session {
            Session::VhostUser($vhost) => $rings,
            Session::VfioUser($vfio) => $function,
        }
    };
}

impl Session {
    /// A session over a connected socket.
    pub fn new(stream: OwnedFd, transport: &mut Transport, device: &impl Backend) -> Self {
        match transport {
            Transport::VhostUser => Self::VhostUser(Box::new(VhostUser::new(stream, device))),
            Transport::VfioUser(function) => {
                let function = function.take().expect("one session at a time has it");
                Self::VfioUser(Box::new(VfioUser::new(stream, function)))
            }
        }
    }

    /// Takes at most one message, and never waits.
    pub fn serve(&mut self, device: &mut impl Backend) -> Served<Told, Told> {
        either!(self, session => told(session.serve(device)), session => told(session.serve(device)))
    }

    /// Takes every ring back from the device. To be called once, when the session is over.
    pub fn close(self, transport: &mut Transport, device: &mut impl Backend) -> Counters {
        match self {
            Self::VhostUser(session) => session.close(device),
            Self::VfioUser(session) => {
                let (counters, function) = session.close(device);
                *transport = Transport::VfioUser(Some(function));
                counters
            }
        }
    }

    /// What has come so far.
    pub fn counters(&self) -> &Counters {
        either!(self, session => session.counters(), session => session.counters())
    }

    /// The device status field.
    pub fn status(&self) -> u8 {
        either!(self, session => session.status(), session => session.function().status())
    }

    /// Does what a device status that somebody else than the driver has chosen stands for, and tells the driver that there is
    /// something to read: 0 resets the device as its driver would, DEVICE_NEEDS_RESET asks the driver for that, FAILED stops all
    /// rings. Other bits are the driver's.
    pub fn put_status(&mut self, status: u8, device: &mut impl Backend) {
        either!(self,
            session => session.put_status(status, device),
            session => session.function_mut().put_status(status, device))
    }

    /// Whether the driver has to reset the device before it can go on.
    pub fn needs_reset(&self) -> bool {
        either!(self, session => session.needs_reset(), session => session.function().needs_reset())
    }

    /// Whether a ring runs.
    pub fn has_rings(&self) -> bool {
        either!(self, session => session.has_rings(), session => session.function().has_rings())
    }

    /// The rings that run: index, size, whether it is enabled, and where its descriptor, driver and device areas are in the front
    /// end's memory.
    pub fn rings(&self) -> Vec<(usize, u16, bool, [u64; 3])> {
        either!(self, session => session.rings().collect(), session => session.function().rings().collect())
    }

    /// The MSI-X vector of a ring, or of the configuration; [`NO_VECTOR`] where there is none, and of a vhost-user front end, which
    /// keeps it for itself.
    pub fn vector_of(&self, ring: Option<usize>) -> u16 {
        either!(self, _session => NO_VECTOR, session => session.function().vector_of(ring))
    }

    /// Tells whoever wants to know that the configuration space has changed.
    pub fn config_changed(&mut self) {
        either!(self, session => session.config_changed(), session => session.function_mut().config_changed())
    }

    /// The driver has broken a ring, and it was retired: the device wants a reset.
    pub fn ring_failed(&mut self, index: usize) {
        either!(self, session => session.ring_failed(index), session => session.function_mut().ring_failed())
    }

    /// What else than its socket tells that there is something to do.
    pub fn bell(&self) -> Option<BorrowedFd<'_>> {
        either!(self, session => session.bell(), _session => None)
    }

    /// Asks the front end once more for what it has not answered. To be called now and then.
    pub fn ask_again(&mut self, device: &mut impl Backend) {
        either!(self, session => session.ask_again(device), _session => {})
    }

    /// Looks whether the front end has cut a memory file short. If so, every ring stops, the memory is let go and the device
    /// wants a reset; `true` once for each such memory.
    pub fn check_memory(&mut self, device: &mut impl Backend) -> bool {
        either!(self, session => session.check_memory(device), session => session.function_mut().check_memory(device))
    }
}

impl AsFd for Session {
    fn as_fd(&self) -> BorrowedFd<'_> {
        either!(self, session => session.as_fd(), session => session.as_fd())
    }
}

/// What both protocols say, in words.
fn told<R: Error + Send + Sync + 'static, E: Error + Send + Sync + 'static>(
    served: Served<R, E>,
) -> Served<Told, Told> {
    match served {
        Served::Message => Served::Message,
        Served::Refused(refusal) => Served::Refused(refusal.into()),
        Served::Nothing => Served::Nothing,
        Served::Ended(why) => Served::Ended(why.map(Into::into)),
    }
}
