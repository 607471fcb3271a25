//! Connections of ours: what the node or the application wants exchanged, asked or told.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use tokio::net::TcpStream;

use super::{StreamError, Streams, Turn};
use crate::driver::core::Command;
use crate::driver::sockets;
use crate::node::StreamRequest;
use crate::wire::StreamSide;
use crate::wire::message::{Ping, StreamMessage};

impl Streams {
    /// Does what the node asked for and reports back.
    pub(in crate::driver) async fn carry_out(&self, request: StreamRequest) {
        match request {
            StreamRequest::PushPull { to, join, full } => {
                let result = self.exchange(to, join, full).await;
                if let Err(error) = &result {
                    tracing::debug!(%to, %error, "exchanging states");
                }
                let merged = result.is_ok();
                // The core is gone only when everything ends.
                let _ = self.tell(Command::ExchangeResult { to, merged }).await;
            }
            StreamRequest::Ping { to, ping, deadline } => {
                let seq_no = ping.seq_no;
                let patience = deadline.saturating_duration_since(Instant::now());
                let answered = tokio::time::timeout(patience, self.ping(to, ping)).await;
                if matches!(answered, Ok(Ok(()))) {
                    let _ = self.tell(Command::TcpAck { seq_no }).await;
                }
            }
            StreamRequest::User { to, payload } => {
                if let Err(error) = self.send_user(to, payload).await {
                    tracing::debug!(%to, %error, "sending a message by stream");
                }
            }
        }
    }

    /// Exchanges states with whoever listens at `to`; both show their tables if it is `full`.
    pub(in crate::driver) async fn exchange(
        &self,
        to: SocketAddr,
        join: bool,
        full: bool,
    ) -> Result<(), StreamError> {
        let started = Instant::now();
        let result = self.try_exchange(to, join, full).await;
        match &result {
            Ok(()) => {
                self.shared.meters.exchanges_out.add(1);
                let took = started.elapsed();
                self.shared.meters.exchange_micros.add_micros(took);
            }
            Err(StreamError::Ourselves) => {}
            Err(StreamError::Connect(_) | StreamError::Timeout(..) | StreamError::Io(_)) => {
                // A peer that is down has not sent anything malformed.
                self.shared.meters.streams_failed.add(1);
            }
            Err(error) => self.note(to, error),
        }
        result
    }

    async fn try_exchange(
        &self,
        to: SocketAddr,
        join: bool,
        full: bool,
    ) -> Result<(), StreamError> {
        let advertised = SocketAddr::new(self.config.advertise, self.config.port());
        if to == advertised || to == self.config.bind {
            return Err(StreamError::Ourselves);
        }
        let _place = self
            .outbound
            .acquire()
            .await
            .map_err(|_| StreamError::Stopped)?;
        let mut stream = self.dial(to).await?;
        let ours = self.our_side(Turn::Opening { to, join, full }).await?;
        self.write(&mut stream, &ours).await?;
        let (reply, reserved) = self.read(&mut stream, StreamSide::Accepting).await?;
        let remote = match reply {
            StreamMessage::PushPull(remote) => remote,
            StreamMessage::Error(text) => return Err(StreamError::Refused(text)),
            StreamMessage::Ping(_) => return Err(StreamError::Unexpected("ping")),
            StreamMessage::Ack(_) => return Err(StreamError::Unexpected("ack")),
            StreamMessage::User(_) => return Err(StreamError::Unexpected("user")),
        };
        drop(stream);
        self.merge(remote, join, reserved).await
    }

    async fn ping(&self, to: SocketAddr, ping: Ping) -> Result<(), StreamError> {
        let seq_no = ping.seq_no;
        let mut stream = self.dial(to).await?;
        let ping = self.encode(&StreamMessage::Ping(ping), StreamSide::Dialling)?;
        self.write(&mut stream, &ping).await?;
        let (reply, _reserved) = self.read(&mut stream, StreamSide::Accepting).await?;
        match reply {
            StreamMessage::Ack(ack) if ack.seq_no == seq_no => Ok(()),
            _ => Err(StreamError::Unexpected("answer to a ping")),
        }
    }

    async fn send_user(&self, to: SocketAddr, payload: Bytes) -> Result<(), StreamError> {
        let _place = self.outbound.try_acquire().map_err(|_| StreamError::Busy)?;
        let mut stream = self.dial(to).await?;
        let message = self.encode(&StreamMessage::User(payload), StreamSide::Dialling)?;
        self.write(&mut stream, &message).await
    }

    async fn dial(&self, to: SocketAddr) -> Result<TcpStream, StreamError> {
        let dialled = self
            .within("connecting", sockets::dial(self.config.bind, to))
            .await?;
        self.shared.meters.streams_out.add(1);
        dialled.map_err(StreamError::Connect)
    }
}
