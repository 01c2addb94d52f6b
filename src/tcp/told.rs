//! Why connections end, for the log: nobody else is told.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::StatusCode;

use crate::error::{Failure, ResponseFlag};
use crate::net::copy::{End, Ended};
use crate::snapshot::{TcpProxySpec, TcpTarget};

/// What went wrong, if something did. The statuses are those of HTTP for the like of it: nobody is
/// told them here.
pub fn failure(
    ended: Ended,
    (name, limit): (&'static str, Duration),
    endpoint: &impl fmt::Display,
) -> Option<Failure> {
    match ended {
        Ended::Closed => None,
        Ended::Idle => Some(idle(format!("{endpoint}: {name} ({limit:?}) fired"))),
        Ended::Broken(End::A, error) => {
            let cause = format!("client, while connected to {endpoint}: {error}");
            Some(broken_off(cause))
        }
        Ended::Broken(End::B, error) => Some(
            Failure::local(
                StatusCode::SERVICE_UNAVAILABLE,
                ResponseFlag::UpstreamConnectionTermination,
                "upstream_remote_disconnect",
            )
            .because(format!("{endpoint}, while connected: {error}")),
        ),
    }
}

/// Nothing was sent for too long.
pub fn idle(cause: String) -> Failure {
    let (status, flag) = (StatusCode::GATEWAY_TIMEOUT, ResponseFlag::StreamIdleTimeout);
    Failure::local(status, flag, "tcp_session_idle_timeout").because(cause)
}

/// By the client.
pub fn broken_off(cause: String) -> Failure {
    let (status, flag) = (StatusCode::BAD_REQUEST, ResponseFlag::DownstreamTermination);
    Failure::local(status, flag, "downstream_remote_disconnect").because(cause)
}

/// There is no answer to put a failure in, so it is told in the log: in full at `debug`, and now and
/// then as a warning. What a client does, and a limit that was configured, warn nobody.
pub fn report(spec: &TcpProxySpec, peer: Option<SocketAddr>, failure: &Failure) {
    let name = Names(&spec.clusters);
    let flag = failure.flag.map_or("-", ResponseFlag::short);
    let peer = peer.map(tracing::field::display);
    let ordinary = matches!(
        failure.flag,
        Some(
            ResponseFlag::DownstreamTermination
                | ResponseFlag::StreamIdleTimeout
                | ResponseFlag::Unauthorized
        )
    );
    let warned = if ordinary {
        None
    } else {
        spec.warnings.pass(Instant::now())
    };
    match warned {
        Some(held_back) => tracing::warn!(
            cluster = %name, peer, flag, held_back, %failure, "connection closed"
        ),
        None => {
            tracing::debug!(cluster = %name, peer, flag, %failure, "connection closed");
        }
    }
}

/// The clusters of a proxy, for the log.
struct Names<'s>(&'s [TcpTarget]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, target) in self.0.iter().enumerate() {
            f.write_str(if index == 0 { "" } else { "|" })?;
            f.write_str(&target.name)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn an_end_says_who_brought_it_about() {
        let told = |ended| {
            let failure = failure(
                ended,
                ("idle_timeout", Duration::from_secs(3)),
                &"10.0.0.1:80",
            )?;
            Some((failure.flag.unwrap().short(), failure.to_string()))
        };
        let reset = || io::Error::other("reset");
        assert_eq!(told(Ended::Closed), None);
        for (ended, flag, text) in [
            (
                Ended::Idle,
                "SI",
                "504 tcp_session_idle_timeout: 10.0.0.1:80: idle_timeout (3s) fired",
            ),
            (
                Ended::Broken(End::A, reset()),
                "DC",
                "400 downstream_remote_disconnect: client, while connected to 10.0.0.1:80: reset",
            ),
            (
                Ended::Broken(End::B, reset()),
                "UC",
                "503 upstream_remote_disconnect: 10.0.0.1:80, while connected: reset",
            ),
        ] {
            assert_eq!(told(ended), Some((flag, text.to_owned())));
        }
    }
}
