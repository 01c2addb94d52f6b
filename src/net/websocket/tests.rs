use tokio::io::{AsyncReadExt as _, DuplexStream, duplex};
use tokio::task::{LocalSet, spawn_local};
use tokio_tungstenite::tungstenite::protocol::Role;

use super::*;

const RULES: Rules = Rules {
    dialect: Dialect::HalfClose,
    max_message: 1000,
    ping: Duration::ZERO,
    idle: Duration::ZERO,
};

/// Both peers of a joined connection, and how it ends.
struct World {
    client: WebSocketStream<DuplexStream>,
    app: DuplexStream,
    ended: tokio::task::JoinHandle<Ended>,
}

async fn world(rules: Rules, leave: impl Future<Output = Leave> + 'static) -> World {
    let (near, far) = duplex(4096);
    let (bytes, app) = duplex(4096);
    let config = Some(rules.config());
    let socket = WebSocketStream::from_raw_socket(near, Role::Server, config).await;
    let client = WebSocketStream::from_raw_socket(far, Role::Client, None).await;
    let ended = spawn_local(join(socket, bytes, rules, leave, |_, _| ()));
    World { client, app, ended }
}

fn binary(data: &'static [u8]) -> Message {
    Message::binary(data)
}

/// The code and the reason that a client is told.
async fn told(client: &mut WebSocketStream<DuplexStream>) -> Option<(u16, String)> {
    while let Some(Ok(message)) = client.next().await {
        if let Message::Close(frame) = message {
            return frame.map(|frame| (frame.code.into(), frame.reason.to_string()));
        }
    }
    None
}

/// Runs on one thread, as data threads do.
async fn local(test: impl Future<Output = ()>) {
    LocalSet::new().run_until(test).await;
}

#[test]
fn the_better_subprotocol_is_chosen() {
    let choose = |offered: &[&str]| Dialect::choose(offered.iter().copied());
    assert_eq!(
        choose(&["binary", "v1.tunnel.causeway"]),
        Some(Dialect::HalfClose)
    );
    assert_eq!(choose(&["base64", "binary"]), Some(Dialect::Binary));
    assert_eq!(choose(&["base64"]), None);
    assert_eq!(choose(&[]), None);
}

#[tokio::test(start_paused = true)]
async fn each_direction_ends_by_itself() {
    local(async {
        let mut world = world(RULES, std::future::pending()).await;
        world.client.send(binary(b"question")).await.unwrap();
        world.client.send(binary(b"")).await.unwrap();
        let mut question = String::new();
        // Only returns at the end.
        world.app.read_to_string(&mut question).await.unwrap();
        assert_eq!(question, "question");
        world.app.write_all(b"answer").await.unwrap();
        world.app.shutdown().await.unwrap();
        assert_eq!(
            world.client.next().await.unwrap().unwrap(),
            binary(b"answer")
        );
        assert_eq!(world.client.next().await.unwrap().unwrap(), binary(b""));
        assert_eq!(told(&mut world.client).await, Some((1000, String::new())));
        assert!(matches!(world.ended.await.unwrap(), Ended::Closed));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_a_client_may_not_say_is_told_it() {
    let cases: [(&[Message], u16); 4] = [
        (&[Message::text("text")], 1003),
        (&[Message::binary(vec![0; 1001])], 1009),
        (&[Message::binary(Bytes::new()), Message::binary("x")], 1002),
        // 1000 is as much as there may be.
        (&[Message::binary(vec![0; 1000]), Message::text("")], 1003),
    ];
    for (messages, code) in cases {
        local(async {
            let mut world = world(RULES, std::future::pending()).await;
            for message in messages {
                world.client.send(message.clone()).await.unwrap();
            }
            let told = told(&mut world.client).await.map(|(code, _)| code);
            assert_eq!(told, Some(code), "{messages:?}");
            assert!(matches!(world.ended.await.unwrap(), Ended::Refused(c, _) if c == code));
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_empty_message_is_nothing_to_whoever_knows_no_half_close() {
    local(async {
        let rules = Rules {
            dialect: Dialect::Binary,
            ..RULES
        };
        let mut world = world(rules, std::future::pending()).await;
        world.client.send(binary(b"")).await.unwrap();
        world.client.send(binary(b"x")).await.unwrap();
        let mut one = [0];
        world.app.read_exact(&mut one).await.unwrap();
        drop(world.app);
        assert_eq!(told(&mut world.client).await, Some((1000, String::new())));
        assert!(matches!(world.ended.await.unwrap(), Ended::Closed));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_asked_and_then_given_up() {
    local(async {
        let ping = Duration::from_secs(30);
        let mut world = world(Rules { ping, ..RULES }, std::future::pending()).await;
        // Who answers stays: reading is what answers pings.
        for _ in 0..5 {
            assert_eq!(
                world.client.next().await.unwrap().unwrap(),
                Message::Ping(Bytes::new())
            );
            world.client.flush().await.unwrap();
        }
        assert!(!world.ended.is_finished());
        let started = tokio::time::Instant::now();
        assert!(matches!(world.ended.await.unwrap(), Ended::Silent));
        assert!(started.elapsed() <= 3 * ping, "{:?}", started.elapsed());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn bytes_that_are_taken_count_as_life() {
    local(async {
        let ping = Duration::from_secs(30);
        let mut world = world(Rules { ping, ..RULES }, std::future::pending()).await;
        // It answers no ping: what it takes is all that tells of it.
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_secs(20)).await;
            world.app.write_all(b"x").await.unwrap();
        }
        assert!(!world.ended.is_finished());
        let started = tokio::time::Instant::now();
        assert!(matches!(world.ended.await.unwrap(), Ended::Silent));
        assert!(started.elapsed() <= 3 * ping, "{:?}", started.elapsed());
    })
    .await;
}

/// Its pings would stand behind what it does not take, so it cannot have heard them.
#[tokio::test(start_paused = true)]
async fn a_client_that_reads_slowly_is_not_taken_for_a_dead_one() {
    local(async {
        let ping = Duration::from_secs(30);
        let mut world = world(Rules { ping, ..RULES }, std::future::pending()).await;
        let writing = spawn_local(async move {
            world.app.write_all(&[7; 100_000]).await.unwrap();
            world.app
        });
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert!(!world.ended.is_finished());
        assert!(
            !writing.is_finished(),
            "more was taken than there is room for"
        );
        let mut count = 0;
        while count < 100_000 {
            if let Message::Binary(data) = world.client.next().await.unwrap().unwrap() {
                assert!(data.iter().all(|byte| *byte == 7));
                count += data.len();
            }
        }
        assert!(!world.ended.is_finished());
        drop(writing.await.unwrap());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn only_bytes_keep_it_from_being_idle() {
    local(async {
        let idle = Duration::from_secs(60);
        let mut world = world(Rules { idle, ..RULES }, std::future::pending()).await;
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_secs(40)).await;
            world.client.send(binary(b"x")).await.unwrap();
        }
        tokio::time::sleep(Duration::from_secs(40)).await;
        world
            .client
            .send(Message::Ping(Bytes::new()))
            .await
            .unwrap();
        let code = told(&mut world.client).await;
        assert_eq!(code, Some((1001, "idle".to_owned())));
        assert!(matches!(world.ended.await.unwrap(), Ended::Idle));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn whoever_is_left_is_told_why() {
    for (leave, code, reason) in [
        (Leave::Restart, 1012, "restarting"),
        (Leave::Away("gone"), 1001, "gone"),
    ] {
        local(async {
            let mut world = world(RULES, std::future::ready(leave)).await;
            let expected = Some((code, reason.to_owned()));
            assert_eq!(told(&mut world.client).await, expected);
            let mut rest = Vec::new();
            // The application sees the end as well.
            world.app.read_to_end(&mut rest).await.unwrap();
            assert!(matches!(world.ended.await.unwrap(), Ended::Left(why) if why == leave));
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_close_is_answered_and_ends_the_bytes() {
    local(async {
        let mut world = world(RULES, std::future::pending()).await;
        world.client.send(binary(b"last")).await.unwrap();
        let frame = CloseFrame {
            code: CloseCode::Library(4321),
            reason: "enough".into(),
        };
        world.client.close(Some(frame)).await.unwrap();
        let mut rest = String::new();
        world.app.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "last");
        let answered = told(&mut world.client).await;
        assert_eq!(answered, Some((4321, "enough".to_owned())));
        let ended = world.ended.await.unwrap();
        assert!(matches!(ended, Ended::ByPeer(4321, reason) if reason == "enough"));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_vanishes_ends_the_bytes() {
    local(async {
        let mut world = world(RULES, std::future::pending()).await;
        drop(world.client);
        let mut rest = Vec::new();
        world.app.read_to_end(&mut rest).await.unwrap();
        assert!(matches!(world.ended.await.unwrap(), Ended::SocketBroken(_)));
    })
    .await;
}
