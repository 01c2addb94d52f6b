//! Resource names, and the mapping between advertised and bind ports.

use std::net::{IpAddr, SocketAddr};

use uuid::Uuid;

use crate::config::PortProxy;

/// Listener and RouteConfiguration of the wildcard frontend.
pub const WILDCARD: &str = "wildcard";
/// Listener and RouteConfiguration of the path frontend.
pub const PATH: &str = "path";

/// What statistics of the frontends go by: all port slots share one, the others have their own.
pub const FRONTENDS: [&str; 3] = ["slot", WILDCARD, PATH];

/// Cluster without endpoints, where a relayed connection leads that leads nowhere.
pub const NOBODY: &str = "nobody";

/// Cluster and ClusterLoadAssignment of a circuit.
pub fn circuit(id: Uuid) -> String {
    format!("circuit/{id}")
}

/// The circuit that a Cluster or ClusterLoadAssignment belongs to.
pub fn circuit_id(name: &str) -> Option<Uuid> {
    name.strip_prefix("circuit/").and_then(|id| id.parse().ok())
}

/// VirtualHost resource of a subdomain.
pub fn wildcard_host(subdomain: &str) -> String {
    format!("{WILDCARD}/{subdomain}")
}

/// VirtualHost resource of a compute session or model service on the path frontend.
pub fn path_host(segment: Uuid) -> String {
    format!("{PATH}/{segment}")
}

/// Listener and RouteConfiguration of a port slot.
pub fn slot(number: u16) -> String {
    format!("slot/{number}")
}

/// The ports of the port frontend. Circuits carry *advertised* ports, listeners are bound to, and
/// named by, *bind* ports; the two stand for each other by their place in the range (a NAT in
/// front of the worker may map one range to the other).
///
/// A bind port of 0 lets the system choose. Nobody can know that number beforehand, so such a slot
/// goes by its place instead: the first is slot 1, in names and in circuits alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slots {
    host: IpAddr,
    /// Bind ports in order.
    bind: Vec<u16>,
    advertised_from: Option<u16>,
}

impl From<&PortProxy> for Slots {
    fn from(config: &PortProxy) -> Self {
        Self {
            host: config.bind_host,
            bind: config.bind_ports.clone(),
            advertised_from: config.advertised_from,
        }
    }
}

impl Slots {
    /// Every port from the first to the last, advertised as it is.
    pub fn range(host: IpAddr, (first, last): (u16, u16)) -> Self {
        Self {
            host,
            bind: (first..=last).collect(),
            advertised_from: None,
        }
    }

    /// Number (the one in names) and bind address of every slot.
    pub fn iter(&self) -> impl Iterator<Item = (u16, SocketAddr)> + '_ {
        let addressed = self
            .bind
            .iter()
            .map(|port| SocketAddr::new(self.host, *port));
        addressed
            .enumerate()
            .map(|(place, address)| (self.number(place), address))
    }

    /// The slot that a circuit's advertised port means, as [`Slots::iter`] gives it.
    pub fn of_advertised(&self, advertised: u16) -> Option<(u16, SocketAddr)> {
        let place = match self.advertised_from {
            Some(first) => usize::from(advertised.checked_sub(first)?),
            None => self.place_of(advertised)?,
        };
        let port = *self.bind.get(place)?;
        Some((self.number(place), SocketAddr::new(self.host, port)))
    }

    fn place_of(&self, number: u16) -> Option<usize> {
        // A range is consecutive, so the usual case needs no search.
        let guess = usize::from(number.wrapping_sub(self.bind.first().copied().unwrap_or(0)));
        if number != 0 && self.bind.get(guess) == Some(&number) {
            return Some(guess);
        }
        (0..self.bind.len()).find(|place| self.number(*place) == number)
    }

    fn number(&self, place: usize) -> u16 {
        match self.bind.get(place) {
            Some(0) | None => u16::try_from(place + 1).unwrap_or(u16::MAX),
            Some(port) => *port,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(bind: &[u16], advertised_from: Option<u16>) -> Slots {
        Slots {
            host: IpAddr::from([127, 0, 0, 1]),
            bind: bind.to_vec(),
            advertised_from,
        }
    }

    #[test]
    fn advertised_ports_map_by_place() {
        let equal = slots(&[7000, 7001], None);
        assert_eq!(equal.of_advertised(7001).map(|s| s.0), Some(7001));
        assert_eq!(equal.of_advertised(7002), None);
        let mapped = slots(&[7000, 7001], Some(9000));
        assert_eq!(mapped.of_advertised(9001).map(|s| s.0), Some(7001));
        assert_eq!(mapped.of_advertised(7001), None);
        assert_eq!(mapped.of_advertised(8999), None);
        assert_eq!(mapped.of_advertised(9002), None);
    }

    #[test]
    fn ports_the_system_chooses_go_by_their_place() {
        let chosen = slots(&[0, 0], None);
        assert_eq!(
            chosen.of_advertised(2),
            Some((2, "127.0.0.1:0".parse().unwrap()))
        );
        assert_eq!(chosen.of_advertised(3), None);
        assert_eq!(chosen.of_advertised(0), None);
    }

    #[test]
    fn cluster_names_lead_back_to_the_circuit() {
        let id = Uuid::from_u128(5);
        assert_eq!(circuit_id(&circuit(id)), Some(id));
        assert_eq!(circuit_id("circuit/x"), None);
    }
}
