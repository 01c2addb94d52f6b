//! The envelope of an event, as it goes over the bus in both of its generations.
//!
//! Up to 26.8 the body is base64 of a msgpack array of texts, in the field `args`; from 26.9 on it
//! is a JSON text, in the field `payload`. Which one it is shows in the field that arrived, never
//! in a setting, and what is sent carries both. Nothing on the bus is signed, so a message may be
//! anything: what cannot be read is an error that says where it is wrong.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::coordinator::event::{Event, Reply};

/// The longest message that is looked at. A circuit takes about 1 KiB.
pub const MAX_MESSAGE: usize = 16 * 1024 * 1024;

const CREATED: &str = "appproxy_circuit_created_event";
const ROUTES_UPDATED: &str = "appproxy_circuit_route_updated_event";
const REMOVED: &str = "appproxy_circuit_removed_event";
const ADDED: &str = "appproxy_worker_circuit_added_event";

const SOURCE: &str = "appproxy-worker";
/// A receiver of the first generation fails on any other key, and the second needs none.
const METADATA: &str = r#"{"request_id":null,"user":null}"#;

/// What makes a message unreadable, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// Field path, or empty for the message itself.
    pub at: String,
    pub reason: String,
}

/// Everything else in a message is tolerated unseen, `metadata` above all.
#[derive(Deserialize)]
struct Envelope {
    name: String,
    args: Option<Value>,
    payload: Option<Value>,
}

#[derive(Serialize)]
struct Outgoing<'a> {
    name: &'static str,
    source: &'static str,
    args: &'a str,
    payload: &'a str,
    metadata: &'static str,
}

/// The payload without its bulk, to see whom it is for.
#[derive(Deserialize)]
struct Addressed {
    target_worker_authority: String,
}

#[derive(Deserialize)]
struct Payload {
    circuits: Option<Value>,
    circuit: Option<Value>,
    routes: Option<Value>,
}

#[derive(Serialize)]
struct OutgoingPayload<'a> {
    target_worker_authority: &'a str,
    circuits: &'a [Value],
}

/// Reads a message. `None` is one that does not concern the worker of this authority: another
/// worker's, our own coming back, or an event of a kind that is not known.
pub fn decode(message: &[u8], authority: &str) -> Result<Option<Event>, Malformed> {
    if message.len() > MAX_MESSAGE {
        let reason = format!("{} bytes; at most {MAX_MESSAGE} are read", message.len());
        return Err(Malformed::at("", reason));
    }
    let envelope: Envelope = json(message, "")?;
    let name = envelope.name.as_str();
    if !matches!(name, CREATED | ROUTES_UPDATED | REMOVED) {
        return Ok(None);
    }
    match (envelope.payload, envelope.args) {
        (Some(payload), _) => from_payload(name, &text(&payload, "payload")?, authority),
        (None, Some(args)) => from_args(name, &text(&args, "args")?, authority),
        (None, None) => Err(Malformed::at("", "has neither `payload` nor `args`")),
    }
}

/// Writes a reply in both generations at once.
pub fn encode(reply: &Reply, authority: &str) -> String {
    let Reply::Added { circuits } = reply;
    let list = to_json(circuits);
    let args = rmp_serde::to_vec(&(authority, &list)).expect("two texts can be written");
    let payload = OutgoingPayload {
        target_worker_authority: authority,
        circuits,
    };
    to_json(&Outgoing {
        name: ADDED,
        source: SOURCE,
        args: &STANDARD.encode(args),
        payload: &to_json(&payload),
        metadata: METADATA,
    })
}

fn from_payload(name: &str, payload: &str, authority: &str) -> Result<Option<Event>, Malformed> {
    let to: Addressed = json(payload.as_bytes(), "payload")?;
    if to.target_worker_authority != authority {
        return Ok(None);
    }
    let body: Payload = json(payload.as_bytes(), "payload")?;
    let need = |value: Option<Value>, field: &str| {
        value.ok_or_else(|| Malformed::at(format!("payload.{field}"), "is missing"))
    };
    let event = if name == ROUTES_UPDATED {
        Event::RoutesUpdated {
            circuit: need(body.circuit, "circuit")?,
            routes: list(need(body.routes, "routes")?, "payload.routes")?,
        }
    } else {
        of_circuits(
            name,
            list(need(body.circuits, "circuits")?, "payload.circuits")?,
        )
    };
    Ok(Some(event))
}

fn from_args(name: &str, args: &str, authority: &str) -> Result<Option<Event>, Malformed> {
    let packed = STANDARD
        .decode(args)
        .map_err(|error| Malformed::at("args", format!("is not base64: {error}")))?;
    // From a slice and not from a reader: a length that is a lie must not be allocated first.
    let mut reader = rmp_serde::Deserializer::from_read_ref(&packed);
    let parts: Vec<&str> = Vec::deserialize(&mut reader).map_err(|error| {
        Malformed::at("args", format!("is not a msgpack array of texts: {error}"))
    })?;
    let after = IgnoredAny::deserialize(&mut reader);
    if !matches!(after, Err(rmp_serde::decode::Error::InvalidMarkerRead(_))) {
        return Err(Malformed::at("args", "has more after its array"));
    }
    let need = |index: usize| {
        let missing = || Malformed::at(format!("args[{index}]"), "is missing");
        parts
            .get(index)
            .map(|part| part.as_bytes())
            .ok_or_else(missing)
    };
    if need(0)? != authority.as_bytes() {
        return Ok(None);
    }
    let event = if name == ROUTES_UPDATED {
        Event::RoutesUpdated {
            circuit: json(need(1)?, "args[1]")?,
            routes: list(json(need(2)?, "args[2]")?, "args[2]")?,
        }
    } else {
        of_circuits(name, list(json(need(1)?, "args[1]")?, "args[1]")?)
    };
    Ok(Some(event))
}

fn of_circuits(name: &str, circuits: Vec<Value>) -> Event {
    if name == CREATED {
        Event::Created { circuits }
    } else {
        Event::Removed { circuits }
    }
}

fn text(value: &Value, at: &str) -> Result<String, Malformed> {
    let text = value.as_str().map(str::to_owned);
    text.ok_or_else(|| Malformed::at(at, "is not a text"))
}

fn list(value: Value, at: &str) -> Result<Vec<Value>, Malformed> {
    match value {
        Value::Array(items) => Ok(items),
        _ => Err(Malformed::at(at, "is not a list")),
    }
}

fn json<'a, T: Deserialize<'a>>(text: &'a [u8], at: &str) -> Result<T, Malformed> {
    serde_json::from_slice(text).map_err(|error| Malformed::at(at, error.to_string()))
}

fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("texts and JSON values can be written")
}

impl Malformed {
    fn at(at: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            at: at.into(),
            reason: reason.into(),
        }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.at.is_empty() {
            return write!(f, "message: {}", self.reason);
        }
        write!(f, "{}: {}", self.at, self.reason)
    }
}

impl std::error::Error for Malformed {}

#[cfg(test)]
mod tests;
