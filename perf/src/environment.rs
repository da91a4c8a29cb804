//! Where a figure was measured: without it no figure means anything.

use std::fs;

use serde::Serialize;

/// What the machine, the kernel and the build say about themselves. `null` where they do not.
#[derive(Clone, Debug, Serialize)]
pub struct Environment {
    /// The processor's name.
    pub cpu_model: String,
    /// CPUs that this process may use.
    pub cpus: usize,
    /// Kernel name and release.
    pub kernel: String,
    /// Machine architecture.
    pub architecture: &'static str,
    /// Whether the CPU says that it is virtual.
    pub hypervisor: bool,
    /// Frequency governor of the first CPU.
    pub governor: Option<String>,
    /// CPUs isolated from the scheduler, as the kernel lists them.
    pub isolated_cpus: Option<String>,
    /// 2 MiB huge pages: free and all.
    pub hugepages_free: Option<u64>,
    /// 2 MiB huge pages in all.
    pub hugepages_total: Option<u64>,
    /// Transparent huge pages: `always`, `madvise` or `never`.
    pub transparent_hugepages: Option<String>,
    /// Transparent huge pages for shared memory, which guest memory is.
    pub transparent_hugepages_shmem: Option<String>,
    /// Whether a build for debugging was measured.
    pub build_profile: &'static str,
    /// Version of this program.
    pub version: &'static str,
    /// Commit it was built from, if known.
    pub commit: Option<&'static str>,
}

impl Environment {
    /// Looks around.
    pub fn look() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            let line = cpuinfo.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name))?;
            line.split_once(':').map(|(_, value)| value.trim().to_owned())
        };
        let uname = rustix::system::uname();
        Environment {
            cpu_model: field("model name").or_else(|| field("Model")).unwrap_or_else(|| "unknown CPU".to_owned()),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: format!("{} {}", uname.sysname().to_string_lossy(), uname.release().to_string_lossy()),
            architecture: std::env::consts::ARCH,
            hypervisor: field("flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
            governor: line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            isolated_cpus: line("/sys/devices/system/cpu/isolated").filter(|cpus| !cpus.is_empty()),
            hugepages_free: number("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages"),
            hugepages_total: number("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"),
            transparent_hugepages: chosen("/sys/kernel/mm/transparent_hugepage/enabled"),
            transparent_hugepages_shmem: chosen("/sys/kernel/mm/transparent_hugepage/shmem_enabled"),
            build_profile: if cfg!(debug_assertions) { "debug build" } else { "release build" },
            version: env!("CARGO_PKG_VERSION"),
            commit: option_env!("VIRTNET_COMMIT"),
        }
    }
}

fn line(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn number(path: &str) -> Option<u64> {
    line(path)?.parse().ok()
}

/// The choice in brackets, as in `always [madvise] never`.
fn chosen(path: &str) -> Option<String> {
    let text = line(path)?;
    let (_, after) = text.split_once('[')?;
    after.split_once(']').map(|(choice, _)| choice.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_says_something_about_itself() {
        let environment = Environment::look();
        assert!(environment.cpus >= 1);
        assert!(environment.kernel.starts_with("Linux "), "{}", environment.kernel);
    }

    #[test]
    fn the_bracketed_choice_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("enabled");
        fs::write(&path, "always [madvise] never\n").unwrap();
        assert_eq!(chosen(path.to_str().unwrap()), Some("madvise".to_owned()));
        fs::write(&path, "nothing\n").unwrap();
        assert_eq!(chosen(path.to_str().unwrap()), None);
    }
}
