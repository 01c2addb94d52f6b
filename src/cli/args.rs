//! What can be said on the command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::xds::XdsOverrides;

/// An xDS-compatible proxy, and a drop-in replacement for Backend.AI's AppProxy worker.
#[derive(Debug, Parser)]
#[command(name = "causeway", version = version(), args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    pub(super) command: Option<Command>,
    #[command(flatten)]
    pub(super) serve: ServeArgs,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Serve what a configuration file says (the default).
    #[command(visible_alias = "start-server")]
    Serve(ServeArgs),
    /// Serve sample apps, reachable in every way, without any file.
    Demo(DemoArgs),
    /// Check configuration files, or files of xDS resources, and say what is wrong with them.
    Validate(ValidateArgs),
    /// Print a worker's file with every key.
    GenerateExampleConfiguration(OutputArgs),
    /// The worker's file.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// A worker that runs.
    #[command(subcommand)]
    Health(HealthCommand),
    /// What the worker depends on.
    #[command(subcommand)]
    Dependencies(DependenciesCommand),
    /// See whether a worker of this file could run: token, Redis, clock, ports, certificates.
    CheckCoordinator(CheckArgs),
    /// Print the OpenAPI document of the interface for pushes.
    GenerateOpenapiSpec(OutputArgs),
    /// What management servers and files of resources say.
    #[command(subcommand)]
    Xds(XdsCommand),
    /// Print as JSON which fields and extensions of xDS resources are supported.
    Capabilities(OutputArgs),
    /// Tell step by step what would happen to a request.
    Explain(ExplainArgs),
    /// Join local connections to an application that speaks TCP (ssh, vnc), through a WebSocket.
    Tunnel(TunnelArgs),
    /// Print version and build facts.
    Version,
}

#[derive(Debug, Subcommand)]
pub(super) enum XdsCommand {
    /// Print what a management server sends, with what this program would make of it.
    Watch(WatchArgs),
    /// Print how two sets of resources differ; ends with 1 when they do.
    Diff {
        /// A file or folder of resources, as `validate` takes them.
        first: PathBuf,
        second: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(super) struct WatchArgs {
    /// The server's address, `HOST:PORT` or `unix:PATH`.
    #[arg(long)]
    pub server: String,
    /// Who asks: `node.id`.
    #[arg(long)]
    pub node: String,
    /// `node.cluster`.
    #[arg(long, default_value = "")]
    pub cluster: String,
    /// Ask for the state of the world each time, and not for changes.
    #[arg(long)]
    pub sotw: bool,
    /// Connect with TLS; implied by the next three.
    #[arg(long)]
    pub tls: bool,
    /// PEM file of the authorities that the server's certificate is checked by (default: the
    /// system's).
    #[arg(long)]
    pub ca: Option<PathBuf>,
    /// PEM file of the certificate to show.
    #[arg(long, requires = "key")]
    pub cert: Option<PathBuf>,
    /// PEM file of its key.
    #[arg(long, requires = "cert")]
    pub key: Option<PathBuf>,
    /// Reject resources that set a field without effect.
    #[arg(long)]
    pub strict_xds: bool,
    /// End after this time (default: never).
    #[arg(long)]
    pub seconds: Option<u64>,
}

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Print a worker's file with every key.
    GenerateSample(OutputArgs),
}

#[derive(Debug, Subcommand)]
pub(super) enum HealthCommand {
    /// Ask the worker of a file how it is.
    Check(CheckArgs),
}

#[derive(Debug, Subcommand)]
pub(super) enum DependenciesCommand {
    /// See whether Redis and the Coordinator of a file can be reached.
    Verify(CheckArgs),
}

#[derive(Clone, Debug, Args)]
pub(super) struct ServeArgs {
    /// An Envoy bootstrap (YAML, JSON or .pb), a gRPC bootstrap or the worker's TOML; recognised by
    /// its content.
    #[arg(
        short = 'c',
        long,
        short_alias = 'f',
        alias = "config",
        value_name = "FILE"
    )]
    pub config_path: Option<PathBuf>,
    /// Envoy bootstrap as text, merged over the file.
    #[arg(long, value_name = "YAML")]
    pub config_yaml: Option<String>,
    #[arg(long, value_enum, default_value_t = Mode::Serve)]
    pub mode: Mode,
    /// Data threads; the number of cores when not given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub concurrency: Option<u16>,
    /// trace, debug, info, warning, error, critical or off; else what the file says.
    #[arg(short = 'l', long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// The same as --log-level debug.
    #[arg(long)]
    pub debug: bool,
    /// Overrides `node.id` of the file.
    #[arg(long, value_name = "ID")]
    pub service_node: Option<String>,
    /// Overrides `node.cluster` of the file.
    #[arg(long, value_name = "NAME")]
    pub service_cluster: Option<String>,
    /// Overrides `node.locality.zone` of the file.
    #[arg(long, value_name = "ZONE")]
    pub service_zone: Option<String>,
    /// An address for `%s` in the listener template of a gRPC bootstrap; may be repeated.
    #[arg(long, value_name = "ADDRESS")]
    pub grpc_listener: Vec<String>,
    /// Keep what management servers sent there, for a start while none answers.
    #[arg(long, value_name = "DIR")]
    pub config_cache: Option<PathBuf>,
    /// Keep certificates and keys there as well that came as resources of their own.
    #[arg(long)]
    pub config_cache_secrets: bool,
    /// The longest wait before the next attempt to reach a management server; 5, or what the file
    /// says.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_backoff_s: Option<u32>,
    /// A push that deletes more than this share of listeners or clusters has to be said twice; 0
    /// for no limit, or what the file says.
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(..=100))]
    pub max_deletion_percent: Option<u8>,
    /// Seconds that connections may go on after SIGTERM; 4, or what the file says.
    #[arg(long, value_name = "SECONDS")]
    pub drain_time_s: Option<u64>,
    /// Take a bootstrap that has fields this program does not know.
    #[arg(long)]
    pub allow_unknown_static_fields: bool,
    /// Refuse resources that set a field without effect here, instead of leaving it out.
    #[arg(long)]
    pub strict_xds: bool,
    /// Accepted for Envoy's sake; there is no hot restart to disable.
    #[arg(long)]
    pub disable_hot_restart: bool,
    /// Accepted for Envoy's sake.
    #[arg(long, value_name = "N")]
    pub base_id: Option<u32>,
}

impl ServeArgs {
    /// What is said here about management servers.
    pub fn xds(&self) -> XdsOverrides {
        XdsOverrides {
            service_node: self.service_node.clone(),
            service_cluster: self.service_cluster.clone(),
            service_zone: self.service_zone.clone(),
            cache: self.config_cache.clone(),
            cache_secrets: self.config_cache_secrets,
            backoff_max: self
                .max_backoff_s
                .map(|seconds| Duration::from_secs(seconds.into())),
            max_deletion_percent: self.max_deletion_percent,
        }
    }

    /// The level that was asked for. NOTSET is the legacy worker's word for "as the file says".
    pub fn level(&self) -> Option<&str> {
        if self.debug {
            return Some("debug");
        }
        let level = self.log_level.as_deref();
        level.filter(|level| !level.eq_ignore_ascii_case("notset"))
    }
}

#[derive(Clone, Debug, Args)]
pub(super) struct ValidateArgs {
    /// Configuration files; resources of all types by list (`clusters`, `listeners`, ...); a
    /// `DiscoveryResponse`; a folder of these; `-` for standard input.
    #[arg(value_name = "FILE")]
    pub targets: Vec<PathBuf>,
    /// How to print what was found.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    #[command(flatten)]
    pub serve: ServeArgs,
}

impl From<ServeArgs> for ValidateArgs {
    fn from(serve: ServeArgs) -> Self {
        Self {
            targets: Vec::new(),
            format: Format::Text,
            serve,
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    /// What would be asked for, with scheme and host: `http://app.example.org/path?query`.
    pub url: String,
    /// A header field, `NAME: VALUE`; may be given several times.
    #[arg(short = 'H', long = "header", value_name = "NAME:VALUE")]
    pub headers: Vec<String>,
    /// The method.
    #[arg(short = 'X', long, default_value = "GET")]
    pub method: String,
    /// The address that the request would come from.
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    pub client_ip: String,
    /// The listener that it would reach (default: the one of the URL's port, or the only one).
    #[arg(long, value_name = "NAME")]
    pub listener: Option<String>,
    /// A bootstrap, or a file or folder of resources, as `validate` takes them.
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "admin",
        required_unless_present = "admin"
    )]
    pub config: Option<PathBuf>,
    /// Ask a proxy that runs, at its management port: `http://127.0.0.1:9901`.
    #[arg(long, value_name = "URL")]
    pub admin: Option<String>,
    /// How to print it.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

#[derive(Debug, Args)]
pub(super) struct TunnelArgs {
    /// Where the application is: `wss://HOST/PATH`, or the same with https.
    pub url: String,
    /// Where local connections are taken; port 0: any that is free.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// One connection over standard input and output, as ssh's ProxyCommand wants it.
    #[arg(long, conflicts_with = "listen")]
    pub stdio: bool,
    /// A header field of the handshake, `NAME: VALUE`; may be given several times.
    #[arg(short = 'H', long = "header", value_name = "NAME:VALUE")]
    pub headers: Vec<String>,
    /// The token of a model service. Others on this machine can see it: --token-file is safer.
    #[arg(long, value_name = "TOKEN", conflicts_with = "token_file")]
    pub token: Option<String>,
    /// A file that holds the token.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// A file of cookies: `NAME=VALUE` lines, or a jar as `curl -c` writes it.
    #[arg(long, value_name = "FILE")]
    pub cookie_file: Option<PathBuf>,
    /// Take any certificate.
    #[arg(long, conflicts_with = "ca_file")]
    pub insecure: bool,
    /// PEM file of the authorities that the server's certificate is checked by (default: the
    /// system's).
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Seconds of silence after which the server is asked whether it is still there; 0: never.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub ping: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// One line for each resource.
    Text,
    /// One JSON object on a line for each file.
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Mode {
    Serve,
    Validate,
}

#[derive(Clone, Debug, Args)]
pub(super) struct DemoArgs {
    #[arg(short = 'l', long, value_name = "LEVEL", default_value = "warning")]
    pub log_level: String,
    /// Write the demo's configuration as files there, and serve nothing.
    #[arg(long, value_name = "DIR")]
    pub write: Option<PathBuf>,
    /// Show a management server that moves traffic between two origins.
    #[arg(long, conflicts_with = "write")]
    pub xds: bool,
}

#[derive(Clone, Debug, Args)]
pub(super) struct OutputArgs {
    /// Where to write it; standard output when not given.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub(super) struct CheckArgs {
    /// The worker's file.
    #[arg(
        short = 'c',
        long,
        short_alias = 'f',
        alias = "config",
        value_name = "FILE"
    )]
    pub config_path: Option<PathBuf>,
    /// Leave out when each check was made.
    #[arg(long)]
    pub no_timestamps: bool,
    /// Accepted for the legacy worker's sake; checks log nothing.
    #[arg(short = 'l', long, value_name = "LEVEL")]
    pub log_level: Option<String>,
}

fn version() -> &'static str {
    concat!(env!("CAUSEWAY_VERSION"), " (", env!("CAUSEWAY_COMMIT"), ")")
}
