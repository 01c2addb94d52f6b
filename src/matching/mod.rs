//! Tests of requests and connections that routes and filters share, compiled.

pub mod headers;
pub mod text;
pub mod tree;
pub mod value;
