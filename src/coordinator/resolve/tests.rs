use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use super::*;
use crate::coordinator::testing::circuit;

/// A name service that answers as it is told, and counts.
#[derive(Clone, Default)]
pub(crate) struct Service(Arc<Inner>);

#[derive(Default)]
struct Inner {
    names: Mutex<HashMap<String, Vec<IpAddr>>>,
    asked: AtomicUsize,
    under_way: AtomicUsize,
    most: AtomicUsize,
    /// What one answer takes.
    takes: Mutex<Duration>,
}

impl Service {
    pub(crate) fn resolver(&self) -> Resolver {
        let inner = Arc::clone(&self.0);
        Resolver::new(Box::new(move |name| {
            let inner = Arc::clone(&inner);
            Box::pin(async move {
                inner.asked.fetch_add(1, SeqCst);
                let now = inner.under_way.fetch_add(1, SeqCst) + 1;
                inner.most.fetch_max(now, SeqCst);
                let takes = *inner.takes.lock().unwrap();
                tokio::time::sleep(takes).await;
                inner.under_way.fetch_sub(1, SeqCst);
                let found = inner.names.lock().unwrap().get(&name).cloned();
                found.ok_or_else(|| io::Error::other("no such name"))
            })
        }))
    }

    pub(crate) fn says(&self, name: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|text| text.parse().unwrap());
        let mut names = self.0.names.lock().unwrap();
        names.insert(name.to_owned(), addresses.collect());
    }

    pub(crate) fn forgets(&self, name: &str) {
        self.0.names.lock().unwrap().remove(name);
    }

    pub(crate) fn asked(&self) -> usize {
        self.0.asked.load(SeqCst)
    }

    fn takes(&self, time: Duration) {
        *self.0.takes.lock().unwrap() = time;
    }
}

async fn at(resolver: &Resolver, name: &str) -> Option<String> {
    let resolved = resolver.ask([name.to_owned()].into()).await;
    resolved.0[name].map(|address| address.to_string())
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn addresses_names_and_neither() {
    let address = |text: &str| Some(Host::Address(text.parse().unwrap()));
    let name = |text: &str| Some(Host::Name(text.to_owned()));
    for (host, expected) in [
        (None, address("127.0.0.1")),
        (Some(""), address("127.0.0.1")),
        (Some("localhost"), address("127.0.0.1")),
        (Some("10.0.3.7"), address("10.0.3.7")),
        (Some("[::1]"), address("::1")),
        (Some("fd00::7"), address("fd00::7")),
        (Some("Node7"), name("node7")),
        (
            Some("agent_1.svc.example.org."),
            name("agent_1.svc.example.org."),
        ),
        (Some("10.0.0.256"), None),
        (Some("10.1"), None),
        (Some("a..b"), None),
        (Some("a b"), None),
        (Some("node7:80"), None),
        (Some("http://node7"), None),
    ] {
        assert_eq!(Host::read(host), expected, "{host:?}");
    }
    assert_eq!(Host::read(Some(&"a".repeat(64))), None);
}

#[tokio::test]
async fn the_system_knows_this_machine() {
    let found = at(&Resolver::default(), "localhost").await.unwrap();
    assert!(found.parse::<IpAddr>().unwrap().is_loopback(), "{found}");
}

#[tokio::test(start_paused = true)]
async fn ipv4_comes_first_and_else_the_first() {
    let service = Service::default();
    service.says("both", &["fd00::1", "10.0.0.2", "10.0.0.1"]);
    service.says("six", &["fd00::2", "fd00::1"]);
    service.says("none", &[]);
    let resolver = service.resolver();
    assert_eq!(at(&resolver, "both").await.unwrap(), "10.0.0.2");
    assert_eq!(at(&resolver, "six").await.unwrap(), "fd00::2");
    assert_eq!(at(&resolver, "none").await, None);
}

#[tokio::test(start_paused = true)]
async fn answers_last_a_while_and_outlive_failures() {
    let service = Service::default();
    service.says("a", &["10.0.0.1"]);
    let resolver = service.resolver();
    assert_eq!(at(&resolver, "a").await.unwrap(), "10.0.0.1");
    service.says("a", &["10.0.0.2"]);
    tokio::time::sleep(SECOND * 29).await;
    assert_eq!(at(&resolver, "a").await.unwrap(), "10.0.0.1");
    assert_eq!(service.asked(), 1);
    tokio::time::sleep(SECOND * 2).await;
    assert_eq!(at(&resolver, "a").await.unwrap(), "10.0.0.2");

    service.forgets("a");
    tokio::time::sleep(SECOND * 31).await;
    assert_eq!(
        at(&resolver, "a").await.unwrap(),
        "10.0.0.2",
        "the last good one"
    );
    service.says("a", &["10.0.0.3"]);
    tokio::time::sleep(SECOND).await;
    assert_eq!(
        at(&resolver, "a").await.unwrap(),
        "10.0.0.3",
        "tried again soon"
    );
}

#[tokio::test(start_paused = true)]
async fn a_burst_about_a_dead_name_waits_once() {
    let service = Service::default();
    service.takes(SECOND * 60);
    let resolver = service.resolver();
    let start = Instant::now();
    for _ in 0..10 {
        assert_eq!(at(&resolver, "a").await, None);
    }
    assert_eq!(start.elapsed(), LOOKUP);
    assert_eq!(service.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn few_are_asked_at_once_and_all_within_a_time() {
    let service = Service::default();
    service.takes(SECOND);
    let resolver = service.resolver();
    let many = |count: usize| (0..count).map(|n| format!("n{n}")).collect::<BTreeSet<_>>();
    for name in many(64) {
        service.says(&name, &["10.0.0.1"]);
    }
    let start = Instant::now();
    let (one, other) = tokio::join!(resolver.ask(many(32)), resolver.ask(many(64)));
    assert_eq!((one.0.len(), other.0.len()), (32, 64));
    assert!(start.elapsed() < ALL);
    assert_eq!(service.0.most.load(SeqCst), AT_ONCE);

    service.takes(SECOND * 60);
    let start = Instant::now();
    let resolver = service.resolver();
    let none = resolver.ask(many(1000)).await;
    assert!(none.0.values().all(Option::is_none));
    assert_eq!(start.elapsed(), ALL);
}

#[tokio::test(start_paused = true)]
async fn kernels_get_their_addresses_or_none() {
    let service = Service::default();
    service.says("node7", &["10.0.0.7"]);
    let mut circuits = [circuit(1, "a")];
    let named = |host: &str| KernelRoute {
        kernel_host: Some(host.to_owned()),
        address: None,
        ..circuit(1, "a").routes[0].clone()
    };
    circuits[0].routes.extend([named("Node7"), named("node8")]);
    service.resolver().resolve(&mut circuits).await;
    let at: Vec<_> = circuits[0]
        .routes
        .iter()
        .map(|route| route.address)
        .collect();
    let expected = ["10.0.0.1:8001", "10.0.0.7:8001"].map(|text| Some(text.parse().unwrap()));
    assert_eq!(at, [expected[0], expected[1], None]);
    assert_eq!(service.asked(), 2, "an address is not looked up");
}
