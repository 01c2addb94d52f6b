//! What would happen to a request, step by step, without sending anything.
//!
//! Every step is taken by what serves requests, on a compiled snapshot: this only asks and tells.
//! Filters are named and not run, since some of them act when they are asked.

mod imagined;
mod steps;

use std::net::{IpAddr, Ipv4Addr};

use http::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Uri};
use serde::Serialize;

use crate::snapshot::Snapshot;

/// A request that nobody has sent.
#[derive(Clone, Debug)]
pub struct Question {
    pub method: Method,
    /// Absolute, of the scheme `http` or `https`.
    pub url: Uri,
    pub headers: HeaderMap,
    /// From where it would come. Default 127.0.0.1.
    pub client: IpAddr,
    /// The listener that it would reach; `None`: the one of the URL's port, or the only one.
    pub listener: Option<String>,
    /// Clusters that there are, although the snapshot does not have them yet.
    pub clusters: Vec<String>,
}

/// Why a question cannot be answered.
#[derive(Debug, thiserror::Error)]
pub enum Unclear {
    #[error("{0:?} is not an absolute URL of the scheme http or https")]
    Url(String),
    #[error("{0:?} is no method")]
    Method(String),
    #[error("{0:?} is not `name: value`")]
    Header(String),
    #[error("{0:?} is not an IP address")]
    Client(String),
    #[error("{0}")]
    Listener(String),
}

/// One thing that happens, with what there is to say about it.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    pub step: &'static str,
    pub says: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// All steps, in their order; the last is what comes of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Explanation {
    pub steps: Vec<Step>,
}

impl Question {
    /// From texts as they are written on a command line; headers are `name: value`.
    ///
    /// # Errors
    /// One of them is not what it should be.
    pub fn parse(url: &str, method: &str, headers: &[String]) -> Result<Self, Unclear> {
        let parsed: Uri = url.parse().map_err(|_| Unclear::Url(url.to_owned()))?;
        let known = matches!(parsed.scheme_str(), Some("http" | "https"));
        if !known || parsed.authority().is_none() {
            return Err(Unclear::Url(url.to_owned()));
        }
        let mut map = HeaderMap::new();
        for header in headers {
            let bad = || Unclear::Header(header.clone());
            let (name, value) = header.split_once(':').ok_or_else(bad)?;
            let name: HeaderName = name.trim().parse().map_err(|_| bad())?;
            let value: HeaderValue = value.trim().parse().map_err(|_| bad())?;
            map.append(name, value);
        }
        let method = method.to_owned();
        Ok(Self {
            method: method.parse().map_err(|_| Unclear::Method(method))?,
            url: parsed,
            headers: map,
            client: Ipv4Addr::LOCALHOST.into(),
            listener: None,
            clusters: Vec::new(),
        })
    }

    /// With the address of the client.
    ///
    /// # Errors
    /// It is none.
    pub fn from_client(mut self, address: &str) -> Result<Self, Unclear> {
        let bad = || Unclear::Client(address.to_owned());
        self.client = address.parse().map_err(|_| bad())?;
        Ok(self)
    }

    fn tls(&self) -> bool {
        self.url.scheme_str() == Some("https")
    }

    fn port(&self) -> u16 {
        let usual = if self.tls() { 443 } else { 80 };
        self.url.port_u16().unwrap_or(usual)
    }

    /// The head as it would come over HTTP/1.1.
    fn head(&self) -> Parts {
        let (mut parts, ()) = Request::new(()).into_parts();
        parts.method = self.method.clone();
        let target = self.url.path_and_query().cloned();
        parts.uri = target.map_or_else(|| Uri::from_static("/"), Uri::from);
        parts.headers = self.headers.clone();
        if !parts.headers.contains_key(HOST)
            && let Some(authority) = self.url.authority()
            && let Ok(host) = HeaderValue::from_str(authority.as_str())
        {
            parts.headers.insert(HOST, host);
        }
        parts
    }
}

/// Takes a request through a snapshot.
///
/// # Errors
/// No listener is meant by it, or more than one.
pub fn explain(snapshot: &Snapshot, question: &Question) -> Result<Explanation, Unclear> {
    let mut explanation = Explanation::default();
    steps::take(snapshot, question, &mut explanation)?;
    Ok(explanation)
}

impl Explanation {
    fn say(&mut self, step: &'static str, says: impl Into<String>) {
        self.say_more(step, says, Vec::new());
    }

    fn say_more(&mut self, step: &'static str, says: impl Into<String>, notes: Vec<String>) {
        let says = says.into();
        self.steps.push(Step { step, says, notes });
    }

    /// For people: a line for each step, its notes below it.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for Step { step, says, notes } in &self.steps {
            text.push_str(&format!("{step:<13} {says}\n"));
            for note in notes {
                text.push_str(&format!("{:<13}   {note}\n", ""));
            }
        }
        text
    }
}
