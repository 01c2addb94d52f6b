//! One order: from a name to its certificate (RFC 8555 section 7.4).

use std::time::Duration;

use instant_acme::{
    AuthorizationStatus, CertificateIdentifier, Error, Identifier, NewOrder, Order, OrderStatus,
    RetryPolicy,
};
use rustls_pki_types::CertificateDer;
use tokio::time::timeout;

use super::Failure;
use super::account::Authority;
use super::proof::{self, Proof};
use crate::tls::Automatic;

/// Until the authority has the order, and the account.
const BEGIN: Duration = Duration::from_secs(120);
/// From the proof until the authority has looked at it, beyond the wait for DNS.
const PROVE: Duration = Duration::from_secs(180);
/// From the request until the certificate is there.
const FINISH: Duration = Duration::from_secs(120);
const POLL: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(250))
    .backoff(1.5)
    .timeout(Duration::from_secs(110));

/// A chain and its key, both PEM.
pub(super) struct Issued {
    pub(super) chain: String,
    pub(super) key: String,
}

/// Gets a certificate for `name`, in the place of `earlier` if there is one.
pub(super) async fn order(
    authority: &Authority,
    automatic: &Automatic,
    name: &str,
    earlier: Option<&CertificateDer<'_>>,
) -> Result<Issued, Failure> {
    let begun = timeout(BEGIN, async {
        let opened = authority.account().await?;
        let identifiers = [Identifier::Dns(name.to_owned())];
        let plain = || NewOrder::new(&identifiers);
        let replaces = earlier.and_then(|der| CertificateIdentifier::try_from(der).ok());
        let order = match replaces {
            None => opened.account.new_order(&plain()).await?,
            Some(replaces) => {
                let order = plain().replaces(replaces);
                match opened.account.new_order(&order).await {
                    // Not every authority keeps such books, and some hold that it was replaced
                    // already. A certificate is wanted all the same.
                    Err(Error::Unsupported(_) | Error::Api(_) | Error::Other(_)) => {
                        opened.account.new_order(&plain()).await?
                    }
                    other => other?,
                }
            }
        };
        Ok::<_, Failure>((opened, order))
    });
    let (opened, mut order) = begun.await.map_err(|_| Failure::Deadline("begin"))??;

    // Outside of what a deadline may cut off: it has to be taken away in any case.
    let mut proof = None;
    let proving = prove(
        authority,
        automatic,
        &opened.key,
        name,
        &mut order,
        &mut proof,
    );
    let limit = PROVE + authority.config.propagation;
    let proven = timeout(limit, proving).await;
    if let Some(proof) = proof {
        proof.withdraw(&authority.config, automatic).await;
    }
    proven.map_err(|_| Failure::Deadline("prove"))??;

    let finishing = async {
        let key = order.finalize().await?;
        let chain = order.poll_certificate(&POLL).await?;
        Ok::<_, Failure>(Issued { chain, key })
    };
    timeout(FINISH, finishing)
        .await
        .map_err(|_| Failure::Deadline("finish"))?
}

async fn prove(
    authority: &Authority,
    automatic: &Automatic,
    key: &[u8],
    name: &str,
    order: &mut Order,
    proof: &mut Option<Proof>,
) -> Result<(), Failure> {
    let config = &authority.config;
    let kind = proof::kind(config, name);
    // One name, so there is one.
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        match authorization.status {
            AuthorizationStatus::Pending => {}
            AuthorizationStatus::Valid => continue,
            other => return Err(Failure::Refused(format!("authorization is {other:?}"))),
        }
        let mut challenge = authorization.challenge(kind.clone()).ok_or_else(|| {
            Failure::Refused(format!("no challenge of the kind {kind:?} is offered"))
        })?;
        // Kept before it is shown: one that is shown by half has to be taken away, too.
        let proof = proof.insert(Proof::of(key, name, &challenge)?);
        proof.present(config, automatic).await?;
        challenge.set_ready().await?;
    }
    match order.poll_ready(&POLL).await? {
        OrderStatus::Ready | OrderStatus::Valid | OrderStatus::Processing => Ok(()),
        _ => Err(Failure::Refused(why(order).await)),
    }
}

/// What the authority did not like about the proof.
async fn why(order: &mut Order) -> String {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let Ok(state) = authorization.refresh().await else {
            continue;
        };
        let error = state.challenges.iter().find_map(|c| c.error.as_ref());
        if let Some(error) = error {
            return error.to_string();
        }
    }
    "the proof was not accepted".to_owned()
}
