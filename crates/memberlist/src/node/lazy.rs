//! Lazy push: members that understand it are told in gossip rounds which messages of the application
//! there are, four bytes each, and ask for those they have not seen. Their contents travel eagerly,
//! to a few members at first sight; whoever that misses fetches them once, where the original sends
//! everything to everyone again and again. After "Epidemic Broadcast Trees" (Leitão, Pereira,
//! Rodrigues 2007), without the trees.
//!
//! | user message | bytes |
//! | --- | --- |
//! | *have* | `d2 48`, then the numbers of messages |
//! | *want* | `d2 57`, then the numbers of those that are missing |
//!
//! The number of a message is the CRC-32 of its content, little-endian. An accidental twin is a
//! message that one host misses and gets with its next state exchange.
//!
//! Messages seen lately are recognised and not handed to the application again.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::gossip::{COMPOUND_BYTES, PART_BYTES, Target, USER_TYPE_BYTES};
use super::table::Entry;
use super::timers::Timer;
use super::{Event, Node, StreamRequest};
use crate::wire::encode_message;
use crate::wire::message::Message;

/// First byte of ours: no JSON begins with it, nor a message of Serf, which numbers its kinds from 0.
const MAGIC: u8 = 0xd2;
const HAVE: u8 = b'H';
const WANT: u8 = b'W';
const HEAD_BYTES: usize = 2;
const NUMBER_BYTES: usize = size_of::<u32>();

/// Rounds in which a message is told, to a few members each, and told anew when somebody lacked it.
/// All who have it tell it: with twelve rounds each hears of it three dozen times, which is enough
/// for the last of thousands where a third of all datagrams is lost.
const ROUNDS_MAX: u32 = 12;

/// Messages told in one round, at most.
const TOLD_MAX: usize = 2048;

/// How long a message is remembered as seen, at least and at most twice. Longer than it is told.
const SEEN_FOR: Duration = Duration::from_secs(5);
/// Messages remembered in one such time; more, and the oldest are forgotten sooner.
const SEEN_MAX: usize = 16_384;

/// Members that may ask, being the last we told something.
const TOLD_MEMBERS_MAX: usize = 32;

/// Messages we wait for after asking, at most; more are asked for when they are told again.
const WANTED_MAX: usize = 4096;

/// Times a message is asked for before a state exchange is.
const ASKED_MAX: u8 = 6;

/// Least time between state exchanges asked for instead of messages.
const GIVE_UP_PAUSE: Duration = Duration::from_secs(1);

/// A message we lack.
#[derive(Debug, Clone, Copy)]
struct Asked {
    /// The last time.
    at: Instant,
    of: SocketAddr,
    times: u8,
}

/// What is known of messages that came and went.
#[derive(Debug, Default)]
pub(super) struct Lazy {
    /// Seen in the present span of time, and in the one before.
    seen: [HashSet<u32>; 2],
    /// When the present span began.
    since: Option<Instant>,
    wanted: BTreeMap<u32, Asked>,
    /// When an exchange was asked for instead of messages.
    given_up: Option<Instant>,
    told: VecDeque<SocketAddr>,
    /// Bytes sent to those who asked, since the last round.
    pub(super) answered: usize,
    /// Whether all live members understand, as of this version of the table.
    all: Option<(u64, bool)>,
}

impl Lazy {
    /// Whether messages were asked for that have not come.
    pub(super) fn is_waiting(&self) -> bool {
        !self.wanted.is_empty()
    }

    fn has_seen(&self, number: u32) -> bool {
        self.seen.iter().any(|span| span.contains(&number))
    }

    /// Messages remembered as seen.
    #[cfg(test)]
    pub(super) fn seen_len(&self) -> usize {
        self.seen.iter().map(HashSet::len).sum()
    }

    fn see(&mut self, now: Instant, number: u32) {
        let since = *self.since.get_or_insert(now);
        let old = now.saturating_duration_since(since) >= SEEN_FOR;
        if old || self.seen[0].len() >= SEEN_MAX {
            self.seen.swap(0, 1);
            self.seen[0].clear();
            self.since = Some(now);
        }
        self.seen[0].insert(number);
        self.wanted.remove(&number);
    }
}

/// The number by which a message is known.
pub(super) fn number(content: &[u8]) -> u32 {
    crc32fast::hash(content)
}

/// Whether these are numbers of messages, and not a message of the application.
fn numbers(content: &[u8]) -> Option<(u8, impl Iterator<Item = u32>)> {
    match content {
        [MAGIC, kind @ (HAVE | WANT), numbers @ ..] => {
            let (numbers, _) = numbers.as_chunks::<NUMBER_BYTES>();
            Some((*kind, numbers.iter().copied().map(u32::from_le_bytes)))
        }
        _ => None,
    }
}

impl Node {
    /// Whether lazy push is on at all.
    pub(super) fn is_lazy(&self) -> bool {
        self.config.lazy_push.is_some()
    }

    /// Whether this member understands it.
    pub(super) fn understands(&self, entry: &Entry) -> bool {
        // Most carry the same metadata as we do.
        self.config
            .lazy_push
            .is_some_and(|understands| entry.meta == self.config.meta || understands(&entry.meta))
    }

    /// Whether all live members understand it.
    pub(super) fn all_understand(&mut self) -> bool {
        if !self.is_lazy() {
            return false;
        }
        match self.lazy.all {
            Some((version, all)) if version == self.members_version => all,
            _ => {
                let mut live = self.table.iter().filter(|entry| entry.is_live());
                let all = live.all(|entry| self.understands(entry));
                self.lazy.all = Some((self.members_version, all));
                all
            }
        }
    }

    /// A message of our application need not come back to it.
    pub(super) fn note_seen(&mut self, number: u32) {
        if self.is_lazy() {
            self.lazy.see(self.clock, number);
        }
    }

    /// A user message has come: hands it to the application, unless it belongs to lazy push or was
    /// seen lately.
    pub(super) fn deliver(&mut self, now: Instant, from: SocketAddr, content: &[u8]) {
        if self.is_lazy() {
            match numbers(content) {
                Some((HAVE, told)) => return self.ask_for_missing(now, from, told),
                Some((_, wanted)) => return self.answer_wanted(from, wanted.collect()),
                None => {}
            }
            let number = number(content);
            if self.lazy.has_seen(number) {
                self.counters.messages_repeated += 1;
                return;
            }
            self.lazy.see(now, number);
        }
        let content = Bytes::copy_from_slice(content);
        self.events.push_back(Event::Message(content));
    }

    /// Somebody tells what there is: asks for what we have not seen, unless we just did.
    fn ask_for_missing(&mut self, now: Instant, from: SocketAddr, told: impl Iterator<Item = u32>) {
        let patience = self.config.gossip_interval;
        let lazy = &mut self.lazy;
        let mut missing = Vec::new();
        for number in told {
            let asked = lazy.wanted.get(&number);
            let waiting =
                asked.is_some_and(|asked| now.saturating_duration_since(asked.at) < patience / 4);
            if !waiting && !lazy.has_seen(number) {
                missing.push(number);
            }
        }
        if lazy.wanted.len() + missing.len() > WANTED_MAX {
            let room = WANTED_MAX.saturating_sub(lazy.wanted.len());
            let known = |number: &u32| lazy.wanted.contains_key(number);
            let (mut asked, mut new): (Vec<u32>, Vec<u32>) = missing.into_iter().partition(known);
            new.truncate(room);
            asked.extend(new);
            missing = asked;
        }
        self.ask(now, from, &missing);
    }

    /// Asks `of` for messages, now and, should they not come, again.
    fn ask(&mut self, now: Instant, of: SocketAddr, missing: &[u32]) {
        if missing.is_empty() {
            return;
        }
        for &number in missing {
            let times = self.lazy.wanted.get(&number).map_or(0, |asked| asked.times);
            let times = times.saturating_add(1);
            self.lazy
                .wanted
                .insert(number, Asked { at: now, of, times });
        }
        if !self.timers.is_armed(&Timer::AskAgain) {
            let at = now + self.config.gossip_interval;
            self.timers.arm(Timer::AskAgain, at);
        }
        self.counters.messages_wanted += missing.len() as u64;
        for list in missing.chunks(self.numbers_max()) {
            let want = self.encode_numbers(WANT, list);
            self.send(of, &[want.into()], false);
        }
    }

    /// Asks again for what has not come: the question or the answer was lost, and nobody may tell of it
    /// any more. In the end a state exchange brings it. Only members are asked again, so that nobody
    /// can have us ask a stranger many times for the price of one datagram.
    pub(super) fn ask_again(&mut self, now: Instant) {
        let patience = self.config.gossip_interval;
        let mut late: BTreeMap<SocketAddr, Vec<u32>> = BTreeMap::new();
        let mut given_up = None;
        self.lazy.wanted.retain(|&number, asked| {
            if now.saturating_duration_since(asked.at) < patience {
                return true;
            }
            if asked.times >= ASKED_MAX {
                given_up = Some(asked.of);
                return false;
            }
            late.entry(asked.of).or_default().push(number);
            true
        });
        for (of, numbers) in late {
            if self.table.knows_addr(of) {
                self.counters.messages_wanted_again += numbers.len() as u64;
                self.ask(now, of, &numbers);
            } else {
                for number in numbers {
                    self.lazy.wanted.remove(&number);
                }
            }
        }
        if let Some(of) = given_up {
            self.exchange_instead(now, of);
        }
        if !self.lazy.wanted.is_empty() {
            self.timers.arm(Timer::AskAgain, now + patience);
        }
    }

    fn exchange_instead(&mut self, now: Instant, of: SocketAddr) {
        let lazy = &mut self.lazy;
        let asked_lately = lazy
            .given_up
            .is_some_and(|at| now.saturating_duration_since(at) < GIVE_UP_PAUSE);
        if asked_lately || !self.table.knows_addr(of) {
            return;
        }
        lazy.given_up = Some(now);
        self.counters.messages_given_up += 1;
        self.requests.push_back(StreamRequest::PushPull {
            to: of,
            join: false,
            full: false,
        });
    }

    /// Somebody we told asks for messages: sends those that are still queued, within the bytes that
    /// may leave at once, and tells them for longer, as others may lack them too.
    fn answer_wanted(&mut self, from: SocketAddr, wanted: HashSet<u32>) {
        if !self.lazy.told.contains(&from) {
            return;
        }
        let budget = self.config.eager_bytes_per_interval;
        let found = self.user.renew(&wanted);
        for content in found {
            let size = COMPOUND_BYTES + PART_BYTES + content.len();
            if self.lazy.answered + size > budget {
                break;
            }
            self.lazy.answered += size;
            self.counters.messages_fetched += 1;
            if self.packet.bytes() + size > self.packet_budget || !self.packet.push(&content) {
                self.send_packet(from, false);
                self.packet.push(&content);
            }
        }
        if !self.packet.is_empty() {
            self.send_packet(from, false);
        }
    }

    /// Tells those of `targets` who understand what is queued; in the same datagrams goes what the
    /// protocol has to say and has not said in this round.
    pub(super) fn tell(&mut self, targets: &[Target]) {
        let targets: Vec<Target> = targets.iter().filter(|it| it.kin).copied().collect();
        if targets.is_empty() {
            return;
        }
        let told: Vec<u32> = self.user.take_numbers(TOLD_MAX).collect();
        if !told.is_empty() {
            let addresses = targets.iter().map(|target| target.to);
            self.lazy.told.extend(addresses);
        }
        let excess = self.lazy.told.len().saturating_sub(TOLD_MEMBERS_MAX);
        self.lazy.told.drain(..excess);
        let mut lists = told.chunks(self.numbers_max());
        for _ in 0..self.config.gossip_messages {
            let mut free = self.packet_budget - COMPOUND_BYTES;
            if let Some(list) = lists.next() {
                let have = self.encode_numbers(HAVE, list);
                free -= PART_BYTES + have.len();
                self.packet.push(&have);
            }
            self.add_protocol_broadcasts(free);
            if self.packet.is_empty() {
                break;
            }
            self.send_to_all(&targets);
        }
    }

    /// Rounds for which what the application says is repeated.
    pub(super) fn lazy_limit(&self, limit: u32) -> u32 {
        limit.min(ROUNDS_MAX)
    }

    /// Numbers that fit into one datagram.
    fn numbers_max(&self) -> usize {
        let room = self.packet_budget - COMPOUND_BYTES - PART_BYTES - USER_TYPE_BYTES - HEAD_BYTES;
        room / NUMBER_BYTES
    }

    fn encode_numbers(&self, kind: u8, numbers: &[u32]) -> Vec<u8> {
        let mut content = Vec::with_capacity(HEAD_BYTES + numbers.len() * NUMBER_BYTES);
        content.extend([MAGIC, kind]);
        content.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        encode_message(&Message::User(content.into()), &self.config.cluster_name)
    }
}
