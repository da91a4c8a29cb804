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

    /// Where its areas are, as the front end says.
    pub fn areas(&self) -> Option<QueueAddresses> {
        self.addr.map(|VringAddr { descriptor, available, used, .. }| QueueAddresses {
            descriptor_area: descriptor,
            driver_area: available,
            device_area: used,
        })
    }

    /// The setup of a complete ring; none while its areas wait for translations.
    ///
    /// # Errors
    /// [`SetupError::Area`] for an area that lies in no region.
    pub fn setup(
        &self,
        layout: Layout,
        base: VringBase,
        memory: &GuestMemory,
    ) -> Result<Option<Incomplete>, SetupError> {
        let (size, areas) = (self.size.expect("complete"), self.areas().expect("complete"));
        // Behind an IOMMU they are the driver's addresses, and user addresses otherwise.
        let addresses = if memory.is_behind_iommu() { areas } else { translated(areas, layout, size, memory)? };
        if addresses.are_awaited(layout, size, memory) {
            return Ok(None);
        }
        let may_be_new = layout == Layout::Packed && base.to_num() == 0;
        let is_new = may_be_new && is_new(memory, addresses.descriptor_area, size);
        let base = if is_new { VringBase::start(true) } else { base };
        Ok(Some(Incomplete { layout, size, base, addresses }))
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

/// The guest's addresses of areas that are described by user addresses.
fn translated(
    areas: QueueAddresses,
    layout: Layout,
    size: u16,
    memory: &GuestMemory,
) -> Result<QueueAddresses, SetupError> {
    let [descriptor, driver, device] = areas.areas(layout, size);
    let aligns = [16, if layout == Layout::Split { 2 } else { 4 }, 4];
    let translate = |area, (user_addr, len_bytes), align_bytes| {
        let gpa = memory.frontend_to_gpa(user_addr, len_bytes);
        gpa.ok_or(SetupError::Area { area, gpa: user_addr, len_bytes, align_bytes })
    };
    Ok(QueueAddresses {
        descriptor_area: translate("descriptor", descriptor, aligns[0])?,
        driver_area: translate("driver", driver, aligns[1])?,
        device_area: translate("device", device, aligns[2])?,
    })
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
