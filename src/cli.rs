//! The command line.

mod args;
mod capabilities;
mod checks;
mod explain;
mod process;
mod tunnel;
mod validate;
mod xds;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use clap::Parser as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::args::{
    CheckArgs, Cli, Command, ConfigCommand, DemoArgs, DependenciesCommand, HealthCommand, Mode,
    OutputArgs, ServeArgs, XdsCommand,
};
use self::process::{Identity, PidFile};
use crate::app::{self, Config, Options, Running};
use crate::config::bootstrap::{BootstrapConfig, Overrides, grpc, looks_like_bootstrap};
use crate::config::{self, Logging, Process, WorkerConfig, search};
use crate::demo;
use crate::net::descriptors;
use crate::telemetry::{access_log, logging};

/// Runs the command line to its end.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        // Printed already, and one line for each.
        Err(error) if error.is::<validate::Rejected>() || error.is::<Told>() => ExitCode::FAILURE,
        Err(error) => {
            // Causes are part of the text already where they matter; the chain tells the rest.
            eprintln!("causeway: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Two sets of resources differ, and how has been printed.
#[derive(Debug, thiserror::Error)]
#[error("the resources differ")]
struct Told;

fn run(cli: Cli) -> Result<()> {
    match cli.command.unwrap_or(Command::Serve(cli.serve)) {
        Command::Version => {
            version();
            Ok(())
        }
        Command::Demo(DemoArgs {
            write: Some(folder),
            ..
        }) => {
            for file in demo::write(&folder)? {
                println!("{}", file.display());
            }
            Ok(())
        }
        Command::Demo(args) => {
            let log = start_log(&Logging {
                level: args.log_level,
                ..Logging::default()
            })?;
            let options = Options {
                log_level: Some(log.level.clone()),
                ..Options::default()
            };
            if args.xds {
                return runtime()?.block_on(run_xds_demo(options));
            }
            runtime()?.block_on(run_demo(options))
        }
        Command::GenerateExampleConfiguration(args)
        | Command::Config(ConfigCommand::GenerateSample(args)) => written(&args, config::EXAMPLE),
        Command::Health(HealthCommand::Check(args)) => {
            let config = worker(&args)?;
            runtime()?.block_on(checks::health(&config, !args.no_timestamps))
        }
        Command::Dependencies(DependenciesCommand::Verify(args)) => {
            let config = worker(&args)?;
            runtime()?.block_on(checks::dependencies(&config, !args.no_timestamps))
        }
        Command::CheckCoordinator(args) => {
            let config = worker(&args)?;
            runtime()?.block_on(checks::everything(&config))
        }
        Command::GenerateOpenapiSpec(args) => {
            let document = crate::coordinator::shim::openapi();
            written(&args, &(serde_json::to_string_pretty(&document)? + "\n"))
        }
        Command::Capabilities(args) => {
            let document = capabilities::document();
            written(&args, &(serde_json::to_string_pretty(&document)? + "\n"))
        }
        Command::Xds(XdsCommand::Watch(args)) => runtime()?.block_on(xds::watch(args)),
        Command::Xds(XdsCommand::Diff { first, second }) => {
            match xds::diff::run(&first, &second)? {
                true => Err(Told.into()),
                false => Ok(()),
            }
        }
        Command::Validate(args) => validate::run(args),
        Command::Explain(args) => explain::run(args),
        Command::Tunnel(args) => tunnel::run(&args),
        Command::Serve(args) if args.mode == Mode::Validate => validate::run(args.into()),
        Command::Serve(args) => start(&located(args)?),
    }
}

fn version() {
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
}

fn written(args: &OutputArgs, text: &str) -> Result<()> {
    match &args.output {
        Some(path) => {
            std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
        }
        None => Ok(std::io::stdout().write_all(text.as_bytes())?),
    }
}

/// The file to read when none is named.
fn found() -> Result<PathBuf> {
    search::find().map_err(|tried| {
        let tried: Vec<_> = tried.iter().map(|p| p.display().to_string()).collect();
        anyhow!(
            "no configuration: give --config-path FILE, or try `causeway demo` (looked for {})",
            tried.join(", ")
        )
    })
}

/// Says which file is read, unless a text on the command line stands for all of it.
fn located(mut args: ServeArgs) -> Result<ServeArgs> {
    if args.config_path.is_none() && args.config_yaml.is_none() {
        let grpc = std::env::var_os(grpc::FILE_VARIABLE).filter(|path| !path.is_empty());
        args.config_path = match grpc {
            Some(path) => Some(path.into()),
            None if grpc_text().is_some() => None,
            None => Some(found()?),
        };
    }
    Ok(args)
}

/// The worker's file, for those who ask about it.
fn worker(args: &CheckArgs) -> Result<WorkerConfig> {
    let path = args.config_path.clone().map_or_else(found, Ok)?;
    Ok(WorkerConfig::load(&path)?)
}

fn start_log(logging: &Logging) -> Result<logging::Log> {
    logging::start(logging).map_err(|e| anyhow!(e))
}

fn start(args: &ServeArgs) -> Result<()> {
    let config = load(args)?;
    let (mut log_to, drain_time, process) = match &config {
        Config::Worker(worker) => (
            worker.logging.clone(),
            worker.causeway.drain_time,
            worker.process.clone(),
        ),
        Config::Bootstrap(_) => (
            Logging::default(),
            Options::default().drain_time,
            Process::default(),
        ),
    };
    if let Some(level) = args.level() {
        level.clone_into(&mut log_to.level);
    }
    let log = start_log(&log_to)?;
    match &config {
        Config::Worker(worker) => worker.report(),
        Config::Bootstrap(bootstrap) => bootstrap.report(&source(args)),
    }
    let default = Options::default();
    let concurrency = args.concurrency.map_or(default.concurrency, usize::from);
    let drain_time = args.drain_time_s.map_or(drain_time, Duration::from_secs);
    let options = Options {
        concurrency,
        drain_time,
        log_level: Some(log.level.clone()),
        strict_xds: args.strict_xds,
        command_line: vec![
            ("concurrency".into(), concurrency.to_string()),
            ("config_path".into(), path_text(args.config_path.as_deref())),
            ("log_level".into(), log_to.level.clone()),
            (
                "drain_time".into(),
                format!("{}s", drain_time.as_secs_f64()),
            ),
        ],
        filters: &[],
    };
    let log_file = log_to.file.as_ref().map(|file| file.path.as_path());
    let runtime = runtime()?;
    let served = runtime.block_on(serve(config, options, &process, log_file));
    // A name that is being looked up must not hold up the end.
    runtime.shutdown_background();
    served.with_context(|| source(args))
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

fn path_text(path: Option<&Path>) -> String {
    path.map_or(String::new(), |p| p.display().to_string())
}

/// What the configuration was read from, for messages.
fn source(args: &ServeArgs) -> String {
    match &args.config_path {
        Some(path) => path.display().to_string(),
        None if args.config_yaml.is_none() => grpc::TEXT_VARIABLE.to_owned(),
        None => "--config-yaml".to_owned(),
    }
}

/// Reads the configuration; the content of a file tells its kind.
fn load(args: &ServeArgs) -> Result<Config> {
    let overrides = Overrides {
        config_yaml: args.config_yaml.clone(),
        xds: args.xds(),
        grpc_listeners: args.grpc_listener.clone(),
        allow_unknown_fields: args.allow_unknown_static_fields,
    };
    let Some(path) = &args.config_path else {
        if args.config_yaml.is_none()
            && let Some(text) = grpc_text()
        {
            let parsed = BootstrapConfig::parse_grpc(grpc::TEXT_VARIABLE, &text, &overrides)?;
            return Ok(Config::Bootstrap(Box::new(parsed)));
        }
        let parsed = BootstrapConfig::parse("--config-yaml", "", &overrides)?;
        return Ok(Config::Bootstrap(Box::new(parsed)));
    };
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    // A file that is no text at all is reported by whoever can say where it stops being one.
    let by_name = path
        .extension()
        .is_some_and(|e| e == "pb" || e == "pb_text");
    let bootstrap = by_name
        || std::str::from_utf8(&bytes).map_or(true, |t| {
            looks_like_bootstrap(t) || grpc::looks_like_grpc(t)
        });
    if bootstrap || args.config_yaml.is_some() {
        let config = BootstrapConfig::load(path, &overrides)?;
        return Ok(Config::Bootstrap(Box::new(config)));
    }
    let mut worker = WorkerConfig::load(path)?;
    if let Some(xds) = &mut worker.xds {
        overrides.xds.apply(xds);
    }
    Ok(Config::Worker(Box::new(worker)))
}

/// The gRPC bootstrap that the environment holds, when it names no file.
fn grpc_text() -> Option<String> {
    let set = std::env::var(grpc::TEXT_VARIABLE).ok();
    set.filter(|text| !text.is_empty())
}

async fn serve(
    config: Config,
    options: Options,
    process: &Process,
    log_file: Option<&Path>,
) -> Result<()> {
    let signals = Signals::listen()?;
    match descriptors::raise_limit() {
        Ok(limit) => tracing::debug!(?limit, "file descriptors"),
        Err(error) => tracing::warn!(%error, "the limit of file descriptors stays as it is"),
    }
    // Before anything is opened: who does not exist cannot be become.
    let identity = Identity::find(process)?;
    let _pid_file = match &process.pid_file {
        Some(path) => Some(PidFile::write(path)?),
        None => None,
    };
    if let (Some(identity), Config::Worker(worker)) = (&identity, &config)
        && let Some(acme) = &worker.causeway.acme
    {
        identity.own_directory(&acme.cache)?;
    }
    let running = app::start(config, options).await?;
    if let Some(identity) = identity
        && let Err(error) = identity.assume(log_file.as_slice())
    {
        // The Coordinator knows of this worker by now.
        running.shutdown().await;
        return Err(error);
    }
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
    /// Access logs have been moved away.
    moved: Signal,
}

impl Signals {
    fn listen() -> Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            moved: signal(SignalKind::user_defined1())?,
        })
    }
}

async fn until_stopped(mut running: Running, signals: Signals) -> Result<()> {
    let Signals {
        mut terminate,
        mut interrupt,
        mut moved,
    } = signals;
    let why = loop {
        tokio::select! {
            _ = terminate.recv() => break "SIGTERM",
            _ = interrupt.recv() => break "SIGINT",
            () = running.asked_to_quit() => break "quitquitquit",
            _ = moved.recv() => access_log::reopen(),
        }
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

/// Origins, management server and proxy in one process.
async fn run_xds_demo(options: Options) -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(10);
    const POLL: Duration = Duration::from_millis(20);
    const STEP: Duration = Duration::from_secs(3);
    let signals = Signals::listen()?;
    let (sender, mut said) = tokio::sync::mpsc::unbounded_channel();
    let scene = demo::xds::Scene::start(0, 0, sender)
        .await
        .context("cannot start the management server")?;
    let text = scene.bootstrap(true, 0);
    let bootstrap = BootstrapConfig::parse("demo", &text, &Overrides::default())?;
    let running = app::start(Config::Bootstrap(Box::new(bootstrap)), options).await?;
    let opened = async {
        loop {
            if let Some(address) = running.addresses.of(demo::xds::LISTENER) {
                return address;
            }
            tokio::time::sleep(POLL).await;
        }
    };
    let traffic = tokio::time::timeout(PATIENCE, opened)
        .await
        .context("the listener of the demo is not open")?;
    let management = running
        .management
        .context("the demo has a management port")?;
    let mut out = std::io::stdout();
    let banner = demo::xds::banner(scene.address(), traffic, management);
    write!(out, "{banner}")?;
    out.flush()?;
    let playing = tokio::spawn(async move {
        // The only error is that of a resource which is a constant.
        let _ = scene
            .play(&mut said, STEP, |line| println!("  {line}"))
            .await;
    });
    let stopped = until_stopped(running, signals).await;
    playing.abort();
    stopped
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
