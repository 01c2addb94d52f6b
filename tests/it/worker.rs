//! The worker from its command line: where its file is found, and what it leaves in the system.

use std::path::Path;

use crate::support::app::SECRET;
use crate::support::client::get;
use crate::support::process::{Finished, Program, Signal, command, run, run_command};

/// A push-only worker on loopback; `more` goes before the tables.
fn write(path: &Path, proxy_worker: &str, more: &str) {
    let text = format!(
        "[secrets]\napi_secret = \"{SECRET}\"\n[causeway]\nmanagement = \"127.0.0.1:0\"\n\
         path_frontend = false\n[proxy_worker]\n{proxy_worker}\n{more}\n"
    );
    std::fs::write(path, text).unwrap();
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The program in a directory where nothing is to be found, and nothing above it.
async fn run_in(directory: &Path, variable: Option<&Path>, arguments: &[&str]) -> Finished {
    let mut command = command(arguments);
    command.current_dir(directory).env("HOME", directory);
    match variable {
        Some(path) => command.env("BACKEND_CONFIG_FILE", path),
        None => command.env_remove("BACKEND_CONFIG_FILE"),
    };
    run_command(command).await
}

#[tokio::test]
async fn start_server_serves_and_keeps_a_pid_file_while_it_does() {
    let directory = tempfile::tempdir().unwrap();
    let (file, pid) = (
        directory.path().join("w.toml"),
        directory.path().join("w.pid"),
    );
    let more = format!(
        "pid_file = \"{}\"\nevent_loop = \"uvloop\"\nwat = 1",
        pid.display()
    );
    write(&file, &more, "[debug]\nenabled = false");
    let mut program = Program::start(&["start-server", "-f", text(&file)]);
    let management = program.management().await;
    assert_eq!(get(management, "localhost", "/livez").await.status, 200);
    let written = std::fs::read_to_string(&pid).unwrap();
    assert_eq!(written, program.id().to_string());
    let output = program.output();
    assert!(
        output.contains("keys without effect here keys=debug, proxy_worker.event_loop\n"),
        "{output}"
    );
    assert!(
        output.contains("unknown key ignored key=proxy_worker.wat"),
        "{output}"
    );
    program.signal(Signal::TERM);
    assert_eq!(program.ended().await, Some(0));
    assert!(!pid.exists(), "removed at the end");
}

#[tokio::test]
async fn the_file_is_found_by_variable_and_in_the_current_directory() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let none = run_in(here, None, &["validate"]).await;
    assert_eq!(none.code, Some(1));
    let expected =
        "causeway: no configuration: give --config-path FILE, or try `causeway demo` (looked for ";
    assert!(none.stderr.starts_with(expected), "{}", none.stderr);
    for place in [
        "app-proxy-worker.toml",
        ".config/backend.ai/app-proxy-worker.toml",
        "/etc/backend.ai/",
    ] {
        assert!(none.stderr.contains(place), "{}", none.stderr);
    }

    let named = here.join("elsewhere.toml");
    write(&named, "", "");
    let found = run_in(here, Some(&named), &["validate"]).await;
    assert_eq!(
        found.stdout,
        format!("configuration '{}' OK\n", named.display())
    );

    let standard = here.join("app-proxy-worker.toml");
    std::fs::write(&standard, "[secrets]\n").unwrap();
    let broken = run_in(here, None, &[]).await;
    assert_eq!(broken.code, Some(1), "the bare program takes it, too");
    assert!(
        broken
            .stderr
            .contains("app-proxy-worker.toml: secrets.api_secret is required"),
        "{}",
        broken.stderr
    );
    // What an option names comes before everything else.
    let named = run_in(
        here,
        Some(&standard),
        &["validate", "--config", text(&named)],
    )
    .await;
    assert_eq!(named.code, Some(0), "{}", named.stderr);
    let missing = run_in(here, Some(&here.join("none.toml")), &["validate"]).await;
    assert_eq!(missing.code, Some(1));
    assert!(missing.stderr.contains("none.toml"), "{}", missing.stderr);
}

#[tokio::test]
async fn the_example_can_be_written_and_is_valid() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("example.toml");
    let written = run(&["generate-example-configuration", "-o", text(&file)]).await;
    assert_eq!((written.code, written.stdout.as_str()), (Some(0), ""));
    let printed = run(&["config", "generate-sample"]).await;
    assert_eq!(printed.stdout, std::fs::read_to_string(&file).unwrap());
    assert_eq!(run(&["validate", "-c", text(&file)]).await.code, Some(0));
}

#[tokio::test]
async fn health_check_asks_the_worker_of_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("w.toml");
    write(&file, "", "");
    let mut program = Program::start(&["-f", text(&file)]);
    let management = program.management().await.to_string();
    let asked = std::fs::read_to_string(&file)
        .unwrap()
        .replace("127.0.0.1:0", &management);
    std::fs::write(&file, asked).unwrap();
    let check = ["health", "check", "--no-timestamps", "-f", text(&file)];
    let well = run(&check).await;
    assert_eq!(well.code, Some(0), "{}{}", well.stdout, well.stderr);
    assert!(
        well.stdout
            .starts_with(&format!("OK      http://{management}/health\n{{")),
        "{}",
        well.stdout
    );
    program.signal(Signal::TERM);
    program.ended().await;
    let gone = run(&check).await;
    assert_eq!(gone.code, Some(1));
    assert!(
        gone.stdout.starts_with("FAILED  http://"),
        "{}",
        gone.stdout
    );
}

#[tokio::test]
async fn dependencies_verify_names_what_cannot_be_reached() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("w.toml");
    let redis = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let coordinator = axum::Router::new().route("/status", axum::routing::get(async || "{}"));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move { axum::serve(listener, coordinator).await });
    let example = causeway::config::EXAMPLE
        .replace(
            "port = 6379",
            &format!("port = {}", redis.local_addr().unwrap().port()),
        )
        .replace("127.0.0.1:10200", &at.to_string());
    std::fs::write(&file, example).unwrap();
    let verify = [
        "dependencies",
        "verify",
        "--no-timestamps",
        "-f",
        text(&file),
    ];
    let both = run(&verify).await;
    assert_eq!(both.code, Some(0), "{}{}", both.stdout, both.stderr);
    drop(redis);
    serving.abort();
    serving.await.unwrap_err();
    let none = run(&verify).await;
    assert_eq!(none.code, Some(1));
    let failed = none
        .stdout
        .lines()
        .filter(|line| line.starts_with("FAILED  "))
        .count();
    assert_eq!(failed, 2, "{}", none.stdout);
}

#[tokio::test]
async fn the_log_goes_to_a_file_at_the_level_of_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("w.toml");
    let logging = format!(
        "[logging]\nlevel = \"WARNING\"\ndrivers = [\"file\"]\n[logging.file]\npath = \"{}\"\n\
         filename = \"w.log\"\nformat = \"json\"",
        directory.path().display()
    );
    let pid = directory.path().join("w.pid");
    let more = format!("wat = 1\npid_file = \"{}\"", pid.display());
    write(&file, &more, &logging);
    let log = directory.path().join("w.log");
    // The line that says that it serves is of level info, which only the command line asks for.
    for (arguments, serving) in [
        (&["--log-level", "NOTSET"][..], false),
        (&["--debug"], true),
    ] {
        std::fs::remove_file(&log).ok();
        let arguments = [&["start-server", "-f", text(&file)], arguments].concat();
        let mut program = Program::start(&arguments);
        crate::support::eventually("it runs", || pid.exists()).await;
        program.signal(Signal::TERM);
        assert_eq!(program.ended().await, Some(0));
        let lines = std::fs::read_to_string(&log).unwrap();
        assert!(lines.contains("unknown key ignored"), "{lines}");
        let first = lines.lines().next().unwrap();
        serde_json::from_str::<serde_json::Value>(first).unwrap();
        assert_eq!(lines.contains("\"serving\""), serving, "{lines}");
        assert_eq!(program.output(), "");
    }
}

#[tokio::test]
async fn a_user_that_does_not_exist_ends_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let (file, pid) = (
        directory.path().join("w.toml"),
        directory.path().join("w.pid"),
    );
    let more = format!("user = \"no such user\"\npid_file = \"{}\"", pid.display());
    write(&file, &more, "");
    let refused = run(&["start-server", "-f", text(&file)]).await;
    assert_eq!(refused.code, Some(1));
    let expected = "proxy_worker.user: there is no user no such user";
    assert!(refused.stderr.contains(expected), "{}", refused.stderr);
    assert!(!pid.exists());
}

/// Only root can show it.
#[tokio::test]
async fn a_worker_of_root_becomes_the_user_of_the_file() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("w.toml");
    write(&file, "user = 65534\ngroup = 65534", "");
    let mut program = Program::start(&["start-server", "-f", text(&file)]);
    let management = program.management().await;
    assert_eq!(get(management, "localhost", "/livez").await.status, 200);
    for task in std::fs::read_dir(format!("/proc/{}/task", program.id())).unwrap() {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        for (line, ids) in [("Uid:", 4), ("Gid:", 4)] {
            let found = status.lines().find(|l| l.starts_with(line)).unwrap();
            assert_eq!(found.matches("65534").count(), ids, "{found}");
        }
    }
    program.signal(Signal::TERM);
    assert_eq!(program.ended().await, Some(0));
}
