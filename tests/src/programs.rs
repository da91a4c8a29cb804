//! The programs under test.

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
