//! `[logging]`: what is logged, and where to.

use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

use super::error::{ConfigError, Place};

/// Where the program's own log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logging {
    /// A level name; what the command line says wins.
    pub level: String,
    /// `None`: nothing on standard error.
    pub console: Option<ConsoleLog>,
    /// `None`: no file.
    pub file: Option<FileLog>,
}

impl Default for Logging {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            console: Some(ConsoleLog::default()),
            file: None,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConsoleLog {
    /// `None`: on a terminal, unless `NO_COLOR` is set.
    pub colored: Option<bool>,
    pub format: LogFormat,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileLog {
    /// Directory and file name.
    pub path: PathBuf,
    /// How many bytes are written before the file is put aside; 0 lets it grow.
    pub rotation_size: u64,
    /// How many files that were put aside are kept.
    pub backup_count: u32,
    pub format: LogFormat,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Time, level, message, fields.
    #[default]
    Simple,
    /// With the module, too.
    Verbose,
    /// One JSON object a line.
    Json,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(super) struct LoggingTable {
    level: Option<Spanned<String>>,
    drivers: Option<Spanned<Vec<Driver>>>,
    console: ConsoleTable,
    file: Option<FileTable>,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Driver {
    Console,
    File,
    Logstash,
    Graylog,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ConsoleTable {
    colored: Option<bool>,
    format: LogFormat,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct FileTable {
    path: PathBuf,
    filename: Spanned<String>,
    #[serde(default = "five")]
    backup_count: u32,
    rotation_size: Option<Spanned<Size>>,
    #[serde(default)]
    format: LogFormat,
}

fn five() -> u32 {
    5
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a size such as \"10M\", or a number of bytes")]
enum Size {
    Bytes(u64),
    Text(String),
}

/// Level names that the legacy worker takes.
const LEVELS: [&str; 7] = [
    "critical", "error", "warning", "info", "debug", "trace", "notset",
];

impl LoggingTable {
    pub fn validate(self, at: &Place<'_>) -> Result<Logging, ConfigError> {
        let default = Logging::default();
        let level = match self.level {
            None => default.level,
            Some(level) => {
                let name = level.get_ref().to_ascii_lowercase();
                if !LEVELS.contains(&name.as_str()) {
                    return Err(at.error(
                        Some(level.span()),
                        format!("logging.level: \"{}\" is no level", level.get_ref()),
                        Some("one of CRITICAL, ERROR, WARNING, INFO, DEBUG, TRACE, NOTSET"),
                    ));
                }
                // In a file the word is a threshold of nothing at all.
                if name == "notset" {
                    "trace".to_owned()
                } else {
                    name
                }
            }
        };
        let drivers = self
            .drivers
            .as_ref()
            .map_or(&[Driver::Console][..], |d| d.get_ref());
        let file = match self.file {
            Some(file) if drivers.contains(&Driver::File) => Some(file.validate(at)?),
            None if drivers.contains(&Driver::File) => {
                return Err(at.error(
                    self.drivers.as_ref().map(Spanned::span),
                    "logging.drivers: \"file\" needs the table [logging.file]",
                    Some("with path = \"/var/log/backend.ai\" and filename = \"app-proxy-worker.log\""),
                ));
            }
            _ => None,
        };
        // Without any place that we can write to, what is wrong would be said to nobody.
        let console = drivers.contains(&Driver::Console) || file.is_none();
        Ok(Logging {
            level,
            console: console.then_some(ConsoleLog {
                colored: self.console.colored,
                format: self.console.format,
            }),
            file,
        })
    }
}

impl FileTable {
    fn validate(self, at: &Place<'_>) -> Result<FileLog, ConfigError> {
        let filename = self.filename.get_ref();
        if filename.is_empty() || filename.contains('/') {
            return Err(at.error(
                Some(self.filename.span()),
                "logging.file.filename: must be the name of a file",
                Some("its directory belongs into logging.file.path"),
            ));
        }
        let rotation_size = match &self.rotation_size {
            None => 10 << 20,
            Some(size) => bytes(size.get_ref()).ok_or_else(|| {
                at.error(
                    Some(size.span()),
                    "logging.file.rotation-size: not a size",
                    Some("a number of bytes, or one with k, M, G or T (1024 each), as \"10M\""),
                )
            })?,
        };
        Ok(FileLog {
            path: self.path.join(filename),
            rotation_size,
            backup_count: self.backup_count,
            format: self.format,
        })
    }
}

fn bytes(size: &Size) -> Option<u64> {
    let text = match size {
        Size::Bytes(bytes) => return Some(*bytes),
        Size::Text(text) => text.trim().to_ascii_lowercase(),
    };
    let text = text.strip_suffix('b').unwrap_or(&text);
    let text = text.strip_suffix('i').unwrap_or(text);
    let (digits, shift) = match text.char_indices().last()? {
        (at, 'k') => (&text[..at], 10),
        (at, 'm') => (&text[..at], 20),
        (at, 'g') => (&text[..at], 30),
        (at, 't') => (&text[..at], 40),
        _ => (text, 0),
    };
    digits.trim().parse::<u64>().ok()?.checked_mul(1 << shift)
}
