//! Why a file is refused.

use std::path::{Path, PathBuf};

/// The longest unknown key that is compared with the known ones.
const KEY_BYTES_MAX: usize = 64;

/// Why a file was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("{}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
    /// A key or a value is not as it should be.
    #[error("{}: {}{error}{}", path.display(), at(key, error), did_you_mean(error))]
    Value {
        /// The file.
        path: PathBuf,
        /// The key, with those that it is in: `devices[0].mtu`. `.` is the file's own object.
        key: String,
        /// What, where, and what is allowed.
        error: serde_json::Error,
    },
    /// Keys that do not go together.
    #[error("{}: {detail}", path.display())]
    Conflict {
        /// The file.
        path: PathBuf,
        /// Which, what was found, and what is allowed.
        detail: String,
    },
    /// Two devices are the same in something that must tell them apart.
    #[error("{}: devices {first:?} and {second:?} have the same {key} ({value}); each needs its own", path.display())]
    Twice {
        /// The file.
        path: PathBuf,
        /// Which key.
        key: &'static str,
        /// Its value.
        value: String,
        /// The device that has it first.
        first: String,
        /// The device that has it again.
        second: String,
    },
}

impl ConfigError {
    pub(super) fn conflict(path: &Path, detail: impl Into<String>) -> Self {
        Self::Conflict { path: path.into(), detail: detail.into() }
    }
}

/// The key in front of an error, where there is one; an unknown one is told by the error itself.
fn at(key: &str, error: &serde_json::Error) -> String {
    let is_unknown = error.to_string().starts_with("unknown field");
    let key = if is_unknown { key.rsplit_once('.').map_or("", |(parent, _)| parent) } else { key };
    if matches!(key, "" | "." | "?") { String::new() } else { format!("{key}: ") }
}

/// What an unknown key may have been meant to be.
fn did_you_mean(error: &serde_json::Error) -> String {
    nearest(&error.to_string()).map_or_else(String::new, |key| format!("; did you mean `{key}`?"))
}

/// The known name nearest to the unknown one, out of serde's words: "unknown field `a`, expected one of `b`, `c`".
fn nearest(words: &str) -> Option<String> {
    let unknown = ["unknown field `", "unknown variant `"].iter().find_map(|start| words.strip_prefix(start))?;
    let (found, known) = unknown.rsplit_once("`, expected ")?;
    if found.len() > KEY_BYTES_MAX {
        return None;
    }
    let found = found.to_lowercase();
    let known = known.split('`').skip(1).step_by(2);
    let near = known.map(|key| (strsim::damerau_levenshtein(&found, key), key));
    let (distance, key) = near.min_by_key(|(distance, _)| *distance)?;
    (distance <= found.chars().count().div_ceil(3)).then(|| key.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_told_if_one_is_near() {
        let words =
            |found: &str| format!("unknown field `{found}`, expected one of `is_lag`, `single_port`, `vf` at line 1");
        for (found, key) in [
            ("islag", Some("is_lag")),
            ("IS_LAG", Some("is_lag")),
            ("is_lga", Some("is_lag")),
            ("single-port", Some("single_port")),
            ("vfs", Some("vf")),
            ("", None),
            ("something", None),
            ("a`, expected `vf", None),
            (&"is_lag".repeat(20), None),
        ] {
            assert_eq!(nearest(&words(found)).as_deref(), key, "{found}");
        }
        assert_eq!(nearest("unknown field `vg`, expected `vf`").as_deref(), Some("vf"));
        assert_eq!(nearest("unknown field `vf`, there are no fields"), None);
        assert_eq!(nearest("invalid type: null, expected `vf`"), None);
    }
}
