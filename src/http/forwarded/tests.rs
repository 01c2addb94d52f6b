use causeway_xds::resource::http_manager::InternalAddresses;

use super::*;

fn trusting(networks: &[&str], append: bool) -> Forwarded {
    let networks = networks.iter().map(|n| n.parse().unwrap()).collect();
    Forwarded {
        detection: Some(Detection {
            trusted: Trusted::Networks(networks),
            append,
        }),
        ..Forwarded::default()
    }
}

/// The client, and what the upstream is told: addresses and scheme.
fn told(rules: &Forwarded, peer: &str, sent: &[(&str, &str)]) -> (String, String, String) {
    let mut headers = HeaderMap::new();
    for (name, value) in sent {
        let name: HeaderName = name.parse().unwrap();
        headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    let names = Names::of(&headers);
    let peer = Peer::new(peer.parse().unwrap(), false);
    let client = apply(&mut headers, names, rules, &peer).unwrap();
    let all = |name| {
        let values = headers.get_all(name).iter();
        let values: Vec<_> = values.map(|v| v.to_str().unwrap_or("?")).collect();
        values.join("|")
    };
    let (addresses, scheme) = (all(X_FORWARDED_FOR), all(X_FORWARDED_PROTO));
    (client.ip.to_string(), addresses, scheme)
}

const FOR: &str = "x-forwarded-for";
const PROTO: (&str, &str) = ("x-forwarded-proto", "https");

#[test]
fn the_client_is_the_first_stranger_from_the_right() {
    let rules = trusting(&["10.0.0.0/8", "fd00::/8", "127.0.0.1/32"], false);
    for (peer, sent, client) in [
        ("10.0.0.1", &["203.0.113.9"][..], "203.0.113.9"),
        (
            "10.0.0.1",
            &["6.6.6.6, 203.0.113.9, 10.1.1.1"],
            "203.0.113.9",
        ),
        (
            "10.0.0.1",
            &["6.6.6.6", "203.0.113.9,10.1.1.1", "fd00::1"],
            "203.0.113.9",
        ),
        ("::ffff:10.0.0.1", &["203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", &["203.0.113.9, ::ffff:10.1.1.1"], "203.0.113.9"),
        ("10.0.0.1", &["2001:db8::1"], "2001:db8::1"),
        // With a port, and blanks between commas.
        (
            "10.0.0.1",
            &["203.0.113.9:4711, [fd00::1]:80, ,"],
            "203.0.113.9",
        ),
        // All of them are trusted: the one farthest away.
        ("10.0.0.1", &["10.2.2.2, 10.1.1.1"], "10.2.2.2"),
        // Who is not understood is nobody, and in no list of those that may come in.
        ("10.0.0.1", &["203.0.113.9, unknown, 10.1.1.1"], "0.0.0.0"),
        ("10.0.0.1", &["203.0.113.9, \u{e9}"], "0.0.0.0"),
        ("10.0.0.1", &[], "10.0.0.1"),
        ("10.0.0.1", &[""], "10.0.0.1"),
        // Nobody has to believe a stranger.
        ("192.0.2.1", &["203.0.113.9"], "192.0.2.1"),
        ("192.0.2.1", &["10.0.0.1"], "192.0.2.1"),
        ("127.0.0.2", &["203.0.113.9"], "127.0.0.2"),
    ] {
        let sent: Vec<_> = sent.iter().map(|value| (FOR, *value)).collect();
        assert_eq!(told(&rules, peer, &sent).0, client, "{peer} {sent:?}");
    }
}

#[test]
fn only_a_trusted_peer_knows_the_scheme() {
    let rules = trusting(&["10.0.0.0/8"], false);
    for (peer, sent, scheme) in [
        ("10.0.0.1", &[PROTO][..], "https"),
        ("10.0.0.1", &[], "http"),
        ("192.0.2.1", &[PROTO], "http"),
        ("192.0.2.1", &[PROTO, PROTO], "http"),
        ("192.0.2.1", &[], "http"),
    ] {
        assert_eq!(told(&rules, peer, sent).2, scheme, "{peer} {sent:?}");
    }
}

#[test]
fn the_peer_is_appended_if_that_is_wanted() {
    for (append, sent, addresses) in [
        (
            true,
            &["203.0.113.9", "10.1.1.1"][..],
            "203.0.113.9,10.1.1.1,10.0.0.1",
        ),
        (true, &[], "10.0.0.1"),
        (false, &["203.0.113.9", "10.1.1.1"], "203.0.113.9|10.1.1.1"),
        (false, &[], ""),
    ] {
        let sent: Vec<_> = sent.iter().map(|value| (FOR, *value)).collect();
        let rules = trusting(&["10.0.0.0/8"], append);
        assert_eq!(told(&rules, "10.0.0.1", &sent).1, addresses, "{sent:?}");
    }
}

#[test]
fn hops_are_counted_whoever_they_are() {
    let rules = |hops| Forwarded {
        detection: Some(Detection {
            trusted: Trusted::Hops(hops),
            append: false,
        }),
        ..Forwarded::default()
    };
    let sent = [(FOR, "1.1.1.1, 2.2.2.2"), PROTO];
    for (hops, client) in [(0, "2.2.2.2"), (1, "1.1.1.1"), (2, "192.0.2.1")] {
        let (found, addresses, scheme) = told(&rules(hops), "192.0.2.1", &sent);
        assert_eq!(found, client);
        assert_eq!((&*addresses, &*scheme), ("1.1.1.1, 2.2.2.2", "https"));
    }
    assert_eq!(told(&rules(0), "192.0.2.1", &[]).0, "192.0.2.1");
}

#[test]
fn a_field_of_its_own_may_say_who_the_client_is() {
    let rules = |internal, otherwise| Forwarded {
        detection: Some(Detection {
            trusted: Trusted::Header {
                name: "x-client".to_owned(),
                internal,
                otherwise,
            },
            append: true,
        }),
        internal: InternalAddresses {
            unix_sockets: false,
            networks: vec!["10.0.0.0/8".parse().unwrap()],
        },
        ..Forwarded::default()
    };
    let open = rules(false, None);
    for (sent, client) in [
        (&["203.0.113.9"][..], "203.0.113.9"),
        (&["2001:db8::1"], "2001:db8::1"),
        // The first value counts.
        (&["203.0.113.9", "203.0.113.8"], "203.0.113.9"),
        (&["203.0.113.9, 203.0.113.8"], "192.0.2.1"),
        (&["nobody"], "192.0.2.1"),
        (&["\u{e9}"], "192.0.2.1"),
        (&[], "192.0.2.1"),
    ] {
        let sent: Vec<_> = sent.iter().map(|value| ("x-client", *value)).collect();
        let (found, addresses, _) = told(&open, "192.0.2.1", &sent);
        assert_eq!((&*found, &*addresses), (client, "192.0.2.1"), "{sent:?}");
    }
    let peer = Peer::new("192.0.2.1".parse().unwrap(), false);
    let seen = |rules: &Forwarded, value: Option<&'static str>| {
        let mut headers = HeaderMap::new();
        if let Some(value) = value {
            headers.insert("x-client", HeaderValue::from_static(value));
        }
        let names = Names::of(&headers);
        apply(&mut headers, names, rules, &peer).map(|client| client.internal)
    };
    assert_eq!(seen(&rules(true, None), Some("10.1.1.1")), Ok(true));
    assert_eq!(seen(&rules(true, None), None), Ok(false));
    assert_eq!(seen(&open, Some("10.1.1.1")), Ok(false));
    let strict = rules(false, Some(404));
    assert_eq!(seen(&strict, Some("203.0.113.9")), Ok(false));
    let refused = Err(Unknown(StatusCode::NOT_FOUND));
    assert_eq!(seen(&strict, Some("nobody")), refused);
    assert_eq!(seen(&strict, None), refused);
}

#[test]
fn only_an_internal_client_may_steer() {
    let rules = Forwarded {
        use_remote_address: true,
        internal: InternalAddresses {
            unix_sockets: false,
            networks: vec!["10.0.0.0/8".parse().unwrap()],
        },
        append_port: true,
        ..Forwarded::default()
    };
    let seen = |ip: &str, forwarded_for: Option<&'static str>| {
        let mut headers = HeaderMap::new();
        headers.insert("x-envoy-max-retries", HeaderValue::from_static("3"));
        headers.insert("x-envoy-other", HeaderValue::from_static("3"));
        if let Some(value) = forwarded_for {
            headers.insert(X_FORWARDED_FOR, HeaderValue::from_static(value));
        }
        let peer = Peer {
            local_port: Some(81),
            ..Peer::new(ip.parse().unwrap(), false)
        };
        let names = Names::of(&headers);
        let client = apply(&mut headers, names, &rules, &peer).unwrap();
        assert_eq!(headers["x-forwarded-port"], "81");
        assert_eq!(headers["x-envoy-other"], "3");
        let text = |name: &str| headers.get(name).map(|v| v.to_str().unwrap().to_owned());
        let steers = text("x-envoy-max-retries").is_some();
        assert_eq!(client.internal, steers);
        assert_eq!(text("x-envoy-internal").is_some(), steers);
        text("x-envoy-external-address")
    };
    assert_eq!(seen("10.0.0.1", None), None);
    assert_eq!(seen("192.0.2.1", None).as_deref(), Some("192.0.2.1"));
    // Somebody else stands before the internal proxy.
    assert_eq!(
        seen("10.0.0.1", Some("1.2.3.4")).as_deref(),
        Some("10.0.0.1")
    );
}

#[test]
fn an_address_of_ipv4_is_told_as_one_of_ipv6_where_that_is_wanted() {
    let rules = Forwarded {
        use_remote_address: true,
        map_ipv4: true,
        ..Forwarded::default()
    };
    for (peer, expected) in [
        ("203.0.113.9", "1.2.3.4,::ffff:203.0.113.9"),
        ("2001:db8::9", "1.2.3.4,2001:db8::9"),
    ] {
        let (client, addresses, _) = told(&rules, peer, &[(FOR, "1.2.3.4")]);
        assert_eq!((&*client, &*addresses), (peer, expected));
    }
}
