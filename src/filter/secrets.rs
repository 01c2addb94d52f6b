//! Secrets that filters name: what their control planes have sent for them so far.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::tls::SdsSecretConfig;

use super::http;

/// The secrets that the configuration of a filter names, or what a route says to one.
pub fn named_by(config: &TypedExtension) -> Vec<SdsSecretConfig> {
    let mut secrets = http::oauth2::secrets(config);
    secrets.extend(http::credential_injector::secrets(config));
    // These are no choices themselves.
    secrets.extend(
        http::match_delegate::inner(config)
            .iter()
            .flat_map(named_by),
    );
    secrets
}

/// Of the whole program, by name. A filter keeps a [`NamedSecret`] and asks it for each request, so that
/// a secret that is renewed makes no filter new.
#[derive(Debug, Default)]
pub struct Secrets(Mutex<HashMap<String, NamedSecret>>);

/// There is none until it has come, and none any more once it is gone: who needs it lets nobody in then.
#[derive(Clone, Default)]
pub struct NamedSecret(Arc<ArcSwapOption<Vec<u8>>>);

impl std::fmt::Debug for NamedSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

impl NamedSecret {
    pub fn get(&self) -> Option<Arc<Vec<u8>>> {
        self.0.load_full()
    }

    #[cfg(test)]
    pub fn of(bytes: &[u8]) -> Self {
        let secret = Self::default();
        secret.0.store(Some(Arc::new(bytes.to_vec())));
        secret
    }
}

impl Secrets {
    /// Of a name that a filter has.
    pub fn named(&self, name: &str) -> NamedSecret {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that nobody names any more, and that nobody has sent.
        all.retain(|_, secret| Arc::strong_count(&secret.0) > 1 || secret.0.load().is_some());
        all.entry(name.to_owned()).or_default().clone()
    }

    /// It has come or was renewed, or it is gone.
    pub fn set(&self, name: &str, value: Option<Vec<u8>>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match value {
            Some(value) => {
                let secret = all.entry(name.to_owned()).or_default();
                secret.0.store(Some(Arc::new(value)));
            }
            None => {
                if let Some(secret) = all.get(name) {
                    secret.0.store(None);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_named_a_secret_sees_what_becomes_of_it() {
        let secrets = Secrets::default();
        let early = secrets.named("a");
        assert!(early.get().is_none());
        secrets.set("a", Some(b"1".to_vec()));
        let late = secrets.named("a");
        assert_eq!(early.get().as_deref(), late.get().as_deref());
        assert_eq!(late.get().unwrap().as_slice(), b"1");
        secrets.set("a", None);
        assert!(early.get().is_none() && late.get().is_none());
        assert!(!format!("{secrets:?}").contains('1'));
    }
}
