//! One file for each HTTP filter. [`super::registry`] lists them.

pub mod access;
pub mod error_pages;
pub mod ext_authz;
pub mod forwarded;
pub mod jwt_authn;
pub mod path_prefix;
pub mod usage;
