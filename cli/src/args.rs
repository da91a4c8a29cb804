//! The command line, in the product's options, and what each command asks of the service.

mod hotplug;
mod modify;
mod query;
mod selector;
#[cfg(test)]
mod tests;
mod value;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::error::ErrorKind;
use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand, ValueEnum};
use serde_json::{Map, Value};

use crate::argparse;
use crate::completion::Shell;
use crate::request::Request;

/// What options of every command are listed under.
const COMMON: &str = "Common options";

const TOP: &str = "Keys: q or Esc ends; ← and → choose the column that is sorted by, ↑ and ↓ the order; PgUp, PgDn, Home and \
                   End show other rows. rx is what went to the driver, tx what came from it; drops are of both ways.";
const COMPLETION: &str = "bash: source <(virtnet completion bash)\n\
                          zsh:  source <(virtnet completion zsh), or write it to a file _virtnet in $fpath\n\
                          fish: virtnet completion fish | source";

/// Asks and changes a running virtio-net-controller.
#[derive(Debug, Parser)]
#[command(
    name = "virtnet",
    version = concat!("v", env!("CARGO_PKG_VERSION")),
    disable_version_flag = true,
    max_term_width = 100,
    after_help = "Numbers are decimal or 0x hex. What is marked † is not in this version. Exit status: 0 done, 1 refused, 2 the command line makes no sense, \
                  3 the service was not reached."
)]
pub struct Arguments {
    /// Show the version of this program and end.
    #[arg(short, long, action = ArgAction::Version)]
    version: Option<bool>,
    /// Where the service's socket is: /run/virtnet as root, $XDG_RUNTIME_DIR/virtnet otherwise.
    #[arg(long, global = true, help_heading = COMMON, value_name = "DIR", env = "VIRTNET_RUN_DIR", hide_env_values = true)]
    pub run_dir: Option<PathBuf>,
    /// Where what survives a restart is: RUN_DIR/state if that was given, /var/lib/virtnet as root,
    /// $XDG_STATE_HOME/virtnet otherwise.
    #[arg(long, global = true, help_heading = COMMON, value_name = "DIR", env = "VIRTNET_STATE_DIR", hide_env_values = true)]
    pub state_dir: Option<PathBuf>,
    /// Replies as the service sent them or, of list, query, stats, health, lcore, switch and mlxconfig, for people.
    #[arg(long, global = true, help_heading = COMMON, value_enum, default_value_t)]
    pub format: Format,
    /// Show the request on standard error, as the product does on standard output.
    #[arg(long, global = true, help_heading = COMMON)]
    pub echo: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// How replies are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    #[default]
    Json,
    Table,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Plug a new device in.
    Hotplug(hotplug::Hotplug),
    /// Take a hotplugged device away.
    Unplug(hotplug::Unplug),
    /// All devices, and what the controller can do.
    List,
    /// Devices in detail, with their queues.
    Query(query::Query),
    /// Counters of a device's queues.
    Stats(query::Stats),
    /// Change devices.
    Modify(modify::Modify),
    /// Set the level of the service's log.
    Log(Log),
    /// Versions of the running controller and of this package.
    Version,
    /// Start the controller's engine again without ending the service.
    Restart,
    /// Say whether a configuration file is good. Needs no service.
    Validate(Validate),
    /// Replace the running controller by the installed one †.
    Update(Update),
    /// Health of devices.
    Health(query::Health),
    /// For debugging; may change without notice.
    #[command(subcommand)]
    Debug(Debug),
    /// Firmware settings, in effect after the next start. Needs no service.
    #[command(subcommand)]
    Mlxconfig(Mlxconfig),
    /// Lcores, their load since anyone asked last, and their queues.
    Lcore(Lcore),
    /// The switch between devices.
    Switch(Switch),
    /// Make a PF's VFs, or end them.
    Sriov(Sriov),
    /// Watch what functions move and lcores do.
    #[command(after_help = TOP)]
    Top(Top),
    /// Print what makes a shell complete this command's lines. Needs no service.
    #[command(after_help = COMPLETION)]
    Completion {
        /// Which.
        shell: Shell,
    },
    /// Write the man pages into a folder.
    #[command(hide = true)]
    Man {
        /// The folder. It is made if it is not there.
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
}

/// `log`
#[derive(Debug, Args)]
pub struct Log {
    /// What is logged from now on.
    #[arg(short, long)]
    level: Level,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Level {
    Info,
    Err,
    Debug,
}

/// `validate`
#[derive(Debug, Args)]
pub struct Validate {
    /// The configuration file. Without it: /opt/mellanox/mlnx_virtnet/virtnet.conf, or, where that is not, the service's own.
    #[arg(short, long, value_name = "PATH")]
    pub file: Option<PathBuf>,
    /// Print the JSON Schema of configuration files instead.
    #[arg(long, conflicts_with = "file")]
    pub schema: bool,
}

/// `update`
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Update {
    /// Start it.
    #[arg(short, long)]
    start: bool,
    /// How far it is.
    #[arg(short = 't', long)]
    status: bool,
    /// The same, as a word.
    #[arg(value_name = "status", value_parser = ["status"], hide = true)]
    word: Option<String>,
}

/// `debug`
#[derive(Debug, Subcommand)]
pub enum Debug {
    /// Send any request.
    Call {
        /// Its method.
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        method: String,
        /// Its parameters, a JSON object.
        #[arg(value_parser = value::object, default_value = "{}")]
        params: Map<String, Value>,
    },
}

/// `mlxconfig`
#[derive(Debug, Subcommand)]
pub enum Mlxconfig {
    /// Default, current and next values.
    Query {
        /// Which; all without any.
        #[arg(value_name = "NAME")]
        names: Vec<String>,
    },
    /// Set next values: all of them or none.
    Set {
        /// What to set.
        #[arg(value_name = "NAME=VALUE", required = true)]
        values: Vec<String>,
    },
    /// Set all next values to their defaults.
    Reset,
}

/// `lcore`
#[derive(Debug, Args)]
pub struct Lcore {
    #[command(subcommand)]
    change: Option<LcoreChange>,
}

#[derive(Debug, Subcommand)]
enum LcoreChange {
    /// Lcores, their load and their queues (as without a word).
    Show,
    /// Which queues should move where.
    Rebalance {
        /// Move them.
        #[arg(long)]
        apply: bool,
    },
    /// Work on these lcores from now on.
    Set {
        /// As in "0" or "2-5,8".
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        lcores: String,
    },
}

/// `switch`
#[derive(Debug, Args)]
pub struct Switch {
    /// What to show.
    #[arg(value_name = "WHAT", default_value = "ports")]
    show: SwitchTable,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum SwitchTable {
    /// Its ports
    Ports,
    /// The addresses it has learnt
    Fdb,
}

/// `sriov`
#[derive(Debug, Args)]
pub struct Sriov {
    /// Of which PF.
    #[arg(short, long, value_name = "N", value_parser = value::number)]
    pf: u64,
    /// How many: from none to N, or from N to none.
    #[arg(short, long = "num_vfs", value_name = "N", value_parser = value::number)]
    num_vfs: u64,
}

/// `top`
#[derive(Debug, Args)]
pub struct Top {
    /// How long each picture is measured, 0.1 to 3600.
    #[arg(short, long, value_name = "SECONDS", default_value = "1", value_parser = value::interval)]
    pub delay: Duration,
    /// Print one picture, as text, and end.
    #[arg(long)]
    pub once: bool,
}

impl Arguments {
    /// Reads the words of a command line, the program's name first.
    ///
    /// # Errors
    /// What clap says about it, help and version included.
    pub fn from_words(words: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let mut command = Self::command();
        command.build();
        let arguments = Self::try_parse_from(argparse::read(&command, words).words)?;
        match &arguments.command {
            Command::Modify(args) if args.is_empty() => {
                let device = command.find_subcommand("modify").and_then(|modify| modify.find_subcommand("device"));
                let text = "nothing is to be changed: at least one option is needed";
                Err(device.unwrap_or(&command).clone().error(ErrorKind::MissingRequiredArgument, text))
            }
            _ => Ok(arguments),
        }
    }
}

/// What a command comes to.
pub enum Task<'a> {
    /// The service is asked.
    Ask(Request),
    /// A configuration file is read.
    Validate(&'a Validate),
    /// The firmware's settings are read or set.
    Mlxconfig(&'a Mlxconfig),
    /// The service is asked again and again.
    Top(&'a Top),
    /// A shell is told what to do.
    Completion(Shell),
    /// Man pages are written into a folder.
    Man(&'a Path),
}

impl Command {
    /// What it comes to.
    pub fn task(&self) -> Task<'_> {
        Task::Ask(match self {
            Self::Validate(args) => return Task::Validate(args),
            Self::Mlxconfig(command) => return Task::Mlxconfig(command),
            Self::Top(args) => return Task::Top(args),
            Self::Completion { shell } => return Task::Completion(*shell),
            Self::Man { folder } => return Task::Man(folder),
            Self::Hotplug(args) => args.request(),
            Self::Unplug(args) => args.request(),
            Self::List => Request::new("list"),
            Self::Query(args) => args.request(),
            Self::Stats(args) => args.request(),
            Self::Modify(args) => args.request(),
            Self::Log(args) => Request::new("log").given("level", Some(value::name_of(&args.level))),
            Self::Version => Request::new("version"),
            Self::Restart => Request::new("restart"),
            Self::Update(args) => Request::new("update")
                .given("start", args.start.then_some(true))
                .given("status", (!args.start).then_some(true)),
            Self::Health(args) => args.request(),
            Self::Debug(Debug::Call { method, params }) => Request::raw(method, params),
            Self::Lcore(Lcore { change: None | Some(LcoreChange::Show) }) => Request::new("lcore"),
            Self::Lcore(Lcore { change: Some(LcoreChange::Rebalance { apply }) }) => {
                Request::new("lcore").given("rebalance", Some(if *apply { "apply" } else { "dry-run" }))
            }
            Self::Lcore(Lcore { change: Some(LcoreChange::Set { lcores }) }) => {
                Request::new("lcore").given("set", Some(lcores.as_str()))
            }
            Self::Switch(args) => Request::new("switch").given("show", Some(value::name_of(&args.show))),
            Self::Sriov(args) => Request::new("sriov").given("pf", Some(args.pf)).given("num_vfs", Some(args.num_vfs)),
        })
    }
}
