//! A word that names nothing in the cluster: what may have been meant, and what this host knows of it.

use super::{
    Part,
    world::{World, mentions},
};
use crate::{
    client::{finding::Finding, selection::similar},
    discovery::docker::Sighting,
};

/// Most remarks that are shown.
const REMARKS_MAX: usize = 16;

pub(super) fn explain(subject: &str, world: &World) -> Part {
    let mut steps = Vec::new();
    let containers = world.containers.iter();
    let missed: Vec<Finding> = containers
        .filter(|it| it.name == subject || it.service == subject || it.id == subject)
        .take(REMARKS_MAX)
        .map(container)
        .collect();
    let is_container = !missed.is_empty();
    steps.extend(missed);
    let remarks = world.local.remarks.iter();
    let mentioned = remarks.filter(|it| {
        let remarks = it.remarks.iter().any(|remark| mentions(remark, subject));
        remarks || mentions(&it.subject, subject)
    });
    for it in mentioned.take(REMARKS_MAX) {
        for remark in &it.remarks {
            let what = format!("{} ({}): {remark}", it.subject, it.source);
            steps.push(Finding::warning("remark", what));
        }
    }
    for (name, source) in &world.local.sources {
        if let Some(trouble) = &source.trouble {
            steps.push(
                Finding::warning("source", format!("{name} is {}", source.state))
                    .because(trouble.clone())
                    .fix("sidecar doctor"),
            );
        }
    }
    let mut names: Vec<&str> = world.instances.iter().map(|it| it.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let meant = similar(subject, &names);
    let finding = Finding::failed("record", "nobody in the cluster announces it");
    steps.push(match meant.as_slice() {
        _ if is_container => finding.because("it is none of the cluster's services as it is"),
        [] if world.local.sources.is_empty() => finding
            .because("no service has a name like it, and this host has no source of services")
            .fix("sidecar doctor"),
        [] => finding
            .because("no service has a name like it")
            .fix("docker ps: does it run, and publish a port? what there is: sidecar services"),
        meant => finding
            .because(format!("it may be misspelt: {}", meant.join(", ")))
            .fix(format!("sidecar explain {}", meant[0])),
    });
    Part::of(format!("{subject:?}"), steps)
}

/// A container of this host that is missed.
pub(super) fn container(container: &Sighting) -> Finding {
    let Sighting {
        name, id, service, ..
    } = container;
    match &container.absence {
        Some((cause, fix)) => Finding::failed(
            "source",
            format!("container {name} ({id}) is not announced"),
        )
        .because(cause.clone())
        .fix(fix.clone()),
        None => Finding::warning(
            "source",
            format!("container {name} ({id}) runs as {service}"),
        )
        .because("the agent leaves it out, or has not seen it yet")
        .fix(format!("sidecar explain {id}")),
    }
}
