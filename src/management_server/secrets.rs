//! Certificates that TLS to a management server names.

use std::collections::HashMap;
use std::path::Path;

use causeway_xds::extension::Unchecked;
use causeway_xds::file::read_resources;
use causeway_xds::resource::config_source::{ConfigSource, Place};
use causeway_xds::resource::tls::{CertificateRef, Secret, SecretValue, UpstreamTls};
use causeway_xds::resource::{Resource, decode};
use causeway_xds::text::Options;
use tracing::warn;

/// The static secrets of a bootstrap.
#[derive(Debug, Default)]
pub(super) struct Secrets {
    by_name: HashMap<String, SecretValue>,
}

impl Secrets {
    pub(super) fn insert(&mut self, secret: &Secret) {
        self.by_name
            .insert(secret.name.clone(), secret.value.clone());
    }

    /// Whether all that is named can be had without a management server.
    ///
    /// # Errors
    /// The reason.
    pub(super) fn check(&self, tls: &UpstreamTls) -> Result<(), String> {
        for (name, source) in references(tls) {
            match source.map(|source| &source.place) {
                Some(Place::File { .. }) => {}
                Some(Place::Ads | Place::Api(_)) => {
                    return Err(format!(
                        "secret {name:?} would come from a management server, for which it is \
                         needed first"
                    ));
                }
                _ if self.by_name.contains_key(name) => {}
                _ => {
                    return Err(format!(
                        "secret {name:?} is not in static_resources.secrets"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Looks secrets up for `tls`. Files are read now.
    pub(super) fn of<'s>(
        &'s self,
        tls: &'s UpstreamTls,
    ) -> impl Fn(&str) -> Option<SecretValue> + 's {
        |wanted| {
            let (_, source) = references(tls).find(|(name, _)| *name == wanted)?;
            match source.map(|source| &source.place) {
                Some(Place::File { path, .. }) => from_file(path, wanted),
                _ => self.by_name.get(wanted).cloned(),
            }
        }
    }
}

fn references(tls: &UpstreamTls) -> impl Iterator<Item = (&str, Option<&ConfigSource>)> {
    let certificate = match &tls.client_certificate {
        Some(CertificateRef::Secret { name, source }) => Some((name.as_str(), source.as_ref())),
        _ => None,
    };
    let validation = tls.validation_secret.as_ref();
    let validation = validation.map(|secret| (secret.name.as_str(), secret.source.as_ref()));
    certificate.into_iter().chain(validation)
}

fn from_file(path: &Path, wanted: &str) -> Option<SecretValue> {
    let file = match read_resources(path, &Options::default()) {
        Ok(file) => file,
        Err(error) => {
            warn!(path = %path.display(), %error, "secret cannot be read");
            return None;
        }
    };
    file.resources
        .iter()
        .find_map(|any| match decode(any, &Unchecked) {
            Ok(Resource::Secret(secret)) if secret.name == wanted => Some(secret.value.clone()),
            Ok(_) => None,
            Err(error) => {
                warn!(path = %path.display(), %error, "secret rejected");
                None
            }
        })
}
