//! The one classification of what goes wrong with a request or connection.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use http::StatusCode;

/// Envoy's response flags (`%RESPONSE_FLAGS%`), kept to the letter so that dashboards work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseFlag {
    /// `NR`
    NoRoute,
    /// `NC`
    NoCluster,
    /// `UH`
    NoHealthyUpstream,
    /// `UF`
    UpstreamConnectFailure,
    /// `UC`
    UpstreamConnectionTermination,
    /// `UR`
    UpstreamRemoteReset,
    /// `UPE`
    UpstreamProtocolError,
    /// `UO`
    UpstreamOverflow,
    /// `URX`
    UpstreamRetryLimitExceeded,
    /// `UT`
    UpstreamTimeout,
    /// `SI`
    StreamIdleTimeout,
    /// `DC`
    DownstreamTermination,
    /// `DPE`
    DownstreamProtocolError,
    /// `DT`
    DurationTimeout,
    /// `UMSDR`
    UpstreamMaxStreamDurationReached,
    /// `UAEX`
    Unauthorized,
    /// `NFCF`
    NoFilterConfigFound,
    /// `LH`
    FailedLocalHealthCheck,
    /// `DI`
    DelayInjected,
    /// `FI`
    FaultInjected,
    /// `RL`
    RateLimited,
    /// `RLSE`
    RateLimitServiceError,
    /// `IH`
    InvalidEnvoyRequestHeaders,
}

impl ResponseFlag {
    pub const fn short(self) -> &'static str {
        match self {
            Self::NoRoute => "NR",
            Self::NoCluster => "NC",
            Self::NoHealthyUpstream => "UH",
            Self::UpstreamConnectFailure => "UF",
            Self::UpstreamConnectionTermination => "UC",
            Self::UpstreamRemoteReset => "UR",
            Self::UpstreamProtocolError => "UPE",
            Self::UpstreamOverflow => "UO",
            Self::UpstreamRetryLimitExceeded => "URX",
            Self::UpstreamTimeout => "UT",
            Self::StreamIdleTimeout => "SI",
            Self::DownstreamTermination => "DC",
            Self::DownstreamProtocolError => "DPE",
            Self::DurationTimeout => "DT",
            Self::UpstreamMaxStreamDurationReached => "UMSDR",
            Self::Unauthorized => "UAEX",
            Self::NoFilterConfigFound => "NFCF",
            Self::FailedLocalHealthCheck => "LH",
            Self::DelayInjected => "DI",
            Self::FaultInjected => "FI",
            Self::RateLimited => "RL",
            Self::RateLimitServiceError => "RLSE",
            Self::InvalidEnvoyRequestHeaders => "IH",
        }
    }

    /// `%RESPONSE_FLAGS_LONG%`
    pub const fn long(self) -> &'static str {
        match self {
            Self::NoRoute => "NoRouteFound",
            Self::NoCluster => "NoClusterFound",
            Self::NoHealthyUpstream => "NoHealthyUpstream",
            Self::UpstreamConnectFailure => "UpstreamConnectionFailure",
            Self::UpstreamConnectionTermination => "UpstreamConnectionTermination",
            Self::UpstreamRemoteReset => "UpstreamRemoteReset",
            Self::UpstreamProtocolError => "UpstreamProtocolError",
            Self::UpstreamOverflow => "UpstreamOverflow",
            Self::UpstreamRetryLimitExceeded => "UpstreamRetryLimitExceeded",
            Self::UpstreamTimeout => "UpstreamRequestTimeout",
            Self::StreamIdleTimeout => "StreamIdleTimeout",
            Self::DownstreamTermination => "DownstreamConnectionTermination",
            Self::DownstreamProtocolError => "DownstreamProtocolError",
            Self::DurationTimeout => "DurationTimeout",
            Self::UpstreamMaxStreamDurationReached => "UpstreamMaxStreamDurationReached",
            Self::Unauthorized => "UnauthorizedExternalService",
            Self::NoFilterConfigFound => "NoFilterConfigFound",
            Self::FailedLocalHealthCheck => "FailedLocalHealthCheck",
            Self::DelayInjected => "DelayInjected",
            Self::FaultInjected => "FaultInjected",
            Self::RateLimited => "RateLimited",
            Self::RateLimitServiceError => "RateLimitServiceError",
            Self::InvalidEnvoyRequestHeaders => "InvalidEnvoyRequestHeaders",
        }
    }
}

/// A failure that is ours to answer: what the client is told and what the log says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub status: StatusCode,
    pub flag: Option<ResponseFlag>,
    /// Envoy's `%RESPONSE_CODE_DETAILS%`: a stable word, lower case, underscores.
    pub details: Cow<'static, str>,
    /// What configuration calls it, where a failure was configured.
    pub named: Option<Arc<str>>,
    /// What the body of the answer says; may be empty.
    pub body: Cow<'static, str>,
    /// Cause with address and phase, for the log. Never shown to a client.
    pub cause: Option<String>,
    /// Whether the connection it came on must not be used again.
    pub close: bool,
}

impl Failure {
    pub fn local(
        status: StatusCode,
        flag: ResponseFlag,
        details: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            status,
            flag: Some(flag),
            details: details.into(),
            named: None,
            body: Cow::Borrowed(""),
            cause: None,
            close: false,
        }
    }

    /// A request that must not be forwarded. The connection is closed after the answer, because
    /// where the next request begins is in doubt.
    pub fn bad_request(details: &'static str) -> Self {
        Self::local(
            StatusCode::BAD_REQUEST,
            ResponseFlag::DownstreamProtocolError,
            details,
        )
        .saying("Bad Request")
        .closing()
    }

    /// The word that pages and logs know it by.
    pub fn word(&self) -> &str {
        self.named.as_deref().unwrap_or(&self.details)
    }

    #[must_use]
    pub fn saying(mut self, body: impl Into<Cow<'static, str>>) -> Self {
        self.body = body.into();
        self
    }

    #[must_use]
    pub fn because(mut self, cause: impl fmt::Display) -> Self {
        self.cause = Some(cause.to_string());
        self
    }

    #[must_use]
    pub fn closing(mut self) -> Self {
        self.close = true;
        self
    }
}

impl Failure {
    /// The cause, or else the stable word for it.
    pub fn why(&self) -> &str {
        self.cause.as_deref().unwrap_or(&self.details)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status.as_u16(), self.word())?;
        if let Some(cause) = &self.cause {
            write!(f, ": {cause}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}
