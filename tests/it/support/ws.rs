//! WebSocket clients and origins.

use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use http::Request;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, accept_async_with_config, client_async_with_config};

use super::origin::Origin;
use super::within;

pub type Socket = WebSocketStream<TcpStream>;

/// Small buffers: some tests hold a thousand sockets, both ends of each.
pub fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(4096)
        .max_message_size(Some(64 << 20))
}

/// A handshake to `at`, for `host` and `path`.
pub fn handshake(host: &str, path: &str) -> Request<()> {
    format!("ws://{host}{path}").into_client_request().unwrap()
}

pub async fn open(at: SocketAddr, host: &str, path: &str) -> Socket {
    let stream = TcpStream::connect(at).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let handshake = client_async_with_config(handshake(host, path), stream, Some(config()));
    within("a WebSocket handshake", handshake)
        .await
        .expect("an upgrade")
        .0
}

/// Sends `text` and awaits it back.
pub async fn echoed(socket: &mut Socket, text: &str) -> Result<(), Error> {
    socket.send(Message::text(text)).await?;
    match within("an echo", socket.next()).await {
        Some(Ok(Message::Text(back))) if back.as_str() == text => Ok(()),
        Some(Ok(other)) => panic!("{other:?} instead of {text:?}"),
        Some(Err(error)) => Err(error),
        None => Err(Error::ConnectionClosed),
    }
}

/// Waits until the socket has ended, in whatever way.
pub async fn until_closed(socket: &mut Socket) {
    within("the end of a WebSocket", async {
        while let Some(Ok(_)) = socket.next().await {}
    })
    .await;
}

/// Echoes messages; answers pings and closes as the protocol says.
pub async fn echo_origin() -> Origin {
    Origin::tcp(|stream| async move {
        let Ok(mut socket) = accept_async_with_config(stream, Some(config())).await else {
            return;
        };
        while let Some(Ok(message)) = socket.next().await {
            if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
                return;
            }
        }
    })
    .await
}
