//! Names that a certificate may have to have.

use std::net::IpAddr;

use causeway_xds::resource::matcher::{StringMatcher, StringPattern, full_match};
use causeway_xds::resource::tls::{SubjectName, SubjectNameKind};
use regex::Regex;
use rustls::server::ParsedCertificate;
use rustls_pki_types::{CertificateDer, DnsName, ServerName};
use webpki::EndEntityCert;

use super::TlsError;
use super::names::Names;

#[derive(Debug)]
pub(super) enum Subject {
    /// A name without a pattern: wildcards of the certificate count, as they do for servers.
    Server(ServerName<'static>),
    Dns(Text),
    Uri(Text),
    Email(Text),
    /// By what it is.
    Other(String, Text),
    /// Addresses as they are usually written (RFC 5952).
    Ip(Text),
}

/// A compiled [`StringMatcher`].
#[derive(Debug)]
pub(super) enum Text {
    Pattern(StringMatcher),
    Regex(Regex),
}

impl Subject {
    pub(super) fn compile(model: &SubjectName) -> Result<Self, TlsError> {
        let wrong = |e: &dyn std::fmt::Display| TlsError::Config(format!("subject name: {e}"));
        let text = || match &model.matcher.pattern {
            StringPattern::Regex(pattern) => {
                full_match(pattern).map(Text::Regex).map_err(|e| wrong(&e))
            }
            _ => Ok(Text::Pattern(model.matcher.clone())),
        };
        match (model.kind, &model.matcher.pattern) {
            (SubjectNameKind::Uri, _) => text().map(Self::Uri),
            (SubjectNameKind::Email, _) => text().map(Self::Email),
            (SubjectNameKind::Other, _) => text().map(|text| Self::Other(model.oid.clone(), text)),
            (SubjectNameKind::Ip, StringPattern::Exact(name)) => match name.parse::<IpAddr>() {
                Ok(address) => Ok(Self::Server(ServerName::IpAddress(address.into()))),
                Err(_) => text().map(Self::Ip),
            },
            (SubjectNameKind::Ip, _) => text().map(Self::Ip),
            (SubjectNameKind::Dns, StringPattern::Exact(name)) => {
                match DnsName::try_from(name.to_owned()) {
                    Ok(name) => Ok(Self::Server(ServerName::DnsName(name))),
                    // No name of a server, but a certificate may have it.
                    Err(_) => text().map(Self::Dns),
                }
            }
            (SubjectNameKind::Dns, _) => text().map(Self::Dns),
        }
    }

    /// `parsed` and `cert` are views of `der`.
    pub(super) fn is_in(
        &self,
        parsed: &ParsedCertificate<'_>,
        cert: &EndEntityCert<'_>,
        der: &CertificateDer<'_>,
    ) -> bool {
        match self {
            Self::Server(name) => rustls::client::verify_server_name(parsed, name).is_ok(),
            Self::Dns(text) => cert.valid_dns_names().any(|name| text.matches(name)),
            Self::Uri(text) => cert.valid_uri_names().any(|name| text.matches(name)),
            Self::Ip(text) => Names::of(der).addresses.iter().any(|ip| text.matches(ip)),
            Self::Other(oid, text) => {
                let others = Names::of(der).others;
                others
                    .iter()
                    .any(|(kind, name)| kind == oid && text.matches(name))
            }
            Self::Email(text) => Names::of(der).emails.iter().any(|name| text.matches(name)),
        }
    }
}

impl Text {
    fn matches(&self, name: &str) -> bool {
        let StringMatcher {
            pattern,
            ignore_case,
        } = match self {
            Self::Regex(regex) => return regex.is_match(name),
            Self::Pattern(matcher) => matcher,
        };
        let fold = |text: &str| match ignore_case {
            true => text.to_ascii_lowercase(),
            false => text.to_owned(),
        };
        let name = fold(name);
        match pattern {
            StringPattern::Exact(text) => name == fold(text),
            StringPattern::Prefix(text) => name.starts_with(&fold(text)),
            StringPattern::Suffix(text) => name.ends_with(&fold(text)),
            StringPattern::Contains(text) => name.contains(&fold(text)),
            // Compiled above.
            StringPattern::Regex(_) => false,
        }
    }
}
