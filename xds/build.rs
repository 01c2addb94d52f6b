//! Embeds the descriptor set of the messages: the one that the resolved `envoy-types` package
//! carries, so that text forms always match the Rust types, and the one of our own messages in
//! `proto/`, whose Rust is made here too. No `protoc` and no copy of other people's `.proto` files
//! is needed.

use std::env;
use std::error::Error;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use cargo_metadata::{Metadata, MetadataCommand};
use flate2::Compression;
use flate2::write::ZlibEncoder;
use prost::DecodeError;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use prost::encoding::{encode_key, encode_varint};

/// Where `envoy-types` keeps its descriptor set.
const DESCRIPTOR_SET: &str = "src/generated/types.bin";
/// `FileDescriptorSet.file`.
const FILE: u32 = 1;
/// `FileDescriptorProto.source_code_info`.
const SOURCE_CODE_INFO: u32 = 9;
/// Where it keeps the sources that ours import.
const SOURCES: [&str; 1] = ["proto/xds"];

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

    let package = envoy_types(&metadata, &manifest)?;
    let own = own_messages(&package)?;
    let set = package.join(DESCRIPTOR_SET);
    println!("cargo::rerun-if-changed={}", set.display());
    let bytes = fs::read(&set).map_err(|e| {
        format!(
            "cannot read the descriptor set {}: {e}. This version of envoy-types keeps it \
             elsewhere or does not ship it; adapt DESCRIPTOR_SET in xds/build.rs",
            set.display()
        )
    })?;
    check(&bytes).map_err(|e| format!("{} {e}", set.display()))?;
    let bytes = without_source_info(&bytes).map_err(|e| format!("{}: {e}", set.display()))?;

    let target = Path::new(&variable("OUT_DIR")?).join("descriptors.zlib");
    let mut encoder = ZlibEncoder::new(fs::File::create(target)?, Compression::best());
    encoder.write_all(&bytes)?;
    // Two sets one after the other are one set: all a set has is a repeated field.
    encoder.write_all(&own)?;
    encoder.finish()?;
    Ok(())
}

/// Writes the Rust of our own messages and returns their descriptor set.
fn own_messages(envoy_types: &Path) -> Result<Vec<u8>, Box<dyn Error>> {
    const DIRECTORY: &str = "proto";
    println!("cargo::rerun-if-changed={DIRECTORY}");
    let mut files: Vec<PathBuf> = fs::read_dir(Path::new(DIRECTORY).join("causeway/v1"))?
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<_, _>>()?;
    files.sort();
    let mut includes = vec![PathBuf::from(DIRECTORY)];
    includes.extend(SOURCES.map(|part| envoy_types.join(part)));
    let mut compiler = protox::Compiler::new(includes)?;
    compiler.include_source_info(true).include_imports(true);
    compiler.open_files(files)?;
    let set = compiler.file_descriptor_set();
    prost_build::Config::new()
        .disable_comments(["."])
        // As in the messages that hold ours.
        .extern_path(
            ".google.protobuf.Any",
            "::envoy_types::pb::google::protobuf::Any",
        )
        .compile_fds(set)?;
    // From the compiler, not by way of prost's types, which know nothing of custom options. What is
    // imported is in the other set.
    compiler.include_source_info(false).include_imports(false);
    let bytes = compiler.encode_file_descriptor_set();
    Ok(bytes)
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

/// The set without comments and places in the sources of the messages. They are four fifths of it, nobody
/// asks for them, and loaded they take room and time like everything else.
fn without_source_info(set: &[u8]) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut out = Vec::with_capacity(set.len());
    let mut files = set;
    while !files.is_empty() {
        let (FILE, WireType::LengthDelimited) = decode_key(&mut files)? else {
            return Err("holds something else than files".into());
        };
        let length = usize::try_from(decode_varint(&mut files)?)?;
        let (file, rest) = files.split_at_checked(length).ok_or("ends too early")?;
        files = rest;
        let kept = without_field(file, SOURCE_CODE_INFO)?;
        encode_key(FILE, WireType::LengthDelimited, &mut out);
        encode_varint(kept.len() as u64, &mut out);
        out.extend(kept);
    }
    Ok(out)
}

/// The bytes of a message without those of one of its fields.
fn without_field(message: &[u8], field: u32) -> Result<Vec<u8>, DecodeError> {
    let mut kept = Vec::with_capacity(message.len());
    let mut rest = message;
    while !rest.is_empty() {
        let from_here = rest;
        let (tag, wire_type) = decode_key(&mut rest)?;
        skip_field(wire_type, tag, &mut rest, DecodeContext::default())?;
        if tag != field {
            kept.extend_from_slice(&from_here[..from_here.len() - rest.len()]);
        }
    }
    Ok(kept)
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|e| format!("{name}: {e}"))
}
