//! What holds whatever happens, with few servers and a fixed seed.

use crate::fleet::Fleet;
use crate::report::Report;
use crate::scenario::{Policy, Scenario, Trouble, Watch};

const SERVERS: usize = 40;
const SECONDS: u64 = 10;

async fn run(policy: Policy, watch: Watch, trouble: Trouble) -> Report {
    simulate(policy, watch, Scenario::new(trouble, SERVERS, SECONDS)).await
}

async fn simulate(policy: Policy, watch: Watch, scenario: Scenario) -> Report {
    let report = Fleet::new(policy, watch, scenario, 7).run().await;
    let answered = report.latencies.len() + report.errors;
    assert_eq!(answered, report.requests, "a request ends once");
    assert!(report.attempts <= 3 * report.requests);
    report
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_leads_to_the_same_end() {
    let run = || run(Policy::LeastRequest, Watch::Both, Trouble::Flapping);
    let (first, second) = (run().await, run().await);
    assert_eq!(first, second);
    let other = Scenario::new(Trouble::Flapping, SERVERS, SECONDS);
    let other = Fleet::new(Policy::LeastRequest, Watch::Both, other, 8);
    assert_ne!(first, other.run().await);
}

#[tokio::test(start_paused = true)]
async fn when_nothing_happens_nothing_fails() {
    for policy in Policy::ALL {
        let report = run(policy, Watch::Both, Trouble::Calm).await;
        assert_eq!((report.errors, report.most_ejected), (0, 0), "{policy:?}");
        assert_eq!(report.attempts, report.requests);
        assert!(report.taken.iter().all(|taken| *taken > 0), "{policy:?}");
    }
    // Turns are even to one request, where nobody changes the list.
    let turns = run(Policy::RoundRobin, Watch::Nothing, Trouble::Calm).await;
    let (least, most) = (turns.taken.iter().min(), turns.taken.iter().max());
    assert!(most.unwrap() - least.unwrap() <= 1, "{:?}", turns.taken);
}

/// Requests that a dead server refuses or drops are asked of another one.
#[tokio::test(start_paused = true)]
async fn deaths_cost_no_request_where_they_are_noticed() {
    for policy in Policy::ALL {
        let report = run(policy, Watch::Both, Trouble::Deaths).await;
        // Only at the moment itself a request may meet three of them.
        assert!(
            1_000 * report.errors <= report.requests,
            "{policy:?}: {}",
            report.errors
        );
        assert!(report.most_ejected <= SERVERS * 3 / 10);
    }
}

#[tokio::test(start_paused = true)]
async fn silent_servers_are_left_out_sooner_with_outlier_detection() {
    let of = |watch| run(Policy::LeastRequest, watch, Trouble::Silence);
    let (blind, watched) = (of(Watch::Nothing).await, of(Watch::Both).await);
    assert!(watched.percentile(0.999) <= blind.percentile(0.999));
    // Attempts that wait for a connection are those beyond the first.
    let lost = |report: &Report| report.attempts - report.requests;
    assert!(
        2 * lost(&watched) < lost(&blind),
        "{} {}",
        lost(&watched),
        lost(&blind)
    );
}

#[tokio::test(start_paused = true)]
async fn servers_that_fail_fast_attract_nobody_for_long() {
    // They have the fewest requests under way, and so least request prefers them.
    let of = |watch| run(Policy::LeastRequest, watch, Trouble::BadAnswers);
    let (blind, watched) = (of(Watch::Nothing).await, of(Watch::Outliers).await);
    assert!(
        5 * watched.errors < blind.errors,
        "{} {}",
        watched.errors,
        blind.errors
    );
    assert!(watched.most_ejected > 0 && watched.most_ejected <= SERVERS * 3 / 10);
    // Checks come less often than requests do.
    let checks = of(Watch::Checks).await;
    assert!(checks.errors > watched.errors);
}

#[tokio::test(start_paused = true)]
async fn least_request_spares_slow_servers() {
    let turns = run(Policy::RoundRobin, Watch::Both, Trouble::Slowness).await;
    let least = run(Policy::LeastRequest, Watch::Both, Trouble::Slowness).await;
    assert!(
        least.errors < turns.errors,
        "{} {}",
        least.errors,
        turns.errors
    );
    assert!(least.percentile(0.99) < turns.percentile(0.99));
}

#[tokio::test(start_paused = true)]
async fn slow_start_spares_new_servers() {
    let of = |slow_start| {
        let scenario = Scenario {
            slow_start,
            ..Scenario::new(Trouble::Redeploy, SERVERS, 24)
        };
        simulate(Policy::RoundRobin, Watch::Nothing, scenario)
    };
    let (cold, slow) = (of(false).await, of(true).await);
    assert!(
        slow.errors <= cold.errors,
        "{} {}",
        slow.errors,
        cold.errors
    );
    assert!(slow.percentile(0.99) < cold.percentile(0.99));
}

/// More than all servers can do is nothing that leaving some of them out would mend.
#[tokio::test(start_paused = true)]
async fn a_herd_ejects_no_more_than_allowed() {
    for policy in [Policy::LeastRequest, Policy::Maglev] {
        let report = run(policy, Watch::Both, Trouble::Herd).await;
        assert!(report.most_ejected <= SERVERS * 3 / 10, "{policy:?}");
    }
}
