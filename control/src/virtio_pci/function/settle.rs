//! Rings, started and stopped until all is as the registers say.

use virtnet_rings::spec::status::{DRIVER_OK, FAILED};
use virtnet_rings::{Notifier, QueueSetup};

use super::{Function, ISR_QUEUE};
use crate::pci::capability;
use crate::pci::config_space::COMMAND_MASTER;
use crate::transport::Backend;
use crate::virtio_pci::Refusal;
use crate::virtio_pci::queue::Aim;

impl Function {
    /// Whether the function may read and write memory, and its driver wants it to.
    fn is_on(&self) -> bool {
        let power = self.space.half(self.places.power + capability::POWER_CONTROL);
        (self.registers.status & DRIVER_OK != 0 || self.registers.has_begun)
            && self.status() & FAILED == 0
            && self.space.has_command(COMMAND_MASTER)
            && power & capability::POWER_STATE_MASK == 0
    }

    /// Starts and stops rings, and points their notifications, as the registers say. A ring that cannot be as they say wants a
    /// reset.
    ///
    /// # Errors
    /// The first such ring's.
    pub(super) fn settle_all(&mut self, device: &mut impl Backend) -> Result<(), Refusal> {
        let settled = self.try_settle(device);
        if settled.is_err() {
            self.want_reset();
        }
        settled
    }

    /// The same. A ring that cannot be as they say goes on when that is possible.
    pub(super) fn settle(&mut self, device: &mut impl Backend) {
        if let Err(refusal) = self.try_settle(device) {
            tracing::debug!("a ring waits: {refusal}");
        }
    }

    fn try_settle(&mut self, device: &mut impl Backend) -> Result<(), Refusal> {
        let is_on = self.is_on();
        let mut settled = Ok(());
        for index in 0..self.queues.len() {
            let queue = &self.queues[index];
            let aim = self.aim(queue.vector);
            match (is_on && queue.is_enabled, queue.runs) {
                (true, None) => settled = settled.and(self.start(index, aim, device)),
                (false, Some(_)) => self.stop(index, device),
                (true, Some(before)) if before != aim => {
                    device.set_call(index, self.call(queue.vector));
                    self.queues[index].runs = Some(aim);
                }
                _ => {}
            }
        }
        // What was held back before notifications were pointed elsewhere.
        self.msix.flush();
        self.intx.look();
        settled
    }

    fn start(&mut self, index: usize, aim: Aim, device: &mut impl Backend) -> Result<(), Refusal> {
        let layout = self.registers.layout();
        let queue = &mut self.queues[index];
        let kick = queue.kick().map_err(|source| Refusal::System { index, source })?;
        let resumes = queue.base.is_some();
        let queue = &self.queues[index];
        let setup = QueueSetup {
            layout,
            size: queue.size,
            addresses: queue.addresses,
            base: queue.base.unwrap_or(layout.base()),
            features: self.registers.driver_features as u64,
            call: self.call(queue.vector),
            kick,
            log: None,
        };
        let ring = setup.activate(self.memory.clone()).map_err(|source| Refusal::Queue { index, source })?;
        device.start_ring(index, ring, true).map_err(|why| Refusal::Device { index, why })?;
        self.queues[index].runs = Some(aim);
        if resumes {
            // One too many does no harm.
            self.call(self.queues[index].vector).notify();
        }
        Ok(())
    }

    pub(super) fn stop(&mut self, index: usize, device: &mut impl Backend) {
        if self.queues[index].runs.take().is_some() {
            self.queues[index].base = Some(device.stop_ring(index));
        }
    }

    pub(super) fn stop_all(&mut self, device: &mut impl Backend) {
        (0..self.queues.len()).for_each(|index| self.stop(index, device));
    }

    /// Where notifications of a queue with this vector go.
    fn aim(&self, vector: u16) -> Aim {
        if !self.msix.is_enabled() {
            return Aim::Intx(self.intx.epoch());
        }
        self.msix.route(vector).map_or(Aim::Nowhere, |route| Aim::Vector(vector, route))
    }

    /// What brings them there.
    fn call(&self, vector: u16) -> Notifier {
        if self.msix.is_enabled() { self.msix.notifier(vector) } else { self.intx.cause(ISR_QUEUE) }
    }
}
