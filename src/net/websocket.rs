//! A WebSocket and a stream of bytes joined: what one says in binary messages, the other says in
//! bytes.
//!
//! Each direction holds one piece at a time: nothing is read from a side before the other has taken
//! what was read before. A message is taken whole, up to a limit.
//!
//! RFC 6455 has no half-close. Where both ends know of it ([`Dialect::HalfClose`]), an empty message
//! says that nothing more follows in its direction; elsewhere the end of the bytes closes the
//! WebSocket.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::CapacityError;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::runtime::timer::Deadline;

/// What one read of bytes may bring, and so the largest message that is sent. One buffer per thread
/// serves every connection.
const PIECE: usize = 64 * 1024;
/// Of each WebSocket, for as long as it is open.
const READ_BUFFER: usize = 16 * 1024;
/// How long the peer may take for the last of its bytes, a closing frame and the answer to it.
const CLOSING: Duration = Duration::from_secs(30);

/// How long a peer that was refused is listened to.
const LINGER: Duration = Duration::from_secs(2);

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// How the end of one direction is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// It is not: the WebSocket is closed. What websockify and its clients speak.
    #[default]
    Binary,
    /// By an empty message.
    HalfClose,
}

impl Dialect {
    /// Those there are, by preference.
    pub const ALL: [Self; 2] = [Self::HalfClose, Self::Binary];

    /// The subprotocol that asks for it (RFC 6455 section 1.9).
    pub const fn subprotocol(self) -> &'static str {
        match self {
            Self::Binary => "binary",
            Self::HalfClose => "v1.tunnel.causeway",
        }
    }

    /// The best of those that a client offers.
    pub fn choose<'o>(offered: impl Iterator<Item = &'o str>) -> Option<Self> {
        let place = |name| {
            Self::ALL
                .iter()
                .position(|known| known.subprotocol() == name)
        };
        offered
            .filter_map(place)
            .min()
            .map(|place| Self::ALL[place])
    }
}

/// What holds for one joined connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    pub dialect: Dialect,
    /// Bytes of the largest message that is taken.
    pub max_message: usize,
    /// After so long without a word from the peer it is sent a ping, and given as long again. Zero:
    /// never.
    pub ping: Duration,
    /// No bytes in either direction for so long end it. Zero: never.
    pub idle: Duration,
}

impl Rules {
    /// For whoever makes the WebSocket.
    pub fn config(&self) -> WebSocketConfig {
        WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            // Each message goes out at once, and the next is not read before.
            .write_buffer_size(0)
            .max_write_buffer_size(4 * PIECE)
            .max_message_size(Some(self.max_message))
            .max_frame_size(Some(self.max_message))
    }
}

/// Why this end leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// What it leads to is gone, or it has lasted for as long as it may.
    Away(&'static str),
    /// The process ends; another one may serve the peer in a moment.
    Restart,
}

/// How it ended.
#[derive(Debug)]
pub enum Ended {
    /// The bytes had come to their end; in both directions, where that can be said.
    Closed,
    /// The peer closed the WebSocket, with this code (1005: none) and reason.
    ByPeer(u16, String),
    /// No bytes for as long as is allowed.
    Idle,
    /// A ping was not answered.
    Silent,
    Left(Leave),
    /// The peer said what it may not say; the code that it is told (RFC 6455 section 7.4.1).
    Refused(u16, String),
    /// The WebSocket broke off without being closed.
    SocketBroken(io::Error),
    /// The bytes broke off.
    BytesBroken(io::Error),
}

impl Ended {
    /// What the peer is told; nothing, when there is nobody to tell.
    fn frame(&self) -> Option<CloseFrame> {
        let (code, reason) = match self {
            Self::Closed => (CloseCode::Normal, ""),
            Self::Idle => (CloseCode::Away, "idle"),
            Self::Left(Leave::Away(why)) => (CloseCode::Away, *why),
            Self::Left(Leave::Restart) => (CloseCode::Restart, "restarting"),
            Self::Refused(code, reason) => (CloseCode::from(*code), reason.as_str()),
            Self::BytesBroken(_) => (CloseCode::Error, "connection lost"),
            Self::ByPeer(..) | Self::Silent | Self::SocketBroken(_) => return None,
        };
        Some(CloseFrame {
            code,
            reason: reason.into(),
        })
    }
}

/// What the two directions know of each other.
struct Shared {
    rules: Rules,
    /// When bytes moved.
    moved: Cell<Instant>,
    /// The bytes have ended, and the peer knows.
    sent_all: Cell<bool>,
    /// The peer's have.
    received_all: Cell<bool>,
    ping: Notify,
    /// When a ping went out that nothing was heard after.
    pinged: Cell<Option<Instant>>,
}

/// Joins `socket` to `bytes` until one of them ends, `leave` says so, or a limit of `rules` is
/// reached. `moved` is told of bytes sent in messages and received in them.
///
/// Must be polled on a thread whose runtime has timers.
pub async fn join<W, B>(
    socket: WebSocketStream<W>,
    bytes: B,
    rules: Rules,
    leave: impl Future<Output = Leave>,
    moved: impl Fn(u64, u64),
) -> Ended
where
    W: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite,
{
    let (mut sink, mut stream) = socket.split();
    let (mut read, mut write) = tokio::io::split(bytes);
    let shared = Shared {
        rules,
        moved: Cell::new(Instant::now()),
        sent_all: Cell::default(),
        received_all: Cell::default(),
        ping: Notify::new(),
        pinged: Cell::default(),
    };
    let ended = {
        let sending = pin!(send(&mut sink, &mut read, &shared, |n| moved(n, 0)));
        let receiving = pin!(receive(&mut stream, &mut write, &shared, |n| moved(0, n)));
        let both = async {
            match select(sending, receiving).await {
                Either::Left((ended, _)) | Either::Right((ended, _)) => ended,
            }
        };
        tokio::select! {
            biased;
            ended = both => ended,
            leave = leave => Ended::Left(leave),
            () = idle(&shared) => Ended::Idle,
        }
    };
    let gone = matches!(ended, Ended::Silent | Ended::SocketBroken(_));
    let goodbye = async {
        if gone {
            return;
        }
        if let Some(frame) = ended.frame() {
            sink.send(Message::Close(Some(frame))).await.ok();
        }
        // Until the peer has answered, or our answer is out. What it still says has nowhere to go.
        while let Some(Ok(_)) = stream.next().await {}
        if let (Ended::Refused(..), Ok(socket)) = (&ended, sink.reunite(stream)) {
            linger(socket.into_inner()).await;
        }
    };
    // Who closed has said all it had to say, and all of that was passed on.
    let shut = async { write.shutdown().await.ok() };
    tokio::select! {
        _ = async { tokio::join!(goodbye, shut) } => {}
        () = Deadline::after(CLOSING) => tracing::debug!("deadline \"websocket closing\" fired"),
    }
    ended
}

/// Takes what a peer still sends, which would otherwise be answered with a reset, and that might
/// overtake the closing frame.
async fn linger(mut io: impl AsyncRead + AsyncWrite + Unpin) {
    io.shutdown().await.ok();
    let rest = async { while let Ok(1..) = piece(&mut io).await.map(|piece| piece.len()) {} };
    tokio::select! {
        () = rest => {}
        () = Deadline::after(LINGER) => {}
    }
}

/// Bytes to messages.
async fn send<W, R>(
    sink: &mut SplitSink<WebSocketStream<W>, Message>,
    read: &mut R,
    shared: &Shared,
    moved: impl Fn(u64),
) -> Ended
where
    W: AsyncRead + AsyncWrite + Unpin,
    R: AsyncRead + Unpin,
{
    loop {
        let piece = tokio::select! {
            biased;
            () = shared.ping.notified() => None,
            piece = piece(read), if !shared.sent_all.get() => Some(piece),
        };
        let message = match piece {
            None => Message::Ping(Bytes::new()),
            Some(Err(error)) => return Ended::BytesBroken(error),
            Some(Ok(piece)) => {
                if piece.is_empty() {
                    if shared.rules.dialect == Dialect::Binary {
                        return Ended::Closed;
                    }
                    shared.sent_all.set(true);
                }
                Message::Binary(piece)
            }
        };
        let (ping, length) = (message.is_ping(), message.len());
        if let Err(error) = sink.send(message).await {
            return broken(error);
        }
        if ping {
            shared.pinged.set(Some(Instant::now()));
            continue;
        }
        shared.moved.set(Instant::now());
        moved(length as u64);
        if shared.sent_all.get() && shared.received_all.get() {
            return Ended::Closed;
        }
    }
}

/// What is there to read; empty at the end.
async fn piece(read: &mut (impl AsyncRead + Unpin)) -> io::Result<Bytes> {
    std::future::poll_fn(|cx| {
        BUFFER.with_borrow_mut(|buffer| {
            buffer.resize(PIECE, 0);
            let mut space = tokio::io::ReadBuf::new(buffer);
            std::task::ready!(std::pin::Pin::new(&mut *read).poll_read(cx, &mut space))?;
            Ok(Bytes::copy_from_slice(space.filled())).into()
        })
    })
    .await
}

/// Messages to bytes.
async fn receive<W, B>(
    stream: &mut SplitStream<WebSocketStream<W>>,
    write: &mut B,
    shared: &Shared,
    moved: impl Fn(u64),
) -> Ended
where
    W: AsyncRead + AsyncWrite + Unpin,
    B: AsyncWrite + Unpin,
{
    let mut silence = Deadline::after(shared.rules.ping);
    let mut heard = Instant::now();
    loop {
        let message = tokio::select! {
            biased;
            message = stream.next() => message,
            () = &mut silence => {
                let ping = shared.rules.ping;
                let pinged = shared.pinged.get();
                // A ping stands behind what was sent before it; as long as more is taken, the peer
                // is still reading its way to it.
                let since = pinged.map_or(heard, |at| at.max(shared.moved.get()));
                let left = ping.checked_sub(since.elapsed());
                match left.filter(|left| !left.is_zero()) {
                    Some(left) => silence.reset(left),
                    None if pinged.is_some() => return Ended::Silent,
                    // While the peer does not take what it is sent, no ping gets through to it, and
                    // it is not to be blamed for that.
                    None => {
                        shared.ping.notify_one();
                        silence.reset(ping);
                    }
                }
                continue;
            }
        };
        heard = Instant::now();
        shared.pinged.set(None);
        let data = match message {
            None => return broken(Error::ConnectionClosed),
            Some(Err(error)) => return broken(error),
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
            Some(Ok(Message::Close(frame))) => {
                let told = frame.map(|frame| (frame.code.into(), frame.reason.to_string()));
                let (code, reason) = told.unwrap_or((CloseCode::Status.into(), String::new()));
                return Ended::ByPeer(code, reason);
            }
            Some(Ok(Message::Text(_))) => {
                let code = CloseCode::Unsupported.into();
                return Ended::Refused(code, "binary messages only".to_owned());
            }
            Some(Ok(Message::Binary(data))) => data,
        };
        let half_close = shared.rules.dialect == Dialect::HalfClose;
        if shared.received_all.get() {
            let code = CloseCode::Protocol.into();
            return Ended::Refused(code, "data after its end".to_owned());
        }
        let written = async {
            if data.is_empty() && half_close {
                return write.shutdown().await;
            }
            write.write_all(&data).await?;
            // What is below may hold encrypted bytes back.
            write.flush().await
        };
        if let Err(error) = written.await {
            return Ended::BytesBroken(error);
        }
        shared.moved.set(Instant::now());
        moved(data.len() as u64);
        // The time that the bytes took to be taken was not the peer's.
        heard = Instant::now();
        if data.is_empty() && half_close {
            shared.received_all.set(true);
            if shared.sent_all.get() {
                return Ended::Closed;
            }
        }
    }
}

/// How an error of the WebSocket ends it.
fn broken(error: Error) -> Ended {
    match error {
        Error::Capacity(CapacityError::MessageTooLong { max_size, .. }) => {
            let reason = format!("messages of up to {max_size} bytes only");
            Ended::Refused(CloseCode::Size.into(), reason)
        }
        Error::Capacity(_) => Ended::Refused(CloseCode::Size.into(), "too large".to_owned()),
        // It has no connection any more, so there is nobody to tell of it.
        Error::Protocol(
            tokio_tungstenite::tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
        )
        | Error::ConnectionClosed
        | Error::AlreadyClosed => Ended::SocketBroken(io::ErrorKind::UnexpectedEof.into()),
        Error::Protocol(why) => Ended::Refused(CloseCode::Protocol.into(), why.to_string()),
        Error::Utf8(why) => Ended::Refused(CloseCode::Invalid.into(), why),
        Error::Io(error) => Ended::SocketBroken(error),
        other => Ended::SocketBroken(io::Error::other(other)),
    }
}

/// Resolves once no bytes have moved for as long as is allowed.
async fn idle(shared: &Shared) {
    let limit = shared.rules.idle;
    let mut deadline = Deadline::after(limit);
    loop {
        (&mut deadline).await;
        match limit.checked_sub(shared.moved.get().elapsed()) {
            Some(left) if !left.is_zero() => deadline.reset(left),
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests;
