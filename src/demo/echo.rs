//! Returns what it receives, over plain TCP.

use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

pub async fn run(listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.spawn(echo(stream));
                // Collects who has finished, so that the set does not grow.
                while connections.try_join_next().is_some() {}
            }
            // Out of file descriptors, most likely: it passes.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn echo(mut stream: TcpStream) {
    let (mut from, mut to) = stream.split();
    // A client that resets its connection wants no answer.
    let _ = tokio::io::copy(&mut from, &mut to).await;
}
