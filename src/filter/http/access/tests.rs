use causeway_xds::proto::Message as _;
use http::Request;
use http::request::Parts;
use serde_json::json;

use super::*;
use crate::filter::registry::Registry;
use crate::filter::testing::{self, Nowhere, TestBody};
use crate::route::{Filters as _, PerRoute};

const PERMIT: &str = "MWI4ZWU5YjhmNzNjMmNiMQ==";
const KEY: &str = "some_jwt_secret";
const ID: &str = "7c8356fe-e727-4548-9f26-2e4031fe30d1";

fn extension(message: &str, bytes: Vec<u8>) -> TypedExtension {
    TypedExtension {
        name: "causeway.access".into(),
        type_url: format!("type.googleapis.com/{message}"),
        value: bytes.into(),
    }
}

fn filter() -> Arc<dyn HttpFilter> {
    let config = proto::Access {
        cookie_name: "appproxy_permit".into(),
        token_key: KEY.into(),
        token_schemes: vec!["BackendAI".into(), "Bearer".into()],
        any_origin: false,
    };
    build(
        &extension("causeway.v1.Access", config.encode_to_vec()),
        &Context::default(),
    )
    .unwrap()
}

fn route(caller: Option<proto::access_per_route::Caller>, ips: &[&str]) -> PerRoute {
    let config = proto::AccessPerRoute {
        allowed_client_ips: ips.iter().map(|ip| (*ip).to_owned()).collect(),
        caller,
    };
    let config = extension("causeway.v1.AccessPerRoute", config.encode_to_vec());
    Registry::default().per_route(
        &mut [("causeway.access".to_owned(), config)]
            .iter()
            .map(crate::route::Word::from),
    )
}

fn permit() -> PerRoute {
    let value = PERMIT.into();
    route(
        Some(proto::access_per_route::Caller::Permit(proto::Permit {
            value,
        })),
        &[],
    )
}

fn token() -> PerRoute {
    let id = ID.into();
    route(
        Some(proto::access_per_route::Caller::Token(proto::Token { id })),
        &[],
    )
}

fn request(headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().uri("/");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

/// The detail word of the refusal, and the request as it would go on.
fn run_from(client: &str, mut parts: Parts, route: &PerRoute) -> (Option<&'static str>, Parts) {
    let (around, mut body) = (Nowhere::default(), TestBody::default());
    let mut stream = Stream::new(&mut parts, &mut body, client.parse().unwrap(), &around);
    stream.select(route, "causeway.access");
    let flow = filter().request(&mut stream);
    let refused = match flow {
        Flow::Continue => None,
        Flow::Fail(failure) => match failure.details {
            std::borrow::Cow::Borrowed(word) => Some(word),
            std::borrow::Cow::Owned(word) => panic!("{word}"),
        },
        other => panic!("{other:?}"),
    };
    (refused, parts)
}

fn run(parts: Parts, route: &PerRoute) -> Option<&'static str> {
    run_from("192.0.2.1", parts, route).0
}

fn signed(claims: &serde_json::Value, key: &str) -> String {
    let key = jsonwebtoken::EncodingKey::from_secret(key.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), claims, &key).unwrap()
}

#[test]
fn a_permit_opens_quoted_or_not_and_never_goes_on() {
    let quoted = format!("a=1; appproxy_permit=\"{PERMIT}\"; b=\"2\"");
    for cookie in [quoted, format!("a=1;appproxy_permit={PERMIT};b=\"2\"")] {
        let (refused, parts) = run_from("192.0.2.1", request(&[("cookie", &cookie)]), &permit());
        assert_eq!(refused, None, "{cookie}");
        assert_eq!(parts.headers[COOKIE], "a=1; b=\"2\"");
    }
    let only = format!("appproxy_permit={PERMIT}");
    let (_, parts) = run_from("192.0.2.1", request(&[("cookie", &only)]), &permit());
    assert!(!parts.headers.contains_key(COOKIE));
    let other = request(&[("cookie", "appproxy_permit=old"), ("cookie", &only)]);
    assert_eq!(run(other, &permit()), None, "one of several is enough");
}

#[test]
fn without_the_permit_there_is_no_way_in() {
    for (cookie, refusal) in [
        ("", "permit_missing"),
        (
            "xappproxy_permit=MWI4ZWU5YjhmNzNjMmNiMQ==",
            "permit_missing",
        ),
        (
            "appproxy_permitx=MWI4ZWU5YjhmNzNjMmNiMQ==",
            "permit_missing",
        ),
        ("appproxy_permit=", "permit_invalid"),
        ("appproxy_permit=\"\"", "permit_invalid"),
        ("appproxy_permit=MWI4ZWU5YjhmNzNjMmNiMQ=", "permit_invalid"),
        (
            "appproxy_permit=\"MWI4ZWU5YjhmNzNjMmNiMQ==",
            "permit_invalid",
        ),
    ] {
        assert_eq!(
            run(request(&[("cookie", cookie)]), &permit()),
            Some(refusal),
            "{cookie}"
        );
    }
    let bearer = format!("Bearer {}", signed(&json!({"id": ID}), KEY));
    let with_token = request(&[("authorization", &bearer)]);
    assert_eq!(run(with_token, &permit()), Some("permit_missing"));
    let mut preflight = request(&[]);
    preflight.method = Method::OPTIONS;
    assert_eq!(run(preflight, &permit()), None);
}

#[test]
fn a_token_opens_only_what_it_names() {
    let far = json!({"id": ID, "exp": 4_000_000_000_u64, "other": [1]});
    let good = signed(&far, KEY);
    for scheme in ["BackendAI", "Bearer"] {
        let value = format!("{scheme} {good}");
        let (refused, parts) =
            run_from("192.0.2.1", request(&[("authorization", &value)]), &token());
        assert_eq!(refused, None);
        assert_eq!(
            parts.headers[AUTHORIZATION],
            value.as_str(),
            "goes on unchanged"
        );
    }
    let forged = {
        let none = good.split('.').nth(1).unwrap();
        // {"alg":"none"}
        format!("eyJhbGciOiJub25lIn0.{none}.")
    };
    for (value, refusal) in [
        (format!("bearer {good}"), "token_scheme"),
        ("Basic dXNlcjpwYXNz".to_owned(), "token_scheme"),
        ("Bearer".to_owned(), "token_invalid"),
        (format!("Bearer {good}x"), "token_invalid"),
        (format!("Bearer {forged}"), "token_invalid"),
        (
            format!("Bearer {}", signed(&far, "another key")),
            "token_invalid",
        ),
        (
            format!("Bearer {}", signed(&json!({"id": ID, "exp": 1}), KEY)),
            "token_invalid",
        ),
        (
            format!(
                "Bearer {}",
                signed(&json!({"id": ID, "nbf": 4_000_000_000_u64}), KEY)
            ),
            "token_invalid",
        ),
        (
            format!(
                "Bearer {}",
                signed(&json!({"id": ID, "iat": 4_000_000_000_u64}), KEY)
            ),
            "token_invalid",
        ),
        (
            format!("Bearer {}", signed(&json!({"id": ID, "aud": "x"}), KEY)),
            "token_invalid",
        ),
        (
            format!("Bearer {}", signed(&json!({"id": "other"}), KEY)),
            "token_mismatch",
        ),
        (
            format!("Bearer {}", signed(&json!({}), KEY)),
            "token_mismatch",
        ),
    ] {
        let asked = request(&[("authorization", &value)]);
        assert_eq!(run(asked, &token()), Some(refusal), "{value}");
    }
    assert_eq!(run(request(&[]), &token()), Some("token_missing"));
    let cookie = format!("appproxy_permit={PERMIT}");
    assert_eq!(
        run(request(&[("cookie", &cookie)]), &token()),
        Some("token_missing")
    );
}

#[test]
fn addresses_count_before_credentials_and_for_open_circuits_too() {
    let open = route(None, &["10.0.0.0/8", "192.0.2.7", "2001:db8::1/32"]);
    for (client, refused) in [
        ("10.1.2.3", None),
        ("::ffff:10.1.2.3", None),
        ("192.0.2.7", None),
        ("2001:db8:5::1", None),
        ("192.0.2.8", Some("client_ip_not_allowed")),
        ("::1", Some("client_ip_not_allowed")),
    ] {
        assert_eq!(run_from(client, request(&[]), &open).0, refused, "{client}");
    }
    let mut preflight = request(&[]);
    preflight.method = Method::OPTIONS;
    let refused = run_from("192.0.2.8", preflight, &open).0;
    assert_eq!(refused, Some("client_ip_not_allowed"));
}

#[test]
fn pages_of_any_origin_read_answers_unless_a_policy_says_whose_may() {
    let config = proto::Access {
        any_origin: true,
        ..proto::Access::default()
    };
    let chain = testing::chain(FACTORY.message, &config).unwrap();
    let told = |around: &Nowhere| {
        let mut headers = HeaderMap::new();
        testing::answer(&chain, StatusCode::OK, &mut headers, PerRoute::NONE, around);
        headers.get(ACCESS_CONTROL_ALLOW_ORIGIN).cloned()
    };
    let around = Nowhere::default();
    assert_eq!(told(&around), Some(HeaderValue::from_static("*")));
    around.state.set_value(cors::DECIDED, "true");
    assert_eq!(told(&around), None);
}

#[test]
fn wrong_configuration_is_refused_by_path() {
    let check = |config: proto::AccessPerRoute| {
        let config = extension("causeway.v1.AccessPerRoute", config.encode_to_vec());
        build_per_route(&config, &Context::default())
            .unwrap_err()
            .to_string()
    };
    let ips = proto::AccessPerRoute {
        allowed_client_ips: vec!["10.0.0.0/8".into(), "x".into()],
        caller: None,
    };
    assert_eq!(
        check(ips),
        "allowed_client_ips[1]: \"x\" is no address and no network"
    );
    let permit = proto::access_per_route::Caller::Permit(proto::Permit::default());
    let empty = proto::AccessPerRoute {
        caller: Some(permit),
        ..Default::default()
    };
    assert_eq!(check(empty), "permit.value: must not be empty");
}

#[test]
fn no_secret_shows() {
    let shown = format!(
        "{:?} {:?}",
        filter(),
        build_per_route(
            &extension(
                "causeway.v1.AccessPerRoute",
                proto::AccessPerRoute {
                    caller: Some(proto::access_per_route::Caller::Permit(proto::Permit {
                        value: PERMIT.into(),
                    })),
                    ..Default::default()
                }
                .encode_to_vec()
            ),
            &Context::default(),
        )
        .unwrap()
        .get::<RouteAccess>()
        .unwrap()
    );
    assert!(!shown.contains(KEY) && !shown.contains(PERMIT), "{shown}");
}
