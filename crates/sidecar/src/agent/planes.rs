//! Which data plane is started, and with what.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use catalog::Snapshot;
use tokio::sync::watch;
use tracing::{info, warn};

use super::{Agent, bind_ip};
#[cfg(target_os = "linux")]
use crate::proxy::{
    kernel::{self, KernelStatus},
    worker,
};
use crate::{
    config::ProxyKind,
    http::ProxyFacts,
    proxy::{
        builtin::{self, PlaneStatus},
        envoy,
        haproxy::{self, HaproxyStatus},
    },
    routes::Routes,
};

impl Agent {
    /// Starts the data plane that is configured; tells what the built-in one carries, and what was chosen.
    pub(super) async fn start_proxy(
        &self,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        routes: watch::Receiver<Arc<Routes>>,
    ) -> (watch::Receiver<Arc<PlaneStatus>>, ProxyFacts) {
        let (status, receiver) = watch::channel(Arc::new(PlaneStatus::default()));
        #[cfg(target_os = "linux")]
        {
            let port = self.config.gossip_bind.port();
            if !matches!(self.config.proxy, ProxyKind::Builtin | ProxyKind::Kernel) {
                worker::retire(port).await;
            }
            if self.config.proxy != ProxyKind::Kernel {
                kernel::retire(port);
            }
        }
        let shutdown = self.shutdown.clone();
        let envoy_bind = self.config.envoy.bind_ip.unwrap_or(self.config.bind_ip);
        if self.config.proxy != ProxyKind::Envoy {
            self.start_xds(envoy_bind, snapshots.clone(), routes.clone());
        }
        let (plane, bind_ip) = match self.config.proxy {
            ProxyKind::None => {
                info!("no data plane: SIDECAR_PROXY is none");
                ("none", None)
            }
            ProxyKind::Envoy => {
                let bind = bind_ip(envoy_bind).await;
                if !self.config.envoy.use_grpc_api {
                    warn!("Envoy is told nothing over gRPC: ENVOY_USE_GRPC_API is false");
                }
                self.start_xds(bind, snapshots, routes);
                ("envoy", Some(bind))
            }
            ProxyKind::Builtin => {
                let bind = bind_ip(self.config.bind_ip).await;
                self.start_builtin(bind, routes, status);
                ("builtin", Some(bind))
            }
            ProxyKind::Kernel => {
                let bind = bind_ip(self.config.bind_ip).await;
                self.start_kernel(bind, snapshots, routes, status);
                ("kernel", Some(bind))
            }
            ProxyKind::Haproxy => {
                let bind = bind_ip(self.config.bind_ip).await;
                let (status, seen) = watch::channel(Arc::new(HaproxyStatus::default()));
                self.view.show_haproxy(seen);
                let config = self.config.haproxy.clone();
                let own = [&self.config.http_bind, &self.config.gossip_bind];
                let inputs = haproxy::Inputs {
                    snapshots,
                    routes,
                    reserved_ports: own.map(SocketAddr::port).into(),
                    leaving: self.leaving.clone(),
                };
                self.tasks
                    .spawn(haproxy::run(config, bind, inputs, status, shutdown));
                ("haproxy", Some(bind))
            }
        };
        (receiver, ProxyFacts { plane, bind_ip })
    }

    /// xDS for an Envoy, which other planes do not rule out: as with Go Sidecar, nothing has to be said to get it.
    fn start_xds(
        &self,
        bind: IpAddr,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        routes: watch::Receiver<Arc<Routes>>,
    ) {
        let config = &self.config.envoy;
        if !config.use_grpc_api {
            return;
        }
        let settings = envoy::Settings {
            node: self.config.node_name.clone(),
            port: config.grpc_port,
            bind,
            hostnames: config.use_hostnames.then(|| self.resolver.clone()),
            settings_file: config.settings_file.clone(),
        };
        let board = Arc::new(envoy::Board::default());
        self.view.show_envoy(board.clone());
        let inputs = envoy::Inputs { snapshots, routes };
        let shutdown = self.shutdown.clone();
        self.tasks
            .spawn(envoy::run(settings, inputs, board, shutdown));
    }

    /// The built-in data plane: in a process that outlives this one where the system allows that.
    fn start_builtin(
        &self,
        bind: IpAddr,
        routes: watch::Receiver<Arc<Routes>>,
        status: watch::Sender<Arc<PlaneStatus>>,
    ) {
        let shutdown = self.shutdown.clone();
        let options = builtin::Options {
            limits: builtin::Limits {
                response_timeout: self.config.proxy_response_timeout,
                ..builtin::Limits::default()
            },
            access_log: self.config.proxy_access_log.clone(),
        };
        #[cfg(target_os = "linux")]
        {
            let config = &self.config;
            let settings = worker::Settings {
                bind,
                gossip_port: config.gossip_bind.port(),
                log_level: config.log_level.to_string(),
                log_format: config.log_format,
                threads: config.proxy_threads,
                options,
            };
            let inputs = worker::Inputs {
                routes,
                status,
                leaving: self.leaving.clone(),
                shutdown,
            };
            self.tasks.spawn(worker::drive(settings, inputs));
        }
        #[cfg(not(target_os = "linux"))]
        self.tasks
            .spawn(builtin::run(options, bind, routes, status, shutdown));
    }

    /// The kernel's rules for what they can serve, and the built-in data plane for the rest.
    #[cfg(target_os = "linux")]
    fn start_kernel(
        &self,
        bind: IpAddr,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        routes: watch::Receiver<Arc<Routes>>,
        status: watch::Sender<Arc<PlaneStatus>>,
    ) {
        let (builtin, rest) = watch::channel(Arc::new(Routes::default()));
        let builtin_status = status.subscribe();
        self.start_builtin(bind, rest, status);
        let own = [&self.config.http_bind, &self.config.gossip_bind];
        let settings = kernel::Settings {
            bind,
            gossip_port: self.config.gossip_bind.port(),
            reserved_ports: own.map(SocketAddr::port).into(),
        };
        let inputs = kernel::Inputs {
            snapshots,
            routes,
            builtin,
            builtin_status,
            leaving: self.leaving.clone(),
            shutdown: self.shutdown.clone(),
        };
        let (status, seen) = watch::channel(Arc::new(KernelStatus::default()));
        self.view.show_kernel(seen);
        self.tasks.spawn(kernel::run(settings, inputs, status));
    }

    #[cfg(not(target_os = "linux"))]
    fn start_kernel(
        &self,
        bind: IpAddr,
        _snapshots: watch::Receiver<Arc<Snapshot>>,
        routes: watch::Receiver<Arc<Routes>>,
        status: watch::Sender<Arc<PlaneStatus>>,
    ) {
        tracing::warn!("only Linux has nf_tables; the built-in proxy serves everything");
        self.start_builtin(bind, routes, status);
    }
}
