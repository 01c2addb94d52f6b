use http::StatusCode;

use super::*;
use crate::filter::testing::{chain, per_route, request};
use crate::filter::{Answer, Chain};
use crate::route::PerRoute;

fn filter() -> Chain {
    chain(FACTORY.message, &proto::PathPrefix {}).unwrap()
}

fn route(prefix: &str) -> Result<PerRoute, Invalid> {
    let prefix = prefix.into();
    let config = proto::PathPrefixPerRoute { prefix };
    per_route(FACTORY.name, "causeway.v1.PathPrefixPerRoute", &config)
}

/// The answer of an app at `/s/app` of `host`, as the client gets it.
fn answer(target: &str, host: &str, headers: &[(&'static str, &str)]) -> HeaderMap {
    let route = route("/s/app").unwrap();
    let chain = filter();
    let target = chain.target(&request(target, &[("host", host)]), &route);
    let mut answered = HeaderMap::new();
    for (name, value) in headers {
        answered.append(*name, value.parse().unwrap());
    }
    let mut answer = Answer::new(StatusCode::FOUND, &mut answered, None);
    answer.target = target.as_deref();
    chain.response(&mut answer, &route, &mut chain.len(), None);
    answered
}

#[test]
fn references_are_led_back_under_the_prefix() {
    for (host, reference, expected) in [
        ("h", "/login?next=/x#y", "/s/app/login?next=/x#y"),
        ("h", "/", "/s/app/"),
        ("h", "/s/application", "/s/app/s/application"),
        ("h", "http://h/x", "http://h/s/app/x"),
        ("h", "HTTPS://H/x", "HTTPS://H/s/app/x"),
        ("h", "https://h", "https://h/s/app/"),
        ("h", "http://h?x", "http://h/s/app/?x"),
        ("h", "//h/x", "//h/s/app/x"),
        ("h", "http://h:80/x", "http://h:80/s/app/x"),
        ("h:443", "https://h/x", "https://h/s/app/x"),
        ("h:8080", "http://h:8080/x", "http://h:8080/s/app/x"),
        ("h", "/\u{e9}", "/s/app/\u{e9}"),
        // Under it already.
        ("h", "/s/app", "/s/app"),
        ("h", "/s/app/x", "/s/app/x"),
        ("h", "/s/app?x", "/s/app?x"),
        ("h", "http://h/s/app#x", "http://h/s/app#x"),
        // Relative, or somebody else's.
        ("h", "x/y", "x/y"),
        ("h", "../x", "../x"),
        ("h", "?x", "?x"),
        ("h", "", ""),
        ("h", "http://other/x", "http://other/x"),
        ("h", "http://h:81/x", "http://h:81/x"),
        ("h", "http://user@h/x", "http://user@h/x"),
        ("h", "http://h.evil/x", "http://h.evil/x"),
        ("h", "//other/x", "//other/x"),
        ("h:81", "http://h/x", "http://h/x"),
        ("", "http:///x", "http:///x"),
        ("h", "ftp://h/x", "ftp://h/x"),
    ] {
        for name in ["location", "content-location"] {
            let told = answer("/s/app/", host, &[(name, reference)]);
            assert_eq!(told[name].as_bytes(), expected.as_bytes(), "{host}");
        }
    }
}

#[test]
fn refresh_is_a_reference_after_a_number() {
    for (value, expected) in [
        ("5; url=/x", "5; url=/s/app/x"),
        ("0;URL='/x'", "0; url='/s/app/x'"),
        ("5, url = \"http://h/x\"", "5, url=\"http://h/s/app/x\""),
        ("5; url=/s/app/x", "5; url=/s/app/x"),
        ("5; url=http://other/", "5; url=http://other/"),
        ("5", "5"),
        ("5;", "5;"),
        ("5; /x", "5; /x"),
        ("5; url", "5; url"),
        ("5; url=", "5; url="),
        ("5; url='", "5; url='"),
    ] {
        assert_eq!(answer("/", "h", &[("refresh", value)])["refresh"], expected);
    }
}

#[test]
fn cookies_stay_with_their_app() {
    for (target, line, expected) in [
        ("/s/app/", "a=1; Path=/", "a=1; Path=/s/app"),
        ("/s/app/", "a=1;path=/x;Secure", "a=1;path=/s/app/x;Secure"),
        (
            "/s/app/",
            "a=/; Path=/; HttpOnly; Domain=h",
            "a=/; Path=/s/app; HttpOnly; Domain=h",
        ),
        ("/s/app/", "a=1; PATH = /x ", "a=1; PATH =/s/app/x"),
        ("/s/app/", "a=1; Path=/s/app", "a=1; Path=/s/app"),
        ("/s/app/", "a=1; Path=/s/app/x", "a=1; Path=/s/app/x"),
        ("/s/app/", "a=1; Path=/s/apple", "a=1; Path=/s/app/s/apple"),
        // Without a path that counts, the directory of the request is meant.
        ("/s/app/x", "a=1", "a=1"),
        ("/s/app/x/y?/z", "a=1; Secure", "a=1; Secure"),
        ("/s/app", "a=1", "a=1; Path=/s/app"),
        ("/s/app?x=/y/", "a=1", "a=1; Path=/s/app"),
        ("/s/app", "a=1; Path=x", "a=1; Path=x; Path=/s/app"),
        ("/s/app/x", "a=1; Path=/; Path=", "a=1; Path=/s/app; Path="),
        // A value is not an attribute.
        ("/s/app/", "Path=/", "Path=/"),
        (
            "/s/app/",
            "__Host-a=1; Path=/; Secure",
            "__Host-a=1; Path=/; Secure",
        ),
        (
            "/s/app/",
            "__Secure-a=1; Path=/",
            "__Secure-a=1; Path=/s/app",
        ),
        ("/s/app/", "", ""),
    ] {
        let told = answer(target, "h", &[("set-cookie", line)]);
        assert_eq!(told["set-cookie"], expected, "{target} {line}");
    }
}

#[test]
fn all_cookies_keep_their_order() {
    let lines = ["a=1; Path=/", "b=2", "a=3; Path=/x", "c=4; Path=/s/app"];
    let told = answer("/s/app/", "h", &lines.map(|line| ("set-cookie", line)));
    let told: Vec<_> = told.get_all("set-cookie").iter().collect();
    let expected = [
        "a=1; Path=/s/app",
        "b=2",
        "a=3; Path=/s/app/x",
        "c=4; Path=/s/app",
    ];
    assert_eq!(told, expected);
}

#[test]
fn only_routes_that_say_so_are_changed() {
    let chain = filter();
    let parts = request("/", &[("host", "h")]);
    assert!(chain.target(&parts, &PerRoute::default()).is_none());
    assert!(
        Chain::default()
            .target(&parts, &route("/x").unwrap())
            .is_none()
    );
    let mut headers = HeaderMap::new();
    headers.insert(LOCATION, HeaderValue::from_static("/x"));
    let mut answer = Answer::new(StatusCode::FOUND, &mut headers, None);
    chain.response(&mut answer, PerRoute::NONE, &mut chain.len(), None);
    assert_eq!(headers[LOCATION], "/x");
}

#[test]
fn a_prefix_is_a_path() {
    for prefix in ["", "/", "x", "/x/", "//x", "/x;y", "/x y", "/x?y", "/\r\n"] {
        let refused = route(prefix).unwrap_err().to_string();
        assert!(refused.starts_with("prefix: "), "{prefix}: {refused}");
    }
    assert!(route("/a%20b/c~d").is_ok());
}
