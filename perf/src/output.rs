//! Where results go: a table for people, and JSON to a file or to standard output.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};

/// That `path` can be written, found out before anything is measured for it; nothing is left there.
///
/// # Errors
/// It cannot be.
pub fn ensure_writable(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match fs::metadata(path) {
        Err(_) => tempfile::tempfile_in(folder).map(drop),
        Ok(found) if found.is_file() || found.is_dir() => OpenOptions::new().append(true).open(path).map(drop),
        // A pipe would wait for its reader.
        Ok(_) => Ok(()),
    }
    .with_context(|| path.display().to_string())
}

/// Shows `text`, and writes JSON to the file, or for `-` to standard output, where nothing else goes then.
///
/// # Errors
/// Those of writing.
pub fn publish(
    text: &str,
    json: Option<&Path>,
    write_json: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    let to_stdout = json == Some(Path::new("-"));
    let shown =
        if to_stdout { io::stderr().write_all(text.as_bytes()) } else { io::stdout().write_all(text.as_bytes()) };
    shown.or_else(ignore_broken_pipe).context("the table")?;
    match json {
        None => Ok(()),
        Some(path) if !to_stdout => write_file(path, |out| write_json(out)),
        Some(_) => {
            let mut out = BufWriter::new(io::stdout().lock());
            write_json(&mut out).and_then(|()| out.flush()).or_else(ignore_broken_pipe).context("standard output")
        }
    }
}

/// Writes a file.
///
/// # Errors
/// Those of writing, with its path.
pub fn write_file(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> Result<()> {
    let written = File::create(path).map(BufWriter::new).and_then(|mut out| {
        write(&mut out)?;
        out.flush()
    });
    written.or_else(ignore_broken_pipe).with_context(|| path.display().to_string())
}

/// Whoever reads us may have seen enough.
fn ignore_broken_pipe(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_written_is_found_before_and_nothing_is_left_behind() {
        let folder = tempfile::tempdir().unwrap();
        let new = folder.path().join("new.json");
        ensure_writable(&new).unwrap();
        assert!(fs::read_dir(folder.path()).unwrap().next().is_none());
        fs::write(&new, "before").unwrap();
        ensure_writable(&new).unwrap();
        assert_eq!(fs::read_to_string(&new).unwrap(), "before");
        ensure_writable(Path::new("/dev/null")).unwrap();
        for wrong in [folder.path().to_owned(), folder.path().join("missing/new.json"), new.join("below")] {
            let error = format!("{:#}", ensure_writable(&wrong).unwrap_err());
            assert!(error.contains(&*wrong.to_string_lossy()), "{error}");
        }
    }
}
