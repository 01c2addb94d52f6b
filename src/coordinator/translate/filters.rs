//! What filters do for circuits: the chain of a frontend, and what each circuit's route tells it.

use std::collections::HashMap;

use causeway_xds::proto::causeway::v1 as own;
use causeway_xds::proto::envoy::extensions::filters::http::router::v3::Router;
use causeway_xds::proto::hcm::{HttpFilter, http_filter};
use causeway_xds::proto::{Any, Message};
use causeway_xds::type_url::pack_as;
use ipnet::IpNet;
use uuid::Uuid;

use super::{Frame, policies};
use crate::coordinator::model::{AppMode, Circuit};
use crate::coordinator::problem::{Appearance, Situation};
use crate::coordinator::{permit, problem};

const ROUTER: &str = "envoy.extensions.filters.http.router.v3.Router";
const ACCESS: &str = "causeway.access";
const USAGE: &str = "causeway.usage";
const FORWARDED: &str = "causeway.forwarded";
const PATH_PREFIX: &str = "causeway.path_prefix";
const BRIDGE: &str = "causeway.websocket_bridge";
const ERROR_PAGES: &str = "causeway.error_pages";
/// Redirects to itself by what it believes to be its own name.
const RSTUDIO: &str = "rstudio";
/// Whom the tokens of model services may be announced by.
const TOKEN_SCHEMES: [&str; 2] = ["BackendAI", "Bearer"];
/// An address that nobody has: a list in which nothing can be read must not open the circuit.
pub const NOBODY: &str = "255.255.255.255/32";

/// By which road a request reaches its circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Road<'a> {
    /// A port or host of its own.
    Slot,
    /// This path prefix, on a host that all circuits share.
    Path { prefix: &'a str, stripped: bool },
}

/// The filters of a frontend, in order: who fails to come in leaves no mark of use.
pub fn chain(frame: &Frame) -> Vec<HttpFilter> {
    let token_key = frame.access.as_ref().map(|a| a.jwt_secret.expose());
    let access = own::Access {
        cookie_name: permit::COOKIE.to_owned(),
        token_key: token_key.unwrap_or_default().to_owned(),
        token_schemes: TOKEN_SCHEMES.map(str::to_owned).into(),
        // The portal reads answers of apps from its own origin. What an app says itself stays, and
        // where there is a policy for it (CORS), that alone decides.
        any_origin: true,
    };
    let router = Router {
        // Apps see the headers of their users, not those of the proxy.
        suppress_envoy_headers: true,
        ..Router::default()
    };
    let forwarded = own::Forwarded {
        proto: if frame.https_in_front { "https" } else { "" }.to_owned(),
        client_only: true,
    };
    let mut filters = vec![filter(ERROR_PAGES, &pages(), "causeway.v1.ErrorPages")];
    let (before, after): (Vec<_>, Vec<_>) = policies::chain(&frame.policies)
        .into_iter()
        .partition(|filter| filter.name == policies::CORS);
    // What a browser asks beforehand has no credentials.
    filters.extend(before);
    filters.push(filter(ACCESS, &access, "causeway.v1.Access"));
    filters.extend(after);
    filters.extend([
        // Before use is noted: a page that is opened by mistake uses nothing.
        filter(
            BRIDGE,
            &own::WebSocketBridge::default(),
            "causeway.v1.WebSocketBridge",
        ),
        filter(USAGE, &own::Usage {}, "causeway.v1.Usage"),
        filter(FORWARDED, &forwarded, "causeway.v1.Forwarded"),
        filter(PATH_PREFIX, &own::PathPrefix {}, "causeway.v1.PathPrefix"),
        filter("envoy.filters.http.router", &router, ROUTER),
    ]);
    filters
}

pub(super) fn filter(name: &str, config: &impl Message, message: &str) -> HttpFilter {
    let config = pack_as(config, message);
    HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(config)),
        ..HttpFilter::default()
    }
}

/// What the route of a circuit tells the filters.
pub fn per_route(frame: &Frame, circuit: &Circuit, road: Road<'_>) -> HashMap<String, Any> {
    let access = own::AccessPerRoute {
        allowed_client_ips: allowed(circuit),
        caller: caller(frame, circuit, road),
    };
    let mut all = HashMap::new();
    let mut say = |filter: &str, config: Any| all.insert(filter.to_owned(), config);
    if frame.usage {
        let usage = own::UsagePerRoute {
            circuit: circuit.id.to_string(),
            sessions: circuit.sessions().iter().map(Uuid::to_string).collect(),
        };
        say(USAGE, pack_as(&usage, "causeway.v1.UsagePerRoute"));
    }
    // Also without anything to ask: the permit is for us, and not for the app.
    say(ACCESS, pack_as(&access, "causeway.v1.AccessPerRoute"));
    if !circuit.protocol.is_http() {
        let bridge = own::WebSocketBridgePerRoute {
            log: frame.tcp_log,
            // No page can send a token. The cookie of a permit comes along by itself, also from
            // pages of other apps, whose hosts are of the same site.
            allowed_origins: match &access.caller {
                Some(own::access_per_route::Caller::Token(_)) => vec!["*".to_owned()],
                _ => frame.tcp_origins.clone(),
            },
        };
        say(
            BRIDGE,
            pack_as(&bridge, "causeway.v1.WebSocketBridgePerRoute"),
        );
    }
    if circuit.app == RSTUDIO {
        let forwarded = own::ForwardedPerRoute { rstudio: true };
        say(
            FORWARDED,
            pack_as(&forwarded, "causeway.v1.ForwardedPerRoute"),
        );
    }
    if let Road::Path {
        prefix,
        stripped: true,
    } = road
    {
        let prefix = own::PathPrefixPerRoute {
            prefix: prefix.to_owned(),
        };
        say(
            PATH_PREFIX,
            pack_as(&prefix, "causeway.v1.PathPrefixPerRoute"),
        );
    }
    all.extend(policies::per_route(&frame.policies, circuit));
    all
}

/// A route that answers everything with a failure of this name.
pub fn failing(failure: &str, message: &str) -> HashMap<String, Any> {
    let config = own::ErrorPagesPerRoute {
        failure: failure.to_owned(),
        message: message.to_owned(),
        ..own::ErrorPagesPerRoute::default()
    };
    let config = pack_as(&config, "causeway.v1.ErrorPagesPerRoute");
    HashMap::from([(ERROR_PAGES.to_owned(), config)])
}

fn pages() -> own::ErrorPages {
    use own::error_page::Appearance as Page;
    let page = |row: &Situation| own::ErrorPage {
        failures: row.failures.iter().map(|f| (*f).to_owned()).collect(),
        status: row.status.into(),
        r#type: row.kind.to_owned(),
        title: row.title.to_owned(),
        error_code: row.error_code.to_owned(),
        message: row.message.to_owned(),
        appearance: match row.appearance {
            Appearance::Plain => Page::Plain,
            Appearance::Starting => Page::Starting,
            Appearance::LoginExpired => Page::LoginExpired,
            Appearance::AddressRefused => Page::AddressRefused,
            Appearance::NotFound => Page::NotFound,
            Appearance::Overloaded => Page::Overloaded,
        }
        .into(),
        retry_after: row.retry_after,
    };
    let rows = problem::TABLE.iter().map(|(_, row)| row);
    own::ErrorPages {
        pages: rows.filter(|r| !r.failures.is_empty()).map(page).collect(),
        type_base: problem::TYPE_BASE.to_owned(),
        ..own::ErrorPages::default()
    }
}

fn caller(
    frame: &Frame,
    circuit: &Circuit,
    road: Road<'_>,
) -> Option<own::access_per_route::Caller> {
    use own::access_per_route::Caller;
    if circuit.open_to_public {
        return None;
    }
    // Without secrets a private circuit is only here because `allow_unauthenticated` says so.
    let access = frame.access.as_ref()?;
    Some(match circuit.app_mode {
        AppMode::Inference => Caller::Token(own::Token {
            id: circuit.id.to_string(),
        }),
        AppMode::Interactive => {
            // `can_prove` has seen that there is one.
            let user = circuit.user_id.unwrap_or_default();
            let value = match road {
                Road::Slot => access.permits.of_user(user),
                Road::Path { .. } => access.permits.of_circuit(user, circuit.id),
            };
            Caller::Permit(own::Permit {
                value: value.expose().to_owned(),
            })
        }
    })
}

/// `allowed_client_ips` as a list of networks; empty: everybody.
pub fn allowed(circuit: &Circuit) -> Vec<String> {
    let text = circuit.allowed_client_ips.as_deref().unwrap_or_default();
    let entries: Vec<&str> = text
        .split(',')
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
        .collect();
    let known: Vec<String> = entries
        .iter()
        .filter(|entry| {
            let known = entry.parse::<IpNet>().is_ok() || entry.parse::<std::net::IpAddr>().is_ok();
            if !known {
                tracing::warn!(circuit = %circuit.id, %entry, "allowed_client_ips: entry skipped");
            }
            known
        })
        .map(|entry| (*entry).to_owned())
        .collect();
    match (entries.is_empty(), known.is_empty()) {
        (false, true) => vec![NOBODY.to_owned()],
        _ => known,
    }
}
