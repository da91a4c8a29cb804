//! Functions in a running QEMU: the devices that stand for them there, plugged and unplugged by its monitor.

mod hardware;
mod monitor;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use hardware::Hardware;
use monitor::Monitor;

pub use hardware::arguments;
pub use monitor::MonitorError;

use crate::function::Function;

/// How long plugging may take, and how long a guest may take to release a device. Together with a command's other work it stays
/// below what a service manager waits for a sign of life.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Where a function is plugged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The guest, as the configuration calls it.
    pub guest: String,
    /// The id of the root port.
    pub root_port: String,
}

/// Has QEMU, whose monitor listens at `qmp`, make a device of a function. All of it, or none. Its front end comes before this ends,
/// so the function is to be served meanwhile.
///
/// # Errors
/// QEMU is not there, refuses, or takes longer than 10 s.
pub fn plug(qmp: &Path, function: &Function, root_port: &str) -> Result<(), MonitorError> {
    let hardware = Hardware::of(function, Some(root_port));
    let mut monitor = Monitor::connect(qmp, Instant::now() + TIMEOUT)?;
    for (done, part) in hardware.parts.iter().enumerate() {
        if let Err(error) = monitor.execute(part.add, part.arguments.clone()) {
            let made = hardware.parts[..done].iter().rev();
            // What cannot be taken back is told by the next attempt, which finds it there.
            let _ = made.map(|part| monitor.execute(part.remove, json!({ "id": part.id }))).collect::<Vec<_>>();
            return Err(error);
        }
    }
    Ok(())
}

/// Has QEMU take a function's device out of its guest, and waits until the guest has released it. A device that is not there is
/// none to be taken out.
///
/// # Errors
/// QEMU is not there, refuses, or the guest does, or they take longer than 10 s: the device is to be thought of as being there.
pub fn unplug(qmp: &Path, function: &Function) -> Result<(), MonitorError> {
    let hardware = Hardware::of(function, None);
    let mut monitor = Monitor::connect(qmp, Instant::now() + TIMEOUT)?;
    for part in hardware.parts.iter().rev() {
        match monitor.execute(part.remove, json!({ "id": part.id })) {
            Ok(()) | Err(MonitorError::Leaving) => {}
            Err(MonitorError::Unknown { .. }) => continue,
            Err(error) => return Err(error),
        }
        if part.is_device() {
            monitor.wait_until_deleted(&part.id)?;
        }
    }
    Ok(())
}
