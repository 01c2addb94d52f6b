//! What formats can ask of a connection.

use std::rc::Rc;
use std::time::{Duration, SystemTime};

use causeway_xds::resource::format::{Fact, Point};
use causeway_xds::resource::metadata::MetadataValue;

use super::Connection;
use crate::formatter::{Facts, Value};
use crate::tls::Session;

/// What is known of the client's side.
pub fn of_connection<'c>(connection: &Connection<'c>, fact: Fact) -> Value<'c> {
    let &Connection {
        peer,
        local,
        session,
        server_name,
        ..
    } = connection;
    match fact {
        Fact::DownstreamRemoteAddress | Fact::DownstreamDirectRemoteAddress => Value::address(peer),
        Fact::DownstreamRemoteAddressWithoutPort
        | Fact::DownstreamDirectRemoteAddressWithoutPort => Value::ip(peer),
        Fact::DownstreamRemotePort | Fact::DownstreamDirectRemotePort => Value::port(peer),
        Fact::DownstreamLocalAddress | Fact::DownstreamDirectLocalAddress => Value::address(local),
        Fact::DownstreamLocalAddressWithoutPort | Fact::DownstreamDirectLocalAddressWithoutPort => {
            Value::ip(local)
        }
        Fact::DownstreamLocalPort | Fact::DownstreamDirectLocalPort => Value::port(local),
        Fact::RequestedServerName => Value::text(Some(server_name).filter(|name| !name.is_empty())),
        _ => session.map_or(Value::Missing, |session| of_session(session, fact)),
    }
}

/// What is known of its handshake.
pub fn of_session(session: &Session, fact: Fact) -> Value<'_> {
    let said = |text: &str| match text {
        "" => Value::Missing,
        text => Value::Text(text.to_owned().into()),
    };
    let peer = session.peer.as_ref();
    let list = |names: &[String]| said(&names.join(","));
    match (fact, peer) {
        (Fact::DownstreamTlsVersion, _) => Value::word(session.version),
        (Fact::DownstreamPeerDnsSan, Some(peer)) => list(&peer.names.dns),
        (Fact::DownstreamPeerEmailSan, Some(peer)) => list(&peer.names.emails),
        (Fact::DownstreamPeerUriSan, Some(peer)) => list(&peer.names.uris),
        (Fact::DownstreamPeerFingerprint256, Some(peer)) => said(&peer.hash),
        (Fact::DownstreamPeerIssuer, Some(peer)) => said(&peer.names.issuer),
        (Fact::DownstreamPeerSerial, Some(peer)) => said(&peer.names.serial),
        (Fact::DownstreamPeerSubject, Some(peer)) => said(&peer.names.subject),
        _ => Value::Missing,
    }
}

impl Facts for Connection<'_> {
    fn fact(&self, fact: Fact) -> Value<'_> {
        of_connection(self, fact)
    }

    fn start(&self) -> SystemTime {
        SystemTime::now()
    }

    fn point(&self, _: Point) -> Option<Duration> {
        None
    }

    fn dynamic_metadata(&self, namespace: &str) -> Option<Rc<MetadataValue>> {
        self.state.metadata(namespace)
    }

    fn filter_state(&self, key: &str) -> Option<Rc<str>> {
        self.state.value(key)
    }
}
