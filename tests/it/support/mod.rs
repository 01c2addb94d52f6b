//! What the tests stand on: an application, clients, and origins that behave as told.

pub mod app;
pub mod bootstrap;
pub mod circuit;
pub mod client;
#[path = "../../../examples/fake_coordinator/coordinator.rs"]
pub mod coordinator;
pub mod origin;
pub mod pebble;
pub mod process;
pub mod raw;
#[path = "../../../examples/fake_coordinator/redis.rs"]
pub mod redis;
pub mod ws;
pub mod zone;

use std::future::Future;
use std::time::{Duration, Instant};

/// No healthy run needs nearly as long, and a machine under load must not fail a test.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// How long to look before saying that something did not happen.
pub const A_MOMENT: Duration = Duration::from_millis(150);

/// What `x-forwarded-for` tells of a client on this machine.
pub fn own_address() -> String {
    let own = causeway::net::own_address();
    own.map_or("127.0.0.1".to_owned(), |ip| ip.to_string())
}

/// Bytes of which no run looks like another one nearby.
pub fn pattern(length: usize) -> Vec<u8> {
    (0..length)
        .map(|i| (i ^ (i >> 8) ^ (i >> 16)).to_le_bytes()[0])
        .collect()
}

/// Waits until `condition` holds.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let start = Instant::now();
        while !condition() {
            assert!(
                start.elapsed() < DEADLINE,
                "{caller}: never happened: {what}"
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// Runs `future` to its end, which has to come.
#[track_caller]
pub fn within<F: Future>(what: &str, future: F) -> impl Future<Output = F::Output> {
    let caller = std::panic::Location::caller();
    async move {
        match tokio::time::timeout(DEADLINE, future).await {
            Ok(output) => output,
            Err(_) => panic!("{caller}: took too long: {what}"),
        }
    }
}

/// Echoes bytes; ends its side when the client has ended its own.
pub async fn tcp_echo() -> origin::Origin {
    origin::Origin::tcp(|mut stream| async move {
        let (mut read, mut write) = stream.split();
        tokio::io::copy(&mut read, &mut write).await.ok();
        tokio::io::AsyncWriteExt::shutdown(&mut write).await.ok();
    })
    .await
}

/// An address that refuses connections for as long as the socket is kept: bound, so that nobody
/// else gets the port, and not listening.
pub fn refusing() -> (socket2::Socket, std::net::SocketAddr) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any: std::net::SocketAddr = ([127, 0, 0, 1], 0).into();
    socket.bind(&any.into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

/// An address at which connections hang while it is kept: its queue is full, and nobody accepts.
pub struct Hanging {
    pub address: std::net::SocketAddr,
    _kept: (tokio::net::TcpListener, Vec<tokio::net::TcpStream>),
}

impl Hanging {
    pub async fn start() -> Self {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queued = Vec::new();
        // The system has the last word on how long the queue is.
        while let Ok(stream) =
            tokio::time::timeout(A_MOMENT, tokio::net::TcpStream::connect(address)).await
        {
            queued.push(stream.unwrap());
            assert!(queued.len() < 64, "the queue has no end");
        }
        Self {
            address,
            _kept: (listener, queued),
        }
    }
}
