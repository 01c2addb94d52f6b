//! The end of the real program.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::Value;
use tokio::net::TcpStream;

use crate::support::app::SECRET;
use crate::support::circuit::{Circuit, circuit};
use crate::support::client::{Http1, get, request};
use crate::support::origin::Origin;
use crate::support::process::{Program, Signal, run};
use crate::support::{eventually, ws};

/// The real worker with one circuit; where its users connect to.
async fn serving(directory: &Path, circuit: &Circuit, drain_s: &str) -> (Program, SocketAddr) {
    let path = directory.join("worker.toml");
    let text = format!(
        "[secrets]\napi_secret = \"{SECRET}\"\n[causeway]\nmanagement = \"127.0.0.1:0\"\n\
         path_frontend = false\n[proxy_worker.wildcard_domain]\ndomain = \".apps.test\"\n\
         bind_addr = {{ host = \"127.0.0.1\", port = 0 }}\n"
    );
    std::fs::write(&path, text).unwrap();
    let mut program = Program::start(&["-c", path.to_str().unwrap(), "--drain-time-s", drain_s]);
    let management = program.management().await;
    let push = request("POST", "localhost", "/v1/circuits")
        .header("x-backendai-token", SECRET)
        .body(circuit.value.to_string().into())
        .unwrap();
    let reply = Http1::connect(management).await.send(push).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    let listeners: Value = get(management, "localhost", "/listeners?format=json")
        .await
        .json();
    let at = &listeners["listener_statuses"][0]["local_address"]["socket_address"]["port_value"];
    let port = u16::try_from(at.as_u64().unwrap()).unwrap();
    (program, SocketAddr::from(([127, 0, 0, 1], port)))
}

/// Refused once the program has begun to drain. (Connecting is the only way to find out.)
async fn refused(at: SocketAddr) {
    let start = std::time::Instant::now();
    while TcpStream::connect(at).await.is_ok() {
        assert!(start.elapsed() < crate::support::DEADLINE, "still accepts");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn sigterm_lets_running_requests_finish_and_takes_no_new_ones() {
    let directory = tempfile::tempdir().unwrap();
    let origin = Origin::held("finished").await;
    let circuit = circuit(1).kernel(origin.address);
    let (mut program, at) = serving(directory.path(), &circuit, "60").await;
    let host = circuit.host();
    let mut idle = Http1::connect(at).await;
    origin.release(1);
    idle.get(&host, "/idle").await;
    let pending = tokio::spawn(async move { Http1::connect(at).await.get(&host, "/").await });
    origin.has_requests(2).await;

    program.signal(Signal::TERM);
    refused(at).await;
    eventually("the idle connection is closed", || idle.is_closed()).await;
    assert!(program.is_running(), "a request still runs");
    origin.release(1);
    let reply = pending.await.unwrap();
    assert_eq!(reply.text(), "finished");
    assert_eq!(program.ended().await, Some(0));
}

#[tokio::test]
async fn the_drain_time_ends_what_does_not_end_by_itself() {
    let directory = tempfile::tempdir().unwrap();
    let origin = ws::echo_origin().await;
    let circuit = circuit(1).kernel(origin.address);
    let (mut program, at) = serving(directory.path(), &circuit, "1").await;
    let mut socket = ws::open(at, &circuit.host(), "/ws").await;
    ws::echoed(&mut socket, "here").await.unwrap();
    program.signal(Signal::TERM);
    refused(at).await;
    ws::until_closed(&mut socket).await;
    assert_eq!(program.ended().await, Some(0));
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let origin = Origin::held("never").await;
    let circuit = circuit(1).kernel(origin.address);
    let (mut program, at) = serving(directory.path(), &circuit, "3600").await;
    let host = circuit.host();
    let pending = tokio::spawn(async move {
        let get = request("GET", &host, "/")
            .body(crate::support::client::empty())
            .unwrap();
        Http1::connect(at).await.try_send(get).await
    });
    origin.has_requests(1).await;
    program.signal(Signal::TERM);
    refused(at).await;
    assert!(program.is_running());
    program.signal(Signal::INT);
    assert_eq!(program.ended().await, Some(0));
    assert!(pending.await.unwrap().is_err(), "cut, and seen to be");
}

#[tokio::test]
async fn quitquitquit_ends_the_program() {
    let directory = tempfile::tempdir().unwrap();
    let (mut program, at) = serving(directory.path(), &circuit(1), "60").await;
    let management = program.management().await;
    let post = request("POST", "localhost", "/quitquitquit")
        .body("".into())
        .unwrap();
    assert_eq!(
        Http1::connect(management).await.send(post).await.status,
        200
    );
    assert_eq!(program.ended().await, Some(0));
    refused(at).await;
}

#[tokio::test]
async fn drain_listeners_closes_the_doors_and_lets_the_program_run() {
    let directory = tempfile::tempdir().unwrap();
    let origin = ws::echo_origin().await;
    let circuit = circuit(1).kernel(origin.address);
    let (mut program, at) = serving(directory.path(), &circuit, "60").await;
    let mut socket = ws::open(at, &circuit.host(), "/ws").await;
    let management = program.management().await;
    let post = request("POST", "localhost", "/drain_listeners")
        .body("".into())
        .unwrap();
    assert_eq!(
        Http1::connect(management).await.send(post).await.status,
        200
    );
    refused(at).await;
    ws::echoed(&mut socket, "still here").await.unwrap();
    assert!(program.is_running());
    assert_eq!(get(management, "localhost", "/livez").await.status, 200);
}

#[tokio::test]
async fn a_signal_that_comes_with_the_first_line_of_the_log_is_a_drain_too() {
    let text = "node: {id: a, cluster: b}";
    for signal in [Signal::TERM, Signal::INT] {
        let mut program = Program::start(&["--config-yaml", text]);
        program.said("listeners=0").await;
        program.signal(signal);
        assert_eq!(program.ended().await, Some(0));
    }
}

#[tokio::test]
async fn a_wrong_command_line_has_an_exit_code_of_its_own() {
    for arguments in [
        &["--nonsense"][..],
        &["serve", "--concurrency", "0"],
        &["--mode", "what"],
    ] {
        let finished = run(arguments).await;
        assert_eq!(finished.code, Some(2), "{arguments:?}: {}", finished.stderr);
        assert!(
            finished.stderr.starts_with("error: "),
            "{}",
            finished.stderr
        );
    }
    let version = run(&["version"]).await;
    assert_eq!(version.code, Some(0));
    assert!(
        version.stdout.starts_with("causeway "),
        "{}",
        version.stdout
    );
}
