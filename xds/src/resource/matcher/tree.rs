//! Matcher trees (`xds.type.matcher.v3.Matcher`): from inputs to an action.
//!
//! A tree is generic over its actions: the one who has the message says how an action is decoded
//! and which inputs make sense in that place ([`Tree::decode`]). Evaluating one is the program's
//! part; it compiles a tree first, as everything else.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::StringMatcher;
use super::value::{self, ValueMatcher};
use crate::extension::Unchecked;
use crate::proto::envoy::extensions::matching::common_inputs::{network, ssl};
use crate::proto::envoy::extensions::matching::input_matchers::ip::v3::Ip;
use crate::proto::envoy::extensions::matching::input_matchers::metadata::v3::Metadata;
use crate::proto::envoy::r#type::matcher::v3 as envoy;
use crate::proto::xds::core::v3::TypedExtensionConfig;
use crate::proto::xds::r#type::matcher::v3 as proto;
use crate::proto::{Any, Message as _};
use crate::reject::Invalid;
use crate::resource::address;
use crate::resource::context::{
    At, Context, each, fault, is_default, not_empty, required, unknown_type, unpack,
};
use crate::resource::headers::header_or_pseudo_name;
use crate::type_url::message_name;
use proto::matcher as m;

/// A tree, or what another one leads to.
#[derive(Clone, Debug, PartialEq)]
pub struct Tree<A> {
    pub kind: Kind<A>,
    /// When nothing else led to an action (`on_no_match`).
    pub otherwise: Option<OnMatch<A>>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Kind<A> {
    /// Neither list nor map: `otherwise` counts.
    Nothing,
    /// In order; one whose own tree leads nowhere is passed over (`matcher_list`).
    List(Vec<(Predicate, OnMatch<A>)>),
    /// By the whole value of an input (`matcher_tree.exact_match_map`).
    Exact(Input, BTreeMap<String, OnMatch<A>>),
    /// By what the value of an input begins with, longest first
    /// (`matcher_tree.prefix_match_map`).
    Prefix(Input, BTreeMap<String, OnMatch<A>>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct OnMatch<A> {
    /// The action is noted, and the search goes on as if nothing had matched.
    pub keep_matching: bool,
    pub then: Then<A>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Then<A> {
    Tree(Box<Tree<A>>),
    Action(A),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Predicate {
    Single(Input, Test),
    /// At least two.
    Any(Vec<Self>),
    /// At least two.
    All(Vec<Self>),
    Not(Box<Self>),
}

/// What the value of an input must be. A value that is not there passes no test.
#[derive(Clone, Debug, PartialEq)]
pub enum Test {
    String(StringMatcher),
    /// An address in one of the networks (`envoy.extensions.matching.input_matchers.ip.v3.Ip`).
    Networks(Vec<IpNet>),
    /// For [`Input::Metadata`] only, which has no other test
    /// (`envoy.extensions.matching.input_matchers.metadata.v3.Metadata`).
    Value {
        matcher: ValueMatcher,
        invert: bool,
    },
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// All values of a field, joined by commas; lower case, may be a pseudo header.
    RequestHeader(String),
    /// The first value of a parameter.
    QueryParameter(String),
    /// Of the client, as the forwarded headers or the PROXY protocol tell it.
    SourceIp,
    SourcePort,
    /// Of the connection.
    DirectSourceIp,
    DestinationIp,
    DestinationPort,
    /// SNI.
    ServerName,
    /// `tls` or `raw_buffer`.
    TransportProtocol,
    /// What ALPN offered, as `'h2','http/1.1'`.
    ApplicationProtocol,
    /// URIs in the client's certificate, joined by commas.
    UriSan,
    /// DNS names in the client's certificate, joined by commas.
    DnsSan,
    /// Subject of the client's certificate (RFC 2253).
    Subject,
    /// Three digits.
    ResponseStatus,
    /// `1xx` to `5xx`.
    ResponseClass,
    /// As [`Self::RequestHeader`].
    ResponseHeader(String),
    /// What filters have noted (dynamic metadata): a value of any kind.
    Metadata {
        namespace: String,
        path: Vec<String>,
    },
}

impl Input {
    /// Whether it is known before there is a request.
    pub fn is_of_connection(&self) -> bool {
        !self.is_of_response()
            && !matches!(
                self,
                Self::RequestHeader(_) | Self::QueryParameter(_) | Self::Metadata { .. }
            )
    }

    /// Whether it is known only once there is a response.
    pub fn is_of_response(&self) -> bool {
        matches!(
            self,
            Self::ResponseStatus | Self::ResponseClass | Self::ResponseHeader(_)
        )
    }

    fn decode(message: Option<TypedExtensionConfig>) -> Result<Self, Invalid> {
        let any = any(required(message, "input")?).at("input")?;
        Self::of(&any).at("typed_config").at("input")
    }

    fn of(any: &Any) -> Result<Self, Invalid> {
        use network::v3 as n;
        fn is<M: ::prost::Name>(any: &Any) -> bool {
            let name = message_name(&any.type_url);
            let of = name.strip_prefix(M::PACKAGE);
            of.and_then(|rest| rest.strip_prefix('.')) == Some(M::NAME)
        }
        if is::<envoy::HttpRequestHeaderMatchInput>(any) {
            let envoy::HttpRequestHeaderMatchInput { header_name } = unpack(any)?;
            return header_or_pseudo_name(&header_name)
                .at("header_name")
                .map(Self::RequestHeader);
        }
        if is::<envoy::HttpResponseHeaderMatchInput>(any) {
            let envoy::HttpResponseHeaderMatchInput { header_name } = unpack(any)?;
            return header_or_pseudo_name(&header_name)
                .at("header_name")
                .map(Self::ResponseHeader);
        }
        if is::<envoy::HttpRequestQueryParamMatchInput>(any) {
            let envoy::HttpRequestQueryParamMatchInput { query_param } = unpack(any)?;
            return not_empty(query_param, "query_param").map(Self::QueryParameter);
        }
        if is::<n::DynamicMetadataInput>(any) {
            use n::dynamic_metadata_input::path_segment::Segment;
            let n::DynamicMetadataInput { filter, path } = unpack(any)?;
            return Ok(Self::Metadata {
                namespace: not_empty(filter, "filter")?,
                path: value::path(path, |s| s.segment.map(|Segment::Key(key)| key))?,
            });
        }
        // The others have no fields.
        let simple: [(bool, Self); 13] = [
            (
                is::<envoy::HttpResponseStatusCodeMatchInput>(any),
                Self::ResponseStatus,
            ),
            (
                is::<envoy::HttpResponseStatusCodeClassMatchInput>(any),
                Self::ResponseClass,
            ),
            (is::<n::SourceIpInput>(any), Self::SourceIp),
            (is::<n::SourcePortInput>(any), Self::SourcePort),
            (is::<n::DirectSourceIpInput>(any), Self::DirectSourceIp),
            (is::<n::DestinationIpInput>(any), Self::DestinationIp),
            (is::<n::DestinationPortInput>(any), Self::DestinationPort),
            (is::<n::ServerNameInput>(any), Self::ServerName),
            (
                is::<n::TransportProtocolInput>(any),
                Self::TransportProtocol,
            ),
            (
                is::<n::ApplicationProtocolInput>(any),
                Self::ApplicationProtocol,
            ),
            (is::<ssl::v3::UriSanInput>(any), Self::UriSan),
            (is::<ssl::v3::DnsSanInput>(any), Self::DnsSan),
            (is::<ssl::v3::SubjectInput>(any), Self::Subject),
        ];
        let found = simple.into_iter().find(|(is, _)| *is);
        found
            .map(|(_, input)| input)
            .ok_or_else(|| unknown_type(&any.type_url))
    }
}

/// How the parts of a tree are decoded that differ from place to place.
struct Decoder<F> {
    allowed: fn(&Input) -> bool,
    action: F,
}

impl<A> Tree<A> {
    /// Decodes a tree. `allowed` says which inputs exist in this place; `action` decodes an
    /// action from its type and bytes, and is called in the order of the message (of a map: in
    /// the order of its keys).
    ///
    /// # Errors
    /// The tree breaks a rule of its definition, or it has an input, a matcher or an action that
    /// is not known here.
    pub fn decode(
        message: proto::Matcher,
        allowed: fn(&Input) -> bool,
        action: impl FnMut(Any) -> Result<A, Invalid>,
    ) -> Result<Self, Invalid> {
        Decoder { allowed, action }.tree(message)
    }

    /// The actions, in the order in which they were decoded.
    pub fn actions(&self) -> Vec<&A> {
        let mut found = Vec::new();
        self.gather(&mut found);
        found
    }

    fn gather<'a>(&'a self, found: &mut Vec<&'a A>) {
        let of_kind: Box<dyn Iterator<Item = &OnMatch<A>>> = match &self.kind {
            Kind::Nothing => Box::new(std::iter::empty()),
            Kind::List(list) => Box::new(list.iter().map(|(_, on_match)| on_match)),
            Kind::Exact(_, map) | Kind::Prefix(_, map) => Box::new(map.values()),
        };
        for on_match in of_kind.chain(&self.otherwise) {
            match &on_match.then {
                Then::Tree(tree) => tree.gather(found),
                Then::Action(action) => found.push(action),
            }
        }
    }
}

impl<F> Decoder<F> {
    fn tree<A>(&mut self, message: proto::Matcher) -> Result<Tree<A>, Invalid>
    where
        F: FnMut(Any) -> Result<A, Invalid>,
    {
        let proto::Matcher {
            on_no_match,
            matcher_type,
        } = message;
        let kind = match matcher_type {
            None => Kind::Nothing,
            Some(m::MatcherType::MatcherList(list)) => self.list(list).at("matcher_list")?,
            Some(m::MatcherType::MatcherTree(tree)) => self.map(tree).at("matcher_tree")?,
        };
        let otherwise = on_no_match.map(|on_match| self.on_match(*on_match));
        Ok(Tree {
            kind,
            otherwise: otherwise.transpose().at("on_no_match")?,
        })
    }

    fn list<A>(&mut self, message: m::MatcherList) -> Result<Kind<A>, Invalid>
    where
        F: FnMut(Any) -> Result<A, Invalid>,
    {
        let m::MatcherList { matchers } = message;
        if matchers.is_empty() {
            return Err(Invalid::at("matchers", "must not be empty"));
        }
        let list = each("matchers", matchers, |field| {
            let m::matcher_list::FieldMatcher {
                predicate,
                on_match,
            } = field;
            let predicate = self.predicate(required(predicate, "predicate")?);
            let on_match = required(on_match, "on_match")?;
            Ok((
                predicate.at("predicate")?,
                self.on_match(on_match).at("on_match")?,
            ))
        })?;
        Ok(Kind::List(list))
    }

    fn map<A>(&mut self, message: m::MatcherTree) -> Result<Kind<A>, Invalid>
    where
        F: FnMut(Any) -> Result<A, Invalid>,
    {
        use m::matcher_tree::TreeType;
        let m::MatcherTree { input, tree_type } = message;
        let input = self.input(input)?;
        if matches!(input, Input::Metadata { .. }) {
            return Err(Invalid::at("input", "is no text"));
        }
        Ok(match required(tree_type, "tree_type")? {
            TreeType::ExactMatchMap(map) => {
                Kind::Exact(input, self.entries(map).at("exact_match_map")?)
            }
            TreeType::PrefixMatchMap(map) => {
                Kind::Prefix(input, self.entries(map).at("prefix_match_map")?)
            }
            TreeType::CustomMatch(custom) => {
                let any = any(custom).at("custom_match")?;
                return Err(unknown_type(&any.type_url))
                    .at("typed_config")
                    .at("custom_match");
            }
        })
    }

    fn entries<A>(
        &mut self,
        message: m::matcher_tree::MatchMap,
    ) -> Result<BTreeMap<String, OnMatch<A>>, Invalid>
    where
        F: FnMut(Any) -> Result<A, Invalid>,
    {
        let m::matcher_tree::MatchMap { map } = message;
        if map.is_empty() {
            return Err(Invalid::at("map", "must not be empty"));
        }
        let map: BTreeMap<_, _> = map.into_iter().collect();
        map.into_iter()
            .map(|(key, on_match)| {
                let on_match = self.on_match(on_match).at_key("map", &key)?;
                Ok((key, on_match))
            })
            .collect()
    }

    fn on_match<A>(&mut self, message: m::OnMatch) -> Result<OnMatch<A>, Invalid>
    where
        F: FnMut(Any) -> Result<A, Invalid>,
    {
        let m::OnMatch {
            keep_matching,
            on_match,
        } = message;
        let then = match required(on_match, "on_match")? {
            m::on_match::OnMatch::Matcher(tree) => {
                Then::Tree(Box::new(self.tree(*tree).at("matcher")?))
            }
            m::on_match::OnMatch::Action(config) => {
                let action = any(config).and_then(|any| (self.action)(any).at("typed_config"));
                Then::Action(action.at("action")?)
            }
        };
        Ok(OnMatch {
            keep_matching,
            then,
        })
    }

    fn predicate(&self, message: m::matcher_list::Predicate) -> Result<Predicate, Invalid> {
        use m::matcher_list::predicate::{MatchType, PredicateList, SinglePredicate};
        let m::matcher_list::Predicate { match_type } = message;
        let list = |PredicateList { predicate }| {
            if predicate.len() < 2 {
                return Err(Invalid::at("predicate", "must have two or more"));
            }
            each("predicate", predicate, |predicate| {
                self.predicate(predicate)
            })
        };
        Ok(match required(match_type, "match_type")? {
            MatchType::SinglePredicate(SinglePredicate { input, matcher }) => {
                let input = self.input(input).at("single_predicate")?;
                let test = required(matcher, "matcher").and_then(Test::decode);
                let test = test.at("single_predicate")?;
                let of_metadata = matches!(input, Input::Metadata { .. });
                if of_metadata != matches!(test, Test::Value { .. }) {
                    return Err(Invalid::at("matcher", "does not fit the input"))
                        .at("single_predicate");
                }
                Predicate::Single(input, test)
            }
            MatchType::OrMatcher(any) => Predicate::Any(list(any).at("or_matcher")?),
            MatchType::AndMatcher(all) => Predicate::All(list(all).at("and_matcher")?),
            MatchType::NotMatcher(not) => {
                Predicate::Not(Box::new(self.predicate(*not).at("not_matcher")?))
            }
        })
    }

    fn input(&self, message: Option<TypedExtensionConfig>) -> Result<Input, Invalid> {
        let input = Input::decode(message)?;
        match (self.allowed)(&input) {
            true => Ok(input),
            false => Err(Invalid::at("input", "is not known in this place")),
        }
    }
}

impl Test {
    fn decode(
        message: m::matcher_list::predicate::single_predicate::Matcher,
    ) -> Result<Self, Invalid> {
        use m::matcher_list::predicate::single_predicate::Matcher;
        match message {
            Matcher::ValueMatch(matcher) => string(matcher).at("value_match").map(Self::String),
            Matcher::CustomMatch(config) => any(config)
                .and_then(|any| Self::custom(&any).at("typed_config"))
                .at("custom_match"),
        }
    }

    fn custom(any: &Any) -> Result<Self, Invalid> {
        const IP: &str = "envoy.extensions.matching.input_matchers.ip.v3.Ip";
        const METADATA: &str = "envoy.extensions.matching.input_matchers.metadata.v3.Metadata";
        if message_name(&any.type_url) == METADATA {
            let Metadata { value, invert } = unpack(any)?;
            let value = required(value, "value")?;
            let matcher = ValueMatcher::decode(value, &Context::new(&Unchecked)).at("value")?;
            return Ok(Self::Value { matcher, invert });
        }
        if message_name(&any.type_url) != IP {
            return Err(unknown_type(&any.type_url));
        }
        let Ip {
            cidr_ranges,
            // Names a counter of inputs that are no address, which an input here never is.
            stat_prefix,
        } = unpack(any)?;
        not_empty(stat_prefix, "stat_prefix")?;
        if cidr_ranges.is_empty() {
            return Err(Invalid::at("cidr_ranges", "must not be empty"));
        }
        each("cidr_ranges", cidr_ranges, address::network).map(Self::Networks)
    }
}

/// The xDS form of a string matcher, which has the fields of Envoy's under the same numbers.
fn string(message: proto::StringMatcher) -> Result<StringMatcher, Invalid> {
    let same = envoy::StringMatcher::decode(&*message.encode_to_vec());
    let same = same.map_err(|e| fault(e.to_string()))?;
    StringMatcher::decode(same, &Context::new(&Unchecked))
}

/// What an extension of the xDS form is configured with.
fn any(config: TypedExtensionConfig) -> Result<Any, Invalid> {
    let TypedExtensionConfig { name, typed_config } = config;
    not_empty(name, "name")?;
    let any = required(typed_config, "typed_config")?;
    if is_default(&any.type_url) {
        return Err(fault("has no type")).at("typed_config");
    }
    Ok(any)
}

#[cfg(test)]
mod tests;
