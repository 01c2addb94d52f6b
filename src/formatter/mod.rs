//! Substitution formats at work: what header edits, access logs and local replies say.
//!
//! A [`Template`] is made from a format when a snapshot is compiled. It is filled from [`Facts`],
//! which is what a request, a connection or a test knows of itself; a fact that is not there is
//! told from one that is empty.

mod facts;
mod grpc_status;
mod json;
mod template;
mod text;
mod time;
mod wants;

pub use facts::{Facts, Key, Value};
pub use grpc_status::grpc_status_number;
pub use json::JsonTemplate;
pub use template::Template;
pub use text::{BodyFormat, Text};
pub use wants::Wants;

/// No text is longer: a format may ask for the same header over and over.
pub const MAX_TEXT: usize = 64 * 1024;

#[cfg(test)]
mod tests;
