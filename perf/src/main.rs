//! virtnet-perf
fn main() {}
