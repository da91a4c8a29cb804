//! Which netdevs outlive us: by name, with the index that tells them from others of that name. As netdevs, it means nothing after
//! the machine has started anew, so it is not forced to the disk.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

const NAME: &str = "netdevs.json";
/// Of a file that is being written.
const TEMP_NAME: &str = ".new-netdevs.json";
/// Twice what all functions take.
const BYTES_MAX: u64 = 65536;

/// The file in a state folder, and what it says.
#[derive(Debug)]
pub struct Register {
    path: PathBuf,
    temp: PathBuf,
    netdevs: BTreeMap<String, u32>,
    /// Since it was read or saved.
    changed: bool,
}

impl Register {
    /// Reads it. One that cannot be read is told of and says nothing: what it was of is nobody's.
    pub fn load(state_dir: &Path) -> Self {
        let (path, temp) = (state_dir.join(NAME), state_dir.join(TEMP_NAME));
        let read = read(&path).with_context(|| path.display().to_string());
        let netdevs = read.inspect_err(|error| tracing::error!("{error:#}"));
        Self { path, temp, changed: false, netdevs: netdevs.unwrap_or_default() }
    }

    /// Every netdev with its index.
    pub fn all(&self) -> Vec<(String, u32)> {
        self.netdevs.iter().map(|(name, index)| (name.clone(), *index)).collect()
    }

    /// Whether one is in it.
    pub fn has(&self, name: &str) -> bool {
        self.netdevs.contains_key(name)
    }

    /// Its index.
    pub fn index(&self, name: &str) -> Option<u32> {
        self.netdevs.get(name).copied()
    }

    /// Puts one in.
    pub fn set(&mut self, name: &str, index: u32) {
        self.changed |= self.netdevs.insert(name.to_owned(), index) != Some(index);
    }

    /// Takes one out.
    pub fn remove(&mut self, name: &str) {
        self.changed |= self.netdevs.remove(name).is_some();
    }

    /// Replaces the file in one step; there is none where there is nothing to say.
    ///
    /// # Errors
    /// The system's.
    pub fn save(&mut self) -> anyhow::Result<()> {
        if self.changed {
            self.replace().with_context(|| format!("writing {}", self.path.display()))?;
            self.changed = false;
        }
        Ok(())
    }

    fn replace(&self) -> anyhow::Result<()> {
        if self.netdevs.is_empty() {
            fs::remove_file(&self.path)?;
            return Ok(());
        }
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        options.open(&self.temp)?.write_all(&serde_json::to_vec_pretty(&self.netdevs)?)?;
        Ok(fs::rename(&self.temp, &self.path)?)
    }
}

fn read(path: &Path) -> anyhow::Result<BTreeMap<String, u32>> {
    // A pipe of that name must not hold us up.
    let file = match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        file => file?,
    };
    if !file.metadata()?.is_file() {
        bail!("it is no regular file");
    }
    let mut text = Vec::new();
    file.take(BYTES_MAX + 1).read_to_end(&mut text)?;
    if text.len() as u64 > BYTES_MAX {
        bail!("it is longer than {BYTES_MAX} bytes, which are allowed");
    }
    Ok(serde_json::from_slice(&text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_read_and_nothing_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let mut register = Register::load(folder.path());
        register.save().unwrap();
        assert!(!folder.path().join(NAME).exists());
        (0..100).for_each(|n| register.set(&format!("en3f0pf0sf{n}"), n));
        register.save().unwrap();
        let mut again = Register::load(folder.path());
        assert_eq!((again.all(), again.index("en3f0pf0sf7")), (register.all(), Some(7)));
        (0..100).for_each(|n| again.remove(&format!("en3f0pf0sf{n}")));
        again.save().unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_file_that_cannot_be_read_says_nothing_and_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        let long = format!("{{\"a\": 1{}}}", " ".repeat(BYTES_MAX as usize));
        for text in ["", "{", "[]", "{\"a\": -1}", "{\"a\": 4294967296}", "{\"a\": \"1\"}", &long] {
            fs::write(&path, text).unwrap();
            let mut register = Register::load(folder.path());
            assert_eq!(register.all(), [], "{text:.20}");
            register.set("b", 2);
            register.save().unwrap();
            assert_eq!(Register::load(folder.path()).all(), [("b".into(), 2)]);
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert_eq!(Register::load(folder.path()).all(), []);
    }
}
