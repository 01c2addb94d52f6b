//! HTTP/2 connections: each is shared by as many streams as the peer allows.

mod link;
mod opening;
mod sent;

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::timeout_at;

use self::link::Link;
pub(super) use self::link::Place;
pub(super) use self::opening::Opened as Awaited;
use self::opening::Opening;
use super::http1::{self, Http1};
use super::raw::Counted;
use super::waiting::{Pending, waited_too_long};
use super::{Kind, Pool, connection_permit, http_error, spawn_tied, with_pool};
use crate::upstream::connect::{ConnectError, connect};
use crate::upstream::limits::Permit;
use crate::upstream::{Endpoint, Protocol, Transport, Via};

/// One connection as the pool has it.
pub(super) struct Shared {
    link: Rc<Link>,
    opened: Instant,
    via: Option<Rc<Via>>,
}

impl Shared {
    pub(super) fn is_closed(&self) -> bool {
        self.link.is_closed()
    }

    /// Zero is no limit.
    pub(super) fn was_idle_for(&self, limit: Duration, now: Instant) -> bool {
        let limit = Via::patience(self.via.as_ref(), limit);
        !limit.is_zero()
            && self.link.streams.get() == 0
            && now.duration_since(self.link.idle_since.get()) >= limit
    }

    fn is_spent(&self, transport: &Transport) -> bool {
        transport.is_spent(self.link.served.get(), self.opened)
    }
}

/// Takes out a connection that nobody uses.
pub(super) fn pop_idle(connections: &mut Vec<Shared>) -> Option<Shared> {
    let index = connections.iter().position(|c| c.link.streams.get() == 0)?;
    Some(connections.remove(index))
}

enum Turn {
    Use(Place),
    Wait(oneshot::Receiver<ConnectError>),
    Open(Opening),
}

/// A place on a connection (or one of HTTP/1.1, where the endpoint wants that), and whether the connection had served a
/// request before. One that an endpoint has said goodbye on is none.
pub(super) async fn checkout(
    endpoint: &Arc<Endpoint>,
    transport: &Arc<Transport>,
    via: Option<&Rc<Via>>,
) -> Result<(Kind, bool), ConnectError> {
    let mut pending = None;
    let mut deadline = tokio::time::Instant::now();
    loop {
        let turn = with_pool(endpoint.uid, |pool| {
            let usable = |shared: &Shared| !shared.is_closed() && !shared.is_spent(transport);
            pool.http2.retain(usable);
            if let Some(shared) = pool
                .http2
                .iter()
                .find(|s| s.via.as_ref() == via && s.link.has_room())
            {
                let place = Place::new(&shared.link);
                let before = pool.http2.len();
                pool.http2.retain(|shared| !shared.is_spent(transport));
                let spent = before - pool.http2.len();
                transport.stats.upstream_cx_max_requests.add(spent as u64);
                return Turn::Use(place);
            }
            match Opening::await_one(pool, transport.max_requests) {
                Some(opened) => Turn::Wait(opened),
                None => Turn::Open(Opening::begin(endpoint.uid, pool, true)),
            }
        });
        if pending.is_none() && !matches!(turn, Turn::Use(_)) {
            pending = Some(Pending::begin(endpoint, transport)?);
            deadline = tokio::time::Instant::now() + transport.queue_timeout;
        }
        match turn {
            Turn::Use(place) => return Ok((Kind::Http2(place), true)),
            Turn::Wait(opened) => {
                // Without an answer it worked, or whoever opened has left: look again.
                match timeout_at(deadline, opened).await {
                    Ok(Ok(error)) => return Err(error),
                    Ok(Err(_)) => {}
                    Err(_) => return Err(waited_too_long(endpoint, transport)),
                }
                let chooses = matches!(transport.protocol, Protocol::Auto(_));
                if chooses && with_pool(endpoint.uid, |pool| pool.speaks_http1) {
                    // All who have waited go on at once.
                    drop(pending);
                    let found = http1::checkout(endpoint, transport, via, false).await;
                    return found.map(|(connection, reused)| (Kind::Http1(connection), reused));
                }
            }
            Turn::Open(opening) => {
                let permitted = match connection_permit(endpoint, transport) {
                    Ok(permitted) => permitted,
                    // There may not be more connections, but places on these come free.
                    Err(_full) => {
                        drop(opening);
                        let freed = with_pool(endpoint.uid, |pool| {
                            let connections = pool.http2.iter();
                            connections.for_each(|shared| shared.link.wanted.set(true));
                            let (free, freed) = oneshot::channel();
                            pool.waiting.push_back((via.cloned(), free));
                            freed
                        });
                        match timeout_at(deadline, freed).await {
                            // It has come to speak HTTP/1 meanwhile.
                            Ok(Ok(mut connection)) => {
                                if connection.is_usable(transport).await {
                                    return Ok((Kind::Http1(connection), true));
                                }
                            }
                            Ok(Err(_)) => {}
                            Err(_) => return Err(waited_too_long(endpoint, transport)),
                        }
                        continue;
                    }
                };
                let (permit, _connecting) = permitted;
                return match open(endpoint, transport, via, permit, opening).await? {
                    Opened::Http2(shared) => {
                        let place = Place::new(&shared.link);
                        keep(shared, endpoint, transport);
                        Ok((Kind::Http2(place), false))
                    }
                    Opened::Http1(connection) => Ok((Kind::Http1(connection), false)),
                };
            }
        }
    }
}

fn keep(shared: Shared, endpoint: &Endpoint, transport: &Arc<Transport>) {
    if endpoint.is_retired() || shared.is_spent(transport) {
        return;
    }
    with_pool(endpoint.uid, |pool| {
        pool.transport.get_or_insert_with(|| Arc::clone(transport));
        pool.http2.push(shared);
        // There may be room for them all.
        pool.waiting.clear();
    });
}

/// Streams that could begin now or soon, beyond those there are; nothing while it is not known how
/// many a connection of this endpoint takes.
pub(super) fn spare(pool: &Pool) -> Option<usize> {
    let under_way = !pool.openings.is_empty() || pool.ahead > 0;
    let each = match pool.streams_each {
        None if under_way => return None,
        each => each.unwrap_or(0),
    };
    let usable = pool.http2.iter().filter(|shared| !shared.is_closed());
    let there = usable.map(|shared| {
        let most = shared.link.most().unwrap_or(each);
        most.saturating_sub(shared.link.streams.get())
    });
    // One place is for whoever opens it.
    let coming = pool.openings.iter().filter(|opened| opened.coming);
    let coming = coming.map(|_| each.saturating_sub(1));
    let ahead = pool.ahead.saturating_mul(each);
    let waiting: usize = pool.openings.iter().map(Awaited::waiting).sum();
    let all = there.chain(coming).fold(ahead, usize::saturating_add);
    Some(all.saturating_sub(waiting))
}

/// Opens a connection for requests to come, unless one is being opened that may do; one of HTTP/1 if
/// the endpoint wants that.
pub(super) async fn open_ahead(
    endpoint: &Arc<Endpoint>,
    transport: &Arc<Transport>,
    permit: Permit,
) -> Result<Option<Box<Http1>>, ConnectError> {
    let opening = with_pool(endpoint.uid, |pool| {
        // Without knowing what it takes, one is enough.
        let begin = pool.streams_each.is_some() || pool.openings.is_empty();
        begin.then(|| Opening::begin(endpoint.uid, pool, false))
    });
    let Some(opening) = opening else {
        return Ok(None);
    };
    match open(endpoint, transport, None, permit, opening).await? {
        Opened::Http2(shared) => {
            keep(shared, endpoint, transport);
            Ok(None)
        }
        Opened::Http1(connection) => Ok(Some(connection)),
    }
}

/// What came of a connection.
enum Opened {
    Http2(Shared),
    Http1(Box<Http1>),
}

async fn open(
    endpoint: &Arc<Endpoint>,
    transport: &Arc<Transport>,
    via: Option<&Rc<Via>>,
    permit: Permit,
    opening: Opening,
) -> Result<Opened, ConnectError> {
    let (options, chooses) = match &transport.protocol {
        Protocol::Http2(options) => (options, false),
        Protocol::Auto(options) => (options, true),
        Protocol::Http1 => unreachable!("only called for HTTP/2"),
    };
    let io = match connect(endpoint, transport, via.map(Rc::as_ref)).await {
        Ok(io) => io,
        Err(error) => {
            opening.failed(&error);
            return Err(error);
        }
    };
    opening.connected();
    let counted = Counted::new(endpoint, transport, permit);
    if chooses && !io.chose_http2() {
        let connection = http1::over(io, endpoint, transport, via, counted).await?;
        with_pool(endpoint.uid, |pool| pool.speaks_http1 = true);
        return Ok(Opened::Http1(connection));
    }
    transport.stats.upstream_cx_http2_total.inc();
    let begun = Link::begin(io, endpoint, options, transport, opening).await;
    let (link, running) = begun.map_err(|error| http_error(endpoint, error.into()))?;
    let (of, by) = (Arc::clone(endpoint), Arc::clone(transport));
    spawn_tied(endpoint, async move {
        running.run(&of, &by, counted).await;
    });
    Ok(Opened::Http2(Shared {
        link,
        opened: Instant::now(),
        via: via.cloned(),
    }))
}
