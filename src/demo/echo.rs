//! Returns what it receives, over plain TCP, until the client ends its side or says `QUIT` on a
//! line of its own.
//!
//! The word is there for `curl`: as a DICT client it can send text to any port, and says `QUIT`
//! when it has (RFC 2229 §3.9).

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
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
    const FAREWELL: &[u8] = b"\nQUIT\r\n";
    let mut buffer = vec![0; 16 * 1024];
    // The last bytes seen, since the word may arrive in two pieces.
    let mut tail: Vec<u8> = Vec::with_capacity(2 * FAREWELL.len());
    // A client that resets its connection wants no answer, so errors just end the echo.
    while let Ok(n @ 1..) = stream.read(&mut buffer).await {
        let Some(piece) = buffer.get(..n) else { return };
        if stream.write_all(piece).await.is_err() {
            return;
        }
        tail.extend_from_slice(&piece[n.saturating_sub(FAREWELL.len())..]);
        if tail.ends_with(FAREWELL) {
            break;
        }
        tail.drain(..tail.len().saturating_sub(FAREWELL.len()));
    }
    let _ = stream.shutdown().await;
}
