//! Whether everything a worker needs is there: `check-coordinator`, to be run before the worker is.
//!
//! Nothing is changed by it. A registration counts nodes and cannot be tried, so the Coordinator is
//! asked for something harmless that takes the same secret.

mod certificate;
mod date;
mod probes;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use tokio::time::timeout;

use crate::net::listen;
use crate::util::Secret;

pub use date::parse as parse_http_date;

/// One question and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    pub name: String,
    pub outcome: Outcome,
    /// What to do about it. Empty where nothing is to be done.
    pub hint: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With what was found.
    Passed(String),
    /// The worker runs, but this will be felt.
    Doubtful(String),
    Failed(String),
    /// It does not apply, or cannot be told because another check failed.
    Skipped(String),
}

/// Asks the Coordinator.
pub trait ProbeCoordinator: Send + Sync {
    /// `GET /status`, without a secret.
    fn status(&self) -> BoxFuture<'_, Result<Seen, ProbeError>>;
    /// `GET /api/worker`, with the API secret.
    fn workers(&self) -> BoxFuture<'_, Result<Seen, ProbeError>>;
}

/// A good answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Its `Date` field; see [`parse_http_date`].
    pub date: Option<SystemTime>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    #[error("the secret is refused")]
    Refused,
    /// It is there, but says something else.
    #[error("{0}")]
    Answered(String),
    #[error("{0}")]
    Unreachable(String),
}

/// Asks Redis.
pub trait ProbeRedis: Send + Sync {
    /// What failed is told in words without the password.
    fn ping(&self) -> BoxFuture<'_, Result<(), String>>;
    /// Subscribes, publishes, and receives what was published, on a channel that nobody else uses.
    fn pub_sub(&self) -> BoxFuture<'_, Result<(), String>>;
}

/// What is checked.
pub struct Subject<'s> {
    /// `None`: a worker that only takes pushes.
    pub coordinator: Option<&'s dyn ProbeCoordinator>,
    pub redis: Option<&'s dyn ProbeRedis>,
    /// Everything that will be bound, with what it is for.
    pub ports: Vec<(&'static str, SocketAddr)>,
    /// Certificate chains with their keys, PEM.
    pub certificates: Vec<(PathBuf, PathBuf)>,
    /// By key of the configuration.
    pub secrets: Vec<(&'static str, Option<&'s Secret>)>,
    pub now: fn() -> SystemTime,
    /// For each question that goes over the network.
    pub limit: Duration,
}

/// Tokens may be refused as not yet valid from here on: there is no leeway in their times.
const SKEW_FELT: Duration = Duration::from_secs(2);
const SKEW_TOO_MUCH: Duration = Duration::from_secs(30);

/// Asks all questions, in the order in which their answers are of use.
pub async fn run(subject: Subject<'_>) -> Vec<Check> {
    let mut checks = Vec::new();
    coordinator(&subject, &mut checks).await;
    redis(&subject, &mut checks).await;
    for (purpose, address) in ports(&subject.ports) {
        checks.push(port(purpose, &address));
    }
    for (chain, key) in &subject.certificates {
        checks.push(certificate::check(chain, key, (subject.now)()));
    }
    for (key, secret) in &subject.secrets {
        let missing = secret.is_none_or(|secret| secret.expose().is_empty());
        checks.push(Check {
            name: format!("secret {key}"),
            outcome: if missing {
                Outcome::Failed("is missing or empty".to_owned())
            } else {
                Outcome::Passed("is set".to_owned())
            },
            hint: if missing {
                "set it to the value that the Coordinator's own file has"
            } else {
                ""
            },
        });
    }
    checks
}

async fn coordinator(subject: &Subject<'_>, checks: &mut Vec<Check>) {
    let Some(probe) = subject.coordinator else {
        checks.push(skipped("coordinator", "no Coordinator is configured"));
        return;
    };
    let started = (subject.now)();
    let status = within(subject.limit, probe.status()).await;
    let reached = !matches!(status, Err(ProbeError::Unreachable(_)));
    checks.push(Check {
        name: "coordinator answers".to_owned(),
        hint: match &status {
            Ok(_) => "",
            Err(_) => {
                "look at coordinator_endpoint, at the Coordinator itself, and at what is between"
            }
        },
        outcome: outcome(&status, "GET /status"),
    });
    if !reached {
        checks.push(skipped("token accepted", "the Coordinator is not reached"));
        checks.push(skipped("clocks agree", "the Coordinator is not reached"));
        return;
    }
    let workers = within(subject.limit, probe.workers()).await;
    checks.push(Check {
        name: "token accepted".to_owned(),
        hint: match &workers {
            Ok(_) => "",
            Err(ProbeError::Refused) => {
                "secrets.api_secret has to be the one in the Coordinator's file"
            }
            Err(_) => "the Coordinator's log says more",
        },
        outcome: outcome(&workers, "GET /api/worker"),
    });
    let date = status.ok().or(workers.ok()).and_then(|seen| seen.date);
    checks.push(clocks(date, started, (subject.now)()));
}

fn outcome(result: &Result<Seen, ProbeError>, what: &str) -> Outcome {
    match result {
        Ok(_) => Outcome::Passed(what.to_owned()),
        Err(error) => Outcome::Failed(format!("{what}: {error}")),
    }
}

/// The other clock was read at some moment between `from` and `to`, and tells whole seconds.
fn clocks(theirs: Option<SystemTime>, from: SystemTime, to: SystemTime) -> Check {
    let name = "clocks agree".to_owned();
    let Some(theirs) = theirs else {
        return skipped(&name, "the Coordinator does not say what time it is");
    };
    let early = from.duration_since(theirs + Duration::from_secs(1));
    let late = theirs.duration_since(to);
    let (skew, direction) = match (early, late) {
        (Ok(skew), _) => (skew, "behind"),
        (_, Ok(skew)) => (skew, "ahead"),
        _ => (Duration::ZERO, "ahead"),
    };
    let told = format!(
        "the Coordinator's clock is {:.0} s {direction}",
        skew.as_secs_f64()
    );
    let (outcome, hint) = if skew < SKEW_FELT {
        (Outcome::Passed("to a second or two".to_owned()), "")
    } else if skew < SKEW_TOO_MUCH {
        (Outcome::Doubtful(told), SYNCHRONISE)
    } else {
        (Outcome::Failed(told), SYNCHRONISE)
    };
    Check {
        name,
        outcome,
        hint,
    }
}

const SYNCHRONISE: &str = "synchronise both clocks (NTP): tokens are refused outside their times";

async fn redis(subject: &Subject<'_>, checks: &mut Vec<Check>) {
    let Some(probe) = subject.redis else {
        checks.push(skipped("redis", "no Redis is configured"));
        return;
    };
    let asked =
        async |question: BoxFuture<'_, Result<(), String>>| match timeout(subject.limit, question)
            .await
        {
            Ok(done) => done,
            Err(_) => Err(format!("no answer within {:?}", subject.limit)),
        };
    let ping = asked(probe.ping()).await;
    let reached = ping.is_ok();
    checks.push(Check {
        name: "redis answers".to_owned(),
        outcome: match ping {
            Ok(()) => Outcome::Passed("PING".to_owned()),
            Err(why) => Outcome::Failed(format!("PING: {why}")),
        },
        hint: if reached {
            ""
        } else {
            "look at [redis] addr or sentinel, service_name and password"
        },
    });
    if !reached {
        checks.push(skipped("redis carries events", "Redis is not reached"));
        return;
    }
    let carried = asked(probe.pub_sub()).await;
    checks.push(Check {
        name: "redis carries events".to_owned(),
        hint: match &carried {
            Ok(()) => "",
            Err(_) => "publishing or subscribing may be forbidden to this user (ACL)",
        },
        outcome: match carried {
            Ok(()) => Outcome::Passed("published and received".to_owned()),
            Err(why) => Outcome::Failed(why),
        },
    });
}

/// By purpose, in the order in which purposes first come.
fn ports(all: &[(&'static str, SocketAddr)]) -> Vec<(&'static str, Vec<SocketAddr>)> {
    let mut grouped: Vec<(&'static str, Vec<SocketAddr>)> = Vec::new();
    for (purpose, address) in all {
        match grouped.iter_mut().find(|(known, _)| known == purpose) {
            Some((_, addresses)) => addresses.push(*address),
            None => grouped.push((purpose, vec![*address])),
        }
    }
    grouped
}

/// How many ports of a range are named when they fail.
const NAMED: usize = 5;

fn port(purpose: &str, addresses: &[SocketAddr]) -> Check {
    let failed: Vec<(SocketAddr, std::io::Error)> = addresses
        .iter()
        // Closed again at once, before the next: a range may be longer than the limit of files.
        .filter_map(|address| {
            Some((
                *address,
                listen::bind(*address, 1, Default::default()).err()?,
            ))
        })
        .collect();
    let mut told: Vec<String> = failed
        .iter()
        .take(NAMED)
        .map(|(address, error)| format!("{address}: {error}"))
        .collect();
    if failed.len() > NAMED {
        told.push(format!("and {} more", failed.len() - NAMED));
    }
    Check {
        name: format!("{purpose} can be bound"),
        outcome: match (&failed[..], addresses) {
            ([], [one]) => Outcome::Passed(one.to_string()),
            ([], many) => Outcome::Passed(format!("{} ports", many.len())),
            _ => Outcome::Failed(told.join("; ")),
        },
        hint: if failed.is_empty() {
            ""
        } else {
            "another program has them, or a worker that runs already: stop it before this check"
        },
    }
}

fn skipped(name: &str, why: &str) -> Check {
    Check {
        name: name.to_owned(),
        outcome: Outcome::Skipped(why.to_owned()),
        hint: "",
    }
}

async fn within(
    limit: Duration,
    question: BoxFuture<'_, Result<Seen, ProbeError>>,
) -> Result<Seen, ProbeError> {
    match timeout(limit, question).await {
        Ok(answer) => answer,
        Err(_) => Err(ProbeError::Unreachable(format!(
            "no answer within {limit:?}"
        ))),
    }
}

/// A ticked list, for a terminal.
pub fn print(checks: &[Check]) -> String {
    let mut out = String::new();
    for check in checks {
        let (mark, text) = match &check.outcome {
            Outcome::Passed(text) => ("\u{2713}", text),
            Outcome::Doubtful(text) => ("!", text),
            Outcome::Failed(text) => ("\u{2717}", text),
            Outcome::Skipped(text) => ("-", text),
        };
        let _ = writeln!(out, "{mark} {}: {text}", check.name);
        if !check.hint.is_empty() {
            let _ = writeln!(out, "    {}", check.hint);
        }
    }
    out
}

/// 0 if the worker can be started, else 1.
pub fn exit_code(checks: &[Check]) -> u8 {
    let failed = |check: &Check| matches!(check.outcome, Outcome::Failed(_));
    u8::from(checks.iter().any(failed))
}

#[cfg(test)]
mod tests;
