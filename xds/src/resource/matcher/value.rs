//! Matchers of values and of metadata (`envoy.type.matcher.v3`).

use super::StringMatcher;
use crate::proto::envoy::r#type::matcher::v3 as proto;
use crate::reject::Invalid;
use crate::resource::context::{At, Context, each, fault, not_empty, required};

/// Lists and alternatives in each other, at most: evaluating them recurses.
const DEPTH: usize = 16;

/// A value of one namespace, and what it must be.
#[derive(Clone, Debug, PartialEq)]
pub struct MetadataMatcher {
    pub namespace: String,
    /// At least one key.
    pub path: Vec<String>,
    pub value: ValueMatcher,
    pub invert: bool,
}

/// `envoy.type.matcher.v3.ValueMatcher`. A value that is not there matches nothing.
#[derive(Clone, Debug, PartialEq)]
pub enum ValueMatcher {
    Null,
    /// From the start on, before the end.
    Range(f64, f64),
    Number(f64),
    Text(StringMatcher),
    Bool(bool),
    /// `false` matches nothing.
    Present(bool),
    /// One element of a list.
    Element(Box<Self>),
    /// At least two.
    Any(Vec<Self>),
}

/// The keys that lead to a value.
pub(super) fn path<S>(
    segments: Vec<S>,
    key: impl Fn(S) -> Option<String>,
) -> Result<Vec<String>, Invalid> {
    if segments.is_empty() {
        return Err(Invalid::at("path", "must not be empty"));
    }
    each("path", segments, |segment| {
        not_empty(required(key(segment), "segment")?, "key")
    })
}

impl MetadataMatcher {
    pub(crate) fn decode(
        message: proto::MetadataMatcher,
        ctx: &Context<'_>,
    ) -> Result<Self, Invalid> {
        use proto::metadata_matcher::path_segment::Segment;
        let proto::MetadataMatcher {
            filter,
            path: segments,
            value,
            invert,
        } = message;
        Ok(Self {
            path: path(segments, |s| s.segment.map(|Segment::Key(key)| key))?,
            namespace: not_empty(filter, "filter")?,
            value: ValueMatcher::decode(required(value, "value")?, ctx).at("value")?,
            invert,
        })
    }
}

/// A filter state object that is text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterStateMatcher {
    pub key: String,
    pub matcher: StringMatcher,
}

impl FilterStateMatcher {
    pub(crate) fn decode(
        message: proto::FilterStateMatcher,
        ctx: &Context<'_>,
    ) -> Result<Self, Invalid> {
        use proto::filter_state_matcher::Matcher;
        let proto::FilterStateMatcher { key, matcher } = message;
        let matcher = match required(matcher, "matcher")? {
            Matcher::StringMatch(matcher) => {
                StringMatcher::decode(matcher, ctx).at("string_match")?
            }
            Matcher::AddressMatch(_) => {
                return Err(Invalid::at("address_match", "not supported yet"));
            }
        };
        Ok(Self {
            key: not_empty(key, "key")?,
            matcher,
        })
    }
}

impl ValueMatcher {
    pub(crate) fn decode(message: proto::ValueMatcher, ctx: &Context<'_>) -> Result<Self, Invalid> {
        Self::inside(message, ctx, 0)
    }

    fn inside(
        message: proto::ValueMatcher,
        ctx: &Context<'_>,
        depth: usize,
    ) -> Result<Self, Invalid> {
        use proto::value_matcher::MatchPattern as P;
        let proto::ValueMatcher { match_pattern } = message;
        if depth > DEPTH {
            return Err(fault("is nested too deeply"));
        }
        Ok(match required(match_pattern, "match_pattern")? {
            P::NullMatch(proto::value_matcher::NullMatch {}) => Self::Null,
            P::DoubleMatch(proto::DoubleMatcher { match_pattern }) => {
                use proto::double_matcher::MatchPattern as D;
                match required(match_pattern, "match_pattern").at("double_match")? {
                    D::Range(range) => Self::Range(range.start, range.end),
                    D::Exact(number) => Self::Number(number),
                }
            }
            P::StringMatch(text) => {
                Self::Text(StringMatcher::decode(text, ctx).at("string_match")?)
            }
            P::BoolMatch(wanted) => Self::Bool(wanted),
            P::PresentMatch(wanted) => Self::Present(wanted),
            P::ListMatch(list) => {
                use proto::list_matcher::MatchPattern as L;
                let L::OneOf(of) =
                    required(list.match_pattern, "match_pattern").at("list_match")?;
                let of = Self::inside(*of, ctx, depth + 1).at("list_match.one_of")?;
                Self::Element(Box::new(of))
            }
            P::OrMatch(proto::OrMatcher { value_matchers }) => {
                if value_matchers.len() < 2 {
                    let reason = "must have two or more";
                    return Err(Invalid::at("or_match.value_matchers", reason));
                }
                let decode = |matcher| Self::inside(matcher, ctx, depth + 1);
                Self::Any(each("value_matchers", value_matchers, decode).at("or_match")?)
            }
        })
    }
}
