//! Where a figure was measured: without it no figure means anything.

use std::fs;
use std::path::Path;

use serde::Serialize;
use virtnet_engine::topology::Topology;

/// Clocks that can be read without a system call.
const CLOCKS: [&str; 4] = ["tsc", "arch_sys_counter", "kvm-clock", "hyperv_clocksource_tsc_page"];
/// More than one a CPU want to run: somebody waits. A half is what a busy machine has left of the minute before.
const LOAD_MARGIN: f64 = 0.5;

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
    /// NUMA nodes.
    pub numa_nodes: Option<usize>,
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
    /// What makes figures taken here unreliable, a sentence each.
    pub warnings: Vec<String>,
}

impl Environment {
    /// Looks around: the device's side runs on `workers`, as far as known, the driver's on `drivers`.
    pub fn look(workers: &[usize], drivers: &[usize]) -> Self {
        Self::under(Path::new("/"), workers, drivers)
    }

    /// The same of a machine whose /proc and /sys are under `root`.
    fn under(root: &Path, workers: &[usize], drivers: &[usize]) -> Self {
        let machine = Machine { root };
        let cpuinfo = machine.text("proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            let line = cpuinfo.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name))?;
            line.split_once(':').map(|(_, value)| value.trim().to_owned())
        };
        let uname = rustix::system::uname();
        let mut environment = Environment {
            cpu_model: field("model name").or_else(|| field("Model")).unwrap_or_else(|| "unknown CPU".to_owned()),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: format!("{} {}", uname.sysname().to_string_lossy(), uname.release().to_string_lossy()),
            architecture: std::env::consts::ARCH,
            hypervisor: field("flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
            governor: machine.governor(0),
            isolated_cpus: machine.text("sys/devices/system/cpu/isolated").filter(|cpus| !cpus.is_empty()),
            numa_nodes: machine.text("sys/devices/system/node/online").map(|nodes| numbers(&nodes).len()),
            hugepages_free: machine.number("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages"),
            hugepages_total: machine.number("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"),
            transparent_hugepages: machine.chosen("sys/kernel/mm/transparent_hugepage/enabled"),
            transparent_hugepages_shmem: machine.chosen("sys/kernel/mm/transparent_hugepage/shmem_enabled"),
            build_profile: if cfg!(debug_assertions) { "debug build" } else { "release build" },
            version: env!("CARGO_PKG_VERSION"),
            commit: option_env!("VIRTNET_COMMIT"),
            warnings: Vec::new(),
        };
        environment.warnings = environment.doubts(&machine, workers, drivers);
        environment
    }

    fn doubts(&self, machine: &Machine<'_>, workers: &[usize], drivers: &[usize]) -> Vec<String> {
        let mut doubts = Vec::new();
        let mut used = [workers, drivers].concat();
        used.sort_unstable();
        used.dedup();
        if cfg!(debug_assertions) {
            doubts.push("a debug build was measured".to_owned());
        }
        if self.hypervisor {
            doubts
                .push("a virtual machine: its CPUs wander between physical ones, which others may use, too".to_owned());
        }
        let governors: Vec<_> = used.iter().filter_map(|&lcore| Some((lcore, machine.governor(lcore)?))).collect();
        if let Some((lcore, governor)) = governors.iter().find(|(_, governor)| governor != "performance") {
            doubts.push(format!("the frequency governor of lcore {lcore} is {governor}, not performance"));
        }
        if machine.has_turbo() {
            doubts.push("turbo is on: the clock rate depends on temperature and neighbours".to_owned());
        }
        let isolated = self.isolated_cpus.as_deref().map_or(Vec::new(), numbers);
        let exposed: Vec<_> = used.iter().filter(|lcore| !isolated.contains(lcore)).map(usize::to_string).collect();
        if !exposed.is_empty() {
            doubts.push(format!("not isolated, the scheduler may put others there: lcore {}", exposed.join(",")));
        }
        let shmem = self.transparent_hugepages_shmem.as_deref();
        if self.hugepages_free.unwrap_or(0) == 0 && matches!(shmem, None | Some("never" | "deny")) {
            doubts.push(
                "no 2 MiB huge page is free, and shared memory gets no transparent ones: guests are in 4 KiB pages"
                    .to_owned(),
            );
        }
        let topology = Topology::read(&machine.root.join("sys/devices/system/node"));
        for (&worker, &driver) in workers.iter().flat_map(|worker| drivers.iter().map(move |driver| (worker, driver))) {
            if worker != driver && machine.siblings(worker).contains(&driver) {
                doubts.push(format!(
                    "lcore {worker} of the device and lcore {driver} of the guest are threads of one core"
                ));
            }
            if topology.node_of(worker) != topology.node_of(driver) {
                doubts.push(format!(
                    "lcore {worker} of the device and lcore {driver} of the guest are on different NUMA nodes"
                ));
            }
        }
        // Without the number: runs one after another say the same.
        if machine.load_average().is_some_and(|load| load > self.cpus as f64 + LOAD_MARGIN) {
            doubts.push(format!("others want to run: the load average is above the {} CPUs there are", self.cpus));
        }
        if let Some(clock) = machine.text("sys/devices/system/clocksource/clocksource0/current_clocksource")
            && !CLOCKS.contains(&clock.as_str())
        {
            doubts.push(format!("the clock is {clock}, which takes a system call to read"));
        }
        doubts
    }
}

/// What the kernel shows of a machine.
struct Machine<'a> {
    /// Where its /proc and /sys are.
    root: &'a Path,
}

impl Machine<'_> {
    fn text(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.root.join(path)).ok().map(|text| text.trim().to_owned())
    }

    fn number(&self, path: &str) -> Option<u64> {
        self.text(path)?.parse().ok()
    }

    /// The choice in brackets, as in `always [madvise] never`.
    fn chosen(&self, path: &str) -> Option<String> {
        let text = self.text(path)?;
        let (_, after) = text.split_once('[')?;
        after.split_once(']').map(|(choice, _)| choice.to_owned())
    }

    fn governor(&self, lcore: usize) -> Option<String> {
        self.text(&format!("sys/devices/system/cpu/cpu{lcore}/cpufreq/scaling_governor"))
    }

    /// As far as the kernel tells.
    fn has_turbo(&self) -> bool {
        self.number("sys/devices/system/cpu/intel_pstate/no_turbo") == Some(0)
            || self.number("sys/devices/system/cpu/cpufreq/boost") == Some(1)
    }

    /// The hardware threads of an lcore's core.
    fn siblings(&self, lcore: usize) -> Vec<usize> {
        self.text(&format!("sys/devices/system/cpu/cpu{lcore}/topology/thread_siblings_list"))
            .map_or(Vec::new(), |list| numbers(&list))
    }

    /// How many wanted to run, on the average of the last minute.
    fn load_average(&self) -> Option<f64> {
        self.text("proc/loadavg")?.split(' ').next()?.parse().ok()
    }
}

/// The numbers of a list such as `0-3,8`.
fn numbers(list: &str) -> Vec<usize> {
    let range = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
    };
    list.split(',').filter_map(range).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine made of files.
    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    /// Warnings, without those of the build that is tested.
    fn warnings(files: &[(&str, &str)], workers: &[usize], drivers: &[usize]) -> Vec<String> {
        let mut warnings = Environment::under(machine(files).path(), workers, drivers).warnings;
        warnings.retain(|warning| !warning.contains("debug build"));
        warnings
    }

    const CPU: &str = "sys/devices/system/cpu";
    const QUIET: [(&str, &str); 8] = [
        ("proc/cpuinfo", "processor : 0\nmodel name\t: Fast CPU\nflags\t\t: fpu sse avx\n"),
        ("proc/loadavg", "0.31 0.20 0.10 1/137 29334\n"),
        ("sys/devices/system/cpu/isolated", "1-3\n"),
        ("sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "performance\n"),
        ("sys/devices/system/cpu/intel_pstate/no_turbo", "1\n"),
        ("sys/devices/system/node/online", "0-1\n"),
        ("sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc\n"),
        ("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "64\n"),
    ];

    #[test]
    fn the_machine_says_something_about_itself() {
        let environment = Environment::look(&[0], &[0]);
        assert!(environment.cpus >= 1);
        assert!(environment.kernel.starts_with("Linux "), "{}", environment.kernel);
    }

    #[test]
    fn a_quiet_machine_has_no_warnings() {
        let folder = machine(&QUIET);
        let environment = Environment::under(folder.path(), &[1], &[2, 3]);
        assert_eq!((environment.cpu_model.as_str(), environment.numa_nodes), ("Fast CPU", Some(2)));
        assert_eq!((environment.hugepages_free, environment.hypervisor), (Some(64), false));
        assert_eq!(warnings(&QUIET, &[1], &[2, 3]), [""; 0]);
    }

    #[test]
    fn each_thing_that_disturbs_is_named() {
        let no_pages = "sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";
        for (path, text, said) in [
            ("proc/cpuinfo", "flags : fpu hypervisor\n", "virtual machine"),
            ("proc/loadavg", "4096.5 2.0 1.0 9/137 1\n", "load average is above"),
            (&format!("{CPU}/isolated"), "2-3\n", "lcore 1"),
            (&format!("{CPU}/isolated"), "\n", "lcore 1,2,3"),
            (&format!("{CPU}/cpu2/cpufreq/scaling_governor"), "powersave\n", "lcore 2 is powersave"),
            (&format!("{CPU}/intel_pstate/no_turbo"), "0\n", "turbo"),
            (&format!("{CPU}/cpufreq/boost"), "1\n", "turbo"),
            (&format!("{CPU}/cpu1/topology/thread_siblings_list"), "1,3\n", "lcore 1 of the device and lcore 3"),
            ("sys/devices/system/node/node1/cpulist", "2\n", "lcore 2 of the guest are on different NUMA nodes"),
            ("sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet\n", "hpet"),
            (no_pages, "0\n", "4 KiB pages"),
        ] {
            let mut files = QUIET.to_vec();
            files.retain(|(other, _)| *other != path);
            files.push((path, text));
            let warnings = warnings(&files, &[1], &[2, 3]);
            assert!(warnings.len() == 1 && warnings[0].contains(said), "{path}: {warnings:?}");
        }
        let mut transparent = QUIET.to_vec();
        transparent.retain(|(path, _)| *path != no_pages);
        transparent
            .push(("sys/kernel/mm/transparent_hugepage/shmem_enabled", "always within_size [advise] never deny\n"));
        assert_eq!(warnings(&transparent, &[1], &[2, 3]), [""; 0]);
    }

    #[test]
    fn where_the_system_says_nothing_nothing_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let environment = Environment::under(folder.path(), &[], &[]);
        assert_eq!((environment.governor, environment.numa_nodes, environment.hugepages_total), (None, None, None));
        assert_eq!(environment.cpu_model, "unknown CPU");
    }

    #[test]
    fn the_bracketed_choice_is_taken() {
        let folder = machine(&[("good", "always [madvise] never\n"), ("bad", "nothing\n")]);
        let machine = Machine { root: folder.path() };
        assert_eq!(machine.chosen("good"), Some("madvise".to_owned()));
        assert_eq!(machine.chosen("bad"), None);
    }
}
