//! A name server that takes signed updates of TXT records and leads every name to this machine.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::tsig::TsigAlgorithm;
use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType, TSigResponseContext, TSigner};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

pub const KEY_NAME: &str = "causeway.test";
/// "a key of the tests".
pub const KEY: &str = "YSBrZXkgb2YgdGhlIHRlc3Rz";

#[derive(Clone, Default)]
struct Records(Arc<Mutex<Vec<Record>>>);

/// The name server. Its tasks end with the runtime of the test.
pub struct Zone {
    /// For updates over TCP.
    pub updates: SocketAddr,
    /// For questions over UDP.
    pub dns: SocketAddr,
    records: Records,
    seen: Arc<Mutex<Vec<Message>>>,
}

impl Zone {
    pub async fn start() -> Self {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let zone = Self {
            updates: tcp.local_addr().unwrap(),
            dns: udp.local_addr().unwrap(),
            records: Records::default(),
            seen: Arc::default(),
        };
        let (records, seen) = (zone.records.clone(), Arc::clone(&zone.seen));
        tokio::spawn(async move {
            while let Ok((stream, _)) = tcp.accept().await {
                tokio::spawn(update(stream, records.clone(), Arc::clone(&seen)));
            }
        });
        tokio::spawn(answer(udp, zone.records.clone()));
        zone
    }

    /// TXT records that are there now.
    pub fn records(&self) -> usize {
        self.records.0.lock().unwrap().len()
    }

    /// Updates that were carried out.
    pub fn updated(&self) -> Vec<Message> {
        self.seen.lock().unwrap().clone()
    }
}

fn signer() -> TSigner {
    let key = b"a key of the tests".to_vec();
    let name = Name::from_ascii(KEY_NAME).unwrap();
    TSigner::new(key, TsigAlgorithm::HmacSha256, name, 300).unwrap()
}

async fn update(mut stream: TcpStream, records: Records, seen: Arc<Mutex<Vec<Message>>>) {
    let length = stream.read_u16().await.unwrap();
    let mut bytes = vec![0; length.into()];
    stream.read_exact(&mut bytes).await.unwrap();
    let message = Message::from_vec(&bytes).unwrap();
    let mut response = Message::response(message.id, OpCode::Update);
    match signer().verify_message_byte(&bytes, None, true) {
        Err(_) => response.metadata.response_code = ResponseCode::NotAuth,
        Ok((mac, ..)) => {
            for record in message.authorities.clone() {
                let mut records = records.0.lock().unwrap();
                match record.dns_class {
                    DNSClass::NONE => {
                        records.retain(|r| r.name != record.name || r.data != record.data);
                    }
                    _ => records.push(record),
                }
            }
            seen.lock().unwrap().push(message.clone());
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            let context = TSigResponseContext::new(message.id, now.as_secs(), signer(), mac, None);
            let unsigned = response.to_vec().unwrap();
            response.set_signature(context.sign(&unsigned).unwrap());
        }
    }
    let bytes = response.to_vec().unwrap();
    let length = u16::try_from(bytes.len()).unwrap();
    stream.write_u16(length).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
}

async fn answer(socket: UdpSocket, records: Records) {
    let mut buffer = vec![0; 4096];
    while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
        let Ok(message) = Message::from_vec(&buffer[..length]) else {
            continue;
        };
        let mut response = Message::response(message.id, OpCode::Query);
        response.metadata.recursion_available = true;
        for query in &message.queries {
            response.add_query(query.clone());
            let name = query.name().clone();
            match query.query_type() {
                RecordType::A => {
                    let here = RData::A(A(Ipv4Addr::LOCALHOST));
                    response.add_answer(Record::from_rdata(name, 1, here));
                }
                // Names of both families begin with this.
                RecordType::AAAA if name.to_ascii().starts_with("both.") => {
                    let here = RData::AAAA(AAAA(Ipv6Addr::LOCALHOST));
                    response.add_answer(Record::from_rdata(name, 1, here));
                }
                RecordType::TXT => {
                    let all = records.0.lock().unwrap().clone();
                    let same = |r: &Record| r.name.to_lowercase() == name.to_lowercase();
                    response.add_answers(all.into_iter().filter(same));
                }
                _ => {}
            }
        }
        socket.send_to(&response.to_vec().unwrap(), peer).await.ok();
    }
}
