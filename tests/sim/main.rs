//! The whole datapath on one thread, from one seed: guests, honest and not, workers turned in a drawn order, and the commands of
//! control at any moment. What must hold holds at the end of every run:
//!
//! * every chain that was taken was returned once, and no loan is lost: queues leave with nothing out;
//! * honest frames arrived whole, once, and in order for each sender and receiver, and all of them where nothing was taken away;
//! * counters add up to what the guests saw.
//!
//! A run that fails prints its seed; `VIRTNET_SIM_SEED` runs one seed, `VIRTNET_SIM_SEEDS` so many.

mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use world::World;

const SEEDS: u64 = 300;
const STEPS: u32 = 1500;

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {value:?}")))
}

fn run(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.step();
    }
    world.finish();
}

#[test]
fn whatever_happens_in_whatever_order_nothing_is_lost_that_was_not_given_up() {
    let seeds = match number("VIRTNET_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("VIRTNET_SIM_SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(seed))) {
            eprintln!("VIRTNET_SIM_SEED={seed} shows this again");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn the_same_seed_makes_the_same_run() {
    let trace = |seed| {
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            world.step();
        }
        world.finish()
    };
    assert_eq!(trace(7), trace(7));
    assert_ne!(trace(7), trace(8));
}
