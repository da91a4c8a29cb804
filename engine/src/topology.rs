//! Which lcore is on which NUMA node.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Where Linux tells of nodes.
const NODES: &str = "/sys/devices/system/node";

/// The nodes of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    nodes: BTreeMap<usize, usize>,
}

impl Topology {
    /// Of this machine; where the system does not tell, no lcore has a node.
    pub fn of_this_machine() -> Self {
        Self::read(Path::new(NODES))
    }

    /// As a folder tells that has a file `cpulist` in a folder `node`*N* for each node.
    pub fn read(folder: &Path) -> Self {
        let mut nodes = BTreeMap::new();
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let node = name.to_str().and_then(|name| name.strip_prefix("node")).and_then(|node| node.parse().ok());
            let list = fs::read_to_string(entry.path().join("cpulist"));
            if let (Some(node), Ok(list)) = (node, list) {
                nodes.extend(lcores(&list).map(|lcore| (lcore, node)));
            }
        }
        Self { nodes }
    }

    /// The node of an lcore.
    pub fn node_of(&self, lcore: usize) -> Option<usize> {
        self.nodes.get(&lcore).copied()
    }
}

/// The lcores of a list such as `0-3,8`.
fn lcores(list: &str) -> impl Iterator<Item = usize> {
    list.trim()
        .split(',')
        .filter_map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            Some(first.parse().ok()?..=last.parse().ok()?)
        })
        .flatten()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_read_as_the_system_tells_them() {
        let folder = tempfile::tempdir().unwrap();
        for (node, list) in [("node0", "0-3,8-11\n"), ("node1", "4-7,12\n"), ("node2", "\n"), ("has_cpu", "0-1\n")] {
            fs::create_dir(folder.path().join(node)).unwrap();
            fs::write(folder.path().join(node).join("cpulist"), list).unwrap();
        }
        let topology = Topology::read(folder.path());
        assert_eq!(
            [0, 3, 4, 8, 11, 12, 13].map(|lcore| topology.node_of(lcore)),
            [Some(0), Some(0), Some(1), Some(0), Some(0), Some(1), None]
        );
        assert_eq!(Topology::read(&folder.path().join("nothing")), Topology::default());
    }
}
