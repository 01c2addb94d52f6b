use super::*;
use crate::resource::testing::uint;

fn range(text: &str) -> crate::proto::core::CidrRange {
    let (address, length) = text.split_once('/').unwrap();
    crate::proto::core::CidrRange {
        address_prefix: address.to_owned(),
        prefix_len: uint(length.parse().unwrap()),
    }
}

fn names(names: &[&str]) -> FilterChainMatch {
    FilterChainMatch {
        server_names: names.iter().map(|name| (*name).to_owned()).collect(),
        ..FilterChainMatch::default()
    }
}

fn try_matcher(chains: &[FilterChainMatch]) -> Result<ChainMatcher, String> {
    let decoded = chains
        .iter()
        .map(|chain| ChainMatch::decode(Some(chain.clone())));
    let decoded: Vec<ChainMatch> = decoded
        .collect::<Result<_, _>>()
        .map_err(|e| e.to_string())?;
    ChainMatcher::new(&decoded).map_err(|e| e.to_string())
}

fn matcher(chains: &[FilterChainMatch]) -> ChainMatcher {
    try_matcher(chains).unwrap()
}

fn tls(name: &str) -> Facts<'_> {
    Facts {
        server_name: name,
        transport_protocol: "tls",
        ..from("192.0.2.1:1000")
    }
}

fn from(source: &str) -> Facts<'static> {
    let source: SocketAddr = source.parse().unwrap();
    Facts {
        destination: Some("10.1.2.3:443".parse().unwrap()),
        transport_protocol: "raw_buffer",
        direct_source: Some(source.ip()),
        source: Some(source),
        ..Facts::default()
    }
}

#[test]
fn one_chain_without_criteria_takes_everything() {
    let matcher = matcher(&[FilterChainMatch::default()]);
    assert_eq!(matcher.find(&Facts::default()), Some(0));
    assert_eq!(matcher.find(&tls("a.test")), Some(0));
    assert_eq!(ChainMatcher::default().find(&tls("a.test")), None);
}

#[test]
fn the_longest_server_name_wins() {
    let matcher = matcher(&[
        names(&["*.test", "b.test"]),
        names(&["*.a.test"]),
        names(&["x.a.test"]),
        FilterChainMatch::default(),
    ]);
    for (name, chain) in [
        ("b.test", 0),
        ("c.test", 0),
        ("a.test", 0),
        ("y.a.test", 1),
        ("z.y.a.test", 1),
        ("x.a.test", 2),
        ("test", 3),
        (".test", 0),
        ("", 3),
        ("example.com", 3),
    ] {
        assert_eq!(matcher.find(&tls(name)), Some(chain), "{name}");
    }
}

#[test]
fn a_criterion_that_was_followed_is_not_taken_back() {
    // A name that fits leads to a chain for clear text only; the chain for any name is not tried.
    let only_raw = FilterChainMatch {
        transport_protocol: "raw_buffer".into(),
        ..names(&["a.test"])
    };
    let matcher = matcher(&[only_raw, FilterChainMatch::default()]);
    assert_eq!(matcher.find(&tls("a.test")), None);
    assert_eq!(matcher.find(&tls("b.test")), Some(1));
}

#[test]
fn protocols_are_tried_in_the_order_of_the_client() {
    let offering = |protocols: &[&str]| FilterChainMatch {
        application_protocols: protocols.iter().map(|p| (*p).to_owned()).collect(),
        ..FilterChainMatch::default()
    };
    let matcher = matcher(&[offering(&["h2"]), offering(&["http/1.1", "http/1.0"])]);
    let find = |offered: &[&str]| {
        let offered: Vec<String> = offered.iter().map(|p| (*p).to_owned()).collect();
        matcher.find(&Facts {
            application_protocols: &offered,
            ..tls("")
        })
    };
    assert_eq!(find(&["h2", "http/1.1"]), Some(0));
    assert_eq!(find(&["spdy", "http/1.0", "h2"]), Some(1));
    assert_eq!(find(&["spdy"]), None);
    assert_eq!(find(&[]), None);
}

#[test]
fn addresses_and_ports_are_matched_by_the_longest_prefix() {
    let destination = |port, ranges: &[&str]| FilterChainMatch {
        destination_port: port,
        prefix_ranges: ranges.iter().map(|r| range(r)).collect(),
        ..FilterChainMatch::default()
    };
    let matcher = matcher(&[
        destination(None, &["10.0.0.0/8"]),
        destination(None, &["10.1.0.0/16", "2001:db8::/32"]),
        destination(uint(443), &["10.0.0.0/8"]),
        destination(None, &[]),
    ]);
    let find = |to: &str| {
        matcher.find(&Facts {
            destination: Some(to.parse().unwrap()),
            ..Facts::default()
        })
    };
    assert_eq!(find("10.2.0.1:80"), Some(0));
    assert_eq!(find("10.1.0.1:80"), Some(1));
    assert_eq!(find("[2001:db8::1]:80"), Some(1));
    assert_eq!(find("[::ffff:10.1.0.1]:80"), Some(1));
    assert_eq!(find("10.1.0.1:443"), Some(2), "the port counts first");
    assert_eq!(find("192.0.2.1:80"), Some(3));
    assert_eq!(find("192.0.2.1:443"), None);
    assert_eq!(
        matcher.find(&Facts::default()),
        Some(3),
        "no address at all"
    );
}

#[test]
fn sources_are_told_apart() {
    let typed = |source_type: ConnectionSourceType| FilterChainMatch {
        source_type: source_type as i32,
        ..FilterChainMatch::default()
    };
    let sources = |ranges: &[&str], ports: &[u32]| FilterChainMatch {
        source_prefix_ranges: ranges.iter().map(|r| range(r)).collect(),
        source_ports: ports.to_vec(),
        ..typed(ConnectionSourceType::External)
    };
    let matcher = matcher(&[
        typed(ConnectionSourceType::SameIpOrLoopback),
        sources(&["192.0.2.0/24"], &[]),
        sources(&["192.0.2.0/24"], &[1000, 1001]),
        sources(&[], &[]),
    ]);
    for (source, chain) in [
        ("127.0.0.1:1", 0),
        ("[::1]:1", 0),
        ("10.1.2.3:1", 0),
        ("192.0.2.9:1", 1),
        ("192.0.2.9:1001", 2),
        ("198.51.100.1:1000", 3),
    ] {
        assert_eq!(matcher.find(&from(source)), Some(chain), "{source}");
    }
    assert_eq!(matcher.find(&Facts::default()), Some(0), "a Unix socket");
    // Whom the PROXY protocol names is not who has connected.
    let direct = FilterChainMatch {
        direct_source_prefix_ranges: vec![range("10.9.0.0/16")],
        ..FilterChainMatch::default()
    };
    let matcher = try_matcher(&[direct, FilterChainMatch::default()]).unwrap();
    let behind = Facts {
        direct_source: Some("10.9.1.1".parse().unwrap()),
        ..from("192.0.2.9:1")
    };
    assert_eq!(matcher.find(&behind), Some(0));
    assert_eq!(matcher.find(&from("192.0.2.9:1")), Some(1));
}

#[test]
fn chains_that_fit_equally_well_are_refused() {
    let at = |n| format!("filter_chains[{n}].filter_chain_match: ");
    let tls = FilterChainMatch {
        transport_protocol: "tls".into(),
        ..names(&["c", "b"])
    };
    let twice = FilterChainMatch {
        prefix_ranges: vec![range("10.0.0.1/8"), range("10.0.0.2/8")],
        ..FilterChainMatch::default()
    };
    for (chains, refused) in [
        (
            vec![names(&["a"]), names(&[]), names(&["a"])],
            at(2) + "is the same as that of filter_chains[0]",
        ),
        (
            vec![names(&["a", "b"]), names(&["b", "c"])],
            at(1) + "overlaps with that of filter_chains[0]",
        ),
        (vec![names(&["a", "a"])], at(0) + "names a value twice"),
        (vec![names(&["a"]), twice], at(1) + "names a value twice"),
    ] {
        assert_eq!(try_matcher(&chains).unwrap_err(), refused);
    }
    assert!(try_matcher(&[names(&["a", "b"]), tls]).is_ok());
}

#[test]
fn a_match_is_refused_by_path() {
    for (change, refused) in [
        (
            (|m| m.server_names = vec!["a".into(), "w*.test".into()]) as fn(&mut FilterChainMatch),
            "server_names[1]: must not have a wildcard in the middle",
        ),
        (
            |m| m.server_names = vec!["*".into()],
            "server_names[0]: must not have a wildcard in the middle",
        ),
        (
            |m| m.destination_port = uint(0),
            "destination_port: 0 is not within 1 and 65535",
        ),
        (
            |m| m.source_ports = vec![1, 65_536],
            "source_ports[1]: 65536 is not within 1 and 65535",
        ),
        (
            |m| m.address_suffix = "1".into(),
            "address_suffix: not supported yet",
        ),
        (|m| m.source_type = 9, "source_type: 9 is not a known value"),
        (
            |m| m.prefix_ranges = vec![range("10.0.0.0/33")],
            "prefix_ranges[0].prefix_len: 33 is too long",
        ),
    ] {
        let mut message = FilterChainMatch::default();
        change(&mut message);
        let error = ChainMatch::decode(Some(message)).unwrap_err();
        assert_eq!(error.to_string(), refused);
    }
}
