//! `envoy.filters.http.credential_injector`: puts a credential of our own into requests.
//!
//! Configuration: `envoy.extensions.filters.http.credential_injector.v3.CredentialInjector`, with a
//! generic credential (a secret as it is) or an access token by the client credentials grant (RFC 6749
//! section 4.4), which all threads share until it is nearly over. Without a credential nothing passes,
//! unless configuration says so.

mod token;

use std::sync::Arc;

use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::core::TypedExtensionConfig;
use causeway_xds::proto::envoy::extensions::filters::http::credential_injector::v3 as proto;
use causeway_xds::proto::envoy::extensions::http::injected_credentials::generic::v3::Generic;
use causeway_xds::proto::envoy::extensions::http::injected_credentials::oauth2::v3 as oauth2;
use causeway_xds::proto::tls::SdsSecretConfig;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::parts::{self, At, required, unknown_type};
use http::StatusCode;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use oauth2::o_auth2::FlowType;

use self::token::Source;
use super::super::registry::{Context, decode};
use super::super::secrets::NamedSecret;
use super::super::{Factory, Flow, HttpFilter, LocalReply, Stream, Then};
use crate::error::ResponseFlag;
use crate::telemetry::stats::Counter;

pub const FACTORY: Factory = Factory {
    message: "envoy.extensions.filters.http.credential_injector.v3.CredentialInjector",
    name: "envoy.filters.http.credential_injector",
    build,
    per_route: &[],
};

const GENERIC: &str = "envoy.extensions.http.injected_credentials.generic.v3.Generic";
const OAUTH2: &str = "envoy.extensions.http.injected_credentials.oauth2.v3.OAuth2";
#[derive(Debug)]
struct Injector {
    overwrite: bool,
    without: bool,
    credential: Credential,
    stats: Arc<Stats>,
}

#[derive(Debug)]
struct Stats {
    injected: Arc<Counter>,
    failed: Arc<Counter>,
    already: Arc<Counter>,
}

#[derive(Debug)]
enum Credential {
    Generic {
        secret: NamedSecret,
        header: HeaderName,
        prefix: String,
    },
    Token(Arc<Source>),
}

/// The secrets that a configuration names.
pub fn secrets(config: &TypedExtension) -> Vec<SdsSecretConfig> {
    if config.message_name() != FACTORY.message {
        return Vec::new();
    }
    let message = decode::<proto::CredentialInjector>(config).ok();
    let Some(credential) = message
        .and_then(|m| m.credential)
        .and_then(|c| c.typed_config)
    else {
        return Vec::new();
    };
    let credential = TypedExtension::from_any("", credential);
    let secret = match credential.message_name() {
        GENERIC => decode::<Generic>(&credential)
            .ok()
            .and_then(|m| m.credential),
        OAUTH2 => {
            let flow = decode::<oauth2::OAuth2>(&credential)
                .ok()
                .and_then(|m| m.flow_type);
            flow.and_then(|FlowType::ClientCredentials(client)| client.client_secret)
        }
        _ => None,
    };
    secret.into_iter().collect()
}

fn build(config: &TypedExtension, context: &Context) -> Result<Arc<dyn HttpFilter>, Invalid> {
    let proto::CredentialInjector {
        overwrite,
        allow_request_without_credential,
        credential,
    } = decode(config)?;
    let TypedExtensionConfig {
        name: _,
        typed_config,
    } = required(credential, "credential")?;
    let any = required(typed_config, "credential.typed_config")?;
    let config = TypedExtension::from_any("", any);
    let credential = match config.message_name() {
        GENERIC => generic(&config, context),
        OAUTH2 => Source::decode(&config, context).map(|s| Credential::Token(Arc::new(s))),
        _ => Err(unknown_type(&config.type_url)),
    };
    let counter = |name: &str| context.counter(&format!("credential_injector.{name}"));
    Ok(Arc::new(Injector {
        overwrite,
        without: allow_request_without_credential,
        credential: credential.at("credential.typed_config")?,
        stats: Arc::new(Stats {
            injected: counter("injected"),
            failed: counter("failed"),
            already: counter("already_exists"),
        }),
    }))
}

fn named(
    secret: Option<SdsSecretConfig>,
    field: &str,
    context: &Context,
) -> Result<NamedSecret, Invalid> {
    let secret = required(secret, field)?;
    let name = parts::secret_ref(secret).at(field)?.name;
    Ok(context.secrets.named(&name))
}

fn generic(config: &TypedExtension, context: &Context) -> Result<Credential, Invalid> {
    let Generic {
        credential,
        header,
        header_value_prefix,
    } = decode(config)?;
    let header = match header.is_empty() {
        true => AUTHORIZATION,
        false => {
            let name = parts::editable_name(header).at("header")?;
            name.parse()
                .map_err(|_| Invalid::at("header", "is no header name"))?
        }
    };
    parts::header_value(header_value_prefix.clone()).at("header_value_prefix")?;
    Ok(Credential::Generic {
        secret: named(credential, "credential", context)?,
        header,
        prefix: header_value_prefix,
    })
}

impl HttpFilter for Injector {
    fn request(&self, stream: &mut Stream<'_>) -> Flow {
        let header = match &self.credential {
            Credential::Generic { header, .. } => header,
            Credential::Token(_) => &AUTHORIZATION,
        };
        if !self.overwrite && stream.request.headers.contains_key(header) {
            self.stats.already.inc();
            return Flow::Continue;
        }
        match &self.credential {
            Credential::Generic {
                secret,
                header,
                prefix,
            } => {
                let value = secret.get().and_then(|secret| {
                    // A file often ends with a line.
                    let secret = secret.trim_ascii_end();
                    (!secret.is_empty()).then(|| [prefix.as_bytes(), secret].concat())
                });
                let value = value.and_then(|value| HeaderValue::from_bytes(&value).ok());
                inject(&self.stats, self.without, stream, header, value)
            }
            Credential::Token(source) => {
                if let Some(now) = source.now() {
                    let value = now.value.clone();
                    return inject(&self.stats, self.without, stream, &AUTHORIZATION, value);
                }
                let (source, calls) = (Arc::clone(source), stream.calls());
                let (stats, without) = (Arc::clone(&self.stats), self.without);
                Flow::wait(async move {
                    let value = source.fetch(calls).await;
                    Box::new(move |stream: &mut Stream<'_>| {
                        inject(&stats, without, stream, &AUTHORIZATION, value)
                    }) as Then
                })
            }
        }
    }
}

fn inject(
    stats: &Stats,
    without: bool,
    stream: &mut Stream<'_>,
    header: &HeaderName,
    value: Option<HeaderValue>,
) -> Flow {
    match value {
        Some(mut value) => {
            value.set_sensitive(true);
            stream.request.headers.insert(header, value);
            stats.injected.inc();
            Flow::Continue
        }
        None => {
            stats.failed.inc();
            if without {
                return Flow::Continue;
            }
            let reply = LocalReply::new(StatusCode::UNAUTHORIZED, "failed_to_inject_credential");
            let reply = reply.saying("Failed to inject credential.");
            Flow::reply(reply.flagged(ResponseFlag::Unauthorized))
        }
    }
}

#[cfg(test)]
mod tests;
