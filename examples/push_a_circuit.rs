//! What a Coordinator does, without one: a worker, and a circuit pushed to its management port.
//!
//! ```sh
//! cargo run --example push_a_circuit
//! ```
//!
//! Expected output (the generation counts snapshots):
//!
//! ```text
//! before: HTTP/1.1 400 Bad Request
//! pushed: live in generation 2
//! after:  HTTP/1.1 200 OK
//! ```

use std::net::SocketAddr;

use anyhow::{Context, Result};
use causeway::app::{self, Config, Options};
use causeway::demo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::main]
async fn main() -> Result<()> {
    // The demo's configuration is a worker's on loopback, every port chosen by the system.
    let config = demo::config();
    let secret = config.api_secret.clone();
    let backends = demo::start_backends().await?;
    let options = Options {
        concurrency: 1,
        ..Options::default()
    };
    let running = app::start(Config::Worker(Box::new(config)), options).await?;
    let management = running
        .management
        .context("a worker has a management port")?;
    let wildcard = running
        .addresses
        .of("wildcard")
        .context("the wildcard frontend is open")?;

    println!("before: {}", ask(wildcard, "notebook.localhost").await?);
    demo::push(management, &secret, &demo::circuits(&backends)).await?;
    println!(
        "pushed: live in generation {}",
        running.publisher.current().generation
    );
    println!("after:  {}", ask(wildcard, "notebook.localhost").await?);
    running.shutdown().await;
    Ok(())
}

/// The status line of one request.
async fn ask(address: SocketAddr, host: &str) -> Result<String> {
    let mut client = TcpStream::connect(address).await?;
    let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    client.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    client.read_to_string(&mut answer).await?;
    Ok(answer.lines().next().unwrap_or_default().to_owned())
}
