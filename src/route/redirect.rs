//! Redirects, compiled.

use causeway_xds::resource::route as model;
use causeway_xds::resource::route::RedirectPath;
use http::StatusCode;

use super::action::status;
use super::rewrite::{Rewrite, matched_length, part};

#[derive(Debug)]
pub struct Redirect {
    model: model::Redirect,
    path: RedirectTo,
    pub status: StatusCode,
}

#[derive(Debug)]
enum RedirectTo {
    Keep,
    Path(String),
    Rewrite(Rewrite),
}

impl From<&model::Redirect> for Redirect {
    fn from(model: &model::Redirect) -> Self {
        Self {
            status: status(model.status),
            path: RedirectTo::Keep,
            model: model.clone(),
        }
    }
}

impl Redirect {
    pub fn compile(model: &model::Redirect, matcher: &model::RouteMatch) -> Self {
        let path = match &model.path {
            RedirectPath::Keep => RedirectTo::Keep,
            RedirectPath::Path(path) => RedirectTo::Path(path.clone()),
            RedirectPath::Prefix(with) => RedirectTo::Rewrite(Rewrite::Prefix {
                cut: matched_length(matcher),
                with: with.clone(),
                tell: false,
            }),
            RedirectPath::Regex {
                pattern,
                substitution,
            } => RedirectTo::Rewrite(Rewrite::Regex {
                pattern: part(pattern),
                with: substitution.clone(),
            }),
        };
        Self {
            path,
            ..Self::from(model)
        }
    }

    /// Of no route: what routes rewrite (`RedirectPath::Prefix`, `RedirectPath::Regex`) stays.
    pub fn of_any_route(model: &model::Redirect) -> Self {
        let path = match &model.path {
            RedirectPath::Path(path) => RedirectTo::Path(path.clone()),
            _ => RedirectTo::Keep,
        };
        Self {
            path,
            ..Self::from(model)
        }
    }

    /// To the same place over TLS (`require_tls`).
    pub fn to_https() -> Self {
        Self::from(&model::Redirect {
            scheme: Some("https".into()),
            status: 301,
            ..model::Redirect::default()
        })
    }

    /// Where to (`Location`). `host` is the request's, port included.
    pub fn location(&self, scheme: &str, host: &str, path: &str, query: Option<&str>) -> String {
        let (name, port) = split_port(host);
        let new_scheme = self.model.scheme.as_deref().unwrap_or(scheme);
        let mut out = String::with_capacity(host.len() + path.len() + 16);
        out.push_str(new_scheme);
        out.push_str("://");
        out.push_str(self.model.host.as_deref().unwrap_or(name));
        let kept = match (&self.model.host, self.model.scheme.as_deref(), port) {
            (Some(_), ..) => None,
            // The port that belonged to the old scheme would be wrong for the new one.
            (None, Some("https"), Some("80")) | (None, Some("http"), Some("443")) => None,
            (None, _, port) => port,
        };
        match (self.model.port, kept) {
            (Some(port), _) => out.push_str(&format!(":{port}")),
            (None, Some(port)) => {
                out.push(':');
                out.push_str(port);
            }
            (None, None) => {}
        }
        let query = if self.model.strip_query { None } else { query };
        match &self.path {
            RedirectTo::Keep => push_path(&mut out, path, query),
            RedirectTo::Path(to) if to.contains('?') => out.push_str(to),
            RedirectTo::Path(to) => push_path(&mut out, to, query),
            RedirectTo::Rewrite(rewrite) => match rewrite.apply(path, query) {
                Some(to) => {
                    if !to.starts_with('/') {
                        // Or it would be a part of the host.
                        out.push('/');
                    }
                    out.push_str(&to);
                }
                None => push_path(&mut out, path, query),
            },
        }
        out
    }
}

fn push_path(out: &mut String, path: &str, query: Option<&str>) {
    out.push_str(path);
    if let Some(query) = query {
        out.push('?');
        out.push_str(query);
    }
}

/// Splits `host:port`; the brackets of an IPv6 literal stay with the host.
pub fn split_port(host: &str) -> (&str, Option<&str>) {
    // By bytes: every request's host comes through here.
    let bytes = host.as_bytes();
    match memchr::memrchr(b':', bytes) {
        Some(colon) if !bytes[colon..].contains(&b']') => {
            (&host[..colon], Some(&host[colon + 1..]))
        }
        _ => (host, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn https_redirect_drops_port_80_only() {
        let to = Redirect::to_https();
        assert_eq!(
            to.location("http", "h:80", "/a", Some("b=1")),
            "https://h/a?b=1"
        );
        assert_eq!(
            to.location("http", "h:8080", "/a", None),
            "https://h:8080/a"
        );
        assert_eq!(to.location("http", "[::1]", "/", None), "https://[::1]/");
    }
}
