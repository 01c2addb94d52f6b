//! The program's own log, on standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

type Reload = reload::Handle<EnvFilter, tracing_subscriber::Registry>;

/// Changes the level at run time.
#[derive(Clone, Debug)]
pub struct LogLevel(Reload);

impl LogLevel {
    /// # Errors
    /// The text is not a level or filter that `tracing` understands.
    pub fn set(&self, level: &str) -> Result<(), String> {
        let filter = EnvFilter::try_new(to_tracing(level)).map_err(|e| e.to_string())?;
        self.0.reload(filter).map_err(|e| e.to_string())
    }
}

/// Envoy's and the worker's level names, as `tracing` spells them.
fn to_tracing(level: &str) -> &str {
    match level.to_ascii_lowercase().as_str() {
        "critical" | "error" => "error",
        "warning" | "warn" => "warn",
        "off" | "notset" => "off",
        "info" => "info",
        "debug" => "debug",
        "trace" => "trace",
        _ => level,
    }
}

/// Starts logging. `level` is a level name or a `tracing` filter.
///
/// # Errors
/// The level is not understood, or logging was started before.
pub fn start(level: &str) -> Result<LogLevel, String> {
    let filter = EnvFilter::try_new(to_tracing(level)).map_err(|e| format!("log level: {e}"))?;
    let (filter, handle) = reload::Layer::new(filter);
    tracing_subscriber::registry()
        .with(filter)
        .with(
            tracing_subscriber::fmt::layer()
                .with_writer(std::io::stderr)
                // Files and collectors want no colours; NO_COLOR is for people who want none.
                .with_ansi(
                    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
                )
                .with_target(false),
        )
        .try_init()
        .map_err(|e| e.to_string())?;
    Ok(LogLevel(handle))
}
