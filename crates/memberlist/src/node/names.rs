//! Where in a list a name is: a hash table of places alone. The names stay in the list, whose owner
//! tells them by place. Not a map: nothing can be iterated or removed, a changed list is indexed
//! anew.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

/// No place; lists are shorter.
const EMPTY: u32 = u32::MAX;

/// Places by the hash of their names, with linear probing.
#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    /// A power of two, at least four thirds of the list; or none at all. Shared among the copies of
    /// an index until they change.
    slots: Arc<[u32]>,
    /// Peers choose names: with known keys they could make all of them collide. Nothing depends
    /// on the order of the slots, so that equal inputs still give equal outputs.
    keys: RandomState,
}

impl Names {
    /// The place of `name`, if it has one.
    pub(super) fn find<'a>(&self, name: &str, name_at: impl Fn(usize) -> &'a str) -> Option<usize> {
        let slot = self.slot(name, |place| name_at(place) == name)?;
        (self.slots[slot] != EMPTY).then(|| self.slots[slot] as usize)
    }

    /// The list has grown by the name at `last`.
    pub(super) fn push<'a>(&mut self, last: usize, name_at: impl Fn(usize) -> &'a str) {
        if 4 * (last + 1) > 3 * self.slots.len() {
            return self.rebuild(last + 1, name_at);
        }
        self.set(name_at(last), last);
    }

    /// The list has changed altogether, and is this long now.
    pub(super) fn rebuild<'a>(&mut self, length: usize, name_at: impl Fn(usize) -> &'a str) {
        let size = (length * 4 / 3 + 1).next_power_of_two().max(8);
        match Arc::get_mut(&mut self.slots) {
            Some(slots) if slots.len() == size => slots.fill(EMPTY),
            _ => self.slots = std::iter::repeat_n(EMPTY, size).collect(),
        }
        for place in 0..length {
            self.set(name_at(place), place);
        }
    }

    /// For a name that has no place yet.
    fn set(&mut self, name: &str, place: usize) {
        let found = self.slot(name, |_| false);
        if let (Some(slot), Ok(place)) = (found, u32::try_from(place)) {
            Arc::make_mut(&mut self.slots)[slot] = place;
        }
    }

    /// The slot of the place that is `wanted`, or where it would be.
    fn slot(&self, name: &str, wanted: impl Fn(usize) -> bool) -> Option<usize> {
        let last = self.slots.len().checked_sub(1)?;
        let mut slot = self.keys.hash_one(name) as usize & last;
        while self.slots[slot] != EMPTY && !wanted(self.slots[slot] as usize) {
            slot = (slot + 1) & last;
        }
        Some(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_where_it_is_while_the_list_grows_and_changes() {
        let mut list: Vec<String> = Vec::new();
        let mut names = Names::default();
        for step in 0..500_usize {
            list.push(format!("node-{step}"));
            names.push(step, |at| list[at].as_str());
            for (at, name) in list.iter().enumerate() {
                assert_eq!(names.find(name, |at| list[at].as_str()), Some(at));
            }
            assert_eq!(names.find("node", |at| list[at].as_str()), None);
        }
        list.retain(|name| !name.ends_with('3'));
        list.reverse();
        names.rebuild(list.len(), |at| list[at].as_str());
        assert_eq!(names.find("node-13", |at| list[at].as_str()), None);
        for (at, name) in list.iter().enumerate() {
            assert_eq!(names.find(name, |at| list[at].as_str()), Some(at));
        }
    }

    #[test]
    fn an_empty_list_has_no_name() {
        assert_eq!(Names::default().find("a", |_| "a"), None);
    }
}
