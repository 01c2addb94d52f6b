//! `[xds]`: a management server beside the Coordinator, or instead of one.

use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use causeway_xds::proto::core::{Locality, Node};
use causeway_xds::resource::Address;
use causeway_xds::resource::api_source::{
    ApiProtocol, ApiSource, ChannelTls, Metadata, ServerRef, Target, Token,
};
use causeway_xds::resource::config_source::{ConfigSource, DEFAULT_FETCH_TIMEOUT, Place as From};
use causeway_xds::resource::tls::DataSource;
use serde::Deserialize;
use toml::Spanned;

use super::{XdsConfig, deletion_limit, endpoint, introduce};
use crate::config::error::{ConfigError, Place};
use crate::config::file::seconds;

/// `cluster` when it is not given.
const CLUSTER: &str = "causeway";

// No `Debug` on purpose: this holds tokens in the clear.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(in crate::config) struct XdsTable {
    servers: Spanned<Vec<Spanned<ServerEntry>>>,
    node_id: Option<String>,
    cluster: Option<String>,
    zone: Option<String>,
    protocol: Option<Protocol>,
    max_backoff: Option<Spanned<f64>>,
    initial_fetch_timeout: Option<Spanned<f64>>,
    config_cache: Option<PathBuf>,
    #[serde(default)]
    config_cache_secrets: bool,
    max_deletion_percent: Option<Spanned<u8>>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Protocol {
    Delta,
    Sotw,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a URL such as \"http://host:18000\", or a table with url"
)]
enum ServerEntry {
    Url(String),
    Table(ServerTable),
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct ServerTable {
    url: String,
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    server_name: Option<String>,
    token: Option<String>,
    token_file: Option<PathBuf>,
}

impl XdsTable {
    pub(in crate::config) fn validate(self, at: &Place<'_>) -> Result<XdsConfig, ConfigError> {
        let span = self.servers.span();
        let Some(id) = self.node_id.filter(|id| !id.is_empty()) else {
            return Err(at.error(
                Some(span),
                "xds.node-id is required",
                Some("the name by which management servers know this worker"),
            ));
        };
        let mut node = Node {
            id,
            cluster: self.cluster.unwrap_or_else(|| CLUSTER.to_owned()),
            locality: self.zone.map(|zone| Locality {
                zone,
                ..Default::default()
            }),
            ..Default::default()
        };
        introduce(&mut node);
        let servers = self.servers.into_inner().into_iter();
        let servers: Vec<_> = servers
            .map(|entry| server(entry, at))
            .collect::<Result<_, _>>()?;
        if servers.is_empty() {
            let hint = "for example servers = [\"http://127.0.0.1:18000\"]";
            return Err(at.error(Some(span), "xds.servers: names no server", Some(hint)));
        }
        let default = XdsConfig::default();
        let wait = match self.initial_fetch_timeout {
            // Which waits for ever.
            Some(time) if *time.get_ref() == 0.0 => Duration::ZERO,
            time => seconds(time, at, "xds.initial-fetch-timeout", DEFAULT_FETCH_TIMEOUT)?,
        };
        let percent = match &self.max_deletion_percent {
            Some(percent) if *percent.get_ref() > 100 => {
                let reason = "xds.max-deletion-percent: must be between 0 and 100";
                let hint = "0 carries out every deletion";
                return Err(at.error(Some(percent.span()), reason, Some(hint)));
            }
            percent => percent.as_ref().and_then(|p| deletion_limit(*p.get_ref())),
        };
        let aggregated = ConfigSource {
            place: From::Ads,
            initial_fetch_timeout: wait,
        };
        Ok(XdsConfig {
            node,
            ads: Some(ApiSource {
                protocol: match self.protocol.unwrap_or(Protocol::Delta) {
                    Protocol::Delta => ApiProtocol::Incremental,
                    Protocol::Sotw => ApiProtocol::StateOfTheWorld,
                },
                servers,
                node_on_first_message_only: true,
            }),
            cds: Some(aggregated.clone()),
            lds: Some(aggregated),
            max_deletion_percent: percent,
            backoff_max: seconds(self.max_backoff, at, "xds.max-backoff", default.backoff_max)?,
            cache: self.config_cache,
            cache_secrets: self.config_cache_secrets,
            ..default
        })
    }
}

fn server(entry: Spanned<ServerEntry>, at: &Place<'_>) -> Result<ServerRef, ConfigError> {
    let span = entry.span();
    let table = match entry.into_inner() {
        ServerEntry::Table(table) => table,
        ServerEntry::Url(url) => ServerTable {
            url,
            ..Default::default()
        },
    };
    let wrong = |reason: String, hint| at.error(Some(span.clone()), reason, hint);
    let (secure, target) = match table.url.split_once("://") {
        Some(("https", rest)) => (true, rest),
        Some(("http", rest)) => (false, rest),
        // With certificates in it there is no doubt what is meant.
        _ => (table.wants_tls(), table.url.as_str()),
    };
    let target = target.trim_end_matches('/');
    const HINT: &str = "write it as \"https://host:port\", \"http://host:port\" or \"unix:/path\"";
    let known = endpoint(target).map_err(|e| wrong(format!("xds.servers: {e}"), Some(HINT)))?;
    if !matches!(known, Address::Pipe(_)) && !has_port(target) {
        let reason = format!("xds.servers: {target:?} has no port");
        return Err(wrong(reason, Some(HINT)));
    }
    if !secure && (table.wants_tls() || table.token.is_some() || table.token_file.is_some()) {
        let reason = "xds.servers: certificates and tokens are for https only".to_owned();
        return Err(wrong(reason, Some(HINT)));
    }
    let token = token(table.token, table.token_file.as_ref(), at, &span)?;
    let client_certificate = match (table.cert, table.key) {
        (Some(cert), Some(key)) => Some((DataSource::File(cert), DataSource::File(key))),
        (None, None) => None,
        _ => {
            let reason = "xds.servers: cert and key belong together".to_owned();
            return Err(wrong(reason, None));
        }
    };
    Ok(ServerRef {
        target: Target::Uri {
            uri: target.to_owned(),
            tls: secure.then(|| ChannelTls {
                roots: table.ca.map(DataSource::File),
                client_certificate,
                server_name: table.server_name.unwrap_or_default(),
            }),
            token,
        },
        metadata: Metadata::default(),
        max_message: None,
    })
}

impl ServerTable {
    fn wants_tls(&self) -> bool {
        self.ca.is_some() || self.cert.is_some() || self.key.is_some() || self.server_name.is_some()
    }
}

fn has_port(target: &str) -> bool {
    let after = target.rsplit_once(':').map(|(_, port)| port);
    after.is_some_and(|port| port.parse::<u16>().is_ok())
}

fn token(
    text: Option<String>,
    file: Option<&PathBuf>,
    at: &Place<'_>,
    span: &Range<usize>,
) -> Result<Option<Token>, ConfigError> {
    let wrong = |reason: String| at.error(Some(span.clone()), reason, None);
    let text = match (text, file) {
        (Some(_), Some(_)) => {
            let reason = "xds.servers: token and token-file are two ways to say one thing";
            return Err(wrong(reason.to_owned()));
        }
        (text, None) => text,
        (None, Some(path)) => Some(
            std::fs::read_to_string(path)
                .map_err(|e| wrong(format!("xds.servers: token-file {}: {e}", path.display())))?,
        ),
    };
    let Some(text) = text else {
        return Ok(None);
    };
    let text = text.trim();
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(wrong(
            "xds.servers: the token is no bearer token".to_owned(),
        ));
    }
    Ok(Some(Token(text.to_owned())))
}
