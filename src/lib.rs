//! Causeway: an xDS-compatible proxy, and a drop-in replacement for Backend.AI's AppProxy worker.
//!
//! The map is docs/ARCHITECTURE.md; `tests/architecture.rs` holds the modules to it.

pub mod error;
pub mod route;
pub mod telemetry;
pub mod util;
