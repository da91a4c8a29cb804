//! Other processes that a device lives in: where they run, and having them pause.

use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tempfile::{NamedTempFile, TempDir};

/// How long a back end may take to end before it is made to.
const FAREWELL: Duration = Duration::from_secs(3);
/// How much of what a back end said is repeated.
const SAID_BYTES: usize = 2000;

/// Processor time of a process's threads, to see later which one was busiest.
#[derive(Debug, Default)]
pub struct Activity {
    pid: Option<Pid>,
    /// By thread: its processor time in ticks.
    ticks: Vec<(i32, u64)>,
}

impl Activity {
    /// As it is now.
    pub fn of(pid: Option<Pid>) -> Self {
        let ticks = pid.map_or(Vec::new(), |pid| threads(pid).into_iter().map(|t| (t.id, t.ticks)).collect());
        Activity { pid, ticks }
    }

    /// The lcore of the thread that has been busiest since.
    pub fn busiest_lcore(&self) -> Option<usize> {
        let before = |id| self.ticks.iter().find(|&&(other, _)| other == id).map_or(0, |&(_, ticks)| ticks);
        threads(self.pid?)
            .into_iter()
            .max_by_key(|thread| thread.ticks.saturating_sub(before(thread.id)))
            .map(|t| t.lcore)
    }
}

struct Thread {
    id: i32,
    ticks: u64,
    lcore: usize,
}

/// All threads of a process, and of its children: a command is often a shell with the back end under it.
fn threads(pid: Pid) -> Vec<Thread> {
    let mut found = Vec::new();
    let mut processes = vec![pid.as_raw_nonzero().get()];
    while let Some(process) = processes.pop() {
        let Ok(tasks) = fs::read_dir(format!("/proc/{process}/task")) else { continue };
        for task in tasks.flatten() {
            if let Some(thread) = fs::read_to_string(task.path().join("stat")).ok().and_then(|stat| read_stat(&stat)) {
                found.push(thread);
            }
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            processes.extend(children.split_whitespace().filter_map(|child| child.parse::<i32>().ok()));
        }
    }
    found
}

/// Of /proc/PID/task/TID/stat. The name, in parentheses, may hold anything.
fn read_stat(stat: &str) -> Option<Thread> {
    let (id, rest) = stat.split_once(' ')?;
    let (_, rest) = rest.rsplit_once(')')?;
    // The third field of the file is the first here.
    let field = |number: usize| rest.split_whitespace().nth(number - 3)?.parse::<u64>().ok();
    Some(Thread { id: id.parse().ok()?, ticks: field(14)? + field(15)?, lcore: field(39)? as usize })
}

/// A back end that we started.
#[derive(Debug)]
pub struct Started {
    child: Child,
    said: NamedTempFile,
    folder: TempDir,
}

impl Started {
    /// Has the shell run `command`, `{socket}` standing for a socket of its own.
    ///
    /// # Errors
    /// There is no shell, or no room for a folder.
    pub fn new(command: &str) -> Result<Self> {
        let folder = tempfile::tempdir().context("a folder for the socket")?;
        let socket = folder.path().join("vhost.sock");
        let said = NamedTempFile::new().context("a file for what the back end says")?;
        let child = Command::new("sh")
            .arg("-c")
            .arg(command.replace("{socket}", &socket.to_string_lossy()))
            // Kept open: some end when there is nothing more to read.
            .stdin(Stdio::piped())
            .stdout(said.reopen()?)
            .stderr(said.reopen()?)
            .process_group(0)
            .spawn()
            .with_context(|| command.to_owned())?;
        Ok(Started { child, said, folder })
    }

    /// The socket it is to listen at.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("vhost.sock")
    }

    /// Waits for its socket.
    ///
    /// # Errors
    /// It ended, or there is none in time.
    pub fn wait_for_socket(&mut self, patience: Duration, wanted: impl Fn() -> bool) -> Result<()> {
        let deadline = Instant::now() + patience;
        while !is_socket(&self.socket()) {
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended ({status}) without a socket; it said:\n{}", self.said());
            }
            if Instant::now() > deadline || !wanted() {
                bail!("no socket within {} s; it said:\n{}", patience.as_secs(), self.said());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// The end of what it said.
    pub fn said(&mut self) -> String {
        let mut text = String::new();
        if let Ok(mut file) = self.said.reopen() {
            let mut bytes = Vec::new();
            let _ = file.read_to_end(&mut bytes);
            text = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(SAID_BYTES)..]).into_owned();
        }
        text
    }

    /// The shell that runs it.
    pub fn pid(&self) -> Option<Pid> {
        Pid::from_raw(self.child.id() as i32)
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.pid() {
            // It may be gone, which is what the next request to it will say.
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        self.signal(Signal::CONT);
        self.signal(Signal::TERM);
        let deadline = Instant::now() + FAREWELL;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                self.signal(Signal::KILL);
                let _ = self.child.wait();
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        // What it left behind in its group.
        self.signal(Signal::KILL);
    }
}

fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}

/// Whose turn it is: the one that is not measured stands still, so that it takes no processor time.
#[derive(Debug)]
pub enum Pausable<'a> {
    /// One that we started.
    Ours(&'a Started),
    /// One that runs, and may be stopped.
    Theirs(Pid),
    /// One that runs, and is left alone.
    Never,
}

impl Pausable<'_> {
    /// Stops it.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        match self {
            Pausable::Ours(started) => started.signal(signal),
            Pausable::Theirs(pid) => drop(kill_process(*pid, signal)),
            Pausable::Never => {}
        }
    }
}

impl Drop for Pausable<'_> {
    fn drop(&mut self) {
        self.resume();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_read_whatever_its_name_is() {
        let mut fields: Vec<String> = (3..=52).map(|field| field.to_string()).collect();
        fields[0] = "R".to_owned();
        let thread = read_stat(&format!("77 (a) b) {}", fields.join(" "))).unwrap();
        assert_eq!((thread.id, thread.ticks, thread.lcore), (77, 29, 39));
        assert!(read_stat("77 (a").is_none() && read_stat("").is_none());
    }

    #[test]
    fn the_busiest_thread_is_found_under_a_shell() {
        let started = Started::new("sleep 30 & while :; do :; done").unwrap();
        let activity = Activity::of(started.pid());
        std::thread::sleep(Duration::from_millis(200));
        let lcore = activity.busiest_lcore().unwrap();
        assert!(crate::lcore::usable().contains(&lcore), "{lcore}");
        let pausable = Pausable::Ours(&started);
        pausable.pause();
        std::thread::sleep(Duration::from_millis(50));
        let paused = Activity::of(started.pid());
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(Activity::of(started.pid()).ticks, paused.ticks);
    }

    #[test]
    fn a_back_end_that_ends_is_quoted() {
        let mut started = Started::new("echo no such device {socket} >&2; exit 4").unwrap();
        let error = started.wait_for_socket(Duration::from_secs(5), || true).unwrap_err().to_string();
        assert!(error.contains("no such device /") && error.contains("exit status: 4"), "{error}");
    }
}
