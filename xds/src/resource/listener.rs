//! Listener.

mod decode;
mod tcp_proxy;

pub(in crate::resource) use decode::decode_access_log;

use std::time::Duration;

use super::address::Address;
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
}

#[cfg(test)]
mod tests;
