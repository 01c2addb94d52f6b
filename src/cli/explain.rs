//! `causeway explain`: what would happen to a request, by files or by a proxy that runs.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, bail};
use causeway_xds::ResourceType;
use causeway_xds::resource::resource_name;
use clap::Parser as _;
use http::header::HOST;
use http::{Request, Uri};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpStream;

use super::args::{Cli, ExplainArgs, Format};
use super::validate::resources::Resources;
use crate::app::{self, Config};
use crate::http::explain::{Question, explain};
use crate::snapshot::Snapshot;

/// # Errors
/// The request or the configuration makes no sense, or the proxy does not answer.
pub(super) fn run(args: ExplainArgs) -> Result<()> {
    let question = Question::parse(&args.url, &args.method, &args.headers)?;
    let mut question = question.from_client(&args.client_ip)?;
    question.listener.clone_from(&args.listener);
    let text = match (&args.admin, &args.config) {
        (Some(admin), _) => super::runtime()?.block_on(asked(admin, &args))?,
        (None, Some(file)) => {
            crate::tls::install_provider();
            let (snapshot, clusters) = read(file)?;
            question.clusters = clusters;
            let found = explain(&snapshot, &question)?;
            match args.format {
                Format::Text => found.to_text(),
                Format::Json => format!("{:#}\n", json!({ "steps": found.steps })),
            }
        }
        (None, None) => bail!("give --config or --admin"),
    };
    print!("{text}");
    Ok(())
}

/// What a file would make a proxy serve from, and its clusters.
fn read(file: &Path) -> Result<(Arc<Snapshot>, Vec<String>)> {
    let updates = match Resources::read(file)? {
        Some(resources) => resources.updates(),
        None => {
            let mut args = Cli::parse_from(["causeway"]).serve;
            args.config_path = Some(file.to_owned());
            match super::load(&args)? {
                Config::Bootstrap(bootstrap) => bootstrap.static_updates.clone(),
                Config::Worker(_) => {
                    bail!("the routes of a worker are only known to it: use --admin")
                }
            }
        }
    };
    let clusters = updates.iter().filter(|u| u.kind == ResourceType::Cluster);
    let clusters = clusters.flat_map(|update| &update.upserts);
    let clusters = clusters.filter_map(resource_name).collect();
    let (snapshot, rejected) = app::compile(updates);
    match rejected.first() {
        Some(rejected) => Err(anyhow!("{}: {rejected}", file.display())),
        None => Ok((snapshot, clusters)),
    }
}

/// The answer of a proxy that runs.
async fn asked(admin: &str, args: &ExplainArgs) -> Result<String> {
    let base: Uri = admin
        .parse()
        .with_context(|| format!("--admin {admin:?}"))?;
    let authority = base
        .authority()
        .context("--admin needs a host and a port")?;
    let mut path = format!("/explain?url={}", percent(&args.url));
    let mut add = |key: &str, value: &str| path.push_str(&format!("&{key}={}", percent(value)));
    add("method", &args.method);
    add("client_ip", &args.client_ip);
    args.headers.iter().for_each(|header| add("header", header));
    if let Some(listener) = &args.listener {
        add("listener", listener);
    }
    if args.format == Format::Json {
        add("format", "json");
    }
    let address = (authority.host(), authority.port_u16().unwrap_or(80));
    let stream = TcpStream::connect(address).await;
    let stream = stream.with_context(|| format!("cannot reach {authority}"))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::get(path).header(HOST, authority.as_str());
    let answer = sender
        .send_request(request.body(Empty::<Bytes>::new())?)
        .await?;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    let text = String::from_utf8_lossy(&body).into_owned();
    match status.is_success() {
        true => Ok(text),
        false => Err(anyhow!("{authority}: {status}: {}", text.trim_end())),
    }
}

/// A text as a value in a query.
fn percent(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~/:".contains(byte);
    text.bytes()
        .map(|byte| match plain(&byte) {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests;
