//! A reverse proxy in one file: an origin, an Envoy bootstrap as text, one request through both.
//!
//! ```sh
//! cargo run --example static_reverse_proxy
//! ```
//!
//! Expected output:
//!
//! ```text
//! HTTP/1.1 200 OK
//! hello from the origin, asked for /greeting
//! ```

use anyhow::{Context, Result};
use causeway::app::{self, Config, Options};
use causeway::config::bootstrap::{BootstrapConfig, Overrides};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

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
            - name: all
              domains: ["*"]
              routes:
              - match: { prefix: / }
                route: { cluster: origin }
          http_filters:
          - name: router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  clusters:
  - name: origin
    load_assignment:
      cluster_name: origin
      endpoints:
      - lb_endpoints:
        - endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: ORIGIN } } }
"#;

#[tokio::main]
async fn main() -> Result<()> {
    let origin = TcpListener::bind("127.0.0.1:0").await?;
    let text = BOOTSTRAP.replace("ORIGIN", &origin.local_addr()?.port().to_string());
    tokio::spawn(serve_one(origin));

    let bootstrap = BootstrapConfig::parse("example", &text, &Overrides::default())?;
    let options = Options {
        concurrency: 1,
        ..Options::default()
    };
    let running = app::start(Config::Bootstrap(Box::new(bootstrap)), options).await?;
    let address = running
        .addresses
        .of("web")
        .context("the listener is open")?;

    let mut client = TcpStream::connect(address).await?;
    client
        .write_all(b"GET /greeting HTTP/1.1\r\nhost: any\r\nconnection: close\r\n\r\n")
        .await?;
    let mut answer = String::new();
    client.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("a whole answer")?;
    println!("{}\n{body}", head.lines().next().unwrap_or_default());
    running.shutdown().await;
    Ok(())
}

/// Answers one request with the path it asked for.
async fn serve_one(listener: TcpListener) -> Result<()> {
    let (stream, _) = listener.accept().await?;
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let path = line.split(' ').nth(1).unwrap_or("?");
    let body = format!("hello from the origin, asked for {path}");
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all((head + &body).as_bytes()).await?;
    Ok(())
}
