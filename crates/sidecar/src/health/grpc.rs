//! The question of `grpc.health.v1.Health/Check`, over a connection of its own.
//!
//! Not a gRPC client: one unary call with two messages of one field each, so the few bytes of gRPC
//! and protobuf are written and read here. HTTP/2 is hyper's. Truth: the gRPC health checking protocol
//! (`grpc/health/v1/health.proto`) and "gRPC over HTTP2".

use bytes::{BufMut as _, Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    HeaderMap, Request, StatusCode, body::Incoming, client::conn::http2, header::CONTENT_TYPE,
    header::TE, header::USER_AGENT,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::task::AbortOnDropHandle;

use super::check::GrpcTarget;
use crate::net::{
    dial::{Deadline, DialError, Dialer, Late, Protocol},
    http_client::{AGENT, describe},
};

/// Longest answer that is read, in bytes; a good one has seven.
const ANSWER_BYTES_MAX: usize = 4 * 1024;
/// Longest head or trailer, in bytes.
const HEAD_BYTES_MAX: u32 = 16 * 1024;
/// Most of an error's text that is kept, in characters.
const MESSAGE_CHARS_MAX: usize = 256;

/// Why a server does not count as serving.
#[derive(Debug, thiserror::Error)]
pub(super) enum GrpcError {
    /// There is no connection.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// It does not speak HTTP/2 as it should, or not gRPC.
    #[error("no gRPC answer: {reason}")]
    Answer {
        /// What is wrong.
        reason: String,
    },
    /// It answered the call with an error.
    #[error("it answers with gRPC status {name}: {message:?}")]
    Status {
        /// Number and name of the status.
        name: String,
        /// What it says.
        message: String,
    },
    /// It answered, and is not serving.
    #[error("it says {status}, not SERVING")]
    NotServing {
        /// The word of the protocol.
        status: &'static str,
    },
}

impl From<Late> for GrpcError {
    fn from(late: Late) -> Self {
        Self::Dial(late.into())
    }
}

/// Asks once; it is well when the answer is `SERVING`.
pub(super) async fn ask(
    dialer: &Dialer,
    target: &GrpcTarget,
    deadline: Deadline,
) -> Result<(), GrpcError> {
    let stream = dialer.connect(&target.address, deadline).await?;
    if target.encrypted {
        let host = &target.address.host;
        let stream = dialer
            .encrypt(stream, host, Protocol::Http2, deadline)
            .await?;
        call(stream, target, deadline).await
    } else {
        call(stream, target, deadline).await
    }
}

async fn call<S>(stream: S, target: &GrpcTarget, deadline: Deadline) -> Result<(), GrpcError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let broken = |error: hyper::Error| GrpcError::Answer {
        reason: describe(&error),
    };
    let handshake = http2::Builder::new(TokioExecutor::new())
        .max_header_list_size(HEAD_BYTES_MAX)
        .handshake(TokioIo::new(stream));
    let (mut sender, connection) = deadline
        .within("opening HTTP/2", handshake)
        .await?
        .map_err(broken)?;
    // The connection ends with this function; its errors also reach the sender.
    let _connection = AbortOnDropHandle::new(tokio::spawn(async move {
        let _ = connection.await;
    }));
    let request = request(target)?;
    let waiting = "waiting for the answer";
    let response = deadline
        .within(waiting, sender.send_request(request))
        .await?
        .map_err(broken)?;
    if response.status() != StatusCode::OK {
        let reason = format!("HTTP status {}", response.status().as_u16());
        return Err(GrpcError::Answer { reason });
    }
    // A call that fails at once has its status among the headers.
    status_of(response.headers()).unwrap_or(Ok(()))?;
    let kind = response.headers().get(CONTENT_TYPE);
    if !kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
        let reason = format!("its content type is {kind:?}, not application/grpc");
        return Err(GrpcError::Answer { reason });
    }
    let (answer, trailers) = deadline
        .within(waiting, read(response.into_body()))
        .await??;
    match status_of(&trailers) {
        Some(status) => status?,
        None => {
            let reason = "it ended without a gRPC status".to_owned();
            return Err(GrpcError::Answer { reason });
        }
    }
    match serving_status(&answer)? {
        "SERVING" => Ok(()),
        status => Err(GrpcError::NotServing { status }),
    }
}

fn request(target: &GrpcTarget) -> Result<Request<Full<Bytes>>, GrpcError> {
    let scheme = if target.encrypted { "https" } else { "http" };
    let uri = format!(
        "{scheme}://{}/grpc.health.v1.Health/Check",
        target.address.authority()
    );
    Request::post(uri)
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header(USER_AGENT, AGENT)
        .body(Full::new(question(&target.service)))
        .map_err(|error| GrpcError::Answer {
            reason: error.to_string(),
        })
}

/// `HealthCheckRequest { string service = 1 }`, as one uncompressed message.
fn question(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(1 << 3 | 2);
        put_varint(&mut message, service.len());
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(&message);
    framed.freeze()
}

fn put_varint(to: &mut BytesMut, mut number: usize) {
    while number > 0x7f {
        to.put_u8((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    to.put_u8(number as u8);
}

/// The whole answer, bounded, and what follows it.
async fn read(mut body: Incoming) -> Result<(Bytes, HeaderMap), GrpcError> {
    let broken = |reason: String| GrpcError::Answer { reason };
    let (mut answer, mut trailers) = (BytesMut::new(), HeaderMap::new());
    while let Some(frame) = body.frame().await {
        match frame.map_err(|error| broken(describe(&error)))?.into_data() {
            Ok(data) if answer.len() + data.len() > ANSWER_BYTES_MAX => {
                return Err(broken(format!(
                    "it is longer than {ANSWER_BYTES_MAX} bytes"
                )));
            }
            Ok(data) => answer.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
        }
    }
    Ok((answer.freeze(), trailers))
}

/// The call's status where these headers or trailers hold one.
fn status_of(headers: &HeaderMap) -> Option<Result<(), GrpcError>> {
    let number = headers.get("grpc-status")?.to_str().unwrap_or("?");
    if number == "0" {
        return Some(Ok(()));
    }
    let message = headers
        .get("grpc-message")
        .map_or(&b""[..], |it| it.as_bytes());
    let message = String::from_utf8_lossy(message);
    let name = match number {
        "1" => "1 CANCELLED",
        "2" => "2 UNKNOWN",
        "3" => "3 INVALID_ARGUMENT",
        "4" => "4 DEADLINE_EXCEEDED",
        "5" => "5 NOT_FOUND (it knows no such service)",
        "7" => "7 PERMISSION_DENIED",
        "8" => "8 RESOURCE_EXHAUSTED",
        "12" => "12 UNIMPLEMENTED (it has no grpc.health.v1.Health)",
        "13" => "13 INTERNAL",
        "14" => "14 UNAVAILABLE",
        "16" => "16 UNAUTHENTICATED",
        other => other,
    };
    Some(Err(GrpcError::Status {
        name: name.to_owned(),
        message: message.chars().take(MESSAGE_CHARS_MAX).collect(),
    }))
}

/// `HealthCheckResponse { ServingStatus status = 1 }` out of one message.
fn serving_status(framed: &[u8]) -> Result<&'static str, GrpcError> {
    let broken = |reason: &str| GrpcError::Answer {
        reason: reason.to_owned(),
    };
    let (head, message) = framed
        .split_at_checked(5)
        .ok_or_else(|| broken("it is shorter than a gRPC message"))?;
    if head[0] != 0 {
        return Err(broken("it is compressed, which was not asked for"));
    }
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
    if usize::try_from(length) != Ok(message.len()) {
        return Err(broken("it is not exactly one gRPC message"));
    }
    let status = enum_field(message).ok_or_else(|| broken("it is no HealthCheckResponse"))?;
    Ok(match status {
        0 => "UNKNOWN",
        1 => "SERVING",
        2 => "NOT_SERVING",
        3 => "SERVICE_UNKNOWN",
        _ => "a status that the protocol does not know",
    })
}

/// The last varint of field 1, 0 when there is none; other fields are skipped as protobuf asks.
fn enum_field(mut message: &[u8]) -> Option<u64> {
    let mut found = 0;
    while !message.is_empty() {
        let key = varint(&mut message)?;
        match (key >> 3, key & 7) {
            (0, _) => return None,
            (1, 0) => found = varint(&mut message)?,
            (1, _) => return None,
            (_, 0) => drop(varint(&mut message)?),
            (_, 1) => message = message.get(8..)?,
            (_, 5) => message = message.get(4..)?,
            (_, 2) => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            _ => return None,
        }
    }
    Some(found)
}

fn varint(from: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for (at, byte) in from.iter().enumerate().take(10) {
        number |= u64::from(byte & 0x7f).checked_shl(7 * at as u32)?;
        if byte & 0x80 == 0 {
            *from = &from[at + 1..];
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests;
