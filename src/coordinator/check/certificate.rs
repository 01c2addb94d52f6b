//! Whether a certificate can be used: that it can be read, that the key is its own, and its dates.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::crypto::{KeyProvider, aws_lc_rs};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::date::days;
use super::{Check, Outcome};

/// Less than this is left: somebody should know.
const SOON: Duration = Duration::from_secs(14 * 86_400);

pub fn check(chain: &Path, key: &Path, now: SystemTime) -> Check {
    let name = format!("certificate {}", chain.display());
    let (outcome, hint) = match read(chain, key) {
        Err(why) => (Outcome::Failed(why), "look at tls_cert and tls_privkey"),
        Ok(chain) => by_dates(&chain, now),
    };
    Check {
        name,
        outcome,
        hint,
    }
}

/// Nothing of the key is ever told but that it cannot be used.
fn read(chain: &Path, key: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let at = |path: &Path, why: String| format!("{}: {why}", path.display());
    let text = std::fs::read(chain).map_err(|e| at(chain, e.to_string()))?;
    let certificates = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| at(chain, e.to_string()))?;
    if certificates.is_empty() {
        return Err(at(chain, "holds no certificate".to_owned()));
    }
    let text = std::fs::read(key).map_err(|e| at(key, e.to_string()))?;
    let parsed = PrivateKeyDer::from_pem_slice(&text)
        .map_err(|_| at(key, "holds no private key in PEM form".to_owned()))?;
    let provider: &dyn KeyProvider = aws_lc_rs::default_provider().key_provider;
    let parsed = provider
        .load_private_key(parsed)
        .map_err(|_| at(key, "is of a kind that is not supported".to_owned()))?;
    let pair = CertifiedKey::new(certificates, parsed);
    match pair.keys_match() {
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(pair.cert),
        Err(_) => Err(at(key, "does not belong to the certificate".to_owned())),
    }
}

/// Every certificate of the chain counts: an expired one in the middle is as bad.
fn by_dates(chain: &[CertificateDer<'_>], now: SystemTime) -> (Outcome, &'static str) {
    let mut end: Option<SystemTime> = None;
    for certificate in chain {
        let Some((from, to)) = validity(certificate) else {
            let why = "its dates cannot be read".to_owned();
            return (Outcome::Failed(why), "this is no X.509 certificate");
        };
        if now < from {
            let why = format!("is not valid for another {}", in_days(from, now));
            return (Outcome::Failed(why), "look at the clock of this machine");
        }
        end = Some(end.map_or(to, |end| end.min(to)));
    }
    match end.map(|end| (end, end.duration_since(now))) {
        Some((_, Ok(left))) if left > SOON => (
            Outcome::Passed(format!("valid for {}", whole_days(left))),
            "",
        ),
        Some((_, Ok(left))) => (
            Outcome::Doubtful(format!("expires in {}", whole_days(left))),
            RENEW,
        ),
        Some((end, Err(_))) => (
            Outcome::Failed(format!("expired {} ago", in_days(now, end))),
            RENEW,
        ),
        None => (Outcome::Failed("holds no certificate".to_owned()), ""),
    }
}

const RENEW: &str = "renew it, then start the worker again";

fn in_days(later: SystemTime, earlier: SystemTime) -> String {
    whole_days(later.duration_since(earlier).unwrap_or_default())
}

fn whole_days(time: Duration) -> String {
    match time.as_secs() / 86_400 {
        0 => "less than a day".to_owned(),
        1 => "1 day".to_owned(),
        days => format!("{days} days"),
    }
}

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The dates of a certificate (RFC 5280, section 4.1): they follow version, serial number,
/// algorithm and issuer. Nothing else of it is looked at; whether it is sound is for TLS to say.
fn validity(der: &[u8]) -> Option<(SystemTime, SystemTime)> {
    let (certificate, _) = take(der, SEQUENCE)?;
    let (mut rest, _) = take(certificate, SEQUENCE)?;
    if rest.first() == Some(&VERSION) {
        rest = take(rest, VERSION)?.1;
    }
    for _ in ["serial number", "algorithm", "issuer"] {
        rest = take(rest, *rest.first()?)?.1;
    }
    let (validity, _) = take(rest, SEQUENCE)?;
    let (from, rest) = time(validity)?;
    let (to, _) = time(rest)?;
    Some((from, to))
}

/// The content of the first element, and what follows it.
fn take(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        // Four bytes are more than any certificate needs, and cannot overflow.
        let bytes = (bytes.len() <= 4).then_some(bytes)?;
        let length = bytes.iter().fold(0, |sum, b| sum << 8 | usize::from(*b));
        (length, rest)
    };
    (found == tag).then_some(())?;
    rest.split_at_checked(length)
}

fn time(der: &[u8]) -> Option<(SystemTime, &[u8])> {
    let tag = *der.first()?;
    let (text, rest) = take(der, tag)?;
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let (year, text) = match tag {
        UTC_TIME => {
            let (two, text) = text.split_at_checked(2)?;
            let two: u64 = two.parse().ok()?;
            (if two < 50 { 2000 + two } else { 1900 + two }, text)
        }
        GENERALIZED_TIME => {
            let (four, text) = text.split_at_checked(4)?;
            (four.parse().ok()?, text)
        }
        _ => return None,
    };
    let mut pairs = text.as_bytes().chunks(2).map(|pair| {
        let text = std::str::from_utf8(pair).ok()?;
        text.parse::<u64>().ok()
    });
    let mut next = || pairs.next().flatten();
    let (month, day) = (next()?, next()?);
    let (hour, minute, second) = (next()?, next()?, next()?);
    if !(1..=12).contains(&month) {
        return None;
    }
    // Before 1970 is long over, whenever it was.
    let days = days(year, month, day).unwrap_or(0);
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second;
    Some((UNIX_EPOCH + Duration::from_secs(seconds), rest))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn at(days_from_1970: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(days_from_1970 * 86_400)
    }

    /// Valid from 2020-01-01 (day 18,262) to the first of March of `year`.
    fn make(directory: &Path, year: i32) -> (std::path::PathBuf, std::path::PathBuf) {
        let mut params = CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(year, 3, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let chain = directory.join(format!("{year}.pem"));
        let private = directory.join(format!("{year}.key"));
        std::fs::write(&chain, certificate.pem()).unwrap();
        std::fs::write(&private, key.serialize_pem()).unwrap();
        (chain, private)
    }

    #[test]
    fn dates_are_looked_at() {
        let directory = tempfile::tempdir().unwrap();
        // 2030-03-01 is day 21,974; 2060-03-01, written in the other form, is day 32,932.
        let (chain, key) = make(directory.path(), 2030);
        let (far, far_key) = make(directory.path(), 2060);
        for (chain, key, now, expected) in [
            (
                &chain,
                &key,
                21_000,
                Outcome::Passed("valid for 974 days".into()),
            ),
            (
                &chain,
                &key,
                21_973,
                Outcome::Doubtful("expires in 1 day".into()),
            ),
            (
                &chain,
                &key,
                21_976,
                Outcome::Failed("expired 2 days ago".into()),
            ),
            (
                &chain,
                &key,
                18_260,
                Outcome::Failed("is not valid for another 2 days".into()),
            ),
            (
                &far,
                &far_key,
                32_900,
                Outcome::Passed("valid for 32 days".into()),
            ),
        ] {
            assert_eq!(check(chain, key, at(now)).outcome, expected);
        }
    }

    #[test]
    fn what_cannot_be_used_is_told_without_the_key() {
        let directory = tempfile::tempdir().unwrap();
        let (chain, key) = make(directory.path(), 2030);
        let (_, other) = make(directory.path(), 2031);
        let empty = directory.path().join("empty");
        std::fs::write(&empty, "").unwrap();
        for (chain, key, reason) in [
            (&chain, &other, "does not belong to the certificate"),
            (&empty, &key, "holds no certificate"),
            (&chain, &empty, "holds no private key"),
            (&directory.path().join("none"), &key, "No such file"),
        ] {
            match check(chain, key, at(21_000)).outcome {
                Outcome::Failed(why) => assert!(why.contains(reason), "{why}"),
                other => panic!("{other:?}"),
            }
        }
    }

    /// Whatever the bytes are, there is an answer.
    #[test]
    fn broken_certificates_do_no_harm() {
        let directory = tempfile::tempdir().unwrap();
        let (chain, _) = make(directory.path(), 2030);
        let pem = std::fs::read(chain).unwrap();
        let der = CertificateDer::from_pem_slice(&pem).unwrap().to_vec();
        assert!(validity(&der).is_some());
        let mut rng = fastrand::Rng::with_seed(3);
        for _ in 0..20_000 {
            let mut broken = der.clone();
            for _ in 0..rng.usize(1..4) {
                let at = rng.usize(..200.min(broken.len()));
                broken[at] = rng.u8(..);
            }
            broken.truncate(rng.usize(..=broken.len()));
            let _ = validity(&broken);
        }
    }
}
