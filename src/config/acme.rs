//! `[causeway.acme]`: certificates that the worker gets by itself.

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, DnsName};
use serde::Deserialize;
use toml::Spanned;

use super::error::{ConfigError, Place};
use super::file::required;
use crate::util::Secret;

const TABLE: &str = "causeway.acme";
const PRODUCTION: &str = "https://acme-v02.api.letsencrypt.org/directory";
const STAGING: &str = "https://acme-staging-v02.api.letsencrypt.org/directory";
/// Before the authority is told to look at a record. Name servers need a moment to agree.
const PROPAGATION: Duration = Duration::from_secs(10);
const MAX_PROPAGATION: f64 = 3600.0;
/// Half of what a large public authority grants an account for new names in three hours, spread.
const ORDERS_PER_HOUR: u32 = 50;

/// An authority, an account with it, and what is to be certified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acme {
    /// Of the authority; https. Default: Let's Encrypt.
    pub directory: String,
    /// Authorities, in PEM, that the directory's own certificate is checked by. `None`: those of
    /// the system.
    pub ca: Option<PathBuf>,
    /// URIs, `mailto:` mostly. May be empty.
    pub contact: Vec<String>,
    /// Where the account and the certificates are kept.
    pub cache: PathBuf,
    /// How names without a star are proven. Those with one only ever by DNS.
    pub challenge: AcmeChallenge,
    /// Lower case. The first is for clients that name no server.
    pub domains: Vec<String>,
    /// Hosts of circuits below this domain, which begins with a dot, are certified when they are
    /// first asked for.
    pub circuits: Option<String>,
    /// How many hosts of circuits may be new within an hour.
    pub orders_per_hour: u32,
    /// Who writes records into DNS.
    pub dns: Option<DnsSolver>,
    /// From writing a record until the authority is told of it.
    pub propagation: Duration,
    /// External account binding (RFC 8555 section 7.3.4).
    pub eab: Option<Eab>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum AcmeChallenge {
    /// RFC 8737: a handshake on port 443.
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
    /// RFC 8555 section 8.4: a TXT record.
    #[serde(rename = "dns-01")]
    Dns01,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DnsSolver {
    /// A program and its first arguments.
    Hook(Vec<String>),
    Rfc2136(Rfc2136),
}

/// Dynamic updates of a zone (RFC 2136), signed (RFC 8945).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rfc2136 {
    /// `host:port`.
    pub server: String,
    /// What is updated. `None`: the domain itself.
    pub zone: Option<String>,
    pub key_name: String,
    /// Base64; it could be decoded.
    pub key: Secret,
    pub algorithm: TsigAlgorithm,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum TsigAlgorithm {
    #[default]
    #[serde(rename = "hmac-sha256")]
    HmacSha256,
    #[serde(rename = "hmac-sha384")]
    HmacSha384,
    #[serde(rename = "hmac-sha512")]
    HmacSha512,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eab {
    pub key_id: String,
    /// Base64 of the URL alphabet; it could be decoded.
    pub hmac_key: Secret,
}

impl Eab {
    pub fn hmac_key(&self) -> Vec<u8> {
        URL_SAFE_NO_PAD
            .decode(self.hmac_key.expose().trim_end_matches('='))
            .unwrap_or_default()
    }
}

impl Rfc2136 {
    pub fn key(&self) -> Vec<u8> {
        STANDARD.decode(self.key.expose()).unwrap_or_default()
    }
}

// No `Debug` on purpose: this and the next hold secrets in the clear.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct AcmeTable {
    accept_terms: Option<Spanned<bool>>,
    directory: Option<Spanned<String>>,
    staging: bool,
    ca: Option<Spanned<PathBuf>>,
    contact: Vec<Spanned<String>>,
    cache: Option<PathBuf>,
    challenge: Option<Spanned<AcmeChallenge>>,
    domains: Option<Vec<Spanned<String>>>,
    circuits: Option<Spanned<bool>>,
    orders_per_hour: Option<Spanned<u32>>,
    hook: Option<Spanned<Vec<String>>>,
    rfc2136: Option<Spanned<Rfc2136Table>>,
    propagation: Option<Spanned<f64>>,
    eab_key_id: Option<Spanned<String>>,
    eab_hmac_key: Option<Spanned<String>>,
}

#[derive(Deserialize)]
struct Rfc2136Table {
    server: Spanned<String>,
    zone: Option<Spanned<String>>,
    key_name: Spanned<String>,
    key: Spanned<String>,
    #[serde(default)]
    algorithm: TsigAlgorithm,
}

/// Says what is wrong with a key of the table.
struct Keys<'p, 't>(&'p Place<'t>);

impl Keys<'_, '_> {
    fn wrong<T>(&self, at: &Spanned<T>, key: &str, reason: &str, hint: &str) -> ConfigError {
        let hint = (!hint.is_empty()).then_some(hint);
        self.0
            .error(Some(at.span()), format!("{TABLE}.{key}: {reason}"), hint)
    }
}

impl AcmeTable {
    /// `wildcard`: the domain of the wildcard frontend, which begins with a dot.
    pub fn validate(self, wildcard: Option<&str>, at: &Place<'_>) -> Result<Acme, ConfigError> {
        let keys = Keys(at);
        match &self.accept_terms {
            Some(accepted) if *accepted.get_ref() => {}
            given => {
                let reason = format!("{TABLE}.accept_terms: must be true");
                let hint = "an account is only opened for who accepts the authority's terms";
                let span = given.as_ref().map(Spanned::span);
                return Err(at.error(span, reason, Some(hint)));
            }
        }
        let directory = directory(self.directory.as_ref(), self.staging, &keys)?;
        if let Some(ca) = &self.ca {
            readable(ca, &keys)?;
        }
        let contact = self.contact.iter().map(|c| contact(c, &keys));
        let contact = contact.collect::<Result<_, _>>()?;
        let cache = required(
            self.cache,
            at,
            &format!("{TABLE}.cache"),
            "a directory for the account and the certificates, for example \
             \"/var/lib/causeway/acme\"",
        )?;
        let dns = solver(self.hook, self.rfc2136, &keys)?;
        let challenge = match (&self.challenge, &dns) {
            (Some(challenge), None) if *challenge.get_ref() == AcmeChallenge::Dns01 => {
                return Err(keys.wrong(
                    challenge,
                    "challenge",
                    "\"dns-01\" needs hook or [causeway.acme.rfc2136]",
                    "",
                ));
            }
            (Some(challenge), _) => *challenge.get_ref(),
            (None, Some(_)) => AcmeChallenge::Dns01,
            (None, None) => AcmeChallenge::TlsAlpn01,
        };
        let domains = match &self.domains {
            Some(names) => names
                .iter()
                .map(|name| domain(name, dns.is_some(), &keys))
                .collect::<Result<_, _>>()?,
            None if dns.is_some() => wildcard.map(|d| format!("*{d}")).into_iter().collect(),
            None => Vec::new(),
        };
        let circuits = match (&self.circuits, wildcard) {
            (Some(wanted), None) if *wanted.get_ref() => {
                let reason = "needs the wildcard frontend";
                let hint = "circuits have hosts of their own only there";
                return Err(keys.wrong(wanted, "circuits", reason, hint));
            }
            (Some(wanted), domain) => domain.filter(|_| *wanted.get_ref()),
            (None, domain) => domain.filter(|_| dns.is_none()),
        };
        if domains.is_empty() && circuits.is_none() {
            let reason = format!("{TABLE}.domains: names nothing to certify");
            let hint = "the host names that users reach this worker by";
            return Err(at.error(None, reason, Some(hint)));
        }
        let orders_per_hour = match &self.orders_per_hour {
            None => ORDERS_PER_HOUR,
            Some(count) if *count.get_ref() > 0 => *count.get_ref(),
            Some(none) => {
                return Err(keys.wrong(none, "orders_per_hour", "must be more than 0", ""));
            }
        };
        Ok(Acme {
            directory,
            ca: self.ca.map(Spanned::into_inner),
            contact,
            cache,
            challenge,
            domains,
            circuits: circuits.map(str::to_owned),
            orders_per_hour,
            dns,
            propagation: propagation(self.propagation.as_ref(), &keys)?,
            eab: eab(self.eab_key_id, self.eab_hmac_key, &keys)?,
        })
    }
}

fn directory(
    url: Option<&Spanned<String>>,
    staging: bool,
    keys: &Keys<'_, '_>,
) -> Result<String, ConfigError> {
    let Some(url) = url else {
        return Ok(if staging { STAGING } else { PRODUCTION }.to_owned());
    };
    if staging {
        let reason = "excludes staging, which is a directory of its own";
        return Err(keys.wrong(url, "directory", reason, ""));
    }
    let parsed = url.get_ref().parse::<http::Uri>().ok();
    let good = parsed.is_some_and(|uri| {
        uri.scheme_str() == Some("https") && uri.host().is_some_and(|host| !host.is_empty())
    });
    if good {
        return Ok(url.get_ref().clone());
    }
    let hint = "for example \"https://ca.example.org/acme/directory\"";
    Err(keys.wrong(url, "directory", "not an https URL", hint))
}

fn readable(ca: &Spanned<PathBuf>, keys: &Keys<'_, '_>) -> Result<(), ConfigError> {
    let found: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(ca.get_ref()).and_then(Iterator::collect);
    let reason = match found {
        Ok(found) if !found.is_empty() => return Ok(()),
        Ok(_) => "no certificate in it".to_owned(),
        Err(error) => error.to_string(),
    };
    let reason = format!("{}: {reason}", ca.get_ref().display());
    Err(keys.wrong(ca, "ca", &reason, ""))
}

fn contact(text: &Spanned<String>, keys: &Keys<'_, '_>) -> Result<String, ConfigError> {
    let uri = text.get_ref();
    let given = match uri.split_once(':') {
        Some((scheme, rest)) => !scheme.is_empty() && !rest.is_empty(),
        None => uri.contains('@'),
    };
    if !given || uri.contains(char::is_whitespace) {
        let hint = "for example \"ops@example.org\"";
        return Err(keys.wrong(text, "contact", "not an address", hint));
    }
    Ok(match uri.contains(':') {
        true => uri.clone(),
        false => format!("mailto:{uri}"),
    })
}

fn domain(name: &Spanned<String>, dns: bool, keys: &Keys<'_, '_>) -> Result<String, ConfigError> {
    let lower = name.get_ref().to_ascii_lowercase();
    let base = lower.strip_prefix("*.");
    if base.is_some() && !dns {
        let reason = "a name with a star is only certified by DNS";
        let hint = "set hook or [causeway.acme.rfc2136]";
        return Err(keys.wrong(name, "domains", reason, hint));
    }
    let plain = base.unwrap_or(&lower);
    // An address is no name, and a name of one label is nobody's to certify but a private
    // authority's.
    let numeric = plain
        .rsplit('.')
        .next()
        .is_some_and(|last| last.parse::<u32>().is_ok());
    if numeric || plain.ends_with('.') || DnsName::try_from(plain).is_err() {
        let hint = "for example \"apps.example.org\" or \"*.apps.example.org\"";
        return Err(keys.wrong(name, "domains", "not a host name", hint));
    }
    Ok(lower)
}

fn solver(
    hook: Option<Spanned<Vec<String>>>,
    table: Option<Spanned<Rfc2136Table>>,
    keys: &Keys<'_, '_>,
) -> Result<Option<DnsSolver>, ConfigError> {
    match (hook, table) {
        (None, None) => Ok(None),
        (Some(hook), Some(_)) => {
            Err(keys.wrong(&hook, "hook", "excludes [causeway.acme.rfc2136]", ""))
        }
        (Some(hook), None) => match hook.get_ref().first() {
            // The working directory is nobody's to rely on.
            Some(program) if program.starts_with('/') => {
                Ok(Some(DnsSolver::Hook(hook.into_inner())))
            }
            _ => {
                let hint = "a list of the program, with its whole path, and its arguments";
                Err(keys.wrong(&hook, "hook", "names no program", hint))
            }
        },
        (None, Some(table)) => table.into_inner().validate(keys).map(Some),
    }
}

impl Rfc2136Table {
    fn validate(self, keys: &Keys<'_, '_>) -> Result<DnsSolver, ConfigError> {
        let address = self.server.get_ref().rsplit_once(':');
        let good = address.is_some_and(|(host, port)| {
            !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0)
        });
        if !good {
            let hint = "for example \"10.0.0.53:53\"";
            return Err(keys.wrong(&self.server, "rfc2136.server", "not host:port", hint));
        }
        for (name, key) in [
            (Some(&self.key_name), "rfc2136.key_name"),
            (self.zone.as_ref(), "rfc2136.zone"),
        ] {
            if let Some(name) = name
                && DnsName::try_from(name.get_ref().trim_end_matches('.')).is_err()
            {
                return Err(keys.wrong(name, key, "not a name of DNS", ""));
            }
        }
        let key = STANDARD.decode(self.key.get_ref());
        if key.is_ok_and(|key| !key.is_empty()) {
            return Ok(DnsSolver::Rfc2136(Rfc2136 {
                server: self.server.into_inner(),
                zone: self.zone.map(Spanned::into_inner),
                key_name: self.key_name.into_inner(),
                key: Secret::new(self.key.into_inner()),
                algorithm: self.algorithm,
            }));
        }
        let hint = "as tsig-keygen prints it";
        Err(keys.wrong(&self.key, "rfc2136.key", "not base64", hint))
    }
}

fn propagation(
    seconds: Option<&Spanned<f64>>,
    keys: &Keys<'_, '_>,
) -> Result<Duration, ConfigError> {
    let Some(seconds) = seconds else {
        return Ok(PROPAGATION);
    };
    // Nothing is fine for a name server that answers for itself.
    match *seconds.get_ref() {
        given if (0.0..=MAX_PROPAGATION).contains(&given) => Ok(Duration::from_secs_f64(given)),
        _ => Err(keys.wrong(seconds, "propagation", "must be 0..=3600", "in seconds")),
    }
}

fn eab(
    key_id: Option<Spanned<String>>,
    hmac_key: Option<Spanned<String>>,
    keys: &Keys<'_, '_>,
) -> Result<Option<Eab>, ConfigError> {
    let (key_id, hmac_key) = match (key_id, hmac_key) {
        (None, None) => return Ok(None),
        (Some(key_id), Some(hmac_key)) => (key_id, hmac_key),
        (Some(only), None) => {
            return Err(keys.wrong(&only, "eab_key_id", "needs eab_hmac_key", ""));
        }
        (None, Some(only)) => {
            return Err(keys.wrong(&only, "eab_hmac_key", "needs eab_key_id", ""));
        }
    };
    let eab = Eab {
        key_id: key_id.into_inner(),
        hmac_key: Secret::new(hmac_key.get_ref().as_str()),
    };
    if eab.hmac_key().is_empty() {
        let hint = "base64 in the alphabet of URLs, as the authority shows it";
        return Err(keys.wrong(&hmac_key, "eab_hmac_key", "cannot be decoded", hint));
    }
    Ok(Some(eab))
}
