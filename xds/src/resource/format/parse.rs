//! Text to [`Format`].

use super::{
    Fact, Format, GrpcStatusForm, HeaderChoice, Holder, Moment, Operator, Part, PathOf, Point,
    TimeFormat, TimePart, Unit,
};
use crate::reject::Invalid;
use crate::resource::context::fault;
use crate::resource::headers::header_or_pseudo_name;

/// No format is longer; the limit is ours.
const MAX_LENGTH: usize = 64 * 1024;

/// Commands that Envoy knows and that need what this program does not record.
const NOT_RECORDED: [&str; 22] = [
    "BYTES_RETRANSMITTED",
    "CEL",
    "CUSTOM_FLAGS",
    "DOWNSTREAM_CX_RTT",
    "DOWNSTREAM_DETECTED_CLOSE_TYPE",
    "DOWNSTREAM_HANDSHAKE_DURATION",
    "DOWNSTREAM_LOCAL_CLOSE_REASON",
    "DOWNSTREAM_TLS_CIPHER",
    "DOWNSTREAM_TRANSPORT_FAILURE_REASON",
    "EMIT_TIME_LOCAL",
    "FILE_CONTENT",
    "FILTER_CHAIN_NAME",
    "PACKETS_RETRANSMITTED",
    "RESPONSE_TRAILERS_BYTES",
    "ROUNDTRIP_DURATION",
    "START_TIME_LOCAL",
    "TLS_JA3_FINGERPRINT",
    "TLS_JA4_FINGERPRINT",
    "UPSTREAM_CONNECTION_POOL_READY_DURATION",
    "UPSTREAM_FILTER_STATE",
    "UPSTREAM_HOSTS_ATTEMPTED",
    "UPSTREAM_SERVER_NAME",
];

/// A command as it is written: `%NAME(argument):max%`.
struct Written<'t> {
    name: &'t str,
    argument: Option<&'t str>,
    max: Option<usize>,
}

impl Format {
    /// Reads a format as it is written, `%COMMAND(argument):length%` among text.
    ///
    /// # Errors
    /// A `%` that begins no command and is not doubled, a command that nobody knows, or one whose
    /// argument it does not take.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        if text.len() > MAX_LENGTH {
            return Err(fault(format!("is longer than {MAX_LENGTH} bytes")));
        }
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('%') {
            literal.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('%') {
                literal.push('%');
                rest = after;
                continue;
            }
            let place = text.len() - rest.len() - 1;
            let (written, after) = command(rest)
                .ok_or_else(|| fault(format!("no command begins at position {place}")))?;
            if !literal.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut literal)));
            }
            parts.push(written.part()?);
            rest = after;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        Ok(Self(parts))
    }
}

/// Splits off the command that follows a `%`.
fn command(text: &str) -> Option<(Written<'_>, &str)> {
    let named = |b: &u8| b.is_ascii_uppercase() || b.is_ascii_digit() || *b == b'_';
    let length = text.bytes().take_while(named).count();
    let (name, mut rest) = text.split_at(length);
    if name.is_empty() {
        return None;
    }
    let mut argument = None;
    if let Some(inside) = rest.strip_prefix('(') {
        let (inside, after) = inside.split_once(')')?;
        argument = Some(inside);
        rest = after;
    }
    let mut max = None;
    if let Some(after) = rest.strip_prefix(':') {
        let (digits, _) = after.split_once('%')?;
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        max = Some(digits.parse().ok()?);
        rest = &after[digits.len()..];
    }
    let rest = rest.strip_prefix('%')?;
    let written = Written {
        name,
        argument,
        max,
    };
    Some((written, rest))
}

impl<'t> Written<'t> {
    fn part(self) -> Result<Part, Invalid> {
        let max = self.max;
        self.operator()
            .map(|operator| Part::Command { operator, max })
    }

    fn refused(&self, why: &str) -> Invalid {
        fault(format!("%{}%: {why}", self.name))
    }

    fn operator(&self) -> Result<Operator, Invalid> {
        if let Some(fact) = Fact::named(self.name) {
            let lenient = matches!(fact, Fact::RequestedServerName);
            return match (self.argument, self.max) {
                (_, Some(_)) => Err(self.refused("takes no length")),
                (None | Some(""), None) => Ok(Operator::Fact(fact)),
                (Some("SNI_ONLY" | "SNI_FIRST" | "SNI_FIRST:ORIG"), None) if lenient => {
                    Ok(Operator::Fact(fact))
                }
                (Some(_), None) => Err(self.refused("takes no such argument")),
            };
        }
        match self.name {
            "REQ" => self.header().map(Operator::RequestHeader),
            "REQ_WITHOUT_QUERY" => self.header().map(Operator::RequestHeaderWithoutQuery),
            "RESP" => self.header().map(Operator::ResponseHeader),
            "TRAILER" => self.header().map(Operator::ResponseTrailer),
            "PATH" => self.path(),
            "QUERY_PARAM" => Ok(Operator::QueryParameter(self.needed()?.to_owned())),
            "QUERY_PARAMS" => match self.argument.unwrap_or_default() {
                "" | "ORIG" => Ok(Operator::QueryParameters { decoded: false }),
                "DECODED" => Ok(Operator::QueryParameters { decoded: true }),
                _ => Err(self.refused("takes ORIG or DECODED")),
            },
            "START_TIME" => self.time(Moment::Start),
            "EMIT_TIME" => self.time(Moment::Emit),
            "COMMON_DURATION" => self.span(),
            "ENVIRONMENT" => Ok(Operator::Environment(self.needed()?.to_owned())),
            "METADATA" => self.metadata(),
            "DYNAMIC_METADATA" => self.keys().map(Operator::DynamicMetadata),
            "UPSTREAM_METADATA" => self.keys().map(|path| metadata_of(Holder::Endpoint, path)),
            "CLUSTER_METADATA" => self.keys().map(|path| metadata_of(Holder::Cluster, path)),
            "FILTER_STATE" => self.filter_state(),
            "GRPC_STATUS" => match self.argument.unwrap_or_default() {
                "" | "CAMEL_STRING" => Ok(Operator::GrpcStatus(GrpcStatusForm::Camel)),
                "SNAKE_STRING" => Ok(Operator::GrpcStatus(GrpcStatusForm::Snake)),
                "NUMBER" => Ok(Operator::GrpcStatus(GrpcStatusForm::Number)),
                _ => Err(self.refused("takes CAMEL_STRING, SNAKE_STRING or NUMBER")),
            },
            name if NOT_RECORDED.contains(&name) || self.is_of_a_certificate() => {
                Err(self.refused("is not supported yet"))
            }
            _ => Err(self.refused("is not a known command")),
        }
    }

    /// What tells certificates and connections apart is not recorded.
    fn is_of_a_certificate(&self) -> bool {
        let kinds = ["_PEER_", "_TLS_", "_SAN", "_LOCAL_", "BYTES", "_CLOSE_"];
        (self.name.starts_with("DOWNSTREAM_") || self.name.starts_with("UPSTREAM_"))
            && kinds.iter().any(|kind| self.name.contains(kind))
    }

    fn needed(&self) -> Result<&'t str, Invalid> {
        match self.argument {
            None | Some("") => Err(self.refused("needs an argument")),
            Some(argument) => Ok(argument),
        }
    }

    fn header(&self) -> Result<HeaderChoice, Invalid> {
        let argument = self.needed()?;
        let (name, or) = argument.split_once('?').unwrap_or((argument, ""));
        let checked = |name: &str| match name {
            "" => Ok(String::new()),
            name => header_or_pseudo_name(name),
        };
        Ok(HeaderChoice {
            name: checked(name)?,
            or: checked(or)?,
        })
    }

    fn path(&self) -> Result<Operator, Invalid> {
        let argument = self.argument.unwrap_or_default();
        let (query, of) = argument.split_once(':').unwrap_or((argument, ""));
        let query = match query {
            "" | "WQ" => true,
            "NQ" => false,
            _ => return Err(self.refused("takes WQ or NQ")),
        };
        let of = match of {
            "ORIG" => PathOf::Original,
            "PATH" => PathOf::Sent,
            "" | "ORIG_OR_PATH" => PathOf::OriginalOrSent,
            _ => return Err(self.refused("takes ORIG, PATH or ORIG_OR_PATH")),
        };
        Ok(Operator::Path { query, of })
    }

    fn span(&self) -> Result<Operator, Invalid> {
        let points: Vec<&str> = self.needed()?.split(':').collect();
        let (from, to, unit) = match points[..] {
            [from, to] => (from, to, "ms"),
            [from, to, unit] => (from, to, unit),
            _ => return Err(self.refused("takes two points and a unit")),
        };
        let unit = match unit {
            "ms" => Unit::Milliseconds,
            "us" => Unit::Microseconds,
            "ns" => Unit::Nanoseconds,
            _ => return Err(self.refused("takes ms, us or ns")),
        };
        Ok(Operator::Span {
            from: Point::named(from),
            to: Point::named(to),
            unit,
        })
    }

    /// A namespace and keys, with colons between them or as a list of JSON, which is an older form.
    fn keys(&self) -> Result<Vec<String>, Invalid> {
        let argument = self.needed()?;
        if !argument.starts_with('[') {
            return Ok(argument.split(':').map(str::to_owned).collect());
        }
        serde_json::from_str(argument)
            .ok()
            .filter(|keys: &Vec<String>| !keys.is_empty())
            .ok_or_else(|| self.refused("takes a list of texts"))
    }

    fn metadata(&self) -> Result<Operator, Invalid> {
        let mut path = self.needed()?.split(':').map(str::to_owned);
        match path.next().as_deref() {
            Some("ROUTE") => Ok(metadata_of(Holder::Route, path.collect())),
            Some("CLUSTER") => Ok(metadata_of(Holder::Cluster, path.collect())),
            Some("UPSTREAM_HOST") => Ok(metadata_of(Holder::Endpoint, path.collect())),
            Some("DYNAMIC") => Ok(Operator::DynamicMetadata(path.collect())),
            Some("LISTENER" | "LISTENER_FILTER_CHAIN" | "VIRTUAL_HOST") => {
                Err(self.refused("is supported for ROUTE, CLUSTER, UPSTREAM_HOST and DYNAMIC only"))
            }
            _ => Err(self.refused("takes no such kind")),
        }
    }

    fn filter_state(&self) -> Result<Operator, Invalid> {
        let mut parts = self.needed()?.split(':');
        let key = parts.next().unwrap_or_default().to_owned();
        match (parts.next(), parts.next()) {
            (Some("PLAIN"), None) => Ok(Operator::FilterState { key, typed: false }),
            (None | Some("" | "TYPED"), None) => Ok(Operator::FilterState { key, typed: true }),
            (Some("FIELD"), Some(_)) => Ok(Operator::Nothing),
            _ => Err(self.refused("takes PLAIN, TYPED or FIELD")),
        }
    }

    fn time(&self, moment: Moment) -> Result<Operator, Invalid> {
        if self.max.is_some() {
            return Err(self.refused("takes no length"));
        }
        let format = match self.argument {
            None | Some("") => TimeFormat::Rfc3339,
            Some(format) => TimeFormat::Parts(self.time_parts(format)?),
        };
        Ok(Operator::Time { moment, format })
    }

    fn time_parts(&self, format: &str) -> Result<Vec<TimePart>, Invalid> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = format;
        while let Some(at) = rest.find('%') {
            literal.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            let (part, length) = match conversion(rest) {
                Some((TimePart::Text(text), length)) => {
                    literal.push_str(&text);
                    rest = &rest[length..];
                    continue;
                }
                Some((TimePart::Conversion('n'), _)) => {
                    return Err(self.refused("must not contain a newline"));
                }
                Some(found) => found,
                None => {
                    literal.push('%');
                    continue;
                }
            };
            if !literal.is_empty() {
                parts.push(TimePart::Text(std::mem::take(&mut literal)));
            }
            parts.push(part);
            rest = &rest[length..];
        }
        literal.push_str(rest);
        if literal.contains('\n') {
            return Err(self.refused("must not contain a newline"));
        }
        if !literal.is_empty() {
            parts.push(TimePart::Text(literal));
        }
        Ok(parts)
    }
}

/// The conversion that follows a `%` in a time, and how long it is.
fn conversion(text: &str) -> Option<(TimePart, usize)> {
    let bytes = text.as_bytes();
    let digit = |at: usize| {
        let b = bytes.get(at)?;
        b.is_ascii_digit().then(|| b - b'0')
    };
    match (*bytes.first()?, bytes.get(1).copied()) {
        (b'%', _) => Some((TimePart::Text("%".to_owned()), 1)),
        (b't', _) => Some((TimePart::Text("\t".to_owned()), 1)),
        (b's', _) => Some((TimePart::Epoch(0), 1)),
        (b'f', _) => Some((TimePart::Fraction(9), 1)),
        (b'1'..=b'9', Some(b'f')) => Some((TimePart::Fraction(digit(0)?), 2)),
        (b'1'..=b'9', Some(b's')) => Some((TimePart::Epoch(digit(0)?), 2)),
        (b'E', Some(b'*')) if bytes.get(2) == Some(&b'S') => Some((TimePart::ExactSeconds, 3)),
        (b'E', Some(b'0'..=b'9')) if bytes.get(2) == Some(&b'S') => {
            Some((TimePart::Seconds(digit(1)?), 3))
        }
        (b'E', Some(b'z')) => Some((TimePart::Conversion(':'), 2)),
        (c, _) if b"aAbBcCdDeFgGHhIjmMnpRSTuVwyYzZ".contains(&c) => {
            Some((TimePart::Conversion(char::from(c)), 1))
        }
        _ => None,
    }
}

fn metadata_of(of: Holder, path: Vec<String>) -> Operator {
    Operator::Metadata { of, path }
}

impl Point {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "DS_RX_BEG" => Self::DownstreamRxBegin,
            "DS_RX_END" => Self::DownstreamRxEnd,
            "DS_TX_BEG" => Self::DownstreamTxBegin,
            "DS_TX_END" => Self::DownstreamTxEnd,
            "US_TX_BEG" => Self::UpstreamTxBegin,
            "US_TX_END" => Self::UpstreamTxEnd,
            "US_RX_BEG" => Self::UpstreamRxBegin,
            "US_RX_END" => Self::UpstreamRxEnd,
            _ => return None,
        })
    }
}
