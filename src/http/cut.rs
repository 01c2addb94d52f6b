//! Answers that break off after their head was sent: what is told of it, and to whom.
//!
//! Any client gets a reset, so that it never takes what it has for the whole. One of gRPC over
//! HTTP/2 gets trailers instead, with the status that its library would have made of a reset by the
//! server itself (gRPC over HTTP/2, "Errors"): a message that was cut short is known by its own
//! length, and a status other than 0 is no success.

use h2::Reason;
use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::error::ResponseFlag;
use crate::net::WireError;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Why an upstream's body came to no end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Its stream was reset, by the upstream or for what it sent.
    Reset(Reason),
    /// Its connection is gone.
    Connection,
}

impl Cut {
    pub fn of(error: &WireError) -> Self {
        match error {
            WireError::Http2(error) if error.is_reset() => {
                Self::Reset(error.reason().unwrap_or(Reason::INTERNAL_ERROR))
            }
            _ => Self::Connection,
        }
    }

    pub const fn flag(self) -> ResponseFlag {
        match self {
            Self::Reset(_) => ResponseFlag::UpstreamRemoteReset,
            Self::Connection => ResponseFlag::UpstreamConnectionTermination,
        }
    }

    /// Envoy's word for it.
    pub const fn details(self) -> &'static str {
        match self {
            Self::Reset(_) => "upstream_reset_after_response_started{remote_reset}",
            Self::Connection => "upstream_reset_after_response_started{connection_termination}",
        }
    }

    /// The status of gRPC, and its message.
    const fn status(self) -> (&'static str, &'static str) {
        const CANCELLED: &str = "1";
        const UNKNOWN: &str = "2";
        const PERMISSION_DENIED: &str = "7";
        const RESOURCE_EXHAUSTED: &str = "8";
        const INTERNAL: &str = "13";
        const UNAVAILABLE: &str = "14";
        match self {
            Self::Connection => (
                UNAVAILABLE,
                "the connection to the upstream ended in the middle of the answer",
            ),
            Self::Reset(reason) => match reason {
                Reason::REFUSED_STREAM => (UNAVAILABLE, "the upstream refused the stream"),
                Reason::CANCEL => (CANCELLED, "the upstream cancelled the stream"),
                Reason::ENHANCE_YOUR_CALM => (
                    RESOURCE_EXHAUSTED,
                    "the upstream reset the stream: too much bandwidth is used",
                ),
                Reason::INADEQUATE_SECURITY => (
                    PERMISSION_DENIED,
                    "the upstream reset the stream: the protocol is not secure enough",
                ),
                // The table has no line for them.
                Reason::HTTP_1_1_REQUIRED | Reason::STREAM_CLOSED => {
                    (UNKNOWN, "the upstream reset the stream")
                }
                _ => (INTERNAL, "the upstream reset the stream"),
            },
        }
    }

    /// What ends the answer to a client of gRPC.
    pub fn trailers(self) -> HeaderMap {
        let (status, message) = self.status();
        let mut trailers = HeaderMap::with_capacity(2);
        trailers.insert(GRPC_STATUS, HeaderValue::from_static(status));
        trailers.insert(GRPC_MESSAGE, HeaderValue::from_static(message));
        trailers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_http2_become_statuses_of_grpc() {
        let told = |reason| Cut::Reset(reason).trailers()[GRPC_STATUS].clone();
        for reason in [
            Reason::NO_ERROR,
            Reason::PROTOCOL_ERROR,
            Reason::INTERNAL_ERROR,
            Reason::FLOW_CONTROL_ERROR,
            Reason::SETTINGS_TIMEOUT,
            Reason::FRAME_SIZE_ERROR,
            Reason::COMPRESSION_ERROR,
            Reason::CONNECT_ERROR,
        ] {
            assert_eq!(told(reason), "13", "{reason:?}");
        }
        assert_eq!(told(Reason::REFUSED_STREAM), "14");
        assert_eq!(told(Reason::CANCEL), "1");
        assert_eq!(told(Reason::ENHANCE_YOUR_CALM), "8");
        assert_eq!(told(Reason::INADEQUATE_SECURITY), "7");
        assert_eq!(told(Reason::HTTP_1_1_REQUIRED), "2");
        assert_eq!(Cut::Connection.trailers()[GRPC_STATUS], "14");
    }
}
