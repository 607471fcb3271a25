//! Messages whose names and byte strings stand in the datagram they came in: what a node knows
//! already is recognised without a copy. Only conversions live here.

use bytes::Bytes;

use super::{Ack, Alive, Dead, IndirectPing, Message, Ping, Source, Suspect};

/// A message that owns nothing.
pub type MessageRef<'a> = Message<&'a str, &'a [u8]>;

impl MessageRef<'_> {
    /// The same message for itself.
    pub fn into_owned(self) -> Message {
        match self {
            Self::Ping(ping) => Message::Ping(ping.into_owned()),
            Self::IndirectPing(ping) => Message::IndirectPing(ping.into_owned()),
            Self::Ack(ack) => Message::Ack(ack.into_owned()),
            Self::Suspect(suspect) => Message::Suspect(suspect.into_owned()),
            Self::Alive(alive) => Message::Alive(alive.into_owned()),
            Self::Dead(dead) => Message::Dead(dead.into_owned()),
            Self::User(content) => Message::User(Bytes::copy_from_slice(content)),
            Self::Nack(nack) => Message::Nack(nack),
        }
    }
}

impl Message {
    /// The same message, borrowing from this one.
    pub fn borrowed(&self) -> MessageRef<'_> {
        match self {
            Self::Ping(ping) => Message::Ping(ping.borrowed()),
            Self::IndirectPing(ping) => Message::IndirectPing(IndirectPing {
                seq_no: ping.seq_no,
                target: ping.target,
                port: ping.port,
                node: &ping.node,
                nack: ping.nack,
                source: ping.source.as_ref().map(Source::borrowed),
            }),
            Self::Ack(ack) => Message::Ack(ack.borrowed()),
            Self::Suspect(suspect) => Message::Suspect(Suspect {
                incarnation: suspect.incarnation,
                node: &suspect.node,
                from: &suspect.from,
            }),
            Self::Alive(alive) => Message::Alive(Alive {
                incarnation: alive.incarnation,
                node: &alive.node,
                addr: alive.addr,
                port: alive.port,
                meta: &alive.meta,
                versions: alive.versions,
            }),
            Self::Dead(dead) => Message::Dead(Dead {
                incarnation: dead.incarnation,
                node: &dead.node,
                from: &dead.from,
            }),
            Self::User(content) => Message::User(content),
            Self::Nack(nack) => Message::Nack(*nack),
        }
    }
}

impl Source {
    fn borrowed(&self) -> Source<&str> {
        Source {
            addr: self.addr,
            port: self.port,
            node: &self.node,
        }
    }
}

impl Source<&str> {
    fn into_owned(self) -> Source {
        Source {
            addr: self.addr,
            port: self.port,
            node: self.node.to_owned(),
        }
    }
}

impl Ping {
    pub(in crate::wire) fn borrowed(&self) -> Ping<&str> {
        Ping {
            seq_no: self.seq_no,
            node: &self.node,
            source: self.source.as_ref().map(Source::borrowed),
        }
    }
}

impl Ping<&str> {
    pub(in crate::wire) fn into_owned(self) -> Ping {
        Ping {
            seq_no: self.seq_no,
            node: self.node.to_owned(),
            source: self.source.map(Source::into_owned),
        }
    }
}

impl IndirectPing<&str> {
    fn into_owned(self) -> IndirectPing {
        IndirectPing {
            seq_no: self.seq_no,
            target: self.target,
            port: self.port,
            node: self.node.to_owned(),
            nack: self.nack,
            source: self.source.map(Source::into_owned),
        }
    }
}

impl Ack {
    pub(in crate::wire) fn borrowed(&self) -> Ack<&[u8]> {
        Ack {
            seq_no: self.seq_no,
            payload: &self.payload,
        }
    }
}

impl Ack<&[u8]> {
    pub(in crate::wire) fn into_owned(self) -> Ack {
        Ack {
            seq_no: self.seq_no,
            payload: Bytes::copy_from_slice(self.payload),
        }
    }
}

impl Suspect<&str> {
    pub(crate) fn into_owned(self) -> Suspect {
        Suspect {
            incarnation: self.incarnation,
            node: self.node.to_owned(),
            from: self.from.to_owned(),
        }
    }
}

impl Alive<&str, &[u8]> {
    pub(crate) fn into_owned(self) -> Alive {
        Alive {
            incarnation: self.incarnation,
            node: self.node.to_owned(),
            addr: self.addr,
            port: self.port,
            meta: Bytes::copy_from_slice(self.meta),
            versions: self.versions,
        }
    }
}

impl Dead<&str> {
    pub(crate) fn into_owned(self) -> Dead {
        Dead {
            incarnation: self.incarnation,
            node: self.node.to_owned(),
            from: self.from.to_owned(),
        }
    }
}
