//! A task that reads a connection is spared a turn at the end of each response.
//!
//! hyper wakes that task whenever a piece of a body is taken from it, so that it reads the next
//! one; also when the piece was the last, and it has been done with the response for long. The turn
//! finds nothing to do, and costs as much as a twentieth of a request.

use std::cell::Cell;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use http_body::{Body, Frame};

use crate::net::{Incoming, WireError};

thread_local! {
    static HELD: Cell<Held> = const { Cell::new(Held::Off) };
}

/// What becomes of a task's wakes.
enum Held {
    /// They wake it.
    Off,
    /// They wait for a verdict; none has come.
    On,
    Woken(Waker),
}

/// Passes wakes on, unless they are held up on this thread.
struct Through(Waker);

impl Wake for Through {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        match HELD.replace(Held::Off) {
            Held::Off => self.0.wake_by_ref(),
            Held::On | Held::Woken(_) => HELD.set(Held::Woken(self.0.clone())),
        }
    }
}

/// Runs a connection of HTTP/1 whose bodies are read by [`poll_frame`].
pub(super) async fn spared<F: Future>(connection: F) -> F::Output {
    let mut connection = std::pin::pin!(connection);
    let mut through: Option<(Waker, Arc<Through>)> = None;
    std::future::poll_fn(|cx| {
        // A task has one waker all its life; another one is followed all the same.
        let (waker, _) = match &mut through {
            Some(known) if known.1.0.will_wake(cx.waker()) => known,
            other => {
                let new = Arc::new(Through(cx.waker().clone()));
                other.insert((Waker::from(Arc::clone(&new)), new))
            }
        };
        connection.as_mut().poll(&mut Context::from_waker(waker))
    })
    .await
}

/// The next frame of an upstream's body. Who reads the connection is not woken when it was the last:
/// it has seen the end of the response when it handed the piece over.
pub fn poll_frame(
    body: &mut Incoming,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, WireError>>> {
    match body {
        Incoming::Http1(body) => poll_http1(body, cx).map_err(WireError::Http1),
        Incoming::Http2(_) => Pin::new(body).poll_frame(cx),
    }
}

fn poll_http1(
    body: &mut hyper::body::Incoming,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
    let _held_up = HeldUp::begin();
    let frame = Pin::new(&mut *body).poll_frame(cx);
    if body.is_end_stream() {
        HELD.set(Held::Off);
    }
    frame
}

/// Lets go of what it holds up, also when a panic ends it: a wake that is lost would hang a connection.
struct HeldUp;

impl HeldUp {
    fn begin() -> Self {
        HELD.set(Held::On);
        Self
    }
}

impl Drop for HeldUp {
    fn drop(&mut self) {
        if let Held::Woken(waker) = HELD.replace(Held::Off) {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::time::Duration;

    use http_body_util::{BodyExt as _, Empty};
    use hyper::Request;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Asks twice on one connection, which answers in these pieces; the bodies, and how many turns the
    /// connection's task took for the second.
    async fn ask(pieces: &'static [&'static str]) -> (Vec<String>, u32) {
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(TokioIo::new(ours))
                .await
                .unwrap();
        let turns = Rc::new(Cell::new(0));
        let counted = Rc::clone(&turns);
        tokio::task::spawn_local(async move {
            let mut connection = std::pin::pin!(connection);
            let counting = std::future::poll_fn(move |cx| {
                counted.set(counted.get() + 1);
                connection.as_mut().poll(cx)
            });
            spared(counting).await.ok();
        });
        tokio::task::spawn_local(async move {
            let mut head = [0; 1024];
            loop {
                match theirs.read(&mut head).await {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {}
                }
                for piece in pieces {
                    theirs.write_all(piece.as_bytes()).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        });
        let mut bodies = Vec::new();
        let mut before = 0;
        for _ in 0..2 {
            before = turns.get();
            sender.ready().await.unwrap();
            let response = sender.send_request(Request::new(Empty::new())).await;
            let mut body = response.unwrap().into_body();
            let mut read = Vec::new();
            while !body.is_end_stream()
                && let Some(frame) = std::future::poll_fn(|cx| poll_http1(&mut body, cx)).await
            {
                read.extend_from_slice(&frame.unwrap().into_data().unwrap_or_default());
            }
            let rest = body.collect().await.unwrap().to_bytes();
            assert!(rest.is_empty());
            bodies.push(String::from_utf8(read).unwrap());
            // Whatever was woken has its turn.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        (bodies, turns.get() - before)
    }

    fn on_a_thread<T>(test: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, test)
    }

    #[test]
    fn the_last_piece_of_a_body_takes_no_turn() {
        let whole = &["HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc"];
        let (bodies, turns) = on_a_thread(ask(whole));
        assert_eq!(bodies, ["abc", "abc"]);
        assert_eq!(turns, 2, "one to ask, one to read the answer");
    }

    #[test]
    fn a_panic_holds_nothing_up() {
        struct Woken(std::sync::atomic::AtomicBool);
        impl Wake for Woken {
            fn wake(self: Arc<Self>) {
                self.0.store(true, std::sync::atomic::Ordering::Relaxed);
            }
        }
        let woken = Arc::new(Woken(false.into()));
        let through = Waker::from(Arc::new(Through(Waker::from(Arc::clone(&woken)))));
        let panicked = std::panic::catch_unwind(|| {
            let _held_up = HeldUp::begin();
            through.wake_by_ref();
            panic!("as a body might");
        });
        assert!(panicked.is_err());
        assert!(woken.0.load(std::sync::atomic::Ordering::Relaxed));
        assert!(matches!(HELD.replace(Held::Off), Held::Off));
    }

    #[test]
    fn bodies_in_pieces_arrive_whole_and_connections_go_on() {
        for pieces in [
            &[
                "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\na",
                "b",
                "c",
                "d",
            ][..],
            &["HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n", "abcd"],
            &[
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n",
                "1\r\nc\r\n",
                "1\r\nd\r\n0\r\n\r\n",
            ],
            &[
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nabcd\r\n",
                "0\r\n",
                "\r\n",
            ],
        ] {
            let (bodies, _) = on_a_thread(ask(pieces));
            assert_eq!(bodies, ["abcd", "abcd"], "{pieces:?}");
        }
    }
}
