use super::*;
use crate::filter::testing::{chain, per_route, request, run};
use crate::route::PerRoute;

fn forwarded(proto: &str, rstudio: bool, target: &str, headers: &[(&str, &str)]) -> HeaderMap {
    let proto = proto.into();
    let chain = chain(
        FACTORY.message,
        &proto::Forwarded {
            proto,
            client_only: true,
        },
    )
    .unwrap();
    let config = proto::ForwardedPerRoute { rstudio };
    let route = per_route(FACTORY.name, "causeway.v1.ForwardedPerRoute", &config).unwrap();
    let mut parts = request(target, headers);
    run(&chain, &mut parts, &route).unwrap();
    parts.headers
}

#[test]
fn the_upstream_learns_what_it_was_called() {
    for (proto, host, told, expected) in [
        // A port of its own, and the ports that schemes imply.
        (
            "",
            "app.test",
            &[][..],
            ("app.test", "80", "host=app.test;proto=http"),
        ),
        (
            "https",
            "app.test",
            &[][..],
            ("app.test", "443", "host=app.test;proto=https"),
        ),
        (
            "https",
            "app.test:8443",
            &[][..],
            (
                "app.test:8443",
                "8443",
                "host=\"app.test:8443\";proto=https",
            ),
        ),
        (
            "",
            "[::1]:81",
            &[][..],
            ("[::1]:81", "81", "host=\"[::1]:81\";proto=http"),
        ),
        (
            "",
            "[::1]",
            &[][..],
            ("[::1]", "80", "host=\"[::1]\";proto=http"),
        ),
        (
            "",
            "app.test:99999",
            &[][..],
            ("app.test:99999", "80", "host=\"app.test:99999\";proto=http"),
        ),
        // What a proxy in front says is kept; what it derived from it is not.
        (
            "",
            "inner:1",
            &[
                ("x-forwarded-host", "outer.test"),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-port", "38034"),
                ("forwarded", "for=evil"),
                ("forwarded", "for=evil2"),
            ],
            ("outer.test", "443", "host=outer.test;proto=https"),
        ),
        (
            "",
            "inner",
            &[("x-forwarded-host", "outer.test:8, inner")],
            (
                "outer.test:8, inner",
                "8",
                "host=\"outer.test:8\";proto=http",
            ),
        ),
        // The configuration knows best.
        (
            "http",
            "a",
            &[("x-forwarded-proto", "https")],
            ("a", "80", "host=a;proto=http"),
        ),
        (
            "",
            "a",
            &[("x-forwarded-proto", "wss, http")],
            ("a", "443", "host=a;proto=wss"),
        ),
        // Nothing gets out of its field.
        (
            "",
            "a",
            &[("x-forwarded-proto", "http;for=1.2.3.4")],
            ("a", "80", "host=a;proto=http"),
        ),
        (
            "",
            "a",
            &[("x-forwarded-host", "b\";for=1.2.3.4;x=\"")],
            ("a", "80", "host=a;proto=http"),
        ),
        (
            "",
            "a;for=1.2.3.4",
            &[],
            ("a;for=1.2.3.4", "80", "host=\"a;for=1.2.3.4\";proto=http"),
        ),
    ] {
        let all = [told, &[("host", host)]].concat();
        let headers = forwarded(proto, false, "/", &all);
        let one = |name: &str| {
            let mut all = headers.get_all(name).iter();
            let one = all.next().unwrap().to_str().unwrap();
            assert_eq!(all.next(), None, "{name} twice");
            one
        };
        assert_eq!(
            (
                one("x-forwarded-host"),
                one("x-forwarded-port"),
                one("forwarded")
            ),
            expected,
            "{host} {told:?}"
        );
        assert!(!headers.contains_key("x-rstudio-request"));
        assert_eq!(headers.contains_key("x-forwarded-proto"), {
            !proto.is_empty() || told.iter().any(|(name, _)| *name == "x-forwarded-proto")
        });
    }
}

#[test]
fn without_a_host_nothing_is_made_up() {
    let sent = [
        ("host", ""),
        ("forwarded", "host=x"),
        ("x-forwarded-port", "1"),
        ("x-forwarded-host", "\"\""),
    ];
    let headers = forwarded("", true, "/", &sent);
    assert_eq!(headers["x-forwarded-host"], "");
    for name in ["forwarded", "x-forwarded-port", "x-rstudio-request"] {
        assert!(!headers.contains_key(name), "{name}");
    }
}

#[test]
fn rstudio_learns_the_address_of_the_request() {
    let sent = [
        ("host", "r.test"),
        ("x-rstudio-request", "http://evil/"),
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
    ];
    let headers = forwarded("https", true, "/a%20b/c?d=e", &sent);
    assert_eq!(headers["x-rstudio-proto"], "https");
    assert_eq!(headers["x-rstudio-request"], "https://r.test/a%20b/c");
    assert_eq!(headers["upgrade"], "websocket");
    let without = forwarded("https", false, "/a", &[("host", "r.test")]);
    assert!(!without.contains_key("x-rstudio-proto"));
}

#[test]
fn a_route_need_not_say_anything() {
    let chain = chain(FACTORY.message, &proto::Forwarded::default()).unwrap();
    let mut parts = request("/", &[("host", "a")]);
    run(&chain, &mut parts, &PerRoute::default()).unwrap();
    assert_eq!(parts.headers["x-forwarded-port"], "80");
}

#[test]
fn only_two_schemes_can_be_told() {
    let proto = "https\r\nx: y".into();
    let refused = chain(
        FACTORY.message,
        &proto::Forwarded {
            proto,
            client_only: true,
        },
    )
    .unwrap_err();
    let expected = "proto: \"https\\r\\nx: y\" is neither \"http\" nor \"https\"";
    assert_eq!(refused.to_string(), expected);
}
