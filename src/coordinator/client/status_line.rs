//! A 25.x Coordinator writes the status line `HTTP/1.1 -1 ` for every error. No strict parser takes
//! that, and with it the reason would be lost, which says whether the secret is wrong or the worker
//! unknown. So the line is put right on its way in: `-1` becomes [`STAND_IN`].

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A status that nobody assigns.
pub const STAND_IN: u16 = 599;

/// As far as the line has to be seen: `HTTP/1.1 -1`.
const SEEN: usize = 11;

/// The connection of one call: only its first line is looked at.
#[derive(Debug)]
pub struct StatusLine<S> {
    stream: S,
    head: Vec<u8>,
    /// How much of `head` is handed on; only once it is complete.
    handed_on: usize,
    complete: bool,
}

impl<S> StatusLine<S> {
    pub const fn new(stream: S) -> Self {
        Self {
            stream,
            head: Vec::new(),
            handed_on: 0,
            complete: false,
        }
    }
}

impl<S: AsyncRead + Unpin> StatusLine<S> {
    /// Reads until the status is seen, or cannot come any more.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.complete {
            let mut space = [0; SEEN];
            let mut buf = ReadBuf::new(&mut space[self.head.len()..]);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf))?;
            let ended = buf.filled().is_empty();
            self.head.extend_from_slice(buf.filled());
            self.complete = ended || self.head.len() == SEEN;
        }
        if self.head.starts_with(b"HTTP/1.") && self.head.get(8..) == Some(b" -1") {
            self.head.truncate(9);
            self.head.extend_from_slice(STAND_IN.to_string().as_bytes());
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for StatusLine<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.complete {
            ready!(this.poll_head(cx))?;
        }
        let rest = &this.head[this.handed_on..];
        if rest.is_empty() {
            return Pin::new(&mut this.stream).poll_read(cx, buf);
        }
        let now = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..now]);
        this.handed_on += now;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for StatusLine<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// However the bytes arrive.
    async fn through(text: &[u8], at_once: usize) -> Vec<u8> {
        let (mut writer, reader) = tokio::io::duplex(at_once);
        let text = text.to_vec();
        let writing = tokio::spawn(async move {
            writer.write_all(&text).await.unwrap();
        });
        let mut read = Vec::new();
        StatusLine::new(reader)
            .read_to_end(&mut read)
            .await
            .unwrap();
        writing.await.unwrap();
        read
    }

    #[tokio::test]
    async fn only_the_invalid_status_is_replaced() {
        for (given, expected) in [
            (
                "HTTP/1.1 -1 \r\nx: -1\r\n\r\nb",
                "HTTP/1.1 599 \r\nx: -1\r\n\r\nb",
            ),
            ("HTTP/1.0 -1\r\n\r\n", "HTTP/1.0 599\r\n\r\n"),
            ("HTTP/1.1 200 OK\r\n\r\n-1", "HTTP/1.1 200 OK\r\n\r\n-1"),
            ("HTTP/1.1", "HTTP/1.1"),
            ("", ""),
            ("nonsense, and more of it", "nonsense, and more of it"),
        ] {
            for at_once in [1, 7, 1000] {
                let read = through(given.as_bytes(), at_once).await;
                assert_eq!(String::from_utf8_lossy(&read), expected);
            }
        }
    }
}
