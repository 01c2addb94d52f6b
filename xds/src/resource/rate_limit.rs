//! Rate limit actions: what a request is counted by (`envoy.config.route.v3.RateLimit`).
//!
//! Routes, virtual hosts and the filters that limit rates carry them. Each entry makes at most one
//! descriptor, a list of keys and values, from the facts of a request.

use ipnet::IpNet;

use super::address::network;
use super::context::{
    At, Context, accept, each, enumeration, fault, flag, not_empty, number, refuse, required,
};
use super::headers::header_or_pseudo_name;
use super::matcher::{HeaderMatcher, QueryMatcher};
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

/// `envoy.config.route.v3.RateLimit`.
#[derive(Clone, Debug, PartialEq)]
pub struct RateLimit {
    /// Counts for filters of this stage only; 0 to 10.
    pub stage: u32,
    /// Runtime key `ratelimit.<key>.http_filter_enabled`, a percentage, may switch it off; may be
    /// empty.
    pub disable_key: String,
    /// In order; each adds one entry. Never empty.
    pub actions: Vec<Action>,
    /// Told to the service instead of the limit that it has.
    pub limit: Option<Override>,
    /// How much one request counts; 1 if it is not given.
    pub hits: Option<u64>,
    /// Whether `x-ratelimit-*` headers speak of this limit; `None`: as the filter says.
    pub headers: Option<bool>,
}

/// `envoy.config.route.v3.RateLimit.Action`.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Entry `source_cluster`: `node.cluster` of this program.
    SourceCluster,
    /// Entry `destination_cluster`: the cluster that the route chooses.
    DestinationCluster,
    RequestHeader {
        /// Lower case; may be a pseudo header.
        header: String,
        key: String,
        /// A header that is missing leaves out the entry and not the whole descriptor.
        skip_if_absent: bool,
    },
    QueryParameter {
        parameter: String,
        key: String,
        skip_if_absent: bool,
    },
    /// Entry `remote_address`: the client's address.
    RemoteAddress,
    /// Entry `masked_remote_address`: the client's network, as `192.0.2.0/24`.
    MaskedRemoteAddress {
        v4: u8,
        v6: u8,
    },
    GenericKey {
        key: String,
        value: String,
    },
    HeaderMatch {
        key: String,
        value: String,
        expect: bool,
        headers: Vec<HeaderMatcher>,
    },
    QueryMatch {
        key: String,
        value: String,
        expect: bool,
        parameters: Vec<QueryMatcher>,
    },
    AddressMatch {
        key: String,
        value: String,
        invert: bool,
        ranges: Vec<IpNet>,
    },
    Metadata {
        key: String,
        at: MetadataKey,
        from: MetadataOf,
        /// May be empty.
        default: String,
        skip_if_absent: bool,
    },
}

/// Whose metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetadataOf {
    Request,
    Route,
}

/// `envoy.type.metadata.v3.MetadataKey`: a namespace and keys into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetadataKey {
    pub namespace: String,
    pub path: Vec<String>,
}

/// `envoy.config.route.v3.RateLimit.Override`.
#[derive(Clone, Debug, PartialEq)]
pub enum Override {
    Limit {
        requests: u32,
        unit: Unit,
    },
    /// A structure with `requests_per_unit` and `unit`.
    DynamicMetadata(MetadataKey),
}

/// `envoy.type.v3.RateLimitUnit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Second,
    Minute,
    Hour,
    Day,
    Month,
    Year,
}

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

    fn of(unit: RateLimitUnit) -> Option<Self> {
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

    /// By the name that dynamic metadata and the service use.
    pub fn named(name: &str) -> Option<Self> {
        RateLimitUnit::from_str_name(name).and_then(Self::of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::UInt32Value;

    fn of(actions: Vec<ActionSpecifier>) -> route::RateLimit {
        let action = |specifier| message::Action {
            action_specifier: Some(specifier),
        };
        route::RateLimit {
            actions: actions.into_iter().map(action).collect(),
            ..Default::default()
        }
    }

    fn refused(message: route::RateLimit) -> String {
        RateLimit::read(message).unwrap_err().to_string()
    }

    #[test]
    fn keys_have_the_defaults_that_the_service_expects() {
        let limit = RateLimit::read(of(vec![
            ActionSpecifier::GenericKey(action::GenericKey {
                descriptor_value: "v".into(),
                ..Default::default()
            }),
            ActionSpecifier::MaskedRemoteAddress(action::MaskedRemoteAddress {
                v4_prefix_mask_len: Some(UInt32Value { value: 24 }),
                v6_prefix_mask_len: None,
            }),
        ]))
        .unwrap();
        let expected = [
            Action::GenericKey {
                key: "generic_key".into(),
                value: "v".into(),
            },
            Action::MaskedRemoteAddress { v4: 24, v6: 128 },
        ];
        assert_eq!(limit.actions, expected);
        assert_eq!(limit.stage, 0);
        assert_eq!(limit.headers, None);
    }

    #[test]
    fn what_cannot_be_done_is_refused_by_name() {
        assert_eq!(refused(of(vec![])), "actions: must not be empty");
        let generic = || ActionSpecifier::RemoteAddress(action::RemoteAddress {});
        let mut late = of(vec![generic()]);
        late.stage = Some(UInt32Value { value: 11 });
        assert_eq!(refused(late), "stage: 11 is not within 0 and 10");
        let mut done = of(vec![generic()]);
        done.apply_on_stream_done = true;
        assert_eq!(refused(done), "apply_on_stream_done: not supported yet");
        let nameless = ActionSpecifier::RequestHeaders(action::RequestHeaders {
            header_name: "x-a".into(),
            ..Default::default()
        });
        assert_eq!(
            refused(of(vec![generic(), nameless])),
            "actions[1].request_headers.descriptor_key: must not be empty"
        );
        let of_cluster = ActionSpecifier::Metadata(action::MetaData {
            descriptor_key: "k".into(),
            source: meta_data::Source::ClusterEntry as i32,
            metadata_key: Some(metadata::MetadataKey {
                key: "n".into(),
                path: vec![metadata_key::PathSegment {
                    segment: Some(metadata_key::path_segment::Segment::Key("a".into())),
                }],
            }),
            ..Default::default()
        });
        assert_eq!(
            refused(of(vec![of_cluster])),
            "actions[0].metadata.source: not supported yet"
        );
    }

    #[test]
    fn an_override_names_a_unit() {
        let mut limit = of(vec![ActionSpecifier::RemoteAddress(
            action::RemoteAddress {},
        )]);
        let specifier = |unit| message::Override {
            override_specifier: Some(OverrideSpecifier::RateLimit(
                message::r#override::RateLimitOverride {
                    requests_per_unit: 5,
                    unit,
                },
            )),
        };
        limit.limit = Some(specifier(RateLimitUnit::Hour as i32));
        let unit = Unit::Hour;
        let expected = Some(Override::Limit { requests: 5, unit });
        assert_eq!(RateLimit::read(limit.clone()).unwrap().limit, expected);
        limit.limit = Some(specifier(0));
        let error = "limit.rate_limit.unit: must be a unit of time";
        assert_eq!(refused(limit), error);
    }
}
