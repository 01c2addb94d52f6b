//! Which endpoint a request goes to: outliers, subsets, sockets by metadata, and clusters whose
//! endpoints are where clients want to go.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::bootstrap::{bootstrap, cluster, forwarding, http, listener, routes, to};
use crate::support::client::{Http1, empty, get, request};
use crate::support::eventually;
use crate::support::origin::Origin;
use crate::support::raw::Raw;

fn endpoint(at: SocketAddr, namespace: &str, labels: &Value) -> Value {
    let address = json!({"address": at.ip(), "port_value": at.port()});
    json!({
        "endpoint": {"address": {"socket_address": address}},
        "metadata": {"filter_metadata": {namespace: labels}},
    })
}

/// With a management port.
fn managed(listeners: &[Value], clusters: &[Value]) -> String {
    let mut text = bootstrap(listeners, clusters);
    let address = json!({"address": "127.0.0.1", "port_value": 0});
    text["admin"] = json!({"address": {"socket_address": address}});
    text.to_string()
}

fn with(name: &str, endpoints: &[Value], more: &Value) -> Value {
    let mut cluster = json!({
        "name": name,
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
    });
    for (key, value) in more.as_object().unwrap() {
        cluster[key] = value.clone();
    }
    cluster
}

/// Answers with a status, and its name.
async fn replica(name: &'static str, status: u16) -> Origin {
    Origin::http(move |mut conn| async move {
        while conn.request().await.is_some() {
            conn.reply(status, &[], name).await;
        }
    })
    .await
}

/// How often each answer comes.
async fn answers(at: SocketAddr, path: &str, count: usize) -> BTreeMap<String, usize> {
    let mut client = Http1::connect(at).await;
    let mut found = BTreeMap::new();
    for _ in 0..count {
        let reply = client.get("a.test", path).await;
        let text = format!("{} {}", reply.status.as_u16(), reply.text());
        *found.entry(text).or_default() += 1;
    }
    found
}

#[tokio::test]
async fn a_cluster_says_by_what_its_endpoints_are_chosen() {
    let (one, two) = (replica("one", 200).await, replica("two", 200).await);
    let endpoints = [&one, &two].map(|o| endpoint(o.address, "x", &json!({})));
    let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let by = |name: &str| json!([{"header": {"header_name": name}}]);
    let hashing = with(
        "a",
        &endpoints,
        &json!({"lb_policy": "MAGLEV", "typed_extension_protocol_options": {options: {
            "@type": format!("type.googleapis.com/{options}"),
            "explicit_http_config": {"http_protocol_options": {}},
            "hash_policy": by("x-user")}}}),
    );
    let to = json!([{"match": {"prefix": "/"},
        "route": {"cluster": "a", "hash_policy": by("x-other")}}]);
    let web = listener("web", &http(&json!({"route_config": routes(&to)})));
    let app = TestApp::bootstrap(&bootstrap(&[web], &[hashing]).to_string()).await;
    let mut client = Http1::connect(app.listener("web")).await;
    let mut seen = std::collections::BTreeSet::new();
    for user in 0..16 {
        let mut of_user = std::collections::BTreeSet::new();
        for other in 0..4 {
            let asking = request("GET", "a.test", "/")
                .header("x-user", user)
                .header("x-other", other);
            let reply = client.send_body(asking.body(empty()).unwrap()).await;
            of_user.insert(reply.text());
        }
        // Whatever the route says.
        assert_eq!(of_user.len(), 1, "{user}");
        seen.extend(of_user);
    }
    assert_eq!(seen.len(), 2);
}

#[tokio::test]
async fn an_endpoint_that_answers_badly_is_left_out() {
    let (good, bad) = (replica("good", 200).await, replica("bad", 503).await);
    let endpoints = [&good, &bad].map(|o| endpoint(o.address, "x", &json!({})));
    let detection = json!({
        "outlier_detection": {
            "consecutive_5xx": 3, "max_ejection_percent": 50,
            "interval": "3600s", "base_ejection_time": "3600s", "max_ejection_time": "3600s",
        },
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
    });
    let text = managed(
        &[forwarding("web", "c")],
        &[with("c", &endpoints, &detection)],
    );
    let app = TestApp::bootstrap(&text).await;
    let web = app.listener("web");
    answers(web, "/", 6).await;
    let active = || {
        let stats = app.running.stats.outlier_detection("c");
        stats.ejections_active.value() == 1
    };
    eventually("the endpoint is ejected", active).await;
    let all_good = BTreeMap::from([("200 good".to_owned(), 10)]);
    assert_eq!(answers(web, "/", 10).await, all_good);
    let told = app.admin("/clusters").await.text();
    let flags = format!("c::{}::health_flags::/failed_outlier_check\n", bad.address);
    assert!(told.contains(&flags), "{told}");
    let by = format!("c::{}::ejected_by::CONSECUTIVE_5XX\n", bad.address);
    let until = format!("c::{}::ejected_until::", bad.address);
    assert!(told.contains(&by) && told.contains(&until), "{told}");
    assert!(
        told.contains("c::outlier::success_rate_average::-1\n"),
        "{told}"
    );
    let told = app.admin("/clusters?format=json").await.json();
    let health = &told["cluster_statuses"][0]["host_statuses"][1]["health_status"];
    assert_eq!(health["failed_outlier_check"], true, "{told}");
}

#[tokio::test]
async fn a_route_gets_endpoints_with_the_labels_that_it_asks_for() {
    let (one, two) = (replica("one", 200).await, replica("two", 200).await);
    let endpoints = [(&one, "1"), (&two, "2")]
        .map(|(origin, version)| endpoint(origin.address, "envoy.lb", &json!({"v": version})));
    let subsets = json!({"lb_subset_config": {
        "fallback_policy": "NO_FALLBACK", "subset_selectors": [{"keys": ["v"]}],
    }});
    let asking = |version: &str| json!({"filter_metadata": {"envoy.lb": {"v": version}}});
    let table = routes(&json!([
        {"match": {"prefix": "/one"}, "route": {"cluster": "c", "metadata_match": asking("1")}},
        {"match": {"prefix": "/none"}, "route": {"cluster": "c", "metadata_match": asking("3")}},
        {"match": {"prefix": "/weighted"}, "route": {
            "metadata_match": asking("1"),
            "weighted_clusters": {"clusters": [
                {"name": "c", "weight": 1, "metadata_match": asking("2")},
            ]},
        }},
        {"match": {"prefix": "/"}, "route": {"cluster": "c"}},
    ]));
    let web = listener("web", &http(&json!({"route_config": table})));
    let text = managed(&[web], &[with("c", &endpoints, &subsets)]);
    let app = TestApp::bootstrap(&text).await;
    let web = app.listener("web");
    let only = |text: &str| BTreeMap::from([(text.to_owned(), 4)]);
    assert_eq!(answers(web, "/one", 4).await, only("200 one"));
    assert_eq!(answers(web, "/weighted", 4).await, only("200 two"));
    for path in ["/none", "/"] {
        let nobody = only("503 no healthy upstream");
        assert_eq!(answers(web, path, 4).await, nobody, "{path}");
    }
    let stats = app.running.stats.cluster("c");
    assert_eq!(stats.lb_subsets_selected.value(), 8);
    assert_eq!(stats.lb_subsets_active.value(), 2);
}

#[tokio::test]
async fn an_endpoint_is_connected_to_by_the_socket_that_its_metadata_says() {
    const TLS: &str =
        "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
    const RAW: &str =
        "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer";
    let (clear, other) = (replica("clear", 200).await, replica("other", 200).await);
    let namespace = "envoy.transport_socket_match";
    let endpoints = [
        endpoint(clear.address, namespace, &json!({"tls": "off", "more": 1})),
        endpoint(other.address, namespace, &json!({"tls": "on"})),
    ];
    let sockets = json!({
        "transport_socket": {"name": "tls", "typed_config": {"@type": TLS}},
        "transport_socket_matches": [{
            "name": "clear", "match": {"tls": "off"},
            "transport_socket": {"name": "raw", "typed_config": {"@type": RAW}},
        }],
    });
    let text = managed(
        &[forwarding("web", "c")],
        &[with("c", &endpoints, &sockets)],
    );
    let app = TestApp::bootstrap(&text).await;
    let found = answers(app.listener("web"), "/", 4).await;
    assert_eq!(found.get("200 clear"), Some(&2), "{found:?}");
    assert!(
        !found.contains_key("200 other"),
        "it speaks no TLS: {found:?}"
    );
}

#[tokio::test]
async fn a_request_may_say_where_it_goes() {
    let origins = [replica("one", 200).await, replica("two", 200).await];
    let original = json!({
        "name": "c", "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED",
        "original_dst_lb_config": {"use_http_header": true},
    });
    let text = managed(&[forwarding("web", "c")], &[original]);
    let app = TestApp::bootstrap(&text).await;
    let mut client = Http1::connect(app.listener("web")).await;
    let mut ask = async |destination: &str| {
        let request =
            request("GET", "a.test", "/").header("x-envoy-original-dst-host", destination);
        let reply = client.send(request.body(Default::default()).unwrap()).await;
        (reply.status.as_u16(), reply.text())
    };
    for (origin, name) in origins.iter().zip(["one", "two"]) {
        let answer = ask(&origin.address.to_string()).await;
        assert_eq!(answer, (200, name.to_owned()));
    }
    assert_eq!(
        ask("nowhere").await,
        (503, "no healthy upstream".to_owned())
    );
    let stats = app.running.stats.cluster("c");
    assert_eq!(stats.original_dst_host_invalid.value(), 1);
    let told = app.admin("/clusters").await.text();
    let hostname = format!("c::{0}::hostname::c{0}\n", origins[0].address);
    assert!(told.contains(&hostname), "{told}");
}

#[tokio::test]
async fn a_request_may_name_the_endpoints_that_it_wants() {
    const POLICIES: &str = "type.googleapis.com/envoy.extensions.load_balancing_policies";
    let origins = [
        replica("one", 200).await,
        replica("two", 503).await,
        replica("three", 200).await,
    ];
    let policy = |config: &Value| json!({"policies": [{"typed_extension_config": {"name": "p", "typed_config": config}}]});
    let fallback = policy(&json!({"@type": format!("{POLICIES}.round_robin.v3.RoundRobin")}));
    let named = json!({
        "load_balancing_policy": policy(&json!({
            "@type": format!("{POLICIES}.override_host.v3.OverrideHost"),
            "override_host_sources": [
                {"metadata": {"key": "envoy.lb", "path": [{"key": "picked"}]}},
                {"header": "x-host"},
            ],
            "selected_host_key": {"key": "test", "path": [{"key": "asked"}]},
            "fallback_policy": fallback,
        })),
    });
    let endpoints = origins
        .each_ref()
        .map(|o| endpoint(o.address, "n", &json!({})));
    let told = json!({"header": {"key": "x-told", "value": "%DYNAMIC_METADATA(test:asked)%"}});
    let routes = routes(&json!([{
        "match": {"prefix": "/"},
        "route": {"cluster": "c", "retry_policy": {"retry_on": "5xx", "num_retries": 2}},
        "response_headers_to_add": [told],
    }]));
    let web = listener("web", &http(&json!({"route_config": routes})));
    let app = TestApp::bootstrap(&managed(&[web], &[with("c", &endpoints, &named)])).await;
    let mut client = Http1::connect(app.listener("web")).await;
    let [one, two, three] = origins.each_ref().map(|o| o.address.to_string());
    for (wanted, name, asked) in [
        (three.clone(), "three", &three),
        (one.clone(), "one", &one),
        // The first answers badly, and the next is asked.
        (format!("{two}, {three}"), "three", &three),
        // Nobody has the first address.
        (format!("192.0.2.1:1,nonsense,{one}"), "one", &one),
    ] {
        for _ in 0..3 {
            let request = request("GET", "a.test", "/").header("x-host", &wanted);
            let reply = client.send(request.body(Default::default()).unwrap()).await;
            assert_eq!(
                (reply.status.as_u16(), &*reply.text()),
                (200, name),
                "{wanted}"
            );
            assert_eq!(reply.header("x-told"), asked);
        }
    }
    // Who names nobody is balanced.
    let mut met = std::collections::BTreeSet::new();
    for _ in 0..4 {
        met.insert(client.get("a.test", "/").await.text());
    }
    assert_eq!(met.len(), 2, "{met:?}");
}

#[tokio::test]
async fn a_redirected_connection_goes_to_the_listener_that_it_was_bound_for() {
    const FILTER: &str =
        "type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol";
    let (one, two) = (replica("one", 200).await, replica("two", 200).await);
    // What a PROXY protocol header says counts like what the system says of a redirected one.
    let mut entry = forwarding("entry", "one");
    entry["use_original_dst"] = json!(true);
    entry["listener_filters"] = json!([{"name": "p", "typed_config": {"@type": FILTER}}]);
    let unbound = |name: &str, address: &str, port: u16, filter: &Value| {
        let mut listener = listener(name, filter);
        listener["bind_to_port"] = json!(false);
        listener["address"] = json!({"socket_address": {"address": address, "port_value": port}});
        listener
    };
    let two_manager = http(&json!({"route_config": to("two")}));
    let original = http(&json!({"route_config": to("bound")}));
    let port = one.address.port();
    let text = managed(
        &[
            entry,
            unbound("exact", "10.1.2.3", 80, &two_manager),
            unbound("any", "0.0.0.0", port, &original),
        ],
        &[
            cluster("one", one.address),
            cluster("two", two.address),
            json!({"name": "bound", "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED"}),
        ],
    );
    let app = TestApp::bootstrap(&text).await;
    let ask = async |destination: &str, port: u16| {
        let mut raw = Raw::connect(app.listener("entry")).await;
        raw.send(format!(
            "PROXY TCP4 192.0.2.1 {destination} 5555 {port}\r\n"
        ))
        .await;
        raw.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        raw.answer().await.text()
    };
    assert_eq!(ask("10.1.2.3", 80).await, "two");
    assert_eq!(
        ask("127.0.0.1", port).await,
        "one",
        "it is where it wanted to go"
    );
    assert_eq!(ask("10.1.2.3", 81).await, "one", "nobody has that address");
    let connections = |name: &str| app.running.stats.listener(name).downstream_cx_total.value();
    assert_eq!(connections("10.1.2.3_80"), 1);
}

#[tokio::test]
async fn connections_come_from_the_address_that_is_configured() {
    let origin = Origin::http(|mut conn| async move {
        while conn.request().await.is_some() {
            let from = conn.stream.peer_addr().unwrap().ip().to_string();
            conn.reply(200, &[], &from).await;
        }
    })
    .await;
    let mut bound = cluster("c", origin.address);
    bound["upstream_bind_config"] =
        json!({"source_address": {"address": "127.0.0.6", "port_value": 0}});
    let text = managed(&[forwarding("web", "c")], &[bound]);
    let app = TestApp::bootstrap(&text).await;
    let reply = get(app.listener("web"), "a.test", "/").await;
    assert_eq!(reply.text(), "127.0.0.6");
}

#[tokio::test]
async fn requests_stay_in_the_zone_of_the_proxy() {
    let (near, far) = (replica("near", 200).await, replica("far", 200).await);
    let zone = |name: &str, at: SocketAddr| {
        let address = json!({"address": at.ip(), "port_value": at.port()});
        let endpoint = json!({"endpoint": {"address": {"socket_address": address}}});
        json!({"locality": {"zone": name}, "lb_endpoints": [endpoint]})
    };
    let zones = |name: &str, near: SocketAddr, far: SocketAddr| {
        let all = [zone("a", near), zone("b", far)];
        json!({
            "name": name, "type": "STATIC",
            "common_lb_config": {"zone_aware_lb_config": {"min_cluster_size": 1}},
            "load_assignment": {"cluster_name": name, "endpoints": all},
        })
    };
    // By its name the cluster of proxies comes after the other one.
    let proxies: SocketAddr = ([127, 0, 0, 9], 1).into();
    let clusters = [
        zones("c", near.address, far.address),
        zones("proxies", proxies, ([127, 0, 0, 9], 2).into()),
    ];
    let mut text = bootstrap(&[forwarding("l", "c")], &clusters);
    text["node"] = json!({"id": "n", "cluster": "n", "locality": {"zone": "a"}});
    text["cluster_manager"] = json!({"local_cluster_name": "proxies"});
    let app = TestApp::bootstrap(&text.to_string()).await;
    let near_only = BTreeMap::from([("200 near".to_owned(), 20)]);
    assert_eq!(answers(app.listener("l"), "/", 20).await, near_only);
    let stats = app.running.stats.cluster("c");
    assert_eq!(stats.lb_zone_routing_all_directly.value(), 20);
    assert!(stats.lb_recalculate_zone_structures.value() > 0);
}
