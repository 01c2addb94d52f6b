use std::time::UNIX_EPOCH;

use super::*;

struct Coordinator {
    status: Result<Seen, ProbeError>,
    workers: Result<Seen, ProbeError>,
}

impl ProbeCoordinator for Coordinator {
    fn status(&self) -> BoxFuture<'_, Result<Seen, ProbeError>> {
        Box::pin(async { self.status.clone() })
    }
    fn workers(&self) -> BoxFuture<'_, Result<Seen, ProbeError>> {
        Box::pin(async { self.workers.clone() })
    }
}

struct Redis {
    ping: Result<(), String>,
    /// `None`: it never answers.
    pub_sub: Option<Result<(), String>>,
}

impl ProbeRedis for Redis {
    fn ping(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async { self.ping.clone() })
    }
    fn pub_sub(&self) -> BoxFuture<'_, Result<(), String>> {
        let answer = self.pub_sub.clone();
        Box::pin(async {
            match answer {
                Some(answer) => answer,
                None => std::future::pending().await,
            }
        })
    }
}

const NOW: u64 = 1_795_509_863;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

fn seen_at(seconds: u64) -> Result<Seen, ProbeError> {
    Ok(Seen {
        date: Some(UNIX_EPOCH + Duration::from_secs(seconds)),
    })
}

fn subject<'s>(coordinator: &'s Coordinator, redis: &'s Redis) -> Subject<'s> {
    Subject {
        coordinator: Some(coordinator),
        redis: Some(redis),
        ports: Vec::new(),
        certificates: Vec::new(),
        secrets: Vec::new(),
        now,
        limit: Duration::from_millis(20),
    }
}

fn good() -> (Coordinator, Redis) {
    let coordinator = Coordinator {
        status: seen_at(NOW),
        workers: seen_at(NOW),
    };
    let redis = Redis {
        ping: Ok(()),
        pub_sub: Some(Ok(())),
    };
    (coordinator, redis)
}

#[tokio::test]
async fn a_good_installation_passes() {
    let (coordinator, redis) = good();
    let secret = Secret::new("hush");
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let checks = run(Subject {
        ports: vec![("API", address)],
        secrets: vec![("secrets.jwt_secret", Some(&secret))],
        ..subject(&coordinator, &redis)
    })
    .await;
    let printed = print(&checks);
    assert_eq!(
        printed,
        format!(
            "\u{2713} coordinator answers: GET /status\n\
             \u{2713} token accepted: GET /api/worker\n\
             \u{2713} clocks agree: to a second or two\n\
             \u{2713} redis answers: PING\n\
             \u{2713} redis carries events: published and received\n\
             \u{2713} API can be bound: {address}\n\
             \u{2713} secret secrets.jwt_secret: is set\n"
        )
    );
    assert_eq!(exit_code(&checks), 0);
}

#[tokio::test]
async fn what_is_not_reached_is_not_asked_further() {
    let (mut coordinator, mut redis) = good();
    coordinator.status = Err(ProbeError::Unreachable("connection refused".to_owned()));
    redis.ping = Err("connection refused".to_owned());
    let checks = run(subject(&coordinator, &redis)).await;
    let printed = print(&checks);
    for line in [
        "\u{2717} coordinator answers: GET /status: connection refused",
        "- token accepted: the Coordinator is not reached",
        "- clocks agree: the Coordinator is not reached",
        "\u{2717} redis answers: PING: connection refused",
        "- redis carries events: Redis is not reached",
    ] {
        assert!(printed.lines().any(|l| l == line), "{line} in\n{printed}");
    }
    assert_eq!(exit_code(&checks), 1);
}

#[tokio::test]
async fn a_wrong_secret_and_a_silent_bus_are_told_apart() {
    let (mut coordinator, mut redis) = good();
    coordinator.workers = Err(ProbeError::Refused);
    redis.pub_sub = None;
    let checks = run(subject(&coordinator, &redis)).await;
    let failed: Vec<(&str, &str)> = checks
        .iter()
        .filter(|check| matches!(check.outcome, Outcome::Failed(_)))
        .map(|check| (check.name.as_str(), check.hint))
        .collect();
    assert_eq!(failed.len(), 2, "{checks:?}");
    assert_eq!(failed[0].0, "token accepted");
    assert!(failed[0].1.contains("secrets.api_secret"));
    assert_eq!(failed[1].0, "redis carries events");
}

#[tokio::test]
async fn without_a_coordinator_only_the_machine_is_checked() {
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap();
    let checks = run(Subject {
        coordinator: None,
        redis: None,
        ports: vec![("API", address), ("slots", "127.0.0.1:0".parse().unwrap())],
        certificates: vec![("none.pem".into(), "none.key".into())],
        secrets: vec![
            ("secrets.jwt_secret", None),
            ("permit_hash.secret", Some(&Secret::new(""))),
        ],
        now,
        limit: Duration::from_secs(1),
    })
    .await;
    let outcome = |name: &str| {
        let found = checks.iter().find(|check| check.name == name);
        &found
            .unwrap_or_else(|| panic!("{name} in {checks:?}"))
            .outcome
    };
    assert!(matches!(outcome("coordinator"), Outcome::Skipped(_)));
    assert!(matches!(outcome("redis"), Outcome::Skipped(_)));
    assert!(matches!(outcome("API can be bound"), Outcome::Failed(_)));
    assert!(matches!(outcome("slots can be bound"), Outcome::Passed(_)));
    assert!(matches!(
        outcome("certificate none.pem"),
        Outcome::Failed(_)
    ));
    assert!(matches!(
        outcome("secret secrets.jwt_secret"),
        Outcome::Failed(_)
    ));
    assert!(matches!(
        outcome("secret permit_hash.secret"),
        Outcome::Failed(_)
    ));
}

#[test]
fn clocks_may_differ_by_what_cannot_be_measured() {
    let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
    for (theirs, expected) in [
        (100, "passed"),
        (99, "passed"),
        (97, "doubtful"),
        (103, "passed"),
        (105, "doubtful"),
        (60, "failed"),
        (200, "failed"),
    ] {
        // The answer took from second 100 to second 102.
        let check = clocks(Some(at(theirs)), at(100), at(102));
        let outcome = match check.outcome {
            Outcome::Passed(_) => "passed",
            Outcome::Doubtful(_) => "doubtful",
            Outcome::Failed(_) => "failed",
            Outcome::Skipped(_) => "skipped",
        };
        assert_eq!(outcome, expected, "{theirs}");
    }
}
