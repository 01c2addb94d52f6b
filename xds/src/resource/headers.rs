//! Header edits (`HeaderValueOption` and the remove lists).

/// What happens when the header is there already (`HeaderAppendAction`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AppendAction {
    #[default]
    AppendOrAdd,
    AddIfAbsent,
    OverwriteOrAdd,
    OverwriteIfExists,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderEdit {
    /// Lower case.
    pub name: String,
    /// Literal text, `%%` already undone.
    pub value: String,
    pub action: AppendAction,
    /// Whether a value that came out empty is kept (`keep_empty_value`).
    pub keep_empty: bool,
}

/// The edits that one level (route, virtual host, route configuration) makes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    pub request_add: Vec<HeaderEdit>,
    /// Lower case.
    pub request_remove: Vec<String>,
    pub response_add: Vec<HeaderEdit>,
    /// Lower case.
    pub response_remove: Vec<String>,
}

impl HeaderEdits {
    pub fn is_empty(&self) -> bool {
        self == &Self::default()
    }
}
