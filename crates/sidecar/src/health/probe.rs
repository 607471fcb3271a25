//! Running one check once.

use std::{future::Future, time::Duration};

use super::{
    check::Check,
    external::{self, ExternalError},
    grpc::{self, GrpcError},
    orphans::Orphans,
};
use crate::net::{
    dial::{Address, Deadline, DialError, Dialer},
    http_client::{HttpClient, HttpError, without_credentials},
};

/// What a healthy instance said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Answer {
    /// In a few words.
    pub(super) summary: String,
    /// The beginning of it.
    pub(super) output: String,
}

/// Why an instance is not healthy.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// It answered with another status than 200 to 299.
    #[error("{url} answers {status}, not 200 to 299")]
    Status {
        /// Where it was asked.
        url: String,
        /// What it answered, after redirects.
        status: u16,
        /// The beginning of the answer's body.
        body: String,
    },
    /// It gave no answer.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// It takes no connections.
    #[error("{address}: {cause}")]
    Tcp {
        /// Where it was asked.
        address: Address,
        /// Why not.
        #[source]
        cause: DialError,
    },
    /// It does not say that it serves.
    #[error("{target}: {cause}")]
    Grpc {
        /// Whom we asked, and for what.
        target: String,
        /// What it says, or why it says nothing.
        #[source]
        cause: GrpcError,
    },
    /// Its program failed.
    #[error(transparent)]
    External(#[from] ExternalError),
    /// The engine's check of it fails.
    #[error("the engine says that its HEALTHCHECK fails")]
    Docker {
        /// What that check said last.
        output: String,
    },
    /// There is nothing to run.
    #[error("{reason}")]
    Unusable {
        /// What is wrong with the check.
        reason: String,
    },
}

impl Failure {
    /// The beginning of what the instance or the command said; empty when there was nothing.
    pub(super) fn output(&self) -> &str {
        match self {
            Self::Status { body, .. } => body,
            Self::External(error) => error.output(),
            Self::Docker { output } => output,
            Self::Http(_) | Self::Tcp { .. } | Self::Grpc { .. } | Self::Unusable { .. } => "",
        }
    }
}

/// From a check to its outcome. Dropping the future ends everything the check has begun.
pub(super) trait Probe: Clone + Send + Sync + 'static {
    /// Runs `check` once, for at most `limit`.
    fn run(
        &self,
        check: &Check,
        limit: Duration,
    ) -> impl Future<Output = Result<Answer, Failure>> + Send;
}

/// The probe of the real world.
#[derive(Debug, Clone)]
pub(super) struct Prober {
    http: HttpClient,
    dialer: Dialer,
    orphans: Orphans,
}

impl Prober {
    pub(super) fn new(dialer: Dialer, orphans: Orphans) -> Self {
        Self {
            http: HttpClient::new(dialer.clone()),
            dialer,
            orphans,
        }
    }
}

impl Probe for Prober {
    async fn run(&self, check: &Check, limit: Duration) -> Result<Answer, Failure> {
        let said = |summary: &str| Answer {
            summary: summary.to_owned(),
            output: String::new(),
        };
        match check {
            Check::AlwaysSuccessful => Ok(said("not looked at")),
            Check::Unusable { reason } => Err(Failure::Unusable {
                reason: reason.clone(),
            }),
            Check::External { words } => Ok(Answer {
                output: external::run(words, limit, &self.orphans).await?,
                summary: "exit status 0".to_owned(),
            }),
            Check::HttpGet { url } => self.http_get(url, limit).await,
            Check::Tcp { address } => {
                let connected = self.dialer.connect(address, Deadline::after(limit)).await;
                connected.map_err(|cause| Failure::Tcp {
                    address: address.clone(),
                    cause,
                })?;
                Ok(said("takes connections"))
            }
            Check::Grpc { target } => {
                // Three times as large as everybody else's.
                let asked = Box::pin(grpc::ask(&self.dialer, target, Deadline::after(limit)));
                asked.await.map_err(|cause| Failure::Grpc {
                    target: target.to_string(),
                    cause,
                })?;
                Ok(said("SERVING"))
            }
            Check::Docker { health } if health.healthy == Some(true) => Ok(Answer {
                summary: "the engine says that its HEALTHCHECK passes".to_owned(),
                output: health.output.clone(),
            }),
            Check::Docker { health } => Err(Failure::Docker {
                output: health.output.clone(),
            }),
        }
    }
}

impl Prober {
    async fn http_get(&self, url: &str, limit: Duration) -> Result<Answer, Failure> {
        let response = self.http.get(url, limit).await?;
        let body = String::from_utf8_lossy(&response.body_start)
            .trim()
            .to_owned();
        if (200..300).contains(&response.status) {
            return Ok(Answer {
                summary: format!("status {}", response.status),
                output: body,
            });
        }
        Err(Failure::Status {
            url: without_credentials(url),
            status: response.status,
            body,
        })
    }
}
