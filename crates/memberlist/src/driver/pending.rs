//! Membership events an application has not had room for yet. Nothing is lost and nothing grows:
//! what a later event makes irrelevant is merged into it.

use std::collections::{BTreeMap, VecDeque};

use crate::node::Event;

/// Events by name; those of one name in order.
#[derive(Debug, Default)]
pub(super) struct Pending {
    by_name: BTreeMap<String, VecDeque<Event>>,
    /// One per name at most; apart, since they say nothing about who is a member.
    conflicts: BTreeMap<String, Event>,
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.by_name.is_empty() && self.conflicts.is_empty()
    }

    /// Adds a membership event; messages and states do not belong here.
    pub(super) fn push(&mut self, event: Event) {
        let name = match &event {
            Event::Joined(member) | Event::Updated(member) | Event::Left(member) => {
                member.name.clone()
            }
            Event::Conflict { name, .. } => {
                self.conflicts.insert(name.clone(), event.clone());
                return;
            }
            Event::Message(_) | Event::RemoteState { .. } => return,
        };
        let queue = self.by_name.entry(name.clone()).or_default();
        match (queue.pop_back(), event) {
            // It came and went unseen.
            (Some(Event::Joined(_)), Event::Left(_)) => {}
            (Some(Event::Joined(_)), Event::Updated(member) | Event::Joined(member)) => {
                queue.push_back(Event::Joined(member));
            }
            (Some(Event::Left(gone)), event) => queue.extend([Event::Left(gone), event]),
            (_, event) => queue.push_back(event),
        }
        if queue.is_empty() {
            self.by_name.remove(&name);
        }
    }

    pub(super) fn pop(&mut self) -> Option<Event> {
        if let Some(mut first) = self.by_name.first_entry() {
            let event = first.get_mut().pop_front();
            if first.get().is_empty() {
                first.remove();
            }
            return event;
        }
        self.conflicts.pop_first().map(|(_, event)| event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Member;
    use crate::wire::message::{NodeState, Versions};
    use bytes::Bytes;

    fn member(incarnation: u32) -> Member {
        Member {
            name: "a".to_owned(),
            addr: ([127, 0, 0, 1], 1).into(),
            meta: Bytes::new(),
            incarnation,
            state: NodeState::Alive,
            versions: Versions::OURS,
        }
    }

    fn merged(events: impl IntoIterator<Item = Event>) -> Vec<Event> {
        let mut pending = Pending::default();
        for event in events {
            pending.push(event);
        }
        std::iter::from_fn(|| pending.pop()).collect()
    }

    #[test]
    fn later_events_are_merged_into_earlier_ones() {
        use Event::{Joined, Left, Updated};
        let m = member;
        let rows = [
            (vec![Joined(m(1)), Updated(m(2))], vec![Joined(m(2))]),
            (vec![Joined(m(1)), Left(m(1))], vec![]),
            (vec![Updated(m(1)), Updated(m(2))], vec![Updated(m(2))]),
            (vec![Updated(m(1)), Left(m(1))], vec![Left(m(1))]),
            (
                vec![Left(m(1)), Joined(m(2))],
                vec![Left(m(1)), Joined(m(2))],
            ),
            (vec![Left(m(1)), Joined(m(2)), Left(m(2))], vec![Left(m(1))]),
            (
                vec![Left(m(1)), Joined(m(2)), Updated(m(3))],
                vec![Left(m(1)), Joined(m(3))],
            ),
        ];
        for (pushed, expected) in rows {
            assert_eq!(merged(pushed.clone()), expected, "{pushed:?}");
        }
    }

    #[test]
    fn a_flapping_member_takes_two_places_at_most() {
        let flaps = (1..1000).flat_map(|n| [Event::Left(member(n)), Event::Joined(member(n + 1))]);
        let merged = merged(flaps);
        assert_eq!(
            merged,
            [Event::Left(member(1)), Event::Joined(member(1000))]
        );
    }
}
