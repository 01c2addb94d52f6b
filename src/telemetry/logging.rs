//! The program's own log, on standard error.

use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

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

/// Lets one message of a kind through in a while, so that a thing that fails a thousand times a
/// second does not fill the log.
#[derive(Debug, Default)]
pub struct Sparse(Mutex<Option<(Instant, u64)>>);

impl Sparse {
    const PAUSE: Duration = Duration::from_secs(1);

    /// Whether to tell now, and how many were held back since the last time.
    pub fn pass(&self, now: Instant) -> Option<u64> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *last {
            Some((told, held)) if now.saturating_duration_since(*told) < Self::PAUSE => {
                *held += 1;
                None
            }
            last => Some(last.replace((now, 0)).map_or(0, |(_, held)| held)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_a_while_passes_and_tells_of_the_others() {
        let (sparse, start) = (Sparse::default(), Instant::now());
        let at = |ms| sparse.pass(start + Duration::from_millis(ms));
        assert_eq!(
            [at(0), at(1), at(999), at(1000), at(1500), at(2001)],
            [Some(0), None, None, Some(2), None, Some(1)]
        );
    }
}
