use std::cell::Cell;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use causeway_xds::text;
use futures_util::future::LocalBoxFuture;
use http::{Request, Response};
use serde_json::{Value, json};

use super::*;
use crate::filter::body::{BoxBody, Whole};
use crate::filter::call::{CallError, Calls, Members};
use crate::filter::registry::Context;
use crate::filter::testing::{Nowhere, TestBody, request};

fn generic() -> Value {
    json!({"name": "generic", "typed_config": {
        "@type": format!("type.googleapis.com/{GENERIC}"),
        "credential": {"name": "key"}, "header_value_prefix": "Basic "}})
}

fn made(config: &Value, context: &Context) -> Result<Arc<dyn HttpFilter>, String> {
    let mut config = config.clone();
    config["@type"] = json!(format!("type.googleapis.com/{}", FACTORY.message));
    let any = text::any_from_value(&config).expect("a message");
    let extension = TypedExtension::from_any("x", any);
    build(&extension, context).map_err(|e| e.to_string())
}

fn ask(filter: &Arc<dyn HttpFilter>, headers: &[(&str, &str)]) -> (Flow, Option<String>) {
    let (around, mut body) = (Nowhere::default(), TestBody::default());
    let mut parts = request("/", headers);
    let client = std::net::Ipv4Addr::LOCALHOST.into();
    let mut stream = Stream::new(&mut parts, &mut body, client, &around);
    let flow = filter.request(&mut stream);
    let value = parts.headers.get(AUTHORIZATION);
    let value = value.map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
    (flow, value)
}

fn token() -> Value {
    json!({"name": "x", "typed_config": {
        "@type": format!("type.googleapis.com/{OAUTH2}"),
        "client_credentials": {"client_id": "c", "client_secret": {"name": "s"}},
        "token_endpoint": {"uri": "http://a.test/t", "cluster": "a", "timeout": "1s"}}})
}

/// A token endpoint that always says the same.
struct Server {
    answer: String,
    asked: Cell<usize>,
}

impl Calls for Server {
    fn call(
        &self,
        _: &str,
        _: Request<BoxBody>,
        _: Duration,
    ) -> LocalBoxFuture<'static, Result<Response<BoxBody>, CallError>> {
        self.asked.set(self.asked.get() + 1);
        let body = Whole::new(Bytes::from(self.answer.clone())).boxed();
        Box::pin(async move { Ok(Response::new(body)) })
    }

    fn members(&self, _: &str) -> Option<Members> {
        None
    }
}

struct Case {
    filter: Arc<dyn HttpFilter>,
    context: Context,
    server: Rc<Server>,
}

impl Case {
    fn new(answer: &Value) -> Self {
        let context = Context::default();
        context.secrets.set("s", Some(b"one".to_vec()));
        let server = Server {
            answer: answer.to_string(),
            asked: Cell::new(0),
        };
        Self {
            filter: made(&json!({"credential": token()}), &context).unwrap(),
            context,
            server: Rc::new(server),
        }
    }

    /// What the upstream gets, and how often a token has been asked for.
    async fn ask(&self) -> (Option<String>, usize) {
        let calls: Rc<dyn Calls> = self.server.clone();
        let around = Nowhere {
            calls,
            ..Nowhere::default()
        };
        let (mut parts, mut body) = (request("/", &[]), TestBody::default());
        let client = Ipv4Addr::LOCALHOST.into();
        let flow = {
            let mut stream = Stream::new(&mut parts, &mut body, client, &around);
            self.filter.request(&mut stream)
        };
        if let Flow::Wait(wait) = flow {
            let then = wait.await;
            let mut stream = Stream::new(&mut parts, &mut body, client, &around);
            then(&mut stream);
        }
        let value = parts.headers.get(AUTHORIZATION);
        let value = value.map(|v| v.to_str().unwrap().to_owned());
        (value, self.server.asked.get())
    }
}

#[tokio::test]
async fn a_token_may_say_that_it_is_good_for_ever() {
    let case = Case::new(&json!({"access_token": "at", "expires_in": u64::MAX}));
    let bearer = Some("Bearer at".to_owned());
    assert_eq!(case.ask().await, (bearer.clone(), 1));
    assert_eq!(case.ask().await, (bearer, 1));
}

#[tokio::test]
async fn a_token_does_not_outlive_its_secret() {
    let case = Case::new(&json!({"access_token": "at", "expires_in": 600}));
    let bearer = Some("Bearer at".to_owned());
    assert_eq!(case.ask().await, (bearer.clone(), 1));
    for (secret, seen) in [
        (Some("one"), (bearer.clone(), 1)),
        (Some("two"), (bearer.clone(), 2)),
        (None, (None, 2)),
        (Some("two"), (bearer, 3)),
    ] {
        let bytes = secret.map(|secret| secret.as_bytes().to_vec());
        case.context.secrets.set("s", bytes);
        assert_eq!(case.ask().await, seen, "{secret:?}");
    }
}

#[tokio::test]
async fn an_empty_token_is_none() {
    let case = Case::new(&json!({"access_token": ""}));
    assert_eq!(case.ask().await, (None, 1));
}

#[test]
fn nothing_passes_without_a_secret_and_what_comes_is_used_at_once() {
    let context = Context::default();
    let filter = made(&json!({"credential": generic()}), &context).unwrap();
    let (flow, _) = ask(&filter, &[]);
    assert!(matches!(flow, Flow::Reply(r) if r.status == 401));
    context.secrets.set("key", Some(b"dXNlcg==\n".to_vec()));
    assert_eq!(ask(&filter, &[]).1.as_deref(), Some("Basic dXNlcg=="));
    context.secrets.set("key", None);
    assert!(matches!(ask(&filter, &[]).0, Flow::Reply(_)));
    let open = json!({"credential": generic(), "allow_request_without_credential": true});
    let open = made(&open, &context).unwrap();
    let (flow, value) = ask(&open, &[]);
    assert!(matches!(flow, Flow::Continue) && value.is_none());
}

#[test]
fn what_is_there_is_replaced_only_where_that_is_wanted() {
    let context = Context::default();
    context.secrets.set("key", Some(b"k".to_vec()));
    let own = [("authorization", "own")];
    let kept = made(&json!({"credential": generic()}), &context).unwrap();
    assert_eq!(ask(&kept, &own).1.as_deref(), Some("own"));
    let replaced = json!({"credential": generic(), "overwrite": true});
    let replaced = made(&replaced, &context).unwrap();
    assert_eq!(ask(&replaced, &own).1.as_deref(), Some("Basic k"));
}

#[test]
fn a_credential_that_is_none_is_refused_by_its_path() {
    let context = Context::default();
    let refused =
        |credential: Value| made(&json!({ "credential": credential }), &context).unwrap_err();
    let error = refused(json!({"name": "x", "typed_config": {
        "@type": format!("type.googleapis.com/{GENERIC}"), "header": "host",
        "credential": {"name": "key"}}}));
    assert!(
        error.starts_with("credential.typed_config.header:"),
        "{error}"
    );
    let error = refused(json!({"name": "x", "typed_config": {
        "@type": format!("type.googleapis.com/{OAUTH2}"), "client_credentials": {"client_id": "c"},
        "token_endpoint": {"uri": "http://a.test/t", "cluster": "a", "timeout": "1s"}}}));
    assert_eq!(
        error,
        "credential.typed_config.client_credentials.client_secret: must be given"
    );
    assert!(made(&json!({"credential": token()}), &context).is_ok());
}
