//! Why a push was refused.

use std::borrow::Cow;
use std::fmt;

/// A fault in a pushed circuit: which field, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Place in the push, such as `circuits[3].route_info[0].kernel_port`; may be empty.
    pub field: String,
    pub reason: Cow<'static, str>,
}

impl Fault {
    pub fn at(field: impl Into<String>, reason: impl Into<Cow<'static, str>>) -> Self {
        Self {
            field: field.into(),
            reason: reason.into(),
        }
    }

    /// The same fault, seen from what holds the faulty thing at `outer`.
    #[must_use]
    pub fn within(mut self, outer: &str) -> Self {
        self.field = match self.field.as_str() {
            "" => outer.to_owned(),
            inner => format!("{outer}.{inner}"),
        };
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.reason)
    }
}

/// Why nothing of a push took effect. Each variant is one status of the REST shim.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// 400: the push is at fault.
    #[error("{0}")]
    Invalid(Fault),
    /// 404: no circuit has this id.
    #[error("no circuit {0}")]
    Unknown(uuid::Uuid),
    /// 400: the control plane does not take what the push was translated to.
    #[error("{fault}")]
    Refused {
        fault: Fault,
        /// Whose translation it was, as far as that can be told.
        circuits: Vec<uuid::Uuid>,
    },
    /// 409: two circuits want the same place, or the Coordinator's circuits are in the way.
    #[error("{0}")]
    Conflict(Fault),
    /// 503: the control plane is gone, so the program is about to end.
    #[error("shutting down")]
    Stopped,
}
