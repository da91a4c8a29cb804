//! The load that is tuned for: from the command line or a file to what each device's guests do.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use virtnet_engine::port::pcap::Capture;

use super::args::TuneArgs;
use super::goal::Goal;
use super::load_file::{self, DeviceLoad};
use crate::args::Direction;
use crate::lcore::Division;
use crate::load::Timetable;
use crate::plan::Plan;
use crate::report::counted;

/// Seconds of a round, unless others are asked for.
const SECONDS: f64 = 0.5;
/// Longer captures are cut off.
const CAPTURE_SECONDS_MAX: f64 = 60.0;
/// Guests' memory may take so much of what is free.
const MEMORY_SHARE: f64 = 0.75;

/// Everything that guests do.
#[derive(Clone, Debug)]
pub struct Load {
    /// The devices.
    pub devices: Vec<DeviceLoad>,
    capture: Option<Arc<Capture>>,
    /// When its frames are due, where its own pace is kept.
    timetable: Option<Arc<Timetable>>,
}

impl Load {
    /// As the command line says, with the rates that the goal asks for.
    ///
    /// # Errors
    /// A file that cannot be read, or rates that do not fit the goal.
    pub fn new(args: &TuneArgs) -> Result<Self> {
        let capture = args.recorded.as_deref().map(Capture::load).transpose()?.map(Arc::new);
        let mut devices = match &args.load {
            Some(path) => load_file::read(path)?,
            None => (0..args.devices).map(|number| generated(args, number)).collect(),
        };
        if let Some(capture) = &capture {
            ensure!(args.queues == 1, "--recorded with --queues {}: a capture goes through one queue", args.queues);
            let own_pps = capture.rate_pps();
            for device in &mut devices {
                device.frame_bytes = None;
                if let Goal::P99 { .. } = args.goal {
                    device.rate_pps = device.rate_pps.or(own_pps);
                }
            }
        }
        set_rates(args.goal, &mut devices)?;
        let keeps_pace = matches!(args.goal, Goal::P99 { .. }) && args.rate.is_none();
        let timetable = capture.as_ref().filter(|_| keeps_pace).and_then(|capture| Timetable::new(capture.times_ns()));
        Ok(Load { devices, capture, timetable: timetable.map(Arc::new) })
    }

    /// Queue pairs in all.
    pub fn pairs(&self) -> usize {
        let guests = |device: &DeviceLoad| if device.direction == Direction::GuestToGuest { 2 } else { 1 };
        self.devices.iter().map(|device| usize::from(device.queue_pairs) * guests(device)).sum()
    }

    /// Seconds of a round.
    fn seconds(&self, args: &TuneArgs) -> f64 {
        let own = self.timetable.as_ref().map_or(0.0, |timetable| timetable.round_ns() as f64 / 1e9);
        args.seconds.unwrap_or(own.clamp(SECONDS, CAPTURE_SECONDS_MAX))
    }

    /// A plan for each device.
    ///
    /// # Errors
    /// A combination that cannot be, or more memory than there is.
    pub fn plans(&self, args: &TuneArgs, division: &Division) -> Result<Vec<Plan>> {
        let mut plans = Vec::new();
        for device in &self.devices {
            let sizes = device.frame_bytes.unwrap_or(args.frame_bytes);
            let load = args.guest_load(device.queue_pairs, device.ring, sizes);
            let mut all = Plan::all(&load, &[device.direction], division, self.seconds(args), device.rate_pps)?;
            let mut plan = all.pop().context("a plan for each device")?;
            // Two for each, whether they are needed or not.
            plan.first_guest = 2 * plans.len() as u16;
            plan.timetable.clone_from(&self.timetable);
            if let Goal::Rate { .. } = args.goal {
                plan.patience = Duration::from_secs_f64(args.patience_ms / 1e3);
            }
            plans.push(plan);
        }
        let mut needed: usize = plans.iter().map(|plan| plan.guest_memory_bytes()).sum();
        if let (Some(capture), Some(path), Some((first, others))) =
            (&self.capture, &args.recorded, plans.split_first_mut())
        {
            // Where frames have the guests' own addresses each device needs copies of its own.
            let is_apart = first.direction == Direction::GuestToGuest;
            needed += capture.summary().bytes * if is_apart { 1 + others.len() } else { 1 };
            check_memory(needed)?;
            first.replay(path, capture)?;
            for plan in others {
                match is_apart {
                    true => plan.replay(path, capture)?,
                    false => plan.traffic = Arc::clone(&first.traffic),
                }
            }
        }
        check_memory(needed)?;
        Ok(plans)
    }
}

fn generated(args: &TuneArgs, number: u16) -> DeviceLoad {
    DeviceLoad {
        name: format!("device{number}"),
        queue_pairs: args.queues,
        ring: args.ring,
        frame_bytes: Some(args.frame_bytes),
        direction: args.direction,
        rate_pps: args.rate.map(|rate| rate / f64::from(args.devices)),
    }
}

/// Each device's rate, as the goal wants it.
fn set_rates(goal: Goal, devices: &mut [DeviceLoad]) -> Result<()> {
    let without = devices.iter().filter(|device| device.rate_pps.is_none()).count();
    match goal {
        Goal::MaxThroughput => {}
        Goal::P99 { .. } => {
            ensure!(
                without == 0,
                "--goal {goal}: at full pace frames wait in full rings; no rate for {without} of {}: \
                 --rate, or rate_pps in the load",
                counted(devices.len(), "device")
            );
            ensure!(
                devices.iter().any(|device| device.direction != Direction::ToGuest),
                "--goal {goal}: nobody knows when a frame to-guest was sent, and all devices are of that direction"
            );
        }
        Goal::Rate { pps } => {
            ensure!(
                without == 0 || without == devices.len(),
                "--goal {goal} is shared out by the devices' rates: {without} of {} have none; all, or none, must have one",
                devices.len()
            );
            let weight = |device: &DeviceLoad| device.rate_pps.unwrap_or(f64::from(device.queue_pairs));
            let sum: f64 = devices.iter().map(weight).sum();
            for device in devices.iter_mut() {
                device.rate_pps = Some(pps * weight(device) / sum);
            }
        }
    }
    if let Some(slow) = devices.iter().find(|device| device.rate_pps.is_some_and(|rate| rate < 1.0)) {
        anyhow::bail!("{}: less than one frame a second is no load", slow.name);
    }
    Ok(())
}

fn check_memory(needed_bytes: usize) -> Result<()> {
    let free_bytes = available_bytes(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default());
    let Some(free_bytes) = free_bytes else { return Ok(()) };
    ensure!(
        needed_bytes as f64 <= free_bytes as f64 * MEMORY_SHARE,
        "the guests need {} MiB of memory, of {} MiB that are free: fewer devices, queues or descriptors, please",
        needed_bytes >> 20,
        free_bytes >> 20
    );
    Ok(())
}

/// From /proc/meminfo, whose numbers are kilobytes.
fn available_bytes(meminfo: &str) -> Option<usize> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()?.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Ring;
    use crate::frame::Sizes;

    fn devices(rates: &[(u16, Option<f64>)]) -> Vec<DeviceLoad> {
        let device = |&(queue_pairs, rate_pps): &(u16, Option<f64>)| DeviceLoad {
            name: "d".to_owned(),
            queue_pairs,
            ring: Ring::Packed,
            frame_bytes: Some(Sizes::Fixed(64)),
            direction: Direction::Loopback,
            rate_pps,
        };
        rates.iter().map(device).collect()
    }

    fn rates(goal: Goal, of: &[(u16, Option<f64>)]) -> Result<Vec<Option<f64>>> {
        let mut devices = devices(of);
        set_rates(goal, &mut devices)?;
        Ok(devices.iter().map(|device| device.rate_pps).collect())
    }

    #[test]
    fn a_rate_is_shared_out_by_weights_or_pairs() {
        let goal = Goal::Rate { pps: 4e6 };
        assert_eq!(rates(goal, &[(1, None), (3, None)]).unwrap(), [Some(1e6), Some(3e6)]);
        assert_eq!(rates(goal, &[(1, Some(300.0)), (3, Some(100.0))]).unwrap(), [Some(3e6), Some(1e6)]);
        let error = rates(goal, &[(1, None), (3, Some(1.0))]).unwrap_err().to_string();
        assert!(error.contains("1 of 2 have none"), "{error}");
        assert!(rates(Goal::Rate { pps: 1.0 }, &[(1, None), (1, None)]).is_err(), "half a frame each");
    }

    #[test]
    fn latency_needs_rates_and_somebody_who_knows_when() {
        let goal = Goal::P99 { ns: 5000 };
        assert_eq!(rates(goal, &[(1, Some(7.0))]).unwrap(), [Some(7.0)]);
        assert!(rates(goal, &[(1, Some(7.0)), (1, None)]).unwrap_err().to_string().contains("1 of 2"));
        let mut only_to = devices(&[(1, Some(7.0))]);
        only_to[0].direction = Direction::ToGuest;
        assert!(set_rates(goal, &mut only_to).unwrap_err().to_string().contains("to-guest"));
        assert_eq!(rates(Goal::MaxThroughput, &[(1, Some(7.0)), (1, None)]).unwrap(), [Some(7.0), None]);
    }

    #[test]
    fn more_memory_than_there_is_is_refused_before_it_is_taken() {
        assert_eq!(available_bytes("MemTotal: 9 kB\nMemAvailable:   2048 kB\n"), Some(2 << 20));
        assert_eq!(available_bytes("MemTotal: 9 kB\n"), None);
        assert!(check_memory(usize::MAX).unwrap_err().to_string().contains("MiB that are free"));
        assert!(check_memory(1 << 20).is_ok());
    }
}
