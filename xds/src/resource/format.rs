//! Substitution format strings: `%REQ(:METHOD)% took %DURATION% ms`.
//!
//! A text is parsed once, when the resource that carries it is decoded, into a list of parts. What
//! the commands mean, and what becomes of a value that is not there, is for the program to say.

mod fact;
mod parse;
mod string;

pub use fact::Fact;
pub use string::{FormatString, Json};

/// A format string in its parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Format(pub Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    Text(String),
    Command {
        operator: Operator,
        /// No more than so many bytes of the value (`:Z`).
        max: Option<usize>,
    },
}

/// What a command asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operator {
    /// One that takes no argument.
    Fact(Fact),
    /// `REQ`
    RequestHeader(HeaderChoice),
    /// `REQ_WITHOUT_QUERY`
    RequestHeaderWithoutQuery(HeaderChoice),
    /// `RESP`
    ResponseHeader(HeaderChoice),
    /// `TRAILER`, of the response
    ResponseTrailer(HeaderChoice),
    /// `PATH`
    Path { query: bool, of: PathOf },
    /// `QUERY_PARAM`: the first of that name, as it was sent.
    QueryParameter(String),
    /// `QUERY_PARAMS`
    QueryParameters { decoded: bool },
    /// `START_TIME`, `EMIT_TIME`
    Time { moment: Moment, format: TimeFormat },
    /// `COMMON_DURATION`; a point that nobody knows never comes.
    Span {
        from: Option<Point>,
        to: Option<Point>,
        unit: Unit,
    },
    /// `METADATA(ROUTE:...)`, `UPSTREAM_METADATA`, `CLUSTER_METADATA`: a namespace, and keys into it.
    Metadata { of: Holder, path: Vec<String> },
    /// Namespace, then keys: of what filters have set.
    DynamicMetadata(Vec<String>),
    /// The key, and whether the value is shown as JSON (`TYPED`).
    FilterState { key: String, typed: bool },
    /// A field of a filter state object: those that there are have none.
    Nothing,
    /// `ENVIRONMENT`: of the process, as it was when the resource was compiled.
    Environment(String),
    /// `GRPC_STATUS`
    GrpcStatus(GrpcStatusForm),
}

/// What carries metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    Route,
    Cluster,
    /// The endpoint that was asked last.
    Endpoint,
}

/// `X?Y`: the second where the first is not there. In lower case; either may be a pseudo header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderChoice {
    /// Empty: none.
    pub name: String,
    /// Empty: none.
    pub or: String,
}

/// Which path `PATH` means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathOf {
    /// `x-envoy-original-path`
    Original,
    /// `:path`
    Sent,
    OriginalOrSent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// When the request began.
    Start,
    /// When the text is made.
    Emit,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TimeFormat {
    /// RFC 3339 with milliseconds, which is the default.
    Rfc3339,
    Parts(Vec<TimePart>),
}

/// A part of a time, always UTC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TimePart {
    Text(String),
    /// A conversion of `strftime` that is put together from the calendar.
    Conversion(char),
    /// `%s`: seconds since 1970, and so many digits of the fraction behind them without a point.
    Epoch(u8),
    /// `%f`, `%3f`: so many digits of the fraction alone.
    Fraction(u8),
    /// `%E3S`: seconds, a point, and so many digits.
    Seconds(u8),
    /// `%E*S`: as many digits as it takes, and no point if there are none.
    ExactSeconds,
}

/// Points in the life of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    DownstreamRxBegin,
    DownstreamRxEnd,
    DownstreamTxBegin,
    DownstreamTxEnd,
    UpstreamTxBegin,
    UpstreamTxEnd,
    UpstreamRxBegin,
    UpstreamRxEnd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Milliseconds,
    Microseconds,
    Nanoseconds,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrpcStatusForm {
    /// `PermissionDenied`
    Camel,
    /// `PERMISSION_DENIED`
    Snake,
    Number,
}

/// What Envoy logs where no format is given.
const DEFAULT_LOG: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";

impl Format {
    /// The format of a log that has none of its own.
    pub fn default_log() -> Self {
        Self::parse(DEFAULT_LOG).expect("a text of our own")
    }

    /// Whether it holds no command at all.
    pub fn literal(&self) -> Option<&str> {
        match &self.0[..] {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The commands in it.
    pub fn operators(&self) -> impl Iterator<Item = &Operator> {
        self.0.iter().filter_map(|part| match part {
            Part::Text(_) => None,
            Part::Command { operator, .. } => Some(operator),
        })
    }
}

#[cfg(test)]
mod tests;
