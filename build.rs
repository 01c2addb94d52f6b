//! Build facts: what `causeway version`, `/server_info` and the log's first line say about a binary.
//!
//! Every fact has a fallback, because a source archive has no `.git` and a container may have no
//! `git`: a build never fails for want of a fact.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    fact("VERSION", &variable("CARGO_PKG_VERSION"));
    fact("TARGET", &variable("TARGET"));
    fact("PROFILE", &profile());
    fact("RUSTC", &compiler());

    let commit = git(&["rev-parse", "--short=12", "HEAD"]);
    // Without a commit there is nothing to differ from, so the flag says nothing rather than "clean".
    let dirty = match (
        &commit,
        git(&["status", "--porcelain", "--untracked-files=no"]),
    ) {
        (Some(_), Some(changes)) if changes.is_empty() => "false",
        (Some(_), Some(_)) => "true",
        _ => "unknown",
    };
    fact("COMMIT", commit.as_deref().unwrap_or("unknown"));
    fact("DIRTY", dirty);

    rerun_rules();
}

fn fact(name: &str, value: &str) {
    println!("cargo:rustc-env=CAUSEWAY_{name}={value}");
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| "unknown".to_owned())
}

/// The profile's own name. `PROFILE` knows only `debug` and `release`, so `dist` would be reported
/// as `release`; the name is the directory above `build/` in `OUT_DIR`.
fn profile() -> String {
    let out = PathBuf::from(variable("OUT_DIR"));
    let mut above_build = out
        .ancestors()
        .skip_while(|dir| dir.file_name() != Some("build".as_ref()))
        .skip(1);
    above_build.next().and_then(Path::file_name).map_or_else(
        || variable("PROFILE"),
        |name| name.to_string_lossy().into_owned(),
    )
}

fn compiler() -> String {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    run(Command::new(rustc).arg("--version")).unwrap_or_else(|| "unknown".to_owned())
}

fn git(arguments: &[&str]) -> Option<String> {
    // A source archive unpacked inside somebody else's repository must not report their commit.
    if !Path::new(".git").exists() {
        return None;
    }
    run(Command::new("git").args(arguments))
}

fn run(command: &mut Command) -> Option<String> {
    let output = command
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

/// Runs again when the commit or the code moves, and not at each build: a rule that names a missing
/// file makes cargo run the script every time, so only files that exist are named.
fn rerun_rules() {
    // The profile is the compiler's, of which cargo knows nothing (.cargo/config.toml).
    for path in [
        "build.rs",
        "src",
        "Cargo.toml",
        "Cargo.lock",
        ".cargo/pgo/causeway.profdata",
    ] {
        println!("cargo:rerun-if-changed={path}");
    }
    // Asked of git because in a linked worktree `.git` is a file that points elsewhere, and because
    // the ref of a branch may live in the common directory or in `packed-refs`.
    // The log of HEAD is named because a packed ref's own file appears only with the next commit.
    let mut names = ["HEAD", "logs/HEAD", "packed-refs"]
        .map(str::to_owned)
        .to_vec();
    names.extend(git(&["symbolic-ref", "--quiet", "HEAD"]));
    for name in names {
        if let Some(path) = git(&["rev-parse", "--git-path", &name])
            && Path::new(&path).exists()
        {
            println!("cargo:rerun-if-changed={path}");
        }
    }
}
