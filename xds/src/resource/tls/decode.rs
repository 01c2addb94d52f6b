//! TLS contexts: message to typed.

use rustls_pki_types::DnsName;

use super::common::Common;
use super::source::ticket_keys;
use super::{
    DataSource, DownstreamTls, Secret, SecretRef, SecretValue, TicketKeysRef, TlsCertificate,
    UpstreamTls, Validation,
};
use crate::proto;
use crate::proto::core::{TransportSocket, transport_socket};
use crate::proto::tls::downstream_tls_context::{OcspStaplePolicy, SessionTicketKeysType};
use crate::proto::tls::{self, DownstreamTlsContext, UpstreamTlsContext, secret};
use crate::reject::Invalid;
use crate::resource::context::{
    At, Context, accept, enumeration, flag, not_empty, refuse, required, unknown_type, unpack,
};
use crate::type_url::message_name;

const RAW_BUFFER: &str = "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer";
const DOWNSTREAM: &str = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
const UPSTREAM: &str = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";

/// The TLS of a transport socket; none for plain text.
fn of_socket<M: proto::Message + Default>(
    message: TransportSocket,
    tls_type: &str,
) -> Result<Option<M>, Invalid> {
    let TransportSocket {
        name: _,
        config_type,
    } = message;
    let transport_socket::ConfigType::TypedConfig(any) = required(config_type, "typed_config")?;
    match message_name(&any.type_url) {
        RAW_BUFFER => Ok(None),
        name if name == tls_type => unpack(&any).at("typed_config").map(Some),
        _ => Err(unknown_type(&any.type_url)).at("typed_config"),
    }
}

impl DownstreamTls {
    pub(crate) fn from_socket(
        socket: Option<TransportSocket>,
        ctx: &Context<'_>,
    ) -> Result<Option<Self>, Invalid> {
        let Some(socket) = socket else {
            return Ok(None);
        };
        let tls = of_socket(socket, DOWNSTREAM)?;
        tls.map(|message| Self::decode(message, ctx))
            .transpose()
            .at("typed_config")
    }

    fn decode(message: DownstreamTlsContext, ctx: &Context<'_>) -> Result<Self, Invalid> {
        let DownstreamTlsContext {
            common_tls_context,
            require_client_certificate,
            require_sni,
            disable_stateful_session_resumption,
            session_timeout,
            ocsp_staple_policy,
            full_scan_certs_on_sni_mismatch,
            prefer_client_ciphers,
            session_ticket_keys_type,
        } = message;
        // A staple is handed on as it is, whatever it says: strictness would need it to be read.
        let policy: OcspStaplePolicy = enumeration(ocsp_staple_policy, "ocsp_staple_policy")?;
        if policy != OcspStaplePolicy::LenientStapling {
            let reason = "only LENIENT_STAPLING is supported";
            return Err(Invalid::at("ocsp_staple_policy", reason));
        }
        accept!(ctx, "DownstreamTlsContext":
            session_timeout,
            full_scan_certs_on_sni_mismatch,
            prefer_client_ciphers,
        );
        let mut given_keys = None;
        let stateless_resumption = match session_ticket_keys_type {
            None => true,
            Some(SessionTicketKeysType::DisableStatelessSessionResumption(disabled)) => !disabled,
            Some(SessionTicketKeysType::SessionTicketKeys(keys)) => {
                let keys = ticket_keys(keys, ctx).at("session_ticket_keys")?;
                given_keys = Some(TicketKeysRef::Inline(keys));
                true
            }
            Some(SessionTicketKeysType::SessionTicketKeysSdsSecretConfig(secret)) => {
                const FIELD: &str = "session_ticket_keys_sds_secret_config";
                let secret = SecretRef::decode(secret, ctx).at(FIELD)?;
                given_keys = Some(TicketKeysRef::Secret(secret));
                true
            }
        };

        let common = required(common_tls_context, "common_tls_context")?;
        let common = Common::decode(common, ctx).at("common_tls_context")?;
        if common.certificates.is_empty() && !common.automatic {
            return Err(Invalid::at("common_tls_context", "names no certificate"));
        }
        let (validation, validation_secret) = common.validation;
        Ok(Self {
            certificates: common.certificates,
            automatic: common.automatic,
            alpn: common.alpn,
            parameters: common.parameters,
            validation,
            validation_secret,
            require_client_certificate: flag(require_client_certificate, false),
            require_sni: flag(require_sni, false),
            stateless_resumption,
            ticket_keys: given_keys,
            stateful_resumption: !disable_stateful_session_resumption,
            handshake_timeout: None,
        })
    }
}

impl UpstreamTls {
    pub(crate) fn from_socket(
        socket: Option<TransportSocket>,
        ctx: &Context<'_>,
    ) -> Result<Option<Self>, Invalid> {
        let Some(socket) = socket else {
            return Ok(None);
        };
        let tls = of_socket(socket, UPSTREAM)?;
        tls.map(|message| Self::decode(message, ctx))
            .transpose()
            .at("typed_config")
    }

    fn decode(message: UpstreamTlsContext, ctx: &Context<'_>) -> Result<Self, Invalid> {
        #[allow(deprecated, reason = "named so that nothing is skipped")]
        let UpstreamTlsContext {
            common_tls_context,
            sni,
            auto_host_sni,
            auto_sni_san_validation,
            allow_renegotiation,
            max_session_keys,
            enforce_rsa_key_usage,
        } = message;
        accept!(ctx, "UpstreamTlsContext":
            allow_renegotiation,
            max_session_keys,
            enforce_rsa_key_usage,
        );
        const MAX_SNI: usize = 255;
        if sni.len() > MAX_SNI {
            return Err(Invalid::at(
                "sni",
                format!("is longer than {MAX_SNI} bytes"),
            ));
        }
        if !sni.is_empty() && DnsName::try_from(sni.as_str()).is_err() {
            accept!(ctx, "UpstreamTlsContext": sni);
        }

        let common = common_tls_context.unwrap_or_default();
        let common = Common::decode(common, ctx).at("common_tls_context")?;
        if common.automatic {
            let reason = "certificates of clients are not obtained automatically";
            return Err(Invalid::at("common_tls_context", reason));
        }
        let mut certificates = common.certificates.into_iter();
        let client_certificate = certificates.next();
        if certificates.next().is_some() {
            return Err(Invalid::at(
                "common_tls_context",
                "more than one client certificate",
            ));
        }
        let (validation, validation_secret) = common.validation;
        Ok(Self {
            sni,
            host_sni: auto_host_sni,
            sni_validation: auto_sni_san_validation,
            alpn: common.alpn,
            validation,
            validation_secret,
            client_certificate,
            parameters: common.parameters,
        })
    }
}

impl TlsCertificate {
    /// Only for what is in place: files may be renewed one after the other.
    fn matching(self, ctx: &Context<'_>) -> Result<Self, Invalid> {
        if let (DataSource::Inline(_), DataSource::Inline(_)) = (&self.chain, &self.key) {
            ctx.extensions.check_certificate(&self)?;
        }
        Ok(self)
    }
}

fn decode_generic(message: tls::GenericSecret, ctx: &Context<'_>) -> Result<DataSource, Invalid> {
    let tls::GenericSecret { secret, secrets } = message;
    refuse!(secrets);
    let secret = DataSource::decode(required(secret, "secret")?).at("secret")?;
    secret.check(ctx).at("secret")?;
    Ok(secret)
}

impl Secret {
    pub(crate) fn decode(message: tls::Secret, ctx: &Context<'_>) -> Result<Self, Invalid> {
        let tls::Secret { name, r#type } = message;
        let value = match r#type {
            None => return Err(Invalid::at("type", "must be given")),
            Some(secret::Type::TlsCertificate(certificate)) => {
                let decoded = TlsCertificate::decode(certificate, ctx);
                let checked = decoded.and_then(|c| c.matching(ctx)).at("tls_certificate");
                SecretValue::Certificate(checked?)
            }
            Some(secret::Type::SessionTicketKeys(keys)) => {
                SecretValue::TicketKeys(ticket_keys(keys, ctx).at("session_ticket_keys")?)
            }
            Some(secret::Type::ValidationContext(context)) => {
                let validation = Validation::decode(context, ctx).at("validation_context")?;
                SecretValue::Validation(validation)
            }
            Some(secret::Type::GenericSecret(generic)) => {
                SecretValue::Generic(decode_generic(generic, ctx).at("generic_secret")?)
            }
        };
        Ok(Self {
            name: not_empty(name, "name")?,
            value,
        })
    }
}
