//! How two of our agents bring their catalogs together: a few bytes when they agree, and only what
//! differs when they do not. Pure: bytes and snapshots go in, bytes come out.
//!
//! ```text
//! A → B  root      one number over all live records, and one over the table of members
//!                  (opening of a state exchange)
//! B → A  same                                              (its reply: that was all)
//!    or  digest    a number for each of 1,024 buckets
//! A → B  offer     the buckets that differ, and A's live records in them
//! B → A  answer    B's records of those buckets that A lacks or has older
//! A → B  answer    what of that A knows better
//! ```
//!
//! Where many buckets differ, as for a newcomer or after a partition, the records in them would be
//! nearly all there are. Then hosts are compared first:
//!
//! ```text
//! A → B  outline   a number for what A holds of each host, dead or alive
//! B → A  want      the hosts of which A holds something else or more
//!        answer    B's live records of hosts of which it holds something else or more
//! A → B  answer    those that B wants; and, as above, what of B's answer A knows better
//! ```
//!
//! Offers and answers travel as messages by stream, in pieces. Whoever receives a record that it can
//! beat sends its own back, tombstones included; so a host that slept cannot raise the dead. Each
//! step is a use of the ordinary merge: a message that is lost, doubled or late does no harm, and
//! the next exchange begins anew.
//!
//! When both tables of members are the same, too, nobody shows it. When they are not, the reply says
//! so, and A follows with one full exchange, in which tables are shown and not compared.
//!
//! Each message begins with who sends it and what its wall clock shows, uncorrected: so both sides
//! learn how far their clocks are apart. What a message needs on its way is too little to matter.
//!
//! Who joins by an address does not know of what kind the other side is. It shows its whole state as
//! JSON, as in every exchange with a Go Sidecar, and in a field that those ignore a root. Another agent
//! of ours replies to that, so that seeds need not send all they know to everyone who starts.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use catalog::{
    BUCKETS_BYTES, Buckets, Comparison, Digest, OUTLINE_HOST_BYTES, Outline, Service, Snapshot,
    Timestamp, bucket_of, json,
};
use data_encoding::BASE64;
use memberlist::STREAM_USER_BYTES_MAX;

/// First byte of ours: neither JSON nor a message of Serf, which numbers its kinds from 0, begins with
/// it.
pub(super) const MAGIC: u8 = 0xd1;
const ROOT: u8 = b'R';
const SAME: u8 = b'S';
const DIGEST: u8 = b'D';
const OFFER: u8 = b'O';
const ANSWER: u8 = b'A';
const OUTLINE: u8 = b'H';
const WANT: u8 = b'W';
const CONFIRM: u8 = b'C';
const CONFIRMED: u8 = b'K';

/// Buckets in which an exchange finds a difference that is more than the changes of the moment.
pub const MUCH: usize = 8;

/// Where a root stands in a state as JSON.
const GREETING: &str = ",\"Exchange\":\"";

/// Records in a greeting, about 1 MB, unless they are all our own.
const GREETING_MAX: usize = 4096;

/// Hosts in an outline, at most: a message of half the bytes that travel by stream.
const OUTLINE_MAX: usize = STREAM_USER_BYTES_MAX / 2 / OUTLINE_HOST_BYTES;

/// Bytes of records in one message; half of what travels by stream.
const PIECE_BYTES: usize = 512 * 1024;
/// What a message holds beside its records, at most.
const OVERHEAD_BYTES: usize = 1024;
/// What is sent in answer to one message at most; the rest comes with the next exchange.
const PIECES_MAX: usize = 64;

/// Who says something, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Name of the sender.
    pub from: String,
    /// Its own wall clock, as it is: to the microsecond, and whatever year it shows.
    pub clock: Timestamp,
}

/// How two tables of members compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Members {
    /// They are the same.
    Same = 0,
    /// They are not.
    Differ = 1,
    /// Nobody knows, as both are shown and merged.
    Shown = 2,
}

/// What an agent says to another in an exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// All that the sender knows, in one number or two.
    Root {
        /// All live records.
        records: u64,
        /// The table of members, when the sender does not show it.
        members: Option<u64>,
    },
    /// The records of the one who was asked are the same.
    Same {
        /// How its table of members compares.
        members: Members,
    },
    /// The buckets of the one who was asked.
    Digest {
        /// How its table of members compares.
        members: Members,
        /// What it knows.
        digest: Box<Digest>,
    },
    /// Records of the buckets that differ.
    Offer {
        /// The buckets this is about.
        buckets: Buckets,
        /// The sender's live records in them, as JSON.
        records: Bytes,
    },
    /// Records that the receiver lacks or has older.
    Answer {
        /// As JSON.
        records: Bytes,
    },
    /// What the sender holds of each host.
    Outline(Outline),
    /// Records of these hosts, by their numbers in outlines, are asked for.
    Want(Vec<u64>),
    /// The receiver is asked whether it routes by this record; see [`super::confirm`].
    Confirm {
        /// Of the sender's choice.
        number: u64,
        /// As JSON, in a list.
        record: Bytes,
    },
    /// It does.
    Confirmed {
        /// Of the question.
        number: u64,
    },
}

/// Why a message of an exchange was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message of an exchange that cannot be read: {what}")]
pub struct Unreadable {
    what: &'static str,
}

impl Message {
    /// Whether these bytes are such a message and not JSON.
    pub fn is(bytes: &[u8]) -> bool {
        bytes.first() == Some(&MAGIC)
    }

    /// As it travels.
    pub fn encode(&self, head: &Head) -> Bytes {
        let kind = match self {
            Self::Root { .. } => ROOT,
            Self::Same { .. } => SAME,
            Self::Digest { .. } => DIGEST,
            Self::Offer { .. } => OFFER,
            Self::Answer { .. } => ANSWER,
            Self::Outline(_) => OUTLINE,
            Self::Want(_) => WANT,
            Self::Confirm { .. } => CONFIRM,
            Self::Confirmed { .. } => CONFIRMED,
        };
        let mut out = vec![MAGIC, kind];
        head.write(&mut out);
        match self {
            Self::Root { records, members } => {
                out.extend(records.to_le_bytes());
                out.extend(members.iter().flat_map(|members| members.to_le_bytes()));
            }
            Self::Same { members } => out.push(*members as u8),
            Self::Digest { members, digest } => {
                out.push(*members as u8);
                out.extend(digest.to_bytes());
            }
            Self::Offer { buckets, records } => {
                out.extend(buckets.to_bytes());
                out.extend_from_slice(records);
            }
            Self::Answer { records } => out.extend_from_slice(records),
            Self::Outline(outline) => out.extend(outline.to_bytes()),
            Self::Want(hosts) => out.extend(hosts.iter().flat_map(|host| host.to_le_bytes())),
            Self::Confirm { number, record } => {
                out.extend(number.to_le_bytes());
                out.extend_from_slice(record);
            }
            Self::Confirmed { number } => out.extend(number.to_le_bytes()),
        }
        out.into()
    }

    /// Reads one. Whether the records in it can be read is seen later.
    ///
    /// # Errors
    /// It is cut off, too long, or of no known kind.
    pub fn decode(bytes: &Bytes) -> Result<(Head, Self), Unreadable> {
        let unreadable = |what| Unreadable { what };
        let rest = match bytes.get(..2) {
            Some(&[MAGIC, _]) => bytes.slice(2..),
            _ => return Err(unreadable("no head")),
        };
        let (head, rest) = Head::read(&rest).ok_or_else(|| unreadable("head"))?;
        let message = match bytes[1] {
            ROOT => {
                let (records, rest) = read_number(&rest).ok_or_else(|| unreadable("root"))?;
                let members = match rest {
                    [] => None,
                    rest => match read_number(rest) {
                        Some((members, [])) => Some(members),
                        _ => return Err(unreadable("root of members")),
                    },
                };
                Self::Root { records, members }
            }
            SAME => match read_members(&rest) {
                Some((members, rest)) if rest.is_empty() => Self::Same { members },
                _ => return Err(unreadable("members")),
            },
            DIGEST => {
                let (members, rest) = read_members(&rest).ok_or_else(|| unreadable("members"))?;
                let digest = Digest::from_bytes(&rest).ok_or_else(|| unreadable("digest"))?;
                Self::Digest {
                    members,
                    digest: Box::new(digest),
                }
            }
            OFFER => {
                let buckets = rest.get(..BUCKETS_BYTES).and_then(Buckets::from_bytes);
                let buckets = buckets.ok_or_else(|| unreadable("buckets"))?;
                let records = rest.slice(BUCKETS_BYTES..);
                Self::Offer { buckets, records }
            }
            ANSWER => Self::Answer { records: rest },
            OUTLINE => {
                let outline = Outline::from_bytes(&rest);
                Self::Outline(outline.ok_or_else(|| unreadable("outline"))?)
            }
            WANT => match rest.as_chunks() {
                (hosts, []) => Self::Want(hosts.iter().copied().map(u64::from_le_bytes).collect()),
                _ => return Err(unreadable("hosts")),
            },
            CONFIRM => match read_number(&rest) {
                Some((number, record)) => Self::Confirm {
                    number,
                    record: rest.slice_ref(record),
                },
                None => return Err(unreadable("number")),
            },
            CONFIRMED => match read_number(&rest) {
                Some((number, [])) => Self::Confirmed { number },
                _ => return Err(unreadable("number")),
            },
            _ => return Err(unreadable("kind")),
        };
        Ok((head, message))
    }
}

impl Head {
    /// Of the host that made this snapshot.
    pub fn of(ours: &Snapshot, clock: Timestamp) -> Self {
        let from = ours.hostname.to_string();
        Self { from, clock }
    }

    fn write(&self, out: &mut Vec<u8>) {
        write_name(out, &self.from);
        let micros = self.clock.as_unix_nanos().div_euclid(1000);
        // Ten thousand years take less than half of it.
        let micros = i64::try_from(micros).unwrap_or(i64::MAX);
        out.extend(micros.to_le_bytes());
    }

    fn read(bytes: &Bytes) -> Option<(Self, Bytes)> {
        let (from, rest) = read_name(bytes)?;
        let (micros, _) = rest.split_first_chunk::<8>()?;
        let clock = Timestamp::from_unix_nanos(i128::from(i64::from_le_bytes(*micros)) * 1000);
        // The end of the calendar, where clocks beyond it stand, is no whole microsecond.
        let micros = clock.as_unix_nanos().div_euclid(1000);
        let clock = Timestamp::from_unix_nanos(micros * 1000);
        Some((Self { from, clock }, rest.slice(8..)))
    }
}

fn write_name(out: &mut Vec<u8>, name: &str) {
    // Names in gossip have at most 255 bytes.
    let name = &name.as_bytes()[..name.len().min(255)];
    out.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
    out.extend_from_slice(name);
}

fn read_name(bytes: &Bytes) -> Option<(String, Bytes)> {
    let length = usize::from(*bytes.first()?);
    let name = bytes.get(1..1 + length)?;
    let name = std::str::from_utf8(name).ok()?.to_owned();
    Some((name, bytes.slice(1 + length..)))
}

fn read_number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((u64::from_le_bytes(*number), rest))
}

fn read_members(bytes: &Bytes) -> Option<(Members, Bytes)> {
    let all = [Members::Same, Members::Differ, Members::Shown];
    let members = all.get(usize::from(*bytes.first()?))?;
    Some((*members, bytes.slice(1..)))
}

/// What to say first to another of our agents, when our own wall clock shows `clock`. `members` is
/// the digest of our table of members when it is not shown.
pub fn opening(ours: &Snapshot, clock: Timestamp, members: Option<u64>) -> Bytes {
    let records = ours.digest.root();
    Message::Root { records, members }.encode(&Head::of(ours, clock))
}

/// What to say first to somebody of whose kind nothing is known. Who knows much leaves out what others
/// can tell as well: should it be a Go Sidecar, it gets the rest when it is a member, as soon as
/// somebody exchanges states with it.
pub fn greeting(ours: &Snapshot, clock: Timestamp) -> Bytes {
    let held: usize = ours.hosts.values().map(|host| host.services().len()).sum();
    let mut state = if held <= GREETING_MAX {
        json::encode_replica(ours)
    } else {
        let mut own = Snapshot::empty(&ours.hostname, &ours.cluster_name);
        let host = ours.hosts.get_key_value(&ours.hostname);
        if let Some((name, host)) = host {
            own.hosts.insert_mut(name.clone(), host.clone());
        }
        json::encode_replica(&own)
    };
    if state.pop() == Some('}') {
        state.push_str(GREETING);
        BASE64.encode_append(&opening(ours, clock, None), &mut state);
        state.push('"');
    }
    state.push('}');
    state.into()
}

/// The root in a greeting. It stands at the end, so that the state need not be read for it.
fn greeted(state: &[u8]) -> Option<Bytes> {
    let state = state.strip_suffix(b"\"}")?;
    let length = state.iter().rev().position(|byte| *byte == b'"')?;
    let (before, root) = state.split_at(state.len() - length);
    let root = before.ends_with(GREETING.as_bytes()).then_some(root)?;
    Some(BASE64.decode(root).ok()?.into())
}

/// What to reply to `theirs`, how another member opens, when tables of members are shown.
pub fn reply(ours: &Snapshot, theirs: &Bytes, clock: Timestamp) -> Bytes {
    let greeted = greeted(theirs);
    let theirs = greeted.as_ref().unwrap_or(theirs);
    if !Message::is(theirs) {
        return json::encode_replica(ours).into();
    }
    let same = match Message::decode(theirs) {
        Ok((_, Message::Root { records, .. })) => records == ours.digest.root(),
        _ => false,
    };
    answer_root(ours, same, Members::Shown, clock)
}

/// The same when they are not, as long as that is how `theirs` opens. `members` is the digest of our
/// table.
pub fn brief_reply(
    ours: &Snapshot,
    theirs: &Bytes,
    clock: Timestamp,
    members: u64,
) -> Option<Bytes> {
    let (_, theirs) = Message::decode(theirs).ok()?;
    let Message::Root {
        records,
        members: Some(their_members),
    } = theirs
    else {
        return None;
    };
    let same = records == ours.digest.root();
    let members = if their_members == members {
        Members::Same
    } else {
        Members::Differ
    };
    Some(answer_root(ours, same, members, clock))
}

fn answer_root(ours: &Snapshot, same: bool, members: Members, clock: Timestamp) -> Bytes {
    let message = if same {
        Message::Same { members }
    } else {
        Message::Digest {
            members,
            digest: Box::new(Digest::clone(&ours.digest)),
        }
    };
    message.encode(&Head::of(ours, clock))
}

/// What to send to somebody whose digest differs from ours in these buckets.
pub fn differing(ours: &Snapshot, buckets: &Buckets, clock: Timestamp) -> Vec<Bytes> {
    if buckets.len() <= MUCH || ours.hosts.size() > OUTLINE_MAX {
        return offers(ours, buckets, clock);
    }
    vec![Message::Outline(ours.outline()).encode(&Head::of(ours, clock))]
}

/// What to send to somebody with this outline.
pub fn compared(ours: &Snapshot, theirs: &Outline, clock: Timestamp) -> Vec<Bytes> {
    let Comparison {
        offered,
        mut wanted,
    } = ours.compare(theirs);
    wanted.truncate(STREAM_USER_BYTES_MAX / 2 / size_of::<u64>());
    let head = Head::of(ours, clock);
    let want = (!wanted.is_empty()).then(|| Message::Want(wanted).encode(&head));
    want.into_iter().chain(answers(&head, &offered)).collect()
}

/// What to send to somebody who wants the records of these hosts.
pub fn wanted(ours: &Snapshot, hosts: Vec<u64>, clock: Timestamp) -> Vec<Bytes> {
    answers(&Head::of(ours, clock), ours.records_of_hosts(hosts))
}

/// Our records in these buckets.
fn offers(ours: &Snapshot, differing: &Buckets, clock: Timestamp) -> Vec<Bytes> {
    let mut by_bucket: BTreeMap<usize, Vec<&Arc<Service>>> = differing
        .iter()
        .map(|bucket| (bucket, Vec::new()))
        .collect();
    let records = ours.records_in(differing);
    for record in records.filter(|record| !record.is_tombstone()) {
        by_bucket.entry(bucket_of(record)).or_default().push(record);
    }
    let mut offers = Vec::new();
    let mut piece = Piece::default();
    let mut buckets = Buckets::default();
    let head = Head::of(ours, clock);
    let mut close = |buckets: &mut Buckets, piece: &mut Piece| {
        let message = Message::Offer {
            buckets: std::mem::take(buckets),
            records: piece.take(),
        };
        offers.push(message.encode(&head));
    };
    for (bucket, records) in by_bucket {
        buckets.insert(bucket);
        for record in records {
            // A bucket too large for one message is cut; what is missing is offered by nobody who
            // lacks it, and comes with their next exchange.
            piece.push(record);
        }
        if piece.is_full() {
            close(&mut buckets, &mut piece);
        }
    }
    if !buckets.is_empty() {
        close(&mut buckets, &mut piece);
    }
    offers.truncate(PIECES_MAX);
    offers
}

/// Records as answers of a bounded size each.
pub fn answers<'a>(head: &Head, records: impl IntoIterator<Item = &'a Arc<Service>>) -> Vec<Bytes> {
    let mut answers = Vec::new();
    let mut piece = Piece::default();
    let close = |piece: &mut Piece| {
        let records = piece.take();
        Message::Answer { records }.encode(head)
    };
    for record in records {
        if !piece.push(record) && !piece.is_empty() {
            answers.push(close(&mut piece));
            piece.push(record);
        }
        if piece.is_full() {
            answers.push(close(&mut piece));
        }
    }
    if !piece.is_empty() {
        answers.push(close(&mut piece));
    }
    answers.truncate(PIECES_MAX);
    answers
}

/// The question whether somebody routes by this record.
pub fn confirm(head: &Head, number: u64, record: &Service) -> Bytes {
    let mut piece = Piece::default();
    piece.push(record);
    let record = piece.take();
    Message::Confirm { number, record }.encode(head)
}

/// A JSON list of records while it is written.
#[derive(Debug, Default)]
struct Piece {
    text: String,
}

impl Piece {
    /// False when a message cannot take this record, too.
    fn push(&mut self, record: &Service) -> bool {
        let record = json::encode_service(record);
        let fits = self.text.len() + record.len() + OVERHEAD_BYTES <= STREAM_USER_BYTES_MAX;
        if fits {
            self.text.push(if self.text.is_empty() { '[' } else { ',' });
            self.text.push_str(&record);
        }
        fits
    }

    fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Whether the next record should go into another message.
    fn is_full(&self) -> bool {
        self.text.len() >= PIECE_BYTES
    }

    fn take(&mut self) -> Bytes {
        let mut text = std::mem::take(&mut self.text);
        text.push_str(if text.is_empty() { "[]" } else { "]" });
        text.into()
    }
}

#[cfg(test)]
mod tests;
