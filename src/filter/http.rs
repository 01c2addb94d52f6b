//! One file for each HTTP filter. [`super::registry`] lists them.

pub mod access;
pub mod api_key_auth;
pub mod basic_auth;
pub mod cors;
pub mod csrf;
pub mod error_pages;
pub mod fault;
pub mod forwarded;
pub mod header_mutation;
pub mod health_check;
pub mod local_ratelimit;
pub mod path_prefix;
mod query;
pub mod rbac;
#[cfg(test)]
pub mod testing;
pub mod usage;
