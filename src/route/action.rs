//! What a route does, compiled: rewriting, redirecting, answering.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use causeway_xds::resource::route as model;
use causeway_xds::resource::route::{PathMatch, PathRewrite, RedirectPath};
use http::StatusCode;
use http::header::HeaderValue;
use regex::Regex;

use super::matcher::whole;

#[derive(Debug)]
pub enum Action {
    Forward(Forward),
    Redirect(Redirect),
    Direct { status: StatusCode, body: Bytes },
}

#[derive(Debug)]
pub struct Forward {
    pub cluster: Arc<str>,
    pub cluster_not_found: StatusCode,
    pub path_rewrite: Rewrite,
    pub host_rewrite: HostRewrite,
    /// Zero is none.
    pub timeout: Duration,
    /// `timeout` in milliseconds, as the upstream is told.
    pub timeout_header: Option<HeaderValue>,
    pub idle_timeout: Option<Duration>,
    pub upgrades: Vec<model::Upgrade>,
    pub append_x_forwarded_host: bool,
    pub retry: model::Retry,
}

#[derive(Debug)]
pub enum HostRewrite {
    None,
    Literal(HeaderValue),
    Auto,
}

#[derive(Debug)]
pub enum Rewrite {
    None,
    /// Replaces the first `cut` bytes of the path. `tell` puts what was cut into
    /// `x-forwarded-prefix`.
    Prefix {
        cut: usize,
        with: String,
        tell: bool,
    },
    /// Replaces every match in the path.
    Regex {
        pattern: Regex,
        with: String,
    },
}

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

/// Bytes that a prefix rewrite replaces: what the route matched.
fn matched_length(matcher: &model::RouteMatch) -> usize {
    match &matcher.path {
        PathMatch::Prefix(text) | PathMatch::Exact(text) | PathMatch::SeparatedPrefix(text) => {
            text.len()
        }
        // A regex matches the whole path.
        PathMatch::Regex(_) => usize::MAX,
    }
}

fn part(pattern: &str) -> Regex {
    // Checked to compile when the resource was decoded.
    Regex::new(pattern).unwrap_or_else(|_| whole("[^\\s\\S]"))
}

impl Action {
    pub fn compile(action: &model::Action, matcher: &model::RouteMatch) -> Self {
        match action {
            model::Action::Forward(forward) => Self::Forward(Forward::compile(forward, matcher)),
            model::Action::Redirect(redirect) => {
                let prefix = |with: &String| Rewrite::Prefix {
                    cut: matched_length(matcher),
                    with: with.clone(),
                    tell: false,
                };
                let path = match &redirect.path {
                    RedirectPath::Keep => RedirectTo::Keep,
                    RedirectPath::Path(path) => RedirectTo::Path(path.clone()),
                    RedirectPath::Prefix(with) => RedirectTo::Rewrite(prefix(with)),
                    RedirectPath::Regex {
                        pattern,
                        substitution,
                    } => RedirectTo::Rewrite(Rewrite::Regex {
                        pattern: part(pattern),
                        with: substitution.clone(),
                    }),
                };
                Self::Redirect(Redirect {
                    path,
                    ..Redirect::from(&**redirect)
                })
            }
            model::Action::Direct(direct) => Self::Direct {
                status: status(direct.status),
                body: direct.body.clone(),
            },
        }
    }
}

fn status(code: u16) -> StatusCode {
    StatusCode::from_u16(code).unwrap_or(StatusCode::SERVICE_UNAVAILABLE)
}

impl Forward {
    fn compile(model: &model::Forward, matcher: &model::RouteMatch) -> Self {
        let cut = matched_length(matcher);
        let path_rewrite = match &model.path_rewrite {
            PathRewrite::None => Rewrite::None,
            PathRewrite::Prefix(with) => Rewrite::Prefix {
                cut,
                with: with.clone(),
                tell: false,
            },
            PathRewrite::StripPrefix => Rewrite::Prefix {
                cut,
                with: String::new(),
                tell: true,
            },
            PathRewrite::Regex {
                pattern,
                substitution,
            } => Rewrite::Regex {
                pattern: part(pattern),
                with: substitution.clone(),
            },
        };
        let host_rewrite = match &model.host_rewrite {
            model::HostRewrite::None => HostRewrite::None,
            model::HostRewrite::Auto => HostRewrite::Auto,
            model::HostRewrite::Literal(host) => {
                HeaderValue::from_str(host).map_or(HostRewrite::None, HostRewrite::Literal)
            }
        };
        Self {
            cluster: Arc::from(model.cluster.as_str()),
            cluster_not_found: status(model.cluster_not_found),
            path_rewrite,
            host_rewrite,
            timeout: model.timeout,
            timeout_header: (!model.timeout.is_zero()).then(|| {
                HeaderValue::from(u64::try_from(model.timeout.as_millis()).unwrap_or(u64::MAX))
            }),
            idle_timeout: model.idle_timeout,
            upgrades: model.upgrades.clone(),
            append_x_forwarded_host: model.append_x_forwarded_host,
            retry: model.retry,
        }
    }
}

impl Rewrite {
    /// The new path and query, or `None` when nothing changes.
    pub fn apply(&self, path: &str, query: Option<&str>) -> Option<String> {
        let mut out = match self {
            Self::None => return None,
            Self::Prefix { cut, with, .. } => {
                let rest = path.get((*cut).min(path.len())..).unwrap_or("");
                let mut out = String::with_capacity(with.len() + rest.len() + 1);
                out.push_str(with);
                out.push_str(rest);
                out
            }
            Self::Regex { pattern, with } => pattern.replace_all(path, with.as_str()).into_owned(),
        };
        // Whatever was cut, a request target starts with a slash.
        if !out.starts_with('/') {
            out.insert(0, '/');
        }
        if let Some(query) = query {
            out.push('?');
            out.push_str(query);
        }
        Some(out)
    }

    /// What `x-forwarded-prefix` should say, if anything.
    pub fn told_prefix<'p>(&self, path: &'p str) -> Option<&'p str> {
        match self {
            Self::Prefix {
                cut, tell: true, ..
            } => path.get(..*cut),
            _ => None,
        }
    }
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
                Some(to) => out.push_str(&to),
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
    match host.rfind(':') {
        Some(colon) if !host[colon..].contains(']') => (&host[..colon], Some(&host[colon + 1..])),
        _ => (host, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_rewrite_replaces_what_matched_and_keeps_the_query() {
        let rewrite = Rewrite::Prefix {
            cut: 4,
            with: "/".into(),
            tell: false,
        };
        assert_eq!(rewrite.apply("/cut/z", Some("q")).as_deref(), Some("//z?q"));
        let strip = Rewrite::Prefix {
            cut: 4,
            with: String::new(),
            tell: true,
        };
        assert_eq!(strip.apply("/cut", None).as_deref(), Some("/"));
        assert_eq!(strip.told_prefix("/cut/z"), Some("/cut"));
    }

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
