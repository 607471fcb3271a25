//! Records and moments for the tests of the rooms beside this one.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

use catalog::{Now, Port, Service, Status, Timestamp};

/// A moment so many seconds into the tests' time, on both clocks.
pub(super) fn now(seconds: u64) -> Now {
    static BASE: OnceLock<Instant> = OnceLock::new();
    let base = *BASE.get_or_init(Instant::now);
    Now {
        wall: Timestamp::EPOCH.plus(Duration::from_secs(seconds)),
        monotonic: base + Duration::from_secs(seconds),
    }
}

/// An instance with one port, stamped `seconds` into the tests' time.
pub(super) fn service(host: &str, id: &str, seconds: u64, status: Status) -> Service {
    Service {
        id: id.into(),
        name: "web".into(),
        image: "web:1".into(),
        created: Timestamp::EPOCH,
        hostname: host.into(),
        ports: Some(vec![Port {
            kind: "tcp".into(),
            port: 32768,
            service_port: 8080,
            ip: "10.0.0.1".into(),
        }]),
        updated: now(seconds).wall,
        proxy_mode: "http".into(),
        weight: None,
        status,
    }
}
