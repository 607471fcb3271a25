//! From what every agent shows to one line per change: what changed, and how long it took from the
//! first agent that showed it to the last. Pure.

use std::{collections::BTreeMap, time::Instant};

use catalog::Status;

/// Instances by host and ID, with name and status.
pub(super) type Seen = BTreeMap<(String, String), (String, Status)>;

/// What an agent shows at a moment; `None` when it does not answer any more.
#[derive(Debug)]
pub(super) struct Sighting {
    pub(super) agent: usize,
    pub(super) at: Instant,
    pub(super) seen: Option<Seen>,
}

/// A change on its way to all agents.
#[derive(Debug)]
struct Spreading {
    name: String,
    from: Option<Status>,
    to: Status,
    first: Instant,
}

/// Compares the agents' views.
#[derive(Debug)]
pub(super) struct Observer {
    names: Vec<String>,
    views: Vec<Option<Seen>>,
    /// Whether every agent has answered once: before that, "all" would be the first to start.
    complete: bool,
    /// The status all agents agreed on last.
    agreed: BTreeMap<(String, String), Status>,
    spreading: BTreeMap<(String, String), Spreading>,
}

impl Observer {
    pub(super) fn new(names: Vec<String>) -> Self {
        let views = names.iter().map(|_| None).collect();
        Self {
            names,
            views,
            complete: false,
            agreed: BTreeMap::new(),
            spreading: BTreeMap::new(),
        }
    }

    /// Takes in one view and returns the lines it gives rise to.
    pub(super) fn sighting(
        &mut self,
        agent: usize,
        at: Instant,
        seen: Option<Seen>,
    ) -> Vec<String> {
        let mut lines = Vec::new();
        let before = self.views[agent].take();
        match (&before, &seen) {
            (None, Some(_)) => lines.push(format!("{} answers", self.names[agent])),
            (Some(_), None) => {
                lines.push(format!("{} does not answer any more", self.names[agent]));
            }
            _ => {}
        }
        for (key, (name, status)) in seen.iter().flatten() {
            let old = before
                .as_ref()
                .and_then(|view| view.get(key))
                .map(|(_, status)| *status);
            if old == Some(*status) || self.agreed.get(key) == Some(status) {
                continue;
            }
            let from = self.agreed.get(key).copied();
            let spreading = self
                .spreading
                .entry(key.clone())
                .or_insert_with(|| Spreading {
                    name: name.clone(),
                    from,
                    to: *status,
                    first: at,
                });
            if spreading.to != *status {
                spreading.to = *status;
                spreading.first = at;
            }
        }
        self.views[agent] = seen;
        self.complete |= self.views.iter().all(Option::is_some);
        lines.extend(self.settle(at));
        lines
    }

    /// Lines for the changes that every answering agent shows by now.
    fn settle(&mut self, at: Instant) -> Vec<String> {
        let answering = self.views.iter().flatten().count();
        if !self.complete || answering == 0 {
            return Vec::new();
        }
        let mut lines = Vec::new();
        let views = &self.views;
        let agreed = &mut self.agreed;
        self.spreading.retain(|key, spreading| {
            let everywhere = views.iter().flatten().all(|view| {
                view.get(key)
                    .is_some_and(|(_, status)| *status == spreading.to)
            });
            if !everywhere {
                return true;
            }
            agreed.insert(key.clone(), spreading.to);
            let from = spreading
                .from
                .map_or_else(|| "new".to_owned(), |from| from.to_string());
            let took = at.saturating_duration_since(spreading.first).as_secs_f64() * 1000.0;
            lines.push(format!(
                "{} on {}: {from} -> {}, on all {answering} agents within {took:.1} ms",
                spreading.name, key.0, spreading.to
            ));
            false
        });
        lines
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn view(status: Status) -> Option<Seen> {
        Some(Seen::from([(
            ("h1".into(), "1".into()),
            ("web".into(), status),
        )]))
    }

    #[test]
    fn a_change_is_reported_when_the_last_answering_agent_shows_it() {
        let mut observer = Observer::new(vec!["a".into(), "b".into(), "c".into()]);
        observer.complete = true;
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        assert_eq!(
            observer.sighting(0, at(0), Some(Seen::new())),
            ["a answers"]
        );
        assert_eq!(
            observer.sighting(1, at(0), Some(Seen::new())),
            ["b answers"]
        );
        assert!(
            observer
                .sighting(0, at(5), view(Status::Unknown))
                .is_empty()
        );
        assert!(observer.sighting(0, at(10), view(Status::Alive)).is_empty());
        assert_eq!(
            observer.sighting(1, at(12), view(Status::Alive)),
            ["web on h1: new -> Alive, on all 2 agents within 2.0 ms"]
        );
        // One more agent that shows the same is no news.
        assert_eq!(
            observer.sighting(2, at(20), view(Status::Alive)),
            ["c answers"]
        );
        assert!(
            observer
                .sighting(0, at(30), view(Status::Tombstone))
                .is_empty()
        );
        assert!(
            observer
                .sighting(1, at(31), view(Status::Tombstone))
                .is_empty()
        );
        // The third dies before it shows the change: the rest agree.
        assert_eq!(
            observer.sighting(2, at(34), None),
            [
                "c does not answer any more",
                "web on h1: Alive -> Tombstone, on all 2 agents within 4.0 ms"
            ]
        );
    }
}
