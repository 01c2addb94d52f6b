//! What the objects of scripts ask of the program; `prelude.lua` has the objects.

use std::net::SocketAddr;

use bytes::Bytes;
use causeway_xds::resource::format::Holder;
use causeway_xds::resource::metadata::MetadataValue;
use causeway_xds::resource::parts::AppendAction;
use http::header::{CONTENT_LENGTH, HeaderName};
use mlua::{Error, IntoLuaMulti, Lua, LuaString, MultiValue, Result, Value};

use super::run::{Pending, Place, Run};
use super::values::{to_lua, to_metadata};
use super::{FALLBACK, call, facts};
use crate::filter::target::Target;
use crate::filter::{StreamState, WantedEndpoint};
use crate::matching::headers::joined;

/// What a script is told that asks too late.
const GONE: &str = "this is not at hand while a body passes";

/// An answer that is there already; the other one is `true`.
fn at_once(lua: &Lua, value: impl IntoLuaMulti) -> Result<MultiValue> {
    let mut all = value.into_lua_multi(lua)?;
    all.push_front(Value::Boolean(false));
    Ok(all)
}

fn refused(reason: &str) -> Error {
    Error::runtime(reason)
}

impl Run {
    /// # Errors
    /// What the script is told.
    pub fn ask(
        &mut self,
        lua: &Lua,
        place: &mut Place<'_, '_>,
        what: &[u8],
        arguments: MultiValue,
    ) -> Result<MultiValue> {
        match what {
            b"get" | b"at" | b"count" | b"all" => self.look(lua, place, what, arguments),
            b"add" | b"replace" | b"remove" => self.edit(lua, place, what, arguments),
            b"length" | b"bytes" | b"set" => self.buffer(lua, what, arguments),
            b"body" | b"chunk" | b"trailers" => self.want(lua, place, what),
            b"call" => {
                let calls = place.calls();
                let calls = calls.ok_or_else(|| refused("httpCall is not at hand in a tunnel"))?;
                let (call, waits) = call::Call::parse(lua, arguments, calls)?;
                if waits {
                    return self.wait(lua, Pending::Call(Box::new(call)));
                }
                // It ends by its timeout, whatever becomes of the stream.
                tokio::task::spawn_local(async move { drop(call.answer().await) });
                at_once(lua, ())
            }
            b"respond" => match place {
                Place::Request(_) => {
                    let reply = call::reply(lua, arguments)?;
                    self.wait(lua, Pending::Reply(Box::new(reply)))
                }
                Place::Answer(_) => Err(refused(
                    "respond not currently supported in the response path",
                )),
                Place::Passing(_) => Err(refused(
                    "respond() cannot be called if headers have been continued",
                )),
            },
            b"context" => to_lua(lua, &self.context)?.into_lua_multi(lua),
            b"metadata" => self.metadata(lua, place),
            b"fact" => fact(
                lua,
                place,
                &lua.unpack_multi::<LuaString>(arguments)?.as_bytes(),
            ),
            b"clear_route" => match place {
                Place::Request(_) => {
                    self.reroute = true;
                    ().into_lua_multi(lua)
                }
                _ => Err(refused("the route cannot be chosen anew any more")),
            },
            b"override_host" => {
                let (host, strict): (LuaString, Option<bool>) = lua.unpack_multi(arguments)?;
                let address: Option<SocketAddr> = host.to_str()?.parse().ok();
                let address = address.ok_or_else(|| refused("host is no address and port"))?;
                let strict = strict.unwrap_or_default();
                state(place)?.want_endpoint(WantedEndpoint { address, strict });
                ().into_lua_multi(lua)
            }
            _ => dynamic(lua, state(place)?, what, arguments),
        }
    }

    fn wait(&mut self, lua: &Lua, pending: Pending) -> Result<MultiValue> {
        self.pending = Some(pending);
        true.into_lua_multi(lua)
    }

    fn want(&mut self, lua: &Lua, place: &Place<'_, '_>, what: &[u8]) -> Result<MultiValue> {
        let passes = matches!(place, Place::Passing(_));
        match what {
            b"body" if passes => Err(refused("cannot call body() after body has been streamed")),
            b"body" => match &self.body {
                Some(body) => at_once(lua, !body.is_empty()),
                None if self.bodyless => at_once(lua, false),
                None => self.wait(lua, Pending::Body),
            },
            b"chunk" if self.body.is_some() => Err(refused(
                "cannot call bodyChunks after body processing has begun",
            )),
            b"chunk" if self.ended => at_once(lua, false),
            b"chunk" => self.wait(lua, Pending::Chunk),
            _ if self.ended => at_once(lua, self.trailers.is_some()),
            _ => self.wait(lua, Pending::Trailers),
        }
    }

    fn fields<'t>(&'t mut self, place: &'t mut Place<'_, '_>, of: &[u8]) -> Result<Target<'t>> {
        match of {
            b"headers" => Ok(place.head()),
            _ => match &mut self.trailers {
                Some(trailers) => Ok(Target::Plain(trailers)),
                None => Err(refused("the trailers are gone")),
            },
        }
    }

    fn look(
        &mut self,
        lua: &Lua,
        place: &mut Place<'_, '_>,
        what: &[u8],
        arguments: MultiValue,
    ) -> Result<MultiValue> {
        let (of, name, at): (LuaString, Option<LuaString>, Option<i64>) =
            lua.unpack_multi(arguments)?;
        let fields = self.fields(place, &of.as_bytes())?;
        if what == b"all" {
            let table = lua.create_table()?;
            let mut done = Ok(());
            fields.each(|name, value| {
                let put = || {
                    table.raw_push(lua.create_string(name)?)?;
                    table.raw_push(lua.create_string(value)?)
                };
                if done.is_ok() {
                    done = put();
                }
            });
            done?;
            return table.into_lua_multi(lua);
        }
        let name = name.ok_or_else(|| refused("the name of a header is a text"))?;
        let name = name.to_string_lossy().to_ascii_lowercase();
        let mut values = fields.values(&name);
        match what {
            b"count" => values.count().into_lua_multi(lua),
            b"at" => {
                let at = at.and_then(|at| usize::try_from(at).ok());
                let value = at.and_then(|at| values.nth(at));
                value
                    .map(|value| lua.create_string(value))
                    .transpose()?
                    .into_lua_multi(lua)
            }
            _ => {
                let value = joined(values);
                value
                    .map(|value| lua.create_string(value))
                    .transpose()?
                    .into_lua_multi(lua)
            }
        }
    }

    fn edit(
        &mut self,
        lua: &Lua,
        place: &mut Place<'_, '_>,
        what: &[u8],
        arguments: MultiValue,
    ) -> Result<MultiValue> {
        let (of, name, value): (LuaString, LuaString, Value) = lua.unpack_multi(arguments)?;
        let of = of.as_bytes();
        if &*of == b"headers" && matches!(place, Place::Passing(_)) {
            return Err(refused("header map can no longer be modified"));
        }
        let name = name.to_string_lossy().to_ascii_lowercase();
        self.reroute |= &*of == b"headers" && self.inner.clear_route_cache;
        let mut fields = self.fields(place, &of)?;
        // A body has the length that it has, whatever a script says.
        if name == CONTENT_LENGTH.as_str() {
            return ().into_lua_multi(lua);
        }
        if what == b"remove" {
            let is_request = matches!(fields, Target::Request(_));
            if name.starts_with(':') || is_request && name == "host" {
                return Err(refused(&format!("{name} cannot be removed")));
            }
            if let Ok(name) = name.parse::<HeaderName>() {
                fields.headers().remove(name);
            }
            return ().into_lua_multi(lua);
        }
        let Some(value) = lua.coerce_string(value)? else {
            return Err(refused("the value of a header is a text"));
        };
        let action = match what {
            b"add" => AppendAction::AppendOrAdd,
            _ => AppendAction::OverwriteOrAdd,
        };
        match fields.set(&name, &value.as_bytes(), action) {
            true => ().into_lua_multi(lua),
            false => Err(refused(&format!("{name} cannot have this value"))),
        }
    }

    fn buffer(&mut self, lua: &Lua, what: &[u8], arguments: MultiValue) -> Result<MultiValue> {
        let (of, first, length): (LuaString, Value, Option<f64>) = lua.unpack_multi(arguments)?;
        let is_body = &*of.as_bytes() == b"body";
        let data = match is_body {
            true => self.body.get_or_insert_default(),
            false => match &mut self.chunk {
                Some(chunk) => chunk,
                None => return Err(refused("this piece of the body is gone")),
            },
        };
        match what {
            b"length" => data.len().into_lua_multi(lua),
            b"bytes" => {
                let place = |number: Option<f64>| {
                    let whole = number.filter(|n| n.fract() == 0.0 && *n >= 0.0 && *n < 1e15);
                    whole.map(|n| n as usize)
                };
                let first = lua.coerce_number(first)?;
                let part = place(first)
                    .zip(place(length))
                    .and_then(|(first, length)| data.get(first..first.checked_add(length)?));
                let Some(part) = part else {
                    return Err(refused(
                        "index/length must be >= 0 and (index + length) must be <= buffer size",
                    ));
                };
                lua.create_string(part)?.into_lua_multi(lua)
            }
            _ => {
                let Some(bytes) = lua.coerce_string(first)? else {
                    return Err(refused("the content of a body is a text"));
                };
                *data = Bytes::copy_from_slice(&bytes.as_bytes());
                let length = data.len();
                self.replaced |= is_body;
                length.into_lua_multi(lua)
            }
        }
    }

    /// Of the route, under the name of the filter.
    fn metadata(&self, lua: &Lua, place: &Place<'_, '_>) -> Result<MultiValue> {
        let find = |namespace: &str| match place {
            Place::Request(stream) => stream.route()?.metadata(namespace).cloned(),
            // The route is not known any more, but what logs tell of it.
            Place::Answer(answer) => {
                answer.with_facts(|facts| facts.metadata(Holder::Route, namespace, &[]))?
            }
            Place::Passing(_) => None,
        };
        if matches!(place, Place::Passing(_)) {
            return Err(refused(GONE));
        }
        match find(&self.inner.name).or_else(|| find(FALLBACK)) {
            Some(found @ MetadataValue::Object(_)) => to_lua(lua, &found)?.into_lua_multi(lua),
            _ => lua.create_table()?.into_lua_multi(lua),
        }
    }
}

fn state<'p>(place: &'p Place<'_, '_>) -> Result<&'p StreamState> {
    let state = match place {
        Place::Request(stream) => Some(stream.state()),
        Place::Answer(answer) => answer.state(),
        Place::Passing(_) => None,
    };
    state.ok_or_else(|| refused(GONE))
}

/// An empty text is one that is not there.
fn fact(lua: &Lua, place: &Place<'_, '_>, method: &[u8]) -> Result<MultiValue> {
    let Some(fact) = facts::find(method) else {
        return Err(refused("there is no such fact"));
    };
    let mut out = Vec::new();
    let told = match place {
        Place::Request(stream) => stream.with_facts(|facts| facts.fact(fact).write(&mut out)),
        Place::Answer(answer) => answer.with_facts(|facts| facts.fact(fact).write(&mut out)),
        Place::Passing(_) => None,
    };
    told.ok_or_else(|| refused(GONE))?;
    lua.create_string(out)?.into_lua_multi(lua)
}

/// Dynamic metadata and filter state.
fn dynamic(
    lua: &Lua,
    state: &StreamState,
    what: &[u8],
    arguments: MultiValue,
) -> Result<MultiValue> {
    match what {
        b"dynamic" => {
            let namespace: LuaString = lua.unpack_multi(arguments)?;
            let found = state.metadata(&namespace.to_string_lossy());
            let found = found.map(|found| to_lua(lua, &found)).transpose()?;
            found.into_lua_multi(lua)
        }
        b"all_dynamic" => {
            let table = lua.create_table()?;
            for (namespace, value) in state.namespaces() {
                table.raw_set(namespace, to_lua(lua, &value)?)?;
            }
            table.into_lua_multi(lua)
        }
        b"set_dynamic" => {
            let (namespace, key, value): (LuaString, LuaString, Value) =
                lua.unpack_multi(arguments)?;
            let value = to_metadata(lua, &value)?;
            state.set_metadata(&namespace.to_string_lossy(), &key.to_string_lossy(), value);
            ().into_lua_multi(lua)
        }
        b"state" => {
            let name: LuaString = lua.unpack_multi(arguments)?;
            let found = state.value(&name.to_string_lossy());
            found.as_deref().into_lua_multi(lua)
        }
        _ => Err(refused("there is nothing of that name")),
    }
}
