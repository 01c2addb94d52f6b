//! Certificates that the program gets by itself, from an authority that speaks ACME (RFC 8555).
//!
//! | module | holds |
//! |---|---|
//! | `manager` | which names have a certificate, which one is next, and who waits for it |
//! | `leaf` | a certificate that is held, and when it is to be renewed |
//! | `order` | one order: the proof that a name is ours, and what comes of it |
//! | `proof` | the two kinds of proof: a handshake (RFC 8737), a record in DNS |
//! | `hook`, `rfc2136` | who writes the record |
//! | `account` | the account with the authority, and calls to it (`http`) |
//! | `schedule` | when to renew (RFC 9773), and when to try again |
//! | `store` | the account and the certificates on disk |
//! | `status` | what the management port shows |
//!
//! Nothing here is on the way of a connection. Certificates end in [`crate::tls::Automatic`], which
//! listeners look into; an authority that is away changes nothing there.

mod account;
mod hook;
mod http;
mod leaf;
mod manager;
mod order;
mod proof;
mod rfc2136;
mod schedule;
mod status;
mod store;

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, watch};

use self::account::Authority;
use self::manager::Manager;
use self::store::Store;
use crate::config::Acme;
use crate::telemetry::stats::Stats;
use crate::tls::Automatic;
use crate::tls::automatic::Signal;

pub use self::status::Status;

/// Whether a host belongs to something that is served now.
pub type Known = Arc<dyn Fn(String) -> BoxFuture<'static, bool> + Send + Sync>;

/// What is needed to begin.
pub struct Parts {
    pub config: Acme,
    pub automatic: Arc<Automatic>,
    /// Hosts that somebody asked for.
    pub wanted: mpsc::Receiver<Signal>,
    pub known: Known,
    pub stats: Arc<Stats>,
    pub stop: watch::Receiver<bool>,
}

/// Why there is no certificate. Never holds a key.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The authority has answered, and does not want to.
    #[error("the authority refuses: {0}")]
    Refused(String),
    /// No answer, or none that can be understood.
    #[error("no answer of the authority: {0}")]
    Unanswered(String),
    /// The record could not be written.
    #[error("DNS: {0}")]
    Dns(String),
    #[error("deadline \"{0}\" fired")]
    Deadline(&'static str),
    /// What has come cannot be used.
    #[error("certificate: {0}")]
    Certificate(String),
    #[error("{0}")]
    Store(String),
    /// A fault of this program, told in full on standard error.
    #[error("the attempt has panicked")]
    Panicked,
}

impl From<instant_acme::Error> for Failure {
    fn from(error: instant_acme::Error) -> Self {
        match error {
            instant_acme::Error::Api(problem) => Self::Refused(problem.to_string()),
            instant_acme::Error::Timeout(_) => Self::Deadline("order"),
            other => Self::Unanswered(other.to_string()),
        }
    }
}

/// Puts what is on disk in force, and keeps it good until told to stop.
///
/// # Errors
/// The cache directory cannot be used, or its owner is somebody else; the authorities that
/// [`Acme::ca`] names cannot be read.
pub fn start(parts: Parts) -> anyhow::Result<Status> {
    let Parts {
        config,
        automatic,
        wanted,
        known,
        stats,
        stop,
    } = parts;
    let store = Store::open(&config.cache, &config.directory)?;
    let authority = Arc::new(Authority::new(config, store)?);
    let status = Status::default();
    let mut manager = Manager::new(authority, automatic, known, stats, status.clone());
    manager.load();
    tokio::spawn(manager.run(wanted, stop));
    Ok(status)
}

#[cfg(test)]
mod tests;
