use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;
use crate::coordinator::model::{AppMode, FrontendMode, Protocol};

const SECRET: &str = "hush-hush";
const ID: Uuid = Uuid::from_u128(7);

/// Answers one request with `answer`, whatever it is, and hands the request back.
async fn canned(answer: &str) -> (CoordinatorClient, JoinHandle<String>) {
    canned_at("", answer).await
}

async fn canned_at(base: &str, answer: &str) -> (CoordinatorClient, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}{base}", listener.local_addr().unwrap());
    let client = client(&endpoint, |_| ());
    let answer = answer.to_owned();
    let served = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let request = read_request(&mut stream).await;
        stream.write_all(answer.as_bytes()).await.unwrap();
        request
    });
    (client, served)
}

fn client(endpoint: &str, change: impl FnOnce(&mut ClientConfig)) -> CoordinatorClient {
    let mut config = ClientConfig::new(endpoint.parse().unwrap(), Secret::new(SECRET));
    change(&mut config);
    CoordinatorClient::new(config).unwrap()
}

/// Head and body, as far as the length says.
async fn read_request(stream: &mut tokio::net::TcpStream) -> String {
    let mut text = String::new();
    let mut space = [0; 4096];
    loop {
        let read = stream.read(&mut space).await.unwrap();
        text.push_str(std::str::from_utf8(&space[..read]).unwrap());
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |length| length.parse().unwrap());
        if body.len() >= length {
            return text;
        }
    }
}

fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn registration() -> Registration {
    Registration {
        authority: "worker-1".into(),
        frontend_mode: FrontendMode::Port,
        protocol: Protocol::Http,
        hostname: "w.test".into(),
        tls_listen: false,
        tls_advertised: true,
        api_port: 10201,
        accepted_traffics: vec![AppMode::Inference, AppMode::Interactive],
        filtered_apps_only: false,
        app_filters: vec![AppFilter {
            key: "endpoint.id".into(),
            value: "x".into(),
        }],
        traefik_last_used_marker_path: None,
        port_range: Some((10210, 10219)),
        wildcard_domain: None,
        wildcard_traffic_port: None,
    }
}

#[tokio::test]
async fn a_registration_says_what_the_coordinator_reads() {
    let answer = ok(&format!(r#"{{"id":"{ID}","nodes":2,"invented":[1]}}"#));
    let (client, served) = canned_at("/base/", &answer).await;
    let registered = client.register(&registration()).await.unwrap();
    assert_eq!((registered.id, registered.nodes), (ID, Some(2)));
    let request = served.await.unwrap();
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert!(
        head.starts_with("PUT /base/api/worker HTTP/1.1\r\n"),
        "{head}"
    );
    let field = |name: &str| head.lines().find_map(|l| l.strip_prefix(name)).unwrap();
    assert_eq!(field("x-backendai-token: "), SECRET);
    assert!(field("x-backendai-requestid: ").parse::<Uuid>().is_ok());
    assert_eq!(field("accept: "), "application/json");
    assert_eq!(field("content-type: "), "application/json");
    let body: Value = serde_json::from_str(body).unwrap();
    let expected = serde_json::json!({
        "authority": "worker-1", "frontend_mode": "port", "protocol": "http",
        "hostname": "w.test", "tls_listen": false, "tls_advertised": true, "api_port": 10201,
        "accepted_traffics": ["inference", "interactive"], "filtered_apps_only": false,
        "app_filters": [{"key": "endpoint.id", "value": "x"}],
        "traefik_last_used_marker_path": null, "port_range": [10210, 10219],
    });
    assert_eq!(body, expected);
}

#[tokio::test]
async fn each_call_has_its_method_and_path() {
    let worker = format!(r#"{{"id":"{ID}"}}"#);
    let lines = |request: String| request.lines().next().unwrap().to_owned();

    let (client, served) = canned(&ok(&worker)).await;
    assert_eq!(client.heartbeat(ID).await.unwrap().id, ID);
    assert_eq!(
        lines(served.await.unwrap()),
        format!("PATCH /api/worker/{ID} HTTP/1.1")
    );
    let (client, served) = canned(&ok(r#"{"success": true}"#)).await;
    client.deregister(ID).await.unwrap();
    assert_eq!(
        lines(served.await.unwrap()),
        format!("DELETE /api/worker/{ID} HTTP/1.1")
    );
    let (client, served) = canned(&ok(r#"{"circuits": [{"a": 1}, 5]}"#)).await;
    let circuits = client.circuits(ID).await.unwrap();
    assert_eq!(circuits, [serde_json::json!({"a": 1}), 5.into()]);
    assert_eq!(
        lines(served.await.unwrap()),
        format!("GET /api/worker/{ID}/circuits HTTP/1.1")
    );
    let (client, served) = canned(&ok("{}")).await;
    client.circuit(ID).await.unwrap();
    assert_eq!(
        lines(served.await.unwrap()),
        format!("GET /api/circuit/{ID} HTTP/1.1")
    );
    let (client, served) = canned(&ok("{}")).await;
    client.status().await.unwrap();
    assert_eq!(lines(served.await.unwrap()), "GET /status HTTP/1.1");
}

const NOT_FOUND: &str = r#"{"type":"https://api.backend.ai/probs/object-not-found",
    "title":"E00002: No such worker.","error_code":"agent_read_not-found","msg":"gone"}"#;

#[tokio::test]
async fn an_error_tells_what_the_coordinator_said_in_either_style() {
    let close = |line: &str, body: &str| format!("{line}\r\nconnection: close\r\n\r\n{body}");
    for (line, shown) in [
        ("HTTP/1.1 404 Not Found", "answered with 404 Not Found"),
        ("HTTP/1.1 -1 ", "an error answer without a valid status"),
    ] {
        let (client, _served) = canned(&close(line, NOT_FOUND)).await;
        let error = client.heartbeat(ID).await.unwrap_err();
        let said = ": E00002: No such worker. gone (agent_read_not-found)";
        assert_eq!(error.to_string(), format!("{shown}{said}"));
        assert!(
            error.is_not_found() && !error.is_unauthorised(),
            "{error:?}"
        );
    }
    let refused = r#"{"type":"https://api.backend.ai/probs/auth-failed","title":"Unauthorized"}"#;
    for line in ["HTTP/1.1 401 Unauthorized", "HTTP/1.1 -1 "] {
        let (client, _served) = canned(&close(line, refused)).await;
        let error = client.heartbeat(ID).await.unwrap_err();
        assert!(error.is_unauthorised() && error.is_permanent() && !error.is_not_found());
    }
    // The other side repeats what it got, and is no Coordinator at all.
    let echo = close(
        "HTTP/1.1 502 Bad",
        &format!("<p>\n{SECRET}{}", "x".repeat(999)),
    );
    let (client, _served) = canned(&echo).await;
    let error = client.status().await.unwrap_err();
    let shown = format!("{error} {error:?}");
    assert!(
        !shown.contains(SECRET) && shown.contains("[redacted]xxx"),
        "{shown}"
    );
    assert!(shown.len() < 1000 && !error.is_permanent());
}

#[tokio::test]
async fn what_is_no_answer_is_told_apart() {
    let (client, _served) = canned("nonsense\r\n\r\n").await;
    let error = client.status().await.unwrap_err();
    assert!(matches!(error, ClientError::Unparsable { .. }), "{error:?}");

    let (client, _served) = canned("").await;
    let error = client.status().await.unwrap_err();
    assert!(matches!(error, ClientError::Connect(_)), "{error:?}");

    let (client, _served) = canned("HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{").await;
    let error = client.status().await.unwrap_err();
    assert!(matches!(error, ClientError::Body(_)), "{error:?}");

    let (client, _served) = canned(&ok("<html>")).await;
    let error = client.circuits(ID).await.unwrap_err();
    assert!(matches!(error, ClientError::Body(_)), "{error:?}");

    let long = format!("\"{}\"", "x".repeat(MAX_ANSWER));
    let (client, _served) = canned(&ok(&long)).await;
    let error = client.status().await.unwrap_err();
    assert!(error.to_string().contains("longer than 65536"), "{error}");
}

#[tokio::test]
async fn nobody_is_waited_for_without_end() {
    // Connects, since the system accepts, and never hears anything.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let short = Duration::from_millis(20);
    let silent = client(&endpoint, |config| {
        config.answer_timeout = short;
        config.listing_timeout = short;
    });
    let error = silent.status().await.unwrap_err();
    assert_eq!(error.to_string(), "deadline \"answer\" fired after 20ms");
    let error = silent.circuits(ID).await.unwrap_err();
    assert_eq!(error.to_string(), "deadline \"listing\" fired after 20ms");

    // A server that never shakes hands.
    let endpoint = endpoint.replace("http:", "https:");
    let silent = client(&endpoint, |config| {
        config.verify_tls = false;
        config.connect_timeout = short;
    });
    let error = silent.status().await.unwrap_err();
    assert_eq!(error.to_string(), "deadline \"connect\" fired after 20ms");
}

/// With a certificate that nobody has signed.
#[tokio::test]
async fn tls_is_verified_unless_told_otherwise() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let mut space = [0; 4096];
            assert!(stream.read(&mut space).await.unwrap() > 0);
            stream.write_all(ok("{}").as_bytes()).await.unwrap();
            stream.shutdown().await.ok();
        }
    });
    let endpoint = format!("https://localhost:{port}");
    let careless = client(&endpoint, |config| config.verify_tls = false);
    careless.status().await.unwrap();

    let config = ClientConfig::new(endpoint.parse().unwrap(), Secret::new(SECRET));
    match CoordinatorClient::new(config) {
        Ok(client) => {
            let error = client.status().await.unwrap_err();
            assert!(error.to_string().contains("TLS handshake"), "{error}");
        }
        // A system without any roots says so at the start.
        Err(error) => assert!(matches!(error, ClientConfigError::Roots(_)), "{error}"),
    }
}

#[test]
fn a_client_shows_no_secret() {
    let config = ClientConfig::new("http://c:1".parse().unwrap(), Secret::new(SECRET));
    let shown = format!("{config:?} {:?}", CoordinatorClient::new(config.clone()));
    assert!(!shown.contains(SECRET), "{shown}");
    let bad = ClientConfig {
        api_secret: Secret::new("line\nbreak"),
        ..config
    };
    assert!(matches!(
        CoordinatorClient::new(bad),
        Err(ClientConfigError::Secret)
    ));
}
