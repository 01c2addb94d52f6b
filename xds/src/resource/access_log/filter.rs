//! Which requests are logged, and which local replies are rewritten.

use crate::proto::envoy::config::accesslog::v3::access_log_filter::FilterSpecifier;
use crate::proto::envoy::config::accesslog::v3::comparison_filter::Op;
use crate::proto::envoy::config::accesslog::v3::{
    AccessLogFilter, AndFilter, ComparisonFilter, DurationFilter, GrpcStatusFilter, HeaderFilter,
    LogTypeFilter, MetadataFilter, OrFilter, ResponseFlagFilter, RuntimeFilter, StatusCodeFilter,
    grpc_status_filter,
};
use crate::proto::envoy::data::accesslog::v3::AccessLogType;
use crate::proto::envoy::r#type::v3::FractionalPercent;
use crate::proto::envoy::r#type::v3::fractional_percent::DenominatorType;
use crate::reject::Invalid;
use crate::resource::context::{
    At, Context, accept, each, enumeration, fault, flag, not_empty, required,
};
use crate::resource::matcher::HeaderMatcher;

/// How deep filters may be nested; the limit is ours.
const MAX_DEPTH: usize = 16;

/// Every response flag that Envoy knows by its short name.
const FLAGS: [&str; 31] = [
    "LH", "UH", "UT", "LR", "UR", "UF", "UC", "UO", "NR", "DI", "FI", "RL", "UAEX", "RLSE", "DC",
    "URX", "SI", "IH", "DPE", "UMSDR", "RFCF", "NFCF", "DT", "UPE", "NC", "OM", "DF", "DO", "DR",
    "UDO", "SC",
];

/// `envoy.config.accesslog.v3.AccessLogFilter`.
#[derive(Clone, Debug, PartialEq)]
pub enum LogFilter {
    StatusCode(Comparison),
    /// Milliseconds.
    Duration(Comparison),
    /// So many of a million, drawn anew for each request.
    Fraction(u32),
    And(Vec<Self>),
    Or(Vec<Self>),
    Header(HeaderMatcher),
    /// Short names; empty: any flag.
    ResponseFlags(Vec<String>),
    GrpcStatus {
        statuses: Vec<u32>,
        exclude: bool,
    },
    /// Names of `AccessLogType`; a line is written when a request or connection has ended.
    LogType {
        types: Vec<String>,
        exclude: bool,
    },
    /// Always the same, because what it asks for is never there: no request is a health check, none
    /// is traced, and none has metadata.
    Constant(bool),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Comparison {
    pub op: ComparisonOp,
    pub value: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ComparisonOp {
    Equal,
    AtLeast,
    AtMost,
    NotEqual,
}

impl Comparison {
    pub fn holds(self, value: u64) -> bool {
        let limit = u64::from(self.value);
        match self.op {
            ComparisonOp::Equal => value == limit,
            ComparisonOp::AtLeast => value >= limit,
            ComparisonOp::AtMost => value <= limit,
            ComparisonOp::NotEqual => value != limit,
        }
    }

    fn decode(message: Option<ComparisonFilter>, ctx: &Context<'_>) -> Result<Self, Invalid> {
        let ComparisonFilter { op, value } = required(message, "comparison")?;
        let op = match enumeration(op, "op").at("comparison")? {
            Op::Eq => ComparisonOp::Equal,
            Op::Ge => ComparisonOp::AtLeast,
            Op::Le => ComparisonOp::AtMost,
            Op::Ne => ComparisonOp::NotEqual,
        };
        let runtime = required(value, "value").at("comparison")?;
        let runtime_key = not_empty(runtime.runtime_key, "runtime_key")
            .at("value")
            .at("comparison")?;
        accept!(ctx, "RuntimeUInt32": runtime_key);
        Ok(Self {
            op,
            value: runtime.default_value,
        })
    }
}

impl LogFilter {
    pub(crate) fn decode(message: AccessLogFilter, ctx: &Context<'_>) -> Result<Self, Invalid> {
        Self::nested(message, ctx, 0)
    }

    fn nested(message: AccessLogFilter, ctx: &Context<'_>, depth: usize) -> Result<Self, Invalid> {
        if depth > MAX_DEPTH {
            return Err(fault(format!("is nested deeper than {MAX_DEPTH}")));
        }
        let list = |filters: Vec<AccessLogFilter>| {
            if filters.len() < 2 {
                return Err(Invalid::at("filters", "must be two at least"));
            }
            each("filters", filters, |f| Self::nested(f, ctx, depth + 1))
        };
        match required(message.filter_specifier, "filter_specifier")? {
            FilterSpecifier::StatusCodeFilter(StatusCodeFilter { comparison }) => {
                Comparison::decode(comparison, ctx)
                    .at("status_code_filter")
                    .map(Self::StatusCode)
            }
            FilterSpecifier::DurationFilter(DurationFilter { comparison }) => {
                Comparison::decode(comparison, ctx)
                    .at("duration_filter")
                    .map(Self::Duration)
            }
            FilterSpecifier::NotHealthCheckFilter(_) => Ok(Self::Constant(true)),
            FilterSpecifier::TraceableFilter(_) => Ok(Self::Constant(false)),
            FilterSpecifier::RuntimeFilter(filter) => fraction(filter, ctx)
                .at("runtime_filter")
                .map(Self::Fraction),
            FilterSpecifier::AndFilter(AndFilter { filters }) => {
                list(filters).at("and_filter").map(Self::And)
            }
            FilterSpecifier::OrFilter(OrFilter { filters }) => {
                list(filters).at("or_filter").map(Self::Or)
            }
            FilterSpecifier::HeaderFilter(HeaderFilter { header }) => required(header, "header")
                .and_then(|header| HeaderMatcher::decode(header, ctx).at("header"))
                .at("header_filter")
                .map(Self::Header),
            FilterSpecifier::ResponseFlagFilter(ResponseFlagFilter { flags }) => {
                each("flags", flags, |flag| match FLAGS.contains(&&*flag) {
                    true => Ok(flag),
                    false => Err(fault(format!("{flag:?} is not a response flag"))),
                })
                .at("response_flag_filter")
                .map(Self::ResponseFlags)
            }
            FilterSpecifier::GrpcStatusFilter(GrpcStatusFilter { statuses, exclude }) => {
                let statuses = each("statuses", statuses, |status| {
                    enumeration::<grpc_status_filter::Status>(status, "")
                        .map(|status| status as u32)
                        .map_err(|_| fault(format!("{status} is not a known value")))
                });
                Ok(Self::GrpcStatus {
                    statuses: statuses.at("grpc_status_filter")?,
                    exclude,
                })
            }
            FilterSpecifier::MetadataFilter(MetadataFilter {
                matcher: _, // there is nothing that it could match
                match_if_key_not_found,
            }) => Ok(Self::Constant(flag(match_if_key_not_found, true))),
            FilterSpecifier::LogTypeFilter(LogTypeFilter { types, exclude }) => {
                let types = each("types", types, |kind| {
                    AccessLogType::try_from(kind)
                        .map_err(|_| fault(format!("{kind} is not a known value")))
                });
                let types = types.at("log_type_filter")?;
                Ok(Self::LogType {
                    types: types.iter().map(|t| t.as_str_name().to_owned()).collect(),
                    exclude,
                })
            }
            FilterSpecifier::ExtensionFilter(_) => {
                Err(Invalid::at("extension_filter", "not supported yet"))
            }
        }
    }
}

/// What a runtime filter lets through, of a million.
fn fraction(message: RuntimeFilter, ctx: &Context<'_>) -> Result<u32, Invalid> {
    let RuntimeFilter {
        runtime_key,
        percent_sampled,
        use_independent_randomness,
    } = message;
    let runtime_key = not_empty(runtime_key, "runtime_key")?;
    accept!(ctx, "RuntimeFilter": runtime_key, use_independent_randomness);
    let FractionalPercent {
        numerator,
        denominator,
    } = percent_sampled.unwrap_or_default();
    let scale = match enumeration(denominator, "denominator").at("percent_sampled")? {
        DenominatorType::Hundred => 10_000,
        DenominatorType::TenThousand => 100,
        DenominatorType::Million => 1,
    };
    Ok(numerator.saturating_mul(scale).min(1_000_000))
}
