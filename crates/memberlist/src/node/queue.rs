//! A queue whose entries leave after a number of transmits, fewest transmitted first, after
//! `queue.go` of hashicorp/memberlist. A newer entry of the same key replaces the older one.
//!
//! Among equally often transmitted ones the sources take turns, which Go does not do: the first
//! entry of every source comes before the second of any, so that a burst of one host does not delay
//! another's single change.

use std::borrow::Borrow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};
use std::fmt::Debug;
use std::sync::Arc;

use bytes::Bytes;

/// Transmits after which an entry leaves: `mult × ⌈log10(members + 1)⌉`.
pub(super) fn transmit_limit(mult: u32, members: usize) -> u32 {
    let nines = ((members + 1) as f64).log10().ceil() as u32;
    mult.saturating_mul(nines)
}

/// How an application's broadcasts compete when there is more to say than room.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Priority {
    /// Whose news it is. Sources take turns.
    pub source: String,
    /// Whether it goes before what is not urgent, of the same turn.
    pub urgent: bool,
    /// What is enough for whoever knows the last message of this key, instead of the whole message. It
    /// goes to members that understand lazy push alone, see
    /// [`Config::lazy_push`](super::Config::lazy_push). While an earlier message is still on its way
    /// as a whole, so is this one: who has missed that could make nothing of the short form.
    pub brief: Option<Bytes>,
}

/// Fewest transmits first; then by turn of the source, urgent ones first.
type Class = (u32, u32, bool);

/// Of a class the longest first, then the newest.
type Rank = (Class, Reverse<usize>, Reverse<u64>);

/// Classes looked through for something that fits into what little room is left.
const CLASSES_TRIED_MAX: usize = 32;

#[derive(Debug)]
struct Entry<K> {
    key: K,
    bytes: Bytes,
    source: Option<Arc<str>>,
    /// What the application's messages are known by; 0 for those of the protocol.
    number: u32,
    kin_only: bool,
}

/// Broadcasts in the order in which they are to be sent. Keys are unique.
#[derive(Debug)]
pub(super) struct TransmitQueue<K> {
    entries: BTreeMap<Rank, Entry<K>>,
    /// Also of what is taken.
    ranks: BTreeMap<K, Rank>,
    /// Taken and not yet put back. Nothing is pushed or removed meanwhile.
    taken: Vec<(Rank, Entry<K>)>,
    /// Entries of each source, urgent ones and others.
    sources: BTreeMap<Arc<str>, [u32; 2]>,
    next_id: u64,
    bytes: usize,
}

impl<K: Ord + Clone + Debug> TransmitQueue<K> {
    pub(super) fn new() -> Self {
        Self {
            entries: BTreeMap::new(),
            ranks: BTreeMap::new(),
            taken: Vec::new(),
            sources: BTreeMap::new(),
            next_id: 0,
            bytes: 0,
        }
    }

    /// Queues `bytes` with no transmits yet; an older entry of this key is gone.
    pub(super) fn push(&mut self, key: K, bytes: Bytes) {
        self.remove(&key);
        let entry = Entry {
            key,
            bytes,
            source: None,
            number: 0,
            kin_only: false,
        };
        self.insert(entry, (0, 0, false));
    }

    /// The same for a message known by `number`, taking turns with other sources.
    pub(super) fn push_in_turn(
        &mut self,
        key: K,
        bytes: Bytes,
        number: u32,
        kin_only: bool,
        priority: &Priority,
    ) {
        self.remove(&key);
        let source = match self.sources.get_key_value(priority.source.as_str()) {
            Some((source, _)) => source.clone(),
            None => priority.source.as_str().into(),
        };
        let counts = self.sources.entry(source.clone()).or_default();
        let count = &mut counts[usize::from(!priority.urgent)];
        let turn = *count;
        *count += 1;
        let entry = Entry {
            key,
            bytes,
            source: Some(source),
            number,
            kin_only,
        };
        self.insert(entry, (0, turn, !priority.urgent));
    }

    fn insert(&mut self, entry: Entry<K>, class: Class) {
        let rank = (class, Reverse(entry.bytes.len()), Reverse(self.next_id));
        self.next_id += 1;
        self.bytes += entry.bytes.len();
        self.ranks.insert(entry.key.clone(), rank);
        self.entries.insert(rank, entry);
    }

    pub(super) fn remove(&mut self, key: &K) {
        if let Some(rank) = self.ranks.remove(key)
            && let Some(entry) = self.entries.remove(&rank)
        {
            self.bytes -= entry.bytes.len();
            self.count_out(&entry, rank.0);
        }
    }

    /// An entry has left for good.
    fn count_out(&mut self, entry: &Entry<K>, (_, _, late): Class) {
        let Some(source) = &entry.source else { return };
        if let Some(counts) = self.sources.get_mut(source) {
            let count = &mut counts[usize::from(late)];
            *count = count.saturating_sub(1);
            if *counts == [0, 0] {
                self.sources.remove(source);
            }
        }
    }

    pub(super) fn contains(&self, key: &K) -> bool {
        self.ranks.contains_key(key)
    }

    /// Whether a message of this key is on its way to all kinds of members.
    pub(super) fn tells_everybody(&self, key: &K) -> bool {
        let entry = self.ranks.get(key).and_then(|rank| self.entries.get(rank));
        entry.is_some_and(|entry| !entry.kin_only)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Sum of the lengths of all entries.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Drops the entry that has been sent most often, the shortest and oldest of those.
    pub(super) fn drop_last(&mut self) -> bool {
        self.drop_last_where(|_| true)
    }

    /// The same among the entries of such keys.
    pub(super) fn drop_last_where(&mut self, such: impl Fn(&K) -> bool) -> bool {
        let mut last = self.entries.iter().rev();
        let Some(rank) = last
            .find(|(_, entry)| such(&entry.key))
            .map(|(rank, _)| *rank)
        else {
            return false;
        };
        let Some(entry) = self.entries.remove(&rank) else {
            return false;
        };
        self.bytes -= entry.bytes.len();
        self.ranks.remove(&entry.key);
        self.count_out(&entry, rank.0);
        true
    }

    /// Takes entries into `free` bytes, each costing `overhead` more than its length, at most
    /// `count`. What was taken is out of the queue until [`TransmitQueue::put_back`], so that one
    /// round of gossip does not send the same thing to the same members again and again. What is
    /// for kin only is told as such.
    pub(super) fn take(
        &mut self,
        free: &mut usize,
        overhead: usize,
        count: usize,
    ) -> impl ExactSizeIterator<Item = (&Bytes, bool)> {
        let before = self.taken.len();
        let first = self.entries.first_key_value();
        let mut class = first.map_or((0, 0, false), |(rank, _)| rank.0);
        let mut passed = 0;
        while self.taken.len() - before < count && *free > overhead {
            let longest = (class, Reverse(*free - overhead), Reverse(u64::MAX));
            let Some((&rank, _)) = self.entries.range(longest..).next() else {
                break;
            };
            if rank.0 > class {
                // The longest entry of the next class may be too long: look again from its top.
                class = rank.0;
                passed += 1;
                if passed > CLASSES_TRIED_MAX {
                    break;
                }
                continue;
            }
            passed = 0;
            let Some(entry) = self.entries.remove(&rank) else {
                break;
            };
            self.bytes -= entry.bytes.len();
            *free -= overhead + entry.bytes.len();
            self.taken.push((rank, entry));
        }
        let taken = self.taken[before..].iter();
        taken.map(|(_, entry)| (&entry.bytes, entry.kin_only))
    }

    /// Takes up to `count` entries, together with what is taken, which are only told of by their
    /// numbers: those of all that is taken.
    pub(super) fn take_numbers(&mut self, count: usize) -> impl ExactSizeIterator<Item = u32> {
        while self.taken.len() < count
            && let Some((rank, entry)) = self.entries.pop_first()
        {
            self.bytes -= entry.bytes.len();
            self.taken.push((rank, entry));
        }
        self.taken.iter().map(|(_, entry)| entry.number)
    }

    /// The entries with these numbers, which from now on count as never sent.
    pub(super) fn renew(&mut self, numbers: &HashSet<u32>) -> Vec<Bytes> {
        let found: Vec<Rank> = self
            .entries
            .iter()
            .filter(|(_, entry)| numbers.contains(&entry.number))
            .map(|(rank, _)| *rank)
            .collect();
        found
            .into_iter()
            .filter_map(|rank| {
                let entry = self.entries.remove(&rank)?;
                let ((_, turn, late), length, id) = rank;
                let bytes = entry.bytes.clone();
                self.bytes -= bytes.len();
                self.requeue(((0, turn, late), length, id), entry, u32::MAX);
                Some(bytes)
            })
            .collect()
    }

    /// Somebody else has said this: counts as a transmit of ours.
    pub(super) fn heard<Q: Ord + ?Sized>(&mut self, key: &Q, limit: u32)
    where
        K: Borrow<Q>,
    {
        let Some(&rank) = self.ranks.get(key) else {
            return;
        };
        let Some(entry) = self.entries.remove(&rank) else {
            return;
        };
        let ((transmits, turn, late), length, id) = rank;
        self.bytes -= entry.bytes.len();
        self.requeue(((transmits + 1, turn, late), length, id), entry, limit);
    }

    /// Puts an entry back whose transmits have been counted, or lets it leave.
    fn requeue(&mut self, rank: Rank, entry: Entry<K>, limit: u32) {
        if rank.0.0 < limit {
            if let Some(known) = self.ranks.get_mut(&entry.key) {
                *known = rank;
            }
            self.bytes += entry.bytes.len();
            self.entries.insert(rank, entry);
        } else {
            self.ranks.remove(&entry.key);
            self.count_out(&entry, rank.0);
        }
    }

    /// Counts a transmit for everything taken and puts it back, except what has now had its
    /// `limit` of transmits.
    pub(super) fn put_back(&mut self, limit: u32) {
        for ((class, length, id), entry) in std::mem::take(&mut self.taken) {
            let (transmits, turn, late) = class;
            self.requeue(((transmits + 1, turn, late), length, id), entry, limit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(entries: &[(&'static str, &'static str)]) -> TransmitQueue<&'static str> {
        let mut queue = TransmitQueue::new();
        for (key, text) in entries {
            queue.push(*key, Bytes::from_static(text.as_bytes()));
        }
        queue
    }

    fn take(queue: &mut TransmitQueue<&'static str>, mut free: usize, limit: u32) -> Vec<Bytes> {
        let taken = queue
            .take(&mut free, 2, 127)
            .map(|(bytes, _)| bytes.clone())
            .collect();
        queue.put_back(limit);
        taken
    }

    #[test]
    fn transmit_limit_grows_with_the_logarithm() {
        let limits: Vec<u32> = [0, 1, 9, 10, 99, 100, 999, 1000]
            .into_iter()
            .map(|members| transmit_limit(4, members))
            .collect();
        assert_eq!(limits, [0, 4, 4, 8, 8, 12, 12, 16]);
    }

    #[test]
    fn fewest_transmits_then_longest_then_newest() {
        let mut queue = queue(&[("a", "11"), ("b", "2222"), ("c", "33")]);
        assert_eq!(take(&mut queue, 100, 9), ["2222", "33", "11"]);
        queue.push("d", Bytes::from_static(b"4"));
        assert_eq!(take(&mut queue, 100, 9), ["4", "2222", "33", "11"]);
        assert_eq!(
            take(&mut queue, 3, 9),
            ["4"],
            "only the one that fits, though sent more often"
        );
    }

    #[test]
    fn sources_take_turns_and_what_is_urgent_goes_first() {
        let priority = |source: &str, urgent| Priority {
            source: source.to_owned(),
            urgent,
            brief: None,
        };
        let mut queue = TransmitQueue::new();
        let mut say = |key: &'static str, source, urgent| {
            queue.push_in_turn(
                key,
                Bytes::from_static(key.as_bytes()),
                0,
                false,
                &priority(source, urgent),
            );
        };
        for key in ["a1", "a2", "a3"] {
            say(key, "a", false);
        }
        say("b1", "b", false);
        say("a!", "a", true);
        say("c!", "c", true);
        let order = |queue: &mut TransmitQueue<&'static str>| -> Vec<Bytes> {
            std::iter::from_fn(|| {
                let mut free = 4;
                let taken = queue.take(&mut free, 2, 1).next();
                taken.map(|(bytes, _)| bytes.clone())
            })
            .collect()
        };
        assert_eq!(order(&mut queue), ["c!", "a!", "b1", "a1", "a2", "a3"]);
        queue.put_back(9);
        // A newcomer that has not been sent comes before all that were.
        let late = Bytes::from_static(b"a4");
        queue.push_in_turn("a4", late, 0, false, &priority("a", false));
        assert_eq!(order(&mut queue)[..2], ["a4", "c!"]);
        queue.put_back(2);
        assert_eq!(queue.sources.len(), 1, "only what was sent once is left");
        queue.remove(&"a4");
        assert!(queue.sources.is_empty());
    }

    #[test]
    fn what_others_say_counts_as_said() {
        let mut queue = queue(&[("a", "1"), ("b", "2")]);
        queue.heard("a", 3);
        assert_eq!(take(&mut queue, 100, 3), ["2", "1"]);
        queue.heard("a", 3);
        assert_eq!(take(&mut queue, 100, 3), ["2"]);
        assert_eq!((queue.len(), queue.bytes()), (1, 1));
        queue.heard("c", 3);
        queue.heard("b", 3);
        assert_eq!((queue.len(), queue.bytes(), queue.ranks.len()), (0, 0, 0));
    }

    #[test]
    fn what_does_not_fit_is_skipped_not_waited_for() {
        let mut queue = queue(&[("a", "1111111111"), ("b", "22")]);
        assert_eq!(take(&mut queue, 5, 9), ["22"]);
        assert_eq!(take(&mut queue, 12, 9), ["1111111111"]);
    }

    #[test]
    fn a_long_entry_of_a_later_tier_is_skipped_too() {
        let mut queue = queue(&[("a", "1111111111"), ("b", "22")]);
        assert_eq!(take(&mut queue, 100, 9).len(), 2);
        queue.push("c", Bytes::from_static(b"333"));
        assert_eq!(take(&mut queue, 9, 9), ["333", "22"]);
    }

    #[test]
    fn an_entry_leaves_at_its_limit_and_a_newer_one_replaces_it() {
        let mut queue = queue(&[("a", "old"), ("a", "new")]);
        assert_eq!((queue.len(), queue.bytes()), (1, 3));
        assert_eq!(take(&mut queue, 100, 2), ["new"]);
        assert!(queue.contains(&"a"));
        assert_eq!(take(&mut queue, 100, 2), ["new"]);
        assert_eq!((queue.len(), queue.bytes()), (0, 0));
        queue.push("b", Bytes::from_static(b"x"));
        assert_eq!(take(&mut queue, 100, 0), ["x"], "limit 0 is one transmit");
        assert_eq!(queue.len(), 0);
    }

    #[test]
    fn nothing_is_taken_twice_before_it_is_put_back() {
        let mut queue = queue(&[("a", "1"), ("b", "2")]);
        let mut free = 3;
        assert!(
            queue
                .take(&mut free, 2, 127)
                .map(|(bytes, _)| bytes)
                .eq(["2"].iter())
        );
        let mut free = 100;
        assert!(
            queue
                .take(&mut free, 2, 127)
                .map(|(bytes, _)| bytes)
                .eq(["1"].iter())
        );
        assert_eq!(queue.take(&mut free, 2, 127).len(), 0);
        queue.put_back(9);
        assert_eq!(queue.len(), 2);
    }

    #[test]
    fn overflow_drops_what_was_sent_most() {
        let mut queue = queue(&[("a", "1")]);
        take(&mut queue, 100, 9);
        queue.push("b", Bytes::from_static(b"2"));
        assert!(queue.drop_last());
        assert!(queue.contains(&"b") && !queue.contains(&"a"));
    }
}
