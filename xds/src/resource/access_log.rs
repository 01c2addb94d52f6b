//! Access loggers: where a line goes, what it says, and which requests get one.

mod decode;
mod filter;

pub use filter::{Comparison, ComparisonOp, LogFilter};

use super::format::FormatString;

/// Message names of the loggers there are.
pub const LOGGERS: [&str; 3] = [decode::FILE, decode::STDOUT, decode::STDERR];

/// `envoy.config.accesslog.v3.AccessLog`.
#[derive(Clone, Debug, PartialEq)]
pub struct AccessLog {
    pub sink: Sink,
    /// `None`: Envoy's default line.
    pub format: Option<FormatString>,
    /// `None`: every request is logged.
    pub filter: Option<LogFilter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Sink {
    /// Appended to.
    File(String),
    Stdout,
    Stderr,
}

#[cfg(test)]
mod tests;
