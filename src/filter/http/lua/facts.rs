//! What scripts can ask of a stream and its connection, by the names of the methods.

use causeway_xds::resource::format::{Fact, Format, Operator, Part};

use crate::formatter::{Template, Wants};

/// The name of a method, and what it tells.
pub type Method = (&'static str, Fact);

/// Of a stream's information.
pub const PLAIN: [Method; 8] = [
    ("protocol", Fact::Protocol),
    ("routeName", Fact::RouteName),
    ("virtualClusterName", Fact::VirtualClusterName),
    (
        "downstreamDirectLocalAddress",
        Fact::DownstreamDirectLocalAddress,
    ),
    ("downstreamLocalAddress", Fact::DownstreamLocalAddress),
    (
        "downstreamDirectRemoteAddress",
        Fact::DownstreamDirectRemoteAddress,
    ),
    ("downstreamRemoteAddress", Fact::DownstreamRemoteAddress),
    ("requestedServerName", Fact::RequestedServerName),
];
/// Of an encrypted connection.
pub const SSL: [Method; 5] = [
    ("tlsVersion", Fact::DownstreamTlsVersion),
    ("subjectPeerCertificate", Fact::DownstreamPeerSubject),
    ("issuerPeerCertificate", Fact::DownstreamPeerIssuer),
    ("serialNumberPeerCertificate", Fact::DownstreamPeerSerial),
    (
        "sha256PeerCertificateDigest",
        Fact::DownstreamPeerFingerprint256,
    ),
];
/// Those that yield lists.
pub const SSL_LISTS: [Method; 2] = [
    ("uriSanPeerCertificate", Fact::DownstreamPeerUriSan),
    ("dnsSansPeerCertificate", Fact::DownstreamPeerDnsSan),
];

fn all() -> impl Iterator<Item = Method> {
    PLAIN.into_iter().chain(SSL).chain(SSL_LISTS)
}

/// Their names.
pub fn names(methods: &[Method]) -> impl Iterator<Item = &'static str> {
    methods.iter().map(|(name, _)| *name)
}

/// What a method tells; `None` for one that tells no fact.
pub fn find(method: &[u8]) -> Option<Fact> {
    let (_, fact) = all().find(|(name, _)| name.as_bytes() == method)?;
    Some(fact)
}

/// Adds what those methods need to have kept that a script has in it.
pub fn note(script: &[u8], wants: &mut Wants) {
    if memchr::memmem::find(script, b":metadata").is_some() {
        wants.anything = true;
        wants.route = true;
    }
    for (name, fact) in all() {
        if memchr::memmem::find(script, name.as_bytes()).is_some() {
            let operator = Operator::Fact(fact);
            let part = Part::Command {
                operator,
                max: None,
            };
            Template::compile(&Format(vec![part]), "").note(wants);
        }
    }
}
