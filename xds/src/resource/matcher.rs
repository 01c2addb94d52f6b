//! String and header matchers.

/// `envoy.type.matcher.v3.StringMatcher`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StringMatcher {
    pub pattern: StringPattern,
    pub ignore_case: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StringPattern {
    Exact(String),
    Prefix(String),
    Suffix(String),
    Contains(String),
    /// Checked to compile; matches the whole text (RE2 full match).
    Regex(String),
}

/// `envoy.config.route.v3.HeaderMatcher`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderMatcher {
    /// Lower case; may be a pseudo header (`:method`, `:path`, `:authority`, `:scheme`).
    pub name: String,
    pub value: HeaderMatch,
    pub invert: bool,
    pub treat_missing_as_empty: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderMatch {
    /// `present_match: true`, or no specifier at all.
    Present,
    /// `present_match: false`.
    Absent,
    /// Start inclusive, end exclusive.
    Range {
        start: i64,
        end: i64,
    },
    String(StringMatcher),
}
