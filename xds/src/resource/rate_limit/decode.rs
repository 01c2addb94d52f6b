//! From the message to the typed entry.

use super::{Action, MetadataKey, MetadataOf, Override, RateLimit, Unit};
use crate::extension::Unchecked;
use crate::proto::core::CidrRange;
use crate::proto::envoy::r#type::matcher::v3::AddressMatcher;
use crate::proto::envoy::r#type::metadata::v3::{self as metadata, metadata_key};
use crate::proto::envoy::r#type::v3::RateLimitUnit;
use crate::proto::route;
use crate::proto::route::rate_limit::action::{self, ActionSpecifier, meta_data};
use crate::proto::route::rate_limit::r#override::{DynamicMetadata, OverrideSpecifier};
use crate::proto::route::rate_limit::{self as message, XRateLimitOption};
use crate::reject::Invalid;
use crate::resource::address::network;
use crate::resource::context::{
    At, Context, accept, each, enumeration, fault, flag, not_empty, number, refuse, required,
};
use crate::resource::headers::header_or_pseudo_name;
use crate::resource::matcher::{HeaderMatcher, QueryMatcher};

impl RateLimit {
    /// An entry that a filter's configuration carries.
    ///
    /// # Errors
    /// What is wrong with it, or not supported.
    pub fn read(message: route::RateLimit) -> Result<Self, Invalid> {
        Self::decode(message, &Context::new(&Unchecked))
    }

    pub(crate) fn decode(message: route::RateLimit, ctx: &Context<'_>) -> Result<Self, Invalid> {
        const MAX_STAGE: u32 = 10;
        let route::RateLimit {
            stage,
            disable_key,
            actions,
            limit,
            hits_addend,
            apply_on_stream_done,
            x_ratelimit_option,
        } = message;
        refuse!(apply_on_stream_done);
        if actions.is_empty() {
            return Err(Invalid::at("actions", "must not be empty"));
        }
        Ok(Self {
            stage: number(stage, "stage", 0..=MAX_STAGE)?.unwrap_or(0),
            disable_key,
            actions: each("actions", actions, |action| Action::decode(action, ctx))?,
            limit: limit.map(Override::decode).transpose().at("limit")?,
            hits: hits_addend
                .map(hits)
                .transpose()
                .at("hits_addend")?
                .flatten(),
            headers: match enumeration(x_ratelimit_option, "x_ratelimit_option")? {
                XRateLimitOption::Unspecified => None,
                XRateLimitOption::Off => Some(false),
                XRateLimitOption::DraftVersion03 => Some(true),
            },
        })
    }

    pub(crate) fn decode_all(
        list: Vec<route::RateLimit>,
        ctx: &Context<'_>,
    ) -> Result<Vec<Self>, Invalid> {
        each("rate_limits", list, |limit| Self::decode(limit, ctx))
    }
}

fn hits(message: message::HitsAddend) -> Result<Option<u64>, Invalid> {
    // The bound of the message definition.
    const MAX: u64 = 1_000_000_000;
    let message::HitsAddend {
        number,
        format,
        is_negative_hits,
    } = message;
    refuse!(format, is_negative_hits);
    match number.map(|n| n.value) {
        Some(n) if n > MAX => Err(Invalid::at("number", format!("{n} is more than {MAX}"))),
        n => Ok(n),
    }
}

impl Action {
    #[allow(deprecated, reason = "`dynamic_metadata` is still written")]
    fn decode(message: message::Action, ctx: &Context<'_>) -> Result<Self, Invalid> {
        use ActionSpecifier as A;
        let message::Action { action_specifier } = message;
        match required(action_specifier, "action_specifier")? {
            A::SourceCluster(action::SourceCluster {}) => Ok(Self::SourceCluster),
            A::DestinationCluster(action::DestinationCluster {}) => Ok(Self::DestinationCluster),
            A::RemoteAddress(action::RemoteAddress {}) => Ok(Self::RemoteAddress),
            A::RequestHeaders(of) => request_header(of).at("request_headers"),
            A::QueryParameters(of) => query_parameter(of).at("query_parameters"),
            A::MaskedRemoteAddress(of) => masked(&of).at("masked_remote_address"),
            A::GenericKey(of) => generic_key(of, ctx).at("generic_key"),
            A::HeaderValueMatch(of) => header_match(of, ctx).at("header_value_match"),
            A::QueryParameterValueMatch(of) => {
                query_match(of, ctx).at("query_parameter_value_match")
            }
            A::RemoteAddressMatch(of) => address_match(of, ctx).at("remote_address_match"),
            A::DynamicMetadata(of) => dynamic_metadata(of).at("dynamic_metadata"),
            A::Metadata(of) => metadata_entry(of).at("metadata"),
            A::Extension(_) => Err(Invalid::at("extension", "not supported yet")),
        }
    }
}

fn or(key: String, default: &str) -> String {
    match key.is_empty() {
        true => default.to_owned(),
        false => key,
    }
}

fn request_header(message: action::RequestHeaders) -> Result<Action, Invalid> {
    let action::RequestHeaders {
        header_name,
        descriptor_key,
        skip_if_absent,
    } = message;
    Ok(Action::RequestHeader {
        header: header_or_pseudo_name(&header_name).at("header_name")?,
        key: not_empty(descriptor_key, "descriptor_key")?,
        skip_if_absent,
    })
}

fn query_parameter(message: action::QueryParameters) -> Result<Action, Invalid> {
    let action::QueryParameters {
        query_parameter_name,
        descriptor_key,
        skip_if_absent,
    } = message;
    Ok(Action::QueryParameter {
        parameter: not_empty(query_parameter_name, "query_parameter_name")?,
        key: not_empty(descriptor_key, "descriptor_key")?,
        skip_if_absent,
    })
}

fn masked(message: &action::MaskedRemoteAddress) -> Result<Action, Invalid> {
    let action::MaskedRemoteAddress {
        v4_prefix_mask_len: v4,
        v6_prefix_mask_len: v6,
    } = *message;
    let length = |given, field, max: u8| {
        let length = number(given, field, 0..=max.into())?;
        Ok(length.and_then(|n| u8::try_from(n).ok()).unwrap_or(max))
    };
    Ok(Action::MaskedRemoteAddress {
        v4: length(v4, "v4_prefix_mask_len", 32)?,
        v6: length(v6, "v6_prefix_mask_len", 128)?,
    })
}

// The values are texts and no formats: that is behind a flag of the runtime which is off by default,
// and `default_value` has a meaning for formats only.

fn generic_key(message: action::GenericKey, ctx: &Context<'_>) -> Result<Action, Invalid> {
    let action::GenericKey {
        descriptor_value,
        default_value,
        descriptor_key,
    } = message;
    accept!(ctx, "RateLimit.Action.GenericKey": default_value);
    Ok(Action::GenericKey {
        key: or(descriptor_key, "generic_key"),
        value: not_empty(descriptor_value, "descriptor_value")?,
    })
}

fn header_match(message: action::HeaderValueMatch, ctx: &Context<'_>) -> Result<Action, Invalid> {
    let action::HeaderValueMatch {
        descriptor_value,
        default_value,
        descriptor_key,
        expect_match,
        headers,
    } = message;
    accept!(ctx, "RateLimit.Action.HeaderValueMatch": default_value);
    if headers.is_empty() {
        return Err(Invalid::at("headers", "must not be empty"));
    }
    Ok(Action::HeaderMatch {
        key: or(descriptor_key, "header_match"),
        value: not_empty(descriptor_value, "descriptor_value")?,
        expect: flag(expect_match, true),
        headers: each("headers", headers, |h| HeaderMatcher::decode(h, ctx))?,
    })
}

fn query_match(
    message: action::QueryParameterValueMatch,
    ctx: &Context<'_>,
) -> Result<Action, Invalid> {
    let action::QueryParameterValueMatch {
        descriptor_value,
        default_value,
        descriptor_key,
        expect_match,
        query_parameters,
    } = message;
    accept!(ctx, "RateLimit.Action.QueryParameterValueMatch": default_value);
    if query_parameters.is_empty() {
        return Err(Invalid::at("query_parameters", "must not be empty"));
    }
    Ok(Action::QueryMatch {
        key: or(descriptor_key, "query_match"),
        value: not_empty(descriptor_value, "descriptor_value")?,
        expect: flag(expect_match, true),
        parameters: each("query_parameters", query_parameters, |parameter| {
            QueryMatcher::decode(parameter, ctx)
        })?,
    })
}

fn address_match(
    message: action::RemoteAddressMatch,
    ctx: &Context<'_>,
) -> Result<Action, Invalid> {
    let action::RemoteAddressMatch {
        descriptor_value,
        descriptor_key,
        default_value,
        address_matcher,
    } = message;
    accept!(ctx, "RateLimit.Action.RemoteAddressMatch": default_value);
    let AddressMatcher {
        ranges,
        invert_match,
    } = required(address_matcher, "address_matcher")?;
    let ranges = each("ranges", ranges, |range| {
        network(CidrRange {
            address_prefix: range.address_prefix,
            prefix_len: range.prefix_len,
        })
    });
    Ok(Action::AddressMatch {
        key: or(descriptor_key, "remote_address_match"),
        value: not_empty(descriptor_value, "descriptor_value")?,
        invert: invert_match,
        ranges: ranges.at("address_matcher")?,
    })
}

fn dynamic_metadata(message: action::DynamicMetaData) -> Result<Action, Invalid> {
    let action::DynamicMetaData {
        descriptor_key,
        metadata_key,
        default_value,
    } = message;
    Ok(Action::Metadata {
        key: not_empty(descriptor_key, "descriptor_key")?,
        at: MetadataKey::decode(required(metadata_key, "metadata_key")?).at("metadata_key")?,
        from: MetadataOf::Request,
        default: default_value,
        skip_if_absent: false,
    })
}

fn metadata_entry(message: action::MetaData) -> Result<Action, Invalid> {
    use meta_data::Source;
    let action::MetaData {
        descriptor_key,
        metadata_key,
        default_value,
        source,
        skip_if_absent,
    } = message;
    Ok(Action::Metadata {
        key: not_empty(descriptor_key, "descriptor_key")?,
        at: MetadataKey::decode(required(metadata_key, "metadata_key")?).at("metadata_key")?,
        from: match enumeration(source, "source")? {
            Source::Dynamic => MetadataOf::Request,
            Source::RouteEntry => MetadataOf::Route,
            Source::ClusterEntry | Source::ClusterLocalityEntry => {
                return Err(Invalid::at("source", "not supported yet"));
            }
        },
        default: default_value,
        skip_if_absent,
    })
}

impl MetadataKey {
    pub(crate) fn decode(message: metadata::MetadataKey) -> Result<Self, Invalid> {
        use metadata_key::{PathSegment, path_segment::Segment};
        let metadata::MetadataKey { key, path } = message;
        if path.is_empty() {
            return Err(Invalid::at("path", "must not be empty"));
        }
        let segment = |PathSegment { segment }| match required(segment, "segment")? {
            Segment::Key(key) => not_empty(key, "key"),
            Segment::Index(_) => Err(Invalid::at("index", "not supported yet")),
        };
        Ok(Self {
            namespace: not_empty(key, "key")?,
            path: each("path", path, segment)?,
        })
    }
}

impl Override {
    fn decode(message: message::Override) -> Result<Self, Invalid> {
        let message::Override { override_specifier } = message;
        match required(override_specifier, "override_specifier")? {
            OverrideSpecifier::DynamicMetadata(DynamicMetadata { metadata_key }) => {
                let key = required(metadata_key, "metadata_key").and_then(MetadataKey::decode);
                Ok(Self::DynamicMetadata(key.at("dynamic_metadata")?))
            }
            OverrideSpecifier::RateLimit(limit) => Ok(Self::Limit {
                requests: limit.requests_per_unit,
                unit: Unit::decode(limit.unit).at("unit").at("rate_limit")?,
            }),
        }
    }
}

impl Unit {
    fn decode(unit: i32) -> Result<Self, Invalid> {
        let unit = RateLimitUnit::try_from(unit).unwrap_or(RateLimitUnit::Unknown);
        Self::of(unit).ok_or_else(|| fault("must be a unit of time"))
    }

    pub(super) fn of(unit: RateLimitUnit) -> Option<Self> {
        Some(match unit {
            RateLimitUnit::Unknown => return None,
            RateLimitUnit::Second => Self::Second,
            RateLimitUnit::Minute => Self::Minute,
            RateLimitUnit::Hour => Self::Hour,
            RateLimitUnit::Day => Self::Day,
            RateLimitUnit::Month => Self::Month,
            RateLimitUnit::Year => Self::Year,
        })
    }
}
