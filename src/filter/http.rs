//! One file for each HTTP filter. [`super::registry`] lists them.

pub mod access;
pub mod buffer;
pub mod compressor;
pub mod decompressor;
pub mod error_pages;
pub mod ext_authz;
pub mod forwarded;
pub mod grpc_web;
pub mod jwt_authn;
pub mod path_prefix;
pub mod ratelimit;
pub mod stateful_session;
pub mod usage;
