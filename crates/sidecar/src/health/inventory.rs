//! What all sources together say is on this host, and what changed since. Pure.
//!
//! Each source speaks only for itself: a complete listing of one source ends only what this source
//! had named before. A listing is held back until it is complete and then takes effect at once, so a
//! source that starts over (or breaks off in the middle) never makes an instance disappear.

use std::collections::BTreeMap;

use crate::discovery::{Instance, SourceEvent, SourceName};

/// A difference between what was known before an event and after it.
#[expect(
    clippy::large_enum_variant,
    reason = "made one at a time and taken apart at once"
)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// An instance is new, or its record or its check changed.
    Present(Instance),
    /// An instance is gone.
    Gone {
        /// Its id.
        id: String,
    },
    /// A source completed its first listing.
    Listed(SourceName),
}

/// The instances of all sources.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    /// By id, then by the sources that name it. Ids of different sources are different by
    /// construction; should two agree all the same, the first source's instance counts, and the
    /// other's takes its place when it goes.
    held: BTreeMap<String, BTreeMap<SourceName, Instance>>,
    listings: BTreeMap<SourceName, Listing>,
}

/// How far a source has come with telling everything it knows.
#[derive(Debug, Default)]
struct Listing {
    /// The listing under way.
    pending: Option<BTreeMap<String, Instance>>,
    /// Whether one was ever completed.
    completed: bool,
}

impl Inventory {
    /// Takes one step of a source's account; the changes are in the order in which they are to be
    /// told: what is there, what is gone, that the listing is complete.
    pub(super) fn apply(&mut self, source: SourceName, event: SourceEvent) -> Vec<Change> {
        let listing = self.listings.entry(source).or_default();
        match event {
            SourceEvent::Init => {
                listing.pending = Some(BTreeMap::new());
                Vec::new()
            }
            SourceEvent::InitApply(instance) => match &mut listing.pending {
                Some(pending) => {
                    pending.insert(instance.service.id.clone(), instance);
                    Vec::new()
                }
                // Outside of a listing it is still news.
                None => self.hold(source, instance).into_iter().collect(),
            },
            SourceEvent::InitDone => self.swap(source),
            SourceEvent::Apply(instance) => {
                // Newer than what the listing under way may have said of it.
                if let Some(pending) = &mut listing.pending {
                    pending.insert(instance.service.id.clone(), instance.clone());
                }
                self.hold(source, instance).into_iter().collect()
            }
            SourceEvent::Delete { id } => {
                if let Some(pending) = &mut listing.pending {
                    pending.remove(&id);
                }
                self.release(source, &id).into_iter().collect()
            }
        }
    }

    /// Puts a complete listing in place of what the source had. An end without a beginning says
    /// nothing, least of all that everything is gone.
    fn swap(&mut self, source: SourceName) -> Vec<Change> {
        let listing = self.listings.entry(source).or_default();
        let Some(complete) = listing.pending.take() else {
            return Vec::new();
        };
        let first = !std::mem::replace(&mut listing.completed, true);
        let vanished: Vec<String> = self
            .held
            .iter()
            .filter(|(id, by)| by.contains_key(&source) && !complete.contains_key(*id))
            .map(|(id, _)| id.clone())
            .collect();
        let mut changes: Vec<Change> = complete
            .into_values()
            .filter_map(|instance| self.hold(source, instance))
            .collect();
        changes.extend(vanished.iter().filter_map(|id| self.release(source, id)));
        changes.extend(first.then_some(Change::Listed(source)));
        changes
    }

    fn hold(&mut self, source: SourceName, instance: Instance) -> Option<Change> {
        let by = self.held.entry(instance.service.id.clone()).or_default();
        let before = by.values().next().cloned();
        by.insert(source, instance);
        let after = by.values().next();
        after
            .filter(|after| before.as_ref() != Some(after))
            .cloned()
            .map(Change::Present)
    }

    fn release(&mut self, source: SourceName, id: &str) -> Option<Change> {
        let by = self.held.get_mut(id)?;
        let before = by.values().next().cloned();
        by.remove(&source);
        match by.values().next() {
            Some(after) if before.as_ref() == Some(after) => None,
            Some(after) => Some(Change::Present(after.clone())),
            None => {
                self.held.remove(id);
                Some(Change::Gone { id: id.to_owned() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use SourceEvent::{Init, InitDone};
    use SourceName::{Docker, Static};

    use super::*;
    use crate::{discovery::CheckSpec, health::tests::service};

    /// `a` is instance `a`, `a2` is instance `a` with another image.
    fn instance(text: &str) -> Instance {
        let mut service = service(&text[..1]);
        service.image = text.to_owned();
        Instance {
            service,
            check: CheckSpec::default(),
            engine_health: None,
            listener: None,
        }
    }

    fn listed(text: &str) -> SourceEvent {
        SourceEvent::InitApply(instance(text))
    }

    fn apply(text: &str) -> SourceEvent {
        SourceEvent::Apply(instance(text))
    }

    fn delete(id: &str) -> SourceEvent {
        SourceEvent::Delete { id: id.to_owned() }
    }

    /// Applies events and prints the changes: `+a` is there, `-a` is gone, `!` is listed.
    fn play(events: impl IntoIterator<Item = (SourceName, SourceEvent)>) -> String {
        let mut inventory = Inventory::default();
        let mut told = Vec::new();
        for (source, event) in events {
            told.extend(
                inventory
                    .apply(source, event)
                    .into_iter()
                    .map(|change| match change {
                        Change::Present(instance) => format!("+{}", instance.service.image),
                        Change::Gone { id } => format!("-{id}"),
                        Change::Listed(source) => format!("!{source:?}"),
                    }),
            );
        }
        told.join(" ")
    }

    #[test]
    fn a_listing_takes_effect_when_it_is_complete() {
        let docker = |events: Vec<SourceEvent>| play(events.into_iter().map(|it| (Docker, it)));
        for (events, told) in [
            (vec![Init, listed("a"), listed("b")], ""),
            (vec![Init, InitDone], "!Docker"),
            (
                vec![Init, listed("a"), listed("b"), InitDone],
                "+a +b !Docker",
            ),
            // Unchanged, changed, new and vanished; complete for the second time.
            (
                vec![
                    Init,
                    listed("a"),
                    listed("b"),
                    listed("c"),
                    InitDone, //
                    Init,
                    listed("a"),
                    listed("b2"),
                    listed("d"),
                    InitDone,
                ],
                "+a +b +c !Docker +b2 +d -c",
            ),
            // Broken off, begun again.
            (
                vec![
                    Init,
                    listed("a"),
                    InitDone,
                    Init,
                    Init,
                    listed("a"),
                    InitDone,
                ],
                "+a !Docker",
            ),
            (
                vec![Init, listed("a"), Init, listed("b"), InitDone],
                "+b !Docker",
            ),
            // An end without a beginning ends nothing.
            (vec![InitDone], ""),
            (vec![Init, listed("a"), InitDone, InitDone], "+a !Docker"),
            (vec![listed("a"), InitDone], "+a"),
            // The last word on one instance within a listing.
            (
                vec![Init, listed("a"), listed("a2"), InitDone],
                "+a2 !Docker",
            ),
        ] {
            let script = format!("{events:?}");
            assert_eq!(docker(events), told, "{script}");
        }
    }

    #[test]
    fn changes_in_between_take_effect_at_once() {
        let docker = |events: Vec<SourceEvent>| play(events.into_iter().map(|it| (Docker, it)));
        for (events, told) in [
            (
                vec![
                    apply("a"),
                    apply("a"),
                    apply("a2"),
                    delete("a"),
                    delete("a"),
                ],
                "+a +a2 -a",
            ),
            (vec![delete("a")], ""),
            // News during a listing is newer than the listing.
            (
                vec![Init, listed("a"), apply("a2"), apply("b"), InitDone],
                "+a2 +b !Docker",
            ),
            (
                vec![apply("a"), Init, listed("a"), delete("a"), InitDone],
                "+a -a !Docker",
            ),
        ] {
            let script = format!("{events:?}");
            assert_eq!(docker(events), told, "{script}");
        }
    }

    #[test]
    fn sources_never_touch_each_others_instances() {
        let events = [
            (Docker, apply("a")),
            (Static, Init),
            (Static, listed("b")),
            (Docker, Init),
            (Docker, InitDone),
            (Static, InitDone),
            (Docker, delete("b")),
            (Docker, Init),
            (Docker, InitDone),
        ];
        assert_eq!(play(events), "+a -a !Docker +b !Static");
    }

    #[test]
    fn an_id_of_two_sources_lives_as_long_as_one_of_them_names_it() {
        let events = [
            (Static, apply("a")),
            (Docker, apply("a2")),
            (Static, apply("a3")),
            (Docker, delete("a")),
            (Static, delete("a")),
        ];
        assert_eq!(play(events), "+a +a2 +a3 -a");
        let events = [
            (Docker, apply("a")),
            (Static, apply("a2")),
            (Static, delete("a")),
        ];
        assert_eq!(play(events), "+a");
    }

    #[test]
    fn another_check_is_a_change() {
        let mut inventory = Inventory::default();
        inventory.apply(Docker, apply("a"));
        let mut changed = instance("a");
        changed.check.kind = Some("External".to_owned());
        assert_eq!(
            inventory.apply(Docker, SourceEvent::Apply(changed.clone())),
            [Change::Present(changed)]
        );
    }
}
