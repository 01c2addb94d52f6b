//! Certificates that come and go while listeners stand: those that the program gets by itself.
//!
//! One store for the whole process. Listeners look into it at each handshake, so a renewed
//! certificate is in use at once, and what is open does not notice.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, crypto};
use rustls_acme::acme::ACME_TLS_ALPN_NAME;
use rustls_acme::is_tls_alpn_challenge;
use rustls_pki_types::PrivateKeyDer;
use tokio::sync::{mpsc, oneshot};

use super::{TlsError, config, provider};

/// How long a handshake waits for the certificate of a host that is asked for the first time. A
/// browser waits longer; a caller behind it may not.
const FIRST_CERTIFICATE: Duration = Duration::from_secs(8);
/// Hosts that may wait to be looked at. A full queue only means the stand-in for the next one.
const QUEUE: usize = 64;

/// A host that a client has asked for and that there is no certificate for.
#[derive(Debug)]
pub struct Signal {
    /// Lower case.
    pub host: String,
    /// Answered, or dropped, when there is nothing to wait for any more.
    pub answer: oneshot::Sender<()>,
}

/// The certificates by name.
pub struct Automatic {
    held: ArcSwap<Held>,
    /// Shown while there is no other: a handshake that fails would tell a user less.
    stand_in: Arc<CertifiedKey>,
    /// For clients that name no server, or one that nobody certifies.
    default_name: Option<String>,
    /// The domain whose hosts are certified when they are asked for, with its dot.
    on_demand: Option<String>,
    wanted: mpsc::Sender<Signal>,
}

#[derive(Clone, Default)]
struct Held {
    /// Names may begin with `*.`.
    certificates: HashMap<String, Arc<CertifiedKey>>,
    /// What proves to the authority that a name is ours (RFC 8737).
    challenges: HashMap<String, Arc<CertifiedKey>>,
}

impl fmt::Debug for Automatic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = self.held.load();
        let names: Vec<_> = held.certificates.keys().collect();
        f.debug_struct("Automatic").field("names", &names).finish()
    }
}

impl Automatic {
    /// `domains` are certified in any case, `on_demand` is as in [`crate::config::Acme::circuits`].
    /// The receiver hears of hosts below it that have no certificate.
    ///
    /// # Errors
    /// No key can be made.
    pub fn new(
        domains: &[String],
        on_demand: Option<String>,
    ) -> Result<(Arc<Self>, mpsc::Receiver<Signal>), TlsError> {
        let (wanted, asked) = mpsc::channel(QUEUE);
        let automatic = Self {
            held: ArcSwap::default(),
            stand_in: Arc::new(stand_in(domains)?),
            default_name: domains.first().cloned(),
            on_demand,
            wanted,
        };
        Ok((Arc::new(automatic), asked))
    }

    /// Puts a certificate in force, in the place of an earlier one.
    pub fn install(&self, name: &str, key: Arc<CertifiedKey>) {
        self.change(|held| {
            held.certificates.insert(name.to_owned(), Arc::clone(&key));
        });
    }

    pub fn remove(&self, name: &str) {
        self.change(|held| {
            held.certificates.remove(name);
        });
    }

    /// From now until [`Self::challenge_done`] the authority is shown this for `name`.
    pub fn challenge(&self, name: &str, key: Arc<CertifiedKey>) {
        self.change(|held| {
            held.challenges.insert(name.to_owned(), Arc::clone(&key));
        });
    }

    pub fn challenge_done(&self, name: &str) {
        self.change(|held| {
            held.challenges.remove(name);
        });
    }

    fn change(&self, change: impl Fn(&mut Held)) {
        self.held.rcu(|held| {
            let mut held = Held::clone(held);
            change(&mut held);
            held
        });
    }

    fn certified(&self, host: &str) -> Option<Arc<CertifiedKey>> {
        let held = self.held.load();
        let exact = held.certificates.get(host);
        // A star stands for exactly one label (RFC 9525 section 6.3).
        let below = || {
            let (_, domain) = host.split_once('.')?;
            held.certificates.get(&format!("*.{domain}"))
        };
        exact.or_else(below).cloned()
    }

    fn of(&self, server_name: Option<&str>) -> Arc<CertifiedKey> {
        let named = server_name.and_then(|name| self.certified(&name.to_ascii_lowercase()));
        let default = || {
            let held = self.held.load();
            held.certificates.get(self.default_name.as_ref()?).cloned()
        };
        let found = named.or_else(default);
        found.unwrap_or_else(|| Arc::clone(&self.stand_in))
    }

    /// The certificate that a handshake with this name shows.
    pub(super) fn shown(&self, server_name: Option<&str>) -> Arc<CertifiedKey> {
        self.of(server_name)
    }

    /// Waits, for a while, for the certificate of a host that has none yet and may have one. The
    /// authority itself never waits: its handshake is what the certificate is made of.
    pub(super) async fn prepare(&self, hello: &ClientHello<'_>) {
        let Some(domain) = &self.on_demand else {
            return;
        };
        let Some(name) = hello.server_name().map(str::to_ascii_lowercase) else {
            return;
        };
        let label = name.strip_suffix(domain.as_str());
        let below = label.is_some_and(|label| !label.is_empty() && !label.contains('.'));
        if !below || is_tls_alpn_challenge(hello) || self.certified(&name).is_some() {
            return;
        }
        let (answer, answered) = oneshot::channel();
        let wanted = Signal { host: name, answer };
        if self.wanted.try_send(wanted).is_ok() {
            // An error, in time or not, says that the stand-in has to do.
            let _ = tokio::time::timeout(FIRST_CERTIFICATE, answered).await;
        }
    }

    /// For a server of HTTP/1.1 that is no listener of the data plane.
    ///
    /// # Errors
    /// The provider cannot do what is asked of it.
    pub fn server_config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, TlsError> {
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(config)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(self) as _);
        server.alpn_protocols = vec![b"http/1.1".to_vec(), ACME_TLS_ALPN_NAME.to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Arc::new(server))
    }
}

impl ResolvesServerCert for Automatic {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if is_tls_alpn_challenge(&hello) {
            let name = hello.server_name()?.to_ascii_lowercase();
            return self.held.load().challenges.get(&name).cloned();
        }
        Some(self.of(hello.server_name()))
    }
}

/// Signed by itself, for the names to come, so that whoever looks sees what is meant.
fn stand_in(domains: &[String]) -> Result<CertifiedKey, TlsError> {
    let names = match domains {
        [] => vec!["causeway.invalid".to_owned()],
        some => some.to_vec(),
    };
    let wrong = |error: rcgen::Error| TlsError::Config(format!("stand-in certificate: {error}"));
    let mut params = rcgen::CertificateParams::new(names).map_err(wrong)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    let told = "Causeway: certificate not obtained yet";
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, told);
    let key = rcgen::KeyPair::generate().map_err(wrong)?;
    let certificate = params.self_signed(&key).map_err(wrong)?;
    let signer = crypto::aws_lc_rs::sign::any_supported_type(&PrivateKeyDer::from(key));
    let signer = signer.map_err(config)?;
    Ok(CertifiedKey::new(vec![certificate.der().clone()], signer))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certified(name: &str) -> Arc<CertifiedKey> {
        Arc::new(stand_in(&[name.to_owned()]).unwrap())
    }

    #[test]
    fn a_star_stands_for_one_label_and_an_exact_name_comes_first() {
        let domains = ["*.apps.test".to_owned()];
        let (automatic, _asked) = Automatic::new(&domains, None).unwrap();
        let stand_in = Arc::clone(&automatic.stand_in);
        let shows =
            |name: Option<&str>, key: &Arc<CertifiedKey>| Arc::ptr_eq(&automatic.of(name), key);
        assert!(shows(Some("a.apps.test"), &stand_in) && shows(None, &stand_in));

        let (star, exact) = (certified("*.apps.test"), certified("a.apps.test"));
        automatic.install("*.apps.test", Arc::clone(&star));
        automatic.install("a.apps.test", Arc::clone(&exact));
        assert!(shows(Some("A.apps.test"), &exact));
        assert!(shows(Some("b.apps.test"), &star));
        for other in [None, Some("a.b.apps.test"), Some("apps.test"), Some("x")] {
            assert!(shows(other, &star), "the default for {other:?}");
        }
        automatic.remove("a.apps.test");
        assert!(shows(Some("a.apps.test"), &star));
    }
}
