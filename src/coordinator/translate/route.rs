//! RouteConfigurations and virtual hosts.

use std::time::Duration;

use causeway_xds::proto::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use causeway_xds::proto::google::protobuf::value;
use causeway_xds::proto::route::retry_policy::{RetryHostPredicate, retry_host_predicate};
use causeway_xds::proto::route::route_action::{ClusterNotFoundResponseCode, ClusterSpecifier};
use causeway_xds::proto::route::{
    DirectResponseAction, RetryPolicy, Route, RouteAction, RouteMatch, Vhds, route, route_match,
};
use causeway_xds::proto::{RouteConfiguration, VirtualHost};
use causeway_xds::type_url::pack_as;
use uuid::Uuid;

use super::cluster::own_metadata;
use super::filters::{self, Road};
use super::listener::{duration, same_origin, uint32};
use super::{Frame, names, policies};
use crate::coordinator::model::Circuit;

/// Kernels that a request may find unreachable and still be served.
const ELSEWHERE: u32 = 3;
/// How often a kernel is drawn until it is one that was not tried: with a share of a tenth of the
/// traffic left to the good ones, this finds one nearly always.
const LOOKS: i64 = 32;

/// The first path segment chooses the virtual host: our addition, see docs/XDS-SUPPORT.md. It
/// makes a compute session on the path frontend as cheap as a subdomain.
const FIRST_PATH_SEGMENT: &str = ":first-path-segment";

/// A port nobody has: every request is told so.
pub fn empty_slot(number: u16) -> RouteConfiguration {
    let message = format!("Unregistered slot {number}");
    port_routes(number, nowhere(400, "slot_unregistered", &message))
}

/// A port that a circuit has: everything goes there, whatever the host.
pub fn slot(frame: &Frame, number: u16, circuit: &Circuit) -> RouteConfiguration {
    port_routes(number, to_circuit(frame, circuit, Road::Slot))
}

fn port_routes(number: u16, route: Route) -> RouteConfiguration {
    RouteConfiguration {
        name: names::slot(number),
        virtual_hosts: vec![everyone(route)],
        ..RouteConfiguration::default()
    }
}

/// The wildcard frontend: one virtual host per subdomain arrives by VHDS, and who asks for
/// another is told that it is not registered.
pub fn wildcard() -> RouteConfiguration {
    let route = nowhere(
        400,
        "subdomain_unregistered",
        "E20009: Subdomain %LABEL% not registered",
    );
    RouteConfiguration {
        name: names::WILDCARD.to_owned(),
        virtual_hosts: vec![everyone(route)],
        vhds: Some(vhds()),
        // Browsers send the port along; the domains of the virtual hosts have none.
        ignore_port_in_host_matching: true,
        ..RouteConfiguration::default()
    }
}

pub fn wildcard_host(frame: &Frame, label: &str, domain: &str, circuit: &Circuit) -> VirtualHost {
    VirtualHost {
        name: names::wildcard_host(label),
        domains: vec![format!("{label}{domain}")],
        routes: vec![to_circuit(frame, circuit, Road::Slot)],
        ..VirtualHost::default()
    }
}

/// The path frontend: one virtual host per compute session or model service arrives by VHDS.
pub fn path() -> RouteConfiguration {
    RouteConfiguration {
        name: names::PATH.to_owned(),
        virtual_hosts: vec![everyone(unknown_path())],
        vhds: Some(vhds()),
        vhost_header: FIRST_PATH_SEGMENT.to_owned(),
        ..RouteConfiguration::default()
    }
}

/// `circuits` newest first: of two with the same app name, the newer one is meant. `None` when
/// nothing is under the segment.
pub fn path_host(
    frame: &Frame,
    segment: Uuid,
    circuits: &[&Circuit],
    strip: bool,
) -> Option<VirtualHost> {
    let mut routes: Vec<Route> = Vec::with_capacity(circuits.len() + 1);
    let mut apps = Vec::with_capacity(circuits.len());
    for circuit in circuits {
        if apps.contains(&circuit.app.as_str()) {
            tracing::info!(
                %segment, app = circuit.app, circuit = %circuit.id,
                "a newer circuit of this name has the path; this one is reached by its slot"
            );
        } else {
            apps.push(circuit.app.as_str());
            routes.push(under_prefix(frame, segment, circuit, strip));
        }
    }
    if routes.is_empty() {
        return None;
    }
    routes.push(unknown_path());
    Some(VirtualHost {
        name: names::path_host(segment),
        domains: vec![segment.to_string()],
        routes,
        ..VirtualHost::default()
    })
}

/// `/<segment>/<app>` and everything below. A separated prefix, so that the app `ttyd` does not
/// answer for `ttyd2`, and no order among the routes matters.
fn under_prefix(frame: &Frame, segment: Uuid, circuit: &Circuit, strip: bool) -> Route {
    let prefix = format!("/{segment}/{}", path_segment(&circuit.app));
    let road = Road::Path {
        prefix: &prefix,
        stripped: strip,
    };
    let mut route = to_circuit(frame, circuit, road);
    route.r#match = Some(RouteMatch {
        path_specifier: Some(route_match::PathSpecifier::PathSeparatedPrefix(prefix)),
        ..RouteMatch::default()
    });
    if strip {
        // Tells the data plane to cut the prefix and to say so in x-forwarded-prefix; it also
        // sees to it that what remains begins with exactly one slash.
        route.metadata = Some(own_metadata("strip_prefix", value::Kind::BoolValue(true)));
        if let Some(route::Action::Route(action)) = &mut route.action {
            "/".clone_into(&mut action.prefix_rewrite);
        }
    }
    route
}

/// The app's name as it appears in a path: everything but unreserved characters is
/// percent-encoded (RFC 3986 §2.3), as a browser does.
pub fn path_segment(app: &str) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(app.len());
    for byte in app.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

fn to_circuit(frame: &Frame, circuit: &Circuit, road: Road<'_>) -> Route {
    let name = names::circuit(circuit.id);
    let action = RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(name.clone())),
        cluster_not_found_response_code: ClusterNotFoundResponseCode::ServiceUnavailable.into(),
        // Uploads, downloads and answers of models take the time they take.
        timeout: Some(duration(Duration::ZERO)),
        retry_policy: Some(elsewhere()),
        hash_policy: policies::is_sticky(&frame.policies, circuit)
            .then(|| policies::affinity(circuit))
            .into_iter()
            .collect(),
        // Of a WebSocket to an app that speaks TCP.
        idle_timeout: (!circuit.protocol.is_http() && !frame.tcp_idle.is_zero())
            .then(|| duration(frame.tcp_idle)),
        ..RouteAction::default()
    };
    Route {
        name,
        r#match: Some(everything()),
        action: Some(route::Action::Route(action)),
        typed_per_filter_config: filters::per_route(frame, circuit, road),
        ..Route::default()
    }
}

/// A kernel that cannot be connected to costs a request nothing while another one can.
fn elsewhere() -> RetryPolicy {
    let previous_hosts = RetryHostPredicate {
        name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
        config_type: Some(retry_host_predicate::ConfigType::TypedConfig(pack_as(
            &PreviousHostsPredicate {},
            "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
        ))),
    };
    RetryPolicy {
        retry_on: "connect-failure".to_owned(),
        num_retries: Some(uint32(ELSEWHERE)),
        retry_host_predicate: vec![previous_hosts],
        host_selection_retry_max_attempts: LOOKS,
        ..RetryPolicy::default()
    }
}

fn everyone(route: Route) -> VirtualHost {
    VirtualHost {
        name: "any".to_owned(),
        domains: vec!["*".to_owned()],
        routes: vec![route],
        ..VirtualHost::default()
    }
}

fn everything() -> RouteMatch {
    RouteMatch {
        path_specifier: Some(route_match::PathSpecifier::Prefix("/".to_owned())),
        ..RouteMatch::default()
    }
}

fn vhds() -> Vhds {
    Vhds {
        config_source: Some(same_origin()),
    }
}

/// A route that leads nowhere. The failure and what is said about it are the filters' to tell; the
/// bare status is for a proxy that has no such filter.
fn nowhere(status: u32, failure: &str, message: &str) -> Route {
    let action = DirectResponseAction {
        status,
        ..DirectResponseAction::default()
    };
    Route {
        r#match: Some(everything()),
        action: Some(route::Action::DirectResponse(action)),
        typed_per_filter_config: filters::failing(failure, message),
        ..Route::default()
    }
}

fn unknown_path() -> Route {
    nowhere(404, "path_unregistered", "")
}
