//! Running one check once.

use std::{future::Future, time::Duration};

use super::{
    check::Check,
    external::{self, ExternalError},
};
use crate::net::http_client::{HttpClient, HttpError};

/// Why an instance is not healthy.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// It answered with another status than 200 to 299.
    #[error("{url} answers {status}, not 200 to 299; its body begins with {body:?}")]
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
    /// Its program failed.
    #[error(transparent)]
    External(#[from] ExternalError),
    /// There is nothing to run.
    #[error("{reason}")]
    Unusable {
        /// What is wrong with the check.
        reason: String,
    },
}

/// From a check to its outcome. Dropping the future ends everything the check has begun.
pub(super) trait Probe: Clone + Send + Sync + 'static {
    /// Runs `check` once, for at most `limit`.
    fn run(
        &self,
        check: &Check,
        limit: Duration,
    ) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// The probe of the real world.
#[derive(Debug, Clone)]
pub(super) struct Prober {
    pub(super) http: HttpClient,
}

impl Probe for Prober {
    async fn run(&self, check: &Check, limit: Duration) -> Result<(), Failure> {
        match check {
            Check::AlwaysSuccessful => Ok(()),
            Check::Unusable { reason } => Err(Failure::Unusable {
                reason: reason.clone(),
            }),
            Check::External { words } => Ok(external::run(words, limit).await?),
            Check::HttpGet { url } => {
                let response = self.http.get(url, limit).await?;
                if (200..300).contains(&response.status) {
                    return Ok(());
                }
                Err(Failure::Status {
                    url: url.clone(),
                    status: response.status,
                    body: String::from_utf8_lossy(&response.body_start)
                        .trim()
                        .to_owned(),
                })
            }
        }
    }
}
