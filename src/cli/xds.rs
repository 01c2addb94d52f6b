//! `causeway xds`: a look at what management servers and files say, without serving any of it.

pub(super) mod diff;

use std::io::Write as _;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use causeway_xds::ResourceType;
use causeway_xds::client::{self, BACKOFF_MAX, Scope};
use causeway_xds::proto::core::Node;
use causeway_xds::resource::api_source::{ApiProtocol, ApiSource, ChannelTls, Metadata};
use causeway_xds::resource::api_source::{ServerRef, Target};
use causeway_xds::resource::effective_name;
use causeway_xds::resource::tls::DataSource;
use causeway_xds::source::{Batch, Extent, Interest, Interests, Origin, Outcome, Source, Update};
use causeway_xds::store::ResourceStore;
use tokio::sync::mpsc;

use super::args::WatchArgs;
use crate::filter::Context;
use crate::filter::registry::Registry;
use crate::management_server::{Statics, servers};

/// Prints what a management server sends, with what would be made of it, until the time is over or
/// the process is ended.
pub(super) async fn watch(args: WatchArgs) -> Result<()> {
    crate::tls::install_provider();
    let limit = args.seconds.map(Duration::from_secs);
    let config = client(&args)?;
    let (client, interests, _status) = client::client(config);
    let (batches, received) = mpsc::channel(1);
    tokio::spawn(Box::new(client).run(batches));
    for kind in [ResourceType::Cluster, ResourceType::Listener] {
        interests
            .send(Interest::All(kind))
            .context("the client has ended")?;
    }
    let mut watch = Watch {
        store: ResourceStore::new(),
        registry: Registry::new(Context {
            strict: args.strict_xds,
            any_file: true,
            ..Context::default()
        }),
        interests,
    };
    let watching = watch.follow(received);
    match limit {
        Some(limit) => tokio::time::timeout(limit, watching)
            .await
            .unwrap_or(Ok(())),
        None => watching.await,
    }
}

fn client(args: &WatchArgs) -> Result<client::Config> {
    let tls = args.tls || args.ca.is_some() || args.cert.is_some();
    let pair = args.cert.clone().zip(args.key.clone());
    let source = ApiSource {
        protocol: match args.sotw {
            true => ApiProtocol::StateOfTheWorld,
            false => ApiProtocol::Incremental,
        },
        servers: vec![ServerRef {
            target: Target::Uri {
                uri: args.server.clone(),
                tls: tls.then(|| ChannelTls {
                    roots: args.ca.clone().map(DataSource::File),
                    client_certificate: pair
                        .map(|(cert, key)| (DataSource::File(cert), DataSource::File(key))),
                    server_name: String::new(),
                }),
                token: None,
            },
            metadata: Metadata::default(),
            max_message: None,
        }],
        node_on_first_message_only: true,
    };
    let mut node = Node {
        id: args.node.clone(),
        cluster: args.cluster.clone(),
        ..Node::default()
    };
    crate::config::xds::introduce(&mut node);
    Ok(client::Config {
        origin: Origin::Xds(args.server.as_str().into()),
        node,
        node_on_first_message_only: true,
        protocol: source.protocol,
        scope: Scope::Aggregated,
        servers: servers(&source, &Statics::default())?,
        backoff_max: BACKOFF_MAX,
    })
}

struct Watch {
    store: ResourceStore,
    registry: Registry,
    interests: Interests,
}

impl Watch {
    async fn follow(&mut self, mut received: mpsc::Receiver<Batch>) -> Result<()> {
        while let Some(mut batch) = received.recv().await {
            let text = self.take(&mut batch)?;
            // Whoever reads may have had enough.
            let mut out = std::io::stdout();
            if out
                .write_all(text.as_bytes())
                .and_then(|()| out.flush())
                .is_err()
            {
                break;
            }
        }
        Ok(())
    }

    /// Puts a push into the store, answers it, and says what it was.
    fn take(&mut self, batch: &mut Batch) -> Result<String> {
        let told: Vec<Update> = batch.updates.clone();
        let applied = self.store.apply(batch, &self.registry, SystemTime::now());
        let mut text = String::new();
        for update in &told {
            text += &heading(update);
            for any in &update.upserts {
                let name = effective_name(update.kind, any).unwrap_or_default();
                text += &self.line(update.kind, &name, &applied.rejected);
                self.ask_for_what_it_needs(update.kind, &name)?;
            }
            for name in &update.removals {
                text += &format!("  gone      {} {name:?}\n", update.kind);
            }
        }
        let rejected = applied.rejected.iter().filter(|r| r.name.is_empty());
        for rejected in rejected {
            text += &format!("  rejected  {rejected}\n");
        }
        if let Some(answer) = batch.answer.take() {
            let outcome = Outcome {
                rejected: applied.rejected,
                ..Outcome::default()
            };
            // The client may have ended meanwhile.
            answer.send(outcome).ok();
        }
        Ok(text)
    }

    fn line(&self, kind: ResourceType, name: &str, rejected: &[causeway_xds::Rejected]) -> String {
        let refused = rejected.iter().find(|r| r.kind == kind && r.name == name);
        if let Some(refused) = refused {
            return format!("  rejected  {refused}\n");
        }
        let entry = self.store.entry(kind, name);
        let accepted = entry.and_then(|entry| entry.accepted.as_ref());
        match accepted.map(|accepted| accepted.ignored().join(", ")) {
            Some(ignored) if !ignored.is_empty() => {
                format!("  ok        {kind} {name:?} (without effect: {ignored})\n")
            }
            _ => format!("  ok        {kind} {name:?}\n"),
        }
    }

    fn ask_for_what_it_needs(&self, kind: ResourceType, name: &str) -> Result<()> {
        let resource = self.store.get(kind, name);
        for reference in resource.iter().flat_map(|r| r.references()) {
            if reference.source.place == causeway_xds::resource::config_source::Place::Ads {
                let interest = Interest::Subscribe(reference.kind, vec![reference.name]);
                let sent = self.interests.send(interest);
                sent.context("the client has ended")?;
            }
        }
        Ok(())
    }
}

fn heading(update: &Update) -> String {
    let extent = match update.extent {
        Extent::StateOfTheWorld => "all",
        Extent::Incremental => "changes",
    };
    let (new, gone) = (update.upserts.len(), update.removals.len());
    format!(
        "{} {extent}, version {:?}: {new} sent, {gone} removed\n",
        update.kind, update.version
    )
}
