//! What a path or host becomes on its way up, compiled.

use causeway_xds::resource::route as model;
use causeway_xds::resource::route::{PathMatch, PathRewrite, RewritePart};
use http::header::HeaderValue;
use regex::Regex;

use super::matcher::whole;

#[derive(Debug)]
pub enum Rewrite {
    /// Replaces the first `cut` bytes of the path. `tell` puts what was cut into
    /// `x-forwarded-prefix`.
    Prefix {
        cut: usize,
        with: String,
        tell: bool,
    },
    /// Replaces every match in the path.
    Regex { pattern: Regex, with: String },
    /// Makes a path of the parts that the whole path has.
    Template {
        pattern: Regex,
        parts: Vec<RewritePart>,
    },
}

#[derive(Debug)]
pub enum HostRewrite {
    Literal(HeaderValue),
    Header(String),
    PathRegex { pattern: Regex, with: String },
    Auto,
}

/// Bytes that a prefix rewrite replaces: what the route matched.
pub fn matched_length(matcher: &model::RouteMatch) -> usize {
    match &matcher.path {
        PathMatch::Prefix(text) | PathMatch::Exact(text) | PathMatch::SeparatedPrefix(text) => {
            text.len()
        }
        // These match the whole path.
        PathMatch::Regex(_) | PathMatch::Template(_) | PathMatch::Connect => usize::MAX,
    }
}

/// A pattern that may match anywhere.
pub fn part(pattern: &str) -> Regex {
    // Checked to compile when the resource was decoded.
    Regex::new(pattern).unwrap_or_else(|_| whole("[^\\s\\S]"))
}

impl Rewrite {
    pub fn compile(model: &PathRewrite, matcher: &model::RouteMatch) -> Option<Self> {
        let cut = matched_length(matcher);
        Some(match model {
            PathRewrite::None => return None,
            PathRewrite::Prefix(with) => Self::Prefix {
                cut,
                with: with.clone(),
                tell: false,
            },
            PathRewrite::StripPrefix => Self::Prefix {
                cut,
                with: String::new(),
                tell: true,
            },
            PathRewrite::Regex {
                pattern,
                substitution,
            } => Self::Regex {
                pattern: part(pattern),
                with: substitution.clone(),
            },
            PathRewrite::Template(rewrite) => Self::Template {
                pattern: whole(&rewrite.pattern),
                parts: rewrite.parts.clone(),
            },
        })
    }

    /// The new path and query, or `None` when nothing changes. A pattern may have taken the slash at its start.
    pub fn apply(&self, path: &str, query: Option<&str>) -> Option<String> {
        let mut out = match self {
            Self::Prefix { cut, with, tell } => {
                let rest = path.get((*cut).min(path.len())..).unwrap_or("");
                let mut out = String::with_capacity(with.len() + rest.len() + 1);
                if *tell && !rest.starts_with('/') {
                    // What is cut is the place where an application is mounted, with or without the slash behind it.
                    out.push('/');
                }
                out.push_str(with);
                out.push_str(rest);
                out
            }
            Self::Regex { pattern, with } => pattern.replace_all(path, with.as_str()).into_owned(),
            Self::Template { pattern, parts } => {
                let groups = pattern.captures(path)?;
                let texts = parts.iter().map(|part| match part {
                    RewritePart::Literal(text) => text.as_str(),
                    RewritePart::Group(index) => groups.get(*index).map_or("", |m| m.as_str()),
                });
                texts.collect()
            }
        };
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

impl HostRewrite {
    pub fn compile(model: &model::HostRewrite) -> Option<Self> {
        Some(match model {
            model::HostRewrite::None => return None,
            model::HostRewrite::Auto => Self::Auto,
            model::HostRewrite::Literal(host) => Self::Literal(HeaderValue::from_str(host).ok()?),
            model::HostRewrite::Header(name) => Self::Header(name.clone()),
            model::HostRewrite::PathRegex {
                pattern,
                substitution,
            } => Self::PathRegex {
                pattern: part(pattern),
                with: substitution.clone(),
            },
        })
    }

    /// The new host, as far as it is known before an endpoint is.
    pub fn apply(&self, headers: &http::HeaderMap, path: &str) -> Option<HeaderValue> {
        match self {
            Self::Auto => None,
            Self::Literal(host) => Some(host.clone()),
            Self::Header(name) => headers.get(name).filter(|v| !v.is_empty()).cloned(),
            Self::PathRegex { pattern, with } => {
                HeaderValue::from_str(&pattern.replace_all(path, with.as_str())).ok()
            }
        }
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
    fn a_template_puts_the_parts_of_a_path_elsewhere() {
        let rewrite = Rewrite::Template {
            pattern: whole("/u/([^/]+)/p/([^/]+)"),
            parts: vec![
                RewritePart::Literal("/p/".into()),
                RewritePart::Group(2),
                RewritePart::Literal("/".into()),
                RewritePart::Group(1),
            ],
        };
        assert_eq!(
            rewrite.apply("/u/1/p/2", Some("q=1")).as_deref(),
            Some("/p/2/1?q=1")
        );
        assert_eq!(rewrite.apply("/other", None), None);
    }

    #[test]
    fn a_host_comes_from_a_header_or_the_path() {
        let mut headers = http::HeaderMap::new();
        let by_header = HostRewrite::Header("x-host".into());
        assert_eq!(by_header.apply(&headers, "/"), None);
        headers.insert("x-host", HeaderValue::from_static("a.test"));
        assert_eq!(by_header.apply(&headers, "/").unwrap(), "a.test");
        let by_path = HostRewrite::PathRegex {
            pattern: part("^/rx/([^/]+)/.*$"),
            with: "${1}.svc".into(),
        };
        assert_eq!(by_path.apply(&headers, "/rx/t/a").unwrap(), "t.svc");
    }
}
