//! What agent and worker tell each other: frames of a length and JSON, over a Unix socket.
//!
//! Both sides run one program, but for [`FromWorker::Hello`], [`ToWorker::HandOver`] and
//! [`ToWorker::Stop`], which a worker of any version has to understand.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::Settings;
use crate::{
    proxy::builtin::{PlaneStatus, PortStatus},
    routes::{Route, Routes, changed_ports},
};

/// Longest frame: all 65,535 ports with a dozen endpoints each.
pub(super) const FRAME_BYTES_MAX: usize = 256 * 1024 * 1024;

/// From the agent.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToWorker {
    /// Where traffic goes from now on.
    Routes(RoutesChange),
    /// Close everything, finish and end.
    Stop,
    /// Give the listening sockets to whoever sent this.
    HandOver,
}

/// From the worker.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum FromWorker {
    /// The first frame.
    Hello(Hello),
    /// What has changed since the last one.
    Status(StatusChange),
    /// One line, with its end.
    Log(String),
    /// Sockets follow, that of the control socket first: see [`super::handover`].
    HandOver(Estate),
}

/// Who answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) build: String,
    pub(super) settings: Settings,
}

/// What a worker leaves to its successor.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Estate {
    pub(super) routes: BTreeMap<u16, Arc<Route>>,
    /// ServicePorts of the sockets that follow, in their order.
    pub(super) ports: Vec<u16>,
}

/// From some routes to others.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RoutesChange {
    /// Whether what is not mentioned goes, too.
    pub(super) all: bool,
    pub(super) set: BTreeMap<u16, Arc<Route>>,
    pub(super) remove: BTreeSet<u16>,
}

/// From one status to the next.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StatusChange {
    pub(super) set: BTreeMap<u16, Arc<PortStatus>>,
    pub(super) remove: BTreeSet<u16>,
    pub(super) connections_open: usize,
    pub(super) connections_max: usize,
    pub(super) accept_failures: u64,
}

impl RoutesChange {
    /// What leads to `new`; everything when it is not known what there was.
    pub(super) fn between(old: Option<&Routes>, new: &Routes) -> Self {
        let empty = BTreeMap::new();
        let before = old.map_or(&empty, |it| &it.by_port);
        let (set, remove) = difference(before, &new.by_port);
        Self {
            all: old.is_none(),
            set,
            remove,
        }
    }

    pub(super) fn apply(self, routes: &mut Routes) {
        if self.all {
            routes.by_port.clear();
        }
        replace(&mut routes.by_port, self.set, &self.remove);
    }
}

impl StatusChange {
    pub(super) fn between(old: &PlaneStatus, new: &PlaneStatus) -> Self {
        let (set, remove) = difference(&old.ports, &new.ports);
        Self {
            set,
            remove,
            connections_open: new.connections_open,
            connections_max: new.connections_max,
            accept_failures: new.accept_failures,
        }
    }

    pub(super) fn apply(self, status: &mut PlaneStatus) {
        replace(&mut status.ports, self.set, &self.remove);
        status.connections_open = self.connections_open;
        status.connections_max = self.connections_max;
        status.accept_failures = self.accept_failures;
    }
}

type Change<T> = (BTreeMap<u16, Arc<T>>, BTreeSet<u16>);

fn difference<T: Eq>(old: &BTreeMap<u16, Arc<T>>, new: &BTreeMap<u16, Arc<T>>) -> Change<T> {
    let (mut set, mut remove) = (BTreeMap::new(), BTreeSet::new());
    for (port, now) in changed_ports(old, new) {
        match now {
            Some(now) => drop(set.insert(port, now.clone())),
            None => drop(remove.insert(port)),
        }
    }
    (set, remove)
}

fn replace<T>(map: &mut BTreeMap<u16, T>, set: BTreeMap<u16, T>, remove: &BTreeSet<u16>) {
    for port in remove {
        map.remove(port);
    }
    for (port, it) in set {
        map.insert(port, it);
    }
}

/// A frame as it is sent.
///
/// # Errors
/// When it would be too long.
pub(super) fn frame(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let length = bytes.len() - 4;
    if length > FRAME_BYTES_MAX {
        return Err(too_long(length));
    }
    let length = u32::try_from(length).map_err(io::Error::other)?;
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    Ok(bytes)
}

/// The length of the frame that follows.
///
/// # Errors
/// When it is too long.
pub(super) fn frame_length(head: [u8; 4]) -> io::Result<usize> {
    let length = usize::try_from(u32::from_be_bytes(head)).unwrap_or(usize::MAX);
    if length > FRAME_BYTES_MAX {
        return Err(too_long(length));
    }
    Ok(length)
}

fn too_long(length: usize) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("a frame of {length} bytes; at most {FRAME_BYTES_MAX} are allowed"),
    )
}

/// Sends one message.
///
/// # Errors
/// When the other side is gone.
pub(super) async fn write(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &impl Serialize,
) -> io::Result<()> {
    stream.write_all(&frame(message)?).await
}

/// Waits for one message and reads not a byte more. Not to be given up half-way.
///
/// # Errors
/// When the other side is gone, or says what cannot be understood.
pub(super) async fn read<M: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
) -> io::Result<M> {
    let mut head = [0; 4];
    stream.read_exact(&mut head).await?;
    let length = frame_length(head)?;
    let mut bytes = Vec::new();
    // Grows with what comes, not with what was announced.
    let mut body = stream.take(length as u64);
    if body.read_to_end(&mut bytes).await? < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&bytes)?)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use proptest::prelude::*;

    use super::*;
    use crate::routes::Endpoint;

    fn routes() -> impl Strategy<Value = Routes> {
        let endpoint = (0..3_u8, 1..4_u16).prop_map(|(host, port)| Endpoint {
            hostname: format!("host{host}"),
            id: "id".to_owned(),
            address: SocketAddr::from(([10, 0, 0, host], port)),
            weight: 100 + host,
        });
        let route = proptest::collection::vec(endpoint, 1..4).prop_map(|endpoints| Route {
            service: "web".to_owned(),
            mode: catalog::ProxyMode::Ws,
            endpoints,
        });
        let route = route.prop_map(Arc::new);
        let by_port = proptest::collection::btree_map(1..6_u16, route, 0..5);
        by_port.prop_map(|by_port| Routes {
            by_port,
            excluded: Vec::new(),
        })
    }

    fn carried<M: Serialize + DeserializeOwned>(message: &M) -> M {
        let bytes = frame(message).unwrap();
        let length = frame_length(bytes[..4].try_into().unwrap()).unwrap();
        assert_eq!(length, bytes.len() - 4);
        serde_json::from_slice(&bytes[4..]).unwrap()
    }

    proptest! {
        #[test]
        fn a_change_leads_from_any_routes_to_any_others(old in routes(), new in routes()) {
            let mut held = old.clone();
            let change = RoutesChange::between(Some(&old), &new);
            prop_assert!(change.set.iter().all(|(port, it)| old.by_port.get(port) != Some(it)));
            carried(&change).apply(&mut held);
            prop_assert_eq!(&held, &new);
        }

        #[test]
        fn without_knowledge_everything_is_told(old in routes(), new in routes()) {
            let mut held = old;
            carried(&RoutesChange::between(None, &new)).apply(&mut held);
            prop_assert_eq!(&held, &new);
        }
    }

    #[tokio::test]
    async fn an_announced_length_is_not_believed() {
        let mut short: &[u8] = &[0, 0, 1, 0, b'{'];
        let error = read::<ToWorker>(&mut short).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        let mut long: &[u8] = &[255, 255, 255, 255];
        let error = read::<ToWorker>(&mut long).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
