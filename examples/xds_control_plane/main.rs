//! A management server in small, and traffic that it moves from one origin to another while you
//! watch. The service itself is `src/demo/xds/`: some three hundred lines that speak both forms of
//! the protocol, for any proxy that speaks xDS.
//!
//! ```sh
//! cargo run --example xds_control_plane > bootstrap.json       # and leave it running
//! cargo run -- -c bootstrap.json                               # in another terminal
//! while sleep 0.2; do curl -s http://127.0.0.1:10000/; done    # in a third
//! ```
//!
//! The bootstrap goes to standard output, and what happens to standard error:
//!
//! ```text
//! waiting for a proxy on 127.0.0.1:18000
//! demo-proxy has connected (state of the world)
//! accepted: cluster
//! accepted: endpoints
//! accepted: listener
//! accepted: route
//! blue 75 %, green 25 %
//! accepted: endpoints
//! blue 50 %, green 50 %
//! accepted: endpoints
//! blue 25 %, green 75 %
//! accepted: endpoints
//! blue 0 %, green 100 %
//! accepted: endpoints
//! ```
//!
//! A proxy may name the first two the other way round: both are right. Stop this program and start
//! it again: the traffic does not notice, and the proxy comes back by itself.

use std::time::Duration;

use anyhow::{Context, Result};
use causeway::demo::xds::Scene;
use causeway::demo::xds::server::Said;
use clap::Parser;
use tokio::sync::mpsc;

#[derive(Parser)]
pub struct Args {
    /// Where proxies connect.
    #[arg(long, default_value_t = 18000)]
    pub port: u16,
    /// Where the proxy is told to take traffic.
    #[arg(long, default_value_t = 10000)]
    pub traffic_port: u16,
    /// Where the proxy's management interface is to listen.
    #[arg(long, default_value_t = 9901)]
    pub admin_port: u16,
    /// The proxy is to use the incremental form of the protocol.
    #[arg(long)]
    pub delta: bool,
    /// Seconds between two steps.
    #[arg(long, default_value_t = 5.0)]
    pub step: f64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let (sender, mut said) = mpsc::unbounded_channel();
    let scene = start(&args, sender).await?;
    print!("{}", scene.bootstrap(args.delta, args.admin_port));
    eprintln!("waiting for a proxy on {}", scene.address());
    let step = Duration::from_secs_f64(args.step);
    tokio::select! {
        ended = scene.play(&mut said, step, |line| eprintln!("{line}")) => Ok(ended?),
        stopped = tokio::signal::ctrl_c() => Ok(stopped?),
    }
}

pub async fn start(args: &Args, said: mpsc::UnboundedSender<Said>) -> Result<Scene> {
    let scene = Scene::start(args.port, args.traffic_port, said).await;
    scene.context("a port is not free; --port and the others choose")
}
