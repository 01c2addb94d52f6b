//! The socket on which a Traefik plugin says what is in use.
//!
//! In traefik mode this worker serves the traffic itself and notes its use like that of any other,
//! so nothing of its own comes here. The path of the socket is part of what is registered, and
//! whoever still has the plugin finds it.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path as Segment, State};
use axum::routing::head;
use http::StatusCode;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tracing::{debug, warn};
use uuid::Uuid;

use super::redis::{Link, RedisConfig, db};
use crate::telemetry::activity::unix_millis;

/// How often what was heard is written.
const PERIOD: Duration = Duration::from_secs(5);
/// How long a mark lasts, in seconds: two days.
const MARK_LASTS: u64 = 172_800;
/// Keys that may wait to be written: more than there are circuits, and not without end.
const MOST: usize = 100_000;

#[derive(Debug, Default)]
struct Heard {
    /// Key, and when it was last used: unix time in milliseconds.
    used: HashMap<String, u64>,
    active: HashSet<Uuid>,
}

#[derive(Clone, Debug, Default)]
struct Marks(Arc<Mutex<Heard>>);

/// Listens at `path` and writes what it hears until told to stop.
///
/// # Errors
/// The socket cannot be made.
pub fn start(
    path: &Path,
    config: RedisConfig,
    mut stop: watch::Receiver<bool>,
) -> std::io::Result<impl Future<Output = ()> + use<>> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = UnixListener::bind(path)?;
    // The plugin runs as somebody else.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
    let marks = Marks::default();
    let router = router(marks.clone());
    let path = path.to_owned();
    Ok(async move {
        let mut ended = stop.clone();
        let serve = axum::serve(socket, router).with_graceful_shutdown(async move {
            ended.wait_for(|stop| *stop).await.ok();
        });
        let write = async {
            let mut link = Link::new(config, db::LIVE);
            let mut ticks = tokio::time::interval(PERIOD);
            loop {
                marks.write(&mut link).await;
                tokio::select! {
                    _ = ticks.tick() => {}
                    _ = stop.wait_for(|stop| *stop) => break,
                }
            }
            marks.write(&mut link).await;
        };
        let (served, ()) = tokio::join!(serve, write);
        if let Err(error) = served {
            warn!(%error, "marker socket ended");
        }
        std::fs::remove_file(&path).ok();
    })
}

fn router(marks: Marks) -> Router {
    Router::new()
        .route("/{key}/mark-last-used-time", head(used))
        .route("/{circuit}/mark-active", head(active))
        .route("/{circuit}/mark-inactive", head(inactive))
        .with_state(marks)
}

/// Only keys that marks have: whoever reaches the socket must not write whatever they like.
fn is_mark(key: &str) -> bool {
    let id = key.strip_suffix(".last_access").and_then(|key| {
        key.strip_prefix("session.")
            .or_else(|| key.strip_prefix("circuit."))
    });
    id.is_some_and(|id| Uuid::try_parse(id).is_ok())
}

async fn used(State(marks): State<Marks>, Segment(key): Segment<String>) -> StatusCode {
    if !is_mark(&key) {
        return StatusCode::BAD_REQUEST;
    }
    marks.with(|heard| {
        if heard.used.len() < MOST || heard.used.contains_key(&key) {
            heard.used.insert(key, unix_millis());
        }
    });
    StatusCode::NO_CONTENT
}

async fn active(State(marks): State<Marks>, Segment(circuit): Segment<Uuid>) -> StatusCode {
    marks.with(|heard| heard.active.len() < MOST && heard.active.insert(circuit));
    StatusCode::NO_CONTENT
}

async fn inactive(State(marks): State<Marks>, Segment(circuit): Segment<Uuid>) -> StatusCode {
    marks.with(|heard| heard.active.remove(&circuit));
    StatusCode::NO_CONTENT
}

impl Marks {
    fn with<R>(&self, f: impl FnOnce(&mut Heard) -> R) -> R {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What has to be written now.
    fn due(&self) -> HashMap<String, u64> {
        self.with(|heard| {
            let now = unix_millis();
            let mut due = std::mem::take(&mut heard.used);
            for circuit in &heard.active {
                due.insert(format!("circuit.{circuit}.last_access"), now);
            }
            due
        })
    }

    async fn write(&self, link: &mut Link) {
        let due = self.due();
        if due.is_empty() {
            return;
        }
        let mut batch = redis::pipe();
        for (key, at) in &due {
            let seconds = format!("{}.{:03}", at / 1000, at % 1000);
            batch.set_ex(key, seconds, MARK_LASTS).ignore();
        }
        if let Err(outage) = link.run(&batch).await {
            debug!(%outage, "redis takes no marks; they stay due");
            self.with(|heard| {
                for (key, at) in due {
                    heard.used.entry(key).or_insert(at);
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const ID: &str = "7c8356fe-e727-4548-9f26-2e4031fe30d1";

    #[test]
    fn only_marks_can_be_written() {
        assert!(is_mark(&format!("session.{ID}.last_access")));
        assert!(is_mark(&format!("circuit.{ID}.last_access")));
        for key in ["x", "circuit.x.last_access", "last_access", ""] {
            assert!(!is_mark(key), "{key}");
        }
        assert!(!is_mark(&format!("circuit.{ID}.requests")));
    }

    async fn ask(path: &Path, target: &str) -> String {
        let mut socket = tokio::net::UnixStream::connect(path).await.unwrap();
        let request = format!("HEAD {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer.lines().next().unwrap_or_default().to_owned()
    }

    #[tokio::test]
    async fn what_is_said_on_the_socket_is_due() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("below/marker.socket");
        let (stop, stopped) = watch::channel(false);
        // Nobody is there, which must not matter.
        let redis = RedisConfig::stand_alone("127.0.0.1", 1);
        let running = tokio::spawn(start(&path, redis, stopped).unwrap());
        let key = format!("/session.{ID}.last_access/mark-last-used-time");
        assert_eq!(ask(&path, &key).await, "HTTP/1.1 204 No Content");
        let bad = ask(&path, "/passwords/mark-last-used-time").await;
        assert_eq!(bad, "HTTP/1.1 400 Bad Request");
        let active = ask(&path, &format!("/{ID}/mark-active")).await;
        assert_eq!(active, "HTTP/1.1 204 No Content");
        stop.send(true).unwrap();
        running.await.unwrap();
        assert!(!path.exists(), "nothing is left behind");
    }

    #[test]
    fn an_active_circuit_is_due_until_it_is_not() {
        let marks = Marks::default();
        let circuit: Uuid = ID.parse().unwrap();
        marks.with(|heard| heard.active.insert(circuit));
        for _ in 0..2 {
            let due = marks.due();
            assert!(due.contains_key(&format!("circuit.{ID}.last_access")));
        }
        marks.with(|heard| heard.active.remove(&circuit));
        assert!(marks.due().is_empty());
    }
}
