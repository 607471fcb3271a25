//! Where this host's services come from: the Docker engine and the static file, read as the agent would.

use std::{io, time::Duration};

use crate::{
    client::finding::Finding,
    config::{Config, Discovery},
    discovery::{
        SourceName,
        docker::{Endpoint, EngineError, engine_answers},
    },
    net::resolver::Resolver,
    static_check,
};

/// Time for the engine to answer a ping.
const ENGINE_WITHIN: Duration = Duration::from_secs(3);

pub(super) async fn look(config: &Config) -> Vec<Finding> {
    let has_file = config.static_file.exists();
    let (docker, file) = match &config.discovery {
        Discovery::Chosen(sources) => (
            sources.contains(&SourceName::Docker),
            sources.contains(&SourceName::Static),
        ),
        Discovery::Automatic => (true, has_file),
    };
    let mut findings = Vec::new();
    if !docker && !file {
        findings.push(Finding::ok(
            "sources",
            "no source is chosen: this host only consumes",
        ));
    }
    if docker {
        let is_optional = config.discovery == Discovery::Automatic && has_file;
        findings.push(engine(&config.docker, is_optional).await);
    }
    if file {
        findings.extend(static_file(config).await);
    }
    findings
}

async fn engine(endpoint: &Endpoint, is_optional: bool) -> Finding {
    let error = match engine_answers(endpoint, &Resolver::default(), ENGINE_WITHIN).await {
        Ok(version) => {
            let version = version.map_or_else(String::new, |it| format!(", API {it}"));
            return Finding::ok(
                "docker",
                format!("the engine at {endpoint} answers{version}"),
            );
        }
        Err(error) => error,
    };
    let is_absent =
        matches!(&error, EngineError::Connect(error) if error.kind() == io::ErrorKind::NotFound);
    if is_optional && is_absent {
        let what = format!("no engine at {endpoint}; the static file is there");
        return Finding::ok("docker", what);
    }
    Finding::failed(
        "docker",
        format!("the engine at {endpoint} cannot be asked"),
    )
    .because(format!("{error}; {}", error.hint()))
    .fix(remedy(endpoint, &error))
}

/// The command that most likely helps.
fn remedy(endpoint: &Endpoint, error: &EngineError) -> String {
    match (endpoint, error) {
        (Endpoint::Unix(path), EngineError::Connect(error))
            if error.kind() == io::ErrorKind::PermissionDenied =>
        {
            format!(
                "sudo usermod -aG docker $USER and log in anew; ls -l {}",
                path.display()
            )
        }
        (Endpoint::Unix(path), EngineError::Connect(_)) => {
            let path = path.display();
            format!(
                "systemctl start docker; in a container: docker run -v {path}:{path} …; without \
                 Docker: SIDECAR_DISCOVERY=static, or empty for none"
            )
        }
        _ => error.hint().to_owned(),
    }
}

async fn static_file(config: &Config) -> Vec<Finding> {
    let path = config.static_file.clone();
    let shown = path.display().to_string();
    let check = format!("sidecar static check {shown}");
    let preview = match static_check::check(config, path).await {
        Ok(Ok(preview)) => preview,
        Ok(Err(error)) => {
            let finding = Finding::failed("static", format!("{shown} is not usable"));
            return vec![finding.because(error.to_string()).fix(check)];
        }
        // There is no usable address, which is a finding of its own.
        Err(_) => return Vec::new(),
    };
    let services = preview.services();
    let mut findings = vec![Finding::ok(
        "static",
        format!("{shown} names {services} services"),
    )];
    let remarks = preview.remarks().iter();
    findings.extend(remarks.map(|it| Finding::warning("static", it.clone()).fix(check.clone())));
    findings
}
