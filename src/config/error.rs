//! What is wrong with a file, and where.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A file that cannot be used: place, reason, and what would help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    pub file: PathBuf,
    /// Line and column, both from 1.
    pub position: Option<(usize, usize)>,
    pub reason: String,
    pub hint: Option<String>,
}

impl ConfigError {
    pub(super) fn unreadable(file: &Path, error: &std::io::Error) -> Self {
        Self {
            file: file.to_owned(),
            position: None,
            reason: error.to_string(),
            hint: None,
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some((line, column)) = self.position {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.reason)?;
        if let Some(hint) = &self.hint {
            write!(f, " (hint: {hint})")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// The text an error is about.
pub(super) struct Place<'t> {
    pub text: &'t str,
    pub path: &'t Path,
}

impl Place<'_> {
    pub fn error(
        &self,
        span: Option<Range<usize>>,
        reason: impl Into<String>,
        hint: Option<&str>,
    ) -> ConfigError {
        ConfigError {
            file: self.path.to_owned(),
            position: span.map(|s| self.position(s.start)),
            // The parser's messages may have several lines; the first says what is wrong.
            reason: reason.into().replace('\n', ", "),
            hint: hint.map(str::to_owned),
        }
    }

    fn position(&self, offset: usize) -> (usize, usize) {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (line, before[start..].chars().count() + 1)
    }
}
