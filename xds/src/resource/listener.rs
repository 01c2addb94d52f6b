//! Listener.

mod decode;
mod filters;
mod tcp_proxy;

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::access_log::AccessLog;
use super::address::{Address, contain};
use super::http_manager::HttpManager;
use super::tls::DownstreamTls;

/// `envoy.config.listener.v3.Listener`.
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    pub name: String,
    /// Name in statistics; empty means the address.
    pub stat_prefix: String,
    pub address: Address,
    pub filter_chains: Vec<FilterChain>,
    pub default_filter_chain: Option<FilterChain>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct FilterChain {
    pub tls: Option<DownstreamTls>,
    pub filter: NetworkFilter,
}

#[derive(Clone, Debug, PartialEq)]
pub enum NetworkFilter {
    Http(Box<HttpManager>),
    Tcp(TcpProxy),
}

/// `envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy`.
#[derive(Clone, Debug, PartialEq)]
pub struct TcpProxy {
    pub stat_prefix: String,
    pub cluster: String,
    /// Default 1 h; zero is none.
    pub idle_timeout: Duration,
    pub policy: ConnectionPolicy,
    pub access_logs: Vec<AccessLog>,
}

/// `causeway.v1.ConnectionPolicy`, which stands before a TCP proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionPolicy {
    /// Who may connect; empty: everyone.
    pub allowed: Vec<IpNet>,
    /// What the connections are for; empty: not said.
    pub circuit: String,
    pub sessions: Vec<String>,
}

impl ConnectionPolicy {
    /// Whether a peer may connect. One without an address is in no list.
    pub fn admits(&self, peer: Option<IpAddr>) -> bool {
        self.allowed.is_empty() || peer.is_some_and(|peer| contain(&self.allowed, peer))
    }
}

#[cfg(test)]
mod tests;
