use std::time::Instant;

use causeway_xds::resource::cluster::{Intervals, Probe, TcpProbe};

use super::progress::{Progress, Step, Verdict, wait};
use super::*;

const GOOD: Verdict = Verdict::Success { degraded: false };
const BAD: Verdict = Verdict::Failure { counts: true };
const FINAL: Verdict = Verdict::Failure { counts: false };

fn intervals() -> Intervals {
    let seconds = Duration::from_secs;
    Intervals {
        healthy: seconds(1),
        unhealthy: seconds(2),
        healthy_edge: seconds(3),
        unhealthy_edge: seconds(4),
        no_traffic: seconds(5),
        no_traffic_healthy: seconds(6),
        initial_jitter: Duration::ZERO,
        jitter: Duration::ZERO,
        jitter_percent: 0,
    }
}

pub(super) fn check(unhealthy_threshold: u32, healthy_threshold: u32) -> HealthCheck {
    HealthCheck {
        event_logs: vec![],
        log_success: false,
        log_failures: false,
        background: false,
        timeout: Duration::from_secs(1),
        intervals: intervals(),
        unhealthy_threshold,
        healthy_threshold,
        port: None,
        reuse_connection: true,
        probe: Probe::Tcp(TcpProbe::default()),
    }
}

fn steps(progress: &mut Progress, check: &HealthCheck, verdicts: &[Verdict]) -> Vec<Step> {
    let take = |verdict: &Verdict| progress.take(*verdict, check);
    verdicts.iter().map(take).collect()
}

#[test]
fn the_first_success_is_enough_and_later_ones_have_to_add_up() {
    use Step::{Changed, Nothing, Pending};
    let check = check(2, 3);
    let mut progress = Progress::new(false);
    assert_eq!(
        steps(&mut progress, &check, &[GOOD, GOOD]),
        [Changed, Nothing]
    );
    assert_eq!(
        steps(&mut progress, &check, &[BAD, GOOD, BAD]),
        [Pending, Nothing, Pending]
    );
    assert_eq!(
        steps(&mut progress, &check, &[BAD, BAD]),
        [Changed, Nothing]
    );
    assert_eq!(
        steps(&mut progress, &check, &[GOOD, GOOD, BAD]),
        [Pending, Pending, Nothing]
    );
    assert_eq!(
        steps(&mut progress, &check, &[GOOD, GOOD, GOOD]),
        [Pending, Pending, Changed]
    );
    let mut failing = Progress::new(false);
    assert_eq!(
        steps(&mut failing, &check, &[BAD, GOOD]),
        [Nothing, Pending]
    );
}

#[test]
fn an_endpoint_that_says_so_itself_is_unhealthy_at_once() {
    let mut progress = Progress::new(true);
    assert_eq!(progress.take(FINAL, &check(5, 1)), Step::Changed);
}

#[test]
fn the_wait_follows_state_and_traffic() {
    let of = |verdict, step, traffic| wait(verdict, step, &intervals(), traffic).as_secs();
    assert_eq!(of(GOOD, Step::Nothing, true), 1);
    assert_eq!(of(BAD, Step::Nothing, true), 2);
    assert_eq!(of(GOOD, Step::Pending, true), 3);
    assert_eq!(of(BAD, Step::Pending, true), 4);
    assert_eq!(of(BAD, Step::Nothing, false), 5);
    assert_eq!(of(GOOD, Step::Changed, false), 6);
    for _ in 0..100 {
        let one = Duration::from_secs(1);
        let with = jittered(one, Duration::from_millis(500), 20);
        assert!(
            (one..Duration::from_millis(1_700)).contains(&with),
            "{with:?}"
        );
    }
}

#[tokio::test]
async fn changes_are_collected_until_somebody_asks() {
    let changes = Changes::default();
    let names: [Arc<str>; 2] = ["a".into(), "b".into()];
    changes.note(&names[0], Urgency::AtOnce);
    changes.note(&names[0], Urgency::Mergeable);
    changes.note(&names[1], Urgency::Mergeable);
    let expected = [Urgency::AtOnce, Urgency::Mergeable];
    assert_eq!(
        changes.next().await,
        names.into_iter().zip(expected).collect()
    );
    let waiting = tokio::time::timeout(Duration::from_millis(1), changes.next());
    let started = Instant::now();
    assert!(waiting.await.is_err(), "{:?}", started.elapsed());
}
