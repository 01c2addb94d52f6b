//! Files that resources name and that are to be read again.

use std::path::PathBuf;

use super::Resource;
use super::tls::{CertificateRef, DataSource, SecretValue, TlsCertificate, Validation};

/// A directory whose changes say that the files may have new content (`watched_directory`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WatchedFiles {
    pub directory: PathBuf,
    pub files: Vec<PathBuf>,
}

impl Resource {
    /// What this resource is to be used anew for when it changes on disk.
    pub fn watched_files(&self) -> Vec<WatchedFiles> {
        let mut found = Vec::new();
        match self {
            Self::Listener(listener) => {
                let chains = listener.filter_chains.iter();
                for tls in chains
                    .chain(&listener.default_filter_chain)
                    .filter_map(|chain| chain.tls.as_ref())
                {
                    tls.certificates.iter().for_each(|c| given(c, &mut found));
                    of_validation(&tls.validation, &mut found);
                }
            }
            Self::Cluster(cluster) => {
                for tls in cluster.tls_contexts() {
                    let certificate = tls.client_certificate.iter();
                    certificate.for_each(|c| given(c, &mut found));
                    of_validation(&tls.validation, &mut found);
                }
            }
            Self::Secret(secret) => match &secret.value {
                SecretValue::Certificate(certificate) => of_certificate(certificate, &mut found),
                SecretValue::Validation(validation) => of_validation(validation, &mut found),
                SecretValue::TicketKeys(_) | SecretValue::Generic(_) => {}
            },
            Self::RouteConfiguration(_)
            | Self::VirtualHost { .. }
            | Self::LoadAssignment(_)
            | Self::FilterConfig(_) => {}
        }
        found
    }
}

fn given(certificate: &CertificateRef, found: &mut Vec<WatchedFiles>) {
    if let CertificateRef::Inline(certificate) = certificate {
        of_certificate(certificate, found);
    }
}

fn of_certificate(certificate: &TlsCertificate, found: &mut Vec<WatchedFiles>) {
    let TlsCertificate {
        chain,
        key,
        ocsp_staple,
        watched_directory,
    } = certificate;
    let sources = [Some(chain), Some(key), ocsp_staple.as_ref()];
    add(watched_directory.as_ref(), sources, found);
}

fn of_validation(validation: &Validation, found: &mut Vec<WatchedFiles>) {
    let sources = [validation.trusted_ca.as_ref(), validation.revoked.as_ref()];
    add(validation.watched_directory.as_ref(), sources, found);
}

fn add<'s>(
    directory: Option<&PathBuf>,
    sources: impl IntoIterator<Item = Option<&'s DataSource>>,
    found: &mut Vec<WatchedFiles>,
) {
    let file = |source: &DataSource| match source {
        DataSource::File(path) => Some(path.clone()),
        DataSource::Inline(_) => None,
    };
    let files: Vec<PathBuf> = sources.into_iter().flatten().filter_map(file).collect();
    if let Some(directory) = directory.filter(|_| !files.is_empty()) {
        found.push(WatchedFiles {
            directory: directory.clone(),
            files,
        });
    }
}
