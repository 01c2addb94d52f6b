use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use super::*;
use crate::config::WorkerConfig;
use crate::demo::tests::pushed;

fn read(folder: &Path, name: &str) -> String {
    fs::read_to_string(folder.join(name)).unwrap()
}

#[tokio::test]
async fn the_worker_of_the_files_takes_their_circuits() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("made").join("for it");
    let written = write(&folder).unwrap();
    assert_eq!(written.len(), 4);
    let config = WorkerConfig::load(&folder.join("worker.toml")).unwrap();
    assert!(config.unknown.is_empty(), "{:?}", config.unknown);
    let unused = &config.without_effect;
    assert!(unused.is_empty(), "{unused:?}");
    let circuits: Value = serde_json::from_str(&read(&folder, "circuits.json")).unwrap();
    assert_eq!(pushed(&config, &circuits).await, 4);
}

#[test]
fn the_script_finds_what_it_needs_and_nobody_else_the_secret() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path()).unwrap();
    let mode = |name: &str| {
        let file = folder.path().join(name).metadata().unwrap();
        file.permissions().mode() & 0o777
    };
    assert_eq!(mode("worker.toml"), 0o600);
    assert_eq!(mode("push.sh") & 0o700, 0o700);
    let config = WorkerConfig::load(&folder.path().join("worker.toml")).unwrap();
    let script = read(folder.path(), "push.sh");
    let url = format!("http://{}/v1/circuits", config.causeway.management);
    assert!(script.contains(&url), "{script}");
    let find = script
        .lines()
        .find(|line| line.starts_with("token="))
        .unwrap();
    let find = format!("{find}; echo \"$token\"");
    let found = std::process::Command::new("sh")
        .args(["-c", &find])
        .current_dir(folder.path())
        .output()
        .unwrap();
    let found = String::from_utf8(found.stdout).unwrap();
    assert!(config.api_secret.matches(found.trim().as_bytes()));
}

#[test]
fn nothing_is_written_over() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("push.sh"), "mine").unwrap();
    let error = write(folder.path()).unwrap_err().to_string();
    assert!(error.contains("push.sh is there already"), "{error}");
    assert_eq!(read(folder.path(), "push.sh"), "mine");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}
