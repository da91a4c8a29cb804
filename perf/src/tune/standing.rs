//! How well a range of lcores is placed, before anything is measured: hardware threads, NUMA nodes, neighbours.

use virtnet_engine::topology::Topology;

use crate::args::Lcores;

/// What speaks against a range, the gravest first; less is better.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Standing {
    /// Lcores that a guest's thread has, too.
    pub shared: usize,
    /// NUMA nodes beyond the first.
    pub nodes_more: usize,
    /// Lcores on another node than the guests' first thread.
    pub remote: usize,
    /// Lcores that are hardware threads of a core that a guest's thread is on.
    pub siblings_of_drivers: usize,
    /// Lcores that are hardware threads of a core that an earlier one of the range is on.
    pub siblings_within: usize,
    /// Numbers left out between the first and the last lcore.
    pub gaps: usize,
}

/// The hardware threads of an lcore's core, itself among them; none where the kernel does not say.
fn siblings_of(lcore: usize) -> Vec<usize> {
    let path = format!("/sys/devices/system/cpu/cpu{lcore}/topology/thread_siblings_list");
    let list = std::fs::read_to_string(path).ok().and_then(|list| list.trim().parse().ok());
    list.map_or(Vec::new(), |Lcores(lcores)| lcores)
}

/// What the system tells of lcores.
#[derive(Debug)]
pub struct Machine {
    nodes: Topology,
    /// The hardware threads of an lcore's core.
    siblings: fn(usize) -> Vec<usize>,
}

impl Machine {
    /// This one.
    pub fn this() -> Self {
        Machine { nodes: Topology::of_this_machine(), siblings: siblings_of }
    }

    /// How well workers on `range` are placed for guests on `drivers`.
    pub fn standing(&self, range: &[usize], drivers: &[usize]) -> Standing {
        let node = |lcore: usize| self.nodes.node_of(lcore);
        let mut nodes: Vec<_> = range.iter().filter_map(|&lcore| node(lcore)).collect();
        nodes.sort_unstable();
        nodes.dedup();
        let home = drivers.first().and_then(|&driver| node(driver));
        let is_remote = |lcore: &&usize| home.is_some() && node(**lcore).is_some() && node(**lcore) != home;
        let are_siblings = |one: usize, other: usize| one != other && (self.siblings)(one).contains(&other);
        let of_driver = |lcore: &&usize| drivers.iter().any(|&driver| are_siblings(**lcore, driver));
        let within = |&(at, &lcore): &(usize, &usize)| range[..at].iter().any(|&other| are_siblings(lcore, other));
        let span = match range {
            [first, .., last] => last - first + 1,
            _ => range.len(),
        };
        Standing {
            shared: range.iter().filter(|lcore| drivers.contains(lcore)).count(),
            nodes_more: nodes.len().saturating_sub(1),
            remote: range.iter().filter(is_remote).count(),
            siblings_of_drivers: range.iter().filter(of_driver).count(),
            siblings_within: range.iter().enumerate().filter(within).count(),
            gaps: span - range.len(),
        }
    }

    /// Ranges of neighbours in a list, by width: of each width up to `each`, the best placed first.
    pub fn ranges(&self, lcores: &[usize], drivers: &[usize], each: usize) -> Vec<Vec<(Vec<usize>, Standing)>> {
        let of_width = |width: usize| {
            let ranges = lcores.windows(width).map(|range| (range.to_vec(), self.standing(range, drivers)));
            let mut ranges: Vec<_> = ranges.collect();
            ranges.sort_by_key(|&(_, standing)| standing);
            ranges.truncate(each);
            ranges
        };
        (1..=lcores.len()).map(of_width).collect()
    }
}

impl Standing {
    /// What there is to say against it.
    pub fn doubts(&self) -> Vec<String> {
        let say = |count: usize, what: &str| (count > 0).then(|| format!("{count} of its lcores {what}"));
        [
            say(self.shared, "shared with a guest"),
            (self.nodes_more > 0).then(|| format!("it is on {} NUMA nodes", self.nodes_more + 1)),
            say(self.remote, "on another NUMA node than the guests"),
            say(self.siblings_of_drivers, "a hardware thread of a guest's core"),
            say(self.siblings_within, "a hardware thread of another worker's core"),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Two nodes of four cores with two threads each: 0-3 and 8-11 on node 0, 4-7 and 12-15 on node 1.
    fn large() -> Machine {
        let folder = tempfile::tempdir().unwrap();
        for (node, list) in [("node0", "0-3,8-11\n"), ("node1", "4-7,12-15\n")] {
            fs::create_dir(folder.path().join(node)).unwrap();
            fs::write(folder.path().join(node).join("cpulist"), list).unwrap();
        }
        let siblings = |lcore: usize| vec![lcore % 8, lcore % 8 + 8];
        Machine { nodes: Topology::read(folder.path()), siblings }
    }

    #[test]
    fn each_thing_against_a_range_is_counted() {
        let machine = large();
        let standing = |range: &[usize]| machine.standing(range, &[11]);
        assert_eq!(standing(&[0, 1, 2]), Standing::default());
        assert_eq!(standing(&[0, 2]), Standing { gaps: 1, ..Standing::default() });
        assert_eq!(standing(&[3]), Standing { siblings_of_drivers: 1, ..Standing::default() });
        assert_eq!(standing(&[4, 5]), Standing { remote: 2, ..Standing::default() });
        let both = Standing { nodes_more: 1, remote: 1, siblings_of_drivers: 1, ..Standing::default() };
        assert_eq!(standing(&[3, 4]), both);
        assert_eq!(standing(&[1, 9]), Standing { siblings_within: 1, gaps: 7, ..Standing::default() });
        assert_eq!(standing(&[11]), Standing { shared: 1, ..Standing::default() });
        assert_eq!(standing(&[4, 5]).doubts(), ["2 of its lcores on another NUMA node than the guests"]);
    }

    #[test]
    fn of_each_width_the_best_placed_ranges_come_first() {
        let machine = large();
        let lcores: Vec<usize> = (0..=15).collect();
        let ranges = machine.ranges(&lcores, &[11], 2);
        let first = |width: usize| ranges[width - 1].iter().map(|(range, _)| range.clone()).collect::<Vec<_>>();
        assert_eq!(ranges.len(), 16);
        assert_eq!(first(1), [[0], [1]]);
        assert_eq!(first(3), [[0, 1, 2], [8, 9, 10]]);
        assert_eq!(first(4)[0], [0, 1, 2, 3], "a hardware thread of the guest's core is better than its lcore");
        assert_eq!(ranges[15].len(), 1);
    }

    #[test]
    fn a_machine_that_tells_nothing_has_no_preferences_but_neighbours() {
        let machine = Machine { nodes: Topology::default(), siblings: |_| Vec::new() };
        let ranges = machine.ranges(&[2, 4, 5, 9], &[0], 64);
        let of_two: Vec<_> = ranges[1].iter().map(|(range, _)| range.clone()).collect();
        assert_eq!(of_two, [[4, 5], [2, 4], [5, 9]]);
        assert!(ranges[1][1].1.doubts().is_empty());
        assert!(machine.ranges(&[], &[0], 2).is_empty());
    }
}
