//! The bootstrap of gRPC clients and servers, for meshes that have no Envoy bootstrap: JSON with
//! `xds_servers`, `node` and the rest of gRFC A27, A29, A36, A53 and A65.

use std::path::PathBuf;

use causeway_xds::proto::core::Node;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::api_source::{
    ApiProtocol, ApiSource, ChannelTls, Metadata, ServerRef, Target,
};
use causeway_xds::resource::config_source::{ConfigSource, DEFAULT_FETCH_TIMEOUT, Place};
use causeway_xds::resource::tls::DataSource;
use causeway_xds::text::{self, Options};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{BootstrapConfig, BootstrapError, Cause, OVER, Overrides};
use crate::config::xds::{XdsConfig, endpoint, introduce};

/// Names the file.
pub const FILE_VARIABLE: &str = "GRPC_XDS_BOOTSTRAP";

/// Is the text, when no file is named.
pub const TEXT_VARIABLE: &str = "GRPC_XDS_BOOTSTRAP_CONFIG";

/// Features that are known and change nothing here.
const FEATURES_WITHOUT_EFFECT: [&str; 3] = [
    "trusted_xds_server",
    "fail_on_data_errors",
    "resource_timer_is_transient_error",
];

#[derive(Deserialize)]
struct Server {
    server_uri: String,
    channel_creds: Vec<Credentials>,
    #[serde(default)]
    call_creds: Vec<Credentials>,
    #[serde(default)]
    server_features: Vec<String>,
}

#[derive(Deserialize)]
struct Credentials {
    r#type: String,
    config: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TlsCredentials {
    ca_certificate_file: Option<PathBuf>,
    certificate_file: Option<PathBuf>,
    private_key_file: Option<PathBuf>,
    // Files are read again for each connection.
    #[serde(rename = "refresh_interval")]
    _refresh_interval: Option<Value>,
}

#[derive(Deserialize)]
struct Provider {
    plugin_name: String,
}

/// Whether a text is meant as a gRPC bootstrap.
pub fn looks_like_grpc(text: &str) -> bool {
    let text = text.trim_start_matches('\u{feff}').trim_start();
    text.starts_with('{') && text.contains("\"xds_servers\"")
}

impl BootstrapConfig {
    /// Validates a gRPC bootstrap. It names no static resources and no management port; those may
    /// come from `--config-yaml`. `file` is what errors call it.
    ///
    /// # Errors
    /// As [`BootstrapConfig::load`].
    pub fn parse_grpc(
        file: &str,
        text: &str,
        overrides: &Overrides,
    ) -> Result<Self, BootstrapError> {
        let mut config = Self::parse(OVER, "", overrides)?;
        let failed = |invalid| BootstrapError {
            file: file.to_owned(),
            cause: Cause::Invalid {
                location: None,
                invalid,
            },
        };
        let beside = &config.xds;
        if beside.has_server() || beside.cds.is_some() || beside.lds.is_some() {
            let reason = "both this file and --config-yaml say where resources come from";
            return Err(failed(Invalid::at("dynamic_resources", reason)));
        }
        let mut xds = read(text, &overrides.grpc_listeners, &mut config.ignored).map_err(failed)?;
        overrides.xds.apply(&mut xds);
        introduce(&mut xds.node);
        xds.load_reports = config.xds.load_reports.take();
        config.message.node = Some(xds.node.clone());
        config.xds = xds;
        config.ignored.sort_unstable();
        Ok(config)
    }
}

fn read(text: &str, listeners: &[String], ignored: &mut Vec<String>) -> Result<XdsConfig, Invalid> {
    // The parser's messages may quote the text, but only a word of it; places are lines of it.
    let json = |e: serde_json::Error| Invalid::at("", e.to_string());
    let mut root: Map<String, Value> = serde_json::from_str(text).map_err(json)?;
    // Authorities are other servers for names that begin with xdstp:, which are refused too.
    if root.remove("authorities").is_some_and(|a| !is_empty(&a)) {
        return Err(Invalid::at("authorities", "not supported yet"));
    }
    let servers: Vec<Server> = field(&mut root, "xds_servers")?
        .ok_or_else(|| Invalid::at("xds_servers", "must be given"))?;
    let mut ignore_resource_deletion = false;
    let servers: Vec<ServerRef> = servers
        .into_iter()
        .enumerate()
        .map(|(i, server)| {
            let at = format!("xds_servers[{i}]");
            let features = features(&server.server_features, &at, ignored);
            ignore_resource_deletion |= features;
            server_ref(server, &at)
        })
        .collect::<Result<_, _>>()?;
    if servers.is_empty() {
        return Err(Invalid::at("xds_servers", "names no server"));
    }
    let node = match root.remove("node") {
        None => Node::default(),
        Some(node) => {
            let options = Options {
                allow_unknown_fields: true,
            };
            text::parse(&node.to_string(), "envoy.config.core.v3.Node", &options)
                .map_err(|e| Invalid::at("node", e.to_string()))?
        }
    };
    certificate_providers(field(&mut root, "certificate_providers")?, ignored)?;
    const TEMPLATE: &str = "server_listener_resource_name_template";
    let listener_names = names(field(&mut root, TEMPLATE)?, listeners, TEMPLATE)?;
    // Clients of gRPC take what they do not know, so that one file serves several versions.
    ignored.extend(root.into_iter().map(|(key, _)| key));
    let aggregated = ConfigSource {
        place: Place::Ads,
        initial_fetch_timeout: DEFAULT_FETCH_TIMEOUT,
    };
    Ok(XdsConfig {
        node,
        ads: Some(ApiSource {
            protocol: ApiProtocol::StateOfTheWorld,
            servers,
            node_on_first_message_only: true,
        }),
        cds: Some(aggregated.clone()),
        lds: Some(aggregated),
        listener_names,
        ignore_resource_deletion,
        ..XdsConfig::default()
    })
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

fn field<T: serde::de::DeserializeOwned>(
    root: &mut Map<String, Value>,
    name: &str,
) -> Result<Option<T>, Invalid> {
    let value = root.remove(name).filter(|value| !value.is_null());
    value
        .map(serde_json::from_value)
        .transpose()
        .map_err(|e| Invalid::at(name, e.to_string()))
}

/// Whether deletions are to be ignored; notes what has no effect.
fn features(features: &[String], at: &str, ignored: &mut Vec<String>) -> bool {
    let mut keep = false;
    for feature in features {
        match feature.as_str() {
            "ignore_resource_deletion" => keep = true,
            // Every server speaks it by now.
            "xds_v3" => {}
            other => {
                let known = FEATURES_WITHOUT_EFFECT.contains(&other);
                let note = if known { "" } else { " (unknown)" };
                ignored.push(format!("{at}.server_features \"{other}\"{note}"));
            }
        }
    }
    keep
}

fn server_ref(server: Server, at: &str) -> Result<ServerRef, Invalid> {
    let Server {
        server_uri,
        channel_creds,
        call_creds,
        server_features: _,
    } = server;
    endpoint(&server_uri).map_err(|e| Invalid::at(format!("{at}.server_uri"), e))?;
    if let Some(credentials) = call_creds.first() {
        // Without it the server would take us for somebody else.
        let reason = format!("{:?} is not supported yet", credentials.r#type);
        return Err(Invalid::at(format!("{at}.call_creds"), reason));
    }
    // The first kind that is supported counts (gRFC A27).
    let mut refused = Vec::new();
    for (i, credentials) in channel_creds.into_iter().enumerate() {
        let tls = match credentials.r#type.as_str() {
            "insecure" => None,
            "tls" => {
                let at = format!("{at}.channel_creds[{i}].config");
                Some(channel_tls(credentials.config, &at)?)
            }
            other => {
                refused.push(format!("{other:?}"));
                continue;
            }
        };
        return Ok(ServerRef {
            target: Target::Uri {
                uri: server_uri,
                tls,
                token: None,
            },
            metadata: Metadata::default(),
            max_message: None,
        });
    }
    let reason = match refused.is_empty() {
        true => "must name one kind".to_owned(),
        false => format!(
            "{} not supported yet; \"tls\" and \"insecure\" are",
            refused.join(", ")
        ),
    };
    Err(Invalid::at(format!("{at}.channel_creds"), reason))
}

fn channel_tls(config: Option<Value>, at: &str) -> Result<ChannelTls, Invalid> {
    let config = config.filter(|config| !config.is_null());
    let read = config.map_or(Ok(TlsCredentials::default()), serde_json::from_value);
    let files = read.map_err(|e| Invalid::at(at, e.to_string()))?;
    let client_certificate = match (files.certificate_file, files.private_key_file) {
        (Some(chain), Some(key)) => Some((DataSource::File(chain), DataSource::File(key))),
        (None, None) => None,
        _ => {
            let reason = "`certificate_file` and `private_key_file` belong together";
            return Err(Invalid::at(at, reason));
        }
    };
    Ok(ChannelTls {
        roots: files.ca_certificate_file.map(DataSource::File),
        client_certificate,
        server_name: String::new(),
    })
}

/// A provider has an effect only where a resource names it, and such a resource is refused. So one
/// that is merely there does no harm; what kind it is must still be known.
fn certificate_providers(
    providers: Option<Map<String, Value>>,
    ignored: &mut Vec<String>,
) -> Result<(), Invalid> {
    for (name, provider) in providers.unwrap_or_default() {
        let at = format!("certificate_providers.{name}");
        let provider: Provider =
            serde_json::from_value(provider).map_err(|e| Invalid::at(&at, e.to_string()))?;
        if provider.plugin_name != "file_watcher" {
            let reason = format!("{:?} is not supported yet", provider.plugin_name);
            return Err(Invalid::at(format!("{at}.plugin_name"), reason));
        }
        ignored.push(at);
    }
    Ok(())
}

/// The listeners of a template (gRFC A36): `%s` stands for an address.
fn names(
    template: Option<String>,
    listeners: &[String],
    field: &str,
) -> Result<Vec<String>, Invalid> {
    let Some(template) = template else {
        if let Some(listener) = listeners.first() {
            let reason = format!("must be given for --grpc-listener {listener}");
            return Err(Invalid::at(field, reason));
        }
        return Ok(Vec::new());
    };
    if template.starts_with("xdstp:") {
        return Err(Invalid::at(field, "names of xdstp: are not supported yet"));
    }
    if !template.contains("%s") {
        return Ok(vec![template]);
    }
    if listeners.is_empty() {
        let reason = "has a place for an address: give it with --grpc-listener 0.0.0.0:PORT";
        return Err(Invalid::at(field, reason));
    }
    let name = |listener: &String| template.replace("%s", listener);
    Ok(listeners.iter().map(name).collect())
}
