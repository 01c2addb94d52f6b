//! Marks of use, which keep sessions and circuits alive.
//!
//! The Manager ends a compute session, and the Coordinator a circuit, that has not been used for
//! long; they look at these keys. Uses are collected on the request path and written from here
//! about once a second for all circuits, so that traffic never waits for Redis. While Redis is
//! down nothing is lost: what was not written stays due.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::Pipeline;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::redis::{Link, Outage, RedisConfig, db, refused};
use crate::telemetry::activity::{Activities, Activity, unix_millis};

/// How often uses are written.
pub const PERIOD: Duration = Duration::from_secs(1);
/// How often a use that goes on counts as one.
const WHILE_OPEN: Duration = Duration::from_millis(1500);
/// How long a mark lasts, in seconds: two days.
const MARK_LASTS: u64 = 172_800;
/// How long a count lasts after the last request, in seconds.
const COUNT_LASTS: u64 = 3600;
/// Commands in one batch; a circuit's commands stay together.
const BATCH: usize = 500;
/// How long the last writing may take.
const LAST_WRITE: Duration = Duration::from_secs(1);

/// Writes the use of all circuits; [`UsageWriter::run`] is its whole life.
#[derive(Debug)]
pub struct UsageWriter {
    activities: Arc<Activities>,
    period: Duration,
    link: Link,
    written: HashMap<Uuid, Written>,
    /// Since when Redis has been down.
    down: Option<Instant>,
}

/// What Redis knows of a circuit.
#[derive(Clone, Copy, Debug, Default)]
struct Written {
    requests: u64,
    last: u64,
    at: Option<Instant>,
}

/// One circuit's share of a batch.
struct Due {
    circuit: Uuid,
    then: Written,
}

impl UsageWriter {
    pub fn new(config: RedisConfig, activities: Arc<Activities>, period: Duration) -> Self {
        Self {
            activities,
            period,
            link: Link::new(config, db::LIVE),
            written: HashMap::new(),
            down: None,
        }
    }

    /// Writes from time to time until told to stop, and then once more.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut ticks = tokio::time::interval(self.period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = stop.wait_for(|stop| *stop) => break,
            }
            // Not broken off at once: what was sent without an answer would be counted twice.
            let late = async {
                stop.wait_for(|stop| *stop).await.ok();
                tokio::time::sleep(LAST_WRITE).await;
            };
            tokio::select! {
                () = self.write_and_report() => {}
                () = late => return fired(),
            }
        }
        let last = tokio::time::timeout(LAST_WRITE, self.write_and_report());
        last.await.unwrap_or_else(|_| fired());
    }

    async fn write_and_report(&mut self) {
        match (self.write().await, self.down) {
            (Ok(()), Some(since)) => {
                info!(after = ?since.elapsed(), "redis takes usage marks again");
                self.down = None;
            }
            (Err(outage), None) => {
                warn!(%outage, "redis does not take usage marks; they are kept until it does");
                self.down = Some(Instant::now());
            }
            (Err(outage), Some(_)) => debug!(%outage, "redis still takes no usage marks"),
            (Ok(()), None) => {}
        }
    }

    /// Writes all that is due, batch by batch, and gives up at the first that fails.
    async fn write(&mut self) -> Result<(), Outage> {
        let all = self.activities.list();
        let mut batch = redis::pipe();
        let mut due = Vec::new();
        for activity in &all {
            let before = self.written.get(&activity.circuit()).copied();
            due.extend(add(&mut batch, activity, before.unwrap_or_default()));
            if batch.len() >= BATCH {
                self.send(&mut batch, &mut due).await?;
            }
        }
        if !batch.is_empty() {
            self.send(&mut batch, &mut due).await?;
        }
        self.forget(&all);
        Ok(())
    }

    async fn send(&mut self, batch: &mut Pipeline, due: &mut Vec<Due>) -> Result<(), Outage> {
        let answers = self.link.run(batch).await?;
        // A key that somebody made something else of. Trying again would not help, and it must
        // not keep the others from being written.
        if let Some(reason) = refused(&answers) {
            warn!(%reason, "redis refused a usage mark");
        }
        for done in due.drain(..) {
            self.written.insert(done.circuit, done.then);
        }
        batch.clear();
        Ok(())
    }

    /// Drops circuits that are removed, closed and written.
    fn forget(&mut self, all: &[Arc<Activity>]) {
        for activity in all.iter().filter(|activity| activity.is_removed()) {
            let circuit = activity.circuit();
            let written = self.written.get(&circuit).copied().unwrap_or_default();
            if written.last == activity.last() {
                self.activities.forget(circuit, written.requests);
            }
        }
        if self.written.len() > all.len() {
            let known: HashSet<Uuid> = all.iter().map(|activity| activity.circuit()).collect();
            self.written.retain(|circuit, _| known.contains(circuit));
        }
    }
}

fn fired() {
    warn!(deadline = "last usage marks", limit = ?LAST_WRITE, "deadline fired, marks are lost");
}

/// Adds what is due for a circuit, if anything is.
fn add(batch: &mut Pipeline, activity: &Activity, before: Written) -> Option<Due> {
    // The stamp is read before what it belongs to: a use that begins in between is then seen next
    // time again, rather than never.
    let (last, open, requests) = (activity.last(), activity.open() > 0, activity.requests());
    let long_ago = before.at.is_none_or(|at| at.elapsed() >= WHILE_OPEN);
    let new = requests.saturating_sub(before.requests);
    if new == 0 && last <= before.last && !(open && long_ago) {
        return None;
    }
    let circuit = activity.circuit();
    let time = seconds(if open { unix_millis() } else { last });
    for session in activity.sessions().iter() {
        mark(batch, &format!("session.{session}.last_access"), &time);
    }
    mark(batch, &format!("circuit.{circuit}.last_access"), &time);
    if new > 0 {
        let key = format!("circuit.{circuit}.requests");
        batch.cmd("INCRBY").arg(&key).arg(new);
        batch.cmd("EXPIRE").arg(&key).arg(COUNT_LASTS);
    }
    let then = Written {
        requests,
        last,
        at: Some(Instant::now()),
    };
    Some(Due { circuit, then })
}

fn mark(batch: &mut Pipeline, key: &str, time: &str) {
    let set = batch.cmd("SET").arg(key).arg(time);
    set.arg("EX").arg(MARK_LASTS);
}

/// Unix time in seconds with a fraction, as text.
fn seconds(millis: u64) -> String {
    format!("{}.{:03}", millis / 1000, millis % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CIRCUIT: Uuid = Uuid::from_u128(0xC1);
    const SESSION: Uuid = Uuid::from_u128(0x5E);

    fn sent(batch: &Pipeline) -> Vec<String> {
        let text = String::from_utf8(batch.get_packed_pipeline()).unwrap();
        let mut commands = Vec::new();
        for part in text.split("\r\n") {
            match part.as_bytes().first() {
                Some(b'*') => commands.push(String::new()),
                Some(b'$') | None => {}
                Some(_) => {
                    let command = commands.last_mut().unwrap();
                    command.push_str(part);
                    command.push(' ');
                }
            }
        }
        commands
    }

    #[test]
    fn a_use_is_two_marks_and_a_count() {
        let activities = Activities::default();
        let activity = activities.announce(CIRCUIT, &[SESSION]);
        let mut batch = redis::pipe();
        assert!(add(&mut batch, &activity, Written::default()).is_none());
        for _ in 0..3 {
            drop(activity.begin());
        }
        let due = add(&mut batch, &activity, Written::default()).unwrap();
        let time = seconds(activity.last());
        assert_eq!(
            sent(&batch),
            [
                format!("SET session.{SESSION}.last_access {time} EX 172800 "),
                format!("SET circuit.{CIRCUIT}.last_access {time} EX 172800 "),
                format!("INCRBY circuit.{CIRCUIT}.requests 3 "),
                format!("EXPIRE circuit.{CIRCUIT}.requests 3600 "),
            ]
        );
        assert!(add(&mut batch, &activity, due.then).is_none(), "written");
    }

    #[test]
    fn what_stays_open_is_marked_but_not_counted_again() {
        let activities = Activities::default();
        let activity = activities.announce(CIRCUIT, &[]);
        let open = activity.begin();
        let mut batch = redis::pipe();
        let mut then = add(&mut batch, &activity, Written::default()).unwrap().then;
        assert!(add(&mut batch, &activity, then).is_none(), "too soon");
        then.at = Instant::now().checked_sub(WHILE_OPEN);
        batch.clear();
        assert!(add(&mut batch, &activity, then).is_some());
        assert_eq!(batch.len(), 1, "only the mark");
        drop(open);
    }

    #[test]
    fn times_are_seconds_with_a_fraction() {
        assert_eq!(seconds(1_795_509_863_048), "1795509863.048");
    }
}
