//! Access loggers: where a line goes, what it says, and which requests get one.

mod decode;
mod filter;
mod grpc;

pub use filter::{Comparison, ComparisonOp, LogFilter};
pub use grpc::{EntryKind, GrpcLog};

use super::format::FormatString;

/// Message names of the loggers there are.
pub const LOGGERS: [&str; 5] = [
    decode::FILE,
    decode::STDOUT,
    decode::STDERR,
    grpc::HTTP,
    grpc::TCP,
];

/// `envoy.config.accesslog.v3.AccessLog`.
#[derive(Clone, Debug, PartialEq)]
pub struct AccessLog {
    pub to: Destination,
    /// `None`: every request is logged.
    pub filter: Option<LogFilter>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Destination {
    Lines {
        sink: Sink,
        /// `None`: Envoy's default line.
        format: Option<FormatString>,
    },
    Grpc(Box<GrpcLog>),
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
