//! One file for each HTTP filter. [`super::registry`] lists them.

pub mod access;
pub mod api_key_auth;
pub mod bandwidth_limit;
pub mod basic_auth;
pub mod cors;
pub mod csrf;
pub mod custom_response;
pub mod error_pages;
pub mod fault;
pub mod forwarded;
pub mod grpc_stats;
pub mod header_mutation;
pub mod header_to_metadata;
pub mod health_check;
pub mod local_ratelimit;
pub mod on_demand;
pub mod path_prefix;
pub mod rbac;
pub mod set_filter_state;
pub mod set_metadata;
pub mod usage;
