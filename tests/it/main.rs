//! The integration tests: one program, each test with an application of its own on ports that the
//! system chooses.
//!
//! Rules: wait for conditions, never for time (`support::eventually`); a double has one behaviour;
//! whoever waits does so under a deadline that no healthy run comes near.

// A helper that fails in a test should say where, which is what `unwrap` does. Clippy knows only
// functions marked `#[test]` as tests.
#![allow(clippy::unwrap_used)]
// The example brings the doubles along that `support` has, too.
#![allow(clippy::duplicate_mod)]

mod support;

mod access_log;
mod acme;
mod admin;
mod admission;
mod bootstrap;
mod bridge;
mod chains;
mod choosing;
mod connect;
mod coordinator;
mod dangers;
mod demo;
mod dns;
mod drain;
mod example;
mod example_filter;
mod example_xds;
mod eyeballs;
mod files;
mod filter_discovery;
mod filters;
mod grpc;
mod h2_conformance;
mod health;
mod http1;
mod http2;
mod http2_streams;
mod http2_upstream;
mod internal_redirect;
mod kernels;
mod load_report;
mod policies;
mod pool;
mod proxy_status;
mod redis_bus;
mod redis_inference;
mod redis_marks;
mod rotation;
mod route_tree;
mod routes;
mod routing;
mod shim;
mod survival;
mod tcp;
mod tls;
mod tunnel;
mod tunneling;
mod websocket;
mod websocket_http2;
mod worker;
mod worker_api;
