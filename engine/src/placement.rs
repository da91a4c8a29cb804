//! Who is served where: pure functions of loads and nodes.

use crate::engine::DeviceId;

/// What a pair costs more on a worker that is not on its guest's node.
const REMOTE: f64 = 1.3;
/// How much of an lcore the busiest worker must win by a move. Less is not worth it, and would be undone by the next noise.
const GAIN: f64 = 0.05;
/// A pair that takes less of an lcore than this stays where it is.
const BUSY_MIN: f64 = 0.01;

/// A worker that can be moved to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Its number.
    pub worker: u16,
    /// Its node, if that is known.
    pub node: Option<usize>,
}

/// What one pair costs where it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairLoad {
    /// Whose.
    pub device: DeviceId,
    /// Which one.
    pub pair: u16,
    /// Where it is served.
    pub worker: u16,
    /// How much of an lcore it takes, from 0 to 1.
    pub busy: f64,
    /// The node of its guest's memory, if that is known.
    pub node: Option<usize>,
}

/// One pair goes from one worker to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// Whose.
    pub device: DeviceId,
    /// Which one.
    pub pair: u16,
    /// Where it is.
    pub from: u16,
    /// Where it is to be.
    pub to: u16,
}

/// The worker for a pair of which nothing is known but its node: the one with the fewest pairs there, or on the first
/// worker's node, or anywhere.
pub fn first(rooms: &[(Room, usize)], node: Option<usize>) -> Option<u16> {
    let node = node.filter(|node| rooms.iter().any(|(room, _)| room.node == Some(*node)));
    let node = node.or(rooms.first()?.0.node);
    let near = rooms.iter().filter(|(room, _)| node.is_none() || room.node == node);
    near.min_by_key(|(_, pairs)| *pairs).map(|(room, _)| room.worker)
}

fn is_remote(pair: &PairLoad, room: &Room) -> bool {
    pair.node.is_some() && room.node.is_some() && pair.node != room.node
}

/// Loads of workers and the pairs on them, while moves are thought through.
struct Board<'a> {
    rooms: &'a [Room],
    pairs: &'a [PairLoad],
    /// By pair: what it would cost at home, and in which room it is; none if its worker is no room.
    costs: Vec<f64>,
    places: Vec<Option<usize>>,
}

impl<'a> Board<'a> {
    fn new(rooms: &'a [Room], pairs: &'a [PairLoad]) -> Self {
        let place = |pair: &PairLoad| rooms.iter().position(|room| room.worker == pair.worker);
        let places: Vec<_> = pairs.iter().map(place).collect();
        let cost = |(pair, place): (&PairLoad, &Option<usize>)| {
            let remote = place.is_some_and(|place| is_remote(pair, &rooms[place]));
            if remote { pair.busy / REMOTE } else { pair.busy }
        };
        let costs = pairs.iter().zip(&places).map(cost).collect();
        Board { rooms, pairs, costs, places }
    }

    fn cost(&self, pair: usize, room: usize) -> f64 {
        self.costs[pair] * if is_remote(&self.pairs[pair], &self.rooms[room]) { REMOTE } else { 1.0 }
    }

    fn loads(&self) -> Vec<f64> {
        let mut loads = vec![0.0; self.rooms.len()];
        for (pair, place) in self.places.iter().enumerate() {
            if let Some(room) = *place {
                loads[room] += self.cost(pair, room);
            }
        }
        loads
    }

    /// The move that relieves the busiest worker most, if one is worth it.
    fn relief(&self, loads: &[f64]) -> Option<(usize, usize)> {
        let busiest = (0..loads.len()).max_by(|&one, &other| loads[one].total_cmp(&loads[other]))?;
        let mut best = (loads[busiest] - GAIN, None);
        for pair in (0..self.pairs.len()).filter(|&pair| self.places[pair] == Some(busiest)) {
            if self.costs[pair] < BUSY_MIN {
                continue;
            }
            for room in (0..self.rooms.len()).filter(|&room| room != busiest) {
                let left = loads[busiest] - self.cost(pair, busiest);
                let highest = left.max(loads[room] + self.cost(pair, room));
                if highest < best.0 {
                    best = (highest, Some((pair, room)));
                }
            }
        }
        best.1
    }

    /// A pair that can go to its guest's node without making anybody there the busiest.
    fn homecoming(&self, loads: &[f64]) -> Option<(usize, usize)> {
        let highest = loads.iter().copied().fold(0.0, f64::max);
        (0..self.pairs.len()).find_map(|pair| {
            let here = self.places[pair]?;
            if self.costs[pair] < BUSY_MIN || !is_remote(&self.pairs[pair], &self.rooms[here]) {
                return None;
            }
            let near = (0..self.rooms.len()).filter(|&room| self.rooms[room].node == self.pairs[pair].node);
            let room = near.min_by(|&one, &other| loads[one].total_cmp(&loads[other]))?;
            (loads[room] + self.cost(pair, room) <= highest).then_some((pair, room))
        })
    }
}

/// Moves that even out the loads: the busiest worker is relieved as long as it wins [`GAIN`] by it, and pairs go home to
/// their guests' nodes where that makes nobody the busiest. A pair moves once at most.
pub fn plan(rooms: &[Room], pairs: &[PairLoad]) -> Vec<Move> {
    let mut board = Board::new(rooms, pairs);
    // Each step lowers the highest load or brings somebody home; the bound is for numbers that are none.
    for _ in 0..4 * pairs.len() {
        let loads = board.loads();
        let Some((pair, room)) = board.relief(&loads).or_else(|| board.homecoming(&loads)) else { break };
        board.places[pair] = Some(room);
    }
    let moved = pairs.iter().zip(&board.places).filter_map(|(pair, place)| {
        let to = rooms[(*place)?].worker;
        let PairLoad { device, pair, worker: from, .. } = *pair;
        (to != from).then_some(Move { device, pair, from, to })
    });
    moved.collect()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rooms(nodes: &[Option<usize>]) -> Vec<Room> {
        nodes.iter().enumerate().map(|(worker, &node)| Room { worker: worker as u16, node }).collect()
    }

    fn loads(pairs: &[(u16, f64, Option<usize>)]) -> Vec<PairLoad> {
        let load = |(at, &(worker, busy, node)): (usize, &(u16, f64, Option<usize>))| PairLoad {
            device: DeviceId::for_test(at as u32),
            pair: 0,
            worker,
            busy,
            node,
        };
        pairs.iter().enumerate().map(load).collect()
    }

    fn after(pairs: &[PairLoad], moves: &[Move]) -> Vec<PairLoad> {
        let mut pairs = pairs.to_vec();
        for step in moves {
            let pair = pairs.iter_mut().find(|pair| (pair.device, pair.pair) == (step.device, step.pair)).unwrap();
            assert_eq!(pair.worker, step.from);
            pair.worker = step.to;
        }
        pairs
    }

    fn highest(rooms: &[Room], pairs: &[PairLoad]) -> f64 {
        Board::new(rooms, pairs).loads().into_iter().fold(0.0, f64::max)
    }

    #[test]
    fn a_new_worker_gets_its_half() {
        let rooms = rooms(&[None, None]);
        let pairs = loads(&[(0, 0.25, None), (0, 0.25, None), (0, 0.25, None), (0, 0.25, None), (0, 0.0, None)]);
        let moves = plan(&rooms, &pairs);
        assert_eq!(moves.len(), 2);
        assert!((highest(&rooms, &after(&pairs, &moves)) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn what_is_nearly_even_stays_and_so_does_a_pair_that_fills_a_worker_alone() {
        assert_eq!(plan(&rooms(&[None; 2]), &loads(&[(0, 0.3, None), (0, 0.04, None), (1, 0.3, None)])), []);
        assert_eq!(plan(&rooms(&[None; 2]), &loads(&[(0, 1.0, None), (1, 0.0, None)])), []);
    }

    #[test]
    fn a_pair_goes_home_if_there_is_room_and_stays_away_if_not() {
        let rooms = rooms(&[Some(0), Some(1)]);
        let moves = plan(&rooms, &loads(&[(0, 0.5, Some(0)), (0, 0.26, Some(1)), (1, 0.1, Some(1))]));
        assert_eq!(moves.iter().map(|step| (step.from, step.to)).collect::<Vec<_>>(), [(0, 1)]);
        let full = loads(&[(0, 0.5, Some(1)), (1, 0.5, Some(1)), (1, 0.4, Some(1))]);
        assert_eq!(plan(&rooms, &full), []);
    }

    #[test]
    fn who_is_unknown_goes_to_the_fewest_pairs_on_its_node_or_the_first_workers() {
        let rooms = rooms(&[Some(0), Some(0), Some(1), Some(1)]);
        let counted: Vec<_> = rooms.iter().copied().zip([4, 3, 2, 1]).collect();
        assert_eq!(first(&counted, None), Some(1));
        assert_eq!(first(&counted, Some(1)), Some(3));
        assert_eq!(first(&counted, Some(7)), Some(1), "nobody is on that node");
        assert_eq!(first(&[], Some(1)), None);
        let unknown: Vec<_> = rooms.iter().map(|room| Room { node: None, ..*room }).zip([4, 3, 2, 1]).collect();
        assert_eq!(first(&unknown, Some(1)), Some(3));
    }

    fn machine() -> impl Strategy<Value = (Vec<Room>, Vec<PairLoad>)> {
        let node = prop::option::of(0..3_usize);
        (1..6_usize, prop::bool::ANY).prop_flat_map(move |(count, known)| {
            let nodes = prop::collection::vec(0..3_usize, count);
            let pair = (0..count as u16, 0.0..1.0_f64, node.clone());
            (nodes, prop::collection::vec(pair, 0..24)).prop_map(move |(nodes, pairs)| {
                let nodes: Vec<_> = nodes.into_iter().map(|node| known.then_some(node)).collect();
                (rooms(&nodes), loads(&pairs))
            })
        })
    }

    proptest! {
        #[test]
        fn a_plan_makes_nobody_busier_than_the_busiest_was_and_leaves_nothing_to_plan((rooms, pairs) in machine()) {
            let moved = after(&pairs, &plan(&rooms, &pairs));
            // As the pairs would be measured at their new places.
            let board = Board::new(&rooms, &pairs);
            let measured: Vec<_> = moved.iter().enumerate().map(|(at, pair)| {
                let room = rooms.iter().position(|room| room.worker == pair.worker).unwrap();
                PairLoad { busy: board.cost(at, room), ..*pair }
            }).collect();
            prop_assert!(highest(&rooms, &measured) <= highest(&rooms, &pairs) + 1e-9);
            prop_assert_eq!(plan(&rooms, &measured), vec![]);
        }
    }
}
