//! `envoy.filters.http.set_filter_state`: texts that are made of a request and left for others.
//!
//! Configuration: `envoy.extensions.filters.http.set_filter_state.v3.Config`. Only plain texts
//! (`factory_key` of `envoy.string`): objects of other kinds change what becomes of a request, and
//! are refused. A route can have values of its own, which come after those of the filter.

use std::sync::Arc;

use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::envoy::extensions::filters::http::set_filter_state::v3 as proto;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::parts::each;

use super::super::registry::{Context, decode};
use super::super::state_value::StateValue;
use super::super::{Factory, Flow, HttpFilter, Stream};
use crate::formatter::Wants;
use crate::route::RouteConfig;

pub const FACTORY: Factory = Factory {
    message: "envoy.extensions.filters.http.set_filter_state.v3.Config",
    name: "envoy.filters.http.set_filter_state",
    build,
    per_route: &[(
        "envoy.extensions.filters.http.set_filter_state.v3.Config",
        build_per_route,
    )],
};

#[derive(Debug)]
struct SetFilterState {
    values: Vec<StateValue>,
    reroute: bool,
    wants: Wants,
}

impl SetFilterState {
    fn decode(config: &TypedExtension) -> Result<Self, Invalid> {
        let proto::Config {
            on_request_headers,
            clear_route_cache,
        } = decode(config)?;
        let values = each("on_request_headers", on_request_headers, StateValue::decode)?;
        let mut wants = Wants::NONE;
        values.iter().for_each(|value| value.note(&mut wants));
        Ok(Self {
            values,
            reroute: clear_route_cache,
            wants,
        })
    }

    fn set(&self, stream: &Stream<'_>) {
        for value in &self.values {
            stream.with_facts(|facts| value.set(facts, stream.state()));
        }
    }
}

fn build(config: &TypedExtension, _: &Context) -> Result<Arc<dyn HttpFilter>, Invalid> {
    Ok(Arc::new(SetFilterState::decode(config)?))
}

fn build_per_route(config: &TypedExtension, _: &Context) -> Result<RouteConfig, Invalid> {
    let set = SetFilterState::decode(config)?;
    let wants = set.wants.clone();
    Ok(RouteConfig::new(set).wanting(wants))
}

impl HttpFilter for SetFilterState {
    fn request(&self, stream: &mut Stream<'_>) -> Flow {
        self.set(stream);
        let mut reroute = self.reroute;
        for level in stream.route_configs::<Self>() {
            level.set(stream);
            reroute |= level.reroute;
        }
        match reroute {
            true => Flow::Reroute,
            false => Flow::Continue,
        }
    }

    fn wants(&self) -> Wants {
        self.wants.clone()
    }
}

#[cfg(test)]
mod tests {
    use causeway_xds::text;
    use serde_json::{Value as Json, json};

    use super::*;

    fn decode(value: Json) -> Result<SetFilterState, String> {
        let config = json!({
            "@type": format!("type.googleapis.com/{}", FACTORY.message),
            "on_request_headers": [value],
        });
        let any = text::any_from_value(&config).expect("a message");
        let extension = TypedExtension::from_any("x", any);
        SetFilterState::decode(&extension).map_err(|e| e.to_string())
    }

    #[test]
    fn only_texts_can_be_set() {
        let format = json!({ "text_format_source": { "inline_string": "%REQ(x-a)%" } });
        let value = |key: &str, factory: &str| json!({ "object_key": key, "factory_key": factory, "format_string": format });
        assert!(decode(value("io.istio.peer_principal", "envoy.string")).is_ok());
        let refused = decode(value("envoy.network.upstream_server_name", "")).unwrap_err();
        assert_eq!(
            refused,
            "on_request_headers[0].factory_key: objects of the kind \
             \"envoy.network.upstream_server_name\" are not supported"
        );
        let none = decode(json!({ "object_key": "k", "factory_key": "envoy.string" }));
        assert_eq!(
            none.unwrap_err(),
            "on_request_headers[0].value: must be given"
        );
    }
}
