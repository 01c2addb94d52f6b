//! Endpoints with several addresses: whichever can be connected to first (RFC 8305).

use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use causeway_xds::resource::cluster::{HappyEyeballs, IpFamily};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::time::{Instant, sleep_until};

use super::ConnectErrorKind;

/// After which the next address is tried although the one before has not failed (RFC 8305
/// section 5 recommends 250 ms; this is Envoy's).
pub const ATTEMPT_DELAY: Duration = Duration::from_millis(300);

/// What a connection is waited for, in [`ConnectErrorKind::Timeout`].
pub type Phase = Cell<&'static str>;

/// The order in which addresses are tried: families by turns (RFC 8305 section 4), and within a
/// family as they are given.
pub fn order(first: SocketAddr, others: &[SocketAddr], rules: HappyEyeballs) -> Vec<SocketAddr> {
    let v4 = match rules.first {
        None => first.is_ipv4(),
        Some(family) => family == IpFamily::V4,
    };
    let all = || std::iter::once(first).chain(others.iter().copied());
    let mut leading = all().filter(|address| address.is_ipv4() == v4);
    let mut following = all().filter(|address| address.is_ipv4() != v4);
    let count = usize::try_from(rules.count).unwrap_or(usize::MAX).max(1);
    let mut ordered = Vec::with_capacity(others.len() + 1);
    while ordered.len() <= others.len() {
        ordered.extend(leading.by_ref().take(count));
        ordered.extend(following.next());
    }
    ordered
}

/// Connects to one of the addresses within `limit`: each gets [`ATTEMPT_DELAY`] before the next one
/// is tried as well, and less if it fails. The first that is there wins; the others are closed.
///
/// # Errors
/// [`ConnectErrorKind::Several`], with what became of each.
pub async fn race<T>(
    addresses: &[SocketAddr],
    limit: Duration,
    attempt: impl AsyncFn(SocketAddr, &Phase) -> Result<T, ConnectErrorKind>,
) -> Result<T, ConnectErrorKind> {
    let tries: Vec<(SocketAddr, Phase)> = addresses
        .iter()
        .map(|address| (*address, Cell::new("waiting for its turn")))
        .collect();
    let mut failed: Vec<(SocketAddr, ConnectErrorKind)> = Vec::new();
    let mut waiting = tries.iter();
    let mut running = FuturesUnordered::new();
    let until = Instant::now() + limit;
    let mut next = Instant::now();
    loop {
        if running.is_empty() || next <= Instant::now() {
            next = Instant::now() + ATTEMPT_DELAY;
            match waiting.next() {
                Some((address, phase)) => {
                    phase.set("connect");
                    let attempt = &attempt;
                    running.push(async move { (*address, attempt(*address, phase).await) });
                }
                // Nobody is left who could win.
                None if running.is_empty() => break,
                None => {}
            }
        }
        tokio::select! {
            biased;
            Some((address, result)) = running.next() => match result {
                Ok(connected) => return Ok(connected),
                Err(error) => {
                    failed.push((address, error));
                    next = Instant::now();
                }
            },
            () = sleep_until(until) => break,
            () = sleep_until(next), if waiting.len() > 0 => {}
        }
    }
    let has_failed = |address: &SocketAddr| failed.iter().any(|(failed, _)| failed == address);
    let late: Vec<_> = tries
        .iter()
        .filter(|(address, _)| !has_failed(address))
        .map(|(address, phase)| (*address, ConnectErrorKind::Timeout(limit, phase.get())))
        .collect();
    failed.extend(late);
    Err(ConnectErrorKind::Several(Arc::from(failed)))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::io;

    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn families_take_turns() {
        const V4: Option<IpFamily> = Some(IpFamily::V4);
        let ordered = |given: &str, first, count| {
            let address = |name: &str| {
                let (family, number) = name.split_at(1);
                let text = match family {
                    "v" => format!("192.0.2.{number}:80"),
                    _ => format!("[2001:db8::{number}]:80"),
                };
                text.parse::<SocketAddr>().unwrap()
            };
            let name = |address: SocketAddr| {
                let family = if address.is_ipv4() { "v" } else { "x" };
                let text = address.ip().to_string();
                format!("{family}{}", text.rsplit(['.', ':']).next().unwrap())
            };
            let all: Vec<_> = given.split(' ').map(address).collect();
            let ordered = order(all[0], &all[1..], HappyEyeballs { first, count });
            ordered.into_iter().map(name).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(ordered("v1", None, 1), "v1");
        assert_eq!(ordered("v1 v2 v3", None, 1), "v1 v2 v3");
        assert_eq!(ordered("x1 x2 v1 v2", None, 1), "x1 v1 x2 v2");
        assert_eq!(ordered("x1 x2 x3 v1", None, 1), "x1 v1 x2 x3");
        assert_eq!(ordered("v1 x1 x2", None, 1), "v1 x1 x2");
        assert_eq!(ordered("x1 x2 x3 v1", V4, 2), "v1 x1 x2 x3");
        assert_eq!(ordered("x1 v1 x2 v2", V4, 2), "v1 v2 x1 x2");
        let mixed = "x1 x2 x3 v1 v2 v3 v4 x4";
        assert_eq!(ordered(mixed, V4, 2), "v1 v2 x1 v3 v4 x2 x3 x4");
        assert_eq!(ordered("x1 x2", V4, u32::MAX), "x1 x2");
    }

    fn refused() -> ConnectErrorKind {
        let error = io::Error::from(io::ErrorKind::ConnectionRefused);
        ConnectErrorKind::Connect(Arc::new(error))
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_address_is_tried_when_one_fails_or_takes_long() {
        let all = addresses(&["192.0.2.1:80", "[2001:db8::1]:80", "192.0.2.2:80"]);
        let start = Instant::now();
        let begun = RefCell::new(Vec::new());
        let won = race(&all, Duration::from_secs(5), async |address, _| {
            begun.borrow_mut().push((address, start.elapsed()));
            let number = begun.borrow().len();
            match number {
                1 => std::future::pending().await,
                2 => Err(refused()),
                _ => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    Ok(address)
                }
            }
        });
        assert_eq!(won.await.unwrap(), all[2]);
        let begun = begun.into_inner();
        // The second one failed at once, and so the third did not wait.
        let times = [Duration::ZERO, ATTEMPT_DELAY, ATTEMPT_DELAY];
        assert_eq!(begun, all.into_iter().zip(times).collect::<Vec<_>>());
        assert_eq!(start.elapsed(), ATTEMPT_DELAY + Duration::from_millis(50));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_late_may_still_win() {
        let all = addresses(&["192.0.2.1:80", "192.0.2.2:80"]);
        let won = race(
            &all,
            Duration::from_secs(5),
            async |address: SocketAddr, _| {
                let time = if address == all[0] { 400 } else { 200 };
                tokio::time::sleep(Duration::from_millis(time)).await;
                Ok(address)
            },
        );
        assert_eq!(won.await.unwrap(), all[0]);
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_fail_each_is_named() {
        let all = addresses(&["192.0.2.1:80", "192.0.2.2:80", "192.0.2.3:80"]);
        let limit = Duration::from_millis(500);
        let start = Instant::now();
        let lost = race(&all, limit, async |address: SocketAddr, phase| {
            if address == all[0] {
                return Err::<(), _>(refused());
            }
            phase.set("tls handshake");
            std::future::pending().await
        });
        let lost = lost.await.unwrap_err();
        assert_eq!(start.elapsed(), limit);
        assert_eq!(
            lost.to_string(),
            "192.0.2.1:80: connect: connection refused; \
             192.0.2.2:80: connect_timeout (500ms) fired in phase tls handshake; \
             192.0.2.3:80: connect_timeout (500ms) fired in phase tls handshake"
        );
        assert!(matches!(lost.decisive(), ConnectErrorKind::Timeout(..)));
        let lost = race(&all, limit, async |_, _| Err::<(), _>(refused()));
        let lost = lost.await.unwrap_err();
        assert!(matches!(lost.decisive(), ConnectErrorKind::Connect(_)));
        assert_eq!(lost.to_string().matches("refused").count(), 3);
    }
}
