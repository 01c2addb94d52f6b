//! Which requests a fault is for, and what it is.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::envoy::extensions::filters::common::fault::v3 as common;
use causeway_xds::proto::envoy::extensions::filters::http::fault::v3 as proto;
use causeway_xds::proto::envoy::r#type::v3::FractionalPercent;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::fraction::Fraction;
use causeway_xds::resource::parts::{self, At, each, fault, required};
use http::StatusCode;
use http::header::HeaderMap;
use http::request::Parts;

use super::super::super::registry::{Context, decode};
use crate::matching::headers::{HeaderCondition, RequestHead};
use crate::runtime::layers::Key;

#[derive(Debug)]
pub struct Settings {
    delay: Option<Delay>,
    abort: Option<Abort>,
    rate: Option<RateLimit>,
    /// All of them.
    headers: Vec<HeaderCondition>,
    /// Empty: any.
    cluster: String,
    /// Of which node a request is (`x-envoy-downstream-service-node`). Empty: any.
    nodes: HashSet<String>,
    max_active: Option<u32>,
    max_active_key: Key,
}

/// A share of the requests; a header may make it smaller, if the fault is up to headers.
#[derive(Debug)]
struct Percentage {
    default: Fraction,
    key: Key,
    header: Option<&'static str>,
}

#[derive(Debug)]
struct Delay {
    /// `None`: a header says.
    fixed: Option<Duration>,
    /// Milliseconds.
    key: Key,
    percentage: Percentage,
}

#[derive(Debug)]
struct Abort {
    error: AbortError,
    http_key: Key,
    grpc_key: Key,
    percentage: Percentage,
    body: Bytes,
}

#[derive(Debug)]
enum AbortError {
    Http(u16),
    Grpc(u32),
    Header,
}

#[derive(Debug)]
struct RateLimit {
    /// KiB per second; `None`: a header says.
    fixed: Option<u64>,
    percentage: Percentage,
}

/// What a client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    Http(StatusCode),
    Grpc(u8),
}

impl Settings {
    pub fn decode(config: &TypedExtension, context: &Context) -> Result<Self, Invalid> {
        let proto::HttpFault {
            delay,
            abort,
            upstream_cluster,
            headers,
            downstream_nodes,
            max_active_faults,
            response_rate_limit,
            delay_percent_runtime,
            abort_percent_runtime,
            delay_duration_runtime,
            abort_http_status_runtime,
            max_active_faults_runtime,
            response_rate_limit_percent_runtime,
            abort_grpc_status_runtime,
            // Nothing is counted by the service that calls.
            disable_downstream_cluster_stats: _,
            filter_metadata,
        } = decode(config)?;
        if filter_metadata.is_some() {
            return Err(Invalid::at("filter_metadata", "not supported yet"));
        }
        let key = |name: &str, default: &str| {
            let name = if name.is_empty() { default } else { name };
            context.layers.key(&format!(
                "{}{name}",
                if name == default { "fault.http." } else { "" }
            ))
        };
        let delay = delay.map(|delay| {
            let duration = key(&delay_duration_runtime, "delay.fixed_duration_ms");
            let percent = key(&delay_percent_runtime, "delay.fixed_delay_percent");
            Delay::decode(delay, duration, percent)
        });
        let abort = abort.map(|abort| {
            let http = key(&abort_http_status_runtime, "abort.http_status");
            let grpc = key(&abort_grpc_status_runtime, "abort.grpc_status");
            let percent = key(&abort_percent_runtime, "abort.abort_percent");
            Abort::decode(abort, http, grpc, percent)
        });
        let rate = response_rate_limit.map(|limit| {
            let default = "rate_limit.response_percent";
            let percent = key(&response_rate_limit_percent_runtime, default);
            RateLimit::decode(limit, percent)
        });
        let headers = each("headers", headers, parts::header_matcher)?;
        Ok(Self {
            delay: delay.transpose().at("delay")?,
            abort: abort.transpose().at("abort")?,
            rate: rate.transpose().at("response_rate_limit")?,
            headers: headers.iter().map(HeaderCondition::compile).collect(),
            cluster: upstream_cluster,
            nodes: downstream_nodes.into_iter().collect(),
            max_active: max_active_faults.map(|max| max.value),
            max_active_key: key(&max_active_faults_runtime, "max_active_faults"),
        })
    }

    pub fn max_active(&self) -> i64 {
        let told = self.max_active_key.number().or(self.max_active);
        told.map_or(i64::MAX, i64::from)
    }

    /// Whether they are about a request, which goes to this cluster.
    pub fn concern(&self, request: &Parts, cluster: &str) -> bool {
        let node = || text(&request.headers, "x-envoy-downstream-service-node");
        (self.cluster.is_empty() || self.cluster == cluster)
            && (self.nodes.is_empty() || node().is_some_and(|node| self.nodes.contains(node)))
            && self
                .headers
                .iter()
                .all(|h| h.matches(&RequestHead(request)))
    }

    /// How long the request has to wait.
    pub fn delay(&self, request: &Parts) -> Option<Duration> {
        let delay = self.delay.as_ref()?;
        if !delay.percentage.takes(&request.headers) {
            return None;
        }
        let configured = match delay.fixed {
            Some(fixed) => fixed,
            None => {
                let said = number(&request.headers, "x-envoy-fault-delay-request")?;
                Duration::from_millis(said)
            }
        };
        let told = delay.key.number();
        let delay = told.map_or(configured, |ms| Duration::from_millis(ms.into()));
        (!delay.is_zero()).then_some(delay)
    }

    /// What is answered instead.
    pub fn abort(&self, request: &Parts) -> Option<Error> {
        let abort = self.abort.as_ref()?;
        let headers = &request.headers;
        if !abort.percentage.takes(headers) {
            return None;
        }
        let grpc = |code: u64| Some(Error::Grpc(u8::try_from(code).unwrap_or(2)));
        let configured = match abort.error {
            AbortError::Http(status) => Some(u64::from(status)),
            AbortError::Header => number(headers, "x-envoy-fault-abort-request")
                .filter(|status| (200..600).contains(status)),
            AbortError::Grpc(_) => None,
        };
        if let Some(configured) = configured {
            let told = abort.http_key.number().map(u64::from);
            let status = u16::try_from(told.unwrap_or(configured)).ok();
            let status = status.filter(|status| (200..600).contains(status));
            return StatusCode::from_u16(status?).ok().map(Error::Http);
        }
        let configured = match abort.error {
            AbortError::Grpc(status) => u64::from(status),
            _ => number(headers, "x-envoy-fault-abort-grpc-request")?,
        };
        let told = abort.grpc_key.number().map(u64::from);
        grpc(told.unwrap_or(configured))
    }

    pub fn abort_body(&self) -> Bytes {
        self.abort
            .as_ref()
            .map_or_else(Bytes::new, |abort| abort.body.clone())
    }

    /// Bytes per second of the answer.
    pub fn rate(&self, request: &Parts) -> Option<u64> {
        let rate = self.rate.as_ref()?;
        let kib = match rate.fixed {
            Some(fixed) => fixed,
            None => number(&request.headers, "x-envoy-fault-throughput-response")?,
        };
        if kib == 0 || !rate.percentage.takes(&request.headers) {
            return None;
        }
        Some(kib.saturating_mul(1024))
    }
}

impl Percentage {
    fn decode(
        message: Option<FractionalPercent>,
        key: Key,
        header: Option<&'static str>,
    ) -> Result<Self, Invalid> {
        // Without one nothing is done.
        let default = message.unwrap_or_default();
        let wrapped = causeway_xds::proto::core::RuntimeFractionalPercent {
            default_value: Some(default),
            runtime_key: String::new(),
        };
        Ok(Self {
            default: parts::runtime_fraction(wrapped)?.default,
            key,
            header,
        })
    }

    fn takes(&self, headers: &HeaderMap) -> bool {
        let mut share = self.key.fraction().unwrap_or(self.default);
        if let Some(said) = self.header.and_then(|name| number(headers, name)) {
            share.numerator = share.numerator.min(u32::try_from(said).unwrap_or(u32::MAX));
        }
        share.takes(fastrand::u64(..))
    }
}

impl Delay {
    fn decode(message: common::FaultDelay, key: Key, percent: Key) -> Result<Self, Invalid> {
        use common::fault_delay::FaultDelaySecifier as S;
        let common::FaultDelay {
            percentage,
            fault_delay_secifier,
        } = message;
        let (fixed, header) = match required(fault_delay_secifier, "fault_delay_secifier")? {
            S::FixedDelay(delay) => {
                let delay = parts::duration(Some(delay), "fixed_delay")?.unwrap_or_default();
                if delay.is_zero() {
                    return Err(Invalid::at("fixed_delay", "must be greater than zero"));
                }
                (Some(delay), None)
            }
            S::HeaderDelay(common::fault_delay::HeaderDelay {}) => {
                (None, Some("x-envoy-fault-delay-request-percentage"))
            }
        };
        Ok(Self {
            fixed,
            key,
            percentage: Percentage::decode(percentage, percent, header).at("percentage")?,
        })
    }
}

impl Abort {
    fn decode(
        message: proto::FaultAbort,
        http_key: Key,
        grpc_key: Key,
        percent: Key,
    ) -> Result<Self, Invalid> {
        use proto::fault_abort::{ErrorType as E, HeaderAbort};
        let proto::FaultAbort {
            percentage,
            response_body,
            error_type,
        } = message;
        let (error, header) = match required(error_type, "error_type")? {
            E::HttpStatus(status @ 200..600) => {
                (AbortError::Http(u16::try_from(status).unwrap_or(500)), None)
            }
            E::HttpStatus(status) => {
                let reason = format!("{status} is not within 200 and 599");
                return Err(Invalid::at("http_status", reason));
            }
            E::GrpcStatus(status) => (AbortError::Grpc(status), None),
            E::HeaderAbort(HeaderAbort {}) => (
                AbortError::Header,
                Some("x-envoy-fault-abort-request-percentage"),
            ),
        };
        Ok(Self {
            error,
            http_key,
            grpc_key,
            percentage: Percentage::decode(percentage, percent, header).at("percentage")?,
            body: match response_body.is_empty() {
                true => Bytes::from_static(b"fault filter abort"),
                false => response_body.into(),
            },
        })
    }
}

impl RateLimit {
    fn decode(message: common::FaultRateLimit, percent: Key) -> Result<Self, Invalid> {
        use common::fault_rate_limit::{FixedLimit, HeaderLimit, LimitType as L};
        let common::FaultRateLimit {
            percentage,
            limit_type,
        } = message;
        let (fixed, header) = match required(limit_type, "limit_type")? {
            L::FixedLimit(FixedLimit { limit_kbps: 0 }) => {
                return Err(fault("must be at least 1"))
                    .at("limit_kbps")
                    .at("fixed_limit");
            }
            L::FixedLimit(FixedLimit { limit_kbps }) => (Some(limit_kbps), None),
            L::HeaderLimit(HeaderLimit {}) => {
                (None, Some("x-envoy-fault-throughput-response-percentage"))
            }
        };
        Ok(Self {
            fixed,
            percentage: Percentage::decode(percentage, percent, header).at("percentage")?,
        })
    }
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    text(headers, name)?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use causeway_xds::text;
    use serde_json::{Value, json};

    use super::*;
    use crate::filter::testing::request;

    fn settings(mut fault: Value) -> Result<Settings, String> {
        fault["@type"] =
            json!("type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault");
        let any = text::any_from_value(&fault).expect("a message");
        let extension = TypedExtension::from_any("fault", any);
        Settings::decode(&extension, &Context::default()).map_err(|e| e.to_string())
    }

    fn all() -> Value {
        json!({ "numerator": 100 })
    }

    #[test]
    fn a_fault_is_for_requests_that_match_all_that_is_asked() {
        let settings = settings(json!({
            "headers": [{ "name": "x-chaos", "present_match": true }],
            "upstream_cluster": "app",
            "downstream_nodes": ["n1", "n2"],
        }))
        .unwrap();
        let node = ("x-envoy-downstream-service-node", "n2");
        let good = request("/", &[("x-chaos", "1"), node]);
        assert!(settings.concern(&good, "app"));
        assert!(!settings.concern(&good, "other"));
        assert!(!settings.concern(&request("/", &[node]), "app"));
        assert!(!settings.concern(&request("/", &[("x-chaos", "1")]), "app"));
    }

    #[test]
    fn faults_are_fixed_or_up_to_headers() {
        let fixed = settings(json!({
            "delay": { "fixed_delay": "0.3s", "percentage": all() },
            "abort": { "http_status": 503, "percentage": all() },
            "response_rate_limit": { "fixed_limit": { "limit_kbps": 2 }, "percentage": all() },
        }))
        .unwrap();
        let plain = request("/", &[]);
        assert_eq!(fixed.delay(&plain), Some(Duration::from_millis(300)));
        assert_eq!(
            fixed.abort(&plain),
            Some(Error::Http(StatusCode::SERVICE_UNAVAILABLE))
        );
        assert_eq!(fixed.rate(&plain), Some(2048));
        let header = settings(json!({
            "delay": { "header_delay": {}, "percentage": all() },
            "abort": { "header_abort": {}, "percentage": all() },
            "response_rate_limit": { "header_limit": {}, "percentage": all() },
        }))
        .unwrap();
        assert_eq!(header.delay(&plain), None);
        assert_eq!(header.abort(&plain), None);
        assert_eq!(header.rate(&plain), None);
        let said = request(
            "/",
            &[
                ("x-envoy-fault-delay-request", "20"),
                ("x-envoy-fault-abort-request", "418"),
                ("x-envoy-fault-throughput-response", "1"),
            ],
        );
        assert_eq!(header.delay(&said), Some(Duration::from_millis(20)));
        assert_eq!(
            header.abort(&said),
            Some(Error::Http(StatusCode::IM_A_TEAPOT))
        );
        assert_eq!(header.rate(&said), Some(1024));
        let never = request(
            "/",
            &[
                ("x-envoy-fault-abort-request", "418"),
                ("x-envoy-fault-abort-request-percentage", "0"),
            ],
        );
        assert_eq!(header.abort(&never), None);
        let grpc = request("/", &[("x-envoy-fault-abort-grpc-request", "14")]);
        assert_eq!(header.abort(&grpc), Some(Error::Grpc(14)));
        let odd = request("/", &[("x-envoy-fault-abort-request", "600")]);
        assert_eq!(header.abort(&odd), None);
    }

    #[test]
    fn without_a_percentage_nothing_is_done_and_what_is_wrong_is_refused() {
        let none = settings(json!({ "abort": { "http_status": 503 } })).unwrap();
        assert_eq!(none.abort(&request("/", &[])), None);
        for (fault, reason) in [
            (json!({ "abort": {} }), "abort.error_type: must be given"),
            (
                json!({ "abort": { "http_status": 600 } }),
                "abort.http_status: 600 is not within 200 and 599",
            ),
            (
                json!({ "delay": {} }),
                "delay.fault_delay_secifier: must be given",
            ),
            (
                json!({ "delay": { "fixed_delay": "0s" } }),
                "delay.fixed_delay: must be greater than zero",
            ),
            (
                json!({ "response_rate_limit": { "fixed_limit": {} } }),
                "response_rate_limit.fixed_limit.limit_kbps: must be at least 1",
            ),
        ] {
            assert_eq!(settings(fault).unwrap_err(), reason);
        }
    }
}
