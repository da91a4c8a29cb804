//! Rings, started and stopped until all is as the registers say.

use std::os::fd::AsFd;

use virtnet_rings::spec::status::{DRIVER_OK, FAILED};
use virtnet_rings::{Layout, Notifier, QueueSetup};

use super::{Function, ISR_QUEUE};
use crate::pci::capability;
use crate::pci::config_space::COMMAND_MASTER;
use crate::transport::Backend;
use crate::virtio_pci::Refusal;
use crate::virtio_pci::queue::{Aim, VirtQueue};
use crate::virtio_pci::shadow::{Shadow, Shape};

impl Function {
    /// Whether the function may read and write memory, and its driver wants it to.
    fn is_on(&self) -> bool {
        let power = self.space.half(self.places.power + capability::POWER_CONTROL);
        (self.registers.status & DRIVER_OK != 0 || self.registers.has_begun)
            && self.status() & FAILED == 0
            && !self.is_stopped()
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
                    let call = self.call(queue.vector);
                    match &queue.shadow {
                        Some(shadow) => shadow.set_call(call),
                        None => device.set_call(index, call),
                    }
                    self.queues[index].runs = Some(aim);
                }
                _ => {}
            }
        }
        // What was held back before notifications were pointed elsewhere.
        if !self.is_stopped() {
            self.msix.flush();
            self.intx.look();
        }
        settled
    }

    fn start(&mut self, index: usize, aim: Aim, device: &mut impl Backend) -> Result<(), Refusal> {
        let layout = self.registers.layout();
        let queue = &mut self.queues[index];
        let kick = queue.kick().map_err(|source| Refusal::System { index, source })?;
        let resumes = queue.base.is_some();
        let queue = &self.queues[index];
        let &VirtQueue { size, addresses, .. } = queue;
        let base = queue.base.unwrap_or(layout.base());
        let features = self.registers.driver_features as u64;
        let call = self.call(queue.vector);
        // What is no size is refused below.
        let is_size = layout == Layout::Packed || size.is_power_of_two();
        let (shadow, ring) = if is_size && self.remote.holds(queue.addresses.areas(layout, size)) {
            let shape = Shape { layout, size, addresses, features, dma: self.remote.dma.clone() };
            let made = Shadow::new(shape, base, kick, call);
            let (shadow, ring) = made.map_err(|source| Refusal::Shadow { index, source })?;
            (Some(shadow), ring)
        } else {
            let setup = QueueSetup { layout, size, addresses, base, features, call, kick, log: self.log.clone() };
            (None, setup.activate(self.memory.clone()).map_err(|source| Refusal::Queue { index, source })?)
        };
        device.start_ring(index, ring, true).map_err(|why| Refusal::Device { index, why })?;
        self.queues[index].runs = Some(aim);
        self.queues[index].shadow = shadow;
        let mut bells = self.queues[index].shadow.iter().flat_map(Shadow::bells);
        let watched = bells.try_for_each(|bell| device.watch(bell.as_fd()));
        drop(bells);
        if let Err(source) = watched {
            self.stop(index, device);
            return Err(Refusal::System { index, source });
        }
        if resumes {
            // One too many does no harm.
            self.call(self.queues[index].vector).notify();
        }
        Ok(())
    }

    pub(super) fn stop(&mut self, index: usize, device: &mut impl Backend) {
        if self.queues[index].runs.take().is_some() {
            let mut base = device.stop_ring(index);
            if let Some(shadow) = self.queues[index].shadow.take() {
                shadow.bells().for_each(|bell| device.unwatch(bell.as_fd()));
                base = shadow.base();
            }
            self.queues[index].base = Some(base);
        }
    }

    pub(super) fn stop_all(&mut self, device: &mut impl Backend) {
        (0..self.queues.len()).for_each(|index| self.stop(index, device));
    }

    /// Copies for rings whose memory is reached by messages, as far as that goes now.
    ///
    /// # Errors
    /// The first ring that cannot go on: it stops, and wants a reset.
    pub fn copy(&mut self, device: &mut impl Backend) -> Result<(), Refusal> {
        let mut copied = Ok(());
        for index in 0..self.queues.len() {
            if let Some(shadow) = &mut self.queues[index].shadow
                && let Err(why) = shadow.go_on()
            {
                copied = copied.and(Err(Refusal::Broken { index, why }));
                self.stop(index, device);
                self.queues[index].is_enabled = false;
                self.want_reset();
            }
        }
        copied
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
