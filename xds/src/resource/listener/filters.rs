//! The filters of a chain: message to typed.

use super::{ConnectionPolicy, NetworkFilter, TcpProxy};
use crate::proto::causeway::v1 as causeway;
use crate::proto::listener::{Filter, filter};
use crate::reject::Invalid;
use crate::resource::address::networks;
use crate::resource::context::{At, Context, each, not_empty, required, unknown_type, unpack};
use crate::resource::http_manager::HttpManager;
use crate::type_url::message_name;

const FIELD: &str = "filters";
const HTTP_MANAGER: &str =
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const TCP_PROXY: &str = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
const CONNECTION_POLICY: &str = "causeway.v1.ConnectionPolicy";

enum Link {
    Policy(ConnectionPolicy),
    Last(NetworkFilter),
}

/// The filter that ends a chain, with what stands in front of it.
pub(super) fn decode(filters: Vec<Filter>, ctx: &Context<'_>) -> Result<NetworkFilter, Invalid> {
    let links = each(FIELD, filters, |filter| Link::decode(filter, ctx))?;
    let refused = |index: usize, reason| Err(Invalid::at(format!("{FIELD}[{index}]"), reason));
    let (mut policy, mut last) = (None, None);
    for (index, link) in links.into_iter().enumerate() {
        match link {
            _ if last.is_some() => {
                let reason = "nothing may follow http_connection_manager or tcp_proxy";
                return refused(index, reason);
            }
            Link::Policy(_) if policy.is_some() => return refused(index, "is given twice"),
            Link::Policy(found) => policy = Some((index, found)),
            Link::Last(found) => last = Some(found),
        }
    }
    match (last, policy) {
        (None, None) => Err(Invalid::at(FIELD, "must not be empty")),
        (Some(filter), None) => Ok(filter),
        (Some(NetworkFilter::Tcp(proxy)), Some((_, policy))) => {
            Ok(NetworkFilter::Tcp(TcpProxy { policy, ..proxy }))
        }
        // For HTTP there is a filter of requests, which can also answer.
        (_, Some((index, _))) => refused(index, "must stand before tcp_proxy"),
    }
}

impl Link {
    fn decode(message: Filter, ctx: &Context<'_>) -> Result<Self, Invalid> {
        let Filter { name, config_type } = message;
        not_empty(name, "name")?;
        let any = match required(config_type, "typed_config")? {
            filter::ConfigType::TypedConfig(any) => any,
            filter::ConfigType::ConfigDiscovery(_) => {
                return Err(Invalid::at("config_discovery", "not supported yet"));
            }
        };
        match message_name(&any.type_url) {
            HTTP_MANAGER => unpack(&any)
                .and_then(|message| HttpManager::decode(message, ctx))
                .map(|manager| Self::Last(NetworkFilter::Http(Box::new(manager)))),
            TCP_PROXY => unpack(&any)
                .and_then(|message| TcpProxy::decode(message, ctx))
                .map(|proxy| Self::Last(NetworkFilter::Tcp(proxy))),
            CONNECTION_POLICY => unpack(&any)
                .and_then(ConnectionPolicy::decode)
                .map(Self::Policy),
            _ => Err(unknown_type(&any.type_url)),
        }
        .at("typed_config")
    }
}

impl ConnectionPolicy {
    fn decode(message: causeway::ConnectionPolicy) -> Result<Self, Invalid> {
        let causeway::ConnectionPolicy {
            allowed_client_ips,
            circuit,
            sessions,
        } = message;
        Ok(Self {
            allowed: networks(&allowed_client_ips, "allowed_client_ips")?,
            circuit,
            sessions,
        })
    }
}
