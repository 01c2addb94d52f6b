//! One function of a script at work on one message.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HeaderMap, TRANSFER_ENCODING, UPGRADE};
use http::{Method, StatusCode};
use mlua::{Error, IntoLuaMulti as _, Lua, LuaString, MultiValue, Thread};

use super::Inner;
use super::call::{Call, Called};
use super::passing::Passing;
use super::state::{Script, State, is_memory, told};
use crate::filter::body::{Read, Whole};
use crate::filter::call::Calls;
use crate::filter::pause::{Gathered, Resume};
use crate::filter::target::Target;
use crate::filter::{Answer, Flow, LocalReply, Stream, Then};
use crate::route::{Action, BUFFER_LIMIT};
use causeway_xds::resource::metadata::MetadataValue;

/// A script's coroutine, and what it has of the message.
pub struct Run {
    pub inner: Arc<Inner>,
    pub context: Arc<MetadataValue>,
    script: Arc<Script>,
    state: Rc<State>,
    thread: Thread,
    /// What the script has asked for that has to be waited for.
    pub pending: Option<Pending>,
    /// The route has to be chosen anew.
    pub reroute: bool,
    /// There is no body, or none that ends.
    pub bodyless: bool,
    /// All of it, once it was asked for.
    pub body: Option<Bytes>,
    /// The script has put another in its place.
    pub replaced: bool,
    /// A piece of a body that passes.
    pub chunk: Option<Bytes>,
    /// Nothing follows of a body that passes.
    pub ended: bool,
    pub trailers: Option<HeaderMap>,
}

/// Bytes of an answer that may be kept, where the route says so.
pub struct Limit(pub u64);

/// What a script waits for.
pub enum Pending {
    Body,
    Chunk,
    Trailers,
    Call(Box<Call>),
    Reply(Box<LocalReply>),
}

/// What a script gets for which it has waited.
pub enum Given {
    Start,
    /// Whether it is there.
    There(bool),
    Called(Box<Called>),
}

/// Where a script runs.
pub enum Place<'p, 's> {
    Request(&'p mut Stream<'s>),
    Answer(&'p mut Answer<'s>),
    /// The head is gone; a copy can be looked at.
    Passing(&'p mut Gone),
}

/// The head of a message whose body passes, and who can be called meanwhile.
pub struct Gone {
    pub head: Head,
    pub calls: Option<Rc<dyn Calls>>,
}

/// What is kept of it.
pub enum Head {
    Request(Box<http::request::Parts>),
    Response(StatusCode, HeaderMap),
}

impl Place<'_, '_> {
    /// The head of the message, to be read or changed; of one that is gone the copy.
    pub fn head(&mut self) -> Target<'_> {
        match self {
            Self::Request(stream) => Target::Request(stream.request),
            Self::Answer(answer) => Target::Response(&mut answer.status, answer.headers),
            Self::Passing(gone) => match &mut gone.head {
                Head::Request(parts) => Target::Request(parts),
                Head::Response(status, headers) => Target::Response(status, headers),
            },
        }
    }

    /// Whom services can be called by; nobody where the stream is over.
    pub fn calls(&self) -> Option<Rc<dyn Calls>> {
        match self {
            Self::Request(stream) => Some(stream.calls()),
            Self::Answer(answer) => answer.calls(),
            Self::Passing(gone) => gone.calls.clone(),
        }
    }
}

impl Run {
    /// # Errors
    /// There is no memory left.
    pub fn new(
        inner: &Arc<Inner>,
        script: &Arc<Script>,
        context: &Arc<MetadataValue>,
    ) -> mlua::Result<Self> {
        let state = script.state()?;
        let thread = state.lua.create_thread(state.enter.clone())?;
        Ok(Self {
            inner: Arc::clone(inner),
            context: Arc::clone(context),
            script: Arc::clone(script),
            state,
            thread,
            pending: None,
            reroute: false,
            bodyless: false,
            body: None,
            replaced: false,
            chunk: None,
            ended: false,
            trailers: None,
        })
    }

    /// Lets the script run until it waits, which comes back, or ends. A script that fails has ended.
    pub fn resume(&mut self, place: &mut Place<'_, '_>, given: Given) -> Option<Pending> {
        let state = Rc::clone(&self.state);
        let thread = self.thread.clone();
        self.pending = None;
        state.refill();
        let lua = &state.lua;
        let given = match given {
            Given::Start => match place {
                Place::Request(_) => state.on_request.clone().into_lua_multi(lua),
                _ => state.on_response.clone().into_lua_multi(lua),
            },
            Given::There(there) => there.into_lua_multi(lua),
            Given::Called(called) => called.told(lua).and_then(|all| all.into_lua_multi(lua)),
        };
        let run = &mut *self;
        let ran = given.and_then(|given| {
            lua.scope(|scope| {
                let ask = move |lua: &Lua, (what, arguments): (LuaString, MultiValue)| {
                    run.ask(lua, place, &what.as_bytes(), arguments)
                };
                let mut arguments = scope.create_function_mut(ask)?.into_lua_multi(lua)?;
                arguments.extend(given);
                thread.resume::<()>(arguments)
            })
        });
        let failed = match ran {
            Ok(()) if !thread.is_resumable() => return None,
            Ok(()) => match self.pending.take() {
                Some(pending) => return Some(pending),
                None => Error::runtime("script performed an unexpected yield"),
            },
            Err(error) => error,
        };
        self.inner.failed(&told(&failed));
        if is_memory(&failed) {
            self.script.forget();
        }
        None
    }

    /// With the head of a request, before it goes on.
    pub fn request(mut self, stream: &mut Stream<'_>, mut given: Given) -> Flow {
        loop {
            let mut place = Place::Request(stream);
            match self.resume(&mut place, given) {
                None => return self.leave_request(stream),
                Some(Pending::Reply(reply)) => return Flow::Reply(reply),
                Some(Pending::Body) if self.bodyless => given = Given::There(false),
                Some(Pending::Body) => {
                    let limit = limit(stream);
                    return stream.read_body(limit, move |stream, read| match read {
                        Read::Whole(whole) => {
                            let there = self.keep(whole.data, whole.trailers);
                            self.request(stream, there)
                        }
                        Read::Larger(..) => Flow::reply(LocalReply::too_large()),
                        Read::Broken(_) => Flow::reply(LocalReply::broken_body()),
                    });
                }
                Some(Pending::Call(call)) => {
                    return Flow::wait(async move {
                        let called = Given::Called(Box::new(call.answer().await));
                        Box::new(move |stream: &mut Stream<'_>| self.request(stream, called))
                            as Then
                    });
                }
                Some(waits @ (Pending::Chunk | Pending::Trailers)) => {
                    let gone = Gone {
                        calls: place.calls(),
                        head: Head::Request(Box::new(stream.request.clone())),
                    };
                    let next = self.next_of_request();
                    // What the script makes of it has a length of its own.
                    stream.request.headers.remove(CONTENT_LENGTH);
                    stream.transform_body(Box::new(Passing::new(self, gone, &waits)));
                    return next;
                }
            }
        }
    }

    fn next_of_request(&self) -> Flow {
        match self.reroute {
            true => Flow::Reroute,
            false => Flow::Continue,
        }
    }

    fn leave_request(mut self, stream: &mut Stream<'_>) -> Flow {
        if let Some(body) = self.leave(&mut stream.request.headers) {
            stream.put_body(body.boxed());
        }
        self.next_of_request()
    }

    /// With the head of an answer, before it goes on.
    pub fn answer(mut self, answer: &mut Answer<'_>, mut given: Given) {
        loop {
            let mut place = Place::Answer(answer);
            match self.resume(&mut place, given) {
                // A script cannot reply to an answer.
                None | Some(Pending::Reply(_)) => {
                    if let Some(body) = self.leave(answer.headers) {
                        answer.replace_body(body);
                    }
                    return;
                }
                Some(Pending::Body) if self.bodyless => given = Given::There(false),
                Some(Pending::Body) => {
                    let kept = answer.kept::<Limit>();
                    let limit = kept.map_or(BUFFER_LIMIT, |limit| limit.0);
                    return answer.read_body(limit, move |answer, gathered| match gathered {
                        Gathered::Whole(data, trailers) => {
                            let there = self.keep(data, trailers);
                            self.answer(answer, there);
                        }
                        Gathered::Larger(_) => refuse(answer, "response_payload_too_large"),
                        Gathered::Broken(_) => refuse(answer, "response_body_broken"),
                    });
                }
                Some(Pending::Call(call)) => {
                    return answer.wait(async move {
                        let called = Given::Called(Box::new(call.answer().await));
                        Box::new(move |answer: &mut Answer<'_>| self.answer(answer, called))
                            as Resume
                    });
                }
                Some(waits @ (Pending::Chunk | Pending::Trailers)) => {
                    let gone = Gone {
                        calls: place.calls(),
                        head: Head::Response(answer.status, answer.headers.clone()),
                    };
                    return answer.transform(Box::new(Passing::new(self, gone, &waits)));
                }
            }
        }
    }

    fn keep(&mut self, data: Bytes, trailers: Option<HeaderMap>) -> Given {
        let there = !data.is_empty();
        self.body = Some(data);
        self.trailers = trailers;
        self.ended = true;
        Given::There(there)
    }

    /// The body that was taken, or made, and in the head how long it is.
    fn leave(&mut self, headers: &mut HeaderMap) -> Option<Whole> {
        let body = Whole {
            data: self.body.take()?,
            trailers: self.trailers.take(),
        };
        if self.replaced {
            headers.remove(CONTENT_LENGTH);
            if body.trailers.is_none() {
                headers.remove(TRANSFER_ENCODING);
                headers.insert(CONTENT_LENGTH, body.data.len().into());
            }
        }
        Some(body)
    }
}

/// Whether nothing of a request's body can be had: there is none, or it is a tunnel, which has no end.
pub fn is_bodyless(stream: &Stream<'_>) -> bool {
    let request = &*stream.request;
    stream.is_bodyless()
        || request.headers.contains_key(UPGRADE)
        || request.method == Method::CONNECT
}

/// Bytes of a body that may be kept.
pub fn limit(stream: &Stream<'_>) -> u64 {
    match stream.route().map(|route| &route.action) {
        Some(Action::Forward(forward)) => forward.buffer_limit,
        _ => BUFFER_LIMIT,
    }
}

/// Nothing of the answer was sent yet.
fn refuse(answer: &mut Answer<'_>, details: &'static str) {
    let status = StatusCode::INTERNAL_SERVER_ERROR;
    answer.reply(LocalReply::new(status, details).saying("Internal Server Error"));
}
