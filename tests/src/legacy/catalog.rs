//! The catalogue of Go Sidecar: its records, how it merges them, what it announces and when.
//!
//! Written from the behaviour of that program, not from ours. Where its own loops race, the better
//! outcome is taken: what changes is announced as a change.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use super::{Timing, stamp};

/// Longest record that fits a datagram of Go's; a longer one blocks those behind it.
const RECORD_BYTES_MAX: usize = 1395;
/// Later copies of one announcement are so much newer, that peers pass them on too.
const STEP: i128 = 50;
const CHANGE_REPEATS: u32 = 5;
const TOMBSTONE_REPEATS: u32 = 10;
/// Older records are dropped.
const STALE: Duration = Duration::from_secs(3 * 3600 + 60);
const DRAINING_LIFESPAN: Duration = Duration::from_secs(600);

const ALIVE: i64 = 0;
const TOMBSTONE: i64 = 1;
const DRAINING: i64 = 4;

/// A port of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct LegacyPort {
    /// `tcp` or `udp`.
    #[serde(rename = "Type")]
    pub kind: String,
    /// The real port.
    pub port: i64,
    /// The port of the service, 0 for none.
    pub service_port: i64,
    /// Where it is reached.
    #[serde(rename = "IP")]
    pub ip: String,
}

/// A record as Go encodes it: these keys in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
#[expect(missing_docs, reason = "the words of the wire format")]
pub struct LegacyRecord {
    #[serde(rename = "ID")]
    pub id: String,
    pub name: String,
    pub image: String,
    pub created: String,
    pub hostname: String,
    pub ports: Option<Vec<LegacyPort>>,
    pub updated: String,
    pub proxy_mode: String,
    pub status: i64,
}

impl LegacyRecord {
    /// As Go's decoder and its users take it.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() > RECORD_BYTES_MAX {
            return Err(format!("a record of {} bytes", bytes.len()));
        }
        let record: Self = serde_json::from_slice(bytes)
            .map_err(|error| format!("{error}: {}", String::from_utf8_lossy(bytes)))?;
        record.check()?;
        Ok(record)
    }

    fn check(&self) -> Result<(), String> {
        let empty = [&self.id, &self.name, &self.hostname]
            .iter()
            .any(|text| text.is_empty());
        if empty || !(0..=4).contains(&self.status) {
            return Err(format!("no record of Go's: {self:?}"));
        }
        stamp::parse(&self.created)?;
        stamp::parse(&self.updated).map(drop)
    }

    fn stamp(&self) -> i128 {
        stamp::parse(&self.updated).expect("checked when it came")
    }

    fn at(mut self, nanos: i128) -> Self {
        self.updated = stamp::format(nanos);
        self
    }

    fn encode(&self) -> Vec<u8> {
        escaped(&serde_json::to_string(self).expect("a record is JSON")).into_bytes()
    }
}

/// Go escapes these wherever they stand, and they stand only in strings.
fn escaped(json: &str) -> String {
    json.replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
}

/// The part of a state that one host has. Keys in the order of Go's.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Server {
    name: String,
    services: BTreeMap<String, LegacyRecord>,
    last_updated: String,
    last_changed: String,
}

/// The state of a node, as members exchange it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Document {
    servers: BTreeMap<String, Server>,
    last_changed: String,
    cluster_name: String,
    hostname: String,
}

/// One record in one repetition of an announcement.
struct Send {
    at: Instant,
    record: LegacyRecord,
    twice: bool,
}

/// The catalogue of one node.
pub(super) struct Catalog {
    host: String,
    cluster: String,
    timing: Timing,
    /// What discovery finds here, with its health.
    local: BTreeMap<String, LegacyRecord>,
    records: BTreeMap<(String, String), LegacyRecord>,
    sends: Vec<Send>,
    /// Waits for the gossip layer, which keeps no copy of what it took.
    outbox: Vec<Vec<u8>>,
    next_look: Instant,
    announced: Instant,
}

impl Catalog {
    pub(super) fn new(host: &str, cluster: &str, timing: Timing, now: Instant) -> Self {
        Self {
            host: host.to_owned(),
            cluster: cluster.to_owned(),
            timing,
            local: BTreeMap::new(),
            records: BTreeMap::new(),
            sends: Vec::new(),
            outbox: Vec::new(),
            next_look: now,
            announced: now,
        }
    }

    /// Discovery and health: an instance is here, like this.
    pub(super) fn offer(&mut self, record: LegacyRecord) {
        self.local.insert(record.id.clone(), record);
    }

    /// Discovery: an instance is here no longer.
    pub(super) fn withdraw(&mut self, id: &str) {
        self.local.remove(id);
    }

    pub(super) fn records(&self) -> impl Iterator<Item = &LegacyRecord> {
        self.records.values()
    }

    /// Records for the gossip layer, newest batch first.
    pub(super) fn take_outbox(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.outbox)
    }

    /// A record from a peer: the newer stamp wins, what is news is passed on once.
    pub(super) fn merge(&mut self, mut record: LegacyRecord) {
        if record.stamp() < nanos_now() - STALE.as_nanos() as i128 {
            self.records.remove(&(record.hostname, record.id));
            return;
        }
        let key = (record.hostname.clone(), record.id.clone());
        if let Some(held) = self.records.get(&key) {
            if record.stamp() <= held.stamp() {
                return;
            }
            if held.status == DRAINING && record.status == ALIVE {
                record.status = DRAINING;
            }
        }
        if record.hostname != self.host {
            self.outbox.push(record.encode());
        }
        self.records.insert(key, record);
    }

    /// The state of a peer.
    pub(super) fn merge_state(&mut self, bytes: &[u8]) -> Result<(), String> {
        let shown = || String::from_utf8_lossy(bytes).into_owned();
        let document: Document =
            serde_json::from_slice(bytes).map_err(|error| format!("{error}: {}", shown()))?;
        stamp::parse(&document.last_changed)?;
        for (host, server) in document.servers {
            stamp::parse(&server.last_updated)?;
            stamp::parse(&server.last_changed)?;
            if server.name != host {
                return Err(format!("server {:?} under {host:?}", server.name));
            }
            for (id, record) in server.services {
                record.check()?;
                if record.id != id || record.hostname != host {
                    return Err(format!("{record:?} under {host:?} and {id:?}"));
                }
                self.merge(record);
            }
        }
        Ok(())
    }

    /// The state for a peer.
    pub(super) fn state(&self) -> Vec<u8> {
        let mut servers = BTreeMap::new();
        let mut newest = 0;
        for record in self.records.values() {
            let host = &record.hostname;
            let server = servers.entry(host.clone()).or_insert_with(|| Server {
                name: host.clone(),
                services: BTreeMap::new(),
                last_updated: stamp::format(0),
                last_changed: stamp::format(0),
            });
            server.last_updated = server.last_updated.clone().max(record.updated.clone());
            server.last_changed = server.last_updated.clone();
            server.services.insert(record.id.clone(), record.clone());
            newest = newest.max(record.stamp());
        }
        let document = Document {
            servers,
            last_changed: stamp::format(newest),
            cluster_name: self.cluster.clone(),
            hostname: self.host.clone(),
        };
        escaped(&serde_json::to_string(&document).expect("a state is JSON")).into_bytes()
    }

    /// Gossip says that a node is dead or left: every survivor buries its records.
    pub(super) fn node_left(&mut self, node: &str, now: Instant) {
        let of_node = |record: &&mut LegacyRecord| record.hostname == node;
        let living = self
            .records
            .values_mut()
            .filter(of_node)
            .any(|record| record.status != TOMBSTONE);
        if !living {
            return;
        }
        let mut buried = Vec::new();
        for record in self.records.values_mut().filter(of_node) {
            record.status = TOMBSTONE;
            record.updated = stamp::format(nanos_now());
            buried.push(record.clone());
        }
        self.repeat(buried, TOMBSTONE_REPEATS, false, now);
    }

    /// The loops of the program: what is found here, what is announced, what expires.
    pub(super) fn tick(&mut self, now: Instant) {
        let due = |send: &Send| send.at <= now;
        let (mut sending, waiting): (Vec<Send>, Vec<Send>) =
            std::mem::take(&mut self.sends).into_iter().partition(due);
        self.sends = waiting;
        sending.sort_by_key(|send| send.at);
        for send in sending {
            for _ in 0..=u8::from(send.twice) {
                self.outbox.push(send.record.encode());
            }
        }
        if now < self.next_look {
            return;
        }
        self.next_look = now + self.timing.second;
        self.announce(now);
        self.bury(now);
    }

    fn announce(&mut self, now: Instant) {
        let stamp = nanos_now();
        let is_news = |record: &LegacyRecord| {
            let key = (self.host.clone(), record.id.clone());
            let held = self.records.get(&key);
            held.is_none_or(|held| held.status != record.status)
        };
        let found: Vec<LegacyRecord> = self
            .local
            .values()
            .map(|record| record.clone().at(stamp))
            .collect();
        let (news, known): (Vec<_>, Vec<_>) = found
            .clone()
            .into_iter()
            .partition(|record| is_news(record));
        let refresh = now >= self.announced + self.timing.refresh && !known.is_empty();
        let repeats = if news.is_empty() { 1 } else { CHANGE_REPEATS };
        let mut announced = news;
        if refresh {
            announced.extend(known);
        }
        if !announced.is_empty() {
            self.announced = now;
            self.repeat(announced, repeats, false, now);
        }
        for record in found {
            self.merge(record);
        }
    }

    fn bury(&mut self, now: Instant) {
        let stamp = nanos_now();
        let found: BTreeSet<&String> = self.local.keys().collect();
        let (mut gone, mut expired) = (Vec::new(), Vec::new());
        for record in self.records.values_mut() {
            if record.status == TOMBSTONE {
                continue;
            }
            let lifespan = match record.status {
                DRAINING => DRAINING_LIFESPAN,
                _ => self.timing.lifespan,
            };
            if record.hostname == self.host && !found.contains(&record.id) {
                record.status = TOMBSTONE;
                record.updated = stamp::format(stamp);
                gone.push(record.clone());
            } else if record.stamp() + (lifespan.as_nanos() as i128) < stamp {
                record.status = TOMBSTONE;
                // A newer record that was missed still wins.
                record.updated = stamp::format(record.stamp() + 1_000_000_000);
                expired.push(record.clone());
            }
        }
        self.repeat(gone, TOMBSTONE_REPEATS, true, now);
        self.repeat(expired, TOMBSTONE_REPEATS, false, now);
    }

    fn repeat(&mut self, records: Vec<LegacyRecord>, times: u32, twice: bool, now: Instant) {
        for record in records {
            for time in 0..times {
                let stamp = record.stamp() + i128::from(time) * STEP;
                self.sends.push(Send {
                    at: now + self.timing.second * (time + 1),
                    record: record.clone().at(stamp),
                    twice,
                });
            }
        }
    }
}

pub(super) fn nanos_now() -> i128 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("the clock is past 1970").as_nanos() as i128
}
