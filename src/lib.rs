//! Causeway: an xDS-compatible proxy, and a drop-in replacement for Backend.AI's AppProxy worker.
//!
//! The map is docs/ARCHITECTURE.md; `tests/architecture.rs` holds the modules to it.

pub mod access_log;
pub mod acme;
pub mod admin;
pub mod app;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod control;
pub mod coordinator;
pub mod demo;
pub mod error;
pub mod filter;
pub mod formatter;
pub mod http;
pub mod listener;
pub mod local_reply;
pub mod management_server;
pub mod matching;
pub mod net;
pub mod route;
pub mod runtime;
pub mod snapshot;
pub mod tcp;
pub mod telemetry;
pub mod tls;
pub mod upstream;
pub mod util;
