//! Transport sockets that only some endpoints are connected to by.

use crate::proto::envoy::config::cluster::v3::cluster::TransportSocketMatch;
use crate::reject::Invalid;
use crate::resource::context::{At, Context, not_empty, required};
use crate::resource::metadata::{Label, Labels};
use crate::resource::tls::UpstreamTls;

/// `envoy.config.cluster.v3.Cluster.TransportSocketMatch`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketMatch {
    pub name: String,
    /// What an endpoint's labels, or those of its locality, have to hold. Empty: nothing.
    pub labels: Labels,
    /// `None`: in clear text.
    pub tls: Option<UpstreamTls>,
}

impl SocketMatch {
    pub(super) fn decode(
        message: TransportSocketMatch,
        ctx: &Context<'_>,
    ) -> Result<Self, Invalid> {
        let TransportSocketMatch {
            name,
            r#match,
            transport_socket,
        } = message;
        let socket = required(transport_socket, "transport_socket")?;
        Ok(Self {
            name: not_empty(name, "name")?,
            labels: Label::all(r#match),
            tls: UpstreamTls::from_socket(Some(socket), ctx).at("transport_socket")?,
        })
    }

    /// The first of all that an endpoint matches: by its own labels, or else by those of its
    /// locality.
    pub fn find(all: &[Self], endpoint: &Labels, locality: &Labels) -> Option<usize> {
        let first = |labels: &Labels| {
            let mut all = all.iter();
            all.position(|one| Label::has_all(labels, &one.labels))
        };
        first(endpoint).or_else(|| first(locality))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(of: &[(&str, &str)]) -> Labels {
        let labels = of.iter();
        let labels = labels.map(|(key, value)| ((*key).to_owned(), Label::text(value)));
        labels.collect()
    }

    #[test]
    fn the_first_socket_that_an_endpoint_matches_is_taken_before_those_of_its_locality() {
        let one = |name: &str, of: &[(&str, &str)]| SocketMatch {
            name: name.into(),
            labels: labels(of),
            tls: None,
        };
        let mut all = vec![
            one("both", &[("tls", "on"), ("zone", "a")]),
            one("on", &[("tls", "on")]),
            one("off", &[("tls", "off")]),
        ];
        let none = Labels::new();
        let (on, off) = (labels(&[("tls", "on")]), labels(&[("tls", "off")]));
        assert_eq!(SocketMatch::find(&all, &none, &none), None);
        assert_eq!(SocketMatch::find(&all, &off, &on), Some(2));
        assert_eq!(SocketMatch::find(&all, &none, &on), Some(1));
        let more = labels(&[("tls", "on"), ("zone", "a"), ("x", "y")]);
        assert_eq!(SocketMatch::find(&all, &more, &none), Some(0));
        // One that asks for nothing takes whoever matches nothing before it.
        all.push(one("rest", &[]));
        assert_eq!(SocketMatch::find(&all, &none, &on), Some(3));
    }
}
