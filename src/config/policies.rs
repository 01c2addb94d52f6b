//! `[[causeway.policies]]`: what circuits get beside being served.
//!
//! An entry that nobody reads right could leave an application open, so a key in it that means
//! nothing is an error here and not a warning.

use std::net::SocketAddr;
use std::time::Duration;

use http::{HeaderName, Method};
use serde::Deserialize;
use toml::Spanned;
use uuid::Uuid;

use super::Traffic;
use super::address::socket;
use super::error::{ConfigError, Place};

/// What some circuits get. Of several entries for a circuit the first that names a thing decides
/// about that thing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// For which circuits: all that is given has to fit, and nothing fits all.
    pub app: Option<String>,
    pub mode: Option<Traffic>,
    pub user: Option<Uuid>,
    pub endpoint: Option<Uuid>,
    pub rate_limit: Option<RateLimit>,
    /// `None`: not named, empty: none. Which of them is used is for the client to say.
    pub compression: Option<Vec<Coding>>,
    pub cors: Option<Cors>,
    pub authorizer: Option<Authorizer>,
    pub connections: Option<Connections>,
    /// Whether the requests of a client go to the same kernel as long as that is there.
    pub sticky: Option<bool>,
}

/// How much the kernels of one circuit are asked for at once, by this worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connections {
    /// To all kernels together. A connection of HTTP/1 is one request, or one WebSocket.
    pub max: u32,
    /// Requests that may wait for one.
    pub queue: u32,
    /// How long each of them may.
    pub queue_timeout: Duration,
}

/// Requests of one circuit, on this worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    pub requests: u32,
    pub per: Duration,
    /// At once; at least `requests`.
    pub burst: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Coding {
    Gzip,
    Br,
    Zstd,
}

/// Which other origins may use a circuit from a browser.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// `*` is every origin.
    pub origins: Vec<String>,
    pub methods: Vec<String>,
    pub headers: Vec<String>,
    pub exposed: Vec<String>,
    pub max_age: Duration,
    pub credentials: bool,
}

/// Who is asked about each request, over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorizer {
    pub address: SocketAddr,
    /// Before the path of the request; may be empty.
    pub path: String,
    pub timeout: Duration,
    /// Of the request, which it sees beside the method, the path, `Host` and `Authorization`.
    pub headers: Vec<String>,
    /// Of its answer, which the application gets.
    pub upstream_headers: Vec<String>,
    /// Requests pass when it does not answer.
    pub fail_open: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PolicyTable {
    app: Option<String>,
    mode: Option<Traffic>,
    user: Option<Uuid>,
    endpoint: Option<Uuid>,
    rate_limit: Option<Spanned<RateLimitTable>>,
    compression: Option<Vec<Coding>>,
    cors: Option<Spanned<CorsTable>>,
    authorizer: Option<Spanned<AuthorizerTable>>,
    connections: Option<Spanned<ConnectionsTable>>,
    sticky: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RateLimitTable {
    requests: u32,
    per: f64,
    burst: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConnectionsTable {
    max: u32,
    queue: Option<u32>,
    queue_timeout: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CorsTable {
    origins: Vec<String>,
    #[serde(default)]
    methods: Vec<String>,
    #[serde(default)]
    headers: Vec<String>,
    #[serde(default)]
    exposed: Vec<String>,
    max_age: Option<u32>,
    #[serde(default)]
    credentials: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AuthorizerTable {
    address: String,
    #[serde(default)]
    path: String,
    timeout: Option<f64>,
    #[serde(default)]
    headers: Vec<String>,
    #[serde(default)]
    upstream_headers: Vec<String>,
    #[serde(default)]
    fail_open: bool,
}

impl PolicyTable {
    pub fn validate(self, at: &Place<'_>) -> Result<Policy, ConfigError> {
        Ok(Policy {
            app: self.app,
            mode: self.mode,
            user: self.user,
            endpoint: self.endpoint,
            rate_limit: checked(self.rate_limit, at, "rate_limit", RateLimitTable::validate)?,
            compression: self.compression,
            cors: checked(self.cors, at, "cors", CorsTable::validate)?,
            authorizer: checked(self.authorizer, at, "authorizer", AuthorizerTable::validate)?,
            connections: checked(
                self.connections,
                at,
                "connections",
                ConnectionsTable::validate,
            )?,
            sticky: self.sticky,
        })
    }
}

/// The reason that `validate` gives is that of a key of the table.
fn checked<T, V>(
    table: Option<Spanned<T>>,
    at: &Place<'_>,
    key: &str,
    validate: impl FnOnce(T) -> Result<V, String>,
) -> Result<Option<V>, ConfigError> {
    let Some(table) = table else {
        return Ok(None);
    };
    let span = table.span();
    let wrong = |reason| {
        let reason = format!("causeway.policies.{key}.{reason}");
        at.error(Some(span), reason, None)
    };
    validate(table.into_inner()).map(Some).map_err(wrong)
}

impl RateLimitTable {
    fn validate(self) -> Result<RateLimit, String> {
        // The data plane counts in steps of this length.
        const LEAST: Duration = Duration::from_millis(50);
        let per = Duration::try_from_secs_f64(self.per).unwrap_or_default();
        let burst = self.burst.unwrap_or(self.requests);
        if self.requests == 0 {
            return Err("requests: must be more than 0".to_owned());
        }
        if per < LEAST {
            return Err("per: must be at least 0.05 seconds".to_owned());
        }
        if burst < self.requests {
            return Err("burst: must not be less than requests".to_owned());
        }
        Ok(RateLimit {
            requests: self.requests,
            per,
            burst,
        })
    }
}

impl ConnectionsTable {
    fn validate(self) -> Result<Connections, String> {
        /// As many as a cluster of Envoy has by default.
        const QUEUE: u32 = 1024;
        const QUEUE_TIMEOUT: f64 = 10.0;
        if self.max == 0 {
            return Err("max: must be more than 0".to_owned());
        }
        let timeout = Duration::try_from_secs_f64(self.queue_timeout.unwrap_or(QUEUE_TIMEOUT));
        let timeout = timeout.ok().filter(|timeout| !timeout.is_zero());
        Ok(Connections {
            max: self.max,
            queue: self.queue.unwrap_or(QUEUE),
            queue_timeout: timeout.ok_or("queue_timeout: must be more than 0")?,
        })
    }
}

impl CorsTable {
    fn validate(self) -> Result<Cors, String> {
        if self.origins.is_empty() {
            return Err("origins: must not be empty".to_owned());
        }
        // A browser takes no answer with credentials for any origin; an allowed one is echoed, so
        // that this would open a circuit to every page.
        if self.credentials && self.origins.iter().any(|origin| origin == "*") {
            return Err("credentials: cannot be true for the origin *".to_owned());
        }
        let method = |text: &String| text.parse::<Method>().is_ok();
        if !self.methods.iter().all(method) {
            return Err("methods: one of them is no method".to_owned());
        }
        names(&self.headers, "headers")?;
        names(&self.exposed, "exposed")?;
        Ok(Cors {
            origins: self.origins,
            methods: self.methods,
            headers: self.headers,
            exposed: self.exposed,
            max_age: Duration::from_secs(self.max_age.unwrap_or(0).into()),
            credentials: self.credentials,
        })
    }
}

impl AuthorizerTable {
    fn validate(self) -> Result<Authorizer, String> {
        const DEFAULT: f64 = 1.0;
        let address = socket(&self.address).ok_or("address: is no address with a port")?;
        if !self.path.is_empty() && !self.path.starts_with('/') {
            return Err("path: must begin with a slash".to_owned());
        }
        let timeout = Duration::try_from_secs_f64(self.timeout.unwrap_or(DEFAULT));
        let timeout = timeout.ok().filter(|timeout| !timeout.is_zero());
        names(&self.headers, "headers")?;
        names(&self.upstream_headers, "upstream_headers")?;
        Ok(Authorizer {
            address,
            path: self.path,
            timeout: timeout.ok_or("timeout: must be more than 0")?,
            headers: self.headers,
            upstream_headers: self.upstream_headers,
            fail_open: self.fail_open,
        })
    }
}

fn names(list: &[String], key: &str) -> Result<(), String> {
    match list.iter().find(|name| name.parse::<HeaderName>().is_err()) {
        Some(wrong) => Err(format!("{key}: {wrong:?} is no header name")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::WorkerConfig;
    use super::*;

    fn parse(policies: &str) -> Result<Vec<Policy>, String> {
        let text = format!("[secrets]\napi_secret=\"s\"\n{policies}");
        let config = WorkerConfig::parse(&text, Path::new("w.toml"));
        match config {
            Ok(config) => {
                assert_eq!(config.unknown, []);
                Ok(config.causeway.policies)
            }
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn an_entry_says_for_whom_and_what() {
        let text = "[[causeway.policies]]\napp = \"jupyter\"\nmode = \"interactive\"\n\
                    rate_limit = { requests = 10, per = 1.5 }\ncompression = [\"br\", \"gzip\"]\n\
                    connections = { max = 2, queue_timeout = 0.5 }\nsticky = true\n\
                    [[causeway.policies]]\n\
                    endpoint = \"00000000-0000-0000-0000-000000000001\"\n\
                    cors = { origins = [\"https://a.test\"], credentials = true }\n\
                    authorizer = { address = \"127.0.0.1:9000\", path = \"/check\" }\n";
        let all = parse(text).unwrap();
        assert_eq!(all[0].app.as_deref(), Some("jupyter"));
        assert_eq!(all[0].mode, Some(Traffic::Interactive));
        let limit = all[0].rate_limit.unwrap();
        assert_eq!((limit.burst, limit.per), (10, Duration::from_millis(1500)));
        assert_eq!(all[0].compression, Some(vec![Coding::Br, Coding::Gzip]));
        let connections = Connections {
            max: 2,
            queue: 1024,
            queue_timeout: Duration::from_millis(500),
        };
        assert_eq!(
            (all[0].connections, all[0].sticky),
            (Some(connections), Some(true))
        );
        assert_eq!(all[1].endpoint, Some(Uuid::from_u128(1)));
        assert!(all[1].cors.as_ref().unwrap().credentials);
        let authorizer = all[1].authorizer.as_ref().unwrap();
        assert_eq!(authorizer.timeout, Duration::from_secs(1));
        assert!(!authorizer.fail_open);
    }

    #[test]
    fn an_entry_that_might_open_something_is_refused() {
        for (entry, reason) in [
            ("usr = \"x\"", "unknown field `usr`"),
            (
                "rate_limit = { requests = 0, per = 1 }",
                "causeway.policies.rate_limit.requests: must be more than 0",
            ),
            (
                "rate_limit = { requests = 2, per = 1, burst = 1 }",
                "rate_limit.burst: must not be less than requests",
            ),
            (
                "cors = { origins = [\"*\"], credentials = true }",
                "cors.credentials: cannot be true for the origin *",
            ),
            (
                "connections = { max = 0 }",
                "causeway.policies.connections.max: must be more than 0",
            ),
            (
                "connections = { max = 1, queue_timeout = -1 }",
                "connections.queue_timeout: must be more than 0",
            ),
            (
                "authorizer = { address = \"auth\" }",
                "authorizer.address: is no address with a port",
            ),
            (
                "authorizer = { address = \"127.0.0.1:1\", headers = [\"a b\"] }",
                "authorizer.headers: \"a b\" is no header name",
            ),
        ] {
            let error = parse(&format!("[[causeway.policies]]\n{entry}\n")).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }
}
