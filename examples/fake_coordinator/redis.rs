//! A Redis of a few commands, in memory, for tests and examples.
//!
//! It speaks RESP2, keeps texts, hashes and times to live, and carries messages. It can be stopped
//! and started again on its port, can play dead, can lose its role, and can be a sentinel. Each
//! user needs a part of that.
#![allow(dead_code)]

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle};

#[path = "resp.rs"]
mod resp;

use resp::{Answer, array, bulk, error, number, status};

/// The server. Its data outlive [`FakeRedis::stop`], and end with it.
pub struct FakeRedis {
    address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
    accepting: Option<JoinHandle<()>>,
}

pub type Bytes = Vec<u8>;
type Outgoing = mpsc::UnboundedSender<Bytes>;

#[derive(Default)]
struct Shared {
    databases: HashMap<i64, HashMap<String, Entry>>,
    /// By channel, then by connection.
    subscribers: HashMap<String, HashMap<u64, Outgoing>>,
    connections: HashMap<u64, AbortHandle>,
    accepted: u64,
    commands: Vec<String>,
    published: Vec<(String, Bytes)>,
    password: Option<String>,
    /// Masters by name, for whoever asks as if this were a sentinel.
    masters: HashMap<String, SocketAddr>,
    /// Takes everything in and answers nothing.
    deaf: bool,
    replica: bool,
}

struct Entry {
    value: Kept,
    until: Option<Instant>,
}

enum Kept {
    Text(Bytes),
    Hash(HashMap<String, Bytes>),
}

/// What a connection has told about itself.
struct Client {
    id: u64,
    db: i64,
    admitted: bool,
    subscribed: usize,
    outgoing: Outgoing,
}

impl FakeRedis {
    /// Listens on loopback, on a port that the system chooses.
    pub async fn start() -> io::Result<Self> {
        Self::start_at(([127, 0, 0, 1], 0).into()).await
    }

    pub async fn start_at(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let mut server = Self {
            address: listener.local_addr()?,
            shared: Arc::default(),
            accepting: None,
        };
        server.accept(listener);
        Ok(server)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes everything; the port refuses connections.
    pub async fn stop(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
            // The listener is gone once its task is.
            accepting.await.ok();
        }
        self.drop_connections();
    }

    /// Listens again where it did before.
    pub async fn restart(&mut self) -> io::Result<()> {
        self.stop().await;
        let listener = TcpListener::bind(self.address).await?;
        self.accept(listener);
        Ok(())
    }

    pub fn drop_connections(&self) {
        let mut shared = self.shared();
        shared
            .connections
            .drain()
            .for_each(|(_, task)| task.abort());
        shared.subscribers.clear();
    }

    /// Keeps connections open and answers nothing on them, or answers again.
    pub fn set_deaf(&self, deaf: bool) {
        self.shared().deaf = deaf;
    }

    /// A replica refuses to write, and says what it is.
    pub fn set_replica(&self, replica: bool) {
        self.shared().replica = replica;
    }

    /// From now on connections have to authenticate themselves.
    pub fn set_password(&self, password: &str) {
        self.shared().password = Some(password.to_owned());
    }

    /// Makes this a sentinel that names a master.
    pub fn set_master(&self, name: &str, address: SocketAddr) {
        self.shared().masters.insert(name.to_owned(), address);
    }

    pub fn set(&self, db: i64, key: &str, value: &str) {
        let entry = Entry::lasting(Kept::Text(value.into()));
        self.shared().database(db).insert(key.to_owned(), entry);
    }

    pub fn get(&self, db: i64, key: &str) -> Option<String> {
        let bytes = self.bytes(db, key)?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    pub fn bytes(&self, db: i64, key: &str) -> Option<Bytes> {
        match &self.shared().database(db).get(key)?.value {
            Kept::Text(bytes) => Some(bytes.clone()),
            Kept::Hash(_) => None,
        }
    }

    pub fn hash(&self, db: i64, key: &str) -> HashMap<String, String> {
        match self
            .shared()
            .database(db)
            .get(key)
            .map(|entry| &entry.value)
        {
            Some(Kept::Hash(fields)) => {
                let text = |value: &Bytes| String::from_utf8_lossy(value).into_owned();
                fields
                    .iter()
                    .map(|(field, value)| (field.clone(), text(value)))
                    .collect()
            }
            _ => HashMap::new(),
        }
    }

    /// How long a key has left; `None` if it is not there or lasts for ever.
    pub fn ttl(&self, db: i64, key: &str) -> Option<Duration> {
        let until = self.shared().database(db).get(key)?.until?;
        Some(until.saturating_duration_since(Instant::now()))
    }

    pub fn keys(&self, db: i64) -> Vec<String> {
        let mut keys: Vec<String> = self.shared().database(db).keys().cloned().collect();
        keys.sort();
        keys
    }

    /// Says something to all subscribers of a channel; tells how many those were.
    pub fn publish(&self, channel: &str, message: &[u8]) -> i64 {
        self.shared().publish(channel, message)
    }

    pub fn subscribers(&self, channel: &str) -> usize {
        self.shared()
            .subscribers
            .get(channel)
            .map_or(0, HashMap::len)
    }

    /// What clients have said on a channel, in order, whether anybody heard it or not.
    pub fn published(&self, channel: &str) -> Vec<Bytes> {
        let shared = self.shared();
        let said = shared.published.iter().filter(|(on, _)| on == channel);
        said.map(|(_, message)| message.clone()).collect()
    }

    /// How many connections have ever been accepted.
    pub fn accepted(&self) -> u64 {
        self.shared().accepted
    }

    /// Every command that came, in upper case and without its arguments.
    pub fn commands(&self) -> Vec<String> {
        self.shared().commands.clone()
    }

    fn accept(&mut self, listener: TcpListener) {
        let shared = Arc::clone(&self.shared);
        self.accepting = Some(tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut locked = lock(&shared);
                locked.accepted += 1;
                let id = locked.accepted;
                let serving = tokio::spawn(serve(stream, id, Arc::clone(&shared)));
                locked.connections.insert(id, serving.abort_handle());
            }
        }));
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        lock(&self.shared)
    }
}

impl Drop for FakeRedis {
    fn drop(&mut self) {
        if let Some(accepting) = &self.accepting {
            accepting.abort();
        }
        self.drop_connections();
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(stream: TcpStream, id: u64, shared: Arc<Mutex<Shared>>) {
    let (mut read, mut write) = stream.into_split();
    let (outgoing, mut queue) = mpsc::unbounded_channel::<Bytes>();
    let mut client = Client {
        id,
        db: 0,
        admitted: lock(&shared).password.is_none(),
        subscribed: 0,
        outgoing,
    };
    let mut buffer = Vec::new();
    loop {
        tokio::select! {
            Some(answer) = queue.recv() => {
                if write.write_all(&answer).await.is_err() {
                    break;
                }
            }
            got = read.read_buf(&mut buffer) => {
                if !matches!(got, Ok(n) if n > 0) {
                    break;
                }
                while let Some((command, length)) = resp::command(&buffer) {
                    buffer.drain(..length);
                    let mut shared = lock(&shared);
                    if shared.deaf {
                        continue;
                    }
                    let answer = shared.execute(&command, &mut client);
                    client.outgoing.send(answer).ok();
                }
            }
        }
    }
    let mut shared = lock(&shared);
    shared.connections.remove(&id);
    for subscribers in shared.subscribers.values_mut() {
        subscribers.remove(&id);
    }
}

impl Entry {
    fn lasting(value: Kept) -> Self {
        Self { value, until: None }
    }
}

impl Shared {
    fn execute(&mut self, command: &[Bytes], client: &mut Client) -> Answer {
        let text =
            |at: usize| String::from_utf8_lossy(command.get(at).map_or(b"", |a| a)).into_owned();
        let name = text(0).to_uppercase();
        self.commands.push(name.clone());
        if !client.admitted && !matches!(name.as_str(), "AUTH" | "HELLO" | "QUIT") {
            return error("NOAUTH Authentication required.");
        }
        let writes = matches!(
            name.as_str(),
            "SET" | "INCR" | "INCRBY" | "EXPIRE" | "HSET" | "DEL"
        );
        if writes && self.replica {
            return error("READONLY You can't write against a read only replica.");
        }
        match name.as_str() {
            "PING" if client.subscribed > 0 => array(&[bulk(b"pong"), bulk(text(1).as_bytes())]),
            "PING" => status("PONG"),
            "CLIENT" | "QUIT" => status("OK"),
            "AUTH" => self.authenticate(&text(command.len() - 1), client),
            "SELECT" => {
                client.db = text(1).parse().unwrap_or(0);
                status("OK")
            }
            "ROLE" if self.replica => array(&[bulk(b"slave"), bulk(b""), number(0)]),
            "ROLE" => array(&[bulk(b"master"), number(0), array(&[])]),
            "INFO" => bulk(b"# Server\r\nredis_version:7.0.0\r\n"),
            "SENTINEL" => match self.masters.get(&text(2)) {
                Some(master) => array(&[
                    bulk(master.ip().to_string().as_bytes()),
                    bulk(master.port().to_string().as_bytes()),
                ]),
                None => resp::nil_array(),
            },
            "PUBLISH" => {
                let message = command.get(2).cloned().unwrap_or_default();
                let heard = self.publish(&text(1), &message);
                self.published.push((text(1), message));
                number(heard)
            }
            "SUBSCRIBE" | "UNSUBSCRIBE" => self.subscribe(&name, &command[1..], client),
            _ => self.keep(&name, command, client.db),
        }
    }

    fn authenticate(&self, password: &str, client: &mut Client) -> Answer {
        match &self.password {
            None => error("ERR AUTH <password> called without any password configured"),
            Some(right) if right == password => {
                client.admitted = true;
                status("OK")
            }
            Some(_) => error("WRONGPASS invalid username-password pair or user is disabled."),
        }
    }

    fn subscribe(&mut self, name: &str, channels: &[Bytes], client: &mut Client) -> Answer {
        let mut answers = Vec::new();
        for channel in channels {
            let subscribers = self
                .subscribers
                .entry(String::from_utf8_lossy(channel).into_owned())
                .or_default();
            if name == "SUBSCRIBE" {
                subscribers.insert(client.id, client.outgoing.clone());
                client.subscribed += 1;
            } else if subscribers.remove(&client.id).is_some() {
                client.subscribed -= 1;
            }
            let count = i64::try_from(client.subscribed).unwrap_or(0);
            let kind = bulk(name.to_lowercase().as_bytes());
            answers.extend(array(&[kind, bulk(channel), number(count)]));
        }
        answers
    }

    fn publish(&self, channel: &str, message: &[u8]) -> i64 {
        let Some(subscribers) = self.subscribers.get(channel) else {
            return 0;
        };
        let push = array(&[bulk(b"message"), bulk(channel.as_bytes()), bulk(message)]);
        let sent = subscribers
            .values()
            .filter(|to| to.send(push.clone()).is_ok());
        i64::try_from(sent.count()).unwrap_or(0)
    }

    /// Commands on keys.
    fn keep(&mut self, name: &str, command: &[Bytes], db: i64) -> Answer {
        let text =
            |at: usize| String::from_utf8_lossy(command.get(at).map_or(b"", |a| a)).into_owned();
        let seconds = |at: usize| Duration::from_secs(text(at).parse().unwrap_or(0));
        let entries = self.database(db);
        let key = text(1);
        match name {
            "SET" => {
                let mut entry =
                    Entry::lasting(Kept::Text(command.get(2).cloned().unwrap_or_default()));
                if text(3).eq_ignore_ascii_case("EX") {
                    entry.until = Some(Instant::now() + seconds(4));
                }
                entries.insert(key, entry);
                status("OK")
            }
            "GET" => match entries.get(&key).map(|entry| &entry.value) {
                Some(Kept::Text(text)) => bulk(text),
                Some(Kept::Hash(_)) => error(resp::WRONG_TYPE),
                None => resp::nil(),
            },
            "INCR" | "INCRBY" => {
                let zero = || Entry::lasting(Kept::Text(b"0".to_vec()));
                let Kept::Text(kept) = &mut entries.entry(key).or_insert_with(zero).value else {
                    return error(resp::WRONG_TYPE);
                };
                let by = if name == "INCR" {
                    1
                } else {
                    text(2).parse().unwrap_or(0)
                };
                let Ok(before) = String::from_utf8_lossy(kept).parse::<i64>() else {
                    return error("ERR value is not an integer or out of range");
                };
                *kept = (before + by).to_string().into_bytes();
                number(before + by)
            }
            "EXPIRE" => match entries.get_mut(&key) {
                Some(entry) => {
                    entry.until = Some(Instant::now() + seconds(2));
                    number(1)
                }
                None => number(0),
            },
            "TTL" => match entries.get(&key).map(|entry| entry.until) {
                Some(Some(until)) => {
                    let left = until.saturating_duration_since(Instant::now());
                    number(i64::try_from(left.as_secs() + 1).unwrap_or(i64::MAX))
                }
                Some(None) => number(-1),
                None => number(-2),
            },
            "HSET" => {
                let empty = || Entry::lasting(Kept::Hash(HashMap::new()));
                let Kept::Hash(fields) = &mut entries.entry(key).or_insert_with(empty).value else {
                    return error(resp::WRONG_TYPE);
                };
                let pairs = command[2..].chunks_exact(2);
                let new = pairs.map(|pair| {
                    let field = String::from_utf8_lossy(&pair[0]).into_owned();
                    i64::from(fields.insert(field, pair[1].clone()).is_none())
                });
                number(new.sum())
            }
            "HGETALL" => match entries.get(&key).map(|entry| &entry.value) {
                Some(Kept::Hash(fields)) => {
                    let both = fields
                        .iter()
                        .flat_map(|(k, v)| [bulk(k.as_bytes()), bulk(v)]);
                    array(&both.collect::<Vec<_>>())
                }
                Some(Kept::Text(_)) => error(resp::WRONG_TYPE),
                None => array(&[]),
            },
            "DEL" => {
                let gone = (1..command.len()).filter(|at| entries.remove(&text(*at)).is_some());
                number(i64::try_from(gone.count()).unwrap_or(0))
            }
            "KEYS" => {
                let like = resp::pattern(&key);
                let found = entries
                    .keys()
                    .filter(|key| like(key))
                    .map(|key| bulk(key.as_bytes()));
                array(&found.collect::<Vec<_>>())
            }
            _ => error(&format!("ERR unknown command '{name}'")),
        }
    }

    /// A database without what has expired.
    fn database(&mut self, db: i64) -> &mut HashMap<String, Entry> {
        let entries = self.databases.entry(db).or_default();
        let now = Instant::now();
        entries.retain(|_, entry| entry.until.is_none_or(|until| until > now));
        entries
    }
}
