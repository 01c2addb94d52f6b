//! Keys that are fetched, and kept until they are too old.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::header::HOST;
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, StatusCode, Uri};
use tokio::sync::Semaphore;

use causeway_xds::reject::Invalid;

use super::keys::{Keys, MAX_SET};
use super::provider::RemoteJwks;
use crate::filter::call::{Calls, fetch};
use crate::telemetry::stats::Counter;

/// The keys of one provider, for all data threads.
#[derive(Debug)]
pub struct Remote {
    config: RemoteJwks,
    host: HeaderValue,
    path: PathAndQuery,
    kept: ArcSwapOption<Kept>,
    /// One fetch at a time.
    turn: Semaphore,
    /// Fetches that have ended, so that who has waited for one knows.
    ended: AtomicU64,
    success: Arc<Counter>,
    failure: Arc<Counter>,
}

#[derive(Debug)]
pub struct Kept {
    pub keys: Arc<Keys>,
    until: Instant,
}

/// What there is without waiting.
pub enum Now {
    Fresh(Arc<Kept>),
    /// Good enough, while others are fetched beside.
    Stale(Arc<Kept>),
    Nothing,
}

impl Remote {
    pub fn new(
        config: &RemoteJwks,
        success: Arc<Counter>,
        failure: Arc<Counter>,
    ) -> Result<Self, Invalid> {
        let (host, path) = target(&config.uri.uri)
            .ok_or_else(|| Invalid::at("http_uri.uri", "is no absolute URI"))?;
        Ok(Self {
            config: config.clone(),
            host,
            path,
            kept: ArcSwapOption::empty(),
            turn: Semaphore::new(1),
            ended: AtomicU64::new(0),
            success,
            failure,
        })
    }

    pub fn now(&self, now: Instant) -> Now {
        match self.kept.load_full() {
            Some(kept) if now < kept.until => Now::Fresh(kept),
            Some(kept) if self.config.refetch.is_some() => Now::Stale(kept),
            _ => Now::Nothing,
        }
    }

    /// Keys that were fetched for a request, however short they are good.
    pub fn any(&self) -> Option<Arc<Kept>> {
        self.kept.load_full()
    }

    /// Whether somebody fetches.
    pub fn is_busy(&self) -> bool {
        self.turn.available_permits() == 0
    }

    /// Fetches, or waits for who does. Whether there are keys then.
    pub async fn fetch(&self, calls: Rc<dyn Calls>) -> bool {
        let before = self.ended.load(Ordering::Acquire);
        let turn = tokio::time::timeout(self.longest(), self.turn.acquire()).await;
        let Ok(Ok(_turn)) = turn else { return false };
        if self.ended.load(Ordering::Acquire) != before {
            // Somebody has fetched since.
            return matches!(self.now(Instant::now()), Now::Fresh(_));
        }
        let fetched = self.attempts(&*calls).await;
        match &fetched {
            Some(_) => self.success.inc(),
            None => self.failure.inc(),
        }
        let done = fetched.is_some();
        if let Some(keys) = fetched {
            self.keep(Arc::new(keys), self.config.cache);
        } else if let (Some(again), Some(kept)) = (self.config.refetch, self.kept.load_full()) {
            // The old ones stay in use until the next attempt.
            self.keep(Arc::clone(&kept.keys), again);
        }
        self.ended.fetch_add(1, Ordering::Release);
        done
    }

    fn keep(&self, keys: Arc<Keys>, time: Duration) {
        let until = Instant::now() + time;
        self.kept.store(Some(Arc::new(Kept { keys, until })));
    }

    async fn attempts(&self, calls: &dyn Calls) -> Option<Keys> {
        let (mut pause, longest) = self.config.back_off;
        for attempt in 0..=self.config.retries {
            if attempt > 0 {
                tokio::time::sleep(pause.mul_f64(fastrand::f64())).await;
                pause = (pause * 2).min(longest);
            }
            let keys = self.attempt(calls).await;
            if keys.is_some() {
                return keys;
            }
        }
        None
    }

    async fn attempt(&self, calls: &dyn Calls) -> Option<Keys> {
        let cluster = &self.config.uri.cluster;
        let request = Request::get(self.path.as_str())
            .header(HOST, &self.host)
            .body(Bytes::new());
        let limit = self.config.uri.timeout;
        let answer = fetch(calls, cluster, request.ok()?, limit, MAX_SET as u64).await;
        match answer {
            Ok(answer) if answer.status() == StatusCode::OK => Keys::parse(answer.body())
                .inspect_err(|why| tracing::warn!(cluster, why, "keys for tokens cannot be used"))
                .ok(),
            Ok(answer) => {
                let status = answer.status().as_u16();
                tracing::warn!(cluster, status, "keys for tokens cannot be had");
                None
            }
            Err(error) => {
                tracing::warn!(cluster, %error, "keys for tokens cannot be had");
                None
            }
        }
    }

    /// All attempts, and the pauses between them.
    fn longest(&self) -> Duration {
        let (_, pause) = self.config.back_off;
        let attempts = self.config.retries.saturating_add(1);
        (self.config.uri.timeout + pause).saturating_mul(attempts)
    }
}

/// Host and path of an absolute URI; without a scheme it is one of plain HTTP.
fn target(text: &str) -> Option<(HeaderValue, PathAndQuery)> {
    let text = match text.contains("://") {
        true => text.to_owned(),
        false => format!("http://{text}"),
    };
    let uri: Uri = text.parse().ok()?;
    let host = HeaderValue::from_str(uri.authority()?.as_str()).ok()?;
    let path = uri.path_and_query().cloned();
    Some((host, path.unwrap_or_else(|| PathAndQuery::from_static("/"))))
}
