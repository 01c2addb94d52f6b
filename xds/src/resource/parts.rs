//! What the configurations of filters share with resources, for the program, which decodes them.
//!
//! The functions decode one part each; the faults they report are relative to it. The helpers are
//! those of the decoders here: a filter takes its messages apart without `..` as well, and names
//! what it cannot do in [`refuse!`](crate::refuse).

use std::time::Duration;

use ipnet::IpNet;

use super::context::Context;
pub use super::context::{
    At, duration, each, enumeration, fault, flag, is_default, not_empty, number, percent, required,
    unknown_type, unpack,
};
use super::format::{Format, FormatString};
use super::fraction::RuntimeFraction;
use super::headers;
pub use super::headers::{AppendAction, HeaderEdit, HeaderMutation};
use super::matcher::value::MetadataMatcher;
use super::matcher::{self as matchers, HeaderMatcher, StringMatcher};
use super::metadata::MetadataValue;
use super::rate_limit::MetadataKey;
use super::route::{PathTemplate, Redirect, RouteMatch};
use super::tls::{DataSource, SecretRef};
use crate::extension::Unchecked;
use crate::proto::core::grpc_service::{EnvoyGrpc, TargetSpecifier};
use crate::proto::core::header_value_option::HeaderAppendAction;
use crate::proto::core::http_uri::HttpUpstreamType;
use crate::proto::core::{
    self, HeaderValue, HeaderValueOption, RuntimeFeatureFlag, RuntimeFractionalPercent,
};
use crate::proto::envoy::config::common::mutation_rules::v3 as rules;
use crate::proto::envoy::r#type::matcher::v3 as matcher;
use crate::proto::envoy::r#type::metadata::v3 as metadata;
use crate::proto::{BoolValue, Struct, route, tls};
use crate::refuse;
use crate::reject::Invalid;

fn context() -> Context<'static> {
    Context::new(&Unchecked)
}

/// # Errors
/// What is wrong with it, or not supported; as for all that follow.
pub fn route_match(message: route::RouteMatch) -> Result<RouteMatch, Invalid> {
    RouteMatch::decode(message, &context())
}

pub fn redirect(message: route::RedirectAction) -> Result<Redirect, Invalid> {
    Redirect::decode(message, &context())
}

pub fn header_matcher(message: route::HeaderMatcher) -> Result<HeaderMatcher, Invalid> {
    HeaderMatcher::decode(message, &context())
}

pub fn string_matcher(message: matcher::StringMatcher) -> Result<StringMatcher, Invalid> {
    StringMatcher::decode(message, &context())
}

/// `envoy.type.matcher.v3.ListStringMatcher`: one of them is enough.
pub fn string_matchers(message: matcher::ListStringMatcher) -> Result<Vec<StringMatcher>, Invalid> {
    let matcher::ListStringMatcher { patterns } = message;
    if patterns.is_empty() {
        return Err(Invalid::at("patterns", "must not be empty"));
    }
    each("patterns", patterns, string_matcher)
}

pub fn runtime_fraction(message: RuntimeFractionalPercent) -> Result<RuntimeFraction, Invalid> {
    RuntimeFraction::decode(message)
}

pub fn metadata_key(message: metadata::MetadataKey) -> Result<MetadataKey, Invalid> {
    MetadataKey::decode(message)
}

pub fn metadata_value(message: Struct) -> MetadataValue {
    MetadataValue::object(message)
}

pub fn header_edits(
    messages: Vec<HeaderValueOption>,
    field: &str,
) -> Result<Vec<HeaderEdit>, Invalid> {
    headers::additions(messages, field)
}

pub fn header_edit(message: HeaderValueOption) -> Result<HeaderEdit, Invalid> {
    HeaderEdit::decode(message)
}

/// A header that a service asks for while a request waits: its name in lower case, its value, and what
/// happens where it is there. `None`: it has no name.
#[allow(deprecated, reason = "`append` is what services write")]
pub fn asked_header(message: HeaderValueOption) -> Option<(String, Vec<u8>, AppendAction)> {
    let HeaderValueOption {
        header,
        append,
        append_action,
        keep_empty_value: _, // not looked at, in Envoy neither
    } = message;
    let HeaderValue {
        key,
        value,
        raw_value,
    } = header?;
    let value = match raw_value.is_empty() {
        true => value.into_bytes(),
        false => raw_value,
    };
    let action = match append.map(|append| append.value) {
        Some(true) => AppendAction::AppendOrAdd,
        Some(false) => AppendAction::OverwriteOrAdd,
        None => match HeaderAppendAction::try_from(append_action) {
            Ok(HeaderAppendAction::AddIfAbsent) => AppendAction::AddIfAbsent,
            Ok(HeaderAppendAction::OverwriteIfExists) => AppendAction::OverwriteIfExists,
            // Appending is the zero of the enumeration, and so not to be told from no word at all.
            _ => AppendAction::OverwriteOrAdd,
        },
    };
    (!key.is_empty()).then(|| (key.to_ascii_lowercase(), value, action))
}

pub fn header_mutation(message: rules::HeaderMutation) -> Result<HeaderMutation, Invalid> {
    HeaderMutation::decode(message, &context())
}

pub fn metadata_matcher(message: matcher::MetadataMatcher) -> Result<MetadataMatcher, Invalid> {
    MetadataMatcher::decode(message, &context())
}

/// Pattern and substitution, the latter in the syntax of the `regex` crate.
pub fn substitution(
    message: matcher::RegexMatchAndSubstitute,
) -> Result<(String, String), Invalid> {
    matchers::substitution(message, &context())
}

/// A template of paths, as an extension.
pub fn path_template(message: core::TypedExtensionConfig) -> Result<PathTemplate, Invalid> {
    PathTemplate::decode(message)
}

pub fn network(message: core::CidrRange) -> Result<IpNet, Invalid> {
    super::address::network(message)
}

/// The name of a header that may be changed: not `host`, no pseudo header.
pub fn editable_name(name: String) -> Result<String, Invalid> {
    headers::editable_name(name)
}

/// A substitution format, or an object of them.
pub fn format_string(message: core::SubstitutionFormatString) -> Result<FormatString, Invalid> {
    FormatString::decode(message, &context())
}

/// A substitution format.
pub fn format(text: &str) -> Result<Format, Invalid> {
    Format::parse(text)
}

/// A header name in lower case (RFC 9110 section 5.1).
pub fn header_name(name: &str) -> Result<String, Invalid> {
    headers::header_name(name)
}

/// A text that can be sent as the value of a header, with commands in it.
pub fn header_format(value: &str) -> Result<Format, Invalid> {
    headers::header_value(value)?;
    Format::parse(value)
}

/// A text that can be sent as the value of a header.
pub fn header_value(value: String) -> Result<String, Invalid> {
    headers::header_value(&value).map(|()| value)
}

/// A secret by name, and where it comes from.
pub fn secret_ref(message: tls::SdsSecretConfig) -> Result<SecretRef, Invalid> {
    SecretRef::decode(message, &context())
}

/// The bytes of a data source, which are needed at once; no more than `max`.
pub fn data(message: core::DataSource, max: usize) -> Result<Vec<u8>, Invalid> {
    DataSource::decode(message)?.load(max)
}

/// The bytes of a decoded data source; no more than `max`.
pub fn source(source: &DataSource, max: usize) -> Result<Vec<u8>, Invalid> {
    source.clone().load(max)
}

/// `envoy.config.core.v3.RuntimeFeatureFlag`: the default, and the key that overrides it.
pub fn feature_flag(message: RuntimeFeatureFlag) -> Result<(bool, String), Invalid> {
    let RuntimeFeatureFlag {
        default_value,
        runtime_key,
    } = message;
    let BoolValue { value } = required(default_value, "default_value")?;
    Ok((value, not_empty(runtime_key, "runtime_key")?))
}

/// `envoy.config.core.v3.HttpUri`: a request to a cluster of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpUri {
    /// Absolute, or without its scheme; whether it is a URI is for who parses it to say.
    pub uri: String,
    pub cluster: String,
    pub timeout: Duration,
}

impl HttpUri {
    /// # Errors
    /// As above.
    pub fn decode(message: core::HttpUri) -> Result<Self, Invalid> {
        // The bound of the message definition.
        const MAX_TIMEOUT: Duration = Duration::from_secs(1 << 32);
        let core::HttpUri {
            uri,
            timeout,
            http_upstream_type,
        } = message;
        let HttpUpstreamType::Cluster(cluster) =
            required(http_upstream_type, "http_upstream_type")?;
        let timeout = required(duration(timeout, "timeout")?, "timeout")?;
        if timeout >= MAX_TIMEOUT {
            return Err(Invalid::at("timeout", "is too long"));
        }
        Ok(Self {
            uri: not_empty(uri, "uri")?,
            cluster: not_empty(cluster, "cluster")?,
            timeout,
        })
    }
}

/// `envoy.config.core.v3.GrpcService` by `envoy_grpc`: calls to a cluster of ours.
#[derive(Clone, PartialEq, Eq)]
pub struct GrpcService {
    pub cluster: String,
    /// The `:authority` to send; empty sends the name of the cluster.
    pub authority: String,
    /// `None` where the field is absent; what that means is for the filter to say.
    pub timeout: Option<Duration>,
    /// Sent with each call.
    pub metadata: Vec<(String, String)>,
}

/// Values of metadata may be credentials.
impl std::fmt::Debug for GrpcService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.metadata.iter().map(|(name, _)| name).collect();
        f.debug_struct("GrpcService")
            .field("cluster", &self.cluster)
            .field("authority", &self.authority)
            .field("timeout", &self.timeout)
            .field("metadata", &names)
            .finish()
    }
}

impl GrpcService {
    /// # Errors
    /// As above.
    pub fn decode(message: core::GrpcService) -> Result<Self, Invalid> {
        let core::GrpcService {
            timeout,
            initial_metadata,
            retry_policy,
            target_specifier,
        } = message;
        refuse!(retry_policy);
        let metadatum = |message| {
            let HeaderValue {
                key,
                value,
                raw_value,
            } = message;
            refuse!(raw_value);
            let name = header_name(&key).at("key")?;
            Ok((name, header_value(value).at("value")?))
        };
        let metadata = each("initial_metadata", initial_metadata, metadatum)?;
        let timeout = duration(timeout, "timeout")?;
        let target = match required(target_specifier, "target_specifier")? {
            TargetSpecifier::EnvoyGrpc(target) => target,
            TargetSpecifier::GoogleGrpc(_) => {
                return Err(Invalid::at("google_grpc", "not supported yet"));
            }
        };
        let EnvoyGrpc {
            cluster_name,
            authority,
            retry_policy,
            max_receive_message_length,
            // Such headers are added nowhere.
            skip_envoy_headers: _,
        } = target;
        let within = || {
            refuse!(retry_policy, max_receive_message_length);
            not_empty(cluster_name, "cluster_name")
        };
        Ok(Self {
            cluster: within().at("envoy_grpc")?,
            authority,
            timeout,
            metadata,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto;

    #[test]
    fn a_uri_has_a_cluster_and_a_deadline() {
        let uri = |seconds| core::HttpUri {
            uri: "https://a.test/k".into(),
            timeout: Some(proto::Duration { seconds, nanos: 0 }),
            http_upstream_type: Some(HttpUpstreamType::Cluster("c".into())),
        };
        let decoded = HttpUri::decode(uri(1)).unwrap();
        assert_eq!(decoded.timeout, Duration::from_secs(1));
        let error = |message| HttpUri::decode(message).unwrap_err().to_string();
        assert_eq!(error(uri(1 << 32)), "timeout: is too long");
        let mut endless = uri(1);
        endless.timeout = None;
        assert_eq!(error(endless), "timeout: must be given");
    }

    #[test]
    fn a_service_shows_no_values_of_its_metadata() {
        let service = core::GrpcService {
            initial_metadata: vec![core::HeaderValue {
                key: "Authorization".into(),
                value: "s3cret".into(),
                ..Default::default()
            }],
            target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
                cluster_name: "c".into(),
                ..Default::default()
            })),
            ..Default::default()
        };
        let service = GrpcService::decode(service).unwrap();
        assert_eq!(
            service.metadata,
            [("authorization".into(), "s3cret".into())]
        );
        assert!(!format!("{service:?}").contains("s3cret"));
    }
}
