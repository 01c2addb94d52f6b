//! Which names have a certificate, which is next, and who waits for it.

mod demand;

use std::collections::{BTreeMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::FutureExt as _;
use instant_acme::ChallengeType;
use rustls::sign::CertifiedKey;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use self::demand::MAX_ON_DEMAND;
use super::account::Authority;
use super::leaf::{Leaf, Window, parse, renewal_info};
use super::order::{Issued, order};
use super::schedule::backoff;
use super::status::{Doing, Seen};
use super::{Failure, Known, Status, proof};
use crate::telemetry::stats::{AcmeStats, Stats};
use crate::tls::Automatic;
use crate::tls::automatic::Signal;

/// Calls on the authority at one time.
const MAX_JOBS: usize = 4;
/// A clock that was set is noticed after so long.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);
/// Between two questions for renewal information (RFC 9773 section 4.3.3), whatever is answered.
const ASK_AT_LEAST: Duration = Duration::from_secs(60);
const ASK_AT_MOST: Duration = Duration::from_secs(24 * 3600);
const ASK_AGAIN: Duration = Duration::from_secs(6 * 3600);
/// An authority whose advice is always "now" is not followed more often than this.
const REST: Duration = Duration::from_secs(60);
/// Until a host that nothing is served under is looked at again.
const UNSERVED: Duration = Duration::from_secs(3600);

pub(super) struct Manager {
    authority: Arc<Authority>,
    automatic: Arc<Automatic>,
    known: Known,
    stats: Arc<Stats>,
    status: Status,
    names: BTreeMap<String, Name>,
    jobs: JoinSet<(String, Done)>,
    /// Hosts that clients ask for: whether something is served there.
    lookups: JoinSet<(bool, Signal)>,
    /// When names were brought in by clients, during the last hour.
    brought: VecDeque<Instant>,
}

struct Name {
    on_demand: bool,
    held: Option<Leaf>,
    /// Of the next order.
    next: SystemTime,
    /// Of the next question for renewal information. `None`: there is none to be had.
    ask: Option<SystemTime>,
    running: bool,
    /// In a row.
    failures: u32,
    error: Option<String>,
    waiters: Vec<oneshot::Sender<()>>,
    stats: Arc<AcmeStats>,
}

enum Done {
    Ordered(Result<Issued, Failure>),
    /// Nothing is served under this name.
    Unserved,
    /// The window, and when to ask again; `None`: never.
    Asked(Result<Option<(Window, Duration)>, Failure>),
}

impl Manager {
    pub(super) fn new(
        authority: Arc<Authority>,
        automatic: Arc<Automatic>,
        known: Known,
        stats: Arc<Stats>,
        status: Status,
    ) -> Self {
        Self {
            authority,
            automatic,
            known,
            stats,
            status,
            names: BTreeMap::new(),
            jobs: JoinSet::new(),
            lookups: JoinSet::new(),
            brought: VecDeque::new(),
        }
    }

    /// Puts in force what is on disk, so that a start needs no authority.
    pub(super) fn load(&mut self) {
        let configured = self.authority.config.domains.clone();
        for name in &configured {
            self.load_name(name, false);
        }
        let stored = self.authority.store.names().unwrap_or_else(|error| {
            tracing::error!(%error, "ACME: cannot list the certificates on disk");
            Vec::new()
        });
        let domain = self.authority.config.circuits.clone();
        let circuit = |name: &str| {
            let label = domain
                .as_deref()
                .and_then(|domain| name.strip_suffix(domain));
            label.is_some_and(|label| !label.contains(['.', '*']))
        };
        for name in stored
            .iter()
            .filter(|name| circuit(name))
            .take(MAX_ON_DEMAND)
        {
            if !self.names.contains_key(name) {
                self.load_name(name, true);
            }
        }
    }

    fn load_name(&mut self, name: &str, on_demand: bool) {
        let found = match self.authority.store.certificate(name) {
            Ok(found) => found,
            Err(error) => {
                tracing::error!(name, %error, "ACME: a certificate on disk is not used");
                None
            }
        };
        if found.is_none() && on_demand {
            return;
        }
        let now = SystemTime::now();
        self.add(name, on_demand, now);
        let Some(pem) = found else {
            return;
        };
        match parse(name, pem) {
            Ok((key, leaf)) => {
                let until = leaf.validity.until;
                self.put_in_force(name, key, leaf, now);
                tracing::info!(name, expires = %crate::util::time::timestamp(until),
                    "ACME certificate taken from disk");
            }
            Err(error) => tracing::error!(name, %error, "ACME: a certificate on disk is not used"),
        }
        self.note(name);
    }

    fn add(&mut self, name: &str, on_demand: bool, now: SystemTime) {
        let stats = self.stats.acme(name);
        self.names.entry(name.to_owned()).or_insert(Name {
            on_demand,
            held: None,
            next: now,
            ask: None,
            running: false,
            failures: 0,
            error: None,
            waiters: Vec::new(),
            stats,
        });
    }

    fn put_in_force(&mut self, name: &str, key: CertifiedKey, leaf: Leaf, now: SystemTime) {
        self.automatic.install(name, Arc::new(key));
        let Some(entry) = self.names.get_mut(name) else {
            return;
        };
        let until = leaf.validity.until.duration_since(UNIX_EPOCH);
        let until = until.unwrap_or_default().as_secs();
        let expiry = &entry.stats.certificate_expiry_timestamp_seconds;
        expiry.set(i64::try_from(until).unwrap_or(i64::MAX));
        entry.next = leaf.validity.renewal(fastrand::f64());
        entry.ask = Some(now);
        entry.held = Some(leaf);
    }

    /// Works until told to stop.
    pub(super) async fn run(
        mut self,
        mut wanted: mpsc::Receiver<Signal>,
        mut stop: watch::Receiver<bool>,
    ) {
        loop {
            self.start_due(SystemTime::now());
            let sleep = self.until_next(SystemTime::now());
            tokio::select! {
                // Dropped at once: what it borrows must not be held while an order is settled.
                () = async { stop.wait_for(|stop| *stop).await.ok(); } => return,
                Some(wanted) = wanted.recv() => self.wanted(wanted),
                Some(done) = self.jobs.join_next(), if !self.jobs.is_empty() => match done {
                    Ok((name, done)) => self.done(&name, done).await,
                    Err(error) => tracing::error!(%error, "an ACME job was lost"),
                },
                Some(looked_up) = self.lookups.join_next(), if !self.lookups.is_empty() => {
                    match looked_up {
                        Ok((known, wanted)) => self.looked_up(known, wanted),
                        Err(error) => tracing::error!(%error, "ACME: a host could not be looked up"),
                    }
                }
                () = tokio::time::sleep(sleep) => {}
            }
        }
    }

    fn until_next(&self, now: SystemTime) -> Duration {
        if self.jobs.len() >= MAX_JOBS {
            return LONGEST_SLEEP;
        }
        // The end of a job is looked at anyway.
        let full = self.places_for_strangers() == 0;
        let held_up = |name: &Name| name.running || (full && name.is_strange());
        let idle = self.names.values().filter(|name| !held_up(name));
        let next = idle.map(Name::due).min();
        let sleep = next.map(|next| next.duration_since(now).unwrap_or_default());
        sleep.unwrap_or(LONGEST_SLEEP).min(LONGEST_SLEEP)
    }

    /// Users make hosts as they like: one place is left for those that are configured or held already.
    fn places_for_strangers(&self) -> usize {
        let running = self.names.values().filter(|n| n.running && n.is_strange());
        (MAX_JOBS - 1).saturating_sub(running.count())
    }

    fn start_due(&mut self, now: SystemTime) {
        let due = |name: &Name| !name.running && name.due() <= now;
        let mut all: Vec<&String> = self
            .names
            .iter()
            .filter(|(_, n)| due(n))
            .map(|(k, _)| k)
            .collect();
        // Those that somebody waits for come first.
        all.sort_by_key(|name| self.names[*name].waiters.is_empty());
        let free = MAX_JOBS.saturating_sub(self.jobs.len());
        let mut strangers = self.places_for_strangers();
        all.retain(|name| {
            let strange = self.names[*name].is_strange();
            let admitted = !strange || strangers > 0;
            strangers -= usize::from(strange && admitted);
            admitted
        });
        let all: Vec<String> = all.into_iter().take(free).cloned().collect();
        for name in all {
            self.start(name, now);
        }
    }

    fn start(&mut self, name: String, now: SystemTime) {
        let Some(entry) = self.names.get_mut(&name) else {
            return;
        };
        entry.running = true;
        let authority = Arc::clone(&self.authority);
        let earlier = entry.held.as_ref().map(|leaf| leaf.der.clone());
        if entry.next > now
            && let Some(der) = earlier
        {
            let broken = Done::Asked(Err(Failure::Panicked));
            self.spawn(name, broken, async move {
                Done::Asked(renewal_info(&authority, &der).await)
            });
            return;
        }
        let automatic = Arc::clone(&self.automatic);
        let known = entry.on_demand.then(|| Arc::clone(&self.known));
        self.note(&name);
        let of = name.clone();
        let broken = Done::Ordered(Err(Failure::Panicked));
        self.spawn(name, broken, async move {
            if let Some(known) = known
                && !known(of.clone()).await
            {
                return Done::Unserved;
            }
            Done::Ordered(order(&authority, &automatic, &of, earlier.as_ref()).await)
        });
    }

    /// `broken` is what a job comes to that panics: its name must not wait for it for ever.
    fn spawn(
        &mut self,
        name: String,
        broken: Done,
        job: impl Future<Output = Done> + Send + 'static,
    ) {
        self.jobs.spawn(async move {
            let done = AssertUnwindSafe(job).catch_unwind().await;
            (name, done.unwrap_or(broken))
        });
    }

    async fn done(&mut self, name: &str, done: Done) {
        let now = SystemTime::now();
        match done {
            Done::Ordered(result) => {
                let result = result.and_then(|issued| self.issued(name, &issued, now));
                if let Err(failure) = result {
                    let at_once = self.authority.forget_if_unknown(&failure).await;
                    self.failed(name, &failure, at_once, now);
                }
                self.settle(name);
            }
            Done::Asked(asked) => {
                self.asked(name, asked, now);
                self.settle(name);
            }
            Done::Unserved => self.unserved(name, now),
        }
    }

    fn issued(&mut self, name: &str, issued: &Issued, now: SystemTime) -> Result<(), Failure> {
        let pem = format!("{}\n{}", issued.key.trim_end(), issued.chain).into_bytes();
        let (key, leaf) = parse(name, pem.clone())?;
        if leaf.validity.is_over(now) {
            return Err(Failure::Certificate("is not good any more".to_owned()));
        }
        if let Err(error) = self.authority.store.write_certificate(name, &pem) {
            tracing::error!(name, %error, "ACME: cannot keep a certificate; a restart orders it again");
        }
        let until = leaf.validity.until;
        self.put_in_force(name, key, leaf, now);
        if let Some(entry) = self.names.get_mut(name) {
            entry.stats.orders.inc();
            entry.failures = 0;
            entry.error = None;
        }
        tracing::info!(name, expires = %crate::util::time::timestamp(until),
            "ACME certificate obtained");
        Ok(())
    }

    /// `at_once`: what was in the way is gone, so there is no reason to wait, the first time.
    fn failed(&mut self, name: &str, failure: &Failure, at_once: bool, now: SystemTime) {
        let Some(entry) = self.names.get_mut(name) else {
            return;
        };
        entry.stats.orders.inc();
        entry.stats.order_failures.inc();
        entry.failures = entry.failures.saturating_add(1);
        let refused = !matches!(failure, Failure::Unanswered(_));
        let repeated = at_once && entry.error.as_deref() == Some(&*failure.to_string());
        let wait = match at_once && !repeated {
            true => Duration::ZERO,
            false => backoff(entry.failures, refused, fastrand::f64()),
        };
        entry.next = now + wait;
        entry.error = Some(failure.to_string());
        let shown = match &entry.held {
            Some(_) => "the last certificate",
            None => "a certificate of our own, which clients do not trust",
        };
        tracing::warn!(name, error = %failure, again = ?wait, shown, "ACME order failed");
    }

    fn asked(
        &mut self,
        name: &str,
        asked: Result<Option<(Window, Duration)>, Failure>,
        now: SystemTime,
    ) {
        let Some(entry) = self.names.get_mut(name) else {
            return;
        };
        let Some(leaf) = &entry.held else {
            return;
        };
        entry.ask = match asked {
            Ok(None) => None,
            Ok(Some((window, again))) => {
                let suggested = leaf.validity.suggested(window, fastrand::f64());
                let length = leaf.validity.until.duration_since(leaf.validity.from);
                let rest = REST.min(length.unwrap_or_default() / 4);
                // Only a new window moves what was chosen by chance, and none the wait after a
                // failure: an authority whose advice is "now" would be asked without a pause.
                let moved = entry.next < window.0 || entry.next > window.1;
                if moved && entry.failures == 0 {
                    entry.next = suggested.max(leaf.validity.from + rest);
                }
                Some(now + again.clamp(ASK_AT_LEAST, ASK_AT_MOST))
            }
            Err(error) => {
                tracing::info!(name, %error, "no ACME renewal information");
                Some(now + ASK_AGAIN)
            }
        };
    }

    fn unserved(&mut self, name: &str, now: SystemTime) {
        let Some(entry) = self.names.get_mut(name) else {
            return;
        };
        if let Some(leaf) = &entry.held
            && !leaf.validity.is_over(now)
        {
            // Its circuit may only not be there yet.
            entry.next = now + UNSERVED;
            return self.settle(name);
        }
        if entry.held.is_some()
            && let Err(error) = self.authority.store.remove_certificate(name)
        {
            tracing::warn!(name, %error, "ACME: an old certificate stays on disk");
        }
        self.automatic.remove(name);
        self.names.remove(name);
        self.stats.forget_acme(name);
        self.status.forget(name);
    }

    /// A job for this name has ended.
    fn settle(&mut self, name: &str) {
        if let Some(entry) = self.names.get_mut(name) {
            entry.running = false;
            for waiter in entry.waiters.drain(..) {
                // Whoever waited may have gone.
                let _ = waiter.send(());
            }
        }
        self.note(name);
    }

    fn note(&self, name: &str) {
        let Some(entry) = self.names.get(name) else {
            return;
        };
        let ordering = entry.running && entry.next <= SystemTime::now();
        let seen = Seen {
            doing: match (&entry.held, ordering) {
                (_, true) => Doing::Ordering,
                (Some(_), false) => Doing::Serving,
                (None, false) => Doing::Waiting,
            },
            on_demand: entry.on_demand,
            challenge: match proof::kind(&self.authority.config, name) {
                ChallengeType::TlsAlpn01 => "tls-alpn-01",
                _ => "dns-01",
            },
            expires: entry.held.as_ref().map(|leaf| leaf.validity.until),
            next: entry.next,
            orders: entry.stats.orders.value(),
            failures: entry.stats.order_failures.value(),
            error: entry.error.clone(),
        };
        self.status.note(name, seen);
    }
}

impl Name {
    /// Asked for by a client, and nothing is known of it yet.
    fn is_strange(&self) -> bool {
        self.on_demand && self.held.is_none()
    }

    /// When there is something to do.
    fn due(&self) -> SystemTime {
        self.ask.map_or(self.next, |ask| ask.min(self.next))
    }
}

#[cfg(test)]
mod tests;
