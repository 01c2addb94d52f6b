//! `causeway validate`: what the program makes of a configuration, without opening anything.

mod delivered;
pub(super) mod resources;

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use causeway_xds::resource::{decode_noting, effective_name};
use causeway_xds::source::Update;
use causeway_xds::type_url::ResourceType;
use serde_json::{Value, json};

use self::resources::Resources;
use super::args::{Format, ServeArgs, ValidateArgs};
use crate::app::{self, Config};
use crate::filter::registry::Registry;

/// What became of one resource.
#[derive(Clone, Debug)]
pub(super) struct Verdict {
    kind: String,
    pub(super) name: String,
    /// Of the field at fault; empty when it is the whole resource.
    path: String,
    /// Why it is rejected; `None` when it is fine.
    pub(super) reason: Option<String>,
    /// Fields that are set and have no effect.
    ignored: Vec<&'static str>,
}

/// Reads and compiles everything, opens nothing.
///
/// # Errors
/// Something is rejected, or cannot be read.
pub(super) fn run(args: ValidateArgs) -> Result<()> {
    crate::tls::install_provider();
    let ValidateArgs {
        targets,
        format,
        serve,
    } = args;
    if targets.is_empty() {
        return configuration(&super::located(serve)?, format);
    }
    if serve.config_path.is_some() || serve.config_yaml.is_some() {
        bail!("give either files to look at or --config-path and --config-yaml, not both");
    }
    let mut bad = 0;
    for target in targets {
        match Resources::read(&target)? {
            Some(found) => {
                bad += usize::from(report(&target, judge(found, serve.strict_xds), format)?)
            }
            None => {
                let args = ServeArgs {
                    config_path: Some(target),
                    ..serve.clone()
                };
                configuration(&args, format)?;
            }
        }
    }
    match bad {
        0 => Ok(()),
        _ => Err(Rejected.into()),
    }
}

/// Resources were rejected, and have been printed.
#[derive(Debug, thiserror::Error)]
#[error("some resources are rejected")]
pub(super) struct Rejected;

/// A bootstrap or the worker's file.
fn configuration(args: &ServeArgs, format: Format) -> Result<()> {
    let file = super::source(args);
    let config = super::load(args)?;
    let Config::Bootstrap(bootstrap) = &config else {
        return done(&file, args.config_path.as_deref(), &[], format);
    };
    let updates = &bootstrap.static_updates;
    if format == Format::Text {
        let rejected = app::check(updates.clone(), args.strict_xds);
        if !rejected.is_empty() {
            let reasons: Vec<String> = rejected.iter().map(|r| format!("{file}: {r}")).collect();
            bail!("{}", reasons.join("\n"));
        }
        return done(&file, args.config_path.as_deref(), &[], format);
    }
    let verdicts = judge_updates(updates, args.strict_xds);
    match report(&PathBuf::from(&file), verdicts, format)? {
        true => Err(Rejected.into()),
        false => Ok(()),
    }
}

fn done(file: &str, path: Option<&Path>, verdicts: &[Verdict], format: Format) -> Result<()> {
    match format {
        Format::Text => println!("configuration '{}' OK", super::path_text(path)),
        Format::Json => println!("{}", as_json(file, verdicts)),
    }
    Ok(())
}

fn judge(found: Resources, strict: bool) -> Vec<Verdict> {
    let mut verdicts = found.refused.clone();
    let updates = found.updates();
    verdicts.extend(judge_updates(&updates, strict));
    delivered::refuse(&updates, &mut verdicts);
    verdicts
}

/// Each resource by itself for what has no effect, all together for what is rejected.
fn judge_updates(updates: &[Update], strict: bool) -> Vec<Verdict> {
    let registry = Registry::default();
    let mut verdicts = Vec::new();
    let rejected = app::check(updates.to_vec(), strict);
    let mut told = vec![false; rejected.len()];
    for update in updates {
        for any in &update.upserts {
            let name = effective_name(update.kind, any).unwrap_or_default();
            let of_this = |kind: ResourceType, other: &str| kind == update.kind && other == name;
            let place = rejected
                .iter()
                .position(|r| of_this(r.kind, &r.name))
                .inspect(|place| told[*place] = true);
            let decoded = decode_noting(any, None, &registry);
            let ignored = decoded.map_or_else(|_| Vec::new(), |d| d.ignored);
            verdicts.push(Verdict {
                kind: update.kind.short().to_owned(),
                name: name.clone(),
                path: place.map_or(String::new(), |p| rejected[p].invalid.path.to_string()),
                reason: place.map(|p| rejected[p].invalid.reason.to_string()),
                ignored,
            });
        }
    }
    // Those that are about no single one: a second fault of one resource, a clash of two.
    let rest = rejected.iter().zip(told).filter(|(_, told)| !told);
    verdicts.extend(rest.map(|(rejected, _)| Verdict {
        kind: rejected.kind.short().to_owned(),
        name: rejected.name.clone(),
        path: rejected.invalid.path.to_string(),
        reason: Some(rejected.invalid.reason.to_string()),
        ignored: Vec::new(),
    }));
    verdicts
}

/// Whether something is rejected.
fn report(target: &Path, verdicts: Vec<Verdict>, format: Format) -> Result<bool> {
    let bad = verdicts.iter().filter(|v| v.reason.is_some()).count();
    match format {
        Format::Json => println!("{}", as_json(&target.display().to_string(), &verdicts)),
        Format::Text => {
            for verdict in &verdicts {
                println!("{}", line(verdict));
            }
            let target = target.display();
            println!("{target}: {} resources, {bad} rejected", verdicts.len());
        }
    }
    Ok(bad > 0)
}

fn line(verdict: &Verdict) -> String {
    let Verdict {
        kind,
        name,
        path,
        reason,
        ignored,
    } = verdict;
    match reason {
        Some(reason) if path.is_empty() => format!("rejected  {kind} {name:?}: {reason}"),
        Some(reason) => format!("rejected  {kind} {name:?}: {path}: {reason}"),
        None if ignored.is_empty() => format!("ok        {kind} {name:?}"),
        None => format!(
            "ok        {kind} {name:?} (without effect: {})",
            ignored.join(", ")
        ),
    }
}

/// One line for each target, so that many of them can be read as they come.
fn as_json(target: &str, verdicts: &[Verdict]) -> Value {
    let resources: Vec<Value> = verdicts
        .iter()
        .map(|v| {
            json!({
                "type": v.kind,
                "name": v.name,
                "state": if v.reason.is_some() { "rejected" } else { "ok" },
                "path": v.path,
                "reason": v.reason,
                "ignored": v.ignored,
            })
        })
        .collect();
    json!({"target": target, "resources": resources})
}

#[cfg(test)]
mod tests {
    use causeway_xds::proto::Cluster;
    use causeway_xds::source::{Extent, Origin};
    use causeway_xds::type_url::pack;

    use super::*;

    #[test]
    fn what_has_no_effect_is_told_and_refused_by_the_strict() {
        let cluster = Cluster {
            name: "c".into(),
            track_cluster_stats: Some(Default::default()),
            ..Default::default()
        };
        let update = Update {
            origin: Origin::Static,
            kind: ResourceType::Cluster,
            version: String::new(),
            extent: Extent::Incremental,
            upserts: vec![pack(&cluster)],
            listing: None,
            removals: Vec::new(),
        };
        let of = |strict| judge_updates(std::slice::from_ref(&update), strict).remove(0);
        assert_eq!(
            line(&of(false)),
            "ok        cluster \"c\" (without effect: Cluster.track_cluster_stats)"
        );
        assert_eq!(
            line(&of(true)),
            "rejected  cluster \"c\": Cluster.track_cluster_stats would have no effect"
        );
    }
}
