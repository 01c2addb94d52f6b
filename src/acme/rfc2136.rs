//! Records written by dynamic updates of DNS (RFC 2136), signed (RFC 8945), over TCP.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hickory_proto::op::{Message, ResponseCode, update_message};
use hickory_proto::rr::rdata::TXT;
use hickory_proto::rr::rdata::tsig::TsigAlgorithm as Algorithm;
use hickory_proto::rr::{Name, RData, Record, TSigner};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::Failure;
use crate::config::{Rfc2136, TsigAlgorithm};

/// For connecting, the update and the answer.
const UPDATE: Duration = Duration::from_secs(20);
/// Seconds that nobody remembers the record for longer than.
const TTL: u32 = 60;
/// Seconds that the clocks may differ by, as RFC 8945 section 10 recommends.
const FUDGE: u16 = 300;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Add,
    Remove,
}

/// Adds the record, or removes it and leaves others of that name alone. `domain` is the zone when
/// none is configured.
pub(super) async fn update(
    config: &Rfc2136,
    change: Change,
    domain: &str,
    record: &str,
    value: &str,
) -> Result<(), Failure> {
    let server = &config.server;
    let wrong = |reason: String| Failure::Dns(format!("{server}: {reason}"));
    let signer = signer(config).map_err(wrong)?;
    let zone = config.zone.as_deref().unwrap_or(domain);
    let mut message = message(change, zone, record, value).map_err(wrong)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.unwrap_or_default().as_secs();
    let verifier = message
        .finalize(&signer, now)
        .map_err(|e| wrong(e.to_string()))?;
    let query = message.to_vec().map_err(|e| wrong(e.to_string()))?;
    let answer = match tokio::time::timeout(UPDATE, exchange(server, &query)).await {
        Ok(answer) => answer.map_err(|e| wrong(e.to_string()))?,
        Err(_) => return Err(Failure::Deadline("DNS update")),
    };
    let said = Message::from_vec(&answer).map_err(|e| wrong(e.to_string()))?;
    if said.id != message.id {
        return Err(wrong("answers something else".to_owned()));
    }
    if said.response_code != ResponseCode::NoError {
        let code = said.response_code;
        return Err(wrong(format!("refuses the update of {zone}: {code}")));
    }
    // Unsigned, anybody on the way might have said yes.
    let verified = verifier.map(|mut verifier| verifier.verify(&answer));
    match verified {
        Some(Ok(_)) => Ok(()),
        Some(Err(error)) => Err(wrong(format!("signature of the answer: {error}"))),
        None => Err(wrong("the answer is not signed".to_owned())),
    }
}

fn signer(config: &Rfc2136) -> Result<TSigner, String> {
    let algorithm = match config.algorithm {
        TsigAlgorithm::HmacSha256 => Algorithm::HmacSha256,
        TsigAlgorithm::HmacSha384 => Algorithm::HmacSha384,
        TsigAlgorithm::HmacSha512 => Algorithm::HmacSha512,
    };
    let name = absolute(&config.key_name)?;
    TSigner::new(config.key(), algorithm, name, FUDGE).map_err(|e| e.to_string())
}

fn absolute(name: &str) -> Result<Name, String> {
    let mut parsed = Name::from_ascii(name).map_err(|e| format!("{name}: {e}"))?;
    parsed.set_fqdn(true);
    Ok(parsed)
}

fn message(change: Change, zone: &str, record: &str, value: &str) -> Result<Message, String> {
    let (zone, name) = (absolute(zone)?, absolute(record)?);
    if !zone.zone_of(&name) {
        return Err(format!("{record} is not in the zone {zone}"));
    }
    let text = RData::TXT(TXT::new(vec![value.to_owned()]));
    let record = Record::from_rdata(name, TTL, text);
    Ok(match change {
        Change::Add => update_message::append(record.into(), zone, false, false),
        Change::Remove => update_message::delete_by_rdata(record.into(), zone, false),
    })
}

/// One message each way, each behind its length (RFC 1035 section 4.2.2).
async fn exchange(server: &str, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(query.len()).map_err(std::io::Error::other)?;
    let framed = [&length.to_be_bytes()[..], query].concat();
    stream.write_all(&framed).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}
