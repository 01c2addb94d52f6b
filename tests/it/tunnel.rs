//! `causeway tunnel`, the real program, before a worker in this process.

use std::process::Stdio;

use causeway::config::{Certificates, TlsFiles};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use uuid::Uuid;

use crate::support::app::{TestApp, worker, worker_with_permits};
use crate::support::circuit::{Circuit, circuit};
use crate::support::origin::Origin;
use crate::support::process::{Program, Signal, command, run};
use crate::support::raw::{End, Raw};
use crate::support::{tcp_echo, within};

async fn serving(origin: &Origin) -> (TestApp, String) {
    let circuit = circuit(1).kernel(origin.address).protocol("tcp");
    let app = TestApp::serving(&[&circuit]).await;
    let url = url(&app, &circuit);
    (app, url)
}

fn url(app: &TestApp, circuit: &Circuit) -> String {
    format!("ws://{}{}", app.path(), circuit.prefix())
}

/// A tunnel that listens, and where.
async fn listening(arguments: &[&str]) -> (Program, std::net::SocketAddr) {
    let mut program = Program::start(&[&["tunnel"], arguments].concat());
    let output = program.said("listening on ").await;
    let address = output.trim().rsplit(' ').next().unwrap().parse().unwrap();
    (program, address)
}

#[tokio::test]
async fn local_connections_reach_the_application() {
    let origin = tcp_echo().await;
    let (_app, url) = serving(&origin).await;
    let (_tunnel, at) = listening(&[&url]).await;
    let mut clients = Vec::new();
    for number in 0..5 {
        let mut raw = Raw::connect(at).await;
        raw.send(format!("client {number}")).await;
        clients.push(raw);
    }
    for (number, raw) in clients.iter_mut().enumerate() {
        assert_eq!(raw.bytes(8).await, format!("client {number}").as_bytes());
    }
    drop(clients);
    origin.has_no_connection().await;
}

#[tokio::test]
async fn a_large_transfer_and_its_half_close_pass() {
    let origin = tcp_echo().await;
    let (_app, url) = serving(&origin).await;
    let (_tunnel, at) = listening(&[&url, "--listen", "127.0.0.1:0"]).await;
    let data: Vec<u8> = (0..8_000_000_u32).map(|i| i.to_le_bytes()[1]).collect();
    let stream = tokio::net::TcpStream::connect(at).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let sent = data.clone();
    let sending = tokio::spawn(async move {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let mut back = Vec::new();
    // The echo ends its side once it has seen the end of ours.
    within("all of it", read.read_to_end(&mut back))
        .await
        .unwrap();
    assert!(back == data, "changed on the way");
    within("the sender", sending).await.unwrap();
    origin.has_no_connection().await;
}

#[tokio::test]
async fn one_connection_goes_over_standard_input_and_output() {
    let origin = Origin::tcp(|mut stream| async move {
        let mut question = String::new();
        stream.read_to_string(&mut question).await.unwrap();
        let answer = format!("you said: {question}");
        stream.write_all(answer.as_bytes()).await.unwrap();
    })
    .await;
    let (_app, url) = serving(&origin).await;
    let mut command = command(&["tunnel", "--stdio", &url]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"hello").await.unwrap();
    drop(input);
    let output = within("the end", child.wait_with_output()).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "you said: hello");
    assert!(output.status.success(), "{output:?}");
}

/// ssh keeps the command's input open until the command has gone.
#[tokio::test]
async fn it_ends_with_the_application_while_input_stays_open() {
    let origin = Origin::tcp(|mut stream| async move {
        stream.write_all(b"bye").await.unwrap();
        socket2::SockRef::from(&stream)
            .set_linger(Some(std::time::Duration::ZERO))
            .unwrap();
        // Nothing comes: it is the other side that ends it.
        stream.read_exact(&mut [0]).await.ok();
    })
    .await;
    let (app, url) = serving(&origin).await;
    let mut command = command(&["tunnel", "--stdio", &url]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut output = child.stdout.take().unwrap();
    let mut said = [0; 3];
    within("a word", output.read_exact(&mut said))
        .await
        .unwrap();
    assert_eq!(&said, b"bye");
    app.remove(&circuit(1)).await;
    let status = within("the end", child.wait()).await.unwrap();
    assert_eq!(
        status.code(),
        Some(1),
        "it was not the application that ended it"
    );
}

#[tokio::test]
async fn a_permit_comes_from_a_file() {
    let user = Uuid::from_u128(7);
    let (config, permits) = worker_with_permits();
    let app = TestApp::with(config).await;
    let origin = tcp_echo().await;
    let private = circuit(1).kernel(origin.address).protocol("tcp");
    let private = private.with("open_to_public", json!(false));
    let private = private.with("user_id", json!(user));
    app.announce(&[&private]).await;
    let url = url(&app, &private);

    let refused = run(&["tunnel", "--stdio", &url]).await;
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("401"), "{}", refused.stderr);

    let permit = permits.of_circuit(user, private.id);
    let folder = tempfile::tempdir().unwrap();
    let jar = folder.path().join("cookies");
    let line = format!(
        "#HttpOnly_127.0.0.1\tFALSE\t{}\tFALSE\t0\tappproxy_permit\t\"{}\"\n",
        private.prefix(),
        permit.expose()
    );
    std::fs::write(&jar, line).unwrap();
    let (_tunnel, at) = listening(&[&url, "--cookie-file", jar.to_str().unwrap()]).await;
    let mut raw = Raw::connect(at).await;
    raw.send("in").await;
    assert_eq!(raw.bytes(2).await, b"in");
    raw.finish().await;
    assert_eq!(raw.rest().await, (Vec::new(), End::Closed));
}

#[tokio::test]
async fn certificates_are_checked_unless_told_otherwise() {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let certificate = write("cert.pem", cert.pem());
    let mut config = worker();
    config.causeway.path_tls = Some(Certificates::Files(TlsFiles {
        certificate: certificate.clone(),
        private_key: write("key.pem", signing_key.serialize_pem()),
    }));
    let app = TestApp::with(config).await;
    let origin = tcp_echo().await;
    let circuit = circuit(1).kernel(origin.address).protocol("tcp");
    app.announce(&[&circuit]).await;
    let url = url(&app, &circuit).replacen("ws", "wss", 1);
    // Standard input is empty: the application is told so, and ends.
    let unknown = run(&["tunnel", "--stdio", &url]).await;
    assert_eq!(unknown.code, Some(1));
    assert!(
        unknown.stderr.contains("TLS handshake"),
        "{}",
        unknown.stderr
    );
    let ca = ["--ca-file", certificate.to_str().unwrap()];
    for how in [&ca[..], &["--insecure"]] {
        let ended = run(&[&["tunnel", "--stdio", &url], how].concat()).await;
        assert_eq!(ended.code, Some(0), "{how:?}: {}", ended.stderr);
    }
    // A file without certificates is no reason to trust everybody.
    let key = folder.path().join("key.pem");
    let none = run(&[
        "tunnel",
        "--stdio",
        &url,
        "--ca-file",
        key.to_str().unwrap(),
    ])
    .await;
    assert!(
        none.stderr.contains("holds no certificate"),
        "{}",
        none.stderr
    );
}

/// As ssh ends its command: the worker learns that this was all, and not that something broke.
#[tokio::test]
async fn a_signal_closes_what_is_open() {
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let origin = Origin::tcp(move |mut stream| {
        let told = told.clone();
        async move {
            let mut word = [0; 4];
            stream.read_exact(&mut word).await.unwrap();
            told.send("a word").unwrap();
            // Not reset: that would be an error.
            assert_eq!(stream.read_to_end(&mut Vec::new()).await.unwrap(), 0);
            told.send("the end").unwrap();
        }
    })
    .await;
    let (_app, url) = serving(&origin).await;
    let (mut tunnel, at) = listening(&[&url]).await;
    let mut raw = Raw::connect(at).await;
    raw.send("word").await;
    assert_eq!(within("a word", heard.recv()).await, Some("a word"));
    tunnel.signal(Signal::HUP);
    assert_eq!(tunnel.ended().await, Some(0));
    assert_eq!(within("the end", heard.recv()).await, Some("the end"));
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_at_once() {
    for (arguments, said) in [
        (
            &["tunnel", "--stdio", "ftp://h"][..],
            "must begin with ws://",
        ),
        (
            &["tunnel", "--stdio", "ws://h", "-H", "x"],
            "is not NAME: VALUE",
        ),
        (
            &[
                "tunnel",
                "--stdio",
                "ws://h",
                "--cookie-file",
                "/nowhere/at/all",
            ],
            "cannot read /nowhere/at/all",
        ),
        (
            &["tunnel", "--stdio", "ws://127.0.0.1:1/"],
            "cannot connect",
        ),
    ] {
        let finished = run(arguments).await;
        assert_eq!(finished.code, Some(1), "{arguments:?}");
        assert!(finished.stderr.contains(said), "{}", finished.stderr);
    }
}
