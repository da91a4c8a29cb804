//! One ring as its front end has described it so far.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use virtnet_engine::caller::Line;
use virtnet_rings::memory::{GuestMemory, Span};
use virtnet_rings::spec::virtq::VIRTQ_DESC_F_USED;
use virtnet_rings::{Bell, Layout, Notifier, QueueAddresses, QueueSetup, SetupError};

use super::super::message::{ProtocolError, VringAddr, VringBase};

/// A ring's setup: each part comes with a message of its own, in any order. The ring is complete with a size,
/// addresses and a kick.
#[derive(Debug, Default)]
pub struct Vring {
    /// SET_VRING_NUM.
    pub size: Option<u16>,
    /// SET_VRING_ADDR.
    pub addr: Option<VringAddr>,
    /// SET_VRING_BASE as it came, or where the ring stood when it was stopped.
    pub base: Option<u32>,
    /// SET_VRING_KICK: with a descriptor, or without one if we are to poll.
    pub kick: Option<Option<OwnedFd>>,
    /// SET_VRING_CALL.
    pub call: Option<Arc<Line>>,
    /// SET_VRING_ERR.
    pub err: Option<Arc<Line>>,
    /// SET_VRING_ENABLE.
    pub enabled: bool,
    /// Whether it has been enabled since it was last stopped.
    pub was_enabled: bool,
    /// Whether the device has it now.
    pub running: bool,
    /// Whether it has run before: it then resumes, and the guest may wait for a call that came too early.
    pub resumes: bool,
}

impl Vring {
    /// Whether all has come that a ring needs.
    pub fn is_complete(&self) -> bool {
        self.size.is_some() && self.addr.is_some() && self.kick.is_some()
    }

    /// The setup of a complete ring, with user addresses translated.
    ///
    /// # Errors
    /// [`SetupError::Area`] for an area that lies in no region.
    pub fn setup(&self, layout: Layout, base: VringBase, memory: &GuestMemory) -> Result<Incomplete, SetupError> {
        let (size, addr) = (self.size.expect("complete"), self.addr.expect("complete"));
        let lengths = QueueAddresses::area_sizes_bytes(layout, size);
        let areas = [
            ("descriptor", addr.descriptor, lengths[0], 16),
            ("driver", addr.available, lengths[1], if layout == Layout::Split { 2 } else { 4 }),
            ("device", addr.used, lengths[2], 4),
        ];
        let mut translated = [0; 3];
        for ((area, user_addr, len_bytes, align_bytes), gpa) in areas.into_iter().zip(&mut translated) {
            *gpa = memory.frontend_to_gpa(user_addr, len_bytes).ok_or(SetupError::Area {
                area,
                gpa: user_addr,
                len_bytes,
                align_bytes,
            })?;
        }
        let [descriptor_area, driver_area, device_area] = translated;
        let may_be_new = layout == Layout::Packed && base.to_num() == 0;
        let base = if may_be_new && is_new(memory, descriptor_area, size) { VringBase::start(true) } else { base };
        Ok(Incomplete { layout, size, base, addresses: QueueAddresses { descriptor_area, driver_area, device_area } })
    }

    /// The ring's lines, for the device to keep.
    pub fn notifiers(&self) -> std::io::Result<(Notifier, Notifier)> {
        let kick = self.kick.as_ref().and_then(Option::as_ref);
        Ok((Notifier::new(kick.map(OwnedFd::try_clone).transpose()?), self.call_line()))
    }

    /// Where used-buffer notifications go.
    pub fn call_line(&self) -> Notifier {
        self.call.clone().map_or_else(Notifier::default, |call| Notifier::through(call))
    }

    /// Makes up for a call that was lost between the last one to serve the ring, or the last place to call, and now; one
    /// too many does no harm.
    pub fn call_once(&self) {
        if let Some(call) = &self.call {
            call.ring();
        }
    }

    /// Tells the front end that the ring failed.
    pub fn tell_failure(&self) {
        if let Some(err) = &self.err {
            err.ring();
        }
    }
}

/// A queue's setup without what only the session knows.
#[derive(Debug)]
pub struct Incomplete {
    layout: Layout,
    size: u16,
    /// Where it starts.
    pub base: VringBase,
    addresses: QueueAddresses,
}

impl Incomplete {
    /// Adds it.
    pub fn with(
        self,
        features: u64,
        (kick, call): (Notifier, Notifier),
        log: Option<std::sync::Arc<virtnet_rings::memory::DirtyLog>>,
    ) -> QueueSetup {
        let Incomplete { layout, size, base, addresses } = self;
        QueueSetup { layout, size, addresses, base: base.to_num(), features, call, kick, log }
    }
}

/// Where a ring stands that has this SET_VRING_BASE, or none.
pub fn base(num: Option<u32>, packed: bool) -> Result<VringBase, ProtocolError> {
    num.map_or(Ok(VringBase::start(packed)), |num| VringBase::from_num("SET_VRING_BASE", num, packed))
}

/// Whether a packed ring is new, for all its descriptors tell. User-mode Linux sends 0 as the base of any ring, where a
/// new packed one has wrap counters of 1; and 0 is also where a ring stands after every second lap. Then some of its
/// descriptors have been used, or made available again, and show it; in a new one none has. ("Packed Virtqueues")
fn is_new(memory: &GuestMemory, descriptor_area: u64, size: u16) -> bool {
    let flags = (0..u64::from(size)).map(|slot| memory.span(descriptor_area + 16 * slot + 14, 2));
    flags.flatten().filter_map(Span::read_array).all(|flags| u16::from_le_bytes(flags) & VIRTQ_DESC_F_USED == 0)
}
