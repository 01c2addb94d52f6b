//! Moving bytes between two sockets inside the kernel.
//!
//! A bulk transfer in clear text need not pass through our memory: `splice(2)` moves pages from one
//! socket to a pipe and from there to the other, for a quarter of the cost. A pipe is two
//! descriptors and up to a megabyte of the kernel's memory, so a tunnel has one only while it moves
//! much; each thread keeps a few for the next.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// What a pipe should hold: the most that the kernel gives to anybody by default.
const CAPACITY: usize = 1024 * 1024;
/// Pipes that a thread keeps although nobody uses them.
const KEPT: usize = 8;

thread_local! {
    static FREE: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

/// A pipe, and how many bytes are in it.
#[derive(Debug)]
pub struct Pipe {
    output: OwnedFd,
    input: OwnedFd,
    held: usize,
}

/// What a look at the source has shown.
#[derive(Debug, PartialEq, Eq)]
pub enum Filled {
    /// So many bytes are in the pipe now.
    Bytes(usize),
    /// The source sends nothing more.
    End,
}

impl Pipe {
    /// An empty one. `None`: the process or the machine has none left, and bytes have to be copied.
    pub fn take() -> Option<Self> {
        let kept = FREE.with_borrow_mut(Vec::pop);
        kept.or_else(|| {
            let (output, input) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
            // An account that has many large pipes gets small ones, which do as well.
            fcntl_setpipe_size(&input, CAPACITY).ok();
            Some(Self {
                output,
                input,
                held: 0,
            })
        })
    }

    /// For the next tunnel of this thread. One that is not empty is closed, with what is in it.
    pub fn give_back(self) {
        if self.held > 0 {
            return;
        }
        // At thread exit the others may be gone already.
        FREE.try_with(|free| {
            if let Ok(mut free) = free.try_borrow_mut()
                && free.len() < KEPT
            {
                free.push(self);
            }
        })
        .ok();
    }

    /// Takes what `from` has. Call it when the pipe is empty, or a full pipe would look like a
    /// silent source.
    ///
    /// # Errors
    /// Those of reading from `from`.
    pub fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
    ) -> Poll<io::Result<Filled>> {
        loop {
            ready!(from.poll_read_ready(cx))?;
            let moved = from.try_io(Interest::READABLE, || {
                Ok(splice(from, None, &self.input, None, CAPACITY, flags())?)
            });
            match moved {
                Ok(0) => return Poll::Ready(Ok(Filled::End)),
                Ok(n) => {
                    self.held += n;
                    return Poll::Ready(Ok(Filled::Bytes(n)));
                }
                // The readiness was of the past, and is forgotten now.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Gives all it holds to `to`, and tells `moved` of every piece.
    ///
    /// # Errors
    /// Those of writing to `to`.
    pub fn poll_drain(
        &mut self,
        cx: &mut Context<'_>,
        to: &TcpStream,
        mut moved: impl FnMut(u64),
    ) -> Poll<io::Result<()>> {
        while self.held > 0 {
            ready!(to.poll_write_ready(cx))?;
            let given = to.try_io(Interest::WRITABLE, || {
                Ok(splice(&self.output, None, to, None, self.held, flags())?)
            });
            match given {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(n) => {
                    self.held -= n;
                    moved(n as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

fn flags() -> SpliceFlags {
    SpliceFlags::NONBLOCK | SpliceFlags::MOVE
}

/// How many pipes this thread has for others.
#[cfg(test)]
pub fn pipes_kept() -> usize {
    FREE.with_borrow(Vec::len)
}
