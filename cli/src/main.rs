//! virtnet: asks and changes a running virtio-net-controller.
#![forbid(unsafe_code)]

mod argparse;
mod args;
mod completion;
mod man;
mod mlxconfig;
mod request;
mod service;
mod show;
mod top;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context;
use serde_json::json;
use virtnet_control::config::Config;
use virtnet_control::folders::Folders;
use virtnet_control::refusal::Code;

use args::{Arguments, Command, Task};
use request::Request;
use service::Answer;

/// How it ended. Clap ends with 2 by itself.
#[derive(Clone, Copy)]
enum Status {
    Done = 0,
    Refused = 1,
    Unreachable = 3,
}

/// Why there is nothing to print.
struct Failure {
    status: Status,
    error: anyhow::Error,
}

fn main() -> ExitCode {
    if let Some(offers) = completion::asked_for() {
        // A shell that has gone away needs none.
        let _ = print(&offers);
        return ExitCode::SUCCESS;
    }
    let arguments = Arguments::from_words(std::env::args_os()).unwrap_or_else(|error| error.exit());
    let printed = run(&arguments).and_then(|(text, status)| {
        let text = if text.is_empty() { text } else { text + "\n" };
        let printed = print(&text).context("standard output");
        printed.map(|()| status).map_err(failure(Status::Refused))
    });
    let status = printed.unwrap_or_else(|Failure { status, error }| {
        complain(&format!("virtnet: {error:#}"));
        status
    });
    ExitCode::from(status as u8)
}

/// What is to be printed.
fn run(arguments: &Arguments) -> Result<(String, Status), Failure> {
    match arguments.command.task() {
        Task::Validate(args) if args.schema => Ok((Config::schema(), Status::Done)),
        Task::Validate(args) => {
            let file = args.file.clone().map_or_else(|| Folders::of_process().config(), Ok);
            let file = file.map_err(failure(Status::Refused))?;
            Config::read(&file).map_err(|error| failure(Status::Refused)(error.into()))?;
            Ok((format!("{} is valid", file.display()), Status::Done))
        }
        Task::Mlxconfig(command) => {
            let folder = Folders::of_process().state(arguments.state_dir.as_deref(), arguments.run_dir.as_deref());
            match mlxconfig::run(command, arguments.format, &folder.map_err(failure(Status::Refused))?) {
                Ok(text) => Ok((text, Status::Done)),
                Err(mlxconfig::Error::Refused(refusal)) => Ok(refused(refusal.errno().into(), &refusal.errstr())),
                Err(mlxconfig::Error::Store(error)) => Err(failure(Status::Refused)(error.into())),
            }
        }
        Task::Completion(shell) => Ok((shell.script(), Status::Done)),
        Task::Man(folder) => {
            let pages = man::write(folder).map_err(failure(Status::Refused))?;
            Ok((format!("{pages} pages are in {}", folder.display()), Status::Done))
        }
        Task::Top(args) => match top::run(args, arguments.run_dir.as_deref()) {
            Ok(text) => Ok((text, Status::Done)),
            Err(top::Error::Service(error)) => Err(failure(Status::Unreachable)(error)),
            Err(top::Error::Refused { errno, errstr }) => Ok(refused(errno, &errstr)),
            Err(top::Error::Terminal(error)) => Err(failure(Status::Refused)(error)),
        },
        Task::Ask(request) => ask(arguments, &request),
    }
}

/// Asks the service.
fn ask(arguments: &Arguments, request: &Request) -> Result<(String, Status), Failure> {
    if arguments.echo {
        complain(&request.echo.to_string());
    }
    let answer = service::ask(arguments.run_dir.as_deref(), request);
    Ok(match answer.map_err(failure(Status::Unreachable))? {
        // The product has this shape for one command only.
        Answer::Refused { errno, .. }
            if errno == Code::NotFound as i64 && matches!(arguments.command, Command::Query(_)) =>
        {
            (show::json(&json!({ "Error": Code::NotFound.to_string() })), Status::Refused)
        }
        Answer::Refused { errno, errstr } => refused(errno, &errstr),
        Answer::Done(reply) => {
            let is_done = reply["errno"].as_i64().is_none_or(|errno| errno == 0);
            let status = if is_done { Status::Done } else { Status::Refused };
            (show::reply(&arguments.command, arguments.format, &reply), status)
        }
    })
}

/// What is printed of a command that was refused.
fn refused(errno: i64, errstr: &str) -> (String, Status) {
    (show::json(&json!({ "errno": errno, "errstr": errstr })), Status::Refused)
}

fn failure(status: Status) -> impl Fn(anyhow::Error) -> Failure {
    move |error| Failure { status, error }
}

/// Prints; whoever reads us may have seen enough.
fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed,
    }
}

/// Says something beside the output, if anybody listens.
fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}
