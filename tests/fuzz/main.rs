//! Every fuzz target with a few hundred random inputs; `VIRTNET_FUZZ_INPUTS` for more. A failure prints the input.

use std::panic::{AssertUnwindSafe, catch_unwind};

use virtnet_tests::draw::Draw;
use virtnet_tests::fuzz;

const INPUTS: u64 = 800;

fn run(target: fn(&[u8])) {
    let inputs =
        std::env::var("VIRTNET_FUZZ_INPUTS").map_or(INPUTS, |inputs| inputs.parse().expect("a number of inputs"));
    for seed in 0..inputs {
        let mut draw = Draw::new(seed);
        // Small numbers are what rings are made of.
        let small = draw.below(4);
        let len_bytes = 1 + draw.below(2000);
        let byte = |draw: &mut Draw| {
            let end = if draw.below(4) < small { 16 } else { 256 };
            draw.below(end) as u8
        };
        let input: Vec<u8> = (0..len_bytes).map(|_| byte(&mut draw)).collect();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(&input))) {
            eprintln!("the input was {input:02x?}");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn no_ring_content_makes_the_device_leave_guest_memory_or_lose_a_chain() {
    run(fuzz::chain_walk);
}

#[test]
fn no_command_of_a_driver_is_left_without_an_answer() {
    run(fuzz::control_queue);
}

#[test]
fn no_command_about_vfs_is_left_without_an_answer_or_does_half_of_what_it_says() {
    run(fuzz::admin_queue);
}

#[test]
fn no_register_breaks_a_function_or_its_device() {
    run(fuzz::function);
}

#[test]
fn no_message_of_a_front_end_breaks_a_session_or_a_device() {
    run(fuzz::vhost_user_message);
}

#[test]
fn no_message_of_a_client_and_no_register_breaks_a_function_or_its_device() {
    run(fuzz::vfio_user_message);
}
