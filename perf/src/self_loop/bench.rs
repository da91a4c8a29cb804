//! A driver and a device on one thread, in turns.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dpdk_sys::{Eal, Port};

use super::clock::Clock;
use super::guest::{self, Guests};
use super::ours::Ours;
use super::setup::{Pools, Setup};
use super::theirs::{Listening, Theirs};
use crate::frame::Integrity;

/// How long frames may be on their way.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// What is between the guests.
#[derive(Debug)]
enum Device<'a> {
    Theirs(Theirs<'a>),
    Ours(Box<Ours>),
}

/// Guests and their device.
#[derive(Debug)]
pub struct Bench<'a> {
    guests: Option<Guests>,
    device: Device<'a>,
    /// Frames that the driver threw away when it started, as it does with what has come until then.
    forgiven: u64,
}

/// What one round took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Round {
    /// The device, in cycles.
    pub device_cycles: u64,
    /// The driver.
    pub driver_cycles: u64,
    /// Frames that the driver sent or, if it sends none, received.
    pub frames: usize,
}

impl<'a> Bench<'a> {
    /// With DPDK's device.
    ///
    /// # Errors
    /// What DPDK objects to.
    pub fn theirs(eal: &Eal, listening: &'a mut Listening, setup: &Setup, pools: &Pools) -> Result<Self> {
        let device = Theirs::new(listening, setup, pools)?;
        let ports = ports(eal, setup, pools, &device.sockets())?;
        device.wait(true)?;
        let guests = Some(Guests::new(ports, setup, pools)?);
        Ok(Bench { guests, device: Device::Theirs(device), forgiven: 0 })
    }

    /// With ours.
    ///
    /// # Errors
    /// What DPDK, the engine or the system objects to.
    pub fn ours(eal: &Eal, setup: &Setup, pools: &Pools, elsewhere: Option<usize>) -> Result<Self> {
        let mut device = Ours::new(setup, elsewhere)?;
        let sockets = device.sockets();
        let ports = device.during(|| ports(eal, setup, pools, &sockets))?;
        let mut guests = Guests::new(ports, setup, pools)?;
        guests.announce(pools, || device.turn())?;
        let guests = Some(guests);
        Ok(Bench { guests, device: Device::Ours(Box::new(device)), forgiven: 0 })
    }

    /// A burst from the driver through the device and, if the guest receives, back to the driver.
    ///
    /// # Errors
    /// A frame is not as it was sent.
    #[inline]
    pub fn round(&mut self, clock: &Clock<'_>, sends: bool) -> Result<Round> {
        let guests = self.guests.as_mut().context("guests that have left")?;
        if sends {
            guests.prepare()?;
            if let Device::Theirs(device) = &mut self.device {
                device.prepare()?;
            }
        }
        let begun = clock.now();
        let sent = if sends { guests.transmit() } else { 0 };
        let handed_over = clock.now();
        match &mut self.device {
            Device::Theirs(device) => device.turn(),
            Device::Ours(device) => device.turn(),
        }
        let turned = clock.now();
        let received = guests.receive();
        let ended = clock.now();
        guests.inspect()?;
        let transmitting = if guests.sends() { clock.between(begun, handed_over) } else { 0 };
        let receiving = if guests.receives() { clock.between(turned, ended) } else { 0 };
        Ok(Round {
            device_cycles: clock.between(handed_over, turned),
            driver_cycles: transmitting + receiving,
            frames: if guests.sends() { sent } else { received },
        })
    }

    /// Rounds in which nothing is sent, until all that was has arrived: frames, and bytes.
    ///
    /// # Errors
    /// It does not, or was dropped.
    pub fn settle(&mut self, clock: &Clock<'_>) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while let Some(open) = self.open()? {
            ensure!(Instant::now() < deadline, "frames are lost: {open}");
            self.round(clock, false)?;
        }
        Ok(())
    }

    /// What is still on its way, in words.
    fn open(&mut self) -> Result<Option<String>> {
        let guests = self.guests.as_mut().context("guests that have left")?;
        let missing = guests.inspector().missing();
        ensure!(missing == self.forgiven, "{} frames are lost", missing - self.forgiven);
        let Integrity { received, received_bytes, .. } = guests.inspector().counts();
        let (counted, made) = match &self.device {
            Device::Theirs(device) => (device.fetched()?, device.made()),
            Device::Ours(device) => (device.fetched()?, 0),
        };
        let sent = guests.sent();
        // Our source makes frames in every turn: what it sent is known by what arrived, in which nothing is missing.
        let arrived =
            if guests.sends() { !guests.receives() || (received, received_bytes) == sent } else { received >= made };
        let fetched = !guests.sends() || counted == sent;
        Ok((!arrived || !fetched).then(|| {
            format!(
                "{} sent by the guest ({} bytes), {} fetched by the device ({} bytes), {made} made by the device, {received} \
                 received ({received_bytes} bytes)",
                sent.0, sent.1, counted.0, counted.1
            )
        }))
    }

    /// Moves so many frames and looks at every byte of them.
    ///
    /// # Errors
    /// A frame is not as it was sent.
    pub fn check(&mut self, clock: &Clock<'_>, frames: usize) -> Result<u64> {
        self.inspect_all(true)?;
        let deadline = Instant::now() + PATIENCE;
        let mut moved = 0;
        while moved < frames {
            ensure!(Instant::now() < deadline, "only {moved} frames moved in {} s", PATIENCE.as_secs());
            let first = moved == 0;
            moved += self.round(clock, true)?.frames;
            if first {
                self.forgive()?;
            }
        }
        self.settle(clock)?;
        self.inspect_all(false)?;
        Ok(self.checksummed())
    }

    /// Our source sends as soon as there are buffers, which is before the driver is ready.
    fn forgive(&mut self) -> Result<()> {
        let guests = self.guests.as_mut().context("guests that have left")?;
        if let (Device::Ours(device), false) = (&mut self.device, guests.sends()) {
            self.forgiven = guests.inspector().missing();
            device.forgive_drops()?;
        }
        Ok(())
    }

    fn inspect_all(&mut self, all: bool) -> Result<()> {
        self.guests.as_mut().context("guests that have left")?.inspector().check_all(all);
        Ok(())
    }

    /// Frames that were looked at byte by byte.
    pub fn checksummed(&mut self) -> u64 {
        self.guests.as_mut().map_or(0, |guests| guests.inspector().counts().checksummed)
    }

    /// Lets the guests leave, then the device.
    ///
    /// # Errors
    /// Our server did not end well.
    pub fn close(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        match &mut self.device {
            Device::Theirs(device) => {
                drop(self.guests.take());
                device.wait(false)?;
            }
            Device::Ours(device) => {
                device.during(|| drop(self.guests.take()));
                device.close()?;
            }
        }
        Ok(())
    }
}

impl Drop for Bench<'_> {
    fn drop(&mut self) {
        // Whoever wants to know closes it.
        let _ = self.end();
    }
}

fn ports(eal: &Eal, setup: &Setup, pools: &Pools, sockets: &[PathBuf]) -> Result<Vec<Port>> {
    sockets.iter().enumerate().map(|(guest, socket)| guest::port(eal, setup, pools, guest, socket)).collect()
}
