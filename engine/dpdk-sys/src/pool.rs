//! Pools of buffers for frames.

// UNSAFETY: calls of the shim.
#![expect(unsafe_code)]

use std::ffi::CString;
use std::marker::PhantomData;
use std::ptr::NonNull;

use crate::eal::Eal;
use crate::error::Error;
use crate::shim::{self, Mempool};

/// What a pool is.
#[derive(Clone, Copy, Debug)]
pub struct PoolOptions {
    /// How many buffers.
    pub buffers: u32,
    /// How many of those each lcore keeps at hand, up to 512.
    pub cache: u32,
    /// Bytes of a frame that fit into a buffer; headroom comes on top.
    pub room_bytes: u16,
}

/// A pool of buffers. It stays as long as the process: nobody can know when the last frame of it is gone.
#[derive(Clone, Copy, Debug)]
pub struct Pool {
    mempool: NonNull<Mempool>,
    _of_this_thread: PhantomData<*const ()>,
}

impl Pool {
    /// Makes one; its name must be its own.
    ///
    /// # Errors
    /// There is no memory, or the name is taken.
    pub fn new(_eal: &Eal, name: &str, options: PoolOptions) -> Result<Self, Error> {
        Self::make(name, options)
    }

    /// The same; DPDK is started.
    pub(crate) fn make(name: &str, options: PoolOptions) -> Result<Self, Error> {
        let text = CString::new(name)?;
        let PoolOptions { buffers, cache, room_bytes } = options;
        let mut mempool = std::ptr::null_mut();
        // SAFETY: a text that ends with a zero, a place for the answer, and DPDK is started.
        let code = unsafe { shim::shim_pool_new(text.as_ptr(), buffers, cache, room_bytes, &mut mempool) };
        match NonNull::new(mempool) {
            Some(mempool) => Ok(Pool { mempool, _of_this_thread: PhantomData }),
            None => Err(Error::refused(format!("making pool {name} of {buffers} buffers"), code)),
        }
    }

    /// How many buffers are free now.
    pub fn available(&self) -> u32 {
        // SAFETY: pools stay.
        unsafe { shim::shim_pool_available(self.mempool.as_ptr()) }
    }

    /// Ends it, if all its buffers are home; otherwise it stays.
    ///
    /// # Safety
    /// Nobody uses it any more but for giving back what is not.
    pub(crate) unsafe fn end(self) {
        // SAFETY: it is there, and nobody's any more where it goes.
        unsafe { shim::shim_pool_free(self.as_ptr()) }
    }

    pub(crate) fn as_ptr(self) -> *mut Mempool {
        self.mempool.as_ptr()
    }
}
