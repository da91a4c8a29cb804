//! What was not tested is said aloud.

use std::fs::OpenOptions;
use std::io::Write;

/// Says that something was not tested, also in the file `VIRTNET_SKIPPED` where test runners hide output.
pub fn skip(what: &str) {
    eprintln!("SKIPPED: {what}");
    if let Some(path) = std::env::var_os("VIRTNET_SKIPPED") {
        let mut file = OpenOptions::new().create(true).append(true).open(path).expect("VIRTNET_SKIPPED can be written");
        writeln!(file, "{what}").expect("VIRTNET_SKIPPED can be written");
    }
}
