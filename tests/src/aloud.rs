//! What was not tested is said aloud.

use std::fs::OpenOptions;
use std::io::Write;

/// Says that this test is skipped, or some of it, also in the file `VIRTNET_SKIPPED` where test runners hide output.
pub fn skip(reason: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    eprintln!("SKIPPED: {test}: {reason}");
    if let Some(path) = std::env::var_os("VIRTNET_SKIPPED") {
        let mut file = OpenOptions::new().create(true).append(true).open(path).expect("VIRTNET_SKIPPED can be written");
        writeln!(file, "{test}: {reason}").expect("VIRTNET_SKIPPED can be written");
    }
}
