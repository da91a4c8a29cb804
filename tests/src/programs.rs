//! The programs under test, and how a test says that it cannot run.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

/// Where cargo puts programs, from where this test runs: `TARGET/PROFILE/deps/TEST-HASH`.
pub fn profile_folder() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows where it is");
    test.ancestors().nth(2).expect("cargo puts tests into PROFILE/deps").to_owned()
}

/// The daemon: `VIRTNET_CONTROLLER`, or the one built with this test.
pub fn controller() -> PathBuf {
    program("VIRTNET_CONTROLLER", "virtio-net-controller", "virtnet-control")
}

/// Its command line: `VIRTNET_CLI`, or the one built with this test.
pub fn virtnet() -> PathBuf {
    program("VIRTNET_CLI", "virtnet", "virtnet-cli")
}

fn program(variable: &str, name: &str, package: &str) -> PathBuf {
    let path = std::env::var_os(variable).map_or_else(|| profile_folder().join(name), PathBuf::from);
    assert!(path.exists(), "{} is not built: cargo build -p {package}", path.display());
    path
}

/// Says that this test is skipped, also in the file `VIRTNET_SKIPPED` where test runners hide output.
pub fn skip(reason: &str) {
    assert!(std::env::var_os("VIRTNET_REQUIRE_LAB").is_none_or(|v| v != "1"), "VIRTNET_REQUIRE_LAB=1, but {reason}");
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    eprintln!("SKIPPED: {test}: {reason}");
    if let Some(path) = std::env::var_os("VIRTNET_SKIPPED") {
        let mut file = OpenOptions::new().create(true).append(true).open(path).expect("VIRTNET_SKIPPED can be written");
        writeln!(file, "{test}: {reason}").expect("VIRTNET_SKIPPED can be written");
    }
}
