//! Bodies: streamed, framed anew, and never shown as whole when they are not.

use super::{client, raw, serving};
use crate::support::client::{full, request};
use crate::support::origin::Origin;
use crate::support::raw::End;
use crate::support::within;

#[tokio::test]
async fn chunked_bodies_pass_both_ways() {
    let origin = Origin::http(|mut conn| async move {
        let head = conn.request().await.unwrap();
        let content = conn.content(&head).await.unwrap();
        assert_eq!(head.header("transfer-encoding"), "chunked");
        conn.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            .await;
        let text = String::from_utf8(content.data).unwrap();
        conn.send(format!(
            "{:x}\r\n{text}\r\n2;ext=1\r\n!!\r\n0\r\n\r\n",
            text.len()
        ))
        .await;
    })
    .await;
    let (app, host) = serving(&origin).await;
    let mut raw = raw(&app).await;
    raw.send(format!(
        "POST / HTTP/1.1\r\nhost: {host}\r\ntransfer-encoding: chunked\r\n\r\n"
    ))
    .await;
    raw.send("5\r\nhello\r\n0007;a=\"b\"\r\n, world\r\n0\r\n\r\n")
        .await;
    let answer = raw.answer().await;
    assert_eq!(answer.header("transfer-encoding"), "chunked");
    assert_eq!(answer.text(), "hello, world!!");
}

#[tokio::test]
async fn a_length_stays_a_length() {
    let origin = Origin::echo().await;
    let (app, host) = serving(&origin).await;
    let mut client = client(&app).await;
    let large = "x".repeat(1_000_000);
    let request = request("PUT", &host, "/")
        .body(full(large.clone()))
        .unwrap();
    let reply = client.send_body(request).await;
    assert_eq!(reply.json()["body"], large);
    assert_eq!(reply.header("content-length"), reply.body.len().to_string());
    assert_eq!(origin.requests()[0].header("content-length"), "1000000");
    assert_eq!(origin.requests()[0].header("transfer-encoding"), "");
}

#[tokio::test]
async fn pieces_of_a_response_arrive_as_they_are_made() {
    let (go, gone) = tokio::sync::mpsc::channel::<()>(1);
    let gone = std::sync::Arc::new(tokio::sync::Mutex::new(gone));
    let origin = Origin::http(move |mut conn| {
        let gone = std::sync::Arc::clone(&gone);
        async move {
            conn.request().await;
            conn.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
                .await;
            for i in 0..3 {
                conn.send(format!("6\r\ntick {i}\r\n")).await;
                gone.lock().await.recv().await;
            }
            conn.send("0\r\n\r\n").await;
        }
    })
    .await;
    let (app, host) = serving(&origin).await;
    let mut raw = raw(&app).await;
    raw.send(format!("GET /events HTTP/1.1\r\nhost: {host}\r\n\r\n"))
        .await;
    assert_eq!(raw.head().await.unwrap().status, 200);
    for i in 0..3 {
        // The origin makes the next piece only once this one has been seen here.
        assert_eq!(raw.bytes(11).await, format!("6\r\ntick {i}\r\n").as_bytes());
        go.send(()).await.unwrap();
    }
    assert_eq!(raw.bytes(5).await, b"0\r\n\r\n");
}

#[tokio::test]
async fn pieces_of_a_request_arrive_as_they_are_sent() {
    let (tell, mut told) = tokio::sync::mpsc::channel::<Vec<u8>>(8);
    let origin = Origin::http(move |mut conn| {
        let tell = tell.clone();
        async move {
            conn.request().await;
            let (mut stream, early) = conn.into_parts();
            let mut buffer = early;
            loop {
                if !buffer.is_empty() && tell.send(std::mem::take(&mut buffer)).await.is_err() {
                    return;
                }
                match tokio::io::AsyncReadExt::read_buf(&mut stream, &mut buffer).await {
                    Ok(1..) => {}
                    _ => return,
                }
            }
        }
    })
    .await;
    let (app, host) = serving(&origin).await;
    let mut raw = raw(&app).await;
    raw.send(format!(
        "PUT / HTTP/1.1\r\nhost: {host}\r\ncontent-length: 1000\r\n\r\n"
    ))
    .await;
    for piece in ["first", "second", "third"] {
        raw.send(piece).await;
        let mut seen = Vec::new();
        while seen.len() < piece.len() {
            seen.extend(within("a piece at the origin", told.recv()).await.unwrap());
        }
        assert_eq!(seen, piece.as_bytes());
    }
}

#[tokio::test]
async fn expect_continue_is_answered_when_the_body_is_wanted() {
    let origin = Origin::echo().await;
    let (app, host) = serving(&origin).await;
    let mut raw = raw(&app).await;
    let head = format!(
        "POST / HTTP/1.1\r\nhost: {host}\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n"
    );
    raw.send(&head).await;
    assert_eq!(raw.answer().await.status, 100);
    raw.send("hello").await;
    let answer = raw.answer().await;
    assert_eq!(answer.status, 200);
    assert!(answer.text().contains("\"hello\""));
    assert_eq!(
        origin.requests()[0].header("expect"),
        "",
        "answered here, not passed on"
    );
}

#[tokio::test]
async fn expect_continue_gets_a_final_answer_when_the_body_is_not_wanted() {
    let origin = Origin::fixed("").await;
    let (app, _) = serving(&origin).await;
    let mut raw = raw(&app).await;
    raw.send(
        "POST / HTTP/1.1\r\nhost: nobody.apps.test\r\nexpect: 100-continue\r\n\
         content-length: 5\r\n\r\n",
    )
    .await;
    let answer = raw.answer().await;
    assert_eq!((answer.status, answer.header("connection")), (400, "close"));
    raw.ended().await;
    assert!(origin.requests().is_empty());
}

#[tokio::test]
async fn an_early_answer_to_a_long_upload_reaches_the_client() {
    let origin = Origin::http(|mut conn| async move {
        conn.request().await;
        conn.reply(413, &[("connection", "close")], "too long")
            .await;
    })
    .await;
    let (app, host) = serving(&origin).await;
    let mut raw = raw(&app).await;
    raw.send(format!(
        "PUT / HTTP/1.1\r\nhost: {host}\r\ncontent-length: 9999999\r\n\r\nxyz"
    ))
    .await;
    let answer = raw.answer().await;
    assert_eq!((answer.status, answer.text().as_str()), (413, "too long"));
}

/// The origin has answered and the upload goes on: nobody else's request may queue behind it.
#[tokio::test]
async fn an_upload_that_outlasts_its_answer_holds_nobody_up() {
    let origin = Origin::http(|mut conn| async move {
        while let Some(head) = conn.request().await {
            conn.reply(200, &[], "early").await;
            conn.content(&head).await;
        }
    })
    .await;
    let (app, host) = serving(&origin).await;
    // One upload per data thread, so that whichever thread serves the others has met one.
    let mut uploads = Vec::new();
    for _ in 0..8 {
        let mut upload = raw(&app).await;
        upload
            .send(format!(
                "PUT / HTTP/1.1\r\nhost: {host}\r\ncontent-length: 9999999\r\n\r\nxyz"
            ))
            .await;
        assert_eq!(upload.answer().await.text(), "early");
        uploads.push(upload);
    }
    for _ in 0..4 {
        assert_eq!(client(&app).await.get(&host, "/").await.text(), "early");
    }
}

#[tokio::test]
async fn trailers_pass_both_ways_when_they_are_announced() {
    let origin = Origin::http(|mut conn| async move {
        let head = conn.request().await.unwrap();
        let content = conn.content(&head).await.unwrap();
        let sum = content
            .trailers
            .iter()
            .find(|(n, _)| n == "x-sum")
            .map(|(_, v)| v.as_str());
        let seen = sum.unwrap_or("none").to_owned();
        conn.send(format!(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\nx-seen: {seen}\r\n\
             \r\n2\r\nok\r\n0\r\nx-sum: 99\r\n\r\n"
        ))
        .await;
    })
    .await;
    let (app, host) = serving(&origin).await;
    let mut raw = raw(&app).await;
    raw.send(format!(
        "POST / HTTP/1.1\r\nhost: {host}\r\nte: trailers\r\ntransfer-encoding: chunked\r\n\
         trailer: x-sum\r\n\r\n1\r\na\r\n0\r\nx-sum: 41\r\n\r\n"
    ))
    .await;
    let answer = raw.answer().await;
    assert_eq!(
        answer.header("x-seen"),
        "41",
        "the request's trailer reached the origin"
    );
    assert_eq!(answer.trailers, [("x-sum".to_owned(), "99".to_owned())]);
}

#[tokio::test]
async fn an_answer_to_head_has_no_body_and_its_length() {
    let origin = Origin::http(|mut conn| async move {
        while let Some(head) = conn.request().await {
            if head.method == "HEAD" {
                conn.send("HTTP/1.1 200 OK\r\ncontent-length: 12345\r\n\r\n")
                    .await;
            } else {
                conn.reply(200, &[], "get").await;
            }
        }
    })
    .await;
    let (app, host) = serving(&origin).await;
    let mut raw = raw(&app).await;
    for _ in 0..3 {
        raw.send(format!("HEAD / HTTP/1.1\r\nhost: {host}\r\n\r\n"))
            .await;
        assert_eq!(raw.head().await.unwrap().header("content-length"), "12345");
        raw.send(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n"))
            .await;
        assert_eq!(raw.answer().await.text(), "get");
    }
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn answers_that_have_no_body_leave_the_connection_usable() {
    let origin = Origin::http(|mut conn| async move {
        while let Some(head) = conn.request().await {
            match head.target.as_str() {
                "/204" => conn.send("HTTP/1.1 204 No Content\r\n\r\n").await,
                "/304" => {
                    conn.send("HTTP/1.1 304 Not Modified\r\netag: \"a\"\r\n\r\n")
                        .await
                }
                _ => {
                    conn.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                        .await
                }
            };
        }
    })
    .await;
    let (app, host) = serving(&origin).await;
    let mut raw = raw(&app).await;
    for status in [204, 304, 200, 304, 204] {
        raw.send(format!("GET /{status} HTTP/1.1\r\nhost: {host}\r\n\r\n"))
            .await;
        assert_eq!(raw.answer().await.status, status);
    }
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn early_hints_do_not_disturb_the_answer() {
    let origin = Origin::once(
        b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n\
          HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone",
    )
    .await;
    let (app, host) = serving(&origin).await;
    assert_eq!(client(&app).await.get(&host, "/").await.text(), "done");
}

#[tokio::test]
async fn a_response_that_ends_with_its_connection_is_whole() {
    let origin = Origin::once(b"HTTP/1.1 200 OK\r\n\r\nall of it").await;
    let (app, host) = serving(&origin).await;
    assert_eq!(client(&app).await.get(&host, "/").await.text(), "all of it");
}

#[tokio::test]
async fn a_truncated_response_is_never_shown_as_whole() {
    for cut in [
        &b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n0123456789"[..],
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\na\r\n0123456789\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\na\r\n01234",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\na\r\n0123456789\r\n0\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nnonsense\r\n",
    ] {
        let origin = Origin::once(cut).await;
        let (app, host) = serving(&origin).await;
        let mut raw = raw(&app).await;
        raw.send(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n"))
            .await;
        let cut = String::from_utf8_lossy(cut).into_owned();
        match raw.try_answer().await {
            Ok(answer) => assert!(answer.status >= 500, "{cut:?} became {answer:?}"),
            Err(broken) => assert!(broken.body.len() < 100, "{cut:?}"),
        }
    }
}

#[tokio::test]
async fn a_reset_in_a_response_that_ends_with_its_connection_is_seen() {
    let (seen, when_seen) = tokio::sync::mpsc::channel::<()>(1);
    let when_seen = std::sync::Arc::new(tokio::sync::Mutex::new(when_seen));
    let origin = Origin::http(move |mut conn| {
        let when_seen = std::sync::Arc::clone(&when_seen);
        async move {
            conn.request().await;
            conn.send("HTTP/1.1 200 OK\r\n\r\nsome").await;
            when_seen.lock().await.recv().await;
            conn.into_parts().0.set_zero_linger().unwrap();
        }
    })
    .await;
    let (app, host) = serving(&origin).await;
    let mut raw = raw(&app).await;
    raw.send(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n"))
        .await;
    assert_eq!(raw.head().await.unwrap().status, 200);
    raw.bytes(b"4\r\nsome\r\n".len()).await;
    seen.send(()).await.unwrap();
    assert_eq!(raw.rest().await.0, b"", "not even the last chunk");
}

#[tokio::test]
async fn a_truncated_upload_is_never_shown_as_whole() {
    let (tell, mut told) = tokio::sync::mpsc::channel::<bool>(8);
    let origin = Origin::http(move |mut conn| {
        let tell = tell.clone();
        async move {
            let head = conn.request().await.unwrap();
            tell.send(conn.content(&head).await.is_some())
                .await
                .unwrap();
        }
    })
    .await;
    let (app, host) = serving(&origin).await;
    for (framing, part) in [
        ("content-length: 100", "0123456789"),
        ("transfer-encoding: chunked", "a\r\n0123456789\r\n"),
        ("transfer-encoding: chunked", "a\r\n012"),
        ("transfer-encoding: chunked", "a\r\n0123456789\r\nzz\r\n"),
    ] {
        for reset in [false, true] {
            let mut raw = raw(&app).await;
            let before = origin.requests().len();
            raw.send(format!(
                "PUT / HTTP/1.1\r\nhost: {host}\r\n{framing}\r\n\r\n{part}"
            ))
            .await;
            origin.has_requests(before + 1).await;
            if reset {
                raw.reset()
            } else {
                drop(raw)
            }
            let whole = within("the origin's verdict", told.recv()).await.unwrap();
            assert!(!whole, "{framing} {part:?} reset: {reset}");
        }
    }
    origin.has_no_connection().await;
}

#[tokio::test]
async fn a_slow_reader_stops_the_origin() {
    let sent = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = std::sync::Arc::clone(&sent);
    let origin = Origin::http(move |mut conn| {
        let counter = std::sync::Arc::clone(&counter);
        async move {
            conn.request().await;
            conn.send("HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n")
                .await;
            let piece = vec![b'x'; 100_000];
            for _ in 0..1000 {
                if !conn.send(&piece).await {
                    return;
                }
                counter.fetch_add(piece.len(), std::sync::atomic::Ordering::SeqCst);
            }
            conn.left().await;
        }
    })
    .await;
    let (app, host) = serving(&origin).await;
    let mut raw = raw(&app).await;
    raw.send(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n"))
        .await;
    assert_eq!(raw.head().await.unwrap().status, 200);
    // What the kernel's buffers hold on four sockets passes; then it has to stand still.
    let mut last = usize::MAX;
    loop {
        tokio::time::sleep(crate::support::A_MOMENT).await;
        let now = sent.load(std::sync::atomic::Ordering::SeqCst);
        if now == last {
            break;
        }
        last = now;
    }
    assert!(last < 100_000_000, "the whole body is held somewhere");
    let body = raw.bytes(100_000_000).await;
    assert!(body.iter().all(|b| *b == b'x'));
    drop(raw);
}

#[tokio::test]
async fn a_body_that_is_longer_than_its_length_does_not_poison_the_pool() {
    let origin = Origin::http(|mut conn| async move {
        while conn.request().await.is_some() {
            conn.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n")
                .await;
            conn.send("content-length: 6\r\n\r\npoison").await;
        }
    })
    .await;
    let (app, host) = serving(&origin).await;
    let mut client = client(&app).await;
    for _ in 0..20 {
        let reply = client.get(&host, "/").await;
        assert_ne!(
            reply.text(),
            "poison",
            "an answer to nobody was given to somebody"
        );
    }
}

#[tokio::test]
async fn the_end_of_an_idle_connection_is_orderly() {
    let origin = Origin::fixed("x").await;
    let (app, host) = serving(&origin).await;
    let mut raw = raw(&app).await;
    raw.send(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n"))
        .await;
    raw.answer().await;
    raw.finish().await;
    assert_eq!(raw.ended().await, End::Closed);
}
