//! What many endpoints do together, on a clock that does not wait: nothing here depends on how fast
//! the machine is.
//!
//! ```sh
//! cargo test --test simulation                                    # what must hold, in seconds
//! cargo test --test simulation -- --ignored --nocapture table     # the numbers of docs/LOAD-BALANCING.md
//! cargo test --release --test simulation -- --ignored --nocapture million   # a million hosts in one route table
//! ```

#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "a model in microseconds"
)]

#[path = "simulation/checks.rs"]
mod checks;
#[path = "simulation/fleet.rs"]
mod fleet;
#[path = "simulation/invariants.rs"]
mod invariants;
#[path = "simulation/report.rs"]
mod report;
#[path = "simulation/rounds.rs"]
mod rounds;
#[path = "simulation/routes.rs"]
mod routes;
#[path = "simulation/scenario.rs"]
mod scenario;
#[path = "simulation/server.rs"]
mod server;
#[path = "simulation/table.rs"]
mod table;
