//! `causeway.path_prefix`: leads answers back under the prefix that the route cuts off.
//!
//! Configuration: `xds/proto/causeway/v1/circuit.proto`. An app that lives under `/a/b` of its
//! visitors, but sees `/`, answers with `Location: /login` and `Set-Cookie: ...; Path=/`. The
//! first leads nowhere and the second leads everywhere: to every app under the same host. Bodies
//! are not looked at; an app that makes links of its own needs `x-forwarded-prefix`.
//!
//! A cookie without a `Path` belongs to the directory of the request (RFC 6265 section 5.1.4). The
//! browser knows the directory with its prefix, which is what the app means, so such a cookie is
//! left alone, unless the directory is above the prefix (the request was for the bare prefix):
//! then it gets the prefix for a path. `__Host-` cookies are left alone as well, because browsers
//! refuse them with any other path than `/`.

use std::sync::Arc;

use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::causeway::v1 as proto;
use causeway_xds::reject::Invalid;
use http::header::{
    CONTENT_LOCATION, Entry, HeaderMap, HeaderName, HeaderValue, LOCATION, REFRESH, SET_COOKIE,
};

use super::super::registry::{Context, decode};
use super::super::{Answer, Factory, HttpFilter};
use crate::route::RouteConfig;

pub const FACTORY: Factory = Factory {
    message: "causeway.v1.PathPrefix",
    name: "causeway.path_prefix",
    build,
    per_route: &[("causeway.v1.PathPrefixPerRoute", build_per_route)],
};

#[derive(Debug)]
struct PathPrefix;

/// Begins with a slash and ends without one.
#[derive(Debug)]
struct Prefix(String);

fn build(config: &TypedExtension, _: &Context) -> Result<Arc<dyn HttpFilter>, Invalid> {
    let proto::PathPrefix {} = decode(config)?;
    Ok(Arc::new(PathPrefix))
}

fn build_per_route(config: &TypedExtension, _: &Context) -> Result<RouteConfig, Invalid> {
    let proto::PathPrefixPerRoute { prefix } = decode(config)?;
    // What ends a path, a field or an attribute of a cookie must not be part of it.
    let of_path = |b: u8| b.is_ascii_graphic() && !b"?#;,\"\\<>".contains(&b);
    if !prefix.starts_with('/') || prefix.ends_with('/') || prefix.starts_with("//") {
        let reason = "must begin with one slash and end without one";
        return Err(Invalid::at("prefix", reason));
    }
    if !prefix.bytes().all(of_path) {
        return Err(Invalid::at(
            "prefix",
            "has a character that a path cannot have",
        ));
    }
    Ok(RouteConfig::new(Prefix(prefix)))
}

impl HttpFilter for PathPrefix {
    fn response(&self, answer: &mut Answer<'_>) {
        // Answers of our own are in the visitor's terms already.
        if answer.local {
            return;
        }
        let Some(prefix) = answer.route_config::<Prefix>() else {
            return;
        };
        let target = answer.target;
        let host = target.and_then(|target| target.host.as_ref()?.to_str().ok());
        let host = host.unwrap_or("");
        for name in [LOCATION, CONTENT_LOCATION] {
            change(answer.headers, name, |value| prefix.reference(value, host));
        }
        change(answer.headers, REFRESH, |value| prefix.refresh(value, host));
        let path = target.map_or("/", |target| target.uri.path());
        if let Entry::Occupied(mut cookies) = answer.headers.entry(SET_COOKIE) {
            for line in cookies.iter_mut() {
                if let Some(changed) = prefix.cookie(line.as_bytes(), path)
                    && let Ok(changed) = HeaderValue::try_from(changed)
                {
                    *line = changed;
                }
            }
        }
    }

    fn wants_target(&self) -> bool {
        true
    }
}

fn change(headers: &mut HeaderMap, name: HeaderName, to: impl Fn(&str) -> Option<String>) {
    if let Some(value) = headers.get_mut(name)
        && let Ok(text) = std::str::from_utf8(value.as_bytes())
        && let Some(changed) = to(text)
        && let Ok(changed) = HeaderValue::try_from(changed)
    {
        *value = changed;
    }
}

impl Prefix {
    /// Whether a path, with whatever follows it, is under the prefix already.
    fn has(&self, path: &[u8]) -> bool {
        let rest = path.strip_prefix(self.0.as_bytes());
        rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'/' | b'?' | b'#')))
    }

    /// A reference to the same host, as a visitor has to follow it. `None` when it can stay.
    fn reference(&self, reference: &str, host: &str) -> Option<String> {
        let reference = reference.trim();
        let (scheme, port) = match reference.as_bytes() {
            [b'/', b'/', ..] => ("//", ""),
            [b'/', ..] => {
                let outside = !self.has(reference.as_bytes());
                return outside.then(|| format!("{}{reference}", self.0));
            }
            _ if starts_with(reference, "http://") => ("http://", ":80"),
            _ if starts_with(reference, "https://") => ("https://", ":443"),
            // Relative to the request, or of another scheme.
            _ => return None,
        };
        let (start, rest) = reference.split_at(scheme.len());
        let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let same = bare(authority, port).eq_ignore_ascii_case(bare(host, port));
        if host.is_empty() || !same || self.has(path.as_bytes()) {
            return None;
        }
        let slash = if path.starts_with('/') { "" } else { "/" };
        Some([start, authority, &self.0, slash, path].concat())
    }

    /// `5; url=/x`: browsers take it in many spellings, and this is the one that they agree on.
    fn refresh(&self, value: &str, host: &str) -> Option<String> {
        let at = value.find([';', ','])? + 1;
        let url = value[at..].trim_start();
        let rest = starts_with(url, "url").then(|| url[3..].trim_start())?;
        let rest = rest.strip_prefix('=')?.trim();
        let quote = match rest.as_bytes().first() {
            Some(b'"') => "\"",
            Some(b'\'') => "'",
            _ => "",
        };
        let inner = rest.strip_prefix(quote).unwrap_or(rest);
        let inner = inner.strip_suffix(quote).unwrap_or(inner);
        let changed = self.reference(inner, host)?;
        Some([&value[..at], " url=", quote, &changed, quote].concat())
    }

    /// One line of `Set-Cookie`, changed, if it has to be; `path` is what was asked for.
    fn cookie(&self, line: &[u8], path: &str) -> Option<Vec<u8>> {
        let mut parts = line.split(|b| *b == b';');
        let pair = parts.next().unwrap_or_default();
        let name = pair.trim_ascii_start();
        if name.len() >= 7 && name[..7].eq_ignore_ascii_case(b"__Host-") {
            return None;
        }
        let mut out = Vec::with_capacity(line.len() + self.0.len() + 7);
        out.extend_from_slice(pair);
        let (mut changed, mut has_path) = (false, false);
        for part in parts {
            out.push(b';');
            let equals = part.iter().position(|b| *b == b'=').unwrap_or(part.len());
            let (name, value) = part.split_at(equals);
            let value = value.get(1..).unwrap_or_default().trim_ascii();
            if !name.trim_ascii().eq_ignore_ascii_case(b"path") {
                out.extend_from_slice(part);
                continue;
            }
            // The last one counts (RFC 6265 section 5.3), and only if it begins with a slash
            // (section 5.2.4).
            has_path = value.first() == Some(&b'/');
            if has_path && !self.has(value) {
                changed = true;
                out.extend_from_slice(name);
                out.push(b'=');
                out.extend_from_slice(self.0.as_bytes());
                // Without its slash the prefix also covers itself.
                out.extend_from_slice(if value == b"/" { b"" } else { value });
            } else {
                out.extend_from_slice(part);
            }
        }
        let directory = path.rfind('/').map_or("", |at| &path[..at]);
        if !has_path && !self.has(directory.as_bytes()) {
            changed = true;
            out.extend_from_slice(b"; Path=");
            out.extend_from_slice(self.0.as_bytes());
        }
        changed.then_some(out)
    }
}

/// An authority without the port that its scheme implies.
fn bare<'a>(authority: &'a str, port: &str) -> &'a str {
    authority.strip_suffix(port).unwrap_or(authority)
}

fn starts_with(text: &str, start: &str) -> bool {
    text.get(..start.len())
        .is_some_and(|head| head.eq_ignore_ascii_case(start))
}

#[cfg(test)]
mod tests;
