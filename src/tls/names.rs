//! What a certificate says of its owner.

use std::net::IpAddr;

use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate, X509Name};

/// The names in a certificate, as they are told to others. What cannot be read is not there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// As RFC 2253 writes it: `CN=app,O=Example`.
    pub subject: String,
    pub issuer: String,
    /// Hexadecimal digits.
    pub serial: String,
    pub uris: Vec<String>,
    pub dns: Vec<String>,
    pub emails: Vec<String>,
    /// IP addresses as text (RFC 5952).
    pub addresses: Vec<String>,
    /// Texts of other kinds, by object identifier.
    pub others: Vec<(String, String)>,
}

impl Names {
    pub fn of(der: &[u8]) -> Self {
        let Ok((_, cert)) = X509Certificate::from_der(der) else {
            return Self::default();
        };
        let mut names = Self {
            subject: distinguished(cert.subject()),
            issuer: distinguished(cert.issuer()),
            serial: cert.serial.to_str_radix(16),
            ..Self::default()
        };
        let Ok(Some(extension)) = cert.subject_alternative_name() else {
            return names;
        };
        for name in &extension.value.general_names {
            match name {
                GeneralName::URI(uri) => names.uris.push((*uri).to_owned()),
                GeneralName::DNSName(name) => names.dns.push((*name).to_owned()),
                GeneralName::RFC822Name(email) => names.emails.push((*email).to_owned()),
                GeneralName::IPAddress(bytes) => {
                    let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
                    let v6 = || <[u8; 16]>::try_from(*bytes).map(IpAddr::from);
                    let address = v4.or_else(|_| v6());
                    names.addresses.extend(address.map(|ip| ip.to_string()));
                }
                GeneralName::OtherName(oid, value) => {
                    let text = text_of(value).map(|text| (oid.to_id_string(), text.to_owned()));
                    names.others.extend(text);
                }
                _ => {}
            }
        }
        names
    }
}

/// The text of an `otherName` (RFC 5280 section 4.2.1.6): tagged once more, and a string of UTF-8 or of
/// a part of it.
fn text_of(value: &[u8]) -> Option<&str> {
    const EXPLICIT: u8 = 0xa0;
    const TEXTS: [u8; 3] = [0x0c, 0x13, 0x16];
    let (tag, inside) = element(value)?;
    let (kind, text) = element(inside).filter(|_| tag == EXPLICIT)?;
    std::str::from_utf8(text)
        .ok()
        .filter(|_| TEXTS.contains(&kind))
}

/// The tag and the content of the first element (X.690 section 8.1), which has to be all there is.
fn element(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, content) = match first {
        0..=0x7f => (usize::from(*first), rest),
        0x81 => rest
            .split_first()
            .map(|(n, rest)| (usize::from(*n), rest))?,
        0x82 => rest
            .split_first_chunk()
            .map(|(n, rest)| (usize::from(u16::from_be_bytes(*n)), rest))?,
        _ => return None,
    };
    (content.len() == length).then_some((*tag, content))
}

/// The short names of RFC 2253 and the usual ones besides.
const ATTRIBUTES: [(&str, &str); 13] = [
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
    ("2.5.4.3", "CN"),
    ("2.5.4.4", "SN"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "street"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.42", "GN"),
];

/// The last part first, parts of one rank joined by `+`.
fn distinguished(name: &X509Name<'_>) -> String {
    let ranks: Vec<_> = name.iter_rdn().collect();
    let text = |rank: &x509_parser::x509::RelativeDistinguishedName<'_>| {
        let parts = rank.iter().map(|part| {
            let id = part.attr_type().to_id_string();
            let known = ATTRIBUTES.iter().find(|(oid, _)| *oid == id);
            let key = known.map_or(&*id, |(_, name)| name);
            let mut text = format!("{key}=");
            escape(part.as_str().unwrap_or_default(), &mut text);
            text
        });
        parts.collect::<Vec<_>>().join("+")
    };
    let ranks: Vec<_> = ranks.into_iter().rev().map(text).collect();
    ranks.join(",")
}

/// RFC 2253 section 2.4. Bytes that are no visible ASCII are written as hexadecimal digits, so that
/// the text may stand in a header.
fn escape(value: &str, text: &mut String) {
    let last = value.len().saturating_sub(1);
    for (at, byte) in value.bytes().enumerate() {
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => {
                text.push('\\');
                text.push(char::from(byte));
            }
            b'#' if at == 0 => text.push_str("\\#"),
            b' ' if at == 0 || at == last => text.push_str("\\ "),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => text.push_str(&format!("\\{byte:02X}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    #[test]
    fn names_are_read_as_others_write_them() {
        let mut params = CertificateParams::new(["app.test".to_owned()]).unwrap();
        let name = &mut params.distinguished_name;
        *name = rcgen::DistinguishedName::new();
        name.push(DnType::CountryName, "KR");
        name.push(DnType::OrganizationName, "A, \"B\" <C> + é");
        name.push(DnType::CommonName, " app ");
        let uri = "spiffe://a/b".try_into().unwrap();
        params.subject_alt_names.push(SanType::URI(uri));
        let email = "a@b.test".try_into().unwrap();
        params.subject_alt_names.push(SanType::Rfc822Name(email));
        for address in ["10.1.2.3", "2001:DB8:0::1"] {
            let address = address.parse().unwrap();
            params.subject_alt_names.push(SanType::IpAddress(address));
        }
        let long = "long".repeat(50);
        for text in ["user@realm", long.as_str()] {
            let oid = vec![1, 3, 6, 1, 4, 1, 311, 20, 2, 3];
            let other = SanType::OtherName((oid, text.into()));
            params.subject_alt_names.push(other);
        }
        params.serial_number = Some(0x1f2e_u64.into());
        let cert = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let names = Names::of(cert.der());
        assert_eq!(
            names.subject,
            "CN=\\ app\\ ,O=A\\, \\\"B\\\" \\<C\\> \\+ \\C3\\A9,C=KR"
        );
        assert_eq!(names.issuer, names.subject);
        assert_eq!(names.serial, "1f2e");
        assert_eq!(names.dns, ["app.test"]);
        assert_eq!(names.uris, ["spiffe://a/b"]);
        assert_eq!(names.emails, ["a@b.test"]);
        assert_eq!(names.addresses, ["10.1.2.3", "2001:db8::1"]);
        let upn = |text: &str| ("1.3.6.1.4.1.311.20.2.3".to_owned(), text.to_owned());
        let others = [upn("user@realm"), upn(&long)];
        assert_eq!(names.others, others);
        assert_eq!(Names::of(b"nonsense"), Names::default());
    }
}
