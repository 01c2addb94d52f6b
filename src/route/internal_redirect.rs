//! Redirects that are followed here and not by the client (RFC 9110 section 15.4), compiled.

use causeway_xds::resource::route::{InternalRedirect as Model, RedirectPredicate};
use http::header::{HeaderName, HeaderValue};
use http::uri::{PathAndQuery, Scheme};
use http::{StatusCode, Uri};

/// A policy of a route.
#[derive(Debug)]
pub struct InternalRedirect {
    /// Of one request, on all of its routes.
    pub max: u32,
    codes: Vec<u16>,
    predicates: Vec<RedirectPredicate>,
    /// From `http` to `https`, or back.
    pub cross_scheme: bool,
    /// What the request takes over from the answer.
    pub copied: Vec<HeaderName>,
}

/// How the redirects of one request have gone so far.
#[derive(Clone, Debug, Default)]
pub struct Trail {
    pub count: u32,
    /// The scheme that the last one led to; `None` before there was one.
    pub https: Option<bool>,
    /// From which route to which, where a route wants to know; no more than there were redirects.
    visited: Vec<(String, String)>,
}

/// Where a redirect leads.
#[derive(Clone, Debug)]
pub struct Target {
    pub https: bool,
    pub host: HeaderValue,
    pub path: PathAndQuery,
}

impl Target {
    /// An absolute URL of HTTP; what is behind a `#` is for the client alone. Envoy does not follow
    /// relative ones either.
    pub fn parse(url: &[u8]) -> Option<Self> {
        let url = Uri::try_from(url).ok()?;
        let scheme = url.scheme()?;
        let https = *scheme == Scheme::HTTPS;
        if !https && *scheme != Scheme::HTTP {
            return None;
        }
        let authority = url.authority().map(|a| a.as_str())?;
        if authority.contains('@') {
            return None;
        }
        Some(Self {
            https,
            host: HeaderValue::from_str(authority).ok()?,
            path: url.path_and_query()?.clone(),
        })
    }
}

impl InternalRedirect {
    pub fn compile(model: &Model) -> Self {
        let copied = model.copied.iter();
        Self {
            max: model.max,
            codes: model.codes.clone(),
            predicates: model.predicates.clone(),
            cross_scheme: model.cross_scheme,
            copied: copied.filter_map(|name| name.parse().ok()).collect(),
        }
    }

    /// Whether an answer with that status is looked at at all.
    pub fn takes(&self, status: StatusCode) -> bool {
        self.codes.contains(&status.as_u16())
    }

    /// Whether all predicates let a request go from one route to another, by their names.
    /// `to_tls`: from a connection in clear text to `https`.
    pub fn lets(&self, from: &str, to: &str, to_tls: bool, trail: &mut Trail) -> bool {
        self.predicates.iter().all(|predicate| match predicate {
            RedirectPredicate::PreviousRoutes => trail.enter(from, to),
            RedirectPredicate::AllowListedRoutes(names) => names.iter().any(|name| name == to),
            RedirectPredicate::SafeCrossScheme => !to_tls,
        })
    }
}

impl Trail {
    /// `false`: it went that way before.
    fn enter(&mut self, from: &str, to: &str) -> bool {
        let known = self.visited.iter().any(|(f, t)| (&**f, &**t) == (from, to));
        if !known {
            self.visited.push((from.to_owned(), to.to_owned()));
        }
        !known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(predicates: Vec<RedirectPredicate>) -> InternalRedirect {
        InternalRedirect::compile(&Model {
            max: 1,
            codes: vec![302],
            predicates,
            cross_scheme: true,
            copied: Vec::new(),
        })
    }

    #[test]
    fn a_route_leads_to_another_once() {
        let policy = with(vec![RedirectPredicate::PreviousRoutes]);
        let mut trail = Trail::default();
        let mut goes = |from, to| policy.lets(from, to, false, &mut trail);
        assert!(goes("a", "b"));
        assert!(goes("b", "a"));
        assert!(!goes("a", "b"));
        assert!(goes("a", "c"));
    }

    #[test]
    fn all_predicates_have_to_agree() {
        let names = RedirectPredicate::AllowListedRoutes(vec!["b".into(), "c".into()]);
        let policy = with(vec![names, RedirectPredicate::SafeCrossScheme]);
        let goes = |to, tls| policy.lets("a", to, tls, &mut Trail::default());
        assert_eq!(
            [goes("b", false), goes("c", true), goes("d", false)],
            [true, false, false]
        );
        assert!(policy.takes(StatusCode::FOUND));
        assert!(!policy.takes(StatusCode::SEE_OTHER));
    }

    #[test]
    fn only_whole_urls_of_http_are_followed() {
        let parse = |text: &str| {
            let target = Target::parse(text.as_bytes())?;
            let host = target.host.to_str().unwrap().to_owned();
            Some((target.https, host, target.path.to_string()))
        };
        for (url, https, host, path) in [
            ("http://a", false, "a", "/"),
            ("https://a:1/b?c=d", true, "a:1", "/b?c=d"),
            ("http://a/./b//#c", false, "a", "/./b//"),
            ("HTTP://a/#", false, "a", "/"),
            ("http://[::1]:8/", false, "[::1]:8", "/"),
        ] {
            let expected = (https, host.to_owned(), path.to_owned());
            assert_eq!(parse(url), Some(expected), "{url}");
        }
        for url in [
            "",
            "/a",
            "a",
            "//a/b",
            "ftp://a/b",
            "http://u@a/",
            "http://a/ b",
            "http:///b",
        ] {
            assert_eq!(parse(url), None, "{url}");
        }
    }
}
