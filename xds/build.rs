//! Build facts.
fn main() {}
