//! One file for each HTTP filter. [`super::registry`] lists them.

pub mod access;
pub mod usage;
