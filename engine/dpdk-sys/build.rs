//! Compiles the shim as DPDK's own pkg-config file says, and links what the shim calls. Drivers are loaded at run time.

#[cfg(not(feature = "dpdk"))]
fn main() {}

#[cfg(feature = "dpdk")]
fn main() {
    // The pkg-config crate drops `-include rte_config.h` and `-march`, without which the headers do not compile.
    let cflags = pkg_config(&["--cflags", "libdpdk"]);
    let folders = pkg_config(&["--libs-only-L", "libdpdk"]);
    let mut shim = cc::Build::new();
    shim.file("shim/shim.c").opt_level(3).flag_if_supported("-std=gnu11");
    for flag in cflags.split_whitespace() {
        shim.flag(flag);
    }
    // Some of what is asked for is still marked so in the oldest version served.
    shim.define("ALLOW_EXPERIMENTAL_API", None);
    shim.compile("dpdk_shim");
    for folder in folders.split_whitespace().filter_map(|flag| flag.strip_prefix("-L")) {
        println!("cargo::rustc-link-search=native={folder}");
    }
    for library in ["rte_ethdev", "rte_mbuf", "rte_mempool", "rte_ring", "rte_eal"] {
        println!("cargo::rustc-link-lib=dylib={library}");
    }
    println!("cargo::rerun-if-changed=shim");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=PKG_CONFIG_PATH");
}

#[cfg(feature = "dpdk")]
fn pkg_config(arguments: &[&str]) -> String {
    const HINT: &str = "the feature dpdk needs DPDK 22.11 or later and pkg-config (Debian: libdpdk-dev, pkg-config)";
    let output = std::process::Command::new("pkg-config").args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("pkg-config: {error}; {HINT}"));
    assert!(output.status.success(), "{}{HINT}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("pkg-config prints text")
}
