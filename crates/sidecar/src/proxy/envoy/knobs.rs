//! What the owner of a host wants Envoy to do for single services: limits, timeouts, and when an endpoint is left
//! out for a while. They come from a file, `SIDECAR_ENVOY_SETTINGS_FILE`: no record carries them.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use serde::{Deserialize, Deserializer, de::Error as _};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{config::values::parse_duration, file_stamp::FileStamp};

/// Largest file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// How soon a change of the file is seen.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// The name that stands for all services.
const EVERY: &str = "*";

/// The settings of all services.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(transparent)]
pub struct Knobs(BTreeMap<String, ServiceKnobs>);

/// The settings of one service; what is `None` is as Envoy, or Go Sidecar, has it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceKnobs {
    /// The time a connection to an endpoint may take; 500 ms without it.
    #[serde(default, deserialize_with = "duration")]
    pub connect_timeout: Option<Duration>,
    /// The time a request may take, from its end to the end of the answer; 0, or without it, any.
    #[serde(default, deserialize_with = "duration")]
    pub request_timeout: Option<Duration>,
    /// How long a request or connection may carry nothing; Envoy's 5 min, in mode tcp 1 h, without it.
    #[serde(default, deserialize_with = "duration")]
    pub idle_timeout: Option<Duration>,
    /// Most connections to all endpoints together; Envoy's 1,024 without it.
    pub max_connections: Option<u32>,
    /// Most requests that wait for a connection; Envoy's 1,024 without it.
    pub max_pending_requests: Option<u32>,
    /// Most requests at a time; Envoy's 1,024 without it.
    pub max_requests: Option<u32>,
    /// Most retries at a time; Envoy's 3 without it.
    pub max_retries: Option<u32>,
    /// Requests after which a connection to an endpoint is replaced; no limit without it.
    pub max_requests_per_connection: Option<u32>,
    /// When an endpoint is left out for a while; never without it.
    pub outlier_detection: Option<OutlierKnobs>,
}

/// When an endpoint is left out for a while. What is `None` is as Envoy has it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutlierKnobs {
    /// Answers with 5xx in a row; 5 without it.
    pub consecutive_5xx: Option<u32>,
    /// Answers with 502, 503 or 504 in a row; 5 without it, and then they are only counted.
    pub consecutive_gateway_failure: Option<u32>,
    /// How often it is looked at; 10 s without it.
    #[serde(default, deserialize_with = "duration")]
    pub interval: Option<Duration>,
    /// How long it is left out the first time; 30 s without it.
    #[serde(default, deserialize_with = "duration")]
    pub base_ejection_time: Option<Duration>,
    /// Most of a service's endpoints that are left out at a time, in percent; 10 without it.
    pub max_ejection_percent: Option<u32>,
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let parsed = parse_duration(&text).filter(|it| it.as_secs() <= 86_400 * 365);
    parsed.map(Some).ok_or_else(|| {
        let expected = "expected a duration such as 500ms, 20s or 1m30s";
        D::Error::custom(format!("{text:?} is not usable: {expected}"))
    })
}

impl Knobs {
    /// Reads the text of a file: an object with the settings of services by name; `*` are all that are not
    /// named.
    ///
    /// # Errors
    /// With line and column of the first problem.
    pub fn parse(text: &str) -> Result<Self, String> {
        let knobs: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        for (service, it) in &knobs.0 {
            let percent = it.outlier_detection.as_ref();
            let percent = percent.and_then(|it| it.max_ejection_percent);
            if percent.is_some_and(|it| it > 100) {
                return Err(format!(
                    "service {service:?}: max_ejection_percent is more than 100"
                ));
            }
            if it.connect_timeout.is_some_and(|it| it.is_zero()) {
                return Err(format!("service {service:?}: connect_timeout is 0"));
            }
        }
        Ok(knobs)
    }

    /// The settings of a service.
    pub fn of(&self, service: &str) -> ServiceKnobs {
        let found = self.0.get(service).or_else(|| self.0.get(EVERY));
        found.cloned().unwrap_or_default()
    }
}

/// Keeps `knobs` as the file says until `shutdown`. A file that is gone means no settings; one that is wrong
/// leaves those before in force.
pub(super) async fn watch(
    file: &Path,
    knobs: watch::Sender<Arc<Knobs>>,
    shutdown: CancellationToken,
) {
    let mut seen: Option<Option<FileStamp>> = None;
    loop {
        let metadata = tokio::fs::metadata(file).await;
        let stamp = metadata.as_ref().ok().map(FileStamp::from);
        if seen != Some(stamp) {
            seen = Some(stamp);
            let read = match metadata {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Knobs::default()),
                Err(error) => Err(error.to_string()),
                Ok(it) if it.len() > FILE_BYTES_MAX => Err(format!(
                    "it has {} bytes, more than {FILE_BYTES_MAX}",
                    it.len()
                )),
                Ok(_) => read(file).await,
            };
            match read {
                Ok(read) => {
                    let differs = knobs.send_if_modified(|known| {
                        let differs = **known != read;
                        if differs {
                            *known = Arc::new(read);
                        }
                        differs
                    });
                    if differs {
                        info!(file = %file.display(), "settings of services for Envoy are read");
                    }
                }
                Err(error) => warn!(
                    file = %file.display(), error,
                    "settings of services for Envoy are not usable; those before stay in force"
                ),
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
        }
    }
}

async fn read(file: &Path) -> Result<Knobs, String> {
    let text = tokio::fs::read_to_string(file).await;
    text.map_err(|error| error.to_string())
        .and_then(|text| Knobs::parse(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_by_service_and_what_is_wrong_is_named() {
        let knobs = Knobs::parse(
            r#"{"web": {"request_timeout": "30s", "max_requests_per_connection": 100},
                "*": {"max_connections": 7, "outlier_detection": {"consecutive_5xx": 3}}}"#,
        )
        .unwrap();
        assert_eq!(
            knobs.of("web").request_timeout,
            Some(Duration::from_secs(30))
        );
        assert_eq!(knobs.of("web").max_connections, None);
        assert_eq!(knobs.of("db").max_connections, Some(7));
        for (text, words) in [
            ("[", "line 1"),
            (r#"{"web": {"retries": 1}}"#, "retries"),
            (r#"{"web": {"idle_timeout": "soon"}}"#, "soon"),
            (r#"{"web": {"connect_timeout": "0"}}"#, "connect_timeout"),
            (
                r#"{"web": {"outlier_detection": {"max_ejection_percent": 101}}}"#,
                "more than 100",
            ),
        ] {
            let error = Knobs::parse(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
