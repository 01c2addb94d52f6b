//! An HTTP filter that is not in Causeway: it puts a greeting into answers, and turns rude ones away.
//!
//! ```sh
//! cargo run --example custom_filter                # one request through the bootstrap below
//! cargo run --example custom_filter -- envoy.yaml  # serves a bootstrap in which it may stand
//! ```
//!
//! Expected output:
//!
//! ```text
//! HTTP/1.1 200 OK
//! x-greeting: hi
//! ```

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use causeway::app::{self, Config, Options};
use causeway::config::bootstrap::{BootstrapConfig, Overrides};
use causeway::filter::{Answer, Context, Factory, Flow, HttpFilter, LocalReply, Stream};
use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::Message;
use causeway_xds::reject::Invalid;
use http::{HeaderValue, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Its configuration is any message.
pub static FILTERS: &[Factory] = &[Factory {
    message: "google.protobuf.StringValue",
    name: "greet",
    build,
    per_route: &[],
}];

#[derive(Debug)]
struct Greet(HeaderValue);

fn build(config: &TypedExtension, _: &Context) -> Result<Arc<dyn HttpFilter>, Invalid> {
    let text = String::decode(&*config.value).map_err(|e| Invalid::at("value", e.to_string()))?;
    let text = HeaderValue::try_from(text).map_err(|e| Invalid::at("value", e.to_string()))?;
    Ok(Arc::new(Greet(text)))
}

impl HttpFilter for Greet {
    fn request(&self, stream: &mut Stream<'_>) -> Flow {
        match stream.request.headers.contains_key("x-rude") {
            true => Flow::reply(LocalReply::new(StatusCode::FORBIDDEN, "rude").saying("Please.")),
            false => Flow::Continue,
        }
    }

    fn response(&self, answer: &mut Answer<'_>) {
        answer.headers.insert("x-greeting", self.0.clone());
    }
}

const BOOTSTRAP: &str = r#"
static_resources:
  listeners:
  - name: web
    address: { socket_address: { address: 127.0.0.1, port_value: 0 } }
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: web
          route_config:
            virtual_hosts:
            - { name: all, domains: ["*"], routes: [{ match: { prefix: / }, direct_response: { status: 200 } }] }
          http_filters:
          - { name: greet, typed_config: { "@type": type.googleapis.com/google.protobuf.StringValue, value: hi } }
          - { name: router, typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router } }
"#;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let file = std::env::args().nth(1);
    let text = match &file {
        Some(file) => std::fs::read_to_string(file)?,
        None => BOOTSTRAP.to_owned(),
    };
    let name = file.as_deref().unwrap_or("example");
    let bootstrap = BootstrapConfig::parse(name, &text, &Overrides::default())?;
    let options = Options {
        filters: FILTERS,
        ..Options::default()
    };
    let running = app::start(Config::Bootstrap(Box::new(bootstrap)), options).await?;
    if file.is_some() {
        tokio::signal::ctrl_c().await?;
    } else {
        let address = running.addresses.of("web").context("it is open")?;
        ask(address).await?;
    }
    running.shutdown().await;
    Ok(())
}

async fn ask(address: SocketAddr) -> anyhow::Result<()> {
    let mut client = TcpStream::connect(address).await?;
    let request = b"GET / HTTP/1.1\r\nhost: any\r\nconnection: close\r\n\r\n";
    client.write_all(request).await?;
    let mut answer = String::new();
    client.read_to_string(&mut answer).await?;
    let lines = answer.lines().enumerate();
    for (_, line) in lines.filter(|(n, line)| *n == 0 || line.starts_with("x-greeting")) {
        println!("{line}");
    }
    Ok(())
}
