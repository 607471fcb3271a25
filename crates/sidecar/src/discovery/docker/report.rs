//! What the source says about itself: in the log, once for each thing, and in the local view, always.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::{
    endpoint::Endpoint,
    engine::EngineError,
    wire::{Container, short_id},
};
use crate::{
    discovery::SourceName,
    local_view::{LocalView, SourceView},
};

/// Causes logged for one outage.
const CAUSES_MAX: usize = 4;
/// Containers whose complaints are remembered before those that are gone are forgotten: one that
/// starts again and again shall not fill the log.
const COMPLAINANTS_MAX: usize = 4096;
/// Complaints logged for one container.
const COMPLAINTS_MAX: usize = 16;
/// Characters of one complaint: values of labels have no limit of their own.
const COMPLAINT_CHARS_MAX: usize = 300;
/// Characters of a container's name that are shown.
const NAME_CHARS_MAX: usize = 100;

/// What was said so far.
#[derive(Debug)]
pub(super) struct Report {
    endpoint: Endpoint,
    view: Arc<LocalView>,
    shown: SourceView,
    /// What is remarked about a container, by short ID.
    subjects: BTreeMap<String, String>,
    /// Complaints logged already, by short ID.
    complained: BTreeMap<String, BTreeSet<String>>,
    /// The causes logged since the engine cannot be reached; empty while it can.
    causes: BTreeSet<String>,
}

impl Report {
    pub(super) fn new(endpoint: Endpoint, view: Arc<LocalView>) -> Self {
        let shown = SourceView {
            state: "listing",
            since: wall_clock(Duration::ZERO),
            trouble: None,
            instances: 0,
            held_until: None,
        };
        view.source(SourceName::Docker, shown.clone());
        Self {
            endpoint,
            view,
            shown,
            subjects: BTreeMap::new(),
            complained: BTreeMap::new(),
            causes: BTreeSet::new(),
        }
    }

    fn show(&mut self, view: SourceView) {
        if self.shown != view {
            self.shown = view;
            let view = self.shown.clone();
            self.view.source(SourceName::Docker, view);
        }
    }

    /// So many instances are announced.
    pub(super) fn instances(&mut self, instances: usize) {
        let shown = self.shown.clone();
        self.show(SourceView { instances, ..shown });
    }

    /// The engine is seen.
    pub(super) fn reachable(&mut self, instances: usize) {
        let endpoint = &self.endpoint;
        if !std::mem::take(&mut self.causes).is_empty() {
            tracing::info!(%endpoint, instances, "docker engine reachable again");
        } else {
            tracing::debug!(%endpoint, instances, "docker containers listed");
        }
        if self.shown.state != "following" {
            self.show(SourceView {
                state: "following",
                since: wall_clock(Duration::ZERO),
                trouble: None,
                instances,
                held_until: None,
            });
        }
    }

    /// The engine cannot be seen; its instances stay for so long, or without end. Says in the log
    /// once that and why, and once more for each new cause.
    pub(super) fn unreachable(
        &mut self,
        error: &EngineError,
        instances: usize,
        held_for: Option<Duration>,
    ) {
        let cause = error.to_string();
        let held_until = held_for.filter(|_| instances > 0).map(wall_clock);
        let is_new = self.shown.state != "unreachable";
        let held_until = match &self.shown.held_until {
            Some(told) if !is_new && instances > 0 => Some(told.clone()),
            _ => held_until,
        };
        let since = if is_new {
            wall_clock(Duration::ZERO)
        } else {
            self.shown.since.clone()
        };
        self.show(SourceView {
            state: "unreachable",
            since,
            trouble: Some(format!("{cause}; {}", error.hint())),
            instances,
            held_until,
        });
        if self.causes.len() >= CAUSES_MAX || self.causes.contains(&cause) {
            return;
        }
        let until = match &self.shown.held_until {
            Some(until) => format!(" until {until}"),
            None => String::new(),
        };
        tracing::warn!(
            endpoint = %self.endpoint,
            "docker engine unreachable: {cause}; {}; its {instances} known instances stay as they \
             are{until}",
            error.hint(),
        );
        self.causes.insert(cause);
    }

    /// The time for which instances stay unseen is over.
    pub(super) fn given_up(&mut self, instances: usize) {
        tracing::warn!(
            endpoint = %self.endpoint,
            "docker engine unreachable for too long: its {instances} instances count as gone until \
             it is back (SIDECAR_DOCKER_HOLD)"
        );
        let shown = self.shown.clone();
        self.show(SourceView {
            instances: 0,
            held_until: None,
            ..shown
        });
    }

    /// All there is to say about a container, in place of what was said before. `state` is no
    /// complaint and is only shown.
    pub(super) fn container(
        &mut self,
        container: &Container,
        complaints: Vec<String>,
        state: Option<String>,
    ) {
        let id = short_id(&container.id).to_owned();
        self.subject(id, container.display_name(), complaints, state);
    }

    /// The same about a container of which little is known.
    pub(super) fn subject(
        &mut self,
        id: String,
        name: &str,
        complaints: Vec<String>,
        state: Option<String>,
    ) {
        let name: String = name.chars().take(NAME_CHARS_MAX).collect();
        let subject = if name == id {
            id.clone()
        } else {
            format!("{name} ({id})")
        };
        let mut remarks = Vec::from_iter(state);
        for complaint in complaints {
            let shown: String = complaint.chars().take(COMPLAINT_CHARS_MAX).collect();
            self.complain(&id, &name, &shown);
            remarks.push(shown);
        }
        let silent = remarks.is_empty();
        let before = if silent {
            self.subjects.remove(&id)
        } else {
            self.subjects.insert(id, subject.clone())
        };
        if let Some(before) = before.filter(|before| silent || *before != subject) {
            self.view.remark(SourceName::Docker, &before, Vec::new());
        }
        if !silent {
            self.view.remark(SourceName::Docker, &subject, remarks);
        }
    }

    /// A container is gone.
    pub(super) fn forget(&mut self, id: &str) {
        if let Some(subject) = self.subjects.remove(id) {
            self.view.remark(SourceName::Docker, &subject, Vec::new());
        }
    }

    /// Only these containers are there.
    pub(super) fn keep(&mut self, listed: &BTreeSet<&str>) {
        if self.complained.len() > COMPLAINANTS_MAX {
            self.complained.retain(|id, _| listed.contains(id.as_str()));
        }
        let gone = self
            .subjects
            .keys()
            .filter(|id| !listed.contains(id.as_str()));
        let gone: Vec<String> = gone.cloned().collect();
        for id in gone {
            self.forget(&id);
        }
    }

    /// Logs a complaint unless it was logged before.
    fn complain(&mut self, id: &str, name: &str, complaint: &str) {
        let logged = self.complained.entry(id.to_owned()).or_default();
        if logged.len() >= COMPLAINTS_MAX || logged.contains(complaint) {
            return;
        }
        tracing::warn!(
            container = name,
            instance = id,
            "container {name:?}: {complaint}"
        );
        logged.insert(complaint.to_owned());
    }
}

/// The time in so long, RFC 3339.
pub(super) fn wall_clock(from_now: Duration) -> String {
    let now = jiff::Timestamp::now();
    // A time that no calendar holds is as good as none that is far away.
    let then = now.checked_add(from_now);
    format!("{:.3}", then.unwrap_or(jiff::Timestamp::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> (Report, Arc<LocalView>) {
        let view: Arc<LocalView> = Arc::default();
        let endpoint = Endpoint::Unix("/none".into());
        (Report::new(endpoint, Arc::clone(&view)), view)
    }

    fn shown(view: &LocalView) -> serde_json::Value {
        serde_json::from_str(&view.document().unwrap()).unwrap()
    }

    #[test]
    fn a_complaint_is_logged_once_and_shown_as_long_as_it_stands() {
        let (mut report, view) = report();
        let say = |report: &mut Report, name: &str, complaints: &[&str]| {
            let complaints = complaints.iter().map(|&it| it.to_owned()).collect();
            report.subject("ab".into(), name, complaints, None);
        };
        for _ in 0..100 {
            say(&mut report, "web", &["odd", &"x".repeat(1_000_000)]);
        }
        assert_eq!(report.complained["ab"].len(), 2);
        let remark = &shown(&view)["remarks"][0];
        assert_eq!(remark["subject"], "web (ab)");
        assert_eq!(remark["remarks"][0], "odd");
        assert_eq!(
            remark["remarks"][1].as_str().unwrap().len(),
            COMPLAINT_CHARS_MAX
        );
        // Another name, another subject.
        say(&mut report, "shop", &["odd"]);
        assert_eq!(shown(&view)["remarks"].as_array().unwrap().len(), 1);
        assert_eq!(shown(&view)["remarks"][0]["subject"], "shop (ab)");
        for number in 0..100 {
            say(&mut report, "shop", &[&number.to_string()]);
        }
        assert_eq!(report.complained["ab"].len(), COMPLAINTS_MAX);
        report.keep(&BTreeSet::new());
        assert_eq!(shown(&view)["remarks"].as_array().unwrap().len(), 0);
        assert!(report.subjects.is_empty());
        for number in 0..=COMPLAINANTS_MAX {
            report.complain(&number.to_string(), "web", "odd");
        }
        report.keep(&["7"].into());
        assert!(report.complained.keys().eq(["7"]));
    }

    #[test]
    fn an_outage_is_shown_with_its_end_and_logged_once_for_each_cause() {
        let (mut report, view) = report();
        assert_eq!(shown(&view)["sources"]["docker"]["state"], "listing");
        report.reachable(3);
        let docker = shown(&view)["sources"]["docker"].clone();
        assert_eq!(
            (&docker["state"], &docker["instances"]),
            (&"following".into(), &3.into())
        );
        let hold = Some(Duration::from_secs(60));
        report.unreachable(&EngineError::Closed, 3, hold);
        let first = shown(&view)["sources"]["docker"].clone();
        assert_eq!(first["state"], "unreachable");
        assert!(first["held_until"].is_string(), "{first}");
        report.unreachable(&EngineError::Timeout(Duration::ZERO), 3, hold);
        report.unreachable(&EngineError::Closed, 3, hold);
        let then = shown(&view)["sources"]["docker"].clone();
        assert_eq!(then["held_until"], first["held_until"]);
        assert_eq!(then["since"], first["since"]);
        assert_eq!(report.causes.len(), 2);
        report.given_up(3);
        let docker = shown(&view)["sources"]["docker"].clone();
        assert_eq!(
            (&docker["instances"], &docker["held_until"]),
            (&0.into(), &().into())
        );
        report.reachable(1);
        let docker = shown(&view)["sources"]["docker"].clone();
        assert_eq!(
            (&docker["state"], &docker["trouble"]),
            (&"following".into(), &().into())
        );
    }
}
