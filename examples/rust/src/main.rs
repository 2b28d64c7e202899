//! Sample service.
fn main() {}
