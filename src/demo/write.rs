//! The demo as files: a worker's configuration, circuits, and a script that pushes them, for whoever
//! wants to go on from there with applications of their own.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::{Kernels, circuits_at};

/// Where the worker of the files listens. Nobody chooses for them, as the system does for the demo:
/// a script has to know.
const MANAGEMENT: u16 = 6040;
const PATH: u16 = 5050;
const WILDCARD: u16 = 10204;
const SLOTS: [u16; 2] = [10205, 10206];
/// Where the applications are taken to listen, each at its usual port.
const NOTEBOOK: u16 = 8888;
const LLM: u16 = 8000;
const ECHO: u16 = 7007;

const SCRIPT: &str = r#"#!/bin/sh
# Makes circuits.json the whole set of circuits that are pushed to the worker of worker.toml.
set -eu
cd "$(dirname "$0")"
token=$(sed -n 's/^api_secret = "\(.*\)"$/\1/p' worker.toml)
curl --fail-with-body --silent --show-error -X PUT http://127.0.0.1:6040/v1/circuits \
  -H "X-BackendAI-Token: $token" --data @circuits.json
echo
"#;

/// Why nothing, or not all, was written.
#[derive(Debug, thiserror::Error)]
pub enum NotWritten {
    #[error("{} is there already; nothing was written", .0.display())]
    Exists(PathBuf),
    #[error("cannot write {}: {error}", .path.display())]
    Failed { path: PathBuf, error: io::Error },
}

/// Writes the files into `folder`, which is made if need be. Returns their paths.
///
/// # Errors
/// A file of the same name is there, or one cannot be written.
pub fn write(folder: &Path) -> Result<Vec<PathBuf>, NotWritten> {
    let secret = Uuid::new_v4();
    // The secret is for its owner.
    let files = [
        ("worker.toml", 0o600, worker(secret)),
        ("circuits.json", 0o644, circuits()),
        ("push.sh", 0o755, SCRIPT.to_owned()),
        ("README.txt", 0o644, readme()),
    ];
    let failed = |path: &Path, error| NotWritten::Failed {
        path: path.to_owned(),
        error,
    };
    fs::create_dir_all(folder).map_err(|error| failed(folder, error))?;
    for (name, ..) in &files {
        let path = folder.join(name);
        // Also a link that leads nowhere.
        if path.symlink_metadata().is_ok() {
            return Err(NotWritten::Exists(path));
        }
    }
    let mut written = Vec::with_capacity(files.len());
    for (name, mode, text) in files {
        let path = folder.join(name);
        let create = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&path);
        let done = create.and_then(|mut file| file.write_all(text.as_bytes()));
        done.map_err(|error| failed(&path, error))?;
        written.push(path);
    }
    Ok(written)
}

fn worker(secret: Uuid) -> String {
    let [first, last] = SLOTS;
    format!(
        r#"# A worker without a Coordinator, on loopback only: circuits are pushed to it.
# `causeway generate-example-configuration` prints every key.

[secrets]
# Whoever has it may push circuits.
api_secret = "{secret}"

# By port: one circuit on each of these.
[proxy_worker.port_proxy]
bind_host = "127.0.0.1"
bind_port_range = [{first}, {last}]

# By subdomain: http://<subdomain>.localhost:{WILDCARD}/
[proxy_worker.wildcard_domain]
domain = ".localhost"
bind_addr = {{ host = "127.0.0.1", port = {WILDCARD} }}

[causeway]
# Where circuits are pushed to.
management = "127.0.0.1:{MANAGEMENT}"
# By path: http://127.0.0.1:{PATH}/<session>/<app>/
path_frontend = "127.0.0.1:{PATH}"
"#
    )
}

fn circuits() -> String {
    let here = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let kernels = Kernels {
        notebook: here(NOTEBOOK),
        llm: here(LLM),
        echo: here(ECHO),
    };
    format!("{:#}\n", circuits_at(&kernels, SLOTS))
}

fn readme() -> String {
    let [notebook, echo] = SLOTS;
    format!(
        "\
A Causeway worker, with what `causeway demo` pushes to its own.

1. circuits.json says where the applications listen (kernel_host, kernel_port): an HTTP application at
   {NOTEBOOK}, a model server at {LLM}, a TCP service at {ECHO}. Change it to what you have, and leave
   out the rest.
2. causeway start-server -f worker.toml
3. ./push.sh
4. http://notebook.localhost:{WILDCARD}/ and http://127.0.0.1:{notebook}/ lead to the first,
   http://llm.localhost:{WILDCARD}/ to the second, port {echo} to the third.

Push again after each change, and after a restart of the worker: circuits live in memory.
"
    )
}

#[cfg(test)]
mod tests;
