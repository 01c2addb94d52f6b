//! Network filters: what stands before the filter that ends a chain, and says whether a connection
//! may go on. They see a connection, and none of its bytes.

mod connection_limit;
mod ext_authz;
mod facts;
mod local_ratelimit;
mod rbac;
mod set_filter_state;
mod sni_cluster;

use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use causeway_xds::extension::TypedExtension;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::parts::unknown_type;
use futures_util::future::LocalBoxFuture;

use super::call::Calls;
use super::registry::Context;
use super::state::StreamState;
use crate::tls::Session;

pub use self::facts::{of_connection, of_session};

/// A connection.
#[derive(Clone, Copy, Debug)]
pub struct Connection<'c> {
    /// As the PROXY protocol tells it, if it does.
    pub peer: Option<SocketAddr>,
    pub local: Option<SocketAddr>,
    /// `None` before the handshake, and without encryption.
    pub session: Option<&'c Session>,
    /// SNI; may be empty.
    pub server_name: &'c str,
    /// What filters have left of it.
    pub state: &'c StreamState,
}

/// One configured filter; shared by all connections.
pub trait NetworkFilter: Any + fmt::Debug + Send + Sync {
    /// Takes over what the filter before it, in the same place, had counted. Called before anybody
    /// else knows of the new one.
    fn inherit(&mut self, before: &dyn NetworkFilter) {
        let _ = before;
    }

    /// Asked before anything is said to the peer.
    fn accept(&self, connection: &Connection<'_>) -> Verdict {
        let _ = connection;
        Verdict::Pass
    }

    /// Whether it has [`Self::ask`] to be called.
    fn asks(&self) -> bool {
        false
    }

    /// Asked once all filters have let an open connection pass; the answer may take its time, which
    /// the filter bounds.
    fn ask(
        &self,
        connection: &Connection<'_>,
        asking: &Asking<'_>,
    ) -> LocalBoxFuture<'static, Verdict> {
        let _ = (connection, asking);
        Box::pin(async { Verdict::Pass })
    }

    /// Asked once a handshake, if there is one, has come to its end.
    fn open(&self, connection: &Connection<'_>) -> Verdict {
        let _ = connection;
        Verdict::Pass
    }
}

/// What somebody else is asked by.
pub struct Asking<'a> {
    pub calls: &'a dyn Fn() -> Rc<dyn Calls>,
    /// Where to leave what is answered.
    pub state: &'a Rc<StreamState>,
}

/// What a filter says.
pub enum Verdict {
    Pass,
    /// Something that is kept for as long as the connection is open.
    Hold(Box<dyn Any>),
    /// For a TCP proxy: the cluster to go to.
    Cluster(Arc<str>),
    Close(Closing),
}

/// A connection that may not go on.
#[derive(Debug)]
pub struct Closing {
    /// How long the peer is left waiting.
    pub after: Duration,
    pub why: Cow<'static, str>,
}

/// Makes a filter from its configuration.
type Build = fn(&TypedExtension, &Context) -> Result<Arc<dyn NetworkFilter>, Invalid>;

/// Message names of the configurations, and what is made of them.
const FACTORIES: &[(&str, Build)] = &[
    connection_limit::FACTORY,
    ext_authz::FACTORY,
    local_ratelimit::FACTORY,
    rbac::FACTORY,
    set_filter_state::FACTORY,
    sni_cluster::FACTORY,
];

/// # Errors
/// There is no such filter, or its configuration is wrong.
pub fn build(
    filter: &TypedExtension,
    context: &Context,
) -> Result<Arc<dyn NetworkFilter>, Invalid> {
    let known = FACTORIES
        .iter()
        .find(|(message, _)| *message == filter.message_name());
    match known {
        Some((_, build)) => build(filter, context),
        None => Err(unknown_type(&filter.type_url)),
    }
}

/// As [`build`], where the chain had a filter of that name and kind `before`: the same configuration
/// is the same filter, and another one takes over what lasts.
///
/// # Errors
/// As [`build`].
pub fn rebuild(
    filter: &TypedExtension,
    context: &Context,
    before: (&TypedExtension, &Arc<dyn NetworkFilter>),
) -> Result<Arc<dyn NetworkFilter>, Invalid> {
    let (config, before) = before;
    if config == filter {
        return Ok(Arc::clone(before));
    }
    let mut built = build(filter, context)?;
    if let Some(new) = Arc::get_mut(&mut built) {
        new.inherit(&**before);
    }
    Ok(built)
}

/// Message names of the filters there are.
pub fn names() -> impl Iterator<Item = &'static str> {
    FACTORIES.iter().map(|(message, _)| *message)
}

/// The filters of one chain in order.
#[derive(Debug, Default)]
pub struct NetworkChain(Vec<Arc<dyn NetworkFilter>>);

/// What filters have left for a connection that goes on.
#[derive(Default)]
pub struct Passed {
    pub held: Vec<Box<dyn Any>>,
    pub cluster: Option<Arc<str>>,
}

impl NetworkChain {
    pub fn new(filters: Vec<Arc<dyn NetworkFilter>>) -> Self {
        Self(filters)
    }

    pub fn filters(&self) -> &[Arc<dyn NetworkFilter>] {
        &self.0
    }

    /// # Errors
    /// A filter closes the connection.
    pub fn accept(&self, connection: &Connection<'_>, out: &mut Passed) -> Result<(), Closing> {
        self.0
            .iter()
            .try_for_each(|filter| out.take(filter.accept(connection)))
    }

    /// Whether there is somebody to be asked.
    pub fn asks(&self) -> bool {
        self.0.iter().any(|filter| filter.asks())
    }

    /// # Errors
    /// As [`NetworkChain::accept`].
    pub async fn ask(
        &self,
        connection: &Connection<'_>,
        asking: &Asking<'_>,
        out: &mut Passed,
    ) -> Result<(), Closing> {
        for filter in self.0.iter().filter(|filter| filter.asks()) {
            out.take(filter.ask(connection, asking).await)?;
        }
        Ok(())
    }

    /// # Errors
    /// As [`NetworkChain::accept`].
    pub fn open(&self, connection: &Connection<'_>, out: &mut Passed) -> Result<(), Closing> {
        self.0
            .iter()
            .try_for_each(|filter| out.take(filter.open(connection)))
    }
}

impl Passed {
    fn take(&mut self, verdict: Verdict) -> Result<(), Closing> {
        match verdict {
            Verdict::Pass => {}
            Verdict::Hold(held) => self.held.push(held),
            Verdict::Cluster(cluster) => self.cluster = Some(cluster),
            Verdict::Close(closing) => return Err(closing),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
