//! Descriptors that a front end gives to be notified by, or to notify us.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{FileType, OFlags};

/// What such a descriptor may be.
pub const ALLOWED: &str = "an eventfd, a pipe or a socket";

/// Takes a descriptor for notifications: an eventfd, or a pipe or socket as user-mode Linux gives, and so that
/// neither end waits. What else there is (a file on a disk that does not answer, say) could hold whoever writes to it.
///
/// # Errors
/// It is another; its file mode.
pub fn notification_descriptor(fd: OwnedFd) -> Result<OwnedFd, u32> {
    let kind = kind(&fd);
    let mode = kind.map_or(0, |kind| kind.as_raw_mode());
    if !matches!(kind, Some(FileType::Fifo | FileType::Socket)) && !is_eventfd(&fd) {
        return Err(mode);
    }
    let flags = rustix::fs::fcntl_getfl(&fd).map_err(|_| mode)?;
    rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK).map_err(|_| mode)?;
    Ok(fd)
}

fn kind(fd: &OwnedFd) -> Option<FileType> {
    rustix::fs::fstat(fd).ok().map(|found| FileType::from_raw_mode(found.st_mode))
}

/// An eventfd has no type of its own; its name tells. Where there is no /proc, any descriptor without a file passes.
fn is_eventfd(fd: &OwnedFd) -> bool {
    if kind(fd) != Some(FileType::Unknown) {
        return false;
    }
    let name = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    name.map_or(true, |name| name.to_string_lossy().contains("[eventfd]"))
}
