//! Why a resource was refused: which one, where in it and in its text, and for what reason.

use std::borrow::Cow;
use std::fmt;

use crate::text::Location;
use crate::type_url::ResourceType;

/// Where in a message a fault is, as a person writes it: `filter_chains[0].filters[1].name`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldPath(String);

impl FieldPath {
    pub fn root() -> Self {
        Self::default()
    }

    /// This path followed by a field name (a dotted name is several fields).
    #[must_use]
    pub fn field(&self, name: &str) -> Self {
        Self(if self.0.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.0)
        })
    }

    /// This path followed by a list index.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A fault inside one message. [`Invalid::within`] puts it into its place in the resource.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{}{reason}", path, if path.is_root() { "" } else { ": " })]
pub struct Invalid {
    pub path: FieldPath,
    pub reason: Cow<'static, str>,
}

impl Invalid {
    pub fn at(path: impl AsRef<str>, reason: impl Into<Cow<'static, str>>) -> Self {
        Self {
            path: FieldPath::root().field(path.as_ref()),
            reason: reason.into(),
        }
    }

    pub fn new(path: FieldPath, reason: impl Into<Cow<'static, str>>) -> Self {
        Self {
            path,
            reason: reason.into(),
        }
    }

    /// A known field that nothing reads yet: taking it silently would change what it means.
    pub fn unsupported(path: FieldPath) -> Self {
        Self::new(path, "not supported yet")
    }

    /// The same fault, seen from the message that holds this one at `outer`.
    #[must_use]
    pub fn within(self, outer: &FieldPath) -> Self {
        let path = match (outer.is_root(), self.path.is_root()) {
            (true, _) => self.path,
            (_, true) => outer.clone(),
            _ => outer.field(self.path.as_str()),
        };
        Self { path, ..self }
    }
}

/// A refused resource. Its earlier version, if there is one, stays in use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{kind} \"{name}\": {invalid}", before(location.as_ref()))]
pub struct Rejected {
    /// Of the field at fault or what is around it, for a resource that was read from a text.
    pub location: Option<Location>,
    pub kind: ResourceType,
    /// Empty when the message does not even tell its name.
    pub name: String,
    pub invalid: Invalid,
}

impl Rejected {
    pub fn new(kind: ResourceType, name: impl Into<String>, invalid: Invalid) -> Self {
        Self {
            location: None,
            kind,
            name: name.into(),
            invalid,
        }
    }

    #[must_use]
    pub fn located(self, location: Option<Location>) -> Self {
        Self { location, ..self }
    }
}

/// A location as the beginning of a message.
pub fn before(location: Option<&Location>) -> String {
    location.map_or_else(String::new, |location| format!("{location}: "))
}
