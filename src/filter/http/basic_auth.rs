//! `envoy.filters.http.basic_auth`: user names and passwords (RFC 7617).
//!
//! Configuration: `envoy.extensions.filters.http.basic_auth.v3`. Users are lines of an `htpasswd`
//! file with SHA-1 hashes, the only ones that Envoy takes. Users of a route take the place of those
//! of the filter.

use std::collections::HashMap;
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::core::DataSource;
use causeway_xds::proto::envoy::extensions::filters::http::basic_auth::v3 as proto;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::metadata::MetadataValue;
use causeway_xds::resource::parts::{self, At, fault, required};
use http::StatusCode;
use http::header::{AUTHORIZATION, HOST, HeaderName, HeaderValue, WWW_AUTHENTICATE};

use super::super::registry::{Context, decode};
use super::super::{Factory, Flow, HttpFilter, LocalReply, Stream};
use crate::route::RouteConfig;
use crate::telemetry::stats::Counter;

const NAME: &str = "envoy.filters.http.basic_auth";

pub const FACTORY: Factory = Factory {
    message: "envoy.extensions.filters.http.basic_auth.v3.BasicAuth",
    name: NAME,
    build,
    per_route: &[(
        "envoy.extensions.filters.http.basic_auth.v3.BasicAuthPerRoute",
        build_per_route,
    )],
};

/// Of a list of users, in bytes.
const MAX_USERS: usize = 1 << 20;

/// With or without the signs that fill it up.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

struct BasicAuth {
    users: Users,
    /// Where credentials are; `authorization` unless something else is said.
    from: HeaderName,
    forward_name: Option<HeaderName>,
    allow_missing: bool,
    metadata: bool,
    allowed: Arc<Counter>,
    denied: Arc<Counter>,
}

/// SHA-1 hashes by name.
struct Users(HashMap<String, [u8; 20]>);

impl std::fmt::Debug for BasicAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BasicAuth").finish_non_exhaustive()
    }
}

impl Users {
    fn decode(source: Option<DataSource>) -> Result<Self, Invalid> {
        let data = parts::data(required(source, "users")?, MAX_USERS).at("users")?;
        let text = String::from_utf8(data).map_err(|_| Invalid::at("users", "is no text"))?;
        Self::parse(&text).at("users")
    }

    /// No fault repeats what is in a line: it may be a secret.
    fn parse(text: &str) -> Result<Self, Invalid> {
        let mut users = HashMap::new();
        for (at, line) in text.lines().enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |why: &str| fault(format!("line {}: {why}", at + 1));
            let (name, hash) = line
                .split_once(':')
                .ok_or_else(|| wrong("is not a name and a hash with a colon between them"))?;
            if name.is_empty() || hash.is_empty() {
                return Err(wrong("the name or the hash is empty"));
            }
            let hash = hash
                .strip_prefix("{SHA}")
                .ok_or_else(|| wrong("the hash must begin with {SHA}"))?;
            let hash = STANDARD.decode(hash).ok();
            let hash = hash
                .and_then(|hash| hash.try_into().ok())
                .ok_or_else(|| wrong("is no SHA-1 hash in base64"))?;
            if users.insert(name.to_owned(), hash).is_some() {
                return Err(wrong("the name is there already"));
            }
        }
        Ok(Self(users))
    }

    fn know(&self, name: &str, password: &[u8]) -> bool {
        let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, password);
        self.0
            .get(name)
            .is_some_and(|known| verify_slices_are_equal(known, hash.as_ref()).is_ok())
    }
}

fn name_of(text: &str, field: &str) -> Result<Option<HeaderName>, Invalid> {
    if text.is_empty() {
        return Ok(None);
    }
    let name = parts::header_name(text).at(field)?;
    HeaderName::try_from(name)
        .map(Some)
        .map_err(|_| Invalid::at(field, "is no header name"))
}

fn build(config: &TypedExtension, context: &Context) -> Result<Arc<dyn HttpFilter>, Invalid> {
    let proto::BasicAuth {
        users,
        forward_username_header,
        authentication_header,
        allow_missing,
        emit_dynamic_metadata,
    } = decode(config)?;
    let from = name_of(&authentication_header, "authentication_header")?;
    Ok(Arc::new(BasicAuth {
        users: Users::decode(users)?,
        from: from.unwrap_or(AUTHORIZATION),
        forward_name: name_of(&forward_username_header, "forward_username_header")?,
        allow_missing,
        metadata: emit_dynamic_metadata,
        allowed: context.counter("basic_auth.allowed"),
        denied: context.counter("basic_auth.denied"),
    }))
}

fn build_per_route(config: &TypedExtension, _: &Context) -> Result<RouteConfig, Invalid> {
    let proto::BasicAuthPerRoute { users } = decode(config)?;
    Users::decode(users).map(RouteConfig::new)
}

/// Why somebody is not let in: the details, and what is said.
type Refusal = (&'static str, &'static str);

const NO_CREDENTIAL: Refusal = (
    "no_credential_for_basic_auth",
    "User authentication failed. Missing username and password.",
);
const SCHEME: Refusal = (
    "invalid_scheme_for_basic_auth",
    "User authentication failed. Expected 'Basic' authentication scheme.",
);
const FORMAT: Refusal = (
    "invalid_format_for_basic_auth",
    "User authentication failed. Invalid basic credential format.",
);
const CREDENTIAL: Refusal = (
    "invalid_credential_for_basic_auth",
    "User authentication failed. Invalid username/password combination.",
);

/// The name of a user whose password is right.
fn check(value: &HeaderValue, users: &Users) -> Result<String, Refusal> {
    let value = value.as_bytes().strip_prefix(b"Basic ").ok_or(SCHEME)?;
    let decoded = LENIENT.decode(value).map_err(|_| FORMAT)?;
    let colon = decoded.iter().position(|b| *b == b':').ok_or(FORMAT)?;
    // A name that is no text is nobody's.
    let name = std::str::from_utf8(&decoded[..colon]).map_err(|_| CREDENTIAL)?;
    match users.know(name, &decoded[colon + 1..]) {
        true => Ok(name.to_owned()),
        false => Err(CREDENTIAL),
    }
}

impl HttpFilter for BasicAuth {
    fn request(&self, stream: &mut Stream<'_>) -> Flow {
        let users = stream.route_config().unwrap_or(&self.users);
        let checked = match stream.request.headers.get(&self.from) {
            None if self.allow_missing => {
                // Nobody can say to be somebody.
                if let Some(forward) = &self.forward_name {
                    stream.request.headers.remove(forward);
                }
                self.allowed.inc();
                return Flow::Continue;
            }
            None => Err(NO_CREDENTIAL),
            Some(value) => check(value, users),
        };
        let name = match checked {
            Ok(name) => name,
            Err(refusal) => return self.refuse(stream, refusal),
        };
        if let Some(forward) = &self.forward_name {
            let Ok(value) = HeaderValue::from_str(&name) else {
                return self.refuse(stream, CREDENTIAL);
            };
            stream.request.headers.insert(forward.clone(), value);
        }
        if self.metadata {
            let state = stream.state();
            state.set_metadata(NAME, "username", MetadataValue::Text(name));
        }
        self.allowed.inc();
        Flow::Continue
    }
}

impl BasicAuth {
    fn refuse(&self, stream: &Stream<'_>, (details, told): Refusal) -> Flow {
        self.denied.inc();
        let mut reply = LocalReply::new(StatusCode::UNAUTHORIZED, details).saying(told);
        if let Ok(realm) = HeaderValue::try_from(realm(stream)) {
            reply.headers.insert(WWW_AUTHENTICATE, realm);
        }
        Flow::reply(reply)
    }
}

/// The address that was asked for, its path shortened as Envoy does.
fn realm(stream: &Stream<'_>) -> String {
    const MAX: usize = 256;
    let scheme = if stream.tls { "https" } else { "http" };
    let host = stream.request.headers.get(HOST);
    let host = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
    let path = stream.request.uri.path_and_query();
    let path = path.map_or("", |path| path.as_str());
    let path = &path[..path.floor_char_boundary(MAX)];
    // A quotation mark would end the value.
    let quoted = format!("{scheme}://{host}{path}").replace('"', "%22");
    format!("Basic realm=\"{quoted}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: &str = "# staff\n\nuser1:{SHA}tESsBmE/yNY3lb6a0L6vVQEZNqw=\nuser2:{SHA}EJ9LPFDXsN9ynSmbxvjp75Bmlx8=\n";

    fn refusal(value: &str) -> Option<&'static str> {
        let users = Users::parse(USERS).unwrap();
        let value = HeaderValue::from_str(value).unwrap();
        check(&value, &users).err().map(|(details, _)| details)
    }

    fn basic(credential: &[u8]) -> String {
        format!("Basic {}", STANDARD.encode(credential))
    }

    #[test]
    fn a_user_is_let_in_by_name_and_password() {
        assert_eq!(refusal(&basic(b"user1:test1")), None);
        assert_eq!(refusal(&basic(b"user2:test2")), None);
        assert_eq!(refusal(basic(b"user1:test1").trim_end_matches('=')), None);
        let wrong = Some("invalid_credential_for_basic_auth");
        for credential in [
            &b"user1:test2"[..],
            b"user3:test1",
            b":",
            b"user1:",
            b"\xff:test1",
        ] {
            assert_eq!(refusal(&basic(credential)), wrong, "{credential:?}");
        }
        let format = Some("invalid_format_for_basic_auth");
        assert_eq!(refusal(&basic(b"user1")), format);
        assert_eq!(refusal("Basic !!!"), format);
        let scheme = Some("invalid_scheme_for_basic_auth");
        assert_eq!(refusal("Bearer x"), scheme);
        assert_eq!(
            refusal(&basic(b"user1:test1").replace("Basic", "basic")),
            scheme
        );
    }

    #[test]
    fn a_file_with_a_wrong_line_is_refused_without_its_secrets() {
        for (text, reason) in [
            (
                "a",
                "line 1: is not a name and a hash with a colon between them",
            ),
            ("\na:", "line 2: the name or the hash is empty"),
            (":x", "line 1: the name or the hash is empty"),
            ("a:$apr1$secret", "line 1: the hash must begin with {SHA}"),
            ("a:{SHA}short", "line 1: is no SHA-1 hash in base64"),
            (
                "a:{SHA}tESsBmE/yNY3lb6a0L6vVQEZNqw=\na:{SHA}tESsBmE/yNY3lb6a0L6vVQEZNqw=",
                "line 2: the name is there already",
            ),
        ] {
            let told = Users::parse(text).err().map(|e| e.to_string());
            assert_eq!(told.as_deref(), Some(reason), "{text}");
        }
    }
}
