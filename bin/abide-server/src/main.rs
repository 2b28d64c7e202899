//! One node of an Abide cluster.
fn main() {}
