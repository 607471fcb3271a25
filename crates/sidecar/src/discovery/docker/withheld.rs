//! Containers of which an event has said something that a listing may not know yet. Pure.
//!
//! An engine tells of an end before its listing shows it, and of a stop signal that no listing ever
//! shows. So for a while the event's word stands; after that the listing's does, and whatever was
//! withheld in vain returns by itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

/// Time after which a listing knows what an event said.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

/// What an event said of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    /// It runs no more.
    Ended,
    /// It is frozen.
    Paused,
    /// It is frozen no more.
    Resumed,
    /// It was told to end, and finishes what it has begun.
    Leaving,
}

/// The words that stand, by short ID.
#[derive(Debug, Default)]
pub(super) struct Withheld(BTreeMap<String, (Word, Instant)>);

impl Withheld {
    /// An event said so now.
    pub(super) fn say(&mut self, id: &str, word: Word, now: Instant) {
        // Whoever is to end stays so, frozen or not, until it has ended or its time is over.
        let is_leaving = self.word(id, now) == Some(Word::Leaving);
        if !(is_leaving && matches!(word, Word::Paused | Word::Resumed)) {
            let stands = (word, now + SETTLED_AFTER);
            self.0.insert(id.to_owned(), stands);
        }
    }

    /// A container was told to end and has until then.
    pub(super) fn leaves(&mut self, id: &str, until: Instant) {
        self.0.insert(id.to_owned(), (Word::Leaving, until));
    }

    /// A container begins a new life.
    pub(super) fn starts(&mut self, id: &str) {
        self.0.remove(id);
    }

    /// What stands of a container.
    pub(super) fn word(&self, id: &str, now: Instant) -> Option<Word> {
        let (word, until) = self.0.get(id)?;
        (*until > now).then_some(*word)
    }

    /// Until when what stands of a container does.
    pub(super) fn until(&self, id: &str) -> Option<Instant> {
        self.0.get(id).map(|(_, until)| *until)
    }

    /// When a listing will say more than the words do.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.0.values().map(|(_, until)| *until).min()
    }

    /// A listing was made now that names these. Returns those who were told to end and did not.
    pub(super) fn listed(&mut self, listed: &BTreeSet<&str>, now: Instant) -> Vec<String> {
        let mut survivors = Vec::new();
        self.0.retain(|id, (word, until)| {
            let is_listed = listed.contains(id.as_str());
            if is_listed && *until <= now && *word == Word::Leaving {
                survivors.push(id.clone());
            }
            is_listed && *until > now
        });
        survivors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn words_stand_until_a_listing_knows_more() {
        let now = Instant::now();
        let mut withheld = Withheld::default();
        withheld.say("a", Word::Ended, now);
        withheld.say("b", Word::Ended, now);
        assert_eq!(withheld.word("a", now), Some(Word::Ended));
        assert_eq!(withheld.next_deadline(), Some(now + SETTLED_AFTER));
        // A listing that does not know of a's end yet.
        assert!(withheld.listed(&["a"].into(), now).is_empty());
        assert_eq!(withheld.word("a", now), Some(Word::Ended));
        assert_eq!(withheld.word("b", now), None);
        // One that must know.
        let later = now + SETTLED_AFTER;
        assert_eq!(withheld.word("a", later), None);
        assert!(withheld.listed(&["a"].into(), later).is_empty());
        assert_eq!(withheld.next_deadline(), None);
        withheld.say("a", Word::Ended, later);
        withheld.starts("a");
        assert_eq!(withheld.word("a", later), None);
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_is_withheld_until_its_time_is_over() {
        let now = Instant::now();
        let until = now + Duration::from_secs(15);
        let mut withheld = Withheld::default();
        withheld.leaves("a", until);
        withheld.say("a", Word::Paused, now);
        withheld.say("a", Word::Resumed, now);
        let late = now + Duration::from_secs(14);
        assert!(withheld.listed(&["a"].into(), late).is_empty());
        assert_eq!(withheld.word("a", late), Some(Word::Leaving));
        assert_eq!(withheld.listed(&["a"].into(), until), ["a"]);
        assert_eq!(withheld.word("a", until), None);
        // One that ended is no survivor.
        withheld.leaves("a", until);
        withheld.say("a", Word::Ended, late);
        assert_eq!(withheld.word("a", late), Some(Word::Ended));
        assert!(withheld.listed(&BTreeSet::new(), until).is_empty());
    }
}
