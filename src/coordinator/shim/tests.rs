use std::net::SocketAddr;

use causeway_xds::reject::{Invalid, Rejected};
use causeway_xds::source::{Batch, Outcome};
use causeway_xds::{ResourceType, type_url};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::*;
use crate::coordinator::resolve::Resolver;
use crate::coordinator::resolve::tests::Service;
use crate::coordinator::testing;
use crate::coordinator::translate::{Frame, Wildcard};

/// The shim over TCP, with a control plane that accepts what it is not told to refuse.
struct Rig {
    address: SocketAddr,
    /// Every batch that was sent, as `kind name` lines.
    seen: mpsc::UnboundedReceiver<Vec<String>>,
    circuits: Arc<Circuits>,
}

impl Rig {
    /// `refused`: the name of a resource that the control plane does not want.
    async fn start(refused: &'static str) -> Self {
        Self::resolving(refused, Resolver::default()).await
    }

    async fn resolving(refused: &'static str, resolver: Resolver) -> Self {
        let (batches, inbox) = mpsc::channel(4);
        let frame = Frame {
            slots: None,
            wildcard: Some(Wildcard {
                address: "127.0.0.1:0".parse().unwrap(),
                domain: ".apps.test".into(),
            }),
            path: None,
            ..Frame::default()
        };
        let (report, seen) = mpsc::unbounded_channel();
        tokio::spawn(control(inbox, report, refused));
        let circuits = Circuits::resolving(frame, batches, Arc::default(), resolver);
        circuits.install_frame().await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = router(Arc::clone(&circuits), Secret::new("token"));
        tokio::spawn(async move { axum::serve(listener, app).await });
        let mut rig = Self {
            address,
            seen,
            circuits,
        };
        assert_eq!(rig.batch().len(), 2, "a listener and its routes");
        rig
    }

    /// The batch that the last call led to.
    fn batch(&mut self) -> Vec<String> {
        self.seen.try_recv().unwrap_or_default()
    }

    async fn call(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let text = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        self.send(method, path, Some("token"), text).await
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: String,
    ) -> (u16, Value) {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        let mut request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "x");
        if let Some(token) = token {
            request = request.header(TOKEN_HEADER, token);
        }
        let request = request.body(Full::<bytes::Bytes>::from(body)).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        let status = answer.status();
        let kind = answer.headers()["content-type"]
            .to_str()
            .unwrap()
            .to_owned();
        let expected = if status.is_success() {
            "application/json"
        } else {
            "application/problem+json"
        };
        assert_eq!(kind, expected);
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status.as_u16(), serde_json::from_slice(&body).unwrap())
    }
}

async fn control(
    mut inbox: mpsc::Receiver<Batch>,
    report: mpsc::UnboundedSender<Vec<String>>,
    refused: &'static str,
) {
    let mut generation = 0;
    while let Some(batch) = inbox.recv().await {
        let mut lines = Vec::new();
        let mut outcome = Outcome::default();
        for update in &batch.updates {
            for any in &update.upserts {
                assert_eq!(
                    ResourceType::from_type_url(&any.type_url),
                    Some(update.kind)
                );
                assert!(any.type_url.starts_with(type_url::PREFIX));
                lines.push(format!("+{}", update.kind));
            }
            for name in &update.removals {
                lines.push(format!("-{} {name}", update.kind));
                if name == refused {
                    let invalid = Invalid::at("field", "because");
                    outcome
                        .rejected
                        .push(Rejected::new(update.kind, name, invalid));
                }
            }
        }
        if outcome.rejected.is_empty() {
            generation += 1;
            outcome.changed = true;
        }
        outcome.generation = generation;
        let _ = report.send(lines);
        let _ = batch.answer.unwrap().send(outcome);
    }
}

#[tokio::test]
async fn a_circuit_lives_from_announcement_to_removal() {
    let mut rig = Rig::start("").await;
    let circuit = json!(testing::circuit(1, "a"));
    let (status, answer) = rig.call("POST", "/v1/circuits", &circuit).await;
    assert_eq!(
        (status, &answer["generation"], &answer["changed"]),
        (201, &json!(2), &json!(true))
    );
    assert_eq!(answer["circuits"], json!([circuit]));
    assert_eq!(rig.batch(), ["+cluster", "+endpoints", "+virtual_host"]);

    let (status, answer) = rig.call("POST", "/v1/circuits", &json!([circuit])).await;
    assert_eq!(
        (status, &answer["generation"], &answer["changed"]),
        (200, &json!(2), &json!(false))
    );
    assert!(rig.batch().is_empty(), "an equal push sends nothing");

    let id = circuit["id"].as_str().unwrap();
    let (status, answer) = rig
        .call("GET", &format!("/v1/circuits/{id}"), &Value::Null)
        .await;
    assert_eq!((status, &answer), (200, &circuit));

    let routes = json!({"route_info": [{"kernel_port": 9}]});
    let (status, _) = rig
        .call("PUT", &format!("/v1/circuits/{id}/routes"), &routes)
        .await;
    assert_eq!(status, 200);
    assert_eq!(
        rig.batch(),
        ["+endpoints"],
        "new kernels touch nothing else"
    );

    let (status, answer) = rig
        .call("DELETE", &format!("/v1/circuits/{id}"), &Value::Null)
        .await;
    assert_eq!((status, &answer["circuits"]), (200, &json!([])));
    let cluster = format!("circuit/{id}");
    let expected = [
        format!("-cluster {cluster}"),
        format!("-endpoints {cluster}"),
        "-virtual_host wildcard/a".to_owned(),
    ];
    assert_eq!(rig.batch(), expected);
    let (status, _) = rig
        .call("DELETE", &format!("/v1/circuits/{id}"), &Value::Null)
        .await;
    assert_eq!(status, 404);
}

#[tokio::test]
async fn kernels_are_pushed_by_name_and_followed() {
    let names = Service::default();
    let mut rig = Rig::resolving("", names.resolver()).await;
    let mut circuit = json!(testing::circuit(1, "a"));
    circuit["route_info"][0]["kernel_host"] = json!("node7");
    let (status, answer) = rig.call("POST", "/v1/circuits", &circuit).await;
    assert_eq!((status, &answer["circuits"]), (201, &json!([circuit])));
    let id = testing::circuit(1, "a").id;
    assert_eq!(rig.circuits.get(id).await.unwrap().routes[0].address, None);
    rig.batch();

    names.says("node7", &["10.0.0.7"]);
    let set = json!({"circuits": [circuit]});
    rig.call("PUT", "/v1/circuits", &set).await;
    let first = rig.circuits.get(id).await.unwrap().routes[0].address;
    // Asked again too soon, or answered: in both cases it is followed.
    rig.batch();
    tokio::time::sleep(std::time::Duration::from_millis(600)).await;
    rig.circuits.refresh(Owner::Shim).await.unwrap();
    let then = rig.circuits.get(id).await.unwrap().routes[0].address;
    assert_eq!(then, Some("10.0.0.7:8001".parse().unwrap()));
    let expected: &[&str] = if first.is_none() {
        &["+endpoints"]
    } else {
        &[]
    };
    assert_eq!(rig.batch(), expected);
    rig.circuits.refresh(Owner::Shim).await.unwrap();
    assert!(rig.batch().is_empty(), "the same resolution");
}

#[tokio::test]
async fn a_full_set_removes_who_is_missing() {
    let mut rig = Rig::start("").await;
    let (a, b) = (
        json!(testing::circuit(1, "a")),
        json!(testing::circuit(2, "b")),
    );
    rig.call("PUT", "/v1/circuits", &json!({"circuits": [a, b]}))
        .await;
    rig.batch();
    let (status, answer) = rig.call("PUT", "/v1/circuits", &json!([b])).await;
    assert_eq!((status, &answer["changed"]), (200, &json!(true)));
    assert_eq!(
        rig.batch().len(),
        3,
        "three removals and no word about the one that stays"
    );
    let (_, listed) = rig.call("GET", "/v1/circuits", &Value::Null).await;
    assert_eq!(listed["circuits"], json!([b]));
}

/// What the Coordinator announced is seen from here, and changed by the Coordinator only.
#[tokio::test]
async fn circuits_of_the_coordinator_are_out_of_reach() {
    let rig = Rig::start("").await;
    let theirs = testing::circuit(1, "a");
    rig.circuits
        .announce(Owner::Coordinator, vec![theirs.clone()])
        .await
        .unwrap();
    let path = format!("/v1/circuits/{}", theirs.id);
    let routes = format!("{path}/routes");
    let (same_place, ours) = (
        json!(testing::circuit(2, "a")),
        json!(testing::circuit(3, "c")),
    );
    for (method, path, body, field) in [
        ("POST", "/v1/circuits", json!([theirs]), "circuits[0].id"),
        ("POST", "/v1/circuits", same_place.clone(), "subdomain"),
        (
            "PUT",
            "/v1/circuits",
            json!([ours, same_place]),
            "circuits[1].subdomain",
        ),
        ("PUT", &routes, json!([]), "id"),
        ("DELETE", &path, Value::Null, "id"),
    ] {
        let (status, problem) = rig.call(method, path, &body).await;
        assert_eq!(
            (status, &problem["field"]),
            (409, &json!(field)),
            "{problem}"
        );
    }
    let (status, _) = rig.call("PUT", "/v1/circuits", &json!([ours])).await;
    assert_eq!(status, 200);
    let (_, listed) = rig.call("GET", "/v1/circuits", &Value::Null).await;
    assert_eq!(
        listed["circuits"],
        json!([theirs, ours]),
        "a full set of ours"
    );
}

#[tokio::test]
async fn nobody_gets_in_without_the_token() {
    let rig = Rig::start("").await;
    for token in [None, Some(""), Some("toke"), Some("tokens")] {
        let (status, problem) = rig.send("GET", "/v1/circuits", token, String::new()).await;
        assert_eq!(
            (status, &problem["status"]),
            (401, &json!(401)),
            "{token:?}"
        );
    }
}

#[tokio::test]
async fn a_bad_push_is_refused_by_its_field_and_changes_nothing() {
    let mut rig = Rig::start("").await;
    let good = json!(testing::circuit(1, "a"));
    let with = |key: &str, value: Value| {
        let mut circuit = json!(testing::circuit(2, "b"));
        circuit[key] = value;
        circuit
    };
    let same_slot = with("subdomain", json!("A"));
    let same_id = with("id", good["id"].clone());
    for (body, status, field) in [
        (with("open_to_public", json!(false)), 400, "open_to_public"),
        (
            with("route_info", json!([{}])),
            400,
            "route_info[0].kernel_port",
        ),
        (
            json!([good, with("subdomain", json!("_"))]),
            400,
            "circuits[1].subdomain",
        ),
        (json!([good, same_slot]), 409, "circuits[1].subdomain"),
        (json!([good, same_id]), 409, "circuits[1].id"),
    ] {
        let (got, problem) = rig.call("POST", "/v1/circuits", &body).await;
        assert_eq!(
            (got, &problem["field"]),
            (status, &json!(field)),
            "{problem}"
        );
    }
    assert!(rig.batch().is_empty());
    assert!(rig.circuits.list().await.1.is_empty());
}

#[tokio::test]
async fn another_method_is_told_so() {
    let rig = Rig::start("").await;
    let (status, problem) = rig.call("PATCH", "/v1/circuits", &Value::Null).await;
    assert_eq!((status, &problem["status"]), (405, &json!(405)));
}

#[tokio::test]
async fn broken_json_is_refused_with_its_place() {
    let rig = Rig::start("").await;
    for (body, place) in [
        ("", "line 1 column 0"),
        ("[\n{\"id\": 5}]", "line 2 column 8"),
        ("{\"circuits\":\n 5}", "line 2 column 2"),
        ("{\"circuits\": [", "line 1 column 14"),
    ] {
        let (status, problem) = rig
            .send("PUT", "/v1/circuits", Some("token"), body.to_owned())
            .await;
        assert_eq!(status, 400);
        assert!(
            problem["detail"].as_str().unwrap().contains(place),
            "{body} {problem}"
        );
    }
    let (status, _) = rig
        .call("GET", "/v1/circuits/not-a-uuid", &Value::Null)
        .await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn what_control_refuses_is_undone() {
    let mut rig = Rig::start("wildcard/a").await;
    let circuit = json!(testing::circuit(1, "a"));
    rig.call("POST", "/v1/circuits", &circuit).await;
    rig.batch();
    let path = format!("/v1/circuits/{}", circuit["id"].as_str().unwrap());
    let (status, problem) = rig.call("DELETE", &path, &Value::Null).await;
    assert_eq!(status, 400);
    assert!(
        problem["detail"].as_str().unwrap().contains("because"),
        "{problem}"
    );
    assert_eq!(
        rig.call("GET", &path, &Value::Null).await.0,
        200,
        "it is still there"
    );
}

/// A caller who hangs up while the control plane is at work does not leave the registry behind.
#[tokio::test]
async fn a_caller_that_leaves_does_not_undo_its_push() {
    let (batches, mut inbox) = mpsc::channel(1);
    let frame = Frame {
        slots: None,
        wildcard: Some(Wildcard {
            address: "127.0.0.1:0".parse().unwrap(),
            domain: ".apps.test".into(),
        }),
        path: None,
        ..Frame::default()
    };
    let circuits = Circuits::new(frame, batches, Arc::default());
    let pusher = Arc::clone(&circuits);
    let call =
        tokio::spawn(async move { pusher.announce(SHIM, vec![testing::circuit(1, "a")]).await });
    let batch = inbox.recv().await.unwrap();
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    let outcome = Outcome {
        generation: 7,
        changed: true,
        rejected: vec![],
    };
    batch.answer.unwrap().send(outcome).unwrap();
    let (generation, listed) = circuits.list().await;
    assert_eq!((generation, listed.len()), (7, 1));
}
