//! `sidecar static check`: what an agent would make of a static file, without being one.
//!
//! Nothing is decided here. The file is read by its source, checks are planned by health, routes come
//! from `routes`, all under the configuration an agent would have in this environment; so what is shown
//! cannot differ from what would happen. What other hosts offer is not known here: it can take a port away.

use std::{
    fmt::{self, Write as _},
    path::PathBuf,
    sync::Arc,
    time::{Instant, SystemTime},
};

use catalog::{Author, Now, Service, State, Status, json::encode_service};
use serde::Serialize;

use crate::{
    agent,
    config::Config,
    discovery::static_file::{self, StaticConfig, StaticError},
    health,
    http::routes_document,
    local_view::{CheckView, LocalView},
    routes::Routes,
};

/// What an agent would make of a file.
#[derive(Debug)]
pub struct Preview {
    path: PathBuf,
    services: Vec<(Service, CheckView)>,
    /// If all checks pass, and as far as this host alone decides.
    routes: Routes,
    remarks: Vec<String>,
}

impl Preview {
    /// How many services the file names.
    pub fn services(&self) -> usize {
        self.services.len()
    }

    /// What is odd about them.
    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }
}

/// Reads `file` as the agent of this configuration would; the inner error is the file's.
///
/// # Errors
/// When there would be no agent: no usable address.
pub async fn check(config: &Config, file: PathBuf) -> anyhow::Result<Result<Preview, StaticError>> {
    let advertise_ip = agent::advertise_address(config).await?;
    let source = StaticConfig {
        path: file,
        hostname: config.node_name.clone(),
        advertise_ip,
    };
    let instances = match static_file::read(&source).await {
        Ok(instances) => instances,
        Err(error) => return Ok(Err(error)),
    };
    let health = agent::health_config(config, advertise_ip, Arc::<LocalView>::default());
    let now = Now {
        wall: SystemTime::now().into(),
        monotonic: Instant::now(),
    };
    let mut state = State::new(&config.node_name, &config.cluster_name);
    let mut preview = Preview {
        path: source.path,
        services: Vec::new(),
        routes: Routes::default(),
        remarks: Vec::new(),
    };
    for instance in instances {
        preview
            .remarks
            .extend(static_file::remarks_on(&instance.service));
        let check = health::preview(&health, &instance);
        let name = &instance.service.name;
        let notices = check.notices.iter();
        let notices = notices.map(|notice| format!("static service {name:?}: {notice}"));
        preview.remarks.extend(notices);
        let service = Service {
            status: Status::Alive,
            updated: now.wall,
            ..instance.service
        };
        state.apply(service.clone(), Author::Own, now)?;
        preview.services.push((service, check));
    }
    preview.routes = Routes::of(state.snapshot());
    Ok(Ok(preview))
}

/// The outcome for programs: `valid`, and with it what is announced and routed, or the `error`.
///
/// # Errors
/// None that a file could cause: encoding plain values does not fail.
pub fn json(outcome: &Result<Preview, StaticError>) -> Result<String, serde_json::Error> {
    let document = match outcome {
        Ok(preview) => {
            let services = preview.services.iter().map(|(service, check)| {
                let record: serde_json::Value = serde_json::from_str(&encode_service(service))?;
                Ok(serde_json::json!({ "record": record, "check": Planned::of(check) }))
            });
            serde_json::json!({
                "valid": true,
                "file": preview.path.display().to_string(),
                "services": services.collect::<Result<Vec<_>, serde_json::Error>>()?,
                "routing": serde_json::to_value(routes_document::document(&preview.routes))?,
                "remarks": preview.remarks,
            })
        }
        Err(error) => {
            let (line, column) = match error {
                StaticError::Invalid { line, column, .. } => (Some(line), Some(column)),
                _ => (None, None),
            };
            serde_json::json!({
                "valid": false,
                "error": { "line": line, "column": column, "message": error.to_string() },
            })
        }
    };
    serde_json::to_string_pretty(&document)
}

/// What is known of a check before it runs.
#[derive(Serialize)]
struct Planned<'a> {
    kind: &'a str,
    args: &'a str,
    interval_ms: u64,
    timeout_ms: u64,
    rise: u32,
    fall: u32,
}

impl<'a> Planned<'a> {
    fn of(check: &'a CheckView) -> Self {
        Self {
            kind: check.kind,
            args: &check.args,
            interval_ms: check.interval_ms,
            timeout_ms: check.timeout_ms,
            rise: check.rise,
            fall: check.fall,
        }
    }
}

/// For people.
impl fmt::Display for Preview {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        let (services, routes) = (self.services.len(), self.routes.by_port.len());
        writeln!(f, "{path}: services {services}, routes {routes}")?;
        let mut rows = vec![["SERVICE", "ID", "HOST", "MODE", "PORTS", "CHECK"].map(str::to_owned)];
        for (service, check) in &self.services {
            rows.push([
                service.name.clone(),
                service.id.clone(),
                service.hostname.clone(),
                service.proxy_mode.clone(),
                ports(service),
                format!("{} {}", check.kind, check.args)
                    .trim_end()
                    .to_owned(),
            ]);
        }
        write_table(f, "announced", &rows)?;
        let mut rows = vec![["PORT", "SERVICE", "MODE", "TO"].map(str::to_owned)];
        for (port, route) in &self.routes.by_port {
            let to = route.endpoints.iter().map(|it| it.address.to_string());
            rows.push([
                port.to_string(),
                route.service.clone(),
                route.mode.as_str().to_owned(),
                to.collect::<Vec<_>>().join(", "),
            ]);
        }
        write_table(f, "routed, once the checks pass", &rows)?;
        let mut rows = vec![["PORT", "SERVICE", "ID", "BECAUSE"].map(str::to_owned)];
        for it in &self.routes.excluded {
            rows.push([
                it.service_port.to_string(),
                it.service.clone(),
                it.id.clone(),
                it.reason.to_string(),
            ]);
        }
        write_table(f, "not routed", &rows)?;
        for remark in &self.remarks {
            writeln!(f, "\nremark: {remark}")?;
        }
        Ok(())
    }
}

fn ports(service: &Service) -> String {
    let ports = service.port_list().iter().map(|port| {
        let mut text = format!("{}:{}/{}", port.ip, port.port, port.kind);
        if port.service_port != 0 {
            // Writing to a string does not fail.
            let _ = write!(text, " as {}", port.service_port);
        }
        text
    });
    ports.collect::<Vec<_>>().join(", ")
}

/// Columns as wide as their widest cell; nothing at all without rows below the heading.
fn write_table<const N: usize>(
    f: &mut fmt::Formatter<'_>,
    title: &str,
    rows: &[[String; N]],
) -> fmt::Result {
    if rows.len() < 2 {
        return Ok(());
    }
    writeln!(f, "\n{title}:")?;
    let width = |column: usize| {
        let widths = rows.iter().map(|row| row[column].chars().count());
        widths.max().unwrap_or_default()
    };
    let widths: [usize; N] = std::array::from_fn(width);
    for row in rows {
        let cells = row.iter().zip(widths);
        let line: String = cells
            .map(|(cell, width)| format!("  {cell:width$}"))
            .collect();
        writeln!(f, "{}", line.trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
