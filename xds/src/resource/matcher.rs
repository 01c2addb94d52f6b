//! String and header matchers, and trees of matchers.

pub mod tree;
pub mod value;

use regex::Regex;

use super::context::{At, Context, accept, fault, not_empty, required};
use super::headers::header_or_pseudo_name;
use crate::proto::envoy::r#type::matcher::v3 as matcher;
use crate::proto::envoy::r#type::v3::Int64Range;
use crate::proto::route;
use crate::reject::Invalid;

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

/// `envoy.config.route.v3.QueryParameterMatcher`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryMatcher {
    /// As in the request, not decoded.
    pub name: String,
    pub value: QueryMatch,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueryMatch {
    /// `present_match: true`, or no specifier at all.
    Present,
    /// `present_match: false`.
    Absent,
    String(StringMatcher),
}

/// `envoy.config.route.v3.CookieMatcher`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CookieMatcher {
    pub name: String,
    pub value: StringMatcher,
    pub invert: bool,
}

impl CookieMatcher {
    pub(crate) fn decode(
        message: route::CookieMatcher,
        ctx: &Context<'_>,
    ) -> Result<Self, Invalid> {
        let route::CookieMatcher {
            name,
            string_match,
            invert_match,
        } = message;
        let matcher = required(string_match, "string_match")?;
        Ok(Self {
            name: not_empty(name, "name")?,
            value: StringMatcher::decode(matcher, ctx).at("string_match")?,
            invert: invert_match,
        })
    }
}

impl QueryMatcher {
    pub(crate) fn decode(
        message: route::QueryParameterMatcher,
        ctx: &Context<'_>,
    ) -> Result<Self, Invalid> {
        use route::query_parameter_matcher::QueryParameterMatchSpecifier as Specifier;
        let route::QueryParameterMatcher {
            name,
            query_parameter_match_specifier,
        } = message;
        // The bound of the message definition.
        const MAX_NAME: usize = 1024;
        if name.len() > MAX_NAME {
            let reason = format!("is longer than {MAX_NAME} bytes");
            return Err(Invalid::at("name", reason));
        }
        Ok(Self {
            name: not_empty(name, "name")?,
            value: match query_parameter_match_specifier {
                None | Some(Specifier::PresentMatch(true)) => QueryMatch::Present,
                Some(Specifier::PresentMatch(false)) => QueryMatch::Absent,
                Some(Specifier::StringMatch(matcher)) => {
                    QueryMatch::String(StringMatcher::decode(matcher, ctx).at("string_match")?)
                }
            },
        })
    }
}

/// Compiles a pattern that must match the whole text, as RE2 full match does.
///
/// # Errors
///
/// When the pattern is not one by itself: `a)|(b` must not become one by being put in a group.
pub fn full_match(pattern: &str) -> Result<Regex, regex::Error> {
    Regex::new(pattern)?;
    Regex::new(&format!(r"\A(?:{pattern})\z"))
}

impl StringMatcher {
    pub(crate) fn decode(
        message: matcher::StringMatcher,
        ctx: &Context<'_>,
    ) -> Result<Self, Invalid> {
        use matcher::string_matcher::MatchPattern;
        let matcher::StringMatcher {
            ignore_case,
            match_pattern,
        } = message;
        let pattern = match required(match_pattern, "match_pattern")? {
            MatchPattern::Exact(text) => StringPattern::Exact(text),
            MatchPattern::Prefix(text) => StringPattern::Prefix(not_empty(text, "prefix")?),
            MatchPattern::Suffix(text) => StringPattern::Suffix(not_empty(text, "suffix")?),
            MatchPattern::Contains(text) => StringPattern::Contains(not_empty(text, "contains")?),
            MatchPattern::SafeRegex(regex) => {
                StringPattern::Regex(whole_regex(regex, ctx).at("safe_regex")?)
            }
            MatchPattern::Custom(_) => return Err(Invalid::at("custom", "not supported yet")),
        };
        Ok(Self {
            pattern,
            ignore_case,
        })
    }

    fn of(pattern: StringPattern) -> HeaderMatch {
        HeaderMatch::String(Self {
            pattern,
            ignore_case: false,
        })
    }
}

impl HeaderMatcher {
    pub(crate) fn decode(
        message: route::HeaderMatcher,
        ctx: &Context<'_>,
    ) -> Result<Self, Invalid> {
        let route::HeaderMatcher {
            name,
            invert_match,
            treat_missing_header_as_empty,
            header_match_specifier,
        } = message;
        Ok(Self {
            name: header_or_pseudo_name(&name).at("name")?,
            value: HeaderMatch::decode(header_match_specifier, ctx)?,
            invert: invert_match,
            treat_missing_as_empty: treat_missing_header_as_empty,
        })
    }
}

impl HeaderMatch {
    #[allow(
        deprecated,
        reason = "older spellings of string_match that are still sent"
    )]
    fn decode(
        specifier: Option<route::header_matcher::HeaderMatchSpecifier>,
        ctx: &Context<'_>,
    ) -> Result<Self, Invalid> {
        use StringPattern as P;
        use route::header_matcher::HeaderMatchSpecifier as Specifier;
        let string = StringMatcher::of;
        Ok(match specifier {
            None | Some(Specifier::PresentMatch(true)) => Self::Present,
            Some(Specifier::PresentMatch(false)) => Self::Absent,
            Some(Specifier::RangeMatch(Int64Range { start, end })) => Self::Range { start, end },
            Some(Specifier::StringMatch(matcher)) => {
                Self::String(StringMatcher::decode(matcher, ctx).at("string_match")?)
            }
            Some(Specifier::ExactMatch(text)) => string(P::Exact(text)),
            Some(Specifier::PrefixMatch(text)) => {
                string(P::Prefix(not_empty(text, "prefix_match")?))
            }
            Some(Specifier::SuffixMatch(text)) => {
                string(P::Suffix(not_empty(text, "suffix_match")?))
            }
            Some(Specifier::ContainsMatch(text)) => {
                string(P::Contains(not_empty(text, "contains_match")?))
            }
            Some(Specifier::SafeRegexMatch(regex)) => {
                string(P::Regex(whole_regex(regex, ctx).at("safe_regex_match")?))
            }
        })
    }
}

/// The pattern of a `RegexMatcher` that is matched against a whole text.
pub(crate) fn whole_regex(
    message: matcher::RegexMatcher,
    ctx: &Context<'_>,
) -> Result<String, Invalid> {
    checked_regex(pattern(message, ctx)?)
}

fn checked_regex(pattern: String) -> Result<String, Invalid> {
    full_match(&pattern)
        .map_err(|e| does_not_compile(&e))
        .at("regex")?;
    Ok(pattern)
}

/// Pattern and substitution of a `RegexMatchAndSubstitute`, the substitution in the syntax of the
/// `regex` crate.
pub(crate) fn substitution(
    message: matcher::RegexMatchAndSubstitute,
    ctx: &Context<'_>,
) -> Result<(String, String), Invalid> {
    let matcher::RegexMatchAndSubstitute {
        pattern: regex,
        substitution,
    } = message;
    let pattern = pattern(required(regex, "pattern")?, ctx).at("pattern")?;
    let compiled = Regex::new(&pattern)
        .map_err(|e| does_not_compile(&e))
        .at("pattern.regex")?;
    super::headers::header_value(&substitution).at("substitution")?;
    let substitution = translate(&substitution, compiled.captures_len()).at("substitution")?;
    Ok((pattern, substitution))
}

fn pattern(message: matcher::RegexMatcher, ctx: &Context<'_>) -> Result<String, Invalid> {
    #[allow(deprecated, reason = "named so that nothing is skipped")]
    let matcher::RegexMatcher { regex, engine_type } = message;
    // There is one engine; its program size is bounded by the `regex` crate's own default.
    accept!(ctx, "RegexMatcher": engine_type);
    not_empty(regex, "regex")
}

fn does_not_compile(error: &regex::Error) -> Invalid {
    // A syntax error is drawn over several lines; its last one says what is wrong.
    let text = error.to_string();
    let last = text
        .lines()
        .last()
        .unwrap_or_default()
        .trim_start_matches("error: ");
    fault(format!("does not compile: {last}"))
}

/// RE2 writes a group as `\1`, the `regex` crate as `${1}`.
fn translate(substitution: &str, groups: usize) -> Result<String, Invalid> {
    let mut out = String::with_capacity(substitution.len());
    let mut chars = substitution.chars();
    while let Some(c) = chars.next() {
        match c {
            '$' => out.push_str("$$"),
            '\\' => match chars.next().map(|c| (c, c.to_digit(10))) {
                Some(('\\', _)) => out.push('\\'),
                Some((_, Some(group))) if (group as usize) < groups => {
                    out.push_str(&format!("${{{group}}}"));
                }
                Some((_, Some(group))) => {
                    return Err(fault(format!("group {group} is not in the pattern")));
                }
                _ => {
                    return Err(fault(
                        "a backslash stands before a digit or a backslash only",
                    ));
                }
            },
            other => out.push(other),
        }
    }
    Ok(out)
}
