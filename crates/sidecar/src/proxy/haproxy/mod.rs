//! The HAProxy data plane: a HAProxy of this host serves every ServicePort, and this drives it.
//!
//! It has two modes that share nothing but their input and what they tell of themselves:
//! - `classic`: a configuration file made from a template (Go's language, the original's functions),
//!   verified, put in place and made to run by a reload;
//! - `runtime`: a fixed configuration, and changes over the admin socket.
//!
//! HAProxy is a process of its own and outlives the agent: nothing is touched before the first routes
//! are decided, and nothing is taken away when the agent ends; only where it leaves the cluster does a
//! HAProxy of runtime mode finish its connections and end too.

mod classic;
mod command;
mod config_file;
mod instances;
pub(crate) mod process;
pub mod runtime;
mod status;
mod template;

use std::{
    borrow::Cow,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use catalog::Snapshot;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use self::status::{HaproxyStatus, State};
use super::is_listener;
use crate::{
    config::{HaproxyConfig, HaproxyMode},
    routes::{Route, Routes},
};

/// What HAProxy is to serve.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// The catalog's newest snapshot, for templates that show more than routes.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// The newest routes. The first change says that routing begins; what was there before says
    /// nothing.
    pub routes: watch::Receiver<Arc<Routes>>,
    /// Ports of this host that are no services': the agent's own.
    pub reserved_ports: Vec<u16>,
    /// Cancelled before the shutdown when the agent leaves the cluster, and not to come back soon.
    pub leaving: CancellationToken,
}

/// Keeps HAProxy serving the newest routes on `bind` until `shutdown`; HAProxy runs on after that.
pub async fn run(
    config: HaproxyConfig,
    bind: IpAddr,
    inputs: Inputs,
    status: watch::Sender<Arc<HaproxyStatus>>,
    shutdown: CancellationToken,
) {
    match config.mode {
        HaproxyMode::Classic => classic::run(config, bind, inputs, status, shutdown).await,
        HaproxyMode::Runtime => runtime::run(config, bind, inputs, status, shutdown).await,
    }
}

/// The routes without instances that announce the very ServicePort on the bind address. HAProxy would connect
/// to itself until it has no connection left for anybody. A route of such alone is none.
fn without_itself(routes: &Routes, bind: IpAddr) -> Cow<'_, Routes> {
    let is_own = |port: u16, address| is_listener(SocketAddr::new(bind, port), address);
    let has_own = |port: u16, route: &Route| {
        let mut endpoints = route.endpoints.iter();
        endpoints.any(|it| is_own(port, it.address))
    };
    let mut routes = Cow::Borrowed(routes);
    let with_own: Vec<u16> = routes
        .by_port
        .iter()
        .filter(|(port, route)| has_own(**port, route))
        .map(|(port, _)| *port)
        .collect();
    for port in with_own {
        let by_port = &mut routes.to_mut().by_port;
        let Some(route) = by_port.get_mut(&port) else {
            continue;
        };
        let route = Arc::make_mut(route);
        route.endpoints.retain(|it| !is_own(port, it.address));
        if route.endpoints.is_empty() {
            by_port.remove(&port);
        }
    }
    routes
}

#[cfg(test)]
mod tests {
    use catalog::ProxyMode;

    use super::*;
    use crate::routes::Endpoint;

    fn routes(by_port: &[(u16, &[&str])]) -> Routes {
        let endpoint = |address: &&str| Endpoint {
            hostname: "a".to_owned(),
            id: "1".to_owned(),
            address: address.parse().expect("an address"),
            weight: 1,
        };
        let route = |addresses: &[&str]| Route {
            service: "web".to_owned(),
            mode: ProxyMode::Http,
            endpoints: addresses.iter().map(endpoint).collect(),
        };
        let by_port = by_port.iter();
        Routes {
            by_port: by_port
                .map(|(port, addresses)| (*port, Arc::new(route(addresses))))
                .collect(),
            excluded: Vec::new(),
        }
    }

    #[test]
    fn haproxy_is_never_led_to_itself() {
        let own = routes(&[
            (80, &["10.0.0.1:80", "192.168.168.168:80"]),
            (81, &["192.168.168.168:81"]),
            // Another service of the same proxy.
            (82, &["192.168.168.168:80"]),
        ]);
        let left = routes(&[(80, &["10.0.0.1:80"]), (82, &["192.168.168.168:80"])]);
        let bind = "192.168.168.168".parse().expect("an address");
        assert_eq!(*without_itself(&own, bind), left);
        assert!(matches!(without_itself(&left, bind), Cow::Borrowed(_)));
    }
}
