//! The agent, assembled in order: read this first.
//!
//! Discovery feeds health, health feeds the registry (the one writer of the catalog), gossip feeds
//! the registry and is fed by it. Everything else reads the registry's snapshots: routes are
//! computed from them once, the proxy applies routes, the HTTP API answers from both.

mod planes;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::bail;
use bytes::Bytes;
use catalog::{Change, Snapshot, json};
use memberlist::Member;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use crate::{
    api_tokens::{self, TokenSource, Tokens},
    cluster::{
        awake::Awake,
        core::{Core, Counters},
        drains::Drain,
        exchange, join, metadata,
        registry::{self, Command, Inputs, Registry},
        replica::Replica,
        state_file::{self, Kept},
    },
    config::{Config, Discovery, Origin},
    discovery::{self, SourceName},
    gossip_keys::{self, GossipKeys},
    health::{self, HealthConfig},
    http::{self, Access, Api, Hosts, Journal, Tls},
    listeners::{self, Dispatcher, Listeners},
    local_view::LocalView,
    metrics::{Metrics, statsd},
    net::{
        bind_address::{self, BindAddress},
        dial::Dialer,
        http_client::HttpClient,
        resolver::Resolver,
    },
    opening::{self, Progress},
    proxy::builtin::PlaneStatus,
    routes::{Router, Routes},
    signals::{Signals, Stop},
};

/// Time between checks of one instance, and the most one may take, as in the original.
const CHECK_INTERVAL: Duration = Duration::from_secs(3);
const CHECK_TIMEOUT: Duration = Duration::from_millis(2_999);
/// Depth of the queues between discovery, health and the registry; senders wait when one is full.
const QUEUE_DEPTH: usize = 1024;
/// Time given to peers to hear the goodbye.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Time given to tasks after the goodbye; above the proxy's own drain deadline.
const STOP_TIMEOUT: Duration = Duration::from_secs(7);
/// Pause before a busy API port is tried again.
const HTTP_RETRY: Duration = Duration::from_secs(5);

/// Everything that was started, and the way to stop it.
struct Agent {
    config: Config,
    advertise: IpAddr,
    resolver: Resolver,
    view: Arc<LocalView>,
    /// Counts requests to read files again.
    reload: watch::Sender<u64>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    /// Cancelled before `shutdown` when this host leaves the cluster.
    leaving: CancellationToken,
}

/// Gives gossip what a state exchange carries.
struct Replicated {
    snapshot: watch::Receiver<Arc<Snapshot>>,
    awake: Arc<Awake>,
}

impl memberlist::Delegate for Replicated {
    fn local_state(&self, _join: bool) -> Bytes {
        if self.awake.has_overslept() {
            return Bytes::new();
        }
        let snapshot = self.snapshot.borrow().clone();
        Bytes::from(json::encode_replica(&snapshot))
    }

    fn opening(&self, peer: Option<&Member>, join: bool) -> Bytes {
        let snapshot = self.snapshot.borrow().clone();
        let clock = SystemTime::now().into();
        match peer {
            Some(peer) if metadata::is_ours(&peer.meta) => {
                exchange::opening(&snapshot, clock, None)
            }
            None if !self.awake.has_overslept() => exchange::greeting(&snapshot, clock),
            _ => self.local_state(join),
        }
    }

    fn reply(&self, theirs: &Bytes, join: bool) -> Bytes {
        if !exchange::Message::is(theirs) {
            return self.local_state(join);
        }
        let snapshot = self.snapshot.borrow().clone();
        exchange::reply(&snapshot, theirs, SystemTime::now().into())
    }

    fn brief_opening(&self, peer: &Member, members: u64) -> Option<Bytes> {
        let snapshot = self.snapshot.borrow().clone();
        let clock = SystemTime::now().into();
        metadata::is_ours(&peer.meta).then(|| exchange::opening(&snapshot, clock, Some(members)))
    }

    fn brief_reply(&self, theirs: &Bytes, members: u64) -> Option<Bytes> {
        let snapshot = self.snapshot.borrow().clone();
        exchange::brief_reply(&snapshot, theirs, SystemTime::now().into(), members)
    }
}

/// Runs the agent until one of `signals` ends it.
///
/// # Errors
/// When it cannot start: no usable address, or the gossip port is taken.
pub async fn run(config: Config, mut signals: Signals) -> anyhow::Result<()> {
    for line in config.lines() {
        info!("{line}");
    }
    for warning in &config.warnings {
        warn!("{warning}");
    }
    raise_descriptor_limit();
    let advertise = advertise_address(&config).await?;
    let agent = Agent {
        config,
        advertise,
        resolver: Resolver::default(),
        view: Arc::default(),
        reload: watch::channel(0).0,
        tasks: TaskTracker::new(),
        shutdown: CancellationToken::new(),
        leaving: CancellationToken::new(),
    };
    let reload = agent.reload.clone();
    let (gossip, commands) = tokio::select! {
        started = agent.start() => started?,
        _ = signals.stop(&reload) => {
            agent.end_tasks().await;
            info!("stopped while starting");
            return Ok(());
        }
    };
    let stop = match signals.stop(&reload).await {
        Stop::Leave if agent.config.leave_on_stop => Stop::Leave,
        _ => Stop::Restart,
    };
    match stop {
        Stop::Leave => info!("leaving the cluster; a second signal ends the process at once"),
        Stop::Restart => info!(
            "stopping without a goodbye, to be started again: other hosts keep this host's services \
             until they think it dead; a second signal ends the process at once"
        ),
    }
    tokio::select! {
        () = agent.stop(stop, gossip, commands) => Ok(()),
        _ = signals.stop(&reload) => {
            warn!("ended at once by a second signal");
            std::process::exit(1)
        }
    }
}

impl Agent {
    async fn start(&self) -> anyhow::Result<(memberlist::Handle, mpsc::Sender<Command>)> {
        let config = &self.config;
        let (snapshots, snapshot) = watch::channel(Arc::new(Snapshot::empty(
            &config.node_name,
            &config.cluster_name,
        )));
        let awake = Arc::new(Awake::new());
        let (gossip, gossip_events) = memberlist::start(
            self.gossip_config().await?,
            Arc::new(Replicated {
                snapshot: snapshot.clone(),
                awake: awake.clone(),
            }),
        )
        .await
        .map_err(|error| {
            anyhow::anyhow!("gossip cannot start, is another agent running on this host? {error}")
        })?;
        info!(address = %gossip.local_addr(), advertise = %self.advertise, keys = gossip.keys().len(), "gossip is up");
        if let GossipKeys::File(path) = &config.gossip_security.keys {
            let (path, shutdown) = (path.clone(), self.shutdown.clone());
            self.tasks
                .spawn(gossip_keys::follow(path, gossip.clone(), shutdown));
        }

        let sources = self.sources().await;
        let (updates, local) = mpsc::channel(QUEUE_DEPTH);
        let (found, source_events) = mpsc::channel(QUEUE_DEPTH);
        self.start_discovery(&sources, found);
        let (listeners, managed) = watch::channel(Listeners::new());
        self.start_health(source_events, updates, listeners);

        let (commands, command_inputs) = mpsc::channel(16);
        let (drain, drain_inputs) = mpsc::channel(64);
        let (routed, routed_seen) = watch::channel(0);
        let (progress, progress_seen) = watch::channel(Progress::none());
        let counters = Arc::new(Counters::default());
        let (kept, drains_written) = self.start_keeping().await;
        let replica = Replica::new(
            &config.node_name,
            &config.cluster_name,
            sources,
            registry::now(),
        )
        .with_drains(kept.1, registry::now());
        let core = Core::new(replica, counters.clone(), rand::random());
        // As many as are kept: they may all come at once, when this host joins a cluster.
        let (changes, news) = broadcast::channel(http::CHANGES_MAX);
        let registry = Registry::new(
            core,
            gossip.clone(),
            awake,
            snapshots,
            progress,
            changes.clone(),
            kept.0,
        );
        self.start_listeners(changes, snapshot.clone(), managed);
        let inputs = Inputs {
            local,
            gossip: gossip_events,
            drain: drain_inputs,
            commands: command_inputs,
            routed: routed_seen,
        };
        // Not tracked: it ends when the last sender of commands is gone, after the goodbye.
        tokio::spawn(registry.run(inputs));

        let (open, ready) = self.start_opening(progress_seen);
        let routes = self.start_routes(snapshot.clone(), routed, open);
        let (plane, proxy) = self.start_proxy(snapshot.clone(), routes.clone()).await;
        let (journal, hosts) = self.start_journal(&gossip, news, snapshot.clone(), plane.clone());
        let encrypted = gossip.clone();
        let metrics = Arc::new(Metrics {
            snapshot: snapshot.clone(),
            gossip: gossip.clone(),
            counters,
            plane: plane.clone(),
            view: self.view.clone(),
            ready: ready.clone(),
            started: SystemTime::now(),
        });
        self.start_statsd(&metrics);
        self.start_http(Api {
            snapshots: snapshot,
            routes,
            plane,
            local: self.view.clone(),
            envoy_v1: http::EnvoyV1 {
                bind: config.bind_ip,
                use_hostnames: config.haproxy.use_hostnames,
            },
            drain,
            drains_written,
            access: Arc::new(self.access()),
            tls: self.start_tls(),
            metrics: Arc::new(move || metrics.render()),
            ready,
            journal,
            hosts,
            proxy,
            encrypted: Arc::new(move || !encrypted.keys().is_empty()),
        });
        self.start_join(gossip.clone(), commands.clone());
        Ok((gossip, commands))
    }

    async fn gossip_config(&self) -> anyhow::Result<memberlist::Config> {
        let config = &self.config;
        let meta = metadata::write(&config.cluster_name)?;
        let security = &config.gossip_security;
        Ok(memberlist::Config {
            cluster_name: config.cluster_name.clone(),
            bind: config.gossip_bind,
            meta: meta.into(),
            lazy_push: Some(metadata::is_ours),
            delegate_versions: config.delegate_versions,
            gossip_interval: config.gossip_interval,
            gossip_messages: config.gossip_messages,
            push_pull_interval: config.push_pull_interval,
            handoff_queue_depth: config.handoff_queue_depth,
            keyring: gossip_keys::load(&security.keys).await?,
            verify_incoming: security.verify_incoming,
            verify_outgoing: security.verify_outgoing,
            label: security.label.clone(),
            allow_from: security.allow_from.clone(),
            seed: rand::random(),
            ..memberlist::Config::lan(&config.node_name, self.advertise)
        })
    }

    /// The sources to start with.
    async fn sources(&self) -> Vec<SourceName> {
        match &self.config.discovery {
            Discovery::Chosen(sources) => {
                if sources.is_empty() {
                    info!("no discovery: this host only consumes");
                }
                sources.clone()
            }
            Discovery::Automatic => {
                let present = discovery::present(&self.config, &self.resolver).await;
                if present.is_empty() {
                    info!(
                        docker = %self.config.docker,
                        file = %self.config.static_file.display(),
                        "no Docker engine answers and there is no static file, so this host \
                         announces nothing yet: start Docker, write the file, or name sources in \
                         SIDECAR_DISCOVERY (docker, static); both are picked up when they appear"
                    );
                }
                present
            }
        }
    }

    fn start_discovery(&self, sources: &[SourceName], found: discovery::SourceSender) {
        let settings = discovery::Settings {
            docker: self.config.docker.clone(),
            docker_naming: self.config.docker_naming.clone(),
            docker_hold: self.config.docker_hold,
            static_file: self.config.static_file.clone(),
            hostname: self.config.node_name.clone(),
            advertise_ip: self.advertise,
            view: self.view.clone(),
            reload: self.reload.subscribe(),
        };
        let automatic = self.config.discovery == Discovery::Automatic;
        self.tasks.spawn(discovery::run(
            settings,
            sources.to_vec(),
            automatic,
            self.resolver.clone(),
            found,
            self.shutdown.clone(),
        ));
    }

    fn start_health(
        &self,
        found: mpsc::Receiver<(SourceName, discovery::SourceEvent)>,
        updates: mpsc::Sender<health::LocalUpdate>,
        listeners: watch::Sender<Listeners>,
    ) {
        let config = HealthConfig {
            listeners,
            ..health_config(&self.config, self.advertise, self.view.clone())
        };
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(health::run(
            config,
            self.resolver.clone(),
            found,
            updates,
            shutdown,
        ));
    }

    fn start_listeners(
        &self,
        changes: broadcast::Sender<Change>,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        managed: watch::Receiver<Listeners>,
    ) {
        let settings = listeners::Settings {
            urls: self.config.listeners.clone(),
            hostname: self.config.node_name.clone(),
            changes,
            snapshots,
            client: HttpClient::new(Dialer::new(self.resolver.clone())),
            view: self.view.clone(),
        };
        // Before the writer makes the first change.
        let dispatcher = Dispatcher::start(settings);
        self.tasks
            .spawn(dispatcher.run(managed, self.shutdown.clone()));
    }

    /// Decides when routing begins, and what `/ready` says.
    fn start_opening(
        &self,
        progress: watch::Receiver<Progress>,
    ) -> (CancellationToken, watch::Receiver<Vec<&'static str>>) {
        let (ready, ready_seen) = watch::channel(Progress::none().awaited);
        let open = CancellationToken::new();
        let shutdown = self.shutdown.clone();
        self.tasks
            .spawn(opening::run(progress, ready, open.clone(), shutdown));
        (open, ready_seen)
    }

    /// Keeps the drains of this host on disk. Where the writer puts them, what the agent before has
    /// kept, and how far it is written.
    async fn start_keeping(
        &self,
    ) -> (
        (watch::Sender<Kept>, Option<Vec<Drain>>),
        watch::Receiver<u64>,
    ) {
        let wanted = self.config.state_dir.clone();
        let is_chosen = self.config.settings.iter().any(|setting| {
            setting.name == "SIDECAR_STATE_DIR" && setting.origin != Origin::Default
        });
        let opened = tokio::task::spawn_blocking(move || {
            let directory = state_file::open(wanted.as_deref(), is_chosen);
            let before = directory.as_deref().and_then(state_file::load);
            (directory, before)
        });
        // Fails only when it panics, which it does not.
        let (directory, before) = opened.await.unwrap_or_default();
        let (kept, to_keep) = watch::channel(Kept::default());
        let (written, drains_written) = watch::channel(0);
        let shutdown = self.shutdown.clone();
        self.tasks
            .spawn(state_file::keep(directory, to_keep, written, shutdown));
        ((kept, before), drains_written)
    }

    /// Who may use the API, as tokens come and go.
    fn access(&self) -> Access {
        let api = &self.config.api;
        let tokens = match &api.tokens {
            TokenSource::None => None,
            TokenSource::Given(tokens) => Some(watch::channel(Arc::new(tokens.clone())).1),
            TokenSource::File(path) => {
                let (sender, tokens) = watch::channel(Arc::new(Tokens::default()));
                let (path, shutdown) = (path.clone(), self.shutdown.clone());
                self.tasks.spawn(api_tokens::follow(path, sender, shutdown));
                Some(tokens)
            }
        };
        Access::new(tokens, api.token_reads, api.names.clone())
    }

    fn start_tls(&self) -> Option<Tls> {
        let files = self.config.api.tls.clone()?;
        let (tls, follower) = Tls::new();
        let (reload, shutdown) = (self.reload.subscribe(), self.shutdown.clone());
        self.tasks.spawn(follower.follow(files, reload, shutdown));
        Some(tls)
    }

    /// Computes routes once per change, for all data planes, from the time on when `open` is cancelled.
    /// Tells in `routed` which snapshot they were made of.
    fn start_routes(
        &self,
        mut snapshots: watch::Receiver<Arc<Snapshot>>,
        routed: watch::Sender<u64>,
        open: CancellationToken,
    ) -> watch::Receiver<Arc<Routes>> {
        let (routes, receiver) = watch::channel(Arc::new(Routes::default()));
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = open.cancelled() => {}
            }
            let mut reporter = crate::routes::report::Reporter::default();
            // The first routes are news even if there are none: who has waited for them is told.
            let mut is_first = true;
            let mut router = Router::default();
            loop {
                let snapshot = snapshots.borrow_and_update().clone();
                let newest = Arc::new(router.follow(&snapshot).clone());
                reporter.report(&newest);
                routes.send_if_modified(|current| {
                    let differs = std::mem::take(&mut is_first) || **current != *newest;
                    if differs {
                        *current = newest.clone();
                    }
                    differs
                });
                routed.send_replace(snapshot.version);
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    changed = snapshots.changed() => if changed.is_err() { return },
                }
            }
        });
        receiver
    }

    fn start_statsd(&self, metrics: &Arc<Metrics>) {
        if let Some(receiver) = &self.config.stats {
            self.tasks.spawn(statsd::run(
                receiver.clone(),
                self.config.node_name.clone(),
                metrics.clone(),
                self.resolver.clone(),
                self.shutdown.clone(),
            ));
        }
    }

    /// Keeps the latest changes and follows who is there, for those who ask the API.
    fn start_journal(
        &self,
        gossip: &memberlist::Handle,
        changes: broadcast::Receiver<Change>,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        plane: watch::Receiver<Arc<PlaneStatus>>,
    ) -> (Arc<Journal>, Arc<Hosts>) {
        let hosts = Arc::new(Hosts::new(snapshots, gossip.members_changed()));
        let journal = Arc::new(Journal::starting_now());
        let shutdown = self.shutdown.clone();
        self.tasks
            .spawn(journal.clone().run(changes, hosts.clone(), plane, shutdown));
        (journal, hosts)
    }

    fn start_http(&self, api: Api) {
        let address = self.config.http_bind;
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            let Some(listener) = bind_http(address, &shutdown).await else {
                return;
            };
            info!(%address, "API and page are up");
            http::serve(listener, api, shutdown).await;
        });
    }

    fn start_join(&self, gossip: memberlist::Handle, commands: mpsc::Sender<Command>) {
        let own = SocketAddr::new(self.advertise, self.config.gossip_bind.port());
        let enough = (commands.clone(), self.shutdown.clone());
        self.tasks.spawn(async move {
            let (commands, shutdown) = enough;
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = tokio::time::sleep(opening::JOIN_WITHIN) => {
                    // It is told once more when it is over, which changes nothing then.
                    let _ = commands.send(Command::Joined).await;
                }
            }
        });
        let joined = async move || {
            // Fails only when the registry is gone, which ends the agent anyway.
            let _ = commands.send(Command::Joined).await;
        };
        self.tasks.spawn(join::run(
            self.config.seeds.clone(),
            gossip,
            own,
            self.resolver.clone(),
            joined,
            self.shutdown.clone(),
        ));
    }

    /// Says goodbye first where one is due, while everything still works, then stops everything.
    /// Without one gossip stays up to the last: others begin to miss this host when it is gone.
    async fn stop(self, how: Stop, gossip: memberlist::Handle, commands: mpsc::Sender<Command>) {
        if how == Stop::Leave {
            self.leaving.cancel();
            let (done, said) = oneshot::channel();
            if commands.send(Command::Farewell(done)).await.is_ok()
                && tokio::time::timeout(LEAVE_TIMEOUT, said).await.is_err()
            {
                warn!("own services could not be declared gone in time");
            }
            gossip.leave(LEAVE_TIMEOUT).await;
        }
        self.end_tasks().await;
        gossip.shutdown().await;
        info!("stopped");
    }

    async fn end_tasks(&self) {
        self.shutdown.cancel();
        self.tasks.close();
        if tokio::time::timeout(STOP_TIMEOUT, self.tasks.wait())
            .await
            .is_err()
        {
            warn!("some connections were still open at the end of the drain time");
        }
    }
}

/// The address services are reached at, put on this host where that is possible.
pub(crate) async fn bind_ip(wanted: IpAddr) -> IpAddr {
    match bind_address::ensure(wanted).await {
        BindAddress::Present(ip) => {
            info!(address = %ip, "services are reached at this address");
            ip
        }
        BindAddress::Added(ip) => {
            info!(address = %ip, "services are reached at this address, added to lo");
            ip
        }
        BindAddress::Fallback {
            wanted,
            used,
            reason,
            remedy,
        } => {
            warn!(
                %wanted, serving_on = %used, reason, remedy,
                "no interface has the bind address and it cannot be added"
            );
            used
        }
    }
}

/// How instances of this host are checked.
pub(crate) fn health_config(
    config: &Config,
    advertise_ip: IpAddr,
    view: Arc<LocalView>,
) -> HealthConfig {
    HealthConfig {
        advertise_ip,
        default_endpoint: config.default_check_endpoint.clone(),
        interval: CHECK_INTERVAL,
        timeout: CHECK_TIMEOUT,
        view,
        listeners: watch::channel(Listeners::new()).0,
    }
}

/// The address peers reach this host at.
pub(crate) async fn advertise_address(config: &Config) -> anyhow::Result<IpAddr> {
    if let Some(ip) = config.advertise_ip {
        return Ok(ip);
    }
    // The bind address is the same on every host, so it can be nobody's address.
    let mut excluded = config.exclude_ips.clone();
    excluded.push(config.bind_ip);
    if let Some(ip) = bind_address::first_private_ipv4(&excluded).await {
        return Ok(ip.into());
    }
    if config.seeds.is_empty() {
        warn!("no interface has a private IPv4 address; alone on this host, 127.0.0.1 will do");
        return Ok(Ipv4Addr::LOCALHOST.into());
    }
    bail!(
        "no interface has a private IPv4 address (10/8, 172.16/12, 192.168/16) that is not \
         excluded; set SIDECAR_ADVERTISE_IP to the address other hosts reach this one at"
    )
}

/// Binds the API's port, waiting for it as long as somebody else has it.
async fn bind_http(
    address: SocketAddr,
    shutdown: &CancellationToken,
) -> Option<tokio::net::TcpListener> {
    let mut told = false;
    loop {
        match tokio::net::TcpListener::bind(address).await {
            Ok(listener) => return Some(listener),
            Err(error) if !told => {
                told = true;
                warn!(
                    %address, %error,
                    "the API cannot listen; everything else works, and it will be tried again \
                     (SIDECAR_HTTP_BIND chooses another address)"
                );
            }
            Err(_) => {}
        }
        tokio::select! {
            () = shutdown.cancelled() => return None,
            () = tokio::time::sleep(HTTP_RETRY) => {}
        }
    }
}

/// Every proxied connection takes two descriptors; the usual soft limit of 1,024 is for programs
/// that use `select`.
pub(crate) fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        warn!(%error, "cannot raise the limit of open files; it stays at {:?}", limit.current);
    }
}

/// Asks the kernel to end this process when the one that started it ends.
pub fn end_with_parent() {
    #[cfg(target_os = "linux")]
    {
        let signal = Some(rustix::process::Signal::TERM);
        if let Err(error) = rustix::process::set_parent_process_death_signal(signal) {
            warn!(%error, "cannot tie this process to its parent");
        }
    }
}
