//! virtio-net-controller
fn main() {}
