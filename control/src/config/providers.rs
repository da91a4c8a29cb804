//! The product's provider files: which data path is used, which here is what idle workers do.
//!
//! A file has lines `Provider=ace` or `Provider=dpa`, and `Score=N`; `#` starts a comment, case does not matter, of two lines
//! with one key the last counts. The file with the highest score wins; of equal ones, the first by name.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::Idle;

const FILE_BYTES_MAX: u64 = 64 << 10;
const FILES_MAX: usize = 64;

/// A data path of the product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    /// Driven by events.
    Ace,
    /// Lcores that poll.
    Dpa,
}

impl From<Provider> for Idle {
    fn from(provider: Provider) -> Self {
        match provider {
            Provider::Ace => Self::Event,
            Provider::Dpa => Self::Poll,
        }
    }
}

/// Why provider files were refused.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// A file, or the folder, cannot be read.
    #[error("{}: {error}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// A line is not as it should be.
    #[error("{file}, line {line}: found {found:?}, allowed are Provider=ace, Provider=dpa, Score=0 to {}", u32::MAX)]
    Line {
        /// The file.
        file: String,
        /// Which line, from 1.
        line: usize,
        /// What it says.
        found: String,
    },
    /// A score of nothing.
    #[error("{file} has a score but no provider: Provider=ace or Provider=dpa is missing")]
    NoProvider {
        /// The file.
        file: String,
    },
}

/// The provider that the files of a folder choose; none if it has none, or is not there. Hidden files, and those that end in
/// `~`, are not looked at; nor is what is no file.
///
/// # Errors
/// [`ProviderError`]; a file is up to 64 KiB of UTF-8, and there are up to 64.
pub fn choose(dir: &Path) -> Result<Option<Provider>, ProviderError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error| ProviderError::Read { path, error }
    };
    let listing = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        listing => listing.map_err(failed(dir))?,
    };
    let mut files = Vec::new();
    for entry in listing {
        let path = entry.map_err(failed(dir))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with('.') || name.ends_with('~') || !std::fs::metadata(&path).map_err(failed(&path))?.is_file() {
            continue;
        }
        if files.len() == FILES_MAX {
            return Err(failed(dir)(io::Error::other(format!("more than {FILES_MAX} files"))));
        }
        files.push((name, read_text(&path).map_err(failed(&path))?));
    }
    files.sort_unstable();
    best(&files)
}

/// The provider that files, each a name and a text, choose; none if none names one.
///
/// # Errors
/// A line is not as it should be, or a score is of nothing.
pub fn best(files: &[(String, String)]) -> Result<Option<Provider>, ProviderError> {
    let mut best: Option<(u32, Provider)> = None;
    for (name, text) in files {
        let Some((score, provider)) = parse(name, text)? else { continue };
        if best.is_none_or(|(highest, _)| score > highest) {
            best = Some((score, provider));
        }
    }
    Ok(best.map(|(_, provider)| provider))
}

fn parse(file: &str, text: &str) -> Result<Option<(u32, Provider)>, ProviderError> {
    let (mut provider, mut score) = (None, None);
    for (index, found) in text.lines().enumerate() {
        let said = found.split('#').next().unwrap_or_default().trim().to_ascii_lowercase();
        let entry = said.split_once('=').map(|(key, value)| (key.trim_end(), value.trim_start()));
        match entry {
            None if said.is_empty() => continue,
            Some(("provider", "ace")) => provider = Some(Provider::Ace),
            Some(("provider", "dpa")) => provider = Some(Provider::Dpa),
            Some(("score", value)) if number(value).is_some() => score = number(value),
            _ => {
                let found = found.trim().to_owned();
                return Err(ProviderError::Line { file: file.to_owned(), line: index + 1, found });
            }
        }
    }
    match (provider, score) {
        (Some(provider), score) => Ok(Some((score.unwrap_or(0), provider))),
        (None, Some(_)) => Err(ProviderError::NoProvider { file: file.to_owned() }),
        (None, None) => Ok(None),
    }
}

fn number(text: &str) -> Option<u32> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other("over 64 KiB, which is the most allowed"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(texts: &[&str]) -> Result<Option<Provider>, String> {
        let files = texts.iter().enumerate().map(|(n, text)| (format!("{n}.provider"), (*text).to_owned()));
        best(&files.collect::<Vec<_>>()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_highest_score_wins() {
        let (ace, dpa) = ("# ace.so is one provider\nProvider=ace\nScore=100\n", "Provider=dpa\nScore=200");
        assert_eq!(of(&[ace, dpa]), Ok(Some(Provider::Dpa)));
        assert_eq!(of(&[dpa, ace]), Ok(Some(Provider::Dpa)));
        assert_eq!(of(&[ace, "Provider=dpa\nScore=100"]), Ok(Some(Provider::Ace)), "the first of equals");
        assert_eq!(of(&["Provider=dpa", "Provider=ace\nScore=0"]), Ok(Some(Provider::Dpa)), "no score is 0");
        assert_eq!(of(&[ace]), Ok(Some(Provider::Ace)));
        assert_eq!(of(&["", "# Provider=dpa\n\n  \r\n"]), Ok(None));
        assert_eq!(of(&[]), Ok(None));
    }

    #[test]
    fn the_last_line_counts_and_case_does_not() {
        assert_eq!(of(&["PROVIDER = Ace # or dpa\r\nsCoRe= 7\r\nprovider=DPA\r\n"]), Ok(Some(Provider::Dpa)));
        assert_eq!(of(&["Provider=ace\nScore=9\nScore=1", "Provider=dpa\nScore=2"]), Ok(Some(Provider::Dpa)));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, found) in [
            ("Provider=ice", "Provider=ice"),
            ("\n\nProvider", "Provider"),
            ("=ace", "=ace"),
            ("Provider=ace=dpa", "Provider=ace=dpa"),
            ("Score=-1", "Score=-1"),
            ("Score=+1", "Score=+1"),
            ("Score=", "Score="),
            ("Score=4294967296", "Score=4294967296"),
            ("Weight=1 # one", "Weight=1 # one"),
        ] {
            let line = text.lines().count();
            let allowed = "allowed are Provider=ace, Provider=dpa, Score=0 to 4294967295";
            let error = format!("0.provider, line {line}: found {found:?}, {allowed}");
            assert_eq!(of(&[text]), Err(error));
        }
        assert!(of(&["Provider=ace", "Score=1"]).unwrap_err().starts_with("1.provider has a score but no provider"));
    }

    #[test]
    fn a_folder_is_read_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let lay = |name: &str, text: &[u8]| std::fs::write(dir.path().join(name), text).unwrap();
        assert_eq!(choose(&dir.path().join("nowhere")).unwrap(), None);
        assert_eq!(choose(dir.path()).unwrap(), None);
        lay("b.provider", b"Provider=ace\nScore=5");
        lay("a.provider", b"Provider=dpa\nScore=5");
        lay(".c.swp", b"\xff");
        lay("a.provider~", b"?");
        std::fs::create_dir(dir.path().join("old")).unwrap();
        // Opening a FIFO that nobody writes to would never end.
        let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU);
        rustix::fs::mknodat(rustix::fs::CWD, dir.path().join("fifo"), kind, mode, 0).unwrap();
        assert_eq!(choose(dir.path()).unwrap(), Some(Provider::Dpa));
        lay("c.provider", b"Score=\xff");
        assert!(choose(dir.path()).unwrap_err().to_string().contains("c.provider: "));
        lay("c.provider", &vec![b'\n'; 65537]);
        assert!(choose(dir.path()).unwrap_err().to_string().ends_with("over 64 KiB, which is the most allowed"));
        lay("c.provider", &vec![b'\n'; 65536]);
        (0..61).for_each(|n| lay(&n.to_string(), b""));
        assert_eq!(choose(dir.path()).unwrap(), Some(Provider::Dpa));
        lay("one more", b"");
        assert!(choose(dir.path()).unwrap_err().to_string().ends_with("more than 64 files"));
        assert!(choose(&dir.path().join("0")).is_err(), "not a folder");
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd(texts in prop::collection::vec("([PpSs=#\\n 019aced]|Provider=|Score=|dpa){0,20}", 0..4)) {
            let files: Vec<_> = texts.into_iter().map(|text| ("f".to_owned(), text)).collect();
            let _ = best(&files);
        }
    }
}
