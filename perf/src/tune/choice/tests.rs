//! Choices among ranges that were never measured.

use super::super::standing::Standing;
use super::super::trial::Round;
use super::*;
use crate::bed::Seat;
use crate::report::WorkerLoad;

/// A trial on these lcores with such rates, its workers fully busy.
fn trial(lcores: &[usize], rates: &[f64]) -> Trial {
    let mut trial = Trial::new(lcores.to_vec(), Standing::default());
    trial.rounds = (0..).zip(rates).map(|(round, &mpps)| self::round(round, mpps)).collect();
    trial
}

fn round(round: u32, mpps: f64) -> Round {
    Round {
        round,
        second: false,
        mpps,
        offered_mpps: None,
        p99_ns: None,
        lost: 0,
        workers: vec![WorkerLoad { lcore: Some(0), busy: 1.0, ns_per_frame: Some(10.0), queue_pairs: 1 }],
        class: "near",
        waited: 0.0,
        devices_mpps: vec![mpps],
    }
}

/// The same at a rate of 1 Mpps that is kept, with such 99th percentiles in microseconds.
fn timed(lcores: &[usize], p99_us: &[u64]) -> Trial {
    let mut trial = trial(lcores, &vec![1.0; p99_us.len()]);
    for (round, us) in trial.rounds.iter_mut().zip(p99_us) {
        (round.p99_ns, round.offered_mpps) = (Some(us * 1000), Some(1.0));
    }
    trial
}

/// The same with frames lost in each round.
fn lossy(lcores: &[usize], mpps: f64, lost: &[u64]) -> Trial {
    let mut trial = trial(lcores, &vec![mpps; lost.len()]);
    trial.rounds.iter_mut().zip(lost).for_each(|(round, &lost)| round.lost = lost);
    trial
}

const MOST: Goal = Goal::MaxThroughput;
const SOON: Goal = Goal::P99 { ns: 5000 };
const FAST: Goal = Goal::Rate { pps: 4e6 };

fn said(choice: &Choice, text: &str) -> bool {
    choice.reasons.iter().any(|reason| reason.contains(text))
}

#[test]
fn a_second_worker_that_wins_is_taken_and_a_third_that_does_not_is_left() {
    let trials =
        [trial(&[0], &[6.0, 6.1, 5.9]), trial(&[0, 1], &[11.0, 11.2, 10.9]), trial(&[0, 1, 2], &[11.1, 11.3, 10.8])];
    let choice = choose(MOST, &trials);
    assert_eq!((choice.trial, choice.runner_up, choice.met), (Some(1), Some(2), true));
    assert!(said(&choice, "lcores 0-1 moved 11.000 Mpps, 10.900 to 11.200 in 3 rounds"), "{choice:?}");
    assert!(said(&choice, "lcore 0 moved 6.000 Mpps, 45.5 % less"), "{choice:?}");
    assert!(said(&choice, "fewer lcores are not enough") && said(&choice, "does not pay"), "{choice:?}");
}

#[test]
fn each_worker_that_wins_is_taken() {
    let trials = [trial(&[0], &[6.0, 6.0]), trial(&[0, 1], &[11.0, 11.0]), trial(&[0, 1, 2], &[15.0, 15.0])];
    let choice = choose(MOST, &trials);
    assert_eq!((choice.trial, choice.runner_up), (Some(2), Some(1)));
}

#[test]
fn a_gain_within_the_spread_is_none_however_large() {
    let uneven = [trial(&[0], &[4.0, 8.0, 6.0]), trial(&[0, 1], &[5.0, 9.0, 7.0])];
    assert_eq!(choose(MOST, &uneven).trial, Some(0));
    let even = [trial(&[0], &[6.0, 6.0, 6.0]), trial(&[0, 1], &[7.0, 7.0, 7.0])];
    assert_eq!(choose(MOST, &even).trial, Some(1));
    // However even the rounds were, half a percent is not worth an lcore.
    let close = [trial(&[0], &[6.0, 6.0, 6.0]), trial(&[0, 1], &[6.03, 6.03, 6.03])];
    assert_eq!(choose(MOST, &close).trial, Some(0));
}

#[test]
fn ties_go_to_the_better_placed_then_the_lower_number() {
    let mut remote = trial(&[2], &[6.0, 6.0]);
    remote.standing.remote = 1;
    let trials = [remote.clone(), trial(&[5], &[6.0, 6.0]), trial(&[4], &[6.0, 6.0])];
    let choice = choose(MOST, &trials);
    assert_eq!(choice.trial, Some(2));
    assert!(said(&choice, "as good as the same"), "{choice:?}");
    // A range on another node that is faster beyond doubt is taken all the same, and what is against it is said.
    remote.rounds.iter_mut().for_each(|round| round.mpps = 8.0);
    let choice = choose(MOST, &[remote, trial(&[5], &[6.0, 6.0])]);
    assert_eq!(choice.trial, Some(0));
    assert!(said(&choice, "another NUMA node") && said(&choice, "the worse of the two"), "{choice:?}");
}

#[test]
fn pairs_stay_where_the_engine_puts_them_unless_moving_wins() {
    let seat = Seat { device: 0, guest: 0, pair: 0, worker: 1 };
    let own = trial(&[0, 1], &[6.0, 6.1]);
    let moved = |rates: &[f64]| Trial { rounds: trial(&[0, 1], rates).rounds, ..own.moved(vec![seat]) };
    assert_eq!(choose(MOST, &[moved(&[6.05, 6.15]), own.clone()]).trial, Some(1));
    let choice = choose(MOST, &[own.clone(), moved(&[9.0, 9.1])]);
    assert_eq!((choice.trial, choice.runner_up), (Some(1), Some(0)));
    assert!(said(&choice, "with pairs moved"), "{choice:?}");
}

#[test]
fn lcores_that_are_no_neighbours_are_named_one_by_one() {
    let choice = choose(MOST, &[trial(&[2, 4, 8], &[6.0])]);
    assert!(said(&choice, "lcores 2,4,8 moved 6.000 Mpps"), "{choice:?}");
    assert_eq!((choice.trial, choice.runner_up), (Some(0), None));
}

#[test]
fn workers_that_wait_for_the_guests_are_told() {
    let mut idle = trial(&[0], &[6.0, 6.0]);
    idle.rounds.iter_mut().for_each(|round| round.workers[0].busy = 0.41);
    assert!(said(&choose(MOST, &[idle]), "busy for 41 % of the time: the guests' threads limit"));
    assert!(!said(&choose(MOST, &[trial(&[0], &[6.0])]), "limit the rate"));
    let mut disturbed = trial(&[0], &[6.0]);
    (disturbed.rounds[0].workers[0].busy, disturbed.rounds[0].waited) = (0.4, 0.3);
    let choice = choose(MOST, &[disturbed]);
    assert!(said(&choice, "something else had an lcore of ours for 30 %") && !said(&choice, "limit the rate"));
}

#[test]
fn the_fewest_workers_that_are_soon_enough() {
    let trials = [timed(&[0], &[9, 8, 9]), timed(&[0, 1], &[4, 6, 4]), timed(&[1, 2], &[4, 4, 4])];
    let choice = choose(SOON, &trials);
    // Both of two workers reach it; one missed it once.
    assert_eq!((choice.trial, choice.runner_up, choice.met), (Some(2), Some(1), true));
    assert!(said(&choice, "lcores 1-2 reached p99=5us in 3 of 3 rounds: p99 4.0 µs"), "{choice:?}");
    assert!(said(&choice, "missed the goal in more rounds"), "{choice:?}");
    assert!(said(&choice, "fewer are not enough: lcore 0 reached it in 0 of 3 rounds: p99 9.0 µs"), "{choice:?}");
}

#[test]
fn one_worker_that_does_needs_no_second() {
    let trials = [timed(&[0], &[4, 4, 4]), timed(&[0, 1], &[1, 1, 1])];
    let choice = choose(SOON, &trials);
    assert_eq!((choice.trial, choice.runner_up), (Some(0), None));
    assert!(said(&choice, "fewer than one worker"), "{choice:?}");
}

#[test]
fn half_of_the_rounds_are_not_enough() {
    assert!(choose(SOON, &[timed(&[0], &[4, 4, 9])]).met);
    assert!(!choose(SOON, &[timed(&[0], &[4, 9])]).met);
}

#[test]
fn soon_is_not_enough_if_frames_are_lost_or_the_rate_is_not_kept() {
    let mut lost = timed(&[0], &[4, 4, 4]);
    lost.rounds.iter_mut().for_each(|round| round.lost = 1);
    assert!(!choose(SOON, &[lost]).met);
    let mut slow = timed(&[0], &[4, 4, 4]);
    slow.rounds.iter_mut().for_each(|round| round.offered_mpps = Some(1.1));
    assert!(!choose(SOON, &[slow]).met);
    let mut blind = timed(&[0], &[4, 4, 4]);
    blind.rounds.iter_mut().for_each(|round| round.p99_ns = None);
    let choice = choose(SOON, &[blind]);
    assert!(!choice.met && said(&choice, "no latency to be had"), "{choice:?}");
}

#[test]
fn the_fewest_workers_that_keep_up_without_loss() {
    let trials = [lossy(&[0], 3.1, &[9, 9, 9]), lossy(&[0, 1], 4.0, &[0, 7, 0]), lossy(&[0, 1, 2], 4.0, &[0, 0, 0])];
    let choice = choose(FAST, &trials);
    assert_eq!((choice.trial, choice.runner_up), (Some(1), Some(0)));
    assert!(said(&choice, "reached rate=4M in 2 of 3 rounds: 4.000 Mpps, 7 frames lost in all"), "{choice:?}");
    assert!(said(&choice, "3.100 Mpps, 27 frames lost in all"), "{choice:?}");
    // What arrives just after the end was not lost.
    assert!(choose(FAST, &[lossy(&[0], 3.97, &[0, 0])]).met);
    assert!(!choose(FAST, &[lossy(&[0], 3.9, &[0, 0])]).met);
}

#[test]
fn a_goal_that_nobody_reaches_shows_who_came_closest() {
    let choice = choose(FAST, &[lossy(&[0], 2.0, &[5, 5]), lossy(&[0, 1], 3.5, &[5, 5])]);
    assert_eq!((choice.trial, choice.met, choice.runner_up), (Some(1), false, None));
    assert!(
        said(&choice, "no range reached rate=4M; the closest: lcores 0-1 reached it in 0 of 2 rounds: 3.500"),
        "{choice:?}"
    );
    let choice = choose(SOON, &[timed(&[0], &[80, 90]), timed(&[0, 1], &[7, 8]), timed(&[0, 1, 2], &[60, 70])]);
    assert_eq!((choice.trial, choice.met), (Some(1), false));
    // One that reached it now and then is closer than any that never did.
    let choice = choose(SOON, &[timed(&[0], &[4, 900]), timed(&[0, 1], &[6, 6])]);
    assert_eq!(choice.trial, Some(0));
}

#[test]
fn where_nothing_was_measured_there_is_no_choice() {
    for goal in [MOST, SOON, FAST] {
        for trials in [&[][..], &[trial(&[0], &[])]] {
            let choice = choose(goal, trials);
            assert_eq!((choice.trial, choice.met, choice.runner_up), (None, false, None));
        }
    }
}

#[test]
fn a_range_that_was_not_measured_is_not_chosen() {
    let trials = [trial(&[0], &[]), trial(&[1], &[3.0])];
    assert_eq!(choose(MOST, &trials).trial, Some(1));
    assert_eq!(choose(FAST, &trials).trial, Some(1));
}

#[test]
fn placed_better_comes_first_among_those_that_reach_the_goal() {
    let mut sibling = timed(&[0], &[4, 4]);
    sibling.standing.siblings_of_drivers = 1;
    let mut remote = timed(&[8], &[3, 3]);
    remote.standing.remote = 1;
    let choice = choose(SOON, &[remote.clone(), sibling.clone(), timed(&[3], &[4, 4])]);
    assert_eq!((choice.trial, choice.runner_up), (Some(2), Some(1)));
    assert_eq!(choose(SOON, &[remote, sibling]).trial, Some(1));
}

#[test]
fn standing_still_moves_nothing() {
    let choice = choose(MOST, &[trial(&[0], &[0.0, 0.0]), trial(&[0, 1], &[0.0, 0.0])]);
    assert_eq!(choice.trial, Some(0));
    assert!(choice.reasons.iter().all(|reason| !reason.contains("NaN") && !reason.contains("inf")), "{choice:?}");
}
