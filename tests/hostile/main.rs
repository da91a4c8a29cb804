//! What a hostile or broken guest can do, and what it cannot: each test is a promise.
//!
//! Workers are turned by hand on one thread; what needs real threads and signals has an engine of its own.

mod asleep;
mod headers;
mod iommu;
mod leaving;
mod memory;
mod mischief;
mod reset;
mod switch;
