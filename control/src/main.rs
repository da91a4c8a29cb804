//! virtio-net-controller: serves the devices of a configuration file on their sockets until it is told to end.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Parser;
use signal_hook::consts::{SIGINT, SIGTERM};
use tracing_subscriber::EnvFilter;
use virtnet_control::config::Config;
use virtnet_control::daemon::Daemon;

/// The virtio-net controller: shows virtio-net devices to guests over vhost-user.
#[derive(Debug, Parser)]
#[command(name = "virtio-net-controller", version)]
struct Args {
    /// The configuration file, JSON.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Where sockets are: /run/virtnet as root, $XDG_RUNTIME_DIR/virtnet otherwise.
    #[arg(long, value_name = "DIR", env = "VIRTNET_RUN_DIR")]
    run_dir: Option<PathBuf>,
    /// Read the configuration, say whether it is good, and end.
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("virtio-net-controller: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> anyhow::Result<()> {
    let config = Config::read(&args.config)?;
    for note in config.notes() {
        tracing::warn!("{}: {note}", args.config.display());
    }
    if args.check {
        return Ok(());
    }
    let run_dir = match args.run_dir {
        Some(run_dir) => run_dir,
        None => run_dir_default()?,
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(&run_dir)
        .with_context(|| format!("making the run folder {}", run_dir.display()))?;
    // Before the first thread: a signal must find its place whatever is being started.
    let stop = stop_on_signals().context("waiting for signals")?;
    Daemon::start(&config, &run_dir, stop)?.run()
}

/// Something that becomes readable on SIGTERM and SIGINT.
fn stop_on_signals() -> std::io::Result<OwnedFd> {
    let (stop, sender) = UnixStream::pair()?;
    signal_hook::low_level::pipe::register(SIGTERM, sender.try_clone()?)?;
    signal_hook::low_level::pipe::register(SIGINT, sender)?;
    Ok(stop.into())
}

fn run_dir_default() -> anyhow::Result<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Ok("/run/virtnet".into());
    }
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(folder) if !folder.is_empty() => Ok(PathBuf::from(folder).join("virtnet")),
        _ => bail!("XDG_RUNTIME_DIR is not set: say where sockets are with --run-dir or VIRTNET_RUN_DIR"),
    }
}
