//! Where tokens are in a request, and how they are taken out of it.

use causeway_xds::proto::envoy::extensions::filters::http::jwt_authn::v3 as proto;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::parts::{At, each, fault, header_name, header_value};
use http::Uri;
use http::header::{AUTHORIZATION, COOKIE, HeaderMap};
use http::uri::PathAndQuery;

use crate::route::matcher::cookie_value;
use crate::util::percent_decoded;

/// One place, and the providers whose tokens are there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Header {
        /// In lower case.
        name: String,
        /// What stands before the token; may be empty.
        prefix: String,
    },
    Parameter(String),
    Cookie(String),
}

impl Place {
    /// The places that a provider names, in the order in which they are looked at.
    pub fn of(
        from_headers: Vec<proto::JwtHeader>,
        from_params: Vec<String>,
        from_cookies: Vec<String>,
    ) -> Result<Vec<Self>, Invalid> {
        let headers = each("from_headers", from_headers, |header| {
            let proto::JwtHeader { name, value_prefix } = header;
            Ok(Self::Header {
                name: header_name(&name).at("name")?,
                prefix: header_value(value_prefix).at("value_prefix")?,
            })
        })?;
        let named = |name: String| match name.is_empty() {
            true => Err(fault("must not be empty")),
            false => Ok(name),
        };
        let parameters = each("from_params", from_params, |name| {
            named(name).map(Self::Parameter)
        })?;
        let cookies = each("from_cookies", from_cookies, |name| {
            named(name).map(Self::Cookie)
        })?;
        let mut places: Vec<Self> = headers;
        places.extend(parameters);
        places.extend(cookies);
        if places.is_empty() {
            places = vec![
                Self::Header {
                    name: AUTHORIZATION.as_str().to_owned(),
                    prefix: "Bearer ".to_owned(),
                },
                Self::Parameter("access_token".to_owned()),
            ];
        }
        places.sort();
        Ok(places)
    }

    /// The token that is there.
    pub fn token(&self, headers: &HeaderMap, uri: &Uri) -> Option<String> {
        match self {
            Self::Header { name, prefix } => {
                let value = joined(headers, name)?;
                if prefix.is_empty() {
                    return Some(value);
                }
                let start = value.find(prefix.as_str())? + prefix.len();
                let token = value[start..].trim_start_matches(|c: char| !in_token(c));
                Some(token.to_owned())
            }
            Self::Parameter(name) => {
                let mut pairs = uri.query()?.split('&');
                let value = pairs.find_map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (percent_decoded(key.as_bytes()) == name.as_bytes())
                        .then(|| percent_decoded(value.as_bytes()))
                })?;
                Some(String::from_utf8_lossy(&value).into_owned())
            }
            Self::Cookie(name) => {
                let mut values = headers.get_all(COOKIE).iter();
                let value = values.find_map(|v| cookie_value(v.as_bytes(), name))?;
                Some(String::from_utf8_lossy(value).into_owned())
            }
        }
    }

    /// Takes the token out of the request; a cookie stays, as in Envoy.
    pub fn remove(&self, headers: &mut HeaderMap, uri: &mut Uri) {
        match self {
            Self::Header { name, .. } => {
                headers.remove(name.as_str());
            }
            Self::Parameter(name) => without_parameter(uri, name),
            Self::Cookie(_) => {}
        }
    }
}

fn in_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

/// Several fields of a name are one, so that no second one goes on unseen.
fn joined(headers: &HeaderMap, name: &str) -> Option<String> {
    let mut values = headers.get_all(name).iter();
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let first = text(values.next()?);
    Some(values.fold(first, |all, value| all + "," + &text(value)))
}

/// The other parameters stay as they were written.
fn without_parameter(uri: &mut Uri, name: &str) {
    let Some(query) = uri.query() else { return };
    let kept: Vec<&str> = query
        .split('&')
        .filter(|pair| {
            let key = pair.split('=').next().unwrap_or_default();
            percent_decoded(key.as_bytes()) != name.as_bytes()
        })
        .collect();
    let path = match kept.is_empty() {
        true => uri.path().to_owned(),
        false => format!("{}?{}", uri.path(), kept.join("&")),
    };
    let mut parts = std::mem::take(uri).into_parts();
    // A part of what was a path and query is one.
    parts.path_and_query = PathAndQuery::try_from(path).ok();
    *uri = Uri::from_parts(parts).unwrap_or_default();
}
