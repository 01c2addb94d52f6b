mod logins;

use std::cell::RefCell;
use std::net::Ipv4Addr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use causeway_xds::text;
use http::header::HeaderMap;
use http::request::Parts;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::flow::now;
use super::seal::Sealer;
use super::session::Session;
use super::*;
use crate::filter::LocalReply;
use crate::filter::body::Whole;
use crate::filter::call::{CallError, Calls};
use crate::filter::testing::{Nowhere, TestBody, one_service, request};

const HMAC: &[u8] = b"a secret for signatures";

/// A token endpoint.
#[derive(Default)]
struct Server {
    answer: RefCell<Option<Value>>,
    asked: RefCell<Vec<(Parts, String)>>,
}

impl Server {
    fn calls(self: &std::rc::Rc<Self>) -> std::rc::Rc<dyn Calls> {
        let server = std::rc::Rc::clone(self);
        one_service("idp", move |head, body| {
            let body = String::from_utf8(body.to_vec()).unwrap();
            server.asked.borrow_mut().push((head, body));
            let answer = server.answer.borrow().clone();
            let answer = answer.ok_or(CallError::Unreachable("nobody".into()))?;
            let body = Bytes::from(answer.to_string());
            Ok(Response::new(Whole::new(body).boxed()))
        })
    }
}

struct Case {
    filter: Arc<dyn HttpFilter>,
    context: Context,
    server: std::rc::Rc<Server>,
}

fn config(more: &Value) -> Value {
    let mut config = json!({
        "token_endpoint": {"uri": "https://idp.test/token", "cluster": "idp", "timeout": "1s"},
        "authorization_endpoint": "https://idp.test/authorize",
        "credentials": {"client_id": "me", "token_secret": {"name": "client"},
            "hmac_secret": {"name": "hmac"}},
        "redirect_uri": "https://%REQ(:authority)%/callback",
        "redirect_path_matcher": {"path": {"exact": "/callback"}},
        "signout_path": {"path": {"exact": "/signout"}},
        "forward_bearer_token": true,
        "auth_scopes": ["openid"],
    });
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

fn built(more: &Value, context: &Context) -> Result<Arc<dyn HttpFilter>, String> {
    let message = json!({
        "@type": format!("type.googleapis.com/{}", FACTORY.message),
        "config": config(more),
    });
    let any = text::any_from_value(&message).expect("a message");
    build(&TypedExtension::from_any("x", any), context).map_err(|e| e.to_string())
}

fn case(more: &Value) -> Case {
    let context = Context::default();
    // As a file has it.
    context
        .secrets
        .set("client", Some(b"client secret\n".to_vec()));
    context.secrets.set("hmac", Some(HMAC.to_vec()));
    let server = Server::default();
    *server.answer.borrow_mut() = Some(json!({"access_token": "at", "id_token": "it",
        "refresh_token": "rt", "expires_in": 60}));
    Case {
        filter: built(more, &context).unwrap(),
        context,
        server: std::rc::Rc::new(server),
    }
}

/// The cookies of a session, as they are made for a host.
fn session(expires: &str, host: &[u8]) -> String {
    let sealer = Sealer(HMAC);
    let session = Session {
        bearer: "at".to_owned(),
        id: "it".to_owned(),
        refresh: "rt".to_owned(),
        expires: expires.to_owned(),
        hmac: String::new(),
    };
    let sealed = |name: &str, token: &str| format!("{name}={}", sealer.seal(name, token).unwrap());
    [
        format!("OauthHMAC={}", session.sign(&sealer, host)),
        format!("OauthExpires={expires}"),
        sealed("BearerToken", "at"),
        sealed("IdToken", "it"),
        sealed("RefreshToken", "rt"),
    ]
    .join("; ")
}

/// What became of a request.
struct Outcome {
    reply: Option<LocalReply>,
    parts: Parts,
    set: Vec<String>,
}

impl Case {
    async fn ask(&self, target: &str, cookies: &str) -> Outcome {
        let mut headers = vec![("host", "app.test"), ("x-forwarded-proto", "https")];
        if !cookies.is_empty() {
            headers.push(("cookie", cookies));
        }
        self.asked(request(target, &headers)).await
    }

    async fn asked(&self, mut parts: Parts) -> Outcome {
        let around = Nowhere {
            calls: self.server.calls(),
            ..Nowhere::default()
        };
        let mut body = TestBody::default();
        let client = Ipv4Addr::LOCALHOST.into();
        let flow = {
            let mut stream = Stream::new(&mut parts, &mut body, client, &around);
            self.filter.request(&mut stream)
        };
        let flow = match flow {
            Flow::Wait(wait) => {
                let then = wait.await;
                let mut stream = Stream::new(&mut parts, &mut body, client, &around);
                then(&mut stream)
            }
            flow => flow,
        };
        let mut headers = HeaderMap::new();
        let mut answer = Answer::new(StatusCode::OK, &mut headers, Some(&around));
        self.filter.response(&mut answer);
        let reply = match flow {
            Flow::Continue => None,
            Flow::Reply(reply) => Some(*reply),
            other => panic!("{other:?}"),
        };
        let all = reply.as_ref().map_or(&headers, |reply| &reply.headers);
        let set = all.get_all(SET_COOKIE).iter();
        let set = set.map(|v| v.to_str().unwrap().to_owned()).collect();
        Outcome { reply, parts, set }
    }

    /// Logs in, and comes back with the cookies of a session.
    async fn logged_in(&self) -> String {
        let begun = self.ask("/page?x=1", "").await;
        let back = begun.back();
        let outcome = self.ask(&back, &begun.cookies()).await;
        assert_eq!(outcome.location(), "https://app.test/page?x=1");
        outcome.cookies()
    }
}

impl Outcome {
    fn location(&self) -> String {
        let reply = self.reply.as_ref().expect("a reply");
        assert_eq!(reply.status, 302, "{reply:?}");
        reply.headers["location"].to_str().unwrap().to_owned()
    }

    /// As a client would send them.
    fn cookies(&self) -> String {
        let pairs = self.set.iter().filter_map(|text| text.split(';').next());
        pairs
            .filter(|pair| !pair.ends_with("=deleted"))
            .collect::<Vec<_>>()
            .join("; ")
    }

    fn query(&self) -> std::collections::HashMap<String, String> {
        let location = self.location();
        let (_, query) = location.split_once('?').expect("a query");
        form_urlencoded::parse(query.as_bytes())
            .into_owned()
            .collect()
    }

    /// Where the authorization server sends the client.
    fn back(&self) -> String {
        format!("/callback?code=c0de&state={}", self.query()["state"])
    }

    fn status(&self) -> u16 {
        self.reply.as_ref().map_or(0, |reply| reply.status.as_u16())
    }
}

#[tokio::test]
async fn a_session_that_is_over_is_renewed() {
    let case = case(&json!({}));
    let over = session("1", b"app.test");
    *case.server.answer.borrow_mut() = Some(json!({"access_token": "new", "expires_in": 60}));
    let renewed = case.ask("/", &over).await;
    assert!(renewed.reply.is_none());
    assert_eq!(renewed.parts.headers["authorization"], "Bearer new");
    assert_eq!(
        renewed.parts.headers["cookie"],
        "BearerToken=new; IdToken=it"
    );
    // Nothing of what is signed together goes before the rest.
    let week = |cookie: &String| cookie.contains(";Max-Age=604800;");
    assert_eq!(renewed.set.len(), 5);
    assert!(renewed.set.iter().all(week), "{:?}", renewed.set);
    let (_, body) = case.server.asked.borrow().last().cloned().unwrap();
    assert!(
        body.contains("grant_type=refresh_token&refresh_token=rt"),
        "{body}"
    );
    assert!(case.ask("/", &renewed.cookies()).await.reply.is_none());
    *case.server.answer.borrow_mut() = None;
    assert_eq!(case.ask("/", &over).await.status(), 302);
}

#[tokio::test]
async fn only_a_session_that_was_signed_here_is_renewed() {
    let case = case(&json!({}));
    let over = session("1", b"app.test");
    let without = |name: &str| {
        let left = over.split("; ").filter(|c| !c.starts_with(name));
        left.collect::<Vec<_>>().join("; ")
    };
    let another = Sealer(HMAC).seal("IdToken", "another").unwrap();
    for cookies in [
        without("OauthHMAC"),
        without("OauthExpires"),
        without("BearerToken"),
        without("IdToken"),
        format!("{}; IdToken={another}", without("IdToken")),
        session("1", b"other.test"),
    ] {
        assert_eq!(case.ask("/", &cookies).await.status(), 302, "{cookies}");
    }
    assert!(case.server.asked.borrow().is_empty());
    assert!(case.ask("/", &over).await.reply.is_none());
}

#[tokio::test]
async fn without_the_secrets_nobody_comes_in() {
    let case = case(&json!({}));
    let cookies = case.logged_in().await;
    case.context.secrets.set("hmac", None);
    assert_eq!(case.ask("/", &cookies).await.status(), 401);
    case.context.secrets.set("hmac", Some(HMAC.to_vec()));
    assert!(case.ask("/", &cookies).await.reply.is_none());
    case.context.secrets.set("client", None);
    let begun = case.ask("/page", "").await;
    assert_eq!(
        case.ask(&begun.back(), &begun.cookies()).await.status(),
        401
    );
}

#[tokio::test]
async fn a_secret_that_anybody_can_guess_is_none() {
    for secret in ["", "fifteen bytes!!"] {
        let case = case(&json!({}));
        case.context
            .secrets
            .set("hmac", Some(secret.as_bytes().to_vec()));
        assert_eq!(case.ask("/", "").await.status(), 401, "{secret:?}");
    }
    for secret in ["", "\n"] {
        let case = case(&json!({}));
        case.context
            .secrets
            .set("client", Some(secret.as_bytes().to_vec()));
        let begun = case.ask("/", "").await;
        let back = case.ask(&begun.back(), &begun.cookies()).await;
        assert_eq!(back.status(), 401, "{secret:?}");
        assert!(case.server.asked.borrow().is_empty());
    }
}

#[tokio::test]
async fn who_passes_does_not_speak_for_the_filter() {
    let pass = json!([{"name": "x-pass", "present_match": true}]);
    let sent = [
        ("host", "app.test"),
        ("x-pass", "1"),
        ("x-id", "forged"),
        ("x-envoy-oauth-status", "failed"),
        ("x-envoy-oauth-failure-reason", "forged"),
        ("authorization", "Bearer own"),
    ];
    for (header, left) in [
        ("x-id", &["authorization", "host", "x-pass"][..]),
        // A credential of another kind is not ours to take.
        (
            "authorization",
            &["authorization", "host", "x-id", "x-pass"][..],
        ),
    ] {
        let more = json!({"pass_through_matcher": pass, "forward_bearer_token": false,
            "forward_id_token": {"header": header}});
        let case = case(&more);
        let passed = case.asked(request("/", &sent)).await;
        assert!(passed.reply.is_none());
        let names = passed.parts.headers.keys().map(HeaderName::as_str);
        let mut names: Vec<&str> = names.collect();
        names.sort_unstable();
        assert_eq!(names, left, "{header}");
    }
}

#[tokio::test]
async fn some_requests_pass_and_some_are_not_sent_away() {
    let header = |name: &str| json!([{"name": name, "present_match": true}]);
    let case = case(&json!({"pass_through_matcher": header("x-pass"),
        "deny_redirect_matcher": header("x-ajax"), "allow_failed_matcher": header("x-may")}));
    let with = |name: &str| request("/", &[("host", "app.test"), (name, "1")]);
    assert!(case.asked(with("x-pass")).await.reply.is_none());
    assert_eq!(case.asked(with("x-ajax")).await.status(), 401);
    let failed = case.asked(with("x-may")).await;
    assert!(failed.reply.is_none());
    assert_eq!(failed.parts.headers["x-envoy-oauth-status"], "failed");
    assert_eq!(case.asked(with("x-other")).await.status(), 302);
}

#[tokio::test]
async fn who_signs_out_has_nothing_left() {
    let case = case(&json!({"end_session_endpoint": "https://idp.test/logout"}));
    let cookies = case.logged_in().await;
    let out = case.ask("/signout", &cookies).await;
    let query = out.query();
    assert!(out.location().starts_with("https://idp.test/logout?"));
    assert_eq!(
        (query["id_token_hint"].as_str(), query["client_id"].as_str()),
        ("it", "me")
    );
    assert_eq!(query["post_logout_redirect_uri"], "https://app.test/");
    assert_eq!(out.cookies(), "", "all are deleted");
    assert_eq!(out.set.len(), 5);
}

#[tokio::test]
async fn users_are_sent_only_where_that_is_allowed() {
    let case = case(&json!({"allowed_redirect_domains": ["*.apps.test", "app.test"]}));
    assert_eq!(case.ask("/", "").await.status(), 302);
    for (host, status) in [("a.apps.test", 302), ("apps.test", 401), ("evil.test", 401)] {
        let parts = request("/", &[("host", host)]);
        assert_eq!(case.asked(parts).await.status(), status, "{host}");
    }
}

#[test]
fn what_is_wrong_is_refused_by_its_path() {
    let context = Context::default();
    let refused = |more: Value| built(&more, &context).unwrap_err();
    assert_eq!(
        refused(json!({"auth_type": "PRIVATE_KEY_JWT"})),
        "config.auth_type: PRIVATE_KEY_JWT is not supported yet"
    );
    assert_eq!(
        refused(json!({"preserve_authorization_header": true})),
        "config.preserve_authorization_header: cannot be true together with forward_bearer_token"
    );
    assert_eq!(
        refused(json!({"authorization_endpoint": "idp"})),
        "config.authorization_endpoint: is no absolute URI"
    );
    assert_eq!(
        refused(json!({"credentials": {"client_id": "me", "hmac_secret": {"name": "h"}}})),
        "config.credentials.token_secret: must be given"
    );
    let names = |config: &Value| {
        let any = text::any_from_value(config).unwrap();
        let secrets = secrets(&TypedExtension::from_any("x", any));
        secrets
            .into_iter()
            .map(|secret| secret.name)
            .collect::<Vec<_>>()
    };
    let per_route = json!({"@type": format!("type.googleapis.com/{}", FACTORY.per_route[0].0),
        "config": config(&json!({}))});
    assert_eq!(names(&per_route), ["client", "hmac"]);
}
