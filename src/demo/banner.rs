//! What the demo says about itself.

use std::fmt::Write;
use std::net::SocketAddr;

use super::{LLM_SERVICE, NOTEBOOK_SESSION};

/// Where the proxy of the demo listens, as bound.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    pub wildcard: SocketAddr,
    /// Port slot of the notebook.
    pub notebook: SocketAddr,
    /// Port slot of the TCP echo.
    pub echo: SocketAddr,
    pub path: SocketAddr,
    pub management: SocketAddr,
}

impl Addresses {
    /// Looks the demo's listeners up by name. `None` when one is not open.
    pub fn from_listeners(
        management: SocketAddr,
        of: impl Fn(&str) -> Option<SocketAddr>,
    ) -> Option<Self> {
        Some(Self {
            wildcard: of("wildcard")?,
            notebook: of("slot/1")?,
            echo: of("slot/2")?,
            path: of("path")?,
            management,
        })
    }
}

/// URLs of all sample apps, and a line to try each.
pub fn banner(at: &Addresses) -> String {
    let wildcard = at.wildcard.port();
    let notebook = format!("http://notebook.localhost:{wildcard}/");
    let llm = format!("http://llm.localhost:{wildcard}/v1/chat/completions");
    let by_path = format!("http://{}/{NOTEBOOK_SESSION}/notebook/", at.path);
    let llm_by_path = format!("http://{}/{LLM_SERVICE}/llm/v1/chat/completions", at.path);
    let (echo, management) = (at.echo, at.management);
    let rows = [
        ("notebook, by subdomain", notebook.clone()),
        ("notebook, by port", format!("http://{}/", at.notebook)),
        ("notebook, by path", by_path.clone()),
        ("model, by subdomain", llm.clone()),
        ("model, by path", llm_by_path),
        ("tcp echo, by port", format!("tcp://{echo}")),
        (
            "management",
            format!("http://{management}/status   /metrics   /config_dump"),
        ),
        ("", String::new()),
        ("try a page", format!("curl {notebook}")),
        (
            "try a live event stream",
            format!("curl -N '{by_path}events?ticks=3'"),
        ),
        (
            "try a token stream",
            format!("curl -N {llm} -d '{{\"stream\":true}}'"),
        ),
        ("try tcp", format!("curl -s dict://{echo}/hello")),
    ];
    let mut out = String::from("\nCauseway demo: three sample apps, served in three ways\n\n");
    for (what, line) in rows {
        let _ = writeln!(out, "{}", format!("  {what:<25}{line}").trim_end());
    }
    out.push_str("\nOpen a notebook in a browser: its echo and its ticks are live. ");
    out.push_str("Ctrl-C drains and stops.\n");
    out
}
