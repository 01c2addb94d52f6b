//! The numbers of docs/LOAD-BALANCING.md.

use crate::fleet::Fleet;
use crate::report::Report;
use crate::scenario::{Policy, Scenario, Trouble, Watch};

const SERVERS: usize = 1_000;
const SECONDS: u64 = 12;

async fn run(policy: Policy, watch: Watch, scenario: Scenario) -> Report {
    Fleet::new(policy, watch, scenario, 1).run().await
}

fn cell(report: &Report) -> String {
    let (median, tail) = (report.percentile(0.5), report.percentile(0.99));
    let last = report.percentile(0.999);
    format!("{:.2} %; {median}, {tail}, {last}", report.error_rate())
}

fn row(first: &str, cells: &[String]) {
    println!("| {first} | {} |", cells.join(" | "));
}

#[tokio::test(start_paused = true)]
#[ignore = "takes minutes, and prints"]
async fn table() {
    println!(
        "\nFailed requests; latency of the others in ms: median, 99 %, 99.9 %. Both kinds of watch.\n"
    );
    let names: Vec<String> = Policy::ALL.iter().map(|p| p.name().to_owned()).collect();
    row("", &names);
    row("---", &vec!["---".to_owned(); names.len()]);
    for trouble in Trouble::ALL {
        let mut cells = Vec::new();
        for policy in Policy::ALL {
            let scenario = Scenario::new(trouble, SERVERS, SECONDS);
            cells.push(cell(&run(policy, Watch::Both, scenario).await));
        }
        row(trouble.name(), &cells);
    }
    println!("\nWhat stands against it, with least request of two.\n");
    let names: Vec<String> = Watch::ALL.iter().map(|w| w.name().to_owned()).collect();
    row("", &names);
    row("---", &vec!["---".to_owned(); names.len()]);
    let troubles = [
        Trouble::Deaths,
        Trouble::Silence,
        Trouble::Flapping,
        Trouble::BadAnswers,
    ];
    for trouble in troubles {
        let mut cells = Vec::new();
        for watch in Watch::ALL {
            let scenario = Scenario::new(trouble, SERVERS, SECONDS);
            cells.push(cell(&run(Policy::LeastRequest, watch, scenario).await));
        }
        row(trouble.name(), &cells);
    }
    println!("\nAll are replaced, 10 % each 2 s, and new ones are five times slower at first.\n");
    row("", &["at once".to_owned(), "slow start of 10 s".to_owned()]);
    row("---", &vec!["---".to_owned(); 2]);
    for policy in [Policy::RoundRobin, Policy::LeastRequest] {
        let mut cells = Vec::new();
        for slow_start in [false, true] {
            let scenario = Scenario {
                slow_start,
                ..Scenario::new(Trouble::Redeploy, SERVERS, 26)
            };
            cells.push(cell(&run(policy, Watch::Both, scenario).await));
        }
        row(policy.name(), &cells);
    }
}
