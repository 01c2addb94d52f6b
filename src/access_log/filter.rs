//! Whether a request is logged, or a local reply rewritten.

use std::borrow::Cow;

use causeway_xds::resource::access_log::{Comparison, LogFilter};
use causeway_xds::resource::format::Fact;
use http::header::HeaderName;

use crate::formatter::{Facts, Key, Value, Wants, grpc_status_number};
use crate::route::matcher::HeaderCondition;

/// A filter, compiled.
#[derive(Debug)]
pub enum Filter {
    StatusCode(Comparison),
    /// Milliseconds.
    Duration(Comparison),
    /// So many of a million.
    Fraction(u32),
    All(Vec<Self>),
    Any(Vec<Self>),
    Header(HeaderCondition),
    /// Short names; empty: any flag.
    ResponseFlags(Vec<String>),
    GrpcStatus {
        statuses: Vec<u32>,
        exclude: bool,
    },
    LogType {
        types: Vec<String>,
        exclude: bool,
    },
    Constant(bool),
}

impl Filter {
    pub fn compile(model: &LogFilter) -> Self {
        let list = |filters: &[LogFilter]| filters.iter().map(Self::compile).collect();
        match model {
            LogFilter::StatusCode(comparison) => Self::StatusCode(*comparison),
            LogFilter::Duration(comparison) => Self::Duration(*comparison),
            LogFilter::Fraction(fraction) => Self::Fraction(*fraction),
            LogFilter::And(filters) => Self::All(list(filters)),
            LogFilter::Or(filters) => Self::Any(list(filters)),
            LogFilter::Header(matcher) => Self::Header(HeaderCondition::compile(matcher)),
            LogFilter::ResponseFlags(flags) => Self::ResponseFlags(flags.clone()),
            LogFilter::GrpcStatus { statuses, exclude } => Self::GrpcStatus {
                statuses: statuses.clone(),
                exclude: *exclude,
            },
            LogFilter::LogType { types, exclude } => Self::LogType {
                types: types.clone(),
                exclude: *exclude,
            },
            LogFilter::Constant(holds) => Self::Constant(*holds),
        }
    }

    /// Adds what it needs to have kept.
    pub fn note(&self, wants: &mut Wants) {
        wants.anything = true;
        match self {
            Self::All(filters) | Self::Any(filters) => filters.iter().for_each(|f| f.note(wants)),
            Self::Header(condition) => {
                if let Some(key) = Key::parse(condition.name()) {
                    wants.request(&key);
                }
            }
            Self::GrpcStatus { .. } => {
                let status = Key::Field(HeaderName::from_static("grpc-status"));
                wants.response(&status);
                wants.trailer(&status);
            }
            _ => {}
        }
    }

    pub fn holds(&self, facts: &dyn Facts) -> bool {
        let number = |fact| match facts.fact(fact) {
            Value::Number(number) => number,
            _ => 0,
        };
        match self {
            Self::StatusCode(comparison) => comparison.holds(number(Fact::ResponseCode)),
            Self::Duration(comparison) => comparison.holds(number(Fact::Duration)),
            Self::Fraction(fraction) => fastrand::u32(..1_000_000) < *fraction,
            Self::All(filters) => filters.iter().all(|f| f.holds(facts)),
            Self::Any(filters) => filters.iter().any(|f| f.holds(facts)),
            Self::Header(condition) => {
                let value = field(facts, condition.name());
                condition.holds(value.as_deref().into_iter())
            }
            Self::ResponseFlags(wanted) => match facts.fact(Fact::ResponseFlags) {
                Value::Text(flags) if flags != "-" => {
                    wanted.is_empty() || flags.split(',').any(|f| wanted.iter().any(|w| w == f))
                }
                _ => false,
            },
            Self::GrpcStatus { statuses, exclude } => {
                let status = grpc_status_number(facts);
                let named = status.is_some_and(|s| statuses.iter().any(|w| u64::from(*w) == s));
                named != *exclude
            }
            Self::LogType { types, exclude } => {
                let kind = facts.fact(Fact::AccessLogType);
                let named = types.iter().any(|t| kind == Value::Text(t.as_str().into()));
                named != *exclude
            }
            Self::Constant(holds) => *holds,
        }
    }
}

/// A field of the request.
fn field<'f>(facts: &'f dyn Facts, name: &str) -> Option<Cow<'f, [u8]>> {
    match facts.request(&Key::parse(name)?) {
        Value::Bytes(bytes) => Some(bytes),
        Value::Text(text) => Some(Cow::Owned(text.into_owned().into_bytes())),
        Value::Kept(value) => Some(Cow::Owned(value.as_bytes().to_vec())),
        _ => None,
    }
}
