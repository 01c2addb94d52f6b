//! What is read of endpoints.

use super::*;
use crate::resource::load_assignment::{Endpoint, EndpointCheck, EndpointHealth};
use crate::resource::metadata::{Label, Labels, Namespaces};

#[test]
fn endpoints_are_read() {
    let mut message = assignment();
    let endpoint = &mut message.endpoints[0].lb_endpoints[0];
    endpoint.health_status = 3;
    endpoint.load_balancing_weight = uint(7);
    let one = |key: &str, text: &str| Struct {
        fields: HashMap::from([(
            key.to_owned(),
            Value {
                kind: Some(value::Kind::StringValue(text.into())),
            },
        )]),
    };
    endpoint.metadata = Some(Metadata {
        filter_metadata: HashMap::from([
            ("causeway".to_owned(), one("id", "kernel-1")),
            ("envoy.lb".to_owned(), one("hash_key", "k")),
        ]),
        ..Default::default()
    });
    message.endpoints[0]
        .lb_endpoints
        .push(endpoint_at(address("::1", 81)));
    message.endpoints[0].priority = 1;

    let Resource::LoadAssignment(assignment) = resource(&message) else {
        panic!()
    };
    let locality = &assignment.localities[0];
    assert_eq!(locality.priority, 1);
    let labels = |key: &str, text: &str| Labels::from([(key.to_owned(), Label::text(text))]);
    let told = Namespaces::from([
        ("causeway".to_owned(), labels("id", "kernel-1")),
        ("envoy.lb".to_owned(), labels("hash_key", "k")),
    ]);
    assert_eq!(
        locality
            .endpoints
            .iter()
            .map(|e| (**e).clone())
            .collect::<Vec<_>>(),
        [
            Endpoint {
                address: Address::Socket("10.0.0.1:80".parse().unwrap()),
                additional_addresses: Vec::new(),
                hostname: String::new(),
                id: "kernel-1".into(),
                hash_key: "k".into(),
                weight: 7,
                health: EndpointHealth::Draining,
                check: EndpointCheck::default(),
                labels: Labels::from([("hash_key".to_owned(), Label::text("k"))]),
                socket_labels: Labels::new(),
                metadata: told,
            },
            Endpoint {
                address: Address::Socket("[::1]:81".parse().unwrap()),
                additional_addresses: Vec::new(),
                hostname: String::new(),
                id: String::new(),
                hash_key: String::new(),
                weight: 1,
                health: EndpointHealth::Unknown,
                check: EndpointCheck::default(),
                labels: Labels::new(),
                socket_labels: Labels::new(),
                metadata: Default::default(),
            },
        ]
    );
}

#[test]
fn an_endpoint_may_have_several_addresses() {
    use crate::proto::endpoint::endpoint::AdditionalAddress;
    let with = |first: Option<core::Address>, others: Vec<Option<core::Address>>| {
        let mut message = assignment();
        let mut one = endpoint_at(first);
        let Some(HostIdentifier::Endpoint(endpoint)) = &mut one.host_identifier else {
            panic!()
        };
        let additional = |address| AdditionalAddress { address };
        endpoint.additional_addresses = others.into_iter().map(additional).collect();
        message.endpoints[0].lb_endpoints = vec![one];
        message
    };
    let message = with(
        address("10.0.0.1", 80),
        vec![address("::1", 81), address("::2", 82)],
    );
    let Resource::LoadAssignment(read) = resource(&message) else {
        panic!()
    };
    let found = &read.localities[0].endpoints[0].additional_addresses;
    let want: Vec<std::net::SocketAddr> = ["[::1]:81", "[::2]:82"]
        .map(|a| a.parse().unwrap())
        .to_vec();
    assert_eq!(found, &want);
    let at = "endpoints[0].lb_endpoints[0].endpoint.additional_addresses";
    assert_eq!(
        refusal(&with(address("10.0.0.1", 80), vec![address("a.test", 80)])),
        format!("{at}[0].address.socket_address.address: \"a.test\" is not an IP address")
    );
    let pipe = core::address::Address::Pipe(core::Pipe {
        path: "/p".into(),
        mode: 0,
    });
    let pipe = Some(core::Address {
        address: Some(pipe),
    });
    assert_eq!(
        refusal(&with(pipe, vec![address("::1", 81)])),
        format!("{at}: not beside a pipe")
    );
}
