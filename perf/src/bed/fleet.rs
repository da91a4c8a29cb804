//! Several devices of one engine, each with guests and a load of its own, all driven at once.

use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Pid;
use virtnet_engine::placement::Move;
use virtnet_engine::{DeviceId, Engine, LoadReport};

use super::in_process::{attach, counted, port, start};
use super::{Bed, Counted};
use crate::args::Direction;
use crate::frame::guest_mac;
use crate::judge::Account;
use crate::load::{Guest, Load, LoadOptions, Measured, Watch, measure_together};
use crate::plan::Plan;

/// Who serves a queue pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seat {
    /// Which plan's device.
    pub device: usize,
    /// Of its one guest or two.
    pub guest: usize,
    /// Which pair.
    pub pair: u16,
    /// The worker, by its place in the list of lcores.
    pub worker: usize,
}

/// An engine with devices.
#[derive(Debug)]
pub struct Fleet {
    engine: Engine,
    members: Vec<Member>,
}

/// What one plan needs: a device, or two where frames go from one to the other.
#[derive(Debug)]
struct Member {
    devices: Vec<DeviceId>,
    load: Load,
    plan: Plan,
    /// The plan's, or what is done instead to check it.
    direction: Direction,
}

impl Fleet {
    /// Starts an engine on the lcores of the plans, which all have the same, and attaches the guests of all. `seats` says who
    /// serves whom; without any the engine decides. With `on_loop` what would go into sinks comes back, to be checked.
    ///
    /// # Errors
    /// No memory, or the engine refuses.
    pub fn new(plans: &[Plan], seats: &[Seat], on_loop: bool) -> Result<Self> {
        let first = plans.first().context("no device")?;
        let mut engine = start(first)?;
        let mut members = Vec::new();
        for (at, plan) in plans.iter().enumerate() {
            let direction = match plan.direction {
                Direction::FromGuest if on_loop => Direction::Loopback,
                direction => direction,
            };
            let mut guests = Vec::new();
            let mut devices = Vec::new();
            for number in 0..plan.guests() {
                let [own, peer] = [number, (number + 1) % 2].map(|number| plan.first_guest + number);
                let guest = Guest::new(&plan.guest_options(), own, peer)?;
                let of_guest = |seat: &&Seat| (seat.device, seat.guest) == (at, usize::from(number));
                let workers = seats.iter().filter(of_guest).map(|seat| seat.worker).collect();
                let device = attach(&mut engine, plan, &guest, port(plan, direction), workers)?;
                if direction == Direction::GuestToGuest {
                    // What a switch does not know it sends to everybody.
                    engine.announce(device, guest_mac(own))?;
                }
                devices.push(device);
                guests.push(guest);
            }
            // Each device's first pair with another thread.
            let mut lcores = plan.division.drivers.clone();
            let count = lcores.len();
            lcores.rotate_left(at % count);
            let options = LoadOptions {
                direction,
                burst: plan.burst,
                lcores,
                shared_lcore: plan.division.is_shared(),
                persistent: plan.smoke,
                inject: plan.inject,
                beside: None,
            };
            members.push(Member { devices, load: Load::new(guests, options)?, plan: plan.clone(), direction });
        }
        Ok(Fleet { engine, members })
    }

    /// Checks frames of each device byte by byte, one device after another. Returns how many were checked.
    ///
    /// # Errors
    /// Frames did not come, or the engine broke a ring.
    pub fn check(&mut self, watch: &Watch) -> Result<u64> {
        self.members.iter_mut().map(|member| member.load.check(member.plan.smoke, watch)).sum()
    }

    /// Drives all at once, each at its plan's pace. Returns what was measured, in the order of the plans.
    ///
    /// # Errors
    /// The engine broke a ring.
    pub fn measure(&mut self, length: Duration, watch: &Watch) -> Result<Vec<Measured>> {
        let mut loads: Vec<_> = self.members.iter_mut().map(|m| (&mut m.load, m.plan.pace())).collect();
        measure_together(&mut loads, length, watch)
    }

    /// Waits for what is on its way.
    ///
    /// # Errors
    /// The engine broke a ring.
    pub fn settle(&mut self) -> Result<()> {
        self.members.iter_mut().try_for_each(|member| member.load.settle())
    }

    /// How busy workers and pairs have been since this was last asked.
    pub fn loads(&mut self) -> LoadReport {
        self.engine.lcores()
    }

    /// Who serves whom, as such a report tells.
    pub fn seats(&self, report: &LoadReport) -> Vec<Seat> {
        let seat = |device: DeviceId, pair, worker: u16| {
            let place = |member: &Member| member.devices.iter().position(|&other| other == device);
            let (device, guest) =
                self.members.iter().enumerate().find_map(|(at, member)| Some((at, place(member)?)))?;
            Some(Seat { device, guest, pair, worker: worker.into() })
        };
        let mut seats: Vec<Seat> =
            report.pairs.iter().filter_map(|load| seat(load.device, load.pair, load.worker)).collect();
        seats.sort_unstable();
        seats
    }

    /// Who should serve whom after such a load, if that is not as it is.
    pub fn better_seats(&self, report: &LoadReport) -> Option<Vec<Seat>> {
        let moves = self.engine.rebalance(report);
        let mut after = report.clone();
        for Move { device, pair, to, .. } in &moves {
            if let Some(load) = after.pairs.iter_mut().find(|load| (&load.device, &load.pair) == (device, pair)) {
                load.worker = *to;
            }
        }
        (!moves.is_empty()).then(|| self.seats(&after))
    }

    /// Accounts for every frame of every device, in the order of the plans. The load has settled.
    ///
    /// # Errors
    /// A queue was retired.
    pub fn audit(&mut self) -> Result<Vec<Account>> {
        let Fleet { engine, members } = self;
        let audit = |Member { devices, load, direction, .. }: &mut Member| {
            let mut account = Account::default();
            account.audit(&mut OfFleet { engine, devices, load }, *direction, false)?;
            Ok(account)
        };
        members.iter_mut().map(audit).collect()
    }

    /// Stops all queues and gives everything up.
    ///
    /// # Errors
    /// The engine does not let go.
    pub fn dismantle(mut self) -> Result<()> {
        let devices = self.members.iter().flat_map(|member| &member.devices);
        devices.into_iter().try_for_each(|&device| self.engine.remove_device(device).map(drop))?;
        Ok(())
    }
}

/// One member, as the judge sees it.
struct OfFleet<'a> {
    engine: &'a mut Engine,
    devices: &'a [DeviceId],
    load: &'a mut Load,
}

impl Bed for OfFleet<'_> {
    fn load(&mut self) -> &mut Load {
        self.load
    }

    fn counted(&mut self) -> Result<Option<Counted>> {
        counted(self.engine, self.devices).map(Some)
    }

    fn process(&self) -> Option<Pid> {
        Some(rustix::process::getpid())
    }

    /// That is the whole fleet's to do.
    fn dismantle(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
