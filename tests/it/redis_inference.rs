//! What model servers say of themselves, as it reaches Redis.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use causeway::coordinator::inference_metrics::InferenceMetrics;
use causeway::coordinator::model;
use causeway::coordinator::redis::{RedisConfig, db};
use causeway::coordinator::registry::Owner;
use causeway::coordinator::wire::WireCircuit;
use causeway::coordinator::{Circuits, Frame};
use causeway::demo;
use causeway_xds::source::{Batch, Outcome};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use crate::support::origin::Origin;
use crate::support::redis::FakeRedis;
use crate::support::{eventually, refusing, within};

const SERVICE: Uuid = Uuid::from_u128(0xE0);

/// A model service with a replica at each address, the first with route 1.
fn service(addresses: &[SocketAddr]) -> model::Circuit {
    let route = |(number, at): (usize, &SocketAddr)| {
        json!({"route_id": Uuid::from_u128(1 + number as u128), "kernel_host": at.ip(),
            "kernel_port": at.port(), "protocol": "http", "traffic_ratio": 1.0})
    };
    let routes: Vec<Value> = addresses.iter().enumerate().map(route).collect();
    let wire: WireCircuit = serde_json::from_value(json!({
        "id": Uuid::from_u128(0xC1), "app": "llm", "protocol": "http", "app_mode": "inference",
        "frontend_mode": "wildcard", "subdomain": "llm", "open_to_public": true,
        "endpoint_id": SERVICE, "runtime_variant": "vllm", "route_info": routes,
    }))
    .unwrap();
    model::Circuit::try_from(wire).unwrap()
}

/// Circuits that are accepted by nobody in particular.
async fn circuits(circuit: model::Circuit) -> Arc<Circuits> {
    let (batches, mut inbox) = mpsc::channel::<Batch>(4);
    tokio::spawn(async move {
        while let Some(batch) = inbox.recv().await {
            let outcome = Outcome {
                generation: 1,
                changed: true,
                rejected: Vec::new(),
            };
            batch.answer.map(|answer| answer.send(outcome));
        }
    });
    let circuits = Circuits::new(Frame::from(&demo::config()), batches, Arc::default());
    circuits
        .announce(Owner::Coordinator, vec![circuit])
        .await
        .unwrap();
    circuits
}

#[tokio::test]
async fn replicas_are_asked_and_added_up() {
    const ONE: &str = "# TYPE vllm:running gauge\nvllm:running 1.5\n# TYPE other gauge\nother 1\n";
    const TWO: &str = "# TYPE vllm:running gauge\nvllm:running{m=\"a\"} 2\n";
    let (one, two) = (Origin::fixed(ONE).await, Origin::fixed(TWO).await);
    let (_kept, silent) = refusing();
    let circuits = circuits(service(&[one.address, silent, two.address])).await;
    let redis = FakeRedis::start().await.unwrap();
    let config = RedisConfig::stand_alone("127.0.0.1", redis.address().port());
    let (stop, stopped) = watch::channel(false);
    let metrics = InferenceMetrics::new(config, circuits, Duration::from_millis(20));
    let task = tokio::spawn(metrics.run(stopped));

    let app = format!("inference.{SERVICE}.app");
    let replica = |number: u128| format!("inference.{SERVICE}.replica.{}", Uuid::from_u128(number));
    eventually("a sum", || redis.ttl(db::STAT, &app).is_some()).await;
    let current = |key: &str| {
        let value: Value = rmp_serde::from_slice(&redis.bytes(db::STAT, key).unwrap()).unwrap();
        assert_eq!(
            value.as_object().unwrap().len(),
            1,
            "only its own family: {value}"
        );
        value["vllm_running"]["current"].clone()
    };
    assert_eq!(current(&replica(1)), "1.5");
    assert_eq!(current(&replica(3)), "2");
    assert_eq!(current(&app), "3.5");
    assert_eq!(redis.keys(db::STAT), [app.clone(), replica(1), replica(3)]);
    assert!((100..=120).contains(&redis.ttl(db::STAT, &app).unwrap().as_secs()));
    assert_eq!(one.requests()[0].target, "/metrics");

    stop.send(true).unwrap();
    within("the end", task).await.unwrap();
}
