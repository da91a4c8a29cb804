//! Unix sockets in the file system: listening on a path and connecting to one.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, Stat};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen, socket_with,
};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4;

/// Why there is no listening socket, or no connection.
#[derive(Debug, thiserror::Error)]
pub enum PathError {
    /// The path is longer than a socket's address can be.
    #[error("{}: {len_bytes} bytes, a socket's path may have 107", path.display())]
    TooLong {
        /// The path.
        path: PathBuf,
        /// Its length.
        len_bytes: usize,
    },
    /// Somebody is listening there.
    #[error("{}: another process is listening there", .0.display())]
    InUse(PathBuf),
    /// There is something, and it is no socket.
    #[error("{}: is there, and is no socket", .0.display())]
    NotASocket(PathBuf),
    /// The system refused.
    #[error("{}: {doing}: {source}", path.display())]
    System {
        /// The path.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// Its answer.
        source: io::Error,
    },
}

impl PathError {
    /// The system's error number, if it was the system.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::System { source, .. } => Errno::from_io_error(source),
            _ => None,
        }
    }
}

fn refused(path: &Path, doing: &'static str) -> impl FnOnce(Errno) -> PathError {
    move |errno| PathError::System { path: path.into(), doing, source: errno.into() }
}

/// A listening socket at a path. Dropping it removes the path, if it is still this socket's.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    path: PathBuf,
    identity: (u64, u64),
}

impl Listener {
    /// Listens at `path`, readable and writable as `mode` says. A socket that nobody listens on any more is
    /// replaced; one that somebody answers on is not.
    pub fn bind(path: &Path, mode: Mode) -> Result<Self, PathError> {
        let address = address(path)?;
        remove_stale(path)?;
        let socket = unix_socket(path)?;
        // A socket is created with its own mode, less the process's mask: never wider than asked.
        rustix::fs::fchmod(&socket, mode).map_err(refused(path, "setting the socket's mode"))?;
        match bind(&socket, &address) {
            Err(Errno::ADDRINUSE) => return Err(PathError::InUse(path.into())),
            outcome => outcome.map_err(refused(path, "binding"))?,
        }
        let bound = rustix::fs::stat(path).map_err(refused(path, "looking at the socket"))?;
        let this = Self { socket, path: path.into(), identity: identity(&bound) };
        rustix::fs::chmod(path, mode).map_err(refused(path, "setting the socket's mode"))?;
        listen(&this.socket, BACKLOG).map_err(refused(path, "listening"))?;
        Ok(this)
    }

    /// The next connection, if one is waiting.
    pub fn accept(&self) -> io::Result<Option<OwnedFd>> {
        let flags = SocketFlags::CLOEXEC;
        match rustix::io::retry_on_intr(|| accept_with(&self.socket, flags)) {
            Ok(stream) => Ok(Some(stream)),
            // The other end may have gone before we looked.
            Err(Errno::AGAIN | Errno::CONNABORTED) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let ours = |found: Stat| identity(&found) == self.identity;
        if rustix::fs::lstat(&self.path).is_ok_and(ours) {
            // Nothing is lost if it stays: the next one to listen there removes it.
            let _ = rustix::fs::unlink(&self.path);
        }
    }
}

/// Connects to the socket at `path` without waiting.
pub fn connect_to(path: &Path) -> Result<OwnedFd, PathError> {
    let address = address(path)?;
    let socket = unix_socket(path)?;
    connect(&socket, &address).map_err(refused(path, "connecting"))?;
    Ok(socket)
}

fn unix_socket(path: &Path) -> Result<OwnedFd, PathError> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(refused(path, "making a socket"))
}

fn address(path: &Path) -> Result<SocketAddrUnix, PathError> {
    SocketAddrUnix::new(path).map_err(|errno| match errno {
        Errno::NAMETOOLONG => PathError::TooLong { path: path.into(), len_bytes: path.as_os_str().len() },
        errno => refused(path, "making an address of it")(errno),
    })
}

fn identity(found: &Stat) -> (u64, u64) {
    (found.st_dev, found.st_ino)
}

/// Removes a socket that nobody answers on.
///
/// # Errors
/// Somebody does, it is no socket, or the system's.
pub fn remove_stale(path: &Path) -> Result<(), PathError> {
    let found = match rustix::fs::lstat(path) {
        Err(Errno::NOENT) => return Ok(()),
        found => found.map_err(refused(path, "looking what is there"))?,
    };
    if FileType::from_raw_mode(found.st_mode) != FileType::Socket {
        return Err(PathError::NotASocket(path.into()));
    }
    match connect_to(path) {
        Err(error) if error.errno() == Some(Errno::CONNREFUSED) => {
            rustix::fs::unlink(path).map_err(refused(path, "removing a socket left behind"))
        }
        Err(error) if error.errno() == Some(Errno::NOENT) => Ok(()),
        // Somebody answers, or would if its queue were not full.
        Ok(_) => Err(PathError::InUse(path.into())),
        Err(error) if error.errno() == Some(Errno::AGAIN) => Err(PathError::InUse(path.into())),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode_of(path: &Path) -> u32 {
        rustix::fs::stat(path).unwrap().st_mode & 0o777
    }

    #[test]
    fn a_socket_has_the_mode_asked_for_and_goes_with_its_listener() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        for mode in [0o600, 0o660] {
            let listener = Listener::bind(&path, Mode::from_raw_mode(mode)).unwrap();
            assert_eq!(mode_of(&path), mode);
            assert!(listener.accept().unwrap().is_none(), "nobody has connected");
            let _client = connect_to(&path).unwrap();
            assert!(listener.accept().unwrap().is_some());
            drop(listener);
            assert!(!path.exists());
        }
    }

    #[test]
    fn a_socket_left_behind_is_replaced_and_one_in_use_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "std leaves it behind");
        let _listener = Listener::bind(&path, Mode::RUSR | Mode::WUSR).unwrap();
        assert!(matches!(Listener::bind(&path, Mode::RUSR), Err(PathError::InUse(_))));
        assert!(path.exists());
    }

    #[test]
    fn a_file_in_the_way_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(Listener::bind(&path, Mode::RUSR), Err(PathError::NotASocket(_))));
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn a_path_taken_over_by_another_survives_our_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let ours = Listener::bind(&path, Mode::RUSR | Mode::WUSR).unwrap();
        std::fs::remove_file(&path).unwrap();
        let _theirs = Listener::bind(&path, Mode::RUSR | Mode::WUSR).unwrap();
        drop(ours);
        assert!(path.exists());
    }

    #[test]
    fn a_path_too_long_says_so() {
        let path = Path::new("/").join("x".repeat(120));
        let error = Listener::bind(&path, Mode::RUSR).unwrap_err();
        assert!(matches!(error, PathError::TooLong { len_bytes: 121, .. }), "{error}");
    }
}
