//! What a request is hashed by: message to typed.

use std::time::Duration;

use crate::proto::route::route_action::{
    self,
    hash_policy::{self, CookieAttribute, PolicySpecifier},
};
use crate::reject::Invalid;
use crate::resource::context::{At, Context, duration, each, fault, not_empty, required};
use crate::resource::headers::{header_or_pseudo_name, header_value};
use crate::resource::matcher::substitution;

/// `envoy.config.route.v3.RouteAction.HashPolicy`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashPolicy {
    pub by: HashBy,
    /// Those behind it do not count once there is a hash.
    pub terminal: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashBy {
    Header {
        /// Lower case, or a pseudo header.
        name: String,
        /// Pattern and substitution in the `regex` crate's syntax.
        rewrite: Option<(String, String)>,
    },
    Cookie(HashCookie),
    /// The client's address (`connection_properties.source_ip`).
    SourceIp,
    Query(String),
    /// `connection_properties` that name none.
    Nothing,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashCookie {
    pub name: String,
    /// A client without the cookie is given one, for this long; zero is a session.
    pub ttl: Option<Duration>,
    /// May be empty.
    pub path: String,
    /// Name and value, which may be empty.
    pub attributes: Vec<(String, String)>,
}

impl HashPolicy {
    pub(crate) fn decode_all(
        messages: Vec<route_action::HashPolicy>,
        ctx: &Context<'_>,
    ) -> Result<Vec<Self>, Invalid> {
        each("hash_policy", messages, |m| Self::decode(m, ctx))
    }

    fn decode(message: route_action::HashPolicy, ctx: &Context<'_>) -> Result<Self, Invalid> {
        let route_action::HashPolicy {
            terminal,
            policy_specifier,
        } = message;
        let by = match required(policy_specifier, "policy_specifier")? {
            PolicySpecifier::Header(header) => HashBy::header(header, ctx).at("header")?,
            PolicySpecifier::Cookie(cookie) => HashCookie::decode(cookie)
                .at("cookie")
                .map(HashBy::Cookie)?,
            PolicySpecifier::ConnectionProperties(hash_policy::ConnectionProperties {
                source_ip,
            }) => match source_ip {
                true => HashBy::SourceIp,
                false => HashBy::Nothing,
            },
            PolicySpecifier::QueryParameter(hash_policy::QueryParameter { name }) => {
                not_empty(name, "name")
                    .at("query_parameter")
                    .map(HashBy::Query)?
            }
            PolicySpecifier::FilterState(_) => {
                return Err(Invalid::at("filter_state", "not supported yet"));
            }
        };
        Ok(Self { by, terminal })
    }
}

impl HashBy {
    fn header(message: hash_policy::Header, ctx: &Context<'_>) -> Result<Self, Invalid> {
        let hash_policy::Header {
            header_name,
            regex_rewrite,
        } = message;
        Ok(Self::Header {
            name: header_or_pseudo_name(&header_name).at("header_name")?,
            rewrite: regex_rewrite
                .map(|regex| substitution(regex, ctx))
                .transpose()
                .at("regex_rewrite")?,
        })
    }
}

impl HashCookie {
    fn decode(message: hash_policy::Cookie) -> Result<Self, Invalid> {
        let hash_policy::Cookie {
            name,
            ttl,
            path,
            attributes,
        } = message;
        part(&name).at("name")?;
        part(&path).at("path")?;
        Ok(Self {
            name: not_empty(name, "name")?,
            ttl: duration(ttl, "ttl")?,
            path,
            attributes: each("attributes", attributes, attribute)?,
        })
    }
}

fn attribute(message: CookieAttribute) -> Result<(String, String), Invalid> {
    let CookieAttribute { name, value } = message;
    part(&name).at("name")?;
    part(&value).at("value")?;
    Ok((not_empty(name, "name")?, value))
}

/// What is written into a `Set-Cookie` must not end its part of it.
fn part(text: &str) -> Result<(), Invalid> {
    header_value(text)?;
    match text.contains(';') {
        true => Err(fault("contains a semicolon")),
        false => Ok(()),
    }
}
