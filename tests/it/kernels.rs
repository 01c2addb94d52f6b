//! Kernels of circuits are watched by default, and nobody is worse off for it.

use std::time::Duration;

use crate::support::app::{TestApp, worker};
use crate::support::circuit::circuit;
use crate::support::origin::Origin;
use crate::support::{eventually, refusing, within};

/// As the default has it, but sooner.
async fn watching(period: Duration) -> TestApp {
    let mut config = worker();
    config.causeway.kernel_check_period = period;
    TestApp::with(config).await
}

async fn origin() -> Origin {
    Origin::http(|mut conn| async move {
        while conn.request().await.is_some() {
            conn.reply(200, &[], "here").await;
        }
    })
    .await
}

impl TestApp {
    fn checks_failed(&self) -> u64 {
        let snapshot = self.running.publisher.current();
        let circuits = snapshot.clusters.values();
        let stats = circuits.map(|c| self.running.stats.health_check(c.model.stat_name()));
        stats.map(|stats| stats.failure.value()).sum()
    }
}

#[tokio::test]
async fn a_kernel_that_is_gone_is_found_out_without_a_request() {
    let app = watching(Duration::from_millis(50)).await;
    let (origin, (_held, gone)) = (origin().await, refusing());
    let circuit = circuit(1).kernels(&[origin.address, gone]);
    app.announce(&[&circuit]).await;
    let health = async || app.admin("/clusters").await.text();
    let flags = format!("{gone}::health_flags::/failed_active_hc");
    let found = async { while !health().await.contains(&flags) {} };
    within("it is found out", found).await;
    assert!(app.checks_failed() >= 2);
    assert!(
        !health()
            .await
            .contains(&format!("{}::health_flags::/f", origin.address))
    );
    for _ in 0..6 {
        assert_eq!(app.get(&circuit, "/").await.text(), "here");
    }
}

#[tokio::test]
async fn a_kernel_that_is_alone_gets_its_requests_whatever_checks_say() {
    // One in ten periods is a check of a kernel that is alone.
    let app = watching(Duration::from_millis(5)).await;
    let (held, address) = refusing();
    let circuit = circuit(1).kernels(&[address]);
    app.announce(&[&circuit]).await;
    eventually("failures", || app.checks_failed() >= 3).await;
    let told = app.get(&circuit, "/").await;
    assert_eq!(told.status, 502, "it was asked");
    // It comes back, and serves at once: no check has to pass first.
    held.listen(8).unwrap();
    let listener = tokio::net::TcpListener::from_std(nonblocking(held)).unwrap();
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        while let Ok((mut connection, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = [0; 4096];
                // A check connects and says nothing.
                if connection.read(&mut head).await.is_ok_and(|read| read > 0) {
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nback";
                    connection.write_all(answer).await.ok();
                }
            });
        }
    });
    assert_eq!(app.get(&circuit, "/").await.text(), "back");
}

fn nonblocking(socket: socket2::Socket) -> std::net::TcpListener {
    socket.set_nonblocking(true).unwrap();
    socket.into()
}
