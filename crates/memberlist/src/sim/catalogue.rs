//! A tiny application on top of the gossip: records of which the newest of a key wins. Enough to
//! ask whether what one host says reaches all others. A damaged record is recognised and ignored,
//! as a decoder of real records would.

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::Bytes;

use super::application::Application;
use crate::node::{Event, Member, Node, StreamRequest};

/// Newest record of each key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Catalogue {
    records: BTreeMap<String, u64>,
}

impl Catalogue {
    /// One record as bytes. `padding` makes it longer.
    pub(super) fn record(key: &str, stamp: u64, padding: usize) -> Bytes {
        let mut text = format!("{key} {stamp} {}", "x".repeat(padding));
        let sum = crc32fast::hash(text.as_bytes());
        text.push_str(&format!(" {sum:08x}"));
        text.into()
    }

    /// Takes a record in. Its key if it was news.
    pub(super) fn merge(&mut self, bytes: &[u8]) -> Option<String> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (content, sum) = text.rsplit_once(' ')?;
        if sum != format!("{:08x}", crc32fast::hash(content.as_bytes())) {
            return None;
        }
        let mut words = content.split(' ');
        let (key, stamp) = (words.next()?, words.next()?.parse().ok()?);
        let known = self.records.entry(key.to_owned()).or_default();
        if *known >= stamp {
            return None;
        }
        *known = stamp;
        Some(key.to_owned())
    }

    /// All of it, for a state exchange.
    pub(super) fn state(&self) -> Bytes {
        let lines: Vec<Bytes> = self
            .records
            .iter()
            .map(|(key, stamp)| Self::record(key, *stamp, 0))
            .collect();
        lines.join(&b'\n').into()
    }

    /// Takes a whole state in. The keys that were news.
    pub(super) fn merge_state(&mut self, state: &[u8]) -> Vec<(String, Bytes)> {
        state
            .split(|byte| *byte == b'\n')
            .filter_map(|line| Some((self.merge(line)?, Bytes::copy_from_slice(line))))
            .collect()
    }

    pub(super) fn stamp(&self, key: &str) -> Option<u64> {
        self.records.get(key).copied()
    }
}

impl Application for Catalogue {
    /// Passes on what is news.
    fn handle_event(&mut self, _now: Instant, event: Event, node: &mut Node) -> Vec<StreamRequest> {
        let news: Vec<(String, Bytes)> = match event {
            Event::Message(bytes) => self
                .merge(&bytes)
                .map(|key| (key, bytes))
                .into_iter()
                .collect(),
            Event::RemoteState { state, .. } => self.merge_state(&state),
            _ => Vec::new(),
        };
        for (key, record) in news {
            node.broadcast(Some(key), record);
        }
        Vec::new()
    }

    fn opening(&self, _now: Instant, _peer: Option<&Member>, _join: bool) -> Bytes {
        self.state()
    }

    fn reply(&self, _now: Instant, _theirs: &Bytes, _join: bool) -> Bytes {
        self.state()
    }

    fn restarted(&self, _now: Instant) -> Self {
        Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_wins_and_damage_is_noticed() {
        let mut catalogue = Catalogue::default();
        let new = Catalogue::record("a", 2, 3);
        assert_eq!(catalogue.merge(&new).as_deref(), Some("a"));
        assert_eq!(catalogue.merge(&new), None);
        assert_eq!(catalogue.merge(&Catalogue::record("a", 1, 0)), None);
        let mut damaged = Catalogue::record("a", 3, 0).to_vec();
        damaged[2] = b'9';
        assert_eq!(catalogue.merge(&damaged), None);
        let mut other = Catalogue::default();
        assert_eq!(other.merge_state(&catalogue.state()).len(), 1);
        assert_eq!(other, catalogue);
    }
}
