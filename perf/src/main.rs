//! Load generator and judge for virtio-net data paths.
#![forbid(unsafe_code)]

mod args;
mod attach;
mod bed;
mod diff;
mod environment;
mod frame;
mod halving;
mod judge;
mod latency;
mod lcore;
mod load;
mod output;
mod plan;
mod probe;
mod process;
mod progress;
mod report;
mod run;
mod search;
mod self_loop;
mod statistics;
mod steal;
mod sweep;
mod tune;
mod unloaded;
mod versus;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use signal_hook::consts::{SIGINT, SIGTERM};

use args::{Arguments, Command};
use load::Watch;

/// Frames were silently lost, corrupted, reordered or duplicated.
const EXIT_INTEGRITY: u8 = 3;

fn main() -> ExitCode {
    match work(&Arguments::parse().command) {
        Ok(exit_code) => exit_code,
        Err(error) => {
            eprintln!("virtnet-perf: {}", sentence(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error and what caused it; many have that in their own words already.
fn sentence(error: &anyhow::Error) -> String {
    let mut whole = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if whole.is_empty() {
            whole = cause;
        } else if !whole.ends_with(&cause) {
            whole = format!("{whole}: {cause}");
        }
    }
    whole
}

fn work(command: &Command) -> Result<ExitCode> {
    let watch = Watch::default();
    for signal in [SIGINT, SIGTERM] {
        // The second one does not ask.
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&watch.stop)).context("signals")?;
        signal_hook::flag::register(signal, Arc::clone(&watch.stop)).context("signals")?;
    }
    for path in command.files() {
        output::ensure_writable(path)?;
    }
    let (results, shown) = match command {
        Command::Run(args) => (run::run(args, &watch)?, &args.results),
        Command::Attach(args) => (attach::run(args, &watch)?, &args.results),
        Command::Latency(args) => (latency::measure(args, &watch)?, &args.results),
        Command::Versus(args) => (versus::run(args, &watch)?, &args.results),
        Command::Search(args) => (search::run(args, &watch)?, &args.results),
        Command::Sweep(args) => (sweep::run(args, &watch)?, &args.results),
        Command::Tune(args) => return tune::run(args, &watch),
        Command::SelfLoop(args) => return self_loop::run(args, &watch).map(|()| ExitCode::SUCCESS),
        Command::Diff(args) => return diff::run(args),
    };
    ensure!(!results.reports.is_empty() || !watch.stopped(), "interrupted before anything was measured");
    results.publish(shown)?;
    Ok(if results.integrity_errors() > 0 { ExitCode::from(EXIT_INTEGRITY) } else { ExitCode::SUCCESS })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_everything_once() {
        let error = anyhow::Error::msg("refused").context("connecting: refused").context("vm.sock");
        assert_eq!(sentence(&error), "vm.sock: connecting: refused");
    }
}
