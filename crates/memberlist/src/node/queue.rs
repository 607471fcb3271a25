//! A queue whose entries leave after a number of transmits, fewest transmitted first, after
//! `queue.go` of hashicorp/memberlist. A newer entry of the same key replaces the older one.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Debug;

use bytes::Bytes;

/// Transmits after which an entry leaves: `mult × ⌈log10(members + 1)⌉`.
pub(super) fn transmit_limit(mult: u32, members: usize) -> u32 {
    let nines = ((members + 1) as f64).log10().ceil() as u32;
    mult.saturating_mul(nines)
}

/// Fewest transmits, then longest, then newest.
type Rank = (u32, Reverse<usize>, Reverse<u64>);

#[derive(Debug)]
struct Entry<K> {
    key: K,
    bytes: Bytes,
}

/// Broadcasts in the order in which they are to be sent. Keys are unique.
#[derive(Debug)]
pub(super) struct TransmitQueue<K> {
    entries: BTreeMap<Rank, Entry<K>>,
    /// Also of what is taken.
    ranks: BTreeMap<K, Rank>,
    /// Taken and not yet put back. Nothing is pushed or removed meanwhile.
    taken: Vec<(Rank, Entry<K>)>,
    next_id: u64,
    bytes: usize,
}

impl<K: Ord + Clone + Debug> TransmitQueue<K> {
    pub(super) fn new() -> Self {
        Self {
            entries: BTreeMap::new(),
            ranks: BTreeMap::new(),
            taken: Vec::new(),
            next_id: 0,
            bytes: 0,
        }
    }

    /// Queues `bytes` with no transmits yet; an older entry of this key is gone.
    pub(super) fn push(&mut self, key: K, bytes: Bytes) {
        self.remove(&key);
        let rank = (0, Reverse(bytes.len()), Reverse(self.next_id));
        self.next_id += 1;
        self.bytes += bytes.len();
        self.ranks.insert(key.clone(), rank);
        self.entries.insert(rank, Entry { key, bytes });
    }

    pub(super) fn remove(&mut self, key: &K) {
        if let Some(entry) = self
            .ranks
            .remove(key)
            .and_then(|rank| self.entries.remove(&rank))
        {
            self.bytes -= entry.bytes.len();
        }
    }

    pub(super) fn contains(&self, key: &K) -> bool {
        self.ranks.contains_key(key)
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
        let Some((_, entry)) = self.entries.pop_last() else {
            return false;
        };
        self.bytes -= entry.bytes.len();
        self.ranks.remove(&entry.key);
        true
    }

    /// Takes entries into `free` bytes, each costing `overhead` more than its length, at most
    /// `count`. What was taken is out of the queue until [`TransmitQueue::put_back`], so that one
    /// round of gossip does not send the same thing to the same members again and again.
    pub(super) fn take(
        &mut self,
        free: &mut usize,
        overhead: usize,
        count: usize,
    ) -> impl ExactSizeIterator<Item = &Bytes> {
        let before = self.taken.len();
        let mut tier = self.entries.first_key_value().map_or(0, |(rank, _)| rank.0);
        while self.taken.len() - before < count && *free > overhead {
            let longest = (tier, Reverse(*free - overhead), Reverse(u64::MAX));
            let Some((&rank, _)) = self.entries.range(longest..).next() else {
                break;
            };
            if rank.0 > tier {
                tier = rank.0;
                // The longest entry of the new tier may be too long: look again from its top.
                continue;
            }
            let Some(entry) = self.entries.remove(&rank) else {
                break;
            };
            self.bytes -= entry.bytes.len();
            *free -= overhead + entry.bytes.len();
            self.taken.push((rank, entry));
        }
        self.taken[before..].iter().map(|(_, entry)| &entry.bytes)
    }

    /// Counts a transmit for everything taken and puts it back, except what has now had its
    /// `limit` of transmits.
    pub(super) fn put_back(&mut self, limit: u32) {
        for ((transmits, length, id), entry) in self.taken.drain(..) {
            if transmits + 1 < limit {
                let rank = (transmits + 1, length, id);
                if let Some(known) = self.ranks.get_mut(&entry.key) {
                    *known = rank;
                }
                self.bytes += entry.bytes.len();
                self.entries.insert(rank, entry);
            } else {
                self.ranks.remove(&entry.key);
            }
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
        let taken = queue.take(&mut free, 2, 127).cloned().collect();
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
        assert!(queue.take(&mut free, 2, 127).eq(["2"].iter()));
        let mut free = 100;
        assert!(queue.take(&mut free, 2, 127).eq(["1"].iter()));
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
