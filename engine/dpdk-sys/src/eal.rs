//! DPDK's environment: memory, lcores, the drivers it finds.

// UNSAFETY: calls of the shim.
#![expect(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int};
use std::marker::PhantomData;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::Error;
use crate::shim;

/// What the shim keeps of the log, in bytes.
const LOG_BYTES: usize = 64 << 10;
/// What there is where there are no huge pages, of which only what is used is taken.
const MEMORY_MIB: &str = "256";

/// DPDK, running in this process until it ends. Belongs to the thread that started it, which is its main lcore; so does
/// everything that comes of it.
#[derive(Debug)]
pub struct Eal {
    _of_this_thread: PhantomData<*const ()>,
}

impl Eal {
    /// Starts it with arguments as on a command line, without the program's name. Pins the calling thread to the main lcore.
    ///
    /// # Errors
    /// [`Error::Started`] the second time, and whatever DPDK objects to.
    pub fn start(arguments: &[String]) -> Result<Self, Error> {
        let mut state = state();
        match *state {
            State::New => state.start(arguments, false).map(|()| Eal { _of_this_thread: PhantomData }),
            State::Running | State::Failed => Err(Error::Started),
        }
    }

    /// What DPDK calls its version.
    pub fn version(&self) -> String {
        // SAFETY: a constant text of DPDK's.
        unsafe { CStr::from_ptr(shim::shim_version()) }.to_string_lossy().into_owned()
    }

    /// What DPDK has logged since this was last asked or an [`Error`] took it; the last 64 KiB of it.
    pub fn take_log(&self) -> String {
        take_log()
    }

    /// The time-stamp counter, read when everything before has finished, stores included.
    #[inline]
    pub fn cycles(&self) -> u64 {
        shim::shim_cycles()
    }

    /// How fast that counts.
    pub fn cycles_per_second(&self) -> u64 {
        shim::shim_cycles_per_second()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    New,
    Running,
    Failed,
}

fn state() -> MutexGuard<'static, State> {
    static STATE: Mutex<State> = Mutex::new(State::New);
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn start(&mut self, arguments: &[String], aloud: bool) -> Result<(), Error> {
        let texts = std::iter::once("virtnet").chain(arguments.iter().map(String::as_str));
        let texts: Vec<CString> = texts.map(CString::new).collect::<Result<_, _>>()?;
        // DPDK may keep and change the texts: they are given away.
        let mut argv: Vec<*mut c_char> = texts.into_iter().map(CString::into_raw).collect();
        let argc = argv.len() as c_int;
        argv.push(std::ptr::null_mut());
        let argv = argv.leak();
        // SAFETY: `argc` texts and a null, all of which live for ever.
        let code = unsafe { shim::shim_eal_start(argc, argv.as_mut_ptr(), aloud) };
        *self = if code == 0 { Self::Running } else { Self::Failed };
        if code == 0 { Ok(()) } else { Err(Error::refused("starting DPDK", code)) }
    }
}

/// Starts DPDK, unless it has been, for threads that are none of its lcores: it has one, which is no thread's and may run wherever
/// this one may. It takes only the devices that it is told to. Huge pages it uses only if it is to and there are
/// some. What it warns of goes to stderr.
pub(crate) fn start_for_all(huge_pages: bool) -> Result<(), Error> {
    let mut state = state();
    match *state {
        State::Running => return Ok(()),
        State::Failed => return Err(Error::Failed),
        State::New => {}
    }
    let mut arguments = vec![format!("--lcores=0@({})", lcores_allowed())];
    let fixed = ["--no-telemetry", "--log-level=warning", "-a", "0000:00:00.0", "-a", "auxiliary:"];
    arguments.extend(fixed.map(str::to_owned));
    let memory: &[&str] = match huge_pages && there_are_huge_pages() {
        true => &["--in-memory"],
        false => &["--no-huge", "--no-shconf", "-m", MEMORY_MIB],
    };
    arguments.extend(memory.iter().map(|&argument| argument.to_owned()));
    // DPDK pins the thread that starts it.
    let state = &mut *state;
    std::thread::scope(|scope| {
        let starter = scope.spawn(|| state.start(&arguments, true));
        starter.join().unwrap_or(Err(Error::Failed))
    })
}

fn lcores_allowed() -> String {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    list.map_or("0", str::trim).to_owned()
}

fn there_are_huge_pages() -> bool {
    let sizes = std::fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
    let mut free = sizes.map(|size| std::fs::read_to_string(size.path().join("free_hugepages")));
    free.any(|free| free.is_ok_and(|free| free.trim() != "0"))
}

pub(crate) fn take_log() -> String {
    let mut text = vec![0; LOG_BYTES];
    // SAFETY: there is as much room as is said.
    let len_bytes = unsafe { shim::shim_log_take(text.as_mut_ptr(), text.len()) };
    text.truncate(len_bytes);
    String::from_utf8_lossy(&text).into_owned()
}
