//! The folder of recovery files, which anyone may have been in: names are checked before they are used, and nothing but a
//! regular file is ever opened.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::error::{Fault, RecoveryError};
use super::record::Record;

/// The longest file that is read.
pub(super) const FILE_BYTES_MAX: u64 = 64 << 10;
/// The most files that are read: more than there can be functions.
pub(super) const FILES_MAX: usize = 4096;
/// The most entries that are not ours and are named.
pub(super) const FOREIGN_MAX: usize = 64;
pub(super) const VUID_CHARS_MAX: usize = 64;

const FOLDER: &str = "recovery";
const SUFFIX: &str = ".json";
/// Of a file that is being written. The dot keeps it apart from every VUID.
const TEMP_PREFIX: &str = ".new-";

/// The folder `recovery` of a state folder.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    handle: OwnedFd,
    /// How many changes a test lets it make, as if the process were killed then.
    #[cfg(test)]
    pub(crate) changes_left: std::sync::atomic::AtomicUsize,
}

/// The file that is to be the new one of this name.
fn temp_of(name: &str) -> String {
    format!("{TEMP_PREFIX}{name}")
}

/// What an entry's name says it is.
enum Entry<'a> {
    /// The file of the function with this VUID.
    Record(&'a str),
    /// What a crash left of writing one.
    Temp,
    /// Nothing of ours.
    Foreign,
}

impl Entry<'_> {
    fn of(name: &CStr) -> Entry<'_> {
        let vuid = |name: &'_ str| name.strip_suffix(SUFFIX).is_some_and(is_vuid);
        match name.to_str() {
            Ok(name) if vuid(name) => Entry::Record(name.strip_suffix(SUFFIX).unwrap_or(name)),
            Ok(name) if name.strip_prefix(TEMP_PREFIX).is_some_and(vuid) => Entry::Temp,
            _ => Entry::Foreign,
        }
    }
}

impl Folder {
    /// The folder in `state_dir`. Both are made if they are not there.
    ///
    /// # Errors
    /// It cannot be made or opened, or is something else than a folder.
    pub fn open(state_dir: &Path) -> Result<Self, RecoveryError> {
        let path = state_dir.join(FOLDER);
        let failed =
            |what, error: io::Error| RecoveryError { file: path.clone(), fault: Fault::System { what, error } };
        let made = DirBuilder::new().recursive(true).mode(0o755).create(state_dir);
        made.map_err(|error| failed("making the state folder", error))?;
        match rustix::fs::mkdir(&path, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed("making it", errno.into())),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = rustix::fs::open(&path, flags, Mode::empty());
        let handle = handle.map_err(|errno| failed("opening it as a folder", errno.into()))?;
        Ok(Self {
            path,
            handle,
            #[cfg(test)]
            changes_left: usize::MAX.into(),
        })
    }

    /// Writes functions' files: after this, and after a crash at any moment of it, each is the old one or the new one. The last one
    /// is new only if all are.
    ///
    /// # Errors
    /// A record could not be read back: its VUID cannot name a file, a value is out of range, or values contradict each
    /// other. Or the system's. Each file is the old one then, or the new one.
    pub fn save(&self, records: &[Record]) -> Result<(), RecoveryError> {
        let names = records.iter().map(|record| self.write_temp(record));
        let names = names.collect::<Result<Vec<_>, _>>().and_then(|names| self.sync_temps(&names).map(|()| names));
        let names = names.inspect_err(|_| {
            records.iter().filter_map(|record| self.name_of(&record.vuid).ok()).for_each(|name| {
                let _ = self.unlink(temp_of(&name));
            });
        })?;
        if let Some((last, others)) = names.split_last() {
            others.iter().try_for_each(|name| self.put_in_place(name))?;
            if !others.is_empty() {
                self.sync().map_err(|fault| self.wrong_itself(fault))?;
            }
            self.put_in_place(last)?;
        }
        self.sync().map_err(|fault| self.wrong_itself(fault))
    }

    fn put_in_place(&self, name: &str) -> Result<(), RecoveryError> {
        let renamed = self.change().and_then(|()| {
            let renamed = rustix::fs::renameat(&self.handle, temp_of(name), &self.handle, name);
            renamed.map_err(system("renaming its new file"))
        });
        renamed.map_err(|fault| self.wrong(name, fault))
    }

    /// Removes functions' files, of those that have one. After a crash at any moment of it, the first is there only if all are.
    ///
    /// # Errors
    /// What was given is no VUID, or the system's.
    pub fn remove<'a>(&self, vuids: impl IntoIterator<Item = &'a str>) -> Result<(), RecoveryError> {
        for (index, vuid) in vuids.into_iter().enumerate() {
            let name = self.name_of(vuid)?;
            self.unlink(&name).map_err(|fault| self.wrong(&name, fault))?;
            if index == 0 {
                self.sync().map_err(|fault| self.wrong_itself(fault))?;
            }
        }
        self.sync().map_err(|fault| self.wrong_itself(fault))
    }

    /// Removes every function's file. What is not ours stays.
    ///
    /// # Errors
    /// The system's, with the first file that could not be removed; the others are gone.
    pub fn clear(&self) -> Result<(), RecoveryError> {
        let mut first = None;
        for entry in self.entries()? {
            let done = entry.and_then(|name| match Entry::of(&name) {
                Entry::Foreign => Ok(()),
                Entry::Record(_) | Entry::Temp => self.clear_entry(&name),
            });
            first = first.or(done.err());
        }
        let synced = self.sync().map_err(|fault| self.wrong_itself(fault));
        first.map_or(synced, Err)
    }

    /// Reads every function's file, by VUID. What a crash left of writing is removed.
    ///
    /// The errors say which files are not used and why; each costs only its own function. Of files that say the same of two
    /// functions, the first by VUID is used.
    pub fn load(&self) -> (Vec<Record>, Vec<RecoveryError>) {
        let mut errors = Vec::new();
        let (mut vuids, mut foreign, mut left) = (Vec::new(), 0, 0);
        let entries = self.entries().map_err(|error| errors.push(error));
        for entry in entries.into_iter().flatten() {
            let name = match entry {
                Ok(name) => name,
                Err(error) => {
                    errors.push(error);
                    break;
                }
            };
            match Entry::of(&name) {
                Entry::Record(vuid) if vuids.len() < FILES_MAX => vuids.push(vuid.to_owned()),
                Entry::Temp if self.is_regular(&name).is_ok_and(|()| self.unlink(&name).is_ok()) => {}
                Entry::Temp | Entry::Foreign if foreign < FOREIGN_MAX => {
                    foreign += 1;
                    let fault = self.is_regular(&name).err();
                    errors.push(self.wrong(name.to_bytes(), fault.unwrap_or(Fault::Foreign { what: "another file" })));
                }
                _ => left += 1,
            }
        }
        if left > 0 {
            errors.push(self.wrong_itself(Fault::Crowded { count: left }));
        }
        vuids.sort_unstable();
        let mut taken = HashMap::new();
        let read = vuids.iter().filter_map(|vuid| {
            let record = self.read(vuid).and_then(|record| is_alone(&record, &mut taken).map(|()| record));
            record.map_err(|fault| errors.push(self.wrong(format!("{vuid}{SUFFIX}"), fault))).ok()
        });
        (read.collect(), errors)
    }

    fn read(&self, vuid: &str) -> Result<Record, Fault> {
        let name = format!("{vuid}{SUFFIX}");
        self.is_regular(&name)?;
        // Should it have become something else just now: not followed, not waited for.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file =
            File::from(rustix::fs::openat(&self.handle, &name, flags, Mode::empty()).map_err(system("opening it"))?);
        let reading = |error| Fault::System { what: "reading it", error };
        let about = file.metadata().map_err(reading)?;
        if !about.is_file() {
            return Err(Fault::Foreign { what: "not a regular file" });
        }
        let mut text = Vec::new();
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text).map_err(reading)?;
        let len_bytes = about.len().max(text.len() as u64);
        if len_bytes > FILE_BYTES_MAX { Err(Fault::Long { len_bytes }) } else { Record::parse(vuid, &text) }
    }

    /// Writes a record into the file that is to be its new one. Returns the name that it is to have.
    fn write_temp(&self, record: &Record) -> Result<String, RecoveryError> {
        let vuid = &record.vuid;
        let name = self.name_of(vuid)?;
        let text = record.text().and_then(|text| Record::parse(vuid, &text).map(|_| text));
        let written = text.and_then(|text| {
            let temp = temp_of(&name);
            self.unlink(&temp)?;
            self.change()?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let handle = rustix::fs::openat(&self.handle, &temp, flags, Mode::RUSR | Mode::WUSR);
            let mut file = File::from(handle.map_err(system("making its new file"))?);
            file.write_all(&text).map_err(|error| Fault::System { what: "writing its new file", error })
        });
        written.map_err(|fault| self.wrong(&name, fault)).map(|()| name)
    }

    /// Makes what new files say last: of one file alone, of many with all that the file system has to write, which is far sooner.
    fn sync_temps(&self, names: &[String]) -> Result<(), RecoveryError> {
        let synced = match names {
            [] => return Ok(()),
            [name] => rustix::fs::openat(&self.handle, temp_of(name), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                .and_then(rustix::fs::fsync),
            [..] => rustix::fs::syncfs(&self.handle),
        };
        synced.map_err(|errno| self.wrong(&names[0], system("writing its new file")(errno)))
    }

    fn clear_entry(&self, name: &CStr) -> Result<(), RecoveryError> {
        match self.is_regular(name) {
            Ok(()) => self.unlink(name).map_err(|fault| self.wrong(name.to_bytes(), fault)),
            Err(Fault::Foreign { .. }) => Ok(()),
            Err(fault) => Err(self.wrong(name.to_bytes(), fault)),
        }
    }

    /// Every entry's name but `.` and `..`.
    fn entries(&self) -> Result<impl Iterator<Item = Result<CString, RecoveryError>> + '_, RecoveryError> {
        let wrong = |errno| self.wrong_itself(system("listing it")(errno));
        let listing = Dir::read_from(&self.handle).map_err(wrong)?;
        let names = listing.map(move |entry| entry.map(|entry| entry.file_name().to_owned()).map_err(wrong));
        Ok(names.filter(|name| !matches!(name.as_ref().map(|name| name.to_bytes()), Ok(b"." | b".."))))
    }

    /// Looks at an entry without opening or following it.
    fn is_regular<N: rustix::path::Arg>(&self, name: N) -> Result<(), Fault> {
        let about =
            rustix::fs::statat(&self.handle, name, AtFlags::SYMLINK_NOFOLLOW).map_err(system("looking at it"))?;
        let what = match FileType::from_raw_mode(about.st_mode) {
            FileType::RegularFile => return Ok(()),
            FileType::Directory => "a folder",
            FileType::Symlink => "a symbolic link",
            FileType::Fifo => "a FIFO",
            FileType::Socket => "a socket",
            FileType::CharacterDevice | FileType::BlockDevice => "a device node",
            _ => "of an unknown kind",
        };
        Err(Fault::Foreign { what })
    }

    /// Called before every change of the folder.
    fn change(&self) -> Result<(), Fault> {
        #[cfg(test)]
        {
            use std::sync::atomic::Ordering::Relaxed;
            let left = self.changes_left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1));
            left.map_err(|_| system("being alive")(Errno::INTR))?;
        }
        Ok(())
    }

    fn unlink<N: rustix::path::Arg>(&self, name: N) -> Result<(), Fault> {
        self.change()?;
        match rustix::fs::unlinkat(&self.handle, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(system("removing it")(errno)),
        }
    }

    /// Makes names of the folder last.
    fn sync(&self) -> Result<(), Fault> {
        rustix::fs::fsync(&self.handle).map_err(system("writing the folder"))
    }

    fn name_of(&self, vuid: &str) -> Result<String, RecoveryError> {
        if is_vuid(vuid) {
            return Ok(format!("{vuid}{SUFFIX}"));
        }
        Err(self.wrong_itself(Fault::Vuid { vuid: vuid.to_owned() }))
    }

    fn wrong(&self, name: impl AsRef<[u8]>, fault: Fault) -> RecoveryError {
        RecoveryError { file: self.path.join(OsStr::from_bytes(name.as_ref())), fault }
    }

    fn wrong_itself(&self, fault: Fault) -> RecoveryError {
        RecoveryError { file: self.path.clone(), fault }
    }
}

/// No two functions have the same SF, the same place on the bus, or the same ids.
fn is_alone(record: &Record, taken: &mut HashMap<(&'static str, String), String>) -> Result<(), Fault> {
    let id = record.vf_id.map_or_else(|| record.pf_id.to_string(), |vf| format!("{}, {vf}", record.pf_id));
    let keys = [
        ("sf_num", record.sf_num.to_string()),
        ("bdf_raw", record.bdf_raw.to_string()),
        (if record.vf_id.is_some() { "pf_id, vf_id" } else { "pf_id" }, id),
    ];
    for key in &keys {
        if let Some(first) = taken.get(key) {
            let (key, value) = key.clone();
            return Err(Fault::Twice { key, value, first: first.clone() });
        }
    }
    taken.extend(keys.map(|key| (key, record.vuid.clone())));
    Ok(())
}

fn is_vuid(text: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    (1..=VUID_CHARS_MAX).contains(&text.len()) && text.bytes().all(is_plain)
}

fn system(what: &'static str) -> impl Fn(Errno) -> Fault {
    move |errno| Fault::System { what, error: errno.into() }
}
