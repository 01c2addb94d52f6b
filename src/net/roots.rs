//! What this system trusts.

use rustls::RootCertStore;

/// The authorities of the system. Some of its certificates may be beyond what can be read; only
/// none at all is an error.
///
/// # Errors
/// Why there are none.
pub fn system_roots() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable > 0 {
        return Ok(roots);
    }
    let reasons: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
    Err(if reasons.is_empty() {
        "there are none (install ca-certificates, or set SSL_CERT_FILE)".to_owned()
    } else {
        reasons.join("; ")
    })
}
