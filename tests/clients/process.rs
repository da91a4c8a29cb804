//! Children with an end: each is a process group that is killed when its handle goes, and by the
//! kernel should the test itself be killed. What they print is kept, searched, and shown if a test fails.
//! The benchmark against DPDK uses it too.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// How much of a child's output a failing test shows, in lines.
const SHOWN_LINES: usize = 60;

/// A running child.
pub struct Process {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    output: Arc<Output>,
}

#[derive(Default)]
struct Output {
    text: Mutex<String>,
    more: Condvar,
}

/// A command that ends with the thread that started it, behind the words of `prefix`.
pub fn command(prefix: &[&str], program: impl AsRef<OsStr>) -> Command {
    let words = ["setpriv", "--pdeathsig", "KILL", "--"];
    let mut words = prefix.iter().chain(&words);
    let mut command = Command::new(words.next().expect("setpriv at least"));
    command.args(words).arg(program);
    command
}

impl Process {
    /// Starts `command`, both of its outputs gathered into one text.
    pub fn start(name: &str, mut command: Command) -> Process {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        command.stdin(Stdio::piped()).stdout(writer.try_clone().expect("a second end")).stderr(writer).process_group(0);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name}: {command:?}: {error}"));
        // Closes our copies of the pipe's end, so that the reader sees the child's end.
        drop(command);
        let output = Arc::new(Output::default());
        let kept = output.clone();
        std::thread::spawn(move || gather(reader, &kept));
        Process { name: name.to_owned(), stdin: child.stdin.take(), child, output }
    }

    /// The child's id, which is also that of its group.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Writes a line to the child.
    #[track_caller]
    pub fn say(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("the child's input is open");
        if let Err(error) = writeln!(stdin, "{line}") {
            panic!("{} takes no input ({error}) when told: {line}", self.name);
        }
    }

    /// Everything printed so far.
    pub fn output(&self) -> String {
        self.output.text.lock().expect("no reader panics").clone()
    }

    /// How much has been printed: a place for `wait_for` to search from.
    pub fn mark(&self) -> usize {
        self.output.text.lock().expect("no reader panics").len()
    }

    /// Waits until `found` finds something in what was printed after `mark`.
    #[track_caller]
    pub fn wait_until<T>(
        &mut self,
        what: &str,
        mark: usize,
        timeout: Duration,
        found: impl Fn(&str) -> Option<T>,
    ) -> T {
        let end = Instant::now() + timeout;
        loop {
            // First the child's state, then its words: what it said before it ended is not missed.
            let ended = self.child.try_wait().expect("a child can be waited for");
            let text = self.output.text.lock().expect("no reader panics");
            if let Some(value) = found(&text[mark..]) {
                return value;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(text);
                panic!("{}: no {what} within {timeout:?}", self.name);
            }
            drop(self.output.more.wait_timeout(text, left.min(Duration::from_millis(100))).expect("no reader panics"));
            if let Some(status) = ended {
                std::thread::sleep(Duration::from_millis(100));
                if found(&self.output()[mark..]).is_none() {
                    panic!("{} ended ({status}) before {what}", self.name);
                }
            }
        }
    }

    /// Waits for `text` after `mark` and returns what was printed between the two.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str, mark: usize, timeout: Duration) -> String {
        self.wait_until(&format!("{text:?}"), mark, timeout, |seen| seen.find(text).map(|at| seen[..at].to_owned()))
    }

    /// Waits until the child ends by itself.
    #[track_caller]
    pub fn wait_end(&mut self, timeout: Duration) -> ExitStatus {
        let end = Instant::now() + timeout;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return status;
            }
            assert!(Instant::now() < end, "{} did not end within {timeout:?}", self.name);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Whether the child still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_none()
    }

    /// Asks the child to end, as an operator would.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Ends the child at once, without a chance to clean up.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }

    /// For how long the child's threads whose names begin with `name` have been ready to run, and did not.
    pub fn waited(&self, name: &str) -> Duration {
        let Ok(threads) = std::fs::read_dir(format!("/proc/{}/task", self.id())) else { return Duration::ZERO };
        let wait = |thread: std::io::Result<std::fs::DirEntry>| {
            let folder = thread.ok()?.path();
            if !std::fs::read_to_string(folder.join("comm")).ok()?.starts_with(name) {
                return None;
            }
            // Fields: time on a CPU, time in a run queue, both in ns; and how often.
            let text = std::fs::read_to_string(folder.join("schedstat")).ok()?;
            text.split_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
        };
        threads.filter_map(wait).sum()
    }

    /// Sends `signal` to the child's whole group.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a child's id");
        // The group may be gone already.
        let _ = kill_process_group(pid, signal);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let output = self.output();
            let lines: Vec<&str> = output.lines().collect();
            let shown = lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n");
            eprintln!("--- the end of what {} printed:\n{shown}\n---", self.name);
        }
    }
}

fn gather(mut reader: impl Read, output: &Output) {
    let mut buffer = [0; 8192];
    while let Ok(count @ 1..) = reader.read(&mut buffer) {
        // Byte by byte into characters: markers are ASCII, and a mark stays a character's border.
        let piece =
            String::from_iter(buffer[..count].iter().map(|&byte| if byte.is_ascii() { byte as char } else { '?' }));
        output.text.lock().expect("no waiter panics while it holds the text").push_str(&piece);
        output.more.notify_all();
    }
}
