//! What clients are told of a failure (`proxy-status`, RFC 9209).

use causeway_xds::resource::http_manager::{HttpManager, ProxyName};
use http::{HeaderName, HeaderValue, StatusCode};

use crate::error::ResponseFlag;

pub const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// `proxy_status_config`, compiled.
#[derive(Debug)]
pub struct ProxyStatus {
    /// This proxy, as a bare item of structured fields.
    name: String,
    details: bool,
    flags: bool,
    recommended_status: bool,
}

impl ProxyStatus {
    /// `None`: nothing is told.
    pub fn compile(manager: &HttpManager, node: &str) -> Option<Self> {
        let model = manager.proxy_status.as_ref()?;
        let name = match &model.name {
            ProxyName::Server => &manager.server_name,
            ProxyName::Node => node,
            ProxyName::Literal(name) => name.as_str(),
        };
        Some(Self {
            name: match is_token(name) {
                true => name.to_owned(),
                false => quoted(name),
            },
            details: model.details,
            flags: model.flags,
            recommended_status: model.recommended_status,
        })
    }

    /// What is told of an answer with that flag; `None`: that nothing has failed.
    pub fn told(&self, flag: ResponseFlag, details: Option<&str>) -> Option<HeaderValue> {
        let mut value = format!("{}; error={}", self.name, kind(flag)?.0);
        if let Some(details) = details.filter(|_| self.details) {
            value.push_str("; details=");
            value.push_str(&match self.flags {
                true => quoted(&format!("{details}; {}", flag.short())),
                false => quoted(details),
            });
        }
        HeaderValue::try_from(value).ok()
    }

    /// The status in the place of the one that an answer has.
    pub fn status(&self, flag: ResponseFlag) -> Option<StatusCode> {
        kind(flag)?.1.filter(|_| self.recommended_status)
    }
}

/// The type of error (RFC 9209 section 2.3) as Envoy tells it, and its recommended status.
fn kind(flag: ResponseFlag) -> Option<(&'static str, Option<StatusCode>)> {
    use ResponseFlag as Flag;
    const SERVER_ERROR: Option<StatusCode> = Some(StatusCode::INTERNAL_SERVER_ERROR);
    const BAD_GATEWAY: Option<StatusCode> = Some(StatusCode::BAD_GATEWAY);
    const UNAVAILABLE: Option<StatusCode> = Some(StatusCode::SERVICE_UNAVAILABLE);
    const TIMEOUT: Option<StatusCode> = Some(StatusCode::GATEWAY_TIMEOUT);
    Some(match flag {
        Flag::FailedLocalHealthCheck
        | Flag::NoHealthyUpstream
        | Flag::UpstreamRetryLimitExceeded
        | Flag::NoCluster => ("destination_unavailable", UNAVAILABLE),
        Flag::NoRoute => ("destination_not_found", SERVER_ERROR),
        Flag::UpstreamConnectFailure => ("connection_refused", BAD_GATEWAY),
        Flag::UpstreamRemoteReset | Flag::UpstreamConnectionTermination => {
            ("connection_terminated", BAD_GATEWAY)
        }
        Flag::UpstreamOverflow | Flag::RateLimited | Flag::RateLimitServiceError => {
            ("connection_limit_reached", UNAVAILABLE)
        }
        Flag::UpstreamTimeout
        | Flag::StreamIdleTimeout
        | Flag::UpstreamMaxStreamDurationReached => ("http_response_timeout", TIMEOUT),
        Flag::DurationTimeout => ("connection_timeout", TIMEOUT),
        Flag::InvalidEnvoyRequestHeaders | Flag::DownstreamProtocolError | Flag::FaultInjected => {
            ("http_request_error", None)
        }
        // Envoy calls it a connection that was refused, and recommends 502 for it.
        Flag::Unauthorized => ("http_request_denied", None),
        Flag::NoFilterConfigFound => ("proxy_configuration_error", SERVER_ERROR),
        Flag::UpstreamProtocolError => ("http_protocol_error", BAD_GATEWAY),
        // Nobody is there to be told, or nothing is wrong.
        Flag::DownstreamTermination | Flag::DelayInjected => return None,
    })
}

/// RFC 9651 section 3.3.4.
fn is_token(text: &str) -> bool {
    let mut bytes = text.bytes();
    let first = bytes.next();
    first.is_some_and(|b| b.is_ascii_alphabetic() || b == b'*')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&b))
}

/// RFC 9651 section 3.3.3. What a string cannot hold becomes a question mark.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for char in text.chars() {
        match char {
            '"' | '\\' => out.extend(['\\', char]),
            ' '..='~' => out.push(char),
            _ => out.push('?'),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(name: &str) -> ProxyStatus {
        ProxyStatus {
            name: name.to_owned(),
            details: true,
            flags: true,
            recommended_status: true,
        }
    }

    #[test]
    fn a_failure_is_told_with_its_details_and_flag() {
        let told = |status: &ProxyStatus, flag, details| {
            let value = status.told(flag, details)?;
            Some(value.to_str().unwrap().to_owned())
        };
        let mut with = status("edge");
        let (flag, word) = (ResponseFlag::UpstreamTimeout, Some("response_timeout"));
        assert_eq!(
            told(&with, flag, word).as_deref(),
            Some("edge; error=http_response_timeout; details=\"response_timeout; UT\"")
        );
        assert_eq!(with.status(flag), Some(StatusCode::GATEWAY_TIMEOUT));
        assert_eq!(
            told(&with, flag, None).as_deref(),
            Some("edge; error=http_response_timeout")
        );
        with.flags = false;
        assert_eq!(
            told(&with, flag, Some("a \"b\" \\ \u{e9}")).as_deref(),
            Some(r#"edge; error=http_response_timeout; details="a \"b\" \\ ?""#)
        );
        with.details = false;
        assert_eq!(
            told(&with, ResponseFlag::NoRoute, word).as_deref(),
            Some("edge; error=destination_not_found")
        );
        with.recommended_status = false;
        assert_eq!(with.status(flag), None);
        assert_eq!(told(&with, ResponseFlag::DelayInjected, word), None);
        assert_eq!(with.status(ResponseFlag::DownstreamProtocolError), None);
    }

    #[test]
    fn a_name_that_is_no_token_is_a_string() {
        assert!(is_token("edge-1.example:443/a") && is_token("*"));
        for name in ["", "1", "a b", "a\"b", "\u{e9}"] {
            assert!(!is_token(name), "{name}");
        }
        assert_eq!(quoted("a b"), r#""a b""#);
    }
}
