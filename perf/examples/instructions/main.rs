//! How many instructions the device spends on a frame, path by path and step by step, counted by callgrind: the same to a
//! per mille on every run and machine that has the same compiler, so that a change of a few percent is seen. What it does not see: caches, other cores, time.
//!
//! `scripts/instructions` builds and runs it. It runs itself under valgrind, once for all paths: there it turns a worker by hand
//! against simulated guests.

mod bed;
mod callgrind;
mod path;
mod record;
mod steps;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use virtnet_engine::arch::Level;

use record::{Conditions, Measured, Record};

/// Frames in a turn: full bursts, and half of that, to tell what a frame takes from what a turn takes.
const BURSTS: [usize; 2] = [32, 16];

/// Instructions that the device spends on a frame, counted by callgrind.
#[derive(Parser)]
#[command(max_term_width = 100)]
struct Arguments {
    /// Only the paths whose name has all of these words, for example "packed loopback 64"
    #[arg(long, value_name = "WORDS", default_value = "", value_parser = words)]
    only: Words,
    /// What to compare with: a file that --json wrote, or a revision of the repository, whose perf/instructions.json it
    /// is [default: perf/instructions.json as it is]
    #[arg(long, value_name = "FILE|REV")]
    compare: Option<String>,
    /// Write all figures to a file, or (-) to standard output in place of the table
    #[arg(long, value_name = "FILE|-")]
    json: Option<PathBuf>,
    /// Write perf/instructions.json anew, which belongs into the commit that changed it
    #[arg(long, conflicts_with = "only")]
    update: bool,
    /// Turn a worker by hand. Under callgrind, where this is what is counted
    #[arg(long, hide = true)]
    counted: bool,
}

#[derive(Clone)]
struct Words(Vec<String>);

fn words(text: &str) -> Result<Words, String> {
    let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    if path::Path::all().iter().any(|path| path.has(&words)) {
        Ok(Words(words))
    } else {
        Err("no path has all of these words; words are from-guest, to-guest, loopback, guest-to-guest, 64, 1518, split, packed, \
             single, mergeable, any-order, in-order"
            .to_owned())
    }
}

/// The record that is kept in the repository.
const KEPT: &str = "perf/instructions.json";

fn kept() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.json")
}

fn main() -> ExitCode {
    match work(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("instructions: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn work(arguments: Arguments) -> Result<()> {
    let paths: Vec<path::Path> = path::Path::all().into_iter().filter(|path| path.has(&arguments.only.0)).collect();
    if arguments.counted {
        for &path in &paths {
            BURSTS.into_iter().try_for_each(|burst| bed::count(path, burst))?;
        }
        println!("{}", Level::highest().name());
        return Ok(());
    }
    // What cannot be compared with is better known before anything is counted.
    let before = before(arguments.compare.as_deref())?;
    let record = measure(&paths, &arguments.only.0)?;
    if arguments.json.as_deref() == Some(Path::new("-")) {
        print!("{}", record.to_json());
    } else {
        print!("{}", record.table(before.as_ref()));
    }
    let files = arguments.json.filter(|path| path != Path::new("-")).into_iter().chain(arguments.update.then(kept));
    for file in files {
        std::fs::write(&file, record.to_json()).with_context(|| file.display().to_string())?;
        eprintln!("written {}", file.display());
    }
    Ok(())
}

fn measure(paths: &[path::Path], words: &[String]) -> Result<Record> {
    let program = std::env::current_exe().context("where this program is")?;
    let folder = tempfile::tempdir().context("a folder for callgrind's files")?;
    let arguments = ["--counted".to_owned(), "--only".to_owned(), words.join(" ")];
    let level = callgrind::run(&program, &arguments, folder.path())?.trim().to_owned();
    let steps = steps::Steps::of(&program)?;
    let mut numbers = 1..;
    let mut burst = |burst: usize| {
        let number = numbers.next().unwrap_or_default();
        anyhow::Ok((burst, steps.sum(&callgrind::counted(folder.path(), number, &program)?)?))
    };
    let mut measured = Vec::new();
    for &path in paths {
        let (longer, shorter) = (burst(BURSTS[0])?, burst(BURSTS[1])?);
        measured.push(Measured::new(path, bed::TURNS as u64, longer, shorter));
    }
    let rustc = std::env::var_os("RUSTC").unwrap_or("rustc".into());
    let rustc = Command::new(rustc).arg("--version").output().context("rustc --version")?;
    let rustc = String::from_utf8_lossy(&rustc.stdout).trim().to_owned();
    let conditions = Conditions { level, rustc, valgrind: callgrind::version()?, burst: BURSTS[0] };
    Ok(Record { conditions, paths: measured })
}

/// What to compare with, and its name; nothing if there is no record yet and none was asked for.
fn before(asked: Option<&str>) -> Result<Option<(String, Record)>> {
    let read = |name: &str, text: &str| {
        let record = Record::read(text).with_context(|| name.to_owned())?;
        anyhow::Ok(Some((name.to_owned(), record)))
    };
    let Some(name) = asked else {
        let file = kept();
        return if file.exists() { read(KEPT, &std::fs::read_to_string(file).context(KEPT)?) } else { Ok(None) };
    };
    if Path::new(name).exists() {
        return read(name, &std::fs::read_to_string(name).with_context(|| name.to_owned())?);
    }
    let git = |arguments: &[&str]| {
        Command::new("git").args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().context("git")
    };
    let Output { status, .. } = git(&["rev-parse", "--verify", "--quiet", &format!("{name}^{{commit}}")])?;
    ensure!(status.success(), "{name}: neither a file nor a revision of this repository");
    let Output { status, stdout, .. } = git(&["show", &format!("{name}:{KEPT}")])?;
    ensure!(status.success(), "{name}: that revision has no {KEPT}");
    read(name, &String::from_utf8_lossy(&stdout))
}
