//! Names and a server of DNS of our own, over loopback.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::CNAME;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};

use super::files::{Files, Text};
use super::*;

/// What is said to a question.
#[derive(Clone, Debug)]
enum Reply {
    Addresses(Vec<IpAddr>, u32),
    /// Another name, for so long, with an address for so long.
    Alias(u32, IpAddr, u32),
    Code(ResponseCode),
    Silence,
    /// Nothing but that it did not fit; over TCP the addresses.
    TooLong(Vec<IpAddr>),
}

type Zone = Arc<Mutex<HashMap<(String, RecordType), Reply>>>;

/// A server for names that are in its zone; others do not exist.
struct Dns {
    address: SocketAddr,
    zone: Zone,
    /// What it was asked for.
    asked: Arc<Mutex<Vec<String>>>,
}

impl Dns {
    async fn start() -> Self {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let (zone, asked) = (Zone::default(), Arc::<Mutex<Vec<String>>>::default());
        let dns = Self {
            address: udp.local_addr().unwrap(),
            zone: Arc::clone(&zone),
            asked: Arc::clone(&asked),
        };
        let answer = move |question: &[u8], transport: &str| {
            let mut message = Message::from_vec(question).unwrap();
            let query = message.queries[0].clone();
            let (host, kind) = (query.name().to_ascii().to_lowercase(), query.query_type());
            asked
                .lock()
                .unwrap()
                .push(format!("{transport} {kind} {host}"));
            let reply = zone.lock().unwrap().get(&(host, kind)).cloned();
            message = message.into_response();
            let record = |ip: &IpAddr, ttl| {
                let data = RData::from(*ip);
                Record::from_rdata(query.name().clone(), ttl, data)
            };
            match reply.unwrap_or(Reply::Code(ResponseCode::NXDomain)) {
                Reply::Silence => return None,
                Reply::Code(code) => message.metadata.response_code = code,
                Reply::Addresses(list, ttl) => {
                    message.answers = list.iter().map(|ip| record(ip, ttl)).collect();
                }
                Reply::Alias(alias, ip, ttl) => {
                    let name = Name::from_ascii("other.test.").unwrap();
                    let data = RData::CNAME(CNAME(name.clone()));
                    let first = Record::from_rdata(query.name().clone(), alias, data);
                    let second = Record::from_rdata(name, ttl, RData::from(ip));
                    message.answers = vec![first, second];
                }
                Reply::TooLong(_) if transport == "udp" => message.metadata.truncation = true,
                Reply::TooLong(list) => {
                    message.answers = list.iter().map(|ip| record(ip, 1)).collect();
                }
            }
            Some(message.to_vec().unwrap())
        };
        let over_tcp = answer.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok((length, from)) = udp.recv_from(&mut buffer).await {
                if let Some(reply) = answer(&buffer[..length], "udp") {
                    udp.send_to(&reply, from).await.unwrap();
                }
            }
        });
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                let answer = over_tcp.clone();
                tokio::spawn(async move {
                    while let Ok(length) = stream.read_u16().await {
                        let mut question = vec![0; length.into()];
                        stream.read_exact(&mut question).await.unwrap();
                        if let Some(reply) = answer(&question, "tcp") {
                            let length = u16::try_from(reply.len()).unwrap();
                            stream.write_u16(length).await.unwrap();
                            stream.write_all(&reply).await.unwrap();
                        }
                    }
                });
            }
        });
        dns
    }

    fn set(&self, host: &str, kind: RecordType, reply: Reply) {
        self.zone
            .lock()
            .unwrap()
            .insert((host.to_owned(), kind), reply);
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }

    /// Asks this server, after those.
    fn config(&self, before: &[SocketAddr]) -> DnsServers {
        DnsServers {
            addresses: [before, &[self.address]].concat(),
            no_search: true,
            tries: 1,
            ..DnsServers::default()
        }
    }
}

async fn lookup(config: DnsServers, family: DnsFamily) -> Result<Answer, LookupError> {
    let resolver = DnsResolver::Servers(config);
    let lookup = Resolvers::default().lookup(Some(&resolver), false);
    lookup("app.test".to_owned(), family).await
}

fn ips<const N: usize>(list: [&str; N]) -> Vec<IpAddr> {
    list.map(|ip| ip.parse().unwrap()).to_vec()
}

const APP: &str = "app.test.";

#[tokio::test]
async fn a_server_is_asked_for_what_the_family_needs() {
    let dns = Dns::start().await;
    let addresses = Reply::Addresses(ips(["192.0.2.1", "192.0.2.2"]), 7);
    dns.set(APP, RecordType::A, addresses);
    let v4 = Answer {
        addresses: ips(["192.0.2.1", "192.0.2.2"]),
        ttl: Some(Duration::from_secs(7)),
    };
    for (family, questions) in [
        (DnsFamily::V4Only, &["udp A app.test."][..]),
        (DnsFamily::V4Preferred, &["udp A app.test."]),
        (DnsFamily::Auto, &["udp AAAA app.test.", "udp A app.test."]),
    ] {
        assert_eq!(lookup(dns.config(&[]), family).await.unwrap(), v4);
        assert_eq!(dns.asked(), questions, "{family:?}");
    }
    dns.set(
        APP,
        RecordType::AAAA,
        Reply::Addresses(ips(["2001:db8::1"]), 3),
    );
    let all = lookup(dns.config(&[]), DnsFamily::All).await.unwrap();
    assert_eq!(
        all.addresses,
        ips(["192.0.2.1", "192.0.2.2", "2001:db8::1"])
    );
    // The shorter of the two.
    assert_eq!(all.ttl, Some(Duration::from_secs(3)));
    let auto = lookup(dns.config(&[]), DnsFamily::Auto).await.unwrap();
    assert_eq!(auto.addresses, ips(["2001:db8::1"]));
}

#[tokio::test]
async fn an_alias_holds_for_as_long_as_both_do() {
    let dns = Dns::start().await;
    let ip = "192.0.2.1".parse().unwrap();
    dns.set(APP, RecordType::A, Reply::Alias(2, ip, 60));
    let answer = lookup(dns.config(&[]), DnsFamily::V4Only).await.unwrap();
    assert_eq!(answer.addresses, [ip]);
    assert_eq!(answer.ttl, Some(Duration::from_secs(2)));
}

#[tokio::test]
async fn what_does_not_fit_comes_over_tcp() {
    let dns = Dns::start().await;
    dns.set(APP, RecordType::A, Reply::TooLong(ips(["192.0.2.1"])));
    let answer = lookup(dns.config(&[]), DnsFamily::V4Only).await.unwrap();
    assert_eq!(answer.addresses, ips(["192.0.2.1"]));
    assert_eq!(dns.asked(), ["udp A app.test.", "tcp A app.test."]);
    let config = DnsServers {
        tcp_only: true,
        ..dns.config(&[])
    };
    lookup(config, DnsFamily::V4Only).await.unwrap();
    assert_eq!(dns.asked(), ["tcp A app.test."]);
}

#[tokio::test]
async fn a_name_without_addresses_is_an_answer_and_a_failure_is_none() {
    let dns = Dns::start().await;
    for code in [ResponseCode::NXDomain, ResponseCode::NoError] {
        dns.set(APP, RecordType::A, Reply::Code(code));
        let answer = lookup(dns.config(&[]), DnsFamily::V4Only).await;
        assert_eq!(answer.unwrap(), Answer::default());
    }
    for code in [ResponseCode::ServFail, ResponseCode::Refused] {
        dns.set(APP, RecordType::A, Reply::Code(code));
        let error = lookup(dns.config(&[]), DnsFamily::V4Only).await;
        let error = error.unwrap_err().to_string();
        assert!(error.starts_with(&dns.address.to_string()), "{error}");
    }
    // One kind is not known of, and the other one does not exist: there may be one.
    for family in [DnsFamily::V4Preferred, DnsFamily::Auto, DnsFamily::All] {
        lookup(dns.config(&[]), family).await.unwrap_err();
    }
    dns.set(
        APP,
        RecordType::AAAA,
        Reply::Addresses(ips(["2001:db8::1"]), 1),
    );
    let other = lookup(dns.config(&[]), DnsFamily::V4Preferred).await;
    assert_eq!(other.unwrap().addresses, ips(["2001:db8::1"]));
}

#[tokio::test]
async fn a_server_that_is_silent_makes_way_for_the_next() {
    let (silent, dns) = (Dns::start().await, Dns::start().await);
    silent.set(APP, RecordType::A, Reply::Silence);
    let config = DnsServers {
        timeout: Duration::from_millis(50),
        ..silent.config(&[])
    };
    let error = lookup(config, DnsFamily::V4Only).await.unwrap_err();
    assert!(error.to_string().contains(&silent.address.to_string()));

    dns.set(APP, RecordType::A, Reply::Addresses(ips(["192.0.2.1"]), 1));
    let config = DnsServers {
        timeout: Duration::from_millis(200),
        tries: 50,
        ..dns.config(&[silent.address])
    };
    let answer = lookup(config, DnsFamily::V4Only).await.unwrap();
    assert_eq!(answer.addresses, ips(["192.0.2.1"]));
}

#[tokio::test]
async fn servers_take_turns_if_they_are_to() {
    let (one, two) = (Dns::start().await, Dns::start().await);
    for dns in [&one, &two] {
        dns.set(APP, RecordType::A, Reply::Addresses(ips(["192.0.2.1"]), 1));
    }
    for (rotate, want) in [(false, [4, 0]), (true, [2, 2])] {
        let config = DnsServers {
            rotate,
            ..two.config(&[one.address])
        };
        let resolver = DnsResolver::Servers(config);
        let lookup = Resolvers::default().lookup(Some(&resolver), false);
        for _ in 0..4 {
            lookup("app.test".into(), DnsFamily::V4Only).await.unwrap();
        }
        assert_eq!([one.asked().len(), two.asked().len()], want);
    }
}

#[test]
fn who_is_asked_depends_on_who_says_so() {
    let servers = DnsServers {
        tries: 9,
        ..DnsServers::default()
    };
    let resolver = DnsResolver::Servers(servers.clone());
    let resolvers = Resolvers::new(Some(resolver));
    let [first, second] = [false, true].map(|ttl| resolvers.lookup(None, ttl));
    let known = || resolvers.servers.lock().unwrap().len();
    assert_eq!(known(), 1, "the same servers are shared");
    drop(resolvers.lookup(Some(&DnsResolver::System), true));
    assert_eq!(known(), 1);
    drop((first, second));
    let other = Resolvers::default();
    drop(other.lookup(None, false));
    assert!(other.servers.lock().unwrap().is_empty());
    let kept = other.lookup(None, true);
    let default = DnsServers::default();
    assert!(other.servers.lock().unwrap().contains_key(&default));
    drop(kept);
}

#[test]
fn the_files_of_the_system_are_read() {
    let text = |resolv: &str, hosts: &str| {
        Files::parse(&Text {
            resolv: resolv.into(),
            hosts: hosts.into(),
        })
    };
    let name = |text: &str| Name::from_str_relaxed(text).unwrap();
    let candidates = |files: &Files, of: &str, search| -> Vec<String> {
        let names = files.candidates(&name(of), search);
        names.iter().map(ToString::to_string).collect()
    };
    let files = text(
        "nameserver 192.0.2.53\nnameserver 2001:db8::53\nsearch ns.test svc.test\noptions ndots:2\n",
        "192.0.2.9 db db.local # the database\n",
    );
    let servers: Vec<_> = files.servers.iter().map(ToString::to_string).collect();
    assert_eq!(servers, ["192.0.2.53:53", "[2001:db8::53]:53"]);
    let searched = ["db.ns.test.", "db.svc.test.", "db."];
    assert_eq!(candidates(&files, "db", true), searched);
    let complete = ["a.b.c.", "a.b.c.ns.test.", "a.b.c.svc.test."];
    assert_eq!(candidates(&files, "a.b.c", true), complete);
    for (host, search) in [("db", false), ("db.", true)] {
        assert_eq!(candidates(&files, host, search), ["db."]);
    }
    assert_eq!(candidates(&files, "localhost", true), ["localhost."]);
    let known = files.addresses(&name("db.local."), RecordType::A);
    assert_eq!(known, Some(ips(["192.0.2.9"])));
    assert_eq!(files.addresses(&name("db2."), RecordType::A), None);

    let bare = text("search only.test\n", "");
    assert!(bare.servers.is_empty());
    assert_eq!(candidates(&bare, "a", true), ["a.only.test.", "a."]);
    let none = text("", "");
    assert!(none.servers.is_empty());
    assert_eq!(candidates(&none, "a", true), ["a."]);
}
