//! Certificates that the worker gets by itself: from its file to what listeners show.

use std::sync::Arc;

use anyhow::Result;
use tokio::sync::{mpsc, watch};

use crate::acme::{self, Known, Status};
use crate::config::{Acme, WorkerConfig};
use crate::coordinator::Circuits;
use crate::telemetry::stats::Stats;
use crate::tls::Automatic;
use crate::tls::automatic::Signal;

/// What listeners look into, before there is anything in it.
pub(super) struct Certificates {
    pub(super) automatic: Arc<Automatic>,
    config: Acme,
    wanted: mpsc::Receiver<Signal>,
}

impl Certificates {
    /// `None`: the file has no `[causeway.acme]`.
    ///
    /// # Errors
    /// No key can be made.
    pub(super) fn of(worker: &WorkerConfig) -> Result<Option<Self>> {
        let Some(config) = &worker.causeway.acme else {
            return Ok(None);
        };
        let (automatic, wanted) = Automatic::new(&config.domains, config.circuits.clone())?;
        Ok(Some(Self {
            automatic,
            config: config.clone(),
            wanted,
        }))
    }

    /// Begins to fill it.
    ///
    /// # Errors
    /// See [`acme::start`].
    pub(super) fn start(
        self,
        circuits: &Arc<Circuits>,
        stats: &Arc<Stats>,
        stop: watch::Receiver<bool>,
    ) -> Result<Status> {
        let circuits = Arc::downgrade(circuits);
        let known: Known = Arc::new(move |host| {
            let circuits = circuits.upgrade();
            Box::pin(async move {
                match circuits {
                    Some(circuits) => circuits.serves_host(&host).await,
                    None => false,
                }
            })
        });
        acme::start(acme::Parts {
            config: self.config,
            automatic: self.automatic,
            wanted: self.wanted,
            known,
            stats: Arc::clone(stats),
            stop,
        })
    }
}
