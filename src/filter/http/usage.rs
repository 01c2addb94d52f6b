//! `causeway.usage`: notes which circuit is in use, from the beginning of a request to the end of
//! its answer or tunnel.
//!
//! Configuration: `xds/proto/causeway/v1/circuit.proto`. Stands behind the filters that refuse: who
//! is not let in does not keep a session alive.

use std::sync::Arc;

use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::causeway::v1 as proto;
use causeway_xds::reject::{FieldPath, Invalid};
use http::Method;
use uuid::Uuid;

use super::super::registry::{Context, decode};
use super::super::{Factory, Flow, HttpFilter, Stream};
use crate::route::RouteConfig;
use crate::telemetry::activity::Activity;

pub const FACTORY: Factory = Factory {
    message: "causeway.v1.Usage",
    name: "causeway.usage",
    build,
    per_route: &[("causeway.v1.UsagePerRoute", build_per_route)],
};

#[derive(Debug)]
struct Usage;

/// `None` where configuration is only checked.
struct RouteUsage(Option<Arc<Activity>>);

fn build(config: &TypedExtension, _: &Context) -> Result<Arc<dyn HttpFilter>, Invalid> {
    let proto::Usage {} = decode(config)?;
    Ok(Arc::new(Usage))
}

fn build_per_route(config: &TypedExtension, context: &Context) -> Result<RouteConfig, Invalid> {
    let proto::UsagePerRoute { circuit, sessions } = decode(config)?;
    let activity = activity(&circuit, &sessions, context)?;
    Ok(RouteConfig::new(RouteUsage(activity)))
}

/// What is noted for a circuit, by the words of a configuration.
pub fn activity(
    circuit: &str,
    sessions: &[String],
    context: &Context,
) -> Result<Option<Arc<Activity>>, Invalid> {
    let id = |text: &str, at: FieldPath| -> Result<Uuid, Invalid> {
        text.parse()
            .map_err(|_| Invalid::new(at, format!("{text:?} is no UUID")))
    };
    let circuit = id(circuit, FieldPath::root().field("circuit"))?;
    let sessions = sessions
        .iter()
        .enumerate()
        .map(|(i, text)| id(text, FieldPath::root().field("sessions").index(i)))
        .collect::<Result<Vec<_>, _>>()?;
    let activities = context.activities.as_ref();
    Ok(activities.map(|activities| activities.find(circuit, &sessions)))
}

impl HttpFilter for Usage {
    fn request(&self, stream: &mut Stream<'_>) -> Flow {
        // A preflight passes without credentials, and must not keep a session alive for whoever
        // sends it.
        if stream.request.method != Method::OPTIONS
            && let Some(RouteUsage(Some(activity))) = stream.route_config()
        {
            stream.state().use_circuit(activity.begin());
        }
        Flow::Continue
    }
}

#[cfg(test)]
mod tests {
    use causeway_xds::proto::Message as _;

    use super::*;
    use crate::filter::Registry;
    use crate::filter::testing::{Nowhere, TestBody};
    use crate::route::Filters as _;
    use crate::telemetry::activity::Activities;

    const CIRCUIT: &str = "7c8356fe-e727-4548-9f26-2e4031fe30d1";

    fn config(circuit: &str, sessions: &[&str]) -> (String, TypedExtension) {
        let config = proto::UsagePerRoute {
            circuit: circuit.into(),
            sessions: sessions.iter().map(|s| (*s).to_owned()).collect(),
        };
        let extension = TypedExtension {
            name: String::new(),
            type_url: "type.googleapis.com/causeway.v1.UsagePerRoute".into(),
            value: config.encode_to_vec().into(),
        };
        ("causeway.usage".to_owned(), extension)
    }

    #[test]
    fn a_use_lasts_until_what_holds_it_is_dropped() {
        let activities = Arc::<Activities>::default();
        let registry = Registry::new(Context {
            activities: Some(Arc::clone(&activities)),
            ..Context::default()
        });
        let route = registry.per_route(
            &mut [config(CIRCUIT, &[CIRCUIT])]
                .iter()
                .map(crate::route::Word::from),
        );
        let (mut parts, ()) = http::Request::new(()).into_parts();
        let (around, mut body) = (Nowhere::default(), TestBody::default());
        let mut stream = Stream::new(&mut parts, &mut body, [127, 0, 0, 1].into(), &around);
        stream.select(&route, "causeway.usage");
        assert!(matches!(Usage.request(&mut stream), Flow::Continue));
        let [activity] = &activities.list()[..] else {
            panic!("one circuit")
        };
        assert_eq!((activity.requests(), activity.open()), (1, 1));
        assert_eq!(activity.circuit().to_string(), CIRCUIT);
        drop(around);
        assert_eq!((activity.requests(), activity.open()), (1, 0));
    }

    #[test]
    fn what_is_no_uuid_is_refused_and_a_check_notes_nothing() {
        let check = |circuit: &str, sessions: &[&str]| {
            let (_, extension) = config(circuit, sessions);
            build_per_route(&extension, &Context::default())
        };
        let told = |result: Result<RouteConfig, Invalid>| result.err().map(|e| e.to_string());
        assert_eq!(told(check("x", &[])).unwrap(), "circuit: \"x\" is no UUID");
        assert_eq!(
            told(check(CIRCUIT, &[CIRCUIT, ""])).unwrap(),
            "sessions[1]: \"\" is no UUID"
        );
        assert_eq!(told(check(CIRCUIT, &[])), None);
    }
}
