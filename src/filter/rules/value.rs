//! Conditions on values of metadata (`envoy.type.matcher.v3.MetadataMatcher`).

use causeway_xds::proto::envoy::r#type::matcher::v3 as proto;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::metadata::MetadataValue;
use causeway_xds::resource::parts::{self, At, each, not_empty, required};

use crate::matching::text::Test;

/// Lists and alternatives in each other, at most; recursion is bounded by what was configured.
const DEPTH: usize = 16;

/// A condition on one value of one namespace.
#[derive(Debug)]
pub struct MetadataCondition {
    pub namespace: String,
    path: Vec<String>,
    value: ValueCondition,
    invert: bool,
}

#[derive(Debug)]
pub enum ValueCondition {
    Null,
    /// From the start on, before the end.
    Range(f64, f64),
    Number(f64),
    Text(Test),
    Bool(bool),
    Present(bool),
    /// One element of a list.
    Element(Box<Self>),
    Any(Vec<Self>),
}

impl MetadataCondition {
    /// # Errors
    /// A part is missing, empty, or does not compile.
    pub fn decode(message: proto::MetadataMatcher) -> Result<Self, Invalid> {
        let proto::MetadataMatcher {
            filter,
            path,
            value,
            invert,
        } = message;
        if path.is_empty() {
            return Err(Invalid::at("path", "must not be empty"));
        }
        let path = each("path", path, |segment| {
            use proto::metadata_matcher::path_segment::Segment;
            let Segment::Key(key) = required(segment.segment, "segment")?;
            not_empty(key, "key")
        })?;
        Ok(Self {
            namespace: not_empty(filter, "filter")?,
            path,
            value: ValueCondition::decode(required(value, "value")?, 0).at("value")?,
            invert,
        })
    }

    /// `of` is what the namespace has.
    pub fn holds(&self, of: Option<&MetadataValue>) -> bool {
        let value = of.and_then(|value| value.get(&self.path));
        self.value.holds(value) != self.invert
    }
}

impl ValueCondition {
    /// # Errors
    /// As [`MetadataCondition::decode`].
    pub fn decode(message: proto::ValueMatcher, depth: usize) -> Result<Self, Invalid> {
        use proto::value_matcher::MatchPattern as P;
        let proto::ValueMatcher { match_pattern } = message;
        if depth > DEPTH {
            return Err(parts::fault("is nested too deeply"));
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
            P::StringMatch(matcher) => {
                Self::Text(Test::string(&parts::string(matcher).at("string_match")?))
            }
            P::BoolMatch(wanted) => Self::Bool(wanted),
            P::PresentMatch(wanted) => Self::Present(wanted),
            P::ListMatch(list) => {
                use proto::list_matcher::MatchPattern as L;
                let L::OneOf(of) =
                    required(list.match_pattern, "match_pattern").at("list_match")?;
                let of = Self::decode(*of, depth + 1).at("list_match.one_of")?;
                Self::Element(Box::new(of))
            }
            P::OrMatch(proto::OrMatcher { value_matchers }) => {
                if value_matchers.len() < 2 {
                    let reason = "must have two or more";
                    return Err(Invalid::at("or_match.value_matchers", reason));
                }
                let decode = |matcher| Self::decode(matcher, depth + 1);
                Self::Any(each("value_matchers", value_matchers, decode).at("or_match")?)
            }
        })
    }

    pub fn holds(&self, value: Option<&MetadataValue>) -> bool {
        match (self, value) {
            (Self::Any(any), value) => any.iter().any(|one| one.holds(value)),
            (_, None) => false,
            (Self::Present(wanted), Some(_)) => *wanted,
            (Self::Null, Some(MetadataValue::Null)) => true,
            (Self::Range(start, end), Some(MetadataValue::Number(n))) => (*start..*end).contains(n),
            #[expect(clippy::float_cmp, reason = "the exact value is asked for")]
            (Self::Number(wanted), Some(MetadataValue::Number(n))) => wanted == n,
            (Self::Text(test), Some(MetadataValue::Text(text))) => test.matches(text.as_bytes()),
            (Self::Bool(wanted), Some(MetadataValue::Bool(value))) => wanted == value,
            (Self::Element(of), Some(MetadataValue::List(list))) => {
                list.iter().any(|element| of.holds(Some(element)))
            }
            _ => false,
        }
    }
}
