//! `/setup`, over a socket.

use jsonwebtoken::Algorithm;

use super::*;
use crate::coordinator::model::{AppMode, Protocol};

const USER: Uuid = Uuid::from_u128(0xf38d_ea23_50fa_42a0_b5ae_338f_5f46_93f4);
/// The permit of [`USER`], as the Python worker makes it.
const PERMIT: &str = "MWI4ZWU5YjhmNzNjMmNiMTI4MDJkYTk2N2E4ZjAxYjUzODcyZjkwMjkyMTA5M2M5MmE1ZDdjZTVj\
                      MmY1ZTk3OA==";

/// A private app of [`USER`] under the id that the vector names.
fn app(slot: Slot) -> Circuit {
    let mut circuit = testing::circuit(1, "app-5c48d10c");
    circuit.id = VECTOR_CIRCUIT;
    circuit.slot = slot;
    circuit.open_to_public = false;
    circuit.user_id = Some(USER);
    circuit
}

fn by_subdomain() -> Circuit {
    app(Slot::Subdomain("app-5c48d10c".to_owned()))
}

fn world(circuit: Circuit) -> World {
    World {
        circuits: vec![circuit],
        ..World::default()
    }
}

async fn setup(world: World, https: bool, query: &str) -> Answer {
    let rig = Rig::with(interface(world, addresses(https))).await;
    rig.get(&format!("/setup?{query}")).await
}

fn is_redirect(answer: &Answer, location: &str) {
    assert_eq!(answer.status, 302, "{}", answer.body);
    assert_eq!(answer.field("location"), location);
    assert_eq!(answer.body, "302: Found");
    assert_eq!(answer.field("content-type"), "text/plain; charset=utf-8");
    assert_eq!(answer.field("cache-control"), "no-store");
    for name in ["origin", "headers"] {
        assert_eq!(answer.field(&format!("access-control-allow-{name}")), "*");
    }
    assert_eq!(answer.field("access-control-expose-headers"), "*");
}

#[tokio::test]
async fn an_app_on_a_subdomain_is_entered() {
    let answer = setup(world(by_subdomain()), false, &format!("token={VECTOR}")).await;
    is_redirect(&answer, "http://app-5c48d10c.apps.test:10205");
    assert_eq!(
        answer.field("set-cookie"),
        format!(
            "appproxy_permit=\"{PERMIT}\"; Domain=.apps.test; HttpOnly; Max-Age=604800; Path=/; \
             SameSite=Lax"
        )
    );
}

#[tokio::test]
async fn an_app_on_a_port_is_entered() {
    let query = format!("token={}", token(VECTOR_CIRCUIT, "lab/tree?reset=1"));
    let answer = setup(world(app(Slot::Port(10_300))), true, &query).await;
    is_redirect(&answer, "https://apps.test:10300/lab/tree?reset=1");
    assert_eq!(
        answer.field("set-cookie"),
        format!(
            "appproxy_permit=\"{PERMIT}\"; HttpOnly; Max-Age=604800; Path=/; SameSite=Lax; Secure"
        )
    );
}

#[tokio::test]
async fn an_app_on_a_path_is_entered_with_a_permit_of_its_own() {
    let mut circuit = by_subdomain();
    circuit.app = "my app".to_owned();
    let session = circuit.session_ids[0];
    let query = format!("via=path&token={}", token(VECTOR_CIRCUIT, "lab?x=1"));
    let answer = setup(world(circuit.clone()), true, &query).await;
    is_redirect(
        &answer,
        &format!("https://apps.test:5050/{session}/my%20app/lab?x=1"),
    );
    let own = permits().of_circuit(USER, VECTOR_CIRCUIT);
    assert_eq!(
        answer.field("set-cookie"),
        format!(
            "appproxy_permit=\"{}\"; HttpOnly; Max-Age=604800; Path=/{session}/my%20app; \
             SameSite=Lax; Secure",
            own.expose()
        )
    );
    let query = format!("via=path&token={VECTOR}");
    let answer = setup(world(circuit.clone()), false, &query).await;
    is_redirect(
        &answer,
        &format!("http://apps.test:5050/{session}/my%20app/"),
    );

    circuit.session_ids.clear();
    let answer = setup(world(circuit), false, &query).await;
    assert_eq!(answer.status, 400);
    assert_eq!(
        problem(&answer)["msg"],
        "This app cannot be reached by path"
    );
    let answer = setup(
        world(by_subdomain()),
        false,
        &format!("via=x&token={VECTOR}"),
    )
    .await;
    assert_eq!(answer.status, 400);
    assert_eq!(
        problem(&answer)["error_code"],
        "agent_request_invalid-parameters"
    );
}

#[tokio::test]
async fn a_redirect_does_not_lead_away() {
    for (claim, path) in [
        ("//evil.test", "/evil.test"),
        ("\\\\evil.test", "/evil.test"),
        ("@evil.test", "/@evil.test"),
        ("/\r\nSet-Cookie: a=b", "/Set-Cookie:%20a=b"),
    ] {
        let query = format!("token={}", token(VECTOR_CIRCUIT, claim));
        let answer = setup(world(by_subdomain()), false, &query).await;
        is_redirect(
            &answer,
            &format!("http://app-5c48d10c.apps.test:10205{path}"),
        );
    }
}

#[tokio::test]
async fn a_tcp_app_is_handed_to_the_desktop_client() {
    for protocol in [Protocol::Tcp, Protocol::Vnc] {
        let mut circuit = app(Slot::Port(10_300));
        circuit.protocol = protocol;
        let client = |token: &str| {
            format!(
                "http://localhost:45678/start?directTCP=true&auth={token}&proto=tcp\
                 &gateway=tcp%3A%2F%2Fapps.test%3A10300"
            )
        };
        let answer = setup(world(circuit.clone()), false, &format!("token={VECTOR}")).await;
        assert_eq!(answer.status, 200);
        let url = client(VECTOR);
        assert_eq!(answer.json(), json!({"redirect": url, "redirectURI": url}));
        assert_eq!(answer.field("access-control-allow-origin"), "*");
        assert_eq!(answer.field("set-cookie"), "");

        let token = token(VECTOR_CIRCUIT, "x");
        let answer = setup(world(circuit.clone()), false, &format!("token={token}")).await;
        is_redirect(&answer, &client(&token));
        assert_eq!(answer.field("set-cookie"), "");
    }
}

#[tokio::test]
async fn a_tcp_app_without_a_port_is_reached_through_a_websocket() {
    let mut circuit = by_subdomain();
    circuit.protocol = Protocol::Tcp;
    let (session, app) = (circuit.session_ids[0], circuit.app.clone());
    let answer = setup(world(circuit.clone()), true, &format!("token={VECTOR}")).await;
    assert_eq!(answer.status, 200);
    let url = answer.json()["redirectURI"].clone();
    let url = url.as_str().unwrap();
    assert!(url.starts_with("wss://app-5c48d10c.apps.test:"), "{url}");
    let cookie = answer.field("set-cookie");
    assert!(cookie.starts_with("appproxy_permit="), "{cookie}");

    let query = format!("via=path&token={VECTOR}");
    let answer = setup(world(circuit), false, &query).await;
    let url = format!("ws://apps.test:5050/{session}/{app}/");
    assert_eq!(answer.json(), json!({"redirect": url, "redirectURI": url}));
    let own = permits().of_circuit(USER, VECTOR_CIRCUIT);
    let cookie = answer.field("set-cookie");
    assert!(cookie.contains(own.expose()), "{cookie}");
}

#[tokio::test]
async fn what_is_no_interactive_app_is_refused() {
    let query = format!("token={VECTOR}");
    let mut inference = by_subdomain();
    inference.app_mode = AppMode::Inference;
    let answer = setup(world(inference), false, &query).await;
    assert_eq!(answer.status, 400);
    let told = problem(&answer);
    assert_eq!(told["msg"], "E20011: Not supported for inference apps");
    assert_eq!(told["error_code"], "agent_request_bad-request");

    for protocol in [Protocol::Grpc, Protocol::H2] {
        let mut other = by_subdomain();
        other.protocol = protocol;
        let answer = setup(world(other), false, &query).await;
        assert_eq!(answer.status, 400);
        let expected = "E20002: Protocol not available as interactive app";
        assert_eq!(problem(&answer)["msg"], expected);
    }
}

#[tokio::test]
async fn bad_tokens_are_unauthorised() {
    let expired = json!({"circuit": VECTOR_CIRCUIT, "exp": 1});
    for (token, why) in [
        ("x".to_owned(), "Not a valid token"),
        (
            signed(&expired, Algorithm::HS256, SECRET),
            "Signature has expired",
        ),
        (
            signed(
                &json!({"circuit": VECTOR_CIRCUIT}),
                Algorithm::HS256,
                "other",
            ),
            "Signature verification failed",
        ),
        // The token of a model service opens no setup.
        (
            signed(&json!({"id": VECTOR_CIRCUIT}), Algorithm::HS256, SECRET),
            "Not a setup token",
        ),
    ] {
        let answer = setup(world(by_subdomain()), false, &format!("token={token}")).await;
        assert_eq!(answer.status, 401);
        let told = problem(&answer);
        assert_eq!(
            told["type"],
            "https://api.backend.ai/probs/invalid-credentials"
        );
        assert_eq!(told["error_code"], "agent_auth_unauthorized");
        let expected = format!("E20008: Invalid authorization token ({why})");
        assert_eq!(told["msg"], expected);
        assert_eq!(answer.field("set-cookie"), "");
        assert_eq!(answer.field("cache-control"), "no-store");
    }
}

#[tokio::test]
async fn a_circuit_that_is_not_here_is_asked_for() {
    let query = format!("token={VECTOR}");
    let answer = setup(World::default(), false, &query).await;
    assert_eq!(answer.status, 404);
    let told = problem(&answer);
    assert_eq!(
        told["type"],
        "https://api.backend.ai/probs/object-not-found"
    );
    assert_eq!(told["title"], "E00002: No such worker:circuit.");

    let other = json!(testing::circuit(9, "b"));
    for coordinator in [
        Err(AskError::Unreachable("connection refused".to_owned())),
        Ok(json!({"id": VECTOR_CIRCUIT})),
        Ok(other),
    ] {
        let world = World {
            coordinator,
            ..World::default()
        };
        let answer = setup(world, false, &query).await;
        assert_eq!(answer.status, 502);
        let told = problem(&answer);
        let kind = "https://api.backend.ai/probs/appproxy/coordinator-connection-error";
        assert_eq!(told["type"], kind);
        assert_eq!(
            told["title"],
            "E20014: Failed to communicate with coordinator."
        );
        assert_eq!(told["error_code"], "agent_access_unreachable");
        assert!(!answer.body.contains("refused"), "the cause is for the log");
    }

    // The Coordinator knows it, this proxy does not yet: the browser is held back, then goes on.
    let started = Instant::now();
    let world = World {
        coordinator: Ok(json!(by_subdomain())),
        ..World::default()
    };
    let answer = setup(world, false, &query).await;
    is_redirect(&answer, "http://app-5c48d10c.apps.test:10205");
    assert!(started.elapsed() >= Duration::from_millis(200));
}

#[tokio::test]
async fn the_browser_goes_on_once_the_circuit_is_live() {
    let rig = Rig::with(interface(
        World {
            live_after: 3,
            ..world(by_subdomain())
        },
        addresses(false),
    ))
    .await;
    let answer = rig.get(&format!("/setup?token={VECTOR}")).await;
    is_redirect(&answer, "http://app-5c48d10c.apps.test:10205");
}

#[tokio::test]
async fn without_an_owner_only_public_apps_are_entered() {
    let query = format!("token={VECTOR}");
    let mut circuit = by_subdomain();
    circuit.user_id = None;
    let answer = setup(world(circuit.clone()), false, &query).await;
    assert_eq!(answer.status, 500);
    assert_eq!(
        problem(&answer)["error_code"],
        "agent_setup_invalid-parameters"
    );
    circuit.open_to_public = true;
    let answer = setup(world(circuit), false, &query).await;
    is_redirect(&answer, "http://app-5c48d10c.apps.test:10205");
    assert_eq!(answer.field("set-cookie"), "");
}

#[tokio::test]
async fn a_slot_that_no_frontend_has_is_a_fault_of_ours() {
    let nowhere = PublicAddresses::default();
    let rig = Rig::with(interface(world(by_subdomain()), nowhere)).await;
    let answer = rig.get(&format!("/setup?token={VECTOR}")).await;
    assert_eq!(answer.status, 500);
    let told = problem(&answer);
    assert_eq!(
        told["type"],
        "https://api.backend.ai/probs/server-misconfigured"
    );
    assert_eq!(told["error_code"], "agent_setup_invalid-parameters");
}
