//! What the filter's cookies are protected with: a signature over all of them, and each token sealed.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The secret that all nodes of one application share.
pub struct Sealer<'s>(pub &'s [u8]);

impl Sealer<'_> {
    /// Of parts, none of which can be taken for a piece of another.
    pub fn sign(&self, parts: &[&[u8]]) -> String {
        let mut text = Vec::new();
        for part in parts {
            text.extend_from_slice(&(part.len() as u64).to_be_bytes());
            text.extend_from_slice(part);
        }
        let tag = sign(&Key::new(HMAC_SHA256, self.0), &text);
        URL_SAFE_NO_PAD.encode(tag.as_ref())
    }

    pub fn verifies(&self, parts: &[&[u8]], signature: &str) -> bool {
        verify_slices_are_equal(self.sign(parts).as_bytes(), signature.as_bytes()).is_ok()
    }

    fn key(&self) -> Option<RandomizedNonceKey> {
        // Another key than that of the signatures.
        let key = sign(&Key::new(HMAC_SHA256, self.0), b"sealing of cookies");
        RandomizedNonceKey::new(&AES_256_GCM, key.as_ref()).ok()
    }

    /// A text for the cookie of this name, and of no other.
    pub fn seal(&self, name: &str, text: &str) -> Option<String> {
        let mut data = text.as_bytes().to_vec();
        let aad = Aad::from(name.as_bytes());
        let nonce = self.key()?.seal_in_place_append_tag(aad, &mut data).ok()?;
        let mut whole = nonce.as_ref().to_vec();
        whole.extend_from_slice(&data);
        Some(URL_SAFE_NO_PAD.encode(whole))
    }

    pub fn open(&self, name: &str, sealed: &str) -> Option<String> {
        let whole = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let (nonce, data) = whole.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut data = data.to_vec();
        let aad = Aad::from(name.as_bytes());
        let text = self.key()?.open_in_place(nonce, aad, &mut data).ok()?;
        String::from_utf8(text.to_vec()).ok()
    }
}

/// So many random bytes, as text that may stand in a URL.
pub fn random<const N: usize>() -> Option<String> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).ok()?;
    Some(URL_SAFE_NO_PAD.encode(bytes))
}

/// The challenge that goes with a verifier (RFC 7636 section 4.2, `S256`).
pub fn challenge(verifier: &str) -> String {
    URL_SAFE_NO_PAD.encode(digest(&SHA256, verifier.as_bytes()).as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_is_opened_by_its_name_and_key_only() {
        let sealer = Sealer(b"one secret");
        let sealed = sealer.seal("a", "token").unwrap();
        assert!(!sealed.contains("token"));
        assert_eq!(sealer.open("a", &sealed).as_deref(), Some("token"));
        assert_eq!(sealer.open("b", &sealed), None);
        assert_eq!(Sealer(b"another").open("a", &sealed), None);
        assert_eq!(sealer.open("a", &sealed[1..]), None);
        assert_eq!(sealer.open("a", ""), None);
    }

    #[test]
    fn parts_are_not_taken_for_one_another() {
        let sealer = Sealer(b"one secret");
        let signature = sealer.sign(&[b"ab", b"c"]);
        assert!(sealer.verifies(&[b"ab", b"c"], &signature));
        assert!(!sealer.verifies(&[b"a", b"bc"], &signature));
        assert!(!Sealer(b"another").verifies(&[b"ab", b"c"], &signature));
    }

    #[test]
    fn the_challenge_is_that_of_the_standard() {
        // RFC 7636, appendix B.
        let verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        let expected = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
        assert_eq!(challenge(verifier), expected);
        assert_ne!(random::<32>(), random::<32>());
    }
}
