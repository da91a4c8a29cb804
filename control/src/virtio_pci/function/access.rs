//! Reading and writing: configuration space, BARs, and BARs through configuration space.

use super::Function;
use crate::pci::config_space::BARS;
use crate::pci::{capability, msix};
use crate::transport::{Backend, Resetter};
use crate::virtio_pci::Refusal;
use crate::virtio_pci::layout::{self, LEGACY_BAR, MSIX_BAR, VIRTIO_BAR};

impl Function {
    /// Configuration space as the host reads it: bytes that lie inside.
    pub fn read_config(&mut self, offset: usize, into: &mut [u8], device: &impl Backend) {
        self.space.show_intx(self.intx.is_wanted() && !self.msix.is_enabled());
        if self.touches(layout::ACCESS_DATA, 4, offset, into.len())
            && let Some((bar, at, len_bytes)) = self.window()
        {
            let mut data = [0; 4];
            self.read_bar(bar, at, &mut data[..len_bytes], device);
            self.space.write(self.places.access + layout::ACCESS_DATA, &data);
        }
        self.space.read(offset, into);
    }

    /// The same, written.
    ///
    /// # Errors
    /// [`Refusal`] of what is written through it to a BAR.
    pub fn write_config(&mut self, offset: usize, bytes: &[u8], device: &mut impl Backend) -> Result<(), Refusal> {
        let control = self.places.express + capability::DEVICE_CONTROL + 1;
        let [_, reset] = capability::DEVICE_CONTROL_FLR.to_le_bytes();
        if control.checked_sub(offset).and_then(|at| bytes.get(at)).is_some_and(|byte| byte & reset != 0) {
            self.reset(Resetter::Function, device);
            return Ok(());
        }
        let before = self.sriov.as_ref().map(|sriov| sriov.look(&self.space));
        self.space.write(offset, bytes);
        self.msix.control(self.space.half(self.places.msix + msix::CONTROL));
        self.enable_intx();
        self.settle(device);
        if self.touches(layout::ACCESS_DATA, 4, offset, bytes.len())
            && let Some((bar, at, len_bytes)) = self.window()
        {
            let data = self.space.word(self.places.access + layout::ACCESS_DATA).to_le_bytes();
            return self.write_bar(bar, at, &data[..len_bytes], device);
        }
        match self.sriov.as_mut().zip(before) {
            Some((sriov, before)) => Ok(sriov.settle(before, &mut self.space)?),
            None => Ok(()),
        }
    }

    /// Registers of a BAR as the host reads them: bytes that lie inside.
    pub fn read_bar(&mut self, bar: usize, offset: u64, into: &mut [u8], device: &impl Backend) {
        into.fill(0);
        if bar == MSIX_BAR {
            return self.msix.read(offset, into);
        }
        match offset {
            _ if bar == LEGACY_BAR && self.bar_bytes(bar) > 0 => self.read_legacy(offset, into, device),
            _ if bar != VIRTIO_BAR => {}
            layout::NOTIFY.. => {}
            layout::DEVICE.. => copy(&device.config(), offset - layout::DEVICE, into),
            layout::ISR.. => {
                if let (layout::ISR, [reasons, ..]) = (offset, into) {
                    *reasons = self.intx.take_reasons();
                }
            }
            _ => {
                let image =
                    self.registers.image(self.offered(device), self.status(), device.ring_count(), self.known_queues());
                copy(&image, offset, into);
            }
        }
    }

    /// The same, written.
    ///
    /// # Errors
    /// [`Refusal`]: what is written makes no sense, or a queue cannot be as it says.
    pub fn write_bar(
        &mut self,
        bar: usize,
        offset: u64,
        bytes: &[u8],
        device: &mut impl Backend,
    ) -> Result<(), Refusal> {
        if bar == MSIX_BAR {
            self.msix.write(offset, bytes);
            self.settle(device);
            return Ok(());
        }
        let refused = Refusal::Register { bar, offset, len_bytes: bytes.len() };
        let mut value = [0; 8];
        let Some(low) = value.get_mut(..bytes.len()) else { return Err(refused) };
        low.copy_from_slice(bytes);
        let value = u64::from_le_bytes(value);
        match offset {
            _ if bar == LEGACY_BAR && self.bar_bytes(bar) > 0 => {
                self.write_legacy(offset, bytes, device).unwrap_or(Err(refused))
            }
            _ if bar != VIRTIO_BAR => Err(refused),
            layout::MEMBERS_NOTIFY.. => self.ring_member(offset - layout::MEMBERS_NOTIFY, bytes).ok_or(refused),
            layout::LEGACY_NOTIFY.. if bytes.len() == 2 && offset == layout::LEGACY_NOTIFY => {
                self.ring_legacy(value, device)
            }
            layout::NOTIFY.. => {
                self.write_doorbell(offset - layout::NOTIFY, bytes.len(), value).unwrap_or(Err(refused))
            }
            ..layout::ISR => self.write_common(offset, bytes.len(), value, device).unwrap_or(Err(refused)),
            _ => Err(refused),
        }
    }

    /// Whether an access to configuration space touches a field of the capability that gives access to BARs.
    fn touches(&self, field: usize, field_bytes: usize, offset: usize, len_bytes: usize) -> bool {
        let field = self.places.access + field;
        offset < field + field_bytes && field < offset + len_bytes
    }

    /// What the capability for access to BARs points at, if that is inside one. ("PCI configuration access capability")
    fn window(&self) -> Option<(usize, u64, usize)> {
        let at = self.places.access;
        let bar = usize::from(self.space.half(at + layout::ACCESS_BAR) as u8);
        let offset = u64::from(self.space.word(at + layout::ACCESS_OFFSET));
        let len_bytes = self.space.word(at + layout::ACCESS_LENGTH) as usize;
        let is_good = bar < BARS
            && matches!(len_bytes, 1 | 2 | 4)
            && offset % len_bytes as u64 == 0
            && offset + len_bytes as u64 <= self.bar_bytes(bar);
        is_good.then_some((bar, offset, len_bytes))
    }
}

/// The bytes of a structure from `offset` on; none behind its end.
pub(super) fn copy(from: &[u8], offset: u64, into: &mut [u8]) {
    let from = usize::try_from(offset).ok().and_then(|offset| from.get(offset..)).unwrap_or_default();
    let len = from.len().min(into.len());
    into[..len].copy_from_slice(&from[..len]);
}
