//! Connections that end here, and are no HTTP.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::net::Io;
use crate::runtime::drain::Drain;
use crate::runtime::timer::Deadline;

/// How long a peer may be silent, or not take what is sent to it.
const IDLE: Duration = Duration::from_secs(3600);
/// How long a peer may take for a response.
const TAKE: Duration = Duration::from_secs(60);

/// Sends back what comes, until the peer has no more to say.
pub async fn echo(mut io: Io, drain: &Drain) {
    let mut piece = vec![0; 8192];
    loop {
        let turn = async {
            let length = io.read(&mut piece).await?;
            io.write_all(&piece[..length]).await?;
            io.flush().await?;
            Ok::<_, std::io::Error>(length)
        };
        let length = tokio::select! {
            length = turn => length,
            () = Deadline::after(IDLE) => return,
            () = drain.begun() => return,
        };
        if !matches!(length, Ok(1..)) {
            break;
        }
    }
    tokio::time::timeout(TAKE, io.shutdown()).await.ok();
}

/// Sends a response and closes.
pub async fn direct(mut io: Io, data: &Bytes) {
    let send = async {
        io.write_all(data).await?;
        io.flush().await?;
        io.shutdown().await
    };
    let sent = tokio::time::timeout(TAKE, send).await;
    tracing::debug!(sent = matches!(sent, Ok(Ok(()))), "direct response");
}
