//! What the program tells about itself: statistics, access logs, its own log.

pub mod access_log;
mod log_file;
pub mod logging;
pub mod stats;
