//! Active health checks.

use std::time::Duration;

use super::*;
use crate::resource::access_log::Sink;
use crate::resource::{decode, decode_noting};
use crate::text;

const BASE: &str = "timeout: 1s, interval: 2s, unhealthy_threshold: 3, healthy_threshold: 4";

fn read(fields: &str) -> Result<HealthCheck, String> {
    let text = format!("{{name: c, health_checks: [{{{fields}}}]}}");
    let name = ResourceType::Cluster.message_name();
    let message: proto::Cluster =
        text::parse(&text, name, &text::Options::default()).map_err(|e| e.to_string())?;
    match decode(&pack(&message), &crate::extension::Unchecked) {
        Ok(Resource::Cluster(cluster)) => Ok((**cluster.health_check.as_ref().unwrap()).clone()),
        Ok(_) => panic!("not a cluster"),
        Err(rejected) => Err(rejected.to_string()),
    }
}

#[test]
fn intervals_default_to_each_other() {
    let check = read(&format!("{BASE}, tcp_health_check: {{}}")).unwrap();
    let seconds = Duration::from_secs;
    assert_eq!(check.timeout, seconds(1));
    assert_eq!((check.unhealthy_threshold, check.healthy_threshold), (3, 4));
    assert_eq!(check.probe, Probe::Tcp(TcpProbe::default()));
    assert!(check.reuse_connection && check.port.is_none());
    let of = check.intervals;
    for same in [of.healthy, of.unhealthy, of.healthy_edge, of.unhealthy_edge] {
        assert_eq!(same, seconds(2));
    }
    assert_eq!(
        (of.no_traffic, of.no_traffic_healthy),
        (seconds(60), seconds(60))
    );
    let edge = "unhealthy_interval: 5s, no_traffic_interval: 7s, alt_port: 81";
    let check = read(&format!("{BASE}, tcp_health_check: {{}}, {edge}")).unwrap();
    assert_eq!(check.intervals.unhealthy_edge, seconds(5));
    assert_eq!(check.intervals.no_traffic_healthy, seconds(7));
    assert_eq!(check.port, Some(81));
}

#[test]
fn metadata_may_make_checks_that_cost_next_to_nothing() {
    let with = |ours: &str| {
        let text = format!(
            "{{name: c, metadata: {{filter_metadata: {{causeway: {{{ours}}}}}}}, \
              health_checks: [{{{BASE}, tcp_health_check: {{}}}}]}}"
        );
        let name = ResourceType::Cluster.message_name();
        let message: proto::Cluster = text::parse(&text, name, &text::Options::default()).unwrap();
        let decoded = decode_noting(&pack(&message), None, &crate::extension::Unchecked);
        match decoded {
            Ok(decoded) => {
                let Resource::Cluster(cluster) = &decoded.resource else {
                    panic!("not a cluster")
                };
                let check = cluster.health_check.as_ref().unwrap();
                assert_eq!(cluster.queue_timeout, cluster.connect_timeout);
                Ok((check.background, decoded.ignored.len()))
            }
            Err(rejected) => Err(rejected.to_string()),
        }
    };
    assert_eq!(with(""), Ok((false, 0)));
    assert_eq!(with("background_checks: true"), Ok((true, 0)));
    assert_eq!(with("background_checks: true, x: 1"), Ok((true, 0)));
    let wrong = with("background_checks: 1").unwrap_err();
    let expected = "metadata.filter_metadata[\"causeway\"].background_checks: is neither";
    assert!(wrong.contains(expected), "{wrong}");
}

#[test]
fn metadata_may_say_how_long_requests_wait_for_a_connection() {
    use crate::proto::google::protobuf::value::Kind;
    use crate::proto::google::protobuf::{Struct, Value};
    let with = |kind: Kind| {
        let value = Value { kind: Some(kind) };
        let ours = Struct {
            fields: [("queue_timeout".to_owned(), value)].into(),
        };
        proto::Cluster {
            metadata: Some(proto::core::Metadata {
                filter_metadata: [("causeway".to_owned(), ours)].into(),
                ..Default::default()
            }),
            ..cluster()
        }
    };
    let text = |text: &str| with(Kind::StringValue(text.into()));
    assert_eq!(typed(&cluster()).queue_timeout, Duration::from_secs(5));
    let given = typed(&text("1.5s")).queue_timeout;
    assert_eq!(given, Duration::from_millis(1500));
    for wrong in [
        text("1.5"),
        text("0s"),
        text("-1s"),
        with(Kind::NumberValue(1.0)),
    ] {
        let error = refusal(&wrong);
        let at = "metadata.filter_metadata[\"causeway\"].queue_timeout: ";
        assert!(error.starts_with(at), "{error}");
    }
}

#[test]
fn probes_are_read() {
    let http = "http_health_check: {path: /hc, expected_statuses: [{start: 200, end: 300}], \
                retriable_statuses: [{start: 503, end: 504}], method: HEAD, \
                codec_client_type: HTTP2, request_headers_to_add: [{header: {key: X-A, value: b}}]}";
    let Probe::Http(probe) = read(&format!("{BASE}, {http}")).unwrap().probe else {
        panic!("not HTTP")
    };
    assert_eq!((&*probe.path, &*probe.host, probe.http2), ("/hc", "", true));
    assert_eq!(probe.method, http::Method::HEAD);
    assert_eq!(probe.expected.first(), Some(&(200..300)));
    assert_eq!(probe.retriable.first(), Some(&(503..504)));
    assert_eq!(probe.headers, [("x-a".to_owned(), "b".to_owned())]);

    let post = "http_health_check: {path: /, method: POST, send: {text: '6869'}}";
    let Probe::Http(probe) = read(&format!("{BASE}, {post}")).unwrap().probe else {
        panic!("not HTTP")
    };
    assert_eq!((&*probe.send, probe.receive_within), (&b"hi"[..], 1024));
    let receive =
        "http_health_check: {path: /, receive: [{text: '6f6b'}], response_buffer_size: 0}";
    let Probe::Http(probe) = read(&format!("{BASE}, {receive}")).unwrap().probe else {
        panic!("not HTTP")
    };
    assert_eq!(probe.receive, [b"ok"]);
    assert_eq!(probe.receive_within, usize::MAX);

    let plain = read(&format!("{BASE}, http_health_check: {{path: /}}")).unwrap();
    let Probe::Http(probe) = plain.probe else {
        panic!("not HTTP")
    };
    assert_eq!(probe.expected.first(), Some(&(200..201)));
    assert_eq!(probe.method, http::Method::GET);

    let tcp = "tcp_health_check: {send: {text: '01fF'}, receive: [{text: '00'}, {binary: AQI=}]}";
    let Probe::Tcp(probe) = read(&format!("{BASE}, {tcp}")).unwrap().probe else {
        panic!("not TCP")
    };
    assert_eq!(
        (probe.send, probe.receive),
        (vec![1, 255], vec![vec![0], vec![1, 2]])
    );

    let grpc = "grpc_health_check: {service_name: s, authority: a}";
    let Probe::Grpc {
        service, authority, ..
    } = read(&format!("{BASE}, {grpc}")).unwrap().probe
    else {
        panic!("not gRPC")
    };
    assert_eq!((&*service, &*authority), ("s", "a"));
}

#[test]
fn a_check_is_refused_by_path() {
    let tcp = "tcp_health_check: {}";
    let http = |fields: &str| format!("{BASE}, http_health_check: {{{fields}}}");
    for (fields, wanted) in [
        (BASE.to_owned(), "health_checker: must be given"),
        (
            format!("{tcp}, timeout: 1s, interval: 1s"),
            "unhealthy_threshold: must be given",
        ),
        (
            format!("{tcp}, interval: 0s"),
            "interval: must be greater than zero",
        ),
        (
            format!("{BASE}, {tcp}, alt_port: 65536"),
            "alt_port: 65536 is not within 0 and 65535",
        ),
        (
            format!("{BASE}, {tcp}, tls_options: {{alpn_protocols: [x]}}"),
            "tls_options: not supported yet",
        ),
        (
            format!("{BASE}, custom_health_check: {{name: redis}}"),
            "custom_health_check: not supported yet",
        ),
        (http(""), "http_health_check.path: must not be empty"),
        (
            http("path: 'a b'"),
            "http_health_check.path: has a space or a control character",
        ),
        (
            http("path: /, host: 'a b'"),
            "http_health_check.host: is not a host",
        ),
        (
            http("path: /, method: CONNECT"),
            "http_health_check.method: CONNECT cannot be used",
        ),
        (
            http("path: /, receive: [{text: ''}]"),
            "http_health_check.receive[0].text: must not be empty",
        ),
        (
            http("path: /, send: {text: '00'}"),
            "http_health_check.send: is given with GET, which has no body",
        ),
        (
            http("path: /, method: PUT, send: {text: x}"),
            "http_health_check.send.text: is not hex",
        ),
        (
            http("path: /, expected_statuses: [{start: 300, end: 200}]"),
            "http_health_check.expected_statuses[0]: is not a range of statuses from 100 to 599",
        ),
        (
            format!("{BASE}, tcp_health_check: {{send: {{text: xyz}}}}"),
            "tcp_health_check.send.text: is not hex",
        ),
    ] {
        let refusal = read(&fields).unwrap_err();
        assert!(
            refusal.ends_with(&format!("health_checks[0].{wanted}")),
            "{refusal}"
        );
    }
}

#[test]
fn events_go_to_files() {
    const SINK: &str = "type.googleapis.com/envoy.extensions.health_check.event_sinks.file.v3.HealthCheckEventFileSink";
    let logger = |kind: &str, fields: &str| {
        let config = format!("{{'@type': {kind}, {fields}}}");
        let logger = format!("event_logger: [{{name: f, typed_config: {config}}}]");
        read(&format!(
            "{BASE}, tcp_health_check: {{}}, {logger}, event_log_path: /b"
        ))
    };
    let check = logger(SINK, "event_log_path: /a").unwrap();
    let files = ["/a", "/b"].map(|path| Sink::File(path.to_owned()));
    assert_eq!(check.event_logs, files);
    assert!(!check.log_failures && !check.log_success);
    let refused = |kind, fields| logger(kind, fields).unwrap_err();
    let at = "cluster \"c\": health_checks[0].event_logger[0].typed_config";
    assert_eq!(
        refused(SINK, ""),
        format!("{at}.event_log_path: must not be empty")
    );
    let other = "type.googleapis.com/google.protobuf.Duration";
    assert_eq!(
        refused(other, "value: 1s"),
        format!("{at}: extension type {other:?} is not supported")
    );
}
