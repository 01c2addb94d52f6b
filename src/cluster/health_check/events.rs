//! What became of endpoints under check, for whoever reads it in a file (`event_logger`).

use std::sync::Arc;
use std::time::SystemTime;

use causeway_xds::resource::cluster::{HealthCheck, Probe};
use serde_json::{Value, json};

use super::progress::{Step, Verdict};
use crate::telemetry::access_log::LogFile;
use crate::upstream::Endpoint;
use crate::util::time::timestamp;

/// Why a check failed, in Envoy's words (`HealthCheckFailureType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    Active,
    Network,
    NetworkTimeout,
}

impl Cause {
    const fn word(self) -> &'static str {
        match self {
            Self::Active => "ACTIVE",
            Self::Network => "NETWORK",
            Self::NetworkTimeout => "NETWORK_TIMEOUT",
        }
    }
}

/// What one check changed.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    pub verdict: Verdict,
    pub step: Step,
    /// It is the first of its endpoint.
    pub first: bool,
    /// Whether the endpoint has begun or ceased to say that it is degraded.
    pub degraded_changed: bool,
    /// Of a failure.
    pub cause: Cause,
}

/// Writes a line of JSON for each event, `envoy.data.core.v3.HealthCheckEvent`.
pub fn log(
    files: &[Arc<LogFile>],
    check: &HealthCheck,
    cluster: &str,
    endpoint: &Endpoint,
    outcome: Outcome,
) {
    for event in events(check, outcome) {
        let mut line = json!({
            "health_checker_type": kind(check),
            "host": host(endpoint),
            "cluster_name": cluster,
            "timestamp": timestamp(SystemTime::now()),
        });
        line[event.0] = event.1;
        let line = format!("{line}\n");
        files.iter().for_each(|file| file.write(line.as_bytes()));
    }
}

/// In Envoy's words (`HealthCheckerType`).
pub fn kind(check: &HealthCheck) -> &'static str {
    match check.probe {
        Probe::Http(_) => "HTTP",
        Probe::Tcp(_) => "TCP",
        Probe::Grpc { .. } => "GRPC",
    }
}

fn host(endpoint: &Endpoint) -> Value {
    match endpoint.socket_address() {
        Some(address) => json!({"socket_address": {
            "protocol": "TCP",
            "address": address.ip().to_string(),
            "port_value": address.port(),
        }}),
        None => json!({"pipe": {"path": endpoint.to_string()}}),
    }
}

fn events(check: &HealthCheck, outcome: Outcome) -> Vec<(&'static str, Value)> {
    let Outcome {
        verdict,
        step,
        first,
        degraded_changed,
        cause,
    } = outcome;
    let mut events = Vec::new();
    match (verdict, step) {
        (Verdict::Success { .. }, Step::Changed) => {
            events.push(("add_healthy_event", json!({"first_check": first})));
        }
        (Verdict::Failure { .. }, Step::Changed) => {
            let told = json!({"failure_type": cause.word()});
            events.push(("eject_unhealthy_event", told));
        }
        _ => {}
    }
    match verdict {
        Verdict::Success { degraded } => {
            if check.log_success {
                events.push(("successful_health_check_event", json!({})));
            }
            if degraded_changed {
                let name = match degraded {
                    true => "degraded_healthy_host",
                    false => "no_longer_degraded_host",
                };
                events.push((name, json!({})));
            }
        }
        Verdict::Failure { .. } if first || check.log_failures => {
            let told = json!({"failure_type": cause.word(), "first_check": first});
            events.push(("health_check_failure_event", told));
        }
        Verdict::Failure { .. } => {}
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_written_for_what_changed_and_for_what_is_always_wanted() {
        let quiet = super::super::tests::check(2, 2);
        let loud = HealthCheck {
            log_success: true,
            log_failures: true,
            ..quiet.clone()
        };
        let success = Verdict::Success { degraded: true };
        let failure = Verdict::Failure { counts: true };
        let names = |check: &HealthCheck, verdict, step, first, degraded_changed| {
            let outcome = Outcome {
                verdict,
                step,
                first,
                degraded_changed,
                cause: Cause::NetworkTimeout,
            };
            let all = events(check, outcome).into_iter();
            all.map(|(name, _)| name).collect::<Vec<_>>()
        };
        assert_eq!(
            names(&quiet, success, Step::Changed, true, true),
            ["add_healthy_event", "degraded_healthy_host"]
        );
        assert_eq!(names(&quiet, success, Step::Nothing, false, false), [""; 0]);
        assert_eq!(
            names(&loud, success, Step::Nothing, false, false),
            ["successful_health_check_event"]
        );
        assert_eq!(
            names(&quiet, failure, Step::Changed, true, false),
            ["eject_unhealthy_event", "health_check_failure_event"]
        );
        assert_eq!(names(&quiet, failure, Step::Pending, false, false), [""; 0]);
        assert_eq!(
            names(&loud, failure, Step::Pending, false, false),
            ["health_check_failure_event"]
        );
    }
}
