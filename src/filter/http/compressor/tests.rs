use causeway_xds::proto::core::TypedExtensionConfig;
use causeway_xds::proto::envoy::extensions::compression;
use causeway_xds::proto::{Any, Message, UInt32Value};
use http::StatusCode;

use super::*;
use crate::filter::Chain;
use crate::filter::registry::{Link, LinkConfig, Registry};
use crate::filter::testing::{Nowhere, TestBody, chain, extension, per_route, request};
use crate::route::PerRoute as RouteSaid;

fn library(type_url: &str, message: &impl Message) -> Option<TypedExtensionConfig> {
    Some(TypedExtensionConfig {
        name: "lib".into(),
        typed_config: Some(Any {
            type_url: format!("type.googleapis.com/envoy.extensions.compression.{type_url}"),
            value: message.encode_to_vec(),
        }),
    })
}

fn gzip() -> proto::Compressor {
    proto::Compressor {
        compressor_library: library(
            "gzip.compressor.v3.Gzip",
            &compression::gzip::compressor::v3::Gzip::default(),
        ),
        ..Default::default()
    }
}

fn brotli() -> proto::Compressor {
    proto::Compressor {
        compressor_library: library(
            "brotli.compressor.v3.Brotli",
            &compression::brotli::compressor::v3::Brotli::default(),
        ),
        ..Default::default()
    }
}

/// The head of an answer, and how many transforms there are for its body.
fn exchange(
    chain: &Chain,
    accepted: Option<&str>,
    answered: &[(&str, &str)],
    route: &RouteSaid,
) -> (HeaderMap, usize) {
    let around = Nowhere::default();
    let accept: Vec<_> = accepted.iter().map(|a| ("accept-encoding", *a)).collect();
    let mut parts = request("/", &accept);
    let mut body = TestBody::default();
    let client = std::net::Ipv4Addr::LOCALHOST.into();
    let mut stream = Stream::new(&mut parts, &mut body, client, &around);
    let flow = chain.request(&mut stream, route, &mut 0);
    assert!(matches!(flow, Flow::Continue), "{flow:?}");
    let mut headers = HeaderMap::new();
    for (name, value) in answered {
        let name: http::HeaderName = name.parse().unwrap();
        headers.append(name, value.parse().unwrap());
    }
    let mut answer = Answer::new(StatusCode::OK, &mut headers, Some(&around));
    chain.response(&mut answer, route, &mut chain.len(), None);
    let count = answer.into_outcome().transforms.len();
    (headers, count)
}

const PLAIN: [(&str, &str); 3] = [
    ("content-type", "text/plain; charset=utf-8"),
    ("content-length", "2000"),
    ("etag", "\"x\""),
];

#[test]
fn a_compressed_answer_says_so_and_promises_less() {
    let chain = chain(FACTORY.message, &gzip()).unwrap();
    let route = RouteSaid::default();
    let (headers, count) = exchange(&chain, Some("gzip"), &PLAIN, &route);
    assert_eq!(count, 1);
    assert_eq!(headers["content-encoding"], "gzip");
    assert_eq!(headers["vary"], "Accept-Encoding");
    assert!(!headers.contains_key("etag"));
    assert!(!headers.contains_key("content-length"));

    for accepted in [None, Some("br"), Some("gzip;q=0, *;q=0.1")] {
        let (headers, count) = exchange(&chain, accepted, &PLAIN, &route);
        assert_eq!(count, 0, "{accepted:?}");
        assert_eq!(headers["vary"], "Accept-Encoding");
        assert_eq!(headers["etag"], "\"x\"");
        assert_eq!(headers["content-length"], "2000");
    }
}

#[test]
fn what_must_not_be_compressed_is_left_alone() {
    let mut config = gzip();
    config.content_type_matches_events();
    let chain = chain(FACTORY.message, &config).unwrap();
    let route = RouteSaid::default();
    for answered in [
        vec![("content-type", "text/event-stream")],
        vec![("content-type", "text/plain"), ("content-length", "29")],
        vec![("content-type", "image/png")],
        vec![("content-type", "text/plain"), ("content-encoding", "br")],
        vec![
            ("content-type", "text/plain"),
            ("cache-control", "private, no-transform"),
        ],
    ] {
        let (headers, count) = exchange(&chain, Some("gzip"), &answered, &route);
        assert_eq!(count, 0, "{answered:?}");
        assert!(!headers.contains_key("vary"), "{answered:?}");
    }
}

impl EventsWanted for proto::Compressor {
    #[allow(deprecated, reason = "the older field is one of those that are read")]
    fn content_type_matches_events(&mut self) {
        self.content_type = vec!["text/plain".into(), "text/event-stream".into()];
    }
}

trait EventsWanted {
    fn content_type_matches_events(&mut self);
}

#[test]
fn one_of_two_compressors_does_it() {
    let configs = [
        extension(FACTORY.message, &gzip()),
        extension(FACTORY.message, &brotli()),
    ];
    let links = configs.iter().map(|config| Link {
        name: FACTORY.name,
        disabled: false,
        config: LinkConfig::Configured(config),
    });
    let chain = Registry::default().chain("test", links).unwrap();
    let route = RouteSaid::default();
    for (accepted, coding) in [
        ("gzip, br", "gzip"),
        ("gzip;q=0.5, br", "br"),
        ("*", "gzip"),
    ] {
        let (headers, count) = exchange(&chain, Some(accepted), &PLAIN, &route);
        assert_eq!(count, 1, "{accepted}");
        assert_eq!(headers["content-encoding"], coding, "{accepted}");
    }
}

#[test]
fn a_route_may_switch_it_off() {
    let chain = chain(FACTORY.message, &gzip()).unwrap();
    let config = proto::CompressorPerRoute {
        r#override: Some(Override::Disabled(true)),
    };
    let route = per_route(FACTORY.name, FACTORY.per_route[0].0, &config).unwrap();
    let (headers, count) = exchange(&chain, Some("gzip"), &PLAIN, &route);
    assert_eq!(count, 0);
    assert!(!headers.contains_key("vary"));
}

#[test]
fn what_is_wrong_is_refused_by_its_path() {
    let refused = |config| chain(FACTORY.message, &config).unwrap_err().to_string();
    let error = refused(proto::Compressor::default());
    assert_eq!(error, "compressor_library: must be given");
    let unknown = proto::Compressor {
        compressor_library: library("lz4.compressor.v3.Lz4", &UInt32Value::default()),
        ..Default::default()
    };
    let error = refused(unknown);
    assert!(
        error.starts_with("compressor_library.typed_config: compressor"),
        "{error}"
    );
    let mut large = gzip();
    large.compressor_library = library(
        "gzip.compressor.v3.Gzip",
        &compression::gzip::compressor::v3::Gzip {
            window_bits: Some(UInt32Value { value: 16 }),
            ..Default::default()
        },
    );
    assert_eq!(
        refused(large),
        "compressor_library.typed_config.window_bits: 16 is not within 9 and 15"
    );
}
