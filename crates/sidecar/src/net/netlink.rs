//! The addresses of this host's interfaces, asked of the Linux kernel itself: no image needs an `ip`
//! program for it. Truth: rtnetlink(7).
//!
//! One connection per question; they are asked at start-up and not again.

use std::net::IpAddr;

use futures_util::{StreamExt, TryStreamExt};
use rtnetlink::{
    Handle,
    packet_route::{
        AddressFamily,
        address::{AddressAttribute, AddressMessage},
    },
};
use tokio::task::JoinHandle;

/// Why the kernel could not be asked, or said no.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No netlink socket could be opened.
    #[error("cannot open a netlink socket: {0}")]
    Socket(#[from] std::io::Error),
    /// The kernel's answer is an error. Nothing was changed.
    #[error("the kernel refused: {0}")]
    Refused(std::io::Error),
    /// The answer could not be understood, or there was none.
    #[error("no usable answer from the kernel: {0}")]
    Answer(rtnetlink::Error),
    /// There is no loopback interface in this network namespace.
    #[error("there is no loopback interface")]
    NoLoopback,
}

impl From<rtnetlink::Error> for NetlinkError {
    fn from(error: rtnetlink::Error) -> Self {
        match error {
            rtnetlink::Error::NetlinkError(message) => Self::Refused(message.to_io()),
            other => Self::Answer(other),
        }
    }
}

/// All addresses of all interfaces, up or down: interfaces in the kernel's order (by index), the
/// addresses of one in the order of its list.
///
/// # Errors
/// When the kernel cannot be asked.
pub async fn addresses() -> Result<Vec<IpAddr>, NetlinkError> {
    let connection = Connection::open()?;
    let messages: Vec<AddressMessage> = connection
        .handle
        .address()
        .get()
        .execute()
        .try_collect()
        .await?;
    let mut found: Vec<(u32, IpAddr)> = messages
        .iter()
        .filter_map(|it| Some((it.header.index, own_address(it)?)))
        .collect();
    // The kernel lists all of IPv4 and then all of IPv6; the sort keeps the order within those.
    found.sort_by_key(|&(index, _)| index);
    Ok(found.into_iter().map(|(_, address)| address).collect())
}

/// Adds an address that is this host's alone (`/32` or `/128`) to the loopback interface. Having it
/// already is success.
///
/// # Errors
/// Mostly that this process may not: it needs the capability `NET_ADMIN`.
pub async fn add_to_loopback(address: IpAddr) -> Result<(), NetlinkError> {
    let connection = Connection::open()?;
    let mut links = connection
        .handle
        .link()
        .get()
        .match_name(LOOPBACK)
        .execute()
        .boxed();
    let link = links.try_next().await?.ok_or(NetlinkError::NoLoopback)?;
    let prefix_bits = if address.is_ipv4() { 32 } else { 128 };
    let added = connection
        .handle
        .address()
        .add(link.header.index, address, prefix_bits)
        .execute()
        .await;
    match added.map_err(NetlinkError::from) {
        Err(NetlinkError::Refused(error)) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            Ok(())
        }
        result => result,
    }
}

const LOOPBACK: &str = "lo";
/// A number that no interface has: the kernel counts up from 1.
const NO_INTERFACE: u32 = i32::MAX as u32;

/// Whether this process may change addresses, found out by trying: it asks for an address to be removed from an
/// interface that does not exist, so nothing can change. The kernel looks at privileges first.
///
/// # Errors
/// Why it may not.
pub async fn may_change_addresses() -> Result<(), NetlinkError> {
    let connection = Connection::open()?;
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = 32;
    message.header.index = NO_INTERFACE;
    let removed = connection.handle.address().del(message).execute().await;
    match removed.map_err(NetlinkError::from) {
        Err(NetlinkError::Refused(error))
            if matches!(
                error.kind(),
                std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::Unsupported
            ) =>
        {
            Err(NetlinkError::Refused(error))
        }
        // Privileged enough to be told that there is no such interface.
        Err(NetlinkError::Refused(_)) | Ok(()) => Ok(()),
        Err(other) => Err(other),
    }
}

/// The address itself; on a point-to-point link `Address` is the other end and `Local` is ours.
fn own_address(message: &AddressMessage) -> Option<IpAddr> {
    let local = message.attributes.iter().find_map(|it| match it {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    local.or_else(|| {
        message.attributes.iter().find_map(|it| match it {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })
}

/// A netlink socket and the task that reads it; both end with this value.
struct Connection {
    handle: Handle,
    reader: JoinHandle<()>,
}

impl Connection {
    fn open() -> Result<Self, NetlinkError> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        Ok(Self {
            handle,
            reader: tokio::spawn(connection),
        })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_end_of_a_point_to_point_link_is_the_address() {
        let (ours, theirs) = ("10.8.0.2".parse().unwrap(), "10.8.0.1".parse().unwrap());
        let mut message = AddressMessage::default();
        assert_eq!(own_address(&message), None);
        message.attributes.push(AddressAttribute::Address(theirs));
        assert_eq!(own_address(&message), Some(theirs));
        message.attributes.push(AddressAttribute::Local(ours));
        assert_eq!(own_address(&message), Some(ours));
    }

    #[tokio::test]
    async fn kernel_answers_with_every_address_a_socket_can_have() {
        // Which source address the system would choose is among those it has, wherever this runs.
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect("127.0.0.1:9").await.unwrap();
        let own = socket.local_addr().unwrap().ip();
        assert!(addresses().await.unwrap().contains(&own));
    }
}
