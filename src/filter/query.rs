//! Changing the query of a request.

use http::Uri;
use http::request::Parts;
use http::uri::PathAndQuery;

/// Takes all parameters of this name out; the others stay as they were written.
pub fn remove(request: &mut Parts, name: &str) {
    let Some(query) = request.uri.query() else {
        return;
    };
    let is_named = |pair: &&str| {
        let mut parsed = form_urlencoded::parse(pair.as_bytes());
        parsed.next().is_some_and(|(key, _)| key == name)
    };
    let kept: Vec<_> = query.split('&').filter(|pair| !is_named(pair)).collect();
    set(request, &kept.join("&"));
}

/// Puts a query in the place of the one that is there; an empty one is none.
pub fn set(request: &mut Parts, query: &str) {
    let path = request.uri.path();
    let whole = match query {
        "" => path.to_owned(),
        query => format!("{path}?{query}"),
    };
    let Ok(whole) = PathAndQuery::try_from(whole) else {
        return;
    };
    set_path(&mut request.uri, whole);
}

/// Puts a path and its query in the place of those that are there.
pub fn set_path(uri: &mut Uri, path: PathAndQuery) {
    let mut parts = std::mem::take(uri).into_parts();
    parts.path_and_query = Some(path);
    *uri = Uri::from_parts(parts).unwrap_or_default();
}
