//! The filters of a chain: message to typed.

use std::time::Duration;

use super::{ConnectionPolicy, NetworkFilter, TcpProxy};
use crate::extension::TypedExtension;
use crate::proto::causeway::v1 as causeway;
use crate::proto::envoy::extensions::filters::network::direct_response::v3 as direct_response;
use crate::proto::envoy::extensions::filters::network::echo::v3::Echo;
use crate::proto::listener::{Filter, filter};
use crate::reject::Invalid;
use crate::resource::address::networks;
use crate::resource::context::{At, Context, accept, each, not_empty, required, unpack};
use crate::resource::filter_config::observes;
use crate::resource::http_manager::HttpManager;
use crate::resource::parts::data;
use crate::type_url::message_name;

const FIELD: &str = "filters";
const HTTP_MANAGER: &str =
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const TCP_PROXY: &str = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
const CONNECTION_POLICY: &str = "causeway.v1.ConnectionPolicy";

const ECHO: &str = "envoy.extensions.filters.network.echo.v3.Echo";
const DIRECT: &str = "envoy.extensions.filters.network.direct_response.v3.Config";
/// The largest direct response; Envoy's has no bound.
const MAX_RESPONSE: usize = 1 << 20;

enum Link {
    Policy(ConnectionPolicy),
    Before(TypedExtension),
    Last(NetworkFilter),
}

/// The filter that ends a chain, and those that stand in front of it.
pub(super) fn decode(
    filters: Vec<Filter>,
    ctx: &Context<'_>,
) -> Result<(Vec<TypedExtension>, NetworkFilter), Invalid> {
    let links = each(FIELD, filters, |filter| Link::decode(filter, ctx))?;
    let links = links.into_iter().enumerate();
    let links = links.filter_map(|(index, link)| Some((index, link?)));
    let refused = |index: usize, reason| Err(Invalid::at(format!("{FIELD}[{index}]"), reason));
    let (mut policy, mut before, mut last) = (None, Vec::new(), None);
    for (index, link) in links {
        match link {
            _ if last.is_some() => {
                let reason = "nothing may follow a filter that ends its chain";
                return refused(index, reason);
            }
            Link::Policy(_) if policy.is_some() => return refused(index, "is given twice"),
            Link::Policy(found) => policy = Some((index, found)),
            Link::Before(found) => before.push(found),
            Link::Last(found) => last = Some(found),
        }
    }
    match (last, policy) {
        (None, None) if before.is_empty() => Err(Invalid::at(FIELD, "must not be empty")),
        (None, None) => Err(Invalid::at(FIELD, "has none that ends the chain")),
        (Some(filter), None) => Ok((before, filter)),
        (Some(NetworkFilter::Tcp(proxy)), Some((_, policy))) => {
            let proxy = TcpProxy { policy, ..*proxy };
            Ok((before, NetworkFilter::Tcp(Box::new(proxy))))
        }
        // For HTTP there is a filter of requests, which can also answer.
        (_, Some((index, _))) => refused(index, "must stand before tcp_proxy"),
    }
}

impl Link {
    /// Nothing for one that only observes.
    fn decode(message: Filter, ctx: &Context<'_>) -> Result<Option<Self>, Invalid> {
        let Filter { name, config_type } = message;
        let name = not_empty(name, "name")?;
        let any = match required(config_type, "typed_config")? {
            filter::ConfigType::TypedConfig(any) => any,
            filter::ConfigType::ConfigDiscovery(_) => {
                return Err(Invalid::at("config_discovery", "not supported yet"));
            }
        };
        if observes(&any) {
            let observing_filter = true;
            accept!(ctx, "Filter": observing_filter);
            return Ok(None);
        }
        match message_name(&any.type_url) {
            HTTP_MANAGER => unpack(&any)
                .and_then(|message| HttpManager::decode(message, ctx))
                .map(|manager| Self::Last(NetworkFilter::Http(Box::new(manager)))),
            TCP_PROXY => unpack(&any)
                .and_then(|message| TcpProxy::decode(message, ctx))
                .map(|proxy| Self::Last(NetworkFilter::Tcp(Box::new(proxy)))),
            CONNECTION_POLICY => unpack(&any)
                .and_then(ConnectionPolicy::decode)
                .map(Self::Policy),
            ECHO => unpack(&any).map(|Echo {}| Self::Last(NetworkFilter::Echo)),
            DIRECT => unpack(&any)
                .and_then(direct)
                .map(|data| Self::Last(NetworkFilter::Direct(data))),
            _ => {
                let filter = TypedExtension::from_any(name, any);
                let checked = ctx.extensions.check_network_filter(&filter);
                checked.map(|()| Self::Before(filter))
            }
        }
        .map(Some)
        .at("typed_config")
    }
}

fn direct(message: direct_response::Config) -> Result<Vec<u8>, Invalid> {
    let direct_response::Config { response } = message;
    let data = response.map(|source| data(source, MAX_RESPONSE));
    Ok(data.transpose().at("response")?.unwrap_or_default())
}

impl ConnectionPolicy {
    fn decode(message: causeway::ConnectionPolicy) -> Result<Self, Invalid> {
        let causeway::ConnectionPolicy {
            allowed_client_ips,
            circuit,
            sessions,
            log,
            connect_deadline_ms,
        } = message;
        let deadline = Duration::from_millis(connect_deadline_ms.into());
        Ok(Self {
            allowed: networks(&allowed_client_ips, "allowed_client_ips")?,
            circuit,
            sessions,
            log,
            connect_deadline: (!deadline.is_zero()).then_some(deadline),
        })
    }
}
