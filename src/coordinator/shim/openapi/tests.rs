//! The document against the router: the same paths and methods, and examples that are true.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::body::Body;
use causeway_xds::source::{Batch, Outcome};
use http_body_util::BodyExt;
use hyper_util::service::TowerToHyperService;
use tokio::sync::mpsc;

use super::*;
use crate::coordinator::Circuits;
use crate::coordinator::shim::{TOKEN_HEADER, router};
use crate::coordinator::translate::{Frame, Wildcard};
use crate::util::Secret;

const METHODS: [&str; 5] = ["get", "put", "post", "patch", "delete"];

/// The shim, before a control plane that accepts `batches` changes and then goes away.
struct Rig(TowerToHyperService<axum::Router>);

impl Rig {
    fn new(batches: usize) -> Self {
        let frame = Frame {
            wildcard: Some(Wildcard {
                address: "127.0.0.1:0".parse().unwrap(),
                domain: ".apps.test".into(),
            }),
            ..Frame::default()
        };
        let (sender, mut inbox) = mpsc::channel::<Batch>(1);
        tokio::spawn(async move {
            for generation in 1..=batches {
                let Some(batch) = inbox.recv().await else {
                    return;
                };
                let outcome = Outcome {
                    generation: u64::try_from(generation).unwrap(),
                    changed: true,
                    rejected: Vec::new(),
                };
                batch.answer.unwrap().send(outcome).unwrap();
            }
        });
        let circuits = Circuits::new(frame, sender, Arc::default());
        let router = router(Arc::clone(&circuits), Secret::new("token"));
        Self(TowerToHyperService::new(router))
    }

    /// One that has the circuit of the examples.
    async fn with_circuit(batches: usize) -> Self {
        let rig = Self::new(batches);
        let (status, _) = rig
            .call("post", "/v1/circuits", &circuit().to_string())
            .await;
        assert_eq!(status, 201);
        rig
    }

    async fn call(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        self.send(method, path, body, "token").await
    }

    async fn send(&self, method: &str, path: &str, body: &str, token: &str) -> (u16, Value) {
        let request = http::Request::builder()
            .method(method.to_uppercase().as_str())
            .uri(path.replace("{id}", CIRCUIT_ID))
            .header(TOKEN_HEADER, token)
            .body(Body::from(body.to_owned()))
            .unwrap();
        let response = hyper::service::Service::call(&self.0, request)
            .await
            .unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let value = serde_json::from_slice(&body);
        (status, value.unwrap_or_else(|e| panic!("{e}: {body:?}")))
    }
}

/// Path, method and description of every operation.
fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            if method != "parameters" {
                all.push((path.clone(), method.clone(), operation.clone()));
            }
        }
    }
    all
}

#[tokio::test]
async fn paths_and_methods_are_those_of_the_router() {
    let document = openapi();
    // There is no way to ask a router for its paths, so its source is read.
    let source = include_str!("../mod.rs");
    let routed: BTreeSet<&str> = source
        .split(".route(")
        .skip(1)
        .filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next())
        .collect();
    let documented: BTreeSet<String> = operations(&document).into_iter().map(|o| o.0).collect();
    let documented: BTreeSet<&str> = documented.iter().map(String::as_str).collect();
    assert_eq!(routed, documented);
    for path in routed {
        let item = &document["paths"][path];
        for method in METHODS {
            let (status, _) = Rig::new(9).call(method, path, "").await;
            assert_eq!(status != 405, item.get(method).is_some(), "{method} {path}");
        }
        assert_eq!(
            path.contains("{id}"),
            item.get("parameters").is_some(),
            "{path}"
        );
    }
}

#[tokio::test]
async fn examples_of_requests_are_accepted() {
    let document = openapi();
    let mut seen = 0;
    for (path, method, operation) in operations(&document) {
        let Some(content) = operation["requestBody"]["content"].get("application/json") else {
            continue;
        };
        for (name, example) in content["examples"].as_object().unwrap() {
            let at = format!("{method} {path} {name}");
            let value = &example["value"];
            conforms(&document, &content["schema"], value, &at);
            let rig = if path.contains("{id}") {
                Rig::with_circuit(9).await
            } else {
                Rig::new(9)
            };
            let (status, answer) = rig.call(&method, &path, &value.to_string()).await;
            assert!(status < 300, "{at}: {answer}");
            let response = &operation["responses"][status.to_string()];
            let schema = &response["content"]["application/json"]["schema"];
            assert!(!schema.is_null(), "{at}: {status} is not documented");
            conforms(&document, schema, &answer, &at);
            seen += 1;
        }
    }
    assert_eq!(seen, 9);
}

/// Makes the shim give an answer that is documented.
async fn produce(path: &str, method: &str, status: u16) -> (u16, Value) {
    let one = circuit().to_string();
    let mut faulty = circuit();
    faulty["route_info"][0]["kernel_port"] = json!(0);
    let good = match (path, method) {
        ("/v1/circuits", "post" | "put") => json!([circuit()]).to_string(),
        ("/v1/circuits/{id}/routes", _) => json!([route(8889)]).to_string(),
        _ => String::new(),
    };
    let by_id = path.contains("{id}");
    match status {
        200 if by_id || method == "get" => {
            Rig::with_circuit(9).await.call(method, path, &good).await
        }
        200 if method == "post" => Rig::with_circuit(9).await.call(method, path, &one).await,
        200 | 201 => Rig::new(9).call(method, path, &good).await,
        400 if by_id => {
            let path = path.replace("{id}", "not-a-uuid");
            Rig::new(9).call(method, &path, &good).await
        }
        400 => {
            let body = json!([faulty]).to_string();
            Rig::new(9).call(method, path, &body).await
        }
        401 => Rig::new(9).send(method, path, &good, "wrong").await,
        404 => Rig::new(9).call(method, path, &good).await,
        409 => {
            let body = json!([circuit(), circuit()]).to_string();
            Rig::new(9).call(method, path, &body).await
        }
        503 if by_id => Rig::with_circuit(1).await.call(method, path, &good).await,
        503 => Rig::new(0).call(method, path, &good).await,
        _ => panic!("nothing here gives {status}"),
    }
}

#[tokio::test]
async fn examples_of_answers_are_given() {
    let document = openapi();
    let mut seen = 0;
    for (path, method, operation) in operations(&document) {
        for (status, response) in operation["responses"].as_object().unwrap() {
            let status: u16 = status.parse().unwrap();
            for (kind, content) in response["content"].as_object().unwrap() {
                let at = format!("{method} {path} {status}");
                assert_eq!(kind == "application/problem+json", status >= 400, "{at}");
                let Some(example) = content.get("example") else {
                    continue;
                };
                conforms(&document, &content["schema"], example, &at);
                let (given, answer) = produce(&path, &method, status).await;
                assert_eq!((given, &answer), (status, example), "{at}");
                seen += 1;
            }
        }
    }
    assert!(seen >= 25, "{seen}");
}

#[tokio::test]
async fn the_document_itself_needs_no_token() {
    let (status, document) = Rig::new(0).send("get", "/openapi.json", "", "").await;
    assert_eq!((status, &document), (200, &openapi()));
}

/// As much of JSON Schema as the document uses; what it does not know fails.
fn conforms(document: &Value, schema: &Value, value: &Value, at: &str) {
    if let Err(why) = fits(document, schema, value) {
        panic!("{at}: {why}");
    }
}

fn fits(document: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    for (keyword, rule) in schema.as_object().unwrap() {
        let ok = match keyword.as_str() {
            "$ref" => {
                let pointer = rule.as_str().unwrap().trim_start_matches('#');
                let target = document.pointer(pointer).ok_or(pointer)?;
                fits(document, target, value)?;
                true
            }
            "anyOf" => rule
                .as_array()
                .unwrap()
                .iter()
                .any(|schema| fits(document, schema, value).is_ok()),
            "type" => match rule {
                Value::String(kind) => is_of(kind, value),
                kinds => kinds
                    .as_array()
                    .unwrap()
                    .iter()
                    .any(|kind| is_of(kind.as_str().unwrap(), value)),
            },
            "enum" => rule.as_array().unwrap().contains(value),
            "minimum" => value.as_f64().is_none_or(|n| n >= rule.as_f64().unwrap()),
            "maximum" => value.as_f64().is_none_or(|n| n <= rule.as_f64().unwrap()),
            "format" => match (rule.as_str(), value.as_str()) {
                (Some("uuid"), Some(text)) => text.parse::<uuid::Uuid>().is_ok(),
                (Some("uri"), Some(text)) => text.parse::<http::Uri>().is_ok(),
                (_, None) => true,
                (other, _) => return Err(format!("format {other:?} is not known")),
            },
            "required" => rule
                .as_array()
                .unwrap()
                .iter()
                .all(|name| value.get(name.as_str().unwrap()).is_some()),
            "properties" => {
                for (name, schema) in rule.as_object().unwrap() {
                    if let Some(value) = value.get(name) {
                        fits(document, schema, value).map_err(|e| format!("{name}: {e}"))?;
                    }
                }
                true
            }
            "items" => {
                for item in value.as_array().into_iter().flatten() {
                    fits(document, rule, item)?;
                }
                true
            }
            "description" | "default" => true,
            other => return Err(format!("keyword {other} is not known")),
        };
        if !ok {
            return Err(format!("{keyword} {rule} does not fit {value}"));
        }
    }
    Ok(())
}

fn is_of(kind: &str, value: &Value) -> bool {
    match kind {
        "null" => value.is_null(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "object" => value.is_object(),
        "array" => value.is_array(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64(),
        _ => false,
    }
}
