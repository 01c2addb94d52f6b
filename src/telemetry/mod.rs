//! What the program tells about itself: statistics, access logs, its own log, and which circuits
//! are in use.

pub mod access_log;
pub mod activity;
mod log_file;
pub mod logging;
pub mod stats;
