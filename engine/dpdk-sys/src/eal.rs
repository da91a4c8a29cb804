//! DPDK's environment: memory, lcores, the drivers it finds.

// UNSAFETY: calls of the shim.
#![expect(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::Error;
use crate::shim;

/// What the shim keeps of the log, in bytes.
const LOG_BYTES: usize = 64 << 10;

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
        static STARTED: AtomicBool = AtomicBool::new(false);
        let texts = std::iter::once("virtnet").chain(arguments.iter().map(String::as_str));
        let texts: Vec<CString> = texts.map(CString::new).collect::<Result<_, _>>()?;
        if STARTED.swap(true, Ordering::Relaxed) {
            return Err(Error::Started);
        }
        // DPDK may keep and change the texts: they are given away.
        let mut argv: Vec<*mut c_char> = texts.into_iter().map(CString::into_raw).collect();
        let argc = argv.len() as c_int;
        argv.push(std::ptr::null_mut());
        let argv = argv.leak();
        // SAFETY: `argc` texts and a null, all of which live for ever.
        let code = unsafe { shim::shim_eal_start(argc, argv.as_mut_ptr()) };
        match code {
            0 => Ok(Eal { _of_this_thread: PhantomData }),
            code => Err(Error::refused("starting DPDK", code)),
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

pub(crate) fn take_log() -> String {
    let mut text = vec![0; LOG_BYTES];
    // SAFETY: there is as much room as is said.
    let len_bytes = unsafe { shim::shim_log_take(text.as_mut_ptr(), text.len()) };
    text.truncate(len_bytes);
    String::from_utf8_lossy(&text).into_owned()
}
