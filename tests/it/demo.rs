//! `causeway demo`, as a newcomer meets it.

use std::net::SocketAddr;

use http_body_util::BodyExt;

use crate::support::client::{Http1, empty, full, get, request};
use crate::support::process::{Program, Signal, run};
use crate::support::raw::Raw;
use crate::support::{within, ws};

/// What stands behind a label of the banner.
fn row<'o>(output: &'o str, label: &str) -> &'o str {
    let line = output.lines().find(|l| l.trim_start().starts_with(label));
    line.unwrap_or_else(|| panic!("no {label:?}: {output}"))
        .trim_start()[label.len()..]
        .trim()
}

/// Host with port and path of a URL, and where it leads: every name of the demo is loopback.
fn parts(url: &str) -> (SocketAddr, String, String) {
    let (_, rest) = url.split_once("://").unwrap();
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (_, port) = host.rsplit_once(':').unwrap();
    let at = SocketAddr::from(([127, 0, 0, 1], port.parse().unwrap()));
    (at, host.to_owned(), format!("/{path}"))
}

#[tokio::test]
async fn every_url_of_the_banner_works_and_ctrl_c_ends_it() {
    let mut program = Program::start(&["demo"]);
    let output = program.said("Ctrl-C").await;

    for label in [
        "notebook, by subdomain",
        "notebook, by port",
        "notebook, by path",
    ] {
        let (at, host, path) = parts(row(&output, label));
        let page = get(at, &host, &path).await;
        assert_eq!(page.status, 200, "{label}");
        assert!(
            page.header("content-type").starts_with("text/html"),
            "{label}"
        );
        let mut socket = ws::open(at, &host, &format!("{path}ws")).await;
        ws::echoed(&mut socket, label).await.unwrap();
        let mut client = Http1::connect(at).await;
        let events = request("GET", &host, &format!("{path}events"))
            .body(empty())
            .unwrap();
        let mut events = client.start(events).await.unwrap().into_body();
        let first = within("the first event", events.frame())
            .await
            .unwrap()
            .unwrap();
        assert!(first.into_data().unwrap().starts_with(b"data"), "{label}");
    }
    for label in ["model, by subdomain", "model, by path"] {
        let (at, host, path) = parts(row(&output, label));
        let ask = request("POST", &host, &path)
            .body(full("{\"stream\":true}"))
            .unwrap();
        let tokens = Http1::connect(at).await.send_body(ask).await;
        assert!(
            tokens.text().contains("[DONE]"),
            "{label}: {}",
            tokens.text()
        );
    }
    let (at, _, _) = parts(row(&output, "tcp echo, by port"));
    let mut echo = Raw::connect(at).await;
    echo.send("hello").await;
    assert_eq!(echo.bytes(5).await, b"hello");
    let (at, _, _) = parts(
        row(&output, "management")
            .split_whitespace()
            .next()
            .unwrap(),
    );
    for path in ["/status", "/metrics", "/config_dump"] {
        assert_eq!(get(at, "localhost", path).await.status, 200, "{path}");
    }
    drop(echo);
    program.signal(Signal::INT);
    assert_eq!(program.ended().await, Some(0));
}

#[tokio::test]
async fn it_can_be_written_down_once() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().to_str().unwrap();
    let written = run(&["demo", "--write", folder]).await;
    assert_eq!(written.code, Some(0), "{}", written.stderr);
    let files: Vec<&str> = written.stdout.lines().collect();
    assert_eq!(files.len(), 4);
    let config = files.iter().find(|file| file.ends_with("worker.toml"));
    let checked = run(&["validate", "-c", config.unwrap()]).await;
    assert_eq!(checked.code, Some(0), "{}", checked.stderr);
    let again = run(&["demo", "--write", folder]).await;
    assert_eq!(again.code, Some(1));
    assert!(again.stderr.contains("there already"), "{}", again.stderr);
}
