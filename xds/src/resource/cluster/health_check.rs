//! Active health checks.

use std::ops::Range;
use std::time::Duration;

use crate::proto::core::health_check::{
    self, GrpcHealthCheck, HealthChecker, HttpHealthCheck, Payload, TcpHealthCheck,
};
use crate::proto::core::{self, HeaderValueOption, RequestMethod, TypedExtensionConfig};
use crate::proto::envoy::extensions::health_check::event_sinks::file::v3::HealthCheckEventFileSink;
use crate::proto::envoy::r#type::v3::{CodecClientType, Int64Range};
use crate::reject::Invalid;
use crate::resource::access_log::Sink;
use crate::resource::context::{
    At, duration, each, enumeration, fault, flag, not_empty, number, refuse, required,
    unknown_type, unpack,
};
use crate::type_url::message_name;

/// `envoy.config.core.v3.HealthCheck`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// For one check, from connecting to the end of the answer.
    pub timeout: Duration,
    pub intervals: Intervals,
    /// Checks in a row that make a healthy endpoint unhealthy, and an unhealthy one healthy.
    pub unhealthy_threshold: u32,
    pub healthy_threshold: u32,
    /// Instead of the port of the endpoint (`alt_port`).
    pub port: Option<u16>,
    /// Whether the connection is kept for the next check. Default true.
    pub reuse_connection: bool,
    /// Where changes are logged (`event_log_path`, `event_logger`).
    pub event_logs: Vec<Sink>,
    /// Each success is logged there, too (`always_log_health_check_success`).
    pub log_success: bool,
    /// Each failure, and not only the first (`always_log_health_check_failures`).
    pub log_failures: bool,
    /// Checks that watch more than they decide: endpoints count as healthy until one has failed, and
    /// all checks of this kind together make few connections a second. Default false
    /// (`Cluster.metadata`, namespace `causeway`, key `background_checks`).
    pub background: bool,
    pub probe: Probe,
}

/// How long to wait for the next check, from the end of the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intervals {
    pub healthy: Duration,
    /// Default as `healthy` (`unhealthy_interval`).
    pub unhealthy: Duration,
    /// While a healthy endpoint has succeeded less often than the threshold asks for, or has just
    /// been found healthy. Default as `healthy`.
    pub healthy_edge: Duration,
    /// The same for failures. Default as `unhealthy`.
    pub unhealthy_edge: Duration,
    /// As long as the cluster has never been connected to. Default 60 s.
    pub no_traffic: Duration,
    /// Default as `no_traffic`.
    pub no_traffic_healthy: Duration,
    /// The first check waits for a random part of it.
    pub initial_jitter: Duration,
    /// A random part of it is added every time,
    pub jitter: Duration,
    /// and a random part of so many percent of the interval.
    pub jitter_percent: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    Http(HttpProbe),
    Tcp(TcpProbe),
    /// The health service of gRPC.
    Grpc {
        /// May be empty.
        service: String,
        /// Empty for the name of the cluster.
        authority: String,
        headers: Vec<(String, String)>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpProbe {
    /// Empty for the name of the cluster.
    pub host: String,
    pub path: String,
    pub method: http::Method,
    pub http2: bool,
    /// The body of the request.
    pub send: Vec<u8>,
    /// All of them have to be in the body of the answer, in this order, with anything between them.
    pub receive: Vec<Vec<u8>>,
    /// Bytes of the body that are looked at (`response_buffer_size`, 1024; 0: all of them).
    pub receive_within: usize,
    /// Added to the request.
    pub headers: Vec<(String, String)>,
    /// Statuses that mean healthy. Default 200.
    pub expected: Vec<Range<u16>>,
    /// Statuses that count for the threshold. Any other makes an endpoint unhealthy at once.
    pub retriable: Vec<Range<u16>>,
}

/// Connecting is enough, or else an exchange of bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TcpProbe {
    pub send: Vec<u8>,
    /// All of them have to come, in this order, with anything between them.
    pub receive: Vec<Vec<u8>>,
}

impl HealthCheck {
    /// Of a list that has at most one, as in Envoy.
    pub(super) fn decode_list(
        messages: Vec<core::HealthCheck>,
        background: bool,
    ) -> Result<Option<Self>, Invalid> {
        const FIELD: &str = "health_checks";
        if messages.len() > 1 {
            return Err(Invalid::at(FIELD, "only one is supported"));
        }
        let all = each(FIELD, messages, Self::decode)?;
        let first = all.into_iter().next();
        Ok(first.map(|check| Self {
            background,
            ..check
        }))
    }

    fn decode(message: core::HealthCheck) -> Result<Self, Invalid> {
        #[allow(deprecated, reason = "named so that it can be refused")]
        let core::HealthCheck {
            timeout,
            interval,
            initial_jitter,
            interval_jitter,
            interval_jitter_percent,
            unhealthy_threshold,
            healthy_threshold,
            alt_port,
            reuse_connection,
            no_traffic_interval,
            no_traffic_healthy_interval,
            unhealthy_interval,
            unhealthy_edge_interval,
            healthy_edge_interval,
            event_log_path,
            event_logger,
            event_service,
            always_log_health_check_failures,
            always_log_health_check_success,
            tls_options,
            transport_socket_match_criteria,
            health_checker,
        } = message;
        refuse!(event_service, tls_options, transport_socket_match_criteria,);
        let mut event_logs = each("event_logger", event_logger, event_log)?;
        if !event_log_path.is_empty() {
            event_logs.push(Sink::File(event_log_path));
        }
        let healthy = positive(
            Some(required(interval, "interval")?),
            "interval",
            Duration::ZERO,
        )?;
        let unhealthy = positive(unhealthy_interval, "unhealthy_interval", healthy)?;
        const NO_TRAFFIC: Duration = Duration::from_secs(60);
        let no_traffic = positive(no_traffic_interval, "no_traffic_interval", NO_TRAFFIC)?;
        let jitter = |value, field| Ok(duration(value, field)?.unwrap_or_default());
        let intervals = Intervals {
            healthy,
            unhealthy,
            healthy_edge: positive(healthy_edge_interval, "healthy_edge_interval", healthy)?,
            unhealthy_edge: positive(
                unhealthy_edge_interval,
                "unhealthy_edge_interval",
                unhealthy,
            )?,
            no_traffic,
            no_traffic_healthy: positive(
                no_traffic_healthy_interval,
                "no_traffic_healthy_interval",
                no_traffic,
            )?,
            initial_jitter: jitter(initial_jitter, "initial_jitter")?,
            jitter: jitter(interval_jitter, "interval_jitter")?,
            jitter_percent: interval_jitter_percent,
        };
        // Envoy has no defaults for these two.
        let threshold = |value, field| {
            let value = required(value, field)?;
            number(Some(value), field, 0..=u32::MAX).map(Option::unwrap_or_default)
        };
        let port = number(alt_port, "alt_port", 0..=65_535)?.filter(|port| *port > 0);
        Ok(Self {
            timeout: positive(
                Some(required(timeout, "timeout")?),
                "timeout",
                Duration::ZERO,
            )?,
            intervals,
            unhealthy_threshold: threshold(unhealthy_threshold, "unhealthy_threshold")?,
            healthy_threshold: threshold(healthy_threshold, "healthy_threshold")?,
            port: port.and_then(|port| u16::try_from(port).ok()),
            reuse_connection: flag(reuse_connection, true),
            event_logs,
            log_success: always_log_health_check_success,
            log_failures: always_log_health_check_failures,
            background: false,
            probe: Probe::decode(required(health_checker, "health_checker")?)?,
        })
    }
}

/// The one place there is for events.
fn event_log(message: TypedExtensionConfig) -> Result<Sink, Invalid> {
    const FILE: &str = "envoy.extensions.health_check.event_sinks.file.v3.HealthCheckEventFileSink";
    let TypedExtensionConfig {
        name: _,
        typed_config,
    } = message;
    let any = required(typed_config, "typed_config")?;
    if message_name(&any.type_url) != FILE {
        return Err(unknown_type(&any.type_url)).at("typed_config");
    }
    let HealthCheckEventFileSink { event_log_path } = unpack(&any).at("typed_config")?;
    let path = not_empty(event_log_path, "event_log_path").at("typed_config")?;
    Ok(Sink::File(path))
}

fn positive(
    value: Option<crate::proto::Duration>,
    field: &str,
    default: Duration,
) -> Result<Duration, Invalid> {
    match duration(value, field)? {
        Some(Duration::ZERO) => Err(Invalid::at(field, "must be greater than zero")),
        given => Ok(given.unwrap_or(default)),
    }
}

impl Probe {
    fn decode(message: HealthChecker) -> Result<Self, Invalid> {
        match message {
            HealthChecker::HttpHealthCheck(http) => HttpProbe::decode(http)
                .map(Self::Http)
                .at("http_health_check"),
            HealthChecker::TcpHealthCheck(tcp) => {
                TcpProbe::decode(tcp).map(Self::Tcp).at("tcp_health_check")
            }
            HealthChecker::GrpcHealthCheck(grpc) => {
                let GrpcHealthCheck {
                    service_name,
                    authority,
                    initial_metadata,
                } = grpc;
                Ok(Self::Grpc {
                    service: service_name,
                    authority,
                    headers: headers("initial_metadata", initial_metadata)
                        .at("grpc_health_check")?,
                })
            }
            HealthChecker::CustomHealthCheck(_) => {
                Err(Invalid::at("custom_health_check", "not supported yet"))
            }
        }
    }
}

impl HttpProbe {
    fn decode(message: HttpHealthCheck) -> Result<Self, Invalid> {
        let HttpHealthCheck {
            host,
            path,
            send,
            receive,
            response_buffer_size,
            request_headers_to_add,
            request_headers_to_remove,
            expected_statuses,
            retriable_statuses,
            codec_client_type,
            service_name_matcher,
            method,
        } = message;
        refuse!(request_headers_to_remove, service_name_matcher);
        if path.is_empty() {
            return Err(Invalid::at("path", "must not be empty"));
        }
        if path.bytes().any(|b| b <= b' ' || b == 0x7f) {
            return Err(Invalid::at("path", "has a space or a control character"));
        }
        if !host.is_empty() && host.parse::<http::uri::Authority>().is_err() {
            return Err(Invalid::at("host", "is not a host"));
        }
        let mut expected = statuses("expected_statuses", expected_statuses)?;
        if expected.is_empty() {
            expected.push(200..201);
        }
        let method = match enumeration(method, "method")? {
            RequestMethod::MethodUnspecified | RequestMethod::Get => http::Method::GET,
            RequestMethod::Connect => {
                return Err(Invalid::at("method", "CONNECT cannot be used"));
            }
            other => http::Method::from_bytes(other.as_str_name().as_bytes())
                .map_err(|_| Invalid::at("method", "is not a known value"))?,
        };
        let send = send.map_or(Ok(Vec::new()), bytes).at("send")?;
        const WITH_BODY: [http::Method; 4] = [
            http::Method::POST,
            http::Method::PUT,
            http::Method::PATCH,
            http::Method::OPTIONS,
        ];
        if !send.is_empty() && !WITH_BODY.contains(&method) {
            let reason = format!("is given with {method}, which has no body");
            return Err(Invalid::at("send", reason));
        }
        Ok(Self {
            host,
            path,
            method,
            send,
            receive: each("receive", receive, bytes)?,
            receive_within: match response_buffer_size.map_or(1024, |size| size.value) {
                0 => usize::MAX,
                size => usize::try_from(size).unwrap_or(usize::MAX),
            },
            http2: match enumeration(codec_client_type, "codec_client_type")? {
                CodecClientType::Http1 => false,
                CodecClientType::Http2 => true,
                CodecClientType::Http3 => {
                    return Err(Invalid::at(
                        "codec_client_type",
                        "HTTP3 is not supported yet",
                    ));
                }
            },
            headers: headers("request_headers_to_add", request_headers_to_add)?,
            expected,
            retriable: statuses("retriable_statuses", retriable_statuses)?,
        })
    }
}

fn statuses(field: &str, ranges: Vec<Int64Range>) -> Result<Vec<Range<u16>>, Invalid> {
    each(field, ranges, |Int64Range { start, end }| {
        match (u16::try_from(start), u16::try_from(end)) {
            (Ok(start @ 100..), Ok(end @ ..=600)) if start < end => Ok(start..end),
            _ => Err(fault("is not a range of statuses from 100 to 599")),
        }
    })
}

/// Literal values; nothing is known of a request that a format could show.
fn headers(field: &str, options: Vec<HeaderValueOption>) -> Result<Vec<(String, String)>, Invalid> {
    each(field, options, |option| {
        let header = required(option.header, "header")?;
        let name = http::HeaderName::from_bytes(header.key.as_bytes());
        let name = name
            .map_err(|_| fault("is not a header name"))
            .at("key")
            .at("header")?;
        if header.value.contains('%') {
            return Err(fault("formats are not supported yet"))
                .at("value")
                .at("header");
        }
        http::HeaderValue::from_str(&header.value)
            .map_err(|_| fault("is not a header value"))
            .at("value")
            .at("header")?;
        Ok((name.as_str().to_owned(), header.value))
    })
}

impl TcpProbe {
    fn decode(message: TcpHealthCheck) -> Result<Self, Invalid> {
        let TcpHealthCheck {
            send,
            receive,
            proxy_protocol_config,
        } = message;
        refuse!(proxy_protocol_config);
        Ok(Self {
            send: send.map_or(Ok(Vec::new()), bytes).at("send")?,
            receive: each("receive", receive, bytes)?,
        })
    }
}

fn bytes(payload: Payload) -> Result<Vec<u8>, Invalid> {
    use health_check::payload::Payload as Kind;
    match payload.payload {
        Some(Kind::Binary(bytes)) => Ok(bytes),
        Some(Kind::Text(text)) if text.is_empty() => Err(fault("must not be empty")).at("text"),
        Some(Kind::Text(text)) => from_hex(&text)
            .ok_or_else(|| fault("is not hex"))
            .at("text"),
        None => Err(fault("must be given")).at("payload"),
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok()))
        .collect();
    let digits = digits?;
    let (pairs, rest) = digits.as_chunks::<2>();
    rest.is_empty()
        .then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}
