//! The program, shells and terminals against the service itself.

#[path = "../../tests/src/aloud.rs"]
mod aloud;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};
use tempfile::TempDir;
use virtnet_control::config::Config;
use virtnet_control::daemon::Daemon;
use virtnet_control::firmware::Store;
use virtnet_control::service::Host;

const CONFIG: &str = r#"{"lcores": "0", "idle": "event", "sf_port": {"hotplug_pf": "loopback", "vf": "loopback"}, "devices": [
    {"name": "web", "socket": "web.sock", "port": "loopback"}, {"name": "db", "socket": "db.sock", "port": "loopback"}]}"#;
const FIRMWARE: [(&str, &str); 8] = [
    ("VIRTIO_NET_EMULATION_ENABLE", "1"),
    ("VIRTIO_NET_EMULATION_NUM_MSIX", "8"),
    ("VIRTIO_NET_EMULATION_NUM_VF", "2"),
    ("VIRTIO_NET_EMULATION_NUM_VF_MSIX", "8"),
    ("PCI_SWITCH_EMULATION_ENABLE", "1"),
    ("PCI_SWITCH_EMULATION_NUM_PORT", "2"),
    ("PER_PF_NUM_SF", "1"),
    ("PF_TOTAL_SF", "8"),
];

/// A service with two static PFs, a hotplug PF, and two VFs of the second.
struct Service {
    folder: TempDir,
    stop: UnixStream,
    served: Option<JoinHandle<()>>,
}

impl Service {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config_path = folder.path().join("virtnet.conf");
        let config = Config::parse(CONFIG, &config_path).unwrap();
        let mut firmware = Store::load(folder.path()).unwrap();
        firmware.set(&FIRMWARE).unwrap();
        let (serial, limits) = ("VN0".into(), firmware.next_limits());
        let host = Host { serial, config_path, limits, ..Host::new(config, folder.path()) };
        let (stop, stopped) = UnixStream::pair().unwrap();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let served = thread::spawn(move || {
            let daemon = Daemon::start(host, None, Box::new(|_| Ok(())), stopped.into()).unwrap();
            ready.send(()).unwrap();
            daemon.run().unwrap();
        });
        is_ready.recv().unwrap();
        let service = Self { folder, stop, served: Some(served) };
        service.says("hotplug -i mlx5_0 -m 0C:C4:7A:FF:22:93 -t 1400 -qp 1 -s 256");
        service.says("sriov -p 1 -n 2");
        service
    }

    /// The program, with this service.
    fn virtnet(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_virtnet"));
        command.env_clear().env("VIRTNET_RUN_DIR", self.folder.path());
        command
    }

    /// What a line prints that is done.
    fn says(&self, line: &str) -> String {
        text(self.virtnet().args(line.split(' ')))
    }

    /// What a shell prints; nothing where there is no such shell.
    fn shell(&self, shell: &str, program: &str) -> Option<String> {
        if Command::new(shell).arg("--version").output().is_err() {
            aloud::skip(&format!("there is no {shell}"));
            return None;
        }
        let ours = Path::new(env!("CARGO_BIN_EXE_virtnet")).parent().unwrap().display();
        let path = format!("{ours}:{}", std::env::var("PATH").unwrap_or_default());
        let mut command = Command::new(shell);
        command.env_clear().env("PATH", path).env("HOME", self.folder.path()).current_dir(self.folder.path());
        Some(text(command.env("VIRTNET_RUN_DIR", self.folder.path()).args(["-c", program])))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop.write_all(b"x").unwrap();
        let ended = self.served.take().unwrap().join();
        assert!(ended.is_ok() || thread::panicking());
    }
}

fn text(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let [out, error] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(output.status.success() && error.is_empty(), "{command:?}: {} {out} {error}", output.status);
    out
}

/// Lines, and what is offered for their last words.
const LINES: [(&[&str], &[&str]); 12] = [
    (&["mod"], &["modify"]),
    (&["query", "-p", ""], &["0", "1", "2"]),
    (&["query", "-p", "1", "-v", ""], &["0", "1"]),
    (&["query", "-p", "0", "-v", ""], &[]),
    (&["stats", "-u", "VN0VNETS0D0F1"], &["VN0VNETS0D0F1", "VN0VNETS0D0F1VF1", "VN0VNETS0D0F1VF2"]),
    (&["unplug", "--pf", ""], &["2"]),
    (&["sriov", "-p", ""], &["0", "1"]),
    (&["modify", "-p", "0", "device", "-q"], &["-q", "-qp"]),
    (&["modify", "-p", "0", "device", "-qp", "2", "-dc", ""], &["enable", "disable"]),
    (&["mlxconfig", "set", "SRI"], &["SRIOV_EN="]),
    (&["completion", ""], &["bash", "zsh", "fish"]),
    (&["--run-dir", "/nowhere", "query", "-p", ""], &[]),
];

/// What a shell offers for each of the lines, as the program printed it, a line for each offer and `.` after each line.
#[track_caller]
fn assert_offers(shell: &str, printed: &str) {
    let mut lines = printed.lines();
    for (line, expected) in LINES {
        let offered = lines.by_ref().take_while(|line| *line != ".").filter(|line| !line.is_empty());
        // Where an option could follow, options are offered too.
        let values: Vec<_> = offered.filter(|offer| !offer.starts_with("--") && *offer != "help").collect();
        assert_eq!(values, expected, "{shell} {line:?}");
    }
}

fn quoted(words: &[&str]) -> String {
    words.iter().map(|word| format!(" '{word}'")).collect()
}

#[test]
fn bash_completes() {
    let service = Service::start();
    let mut program = r#"source <(virtnet completion bash)
        try() { COMP_WORDS=(virtnet "$@"); COMP_CWORD=$#; COMP_TYPE=9; COMPREPLY=()
            _clap_complete_virtnet virtnet "${!#}"; printf '%s\n' "${COMPREPLY[@]}"; echo .; }
        complete -p virtnet | grep -q _clap_complete_virtnet || echo 'not registered'"#
        .to_owned();
    LINES.iter().for_each(|(line, _)| program += &format!("\ntry{}", quoted(line)));
    let Some(printed) = service.shell("bash", &program) else { return };
    assert_offers("bash", &printed);
    let split = format!("{program}\ntry modify -p 0 device --drop_count = en\ntry query --pf ''");
    let printed = service.shell("bash", &split).unwrap();
    assert!(printed.ends_with("\n.\nenable\n.\n0\n1\n2\n.\n"), "{printed}");
}

#[test]
fn zsh_completes() {
    let service = Service::start();
    let mut program = r#"compdef() { [[ $2 == virtnet ]] || print 'not registered' }
        _describe() { local offer; for offer in ${(P)3}; do print -r -- ${offer%%:*}; done }
        source <(virtnet completion zsh)
        try() { words=(virtnet "$@"); CURRENT=$(($# + 1)); _clap_dynamic_completer_virtnet; print .; }"#
        .to_owned();
    LINES.iter().for_each(|(line, _)| program += &format!("\ntry{}", quoted(line)));
    let Some(printed) = service.shell("zsh", &program) else { return };
    assert_offers("zsh", &printed);
}

#[test]
fn fish_completes() {
    let service = Service::start();
    let mut program = "virtnet completion fish | source".to_owned();
    for (line, _) in LINES {
        program += &format!("\ncomplete -C \"virtnet {}\" | string split -f1 \\t; echo .", line.join(" "));
    }
    let Some(printed) = service.shell("fish", &program) else { return };
    assert_offers("fish", &printed);
}

#[test]
fn tables_are_of_what_the_service_says() {
    let service = Service::start();
    let rows = |line: &str| -> Vec<String> {
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let text = service.says(&format!("--format table {line}"));
        text.lines().filter(|line| !line.starts_with(['─', '═'])).map(words).collect()
    };
    let health = rows("health -a");
    assert_eq!(health[0], "pf vf type vuid status health recoveries errors");
    assert_eq!(health[1], "0 static PF VN0VNETS0D0F0 Good 0 none");
    assert_eq!(health[4], "1 0 VF VN0VNETS0D0F1VF1 Good 0 none");
    assert_eq!(health.len(), 6);
    let lcores = rows("lcore");
    assert_eq!(lcores[1], "worker lcore node busy % ns/frame pairs");
    // A pair of each PF, three of each VF.
    assert!(lcores[2].starts_with("0 0 ") && lcores[2].ends_with(" 9"), "{lcores:?}");
    assert_eq!(lcores[3], "device pair busy % worker");
    assert_eq!(lcores.len(), 4 + 9);
    assert!(lcores.iter().any(|row| row.starts_with("pf1vf1 2 ")), "{lcores:?}");
    assert_eq!(rows("lcore rebalance")[1..], ["moves", "none"]);
    assert_eq!(rows("switch"), ["ports", "none"]);
    assert_eq!(rows("switch fdb"), ["fdb", "none"]);
    assert_eq!(rows("stats -p 0").last().unwrap(), "no queue runs");
}

/// What the help marks as missing is refused by the service, and nothing else is.
#[test]
fn help_says_what_is_not_in_this_version() {
    let service = Service::start();
    let is_missing = |line: &str| {
        let output = service.virtnet().args(line.split(' ')).output().unwrap();
        String::from_utf8(output.stdout).unwrap().contains("-1046")
    };
    let marked = |help: &str, option: &str| {
        let help = service.says(help);
        let indent = |line: &str| line.len() - line.trim_start().len();
        let mut lines = help.lines().skip_while(|line| !line.trim_start().starts_with(option));
        let first = lines.next().unwrap();
        first.contains(" †")
            || lines
                .take_while(|line| indent(line) > indent(first) && !line.trim_start().starts_with('-'))
                .any(|line| line.contains(" †"))
    };
    for (option, value) in [
        ("-m", "02:00:00:00:00:07"),
        ("-t", "1400"),
        ("-e", "1000"),
        ("-l", "0"),
        ("-s", "1"),
        ("-f", "0x20"),
        ("-o", "1"),
        ("-k", "40"),
        ("-r", "1"),
        ("-n", "4"),
        ("-q", "64"),
        ("--max_queue_pairs", "1"),
        ("-d", "1bb"),
        ("-b", "2"),
        ("--drop_count", "enable"),
        ("--packet_counter", "enable"),
        // Here nothing is on the switch.
        ("--aarfs_config", "disable"),
        ("--dim_config", "enable"),
        ("--net_dim_config", "enable"),
        ("--packed_vq", "disable"),
        ("--mrg_rxbuf", "disable"),
    ] {
        let line = format!("modify -p 0 device {option} {value}");
        assert_eq!(is_missing(&line), marked("modify device -h", option), "{line}");
    }
    for option in ["--dbg_stats", "--latency_stats", "--stats_clear", "--brief"] {
        let letter = if option == "--brief" { "-b" } else { option };
        assert_eq!(is_missing(&format!("query -p 0 {option}")), marked("query -h", letter), "{option}");
    }
    let hotplug = "hotplug -i mlx5_0 -m 0C:C4:7A:FF:22:95 -t 1400 -qp 1 -s 256";
    assert_eq!(is_missing(&format!("{hotplug} --host_awareness")), marked("hotplug -h", "--host_awareness"));
    assert_eq!(is_missing("modify -p 0 queue -e cqe -n 1 -c 1"), marked("modify -h", "queue"));
    for command in ["update", "restart"] {
        let line = if command == "update" { "update --status" } else { command };
        assert_eq!(is_missing(line), marked("-h", command), "{line}");
    }
}

#[test]
fn top_prints_one_picture() {
    let service = Service::start();
    let text = service.says("top --once -d 0.1");
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert!(rows.contains(&vec!["worker", "lcore", "node", "busy", "%", "ns/frame"]), "{text}");
    for (id, name) in [("pf0", "web"), ("pf1", "db"), ("pf2", "pf2"), ("pf1vf0", "pf1vf0"), ("pf1vf1", "pf1vf1")] {
        assert!(rows.contains(&vec![id, name, "0.000", "0.000", "0.000", "0.000", "0"]), "{id}: {text}");
    }
    let output = service.virtnet().arg("top").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("is no terminal; --once"));
}

/// A terminal that `virtnet top` runs on.
struct Screen {
    ours: File,
    theirs: OwnedFd,
    before: Termios,
    child: Child,
    seen: String,
}

impl Screen {
    fn start(service: &Service) -> Self {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let path = ptsname(&ours, Vec::new()).unwrap();
        let theirs: OwnedFd =
            File::options().read(true).write(true).open(Path::new(path.to_str().unwrap())).unwrap().into();
        tcsetwinsize(&theirs, Winsize { ws_row: 30, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let before = tcgetattr(&theirs).unwrap();
        let end = || theirs.try_clone().unwrap();
        let mut command = service.virtnet();
        let child = command.args(["top", "-d", "0.1"]).stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        Self { ours: ours.into(), theirs, before, child, seen: String::new() }
    }

    /// Waits until this has come, after what was waited for before.
    fn waits_for(&mut self, text: &str) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.seen.contains(text) {
            let mut fds = [PollFd::new(&self.ours, PollFlags::IN)];
            poll(&mut fds, Some(&Timespec { tv_sec: 1, tv_nsec: 0 })).unwrap();
            if !fds[0].revents().is_empty() {
                let mut bytes = [0; 4096];
                let count = self.ours.read(&mut bytes).unwrap();
                self.seen += &String::from_utf8_lossy(&bytes[..count]);
            }
            assert!(Instant::now() < deadline, "no {text:?} in {:?}", self.seen);
        }
        self.seen.clear();
    }

    /// Waits until the program has ended well, and the terminal is as it was.
    fn ends_as_it_began(mut self) {
        self.waits_for("\u{1b}[?1049l");
        assert!(self.child.wait().unwrap().success());
        let modes = |termios: &Termios| (termios.input_modes, termios.output_modes, termios.local_modes);
        assert_eq!(modes(&tcgetattr(&self.theirs).unwrap()), modes(&self.before));
    }
}

#[test]
fn the_terminal_ends_as_it_began_by_keys_and_signals() {
    let service = Service::start();
    for end in [Ok(b"q"), Ok(b"\x03"), Err(Signal::INT), Err(Signal::TERM), Err(Signal::HUP)] {
        let mut screen = Screen::start(&service);
        screen.waits_for("pf1vf1");
        assert_ne!(tcgetattr(&screen.theirs).unwrap().local_modes, screen.before.local_modes, "it is taken");
        match end {
            Ok(key) => screen.ours.write_all(key).unwrap(),
            Err(signal) => kill_process(Pid::from_child(&screen.child), signal).unwrap(),
        }
        screen.ends_as_it_began();
    }
}

#[test]
fn a_service_that_ends_does_not_end_it() {
    let service = Service::start();
    let mut screen = Screen::start(&service);
    screen.waits_for("pf1vf1");
    drop(service);
    screen.waits_for("virtnet.sock");
    screen.ours.write_all(b"q").unwrap();
    screen.ends_as_it_began();
}
