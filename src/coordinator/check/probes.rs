//! The real Coordinator and the real Redis behind the questions, and the questions that a file
//! leads to.

use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use uuid::Uuid;

use super::{ProbeCoordinator, ProbeError, ProbeRedis, Seen, Subject, parse_http_date};
use crate::config::{Certificates, TlsFiles, WorkerConfig};
use crate::coordinator::client::{ClientError, CoordinatorClient};
use crate::coordinator::redis::{RedisConfig, db, within};
use crate::coordinator::translate::Frame;

/// For each question; the client's own deadlines are about as long.
const LIMIT: Duration = Duration::from_secs(10);

impl ProbeCoordinator for CoordinatorClient {
    fn status(&self) -> BoxFuture<'_, Result<Seen, ProbeError>> {
        Box::pin(ask(self, "/status"))
    }
    fn workers(&self) -> BoxFuture<'_, Result<Seen, ProbeError>> {
        Box::pin(ask(self, "/api/worker"))
    }
}

async fn ask(client: &CoordinatorClient, path: &str) -> Result<Seen, ProbeError> {
    match client.probe(path).await {
        Ok(date) => Ok(Seen {
            date: date
                .as_ref()
                .and_then(|date| date.to_str().ok())
                .and_then(parse_http_date),
        }),
        Err(error) if error.is_unauthorised() => Err(ProbeError::Refused),
        Err(error @ (ClientError::Connect(_) | ClientError::Timeout { .. })) => {
            Err(ProbeError::Unreachable(error.to_string()))
        }
        Err(error) => Err(ProbeError::Answered(error.to_string())),
    }
}

impl ProbeRedis for RedisConfig {
    fn ping(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async {
            let (server, mut connection) = self.connect(db::EVENTS).await.map_err(told)?;
            let ping = redis::cmd("PING");
            let asking = ping.query_async::<String>(&mut connection);
            let answer = within("redis ping", &server, self.response_timeout, asking).await;
            answer.map(drop).map_err(told)
        })
    }

    fn pub_sub(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async {
            // Not the channel of events: a message that is none would be complained about.
            let channel = format!("causeway-check-{}", Uuid::new_v4());
            let (server, pubsub) = self.subscriber(db::EVENTS).await.map_err(told)?;
            let (mut sink, mut messages) = pubsub.split();
            let limit = self.response_timeout;
            let subscribing = sink.subscribe(&channel);
            within("redis subscribe", &server, limit, subscribing)
                .await
                .map_err(told)?;
            let (server, mut connection) = self.connect(db::EVENTS).await.map_err(told)?;
            let mut publish = redis::cmd("PUBLISH");
            publish.arg(&channel).arg("ping");
            let publishing = publish.query_async::<i64>(&mut connection);
            within("redis publish", &server, limit, publishing)
                .await
                .map_err(told)?;
            match tokio::time::timeout(limit, messages.next()).await {
                Ok(Some(_)) => Ok(()),
                Ok(None) => Err("the subscription was closed".to_owned()),
                Err(_) => Err(format!("published, but nothing arrived within {limit:?}")),
            }
        })
    }
}

fn told(outage: crate::coordinator::redis::Outage) -> String {
    outage.to_string()
}

impl<'s> Subject<'s> {
    /// Everything that the file of a worker asks for.
    pub fn of(
        worker: &'s WorkerConfig,
        coordinator: Option<&'s dyn ProbeCoordinator>,
        redis: Option<&'s dyn ProbeRedis>,
    ) -> Self {
        let frame = Frame::from(worker);
        let mut ports = vec![("management port", worker.causeway.management)];
        if let Some(config) = &worker.coordinator {
            ports.push(("worker API", config.api_bind_addr));
        }
        ports.extend(frame.path.iter().map(|p| ("path frontend", p.address)));
        ports.extend(
            frame
                .wildcard
                .iter()
                .map(|w| ("wildcard frontend", w.address)),
        );
        let slots = frame.slots.iter().flat_map(|slots| slots.iter());
        ports.extend(slots.map(|(_, address)| ("port frontend", address)));
        let mut certificates = Vec::new();
        for listen in [&worker.tls.listen, &worker.causeway.path_tls] {
            // What the worker gets by itself is no file that could be wrong.
            let Some(Certificates::Files(TlsFiles {
                certificate,
                private_key,
            })) = listen
            else {
                continue;
            };
            let pair = (certificate.clone(), private_key.clone());
            if !certificates.contains(&pair) {
                certificates.push(pair);
            }
        }
        let access = worker.access.as_ref();
        Self {
            coordinator,
            redis,
            ports,
            certificates,
            secrets: vec![
                ("secrets.api_secret", Some(&worker.api_secret)),
                ("secrets.jwt_secret", access.map(|a| &a.jwt_secret)),
                ("permit_hash.secret", access.map(|a| &a.permit_hash.secret)),
            ],
            now: SystemTime::now,
            limit: LIMIT,
        }
    }
}
