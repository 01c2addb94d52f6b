//! The account with the authority. Its key is made once and kept.

use instant_acme::{Account, AccountBuilder, AccountCredentials, ExternalAccountKey, NewAccount};
use tokio::sync::Mutex;

use super::Failure;
use super::http::Client;
use super::store::Store;
use crate::config::Acme;

/// The authority does not know the account any more (RFC 8555 section 6.7).
const UNKNOWN: &str = "accountDoesNotExist";

/// What the certificates come from.
pub(super) struct Authority {
    pub(super) config: Acme,
    pub(super) store: Store,
    client: Client,
    open: Mutex<Option<Opened>>,
}

/// An account that can be used.
#[derive(Clone)]
pub(super) struct Opened {
    pub(super) account: Account,
    /// PKCS #8.
    pub(super) key: Vec<u8>,
}

impl Authority {
    /// # Errors
    /// The authorities for the directory's own certificate cannot be read.
    pub(super) fn new(config: Acme, store: Store) -> anyhow::Result<Self> {
        Ok(Self {
            client: Client::new(config.ca.as_deref())?,
            config,
            store,
            open: Mutex::default(),
        })
    }

    /// The account of the store; a new one when there is none.
    pub(super) async fn account(&self) -> Result<Opened, Failure> {
        let mut open = self.open.lock().await;
        if let Some(opened) = &*open {
            return Ok(opened.clone());
        }
        let opened = match self.stored()? {
            Some(credentials) => {
                let key = credentials.private_key().secret_pkcs8_der().to_vec();
                let account = self.builder().from_credentials(credentials).await?;
                Opened { account, key }
            }
            None => self.register().await?,
        };
        *open = Some(opened.clone());
        Ok(opened)
    }

    /// After a failure: whether it was for want of an account, and the next attempt will open
    /// another. An authority that was set up again has forgotten those it had.
    pub(super) async fn forget_if_unknown(&self, failure: &Failure) -> bool {
        let unknown = matches!(failure, Failure::Refused(text) if text.contains(UNKNOWN));
        if unknown {
            *self.open.lock().await = None;
            if let Err(error) = self.store.remove_account() {
                tracing::warn!(%error, "cannot forget the ACME account");
            }
        }
        unknown
    }

    fn builder(&self) -> AccountBuilder {
        Account::builder_with_http(Box::new(self.client.clone()))
    }

    fn stored(&self) -> Result<Option<AccountCredentials>, Failure> {
        let found = self.store.account();
        let found = found.map_err(|e| Failure::Store(format!("account.json: {e}")))?;
        let Some(text) = found else {
            return Ok(None);
        };
        // Not the reason: it might quote the key.
        let broken = |_| Failure::Store("account.json cannot be read".to_owned());
        serde_json::from_slice(&text).map(Some).map_err(broken)
    }

    async fn register(&self) -> Result<Opened, Failure> {
        let contact: Vec<&str> = self.config.contact.iter().map(String::as_str).collect();
        let new = NewAccount {
            contact: &contact,
            terms_of_service_agreed: true,
            only_return_existing: false,
        };
        let eab = self.config.eab.as_ref();
        let eab = eab.map(|eab| ExternalAccountKey::new(eab.key_id.clone(), &eab.hmac_key()));
        let url = self.config.directory.clone();
        let (account, credentials) = self.builder().create(&new, url, eab.as_ref()).await?;
        let key = credentials.private_key().secret_pkcs8_der().to_vec();
        tracing::info!(id = account.id(), "ACME account registered");
        let written = serde_json::to_vec(&credentials)
            .map_err(std::io::Error::other)
            .and_then(|text| self.store.write_account(&text));
        if let Err(error) = written {
            tracing::error!(%error, "cannot keep the ACME account; a restart opens another");
        }
        Ok(Opened { account, key })
    }
}
