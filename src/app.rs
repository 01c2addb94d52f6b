//! Where everything meets: builds the parts in order, runs them, ends them.
//!
//! Tests use the same door as the program.

mod certificates;
pub mod coordinator;
mod xds;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use causeway_xds::descriptor;
use causeway_xds::reject::Rejected;
use causeway_xds::resource::load_assignment::Locality;
use causeway_xds::source::Update;
use tokio::sync::{mpsc, watch};

use self::certificates::Certificates;
use crate::admin::{self, AdminCommand, AdminState};
use crate::cluster::Home;
use crate::config::WorkerConfig;
use crate::config::bootstrap::BootstrapConfig;
use crate::control::sources::NoServers;
use crate::control::{BindFailure, Control, ControlHandle, Reconcile, Start};
use crate::coordinator::resolve::Resolver;
use crate::coordinator::{Circuits, Frame, follow_names, shim};
use crate::filter::{Context, Factory, Registry};
use crate::listener::{Addresses, Admission, Listeners, run_worker};
use crate::runtime::layers::Layers;
use crate::runtime::threads;
use crate::snapshot::{Publisher, Retired, Snapshot};
use crate::telemetry::activity::Activities;
use crate::telemetry::logging::LogLevel;
use crate::telemetry::stats::Stats;

/// How long the end waits for answers of the management port that are under way.
const LAST_ANSWER: Duration = Duration::from_millis(300);
/// How long descriptors of messages are kept for the next who needs them.
const DESCRIPTORS_UNUSED: Duration = Duration::from_secs(2);

/// How a process is run, whatever it serves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Data threads.
    pub concurrency: usize,
    /// How long connections may go on once the process is to end.
    pub drain_time: Duration,
    pub log_level: Option<LogLevel>,
    /// Resources that set a field without effect are refused.
    pub strict_xds: bool,
    /// As given on the command line, for `/server_info`.
    pub command_line: Vec<(String, String)>,
    /// HTTP filters beside those of the program.
    pub filters: &'static [Factory],
}

impl Default for Options {
    fn default() -> Self {
        Self {
            concurrency: std::thread::available_parallelism().map_or(1, usize::from),
            drain_time: Duration::from_secs(4),
            log_level: None,
            strict_xds: false,
            command_line: Vec::new(),
            filters: &[],
        }
    }
}

/// What a process serves.
pub enum Config {
    /// An Envoy bootstrap: only what it names is opened.
    Bootstrap(Box<BootstrapConfig>),
    /// The Backend.AI worker.
    Worker(Box<WorkerConfig>),
}

/// A running process.
pub struct Running {
    pub control: ControlHandle,
    pub publisher: Publisher,
    pub stats: Arc<Stats>,
    /// Where listeners really listen.
    pub addresses: Addresses,
    /// Where the management port really is.
    pub management: Option<SocketAddr>,
    /// In worker mode.
    pub circuits: Option<Arc<Circuits>>,
    /// Where the worker's own interface really is, with a Coordinator.
    pub api: Option<SocketAddr>,
    /// With a Coordinator.
    link: Option<coordinator::Link>,
    listeners: Arc<Mutex<Listeners>>,
    threads: Vec<JoinHandle<()>>,
    commands: mpsc::Receiver<AdminCommand>,
    stop: watch::Sender<bool>,
    /// The management port.
    serving: Option<tokio::task::JoinHandle<()>>,
    drain_time: Duration,
}

/// The listeners as the control task sees them.
struct Shared(Arc<Mutex<Listeners>>);

impl Reconcile for Shared {
    fn reconcile(
        &mut self,
        _: &Snapshot,
        next: &Snapshot,
        retired: &[Retired],
    ) -> Vec<BindFailure> {
        let mut listeners = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let failures = listeners.reconcile(next, retired);
        failures
            .into_iter()
            .map(|f| BindFailure {
                listener: f.listener,
                address: f.address,
                error: f.error,
            })
            .collect()
    }
}

/// Starts everything. Returns once all listeners of the configuration are open.
///
/// # Errors
/// The configuration cannot be used (every reason is in the text), or a port is in use.
pub async fn start(mut config: Config, options: Options) -> Result<Running> {
    crate::tls::install_provider();
    if let Config::Worker(worker) = &mut config
        && worker.coordinator.is_some()
    {
        coordinator::step_aside(&mut worker.causeway);
    }
    let stats = Arc::new(Stats::default());
    let publisher = Publisher::default();
    let (xds, updates, management, bootstrap) = match &config {
        Config::Bootstrap(b) => (b.xds.clone(), b.static_updates.clone(), b.admin, Some(&**b)),
        Config::Worker(w) => (
            w.xds.clone().unwrap_or_default(),
            Vec::new(),
            Some(w.causeway.management),
            None,
        ),
    };
    let layers = bootstrap.map(|b| Layers::new(b.runtime.clone()));
    let layers = Arc::new(layers.unwrap_or_default());
    let max_connections = match &config {
        Config::Bootstrap(b) => b.max_connections,
        Config::Worker(w) => w.causeway.max_connections,
    };
    let admission = Arc::new(Admission::new(max_connections, &layers));
    let mut threads = Vec::with_capacity(options.concurrency);
    let mut senders = Vec::with_capacity(options.concurrency);
    for index in 0..options.concurrency {
        let (sender, commands) = mpsc::unbounded_channel();
        let reader = publisher.reader();
        let admission = Arc::clone(&admission);
        let work = move || -> threads::Local { Box::pin(run_worker(commands, reader, admission)) };
        threads.push(threads::spawn(index, work).context("cannot start a data thread")?);
        senders.push(sender);
    }
    let listeners = Listeners::new(senders, Arc::clone(&stats));
    let addresses = listeners.addresses();
    let listeners = Arc::new(Mutex::new(listeners));
    let servers = xds::ManagementServers::new(xds.clone(), &updates)?;
    let certificates = match &config {
        Config::Worker(worker) => Certificates::of(worker)?,
        Config::Bootstrap(_) => None,
    };
    let automatic = certificates.as_ref().map(|c| Arc::clone(&c.automatic));
    let activities = Arc::<Activities>::default();
    let (mut control, handle) = Control::new(Start {
        registry: Registry::new(Context {
            draining: Arc::default(),
            activities: Some(Arc::clone(&activities)),
            certificates: automatic.clone(),
            layers: Arc::clone(&layers),
            strict: options.strict_xds,
            any_file: false,
            servers: Some(Arc::new(servers.known())),
            stats: Some(Arc::clone(&stats)),
            stat_scope: String::new(),
            local_cluster: xds.node.cluster.as_str().into(),
            node: Some(Arc::new(xds.node.clone())),
            secrets: Arc::default(),
            kept: Arc::default(),
            place: String::new(),
            more: options.filters,
        }),
        stats: Arc::clone(&stats),
        publisher: publisher.clone(),
        reconcile: Box::new(Shared(Arc::clone(&listeners))),
        roots: xds::roots(&xds),
        servers: Box::new(servers),
        resolver: xds.resolver.clone(),
        load_reports: xds.load_reports.clone(),
        home: home(bootstrap, &layers),
        gated: bootstrap.is_some(),
        deletions: xds::deletions(&xds),
        cache: xds::cache(&xds),
    });
    begin(&mut control, updates)?;
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(control.run(stopping(stopped.clone())));
    tokio::spawn(release_descriptors(stopping(stopped.clone())));

    let circuits = match &config {
        Config::Worker(worker) => {
            let circuits = Circuits::resolving(
                Frame::from(&**worker),
                handle.batches.clone(),
                Arc::clone(&activities),
                match &*worker.causeway.dns_servers {
                    [] => Resolver::default(),
                    servers => Resolver::of_servers(servers.to_vec()),
                },
            );
            circuits
                .install_frame()
                .await
                .map_err(|e| anyhow!("cannot open the frontends: {e}"))?;
            tokio::spawn(follow_names(Arc::downgrade(&circuits)));
            Some(circuits)
        }
        Config::Bootstrap(_) => None,
    };

    let acme = match (certificates, &circuits) {
        (Some(certificates), Some(circuits)) => {
            Some(certificates.start(circuits, &stats, stopped.clone())?)
        }
        _ => None,
    };
    let (mut link, mut api) = (None, None);
    if let (Config::Worker(worker), Some(circuits)) = (&config, &circuits)
        && let Some(config) = &worker.coordinator
    {
        let started = coordinator::start(worker, config, circuits, activities)?;
        api = Some(coordinator::serve_api(
            (worker, config, automatic.as_ref()),
            circuits,
            &started,
            (&stats, publisher.clone()),
            handle.readiness.clone(),
            stopped.clone(),
        )?);
        link = Some(started);
    }

    let (command, commands) = mpsc::channel(16);
    let state = AdminState::new(admin::Parts {
        stats: Arc::clone(&stats),
        publisher: publisher.clone(),
        control: handle.clone(),
        addresses: addresses_of(&addresses),
        log_level: options.log_level.clone(),
        commands: command,
        acme,
        layers,
        bootstrap: bootstrap.cloned(),
        concurrency: options.concurrency,
        command_line: options.command_line.clone(),
    });
    let mut router = admin::router(state);
    if let (Some(circuits), Config::Worker(worker)) = (&circuits, &config) {
        router = router.merge(shim::router(
            Arc::clone(circuits),
            worker.api_secret.clone(),
        ));
        if !worker.causeway.management.ip().is_loopback() {
            router = shim::guarded(router, worker.api_secret.clone());
        }
    }
    let mut serving = None;
    let management = match management {
        None => None,
        Some(address) => {
            let socket = tokio::net::TcpListener::bind(address)
                .await
                .with_context(|| format!("cannot bind the management port {address}"))?;
            let address = socket.local_addr()?;
            let serve = axum::serve(socket, router).with_graceful_shutdown(stopping(stopped));
            serving = Some(tokio::spawn(async move {
                if let Err(error) = serve.await {
                    tracing::error!(%error, "management port ended");
                }
            }));
            Some(address)
        }
    };
    Ok(Running {
        control: handle,
        publisher,
        stats,
        addresses,
        management,
        circuits,
        api,
        link,
        listeners,
        threads,
        commands,
        stop,
        serving,
        drain_time: options.drain_time,
    })
}

/// Reads and compiles static resources without opening anything, and returns what is refused;
/// with `strict`, also resources that set a field without effect.
pub fn check(updates: Vec<Update>, strict: bool) -> Vec<Rejected> {
    compiled(updates, strict, true).1
}

/// What would be served from, and what is refused. Nothing waits for endpoints, so that clusters
/// which have to look theirs up are missing.
pub fn compile(updates: Vec<Update>) -> (Arc<Snapshot>, Vec<Rejected>) {
    compiled(updates, false, false)
}

/// Where this proxy is among those of its kind.
fn home(bootstrap: Option<&BootstrapConfig>, layers: &Layers) -> Option<Home> {
    let bootstrap = bootstrap?;
    let cluster = bootstrap.local_cluster.as_deref()?;
    let locality = bootstrap.xds.node.locality.as_ref().map(|at| Locality {
        region: at.region.clone(),
        zone: at.zone.clone(),
        sub_zone: at.sub_zone.clone(),
    });
    Some(Home::new(cluster.into(), locality, layers))
}

fn compiled(updates: Vec<Update>, strict: bool, gated: bool) -> (Arc<Snapshot>, Vec<Rejected>) {
    struct Nothing;
    impl Reconcile for Nothing {
        fn reconcile(&mut self, _: &Snapshot, _: &Snapshot, _: &[Retired]) -> Vec<BindFailure> {
            Vec::new()
        }
    }
    let publisher = Publisher::default();
    let (mut control, _handle) = Control::new(Start {
        registry: Registry::new(Context {
            strict,
            ..Context::default()
        }),
        stats: Arc::default(),
        publisher: publisher.clone(),
        reconcile: Box::new(Nothing),
        roots: Vec::new(),
        servers: Box::new(NoServers),
        resolver: None,
        load_reports: None,
        home: None,
        gated,
        deletions: Default::default(),
        cache: None,
    });
    let outcome = match gated {
        true => control.begin(updates),
        false => control.begin_without_waiting(updates),
    };
    let rejected = outcome.rejected;
    (publisher.current(), rejected)
}

/// Static resources are all or nothing: a process that starts with half of them would hide it.
fn begin(control: &mut Control, updates: Vec<Update>) -> Result<()> {
    let outcome = control.begin(updates);
    if outcome.rejected.is_empty() {
        return Ok(());
    }
    let reasons: Vec<String> = outcome.rejected.iter().map(ToString::to_string).collect();
    Err(anyhow!("{}", reasons.join("\n")))
}

fn addresses_of(addresses: &Addresses) -> admin::AddressOf {
    let addresses = addresses.clone();
    Arc::new(move |listener| addresses.all_of(listener))
}

async fn stopping(mut stopped: watch::Receiver<bool>) {
    // An error means that the sender is gone, which says the same.
    stopped.wait_for(|stop| *stop).await.ok();
}

/// They are tens of megabytes, and wanted again when a file changes or somebody looks at a dump.
async fn release_descriptors(stopped: impl Future<Output = ()>) {
    let mut stopped = std::pin::pin!(stopped);
    loop {
        tokio::select! {
            () = &mut stopped => return,
            () = tokio::time::sleep(DESCRIPTORS_UNUSED) => descriptor::release(DESCRIPTORS_UNUSED),
        }
    }
}

impl Running {
    /// Waits until an operator asks the process to end, carrying out other commands meanwhile.
    pub async fn asked_to_quit(&mut self) {
        while let Some(command) = self.commands.recv().await {
            match command {
                AdminCommand::DrainListeners => self.drain(),
                AdminCommand::Quit => return,
            }
        }
        std::future::pending().await
    }

    fn drain(&self) {
        self.listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .drain();
    }

    /// Connections that are open, tunnels included.
    fn open(&self) -> i64 {
        self.stats
            .listeners()
            .iter()
            .map(|(_, stats)| stats.downstream_cx_active.value())
            .sum()
    }

    /// Stops accepting, lets connections end for at most the drain time, then ends them.
    pub async fn shutdown(mut self) {
        self.control.readiness.set_draining(true);
        let deadline = Instant::now() + self.drain_time;
        // First, so that no user is sent here while nothing listens any more.
        if let Some(link) = &mut self.link {
            link.leave().await;
        }
        self.drain();
        while self.open() > 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let cut = self.open();
        if cut > 0 {
            tracing::warn!(connections = cut, limit = ?self.drain_time, "drain deadline fired");
        }
        self.listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .exit();
        self.stop.send(true).ok();
        // Whoever asked for the end is to read the answer; nobody else is waited for.
        if let Some(serving) = self.serving {
            tokio::time::timeout(LAST_ANSWER, serving).await.ok();
        }
        let threads = self.threads;
        let joined = tokio::task::spawn_blocking(move || {
            for thread in threads {
                if thread.join().is_err() {
                    tracing::error!("a data thread had panicked");
                }
            }
        });
        joined.await.ok();
    }
}
