//! What a shell offers for the word at its cursor.
//!
//! A shell's script has this program run with the shell's name in [`VARIABLE`] and the line's words behind `--`. The engine
//! of clap_complete knows commands and options; from here come options of several letters behind one dash, and the
//! functions that a running service has.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Command, CommandFactory, ValueEnum};
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate, complete};
use clap_complete::env::{Bash, EnvCompleter, Fish, Zsh};
use serde::Deserialize;
use serde_json::json;
use virtnet_control::class::Class;
use virtnet_control::firmware::Entry;
use virtnet_control::reply::{Moved, Rates};

use crate::argparse;
use crate::args::Arguments;
use crate::{service, show};

/// Which shell asks.
const VARIABLE: &str = "_VIRTNET_COMPLETE";
/// Which word the cursor is at; where it is not set, the last.
const INDEX: &str = "_CLAP_COMPLETE_INDEX";
/// What the shell wants between offers.
const SEPARATOR: &str = "_CLAP_IFS";
/// How long a shell waits for the service.
const PATIENCE: Duration = Duration::from_secs(2);

/// The shells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl Shell {
    /// What makes this shell ask us.
    pub fn script(self) -> String {
        let shell: &dyn EnvCompleter = match self {
            Self::Bash => &Bash,
            Self::Zsh => &Zsh,
            Self::Fish => &Fish,
        };
        let mut script = Vec::new();
        // Memory does not refuse to be written to.
        let _ = shell.write_registration(VARIABLE, "virtnet", "virtnet", "virtnet", &mut script);
        let mut script = String::from_utf8_lossy(&script).trim().to_owned();
        if self == Self::Zsh {
            // A file that zsh loads when it is needed is to answer already then.
            script.push_str("\n[[ $funcstack[1] == _virtnet ]] && _clap_dynamic_completer_virtnet \"$@\"\ntrue");
        }
        script
    }

    /// Offers in the form that this shell's script reads.
    fn print(self, offers: &[CompletionCandidate]) -> String {
        let separator = env::var(SEPARATOR).unwrap_or_else(|_| "\n".into());
        let line = |offer: &CompletionCandidate| {
            let value = offer.get_value().to_string_lossy();
            let help = offer.get_help().map(ToString::to_string).unwrap_or_default();
            let help = show::printable(help.lines().next().unwrap_or_default());
            match self {
                Self::Bash => value.into_owned(),
                Self::Zsh => format!("{}:{help}", value.replace('\\', "\\\\").replace(':', "\\:")),
                Self::Fish => format!("{value}\t{help}"),
            }
        };
        offers.iter().map(line).collect::<Vec<_>>().join(&separator)
    }
}

/// What a shell is to offer, if it is a shell that runs us.
pub fn asked_for() -> Option<String> {
    let shell = Shell::from_str(env::var(VARIABLE).ok()?.as_str(), false).ok()?;
    let mut words: Vec<OsString> = env::args_os().skip_while(|word| word != "--").skip(1).collect();
    if let Some(index) = env::var(INDEX).ok().and_then(|index| index.parse::<usize>().ok()) {
        words.truncate(index.saturating_add(1));
        // Zsh leaves an empty word out.
        if words.len() == index {
            words.push(OsString::new());
        }
    }
    if shell == Shell::Bash {
        // Bash takes "--pf=1" for three words, and replaces the last.
        let cursor = words.pop();
        words.retain(|word| word != "=");
        words.extend(cursor);
    }
    Some(shell.print(&offers(words)))
}

/// What can stand in place of the last word.
fn offers(mut words: Vec<OsString>) -> Vec<CompletionCandidate> {
    let Some(cursor) = words.pop() else { return Vec::new() };
    let mut command = Arguments::command();
    command.build();
    let mut read = argparse::read(&command, words);
    let options = read.options(&cursor.to_string_lossy());
    read.words.push(cursor);
    let mut knowing = with_values(Arguments::command(), &Arc::new(Known::of(&read.words)));
    let index = read.words.len() - 1;
    let mut offers = complete(&mut knowing, read.words, index, env::current_dir().ok().as_deref()).unwrap_or_default();
    offers.extend(options.into_iter().map(|(word, arg)| CompletionCandidate::new(word).help(arg.get_help().cloned())));
    offers
}

/// What the line says about where values come from.
#[derive(Default)]
struct Known {
    run_dir: Option<PathBuf>,
    pf: Option<u64>,
}

impl Known {
    /// Reads words as far as they make sense; the last is not yet whole.
    fn of(words: &[OsString]) -> Self {
        let whole = &words[..words.len().saturating_sub(1)];
        let Ok(matches) = Arguments::command().ignore_errors(true).try_get_matches_from(whole) else {
            return Self::default();
        };
        let mut known = Self::default();
        let mut level = Some(&matches);
        while let Some(matches) = level {
            let run_dir = matches.try_get_one::<PathBuf>("run_dir").ok().flatten();
            known.run_dir = run_dir.cloned().or(known.run_dir);
            known.pf = matches.try_get_one("pf").ok().flatten().copied().or(known.pf);
            level = matches.subcommand().map(|(_, matches)| matches);
        }
        known
    }

    /// The functions that the service has, those of a class.
    fn functions(&self, class: Option<Class>) -> Vec<Moved> {
        let reply = service::connect(self.run_dir.as_deref(), PATIENCE)
            .and_then(|mut client| Ok(client.call("rates", json!({}))?))
            .unwrap_or_default();
        let rates = Rates::deserialize(reply).unwrap_or_default();
        let wanted = |function: &Moved| class.is_none_or(|class| function.class == class.name());
        rates.functions.into_iter().filter(wanted).collect()
    }
}

/// The command, with what its options can have.
fn with_values(command: Command, known: &Arc<Known>) -> Command {
    let class = match command.get_name() {
        "unplug" => Some(Class::HotplugPf),
        "sriov" => Some(Class::StaticPf),
        _ => None,
    };
    let functions = |offer: fn(&Known, Moved) -> Option<CompletionCandidate>| {
        let known = known.clone();
        ArgValueCandidates::new(move || {
            let functions = known.functions(class);
            functions.into_iter().filter_map(|function| offer(&known, function)).collect()
        })
    };
    let is_mlxconfig = ["query", "set"].contains(&command.get_name());
    command.mut_subcommands(|command| with_values(command, known)).mut_args(|arg| match arg.get_id().as_str() {
        "pf" => arg.add(functions(|_, function| of_pf(function))),
        "vf" => arg.add(functions(of_vf)),
        "vuid" => arg.add(functions(|_, function| of_vuid(function))),
        "names" if is_mlxconfig => arg.add(ArgValueCandidates::new(|| entries(""))),
        "values" if is_mlxconfig => arg.add(ArgValueCandidates::new(|| entries("="))),
        _ => arg,
    })
}

fn of_pf(function: Moved) -> Option<CompletionCandidate> {
    let help = Some(format!("{} {}", function.class, function.name).into());
    function.vf.is_none().then(|| CompletionCandidate::new(function.pf.to_string()).help(help))
}

fn of_vf(known: &Known, function: Moved) -> Option<CompletionCandidate> {
    let vf = function.vf.filter(|_| known.pf.is_none_or(|pf| pf == u64::from(function.pf)))?;
    Some(CompletionCandidate::new(vf.to_string()).help(Some(function.name.into())))
}

/// A shell may take what it is offered for more than a word.
fn of_vuid(function: Moved) -> Option<CompletionCandidate> {
    let is_word = function.vuid.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    is_word.then(|| CompletionCandidate::new(function.vuid).help(Some(function.name.into())))
}

fn entries(after: &str) -> Vec<CompletionCandidate> {
    Entry::ALL.iter().map(|entry| CompletionCandidate::new(format!("{}{after}", entry.name()))).collect()
}
