//! The command line.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::app::{self, Config, Options, Running};
use crate::config::WorkerConfig;
use crate::config::bootstrap::{BootstrapConfig, Overrides, looks_like_bootstrap};
use crate::demo;
use crate::telemetry::logging;

/// An xDS-compatible proxy, and a drop-in replacement for Backend.AI's AppProxy worker.
#[derive(Debug, Parser)]
#[command(name = "causeway", version = version(), args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve what a configuration file says (the default).
    Serve(ServeArgs),
    /// Serve sample apps, reachable in every way, without any file.
    Demo(DemoArgs),
    /// Check a configuration file and say what is wrong with it.
    Validate(ServeArgs),
    /// Print version and build facts.
    Version,
}

#[derive(Clone, Debug, Args)]
struct ServeArgs {
    /// An Envoy bootstrap (YAML or JSON) or the worker's TOML; recognised by its content.
    #[arg(
        short = 'c',
        long,
        short_alias = 'f',
        alias = "config",
        value_name = "FILE"
    )]
    config_path: Option<PathBuf>,
    /// Envoy bootstrap as text, merged over the file.
    #[arg(long, value_name = "YAML")]
    config_yaml: Option<String>,
    #[arg(long, value_enum, default_value_t = Mode::Serve)]
    mode: Mode,
    /// Data threads; the number of cores when not given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    concurrency: Option<u16>,
    /// trace, debug, info, warning, error, critical or off.
    #[arg(short = 'l', long, value_name = "LEVEL", default_value = "info")]
    log_level: String,
    /// Overrides `node.id` of the bootstrap.
    #[arg(long, value_name = "ID")]
    service_node: Option<String>,
    /// Overrides `node.cluster` of the bootstrap.
    #[arg(long, value_name = "NAME")]
    service_cluster: Option<String>,
    /// Seconds that connections may go on after SIGTERM.
    #[arg(long, value_name = "SECONDS", default_value_t = 4)]
    drain_time_s: u64,
    /// Take a bootstrap that has fields this program does not know.
    #[arg(long)]
    allow_unknown_static_fields: bool,
    /// Accepted for Envoy's sake; there is no hot restart to disable.
    #[arg(long)]
    disable_hot_restart: bool,
    /// Accepted for Envoy's sake.
    #[arg(long, value_name = "N")]
    base_id: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    Serve,
    Validate,
}

#[derive(Clone, Debug, Args)]
struct DemoArgs {
    #[arg(short = 'l', long, value_name = "LEVEL", default_value = "warning")]
    log_level: String,
}

fn version() -> &'static str {
    concat!(env!("CAUSEWAY_VERSION"), " (", env!("CAUSEWAY_COMMIT"), ")")
}

/// Runs the command line to its end.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Causes are part of the text already where they matter; the chain tells the rest.
            eprintln!("causeway: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    match cli.command.unwrap_or(Command::Serve(cli.serve)) {
        Command::Version => {
            println!("causeway {}", env!("CAUSEWAY_VERSION"));
            println!(
                "commit   {} (dirty: {})",
                env!("CAUSEWAY_COMMIT"),
                env!("CAUSEWAY_DIRTY")
            );
            println!("rustc    {}", env!("CAUSEWAY_RUSTC"));
            println!(
                "target   {} ({})",
                env!("CAUSEWAY_TARGET"),
                env!("CAUSEWAY_PROFILE")
            );
            Ok(())
        }
        Command::Demo(args) => {
            let options = Options {
                log_level: Some(logging::start(&args.log_level).map_err(|e| anyhow!(e))?),
                ..Options::default()
            };
            runtime()?.block_on(run_demo(options))
        }
        Command::Validate(args) => validate(&args),
        Command::Serve(args) if args.mode == Mode::Validate => validate(&args),
        Command::Serve(args) => {
            let log_level = logging::start(&args.log_level).map_err(|e| anyhow!(e))?;
            let config = load(&args)?;
            let mut options = options(&args);
            options.log_level = Some(log_level);
            let served = runtime()?.block_on(serve(config, options));
            served.with_context(|| source(&args))
        }
    }
}

/// For everything but user traffic.
fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("control")
        .enable_all()
        .build()
        .context("cannot start the control thread")
}

fn options(args: &ServeArgs) -> Options {
    let default = Options::default();
    let concurrency = args.concurrency.map_or(default.concurrency, usize::from);
    Options {
        concurrency,
        drain_time: Duration::from_secs(args.drain_time_s),
        command_line: vec![
            ("concurrency".into(), concurrency.to_string()),
            ("config_path".into(), path_text(args.config_path.as_deref())),
            ("log_level".into(), args.log_level.clone()),
            ("drain_time".into(), format!("{}s", args.drain_time_s)),
        ],
        ..default
    }
}

fn path_text(path: Option<&Path>) -> String {
    path.map_or(String::new(), |p| p.display().to_string())
}

/// What the configuration was read from, for messages.
fn source(args: &ServeArgs) -> String {
    match &args.config_path {
        Some(path) => path.display().to_string(),
        None => "--config-yaml".to_owned(),
    }
}

/// Reads the configuration; the content of a file tells its kind.
fn load(args: &ServeArgs) -> Result<Config> {
    let overrides = Overrides {
        config_yaml: args.config_yaml.clone(),
        service_node: args.service_node.clone(),
        service_cluster: args.service_cluster.clone(),
        allow_unknown_fields: args.allow_unknown_static_fields,
    };
    let Some(path) = &args.config_path else {
        if args.config_yaml.is_none() {
            bail!("no configuration: give --config-path FILE, or try `causeway demo`");
        }
        let parsed = BootstrapConfig::parse("--config-yaml", "", &overrides)?;
        return Ok(Config::Bootstrap(Box::new(parsed)));
    };
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    // A file that is no text at all is reported by whoever can say where it stops being one.
    let bootstrap = std::str::from_utf8(&bytes).map_or(true, looks_like_bootstrap);
    if bootstrap || args.config_yaml.is_some() {
        let config = BootstrapConfig::load(path, &overrides)?;
        return Ok(Config::Bootstrap(Box::new(config)));
    }
    Ok(Config::Worker(Box::new(WorkerConfig::load(path)?)))
}

/// Reads and compiles everything, opens nothing.
fn validate(args: &ServeArgs) -> Result<()> {
    crate::tls::install_provider();
    let config = load(args)?;
    if let Config::Bootstrap(bootstrap) = &config {
        let rejected = app::check(bootstrap.static_updates.clone());
        if !rejected.is_empty() {
            let file = source(args);
            let reasons: Vec<String> = rejected.iter().map(|r| format!("{file}: {r}")).collect();
            bail!("{}", reasons.join("\n"));
        }
    }
    println!(
        "configuration '{}' OK",
        path_text(args.config_path.as_deref())
    );
    Ok(())
}

async fn serve(config: Config, options: Options) -> Result<()> {
    let signals = Signals::listen()?;
    let running = app::start(config, options).await?;
    tracing::info!(
        version = env!("CAUSEWAY_VERSION"),
        management = ?running.management,
        listeners = running.addresses.all().len(),
        "serving"
    );
    until_stopped(running, signals).await
}

/// Listened to before anything is opened: a signal that comes during the start must not kill what
/// a moment later would have drained.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }
}

async fn until_stopped(mut running: Running, signals: Signals) -> Result<()> {
    let Signals {
        mut terminate,
        mut interrupt,
    } = signals;
    let why = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
        () = running.asked_to_quit() => "quitquitquit",
    };
    tracing::info!(why, "draining");
    tokio::select! {
        () = running.shutdown() => {}
        // Whoever asks twice does not want to wait.
        _ = terminate.recv() => tracing::warn!("second signal, ending at once"),
        _ = interrupt.recv() => tracing::warn!("second signal, ending at once"),
    }
    Ok(())
}

async fn run_demo(options: Options) -> Result<()> {
    let signals = Signals::listen()?;
    let config = demo::config();
    let secret = config.api_secret.clone();
    let backends = demo::start_backends()
        .await
        .context("cannot start the sample back ends")?;
    let running = app::start(Config::Worker(Box::new(config)), options).await?;
    let management = running
        .management
        .context("the demo has a management port")?;
    demo::push(management, &secret, &demo::circuits(&backends)).await?;
    let addresses = demo::Addresses::from_listeners(management, |name| running.addresses.of(name))
        .context("a listener of the demo is not open")?;
    let mut out = std::io::stdout();
    write!(out, "{}", demo::banner(&addresses))?;
    out.flush()?;
    until_stopped(running, signals).await
}
