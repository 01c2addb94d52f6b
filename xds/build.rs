//! Embeds the descriptor set of the messages: the one that the resolved `envoy-types` package
//! carries, so that text forms always match the Rust types. No `protoc` and no copy of other
//! people's `.proto` files is needed.

use std::env;
use std::error::Error;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use cargo_metadata::{Metadata, MetadataCommand};
use flate2::Compression;
use flate2::write::ZlibEncoder;

/// Where `envoy-types` keeps its descriptor set.
const DESCRIPTOR_SET: &str = "src/generated/types.bin";

fn main() {
    if let Err(error) = run() {
        println!("cargo::error={error}");
        std::process::exit(1);
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    let manifest = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("Cargo.toml");
    let metadata = metadata(&manifest)?;
    println!(
        "cargo::rerun-if-changed={}",
        metadata.workspace_root.join("Cargo.lock")
    );

    let set = envoy_types(&metadata, &manifest)?.join(DESCRIPTOR_SET);
    println!("cargo::rerun-if-changed={}", set.display());
    let bytes = fs::read(&set).map_err(|e| {
        format!(
            "cannot read the descriptor set {}: {e}. This version of envoy-types keeps it \
             elsewhere or does not ship it; adapt DESCRIPTOR_SET in xds/build.rs",
            set.display()
        )
    })?;
    check(&bytes).map_err(|e| format!("{} {e}", set.display()))?;

    let target = Path::new(&variable("OUT_DIR")?).join("descriptors.zlib");
    let mut encoder = ZlibEncoder::new(fs::File::create(target)?, Compression::best());
    encoder.write_all(&bytes)?;
    encoder.finish()?;
    Ok(())
}

/// What cargo resolved for this workspace. Offline first: a build script must not reach for the
/// network when everything is there, and what a build needs is there when its script runs. Only
/// the packages of the host and the target are, hence the filter.
fn metadata(manifest: &Path) -> Result<Metadata, Box<dyn Error>> {
    let mut filters = vec![variable("TARGET")?];
    let host = variable("HOST")?;
    if !filters.contains(&host) {
        filters.push(host);
    }
    let filters: Vec<_> = filters
        .into_iter()
        .flat_map(|f| ["--filter-platform".to_owned(), f])
        .collect();
    let attempt = |offline: bool| {
        let mut command = MetadataCommand::new();
        if let Ok(cargo) = env::var("CARGO") {
            command.cargo_path(cargo);
        }
        let mut options = filters.clone();
        if offline {
            options.push("--offline".to_owned());
        }
        command
            .manifest_path(manifest)
            .other_options(options)
            .exec()
    };
    attempt(true).or_else(|_| attempt(false)).map_err(|e| {
        format!("cannot ask cargo where the envoy-types package is (cargo metadata): {e}").into()
    })
}

/// The directory of the `envoy-types` that this package depends on.
fn envoy_types(metadata: &Metadata, manifest: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let manifest = manifest.canonicalize()?;
    let this = metadata
        .packages
        .iter()
        .find(|p| {
            p.manifest_path
                .canonicalize()
                .is_ok_and(|path| path == manifest)
        })
        .ok_or("cargo metadata does not list this package")?;
    let resolved = metadata
        .resolve
        .as_ref()
        .ok_or("cargo metadata gave no resolved packages")?;
    let dependency = resolved
        .nodes
        .iter()
        .find(|node| node.id == this.id)
        .and_then(|node| node.deps.iter().find(|d| d.name == "envoy_types"))
        .ok_or("this package does not depend on envoy-types")?;
    let directory = metadata[&dependency.pkg]
        .manifest_path
        .parent()
        .ok_or("envoy-types has a manifest without a directory")?;
    Ok(directory.as_std_path().to_owned())
}

/// Refuses what is plainly not the set that the program needs. Whether it can be used is checked
/// by a unit test: reading it takes a library that would be compiled a second time for this script.
fn check(bytes: &[u8]) -> Result<(), &'static str> {
    // Field 1 (`file`), length-delimited.
    if bytes.first() != Some(&0x0a) {
        return Err("is not a FileDescriptorSet");
    }
    let wanted = b"envoy.config.bootstrap.v3";
    if !bytes.windows(wanted.len()).any(|w| w == wanted) {
        return Err("does not describe envoy.config.bootstrap.v3");
    }
    Ok(())
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|e| format!("{name}: {e}"))
}
