//! A connection that is lent to a codec, and comes back from it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The end that the codec has.
#[derive(Debug)]
pub struct Lent<W> {
    /// There until it goes back.
    io: Option<W>,
    loan: Arc<Loan<W>>,
}

/// The end of who lends it.
#[derive(Debug)]
pub struct Loan<W> {
    recalled: AtomicBool,
    back: Mutex<Option<W>>,
}

impl<W> Default for Loan<W> {
    fn default() -> Self {
        Self {
            recalled: AtomicBool::new(false),
            back: Mutex::new(None),
        }
    }
}

impl<W> Loan<W> {
    pub fn lend(self: &Arc<Self>, io: W) -> Lent<W> {
        self.recalled.store(false, Ordering::Relaxed);
        Lent {
            io: Some(io),
            loan: Arc::clone(self),
        }
    }

    /// From now on the codec can only let go of the connection, not end it.
    pub fn recall(&self) {
        self.recalled.store(true, Ordering::Relaxed);
    }

    fn is_recalled(&self) -> bool {
        self.recalled.load(Ordering::Relaxed)
    }

    /// What has come back. Nobody else waits for this lock: both ends are on one thread.
    pub fn back(&self) -> MutexGuard<'_, Option<W>> {
        self.back.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<W> Lent<W> {
    /// The connection, for who is not to give it back.
    ///
    /// # Errors
    /// Never while the codec has it.
    pub fn into_inner(mut self) -> Option<W> {
        self.io.take()
    }

    fn io(&mut self) -> io::Result<&mut W> {
        self.io
            .as_mut()
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl<W> Drop for Lent<W> {
    fn drop(&mut self) {
        if self.loan.is_recalled() {
            *self.loan.back() = self.io.take();
        }
    }
}

impl<W: AsyncRead + Unpin> AsyncRead for Lent<W> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(self.io()?).poll_read(cx, buf)
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Lent<W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.io()?).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.io()?).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.as_ref().is_some_and(W::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.io()?).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.loan.is_recalled() {
            true => Poll::Ready(Ok(())),
            false => Pin::new(self.io()?).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn what_is_recalled_comes_back_open_and_the_rest_ends() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let loan = Arc::new(Loan::default());
        let mut lent = loan.lend(ours);
        lent.write_all(b"one").await.unwrap();
        loan.recall();
        lent.shutdown().await.unwrap();
        drop(lent);
        let back = loan.back().take().expect("it comes back");
        let mut lent = loan.lend(back);
        lent.write_all(b"two").await.unwrap();
        drop(lent);
        assert!(loan.back().is_none(), "nobody asked for it");
        let mut heard = Vec::new();
        theirs.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"onetwo");
    }
}
