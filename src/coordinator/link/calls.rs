//! Registration and heartbeats: what is called, what follows from the answer, and what of it is
//! worth a line in the log.

use std::time::SystemTime;

use serde_json::Value;
use tokio::task::JoinError;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};
use uuid::Uuid;

use super::super::client::{ClientError, CoordinatorClient, Registered, Registration};
use super::super::resolve::Resolved;
use super::{Heartbeat, Link};

/// The calls that the link makes; tests have a Coordinator of their own.
pub trait Calls: Clone + Send + Sync + 'static {
    fn register(
        &self,
        registration: &Registration,
    ) -> impl Future<Output = Result<Registered, ClientError>> + Send;

    fn heartbeat(
        &self,
        worker: Uuid,
    ) -> impl Future<Output = Result<Registered, ClientError>> + Send;

    fn deregister(&self, worker: Uuid) -> impl Future<Output = Result<(), ClientError>> + Send;

    fn circuits(
        &self,
        worker: Uuid,
    ) -> impl Future<Output = Result<Vec<Value>, ClientError>> + Send;
}

impl Calls for CoordinatorClient {
    async fn register(&self, registration: &Registration) -> Result<Registered, ClientError> {
        Self::register(self, registration).await
    }

    async fn heartbeat(&self, worker: Uuid) -> Result<Registered, ClientError> {
        Self::heartbeat(self, worker).await
    }

    async fn deregister(&self, worker: Uuid) -> Result<(), ClientError> {
        Self::deregister(self, worker).await
    }

    async fn circuits(&self, worker: Uuid) -> Result<Vec<Value>, ClientError> {
        Self::circuits(self, worker).await
    }
}

/// Circuits as they came, and where the names of their kernels lead.
pub struct Listing {
    pub circuits: Vec<Value>,
    pub resolved: Resolved,
}

/// A call that has ended.
pub enum Done {
    Registered(Result<Registered, ClientError>),
    Beaten(Result<Registered, ClientError>),
    /// With the time at which it was requested.
    Listed(Instant, Result<Listing, ClientError>),
    Saved(std::io::Result<()>),
}

impl<C: Calls> Link<C> {
    pub(super) fn register(&mut self) {
        let (client, registration) = (self.client.clone(), self.config.registration.clone());
        self.busy.registering = true;
        self.calls
            .spawn(async move { Done::Registered(client.register(&registration).await) });
    }

    pub(super) fn registered(&mut self, result: Result<Registered, ClientError>, now: Instant) {
        self.busy.registering = false;
        match result {
            Ok(registered) => {
                let (worker, nodes) = (registered.id, registered.nodes);
                info!(%worker, nodes, authority = self.config.authority, "registered");
                self.worker = Some(worker);
                self.status.change(|report| report.worker = Some(worker));
                self.status.count(|c| &mut c.registrations);
                self.registering.reset();
                self.said.registration = None;
                // At once: a registration alone does not renew when this worker was last seen, and
                // one that was away for long would be taken for lost.
                self.due.beat = Some(now);
                self.due.list = Some(now);
            }
            Err(error) => {
                self.status.count(|c| &mut c.registration_failures);
                let wait = self.registering.next();
                self.due.register = Some(now + wait);
                let again = said(&mut self.said.registration, &error);
                match (again, error.is_permanent()) {
                    (true, _) => debug!(%error, ?wait, "still not registered"),
                    (false, true) => error!(
                        %error,
                        check = what_to_check(&error),
                        "the Coordinator refuses the registration; trying on"
                    ),
                    (false, false) => warn!(%error, "not registered; trying on"),
                }
            }
        }
    }

    pub(super) fn beat(&mut self) {
        let Some(worker) = self.worker.filter(|_| !self.busy.beating) else {
            return;
        };
        let client = self.client.clone();
        self.busy.beating = true;
        self.calls
            .spawn(async move { Done::Beaten(client.heartbeat(worker).await) });
    }

    pub(super) fn beaten(&mut self, result: Result<Registered, ClientError>, now: Instant) {
        self.busy.beating = false;
        let failure = result.as_ref().err().map(ToString::to_string);
        let beat = Heartbeat {
            at: SystemTime::now(),
            failure,
        };
        self.status
            .change(|report| report.last_heartbeat = Some(beat));
        let Err(error) = result else {
            self.status.count(|c| &mut c.heartbeats);
            if self.said.heartbeat.take().is_some() {
                info!("heartbeats are answered again");
            }
            return;
        };
        self.status.count(|c| &mut c.heartbeat_failures);
        if error.is_not_found() {
            self.unknown(&error, now);
        } else if said(&mut self.said.heartbeat, &error) {
            debug!(%error, "heartbeat failed again");
        } else {
            warn!(%error, "heartbeat failed; circuits stay as they are");
        }
    }

    /// The Coordinator does not know this worker any more: it is told who we are, and asked what
    /// we are to serve. What is served stays until it has answered.
    pub(super) fn unknown(&mut self, error: &ClientError, now: Instant) {
        if self.worker.take().is_none() {
            return;
        }
        warn!(%error, "the Coordinator does not know this worker; registering again");
        self.status.change(|report| report.worker = None);
        self.said.heartbeat = None;
        self.due.beat = None;
        self.due.list = None;
        self.due.register = Some(now);
    }

    /// A call did not end by itself. Which one is not told, so all of them start afresh.
    pub(super) fn broken(&mut self, error: &JoinError) {
        error!(%error, "a call to the Coordinator broke; starting afresh");
        self.calls.abort_all();
        self.calls = tokio::task::JoinSet::new();
        self.busy = super::Busy::default();
        let soon = Instant::now() + self.registering.next();
        if self.worker.is_none() {
            self.due.register = Some(soon);
        } else {
            self.due.list = Some(soon);
        }
    }
}

/// Whether the same was said before; remembers it.
pub fn said(last: &mut Option<String>, error: &impl ToString) -> bool {
    let text = error.to_string();
    last.replace(text.clone()) == Some(text)
}

fn what_to_check(error: &ClientError) -> &'static str {
    if error.is_unauthorised() {
        "secrets.api_secret must be the same here and at the Coordinator"
    } else if error.is_not_found() {
        "proxy_worker.coordinator_endpoint must be the base URL of the Coordinator, without a path"
    } else {
        "the Coordinator's log says which field of the registration it does not take; frontend_mode, \
         protocol and accepted_traffics come from this worker's configuration"
    }
}
