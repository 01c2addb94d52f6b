use futures_util::future::BoxFuture;

use super::super::schedule::Validity;
use super::super::tests::{authority, made};
use super::demand::MAX_LOOKUPS;
use super::*;

const HOUR: Duration = Duration::from_secs(3600);

type Lookup = fn(String) -> BoxFuture<'static, bool>;

/// One new host an hour, and an authority that nobody can reach.
fn manager(at: &tempfile::TempDir, known: Lookup) -> Manager {
    crate::tls::install_provider();
    let authority = authority(&made(), 1, at, |_| ());
    let (automatic, _) = Automatic::new(&[], None).unwrap();
    let stats = Arc::new(Stats::default());
    Manager::new(
        Arc::new(authority),
        automatic,
        Arc::new(known),
        stats,
        Status::default(),
    )
}

fn wanted(host: &str) -> (Signal, oneshot::Receiver<()>) {
    let (answer, answered) = oneshot::channel();
    let host = host.to_owned();
    (Signal { host, answer }, answered)
}

async fn look_up(manager: &mut Manager) {
    while let Some(found) = manager.lookups.join_next().await {
        let (known, wanted) = found.unwrap();
        manager.looked_up(known, wanted);
    }
}

#[tokio::test]
async fn a_job_that_panics_is_a_failed_attempt_of_its_name() {
    let at = tempfile::tempdir().unwrap();
    let mut manager = manager(&at, |_| Box::pin(async { panic!("of this test") }));
    let now = SystemTime::now();
    manager.add("app.test", true, now);
    let (asked, answered) = wanted("app.test");
    manager.wanted(asked);
    manager.start_due(now);
    assert!(manager.names["app.test"].running);
    let (name, done) = manager.jobs.join_next().await.unwrap().unwrap();
    manager.done(&name, done).await;
    let entry = &manager.names["app.test"];
    assert!(!entry.running && entry.next > now);
    assert_eq!(entry.failures, 1);
    assert_eq!(entry.error.as_deref(), Some("the attempt has panicked"));
    assert!(answered.await.is_ok(), "whoever waited goes on");
}

#[tokio::test]
async fn hosts_that_do_not_exist_use_up_nothing() {
    let at = tempfile::tempdir().unwrap();
    let known: Lookup = |host| Box::pin(async move { ["a.test", "b.test"].contains(&&*host) });
    let mut manager = manager(&at, known);
    for round in 0..10 {
        for host in 0..MAX_LOOKUPS {
            manager.wanted(wanted(&format!("{round}-{host}.test")).0);
        }
        look_up(&mut manager).await;
    }
    assert!(manager.names.is_empty() && manager.brought.is_empty());

    let (first, _answered) = wanted("a.test");
    manager.wanted(first);
    manager.wanted(wanted("a.test").0);
    manager.wanted(wanted("b.test").0);
    look_up(&mut manager).await;
    let names: Vec<_> = manager.names.keys().collect();
    assert_eq!(names.len(), 1, "{names:?}: one an hour");
}

#[tokio::test]
async fn lookups_are_bounded() {
    let at = tempfile::tempdir().unwrap();
    let mut manager = manager(&at, |_| Box::pin(std::future::pending()));
    let mut waiting = Vec::new();
    for host in 0..MAX_LOOKUPS {
        let (asked, answered) = wanted(&format!("{host}.test"));
        manager.wanted(asked);
        waiting.push(answered);
    }
    let (asked, answered) = wanted("one-more.test");
    manager.wanted(asked);
    assert!(answered.await.is_err(), "is not kept waiting");
    assert!(waiting.iter_mut().all(|w| w.try_recv().is_err()));
    assert_eq!(manager.lookups.len(), MAX_LOOKUPS);
}

#[tokio::test]
async fn advice_to_renew_at_once_does_not_cut_the_wait_after_a_failure_short() {
    let at = tempfile::tempdir().unwrap();
    let mut manager = manager(&at, |_| Box::pin(async { true }));
    let now = SystemTime::now();
    let (hour, day) = (HOUR, 24 * HOUR);
    manager.add("app.test", false, now);
    let entry = manager.names.get_mut("app.test").unwrap();
    entry.held = Some(Leaf {
        der: made().cert,
        validity: Validity {
            from: now - 60 * day,
            until: now + 30 * day,
        },
    });
    let again = now + hour;
    (entry.next, entry.failures) = (again, 1);
    let long_ago = (now - 2 * day, now - day);
    let advice = || Ok(Some((long_ago, hour)));
    manager.asked("app.test", advice(), now);
    assert_eq!(manager.names["app.test"].next, again);
    assert_eq!(manager.names["app.test"].ask, Some(now + hour));

    manager.names.get_mut("app.test").unwrap().failures = 0;
    manager.asked("app.test", advice(), now);
    assert!(manager.names["app.test"].next <= now);
}
