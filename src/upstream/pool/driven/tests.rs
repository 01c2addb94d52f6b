use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::task::{JoinHandle, spawn_local};

use super::*;

struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    driven: Driven,
    /// Of its task.
    turns: Rc<Cell<u32>>,
    task: JoinHandle<()>,
}

async fn connected() -> (Connection, DuplexStream) {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let (sender, codec) = handshake(TokioIo::new(ours)).await.unwrap();
    let (mut task, driven) = drive(codec);
    let turns = Rc::new(Cell::new(0));
    let counted = Rc::clone(&turns);
    let task = spawn_local(async move {
        let counting = std::future::poll_fn(|cx| {
            counted.set(counted.get() + 1);
            Pin::new(&mut task).poll(cx)
        });
        counting.await.ok();
    });
    let connection = Connection {
        sender,
        driven,
        turns,
        task,
    };
    (connection, theirs)
}

impl Connection {
    /// The answer, and how many turns whoever waits for it had.
    async fn ask(&mut self) -> (hyper::Result<Response<Incoming>>, u32) {
        self.sender.ready().await.unwrap();
        let sender = &mut self.sender;
        let asking = self
            .driven
            .ask(|| sender.send_request(Request::new(Empty::new())));
        let mut asking = Box::pin(asking);
        let mut turns = 0;
        let counting = std::future::poll_fn(|cx| {
            turns += 1;
            asking.as_mut().poll(cx)
        });
        let answer = counting.await;
        (answer, turns)
    }
}

/// Reads a request, and answers in these pieces.
async fn answer(theirs: &mut DuplexStream, pieces: &[&str]) {
    assert_ne!(theirs.read(&mut [0; 1024]).await.unwrap(), 0);
    for piece in pieces {
        theirs.write_all(piece.as_bytes()).await.unwrap();
        settled().await;
    }
}

/// Whatever was woken has its turn.
async fn settled() {
    tokio::time::sleep(Duration::from_millis(5)).await;
}

async fn read(mut body: Incoming) -> String {
    let mut read = Vec::new();
    while !body.is_end_stream()
        && let Some(frame) = std::future::poll_fn(|cx| poll_frame(&mut body, cx)).await
    {
        read.extend_from_slice(&frame.unwrap().into_data().unwrap_or_default());
    }
    let rest = body.collect().await.unwrap().to_bytes();
    assert!(rest.is_empty());
    String::from_utf8(read).unwrap()
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
fn a_request_needs_no_turn_of_the_connections_task() {
    let whole = ["HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc"];
    on_a_thread(async {
        let (mut connection, mut theirs) = connected().await;
        spawn_local(async move {
            for _ in 0..4 {
                answer(&mut theirs, &whole).await;
            }
            std::future::pending::<()>().await;
        });
        let mut before = 0;
        for n in 0..4 {
            let (response, turns) = connection.ask().await;
            assert_eq!(turns, 2, "one to ask, one to read the answer");
            assert_eq!(read(response.unwrap().into_body()).await, "abc");
            settled().await;
            let now = connection.turns.get();
            assert!(n == 0 || now == before, "{now} turns after {before}");
            before = now;
        }
    });
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
        on_a_thread(async {
            let (mut connection, mut theirs) = connected().await;
            spawn_local(async move {
                for _ in 0..3 {
                    answer(&mut theirs, pieces).await;
                }
                std::future::pending::<()>().await;
            });
            for _ in 0..3 {
                let (response, _) = connection.ask().await;
                let body = read(response.unwrap().into_body()).await;
                assert_eq!(body, "abcd", "{pieces:?}");
            }
        });
    }
}

#[test]
fn whoever_waits_for_an_answer_learns_that_the_connection_was_cut() {
    on_a_thread(async {
        let (mut connection, mut theirs) = connected().await;
        let task = connection.task.abort_handle();
        spawn_local(async move {
            answer(&mut theirs, &[]).await;
            task.abort();
            std::future::pending::<()>().await;
        });
        let (response, _) = connection.ask().await;
        response.unwrap_err();
    });
}

#[test]
fn a_connection_ends_with_a_request_that_is_given_up() {
    on_a_thread(async {
        let (mut connection, mut theirs) = connected().await;
        let asked = tokio::time::timeout(Duration::from_millis(10), connection.ask()).await;
        asked.map(|_| ()).unwrap_err();
        connection.task.await.unwrap();
        // The request, and then the end.
        let mut seen = Vec::new();
        theirs.read_to_end(&mut seen).await.unwrap();
        assert!(seen.starts_with(b"GET "));
    });
}

#[test]
fn the_end_of_a_connection_is_noticed_while_it_waits() {
    on_a_thread(async {
        let (mut connection, mut theirs) = connected().await;
        let other = spawn_local(async move {
            answer(&mut theirs, &["HTTP/1.1 204 No Content\r\n\r\n"]).await;
        });
        connection.ask().await.0.unwrap();
        other.await.unwrap();
        connection.task.await.unwrap();
        assert!(connection.sender.is_closed());
    });
}

#[test]
fn an_answer_that_ends_the_connection_ends_its_task() {
    on_a_thread(async {
        let (mut connection, mut theirs) = connected().await;
        spawn_local(async move {
            let last = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok";
            answer(&mut theirs, &[last]).await;
            std::future::pending::<()>().await;
        });
        let (response, _) = connection.ask().await;
        assert_eq!(read(response.unwrap().into_body()).await, "ok");
        connection.task.await.unwrap();
    });
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Relaxed);
    }
}

/// The codec's waker of a connection whose task is the other one.
fn watched() -> (Waker, Arc<Woken>) {
    let wakes = Arc::<Wakes>::default();
    let woken = Arc::new(Woken(false.into()));
    wakes.task.register(&Waker::from(Arc::clone(&woken)));
    (Waker::from(wakes), woken)
}

#[test]
fn a_panic_holds_nothing_up() {
    let (codec, woken) = watched();
    let panicked = std::panic::catch_unwind(|| {
        let _held_up = HeldUp::begin();
        codec.wake_by_ref();
        panic!("as a body might");
    });
    assert!(panicked.is_err());
    assert!(woken.0.load(Relaxed));
    assert!(matches!(HELD.replace(Held::Off), Held::Off));
}

#[test]
fn what_is_held_up_within_something_else_is_told_apart() {
    let (first, first_woken) = watched();
    let (second, second_woken) = watched();
    let outer = HeldUp::begin();
    first.wake_by_ref();
    let inner = HeldUp::begin();
    second.wake_by_ref();
    assert!(inner.forget());
    assert!(outer.forget());
    assert!(!first_woken.0.load(Relaxed) && !second_woken.0.load(Relaxed));

    let outer = HeldUp::begin();
    first.wake_by_ref();
    second.wake_by_ref();
    assert!(first_woken.0.load(Relaxed), "there is room for one");
    drop(outer);
    assert!(second_woken.0.load(Relaxed));
}
