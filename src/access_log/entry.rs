//! Entries of access logs as a service gets them (`envoy.data.accesslog.v3`).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, UNIX_EPOCH};

use causeway_xds::proto::core::socket_address::PortSpecifier;
use causeway_xds::proto::core::{Address, RequestMethod, SocketAddress, address};
use causeway_xds::proto::envoy::data::accesslog::v3 as data;
use causeway_xds::proto::envoy::data::accesslog::v3::http_access_log_entry::HttpVersion;
use causeway_xds::proto::google::protobuf::Timestamp;
use causeway_xds::proto::{self, UInt32Value};
use causeway_xds::resource::format::{Fact, Point};
use http::header::{HeaderName, REFERER, USER_AGENT};

use crate::formatter::{Facts, Key, Value, Wants};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");

/// Fields of messages that are told beside those that all entries have.
#[derive(Debug, Default)]
pub struct Fields {
    pub request: Vec<HeaderName>,
    pub response: Vec<HeaderName>,
    pub trailers: Vec<HeaderName>,
}

/// Adds what an entry about a request needs to have kept.
pub fn note(fields: &Fields, wants: &mut Wants) {
    let usual = [
        USER_AGENT,
        REFERER,
        FORWARDED_FOR,
        REQUEST_ID,
        ORIGINAL_PATH,
    ];
    for name in usual.iter().chain(&fields.request) {
        wants.request(&Key::Field(name.clone()));
    }
    for name in &fields.response {
        wants.response(&Key::Field(name.clone()));
    }
    for name in &fields.trailers {
        wants.trailer(&Key::Field(name.clone()));
    }
    (wants.route, wants.points, wants.sizes) = (true, true, true);
}

pub fn of_request(facts: &dyn Facts, fields: &Fields) -> data::HttpAccessLogEntry {
    let request = |key: Key| text(facts.request(&key));
    let field = |name: HeaderName| request(Key::Field(name));
    data::HttpAccessLogEntry {
        common_properties: Some(common(facts, data::AccessLogType::DownstreamEnd)),
        protocol_version: match &*text(facts.fact(Fact::Protocol)) {
            "HTTP/1.0" => HttpVersion::Http10,
            "HTTP/1.1" => HttpVersion::Http11,
            "HTTP/2" => HttpVersion::Http2,
            _ => HttpVersion::ProtocolUnspecified,
        } as i32,
        request: Some(data::HttpRequestProperties {
            request_method: RequestMethod::from_str_name(&request(Key::Method)).unwrap_or_default()
                as i32,
            scheme: request(Key::Scheme),
            authority: request(Key::Authority),
            path: request(Key::Path),
            user_agent: field(USER_AGENT),
            referer: field(REFERER),
            forwarded_for: field(FORWARDED_FOR),
            request_id: field(REQUEST_ID),
            original_path: field(ORIGINAL_PATH),
            request_headers_bytes: number(facts.fact(Fact::RequestHeadersBytes)),
            request_body_bytes: number(facts.fact(Fact::BytesReceived)),
            request_headers: told(&fields.request, |name| {
                facts.request(&Key::Field(name.clone()))
            }),
            ..Default::default()
        }),
        response: Some(data::HttpResponseProperties {
            response_code: match number(facts.fact(Fact::ResponseCode)) {
                0 => None,
                code => Some(UInt32Value {
                    value: u32::try_from(code).unwrap_or_default(),
                }),
            },
            response_headers_bytes: number(facts.fact(Fact::ResponseHeadersBytes)),
            response_body_bytes: number(facts.fact(Fact::BytesSent)),
            response_headers: told(&fields.response, |name| {
                facts.response(&Key::Field(name.clone()))
            }),
            response_trailers: told(&fields.trailers, |name| facts.trailer(name)),
            response_code_details: text(facts.fact(Fact::ResponseCodeDetails)),
            ..Default::default()
        }),
    }
}

pub fn of_connection(facts: &dyn Facts) -> data::TcpAccessLogEntry {
    data::TcpAccessLogEntry {
        common_properties: Some(common(facts, data::AccessLogType::TcpConnectionEnd)),
        connection_properties: Some(data::ConnectionProperties {
            received_bytes: number(facts.fact(Fact::BytesReceived)),
            sent_bytes: number(facts.fact(Fact::BytesSent)),
        }),
    }
}

fn common(facts: &dyn Facts, kind: data::AccessLogType) -> data::AccessLogCommon {
    let at = |point| facts.point(point).map(duration);
    let address_of = |fact| address(&text(facts.fact(fact)));
    data::AccessLogCommon {
        // Nobody holds entries back at random but filters, whose shares are not told.
        sample_rate: 1.0,
        downstream_remote_address: address_of(Fact::DownstreamRemoteAddress),
        downstream_local_address: address_of(Fact::DownstreamLocalAddress),
        downstream_direct_remote_address: address_of(Fact::DownstreamDirectRemoteAddress),
        tls_properties: tls(facts),
        start_time: facts
            .start()
            .duration_since(UNIX_EPOCH)
            .ok()
            .map(|since| Timestamp {
                seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
                nanos: since.subsec_nanos().cast_signed(),
            }),
        time_to_last_rx_byte: at(Point::DownstreamRxEnd),
        time_to_first_upstream_tx_byte: at(Point::UpstreamTxBegin),
        time_to_last_upstream_tx_byte: at(Point::UpstreamTxEnd),
        time_to_first_upstream_rx_byte: at(Point::UpstreamRxBegin),
        time_to_last_upstream_rx_byte: at(Point::UpstreamRxEnd),
        time_to_first_downstream_tx_byte: at(Point::DownstreamTxBegin),
        time_to_last_downstream_tx_byte: at(Point::DownstreamTxEnd),
        duration: at(Point::DownstreamTxEnd),
        upstream_remote_address: address_of(Fact::UpstreamRemoteAddress),
        upstream_local_address: address_of(Fact::UpstreamLocalAddress),
        upstream_cluster: text(facts.fact(Fact::UpstreamCluster)),
        response_flags: flags(&text(facts.fact(Fact::ResponseFlags))),
        route_name: text(facts.fact(Fact::RouteName)),
        upstream_request_attempt_count: u32::try_from(number(
            facts.fact(Fact::UpstreamRequestAttemptCount),
        ))
        .unwrap_or(u32::MAX),
        connection_termination_details: text(facts.fact(Fact::ConnectionTerminationDetails)),
        stream_id: text(facts.fact(Fact::StreamId)),
        access_log_type: kind as i32,
        ..Default::default()
    }
}

fn tls(facts: &dyn Facts) -> Option<data::TlsProperties> {
    use data::tls_properties::TlsVersion;
    let version = match &*text(facts.fact(Fact::DownstreamTlsVersion)) {
        "" => return None,
        "TLSv1.2" => TlsVersion::TlSv12,
        "TLSv1.3" => TlsVersion::TlSv13,
        _ => TlsVersion::VersionUnspecified,
    };
    Some(data::TlsProperties {
        tls_version: version as i32,
        tls_sni_hostname: text(facts.fact(Fact::RequestedServerName)),
        ..Default::default()
    })
}

/// By Envoy's short names, as the log has them.
fn flags(short: &str) -> Option<data::ResponseFlags> {
    use data::response_flags::{Unauthorized, unauthorized::Reason};
    let mut flags = data::ResponseFlags::default();
    match short {
        "LH" => flags.failed_local_healthcheck = true,
        "UH" => flags.no_healthy_upstream = true,
        "UT" => flags.upstream_request_timeout = true,
        "UR" => flags.upstream_remote_reset = true,
        "UF" => flags.upstream_connection_failure = true,
        "UC" => flags.upstream_connection_termination = true,
        "UO" => flags.upstream_overflow = true,
        "NR" => flags.no_route_found = true,
        "DI" => flags.delay_injected = true,
        "FI" => flags.fault_injected = true,
        "RL" => flags.rate_limited = true,
        "UAEX" => {
            flags.unauthorized_details = Some(Unauthorized {
                reason: Reason::ExternalService as i32,
            });
        }
        "RLSE" => flags.rate_limit_service_error = true,
        "DC" => flags.downstream_connection_termination = true,
        "URX" => flags.upstream_retry_limit_exceeded = true,
        "SI" => flags.stream_idle_timeout = true,
        "IH" => flags.invalid_envoy_request_headers = true,
        "DPE" => flags.downstream_protocol_error = true,
        "UMSDR" => flags.upstream_max_stream_duration_reached = true,
        "NFCF" => flags.no_filter_config_found = true,
        "DT" => flags.duration_timeout = true,
        "UPE" => flags.upstream_protocol_error = true,
        "NC" => flags.no_cluster_found = true,
        _ => return None,
    }
    Some(flags)
}

/// Those of a message that are there.
fn told<'f>(
    names: &[HeaderName],
    find: impl Fn(&HeaderName) -> Value<'f>,
) -> HashMap<String, String> {
    let there = names.iter().filter_map(|name| match find(name) {
        Value::Missing => None,
        found => Some((name.to_string(), text(found))),
    });
    there.collect()
}

/// Empty for what is not there. Fields may be any bytes, and messages hold text.
fn text(value: Value<'_>) -> String {
    match value {
        Value::Text(text) => text.into_owned(),
        Value::Missing | Value::Metadata(_) => String::new(),
        other => {
            let mut bytes = Vec::new();
            other.write(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        }
    }
}

fn number(value: Value<'_>) -> u64 {
    match value {
        Value::Number(number) => number,
        _ => 0,
    }
}

fn duration(span: Duration) -> proto::Duration {
    proto::Duration {
        seconds: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
        nanos: span.subsec_nanos().cast_signed(),
    }
}

/// `None` for what is no address of a socket.
fn address(shown: &str) -> Option<Address> {
    let address: SocketAddr = shown.parse().ok()?;
    Some(Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: address.ip().to_canonical().to_string(),
            port_specifier: Some(PortSpecifier::PortValue(address.port().into())),
            ..Default::default()
        })),
    })
}
