//! Other processes that a device lives in: where they run, and having them pause.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group, test_kill_process_group};
use tempfile::{NamedTempFile, TempDir};

/// How long a back end may take to end before it is made to.
const FAREWELL: Duration = Duration::from_secs(3);
/// How much of what a back end said is repeated.
const SAID_BYTES_MAX: u64 = 2000;

/// What a process's threads had done by some moment, to see later what they did since.
#[derive(Debug)]
pub struct Activity {
    pid: Option<Pid>,
    since: Instant,
    threads: Vec<Thread>,
}

/// The thread that was busiest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Busiest {
    /// Where it runs.
    pub lcore: usize,
    /// The part of the time in which it wanted to run and could not, as something else had its lcore.
    pub waited: f64,
}

impl Activity {
    /// As it is now.
    pub fn of(pid: Option<Pid>) -> Self {
        Activity { pid, since: Instant::now(), threads: pid.map_or(Vec::new(), threads) }
    }

    /// The thread that has run most since, if any has.
    pub fn busiest(&self) -> Option<Busiest> {
        let elapsed_ns = self.since.elapsed().as_nanos() as f64;
        let since = |thread: &Thread| {
            let before = self.threads.iter().find(|before| before.id == thread.id);
            let (ran, waited) = before.map_or((0, 0), |before| (before.ran_ns, before.waited_ns));
            (thread.ran_ns.saturating_sub(ran), thread.waited_ns.saturating_sub(waited))
        };
        let busiest = threads(self.pid?).into_iter().max_by_key(|thread| since(thread).0)?;
        let (ran_ns, waited_ns) = since(&busiest);
        (ran_ns > 0).then_some(Busiest { lcore: busiest.lcore, waited: (waited_ns as f64 / elapsed_ns).min(1.0) })
    }
}

/// Nanoseconds for which the current thread waited for an lcore, since it began.
pub fn waited_ns() -> u64 {
    fs::read_to_string("/proc/thread-self/schedstat")
        .ok()
        .and_then(|text| read_schedstat(&text))
        .map_or(0, |(_, ns)| ns)
}

#[derive(Debug)]
struct Thread {
    id: i32,
    ran_ns: u64,
    waited_ns: u64,
    lcore: usize,
}

/// All threads of a process but the current one, and of its children: a command is often a shell with the back end under it.
fn threads(pid: Pid) -> Vec<Thread> {
    let own = rustix::thread::gettid().as_raw_nonzero().get();
    let mut found = Vec::new();
    let mut processes = vec![pid.as_raw_nonzero().get()];
    while let Some(process) = processes.pop() {
        let Ok(tasks) = fs::read_dir(format!("/proc/{process}/task")) else { continue };
        for task in tasks.flatten().map(|task| task.path()) {
            let read = |name: &str| fs::read_to_string(task.join(name)).unwrap_or_default();
            if let (Some((id, lcore)), Some((ran_ns, waited_ns))) =
                (read_stat(&read("stat")), read_schedstat(&read("schedstat")))
                && id != own
            {
                found.push(Thread { id, ran_ns, waited_ns, lcore });
            }
            processes.extend(read("children").split_whitespace().filter_map(|child| child.parse::<i32>().ok()));
        }
    }
    found
}

/// Id and lcore from /proc/PID/task/TID/stat. The name, in parentheses, may hold anything.
fn read_stat(stat: &str) -> Option<(i32, usize)> {
    const PROCESSOR: usize = 39;
    let (id, _) = stat.split_once(' ')?;
    let (_, rest) = stat.rsplit_once(')')?;
    // The third field of the file is the first here.
    Some((id.parse().ok()?, rest.split_whitespace().nth(PROCESSOR - 3)?.parse().ok()?))
}

/// Nanoseconds run and waited from /proc/PID/task/TID/schedstat.
fn read_schedstat(text: &str) -> Option<(u64, u64)> {
    let mut words = text.split_whitespace();
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
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
                bail!("it ended ({status}) without a socket; {}", self.said());
            }
            if !wanted() {
                bail!("interrupted before its socket was there");
            }
            if Instant::now() > deadline {
                bail!("no socket within {} s; {}", patience.as_secs(), self.said());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// The end of what it said.
    fn said(&self) -> String {
        let mut bytes = Vec::new();
        let read = self.said.reopen().and_then(|mut file| {
            file.seek(SeekFrom::Start(file.metadata()?.len().saturating_sub(SAID_BYTES_MAX)))?;
            file.take(SAID_BYTES_MAX).read_to_end(&mut bytes)
        });
        match read {
            Ok(1..) => format!("it said:\n{}", String::from_utf8_lossy(&bytes)),
            _ => "it said nothing".to_owned(),
        }
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

impl Started {
    /// Whether all of its group is gone, within `patience`. The shell may end before what it started.
    fn is_gone(&mut self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            let shell_is_gone = !matches!(self.child.try_wait(), Ok(None));
            if shell_is_gone && self.pid().is_none_or(|group| test_kill_process_group(group).is_err()) {
                return true;
            }
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        self.signal(Signal::CONT);
        self.signal(Signal::TERM);
        if !self.is_gone(FAREWELL) {
            self.signal(Signal::KILL);
            self.is_gone(FAREWELL);
        }
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
        assert_eq!(read_stat(&format!("77 (a) b) {}", fields.join(" "))), Some((77, 39)));
        assert!(read_stat("77 (a").is_none() && read_stat("").is_none());
        assert_eq!(read_schedstat("5 6 7\n"), Some((5, 6)));
        assert!(read_schedstat("5").is_none());
    }

    #[test]
    fn the_busiest_thread_is_found_under_a_shell_and_a_pause_stops_it() {
        let started = Started::new("sleep 30 & while :; do :; done").unwrap();
        let activity = Activity::of(started.pid());
        std::thread::sleep(Duration::from_millis(200));
        let busiest = activity.busiest().unwrap();
        assert!(crate::lcore::usable().contains(&busiest.lcore) && busiest.waited <= 1.0, "{busiest:?}");
        let pausable = Pausable::Ours(&started);
        pausable.pause();
        std::thread::sleep(Duration::from_millis(50));
        let paused = Activity::of(started.pid());
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(paused.busiest(), None);
    }

    #[test]
    fn a_back_end_that_ends_is_quoted() {
        let mut silent = Started::new("exit 4").unwrap();
        let error = silent.wait_for_socket(Duration::from_secs(5), || true).unwrap_err().to_string();
        assert!(error.contains("it said nothing"), "{error}");
        let mut waiting = Started::new("sleep 30").unwrap();
        let error = waiting.wait_for_socket(Duration::from_secs(5), || false).unwrap_err().to_string();
        assert!(error.contains("interrupted"), "{error}");
        let mut started = Started::new("echo no such device {socket} >&2; exit 4").unwrap();
        let error = started.wait_for_socket(Duration::from_secs(5), || true).unwrap_err().to_string();
        assert!(error.contains("no such device /") && error.contains("exit status: 4"), "{error}");
    }
}
