use std::cell::Cell;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use bytes::Bytes;
use causeway_xds::proto::core::{self, data_source::Specifier, http_uri::HttpUpstreamType};
use causeway_xds::proto::{self as pb};
use futures_util::future::LocalBoxFuture;
use http::Response;
use proto::jwt_provider::JwksSourceSpecifier;
use proto::jwt_requirement::RequiresType;
use serde_json::{Value, json};

use super::keys::Keys;
use super::token::{BASE64, Token};
use super::*;
use crate::filter::Chain;
use crate::filter::body::{BoxBody, Whole};
use crate::filter::call::{CallError, Calls, Members};
use crate::filter::testing::{Nowhere, TestBody, chain, pass, per_route, request};
use crate::route::PerRoute as RouteSaid;

const SECRET: &[u8] = b"a secret of thirty-two bytes, ok";

fn jwks() -> String {
    json!({"keys": [{"kty": "oct", "kid": "h", "alg": "HS256", "k": BASE64.encode(SECRET)}]})
        .to_string()
}

fn signed(header: &Value, claims: &Value, secret: &[u8]) -> String {
    let part = |value: &Value| BASE64.encode(value.to_string());
    let text = format!("{}.{}", part(header), part(claims));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), text.as_bytes());
    format!("{text}.{}", BASE64.encode(tag.as_ref()))
}

fn token(claims: Value) -> String {
    signed(&json!({"alg": "HS256", "kid": "h"}), &claims, SECRET)
}

fn provider(issuer: &str) -> proto::JwtProvider {
    proto::JwtProvider {
        issuer: issuer.into(),
        jwks_source_specifier: Some(JwksSourceSpecifier::LocalJwks(core::DataSource {
            specifier: Some(Specifier::InlineString(jwks())),
            ..Default::default()
        })),
        ..Default::default()
    }
}

fn requires(kind: RequiresType) -> proto::JwtRequirement {
    proto::JwtRequirement {
        requires_type: Some(kind),
    }
}

fn named(provider: &str) -> proto::JwtRequirement {
    requires(RequiresType::ProviderName(provider.into()))
}

fn any(requirements: Vec<proto::JwtRequirement>) -> proto::JwtRequirement {
    requires(RequiresType::RequiresAny(proto::JwtRequirementOrList {
        requirements,
    }))
}

fn missing() -> proto::JwtRequirement {
    requires(RequiresType::AllowMissing(pb::google::protobuf::Empty {}))
}

fn config(
    providers: Vec<(&str, proto::JwtProvider)>,
    requirement: proto::JwtRequirement,
) -> proto::JwtAuthentication {
    let rule = proto::RequirementRule {
        r#match: Some(pb::route::RouteMatch {
            path_specifier: Some(pb::route::route_match::PathSpecifier::Prefix("/".into())),
            ..Default::default()
        }),
        requirement_type: Some(RequirementType::Requires(requirement)),
    };
    proto::JwtAuthentication {
        providers: providers
            .into_iter()
            .map(|(name, provider)| (name.to_owned(), provider))
            .collect(),
        rules: vec![rule],
        ..Default::default()
    }
}

fn build_chain(config: &proto::JwtAuthentication) -> Chain {
    chain(FACTORY.message, config).unwrap()
}

fn refused(config: &proto::JwtAuthentication) -> String {
    chain(FACTORY.message, config).unwrap_err().to_string()
}

async fn ask_in(chain: &Chain, parts: &mut Parts, route: &RouteSaid, around: &Nowhere) -> Flow {
    let client = Ipv4Addr::new(192, 0, 2, 1).into();
    pass(
        chain,
        parts,
        &mut TestBody::default(),
        route,
        client,
        around,
    )
    .await
}

async fn ask(chain: &Chain, parts: &mut Parts) -> Result<(), (u16, String)> {
    let flow = ask_in(chain, parts, &RouteSaid::default(), &Nowhere::default()).await;
    match flow {
        Flow::Continue | Flow::Reroute => Ok(()),
        Flow::Reply(reply) => Err((reply.status.as_u16(), reply.text().to_owned())),
        other => panic!("{other:?}"),
    }
}

fn bearer(token: &str) -> Parts {
    let value = format!("Bearer {token}");
    request("/p", &[("host", "h"), ("authorization", &value)])
}

fn denied(status: u16, text: &str) -> Result<(), (u16, String)> {
    Err((status, text.to_owned()))
}

#[tokio::test]
async fn a_token_has_to_be_good_in_every_respect() {
    let mut one = provider("iss");
    one.audiences = vec!["one".into()];
    let chain = build_chain(&config(vec![("p", one)], named("p")));
    let good = json!({"iss": "iss", "aud": ["zero", "https://one/"], "exp": 9_000_000_000_u64});
    assert_eq!(ask(&chain, &mut bearer(&token(good.clone()))).await, Ok(()));
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        token(claims)
    };
    let fails = "Jwt verification fails";
    let cases = [
        (with("exp", json!(1)), 401, "Jwt is expired"),
        (
            with("nbf", json!(9_000_000_000_u64)),
            401,
            "Jwt not yet valid",
        ),
        (
            with("aud", json!("two")),
            403,
            "Audiences in Jwt are not allowed",
        ),
        (
            with("iss", json!("other")),
            401,
            "Jwt issuer is not configured",
        ),
        (
            with("sub", json!(1)),
            401,
            "Jwt payload [sub] field is not a string",
        ),
        (
            with("exp", json!(-1)),
            401,
            "Jwt payload [exp] field is not a positive 64 bit integer",
        ),
        (
            signed(&json!({"alg": "HS256"}), &good, b"another secret"),
            401,
            fails,
        ),
        (
            signed(&json!({"alg": "HS256", "kid": "x"}), &good, SECRET),
            401,
            "Jwks doesn't have key to match kid or alg from Jwt",
        ),
        (
            signed(&json!({"alg": "none"}), &good, SECRET),
            401,
            "Jwt header [alg] is not supported",
        ),
        ("!.b.c".into(), 401, Status::BadFormat.text()),
        ("a!.b.c".into(), 401, Status::HeaderBase64.text()),
        ("e30.e30.c".into(), 401, Status::HeaderAlg.text()),
    ];
    for (token, status, text) in cases {
        let answered = ask(&chain, &mut bearer(&token)).await;
        assert_eq!(answered, denied(status, text), "{token}");
    }
    let none = ask(&chain, &mut request("/p", &[("host", "h")])).await;
    assert_eq!(none, denied(401, "Jwt is missing"));
}

/// The secret of a symmetric algorithm must never be a public key.
#[test]
fn the_kind_of_a_key_decides_its_algorithms() {
    let public = BASE64.encode(SECRET);
    let set = json!({"keys": [{"kty": "RSA", "n": public, "e": "AQAB"}]}).to_string();
    let keys = Keys::parse(set.as_bytes()).unwrap();
    let token = Token::parse(token(json!({"iss": "iss"}))).unwrap();
    assert_eq!(keys.verify(&token), Err(Status::VerificationFails));
    for bad in [
        "",
        "[]",
        "{}",
        r#"{"keys":[]}"#,
        r#"{"keys":[{"kty":"oct"}]}"#,
    ] {
        assert!(Keys::parse(bad.as_bytes()).is_err(), "{bad}");
    }
}

#[test]
fn curves_and_edwards_keys_verify() {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
    };
    let random = SystemRandom::new();
    let text = |alg: &str| format!("{}.e30", BASE64.encode(json!({"alg": alg}).to_string()));

    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let point = pair.public_key().as_ref().to_vec();
    let signature = pair.sign(&random, text("ES256").as_bytes()).unwrap();
    let es = format!("{}.{}", text("ES256"), BASE64.encode(signature));
    let (x, y) = point[1..].split_at(32);
    let ec = json!({"kty": "EC", "crv": "P-256",
        "x": BASE64.encode(x), "y": BASE64.encode(y)});

    let pair = Ed25519KeyPair::generate().unwrap();
    let signature = pair.sign(text("EdDSA").as_bytes());
    let ed = format!("{}.{}", text("EdDSA"), BASE64.encode(signature));
    let okp = json!({"kty": "OKP", "crv": "Ed25519",
        "x": BASE64.encode(pair.public_key().as_ref())});

    for (key, good, bad) in [(&ec, &es, &ed), (&okp, &ed, &es)] {
        let keys = Keys::parse(json!({ "keys": [key] }).to_string().as_bytes()).unwrap();
        let check = |text: &str| keys.verify(&Token::parse(text.to_owned()).unwrap());
        assert_eq!(check(good), Ok(()));
        assert_eq!(check(bad), Err(Status::VerificationFails));
    }
}

#[tokio::test]
async fn a_second_token_cannot_ride_along() {
    let chain = build_chain(&config(vec![("p", provider("iss"))], named("p")));
    let good = token(json!({"iss": "iss"}));
    let value = format!("Bearer {good}");
    for bad in ["a.b", &token(json!({"iss": "iss", "exp": 1}))] {
        let target = format!("/p?access_token={bad}");
        let mut parts = request(&target, &[("authorization", &value)]);
        assert!(ask(&chain, &mut parts).await.is_err(), "{bad}");
    }
    let mut twice = request(
        "/p",
        &[("authorization", &value), ("authorization", &value)],
    );
    assert!(ask(&chain, &mut twice).await.is_err());
    let mut other = request("/p", &[("authorization", "Basic x")]);
    let answered = ask(&chain, &mut other).await;
    assert_eq!(answered, denied(401, "Jwt is missing"));
}

#[tokio::test]
async fn the_upstream_learns_what_a_good_token_says_and_nothing_else() {
    let mut one = provider("iss");
    let claim = |header: &str, claim: &str| proto::JwtClaimToHeader {
        header_name: header.into(),
        claim_name: claim.into(),
        ..Default::default()
    };
    one.claim_to_headers = vec![
        claim("x-sub", "sub"),
        claim("x-deep", "o.x"),
        claim("x-list", "l"),
        claim("x-n", "n"),
        claim("x-bad", "bad"),
        claim("x-none", "none"),
    ];
    one.forward_payload_header = "x-payload".into();
    one.pad_forward_payload_header = true;
    let chain = build_chain(&config(vec![("p", one)], named("p")));
    let claims = json!({"iss": "iss", "sub": "alice", "o": {"x": true}, "l": [1, "a"],
        "n": 1.5, "bad": "a\r\nb"});
    let text = token(claims);
    let target = format!("/p?a=%20b&access_token={text}&c");
    let spoofed = [("x-sub", "root"), ("x-none", "1"), ("x-bad", "1")];
    let mut parts = request(&target, &spoofed);
    assert_eq!(ask(&chain, &mut parts).await, Ok(()));
    assert_eq!(parts.uri, "/p?a=%20b&c");
    let header = |name: &str| parts.headers.get(name).map(|v| v.to_str().unwrap());
    assert_eq!(header("x-sub"), Some("alice"));
    assert_eq!(header("x-deep"), Some("true"));
    assert_eq!(header("x-list"), Some("WzEsImEiXQ=="));
    assert_eq!(header("x-n"), Some("1.500000"));
    assert_eq!(header("x-bad"), None);
    assert_eq!(header("x-none"), None);
    let payload = header("x-payload").unwrap();
    assert!(payload.len().is_multiple_of(4), "{payload}");

    let mut kept = bearer(&text);
    assert_eq!(ask(&chain, &mut kept).await, Ok(()));
    assert!(!kept.headers.contains_key("authorization"));
}

#[tokio::test]
async fn one_of_several_requirements_is_enough_and_a_bad_token_is_never_missing() {
    let mut second = provider("b");
    second.from_headers = vec![proto::JwtHeader {
        name: "x-b".into(),
        value_prefix: String::new(),
    }];
    let providers = || vec![("a", provider("a")), ("b", second.clone())];
    let either = build_chain(&config(providers(), any(vec![named("a"), named("b")])));
    let (good, late) = (
        token(json!({"iss": "b"})),
        token(json!({"iss": "a", "exp": 1})),
    );
    let mut parts = bearer(&late);
    let answered = ask(&either, &mut parts).await;
    assert_eq!(answered, denied(401, "Jwt is expired"));
    parts.headers.insert("x-b", good.parse().unwrap());
    assert_eq!(ask(&either, &mut parts).await, Ok(()));

    let optional = build_chain(&config(providers(), any(vec![named("a"), missing()])));
    assert_eq!(ask(&optional, &mut request("/", &[])).await, Ok(()));
    let answered = ask(&optional, &mut bearer(&late)).await;
    assert_eq!(answered, denied(401, "Jwt is expired"));

    let anyone = build_chain(&config(providers(), missing()));
    assert_eq!(ask(&anyone, &mut request("/", &[])).await, Ok(()));
    assert_eq!(
        ask(&anyone, &mut request("/", &[("x-b", &good)])).await,
        Ok(())
    );
    let answered = ask(&anyone, &mut bearer(&late)).await;
    assert_eq!(answered, denied(401, "Jwt is expired"));
}

/// A service that has keys, or has none.
struct KeyService {
    keys: Option<String>,
    asked: Cell<usize>,
}

impl Calls for KeyService {
    fn call(
        &self,
        cluster: &str,
        request: http::Request<BoxBody>,
        _: Duration,
    ) -> LocalBoxFuture<'static, Result<Response<BoxBody>, CallError>> {
        assert_eq!((cluster, request.uri().path()), ("keys", "/k"));
        assert_eq!(request.headers()["host"], "idp.test:8080");
        self.asked.set(self.asked.get() + 1);
        let answer = match &self.keys {
            Some(keys) => Ok(Response::new(Whole::new(Bytes::from(keys.clone())).boxed())),
            None => Err(CallError::Unreachable("nobody there".into())),
        };
        Box::pin(async { answer })
    }

    fn members(&self, _: &str) -> Option<Members> {
        None
    }
}

fn remote() -> proto::JwtProvider {
    let mut remote = provider("iss");
    remote.jwks_source_specifier = Some(JwksSourceSpecifier::RemoteJwks(proto::RemoteJwks {
        http_uri: Some(core::HttpUri {
            uri: "http://idp.test:8080/k".into(),
            timeout: Some(pb::Duration {
                seconds: 1,
                nanos: 0,
            }),
            http_upstream_type: Some(HttpUpstreamType::Cluster("keys".into())),
        }),
        ..Default::default()
    }));
    remote
}

#[tokio::test]
async fn keys_are_fetched_once_and_nobody_passes_without_them() {
    let chain = build_chain(&config(vec![("p", remote())], named("p")));
    let none = Rc::new(KeyService {
        keys: None,
        asked: Cell::new(0),
    });
    let around = |service: &Rc<KeyService>| Nowhere {
        calls: Rc::clone(service) as Rc<dyn Calls>,
        ..Nowhere::default()
    };
    let route = RouteSaid::default();
    let good = token(json!({"iss": "iss"}));
    let flow = ask_in(&chain, &mut bearer(&good), &route, &around(&none)).await;
    let Flow::Reply(reply) = flow else {
        panic!("{flow:?}")
    };
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
    assert_eq!(reply.text(), "Jwks remote fetch is failed");

    let some = Rc::new(KeyService {
        keys: Some(jwks()),
        asked: Cell::new(0),
    });
    for _ in 0..3 {
        let flow = ask_in(&chain, &mut bearer(&good), &route, &around(&some)).await;
        assert!(matches!(flow, Flow::Continue), "{flow:?}");
    }
    assert_eq!(some.asked.get(), 1);
}

#[tokio::test]
async fn a_route_may_name_another_requirement_but_not_one_that_there_is_not() {
    let mut config = config(vec![("p", provider("iss"))], named("p"));
    config.requirement_map = [("named".to_owned(), named("p"))].into();
    let chain = build_chain(&config);
    let message = FACTORY.per_route[0].0;
    let route = |specifier| {
        let config = proto::PerRouteConfig {
            requirement_specifier: Some(specifier),
        };
        per_route(NAME, message, &config)
    };
    let around = Nowhere::default();
    let wrong = route(RequirementSpecifier::RequirementName("nope".into())).unwrap();
    let flow = ask_in(&chain, &mut request("/", &[]), &wrong, &around).await;
    let Flow::Reply(reply) = flow else {
        panic!("{flow:?}")
    };
    assert_eq!(reply.status, StatusCode::FORBIDDEN);
    assert_eq!(
        reply.text(),
        "Failed JWT authentication: Wrong requirement_name: nope. It should be one of [named]"
    );
    let off = route(RequirementSpecifier::Disabled(true)).unwrap();
    let flow = ask_in(&chain, &mut request("/", &[]), &off, &around).await;
    assert!(matches!(flow, Flow::Continue), "{flow:?}");
    assert!(route(RequirementSpecifier::Disabled(false)).is_err());
}

#[tokio::test]
async fn failures_and_payloads_are_left_as_metadata() {
    let mut one = provider("iss");
    one.payload_in_metadata = "pay".into();
    one.failed_status_in_metadata = "fail".into();
    one.normalize_payload_in_metadata = Some(proto::jwt_provider::NormalizePayload {
        space_delimited_claims: vec!["scope".into()],
    });
    let chain = build_chain(&config(vec![("p", one)], named("p")));
    let around = Nowhere::default();
    let route = RouteSaid::default();
    let find = |path: &[&str]| {
        let fields = around.state.metadata(NAME)?;
        let path: Vec<String> = path.iter().map(|p| (*p).to_owned()).collect();
        fields.get(&path).cloned()
    };
    use causeway_xds::resource::metadata::MetadataValue as M;
    let claims = json!({"iss": "iss", "scope": "a b"});
    ask_in(&chain, &mut bearer(&token(claims)), &route, &around).await;
    let words = vec![M::Text("a".into()), M::Text("b".into())];
    assert_eq!(find(&["pay", "scope"]), Some(M::List(words)));
    let late = token(json!({"iss": "iss", "exp": 1}));
    ask_in(&chain, &mut bearer(&late), &route, &around).await;
    assert_eq!(find(&["fail", "code"]), Some(M::Number(3.0)));
}

#[test]
fn what_is_wrong_is_refused_by_its_path() {
    let mut keyless = provider("iss");
    keyless.jwks_source_specifier = None;
    let error = refused(&config(vec![("p", keyless)], named("p")));
    assert_eq!(
        error,
        "providers[\"p\"].jwks_source_specifier: must be given"
    );
    let mut broken = provider("iss");
    broken.jwks_source_specifier = Some(JwksSourceSpecifier::LocalJwks(core::DataSource {
        specifier: Some(Specifier::InlineString("{}".into())),
        ..Default::default()
    }));
    let error = refused(&config(vec![("p", broken)], named("p")));
    let expected = "providers[\"p\"].local_jwks: Jwks does not have [keys] field";
    assert_eq!(error, expected);
    let error = refused(&config(vec![("p", provider("iss"))], named("q")));
    let expected = "rules[0].requires.provider_name: there is no provider \"q\"";
    assert_eq!(error, expected);
    let mut state = config(vec![], missing());
    state.filter_state_rules = Some(proto::FilterStateRule::default());
    // Even an empty one asks for something.
    assert_eq!(refused(&state), "filter_state_rules: not supported yet");
    let alone = config(vec![("p", provider("iss"))], any(vec![named("p")]));
    let expected = "rules[0].requires.requires_any.requirements: must be two or more";
    assert_eq!(refused(&alone), expected);
}

#[test]
fn keys_do_not_show_themselves() {
    let keys = Keys::parse(jwks().as_bytes()).unwrap();
    let shown = format!("{keys:?}");
    assert!(!shown.contains(&BASE64.encode(SECRET)), "{shown}");
}
