//! Requests and answers that scripts make: `httpCall` and `respond`.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING};
use http::{Request, Response, StatusCode};
use mlua::{Error, Lua, LuaString, MultiValue, Result, Table, Value};

use crate::filter::LocalReply;
use crate::filter::call::{CallError, Calls, fetch};

/// How long a call may take that does not say.
const TIMEOUT: Duration = Duration::from_secs(15);
/// How long any may take.
const MAX_TIMEOUT: Duration = Duration::from_secs(3600);
/// Bytes of an answer at most.
const MAX_ANSWER: u64 = 4 << 20;

/// A call on its way.
pub struct Call {
    calls: Rc<dyn Calls>,
    cluster: String,
    request: Request<Bytes>,
    timeout: Duration,
    /// Fields that come several times are told as lists.
    duplicates: bool,
}

/// What came of a call.
pub struct Called {
    answer: Response<Bytes>,
    duplicates: bool,
}

impl Call {
    /// Arguments: cluster, headers, body, milliseconds, asynchronous, whether lists are wanted. With
    /// the call comes whether the script waits for it.
    ///
    /// # Errors
    /// There is no such cluster, or something of the request is missing or malformed.
    pub fn parse(lua: &Lua, arguments: MultiValue, calls: Rc<dyn Calls>) -> Result<(Self, bool)> {
        type Arguments = (
            LuaString,
            Table,
            Option<LuaString>,
            Option<f64>,
            Option<bool>,
            Option<bool>,
        );
        let (cluster, headers, body, timeout, asynchronous, duplicates): Arguments =
            lua.unpack_multi(arguments)?;
        let cluster = cluster.to_string_lossy();
        if calls.members(&cluster).is_none() {
            return Err(Error::runtime(
                "http call cluster invalid. Must be configured",
            ));
        }
        let timeout = match timeout {
            None | Some(0.0) => TIMEOUT,
            Some(milliseconds) => Duration::try_from_secs_f64(milliseconds / 1e3)
                .map_err(|_| Error::runtime("http call timeout must be >= 0"))?
                .min(MAX_TIMEOUT),
        };
        let (mut method, mut path, mut host) = (None, None, None);
        let fields = fields(lua, &headers, |name, value| match name {
            b":method" => method = Some(value.to_vec()),
            b":path" => path = Some(value.to_vec()).filter(|path| path.starts_with(b"/")),
            b":authority" | b"host" => host = Some(HeaderValue::from_bytes(value)),
            _ => {}
        })?;
        let (Some(method), Some(path), Some(Ok(host))) = (method, path, host) else {
            let reason = "http call headers must include ':path', ':method', and ':authority'";
            return Err(Error::runtime(reason));
        };
        let body = body.map(|body| Bytes::copy_from_slice(&body.as_bytes()));
        let body = body.unwrap_or_default();
        let request = Request::builder().method(&*method).uri(path).body(body);
        let mut request = request.map_err(|e| Error::runtime(format!("http call: {e}")))?;
        *request.headers_mut() = fields;
        let length = request.body().len().into();
        request.headers_mut().insert(CONTENT_LENGTH, length);
        request.headers_mut().insert(HOST, host);
        let call = Self {
            calls,
            cluster,
            request,
            timeout,
            duplicates: duplicates.unwrap_or_default(),
        };
        Ok((call, !asynchronous.unwrap_or_default()))
    }

    /// Without an answer it is the one that an upstream that is not there gets.
    pub async fn answer(self) -> Called {
        let Self {
            calls,
            cluster,
            request,
            timeout,
            duplicates,
        } = self;
        let answer = fetch(&*calls, &cluster, request, timeout, MAX_ANSWER).await;
        let answer = answer.unwrap_or_else(|error| {
            tracing::debug!(cluster, %error, "a call of a script has no answer");
            let (status, text) = match error {
                CallError::Timeout(_) => (StatusCode::GATEWAY_TIMEOUT, "upstream request timeout"),
                _ => (
                    StatusCode::SERVICE_UNAVAILABLE,
                    "upstream connect error or disconnect/reset before headers",
                ),
            };
            let mut answer = Response::new(Bytes::from_static(text.as_bytes()));
            *answer.status_mut() = status;
            answer
        });
        Called { answer, duplicates }
    }
}

impl Called {
    /// # Errors
    /// There is no memory left.
    pub fn told(&self, lua: &Lua) -> Result<(Table, Option<LuaString>)> {
        let headers = lua.create_table()?;
        headers.raw_set(":status", self.answer.status().as_str())?;
        let fields = self.answer.headers();
        for name in fields.keys() {
            let all = fields.get_all(name).iter();
            let texts = all.map(|value| lua.create_string(value.as_bytes()));
            let mut texts = texts.collect::<Result<Vec<_>>>()?;
            if self.duplicates && texts.len() > 1 {
                headers.raw_set(name.as_str(), lua.create_sequence_from(texts)?)?;
            } else {
                headers.raw_set(name.as_str(), texts.pop())?;
            }
        }
        let body = self.answer.body();
        let body = (!body.is_empty()).then(|| lua.create_string(body));
        Ok((headers, body.transpose()?))
    }
}

/// Arguments: headers, body.
///
/// # Errors
/// There is no status that a client can be told, or something is malformed.
pub fn reply(lua: &Lua, arguments: MultiValue) -> Result<LocalReply> {
    let (headers, body): (Table, Option<LuaString>) = lua.unpack_multi(arguments)?;
    let mut status = None;
    let fields = fields(lua, &headers, |name, value| {
        if name == b":status" {
            status = StatusCode::from_bytes(value).ok();
        }
    })?;
    let status = status.filter(|status| (200..600).contains(&status.as_u16()));
    let Some(status) = status else {
        return Err(Error::runtime(":status must be between 200-599"));
    };
    let mut reply = LocalReply::new(status, "lua_response");
    reply.headers = fields;
    if let Some(body) = body {
        reply.body = Bytes::copy_from_slice(&body.as_bytes());
    }
    Ok(reply)
}

/// A table of texts and lists of texts. Pseudo headers and the host go to `pseudo`; how a message is
/// delimited is not for a script to say.
fn fields(lua: &Lua, table: &Table, mut pseudo: impl FnMut(&[u8], &[u8])) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    table.for_each(|name: LuaString, value: Value| {
        let name = name.as_bytes().to_ascii_lowercase();
        let mut put = |value: Value| {
            let Some(value) = lua.coerce_string(value)? else {
                return Err(Error::runtime("the value of a header is a text"));
            };
            let value = value.as_bytes();
            if name.starts_with(b":") || name == b"host" {
                pseudo(&name, &value);
                return Ok(());
            }
            let (Ok(name), Ok(value)) = (
                HeaderName::from_bytes(&name),
                HeaderValue::from_bytes(&value),
            ) else {
                return Err(Error::runtime("a header is malformed"));
            };
            if name != CONTENT_LENGTH && name != TRANSFER_ENCODING {
                headers.append(name, value);
            }
            Ok(())
        };
        match value {
            Value::Table(all) => all.for_each_value(put),
            value => put(value),
        }
    })?;
    Ok(headers)
}
