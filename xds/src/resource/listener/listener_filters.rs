//! Listener filters: message to typed.

use std::ops::RangeInclusive;

use crate::proto::core::proxy_protocol_config::Version;
use crate::proto::envoy::extensions::filters::listener as filters;
use crate::proto::envoy::extensions::filters::listener::proxy_protocol::v3::proxy_protocol::key_value_pair::ValueStringEncoding;
use crate::proto::envoy::extensions::filters::listener::proxy_protocol::v3::proxy_protocol::{
    KeyValuePair, Rule, TlvLocation,
};
use crate::proto::listener::listener_filter_chain_match_predicate::{self as predicate, MatchSet};
use crate::proto::listener::{self, ListenerFilterChainMatchPredicate, listener_filter};
use crate::reject::Invalid;
use crate::resource::context::{
    At, Context, accept, each, enumeration, not_empty, number, refuse, refuse_true, required,
    unknown_type, unpack,
};
use crate::resource::tlv::{self, PassTlvs};
use crate::type_url::message_name;

const TLS_INSPECTOR: &str = "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector";
const HTTP_INSPECTOR: &str = "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector";
const ORIGINAL_DST: &str = "envoy.extensions.filters.listener.original_dst.v3.OriginalDst";
const ORIGINAL_SRC: &str = "envoy.extensions.filters.listener.original_src.v3.OriginalSrc";
const PROXY_PROTOCOL: &str = "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol";

/// What looks at a connection before a chain is chosen for it.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerFilter {
    pub kind: ListenerFilterKind,
    /// Connections that it leaves alone (`filter_disabled`).
    pub disabled: Option<Predicate>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum ListenerFilterKind {
    ProxyProtocol(ProxyProtocol),
    TlsInspector(TlsInspector),
    /// Tells HTTP/1.0, HTTP/1.1 and HTTP/2 in clear text apart.
    HttpInspector,
    /// Finds out where a redirected connection was bound for (`SO_ORIGINAL_DST`).
    OriginalDst,
    /// Connections to endpoints come from the client's address.
    OriginalSrc(OriginalSrc),
}

/// `envoy.extensions.filters.listener.original_src.v3.OriginalSrc`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OriginalSrc {
    /// From the client's port as well.
    pub bind_port: bool,
    /// `SO_MARK` of the connections, by which the system leads answers back; zero is none.
    pub mark: u32,
}

/// Reads a PROXY protocol header and takes the client's address from it
/// (`envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyProtocol {
    /// A connection without a header is served too, under its own address.
    pub optional: bool,
    pub version_1: bool,
    pub version_2: bool,
    /// Name in statistics; may be empty.
    pub stat_prefix: String,
    /// Extensions that become metadata.
    pub rules: Vec<TlvRule>,
    /// Extensions that endpoints may be told.
    pub pass: PassTlvs,
}

/// Where an extension is to be found afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlvRule {
    pub kind: u8,
    pub namespace: String,
    pub key: String,
    /// In base64, and not as text.
    pub base64: bool,
}

/// Finds the server name and the protocols that a TLS client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsInspector {
    /// Bytes of a ClientHello. Default and most: 16384.
    pub max_client_hello: usize,
    /// Close what begins like TLS and is none, instead of taking it for clear text.
    pub close_on_errors: bool,
}

/// `ListenerFilterChainMatchPredicate`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Predicate {
    Any,
    Or(Vec<Predicate>),
    And(Vec<Predicate>),
    Not(Box<Predicate>),
    /// Ports that the client connected to.
    DestinationPort(RangeInclusive<u16>),
}

impl Predicate {
    /// `port` is that of the local address; a Unix socket has none.
    pub fn matches(&self, port: Option<u16>) -> bool {
        match self {
            Self::Any => true,
            Self::Or(rules) => rules.iter().any(|rule| rule.matches(port)),
            Self::And(rules) => rules.iter().all(|rule| rule.matches(port)),
            Self::Not(rule) => !rule.matches(port),
            Self::DestinationPort(range) => port.is_some_and(|port| range.contains(&port)),
        }
    }

    fn decode(message: ListenerFilterChainMatchPredicate) -> Result<Self, Invalid> {
        let all = |MatchSet { rules }, field| match rules.len() {
            ..2 => Err(Invalid::at(
                format!("{field}.rules"),
                "must have two or more",
            )),
            _ => each("rules", rules, Self::decode).at(field),
        };
        Ok(match required(message.rule, "rule")? {
            predicate::Rule::OrMatch(set) => Self::Or(all(set, "or_match")?),
            predicate::Rule::AndMatch(set) => Self::And(all(set, "and_match")?),
            predicate::Rule::NotMatch(rule) => {
                Self::Not(Box::new(Self::decode(*rule).at("not_match")?))
            }
            predicate::Rule::AnyMatch(true) => Self::Any,
            predicate::Rule::AnyMatch(false) => {
                return Err(Invalid::at("any_match", "must be true"));
            }
            predicate::Rule::DestinationPortRange(range) => {
                // The end is not part of it.
                let port = |port| u16::try_from(port).ok();
                let wrong = || Invalid::at("destination_port_range", "is no range of ports");
                let last = range.end.checked_sub(1).and_then(port).ok_or_else(wrong)?;
                let first = port(range.start).ok_or_else(wrong)?;
                Self::DestinationPort(first..=last)
            }
        })
    }
}

impl ListenerFilter {
    pub(super) fn decode(
        message: listener::ListenerFilter,
        ctx: &Context<'_>,
    ) -> Result<Self, Invalid> {
        let listener::ListenerFilter {
            name,
            filter_disabled,
            config_type,
        } = message;
        not_empty(name, "name")?;
        let any = match required(config_type, "typed_config")? {
            listener_filter::ConfigType::TypedConfig(any) => any,
            listener_filter::ConfigType::ConfigDiscovery(_) => {
                return Err(Invalid::at("config_discovery", "not supported yet"));
            }
        };
        let kind = match message_name(&any.type_url) {
            TLS_INSPECTOR => unpack(&any)
                .and_then(|message| TlsInspector::decode(message, ctx))
                .map(ListenerFilterKind::TlsInspector),
            HTTP_INSPECTOR => unpack(&any).map(|filters::http_inspector::v3::HttpInspector {}| {
                ListenerFilterKind::HttpInspector
            }),
            ORIGINAL_DST => unpack(&any)
                .map(|filters::original_dst::v3::OriginalDst {}| ListenerFilterKind::OriginalDst),
            ORIGINAL_SRC => unpack(&any).map(|message: filters::original_src::v3::OriginalSrc| {
                let filters::original_src::v3::OriginalSrc { bind_port, mark } = message;
                ListenerFilterKind::OriginalSrc(OriginalSrc { bind_port, mark })
            }),
            PROXY_PROTOCOL => unpack(&any)
                .and_then(ProxyProtocol::decode)
                .map(ListenerFilterKind::ProxyProtocol),
            _ => Err(unknown_type(&any.type_url)),
        }
        .at("typed_config")?;
        let disabled = filter_disabled.map(Predicate::decode).transpose();
        Ok(Self {
            kind,
            disabled: disabled.at("filter_disabled")?,
        })
    }
}

impl TlsInspector {
    /// What a record of TLS may hold, and the most that is looked at.
    const MAX_CLIENT_HELLO: u32 = 16 * 1024;

    fn decode(
        message: filters::tls_inspector::v3::TlsInspector,
        ctx: &Context<'_>,
    ) -> Result<Self, Invalid> {
        let filters::tls_inspector::v3::TlsInspector {
            enable_ja3_fingerprinting,
            enable_ja4_fingerprinting,
            initial_read_buffer_size,
            close_connection_on_client_hello_parsing_errors,
            max_client_hello_size,
        } = message;
        refuse_true!(enable_ja3_fingerprinting, enable_ja4_fingerprinting);
        number(
            initial_read_buffer_size,
            "initial_read_buffer_size",
            256..=65_536,
        )?;
        accept!(ctx, "TlsInspector": initial_read_buffer_size);
        let max = Self::MAX_CLIENT_HELLO;
        let max = number(max_client_hello_size, "max_client_hello_size", 1..=max)?.unwrap_or(max);
        Ok(Self {
            max_client_hello: max as usize,
            close_on_errors: close_connection_on_client_hello_parsing_errors,
        })
    }
}

impl ProxyProtocol {
    fn decode(message: filters::proxy_protocol::v3::ProxyProtocol) -> Result<Self, Invalid> {
        let filters::proxy_protocol::v3::ProxyProtocol {
            rules,
            allow_requests_without_proxy_protocol,
            pass_through_tlvs,
            disallowed_versions,
            stat_prefix,
            tlv_location,
        } = message;
        match enumeration(tlv_location, "tlv_location")? {
            TlvLocation::DynamicMetadata => {}
            TlvLocation::FilterState => refuse!(tlv_location),
        }
        let refused = each("disallowed_versions", disallowed_versions, |version| {
            enumeration::<Version>(version, "")
        })?;
        Ok(Self {
            optional: allow_requests_without_proxy_protocol,
            version_1: !refused.contains(&Version::V1),
            version_2: !refused.contains(&Version::V2),
            stat_prefix,
            rules: each("rules", rules, TlvRule::decode)?,
            pass: PassTlvs::decode(pass_through_tlvs).at("pass_through_tlvs")?,
        })
    }
}

impl TlvRule {
    /// Where no other namespace is given.
    const NAMESPACE: &str = "envoy.filters.listener.proxy_protocol";

    fn decode(message: Rule) -> Result<Self, Invalid> {
        let Rule {
            tlv_type,
            on_tlv_present,
        } = message;
        let KeyValuePair {
            metadata_namespace,
            key,
            value_string_encoding,
        } = required(on_tlv_present, "on_tlv_present")?;
        const FIELD: &str = "on_tlv_present";
        let base64 = match enumeration(value_string_encoding, "value_string_encoding").at(FIELD)? {
            ValueStringEncoding::Unspecified | ValueStringEncoding::SanitizedUtf8 => false,
            ValueStringEncoding::Base64 => true,
        };
        Ok(Self {
            kind: tlv::kind(tlv_type, "tlv_type")?,
            namespace: match metadata_namespace.is_empty() {
                true => Self::NAMESPACE.to_owned(),
                false => metadata_namespace,
            },
            key: not_empty(key, "key").at(FIELD)?,
            base64,
        })
    }
}
