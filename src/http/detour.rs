//! The answer to another request in the place of one that was answered, as a filter wants it.

use http::Response;

use super::body::Body;
use super::exchange::Exchange;
use super::head;
use super::internal_redirect::{Again, Followed};
use super::routed::Routed;
use crate::filter::Detour;
use crate::filter::pause::Resume;

/// What there is instead where it cannot be.
pub struct Refused {
    pub response: Response<Body>,
    pub then: Resume,
}

/// Drops the answer for the sake of another one.
///
/// # Errors
/// [`Refused`], with the answer as it was.
pub fn begin(response: Response<Body>, detour: Detour) -> Result<Box<Again>, Box<Refused>> {
    let Detour {
        request,
        https,
        mark,
        refused,
    } = detour;
    let exchange = response.body().exchange();
    let Some(mut followed) = exchange.and_then(|exchange| route(exchange, request)) else {
        return Err(Box::new(Refused {
            response,
            then: refused,
        }));
    };
    followed.trail.https = Some(https);
    let (head, body) = response.into_parts();
    // It was there a few lines above.
    let Some(answered) = body.into_exchange() else {
        unreachable!("an answer keeps its exchange")
    };
    let again = followed.begin(answered, head.status, &head.headers);
    again.exchange.filters.stand_in(mark);
    Ok(Box::new(again))
}

/// `None`: it leads nowhere, or comes too early, or is the second one.
fn route(exchange: &Exchange, mut parts: http::request::Parts) -> Option<Followed> {
    // What the client still sends would be taken for its next request.
    if !exchange.progress.request_ended.get() || exchange.filters.stands_in().is_some() {
        return None;
    }
    let connection = &exchange.connection;
    let model = &connection.manager.model;
    let plain = head::sanitise_target(&mut parts, model, connection.local_port).ok()?;
    if plain.is_some() {
        return None;
    }
    let mut routed = Routed::new(exchange.client.get()?, true);
    routed.choose(exchange, &parts);
    (routed.chosen.is_some() || routed.to_https).then(|| Followed {
        parts,
        body: Vec::new(),
        trail: exchange.trail.clone().unwrap_or_default(),
        routed,
        decided: None,
    })
}
