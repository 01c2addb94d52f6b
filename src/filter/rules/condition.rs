//! What may be asked of a subject: permissions and principals, compiled.

use std::net::IpAddr;
use std::ops::Range;

use causeway_xds::proto::core::TypedExtensionConfig;
use causeway_xds::proto::envoy::config::rbac::v3 as proto;
use causeway_xds::proto::envoy::extensions::rbac::principals::mtls_authenticated::v3 as mtls;
use causeway_xds::proto::envoy::r#type::matcher::v3 as matcher;
use causeway_xds::proto::envoy::r#type::v3::Int32Range;
use causeway_xds::proto::tls::{SubjectAltNameMatcher, subject_alt_name_matcher::SanType};
use causeway_xds::reject::Invalid;
use causeway_xds::resource::parts::{
    self, At, each, enumeration, fault, not_empty, required, unknown_type, unpack,
};
use causeway_xds::type_url::message_name;
use ipnet::IpNet;
use regex::Regex;

use super::subject::Subject;
use crate::matching::headers::HeaderCondition;
use crate::matching::text::Test;
use crate::matching::value::MetadataCondition;
use crate::route::matcher::whole;
use crate::tls::Session;

/// Conditions in each other, at most: evaluating them recurses.
const DEPTH: usize = 64;

/// What the rules are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Requests,
    /// Where a condition on a header could never hold, and is refused.
    Connections,
}

#[derive(Debug)]
pub enum Condition {
    Always,
    All(Vec<Self>),
    Any(Vec<Self>),
    Not(Box<Self>),
    Header(HeaderCondition),
    Path(Test),
    /// The whole path.
    Template(Regex),
    Address(Of, IpNet),
    /// Of the address that the connection came in on.
    Port(Range<u32>),
    ServerName(Test),
    /// An encrypted connection, and if a test is given, of somebody with such a name.
    Authenticated(Option<Test>),
    /// A client certificate that was vouched for, and if a name is given, with that in it.
    Certificate(Option<(SanType, Test)>),
    Metadata(Source, MetadataCondition),
    State(String, StateTest),
}

/// Which address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// Where the connection came in.
    Destination,
    /// The other end of the connection.
    Peer,
    /// The client, as forwarded headers tell it.
    Client,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Dynamic,
    Route,
}

#[derive(Debug)]
pub enum StateTest {
    Text(Test),
    Networks { networks: Vec<IpNet>, invert: bool },
}

impl Condition {
    /// # Errors
    /// It breaks a rule of its definition, or cannot be evaluated.
    pub fn permission(
        message: proto::Permission,
        form: Form,
        depth: usize,
    ) -> Result<Self, Invalid> {
        use proto::permission::Rule as R;
        let set = |set: proto::permission::Set, field| {
            list(set.rules, "rules", |rule| {
                Self::permission(rule, form, depth + 1)
            })
            .at(field)
        };
        check_depth(depth)?;
        #[expect(deprecated, reason = "older spellings that are still sent")]
        match required(message.rule, "rule")? {
            R::AndRules(rules) => set(rules, "and_rules").map(Self::All),
            R::OrRules(rules) => set(rules, "or_rules").map(Self::Any),
            R::NotRule(rule) => Self::permission(*rule, form, depth + 1)
                .map(|rule| Self::Not(Box::new(rule)))
                .at("not_rule"),
            R::Any(any) => always(any),
            R::Header(header) => of_request(form)
                .and_then(|()| Self::header(header))
                .at("header"),
            R::UrlPath(path) => Self::path(path).at("url_path"),
            R::UriTemplate(template) => parts::path_template(template)
                .map(|template| Self::Template(whole(&template.pattern)))
                .at("uri_template"),
            R::DestinationIp(range) => Self::address(Of::Destination, range).at("destination_ip"),
            R::DestinationPort(port @ ..=0xffff) => Ok(Self::Port(port..port + 1)),
            R::DestinationPort(port) => Err(Invalid::at(
                "destination_port",
                format!("{port} is above 65535"),
            )),
            R::DestinationPortRange(range) => port_range(range)
                .map(Self::Port)
                .at("destination_port_range"),
            R::Metadata(metadata) => Self::metadata(Source::Dynamic, metadata).at("metadata"),
            R::SourcedMetadata(metadata) => Self::sourced(metadata).at("sourced_metadata"),
            R::RequestedServerName(name) => parts::string_matcher(name)
                .map(|name| Self::ServerName(Test::string(&name)))
                .at("requested_server_name"),
            R::Matcher(extension) => unknown(extension).at("matcher"),
        }
    }

    /// # Errors
    /// As [`Self::permission`].
    pub fn principal(message: proto::Principal, form: Form, depth: usize) -> Result<Self, Invalid> {
        use proto::principal::Identifier as I;
        let set = |set: proto::principal::Set, field| {
            list(set.ids, "ids", |id| Self::principal(id, form, depth + 1)).at(field)
        };
        check_depth(depth)?;
        #[expect(deprecated, reason = "older spellings that are still sent")]
        match required(message.identifier, "identifier")? {
            I::AndIds(ids) => set(ids, "and_ids").map(Self::All),
            I::OrIds(ids) => set(ids, "or_ids").map(Self::Any),
            I::NotId(id) => Self::principal(*id, form, depth + 1)
                .map(|id| Self::Not(Box::new(id)))
                .at("not_id"),
            I::Any(any) => always(any),
            I::Authenticated(proto::principal::Authenticated { principal_name }) => {
                let name = principal_name.map(parts::string_matcher).transpose();
                let name = name.at("principal_name").at("authenticated")?;
                Ok(Self::Authenticated(name.as_ref().map(Test::string)))
            }
            I::SourceIp(range) => Self::address(Of::Peer, range).at("source_ip"),
            I::DirectRemoteIp(range) => Self::address(Of::Peer, range).at("direct_remote_ip"),
            I::RemoteIp(range) => Self::address(Of::Client, range).at("remote_ip"),
            I::Header(header) => of_request(form)
                .and_then(|()| Self::header(header))
                .at("header"),
            I::UrlPath(path) => Self::path(path).at("url_path"),
            I::Metadata(metadata) => Self::metadata(Source::Dynamic, metadata).at("metadata"),
            I::SourcedMetadata(metadata) => Self::sourced(metadata).at("sourced_metadata"),
            I::FilterState(state) => Self::state(state).at("filter_state"),
            I::Custom(extension) => Self::custom(extension).at("custom"),
        }
    }

    fn header(message: causeway_xds::proto::route::HeaderMatcher) -> Result<Self, Invalid> {
        parts::header_matcher(message).map(|header| Self::Header(HeaderCondition::compile(&header)))
    }

    fn path(message: matcher::PathMatcher) -> Result<Self, Invalid> {
        let matcher::path_matcher::Rule::Path(path) = required(message.rule, "rule")?;
        let path = parts::string_matcher(path).at("path")?;
        Ok(Self::Path(Test::string(&path)))
    }

    fn address(of: Of, range: causeway_xds::proto::core::CidrRange) -> Result<Self, Invalid> {
        parts::network(range).map(|network| Self::Address(of, network))
    }

    fn metadata(source: Source, message: matcher::MetadataMatcher) -> Result<Self, Invalid> {
        let model = parts::metadata_matcher(message)?;
        Ok(Self::Metadata(source, MetadataCondition::compile(&model)))
    }

    fn sourced(message: proto::SourcedMetadata) -> Result<Self, Invalid> {
        let proto::SourcedMetadata {
            metadata_matcher,
            metadata_source,
        } = message;
        let source = match enumeration(metadata_source, "metadata_source")? {
            proto::MetadataSource::Dynamic => Source::Dynamic,
            proto::MetadataSource::Route => Source::Route,
        };
        Self::metadata(source, required(metadata_matcher, "metadata_matcher")?)
            .at("metadata_matcher")
    }

    fn state(message: matcher::FilterStateMatcher) -> Result<Self, Invalid> {
        use matcher::filter_state_matcher::Matcher as M;
        let matcher::FilterStateMatcher { key, matcher } = message;
        let test = match required(matcher, "matcher")? {
            M::StringMatch(text) => StateTest::Text(Test::string(
                &parts::string_matcher(text).at("string_match")?,
            )),
            M::AddressMatch(matcher::AddressMatcher {
                ranges,
                invert_match,
            }) => StateTest::Networks {
                networks: each("ranges", ranges, |range| {
                    parts::network(causeway_xds::proto::core::CidrRange {
                        address_prefix: range.address_prefix,
                        prefix_len: range
                            .prefix_len
                            .map(|l| causeway_xds::proto::UInt32Value { value: l.value }),
                    })
                })
                .at("address_match")?,
                invert: invert_match,
            },
        };
        Ok(Self::State(not_empty(key, "key")?, test))
    }

    fn custom(message: TypedExtensionConfig) -> Result<Self, Invalid> {
        const MTLS: &str = "envoy.extensions.rbac.principals.mtls_authenticated.v3.Config";
        let any = required(message.typed_config, "typed_config")?;
        if message_name(&any.type_url) != MTLS {
            return Err(unknown_type(&any.type_url)).at("typed_config");
        }
        let decode = || {
            let mtls::Config {
                san_matcher,
                any_validated_client_certificate: any,
            } = unpack(&any)?;
            match san_matcher {
                // Envoy refuses one that says nothing, and one that says both.
                None if any => Ok(Self::Certificate(None)),
                Some(san) if !any => san_test(san)
                    .map(|test| Self::Certificate(Some(test)))
                    .at("san_matcher"),
                _ => Err(fault(
                    "one of san_matcher and any_validated_client_certificate must be given",
                )),
            }
        };
        decode().at("typed_config")
    }

    pub fn holds(&self, subject: &Subject<'_>) -> bool {
        match self {
            Self::Always => true,
            Self::All(all) => all.iter().all(|one| one.holds(subject)),
            Self::Any(any) => any.iter().any(|one| one.holds(subject)),
            Self::Not(not) => !not.holds(subject),
            Self::Header(header) => header.matches(subject),
            Self::Path(test) => subject.path().is_some_and(|p| test.matches(p.as_bytes())),
            Self::Template(regex) => subject.path().is_some_and(|path| regex.is_match(path)),
            Self::Address(of, network) => {
                let address = match of {
                    Of::Destination => subject.local.map(|local| local.ip()),
                    Of::Peer => subject.peer,
                    Of::Client => subject.client,
                };
                address.is_some_and(|address| network.contains(&address.to_canonical()))
            }
            Self::Port(range) => subject
                .local
                .is_some_and(|local| range.contains(&local.port().into())),
            Self::ServerName(test) => test.matches(subject.server_name.as_bytes()),
            Self::Authenticated(test) => subject
                .tls
                .is_some_and(|tls| test.as_ref().is_none_or(|test| is_called(tls, test))),
            Self::Certificate(wanted) => {
                let shown = subject.tls.and_then(|tls| tls.peer.as_ref());
                shown.is_some_and(|shown| {
                    let has = |(kind, test): &(SanType, Test)| {
                        let names: &[String] = match kind {
                            SanType::Uri => &shown.names.uris,
                            SanType::Dns => &shown.names.dns,
                            SanType::Email => &shown.names.emails,
                            _ => &[],
                        };
                        names.iter().any(|name| test.matches(name.as_bytes()))
                    };
                    shown.validated && wanted.as_ref().is_none_or(has)
                })
            }
            Self::Metadata(source, condition) => {
                let of = match source {
                    Source::Dynamic => subject.metadata.dynamic(&condition.namespace),
                    Source::Route => subject.metadata.of_route(&condition.namespace),
                };
                condition.holds(of.as_deref())
            }
            Self::State(key, test) => subject
                .metadata
                .state(key)
                .is_some_and(|value| test.holds(&value)),
        }
    }
}

impl StateTest {
    fn holds(&self, value: &str) -> bool {
        match self {
            Self::Text(test) => test.matches(value.as_bytes()),
            Self::Networks { networks, invert } => value.parse::<IpAddr>().is_ok_and(|address| {
                let address = address.to_canonical();
                networks.iter().any(|network| network.contains(&address)) != *invert
            }),
        }
    }
}

/// The URIs of the certificate, then its DNS names, then its subject; without a certificate the
/// subject is empty.
fn is_called(tls: &Session, test: &Test) -> bool {
    let Some(peer) = &tls.peer else {
        return test.matches(b"");
    };
    let names = peer.names.uris.iter().chain(&peer.names.dns);
    names
        .chain([&peer.names.subject])
        .any(|name| test.matches(name.as_bytes()))
}

fn check_depth(depth: usize) -> Result<(), Invalid> {
    if depth > DEPTH {
        return Err(fault("is nested too deeply"));
    }
    Ok(())
}

fn list<M>(
    messages: Vec<M>,
    field: &str,
    decode: impl FnMut(M) -> Result<Condition, Invalid>,
) -> Result<Vec<Condition>, Invalid> {
    if messages.is_empty() {
        return Err(Invalid::at(field, "must not be empty"));
    }
    each(field, messages, decode)
}

fn always(any: bool) -> Result<Condition, Invalid> {
    match any {
        true => Ok(Condition::Always),
        false => Err(Invalid::at("any", "must be true")),
    }
}

fn of_request(form: Form) -> Result<(), Invalid> {
    match form {
        Form::Requests => Ok(()),
        Form::Connections => Err(fault("a connection has no headers")),
    }
}

fn port_range(message: Int32Range) -> Result<Range<u32>, Invalid> {
    let Int32Range { start, end } = message;
    let bound = |port: i32| u32::try_from(port).ok().filter(|port| *port <= 65_536);
    match (bound(start), bound(end)) {
        (Some(from), Some(to)) if from < to => Ok(from..to),
        _ => Err(fault(format!("{start} to {end} is no range of ports"))),
    }
}

fn unknown(message: TypedExtensionConfig) -> Result<Condition, Invalid> {
    let any = required(message.typed_config, "typed_config")?;
    Err(unknown_type(&any.type_url)).at("typed_config")
}

fn san_test(message: SubjectAltNameMatcher) -> Result<(SanType, Test), Invalid> {
    let SubjectAltNameMatcher {
        san_type,
        matcher,
        oid,
    } = message;
    if !oid.is_empty() {
        return Err(Invalid::at("oid", "not supported yet"));
    }
    let kind = enumeration(san_type, "san_type")?;
    if !matches!(kind, SanType::Uri | SanType::Dns | SanType::Email) {
        return Err(Invalid::at(
            "san_type",
            "only URI, DNS and EMAIL are supported",
        ));
    }
    let matcher = required(matcher, "matcher")?;
    Ok((
        kind,
        Test::string(&parts::string_matcher(matcher).at("matcher")?),
    ))
}
