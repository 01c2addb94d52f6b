//! Why a call failed, in words an operator can use.

use std::fmt;
use std::time::Duration;

use http::StatusCode;
use serde::Deserialize;

use crate::util::Secret;

/// Why there can be no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientConfigError {
    #[error("the endpoint of the Coordinator {0}")]
    Endpoint(&'static str),
    #[error("the API secret has characters that cannot be sent in a header field")]
    Secret,
    #[error("no root certificates of this system can be read: {0}")]
    Roots(String),
    #[error("TLS: {0}")]
    Tls(String),
}

/// Why a call did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// No connection, or one that ended before an answer came.
    #[error("the Coordinator cannot be reached: {0}")]
    Connect(String),
    #[error("deadline \"{what}\" fired after {limit:?}")]
    Timeout { what: &'static str, limit: Duration },
    /// An answer without a valid status: what a 25.x Coordinator gives for every error.
    #[error("an error answer without a valid status{problem}")]
    Unparsable { problem: Problem },
    #[error("answered with {status}{problem}")]
    Answer {
        status: StatusCode,
        problem: Problem,
    },
    /// A good answer with a body that is not what it should be.
    #[error("unusable answer: {0}")]
    Body(String),
}

impl ClientError {
    pub(super) fn body(error: serde_json::Error) -> Self {
        Self::Body(error.to_string())
    }

    pub(super) fn exchange(error: hyper::Error) -> Self {
        if error.is_parse() {
            Self::Unparsable {
                problem: Problem::default(),
            }
        } else {
            Self::Connect(format!("no answer: {error}"))
        }
    }

    fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Unparsable { problem } | Self::Answer { problem, .. } => Some(problem),
            _ => None,
        }
    }

    /// The Coordinator does not know this worker (any more).
    pub fn is_not_found(&self) -> bool {
        match self {
            // Somebody in front may say 404 as well, and knows nothing of workers.
            Self::Answer { status, problem } => {
                *status == StatusCode::NOT_FOUND && problem.is("object-not-found")
            }
            Self::Unparsable { problem } => problem.is("object-not-found"),
            _ => false,
        }
    }

    /// The Coordinator does not take our secret.
    pub fn is_unauthorised(&self) -> bool {
        let status = match self {
            Self::Answer { status, .. } => Some(*status),
            _ => None,
        };
        matches!(
            status,
            Some(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
        ) || self
            .problem()
            .is_some_and(|p| p.is("auth-failed") || p.is("invalid-credentials"))
    }

    /// Trying again cannot help before somebody has changed something.
    pub fn is_permanent(&self) -> bool {
        let refused = match self {
            Self::Answer { status, .. } => {
                status.is_client_error()
                    && !matches!(
                        *status,
                        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
                    )
            }
            _ => false,
        };
        refused || self.is_unauthorised()
    }
}

/// What the Coordinator says of an error (RFC 9457, with fields of its own). Prints with a colon
/// in front, or as nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Problem {
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub title: Option<String>,
    pub msg: Option<String>,
    pub error_code: Option<String>,
    /// The beginning of a body that is no problem document.
    #[serde(skip)]
    pub other: Option<String>,
}

/// Enough to recognise an error page by.
const SHOWN: usize = 200;

impl Problem {
    /// Takes the secret out should the other side have repeated it.
    pub(super) fn read(body: &[u8], secret: &Secret) -> Self {
        let text = String::from_utf8_lossy(body);
        let text = match secret.expose() {
            "" => text.into_owned(),
            secret => text.replace(secret, "[redacted]"),
        };
        let other = || {
            let shown: String = text.trim().chars().take(SHOWN).collect();
            let shown = shown.replace(char::is_control, " ");
            Self {
                other: (!shown.is_empty()).then_some(shown),
                ..Self::default()
            }
        };
        serde_json::from_str(&text).unwrap_or_else(|_| other())
    }

    /// Whether the type is `https://api.backend.ai/probs/<suffix>`.
    fn is(&self, suffix: &str) -> bool {
        let kind = self.kind.as_deref().unwrap_or_default();
        kind.rsplit('/').next() == Some(suffix)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = ": ";
        for part in [&self.title, &self.msg, &self.other].into_iter().flatten() {
            write!(f, "{separator}{part}")?;
            separator = " ";
        }
        if let Some(code) = &self.error_code {
            write!(f, " ({code})")?;
        }
        Ok(())
    }
}
