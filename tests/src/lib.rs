//! What the tests of this crate share: guests whose every frame can be told apart, and a house of workers that are turned
//! by hand, on one thread and on a clock of the test's own.

pub mod aloud;
pub mod draw;
pub mod frames;
pub mod fuzz;
pub mod guest;
pub mod house;
pub mod namespace;
pub mod programs;

pub use guest::Guest;
pub use house::{Device, House};
