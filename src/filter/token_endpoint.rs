//! Asking the token endpoint of an authorization server (RFC 6749 section 3.2).

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::parts::HttpUri;
use form_urlencoded::{Serializer, byte_serialize};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderValue};
use http::{Request, StatusCode, Uri};
use serde::Deserialize;

use super::call::{Calls, fetch};

/// Bytes of an answer at most.
const MAX_ANSWER: u64 = 1 << 20;

/// Where it is, and by when it has to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenEndpoint {
    pub cluster: String,
    pub timeout: Duration,
    host: String,
    path: String,
}

/// Who asks, and how that is shown (RFC 6749 section 2.3.1).
#[derive(Clone, Copy)]
pub enum Client<'c> {
    Basic {
        id: &'c str,
        secret: &'c [u8],
    },
    Body {
        id: &'c str,
        secret: &'c [u8],
    },
    /// By the certificate of the connection (RFC 8705), or not at all.
    Named {
        id: &'c str,
    },
}

/// What came of it.
#[derive(Deserialize)]
pub struct Tokens {
    /// Not empty.
    pub access_token: String,
    #[serde(default)]
    pub id_token: String,
    #[serde(default)]
    pub refresh_token: String,
    /// Seconds.
    pub expires_in: Option<u64>,
}

impl TokenEndpoint {
    /// # Errors
    /// It is no absolute URI.
    pub fn new(uri: HttpUri) -> Result<Self, Invalid> {
        let HttpUri {
            uri,
            cluster,
            timeout,
        } = uri;
        let parsed = uri.parse::<Uri>().ok();
        let host = parsed.as_ref().and_then(Uri::authority);
        let host = host.ok_or_else(|| Invalid::at("uri", "is no absolute URI"))?;
        let path = parsed.as_ref().and_then(Uri::path_and_query);
        Ok(Self {
            cluster,
            timeout,
            host: host.to_string(),
            path: path.map_or("/", |path| path.as_str()).to_owned(),
        })
    }

    /// `form`: what is asked for. `None`: no tokens; why is in the log, without anything of what was
    /// sent.
    pub async fn ask(
        &self,
        calls: &dyn Calls,
        client: Client<'_>,
        form: &[(&str, &str)],
    ) -> Option<Tokens> {
        let cluster = &self.cluster;
        let request = self.request(client, form)?;
        let answer = match fetch(calls, cluster, request, self.timeout, MAX_ANSWER).await {
            Ok(answer) if answer.status() == StatusCode::OK => answer,
            Ok(answer) => {
                let status = answer.status().as_u16();
                tracing::debug!(cluster, status, "no tokens");
                return None;
            }
            Err(error) => {
                tracing::debug!(cluster, %error, "no tokens");
                return None;
            }
        };
        let tokens: Option<Tokens> = serde_json::from_slice(answer.body()).ok();
        let tokens = tokens.filter(|tokens| !tokens.access_token.is_empty());
        if tokens.is_none() {
            tracing::debug!(cluster, "an answer without a token");
        }
        tokens
    }

    fn request(&self, client: Client<'_>, form: &[(&str, &str)]) -> Option<Request<Bytes>> {
        let mut body = Serializer::new(String::new());
        body.extend_pairs(form);
        let mut request = Request::post(self.path.as_str())
            .header(HOST, self.host.as_str())
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(ACCEPT, "application/json");
        match client {
            Client::Basic { id, secret } => {
                let escaped = |text: &[u8]| byte_serialize(text).collect::<String>();
                let pair = format!("{}:{}", escaped(id.as_bytes()), escaped(trimmed(secret)));
                let value = format!("Basic {}", STANDARD.encode(pair));
                let mut value = HeaderValue::try_from(value).ok()?;
                value.set_sensitive(true);
                request = request.header(AUTHORIZATION, value);
            }
            Client::Body { id, secret } => {
                let secret = std::str::from_utf8(trimmed(secret)).ok()?;
                body.append_pair("client_id", id);
                body.append_pair("client_secret", secret);
            }
            Client::Named { id } => {
                body.append_pair("client_id", id);
            }
        }
        let body = Bytes::from(body.finish());
        request.header(CONTENT_LENGTH, body.len()).body(body).ok()
    }
}

/// A file often ends with a line.
fn trimmed(secret: &[u8]) -> &[u8] {
    secret.trim_ascii_end()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(client: Client<'_>) -> (Option<String>, String) {
        let endpoint = TokenEndpoint::new(HttpUri {
            uri: "https://idp.test/token?x=1".to_owned(),
            cluster: "idp".to_owned(),
            timeout: Duration::from_secs(1),
        });
        let request = endpoint.unwrap().request(client, &[("scope", "a b")]);
        let (head, body) = request.unwrap().into_parts();
        assert_eq!(head.uri.to_string(), "/token?x=1");
        assert_eq!(head.headers[HOST], "idp.test");
        let credential = head.headers.get(AUTHORIZATION).map(|value| {
            assert!(value.is_sensitive());
            value.to_str().unwrap().to_owned()
        });
        (credential, String::from_utf8(body.to_vec()).unwrap())
    }

    #[test]
    fn a_client_says_who_it_is_in_the_way_that_is_wanted() {
        // Both halves are encoded before they are joined (RFC 6749 section 2.3.1).
        let (id, secret) = ("a:b", &b"s&t\n"[..]);
        let basic = format!("Basic {}", STANDARD.encode("a%3Ab:s%26t"));
        let (credential, body) = sent(Client::Basic { id, secret });
        assert_eq!((credential, body.as_str()), (Some(basic), "scope=a+b"));
        let (credential, body) = sent(Client::Body { id, secret });
        assert_eq!(credential, None);
        assert_eq!(body, "scope=a+b&client_id=a%3Ab&client_secret=s%26t");
        let (credential, body) = sent(Client::Named { id });
        assert_eq!(
            (credential, body.as_str()),
            (None, "scope=a+b&client_id=a%3Ab")
        );
    }

    #[test]
    fn an_endpoint_is_an_absolute_uri() {
        let refused = TokenEndpoint::new(HttpUri {
            uri: "/token".to_owned(),
            cluster: "idp".to_owned(),
            timeout: Duration::from_secs(1),
        });
        assert_eq!(refused.unwrap_err().to_string(), "uri: is no absolute URI");
    }
}
