//! Connections of others: one request is read and answered.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::budget::{Reserved, held};
use super::{StreamError, Streams, Turn};
use crate::driver::core::Command;
use crate::wire::message::{Ack, PushPull, StreamMessage};
use crate::wire::{StreamSide, WireError};

/// What is read, and for how long, of a stream that was refused with an answer.
const DRAIN_BYTES_MAX: u64 = 256 * 1024;
const DRAIN_PATIENCE: Duration = Duration::from_secs(1);

impl Streams {
    pub(super) async fn serve(&self, mut stream: TcpStream, peer: SocketAddr) {
        self.shared.meters.streams_in.add(1);
        if let Err(error) = self.answer(&mut stream).await {
            self.note(peer, &error);
        }
    }

    async fn answer(&self, stream: &mut TcpStream) -> Result<(), StreamError> {
        let (message, reserved) = match self.read(stream, StreamSide::Dialling).await {
            Ok(read) => read,
            // Somebody looked whether the port is open.
            Err(StreamError::NoAnswer) => return Ok(()),
            Err(StreamError::Wire(error)) => {
                // A courtesy: what was wrong in the first place is what counts.
                let _ = self.refuse(stream, &error).await;
                return Err(error.into());
            }
            Err(error) => return Err(error),
        };
        match message {
            StreamMessage::Ping(ping) => {
                if ping.node.is_empty() || ping.node == self.config.name {
                    let ack = Ack {
                        seq_no: ping.seq_no,
                        payload: Bytes::new(),
                    };
                    let ack = self.encode(&StreamMessage::Ack(ack), StreamSide::Accepting)?;
                    self.write(stream, &ack).await?;
                } else {
                    self.shared.meters.stream_pings_for_others.add(1);
                }
                Ok(())
            }
            StreamMessage::PushPull(remote) => self.answer_exchange(stream, remote, reserved).await,
            StreamMessage::User(payload) => {
                if !payload.is_empty() {
                    self.tell(Command::Message(held(payload, reserved))).await?;
                }
                Ok(())
            }
            StreamMessage::Ack(_) => Err(StreamError::Unexpected("ack")),
            StreamMessage::Error(text) => Err(StreamError::Refused(text)),
        }
    }

    /// Tells a peer whose envelope could not be read what is wrong, so that its operator learns of
    /// it too.
    async fn refuse(&self, stream: &mut TcpStream, error: &WireError) -> Result<(), StreamError> {
        let Some(text) = error.reply() else {
            return Ok(());
        };
        let reply = StreamMessage::Error(text.to_owned());
        let reply = self.encode(&reply, StreamSide::Accepting)?;
        self.write(stream, &reply).await?;
        stream.shutdown().await?;
        // What is left unread would turn the end into a reset, and the peer might lose the reply.
        let mut rest = stream.take(DRAIN_BYTES_MAX);
        let mut nowhere = tokio::io::sink();
        let drained = tokio::io::copy(&mut rest, &mut nowhere);
        // How it ends does not matter any more.
        let _ = tokio::time::timeout(DRAIN_PATIENCE, drained).await;
        Ok(())
    }

    async fn answer_exchange(
        &self,
        stream: &mut TcpStream,
        remote: PushPull,
        reserved: Reserved,
    ) -> Result<(), StreamError> {
        let _one_of_few = self
            .inbound_exchanges
            .try_acquire()
            .map_err(|_| StreamError::Busy)?;
        let join = remote.join;
        // Ours is written before theirs is merged: a restarted peer must see what we remember.
        let theirs = remote.user_state.clone();
        // Nobody's table is empty: its owner is in it.
        let brief = remote.nodes.is_empty();
        let turn = Turn::Reply {
            theirs,
            join,
            brief,
        };
        let ours = self.our_side(turn).await?;
        // A peer that does not read makes us keep it for a while.
        let mut for_ours = self.reserve();
        for_ours.grow_to(ours.len())?;
        self.write(stream, &ours).await?;
        drop((ours, for_ours));
        self.merge(remote, join, reserved).await?;
        self.shared.meters.exchanges_in.add(1);
        Ok(())
    }
}
