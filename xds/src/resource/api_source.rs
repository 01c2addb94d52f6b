//! A management server as a source (`envoy.config.core.v3.ApiConfigSource`), and how it is reached.

use std::fmt;
use std::time::Duration;

use super::context::{At, Context, accept, duration, each, enumeration, fault, is_default};
use super::context::{not_empty, number, refuse, required};
use super::tls::DataSource;
use crate::extension::Unchecked;
use crate::proto::core::grpc_service::google_grpc::call_credentials::CredentialSpecifier as Call;
use crate::proto::core::grpc_service::google_grpc::channel_credentials::CredentialSpecifier as Channel;
use crate::proto::core::grpc_service::google_grpc::{CallCredentials, SslCredentials};
use crate::proto::core::grpc_service::{EnvoyGrpc, GoogleGrpc, TargetSpecifier};
use crate::proto::core::{self, api_config_source::ApiType};
use crate::reject::Invalid;

/// `request_timeout` of a REST source when it is not given.
pub const DEFAULT_REQUEST_TIMEOUT: Duration = Duration::from_secs(1);

/// `envoy.config.core.v3.ApiConfigSource`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ApiSource {
    pub protocol: ApiProtocol,
    /// At least one, in the order in which they are tried.
    pub servers: Vec<ServerRef>,
    /// Whether only the first message of a stream names the node
    /// (`set_node_on_first_message_only`).
    pub node_on_first_message_only: bool,
}

/// The form of the protocol that a management server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ApiProtocol {
    /// Over gRPC, each response with the state of the world (`GRPC`).
    StateOfTheWorld,
    /// Over gRPC, each response with what changed (`DELTA_GRPC`).
    Incremental,
    /// Polled, as JSON (`REST`).
    Rest {
        /// Between two polls (`refresh_delay`); never zero.
        refresh_delay: Duration,
        /// Default 1 s (`request_timeout`).
        request_timeout: Duration,
    },
}

/// One management server, as configuration names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerRef {
    pub target: Target,
    /// Sent with each stream or poll (`initial_metadata`).
    pub metadata: Metadata,
    /// The largest message taken, in bytes (`max_receive_message_length`).
    pub max_message: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// A cluster of the bootstrap (`envoy_grpc`, or an entry of `cluster_names`).
    Cluster {
        name: String,
        /// The `:authority` to send; empty sends the name of the cluster.
        authority: String,
    },
    /// An address with credentials beside it (`google_grpc`).
    Uri {
        /// `host:port`, `dns:///host:port`, `ipv4:…`, `ipv6:…` or `unix:PATH`.
        uri: String,
        /// `None` sends in clear text.
        tls: Option<ChannelTls>,
        /// A bearer token (`call_credentials.access_token`).
        token: Option<Token>,
    },
}

/// `envoy.config.core.v3.GrpcService.GoogleGrpc.SslCredentials`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ChannelTls {
    /// `None`: the roots of the system.
    pub roots: Option<DataSource>,
    /// Chain and key.
    pub client_certificate: Option<(DataSource, DataSource)>,
    /// Whose certificate it must be. Empty: the host that is connected to, as configuration names
    /// it.
    pub server_name: String,
}

/// A secret text. Never shown by `Debug`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Token(pub String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Names and values of metadata. `Debug` shows the names alone: values may be credentials.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Metadata(pub Vec<(String, Vec<u8>)>);

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|(name, _)| name))
            .finish()
    }
}

impl ApiSource {
    /// A source outside of any resource, as `ads_config` of a bootstrap is. Appends the fields that
    /// are set without having an effect, entries of [`IGNORED`](super::IGNORED).
    ///
    /// # Errors
    /// What is wrong with it, or not supported.
    pub fn read(
        message: core::ApiConfigSource,
        ignored: &mut Vec<&'static str>,
    ) -> Result<Self, Invalid> {
        let ctx = Context::new(&Unchecked);
        let source = Self::decode(message, &ctx)?;
        ignored.extend(ctx.into_ignored());
        Ok(source)
    }

    /// # Errors
    /// It is polled, and what it is wanted for takes streams.
    pub fn check_streams(&self) -> Result<(), Invalid> {
        match self.protocol {
            ApiProtocol::Rest { .. } => Err(Invalid::at("api_type", "must be GRPC or DELTA_GRPC")),
            ApiProtocol::StateOfTheWorld | ApiProtocol::Incremental => Ok(()),
        }
    }

    pub(crate) fn decode(
        message: core::ApiConfigSource,
        ctx: &Context<'_>,
    ) -> Result<Self, Invalid> {
        let core::ApiConfigSource {
            api_type,
            transport_api_version,
            cluster_names,
            grpc_services,
            refresh_delay,
            request_timeout,
            rate_limit_settings,
            set_node_on_first_message_only,
            config_validators,
        } = message;
        refuse!(config_validators);
        super::config_source::check_version(transport_api_version, "transport_api_version")?;
        accept!(ctx, "ApiConfigSource": rate_limit_settings);
        #[allow(deprecated, reason = "named so that it can be refused")]
        let protocol = match enumeration(api_type, "api_type")? {
            ApiType::Grpc => ApiProtocol::StateOfTheWorld,
            ApiType::DeltaGrpc => ApiProtocol::Incremental,
            ApiType::Rest => ApiProtocol::Rest {
                refresh_delay: duration(refresh_delay, "refresh_delay")?
                    .filter(|delay| !delay.is_zero())
                    .ok_or_else(|| {
                        Invalid::at("refresh_delay", "must be given, and more than zero")
                    })?,
                request_timeout: duration(request_timeout, "request_timeout")?
                    .unwrap_or(DEFAULT_REQUEST_TIMEOUT),
            },
            ApiType::AggregatedGrpc | ApiType::AggregatedDeltaGrpc => {
                return Err(Invalid::at("api_type", "not supported yet"));
            }
            ApiType::DeprecatedAndUnavailableDoNotUse => {
                return Err(Invalid::at("api_type", "must be given"));
            }
        };
        let servers = if let ApiProtocol::Rest { .. } = protocol {
            if !is_default(&grpc_services) {
                return Err(Invalid::at("grpc_services", "is of no use with REST"));
            }
            each("cluster_names", cluster_names, |name| {
                ServerRef::cluster(name)
            })
        } else {
            if !is_default(&cluster_names) {
                let reason = "is of no use with gRPC; `grpc_services` names the servers";
                return Err(Invalid::at("cluster_names", reason));
            }
            each("grpc_services", grpc_services, |service| {
                ServerRef::decode(service, ctx)
            })
        }?;
        if servers.is_empty() {
            return Err(fault("names no server"));
        }
        Ok(Self {
            protocol,
            servers,
            node_on_first_message_only: set_node_on_first_message_only,
        })
    }
}

impl ServerRef {
    fn cluster(name: String) -> Result<Self, Invalid> {
        if name.is_empty() {
            return Err(fault("must not be empty"));
        }
        Ok(Self {
            target: Target::Cluster {
                name,
                authority: String::new(),
            },
            metadata: Metadata::default(),
            max_message: None,
        })
    }

    fn decode(message: core::GrpcService, ctx: &Context<'_>) -> Result<Self, Invalid> {
        let core::GrpcService {
            timeout,
            initial_metadata,
            retry_policy,
            target_specifier,
        } = message;
        // Streams have no end, and are opened again with a back-off of their own.
        accept!(ctx, "GrpcService": timeout, retry_policy);
        let metadata = each("initial_metadata", initial_metadata, metadatum)?;
        let (target, max_message) = match required(target_specifier, "target_specifier")? {
            TargetSpecifier::EnvoyGrpc(target) => envoy_grpc(target, ctx).at("envoy_grpc")?,
            TargetSpecifier::GoogleGrpc(target) => {
                (google_grpc(target, ctx).at("google_grpc")?, None)
            }
        };
        Ok(Self {
            target,
            metadata: Metadata(metadata),
            max_message,
        })
    }
}

fn metadatum(message: core::HeaderValue) -> Result<(String, Vec<u8>), Invalid> {
    let core::HeaderValue {
        key,
        value,
        raw_value,
    } = message;
    let value = match value.is_empty() {
        true => raw_value,
        false => value.into_bytes(),
    };
    let name = not_empty(key, "key")?.to_ascii_lowercase();
    let binary = name.ends_with("-bin");
    if http_name(&name) && (binary || value.iter().all(|b| (0x20..0x7f).contains(b))) {
        return Ok((name, value));
    }
    Err(fault("is no valid metadata"))
}

/// What gRPC takes as the name of metadata.
fn http_name(name: &str) -> bool {
    let valid = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
    name.bytes().all(valid)
}

fn envoy_grpc(message: EnvoyGrpc, ctx: &Context<'_>) -> Result<(Target, Option<u32>), Invalid> {
    let EnvoyGrpc {
        cluster_name,
        authority,
        retry_policy,
        max_receive_message_length,
        skip_envoy_headers,
    } = message;
    accept!(ctx, "EnvoyGrpc": retry_policy, skip_envoy_headers);
    let target = Target::Cluster {
        name: not_empty(cluster_name, "cluster_name")?,
        authority,
    };
    let bounds = 1..=u32::MAX;
    let max_message = number(
        max_receive_message_length,
        "max_receive_message_length",
        bounds,
    )?;
    Ok((target, max_message))
}

fn google_grpc(message: GoogleGrpc, ctx: &Context<'_>) -> Result<Target, Invalid> {
    let GoogleGrpc {
        target_uri,
        channel_credentials,
        channel_credentials_plugin,
        call_credentials,
        call_credentials_plugin,
        stat_prefix,
        credentials_factory_name,
        config,
        per_stream_buffer_limit_bytes,
        channel_args,
    } = message;
    refuse!(
        channel_credentials_plugin,
        call_credentials_plugin,
        credentials_factory_name,
        config,
    );
    accept!(ctx, "GoogleGrpc": stat_prefix, per_stream_buffer_limit_bytes, channel_args);
    let channel = channel_credentials.and_then(|c| c.credential_specifier);
    let tls = match channel {
        None | Some(Channel::LocalCredentials(_)) => None,
        Some(Channel::SslCredentials(ssl)) => {
            Some(channel_tls(ssl).at("channel_credentials.ssl_credentials")?)
        }
        Some(Channel::GoogleDefault(_)) => {
            return Err(Invalid::at(
                "channel_credentials.google_default",
                "not supported yet",
            ));
        }
    };
    let tokens = each("call_credentials", call_credentials, token)?;
    if tokens.len() > 1 {
        return Err(Invalid::at("call_credentials", "at most one is supported"));
    }
    if tls.is_none() && !tokens.is_empty() {
        let reason = "a token is sent over TLS only; give `channel_credentials`";
        return Err(Invalid::at("call_credentials", reason));
    }
    Ok(Target::Uri {
        uri: not_empty(target_uri, "target_uri")?,
        tls,
        token: tokens.into_iter().next(),
    })
}

fn channel_tls(message: SslCredentials) -> Result<ChannelTls, Invalid> {
    let SslCredentials {
        root_certs,
        private_key,
        cert_chain,
    } = message;
    let source = |source: Option<core::DataSource>, field: &str| {
        source.map(DataSource::decode).transpose().at(field)
    };
    let roots = source(root_certs, "root_certs")?;
    let chain = source(cert_chain, "cert_chain")?;
    let key = source(private_key, "private_key")?;
    let client_certificate = match (chain, key) {
        (Some(chain), Some(key)) => Some((chain, key)),
        (None, None) => None,
        (None, _) => return Err(Invalid::at("cert_chain", "must be given with a key")),
        (_, None) => return Err(Invalid::at("private_key", "must be given with a chain")),
    };
    Ok(ChannelTls {
        roots,
        client_certificate,
        server_name: String::new(),
    })
}

fn token(message: CallCredentials) -> Result<Token, Invalid> {
    match required(message.credential_specifier, "credential_specifier")? {
        Call::AccessToken(token) => Ok(Token(token)),
        _ => Err(fault("only `access_token` is supported")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::core::grpc_service::google_grpc::ChannelCredentials;
    use crate::resource::testing::Known;

    fn decode(message: core::ApiConfigSource) -> Result<ApiSource, String> {
        ApiSource::decode(message, &Context::new(&Known)).map_err(|e| e.to_string())
    }

    fn grpc(target: TargetSpecifier) -> core::ApiConfigSource {
        core::ApiConfigSource {
            api_type: ApiType::Grpc as i32,
            grpc_services: vec![core::GrpcService {
                target_specifier: Some(target),
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    #[test]
    fn a_cluster_of_the_bootstrap() {
        let mut message = grpc(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
            cluster_name: "xds".into(),
            ..Default::default()
        }));
        message.grpc_services[0].initial_metadata = vec![core::HeaderValue {
            key: "Authorization".into(),
            value: "Bearer x".into(),
            ..Default::default()
        }];
        let source = decode(message.clone()).unwrap();
        assert_eq!(source.protocol, ApiProtocol::StateOfTheWorld);
        let [server] = &source.servers[..] else {
            panic!("one server");
        };
        assert_eq!(
            server.metadata.0,
            [("authorization".into(), b"Bearer x".to_vec())]
        );
        assert!(!format!("{source:?}").contains("Bearer"));

        message.grpc_services[0].initial_metadata[0].value = "a\nb".into();
        let error = decode(message).unwrap_err();
        assert_eq!(
            error,
            "grpc_services[0].initial_metadata[0]: is no valid metadata"
        );
    }

    #[test]
    fn a_target_with_credentials() {
        let mut target = GoogleGrpc {
            target_uri: "xds.example:443".into(),
            call_credentials: vec![CallCredentials {
                credential_specifier: Some(Call::AccessToken("t0ken".into())),
            }],
            ..Default::default()
        };
        let error = decode(grpc(TargetSpecifier::GoogleGrpc(target.clone()))).unwrap_err();
        assert!(error.contains("over TLS only"), "{error}");
        target.channel_credentials = Some(ChannelCredentials {
            credential_specifier: Some(Channel::SslCredentials(SslCredentials::default())),
        });
        let source = decode(grpc(TargetSpecifier::GoogleGrpc(target))).unwrap();
        assert!(!format!("{source:?}").contains("t0ken"));
        assert!(matches!(
            &source.servers[0].target,
            Target::Uri {
                tls: Some(_),
                token: Some(_),
                ..
            }
        ));
    }

    #[test]
    fn a_poll_needs_its_interval() {
        let mut message = core::ApiConfigSource {
            api_type: ApiType::Rest as i32,
            cluster_names: vec!["xds".into()],
            ..Default::default()
        };
        let error = decode(message.clone()).unwrap_err();
        assert_eq!(error, "refresh_delay: must be given, and more than zero");
        message.refresh_delay = Some(crate::proto::Duration {
            seconds: 5,
            nanos: 0,
        });
        let source = decode(message).unwrap();
        let expected = ApiProtocol::Rest {
            refresh_delay: Duration::from_secs(5),
            request_timeout: Duration::from_secs(1),
        };
        assert_eq!(source.protocol, expected);
        assert_eq!(
            decode(core::ApiConfigSource {
                api_type: ApiType::DeltaGrpc as i32,
                ..Default::default()
            })
            .unwrap_err(),
            "names no server"
        );
    }
}
