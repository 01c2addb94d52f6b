//! Which filter chain takes a connection (`filter_chain_match`).

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;

use crate::proto::listener::FilterChainMatch;
use crate::proto::listener::filter_chain_match::ConnectionSourceType;
use crate::reject::Invalid;
use crate::resource::address::network;
use crate::resource::context::{each, enumeration, fault, number, refuse};

/// What is known about a connection when its chain is chosen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts<'a> {
    /// Where the client meant to connect to; `None` for a Unix socket, as for the peers.
    pub destination: Option<SocketAddr>,
    /// In lower case; empty when the client named none, or nobody looked.
    pub server_name: &'a str,
    /// `tls` when a listener filter found that, or else `raw_buffer`.
    pub transport_protocol: &'a str,
    pub application_protocols: &'a [String],
    /// Who really connected, whatever a PROXY protocol header says.
    pub direct_source: Option<IpAddr>,
    pub source: Option<SocketAddr>,
}

/// The criteria of one chain; an empty one is met by every connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ChainMatch {
    destination_port: Option<u16>,
    destinations: Vec<IpNet>,
    /// `.example.com` stands for `*.example.com`.
    server_names: Vec<String>,
    transport_protocol: String,
    application_protocols: Vec<String>,
    direct_sources: Vec<IpNet>,
    source_type: Option<SourceType>,
    sources: Vec<IpNet>,
    source_ports: Vec<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum SourceType {
    /// From this host: a loopback address, a Unix socket, or the address that was connected to.
    Local,
    External,
}

/// The chains of a listener by their criteria. They are looked at one after the other, in an order
/// that is fixed; each time the most specific value that matches is followed, and there is no way
/// back: when the next criterion then fits no chain, none takes the connection.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChainMatcher(Option<Node>);

#[derive(Clone, Debug, PartialEq)]
enum Node {
    /// The index of a chain.
    Chain(usize),
    Branch(Table, Option<Box<Node>>),
}

/// The chains that have a criterion, by its values.
#[derive(Clone, Debug, PartialEq)]
enum Table {
    DestinationPort(HashMap<u16, Node>),
    Destination(Networks),
    ServerName(HashMap<String, Node>),
    TransportProtocol(HashMap<String, Node>),
    ApplicationProtocol(HashMap<String, Node>),
    DirectSource(Networks),
    SourceType(HashMap<SourceType, Node>),
    Source(Networks),
    SourcePort(HashMap<u16, Node>),
}

/// The longest prefix first.
type Networks = Vec<(IpNet, Node)>;

/// Criteria in the order in which they are looked at.
#[derive(Clone, Copy, Debug)]
enum Criterion {
    DestinationPort,
    Destination,
    ServerName,
    TransportProtocol,
    ApplicationProtocol,
    DirectSource,
    SourceType,
    Source,
    SourcePort,
}

const ORDER: [Criterion; 9] = [
    Criterion::DestinationPort,
    Criterion::Destination,
    Criterion::ServerName,
    Criterion::TransportProtocol,
    Criterion::ApplicationProtocol,
    Criterion::DirectSource,
    Criterion::SourceType,
    Criterion::Source,
    Criterion::SourcePort,
];

/// Stands for an address where there is none, as it does for Envoy.
const NOWHERE: IpAddr = IpAddr::V4(Ipv4Addr::BROADCAST);

impl ChainMatcher {
    /// Puts the chains in order.
    ///
    /// # Errors
    /// Two chains that the same connection would fit equally well: the later one is refused.
    pub(super) fn new(chains: &[ChainMatch]) -> Result<Self, Invalid> {
        if chains.is_empty() {
            return Ok(Self(None));
        }
        let all = chains.iter().enumerate().collect();
        let node = build(&ORDER, all).map_err(|(first, second)| {
            let reason = match chains[first] == chains[second] {
                _ if first == second => "names a value twice".to_owned(),
                true => format!("is the same as that of filter_chains[{first}]"),
                false => format!("overlaps with that of filter_chains[{first}]"),
            };
            Invalid::at(
                format!("filter_chains[{second}].filter_chain_match"),
                reason,
            )
        })?;
        Ok(Self(Some(node)))
    }

    /// The index of the chain that takes a connection.
    pub fn find(&self, facts: &Facts<'_>) -> Option<usize> {
        let mut node = self.0.as_ref()?;
        loop {
            match node {
                Node::Chain(index) => return Some(*index),
                Node::Branch(table, any) => node = table.find(facts).or(any.as_deref())?,
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Value {
    Port(u16),
    Network(IpNet),
    Text(String),
    Source(SourceType),
}

/// A tree of what is left to look at. A criterion that no chain has is left out of it, so that
/// a listener with a single chain asks nothing.
fn build(order: &[Criterion], chains: Vec<(usize, &ChainMatch)>) -> Result<Node, (usize, usize)> {
    let Some((criterion, rest)) = order.split_first() else {
        return match chains[..] {
            [(first, _), (second, _), ..] => Err((first, second)),
            _ => Ok(Node::Chain(chains[0].0)),
        };
    };
    let mut any = Vec::new();
    let mut groups: BTreeMap<Value, Vec<(usize, &ChainMatch)>> = BTreeMap::new();
    for (index, chain) in chains {
        let values = criterion.values(chain);
        if values.is_empty() {
            any.push((index, chain));
        }
        for value in values {
            groups.entry(value).or_default().push((index, chain));
        }
    }
    let any = match any.is_empty() {
        true => None,
        false => Some(build(rest, any)?),
    };
    if groups.is_empty() {
        // There are chains, and all of them are here.
        return any.ok_or((0, 0));
    }
    let mut nodes = Vec::with_capacity(groups.len());
    for (value, group) in groups {
        nodes.push((value, build(rest, group)?));
    }
    Ok(Node::Branch(criterion.table(nodes), any.map(Box::new)))
}

impl Criterion {
    fn values(self, chain: &ChainMatch) -> Vec<Value> {
        let ports = |ports: &[u16]| ports.iter().copied().map(Value::Port).collect();
        let texts = |texts: &[String]| texts.iter().cloned().map(Value::Text).collect();
        let networks = |networks: &[IpNet]| networks.iter().copied().map(Value::Network).collect();
        match self {
            Self::DestinationPort => ports(chain.destination_port.as_slice()),
            Self::Destination => networks(&chain.destinations),
            Self::ServerName => texts(&chain.server_names),
            Self::TransportProtocol if chain.transport_protocol.is_empty() => Vec::new(),
            Self::TransportProtocol => texts(std::slice::from_ref(&chain.transport_protocol)),
            Self::ApplicationProtocol => texts(&chain.application_protocols),
            Self::DirectSource => networks(&chain.direct_sources),
            Self::SourceType => chain.source_type.into_iter().map(Value::Source).collect(),
            Self::Source => networks(&chain.sources),
            Self::SourcePort => ports(&chain.source_ports),
        }
    }

    fn table(self, nodes: Vec<(Value, Node)>) -> Table {
        match self {
            Self::DestinationPort => Table::DestinationPort(keyed(nodes, Value::port)),
            Self::Destination => Table::Destination(by_length(nodes)),
            Self::ServerName => Table::ServerName(keyed(nodes, Value::text)),
            Self::TransportProtocol => Table::TransportProtocol(keyed(nodes, Value::text)),
            Self::ApplicationProtocol => Table::ApplicationProtocol(keyed(nodes, Value::text)),
            Self::DirectSource => Table::DirectSource(by_length(nodes)),
            Self::SourceType => Table::SourceType(keyed(nodes, Value::source)),
            Self::Source => Table::Source(by_length(nodes)),
            Self::SourcePort => Table::SourcePort(keyed(nodes, Value::port)),
        }
    }
}

fn keyed<K: Eq + std::hash::Hash>(
    nodes: Vec<(Value, Node)>,
    key: fn(Value) -> Option<K>,
) -> HashMap<K, Node> {
    let keys = nodes
        .into_iter()
        .filter_map(|(value, node)| Some((key(value)?, node)));
    keys.collect()
}

fn by_length(nodes: Vec<(Value, Node)>) -> Networks {
    let networks = nodes.into_iter().filter_map(|(value, node)| match value {
        Value::Network(network) => Some((network, node)),
        _ => None,
    });
    let mut networks: Networks = networks.collect();
    networks.sort_by_key(|(network, _)| std::cmp::Reverse(network.prefix_len()));
    networks
}

impl Value {
    fn port(self) -> Option<u16> {
        match self {
            Self::Port(port) => Some(port),
            _ => None,
        }
    }

    fn text(self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    fn source(self) -> Option<SourceType> {
        match self {
            Self::Source(source) => Some(source),
            _ => None,
        }
    }
}

impl Table {
    fn find(&self, facts: &Facts<'_>) -> Option<&Node> {
        let ip = |address: Option<SocketAddr>| address.map(|address| address.ip());
        match self {
            Self::DestinationPort(ports) => ports.get(&facts.destination?.port()),
            Self::Destination(networks) => within(networks, ip(facts.destination)),
            Self::ServerName(names) => by_name(names, facts.server_name),
            Self::TransportProtocol(names) => names.get(facts.transport_protocol),
            Self::ApplicationProtocol(names) => {
                let mut offered = facts.application_protocols.iter();
                offered.find_map(|name| names.get(name))
            }
            Self::DirectSource(networks) => within(networks, facts.direct_source),
            Self::SourceType(types) => types.get(&facts.source_type()),
            Self::Source(networks) => within(networks, ip(facts.source)),
            Self::SourcePort(ports) => ports.get(&facts.source?.port()),
        }
    }
}

fn within(networks: &Networks, address: Option<IpAddr>) -> Option<&Node> {
    let address = address.unwrap_or(NOWHERE).to_canonical();
    let mut networks = networks.iter();
    let found = networks.find(|(network, _)| network.contains(&address));
    found.map(|(_, node)| node)
}

/// The name itself, then its parent domains from the nearest on.
fn by_name<'n>(names: &'n HashMap<String, Node>, name: &str) -> Option<&'n Node> {
    if name.is_empty() {
        return None;
    }
    let dots = name.match_indices('.').map(|(at, _)| at);
    // A name that begins or ends with a dot has no parent there.
    let parents = dots.filter(|at| (1..name.len() - 1).contains(at));
    std::iter::once(0)
        .chain(parents)
        .find_map(|at| names.get(&name[at..]))
}

impl Facts<'_> {
    fn source_type(&self) -> SourceType {
        let local = match (self.source, self.destination) {
            (None, _) => true,
            (Some(source), destination) => {
                let source = source.ip().to_canonical();
                let destination = destination.map(|address| address.ip().to_canonical());
                source.is_loopback() || destination == Some(source)
            }
        };
        match local {
            true => SourceType::Local,
            false => SourceType::External,
        }
    }
}

impl ChainMatch {
    pub(super) fn decode(message: Option<FilterChainMatch>) -> Result<Self, Invalid> {
        let FilterChainMatch {
            destination_port,
            prefix_ranges,
            address_suffix,
            suffix_len,
            direct_source_prefix_ranges,
            source_type,
            source_prefix_ranges,
            source_ports,
            server_names,
            transport_protocol,
            application_protocols,
        } = message.unwrap_or_default();
        // Not implemented in Envoy either.
        refuse!(address_suffix, suffix_len);
        let port = number(
            destination_port,
            "destination_port",
            1..=u32::from(u16::MAX),
        )?;
        let networks = |ranges, field| {
            each(field, ranges, |range| {
                network(range).map(|found| found.trunc())
            })
        };
        Ok(Self {
            destination_port: port.and_then(|port| u16::try_from(port).ok()),
            destinations: networks(prefix_ranges, "prefix_ranges")?,
            server_names: each("server_names", server_names, server_name)?,
            transport_protocol,
            application_protocols,
            direct_sources: networks(direct_source_prefix_ranges, "direct_source_prefix_ranges")?,
            source_type: match enumeration(source_type, "source_type")? {
                ConnectionSourceType::Any => None,
                ConnectionSourceType::SameIpOrLoopback => Some(SourceType::Local),
                ConnectionSourceType::External => Some(SourceType::External),
            },
            sources: networks(source_prefix_ranges, "source_prefix_ranges")?,
            source_ports: each("source_ports", source_ports, |port| {
                match u16::try_from(port) {
                    Ok(port @ 1..) => Ok(port),
                    _ => Err(fault(format!("{port} is not within 1 and 65535"))),
                }
            })?,
        })
    }
}

/// Names are compared as they are written: what clients send is put in lower case.
fn server_name(name: String) -> Result<String, Invalid> {
    match name.strip_prefix('*') {
        Some(parent) if parent.starts_with('.') => Ok(parent.to_owned()),
        None if !name.contains('*') => Ok(name),
        _ => Err(fault("must not have a wildcard in the middle")),
    }
}

#[cfg(test)]
mod tests;
