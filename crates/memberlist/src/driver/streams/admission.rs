//! Who gets in: connections are counted altogether and per address, and those over the limit are
//! closed before anything is read.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Streams;

/// Connections others may have open to us, altogether and per address.
pub(super) const INBOUND_MAX: usize = 256;
const INBOUND_PER_ADDRESS_MAX: usize = 16;
/// Pause after an accept that failed, doubled each time up to a second.
const ACCEPT_PAUSE: Duration = Duration::from_millis(5);

/// A place among the connections of one address.
struct Place {
    streams: Arc<Streams>,
    address: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut addresses = self.streams.addresses();
        if let Some(open) = addresses.get_mut(&self.address) {
            *open -= 1;
            if *open == 0 {
                addresses.remove(&self.address);
            }
        }
    }
}

/// Accepts connections until cancelled.
pub(in crate::driver) async fn accept(
    streams: Arc<Streams>,
    listener: TcpListener,
    tasks: TaskTracker,
    cancel: CancellationToken,
) {
    let mut pause = ACCEPT_PAUSE;
    loop {
        let accepted = tokio::select! {
            () = cancel.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                pause = ACCEPT_PAUSE;
                if !streams.config.lets_in(peer.ip()) {
                    streams.shared.meters.streams_not_allowed.add(1);
                    continue;
                }
                match streams.admit(peer) {
                    Some(admitted) => {
                        let streams = streams.clone();
                        let serve = async move {
                            streams.serve(stream, peer).await;
                            drop(admitted);
                        };
                        tasks.spawn(cancel.clone().run_until_cancelled_owned(serve));
                    }
                    None => streams.shared.meters.streams_refused.add(1),
                }
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a connection");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
        }
    }
}

impl Streams {
    fn addresses(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn admit(self: &Arc<Self>, peer: SocketAddr) -> Option<(OwnedSemaphorePermit, Place)> {
        let permit = self.inbound.clone().try_acquire_owned().ok()?;
        let address = peer.ip().to_canonical();
        let mut addresses = self.addresses();
        let open = addresses.entry(address).or_default();
        if *open >= INBOUND_PER_ADDRESS_MAX {
            return None;
        }
        *open += 1;
        drop(addresses);
        let streams = self.clone();
        Some((permit, Place { streams, address }))
    }
}
