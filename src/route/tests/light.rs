//! A virtual host that is made ready by its first request does what it would have done anyhow.

use std::time::SystemTime;

use causeway_xds::ResourceType;
use causeway_xds::extension::Unchecked;
use causeway_xds::proto::route::{self as proto, route::Action, route_action, route_match};
use causeway_xds::proto::{Any, Message as _, VirtualHost as Message};
use causeway_xds::resource::{Resource, decode};
use causeway_xds::source::{Batch, Extent, Origin, Update};
use causeway_xds::store::ResourceStore;

use super::*;

/// Of those that a light virtual host can have.
fn plain_route(random: &mut fastrand::Rng, index: usize) -> proto::Route {
    let text = path(random, 1);
    let matcher = proto::RouteMatch {
        path_specifier: Some(match random.u8(0..3) {
            0 => route_match::PathSpecifier::Path(text),
            1 => route_match::PathSpecifier::Prefix(text),
            // Without a slash at its end, as the message has it.
            _ => route_match::PathSpecifier::PathSeparatedPrefix(format!("/x{index}")),
        }),
        case_sensitive: (random.u8(0..4) == 0).then(Default::default),
        ..Default::default()
    };
    let forward = proto::RouteAction {
        cluster_specifier: Some(route_action::ClusterSpecifier::Cluster(format!("c{index}"))),
        prefix_rewrite: random.choice(["", "/new"]).unwrap().to_owned(),
        ..Default::default()
    };
    proto::Route {
        name: index.to_string(),
        r#match: Some(matcher),
        action: Some(Action::Route(forward)),
        ..Default::default()
    }
}

/// As a store keeps it.
fn stored(any: Any) -> HostSource {
    let mut store = ResourceStore::new();
    let update = Update {
        origin: Origin::Static,
        kind: ResourceType::VirtualHost,
        version: "1".into(),
        extent: Extent::Incremental,
        upserts: vec![any],
        listing: None,
        removals: vec![],
    };
    let mut batch = Batch::new(vec![update]);
    let applied = store.apply(&mut batch, &Unchecked, SystemTime::UNIX_EPOCH);
    assert!(applied.rejected.is_empty(), "{:?}", applied.rejected);
    host_of(store.get(ResourceType::VirtualHost, "table/v").unwrap())
}

fn host_of(resource: &Resource) -> HostSource {
    let Resource::VirtualHost { host, .. } = resource else {
        panic!("{resource:?}");
    };
    host.clone()
}

#[test]
fn a_light_virtual_host_answers_as_one_that_is_ready_at_once() {
    let config = model::RouteConfiguration {
        name: "table".into(),
        ..Default::default()
    };
    let common = Common::new(&config, &Deaf::shared());
    let (mut found, mut missed) = (0, 0);
    for seed in 0..200 {
        let random = &mut fastrand::Rng::with_seed(seed);
        let message = Message {
            name: "table/v".into(),
            domains: vec!["v.test".into()],
            routes: (0..random.usize(1..5))
                .map(|index| plain_route(random, index))
                .collect(),
            require_tls: random.i32(0..3),
            ..Default::default()
        };
        let any = Any {
            type_url: ResourceType::VirtualHost.type_url(),
            value: message.encode_to_vec(),
        };
        let kept = stored(any.clone());
        assert!(matches!(kept, HostSource::Packed(_)), "{message:?}");
        let lazy = VirtualHost::compile(kept, &common);
        assert!(lazy.plan.get().is_none(), "nobody has asked yet");
        let ready = VirtualHost::compile(host_of(&decode(&any, &Unchecked).unwrap()), &common);
        ready.plan();
        assert_eq!(lazy.name(), ready.name());
        assert!(lazy.domains().eq(ready.domains()));
        assert_eq!(lazy.require_tls(), ready.require_tls());
        for _ in 0..20 {
            let path = match random.u8(0..4) {
                0 => format!("/x{}/a", random.u8(0..4)),
                _ => path(random, 1),
            };
            let request = Request {
                path,
                marked: false,
            };
            let what = |host: &VirtualHost| host.find(&request).map(|route| format!("{route:?}"));
            assert_eq!(what(&lazy), what(&ready), "{} of {message:?}", request.path);
            match what(&lazy) {
                Some(_) => found += 1,
                None => missed += 1,
            }
        }
    }
    assert!(
        found > 500 && missed > 500,
        "{found} found, {missed} missed"
    );
}
