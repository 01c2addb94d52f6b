//! The program's own log: standard error, a file, or both.

use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::Subscriber;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, reload};

use super::log_file::LogFile;
use crate::config::{LogFormat, Logging};

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

/// The log that was started. When it is dropped, the file has what was logged so far.
pub struct Log {
    pub level: LogLevel,
    file: Option<LogFile>,
}

impl Drop for Log {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            file.flush();
        }
    }
}

/// Envoy's and the worker's level names, as `tracing` spells them.
fn to_tracing(level: &str) -> &str {
    match level.to_ascii_lowercase().as_str() {
        "critical" | "error" => "error",
        "warning" | "warn" => "warn",
        "off" => "off",
        "info" => "info",
        "debug" => "debug",
        // To Python this is the threshold below every level.
        "trace" | "notset" => "trace",
        _ => level,
    }
}

/// Starts logging at `logging.level`, which is a level name or a `tracing` filter.
///
/// # Errors
/// The level is not understood, the file cannot be opened, or logging was started before.
pub fn start(logging: &Logging) -> Result<Log, String> {
    let filter = EnvFilter::try_new(to_tracing(&logging.level));
    let filter = filter.map_err(|e| format!("log level: {e}"))?;
    let (filter, handle) = reload::Layer::new(filter);
    let file = match &logging.file {
        Some(config) => {
            let opened = LogFile::open(config);
            Some(opened.map_err(|e| format!("log file {}: {e}", config.path.display()))?)
        }
        None => None,
    };
    let mut layers = Vec::new();
    if let Some(console) = logging.console {
        // Files and collectors want no colours; NO_COLOR is for people who want none.
        let colored = console.colored.unwrap_or_else(|| {
            std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
        });
        layers.push(layer(console.format, colored, std::io::stderr));
    }
    if let (Some(config), Some(file)) = (&logging.file, &file) {
        layers.push(layer(config.format, false, file.clone()));
    }
    tracing_subscriber::registry()
        .with(filter)
        .with(layers)
        .try_init()
        .map_err(|e| e.to_string())?;
    Ok(Log {
        level: LogLevel(handle),
        file,
    })
}

fn layer<S, W>(format: LogFormat, colored: bool, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .with_ansi(colored)
        .with_target(format != LogFormat::Simple);
    match format {
        LogFormat::Json => layer.json().boxed(),
        LogFormat::Simple | LogFormat::Verbose => layer.boxed(),
    }
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
