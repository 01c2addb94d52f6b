//! Pings on a connection (`connection_keepalive`).

use std::pin::Pin;
use std::task::{Context, Poll};

use causeway_xds::resource::cluster::Http2Keepalive;
use h2::{Ping, PingPong};

use crate::runtime::timer::Deadline;

/// Asks the peer in regular intervals whether it is there. As with Envoy, whatever it sends while an
/// answer is due counts for one: the answer may be behind it.
pub struct Pings {
    pings: PingPong,
    settings: Http2Keepalive,
    deadline: Deadline,
    /// What had been read when the answer was last waited for; `None` between pings.
    asked: Option<u32>,
}

impl Pings {
    /// The first ping follows after an interval.
    pub fn new(pings: PingPong, settings: Http2Keepalive) -> Self {
        Self {
            pings,
            settings,
            deadline: Deadline::after(settings.interval),
            asked: None,
        }
    }

    /// Whether the peer is gone. Call it before the codec is polled, which sends and receives for
    /// it. `reads` moves with everything that comes.
    pub fn poll(&mut self, cx: &mut Context<'_>, reads: u32) -> bool {
        // An error is one of the connection, which the codec knows as well.
        if self.asked.is_some()
            && let Poll::Ready(Ok(_)) = self.pings.poll_pong(cx)
        {
            self.asked = None;
            self.deadline.reset(self.settings.interval);
        }
        while Pin::new(&mut self.deadline).poll(cx).is_ready() {
            match self.asked {
                Some(before) if before == reads => return true,
                Some(_) => {
                    self.asked = Some(reads);
                    self.deadline.reset(self.settings.timeout);
                }
                None => {
                    // It fails only where the connection ends.
                    self.asked = self.pings.send_ping(Ping::opaque()).ok().map(|()| reads);
                    self.deadline.reset(self.settings.timeout);
                }
            }
        }
        false
    }
}
