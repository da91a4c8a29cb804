//! Frames, a burst at a time.

// UNSAFETY: calls of the shim.
#![expect(unsafe_code)]

use crate::pool::Pool;
use crate::shim::{self, Mbuf};

/// Offset and length lie outside of a frame, or outside of its buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{len_bytes} bytes at {offset} lie outside of the frame")]
pub struct RoomError {
    /// Where.
    pub offset: usize,
    /// How many.
    pub len_bytes: usize,
}

/// Frames that are ours, in order; room for so many.
#[derive(Debug)]
pub struct Burst {
    /// Each is ours alone, until DPDK has it again.
    frames: Vec<*mut Mbuf>,
}

// SAFETY: the frames are this one's alone, and their pools take them back from any thread.
unsafe impl Send for Burst {}

impl Burst {
    /// An empty one, for up to `room` frames.
    pub fn new(room: usize) -> Self {
        Burst { frames: Vec::with_capacity(room) }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// How many more there is room for.
    pub fn room(&self) -> usize {
        self.frames.capacity() - self.frames.len()
    }

    /// Takes up to `count` more frames from a pool, of length 0 and with whatever content is there: all, or none if the pool
    /// has too few. Says whether it had.
    pub fn fill(&mut self, pool: Pool, count: usize) -> bool {
        let count = count.min(self.room());
        let len = self.frames.len();
        // SAFETY: there is room for as many at the end, and on success all of it is filled.
        unsafe {
            let end = self.frames.as_mut_ptr().add(len);
            let filled = shim::shim_frames_alloc(pool.as_ptr(), end, count as _) == 0;
            self.frames.set_len(if filled { len + count } else { len });
            filled
        }
    }

    /// Gives all back to their pools.
    pub fn free(&mut self) {
        // SAFETY: they are ours, and forgotten at once.
        unsafe { shim::shim_frames_free(self.frames.as_mut_ptr(), self.frames.len() as _) };
        self.frames.clear();
    }

    /// Length of a frame.
    ///
    /// # Panics
    /// If there is no such frame; so do those below.
    pub fn len_bytes(&self, index: usize) -> usize {
        // SAFETY: it is ours.
        unsafe { shim::shim_frame_len(self.frames[index]) as usize }
    }

    /// Makes a frame longer, by whatever content is there, or shorter.
    ///
    /// # Errors
    /// It does not fit its buffer, or lies in several.
    pub fn set_len_bytes(&mut self, index: usize, len_bytes: u16) -> Result<(), RoomError> {
        // SAFETY: it is ours; the shim knows its limits.
        let code = unsafe { shim::shim_frame_set_len(self.frames[index], len_bytes) };
        if code == 0 { Ok(()) } else { Err(RoomError { offset: 0, len_bytes: len_bytes.into() }) }
    }

    /// Gives a frame this length, and its bytes, of whatever content, to be written; `None` if it does not fit its buffer.
    #[inline]
    pub fn lay(&mut self, index: usize, len_bytes: usize) -> Option<&mut [u8]> {
        let len = u16::try_from(len_bytes).ok()?;
        // SAFETY: it is ours, and as long as that where the shim says where it lies.
        unsafe {
            let bytes = shim::shim_frame_lay(self.frames[index], len);
            (!bytes.is_null()).then(|| std::slice::from_raw_parts_mut(bytes, len_bytes))
        }
    }

    /// A frame's bytes where they lie, or put together in `room` where it lies in several buffers; `None` if it is longer than
    /// that.
    #[inline]
    pub fn bytes<'a>(&'a self, index: usize, room: &'a mut [u8]) -> Option<&'a [u8]> {
        let mut len = 0;
        // SAFETY: it is ours as long as this is borrowed, and as long as the shim says. `room` is as long as is said.
        unsafe {
            let bytes = shim::shim_frame_bytes(self.frames[index], room.as_mut_ptr(), room.len() as u32, &mut len);
            (!bytes.is_null()).then(|| std::slice::from_raw_parts(bytes, len as usize))
        }
    }

    /// Writes part of a frame.
    ///
    /// # Errors
    /// It lies outside.
    pub fn write(&mut self, index: usize, offset: usize, bytes: &[u8]) -> Result<(), RoomError> {
        let error = RoomError { offset, len_bytes: bytes.len() };
        let (Ok(at), Ok(len)) = (u16::try_from(offset), u16::try_from(bytes.len())) else { return Err(error) };
        // SAFETY: it is ours; the shim knows its limits.
        let code = unsafe { shim::shim_frame_write(self.frames[index], at, bytes.as_ptr().cast(), len) };
        if code == 0 { Ok(()) } else { Err(error) }
    }

    /// Reads part of a frame.
    ///
    /// # Errors
    /// It lies outside.
    pub fn read(&self, index: usize, offset: usize, into: &mut [u8]) -> Result<(), RoomError> {
        let error = RoomError { offset, len_bytes: into.len() };
        let (Ok(at), Ok(len)) = (u32::try_from(offset), u32::try_from(into.len())) else { return Err(error) };
        // SAFETY: it is ours; the shim knows its limits.
        let code = unsafe { shim::shim_frame_read(self.frames[index], at, into.as_mut_ptr().cast(), len) };
        if code == 0 { Ok(()) } else { Err(error) }
    }

    /// Copies the frames of another burst, one by one, over those of this one, whose lengths stay. By the C library's memcpy.
    pub fn copy_from(&mut self, other: &mut Burst) {
        let count = self.len().min(other.len());
        // SAFETY: they are ours, those of one burst and those of the other are different buffers, and the shim copies no more
        // than there is room for.
        unsafe { shim::shim_frames_copy(self.frames.as_mut_ptr(), other.frames.as_mut_ptr(), count as _) };
    }

    /// Has `receive(frames, room)` put as many as it returns behind those that are there. Returns how many that were.
    ///
    /// # Safety
    /// What it returns is how many valid frames it has written, and those are nobody else's any more.
    #[inline]
    pub(crate) unsafe fn receive(&mut self, receive: impl FnOnce(*mut *mut Mbuf, u16) -> u16) -> usize {
        let (len, room) = (self.frames.len(), self.room().min(u16::MAX.into()));
        // SAFETY: there is room for as many at the end.
        unsafe {
            let received = usize::from(receive(self.frames.as_mut_ptr().add(len), room as u16)).min(room);
            self.frames.set_len(len + received);
            received
        }
    }

    /// Has `transmit(frames, count)` take as many of the first `count` as it returns. Returns how many that were.
    ///
    /// # Safety
    /// What it returns is how many it has taken: those are its own from then on.
    #[inline]
    pub(crate) unsafe fn transmit(&mut self, count: usize, transmit: impl FnOnce(*mut *mut Mbuf, u16) -> u16) -> usize {
        let count = count.min(self.frames.len()).min(u16::MAX.into());
        let taken = usize::from(transmit(self.frames.as_mut_ptr(), count as u16)).min(count);
        self.frames.drain(..taken);
        taken
    }
}

impl Drop for Burst {
    fn drop(&mut self) {
        self.free();
    }
}
