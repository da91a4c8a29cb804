//! virtio-net-controller: serves virtio-net functions on their sockets until it is told to end.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGINT, SIGTERM};
use virtnet_control::arguments::Arguments;
use virtnet_control::command::Reload;
use virtnet_control::config::{Config, providers};
use virtnet_control::daemon::Daemon;
use virtnet_control::firmware;
use virtnet_control::folders::{Claim, Folders};
use virtnet_control::log;
use virtnet_control::recovery;
use virtnet_control::service::Host;

fn main() -> ExitCode {
    let args = Arguments::parse();
    match run(args, log::start()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("virtio-net-controller: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Arguments, reload: Reload) -> anyhow::Result<()> {
    let config = Config::read(&args.config)?;
    config.notes().iter().for_each(|note| tracing::warn!("{}: {note}", args.config.display()));
    if args.check {
        return Ok(());
    }
    let providers = args.config.parent().map_or_else(|| PathBuf::from("providers"), |folder| folder.join("providers"));
    let provider = providers::choose(&providers)?;
    let folders = Folders::of_process();
    let state_dir = folders.state(args.state_dir.as_deref(), args.run_dir.as_deref())?;
    let run_dir = folders.run(args.run_dir.as_deref())?;
    make(&run_dir).with_context(|| format!("making the run folder {}", run_dir.display()))?;
    // Before the first thread and the first socket: a signal must find its place whatever is being started.
    let stop = stop_on_signals().context("waiting for signals")?;
    make(&state_dir).with_context(|| format!("making the state folder {}", state_dir.display()))?;
    let _claim = Claim::of(&state_dir)?;
    let rpc = Daemon::claim(&run_dir)?;
    let mut firmware = firmware::Store::load(&state_dir)?;
    // Functions of other settings are not those that were. Whatever is set meanwhile waits for the next start.
    if firmware.is_pending() {
        recovery::Folder::open(&state_dir)?.clear()?;
        firmware.apply()?;
    }
    let recovery = if config.recovery { Some(recovery::Folder::open(&state_dir)?) } else { None };
    raise_descriptors().context("raising the number of descriptors")?;
    let (config_path, limits) = (args.config, firmware.limits());
    let host = Host { config_path, state_dir, provider, limits, ..Host::new(config, &run_dir) };
    Daemon::start_on(rpc, host, recovery, reload, stop)?.run()
}

/// Every function takes a descriptor, and each of its queues some more: as many as the system lets us have.
fn raise_descriptors() -> rustix::io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
}

fn make(folder: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o755).create(folder)
}

/// Something that becomes readable on SIGTERM and SIGINT.
fn stop_on_signals() -> std::io::Result<OwnedFd> {
    let (stop, sender) = UnixStream::pair()?;
    signal_hook::low_level::pipe::register(SIGTERM, sender.try_clone()?)?;
    signal_hook::low_level::pipe::register(SIGINT, sender)?;
    Ok(stop.into())
}
