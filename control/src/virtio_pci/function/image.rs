//! All that a client and its guest have made of a function, so that it goes on elsewhere: device parts, and what those leave out.
//! It is read by who has written it, and by later versions.

use super::parts::{Part, Unfit};
use super::{Function, ISR_CONFIG, ISR_QUEUE};
use crate::device::controlq::Said;
use crate::pci::config_space::{PLAIN_BYTES, STATUS, STATUS_INTERRUPT};
use crate::pci::msix;
use crate::transport::Backend;

/// What it begins with.
const MAGIC: [u8; 8] = *b"virtnet\x01";
/// The most bytes it has: 4094 VLANs, a table of 600 addresses, 2048 vectors and 256 queues take less than half of them.
pub const IMAGE_BYTES_MAX: usize = 256 << 10;

/// Configuration space, without extended capabilities: VFs do not go along.
const CONFIG_SPACE: u16 = 0xf000;
/// The MSI-X table.
const MSIX_TABLE: u16 = 0xf001;
/// Vectors that are pending, a bit each.
const MSIX_PENDING: u16 = 0xf002;
/// Interrupt status.
const INTERRUPT_STATUS: u16 = 0xf003;
/// Where a queue goes on.
const POSITION: u16 = 0xf004;
/// The device's configuration space.
const DEVICE_CONFIG: u16 = 0xf005;
/// What the driver has said by the control queue, and there is no device part for: a command each.
const SAID: u16 = 0xf006;

impl Function {
    /// It, as it is now. It is stopped.
    ///
    /// # Errors
    /// It has VFs, which would be left behind.
    pub fn save(&self, device: &impl Backend) -> Result<Vec<u8>, Unfit> {
        debug_assert!(self.is_stopped());
        if self.sriov.is_some() && self.members() != Some(0) {
            return Err(Unfit);
        }
        let mut space = [0; PLAIN_BYTES];
        self.space.read(0, &mut space);
        let mut parts = vec![
            Part::new(CONFIG_SPACE, 0, space),
            Part::new(MSIX_TABLE, 0, self.msix.table()),
            Part::new(MSIX_PENDING, 0, self.msix.pending()),
            Part::new(INTERRUPT_STATUS, 0, [self.intx.reasons()]),
            Part::new(DEVICE_CONFIG, 0, device.config()),
        ];
        let positions = (0..).zip(&self.queues).filter_map(|(index, queue)| Some((index, queue.base?)));
        parts.extend(positions.map(|(index, base)| Part::new(POSITION, index, base.to_le_bytes())));
        let others = device.said().into_iter().filter(|said| !said.has_part());
        let bytes = |Said { class, command, data }: Said| [&[class, command], &data[..]].concat();
        parts.extend((0..).zip(others).map(|(index, said)| Part::new(SAID, index, bytes(said))));
        parts.extend(self.all_parts(device));
        Ok([MAGIC.to_vec(), parts.iter().flat_map(Part::to_bytes).collect()].concat())
    }

    /// Sets it to that. It is stopped.
    ///
    /// # Errors
    /// It cannot be so: it is another device, or what it is to be set to is no such thing. It wants a reset then.
    pub fn load(&mut self, image: &[u8], device: &mut impl Backend) -> Result<(), Unfit> {
        let parts = image.strip_prefix(&MAGIC).and_then(Part::read_all).ok_or(Unfit)?;
        let (own, parts): (Vec<_>, Vec<_>) = parts.into_iter().partition(|part| part.kind() >= CONFIG_SPACE);
        let find = |kind| own.iter().find(|part| part.kind() == kind).map(Part::bytes).ok_or(Unfit);
        let (table, pending, config) = (find(MSIX_TABLE)?, find(MSIX_PENDING)?, find(DEVICE_CONFIG)?);
        let [reasons] = *find(INTERRUPT_STATUS)? else { return Err(Unfit) };
        let known = reasons & !(ISR_QUEUE | ISR_CONFIG) == 0;
        if !known || table.len() != self.msix.table().len() || pending.len() != self.msix.pending().len() {
            return Err(Unfit);
        }
        let mut space = self.space.clone();
        let (saved, mut found) = (find(CONFIG_SPACE)?, [0; PLAIN_BYTES]);
        if saved.len() != found.len() {
            return Err(Unfit);
        }
        space.write(0, saved);
        space.read(0, &mut found);
        // What cannot be written is what it is: the same there and here.
        let differs = |at: usize| (found[at] ^ saved[at]) & if at == STATUS { !STATUS_INTERRUPT } else { 0xff } != 0;
        if (0..found.len()).any(differs) {
            return Err(Unfit);
        }
        let mut positions = vec![None; self.queues.len()];
        for part in own.iter().filter(|part| part.kind() == POSITION) {
            let index = usize::from(part.selected().ok_or(Unfit)?);
            *positions.get_mut(index).ok_or(Unfit)? = Some(u32::from_le_bytes(part.value()?));
        }
        let said = own.iter().filter(|part| part.kind() == SAID).map(|part| match part.bytes() {
            [class, command, data @ ..] => {
                let one = Said { class: *class, command: *command, data: data.to_vec() };
                // What has a part is said once, and by that.
                Some(one).filter(|said| !said.has_part()).ok_or(Unfit)
            }
            _ => Err(Unfit),
        });
        let said = said.collect::<Result<_, _>>()?;
        device.restore_config(0, config).map_err(|_| Unfit)?;
        self.set_all_parts(&parts, said, &positions, device)?;
        self.space = space;
        self.msix.write(0, table);
        self.msix.control(self.space.half(self.places.msix + msix::CONTROL));
        self.msix.set_pending(pending);
        self.intx.note(reasons);
        self.enable_intx();
        Ok(())
    }
}
